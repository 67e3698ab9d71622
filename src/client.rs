//! The DynamoDB client's making: one HTTP client with one TLS stack, and none of the SDK's own patience.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, ConfigLoader};
use aws_smithy_http_client::{Builder, tls};

/// A connection unused for longer is not used again: the other end, or something in between, may have dropped it while
/// the sandbox was frozen, and a request sent into the void costs a whole time-out.
const IDLE_CONNECTION: Duration = Duration::from_secs(20);

/// Region, credentials and endpoint as every SDK finds them. Retries are off because a retry of the SDK's would hide
/// that an answer was lost, and time-outs because `budget` sets them by what is left of the invocation.
#[must_use]
pub fn config() -> ConfigLoader {
    let http_client = Builder::new()
        .pool_idle_timeout(IDLE_CONNECTION)
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
}
