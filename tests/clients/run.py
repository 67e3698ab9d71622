"""Real clients against the function under cargo-lambda; `make test-clients` installs what this needs.

Starts what `make run` starts, and a second function whose DynamoDB can be made to fail, on ports of their own. Then
runs each suite with the addresses in its environment:

    FUNCTION_URL      base path of the operation, for an SDK
    FAILING_URL       the same of the second function
    PAGE_URL          the page of `make run`
    ALLOWED_PORT      a port that is allowed as an origin, on localhost and on 127.0.0.1, for a test to serve pages on
    TABLE_URL         what every suite needs of the table, so that none needs a DynamoDB client:
        POST /users?others=3      a user with a session of their own and three others -> {"user", "token", "session"}
        GET /users/ID             the statuses of a user's sessions -> {session id: status}
        POST /outage?requests=5   the next five requests of the second function to DynamoDB fail
"""

import hashlib
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools" / "clients"
CLIENTS = ROOT / "tests" / "clients"
# A cold build of the function and the database on a slow machine.
PATIENCE = 15 * 60


class DynamoDB:
    """The database of `make run`, which wants to see a signature, but does not check it."""

    SIGNATURE = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=local/20260101/eu-central-1/dynamodb/aws4_request, "
        "SignedHeaders=host, Signature=0",
        "X-Amz-Date": "20260101T000000Z",
    }

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"
        self.users = itertools.count(1)

    def call(self, operation, body):
        _, answer, _ = self.forward(f"DynamoDB_20120810.{operation}", json.dumps(body).encode())
        return json.loads(answer)

    def forward(self, target, body):
        headers = {**self.SIGNATURE, "Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": target}
        with urllib.request.urlopen(urllib.request.Request(self.url, body, headers), timeout=30) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]

    def new_user(self, others):
        """Signs a new user in on so many devices and one more, whose token is returned."""
        user = f"client-{next(self.users)}"
        tokens = [secrets.token_urlsafe(32) for _ in range(others + 1)]
        now = int(time.time())
        for number, token in enumerate(tokens):
            item = {
                "token_hash": {"S": hashlib.sha256(token.encode()).hexdigest()},
                "session_id": {"S": f"{user}-{number}"},
                "user_id": {"S": user},
                "status": {"S": "active"},
                "created_at": {"N": str(now)},
                "authenticated_at": {"N": str(now)},
                "expires_at": {"N": str(now + 3600)},
            }
            self.call("PutItem", {"TableName": "sessions", "Item": item})
        return {"user": user, "session": f"{user}-0", "token": tokens[0]}

    def statuses(self, user):
        answer = self.call("Scan", {
            "TableName": "sessions",
            "FilterExpression": "user_id = :user",
            "ProjectionExpression": "session_id, #status",
            "ExpressionAttributeNames": {"#status": "status"},
            "ExpressionAttributeValues": {":user": {"S": user}},
        })
        return {item["session_id"]["S"]: item["status"]["S"] for item in answer["Items"]}


