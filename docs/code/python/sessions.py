"""Sessions in DynamoDB that `disable-my-other-sessions` understands.

Copy this file, and change what is your application's: names of tables, lifetimes, attributes. The rules that it keeps,
each with its reason, are in docs/sessions-table.md. It uses two tables: one has an item for each session, the other an
item for each user (key `user_id`), where this file keeps `credentials_version`. Threads may share `CLIENT`.
"""

import hashlib
import os
import random
import secrets
import time
import uuid
from decimal import Decimal

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

TABLE = os.environ.get("SESSIONS_TABLE", "sessions")
USERS = os.environ.get("USERS_TABLE", "users")
# boto3's own time-outs, of a minute each, would keep a request of a user waiting.
CONFIG = Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3})
# A resource's client takes and returns Python's types. Numbers are Decimal, so a copy of an item is exact.
CLIENT = boto3.resource("dynamodb", config=CONFIG).meta.client

DAY = 24 * 3600
LIFETIME = 30 * DAY  # of a session that is not extended
LONGEST = 365 * DAY  # from the sign-in, however often the session is extended
KEPT = 90 * DAY  # how long an expired session is kept for an investigation
REST = 60  # seconds between two rotations of a session: longer than a call of the function takes
INDEX_LAG = 1  # seconds after which a look at the index is trusted to show a session
ATTEMPTS = 5

# Attributes that sessions get only after the sign-in. A session is copied on condition that none of them has appeared
# since it was read, so add your own.
ADDED_LATER = ("rotated_at", "pin")
END = "SET #status = :revoked, revoked_at = :now, revoked_by = if_not_exists(session_id, :unknown)"
# DynamoDB has not carried out a transaction, and carries it out if it is sent again.
RETRYABLE = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}


class Busy(Exception):
    """Others wrote to the session or to its user at each attempt. Nothing was changed."""


def key(token):
    return {"token_hash": hashlib.sha256(token.encode()).hexdigest()}


def get(table, item_key):
    """An item as of now. A read that is not consistent can show a revoked session as active."""
    return CLIENT.get_item(TableName=table, Key=item_key, ConsistentRead=True).get("Item")


def read_user(user_id):
    return get(USERS, {"user_id": user_id})


def ending_at(expires_at):
    """TTL deletes by `delete_at`, so whoever sets `expires_at` moves it too."""
    return {"expires_at": expires_at, "delete_at": expires_at + KEPT}


def is_valid(session, user):
    """Whether a session is active, for a user as it is now. Decides without reading anything."""
    expires_at = session.get("expires_at")
    return (
        session.get("status") == "active"
        and "session_id" in session
        # boto3 reads DynamoDB's numbers as Decimal. A time in a string is refused, as the function refuses it.
        and isinstance(expires_at, Decimal)
        and expires_at > time.time()
        and user is not None
        # Both lack it until the user's sessions are ended for the first time.
        and session.get("credentials_version") == user.get("credentials_version")
    )


def check(token):
    """The active session of a token, or None."""
    return if_valid(get(TABLE, key(token)))


def if_valid(session):
    """A session that was just read, if its user as it is now makes it valid."""
    if not session or session.get("status") != "active" or "user_id" not in session:
        return None
    return session if is_valid(session, read_user(session["user_id"])) else None


def sign_in(user):
    """The token of a new session: give it to the device, and store it nowhere.

    `user` is the user's item as `read_user` returned it *before* the password was checked. Returns None if the sessions
    of the user were ended since then, as by a new password: check the password again.
    """
    token = secrets.token_urlsafe(32)
    now = int(time.time())
    session = {
        **key(token),
        "session_id": str(uuid.uuid4()),
        "user_id": user["user_id"],
        "status": "active",
        "created_at": now,
        "authenticated_at": now,
        **ending_at(now + LIFETIME),
        **version_of(user),
    }
    try:
        return token if create(session) else None
    except Exception:
        # The answer may have been lost, and the session written.
        if is_stored(session):
            return token
        raise


