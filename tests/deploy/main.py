"""Builds the stack with `sam build`, deploys it with `sam deploy` to an emulated cloud, and uses it.

`make deploy-test` runs this with the tools it needs. The cloud is MiniStack, which uses AWS's own SAM transform,
provisions the resources, and runs the binary that was built. What MiniStack does not support is bridged here and printed
as BRIDGED. template.yaml is not changed for it.
"""

import hashlib
import http.client
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import consumer
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__, "../../..").resolve()
REGION = "eu-central-1"
ACCOUNT = "000000000000"
STACK = "sessions"
ORIGIN = "https://app.example.com"
DOMAIN = "apis.example.com"
TARGETS = {"arm64": "aarch64-unknown-linux-gnu", "x86_64": "x86_64-unknown-linux-gnu"}
QEMU_PACKAGES = ["qemu-user", "libc6-arm64-cross", "libgcc-s1-arm64-cross"]
# MiniStack takes a request with the first header for one over TLS. The second has the form of the signature that
# CloudFront makes for a function URL with AuthType AWS_IAM.
CLOUDFRONT_BRIDGE = {
    "X-Forwarded-Proto": "https",
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/lambda/aws4_request, "
    "SignedHeaders=host;x-amz-date, Signature=0",
}
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


def guide():
    return (ROOT / "docs/operations.md").read_text(encoding="utf-8")


def configure(folder, architecture):
    """Writes the samconfig.toml of docs/operations.md for an architecture; returns its path."""
    path = folder / "samconfig.toml"
    path.write_text("version = 0.1\n", encoding="utf-8")
    if architecture == "x86_64":
        [command] = re.findall(r"^printf .* > samconfig.toml$", guide(), re.MULTILINE)
        subprocess.run(["sh", "-c", command], cwd=folder, check=True)
    return path


