"""Deploys the consumer of docs/code/consumer beside a stack whose table has a stream, and uses it: devices with open
websockets, whose sessions are revoked through the stack's API.

`main.py` calls `use`. The emulated cloud has the stream, evaluates the filter, runs the consumer, and closes websockets.
"""

import contextlib
import hashlib
import http.client
import http.server
import importlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

from samcli.yamlhelper import yaml_parse
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Message, Ping, RejectConnection, Request

ROOT = Path(__file__, "../../..").resolve()
CODE = ROOT / "docs/code/consumer"
STAGE = "live"
# The authorizer of `$connect`, as an application has it.
AUTHORIZER = """
import hashlib, os, time, boto3

SESSIONS = boto3.resource("dynamodb").Table(os.environ["SESSIONS_TABLE"])

def authorize(event, _context):
    token_hash = hashlib.sha256(event["headers"]["x-session-token"].encode()).hexdigest()
    session = SESSIONS.get_item(Key={"token_hash": token_hash}, ConsistentRead=True).get("Item", {})
    valid = session.get("status") == "active" and session["expires_at"] > time.time()
    statement = {"Action": "execute-api:Invoke", "Effect": "Allow" if valid else "Deny", "Resource": event["methodArn"]}
    return {
        "principalId": "device",
        "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        "context": {"user_id": session["user_id"], "token_hash": token_hash} if valid else {},
    }
"""


class Device:
    """A device with a websocket."""

    def __init__(self, cloud, api, token):
        self.socket = socket.create_connection(("127.0.0.1", cloud.port), 30)
        self.protocol, self.waiting = WSConnection(ConnectionType.CLIENT), []
        host = f"{api}.execute-api.localhost:{cloud.port}"
        self.send(Request(host=host, target=f"/{STAGE}", extra_headers=[(b"x-session-token", token.encode())]))
        answer = self.receive()
        if isinstance(answer, RejectConnection):
            raise PermissionError(answer.status_code)
        assert isinstance(answer, AcceptConnection), answer

    def send(self, event):
        self.socket.sendall(self.protocol.send(event))

    def receive(self):
        """The next event. Without one, the test ends with a time-out."""
        while True:
            for event in self.waiting or self.protocol.events():
                if isinstance(event, Ping):
                    self.send(event.response())
                else:
                    return event
            self.protocol.receive_data(self.socket.recv(4096) or None)

    def subscribe(self):
        self.send(Message(data='{"action": "subscribe"}'))

    def wait_for_close(self):
        event = self.receive()
        assert isinstance(event, CloseConnection), event


class Faulty(http.server.BaseHTTPRequestHandler):
    """In front of the API that closes connections: answers 500 for those in `server.broken`, and forwards the rest."""

    def do_DELETE(self):
        self.server.deleted.append(self.path.rsplit("/", 1)[1])
        target = urlsplit(self.server.target)
        status, body, kind = 500, b"", None
        if self.server.deleted[-1] not in self.server.broken:
            connection = http.client.HTTPConnection(target.netloc, timeout=30)
            connection.request("DELETE", target.path + self.path, headers={"Authorization": self.headers["Authorization"]})
            response = connection.getresponse()
            status, body, kind = response.status, response.read(), response.headers["x-amzn-ErrorType"]
        self.send_response(status)
        if kind:
            self.send_header("x-amzn-ErrorType", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def make_function(cloud, name, source, handler, variables):
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr(f"{handler.split('.')[0]}.py", source)
    return cloud.client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role="arn:aws:iam::000000000000:role/application",
        Handler=handler,
        Code={"ZipFile": package.getvalue()},
        Environment={"Variables": variables},
    )["FunctionArn"]


