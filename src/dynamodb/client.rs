//! The connections to DynamoDB: one HTTP client with one TLS stack, without the SDK's own retries and time-outs. This module
//! sends a request and waits for the response; `store` says what is requested, and `budget` how long to wait.

use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig};
use aws_runtime::invocation_id::InvocationIdInterceptor;
use aws_runtime::request_info::RequestInfoInterceptor;
use aws_runtime::user_agent::UserAgentInterceptor;
use aws_sdk_dynamodb::config::interceptors::BeforeSerializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, IdentityCache, Intercept, SharedHttpClient, SharedIdentityCache};
use aws_sdk_dynamodb::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::{Client, config};
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::interceptors::disable_interceptor;
use futures_util::future::{FutureExt, select_ok};
use tokio::select;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};

use super::failure::{no_response, of_request};
use crate::config::Table;
use crate::rules::budget::{HEDGE_AFTER, PROVEN_FOR, Timeout};
use crate::rules::evidence::{Cause, Failure};

/// How many short sleeps make up the patience for a response: see [`Connections::silence`].
const SLEEPS: u32 = 10;
/// Turns of the runtime in which a response that is in a socket reaches the request: it passes the connection, TLS and HTTP.
const TURNS: u32 = 16;

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
        // Idle connections are kept: they survive a frozen sandbox, and to open another costs two round trips and CPU.
        .pool_idle_timeout(None)
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https()
}

/// Leaves out the headers that describe the client and number its retries. DynamoDB ignores these headers, and they cost a tenth
/// of the CPU of a request.
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

/// A client whose open connections, and credentials, can be replaced. A connection without a response may be dead without a sign,
/// and then the others probably are dead too. So all are replaced at once: each dead connection would cost a time-out.
#[derive(Debug)]
pub struct Connections {
    config: SdkConfig,
    http_client: fn() -> SharedHttpClient,
    /// What the next request uses. The lock is never held over an await, so it needs no asynchronous mutex.
    pool: Mutex<Pool>,
    /// How many responses have arrived on any connection: a request that waits its turn is not dead while others get responses.
    responses: AtomicU64,
}

/// The connections of one HTTP client, and the credentials to sign with.
#[derive(Clone, Debug)]
struct Pool {
    client: Client,
    http_client: SharedHttpClient,
    credentials: Option<SharedIdentityCache>,
    /// The number of the HTTP client, so that each is replaced only once.
    generation: u64,
    /// How often the credentials have been renewed, so that all requests with the same credentials renew them only once.
    renewals: u64,
    /// When a response last arrived on these connections; `None` before the first.
    responded_at: Option<Instant>,
}

/// How to send a request: its names in the texts of errors, and how long to wait for the response.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The DynamoDB operation.
    pub operation: &'static str,
    /// The table, for the texts of errors.
    pub table: &'a Table,
    /// How long to wait.
    pub timeout: Timeout,
}

impl Connections {
    /// Connections by this configuration, none of them open yet. `http_client` makes the HTTP client that replaces a dead one:
    /// [`http_client()`], or the client of a simulation.
    #[must_use]
    pub fn new(config: SdkConfig, http_client: fn() -> SharedHttpClient) -> Self {
        let pool = Pool::new(&config, config.http_client().unwrap_or_else(http_client), config.identity_cache());
        Self { config, http_client, pool: Mutex::new(pool), responses: AtomicU64::new(0) }
    }

    /// Sends a read. If the connections may have died in a pause, and there is no response soon, the same read is sent on a
    /// new connection too. The first success counts, or the last failure.
    ///
    /// # Errors
    /// [`Failure`] if there is no response, or an error in it.
    pub async fn read<T, E, F>(&self, terms: Terms<'_>, send: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let pool = self.pool();
        let mut first = Box::pin(self.request(terms, &send));
        if !pool.may_be_dead() {
            return first.await;
        }
        let soon = Timeout { patience: HEDGE_AFTER, ..terms.timeout };
        select! {
            biased;
            result = &mut first => return result,
            _ = self.silence(soon) => self.replace(&pool),
        }
        select_ok([first, Box::pin(self.request(terms, &send))]).await.map(|(response, _)| response)
    }

