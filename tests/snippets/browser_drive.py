"""Tries docs/code/python/browser.py on the headers of a browser's request, in every form that servers have them.

Reads the headers as JSON from the command line, and prints for each form what is forwarded and whether the request is
accepted.
"""

import json
import sys
from email.message import Message

import browser


class Werkzeug(list):
    """As `request.headers` of Flask: pairs to iterate over, and `items()`."""

    def items(self):
        return iter(self)


def forms(headers):
    pairs = list(headers.items())
    message = Message()
    for name, value in pairs:
        message[name] = value
    cgi = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in pairs}
    return {
        "a dict": headers,
        "a dict in lower case": {name.lower(): value for name, value in pairs},
        "a dict of bytes": {name.encode(): value.encode() for name, value in pairs},
        "an event's multiValueHeaders": {name: [value] for name, value in pairs},
        "the pairs of an ASGI scope": [(name.lower().encode(), value.encode()) for name, value in pairs],
        "Flask's headers": Werkzeug(pairs),
        "headers that ignore case": message,
        "Django's META": {"REQUEST_METHOD": "DELETE", "wsgi.input": object(), "SERVER_PORT": 80, **cgi},
    }


NOT_UNDERSTOOD = {
    "CloudFront's headers": lambda headers: {
        name.lower(): [{"key": name, "value": value}] for name, value in headers.items()
    },
    "names with underscores": lambda headers: {
        name.lower().replace("-", "_"): value for name, value in headers.items()
    },
    "nothing": lambda _: {},
}

if __name__ == "__main__":
    seen = json.loads(sys.argv[1])
    answers = {
        name: [browser.headers_for_function(form), browser.is_from_own_page(form)] for name, form in forms(seen).items()
    }
    refused = {name: browser.is_from_own_page(form(seen)) for name, form in NOT_UNDERSTOOD.items()}
    print(json.dumps({"understood": answers, "not understood": refused}))
