//! A proxy between the SDK and the database. It refuses what the function's role does not allow, records each request, and
//! injects the faults of a test's rule.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::{Session, role};

/// The place of the token's hash among the parameters of a statement: see `revoke_statement` in `src/dynamodb/store.rs`.
const TOKEN_HASH: usize = 3;

/// A request to DynamoDB as the proxy sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Such as `GetItem`.
    pub operation: String,
    /// How many of this operation came before.
    pub number: usize,
    pub body: Value,
}

impl Call {
    /// Whether a batch has a statement about a session.
    pub fn writes_to(&self, session: &Session) -> bool {
        let is_about = |statement: &Value| statement["Parameters"][TOKEN_HASH]["S"] == session.token_hash();
        self.body["Statements"].as_array().is_some_and(|statements| statements.iter().any(is_about))
    }
}

/// What the proxy does with a request.
pub enum Action {
    Forward,
    /// Waits, then forwards.
    Delay(Duration),
    /// Neither forwards nor answers.
    Hang,
    /// Closes the connection without forwarding.
    Refuse,
    /// Answers an error of the whole request without forwarding: HTTP status and code.
    Fail(u16, &'static str),
    /// Answers HTML instead of JSON, without forwarding.
    Garbage,
    /// Forwards, and closes the connection instead of answering.
    LoseAnswer,
    /// Forwards, and never answers.
    HangAfter,
    /// Forwards, and answers an error although the request was carried out.
    FailAfter(u16, &'static str),
    /// Forwards, and changes the answer.
    Edit(Box<dyn FnOnce(&mut Value) + Send>),
}

type Rule = Box<dyn FnMut(&Call) -> Action + Send>;

/// A proxy that no other test uses, in front of a database.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
    /// The proxy ends with the last clone.
    _running: Arc<oneshot::Sender<()>>,
}

struct State {
    database: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    rule: Mutex<Rule>,
    seen: Mutex<Vec<Call>>,
    /// The connections accepted so far.
    connections: Mutex<Vec<AbortHandle>>,
    /// The connections with a lower number do not answer any more.
    unresponsive_before: AtomicUsize,
}

impl Proxy {
    /// Starts a proxy that forwards everything, on a thread of its own.
    pub fn start(database: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            database,
            client: Client::builder(TokioExecutor::new()).build_http(),
            rule: Mutex::new(Box::new(|_| Action::Forward)),
            seen: Mutex::default(),
            connections: Mutex::default(),
            unresponsive_before: AtomicUsize::new(0),
        });
        let (running, stopped) = oneshot::channel::<()>();
        let proxy = Self { address, state: Arc::clone(&state), _running: Arc::new(running) };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    never = serve(listener, state) => match never {},
                    _ = stopped => {}
                }
            });
        });
        proxy
    }

    /// Sets what is done with each request from now on.
    pub fn rule(&self, rule: impl FnMut(&Call) -> Action + Send + 'static) {
        *self.state.rule.lock().expect("no rule to panic") = Box::new(rule);
    }

    /// Forgets the rule and what it has seen.
    pub fn reset(&self) {
        self.rule(|_| Action::Forward);
        self.state.seen.lock().expect("a lock").clear();
    }

    /// How many connections have been opened so far.
    pub fn connections(&self) -> usize {
        self.state.connections.lock().expect("a lock").len()
    }

    /// Closes all open connections.
    pub fn close_connections(&self) {
        self.state.connections.lock().expect("a lock").iter().for_each(AbortHandle::abort);
    }

    /// Answers nothing more on the open connections, without closing them: a firewall that has forgotten a connection drops
    /// its packets.
    pub fn stop_answering_on_open_connections(&self) {
        let accepted = self.state.connections.lock().expect("a lock").len();
        self.state.unresponsive_before.store(accepted, Ordering::Relaxed);
    }

    /// The requests so far, in the order of their arrival.
    pub fn seen(&self) -> Vec<Call> {
        self.state.seen.lock().expect("a lock").clone()
    }

    /// The number of requests of an operation so far.
    pub fn count(&self, operation: &str) -> usize {
        self.seen().iter().filter(|call| call.operation == operation).count()
    }
}

async fn serve(listener: std::net::TcpListener, state: Arc<State>) -> Infallible {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let number = state.connections.lock().expect("a lock").len();
        let connection = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&connection), number, request));
            // An error means that a rule or the client has closed the connection.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        state.connections.lock().expect("a lock").push(task.abort_handle());
    }
}

/// The error closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("closed by the rule, or by the database")]
struct Closed;

async fn answer(
    state: Arc<State>,
    connection: usize,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Closed> {
    if connection < state.unresponsive_before.load(Ordering::Relaxed) {
        std::future::pending::<Infallible>().await;
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let body: Value = serde_json::from_slice(&body).expect("a JSON request");
    let call = {
        let mut seen = state.seen.lock().expect("a lock");
        let number = seen.iter().filter(|call| call.operation == operation).count();
        let call = Call { operation, number, body };
        seen.push(call.clone());
        call
    };
    if !role::allows(&call.operation, &call.body) {
        return Ok(error(400, "AccessDeniedException"));
    }
    let action = (state.rule.lock().expect("no rule to panic"))(&call);
    let forward = |body: Value| state.forward(&parts.headers, body);
    match action {
        Action::Forward => forward(call.body).await,
        Action::Delay(time) => {
            tokio::time::sleep(time).await;
            forward(call.body).await
        }
        Action::Hang => std::future::pending().await,
        Action::Refuse => Err(Closed),
        Action::Fail(status, code) => Ok(error(status, code)),
        Action::Garbage => Ok(response(200, Bytes::from_static(b"<html>Bad Gateway</html>"))),
        Action::LoseAnswer => {
            forward(call.body).await?;
            Err(Closed)
        }
        Action::HangAfter => {
            forward(call.body).await?;
            std::future::pending().await
        }
        Action::FailAfter(status, code) => {
            forward(call.body).await?;
            Ok(error(status, code))
        }
        Action::Edit(edit) => {
            let (parts, body) = forward(call.body).await?.into_parts();
            let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
            let mut body: Value = serde_json::from_slice(&body).expect("a JSON answer");
            edit(&mut body);
            Ok(response(parts.status.as_u16(), body.to_string().into()))
        }
    }
}

impl State {
    async fn forward(&self, headers: &HeaderMap, body: Value) -> Result<Response<Full<Bytes>>, Closed> {
        let mut request = Request::post(format!("http://{}/", self.database));
        for name in ["x-amz-target", "content-type", "authorization", "x-amz-date"] {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let request = request.body(Full::new(body.to_string().into())).expect("a request");
        let (parts, body) = self.client.request(request).await.map_err(|_| Closed)?.into_parts();
        let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
        Ok(response(parts.status.as_u16(), body))
    }
}

fn error(status: u16, code: &str) -> Response<Full<Bytes>> {
    let body = json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "canary-message"});
    response(status, body.to_string().into())
}

fn response(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/x-amz-json-1.0");
    response.body(Full::new(body)).expect("a response")
}
