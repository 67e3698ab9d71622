//! The connections to DynamoDB: one HTTP client with one TLS stack, without the SDK's own retries and time-outs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig};
use aws_runtime::invocation_id::InvocationIdInterceptor;
use aws_runtime::request_info::RequestInfoInterceptor;
use aws_runtime::user_agent::UserAgentInterceptor;
use aws_sdk_dynamodb::config::interceptors::BeforeSerializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, SharedHttpClient};
use aws_sdk_dynamodb::error::BoxError;
use aws_sdk_dynamodb::{Client, config};
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::interceptors::disable_interceptor;
use tokio::time::Instant;

/// Connections that have answered within this time are expected to answer again. After a longer pause, in which the sandbox
/// may have been frozen, they may be dead without a sign.
const PROVEN_FOR: Duration = Duration::from_secs(1);

/// Region, credentials and endpoint as every SDK finds them. Retries are off: a retry by the SDK would hide that a response was
/// lost. Time-outs are off: `budget` sets them by the time left of the invocation.
#[must_use]
pub fn config() -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client())
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
}

/// An HTTP client with a pool of connections of its own, none of them open yet.
#[must_use]
pub fn http_client() -> SharedHttpClient {
    Builder::new()
        // A connection survives a frozen sandbox, and to open another costs two round trips and CPU.
        .pool_idle_timeout(None)
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https()
}

/// A client by this configuration, with another HTTP client if one is given.
fn client(config: &SdkConfig, http_client: Option<SharedHttpClient>) -> Client {
    let mut builder = config::Builder::from(config).interceptor(WithoutDescriptions);
    if let Some(http_client) = http_client {
        builder.set_http_client(Some(http_client));
    }
    Client::from_conf(builder.build())
}

/// Leaves out the headers that describe the client and number its retries. DynamoDB ignores them, and to make, sign and send
/// them is a tenth of the CPU of a request.
#[derive(Debug)]
struct WithoutDescriptions;

impl Intercept for WithoutDescriptions {
    fn name(&self) -> &'static str {
        "WithoutDescriptions"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let state = config.interceptor_state();
        state.store_put(disable_interceptor::<UserAgentInterceptor>("nobody reads it"));
        state.store_put(disable_interceptor::<InvocationIdInterceptor>("the SDK retries nothing"));
        state.store_put(disable_interceptor::<RequestInfoInterceptor>("the SDK retries nothing"));
        Ok(())
    }
}

/// A client whose open connections can be given up. If one of them does not answer, it may be dead without a sign, and then
/// the others probably are too: to try them one after the other would cost a time-out each.
#[derive(Debug)]
pub struct Connections {
    config: SdkConfig,
    http_client: fn() -> SharedHttpClient,
    /// Never locked over an await.
    pool: Mutex<Pool>,
    responses: AtomicU64,
}

/// The connections of one HTTP client.
#[derive(Clone, Debug)]
pub struct Pool {
    /// The client to send requests with.
    pub client: Client,
    generation: u64,
    answered_at: Option<Instant>,
}

impl Connections {
    /// Connections by this configuration, none of them open yet. When they are given up, `http_client` makes the client for
    /// new ones: [`http_client()`], or that of a simulation.
    #[must_use]
    pub fn new(config: SdkConfig, http_client: fn() -> SharedHttpClient) -> Self {
        let client = client(&config, None);
        Self {
            config,
            http_client,
            pool: Mutex::new(Pool { client, generation: 0, answered_at: None }),
            responses: AtomicU64::new(0),
        }
    }

    /// The connections for the next request.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.current().clone()
    }

    /// One of these connections has answered.
    pub fn answered(&self, pool: &Pool) {
        self.responses.fetch_add(1, Ordering::Relaxed);
        let mut current = self.current();
        if current.generation == pool.generation {
            current.answered_at = Some(Instant::now());
        }
    }

    /// How often [`Connections::answered`] was called.
    #[must_use]
    pub fn responses(&self) -> u64 {
        self.responses.load(Ordering::Relaxed)
    }

    /// Gives these connections up, because one of them does not answer. Requests that are under way on them continue.
    pub fn give_up(&self, pool: &Pool) {
        let mut current = self.current();
        if current.generation == pool.generation {
            let client = client(&self.config, Some((self.http_client)()));
            *current = Pool { client, generation: pool.generation + 1, answered_at: None };
        }
    }

    fn current(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Whether its connections have answered before, but not recently.
    #[must_use]
    pub fn may_be_dead(&self) -> bool {
        self.answered_at.is_some_and(|answered_at| answered_at.elapsed() > PROVEN_FOR)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn connections() -> Connections {
        Connections::new(SdkConfig::builder().behavior_version(BehaviorVersion::v2026_01_12()).build(), http_client)
    }

    #[tokio::test(start_paused = true)]
    async fn connections_may_be_dead_if_they_have_answered_but_not_in_the_last_second() {
        let connections = connections();
        advance(Duration::from_secs(9)).await;
        assert!(!connections.pool().may_be_dead(), "there are none");
        connections.answered(&connections.pool());
        advance(PROVEN_FOR).await;
        assert!(!connections.pool().may_be_dead());
        advance(Duration::from_millis(1)).await;
        assert!(connections.pool().may_be_dead());
        connections.answered(&connections.pool());
        assert!(!connections.pool().may_be_dead());
        assert_eq!(connections.responses(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_of_connections_that_were_given_up_says_nothing_about_the_new_ones() {
        let connections = connections();
        for generation in 1..3 {
            let old = connections.pool();
            connections.give_up(&old);
            // Another request on the same connections fails, and a third is answered.
            connections.give_up(&old);
            connections.answered(&old);
            advance(2 * PROVEN_FOR).await;
            assert!(!connections.pool().may_be_dead());
            assert_eq!(connections.pool().generation, generation);
        }
        assert_eq!(connections.responses(), 2);
    }
}
