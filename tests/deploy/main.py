"""Builds the stack with `sam build`, deploys it with `sam deploy` to an emulated cloud, and uses it.

`make deploy-test` runs this with the tools it needs. The cloud is MiniStack, which takes the SAM transform from AWS's
own library, provisions the resources, and runs the very binary that was built. What it cannot do is bridged here and
printed as such; the template is not changed for it.
"""

import hashlib
import http.client
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__, "../../..").resolve()
REGION = "eu-central-1"
STACK = "sessions"
ORIGIN = "https://app.example.com"
DOMAIN = "apis.example.com"
TARGETS = {"arm64": "aarch64-unknown-linux-gnu", "x86_64": "x86_64-unknown-linux-gnu"}
NATIVE = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"


def step(text):
    print(f"\n== {text}", flush=True)


def bridged(text):
    print(f"   BRIDGED: {text}", flush=True)


def passed(text):
    print(f"   ok: {text}", flush=True)


def sam(*arguments, **variables):
    """Runs the AWS SAM CLI; shows its output only if it fails."""
    command = [sys.executable, "-m", "samcli", *arguments]
    environment = os.environ | {"SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": REGION} | variables
    result = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    if result.returncode:
        sys.exit(f"{result.stdout}\n{result.stderr}\nsam {arguments[0]} failed")


def wait_for(port, process, what):
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"{what} has ended")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{what} does not listen on port {port}")


def free_ports(number):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def running(command, log, **variables):
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


# Building


def has_target(target):
    """Whether Rust can build for the target, having tried to install what it lacks."""
    library = subprocess.run(
        ["rustc", "--print", "target-libdir", "--target", target], text=True, capture_output=True, check=True
    ).stdout.strip()
    if not any(Path(library).glob("libstd-*")) and shutil.which("rustup"):
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["rustup", "target", "add", target], timeout=300, capture_output=True, check=False)
    return any(Path(library).glob("libstd-*"))


def build(architecture):
    """Builds the stack for an architecture; returns where."""
    folder = ROOT / ".aws-sam" / architecture
    sam("build", "--build-dir", str(folder), "--parameter-overrides", f"Architecture={architecture}")
    binary = folder / "Function" / "bootstrap"
    machine = {0xB7: "arm64", 0x3E: "x86_64"}.get(int.from_bytes(binary.read_bytes()[18:20], "little"))
    assert machine == architecture, f"{binary} is for {machine}"
    passed(f"{architecture}: {binary.stat().st_size / 1e6:.1f} MB")
    return folder


# Deploying


def bridge_template(folder):
    """A copy of the built template without what MiniStack refuses, and with what it overlooks spelt out."""
    template = yaml_parse((folder / "template.yaml").read_text(encoding="utf-8"))
    resources = template["Resources"]
    del resources["WebAclAssociation"]
    bridged("it has no AWS::WAFv2::WebACLAssociation: the web ACL is made, but filters nothing")
    for name, resource in resources.items():
        if "Metrics" in resource.get("Properties", {}):
            metrics = resource["Properties"].pop("Metrics")
            first = next(metric["MetricStat"] for metric in metrics if "MetricStat" in metric)
            resource["Properties"] |= first["Metric"] | {"Statistic": first["Stat"], "Period": first["Period"]}
            bridged(f"it has no metric math: {name} is made on one of its metrics")
    responses = resources["Api"]["Properties"]["GatewayResponses"]
    for kind, response in responses.items():
        headers = response["ResponseParameters"]["Headers"]
        resources[f"Bridged{kind.title().replace('_', '')}"] = {
            "Type": "AWS::ApiGateway::GatewayResponse",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "ResponseType": kind,
                "StatusCode": str(response["StatusCode"]),
                "ResponseParameters": {f"gatewayresponse.header.{name}": value for name, value in headers.items()},
                "ResponseTemplates": response["ResponseTemplates"],
            },
        }
    bridged(f"it overlooks gateway responses in an API's definition: {len(responses)} are made as resources")
    path = folder / "bridged.json"
    path.write_text(json.dumps(template), encoding="utf-8")
    return path


