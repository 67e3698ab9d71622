"""Runs the Python of docs/sessions-table.md: a function of it by name, with an argument."""

import sys

import sessions

function, *arguments = sys.argv[1:]
if function == "drop_index":
    sessions.TABLE.meta.client.update_table(
        TableName=sessions.TABLE.name, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "user_id-index"}}]
    )
else:
    result = getattr(sessions, function)(*arguments)
    if isinstance(result, dict):
        result = result["user_id"]
    print("" if result is None else result)
