"""Closes the websockets of sessions that are no longer active.

Two parts. `subscribe` is for the function behind a WebSocket API of Amazon API Gateway: it records a connection.
`handle` is a function of its own: it gets the revocations from the stream of the sessions table and closes connections.

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


def subscribe(user_id, token_hash, connection_id):
    """Records a connection, and returns whether its session is active. If it is not, the connection is closed.

    Call it at the connection's first message, not in `$connect`: API Gateway cannot close a connection that is not open
    yet. Send nothing to a connection before. The order matters: a session that is revoked after the check has an event
    that finds the record.
    """
    connection = {"user_id": user_id, "connection_id": connection_id}
    CONNECTIONS.put_item(Item={**connection, "token_hash": token_hash, "delete_at": int(time.time()) + LONGEST})
    return not close_unless_active({**connection, "token_hash": token_hash})


def handle(event, _context):
    """Handles a batch of revocations. Without any, such as `{}`, it looks at the connections of all users.

    A failure for one user does not delay the others. Lambda sends the batch again from the first record that failed.
    """
    if "Records" not in event:
        return {"closed": sum(close_unless_active(connection) for connection in every(CONNECTIONS.scan))}
    failures, done = [], {}
    for record in event["Records"]:
        revocation = read(record)
        user_id = revocation["user_id"]
        try:
            if user_id not in done:
                done[user_id] = close_connections(user_id)
            log("revoked", revocation, connections_closed=done[user_id])
        except Exception as error:
            failures.append({"itemIdentifier": record["dynamodb"]["SequenceNumber"]})
            log("failed", revocation, error=f"{type(error).__name__}: {error}")
    return {"batchItemFailures": failures}


def read(record):
    """The revocation in a record of the stream. The rest of the item, the token's hash first, stays behind."""
    item = record["dynamodb"]["NewImage"]
    revocation = {name: item[name]["S"] for name in ("user_id", "revoked_by", "revocation_id")}
    # An item that the application wrote without `session_id` is revoked too.
    session_id = item.get("session_id", {}).get("S")
    return {"session_id": session_id, "revoked_at": int(item["revoked_at"]["N"]), **revocation}


def close_connections(user_id):
    """Closes the connections of a user whose sessions are not active. Returns how many."""
    failure, closed = None, 0
    of_user = {
        "KeyConditionExpression": "user_id = :user",
        "ExpressionAttributeValues": {":user": user_id},
        "ConsistentRead": True,
    }
    for connection in every(CONNECTIONS.query, **of_user):
        try:
            closed += close_unless_active(connection)
        except Exception as error:
            failure = error
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


def every(operation, **parameters):
    """The items of all pages of a query or a scan."""
    while True:
        page = operation(**parameters)
        yield from page["Items"]
        if "LastEvaluatedKey" not in page:
            return
        parameters["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def log(what, revocation, **more):
    """Logs a line of JSON. The user's id is not in it."""
    print(json.dumps({"event": what, **{name: revocation[name] for name in revocation if name != "user_id"}, **more}))