class Cloud:
    """The emulated cloud."""

    def __init__(self, port):
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"
        self.credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

    def client(self, service):
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def deploy(self, template, stack, **parameters):
        """Deploys a stack; returns it."""
        sam(
            *("deploy", "--template-file", str(template), "--stack-name", stack, "--resolve-s3"),
            *("--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset", "--no-fail-on-empty-changeset"),
            *("--parameter-overrides", *(f"{name}={value}" for name, value in parameters.items())),
            AWS_ENDPOINT_URL=self.endpoint,
            **self.credentials,
        )
        return Stack(self, stack)


class Stack:
    """A deployed stack."""

    def __init__(self, cloud, name):
        self.cloud, self.name = cloud, name
        cloudformation = cloud.client("cloudformation")
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        self.resources = {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in resources}
        self.host = f"{self.resources['Api']}.execute-api.localhost:{cloud.port}"

    def bridge_methods(self):
        """Makes the methods ANY of the API's definition, and deploys them with the gateway responses."""
        api, gateway = self.resources["Api"], self.cloud.client("apigateway")
        function = self.cloud.client("lambda").get_function(FunctionName=self.outputs["FunctionName"])
        function = function["Configuration"]["FunctionArn"]
        uri = f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/{function}/invocations"
        paths = [each for each in gateway.get_resources(restApiId=api)["items"] if each["path"].endswith("/sessions")]
        assert sorted(each["path"] for each in paths) == ["/auth/sessions", "/sessions"], paths
        for each in paths:
            where = {"restApiId": api, "resourceId": each["id"], "httpMethod": "ANY"}
            gateway.put_method(**where, authorizationType="NONE")
            gateway.put_integration(**where, type="AWS_PROXY", integrationHttpMethod="POST", uri=uri)
        deployment = gateway.create_deployment(restApiId=api)["id"]
        change = {"op": "replace", "path": "/deploymentId", "value": deployment}
        gateway.update_stage(restApiId=api, stageName="prod", patchOperations=[change])

    def call(self, method, headers=None, path="/prod/auth/sessions", host=None):
        """Calls the API; returns status, headers with lower-case names, and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.cloud.port, timeout=60)
        connection.request(method, path, headers={"Host": host or self.host} | (headers or {}))
        response = connection.getresponse()
        body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, json.loads(body) if body else None


class Sessions:
    """The sessions table, as an application uses it."""

    def __init__(self, cloud, table):
        self.client, self.table = cloud.client("dynamodb"), table

    def put(self, user, *names):
        for name in names:
            item = {
                "token_hash": {"S": hashlib.sha256(name.encode()).hexdigest()},
                "session_id": {"S": f"id-{name}"},
                "user_id": {"S": user},
                "status": {"S": "active"},
                "created_at": {"N": str(int(time.time()))},
                "expires_at": {"N": str(int(time.time()) + 3600)},
            }
            self.client.put_item(TableName=self.table, Item=item)

    def states(self):
        items = self.client.scan(TableName=self.table, ConsistentRead=True)["Items"]
        return {item["session_id"]["S"].removeprefix("id-"): item["status"]["S"] for item in items}


# Using


def expect(answer, status, error=None, **headers):
    """Checks an answer's status, the id of its error, and headers (None: must not be there)."""
    code, got, body = answer
    assert code == status, answer
    for name, value in headers.items():
        assert got.get(name.replace("_", "-")) == value, (name, answer)
    if error:
        assert (body["error"]["id"], body["error"]["code"]) == (error, status), answer
        assert body["error"]["request"], answer
        assert got["cache-control"] == "no-store" and got["x-content-type-options"] == "nosniff", answer
    passed(f"{status} {error or json.dumps(body)}")
    return body


def token(name):
    return {"X-Session-Token": name}


