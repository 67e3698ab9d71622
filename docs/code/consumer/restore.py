"""After a restore from a backup: ends the sessions in the restored table that have been ended since the backup.

    python3 restore.py OLD_TABLE RESTORED_TABLE

Run it before an application uses the restored table. It can be stopped and run again. The old table must still be
readable; without it nobody knows what was ended, so end every session.
"""

import sys
import time

import boto3
from boto3.dynamodb.conditions import Attr

DYNAMODB = boto3.resource("dynamodb")


def end_again(old, restored):
    """Ends the sessions that the old table has ended, or no longer has. Returns how many."""
    ended, parameters = 0, {}
    while True:
        page = restored.scan(ConsistentRead=True, **parameters)
        for session in page["Items"]:
            if session.get("status") == "revoked":
                continue
            key = {"token_hash": session["token_hash"]}
            now = old.get_item(Key=key, ConsistentRead=True).get("Item", {})
            if now.get("status") == "active":
                continue
            # What was deleted, or has another status, gets the attributes of an end by the application.
            revocation = {"status": "revoked", "revoked_at": int(time.time())}
            if "session_id" in session:
                revocation["revoked_by"] = session["session_id"]
            if now.get("status") == "revoked":
                names = ("revoked_at", "revoked_by", "revocation_id")
                revocation |= {name: now[name] for name in names if name in now}
            end(restored, key, revocation)
            ended += 1
        if "LastEvaluatedKey" not in page:
            return ended
        parameters["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def end(table, key, revocation):
    try:
        table.update_item(
            Key=key,
            UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in revocation),
            # A session that somebody has deleted meanwhile must not come back.
            ConditionExpression=Attr("token_hash").exists(),
            ExpressionAttributeNames={f"#{name}": name for name in revocation},
            ExpressionAttributeValues={f":{name}": value for name, value in revocation.items()},
        )
    except table.meta.client.exceptions.ConditionalCheckFailedException:
        pass


if __name__ == "__main__":
    old_table, restored_table = sys.argv[1:]
    print(end_again(DYNAMODB.Table(old_table), DYNAMODB.Table(restored_table)), "sessions are ended again")
