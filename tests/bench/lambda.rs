//! Lambda as a function sees it: the Runtime API, a process, and less CPU for the handler than for the init.
//!
//! Source: "Using the Lambda runtime API" in the AWS Lambda Developer Guide.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Collected, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::dynamodb::token;
use crate::subjects::Subject;

/// What functions print on standard error.
pub const LOG: &str = "target/bench/stderr.log";
/// The longest that a function behind a REST API may take by default.
pub const TIMEOUT: Duration = Duration::from_secs(29);
/// Nothing measured takes longer; what does hangs.
const PATIENCE: Duration = Duration::from_mins(2);
/// The period in which CPU is dealt out. Lambda's own is not documented.
const PERIOD_MICROS: u64 = 20_000;

/// A running function.
pub struct Function {
    process: Child,
    server: JoinHandle<()>,
    next: mpsc::Receiver<Instant>,
    events: mpsc::Sender<Value>,
    answers: mpsc::Receiver<Answer>,
}

/// What one call took, and its answer.
pub struct Call {
    pub time: Duration,
    /// Of the process, from when it was given the event until it asked for the next.
    pub cpu: Duration,
    /// The HTTP status.
    pub status: Option<u64>,
    /// The JSON of the HTTP body.
    pub body: Value,
}

struct Answer {
    given: Instant,
    received: Instant,
    body: Value,
}

struct Api {
    next: mpsc::Sender<Instant>,
    events: Mutex<mpsc::Receiver<Value>>,
    given: Mutex<Instant>,
    answers: mpsc::Sender<Answer>,
}

impl Function {
    /// Starts one, and returns how long it took until it asked for its first event.
    pub async fn start(subject: &Subject) -> Result<(Self, Duration), String> {
        let (next_sender, next) = mpsc::channel(1);
        let (events, events_receiver) = mpsc::channel(1);
        let (answers_sender, answers) = mpsc::channel(1);
        let api = Arc::new(Api {
            next: next_sender,
            events: Mutex::new(events_receiver),
            given: Mutex::new(Instant::now()),
            answers: answers_sender,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let server = tokio::spawn(serve(listener, api));
        let mut command = Command::new(&subject.command[0]);
        command
            .args(&subject.command[1..])
            .env_clear()
            .envs(subject.variables.iter().cloned())
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log().map_or(Stdio::null(), Stdio::from))
            .kill_on_drop(true);
        let begin = Instant::now();
        let process = command.spawn().map_err(|error| format!("it does not start: {error}"))?;
        let mut function = Self { process, server, next, events, answers };
        let ready = function.next_asked().await?;
        Ok((function, ready - begin))
    }

    /// Has the caller with so many other sessions call it, and checks its answer.
    pub async fn call(&mut self, others: usize, expected: usize) -> Result<Call, String> {
        let call = self.invoke(others).await?;
        if call.status != Some(200) || call.body["count"].as_u64() != Some(expected as u64) {
            let (status, body) = (call.status, call.body);
            return Err(format!("asked to revoke {expected} sessions it answered {status:?} {body}"));
        }
        Ok(call)
    }

    /// Has the caller with so many other sessions call it.
    pub async fn invoke(&mut self, others: usize) -> Result<Call, String> {
        let clock = self.cpu_clock()?;
        let cpu = now(clock);
        self.events.send(event(&token(others, 0))).await.map_err(|_| "the runtime API has ended")?;
        let answer = tokio::select! {
            answer = timeout(PATIENCE, self.answers.recv()) => answer.ok().flatten().ok_or("no answer")?,
            status = self.process.wait() => return Err(format!("it has ended by itself: {status:?}")),
        };
        self.next_asked().await?;
        let cpu = now(clock).saturating_sub(cpu);
        let body = serde_json::from_str(answer.body["body"].as_str().unwrap_or_default()).unwrap_or_default();
        let status = answer.body["statusCode"].as_u64();
        Ok(Call { time: answer.received - answer.given, cpu, status, body })
    }

    /// Stops the process between two calls, as Lambda does.
    pub fn freeze(&self) -> Result<(), String> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<(), String> {
        self.signal(Signal::SIGCONT)
    }

    /// Ends the process so that a profiler around it writes down what it has counted.
    pub async fn terminate(mut self) -> Result<(), String> {
        self.signal(Signal::SIGTERM)?;
        let ended = timeout(PATIENCE, self.process.wait()).await;
        self.server.abort();
        ended.map(drop).map_err(|_| "it does not end".to_owned())
    }

    /// The most memory it has used so far, in bytes.
    pub fn peak_memory(&self) -> Result<u64, String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).map_err(|error| error.to_string())?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        peak.trim().trim_end_matches(" kB").parse().map(|kb: u64| kb * 1024).map_err(|_| "no number".to_owned())
    }

    pub async fn stop(mut self) {
        let _ = self.process.kill().await;
        self.server.abort();
    }

    async fn next_asked(&mut self) -> Result<Instant, String> {
        tokio::select! {
            next = timeout(PATIENCE, self.next.recv()) => next.ok().flatten().ok_or("it asks for no event".to_owned()),
            status = self.process.wait() => Err(format!("it has ended by itself: {status:?}")),
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        kill(Pid::from_raw(self.pid()?.cast_signed()), signal).map_err(|error| error.to_string())
    }

    fn pid(&self) -> Result<u32, String> {
        self.process.id().ok_or("it has ended".to_owned())
    }

    /// Counts threads that have ended as well, and nanoseconds, unlike /proc.
    fn cpu_clock(&self) -> Result<ClockId, String> {
        ClockId::pid_cpu_clock_id(Pid::from_raw(self.pid()?.cast_signed())).map_err(|error| error.to_string())
    }
}

