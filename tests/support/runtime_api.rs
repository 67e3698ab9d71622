//! The part of the Lambda Runtime API that a function uses.
//!
//! Source: "Using the Lambda runtime API" in the AWS Lambda Developer Guide.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The Runtime API of one process, which gets one event at a time.
pub struct RuntimeApi {
    /// Host and port.
    pub address: String,
    asked: mpsc::UnboundedReceiver<Instant>,
    events: mpsc::Sender<Vec<u8>>,
    outcomes: mpsc::Receiver<Outcome>,
    /// The server ends when this is dropped.
    _server: JoinSet<()>,
}

/// How an invocation ended, and when, so that the bench can measure it.
pub struct Outcome {
    /// When the process got the event.
    pub given: Instant,
    /// When the whole answer had arrived.
    pub received: Instant,
    /// The answer of the process to the event, or the error that the process reported for the invocation.
    pub answer: Result<Value, Value>,
}

/// What all connections of the process share: a process may open a new one for each request.
struct State {
    /// How long an invocation may take.
    timeout: Duration,
    asked: mpsc::UnboundedSender<Instant>,
    events: tokio::sync::Mutex<mpsc::Receiver<Vec<u8>>>,
    outcomes: mpsc::Sender<Outcome>,
    invocation: Mutex<Invocation>,
}

/// The invocation that is under way.
struct Invocation {
    /// How many events the process got before.
    number: usize,
    given: Instant,
}

impl RuntimeApi {
    /// Starts one, for a function with this time-out.
    pub async fn start(timeout: Duration) -> Self {
        let (asked_sender, asked) = mpsc::unbounded_channel();
        let (events, events_receiver) = mpsc::channel(1);
        let (outcomes_sender, outcomes) = mpsc::channel(1);
        let state = State {
            timeout,
            asked: asked_sender,
            events: tokio::sync::Mutex::new(events_receiver),
            outcomes: outcomes_sender,
            invocation: Mutex::new(Invocation { number: 0, given: Instant::now() }),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::new(state)));
        Self { address, asked, events, outcomes, _server: server }
    }

    /// Waits until the process asks for an event. Returns when it did.
    pub async fn asked(&mut self) -> Instant {
        self.asked.recv().await.expect("the Runtime API to run")
    }

    /// Gives the process an event, which need not be UTF-8, and waits for what comes of it.
    pub async fn invoke(&mut self, event: Vec<u8>) -> Outcome {
        self.events.send(event).await.expect("the Runtime API to run");
        self.outcomes.recv().await.expect("the Runtime API to run")
    }
}

/// Lambda's id of an invocation by the number of the invocation in its process. Each is different.
pub fn request_id(number: usize) -> String {
    if number == 0 { "lambda-request-id".to_owned() } else { format!("lambda-request-id-{number}") }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(&state, request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn respond(state: &State, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    if path.ends_with("/next") {
        let _ = state.asked.send(Instant::now());
        let Some(event) = state.events.lock().await.recv().await else { std::future::pending().await };
        let deadline = (SystemTime::now() + state.timeout).duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let mut invocation = state.invocation.lock().expect("a lock");
        let response = Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", request_id(invocation.number))
            .header("lambda-runtime-deadline-ms", deadline.as_millis().to_string())
            .header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:123456789012:function:f")
            .header("lambda-runtime-trace-id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0")
            .body(Full::new(Bytes::from(event)));
        *invocation = Invocation { number: invocation.number + 1, given: Instant::now() };
        return Ok(response.expect("a response"));
    }
    let body = request.into_body().collect().await?.to_bytes();
    let received = Instant::now();
    let given = state.invocation.lock().expect("a lock").given;
    let body = serde_json::from_slice(&body).expect("JSON");
    let answer = if path.ends_with("/response") { Ok(body) } else { Err(body) };
    let _ = state.outcomes.send(Outcome { given, received, answer }).await;
    Ok(Response::builder().status(202).body(Full::from("{\"status\":\"OK\"}")).expect("a response"))
}
