//! Between the function and DynamoDB: connections that are open, closed, or dead without a sign, and the time that a request takes.
//! It stands behind the SDK's `HttpConnector`, so what is above it is the function as it is deployed.
//!
//! A connection carries one request at a time. An idle one is used again, the latest first; a new one costs two round trips.
//! Whoever gives up a request closes its connection; what has been sent by then arrives and is carried out all the same.

use std::future::pending;
use std::io;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use fastrand::Rng;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::plan::Death;
use crate::world::{calling, with_world};

/// A pool of connections of its own.
#[derive(Clone, Copy, Debug)]
struct Pool(usize);

/// All connections of a trial.
#[derive(Debug, Default)]
pub struct Connections {
    pools: usize,
    /// Idle ones, the latest used last.
    idle: Vec<Idle>,
    pub opened: u64,
}

#[derive(Clone, Copy, Debug)]
struct Idle {
    pool: usize,
    dead: Option<Death>,
}

/// The connection for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    Open,
    /// A new one.
    Opening,
    /// It looked open.
    Dead(Death),
}

/// A request that has been handed to the network.
pub struct Sent {
    pub number: usize,
    pub pool: usize,
    pub connection: Connection,
    /// Milliseconds until the connection is open.
    pub connect: u64,
    /// Milliseconds until the request arrives.
    pub out: u64,
    /// Milliseconds until the answer arrives.
    pub back: u64,
    /// Whether nobody accepts the connection.
    pub refused: bool,
    /// Whether the connection is closed as soon as the request has arrived, so many milliseconds before it is carried out.
    pub closed_early: Option<u64>,
}

/// What arrives at the function.
#[derive(Clone, Debug)]
pub enum Response {
    Answer {
        status: u16,
        body: Value,
        /// The text that is sent, if it is not that of the body.
        text: Option<String>,
    },
    /// An answer that is not DynamoDB's.
    Garbled,
    /// The connection is closed.
    Closed,
}

impl Response {
    pub fn answer(status: u16, body: Value) -> Self {
        Self::Answer { status, body, text: None }
    }
}

/// Headers in which an SDK describes itself, and which the function leaves out.
const DESCRIPTIONS: [&str; 4] = ["user-agent", "x-amz-user-agent", "amz-sdk-invocation-id", "amz-sdk-request"];

/// A client with a pool of connections of its own.
pub fn http_client() -> SharedHttpClient {
    SharedHttpClient::new(with_world(|world| {
        world.connections.pools += 1;
        Pool(world.connections.pools)
    }))
}

impl HttpClient for Pool {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(*self)
    }
}

impl HttpConnector for Pool {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let headers = request.headers();
        let described = DESCRIPTIONS.iter().find(|name| headers.get(**name).is_some());
        assert_eq!(described, None, "a header that nobody reads");
        let target = headers.get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = serde_json::from_slice(request.body().bytes().unwrap_or_default()).expect("a JSON request");
        let authorization = headers.get("authorization").unwrap_or_default();
        let key = authorization.split(['=', '/']).nth(1).unwrap_or_default().to_owned();
        let sent = with_world(|world| world.send(calling(), self.0, &key, operation, body));
        HttpConnectorFuture::new(exchange(sent))
    }
}

impl Connections {
    /// The connection for the next request of a pool.
    pub fn take(&mut self, pool: usize) -> Connection {
        while let Some(place) = self.idle.iter().rposition(|idle| idle.pool == pool) {
            match self.idle.remove(place).dead {
                None => return Connection::Open,
                Some(Death::Closed) => {}
                Some(dead) => return Connection::Dead(dead),
            }
        }
        self.opened += 1;
        Connection::Opening
    }

    fn give_back(&mut self, pool: usize) {
        self.idle.push(Idle { pool, dead: None });
    }

    /// The server closes what has been idle for long.
    pub fn close_idle(&mut self) {
        self.idle.clear();
    }

    /// Lets idle connections die, each with this probability.
    pub fn kill(&mut self, death: Death, probability: f64, rng: &mut Rng) {
        for idle in &mut self.idle {
            if rng.f64() < probability {
                idle.dead = Some(death);
            }
        }
    }
}

/// Says that a request was given up if it has not ended otherwise.
struct Open {
    number: usize,
    ended: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.ended {
            crate::world::if_there(|world| world.given_up(self.number));
        }
    }
}

async fn exchange(sent: Sent) -> Result<HttpResponse, ConnectorError> {
    let mut open = Open { number: sent.number, ended: false };
    let response = if sent.refused {
        sleep(Duration::from_millis(sent.out)).await;
        Response::Closed
    } else {
        sleep(Duration::from_millis(sent.connect)).await;
        carry(&sent).await
    };
    open.ended = true;
    let usable = !matches!(response, Response::Closed);
    with_world(|world| {
        world.arrived(sent.number, &response);
        if usable {
            world.connections.give_back(sent.pool);
        }
    });
    let (status, body) = match response {
        Response::Answer { status, body, text } => (status, text.unwrap_or_else(|| body.to_string())),
        Response::Garbled => (200, "<html>Bad Gateway</html>".to_owned()),
        Response::Closed => {
            return Err(ConnectorError::io(io::Error::from(io::ErrorKind::ConnectionReset).into()));
        }
    };
    let status = status.try_into().expect("a status");
    Ok(HttpResponse::new(status, SdkBody::from(body)))
}

/// Carries a request to DynamoDB, and its answer back.
async fn carry(sent: &Sent) -> Response {
    match sent.connection {
        Connection::Dead(Death::Silent) => pending().await,
        Connection::Dead(_) => {
            sleep(Duration::from_millis(sent.out + sent.back)).await;
            Response::Closed
        }
        Connection::Open | Connection::Opening => {
            let (answer, answered) = oneshot::channel();
            with_world(|world| world.under_way += 1);
            tokio::spawn(serve(sent.number, (sent.out, sent.closed_early, sent.back), answer));
            match answered.await {
                Ok(response) => response,
                Err(_) => pending().await,
            }
        }
    }
}

/// The far end. It goes on when the function has given up the request.
async fn serve(number: usize, (out, closed_early, back): (u64, Option<u64>, u64), answer: oneshot::Sender<Response>) {
    sleep(Duration::from_millis(out)).await;
    let mut answer = Some(answer);
    // Whoever has given up does not hear it.
    let mut respond = |response| answer.take().map(|answer| answer.send(response).is_ok());
    if let Some(late) = closed_early {
        respond(Response::Closed);
        sleep(Duration::from_millis(late)).await;
    }
    while let Some(pause) = with_world(|world| world.carry_out_a_part(number)) {
        sleep(Duration::from_millis(pause)).await;
    }
    let outcome = with_world(|world| world.carry_out(number));
    if let Some((response, late)) = outcome {
        sleep(Duration::from_millis(back + late)).await;
        respond(response);
    }
    crate::world::if_there(|world| world.under_way -= 1);
}

/// Milliseconds that a request takes on its way there and back. Median and 99th percentile as measured on DynamoDB.
pub fn latency(exact: Option<u64>, rng: &mut Rng) -> (u64, u64) {
    let all = exact.unwrap_or_else(|| match rng.u16(0..1_000) {
        0..970 => rng.u64(2..9),
        970..995 => rng.u64(9..40),
        _ => rng.u64(40..400),
    });
    let out = all / 2;
    (out, all - out)
}
