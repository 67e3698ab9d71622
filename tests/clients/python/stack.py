"""What `run.py` has started, as tests use it."""

import json
import os
import urllib.request

FUNCTION_URL = os.environ["FUNCTION_URL"]
FAILING_URL = os.environ["FAILING_URL"]


class User:
    """A user of their own for a test, with a session to call with and some others."""

    def __init__(self, others):
        answer = table("POST", f"/users?others={others}")
        self.name, self.session, self.token = answer["user"], answer["session"], answer["token"]

    def signed_out(self):
        """How many of the others are revoked. The caller's own session never is."""
        statuses = table("GET", f"/users/{self.name}")
        assert statuses.pop(self.session) == "active"
        return list(statuses.values()).count("revoked")


def fail(requests):
    """Makes the next requests to DynamoDB of the function at FAILING_URL fail."""
    table("POST", f"/outage?requests={requests}")


def table(method, path):
    request = urllib.request.Request(os.environ["TABLE_URL"] + path, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
