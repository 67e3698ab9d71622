"""Tries the Python of docs/code in every order of events, such as a sign-in at one version of the application and a
sign-out at another, and checks every session at every version after each event.

Prints how many orders were tried. Fails at the first one that breaks a promise of the page, and prints that order.
"""

import itertools
import json
import os
import secrets
import sys
import time
from urllib.request import Request, urlopen

import adopt
import boto3
import move_over
import sessions

# Each look at the index is made, without the pauses between them.
sessions.INDEX_LAG = 0
TABLES = boto3.resource("dynamodb")
OLD, TABLE, USERS = (TABLES.Table(name) for name in (move_over.OLD, sessions.TABLE, sessions.USERS))


# The versions of an application, as the page names them. A is the application before the move.


class A:
    @staticmethod
    def sign_in(user):
        token = secrets.token_urlsafe(32)
        OLD.put_item(Item={"token": token, "user_id": user, "expires_at": int(time.time()) + 3600, "device": "old"})
        return token

    @staticmethod
    def check(token):
        session = OLD.get_item(Key={"token": token}, ConsistentRead=True).get("Item")
        return session if session and session["expires_at"] > time.time() else None

    @staticmethod
    def sign_out(token):
        OLD.delete_item(Key={"token": token})

    @staticmethod
    def end_all(user):
        for token in old_tokens(user):
            A.sign_out(token)


class B:
    sign_in = A.sign_in
    check = staticmethod(move_over.check_both)
    sign_out = staticmethod(move_over.sign_out_both)

    @staticmethod
    def end_all(user):
        move_over.end_all_both(user, old_tokens(user))


class C(B):
    @staticmethod
    def sign_in(user):
        return sessions.sign_in(sessions.read_user(user))


class D(C):
    check = staticmethod(sessions.check)
    sign_out = staticmethod(sessions.sign_out)
    end_all = staticmethod(sessions.end_all)


class Hashed:
    """An application on a table of hashed tokens without `status`, before the move. It deletes what it ends."""

    @staticmethod
    def sign_in(user):
        token = secrets.token_urlsafe(32)
        TABLE.put_item(Item={**sessions.key(token), "user_id": user, "expires_at": int(time.time()) + 3600})
        return token

    @staticmethod
    def check(token):
        session = TABLE.get_item(Key=sessions.key(token), ConsistentRead=True).get("Item")
        return session if session and session["expires_at"] > time.time() else None

    @staticmethod
    def sign_out(token):
        TABLE.delete_item(Key=sessions.key(token))

    @staticmethod
    def end_all(user):
        for session in TABLE.scan(ConsistentRead=True)["Items"]:
            if session.get("user_id") == user:
                TABLE.delete_item(Key={"token_hash": session["token_hash"]})


class HashedWithStatus(Hashed):
    """The same after step 1."""

    sign_in = C.sign_in

    @staticmethod
    def check(token):
        session = Hashed.check(token)
        return session if session and session.get("status", "active") == "active" else None


def new_user():
    user = f"user-{secrets.token_hex(8)}"
    USERS.put_item(Item={"user_id": user, "password_hash": "old"})
    return user


def old_tokens(user):
    items = OLD.scan(ConsistentRead=True)["Items"]
    return [item["token"] for item in items if item["user_id"] == user]


def press(token):
    """Calls the function with the session of a token: how many other sessions it has revoked."""
    request = Request(os.environ["SESSIONS_URL"], method="DELETE", headers={"X-Session-Token": token})
    with urlopen(request, timeout=35) as answer:
        return json.load(answer)["count"]


STEPS = {"move over": move_over.move_over, "fill in": adopt.fill_in}