def use(stack):
    """The contract, through the gateway, down to the table."""
    sessions = Sessions(stack.cloud, stack.outputs["SessionsTableName"])
    sessions.put("alice", "laptop", "phone", "tablet")
    sessions.put("bob", "desk", "train")
    assert expect(stack.call("DELETE", token("laptop")), 200) == {"count": 2}
    expected = {"laptop": "active", "phone": "revoked", "tablet": "revoked", "desk": "active", "train": "active"}
    assert sessions.states() == expected, sessions.states()
    passed("the table: the caller and the other user are signed in, the two others are revoked")
    assert expect(stack.call("DELETE", token("laptop")), 200) == {"count": 0}
    expect(stack.call("DELETE", token("phone")), 401, "session_inactive")
    expect(stack.call("DELETE"), 401, "session_inactive")
    expect(stack.call("DELETE", token("not a token")), 400, "malformed_credentials")
    cookie = {"Cookie": "ory_kratos_session=desk"}
    expect(stack.call("DELETE", cookie | {"Origin": "https://evil.example"}), 403, "security_csrf_violation")
    for method in ("GET", "POST", "PUT", "PATCH"):
        expect(stack.call(method, token("desk")), 405, "method_not_allowed", allow="DELETE, OPTIONS")
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "DELETE"}
    expect(stack.call("OPTIONS", asked), 204, access_control_allow_origin=ORIGIN)
    expect(stack.call("OPTIONS", asked | {"Origin": "https://evil.example"}), 204, access_control_allow_origin=None)
    assert sessions.states() == expected, sessions.states()
    passed("the table: none of these changed anything")
    assert expect(stack.call("DELETE", cookie, path="/auth/sessions", host=DOMAIN), 200) == {"count": 1}
    passed(f"that was https://{DOMAIN}/auth/sessions")
    for path in ("/prod/auth/sessions/id-desk", "/prod/auth", "/prod/elsewhere"):
        expect(
            stack.call("DELETE", token("desk"), path=path),
            404,
            "route_not_found",
            content_type="application/json",
            access_control_allow_origin=ORIGIN,
            access_control_allow_credentials="true",
        )


def check_log(stack, stream):
    """The function's lines are JSON, one with each request's id, and hold no token."""
    status, _, body = stack.call("DELETE", token("phone"))
    assert status == 401, body
    lines = []
    for _ in range(50):
        events = stream.filter_log_events(logGroupName=stack.outputs["FunctionLogGroupName"])["events"]
        lines = [event["message"].strip() for event in events if event["message"].lstrip().startswith("{")]
        if any(body["error"]["request"] in line for line in lines):
            break
        time.sleep(0.1)
    records = [json.loads(line) for line in lines]
    record = next((each for each in records if each.get("request") == body["error"]["request"]), None)
    assert record and record["level"] == "INFO" and record["timestamp"], lines
    assert record["Outcome"] == "session_inactive" and record["Requests"] == 1, record
    namespaces = {directive["Namespace"] for directive in record["_aws"]["CloudWatchMetrics"]}
    assert namespaces == {"disable-my-other-sessions"}, record
    for name in ("laptop", "phone", "desk"):
        assert not any(f'"{name}"' in line for line in lines), name
    passed(f"{len(records)} lines, in the stack's own log group")


def check_resources(stack):
    """What the parameters asked for is there."""
    configuration = stack.cloud.client("lambda").get_function(FunctionName=stack.outputs["FunctionName"])[
        "Configuration"
    ]
    assert configuration["Architectures"] == [NATIVE], configuration
    assert (configuration["MemorySize"], configuration["Timeout"]) == (512, 28), configuration
    assert configuration["TracingConfig"]["Mode"] == "Active", configuration
    table = stack.cloud.client("dynamodb").describe_table(TableName=stack.outputs["SessionsTableName"])["Table"]
    index = table["GlobalSecondaryIndexes"][0]
    assert (index["IndexName"], index["Projection"]["NonKeyAttributes"]) == ("user_id-index", ["status"]), index
    assert table["DeletionProtectionEnabled"], table
    stage = stack.cloud.client("apigateway").get_stage(restApiId=stack.resources["Api"], stageName="prod")
    assert stage["tracingEnabled"] and stage["methodSettings"]["*/*"]["throttlingBurstLimit"] == 200, stage
    alarms = stack.cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
    mine = [alarm for alarm in alarms if alarm["AlarmName"] in stack.resources.values()]
    assert len(mine) == 8 and all(alarm["AlarmActions"] for alarm in mine), mine
    passed("function, table, stage and 8 alarms are as the parameters say")


