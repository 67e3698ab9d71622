//! A gate between an application and its database: it holds each request until the test says what becomes of it. So the test
//! decides what happens between two requests, and what the application hears of each.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

pub struct Gate {
    pub address: SocketAddr,
    arrivals: UnboundedReceiver<Held>,
}

/// A request that waits at the gate.
pub struct Held {
    pub operation: String,
    pub body: Value,
    headers: HeaderMap,
    database: SocketAddr,
    /// `None` closes the connection.
    answer: oneshot::Sender<Option<Response<Full<Bytes>>>>,
}

/// The error closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("closed by the test")]
struct Closed;

impl Gate {
    pub async fn start(database: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, arrivals) = unbounded_channel();
        tokio::spawn(serve(listener, database, sender));
        Self { address, arrivals }
    }

    /// The next request, once it arrives.
    pub async fn next(&mut self) -> Held {
        self.arrivals.recv().await.expect("the gate to be open")
    }
}

impl Held {
    /// Lets the request through, and its answer back.
    pub async fn forward(self) {
        let answer = forward(self.database, &self.headers, &self.body).await;
        self.answer_with(Some(answer));
    }

    /// Lets the request through. The answer gets lost.
    pub async fn lose_answer(self) {
        forward(self.database, &self.headers, &self.body).await;
        self.answer_with(None);
    }

    /// Closes the connection. Returns the request, which still can arrive at the database: see [`Late::arrive`].
    pub fn drop_request(self) -> Late {
        let late = Late { body: self.body.clone(), headers: self.headers.clone(), database: self.database };
        self.answer_with(None);
        late
    }

    /// Answers in place of the database.
    pub fn fail(self, code: &str, more: &Value) {
        let mut body = json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "injected"});
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        self.answer_with(Some(response(400, body.to_string().into())));
    }

    /// Answers with this instead of the database's answer.
    pub fn answer(self, body: &Value) {
        self.answer_with(Some(response(200, body.to_string().into())));
    }

    fn answer_with(self, answer: Option<Response<Full<Bytes>>>) {
        // An application that has stopped waiting needs no answer.
        let _ = self.answer.send(answer);
    }
}

/// A request whose connection was closed before it was carried out.
pub struct Late {
    body: Value,
    headers: HeaderMap,
    database: SocketAddr,
}

impl Late {
    /// Carries the request out. Returns the status of the answer that nobody gets.
    pub async fn arrive(self) -> u16 {
        forward(self.database, &self.headers, &self.body).await.status().as_u16()
    }
}

async fn serve(listener: TcpListener, database: SocketAddr, arrivals: UnboundedSender<Held>) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let arrivals = arrivals.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| hold(database, arrivals.clone(), request));
            // An error means that the test or the application has closed the connection.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn hold(
    database: SocketAddr,
    arrivals: UnboundedSender<Held>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Closed> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let body = serde_json::from_slice(&body).expect("a JSON request");
    let (answer, answered) = oneshot::channel();
    arrivals.send(Held { operation, body, headers: parts.headers, database, answer }).map_err(|_| Closed)?;
    answered.await.ok().flatten().ok_or(Closed)
}

async fn forward(database: SocketAddr, headers: &HeaderMap, body: &Value) -> Response<Full<Bytes>> {
    let mut request = Request::post(format!("http://{database}/"));
    for name in ["x-amz-target", "content-type", "authorization", "x-amz-date"].map(HeaderName::from_static) {
        if let Some(value) = headers.get(&name) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Full::new(Bytes::from(body.to_string()))).expect("a request");
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (parts, body) = client.request(request).await.expect("the database to answer").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    response(parts.status.as_u16(), body)
}

fn response(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/x-amz-json-1.0");
    response.body(Full::new(body)).expect("a response")
}
