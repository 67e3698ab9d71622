//! `make run`: the function under `cargo lambda watch`, on a DynamoDB in memory with the sessions of a few users in it,
//! a page to press the button on, and what to send it by hand. It knows ports, processes and words for newcomers; what
//! the function does is the function's.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the person who has typed `make run`")]

mod environment;
mod page;

use std::env;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use environment::REGION;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use page::Page;
use test_support::database::{Database, Row, Session, now};
use test_support::demo;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{sleep, timeout};

/// Where to listen, and how to choose another place.
#[derive(Clone, Copy)]
struct Port {
    variable: &'static str,
    number: u16,
    listen: IpAddr,
}

/// Ctrl-C, `kill`, and the terminal being closed.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// `cargo lambda watch` and what it starts: cargo, rustc, the function.
struct Watch {
    process: Child,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => {
            println!("\nStopped. Nothing is left running.");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("\n{problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    // Before anything that has to be stopped is started.
    let mut signals = Signals::new().map_err(|error| format!("Signals cannot be caught: {error}."))?;
    let listen = variable("LISTEN").map_or(Ok(IpAddr::from(Ipv4Addr::LOCALHOST)), |listen| {
        listen.parse::<IpAddr>().map_err(|_| format!("LISTEN is {listen:?}, which is no IP address."))
    })?;
    let dynamodb = Port::from_environment("DYNAMODB_PORT", 8000, listen)?;
    let function = Port::from_environment("FUNCTION_PORT", 9000, listen)?;
    let page = Port::from_environment("PAGE_PORT", 3000, listen)?;
    let cookie_name = variable("SESSION_COOKIE_NAME").unwrap_or_else(|| "ory_kratos_session".to_owned());
    let sessions = demo::sessions();
    let database = Database::start(dynamodb.bound()).await.map_err(|error| dynamodb.problem(&error))?;
    page.check()?;
    let listener = TcpListener::bind(page.bound()).await.map_err(|error| page.problem(&error))?;
    function.check()?;
    database.put(&sessions).await;
    if !listen.is_loopback() {
        println!(
            "
WARNING: with LISTEN={listen}, other machines can reach the function, the page and the database. None of them asks for a
password, and the tokens below are public. Keep no real sessions here."
        );
    }
    let server = Page::new(database.clone(), page.host(), function.url(), cookie_name.clone()).await;

    println!(
        "
Building and starting the function with cargo lambda. Then the log shows
- a warning about AWS_LAMBDA_MAX_CONCURRENCY: cargo lambda sets it, and the function takes one call at a time all the same;
- a call that is answered 401, by which this program finds out that the function works.
"
    );
    let mut watch = Watch::start(function, page, dynamodb, &database.table)
        .map_err(|error| format!("cargo cannot be started, which should start the function: {error}."))?;
    let outcome = tokio::select! {
        () = signals.next() => Ok(()),
        status = watch.process.wait() => Err(ended(status)),
        never = server.serve(listener) => match never {},
        problem = accompany(&database, &sessions, [function, page, dynamodb], &cookie_name) => Err(problem),
    };
    watch.stop().await;
    outcome
}

/// Shows what there is to try, and what has become of it whenever Enter is pressed. Returns only with a problem.
async fn accompany(
    database: &Database,
    sessions: &[Session],
    [function, page, dynamodb]: [Port; 3],
    cookie_name: &str,
) -> String {
    let refusal = match first_answer(function).await {
        Ok((StatusCode::UNAUTHORIZED, body)) => body,
        Ok((status, body)) => {
            return format!("The function works, but not as it should. It has answered {status}: {body}");
        }
        Err(problem) => return problem,
    };
    println!(
        "
Ready: DELETE {url}, on a DynamoDB of its own at http://{dynamodb}.

A page with the button, and Dana's devices to try it on:

  http://{page}/

{table}
Or paste these into another terminal. Alice signs out her other devices, with her laptop's token in a header:

  {curl} -i -X DELETE {url} -H 'X-Session-Token: {alice}'
  => 200 {{\"count\":3}}, and {{\"count\":0}} the second time
     (phone, tablet and old PC: the PC's session has expired, but is not revoked yet, so it counts)

Bob signs out his phone, with his browser's cookie:

  {curl} -i -X DELETE {url} --cookie '{cookie_name}={bob}'
  => 200 {{\"count\":1}}

Carol is refused, since her session has expired:

  {curl} -i -X DELETE {url} -H 'Authorization: Bearer {carol}'
  => 401 {refusal}
     (with another \"request\" each time)

Programs find this DynamoDB, and cargo lambda works beside this on ports of its own, with:

  export SESSIONS_TABLE={sessions_table} AWS_ENDPOINT_URL_DYNAMODB=http://{dynamodb}
  export AWS_REGION={REGION} AWS_DEFAULT_REGION={REGION} AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local
  export PATH=\"$PWD/.tools/cargo-lambda/bin:$PATH\"
  export AWS_USE_FIPS_ENDPOINT=false AWS_USE_DUALSTACK_ENDPOINT=false NO_PROXY=localhost,127.0.0.1,::1
  cargo lambda watch --disable-cors --invoke-port {beside}
  cargo lambda invoke --invoke-port {beside} --data-file events/rest-token.json      # in another terminal

Enter shows the sessions again, also those that you have created. Saving a file of src/ builds the function again: until
it is built, calls wait, and the compiler's errors are shown here. Ctrl-C stops everything.
",
        url = function.url(),
        // Of curl's variables for `http`, these are the ones that people set.
        curl = if ["http_proxy", "all_proxy", "ALL_PROXY"].into_iter().any(|name| variable(name).is_some()) {
            "curl --noproxy '*'"
        } else {
            "curl"
        },
        dynamodb = dynamodb.address(),
        sessions_table = database.table,
        beside = function.number.checked_add(10).unwrap_or(function.number - 10),
        page = page.host(),
        table = table(database, sessions).await,
        alice = demo::ALICE,
        bob = demo::BOB,
        carol = demo::CAROL,
    );
    let mut lines = lines();
    while lines.recv().await.is_some() {
        println!("{}", table(database, sessions).await);
    }
    pending().await
}

/// Calls the function as Carol, which changes nothing and yet needs everything to work: the answer, once there is one.
///
/// The request waits in cargo lambda while the function is built, and while it cannot be built.
async fn first_answer(function: Port) -> Result<(StatusCode, String), String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    loop {
        let request = Request::delete(format!("http://{}/auth/sessions", function.address()))
            .header("Authorization", format!("Bearer {}", demo::CAROL))
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        match client.request(request).await {
            Ok(answer) => {
                let status = answer.status();
                let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
                return Ok((status, String::from_utf8_lossy(&body).into_owned()));
            }
            // Cargo lambda does not listen yet.
            Err(error) if error.is_connect() => sleep(Duration::from_millis(100)).await,
            Err(error) => return Err(format!("The function cannot be called: {error}.")),
        }
    }
}

async fn table(database: &Database, sessions: &[Session]) -> String {
    let mut rows = database.rows().await;
    // Those that `sessions create` makes are longer.
    let width = rows.keys().map(String::len).max().unwrap_or_default();
    let line = |user: &str, session: &str, status: &str, token: &str| {
        format!("  {user:<7} {session:<width$}  {status:<17} {token}\n")
    };
    let described = |row: &Row, session: &str, token: &str| {
        let value = |name| row.get(name).and_then(|value| value.get(2..)).unwrap_or_default();
        let expired = value("expires_at").parse().is_ok_and(|expires_at: u64| expires_at <= now());
        let status = format!("{}{}", value("status"), if expired { ", expired" } else { "" });
        (value("user_id") != page::USER).then(|| line(value("user_id"), session, &status, token))
    };
    let mut table = line("USER", "SESSION", "STATUS", "TOKEN");
    for session in sessions {
        let row = rows.remove(session.id()).unwrap_or_default();
        table.extend(described(&row, session.id(), &session.token));
    }
    // Made by the person at the terminal.
    for row in rows.values() {
        let session = row.get("session_id").and_then(|id| id.get(2..)).unwrap_or("-");
        table.extend(described(row, session, "(printed when it was created)"));
    }
    table
}

/// A variable of the environment, where an empty one counts as absent, as it does for the function.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn ended(status: io::Result<ExitStatus>) -> String {
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    format!("cargo lambda watch has ended by itself ({status}). Above is what it has said.")
}

impl Port {
    fn from_environment(variable: &'static str, default: u16, listen: IpAddr) -> Result<Self, String> {
        let number = match env::var(variable) {
            Ok(value) => {
                value.parse().map(NonZeroU16::get).map_err(|_| format!("{variable} is {value:?}, which is no port."))?
            }
            Err(_) => default,
        };
        Ok(Self { variable, number, listen })
    }

    /// Where it listens.
    fn bound(self) -> SocketAddr {
        SocketAddr::from((self.listen, self.number))
    }

    /// Where programs on this machine reach it.
    fn address(self) -> SocketAddr {
        let host = match self.listen {
            IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            host => host,
        };
        SocketAddr::from((host, self.number))
    }

    /// What browsers call it, and how they spell it: they leave out the port that `http` has by default.
    fn host(self) -> String {
        let host = match self.address().ip() {
            host if host.is_loopback() => "localhost".to_owned(),
            IpAddr::V6(host) => format!("[{host}]"),
            IpAddr::V4(host) => host.to_string(),
        };
        if self.number == 80 { host } else { format!("{host}:{}", self.number) }
    }

    /// The operation, if it is the function's.
    fn url(self) -> String {
        format!("http://{}/auth/sessions", self.host())
    }

    /// Finds that the port is taken while it can still be told: cargo lambda would end without a word. `localhost` is
    /// two addresses, and clients may try either first.
    fn check(self) -> Result<(), String> {
        for host in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST), self.listen] {
            if let Err(error) = net::TcpListener::bind((host, self.number))
                // Not every machine has IPv6.
                && (host == self.listen || error.kind() == ErrorKind::AddrInUse)
            {
                return Err(self.problem(&error));
            }
        }
        Ok(())
    }

    fn problem(self, error: &io::Error) -> String {
        let Self { variable, number, listen } = self;
        let problem = match error.kind() {
            ErrorKind::AddrNotAvailable => return format!("LISTEN={listen} is not an address of this machine."),
            ErrorKind::AddrInUse => "is taken by another program".to_owned(),
            _ => format!("cannot be used: {error}"),
        };
        let next = number.checked_add(1).unwrap_or(number - 1);
        format!("Port {number} {problem}. Choose another: make run {variable}={next}")
    }
}

impl Watch {
    fn start(function: Port, page: Port, dynamodb: Port, table: &str) -> io::Result<Self> {
        let origins = variable("ALLOWED_ORIGINS").into_iter().chain([format!("http://{}", page.host())]);
        let origins = origins.collect::<Vec<_>>().join(",");
        let endpoint = format!("http://{}", dynamodb.address());
        let (host, port) = (function.listen.to_string(), function.number.to_string());
        let mut command = Command::new("cargo");
        command
            // An example has the features that this program was built with, so nothing but the function is built.
            .args(["lambda", "watch", "--example", "disable-my-other-sessions"])
            // The function answers preflights itself.
            .args(["--disable-cors", "--invoke-address", &host, "--invoke-port", &port])
            .env_clear()
            .envs(environment::of_function(env::vars_os(), &endpoint, table, &origins));
        // In a group of its own, out of reach of the terminal's Ctrl-C, so that it is stopped once and in order.
        let process = command.process_group(0).stdin(Stdio::null()).kill_on_drop(true).spawn()?;
        Ok(Self { process })
    }

    /// Stops it and waits until it has stopped what it has started.
    async fn stop(mut self) {
        let Some(group) = self.process.id() else { return };
        // The shell's own `kill`, since not every machine has it as a program.
        let signal = |name| Command::new("sh").arg("-c").arg(format!("kill -s {name} -- -{group}")).status();
        let _ = signal("TERM").await;
        if timeout(Duration::from_secs(5), self.process.wait()).await.is_err() {
            let _ = signal("KILL").await;
        }
    }
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Lines typed. The thread is one of our own because the runtime, when it shuts down, would wait for one of its own.
fn lines() -> UnboundedReceiver<()> {
    let (typed, lines) = unbounded_channel();
    thread::spawn(move || {
        for _ in io::stdin().lines().map_while(Result::ok) {
            let _ = typed.send(());
        }
    });
    lines
}