def make_routes(cloud, api, variables):
    """An application's WebSocket API: an authorizer for `$connect`, and `subscribe` for every message."""
    gateway = cloud.client("apigatewayv2")
    source = (CODE / "connections.py").read_text(encoding="utf-8")
    subscribe = make_function(cloud, "subscribe", source, "connections.subscribe", variables)
    authorize = make_function(cloud, "authorize", AUTHORIZER, "authorizer.authorize", variables)
    authorizer = gateway.create_authorizer(
        ApiId=api,
        Name="sessions",
        AuthorizerType="REQUEST",
        AuthorizerUri=invocation_of(authorize),
        IdentitySource=["route.request.header.x-session-token"],
    )["AuthorizerId"]
    accept = gateway.create_integration(ApiId=api, IntegrationType="MOCK")["IntegrationId"]
    gateway.create_route(
        ApiId=api,
        RouteKey="$connect",
        AuthorizationType="CUSTOM",
        AuthorizerId=authorizer,
        Target=f"integrations/{accept}",
    )
    target = gateway.create_integration(ApiId=api, IntegrationType="AWS_PROXY", IntegrationUri=invocation_of(subscribe))
    gateway.create_route(ApiId=api, RouteKey="subscribe", Target=f"integrations/{target['IntegrationId']}")
    gateway.create_stage(ApiId=api, StageName=STAGE, AutoDeploy=True)


def invocation_of(function):
    return f"arn:aws:apigateway:{function.split(':')[3]}:lambda:path/2015-03-31/functions/{function}/invocations"


def hash_of(token):
    return hashlib.sha256(token.encode()).hexdigest()


def wait_until(condition, what):
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    sys.exit(f"no response in time: {what}")


def use(cloud, stack, sessions, press, passed, bridged):
    """Deploys the consumer on the stream of a stack, and uses it. `press` revokes a user's other sessions."""
    gateway, table = cloud.client("apigatewayv2"), stack.outputs["SessionsTableName"]
    stream = stack.outputs["SessionsTableStreamArn"]
    api = gateway.create_api(
        Name="devices", ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.action"
    )["ApiId"]
    consumer = cloud.deploy(CODE / "template.yaml", "consumer", StreamArn=stream, WebSocketApiId=api, WebSocketStage=STAGE)
    connections = consumer.outputs["ConnectionsTableName"]
    function = consumer.outputs["ConsumerName"]
    configuration = cloud.client("lambda").get_function_configuration(FunctionName=function)
    variables = configuration["Environment"]["Variables"]
    expected = f"https://{api}.execute-api.{stream.split(':')[3]}.amazonaws.com/{STAGE}"
    assert variables == {"SESSIONS_TABLE": table, "CONNECTIONS_TABLE": connections, "CONNECTIONS_URL": expected}, variables
    check_mapping(cloud, function, stream, consumer)
    variables["CONNECTIONS_URL"] = f"{cloud.endpoint}/_aws/execute-api/{api}/{STAGE}"
    cloud.client("lambda").update_function_configuration(FunctionName=function, Environment={"Variables": variables})
    bridged("its WebSocket APIs have another address: CONNECTIONS_URL is set")
    make_routes(cloud, api, variables)

    def rows():
        items = sessions.client.scan(TableName=connections, ConsistentRead=True)["Items"]
        return {item["connection_id"]["S"] for item in items}

    check_devices(cloud, api, sessions, press, rows, passed)
    check_events(cloud, consumer, passed)
    check_failures(cloud, api, sessions, variables, rows, passed)
    return consumer


def check_mapping(cloud, function, stream, consumer):
    mapping = cloud.client("lambda").list_event_source_mappings(FunctionName=function)["EventSourceMappings"]
    assert len(mapping) == 1, mapping
    mapping = mapping[0]
    queue = cloud.client("sqs").get_queue_attributes(
        QueueUrl=consumer.outputs["FailuresQueueUrl"], AttributeNames=["QueueArn"]
    )["Attributes"]["QueueArn"]
    expected = {
        "EventSourceArn": stream,
        "StartingPosition": "TRIM_HORIZON",
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "BisectBatchOnFunctionError": True,
        "MaximumRetryAttempts": 5,
        "MaximumRecordAgeInSeconds": 3600,
        "DestinationConfig": {"OnFailure": {"Destination": queue}},
    }
    assert {name: mapping.get(name) for name in expected} == expected, mapping
    assert len(mapping["FilterCriteria"]["Filters"]) == 2, mapping


