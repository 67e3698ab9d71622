"""For a server that calls the function for a browser: does the browser's request come from a page of this application?

`headers` are the headers of the browser's request, in the form in which your framework or gateway has them:
`request.headers` of Flask, Django and Starlette, `request.META`, a WSGI environ, the pairs of an ASGI scope, or an
event's `headers` or `multiValueHeaders`. In a form that is not understood nothing is found, and the request is refused.
"""

OWN_ORIGINS = {"https://app.example.com"}


def is_from_own_page(headers):
    """Whether the request comes from a page of this application. Answer 403 if it does not."""
    origins, sites = values(headers, "Origin"), values(headers, "Sec-Fetch-Site")
    # A page under `Referrer-Policy: no-referrer` has the origin `null`. No script can forge the other header.
    if origins and origins != ["null"]:
        return set(origins) <= OWN_ORIGINS
    return sites == ["same-origin"]


def headers_for_function(headers):
    """The headers to call the function with. It decides by them as `is_from_own_page` does."""
    forwarded = {"Cookie": "; ".join(values(headers, "Cookie"))}
    for name in ("Origin", "Sec-Fetch-Site"):
        # The function refuses `a,b`. A request with neither header would pass as one that no browser sent.
        forwarded[name] = ",".join(values(headers, name))
    if not forwarded["Origin"] and not forwarded["Sec-Fetch-Site"]:
        forwarded["Origin"] = "null"
    return {name: value for name, value in forwarded.items() if value}


def values(headers, name):
    """All values of a header, whatever its name is called."""
    pairs = headers.items() if hasattr(headers, "items") else headers
    as_cgi = "HTTP_" + name.upper().replace("-", "_")
    found = []
    for key, value in pairs:
        key = text(key)
        if key.lower() == name.lower() or key == as_cgi:
            found += [text(one) for one in value] if isinstance(value, (list, tuple)) else [text(value)]
    return found


def text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
