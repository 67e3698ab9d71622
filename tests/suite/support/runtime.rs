//! The part of the Lambda Runtime API that the binary uses, to run the binary as Lambda does. `FUNCTION` is the path of another
//! build of it, such as a release build.
//!
//! Source: "Using the Lambda runtime API" in the AWS Lambda Developer Guide.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};

use super::events::Request as FunctionRequest;
use super::{Answer, World};

/// The binary, waiting for events.
pub struct Function {
    process: Child,
    events: mpsc::Sender<Vec<u8>>,
    answers: mpsc::Receiver<Result<Value, Value>>,
}

/// The events for the binary.
struct Queue {
    events: mpsc::Receiver<Vec<u8>>,
    /// How many the binary has got.
    handed_out: usize,
    /// How long an invocation may take.
    timeout: Duration,
}

/// The exit and the output of a binary that has ended.
#[derive(Debug)]
pub struct Output {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Function {
    /// Starts the binary on a world's database and with its time-out. The variables are added to the usual ones or replace
    /// them.
    pub async fn start(world: &World, variables: &[(&str, &str)]) -> Self {
        let (events, next) = mpsc::channel(1);
        let (given, answers) = mpsc::channel(1);
        let queue = Queue { events: next, handed_out: 0, timeout: world.timeout };
        let address = serve(Arc::new(Mutex::new(queue)), given).await;
        let mut all = vec![("SESSIONS_TABLE", world.database.table.as_str())];
        all.extend(variables);
        let process = command(&address.to_string(), &format!("http://{}", world.proxy.address), &all);
        Self { process, events, answers }
    }

    /// Sends the function an event. Returns its answer, or the error that it reports for the invocation.
    pub async fn invoke(&mut self, event: Value) -> Result<Value, Value> {
        self.invoke_bytes(event.to_string().into_bytes()).await
    }

    /// Sends the function an event, which need not be UTF-8.
    pub async fn invoke_bytes(&mut self, event: Vec<u8>) -> Result<Value, Value> {
        self.events.send(event).await.expect("the runtime API to run");
        self.answers.recv().await.expect("the runtime API to run")
    }

    /// Sends the function a request.
    pub async fn send(&mut self, request: FunctionRequest) -> Answer {
        Answer::from_gateway(&self.invoke(request.into_event()).await.expect("an answer"))
    }

    /// Sends the process a signal, by name.
    pub async fn signal(&self, name: &str) {
        let process = self.process.id().expect("a running process").to_string();
        let status = Command::new("kill").args(["-s", name, &process]).status().await.expect("kill to run");
        assert!(status.success(), "{status}");
    }

    /// The most memory it has used so far, in kB.
    pub fn peak_memory(&self) -> u64 {
        let process = self.process.id().expect("a running process");
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        peak.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Stops it and returns its output.
    pub async fn stop(mut self) -> Output {
        self.process.start_kill().expect("a running process");
        output(self.process).await
    }
}

/// Runs the binary without a Runtime API until it ends by itself.
pub async fn run(variables: &[(&str, &str)]) -> Output {
    output(command("127.0.0.1:9", "http://127.0.0.1:9", variables)).await
}

fn command(runtime_api: &str, endpoint: &str, variables: &[(&str, &str)]) -> Child {
    let binary = std::env::var_os("FUNCTION");
    Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_disable-my-other-sessions").into()))
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", runtime_api)
        .env("AWS_LAMBDA_FUNCTION_NAME", "disable-my-other-sessions")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_REGION", "eu-central-1")
        .env("AWS_ACCESS_KEY_ID", "local")
        .env("AWS_SECRET_ACCESS_KEY", "local")
        .env("AWS_ENDPOINT_URL_DYNAMODB", endpoint)
        .env("SESSIONS_TABLE", "sessions")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary to start")
}

async fn output(mut process: Child) -> Output {
    let mut output = Output { success: false, stdout: String::new(), stderr: String::new() };
    let mut stdout = process.stdout.take().expect("standard output");
    let mut stderr = process.stderr.take().expect("standard error");
    let (read_out, read_err) =
        tokio::join!(stdout.read_to_string(&mut output.stdout), stderr.read_to_string(&mut output.stderr));
    read_out.and(read_err).expect("readable output");
    output.success = process.wait().await.expect("an exit status").success();
    output
}

/// Lambda's id of an invocation by the number of the invocation in its world. Each is different.
pub fn request_id(number: usize) -> String {
    if number == 0 { "lambda-request-id".to_owned() } else { format!("lambda-request-id-{number}") }
}

async fn serve(events: Arc<Mutex<Queue>>, answers: mpsc::Sender<Result<Value, Value>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (events, answers) = (Arc::clone(&events), answers.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| respond(Arc::clone(&events), answers.clone(), request));
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn respond(
    events: Arc<Mutex<Queue>>,
    answers: mpsc::Sender<Result<Value, Value>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    if path.ends_with("/next") {
        let mut events = events.lock().await;
        let Some(event) = events.events.recv().await else { std::future::pending().await };
        events.handed_out += 1;
        let deadline = (SystemTime::now() + events.timeout).duration_since(UNIX_EPOCH).expect("a clock");
        let response = Response::builder()
            .header("lambda-runtime-aws-request-id", request_id(events.handed_out - 1))
            .header("lambda-runtime-deadline-ms", deadline.as_millis().to_string())
            .header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:123456789012:function:f")
            .header("lambda-runtime-trace-id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700")
            .body(Full::new(Bytes::from(event)));
        return Ok(response.expect("a response"));
    }
    let body = request.into_body().collect().await?.to_bytes();
    let body = serde_json::from_slice(&body).expect("a JSON answer");
    let answer = if path.ends_with("/response") { Ok(body) } else { Err(body) };
    let _ = answers.send(answer).await;
    Ok(Response::builder().status(202).body(Full::default()).expect("a response"))
}
