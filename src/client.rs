//! How DynamoDB is reached: one HTTP client with one TLS stack, and none of the SDK's own patience.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig};
use aws_sdk_dynamodb::config::SharedHttpClient;
use aws_sdk_dynamodb::{Client, config};
use aws_smithy_http_client::{Builder, tls};

/// A connection unused for longer is not used again: the other end, or something in between, may have dropped it while
/// the sandbox was frozen. To open another costs a few milliseconds.
const IDLE_CONNECTION: Duration = Duration::from_secs(5);

/// Region, credentials and endpoint as every SDK finds them. Retries are off because a retry of the SDK's would hide
/// that an answer was lost, and time-outs because `budget` sets them by what is left of the invocation.
#[must_use]
pub fn config() -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client())
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
}

/// An HTTP client with a pool of connections of its own, none of them open yet.
#[must_use]
pub fn http_client() -> SharedHttpClient {
    Builder::new()
        .pool_idle_timeout(IDLE_CONNECTION)
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https()
}

/// A client whose open connections can be given up. One that does not answer may be dead without a sign, and then so are
/// the others beside it: to try them one after the other would cost a time-out each.
#[derive(Debug)]
pub struct Connections {
    config: SdkConfig,
    http_client: fn() -> SharedHttpClient,
    current: Mutex<(Generation, Client)>,
}

/// Which connections a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

impl Connections {
    /// Connections by this configuration, none of them open yet. When they are given up, `http_client` makes the client for
    /// new ones: [`http_client()`], or that of a simulation.
    #[must_use]
    pub fn new(config: SdkConfig, http_client: fn() -> SharedHttpClient) -> Self {
        let client = Client::new(&config);
        Self { config, http_client, current: Mutex::new((Generation(0), client)) }
    }

    /// The client to send the next request with.
    #[must_use]
    pub fn client(&self) -> (Generation, Client) {
        self.current().clone()
    }

    /// Gives up connections that do not answer, if that has not been done since.
    pub fn give_up(&self, silent: Generation) {
        let mut current = self.current();
        if current.0 == silent {
            let config = config::Builder::from(&self.config).http_client((self.http_client)()).build();
            *current = (Generation(silent.0 + 1), Client::from_conf(config));
        }
    }

    fn current(&self) -> MutexGuard<'_, (Generation, Client)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