class User:
    """One user's sessions as they should be, beside the tables as they are."""

    def __init__(self):
        self.user = new_user()
        self.valid = []
        self.ended = []

    def apply(self, event, version):
        """Whether the event is possible now. If it is, it has happened."""
        if event == "sign in":
            self.valid.append(version.sign_in(self.user))
        elif event in STEPS:
            STEPS[event]()
        elif not self.valid:
            return False
        elif event == "sign out":
            self.end([self.valid[0]])
            version.sign_out(self.ended[-1])
        elif event == "end all":
            self.end(list(self.valid))
            version.end_all(self.user)
        elif event == "press":
            others = self.valid[:-1]
            assert press(self.valid[-1]) == len(others), "the count is wrong"
            self.end(others)
        return True

    def end(self, tokens):
        self.ended += tokens
        self.valid = [token for token in self.valid if token not in tokens]

    def check(self, versions):
        for version in versions:
            for token in self.valid:
                assert version.check(token), f"{version.__name__} refuses a valid session"
            self.check_ended([version])

    def check_ended(self, versions):
        for version in versions:
            for token in self.ended:
                assert not version.check(token), f"{version.__name__} accepts a session that was ended"


def sequences(first, versions, others, length, then=lambda user: None):
    """Tries all sequences of events at these versions, after the events in `first`. Returns their number."""
    at_versions = itertools.product(["sign in", "sign out", "end all"], versions)
    events = [*at_versions, *((event, None) for event in others)]
    return sum(try_sequence(first, sequence, versions, then) for sequence in itertools.product(events, repeat=length))


def try_sequence(first, sequence, versions, then):
    """Whether the sequence is possible. If it is, it has kept every promise."""
    user = User()
    try:
        for event, version in first:
            user.apply(event, version)
        for event, version in sequence:
            if not user.apply(event, version):
                return False
            user.check(versions)
        then(user)
    except AssertionError as broken:
        names = [(event, version and version.__name__) for event, version in [*first, *sequence]]
        sys.exit(f"{broken}, in {names}")
    finally:
        empty(OLD, "token")
        empty(TABLE, "token_hash")
    return True


def empty(table, key):
    with table.batch_writer() as batch:
        for item in table.scan(ConsistentRead=True)["Items"]:
            batch.delete_item(Key={key: item[key]})


def back_to_a(user):
    """A is rolled back to and works, and the move begins again with an empty table."""
    user.check_ended([A])
    user.valid = [token for token in user.valid if A.check(token)]
    user.apply("end all", A)
    empty(TABLE, "token_hash")
    user.apply("sign in", A)
    user.check([A, B])


def without_the_old_table():
    """The last step of the move: D works when the old table is gone, and the versions before it do not."""
    token = D.sign_in(new_user())
    user = D.check(token)["user_id"]
    OLD.delete()
    assert D.check(token), "D needs the old table"
    rotated = sessions.rotate(token)
    D.sign_out(rotated)
    D.end_all(user)
    for version in [A, B, C]:
        try:
            version.sign_out(token)
        except sessions.CLIENT.exceptions.ResourceNotFoundException:
            continue
        sys.exit(f"{version.__name__} works without the old table")
    return 1


def moving_over():
    moved = [("sign in", A), ("sign in", C), ("move over", None)]
    return (
        sequences([("sign in", A)], [A, B], [], 3)
        + sequences([("sign in", A), ("sign in", B)], [B, C], [], 3)
        + sequences([("sign in", A), ("sign in", B)], [B, C], ["move over"], 2)
        + sequences([("sign in", A), ("sign in", C)], [C], ["move over"], 4)
        + sequences(moved, [C, D], ["press"], 3)
        + sequences([("sign in", A), ("sign in", C)], [C], ["move over"], 2, then=back_to_a)
        + sequences(moved, [C], ["press"], 2, then=back_to_a)
        + without_the_old_table()
    )


def adopting():
    filled = [("sign in", Hashed), ("sign in", HashedWithStatus), ("fill in", None)]
    return (
        sequences([("sign in", Hashed)], [Hashed, HashedWithStatus], [], 2)
        + sequences([("sign in", Hashed)], [HashedWithStatus], ["fill in"], 3)
        + sequences(filled, [HashedWithStatus, D], ["press"], 3)
    )


if __name__ == "__main__":
    print({"moving_over": moving_over, "adopting": adopting}[sys.argv[1]]())
