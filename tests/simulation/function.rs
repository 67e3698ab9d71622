//! The function as it is deployed, in a sandbox of Lambda's. Nothing of it is replaced but the clock, the randomness, and what is
//! behind the SDK's HTTP connector.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, UNIX_EPOCH};

use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_dynamodb::config::{Credentials, IdentityCache};
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use disable_my_other_sessions::config::{Config, Table};
use disable_my_other_sessions::dynamodb::client::{self, Connections};
use disable_my_other_sessions::dynamodb::store::Store;
use disable_my_other_sessions::handler::Handler;
use disable_my_other_sessions::http::event::Event;
use disable_my_other_sessions::http::origin::AllowedOrigins;
use disable_my_other_sessions::rules::limits::Limits;
use lambda_http::{Context, LambdaEvent, Service};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::dynamodb::{INDEX, TABLE};
use crate::network::http_client;
use crate::world::{World, as_call, now, wall_clock, with_world};

/// How long a call may take after its deadline until it is said not to end.
const NEVER: Duration = Duration::from_mins(2);
/// How often the function may be polled at one instant until it is said not to end.
const MOST_POLLS: u32 = 100_000;

type Answer = Pin<Box<dyn Future<Output = Value>>>;

/// A process with connections of its own, which serves one invocation after the other.
pub struct Sandbox {
    invoke: Box<dyn FnMut(LambdaEvent<Event>) -> Answer>,
}

/// The simulation's clock, for the SDK.
#[derive(Debug)]
struct VirtualTime;

impl TimeSource for VirtualTime {
    fn now(&self) -> std::time::SystemTime {
        wall_clock()
    }
}

/// Gives out another access key each time it is asked.
#[derive(Debug)]
struct Keys;

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let key = with_world(World::new_key);
        future::ProvideCredentials::ready(Ok(Credentials::new(key, "secret", None, None, "simulation")))
    }
}

thread_local! {
    static SDK_CONFIG: RefCell<Option<SdkConfig>> = const { RefCell::new(None) };
}

impl Sandbox {
    /// A cold start, for this call, with the limits of the plan.
    pub async fn start(call: usize) -> Self {
        let limits: Limits = with_world(|world| world.plan.limits);
        let config = Config {
            table: Table { name: TABLE.to_owned(), index: INDEX.to_owned() },
            cookie_name: "ory_kratos_session".to_owned(),
            allowed_origins: AllowedOrigins::default(),
            max_authentication_age: None,
            error_debug: true,
        };
        let loaded = SDK_CONFIG.with_borrow(Clone::clone);
        let loaded = match loaded {
            Some(loaded) => loaded,
            None => load().await,
        };
        // The cache of credentials draws from this trial's randomness, so it must not outlive the trial.
        let cache = IdentityCache::lazy().build();
        let sdk_config = loaded.into_builder().identity_cache(cache).http_client(http_client()).build();
        let store = Store::new(Connections::new(sdk_config, http_client), config.table.clone());
        as_call(call, store.connect()).await;
        let mut service = Handler::new(config, store, wall_clock).with_limits(limits).into_service();
        let invoke = move |event| -> Answer {
            let answer = service.call(event);
            Box::pin(async move { serde_json::to_value(answer.await.expect("an answer")).expect("JSON") })
        };
        Self { invoke: Box::new(invoke) }
    }

    /// Hands the function an event, as the bytes that Lambda has. The error is that of the invocation.
    pub async fn invoke(
        &mut self,
        call: usize,
        event: &[u8],
        lambda_id: &str,
        time: Duration,
    ) -> Result<Value, serde_json::Error> {
        let mut context = Context::default();
        lambda_id.clone_into(&mut context.request_id);
        let deadline = (wall_clock() + time).duration_since(UNIX_EPOCH).expect("a clock after 1970");
        context.deadline = deadline.as_millis().try_into().expect("milliseconds");
        let event: Event = serde_json::from_slice(event)?;
        let call = as_call(call, stalling(call, (self.invoke)(LambdaEvent::new(event, context))));
        Ok(timeout(time + NEVER, call).await.expect("the call to end"))
    }
}

/// The same, but when the world says so, it gets no CPU for a while.
async fn stalling<T>(call: usize, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut stall = None;
    let (mut polls, mut since) = (0, now());
    poll_fn(|context| {
        if stall.is_none() {
            stall = with_world(|world| world.stalls(call)).map(|time| Box::pin(sleep(time)));
        }
        if let Some(end) = &mut stall {
            if end.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            stall = None;
        }
        (polls, since) = if now() == since { (polls + 1, since) } else { (0, now()) };
        assert!(polls < MOST_POLLS, "the call does not end");
        future.as_mut().poll(context)
    })
    .await
}

/// The configuration as the binary makes it, but for where to connect to and whose clock it is.
async fn load() -> SdkConfig {
    let config = client::config()
        .endpoint_url("http://dynamodb.invalid")
        .region(Region::new("eu-central-1"))
        .credentials_provider(Keys)
        .time_source(SharedTimeSource::new(VirtualTime));
    let config = config.load().await;
    SDK_CONFIG.set(Some(config.clone()));
    config
}

#[test]
fn a_call_that_waits_for_nothing_does_not_run_for_ever() {
    let nothing = poll_fn(|context| {
        context.waker().wake_by_ref();
        std::task::Poll::<()>::Pending
    });
    let plan = crate::plan::Plan::of(0);
    let outcome = crate::world::run_with(&plan, false, || stalling(0, nothing));
    assert_eq!(outcome.wrong, ["a panic: the call does not end"]);
}