def extend(session):
    """Moves the end of a session that `check` has returned, once a day at most, since each write costs."""
    expires_at = min(int(time.time()) + LIFETIME, session.get("created_at", 0) + LONGEST)
    if expires_at < session["expires_at"] + DAY:
        return
    update(
        {"token_hash": session["token_hash"]},
        "SET expires_at = :expires_at, delete_at = :delete_at",
        "#status = :active AND expires_at = :seen",
        {":active": "active", ":seen": session["expires_at"]}
        | {f":{name}": value for name, value in ending_at(expires_at).items()},
    )


def rotate(token):
    """The token to use from now on: a new one, or the same one within REST seconds. None: the session has ended.

    If this raises, let the device keep the old token. It is valid, unless DynamoDB answered nothing at all for a while.
    """
    try:
        return replace(token, {}, REST)
    except Busy:
        return token


def step_up(token):
    """A new token with a new `authenticated_at`, after the user has repeated the password or the second factor.

    None: the session has ended. If this raises, the session is not upgraded.
    """
    return replace(token, {"authenticated_at": int(time.time())}, 0)


def pin(token):
    """Keeps a token from being rotated for REST seconds. Returns whether its session is active.

    Call this before the function is called with the token: a rotation meanwhile would create a session that the
    function revokes, which is the caller's own.
    """
    # The random value makes each transaction fail that has read the session before, however late it arrives.
    return update(
        key(token),
        "SET rotated_at = :now, pin = :pin",
        "#status = :active",
        {":active": "active", ":now": int(time.time()), ":pin": str(uuid.uuid4())},
    )


def sign_out(token):
    end(key(token))


def end_all(user_id, **changes):
    """Ends all sessions of a user. `changes` of the user are written at once with it, such as a new `password_hash`.

    No sign-in and no rotation in progress survives it. May be called again. Afterwards sign the user in again on this
    device: `sign_in(read_user(user_id))`.
    """
    names = {f"#{number}": name for number, name in enumerate(changes)}
    values = {f":{number}": value for number, value in enumerate(changes.values())}
    settings = ", ".join(f"#{number} = :{number}" for number in range(len(changes)))
    options = {"ExpressionAttributeNames": names} if names else {}
    answer = CLIENT.update_item(
        TableName=USERS,
        Key={"user_id": user_id},
        UpdateExpression=f"ADD credentials_version :one {'SET ' + settings if settings else ''}",
        ConditionExpression="attribute_exists(user_id)",
        ExpressionAttributeValues={":one": 1, **values},
        ReturnValues="UPDATED_NEW",
        **options,
    )
    # From here on `check` refuses every session with an older version. What follows shows the function and the user
    # that they have ended.
    mark_ended(user_id, answer["Attributes"]["credentials_version"])


def mark_ended(user_id, version):
    """Revokes the sessions of a user that are older than a version, until the index has shown them all."""
    began = time.monotonic()
    seen, failure = set(), None
    while True:
        looked = time.monotonic()
        new = [token_hash for token_hash in look(user_id) if token_hash not in seen]
        for token_hash in new:
            try:
                end({"token_hash": token_hash}, older_than=version)
            except ClientError as error:
                failure = error  # One session that cannot be written keeps no other signed in.
        seen.update(new)
        if not new and looked - began >= INDEX_LAG:
            break
        time.sleep(INDEX_LAG / 4)
    if failure:
        raise failure


def look(user_id):
    """The keys of a user's sessions that the index shows."""
    pages = CLIENT.get_paginator("query").paginate(
        TableName=TABLE,
        IndexName="user_id-index",
        KeyConditionExpression="user_id = :user",
        ExpressionAttributeValues={":user": user_id},
        ProjectionExpression="token_hash",
    )
    return [session["token_hash"] for page in pages for session in page["Items"]]