def build(architecture):
    """Builds the stack for an architecture; returns where."""
    folder = ROOT / ".aws-sam" / architecture
    with tempfile.TemporaryDirectory() as scratch:
        sam("build", "--build-dir", str(folder), "--config-file", str(configure(Path(scratch), architecture)))
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
    responses = resources["RestApi"]["Properties"]["GatewayResponses"]
    for kind, response in responses.items():
        headers = response["ResponseParameters"]["Headers"]
        resources[f"Bridged{kind.title().replace('_', '')}"] = {
            "Type": "AWS::ApiGateway::GatewayResponse",
            "Condition": "HasApi",
            "Properties": {
                "RestApiId": {"Ref": "RestApi"},
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

    def call(self, host, method, path, headers=None):
        """Calls a host of the cloud; returns status, headers with lower-case names, and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        bridge = CLOUDFRONT_BRIDGE if ".cloudfront." in host else {}
        connection.request(method, path, headers={"Host": host} | bridge | (headers or {}))
        response = connection.getresponse()
        body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        try:
            return response.status, headers, json.loads(body) if body else None
        except ValueError:
            return response.status, headers, body.decode(errors="replace")

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


@contextmanager
def emulated_cloud(scratch):
    """Runs MiniStack. Shows the end of its log if what it is used for fails."""
    port = free_ports(1)[0]
    cloud = Cloud(port)
    # The last three it hands down to the function, for which it sets none of them.
    variables = {"GATEWAY_PORT": str(port), "MINISTACK_REGION": REGION}
    variables |= {
        "AWS_ENDPOINT_URL": cloud.endpoint,
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_LAMBDA_LOG_LEVEL": "INFO",
    }
    log = Path(scratch) / "ministack.log"
    with running([sys.executable, str(ROOT / "tests/deploy/emulator.py")], log, **variables) as process:
        wait_for(port, process, "MiniStack")
        try:
            bridged("it does not pass LoggingConfig's format and level to the function: set as Lambda sets them")
            bridged("it removes a domain's base path from the event's path, where API Gateway keeps it: added again")
            bridged("it writes no stream record for an UPDATE of PartiQL: added")
            bridged("it finds no key in a WHERE with OR: the half of the condition that it does not need is left out")
            yield cloud
        except BaseException:
            print(log.read_text(encoding="utf-8")[-4000:], file=sys.stderr)
            raise


class Stack:
    """A deployed stack."""

    def __init__(self, cloud, name):
        self.cloud, self.name = cloud, name
        cloudformation = cloud.client("cloudformation")
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
        resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        self.resources = {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in resources}
        if "RestApi" in self.resources:
            self.host = f"{self.resources['RestApi']}.execute-api.localhost:{cloud.port}"

    def parameters(self):
        stack = self.cloud.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"][0]
        return {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}

    def bridge_methods(self):
        """Makes the methods ANY of the API's definition, and deploys them with the gateway responses."""
        api, gateway = self.resources["RestApi"], self.cloud.client("apigateway")
        function = self.cloud.client("lambda").get_function(FunctionName=self.outputs["FunctionName"])
        function = function["Configuration"]["FunctionArn"]
        uri = f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/{function}/invocations"
        paths = [each for each in gateway.get_resources(restApiId=api)["items"] if each["path"] != "/auth"]
        assert sorted(each["path"] for each in paths) == ["/", "/auth/sessions"], paths
        for each in paths:
            where = {"restApiId": api, "resourceId": each["id"], "httpMethod": "ANY"}
            gateway.put_method(**where, authorizationType="NONE")
            gateway.put_integration(**where, type="AWS_PROXY", integrationHttpMethod="POST", uri=uri)
        deployment = gateway.create_deployment(restApiId=api)["id"]
        change = {"op": "replace", "path": "/deploymentId", "value": deployment}
        gateway.update_stage(restApiId=api, stageName="prod", patchOperations=[change])

    def call(self, method, headers=None, path="/prod/auth/sessions", host=None):
        """Calls the API; returns status, headers with lower-case names, and body."""
        return self.cloud.call(host or self.host, method, path, headers)


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
                "authenticated_at": {"N": str(int(time.time()))},
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
    beside = stack.cloud.client("apigateway").create_rest_api(name="beside")["id"]
    gateway = stack.cloud.client("apigateway")
    root = gateway.get_resources(restApiId=beside)["items"][0]["id"]
    login = gateway.create_resource(restApiId=beside, parentId=root, pathPart="login")["id"]
    method = {"restApiId": beside, "resourceId": login, "httpMethod": "DELETE"}
    gateway.put_method(**method, authorizationType="NONE")
    gateway.put_integration(**method, type="MOCK", requestTemplates={"application/json": '{"statusCode": 418}'})
    gateway.put_method_response(**method, statusCode="418")
    gateway.put_integration_response(**method, statusCode="418")
    gateway.create_deployment(restApiId=beside, stageName="prod")
    gateway.create_base_path_mapping(domainName=DOMAIN, basePath="auth", restApiId=beside, stage="prod")
    status, _, body = stack.call("DELETE", path="/auth/login", host=DOMAIN)
    assert status == 418, (status, body)
    expect(stack.call("DELETE", path="/auth/sessions", host=DOMAIN), 401, "session_inactive")
    passed(f"https://{DOMAIN}/auth/login is another API's, and /auth/sessions still this one's")
    for path in ("/prod/auth/sessions/id-desk", "/prod/auth", "/prod/elsewhere"):
        expect(
            stack.call("DELETE", token("desk"), path=path),
            404,
            "route_not_found",
            content_type="application/json",
            access_control_allow_origin=ORIGIN,
            access_control_allow_credentials="true",
            access_control_expose_headers="Retry-After",
            access_control_max_age="7200",
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
    stage = stack.cloud.client("apigateway").get_stage(restApiId=stack.resources["RestApi"], stageName="prod")
    assert stage["tracingEnabled"] and stage["methodSettings"]["*/*"]["throttlingBurstLimit"] == 200, stage
    mine = alarms_of(stack)
    assert len(mine) == 13 and all(alarm["AlarmActions"] for alarm in mine), mine
    titles = dashboard_of(stack)
    assert "Answers of API Gateway" in titles and len(titles) == 8, titles
    passed("function, table, stage, dashboard and 13 alarms are as the parameters say")


def alarms_of(stack):
    alarms = stack.cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
    return [alarm for alarm in alarms if alarm["AlarmName"] in stack.resources.values()]


def dashboard_of(stack):
    """The titles of a dashboard's widgets. Checks that each of its alarms exists."""
    name = stack.resources["Dashboard"]
    body = stack.cloud.client("cloudwatch").get_dashboard(DashboardName=name)["DashboardBody"]
    widgets = json.loads(body)["widgets"]
    shown = next(widget["properties"]["alarms"] for widget in widgets if widget["type"] == "alarm")
    assert sorted(shown) == sorted(alarm["AlarmArn"] for alarm in alarms_of(stack)), shown
    return [widget["properties"]["title"] for widget in widgets]


def use_consumer(stack):
    """The consumer of docs/code/consumer on the stream of the stack's table."""
    sessions = Sessions(stack.cloud, stack.outputs["SessionsTableName"])

    def press(name):
        expect(stack.call("DELETE", token(name)), 200)

    return consumer.use(stack.cloud, stack, sessions, press, passed, bridged)


def use_again(cloud, template, first):
    """A second stack on the first one's table, which allows a single request at a time."""
    table = first.outputs["SessionsTableName"]
    parameters = {"ExistingTableName": table, "ThrottlingRate": 1, "ThrottlingBurst": 1, "Architecture": NATIVE}
    stack = cloud.deploy(template, f"{STACK}-adopting", AccessLogs="disabled", **parameters)
    stack.bridge_methods()
    absent = {
        "SessionsTable",
        "Domain",
        "DomainMapping",
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


def snippets():
    """The templates in docs/your-own-api.md, by the headings above them."""
    sections = (ROOT / "docs/your-own-api.md").read_text(encoding="utf-8").split("\n## ")[1:]
    codes = [re.search(r"^```yaml\n(.*?)^```$", each, re.MULTILINE | re.DOTALL) for each in sections]
    return {section.splitlines()[0]: code[1] for section, code in zip(sections, codes) if code}


def prepare_own_apis(cloud):
    """Makes an API of each kind. Returns, by the heading of the template for it, the parameters for each time that the
    template is deployed, and a function that finishes the arrangement. It returns the host and path to call, and the
    ARN in whose name the gateway then calls the function, if it has one."""
    rest = cloud.client("apigateway")
    rest_api = rest.create_rest_api(name="own")["id"]
    root = rest.get_resources(restApiId=rest_api)["items"][0]["id"]
    auth = rest.create_resource(restApiId=rest_api, parentId=root, pathPart="auth")["id"]
    v1 = rest.create_resource(restApiId=rest_api, parentId=root, pathPart="v1")["id"]
    existing = rest.create_resource(restApiId=rest_api, parentId=v1, pathPart="sessions")["id"]
    method = {"restApiId": rest_api, "resourceId": existing, "httpMethod": "GET"}
    rest.put_method(**method, authorizationType="NONE")
    rest.put_integration(**method, type="MOCK", requestTemplates={"application/json": '{"statusCode": 418}'})
    rest.put_method_response(**method, statusCode="418")
    rest.put_integration_response(**method, statusCode="418")
    http_api = cloud.client("apigatewayv2").create_api(Name="own", ProtocolType="HTTP")["ApiId"]
    cloud.client("apigatewayv2").create_stage(ApiId=http_api, StageName="$default", AutoDeploy=True)
    balancing, ec2 = cloud.client("elbv2"), cloud.client("ec2")
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]]
    balancer = balancing.create_load_balancer(Name="own", Subnets=subnets)["LoadBalancers"][0]
    no_route = {"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "418"}}
    listener = balancing.create_listener(
        LoadBalancerArn=balancer["LoadBalancerArn"], Protocol="HTTP", Port=80, DefaultActions=[no_route]
    )["Listeners"][0]["ListenerArn"]

    def deploy_rest_api(_, parameters):
        rest.create_deployment(restApiId=rest_api, stageName="live")
        path = parameters.get("Path", "auth/sessions")
        arn = f"arn:aws:execute-api:{REGION}:{ACCOUNT}:{rest_api}/live/DELETE/{path}"
        return f"{rest_api}.execute-api.localhost:{cloud.port}", f"/live/{path}", arn

    def http_api_url(_, parameters):
        path = parameters.get("Path", "/auth/sessions")
        arn = f"arn:aws:execute-api:{REGION}:{ACCOUNT}:{http_api}/$default/DELETE{path}"
        return f"{http_api}.execute-api.localhost:{cloud.port}", path, arn

    def url_output(stack, _):
        url = urlsplit(stack.outputs["Url"])
        return url.netloc, url.path, None

    def distribution(stack, _):
        url = cloud.client("lambda").get_function_url_config(FunctionName=stack.function)["FunctionUrl"]
        status, _, _ = cloud.call(urlsplit(url).netloc, "DELETE", "/auth/sessions", token("erin"))
        assert status == 403, status
        passed("403 for whoever calls the function URL instead of CloudFront")
        bridged("its CloudFront has no TLS and signs nothing: both come with the request")
        arn = f"arn:aws:cloudfront::{ACCOUNT}:distribution/{stack.resources['Distribution']}"
        return *url_output(stack, _)[:2], arn

    def register_target(stack, parameters):
        group, function = stack.resources["TargetGroup"], stack.function
        balancing.register_targets(TargetGroupArn=group, Targets=[{"Id": function}])
        bridged("it overlooks the targets of a target group: registered by a call")
        return balancer["DNSName"], parameters.get("Path", "/auth/sessions"), group

    rest_parameters = {"RestApiId": rest_api}
    listener_parameters = {"ListenerArn": listener}
    return {
        "In a REST API": (
            [
                rest_parameters | {"ParentId": auth},
                rest_parameters | {"ResourceId": existing, "Path": "v1/sessions", "Method": "DELETE"},
            ],
            deploy_rest_api,
        ),
        "In an HTTP API": ([{"HttpApiId": http_api}, {"HttpApiId": http_api, "Path": "/sessions"}], http_api_url),
        # A function has one URL at most.
        "Function URL": ([{}], url_output),
        "Function URL behind CloudFront": ([{}], distribution),
        "Behind an Application Load Balancer": (
            [
                listener_parameters | {"Priority": "10"},
                listener_parameters | {"Priority": "20", "Path": "/v1/auth/sessions"},
            ],
            register_target,
        ),
    }


def use_own_apis(cloud, template, first):
    """A stack without an API, on the first one's table, called through each arrangement of docs/your-own-api.md."""
    table = first.outputs["SessionsTableName"]
    parameters = {"Api": "none", "ExistingTableName": table, "AllowedOrigins": ORIGIN, "Architecture": NATIVE}
    parameters["MaxAuthenticationAge"] = 900
    stack = cloud.deploy(template, f"{STACK}-without-api", **parameters)
    kinds = cloud.client("cloudformation").describe_stack_resources(StackName=stack.name)["StackResources"]
    kinds = sorted({resource["ResourceType"] for resource in kinds})
    assert kinds == [
        "AWS::CloudWatch::Alarm",
        "AWS::CloudWatch::Dashboard",
        "AWS::IAM::Role",
        "AWS::Lambda::Function",
        "AWS::Logs::LogGroup",
    ], kinds
    assert len(alarms_of(stack)) == 10 and len(dashboard_of(stack)) == 7
    expected = {"FunctionArn", "FunctionName", "FunctionLogGroupName", "SessionsTableName"}
    assert set(stack.outputs) == expected, stack.outputs
    passed("it has a function, a role, a log group, 10 alarms and a dashboard, and no API")
    result = smoke_test(stack)
    assert result.returncode and "The stack has no API." in result.stderr, result
    passed("make smoke-test asks for a URL")
    bridged("it checks no permission of a gateway to call the function: the function's policy is compared instead")
    sessions, prepared = Sessions(cloud, table), prepare_own_apis(cloud)
    assert set(prepared) == set(snippets()), (set(prepared), set(snippets()))
    cloudformation = cloud.client("cloudformation")
    for name, code in snippets().items():
        times, find_host = prepared[name]
        deployed = []
        for parameters in times:
            route = f"route-{len(cloudformation.describe_stacks()['Stacks'])}"
            given = parameters | {"FunctionArn": stack.outputs["FunctionArn"]}
            given = [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]
            cloudformation.create_stack(StackName=route, TemplateBody=code, Parameters=given)
            cloudformation.get_waiter("stack_create_complete").wait(StackName=route, WaiterConfig={"Delay": 1})
            deployed.append(Stack(cloud, route))
        for route, parameters in zip(deployed, times):
            route.function = stack.outputs["FunctionArn"]
            host, path, arn = find_host(route, parameters)
            if arn:
                check_permission(cloud, route.function, arn)
            print(f"   {name}: {host}{path}", flush=True)
            if "execute-api" in host and path.endswith("/auth/sessions"):
                api, stage = host.split(".")[0], path.removesuffix("/auth/sessions")
                url = f"{cloud.endpoint}/_aws/execute-api/{api}{stage or '/$default'}/auth/sessions"
                result = smoke_test(stack, url)
                assert result.returncode == 0, result
                passed("make smoke-test passes with its URL")
            use_own_api(cloud, sessions, host, path, parameters.get("Method", "ANY"))
        # Two of the templates make the function's URL.
        for route in deployed:
            delete(route)
    return stack


def check_permission(cloud, function, arn):
    """The emulated cloud checks no permission. Here is whether the function's policy has one for the gateway."""
    policy = json.loads(cloud.client("lambda").get_policy(FunctionName=function)["Policy"])
    allowed = [json.dumps(statement["Condition"]) for statement in policy["Statement"] if "Condition" in statement]
    patterns = re.findall(r'"(arn:[^"]+)"', " ".join(allowed))
    assert any(fnmatchcase(arn, pattern) for pattern in patterns), (arn, patterns)
    passed(f"a permission for {arn.split(':', 5)[-1]}")


def use_own_api(cloud, sessions, host, path, method):
    """The contract, through an API that has the method."""
    user = f"erin-{host}-{path}"
    caller, other = (hashlib.sha256(f"{user}-{device}".encode()).hexdigest() for device in ("here", "there"))
    sessions.put(user, caller, other)
    assert expect(cloud.call(host, "DELETE", path, token(caller)), 200) == {"count": 1}
    assert sessions.states()[other] == "revoked"
    cookie = {"Cookie": f"ory_kratos_session={caller}"}
    assert expect(cloud.call(host, "DELETE", path, cookie), 200) == {"count": 0}
    forged = cookie | {"Origin": "https://evil.example"}
    expect(cloud.call(host, "DELETE", path, forged), 403, "security_csrf_violation")
    expect(cloud.call(host, "DELETE", path, token(other)), 401, "session_inactive")
    if method == "DELETE":
        expect(cloud.call(host, "GET", path, token(caller)), 418)
        return
    expect(cloud.call(host, "GET", path, token(caller)), 405, "method_not_allowed")
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "DELETE"}
    preflight = cloud.call(host, "OPTIONS", path, asked)
    if preflight[2] == {"message": "CORS not configured"}:
        bridged("it answers preflights of an HTTP API itself, where API Gateway sends them to the route: not tried")
    else:
        expect(preflight, 204, access_control_allow_origin=ORIGIN)


def documented_prompts():
    """What `sam deploy --guided` asks by docs/operations.md: two questions, the parameters, and the other questions."""
    table = guide().split("\n## Parameters\n\n")[1].split("\n\n")[0]
    names = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    table = guide().split("| prompt | Enter means |")[1].split("\n\n")[0]
    questions = re.findall(r"^\| (.+?) \[", table, re.MULTILINE)
    return ["Stack Name", "AWS Region", *(f"Parameter {name}" for name in names), *questions]


def deploy_as_guided(cloud, folder, architecture):
    """Deploys what `sam build` has built with `sam deploy --guided` and Enter for each prompt; returns the stack."""
    template, config = bridge_template(folder), configure(folder, architecture)
    command = [sys.executable, "-m", "samcli", "deploy", "--guided", "--template-file", str(template)]
    environment = os.environ | cloud.credentials | {"AWS_ENDPOINT_URL": cloud.endpoint, "AWS_DEFAULT_REGION": REGION}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, input="\n" * 100, text=True, capture_output=True, check=False
    )
    assert result.returncode == 0, (result.stdout, result.stderr)
    prompts = re.findall(r"\t(\w[\w ]*?) \[([^\]]*)\]: ?", result.stdout)
    asked = [prompt for prompt, _ in prompts]
    # The guide calls the last two "the two after it".
    assert asked == [*documented_prompts(), "SAM configuration file", "SAM configuration environment"], asked
    passed(f"it asked {len(asked)} questions, in the order of docs/operations.md")
    deploy_again(cloud, template, config)
    stack = Stack(cloud, dict(prompts)["Stack Name"])
    assert stack.parameters()["Architecture"] == architecture, stack.parameters()
    passed(f"later, `sam deploy` asks nothing, and the architecture is still {architecture}")
    return stack


def deploy_again(cloud, template, config, *options):
    """`sam deploy` with what is in samconfig.toml."""
    sam(
        *("deploy", "--config-file", str(config), "--template-file", str(template), "--no-fail-on-empty-changeset"),
        *options,
        AWS_ENDPOINT_URL=cloud.endpoint,
        **cloud.credentials,
    )


def change_as_documented(stack, folder):
    """The commands of docs/operations.md that change a parameter of the guided stack."""
    template, config = folder / "bridged.json", folder / "samconfig.toml"
    protect, off, on = re.findall(r"^(sed .*) && sam deploy$", guide(), re.MULTILINE)
    for command, name, value in (
        (protect, "DeletionProtection", "true"),
        (off, "ReservedConcurrency", "0"),
        ("true", "ReservedConcurrency", "0"),
        (on, "ReservedConcurrency", ""),
    ):
        subprocess.run(["sh", "-c", command], cwd=folder, check=True)
        deploy_again(stack.cloud, template, config)
        assert stack.parameters()[name] == value, (command, stack.parameters())
        assert stack.parameters()["DeletionProtection"] == "true", stack.parameters()
    table = stack.cloud.client("dynamodb").describe_table(TableName=stack.outputs["SessionsTableName"])["Table"]
    assert table["DeletionProtectionEnabled"], table
    passed("its table is protected, it was off, and still off after one more deployment, and it is on again")
    [empty] = re.findall(r'--parameter-overrides "(NAME=[^"]*)"', guide())
    for value in ("MaxAuthenticationAge=900", empty.replace("NAME", "MaxAuthenticationAge")):
        deploy_again(stack.cloud, template, config, "--parameter-overrides", value)
        assert stack.parameters()["DeletionProtection"] == "true", stack.parameters()
    assert stack.parameters()["MaxAuthenticationAge"] == "", stack.parameters()
    passed("a parameter was set and emptied on the command line, and the others kept their values")


def check_failed_deployment(cloud, template):
    """A first deployment that fails leaves no table behind."""
    tables = cloud.client("dynamodb").list_tables()["TableNames"]
    try:
        cloud.deploy(template, f"{STACK}-failing", DomainName="unknown.example.com", AccessLogs="disabled")
    except SystemExit as error:
        assert "ROLLBACK_COMPLETE" in str(error), error
    else:
        sys.exit("a domain that does not exist was accepted")
    assert cloud.client("dynamodb").list_tables()["TableNames"] == tables
    passed("it was rolled back, and its table is deleted")


def delete(stack):
    """Deletes a stack. Its table stays."""
    cloudformation = stack.cloud.client("cloudformation")
    cloudformation.delete_stack(StackName=stack.name)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=stack.name, WaiterConfig={"Delay": 1})
    table = stack.outputs.get("SessionsTableName")
    assert table is None or table in stack.cloud.client("dynamodb").list_tables()["TableNames"]
    passed(f"{stack.name} is deleted" + (", the table is still there" if table else ""))


