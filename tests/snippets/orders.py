"""Tries the Python of docs/code in every order of events, with several actors at work at once.

Two kinds of order are tried. `sequences` tries all sequences of whole events, such as a sign-in at one version of the
application and a sign-out at another, and checks every session at every version after each event. `schedules` runs
actors at the same time and tries every order of their requests to DynamoDB.

Prints how many orders were tried. Fails at the first one that breaks a promise of the page, and prints that order.
"""

import itertools
import json
import os
import secrets
import sys
import threading
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


class Schedule:
    """Runs actors on threads of their own, of which only one may go on at a time, from one request to its next."""

    def __init__(self, first_choices):
        self.first_choices = first_choices
        self.choices = []
        self.alternatives = []
        self.turns = {}
        self.arrived = threading.Semaphore(0)

    def run(self, actors):
        results = [None] * len(actors)
        waiting = dict.fromkeys(range(len(actors)))

        def act(number):
            self.turns[threading.get_ident()] = waiting[number]
            try:
                results[number] = actors[number]()
            except BaseException as error:  # Raised below, on the thread that asks for the results.
                results[number] = error
            finally:
                del waiting[number]
                self.arrived.release()

        for number in waiting:
            waiting[number] = threading.Semaphore(0)
        for number in list(waiting):
            threading.Thread(target=act, args=[number], daemon=True).start()
            self.arrived.acquire()
        while waiting:
            ready = sorted(waiting)
            step = len(self.choices)
            choice = self.first_choices[step] if step < len(self.first_choices) else 0
            # A request that the SDK sends again makes a run take other steps than the run before it.
            choice = min(choice, len(ready) - 1)
            self.choices.append(choice)
            self.alternatives.append(len(ready))
            waiting[ready[choice]].release()
            self.arrived.acquire()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def next_choices(self):
        """The choices of the next schedule in lexicographic order, or None after the last."""
        for step in reversed(range(len(self.choices))):
            if self.choices[step] + 1 < self.alternatives[step]:
                return [*self.choices[:step], self.choices[step] + 1]
        return None


CURRENT = None


def pause(**_):
    """Lets the others go on until it is this actor's turn again. Everyone else is not stopped."""
    turn = CURRENT and CURRENT.turns.get(threading.get_ident())
    if turn:
        CURRENT.arrived.release()
        turn.acquire()


def schedules(prepare):
    """Tries every order of the requests of actors. `prepare` returns them and what must hold afterwards."""
    global CURRENT
    tried, choices = 0, []
    while choices is not None:
        actors, holds = prepare()
        CURRENT = schedule = Schedule(choices)
        try:
            results = schedule.run(actors)
            CURRENT = None
            holds(*results)
        except AssertionError as broken:
            sys.exit(f"{broken}, in schedule {schedule.choices} of {prepare.__name__}")
        tried += 1
        choices = schedule.next_choices()
        empty(OLD, "token")
    return tried


def refused(*tokens):
    for token in tokens:
        for version in [A, B, D]:
            assert not version.check(token), f"{version.__name__} accepts a session that was ended"


def move_and_sign_out():
    user = new_user()
    ended, kept = A.sign_in(user), A.sign_in(user)

    def holds(*_):
        refused(ended)
        assert B.check(kept), "a valid session was lost"
        move_over.move_over()
        assert D.check(kept), "a valid session was not moved"
        refused(ended)

    return [move_over.move_over, lambda: B.sign_out(ended)], holds


def move_and_end_all():
    user = new_user()
    token = A.sign_in(user)

    def holds(*_):
        move_over.move_over()
        refused(token)

    return [move_over.move_over, lambda: B.end_all(user)], holds


def move_and_check():
    token = A.sign_in(new_user())

    def holds(_, session):
        assert session, "a valid session was refused while it was moved"

    return [move_over.move_over, lambda: B.check(token)], holds