def use_again(cloud, template, first):
    """A second stack on the first one's table, which allows a single request at a time."""
    table = first.outputs["SessionsTableName"]
    parameters = {"ExistingTableName": table, "ThrottlingRate": 1, "ThrottlingBurst": 1, "Architecture": NATIVE}
    stack = cloud.deploy(template, f"{STACK}-adopting", AccessLogs="disabled", **parameters)
    stack.bridge_methods()
    absent = {
        "SessionsTable",
        "Domain",
        "BasePath",
        "WebAcl",
        "AccessLogGroup",
        "ApiGatewayAccount",
        "ApiGatewayLogsRole",
    }
    assert not absent & set(stack.resources), stack.resources
    passed("it made no table, domain, web ACL or access log")
    sessions = Sessions(cloud, table)
    sessions.put("carol", "kiosk", "watch")
    answers = [stack.call("DELETE", token("kiosk")) for _ in range(5)]
    assert expect(answers[0], 200) == {"count": 1}
    assert sessions.states()["watch"] == "revoked"
    refused = [answer for answer in answers if answer[0] == 429]
    assert refused, answers
    expect(refused[0], 429, "too_many_requests", retry_after="1", access_control_allow_origin=None)
    return stack


def delete(stack):
    """Deletes a stack. Its table stays."""
    cloudformation = stack.cloud.client("cloudformation")
    cloudformation.delete_stack(StackName=stack.name)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=stack.name, WaiterConfig={"Delay": 1})
    assert stack.outputs["SessionsTableName"] in stack.cloud.client("dynamodb").list_tables()["TableNames"]
    passed(f"{stack.name} is deleted, the table is still there")


def check_smoke_test(stack):
    """`make smoke-test` finds the stack sound, and a stack on another URL not."""
    command = [sys.executable, str(ROOT / "tests/deploy/smoke.py"), stack.name]
    environment = os.environ | stack.cloud.credentials
    environment |= {"AWS_ENDPOINT_URL": stack.cloud.endpoint, "AWS_DEFAULT_REGION": REGION}
    before = Sessions(stack.cloud, stack.outputs["SessionsTableName"]).states()
    for path, sound in (("auth/sessions", True), ("elsewhere", False)):
        url = f"{stack.cloud.endpoint}/_aws/execute-api/{stack.resources['Api']}/prod/{path}"
        result = subprocess.run([*command, url], env=environment, text=True, capture_output=True, check=False)
        assert (result.returncode == 0) == sound, (result.stdout, result.stderr)
        passed((result.stdout.strip().splitlines()[-2] if sound else result.stderr.strip())[:110])
    assert Sessions(stack.cloud, stack.outputs["SessionsTableName"]).states() == before
    passed("it left nothing behind")