def smoke_test(stack, *url):
    """Runs what `make smoke-test` runs."""
    command = [sys.executable, str(ROOT / "tests/deploy/smoke.py"), stack.name, *url]
    environment = os.environ | stack.cloud.credentials
    environment |= {"AWS_ENDPOINT_URL": stack.cloud.endpoint, "AWS_DEFAULT_REGION": REGION}
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


def check_smoke_test(stack):
    """`make smoke-test` passes with the stack's URL, and fails with another."""
    before = Sessions(stack.cloud, stack.outputs["SessionsTableName"]).states()
    for path, sound in (("auth/sessions", True), ("elsewhere", False)):
        url = f"{stack.cloud.endpoint}/_aws/execute-api/{stack.resources['RestApi']}/prod/{path}"
        result = smoke_test(stack, url)
        assert (result.returncode == 0) == sound, (result.stdout, result.stderr)
        passed((result.stdout.strip().splitlines()[-2] if sound else result.stderr.strip())[:110])
    assert Sessions(stack.cloud, stack.outputs["SessionsTableName"]).states() == before
    passed("it left nothing behind")


def has_qemu():
    """Whether qemu can run binaries for arm64, having tried to install what that takes."""
    needed = [shutil.which("qemu-aarch64"), Path("/usr/aarch64-linux-gnu/lib/libgcc_s.so.1").exists()]
    if not all(needed) and shutil.which("apt-get") and os.geteuid() == 0:
        install = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *QEMU_PACKAGES]
        for command in (["apt-get", "update", "--quiet"], install):
            subprocess.run(command, capture_output=True, check=False)
        needed = [shutil.which("qemu-aarch64"), Path("/usr/aarch64-linux-gnu/lib/libgcc_s.so.1").exists()]
    return all(needed)


