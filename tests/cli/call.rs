//! The function's URL. What a client needs to call it, and no more.

use std::error::Error;
use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{Connector, tls};
use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::header::{ACCEPT, HeaderValue};
use url::{Host, Url};

use super::Problem;

/// A little longer than a gateway waits for the function.
const TIMEOUT: Duration = Duration::from_secs(35);
const LONGEST_BODY: usize = 1 << 20;

/// What the function has answered, or a gateway in its place.
pub struct Answer {
    pub status: u16,
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
        .body(SdkBody::empty())?;
    // A proxy of `http` would see the token.
    let proxy = if url.scheme() == "https" { ProxyConfig::from_env() } else { ProxyConfig::disabled() };
    let answer = async {
        let answer = connector(proxy).call(HttpRequest::try_from(request)?).await;
        let answer = answer.map_err(|error| unreachable(url, &error))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), LONGEST_BODY).collect().await?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| format!("no answer in {} s", TIMEOUT.as_secs()))?
}

/// What sends requests, over TLS or not, and through a proxy or not.
pub fn connector(proxy: ProxyConfig) -> SharedHttpConnector {
    let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    SharedHttpConnector::new(Connector::builder().proxy_config(proxy).tls_provider(tls).build())
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