def check_runtime_interface_emulator(folder, cloud, table, log):
    """The same binary under AWS's own emulator of the Lambda runtime."""
    import samcli.local.rapid as rapid

    emulator = Path(rapid.__path__[0]) / f"aws-lambda-rie-{NATIVE}"
    copy = Path(log).with_name("aws-lambda-rie")
    shutil.copy(emulator, copy)
    copy.chmod(0o755)
    port, api = free_ports(2)
    event = json.loads((ROOT / "events/rest-token.json").read_text(encoding="utf-8"))
    for headers in (event["headers"], event["multiValueHeaders"]):
        for name in [name for name in headers if name.lower() == "x-session-token"]:
            headers[name] = ["box"] if isinstance(headers[name], list) else "box"
    sessions = Sessions(cloud, table)
    sessions.put("dave", "box", "bag", "bed")
    command = [str(copy), "--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    command += ["--runtime-api-address", f"127.0.0.1:{api}", str(folder / "Function" / "bootstrap")]
    variables = {"SESSIONS_TABLE": table, "AWS_ENDPOINT_URL_DYNAMODB": cloud.endpoint, "AWS_REGION": REGION}
    with running(command, log, **variables, **cloud.credentials) as process:
        wait_for(port, process, "the Lambda Runtime Interface Emulator")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/2015-03-31/functions/function/invocations", json.dumps(event))
        answer = json.loads(connection.getresponse().read())
    assert (answer["statusCode"], json.loads(answer["body"])) == (200, {"count": 2}), answer
    assert [sessions.states()[name] for name in ("box", "bag", "bed")] == ["active", "revoked", "revoked"]
    passed('200 {"count": 2}, and the table agrees')


def main():
    if platform.system() != "Linux":
        sys.exit("This runs the function's binary, which takes Linux.")
    # Whatever account the environment names, it is not meant.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    step("sam build")
    folders = {}
    # The native one last: both put their binary into the same place below target/.
    for architecture in sorted(TARGETS, key=lambda name: name == NATIVE):
        if has_target(TARGETS[architecture]):
            folders[architecture] = build(architecture)
        else:
            print(f"   SKIPPED: {architecture}. Its standard library is neither installed nor to be had")
            print(f"   (rustup target add {TARGETS[architecture]} failed).")
    folder = folders[NATIVE]
    with tempfile.TemporaryDirectory() as scratch:
        port = free_ports(1)[0]
        cloud = Cloud(port)
        # The last three it hands down to the function, for which it sets none of them.
        variables = {"GATEWAY_PORT": str(port), "MINISTACK_REGION": REGION}
        variables |= {
            "AWS_ENDPOINT_URL": cloud.endpoint,
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            "AWS_LAMBDA_LOG_LEVEL": "INFO",
        }
        log = f"{scratch}/ministack.log"
        with running([sys.executable, "-m", "ministack"], log, **variables) as process:
            wait_for(port, process, "MiniStack")
            try:
                step("sam deploy")
                bridged("it does not tell the function LoggingConfig's format and level: set as they would be")
                template = bridge_template(folder)
                topic = cloud.client("sns").create_topic(Name="alarms")["TopicArn"]
                certificate = cloud.client("acm").request_certificate(DomainName=DOMAIN)["CertificateArn"]
                zone = cloud.client("route53").create_hosted_zone(Name="example.com", CallerReference=STACK)[
                    "HostedZone"
                ]
                key = cloud.client("kms").create_key()["KeyMetadata"]["Arn"]
                stack = cloud.deploy(
                    template,
                    STACK,
                    Architecture=NATIVE,
                    MemorySize=512,
                    AllowedOrigins=ORIGIN,
                    AlarmTopicArn=topic,
                    AccessLogs="enabled-with-account-role",
                    WafRateLimit=1000,
                    ThrottlingRate=100,
                    ThrottlingBurst=200,
                    DomainName=DOMAIN,
                    CertificateArn=certificate,
                    HostedZoneId=zone["Id"].removeprefix("/hostedzone/"),
                    TableKeyArn=key,
                    DeleteExpiredSessions="true",
                    LogLevel="TRACE",
                    LogRetentionDays=1,
                )
                stack.bridge_methods()
                bridged(
                    "it overlooks the method ANY in an API's definition: made by calls, and deployed with the responses"
                )
                step("calls through the gateway")
                use(stack)
                step("the log")
                check_log(stack, cloud.client("logs"))
                step("the resources")
                check_resources(stack)
                step("the smoke test")
                check_smoke_test(stack)
                step("a second stack on the existing table, throttled to one request a second")
                adopting = use_again(cloud, template, stack)
                step("the binary under AWS's Lambda Runtime Interface Emulator")
                check_runtime_interface_emulator(
                    folder, cloud, stack.outputs["SessionsTableName"], f"{scratch}/rie.log"
                )
                step("deletion")
                delete(adopting)
                delete(stack)
            except BaseException:
                print(Path(log).read_text(encoding="utf-8")[-4000:], file=sys.stderr)
                raise
    built = " and ".join(folders)
    print(
        f"\nBuilt for {built}; deployed and used on {NATIVE}."
        + (" NOT BUILT for the other." if len(folders) < 2 else "")
    )


if __name__ == "__main__":
    main()