def end(session_key, older_than=None):
    """Ends a session, whatever its status and its other attributes are. Who ended it before, and when, is kept."""
    condition = "attribute_exists(token_hash) AND (attribute_not_exists(#status) OR #status <> :revoked)"
    values = end_values()
    if older_than is not None:
        condition += " AND (attribute_not_exists(credentials_version) OR credentials_version < :version)"
        values[":version"] = older_than
    update(session_key, END, condition, values)


def update(session_key, expression, condition, values):
    """Whether a session was updated. False: the condition does not hold."""
    try:
        CLIENT.update_item(
            TableName=TABLE,
            Key=session_key,
            UpdateExpression=expression,
            ConditionExpression=condition,
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues=values,
        )
        return True
    except CLIENT.exceptions.ConditionalCheckFailedException:
        return False


def replace(token, changes, rest):
    """Ends a session and creates one with a new token and these changes in its place, both or neither."""
    for _ in range(ATTEMPTS):
        session = check(token)
        if not session:
            return None
        now = int(time.time())
        if rest and session.get("rotated_at", 0) > now - rest:
            return token
        new_token = secrets.token_urlsafe(32)
        new = {**session, **changes, **key(new_token), "session_id": str(uuid.uuid4()), "rotated_at": now}
        try:
            if create(new, {"Update": ending(session)}):
                return new_token
        except Exception:
            # The answer may have been lost, or the transaction may be carried out later. After a pin it cannot be.
            if pin(token):
                raise
            return new_token if is_stored(new) else None
    raise Busy


def create(session, *others):
    """Creates a session together with other parts of a transaction. False: a condition of one of them does not hold.

    One condition is that the user still has the version of the session, so none is created after a call of `end_all`.
    """
    put = {"TableName": TABLE, "Item": session, "ConditionExpression": "attribute_not_exists(token_hash)"}
    user = {
        "TableName": USERS,
        "Key": {"user_id": session["user_id"]},
        **unchanged({"user_id": session["user_id"], **version_of(session)}, ("credentials_version",)),
    }
    return transact([{"Put": put}, {"ConditionCheck": user}, *others], session)


def ending(session):
    """The part of a transaction that ends a session, on condition that it is as it was read."""
    condition = unchanged(session, ADDED_LATER)
    return {
        "TableName": TABLE,
        "Key": {"token_hash": session["token_hash"]},
        "UpdateExpression": END,
        "ConditionExpression": condition["ConditionExpression"],
        "ExpressionAttributeNames": {**condition["ExpressionAttributeNames"], "#status": "status"},
        "ExpressionAttributeValues": {**condition["ExpressionAttributeValues"], **end_values()},
    }


def unchanged(item, added_later):
    """The condition that an item has each attribute as it was read, and none of `added_later` that it had not."""
    absent = [name for name in added_later if name not in item]
    names = {f"#{number}": name for number, name in enumerate([*item, *absent])}
    equal = [f"#{number} = :{number}" for number in range(len(item))]
    missing = [f"attribute_not_exists(#{number})" for number in range(len(item), len(names))]
    return {
        "ConditionExpression": " AND ".join(equal + missing),
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": {f":{number}": value for number, value in enumerate(item.values())},
    }


def transact(items, new):
    """Carries out a transaction that creates the session `new`. False: a condition does not hold."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0, 0.05 * 2**attempt))
        try:
            CLIENT.transact_write_items(TransactItems=items)
            return True
        except CLIENT.exceptions.TransactionCanceledException as error:
            codes = {reason["Code"] for reason in error.response["CancellationReasons"]} - {"None"}
            if "ConditionalCheckFailed" in codes:
                # If an attempt before it was carried out without an answer, the condition failed by our own doing.
                return is_stored(new)
            if not codes <= RETRYABLE:
                raise
    raise Busy


def is_stored(session):
    stored = get(TABLE, {"token_hash": session["token_hash"]})
    return stored is not None and stored.get("session_id") == session["session_id"]


def end_values():
    return {":revoked": "revoked", ":now": int(time.time()), ":unknown": "unknown"}


def version_of(item):
    return {name: item[name] for name in ("credentials_version",) if name in item}