def use_under_emulator(command, cloud, table, log):
    """A binary, started by this command, under AWS's own emulator of the Lambda runtime: it answers 200 and 401."""
    import samcli.local.rapid as rapid

    emulator = Path(log).with_name("aws-lambda-rie")
    shutil.copy(Path(rapid.__path__[0]) / f"aws-lambda-rie-{NATIVE}", emulator)
    emulator.chmod(0o755)
    port, api = free_ports(2)
    user = Path(log).stem
    caller, other = f"{user}-here", f"{user}-there"
    sessions = Sessions(cloud, table)
    sessions.put(user, caller, other)
    addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{port}", "--runtime-api-address", f"127.0.0.1:{api}"]
    variables = {"SESSIONS_TABLE": table, "AWS_ENDPOINT_URL_DYNAMODB": cloud.endpoint, "AWS_REGION": REGION}
    with running([str(emulator), *addresses, *command], log, **variables, **cloud.credentials) as process:
        wait_for(port, process, "the Lambda Runtime Interface Emulator")
        for name, status, result in [(caller, 200, {"count": 1}), (other, 401, "session_inactive")]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/2015-03-31/functions/function/invocations", json.dumps(rest_event(name)))
            answer = json.loads(connection.getresponse().read())
            body = json.loads(answer["body"])
            assert (answer["statusCode"], body.get("error", {}).get("id", body)) == (status, result), answer
            passed(f"{status} {json.dumps(result)}")
    assert [sessions.states()[name] for name in (caller, other)] == ["active", "revoked"]
    passed("the table agrees")


