"""Adopts a table whose key is `token_hash` already. The steps are in docs/sessions-table.md."""

import time
import uuid

from sessions import CLIENT, TABLE


def fill_in():
    """Gives sessions what they lack. The condition keeps a session that is deleted meanwhile from coming back."""
    for page in CLIENT.get_paginator("scan").paginate(TableName=TABLE, ConsistentRead=True):
        for session in page["Items"]:
            try:
                CLIENT.update_item(
                    TableName=TABLE,
                    Key={"token_hash": session["token_hash"]},
                    UpdateExpression="SET #status = if_not_exists(#status, :active), "
                    "session_id = if_not_exists(session_id, :id), created_at = if_not_exists(created_at, :now)",
                    ConditionExpression="attribute_exists(token_hash)",
                    ExpressionAttributeNames={"#status": "status"},
                    ExpressionAttributeValues={
                        ":active": "active",
                        ":id": str(uuid.uuid4()),
                        ":now": int(time.time()),
                    },
                )
            except CLIENT.exceptions.ConditionalCheckFailedException:
                pass  # It was deleted since the scan.


def add_index():
    """Adds the index, and returns when it is filled. The table stays in use meanwhile."""
    CLIENT.update_table(
        TableName=TABLE,
        AttributeDefinitions=[{"AttributeName": "user_id", "AttributeType": "S"}],
        GlobalSecondaryIndexUpdates=[
            {
                "Create": {
                    "IndexName": "user_id-index",
                    "KeySchema": [{"AttributeName": "user_id", "KeyType": "HASH"}],
                    "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["status"]},
                }
            }
        ],
    )
    while True:
        indexes = CLIENT.describe_table(TableName=TABLE)["Table"]["GlobalSecondaryIndexes"]
        if all(index["IndexStatus"] == "ACTIVE" for index in indexes):
            return
        time.sleep(5)
