"""Runs the Python of a server in docs/calling-it.md on the headers of a browser's request."""

import json
import sys
from email.message import Message

import server

browser = Message()
for name, value in json.loads(sys.argv[1]).items():
    browser[name] = value
print(json.dumps([server.headers_for_function(browser), server.is_from_own_page(browser)]))
