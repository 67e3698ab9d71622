"""Moves sessions from a table of raw tokens to the table of `sessions.py`. The steps are in docs/sessions-table.md.

The key of the old table is `token`. Its items have `user_id` and `expires_at`. A session is ended by deleting its item.
"""

import os
import time
import uuid
from decimal import Decimal

import sessions
from sessions import CLIENT, TABLE, key

OLD = os.environ.get("OLD_SESSIONS_TABLE", "old-sessions")
# Attributes that sessions of the old table get only after the sign-in: see `ADDED_LATER` in sessions.py.
ADDED_LATER = ("authenticated_at", "last_seen")


def check_both(token):
    """The active session of a token, or None."""
    session = sessions.get(TABLE, key(token))
    if not session:
        old = sessions.get(OLD, {"token": token})
        if old:
            return old if is_valid(old) else None
        # Neither had it. It may have been moved between the two reads.
        session = sessions.get(TABLE, key(token))
    return sessions.if_valid(session)


def sign_out_both(token):
    """The order matters: an item that is deleted cannot be moved any more, and what was moved before is ended here."""
    CLIENT.delete_item(TableName=OLD, Key={"token": token})
    sessions.sign_out(token)


def end_all_both(user_id, old_tokens, **changes):
    """`old_tokens` are the user's tokens in the old table, found as the application finds them today."""
    for token in old_tokens:
        CLIENT.delete_item(TableName=OLD, Key={"token": token})
    sessions.end_all(user_id, **changes)


def move_over():
    """Moves each valid session in one transaction. Returns how many it found: at 0 all are moved.

    May be stopped, run again, and run twice at once.
    """
    found = 0
    for page in CLIENT.get_paginator("scan").paginate(TableName=OLD, ConsistentRead=True):
        for old in filter(is_valid, page["Items"]):
            user = sessions.read_user(old["user_id"])
            if user:
                found += 1
                move(old, user)
    return found


def is_valid(old):
    """Whether a session of the old table is active, as the application decides it today."""
    is_active = old.get("status", "active") == "active"
    return is_active and isinstance(old.get("expires_at"), Decimal) and old["expires_at"] > time.time()


def move(old, user):
    """Moves a session, unless it was ended or changed since it was read: then a later call of `move_over` does."""
    session = {
        "session_id": str(uuid.uuid4()),
        "created_at": int(time.time()),
        "status": "active",
        **{name: value for name, value in old.items() if name != "token"},
        **sessions.ending_at(old["expires_at"]),
        **sessions.version_of(user),
        **key(old["token"]),
    }
    delete = {"TableName": OLD, "Key": {"token": old["token"]}, **sessions.unchanged(old, ADDED_LATER)}
    try:
        sessions.create(session, {"Delete": delete})
    except sessions.Busy:
        pass  # Others are writing to it at this moment.