    /// Sends a request and waits for its response.
    ///
    /// # Errors
    /// [`Failure`] if there is no response, or an error in it.
    pub async fn request<T, E, F>(&self, terms: Terms<'_>, send: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let pool = self.pool();
        let begin = Instant::now();
        let mut sending = pin!(send(pool.client.clone()));
        let (result, is_silent) = select! {
            biased;
            result = &mut sending => (Some(result), false),
            is_silent = self.silence(terms.timeout) => (arrived(sending).await, is_silent),
        };
        if let Some(result) = result {
            return self.understood(terms, &pool, result);
        }
        if is_silent {
            self.replace(&pool);
        }
        Err(no_response(terms.operation, begin.elapsed()))
    }

    /// What a response, or the lack of one, means, and what follows from it for the connections.
    fn understood<T, E>(&self, terms: Terms<'_>, pool: &Pool, result: Result<T, SdkError<E>>) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let may_be_dead = pool.may_be_dead();
        if matches!(result, Ok(_) | Err(SdkError::ServiceError(_))) {
            self.responded(pool);
        }
        let result = result.map_err(|error| of_request(terms.operation, terms.table, &error));
        match result.as_ref().err().map(|failure| failure.cause) {
            // A connection that died in a pause is probably not the only one.
            Some(Cause::Disconnected | Cause::NoResponse) if may_be_dead => self.replace(pool),
            Some(Cause::BadSignature) => self.renew_credentials(pool),
            _ => {}
        }
        result
    }

    /// Waits for a time-out. Returns true if the patience has run out, so the connection counts as dead; false if the end of the
    /// time-out came first.
    ///
    /// The patience begins anew with each response to another request, since a request that waits its turn is not dead. Short
    /// sleeps, one after the other, make up the patience, so that a process that gets little CPU does not use it up at once.
    async fn silence(&self, timeout: Timeout) -> bool {
        let responses = || self.responses.load(Ordering::Relaxed);
        let patience = async {
            let (mut quiet_sleeps, mut seen) = (0, responses());
            while quiet_sleeps < SLEEPS {
                sleep(timeout.patience / SLEEPS).await;
                quiet_sleeps = if responses() == seen { quiet_sleeps + 1 } else { 0 };
                seen = responses();
            }
        };
        timeout_at(timeout.end, patience).await.is_ok()
    }

    /// Learns that a response has arrived on one of these connections.
    fn responded(&self, pool: &Pool) {
        self.responses.fetch_add(1, Ordering::Relaxed);
        let mut current = self.current();
        if current.generation == pool.generation {
            current.responded_at = Some(Instant::now());
        }
    }

    /// Replaces these connections for all further requests, because one of them does not respond. Requests that are under way on
    /// the old connections continue.
    fn replace(&self, pool: &Pool) {
        let mut current = self.current();
        if current.generation == pool.generation {
            let fresh = Pool::new(&self.config, (self.http_client)(), current.credentials.clone());
            *current = Pool { generation: current.generation + 1, renewals: current.renewals, ..fresh };
        }
    }

    /// Lets the next request ask for new credentials, because DynamoDB did not accept the credentials of this pool.
    fn renew_credentials(&self, pool: &Pool) {
        let mut current = self.current();
        if current.renewals == pool.renewals {
            let cache = IdentityCache::lazy().build();
            let fresh = Pool::new(&self.config, current.http_client.clone(), Some(cache));
            let (generation, responded_at) = (current.generation, current.responded_at);
            *current = Pool { generation, responded_at, renewals: current.renewals + 1, ..fresh };
        }
    }

    /// The pool for the next request, as it is now.
    fn pool(&self) -> Pool {
        self.current().clone()
    }