def rest_event(name):
    """The event of events/rest-token.json with another token."""
    event = json.loads((ROOT / "events/rest-token.json").read_text(encoding="utf-8"))
    for headers in (event["headers"], event["multiValueHeaders"]):
        for key in [key for key in headers if key.lower() == "x-session-token"]:
            headers[key] = [name] if isinstance(headers[key], list) else name
    return event


def main():
    if platform.system() != "Linux":
        sys.exit("This runs the function's binary, which takes Linux.")
    # The test must not use an account that the environment names.
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
    folder, ran = folders[NATIVE], [NATIVE]
    with tempfile.TemporaryDirectory() as scratch, emulated_cloud(scratch) as cloud:
        step("sam deploy")
        template = bridge_template(folder)
        topic = cloud.client("sns").create_topic(Name="alarms")["TopicArn"]
        certificate = cloud.client("acm").request_certificate(DomainName=DOMAIN)["CertificateArn"]
        zone = cloud.client("route53").create_hosted_zone(Name="example.com", CallerReference=STACK)["HostedZone"]
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
            TableStream="true",
            DeletionProtection="true",
            LogLevel="TRACE",
            LogRetentionDays=1,
        )
        stack.bridge_methods()
        bridged("it overlooks the method ANY in an API's definition: made by calls, and deployed with the responses")
        step("calls through the gateway")
        use(stack)
        step("the log")
        check_log(stack, cloud.client("logs"))
        step("the resources")
        check_resources(stack)
        step("the smoke test")
        check_smoke_test(stack)
        step("a consumer of the table's stream, which closes websockets")
        consuming = use_consumer(stack)
        step("a second stack on the existing table, throttled to one request a second")
        adopting = use_again(cloud, template, stack)
        step("the binary under AWS's Lambda Runtime Interface Emulator")
        table, binary = stack.outputs["SessionsTableName"], "Function/bootstrap"
        use_under_emulator([str(folder / binary)], cloud, table, f"{scratch}/{NATIVE}.log")
        if NATIVE != "arm64" and "arm64" in folders:
            step("the arm64 binary under qemu")
            if has_qemu():
                qemu = [shutil.which("qemu-aarch64"), "-L", "/usr/aarch64-linux-gnu"]
                use_under_emulator([*qemu, str(folders["arm64"] / binary)], cloud, table, f"{scratch}/arm64.log")
                ran.append("arm64")
            else:
                print(f"   SKIPPED: this takes the Debian packages {', '.join(QEMU_PACKAGES)}.")
        step("a third stack without an API, behind each arrangement of docs/your-own-api.md")
        without_api = use_own_apis(cloud, template, stack)
        step("a fourth stack, by `sam deploy --guided` and Enter, and the changes that docs/operations.md describes")
        architecture = "x86_64" if "x86_64" in folders else "arm64"
        guided = deploy_as_guided(cloud, folders[architecture], architecture)
        change_as_documented(guided, folders[architecture])
        step("a first deployment that fails")
        check_failed_deployment(cloud, template)
        step("deletion")
        for each in (guided, without_api, adopting, consuming, stack):
            delete(each)
    built = " and ".join(folders)
    print(
        f"\nBuilt for {built}; deployed and used on {NATIVE}."
        + (" NOT BUILT for the other." if len(folders) < 2 else "")
        + ("" if "arm64" in ran else " NOT RUN on arm64.")
    )


if __name__ == "__main__":
    main()