def check_devices(cloud, api, sessions, press, rows, passed):
    """Whose websocket is closed, and whose is not."""
    sessions.put("grace", "g-desk", "g-phone", "g-old", "g-late")
    sessions.put("heidi", "h-phone")
    desk, phone, old, late, other = (
        Device(cloud, api, name) for name in ("g-desk", "g-phone", "g-old", "g-late", "h-phone")
    )
    for device in (desk, phone, old, other):
        device.subscribe()
    wait_until(lambda: len(rows()) == 4, "four connections are recorded")
    # As a rotation by the application ends it.
    sessions.client.update_item(
        TableName=sessions.table,
        Key={"token_hash": {"S": hash_of("g-old")}},
        UpdateExpression="SET #status = :revoked, revoked_by = session_id",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":revoked": {"S": "revoked"}},
    )
    press("g-desk")
    phone.wait_for_close()
    passed("the websocket of a revoked session is closed")
    old.wait_for_close()
    passed("so is that of a session of the user that a rotation had ended")
    late.subscribe()
    late.wait_for_close()
    passed("so is one whose first message comes after the revocation")
    wait_until(lambda: len(rows()) == 2, "two connections are left")
    for device in (desk, other):
        device.subscribe()
        device.send(Ping(payload=b"open"))
    assert all(type(device.receive()).__name__ == "Pong" for device in (desk, other))
    passed("those of the caller and of another user are open")
    try:
        Device(cloud, api, "g-phone")
        sys.exit("a revoked session has opened a websocket")
    except PermissionError as refusal:
        passed(f"{refusal} for a revoked session that connects again")


def check_events(cloud, consumer, passed):
    """What the consumer was invoked with: one event for each revoked session, and nothing else of what was written."""
    logs, group = cloud.client("logs"), consumer.resources["ConsumerLogGroup"]

    def read():
        return [event["message"].strip() for event in logs.filter_log_events(logGroupName=group)["events"]]

    def events():
        return [json.loads(line) for line in read() if line.startswith('{"event"')]

    def caused_by(session):
        return [event for event in events() if event["revoked_by"] == session]

    def has_logged_both():
        # The emulated cloud may keep lines back until the function is invoked again.
        result = cloud.client("lambda").invoke(FunctionName=consumer.outputs["ConsumerName"], Payload=b"{}")
        assert json.load(result["Payload"]) == {"closed": 0}, result
        return len(caused_by("id-g-desk")) >= 2

    wait_until(has_logged_both, "two lines in the consumer's log")
    assert sorted(event["session_id"] for event in caused_by("id-g-desk")) == ["id-g-late", "id-g-phone"], events()
    # With those that the stream has had before the consumer, but without the end of id-g-old by the application.
    for event in events():
        assert event["event"] == "revoked" and event["revocation_id"], event
        assert abs(time.time() - event["revoked_at"]) < 3600, event
    sessions = [event["session_id"] for event in events()]
    assert len(sessions) == len(set(sessions)), sessions
    assert not any(hash_of(name) in line or '"grace"' in line for name in ("g-late", "g-phone") for line in read())
    passed("it was invoked with one event for each revoked session, and its log has no hash and no user")


