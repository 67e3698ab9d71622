"""Tries a deployed stack: checks its table, creates sessions of a new user, revokes all but one through the URL, reads the
table, and deletes what it created.

`make smoke-test STACK=name` runs this. It finds region and credentials as the AWS CLI does. They must allow
`cloudformation:DescribeStacks`, and `dynamodb:DescribeTable`, `DescribeTimeToLive`, `Scan`, `PutItem`, `GetItem` and
`DeleteItem` on the table. The second argument replaces the URL of the stack's output. A stack without an API needs it; it
also helps before DNS knows a new domain.

The command line of tests/cli checks the table. Without Rust, this step is left out, and that is printed.
"""

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError


ROOT = Path(__file__).resolve().parents[2]


class Failure(Exception):
    """The stack did not answer or act as expected."""


def call(url, token):
    """Calls the function; returns status and body."""
    request = urllib.request.Request(url, method="DELETE", headers={"X-Session-Token": token})
    try:
        with urllib.request.urlopen(request, timeout=35) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read()
        try:
            return error.code, json.loads(text)
        except ValueError:
            return error.code, text.decode(errors="replace")


def expect(what, answer, status, error=None):
    code, body = answer
    if code != status or (error and body.get("error", {}).get("id") != error):
        raise Failure(f"{what}: expected {status} {error or ''}, got {code} {body}")
    print(f"ok: {what}: {code} {error or json.dumps(body)}")
    return body


def check_table(session, table, index):
    """Runs `sessions check-table` with the credentials and the region that boto3 has found."""
    if not shutil.which("cargo"):
        print("NOT CHECKED: the table, which takes Rust (https://rustup.rs)")
        return
    command = ["cargo", "run", "--quiet", "--locked", "--example", "sessions", "--", "check-table"]
    # boto3 has the credentials of more kinds of profiles than the command line understands.
    credentials = session.get_credentials()
    if not credentials:
        raise Failure("no credentials")
    credentials = credentials.get_frozen_credentials()
    environment = os.environ | {
        "AWS_REGION": session.region_name,
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
    }
    environment.pop("AWS_SESSION_TOKEN", None)
    if credentials.token:
        environment["AWS_SESSION_TOKEN"] = credentials.token
    print(f"checking the table {table} (the first time, this builds the command line)", flush=True)
    if subprocess.run([*command, "--table", table, "--index", index], cwd=ROOT, env=environment, check=False).returncode:
        raise Failure(f"the table {table} has a problem, see above")


def smoke(url, client, table, own_api):
    """Tries the function. `own_api`: the stack made the API, so that errors of the gateway have the envelope."""
    user = f"smoke-test-{secrets.token_hex(8)}"
    tokens = [f"smoke.{secrets.token_urlsafe(32)}" for _ in range(3)]
    keys = [{"token_hash": {"S": hashlib.sha256(token.encode()).hexdigest()}} for token in tokens]
    now = int(time.time())
    try:
        for number, key in enumerate(keys):
            session = {
                "session_id": {"S": f"{user}-{number}"},
                "user_id": {"S": user},
                "status": {"S": "active"},
                "created_at": {"N": str(now)},
                # A stack with MaxAuthenticationAge refuses sessions without it.
                "authenticated_at": {"N": str(now)},
                "expires_at": {"N": str(now + 600)},
            }
            client.put_item(TableName=table, Item=key | session)
        # The index usually follows within milliseconds.
        time.sleep(2)
        expect("a token that nobody has", call(url, "smoke.unknown"), 401, "session_inactive")
        expect("a malformed token", call(url, "not a token"), 400, "malformed_credentials")
        if own_api:
            expect("another path", call(f"{url}/1", tokens[0]), 404, "route_not_found")
        body = expect("sign out the others", call(url, tokens[0]), 200)
        if body != {"count": 2}:
            raise Failure(f"expected a count of 2, got {body}")
        items = [client.get_item(TableName=table, Key=key, ConsistentRead=True)["Item"] for key in keys]
        states = [item["status"]["S"] for item in items]
        if states != ["active", "revoked", "revoked"]:
            raise Failure(f"the table says {states}")
        print("ok: the table: the caller is signed in, the two others are revoked")
        expect("one of the others calls", call(url, tokens[1]), 401, "session_inactive")
        expect("again", call(url, tokens[0]), 200)
    finally:
        for key in keys:
            client.delete_item(TableName=table, Key=key)
        print(f"deleted the three sessions of {user}")


def main():
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: smoke.py STACK [URL]")
    try:
        session = boto3.Session()
        stack = session.client("cloudformation").describe_stacks(StackName=sys.argv[1])["Stacks"][0]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        if len(sys.argv) < 3 and "Url" not in outputs:
            sys.exit("The stack has no API. Give the URL of yours: make smoke-test STACK=name URL=https://...")
        parameters = {each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", [])}
        url = sys.argv[2] if len(sys.argv) > 2 else outputs["Url"]
        print(f"{url}, with the table {outputs['SessionsTableName']}")
        index = parameters.get("ExistingIndexName") or "user_id-index"
        check_table(session, outputs["SessionsTableName"], index)
        smoke(url, session.client("dynamodb"), outputs["SessionsTableName"], "Url" in outputs)
    except (Failure, BotoCoreError, ClientError, OSError) as error:
        sys.exit(f"FAILED: {error}")


if __name__ == "__main__":
    main()
