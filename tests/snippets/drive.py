"""Runs functions of docs/code/python: reads lines of `[function, argument, ...]`, and prints a line for each.

The lines are JSON. The answer is `{"result": ...}`, or `{"error": ...}` if the function has raised.
"""

import json
import sys

import adopt
import move_over
import sessions


def result_of(name, *arguments):
    if name == "sign_in":
        return sessions.sign_in(sessions.read_user(*arguments))
    if name == "extend":
        session = sessions.check(*arguments)
        return sessions.extend(session) if session else None
    if name == "end_all":
        user, *changes = arguments
        return sessions.end_all(user, **(changes[0] if changes else {}))
    for module in (sessions, move_over, adopt):
        if hasattr(module, name):
            return getattr(module, name)(*arguments)
    raise AttributeError(name)


for line in sys.stdin:
    try:
        result = result_of(*json.loads(line))
        answer = {"result": result["user_id"] if isinstance(result, dict) else result}
    except Exception as error:
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