class Server(ThreadingHTTPServer):
    """Serves on a free port until the process ends."""

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, content_type="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def failing(database):
    """A DynamoDB in front of the real one, for the second function. `failures` of its next requests fail."""

    class Proxy(Handler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with server.lock:
                fails = server.failures > 0
                server.failures -= fails
            if fails:
                error = {"__type": "com.amazonaws.dynamodb.v20120810#InternalServerError", "message": "on purpose"}
                self.answer(500, json.dumps(error).encode(), "application/x-amz-json-1.0")
                return
            try:
                self.answer(*database.forward(self.headers["X-Amz-Target"], body))
            except urllib.error.HTTPError as error:
                self.answer(error.code, error.read(), error.headers["Content-Type"])

    server = Server(Proxy)
    server.lock = threading.Lock()
    server.failures = 0
    return server


def table(database, outage):
    """What the suites ask of the table."""

    class Table(Handler):
        def do_GET(self):
            user = urlsplit(self.path).path.removeprefix("/users/")
            self.answer(200, json.dumps(database.statuses(user)).encode())

        def do_POST(self):
            url = urlsplit(self.path)
            query = {name: int(values[0]) for name, values in parse_qs(url.query).items()}
            if url.path == "/users":
                self.answer(200, json.dumps(database.new_user(query["others"])).encode())
            elif url.path == "/outage":
                with outage.lock:
                    outage.failures = query["requests"]
                self.answer(200, b"{}")
            else:
                self.answer(404, b"{}")

    return Server(Table)


def free_ports(number):
    """Ports that no other process is given meanwhile: below those that systems hand out by themselves."""
    ports = []
    for port in itertools.count(10_000 + os.getpid() % 20_000):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == number:
            return ports


class Stack:
    """The processes under test. Each is in a group of its own, so that what it starts can be stopped with it."""

    def __init__(self):
        self.processes = []
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        self.log = target / "clients.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        self.binary = target / "debug" / "examples" / "disable-my-other-sessions"

    def start(self, command, environment=()):
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **dict(environment)}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )
        self.processes.append(process)

    def wait(self, is_ready, what):
        deadline = time.monotonic() + PATIENCE
        while not is_ready():
            ended = any(process.poll() is not None for process in self.processes)
            if ended or time.monotonic() > deadline:
                sys.exit(f"{self.log.read_text()}\n{what} did not start; above is the log.")
            time.sleep(0.1)

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def start(stack):
    """Starts everything, and returns the environment of the suites."""
    function, dynamodb, page, allowed, second = free_ports(5)
    origins = f"http://localhost:{allowed},http://127.0.0.1:{allowed}"
    print("Building and starting what `make run` starts: the first time, this takes some minutes.", flush=True)
    stack.start(["cargo", "run", "--locked", "--example", "local"], {
        "FUNCTION_PORT": str(function),
        "DYNAMODB_PORT": str(dynamodb),
        "PAGE_PORT": str(page),
        "ALLOWED_ORIGINS": origins,
    })
    stack.wait(lambda: "\nReady:" in stack.log.read_text(), "`make run`")

    database = DynamoDB(dynamodb)
    outage = failing(database)
    stack.start(
        ["cargo", "lambda", "watch", "--only-lambda-apis", "--disable-cors", "--invoke-address", "127.0.0.1",
         "--invoke-port", str(second)])
    stack.wait(lambda: listens(second), "The second cargo-lambda")
    stack.start([stack.binary], {
        "AWS_LAMBDA_RUNTIME_API": f"http://127.0.0.1:{second}/.rt",
        "AWS_LAMBDA_FUNCTION_NAME": "disable-my-other-sessions",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_ENDPOINT_URL_DYNAMODB": outage.url,
        "SESSIONS_TABLE": "sessions",
        "ALLOWED_ORIGINS": origins,
    })
    return {
        "FUNCTION_URL": f"http://localhost:{function}/auth",
        "FAILING_URL": f"http://localhost:{second}/auth",
        "PAGE_URL": f"http://localhost:{page}/",
        "ALLOWED_PORT": str(allowed),
        "TABLE_URL": table(database, outage).url,
    }


PYTEST = [sys.executable, "-m", "pytest", "--verbose", "--no-header", "-p", "no:cacheprovider"]
NODE = ["node", "--test", "--test-reporter", "spec"]
SUITES = {
    "python": PYTEST + [CLIENTS / "python" / "test_sdks.py"],
    "schemathesis": PYTEST + [CLIENTS / "python" / "test_schemathesis.py"],
    "node": NODE + [CLIENTS / "node" / "sdks.test.cjs"],
    "rust": ["cargo", "test", "--locked", "--manifest-path", CLIENTS / "rust" / "Cargo.toml"],
    "browser": NODE + [CLIENTS / "node" / "browser.test.cjs"],
}


def main(names):
    unknown = set(names) - set(SUITES)
    if unknown:
        sys.exit(f"No such suite: {', '.join(unknown)}. There are: {', '.join(SUITES)}")
    stack = Stack()
    # Everything here is on this machine, whatever proxy leads elsewhere.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    failed = []
    try:
        environment = {**os.environ, **start(stack)}
        environment["PYTHONPATH"] = str(TOOLS / "python")
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        # Nothing that happens to be installed here.
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        environment["NODE_PATH"] = str(TOOLS / "node" / "node_modules")
        environment.setdefault("SCREENSHOT", str(stack.log.parent / "page.png"))
        environment["CARGO_TARGET_DIR"] = str(stack.log.parent / "clients")
        for name in names or SUITES:
            print(f"\n-- {name}", flush=True)
            if subprocess.run(SUITES[name], check=False, cwd=ROOT, env=environment).returncode != 0:
                failed.append(name)
    finally:
        stack.stop()
    if failed:
        sys.exit(f"\nFailed: {', '.join(failed)}. What the function said is in {stack.log}.")
    print("\nAll clients get what they expect.")


if __name__ == "__main__":
    main(sys.argv[1:])
