"""Signs a user in on two devices, to try `sessions.py` beside `make run`. Prints the tokens, as only a try may."""

import sessions


def create_users():
    """Creates the table of users, unless there is one."""
    try:
        sessions.CLIENT.create_table(
            TableName=sessions.USERS,
            AttributeDefinitions=[{"AttributeName": "user_id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "user_id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
    except sessions.CLIENT.exceptions.ResourceInUseException:
        pass  # It is there already.
    sessions.CLIENT.get_waiter("table_exists").wait(TableName=sessions.USERS)


create_users()
sessions.CLIENT.put_item(TableName=sessions.USERS, Item={"user_id": "dora", "password_hash": "a hash"})
for device in ("laptop", "phone"):
    print(device, sessions.sign_in(sessions.read_user("dora")))
