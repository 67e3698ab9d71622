//! The function's URL. What a client needs to call it, and no more.

use std::error::Error;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use url::{Host, Url};

use super::Problem;

/// A little longer than a gateway waits for the function.
const TIMEOUT: Duration = Duration::from_secs(35);
const LONGEST_BODY: usize = 1 << 20;

/// What the function has answered, or a gateway in its place.
pub struct Answer {
    pub status: StatusCode,
    pub body: String,
}

/// Sends `DELETE` with the token.
pub async fn revoke_others(url: &Url, token: &str) -> Result<Answer, Problem> {
    if url.scheme() != "https" && !(url.scheme() == "http" && is_this_machine(url)) {
        return Err("the URL must be https, or http on this machine: anything else would show the token around".into());
    }
    let mut value = HeaderValue::from_str(token).map_err(|_| "the token has characters that no header can carry")?;
    value.set_sensitive(true);
    let request = Request::delete(url.as_str())
        .header("X-Session-Token", value)
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    let https = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
    let client = Client::builder(TokioExecutor::new()).build(https);
    let answer = async {
        let (head, body) = client.request(request).await.map_err(|error| unreachable(url, &error))?.into_parts();
        let body = Limited::new(body, LONGEST_BODY).collect().await?.to_bytes();
        Ok(Answer { status: head.status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| format!("no answer in {} s", TIMEOUT.as_secs()))?
}

/// Names the address only: a path or a query may be confidential.
fn unreachable(url: &Url, error: &dyn Error) -> Problem {
    format!("{} cannot be called: {}", url.origin().ascii_serialization(), super::table::causes(error)).into()
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