def move_and_change():
    token = A.sign_in(new_user())

    def change():
        update = {"UpdateExpression": "SET last_seen = :now", "ConditionExpression": "attribute_exists(#token)"}
        names, values = {"#token": "token"}, {":now": 1}
        try:
            OLD.update_item(
                Key={"token": token}, ExpressionAttributeNames=names, ExpressionAttributeValues=values, **update
            )
        except sessions.CLIENT.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def holds(_, is_changed):
        while move_over.move_over():
            pass
        session = D.check(token)
        assert session, "a valid session was lost"
        assert not is_changed or session.get("last_seen") == 1, "a change was lost"

    return [move_over.move_over, change], holds


def move_twice_at_once():
    user = new_user()
    token = A.sign_in(user)

    def holds(*found):
        assert max(found) == 1, "a session was not found"
        assert D.check(token), "a valid session was not moved"
        assert len(sessions.look(user)) == 1, "one session was moved twice"

    return [move_over.move_over, move_over.move_over], holds


def fill_in_and_sign_out():
    token = Hashed.sign_in(new_user())

    def holds(*_):
        for version in [Hashed, HashedWithStatus, D]:
            assert not version.check(token), f"{version.__name__} accepts a session that was ended"

    return [adopt.fill_in, lambda: HashedWithStatus.sign_out(token)], holds


def rotate_and_end_all():
    user = new_user()
    token = D.sign_in(user)

    def holds(rotated, _):
        refused(*filter(None, [token, rotated]))

    return [lambda: sessions.rotate(token), lambda: sessions.end_all(user)], holds


def sign_in_and_end_all():
    user = new_user()
    passwords = []

    def sign_in():
        item = sessions.read_user(user)
        passwords.append(item["password_hash"])
        return sessions.sign_in(item)

    def holds(token, _):
        if passwords == ["old"]:
            refused(*filter(None, [token]))
            assert not [row for row in TABLE.scan()["Items"] if row["user_id"] == user and row["status"] == "active"]
        else:
            assert D.check(token), "the new password was not accepted"

    return [sign_in, lambda: sessions.end_all(user, password_hash="new")], holds  # noqa: S106


def rotate_twice_at_once():
    token = D.sign_in(new_user())

    def holds(*rotated):
        refused(token)
        valid = [new for new in rotated if new and D.check(new)]
        assert len(valid) == 1, f"one session became {len(valid)}"

    return [lambda: sessions.rotate(token), lambda: sessions.rotate(token)], holds


def rotate_and_step_up():
    token = D.sign_in(new_user())

    def holds(rotated, upgraded):
        refused(token)
        valid = {new for new in (rotated, upgraded) if new and D.check(new)}
        assert len(valid) == 1, f"one session became {len(valid)}"

    return [lambda: sessions.rotate(token), lambda: sessions.step_up(token)], holds


def rotate_and_extend():
    token = D.sign_in(new_user())
    soon = int(time.time()) + 60
    values = {":soon": soon}
    TABLE.update_item(
        Key=sessions.key(token), UpdateExpression="SET expires_at = :soon", ExpressionAttributeValues=values
    )
    session = D.check(token)

    def extend():
        sessions.extend(session)
        return sessions.get(sessions.TABLE, sessions.key(token))

    def holds(rotated, old):
        new = D.check(rotated)
        assert new, "a valid session was lost"
        assert new["expires_at"] == old["expires_at"], "an extension was lost"

    return [lambda: sessions.rotate(token), extend], holds


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
        schedules(move_and_sign_out)
        + schedules(move_and_end_all)
        + schedules(move_and_check)
        + schedules(move_and_change)
        + schedules(move_twice_at_once)
        + sequences([("sign in", A)], [A, B], [], 3)
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
        + schedules(fill_in_and_sign_out)
    )


def rotating():
    together = [rotate_and_end_all, rotate_twice_at_once, rotate_and_step_up, rotate_and_extend, sign_in_and_end_all]
    return sum(schedules(prepare) for prepare in together)


if __name__ == "__main__":
    for client in [TABLES.meta.client, sessions.CLIENT]:
        client.meta.events.register("before-call.dynamodb", pause)
    print({"moving_over": moving_over, "adopting": adopting, "rotating": rotating}[sys.argv[1]]())
