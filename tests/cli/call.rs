//! The function's URL. What a client needs to call it, and no more.

use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{Connector, tls};
use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use url::Url;

use super::Problem;
use super::table::causes;

/// A little longer than a gateway waits for the function.
const TIMEOUT: Duration = Duration::from_secs(35);
/// The longest answer that is read, in bytes: whoever has mistyped the URL may get anything.
const LONGEST_BODY: usize = 1 << 20;

/// Sends `DELETE` with the token. Returns the status and the body of the answer.
pub async fn revoke_others(url: &Url, token: &str) -> Result<(u16, String), Problem> {
    let is_this_machine = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    // A proxy of `http` would see the token.
    let proxy = match url.scheme() {
        "https" => ProxyConfig::from_env(),
        "http" if is_this_machine => ProxyConfig::disabled(),
        _ => return Err("the URL must be https, or http on this machine: otherwise others could read the token".into()),
    };
    let request = Request::delete(url.as_str()).header("X-Session-Token", token).body(SdkBody::empty())?;
    let request = HttpRequest::try_from(request)?;
    let answer = async {
        let answer = connector(proxy).call(request).await;
        // Names the address only: a path or a query may be confidential.
        let address = url.origin().ascii_serialization();
        let answer = answer.map_err(|error| format!("{address} cannot be called: {}", causes(&error)))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), LONGEST_BODY).collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| format!("no answer in {} s", TIMEOUT.as_secs()))?
}

/// What sends requests, over TLS or not, and through a proxy or not.
pub fn connector(proxy: ProxyConfig) -> SharedHttpConnector {
    let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    SharedHttpConnector::new(Connector::builder().proxy_config(proxy).tls_provider(tls).build())
}