    fn current(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of a request whose time is over, if its response has arrived already. A process that was stalled finds the response
/// and the end of the time at once, and what the response reports must be counted.
async fn arrived<T>(mut sending: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    for _ in 0..TURNS {
        if let Some(result) = sending.as_mut().now_or_never() {
            return Some(result);
        }
        yield_now().await;
    }
    None
}

impl Pool {
    fn new(config: &SdkConfig, http_client: SharedHttpClient, credentials: Option<SharedIdentityCache>) -> Self {
        let mut builder = config::Builder::from(config).interceptor(WithoutDescriptions);
        builder.set_http_client(Some(http_client.clone()));
        if let Some(credentials) = credentials.clone() {
            builder.set_identity_cache(credentials);
        }
        let client = Client::from_conf(builder.build());
        Self { client, http_client, credentials, generation: 0, renewals: 0, responded_at: None }
    }

    /// Whether these connections have responded before, but not recently: they may have died in a pause.
    fn may_be_dead(&self) -> bool {
        self.responded_at.is_some_and(|responded_at| responded_at.elapsed() > PROVEN_FOR)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sdk_dynamodb::operation::get_item::GetItemError;
    use tokio::time::advance;

    use super::*;

    fn connections() -> Connections {
        Connections::new(SdkConfig::builder().behavior_version(BehaviorVersion::v2026_01_12()).build(), http_client)
    }

    #[tokio::test(start_paused = true)]
    async fn connections_may_be_dead_if_they_have_responded_but_not_in_the_last_second() {
        let connections = connections();
        advance(Duration::from_secs(9)).await;
        assert!(!connections.pool().may_be_dead(), "there are none");
        connections.responded(&connections.pool());
        advance(PROVEN_FOR).await;
        assert!(!connections.pool().may_be_dead());
        advance(Duration::from_millis(1)).await;
        assert!(connections.pool().may_be_dead());
        connections.responded(&connections.pool());
        assert!(!connections.pool().may_be_dead());
        assert_eq!(connections.responses.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_of_replaced_connections_says_nothing_about_the_new_ones() {
        let connections = connections();
        for generation in 1..3 {
            let old = connections.pool();
            connections.replace(&old);
            // Another request on the old connections fails, and a third gets a response.
            connections.replace(&old);
            connections.responded(&old);
            advance(2 * PROVEN_FOR).await;
            assert!(!connections.pool().may_be_dead());
            assert_eq!(connections.pool().generation, generation);
        }
        assert_eq!(connections.responses.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_replaces_the_others_only_if_they_may_be_dead() {
        let connections = connections();
        let table = Table { name: "the-table".to_owned(), index: "the-index".to_owned() };
        let timeout = Timeout { patience: Duration::from_secs(1), end: Instant::now() + Duration::from_secs(1) };
        let terms = Terms { operation: "GetItem", table: &table, timeout };
        let lose = || {
            let lost: Result<(), SdkError<GetItemError>> = Err(SdkError::timeout_error("no response"));
            assert!(connections.understood(terms, &connections.pool(), lost).is_err());
            connections.pool().generation
        };
        connections.responded(&connections.pool());
        assert_eq!(lose(), 0);
        advance(2 * PROVEN_FOR).await;
        assert_eq!(lose(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_renewed_once_for_all_requests_that_were_signed_with_them_and_connections_are_kept() {
        let connections = connections();
        connections.replace(&connections.pool());
        connections.responded(&connections.pool());
        let old = connections.pool();
        connections.renew_credentials(&old);
        connections.renew_credentials(&old);
        let renewed = connections.pool();
        assert_eq!((renewed.renewals, renewed.generation, renewed.responded_at), (1, old.generation, old.responded_at));
        connections.replace(&renewed);
        assert_eq!(connections.current().renewals, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_begins_anew_with_every_response_but_ends_at_the_deadline() {
        let connections = connections();
        let begin = Instant::now();
        let timeout = Timeout { patience: Duration::from_millis(250), end: begin + Duration::from_secs(2) };
        let answer_until = async |end: u128| {
            while begin.elapsed().as_millis() < end {
                sleep(Duration::from_millis(1)).await;
                connections.responded(&connections.pool());
            }
            sleep(Duration::from_hours(1)).await;
        };
        let silence = async |end: u128| {
            select! {
                biased;
                () = answer_until(end) => false,
                is_silent = connections.silence(timeout) => is_silent,
            }
        };
        assert!(silence(0).await);
        assert_eq!(begin.elapsed().as_millis(), 250);
        assert!(silence(1_000).await);
        assert_eq!(begin.elapsed().as_millis(), 1_250);
        assert!(!silence(9_000).await);
        assert_eq!(begin.elapsed().as_millis(), 2_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_on_its_way_through_the_process_has_arrived_and_none_is_waited_for() {
        let begin = Instant::now();
        let response = pin!(async {
            for _ in 0..TURNS - 1 {
                yield_now().await;
            }
            "response"
        });
        assert_eq!(arrived(response).await, Some("response"));
        assert_eq!(arrived(pin!(std::future::pending::<()>())).await, None);
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