def check_failures(cloud, api, sessions, variables, rows, passed):
    """What the consumer returns for a batch in which a connection cannot be closed, and how it recovers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    server.target, server.deleted, server.broken = variables["CONNECTIONS_URL"], [], set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    environment = variables | {"CONNECTIONS_URL": url, "AWS_ENDPOINT_URL_DYNAMODB": cloud.endpoint}
    environment |= cloud.credentials | {"AWS_DEFAULT_REGION": cloud.client("lambda").meta.region_name}
    os.environ.update(environment)
    sys.path.insert(0, str(CODE))
    consumer = importlib.import_module("connections")
    for name in environment:
        del os.environ[name]

    used = set()

    def remember(model, params, **_):
        table = json.loads(params["body"])["TableName"]
        used.add(("CheckSessions" if table == sessions.table else "FindAndForgetConnections", f"dynamodb:{model.name}"))

    consumer.DYNAMODB.meta.client.meta.events.register("before-call.dynamodb", remember)
    before = rows()
    gone = {"user_id": {"S": "ivan"}, "connection_id": {"S": "gone"}, "token_hash": {"S": "none"}}
    sessions.client.put_item(TableName=variables["CONNECTIONS_TABLE"], Item=gone)
    sessions.put("judy", "j-1", "j-2")
    devices = {}
    for name in ("j-1", "j-2"):
        known, device = rows(), Device(cloud, api, name)
        device.subscribe()
        wait_until(lambda known=known: len(rows()) == len(known) + 1, "a connection is recorded")
        (connection,) = rows() - known
        devices[connection] = device
    # The first that a query returns, so that the failure comes before the other.
    broken, other = sorted(devices)
    for name in ("j-1", "j-2"):
        sessions.client.delete_item(TableName=sessions.table, Key={"token_hash": {"S": hash_of(name)}})
    server.broken.add(broken)
    batch = {"Records": [record(1, "judy"), record(2, "ivan"), record(3, "judy"), record(4, "nobody")]}
    batch["Records"].append({"eventID": "5", "dynamodb": {"SequenceNumber": "5", "NewImage": {}}})
    failed = [{"itemIdentifier": number} for number in ("1", "3", "5")]
    with contextlib.redirect_stdout(io.StringIO()) as log:
        assert consumer.handle(batch, None) == {"batchItemFailures": failed}
    assert len(log.getvalue().splitlines()) == 5 and "secret" not in log.getvalue() and "judy" not in log.getvalue()
    assert rows() == before | {broken}, rows()
    devices[other].wait_for_close()
    passed("a connection that cannot be closed keeps no other open, and only its records are reported as failed")
    server.broken.clear()
    server.deleted.clear()
    for _ in range(2):
        with contextlib.redirect_stdout(io.StringIO()):
            assert consumer.handle({"Records": batch["Records"][:4]}, None) == {"batchItemFailures": []}
    devices[broken].wait_for_close()
    assert server.deleted == [broken] and rows() == before, server.deleted
    passed("the batch that is sent again closes it; once more does nothing")
    sessions.put("kim", "k-1")
    kim = Device(cloud, api, "k-1")
    kim.subscribe()
    wait_until(lambda: len(rows()) == len(before) + 1, "a connection is recorded")
    sessions.client.delete_item(TableName=sessions.table, Key={"token_hash": {"S": hash_of("k-1")}})
    assert consumer.handle({}, None) == {"closed": 1}
    kim.wait_for_close()
    assert rows() == before
    passed("invoked with {}, it closes what no event has named: the session was deleted")
    consumer.DYNAMODB.meta.client.meta.events.unregister("before-call.dynamodb", remember)
    template = yaml_parse((CODE / "template.yaml").read_text(encoding="utf-8"))
    statements = template["Resources"]["ConsumerRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    allowed = {each["Sid"]: each["Action"] for each in statements if "Sid" in each}
    allowed = {sid: [actions] if isinstance(actions, str) else actions for sid, actions in allowed.items()}
    for sid in ("CheckSessions", "FindAndForgetConnections"):
        assert {action for used_by, action in used if used_by == sid} == set(allowed[sid]), (used, allowed)
    passed("its role allows what it does with the two tables, and no more")
    check_order(consumer, cloud, api, sessions, rows, passed)
    check_states(consumer, cloud, sessions, rows, passed)
    check_restore(cloud, sessions, passed)
    server.shutdown()


def check_order(consumer, cloud, api, sessions, rows, passed):
    """A session is revoked, and its event is handled, right after `subscribe` has found it active."""
    before = rows()
    sessions.put("lena", "l-1")
    device = Device(cloud, api, "l-1")
    device.subscribe()
    wait_until(lambda: len(rows()) == len(before) + 1, "a connection is recorded")
    (connection,) = rows() - before
    consumer.CONNECTIONS.delete_item(Key={"user_id": "lena", "connection_id": connection})
    events = consumer.DYNAMODB.meta.client.meta.events

    def revoke(**_):
        events.unregister("after-call.dynamodb.GetItem", revoke)
        sessions.client.delete_item(TableName=sessions.table, Key={"token_hash": {"S": hash_of("l-1")}})
        with contextlib.redirect_stdout(io.StringIO()):
            assert consumer.handle({"Records": [record(1, "lena")]}, None) == {"batchItemFailures": []}

    events.register("after-call.dynamodb.GetItem", revoke)
    context = {"connectionId": connection, "authorizer": {"user_id": "lena", "token_hash": hash_of("l-1")}}
    assert consumer.subscribe({"requestContext": context}, None) == {"statusCode": 200}
    device.wait_for_close()
    passed("a session that is revoked while its connection is recorded")


def check_states(consumer, cloud, sessions, rows, passed):
    """The connection of a session is kept only if the session is active, not expired, and the user's own."""
    before, later = rows(), {"N": str(int(time.time()) + 600)}
    active = {"user_id": {"S": "mia"}, "status": {"S": "active"}, "expires_at": later}
    others = [
        {"status": {"S": "revoked"}},
        {"status": {"S": "mfa_pending"}},
        {"status": None},
        {"expires_at": {"N": "1"}},
        {"expires_at": {"S": later["N"]}},
        {"expires_at": None},
        {"user_id": {"S": "mallory"}},
    ]
    for number, change in enumerate([{}, *others]):
        item = {name: value for name, value in (active | change).items() if value}
        sessions.client.put_item(TableName=sessions.table, Item=item | {"token_hash": {"S": f"state-{number}"}})
        connection = {"user_id": "mia", "connection_id": f"connection-{number}", "token_hash": f"state-{number}"}
        consumer.CONNECTIONS.put_item(Item=connection)
    assert consumer.handle({}, None) == {"closed": len(others)}
    assert rows() == before | {"connection-0"}, rows()
    for number in range(len(others) + 1):
        sessions.client.delete_item(TableName=sessions.table, Key={"token_hash": {"S": f"state-{number}"}})
    passed(f"of {len(others) + 1} states of a session, one keeps its connection")


