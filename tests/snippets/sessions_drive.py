"""Runs the Python of docs/sessions-table.md: a function of it by name, with an argument."""

import os
import sys

import boto3
import sessions

function, *arguments = sys.argv[1:]
if function == "make_old_table":
    boto3.client("dynamodb").create_table(
        TableName=os.environ["OLD_SESSIONS_TABLE"],
        KeySchema=[{"AttributeName": "token", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "token", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
elif function == "sign_in_old":
    token, user, expires_at = arguments
    sessions.OLD.put_item(Item={"token": token, "user_id": user, "expires_at": int(expires_at), "device": "old"})
elif function == "drop_index":
    sessions.TABLE.meta.client.update_table(
        TableName=sessions.TABLE.name, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "user_id-index"}}]
    )
else:
    result = getattr(sessions, function)(*arguments)
    if isinstance(result, dict):
        result = result["user_id"]
    print("" if result is None else result)
