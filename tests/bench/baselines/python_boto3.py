"""The function as one would write it in Python: one update_item a session, one after the other.

The loop at the end is what the Lambda runtime for Python would do.
"""

import hashlib
import http.client
import json
import os
import time

import boto3
from boto3.dynamodb.conditions import Attr, Key

table = boto3.resource("dynamodb").Table(os.environ["SESSIONS_TABLE"])


def handler(event, request_id):
    token_hash = hashlib.sha256(event["headers"]["x-session-token"].encode()).hexdigest()
    now = int(time.time())
    caller = table.get_item(Key={"token_hash": token_hash}, ConsistentRead=True).get("Item", {})
    if caller.get("status") != "active" or caller.get("expires_at", 0) <= now:
        return {"statusCode": 401, "body": "{}"}

    query = {
        "IndexName": "user_id-index",
        "KeyConditionExpression": Key("user_id").eq(caller["user_id"]),
        "FilterExpression": Attr("status").ne("revoked"),
    }
    others = []
    while True:
        page = table.query(**query)
        others += [item["token_hash"] for item in page["Items"] if item["token_hash"] != token_hash]
        if "LastEvaluatedKey" not in page:
            break
        query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    update = {
        "UpdateExpression": "SET #status = :revoked, revoked_at = :at, revoked_by = :by, revocation_id = :id",
        "ConditionExpression": "user_id = :user AND #status <> :revoked",
        "ExpressionAttributeNames": {"#status": "status"},
        "ExpressionAttributeValues": {
            ":revoked": "revoked",
            ":at": now,
            ":by": caller["session_id"],
            ":id": request_id,
            ":user": caller["user_id"],
        },
    }
    count = 0
    for other in others:
        try:
            table.update_item(Key={"token_hash": other}, **update)
            count += 1
        except table.meta.client.exceptions.ConditionalCheckFailedException:
            pass
    body = json.dumps({"count": count})
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": body}


def run():
    runtime = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    invocations = "/2018-06-01/runtime/invocation/"
    while True:
        runtime.request("GET", invocations + "next")
        response = runtime.getresponse()
        request_id = response.headers["lambda-runtime-aws-request-id"]
        answer = handler(json.load(response), request_id)
        runtime.request("POST", f"{invocations}{request_id}/response", json.dumps(answer))
        runtime.getresponse().read()


run()