fn log() -> io::Result<File> {
    File::options().append(true).create(true).open(LOG)
}

fn now(clock: ClockId) -> Duration {
    clock.now().map(Duration::from).unwrap_or_default()
}

async fn serve(listener: TcpListener, api: Arc<Api>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let api = Arc::clone(&api);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(&api, request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn respond(api: &Api, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path().ends_with("/next") {
        let _ = api.next.send(Instant::now()).await;
        let Some(event) = api.events.lock().await.recv().await else { std::future::pending().await };
        let deadline = (SystemTime::now() + TIMEOUT).duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let response = Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd")
            .header("lambda-runtime-deadline-ms", deadline.as_millis().to_string())
            .header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:123456789012:function:f")
            .header("lambda-runtime-trace-id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0")
            .body(Full::new(Bytes::from(event.to_string())))
            .expect("a response");
        *api.given.lock().await = Instant::now();
        return Ok(response);
    }
    let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let received = Instant::now();
    let given = *api.given.lock().await;
    let _ = api.answers.send(Answer { given, received, body: serde_json::from_slice(&body).unwrap_or_default() }).await;
    Ok(Response::builder().status(202).body(Full::new(Bytes::from("{\"status\":\"OK\"}"))).expect("a response"))
}

/// From an HTTP API.
fn event(token: &str) -> Value {
    json!({
        "version": "2.0", "routeKey": "DELETE /auth/sessions", "rawPath": "/auth/sessions", "rawQueryString": "",
        "headers": {
            "accept": "application/json", "host": "apis.example.com", "user-agent": "curl/8.14.1",
            "x-amzn-trace-id": "Root=1-6560c1a0-2f6a1b3c4d5e6f7a8b9c0d1e", "x-forwarded-for": "203.0.113.7",
            "x-forwarded-port": "443", "x-forwarded-proto": "https", "x-session-token": token,
        },
        "requestContext": {
            "accountId": "123456789012", "apiId": "a1b2c3d4e5", "domainName": "apis.example.com",
            "domainPrefix": "apis",
            "http": {
                "method": "DELETE", "path": "/auth/sessions", "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7",
                "userAgent": "curl/8.14.1",
            },
            "requestId": "0a1b2c3d-0011-4e5f-8a9b-0c1d2e3f4a5b", "routeKey": "DELETE /auth/sessions",
            "stage": "$default", "time": "23/Nov/2026:12:00:00 +0000", "timeEpoch": 1_795_435_200_000_u64,
        },
        "isBase64Encoded": false,
    })
}

/// A group of processes that share a part of one core.
pub struct CpuLimit {
    folder: PathBuf,
}

impl CpuLimit {
    /// None if the machine does not let us: that takes root, and control groups that can be written to.
    pub fn new(percent: u64) -> Option<Self> {
        let quota = PERIOD_MICROS * percent / 100;
        let name = format!("bench-{}-{percent}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let (folder, settings) = if root.join("cgroup.controllers").exists() {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
            (root.join(name), vec![("cpu.max", format!("{quota} {PERIOD_MICROS}"))])
        } else {
            let settings =
                vec![("cpu.cfs_period_us", PERIOD_MICROS.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
            (root.join("cpu").join(name), settings)
        };
        fs::create_dir(&folder).ok()?;
        let limit = Self { folder };
        settings.iter().all(|(file, value)| fs::write(limit.folder.join(file), value).is_ok()).then_some(limit)
    }

    /// From here on the function has this much CPU.
    pub fn apply(&self, function: &Function) -> Result<(), String> {
        let process = function.pid()?.to_string();
        fs::write(self.folder.join("cgroup.procs"), process).map_err(|error| format!("no CPU limit: {error}"))
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        // Its processes may not have been buried yet.
        for _ in 0..50 {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(Duration::from_millis(10)),
                Ok(()) | Err(_) => break,
            }
        }
    }
}