def check_restore(cloud, sessions, passed):
    """What was ended after a backup is ended again in the restored table."""
    active, expiry = {"status": {"S": "active"}}, {"expires_at": {"N": "9999999999"}}
    by_function = {
        "status": {"S": "revoked"},
        "revoked_at": {"N": "1790000000"},
        "revoked_by": {"S": "id-of-caller"},
        "revocation_id": {"S": "invocation"},
    }
    before = {"kept": active, "pressed": active, "signed-out": active, "pending": active, "gone": by_function}
    after = {
        "kept": active,
        "pressed": by_function,
        "pending": {"status": {"S": "mfa_pending"}},
        "gone": by_function,
        "new": by_function,
    }
    for table, items in (("old", after), ("restored", before)):
        sessions.client.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "token_hash", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "token_hash", "KeyType": "HASH"}],
        )
        for name, attributes in items.items():
            item = {"token_hash": {"S": name}, "session_id": {"S": f"id-{name}"}} | expiry | attributes
            sessions.client.put_item(TableName=table, Item=item)
    command = [sys.executable, str(CODE / "restore.py"), "old", "restored"]
    environment = {"AWS_ENDPOINT_URL": cloud.endpoint, "AWS_DEFAULT_REGION": sessions.client.meta.region_name}
    environment |= os.environ | cloud.credentials
    for expected in (3, 0):
        result = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
        assert result.stdout == f"{expected} sessions are ended again\n", result.stdout
    items = sessions.client.scan(TableName="restored")["Items"]
    restored = {item["token_hash"]["S"]: item for item in items}
    assert set(restored) == set(before), restored
    assert {name for name, item in restored.items() if item["status"]["S"] == "active"} == {"kept"}, restored
    assert by_function.items() <= restored["pressed"].items(), restored
    for name in ("signed-out", "pending"):
        assert restored[name]["revoked_by"]["S"] == f"id-{name}" and "revocation_id" not in restored[name], restored
    passed("after a restore, what was revoked, deleted or changed since the backup is ended again, once")


def record(number, user):
    """A record of the stream, as the filter lets it through."""
    revoked = {"token_hash": "secret", "session_id": "id", "user_id": user, "revoked_by": "by", "revocation_id": "r", "status": "revoked"}
    image = {name: {"S": value} for name, value in revoked.items()} | {"revoked_at": {"N": "1"}}
    return {"eventID": str(number), "dynamodb": {"SequenceNumber": str(number), "NewImage": image}}
