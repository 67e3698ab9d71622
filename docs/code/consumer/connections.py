"""Closes the websockets of sessions that are no longer active.

Two functions. `subscribe` is for a route of a WebSocket API of Amazon API Gateway: it records a connection. `handle`
gets the revocations from the stream of the sessions table, and closes connections.

An event names only the user whose connections to look at. Which of them to close is read from the sessions table. So an
event that comes twice, late or in another order does no harm, and a connection is also closed if its session was ended
in another way before: rotated by the application, expired, or deleted by TTL.
"""

import json
import os
import time
from decimal import Decimal

import boto3
from botocore.config import Config

# A request that gets no response must end before the function's time-out.
CONFIG = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3})
DYNAMODB = boto3.resource("dynamodb", config=CONFIG)
SESSIONS = DYNAMODB.Table(os.environ["SESSIONS_TABLE"])
CONNECTIONS = DYNAMODB.Table(os.environ["CONNECTIONS_TABLE"])
API = boto3.client("apigatewaymanagementapi", endpoint_url=os.environ["CONNECTIONS_URL"], config=CONFIG)
# API Gateway closes a connection after two hours at the latest.
LONGEST = 2 * 3600


def subscribe(event, _context):
    """Records a connection, and closes it if its session is not active.

    The authorizer of `$connect` must return the user's id and the token's hash as its context.
    It is for the first message of a connection, not for `$connect`: API Gateway cannot close a connection that is not
    open yet. Send nothing to a connection before. The order matters: the event of a session that is revoked after the
    check finds the record.
    """
    context = event["requestContext"]
    connection = {
        "user_id": context["authorizer"]["user_id"],
        "connection_id": context["connectionId"],
        "token_hash": context["authorizer"]["token_hash"],
    }
    CONNECTIONS.put_item(Item={**connection, "delete_at": int(time.time()) + LONGEST})
    return {"statusCode": 401 if close_unless_active(connection) else 200}


def handle(event, _context):
    """Handles a batch of revocations. Without any, as with `{}`, it looks at the connections of all users.

    A failure for one user does not delay the others. Lambda sends the batch again from the first record that failed.
    """
    if "Records" not in event:
        return {"closed": close_inactive(CONNECTIONS.scan)}
    failures, closed = [], {}
    for record in event["Records"]:
        try:
            revocation = read(record)
            user_id = revocation.pop("user_id")
            if user_id not in closed:
                closed[user_id] = close_inactive(CONNECTIONS.query, **of_user(user_id))
            print(json.dumps({"event": "revoked", **revocation, "closed": closed[user_id]}))
        except Exception as error:
            failures.append({"itemIdentifier": record["dynamodb"]["SequenceNumber"]})
            print(json.dumps({"event": "failed", "record": record["eventID"], "error": repr(error)}))
    return {"batchItemFailures": failures}


def read(record):
    """The revocation in a record of the stream. The rest of the item, the token's hash first, stays behind."""
    item = record["dynamodb"]["NewImage"]
    # Only a user's id is in every item that can be revoked.
    return {
        "session_id": item.get("session_id", {}).get("S"),
        "user_id": item["user_id"]["S"],
        "revoked_at": json.loads(item.get("revoked_at", {}).get("N", "null")),
        "revoked_by": item.get("revoked_by", {}).get("S"),
        "revocation_id": item.get("revocation_id", {}).get("S"),
    }


def of_user(user_id):
    return {
        "KeyConditionExpression": "user_id = :user",
        "ExpressionAttributeValues": {":user": user_id},
        "ConsistentRead": True,
    }


def close_inactive(operation, **parameters):
    """Closes the connections that a query or a scan finds, except those of active sessions. Returns how many."""
    closed, failure = 0, None
    while True:
        page = operation(**parameters)
        for connection in page["Items"]:
            try:
                closed += close_unless_active(connection)
            except Exception as error:
                failure = error
        if "LastEvaluatedKey" not in page:
            break
        parameters["ExclusiveStartKey"] = page["LastEvaluatedKey"]
    if failure:
        raise failure
    return closed


def close_unless_active(connection):
    """Closes a connection unless its session is active. Returns whether it did."""
    session = SESSIONS.get_item(Key={"token_hash": connection["token_hash"]}, ConsistentRead=True).get("Item", {})
    expires_at = session.get("expires_at")
    if (
        session.get("status") == "active"
        and session.get("user_id") == connection["user_id"]
        and isinstance(expires_at, Decimal)
        and expires_at > time.time()
    ):
        return False
    try:
        API.delete_connection(ConnectionId=connection["connection_id"])
    except API.exceptions.GoneException:
        pass  # The device has closed it.
    CONNECTIONS.delete_item(Key={name: connection[name] for name in ("user_id", "connection_id")})
    return True
