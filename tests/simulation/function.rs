//! The function as it is deployed, in a sandbox of Lambda's. Nothing of it is replaced but the clock, the randomness, and what is
//! behind the SDK's HTTP connector.

use std::cell::RefCell;
use std::pin::Pin;
use std::time::{Duration, UNIX_EPOCH};

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, IdentityCache};
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use disable_my_other_sessions::config::{Config, Table};
use disable_my_other_sessions::dynamodb::client::{self, Connections};
use disable_my_other_sessions::dynamodb::store::Store;
use disable_my_other_sessions::handler::Handler;
use disable_my_other_sessions::http::event::Event;
use disable_my_other_sessions::http::origin::AllowedOrigins;
use lambda_http::{Context, LambdaEvent, Service};
use serde_json::Value;

use crate::dynamodb::{INDEX, TABLE};
use crate::network::http_client;
use crate::world::{as_call, wall_clock};

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

thread_local! {
    static SDK_CONFIG: RefCell<Option<SdkConfig>> = const { RefCell::new(None) };
}

impl Sandbox {
    /// A cold start, for this call.
    pub async fn start(call: usize) -> Self {
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
        let mut service = Handler::new(config, store, wall_clock).into_service();
        let invoke = move |event| -> Answer {
            let answer = service.call(event);
            Box::pin(async move { serde_json::to_value(answer.await.expect("an answer")).expect("JSON") })
        };
        Self { invoke: Box::new(invoke) }
    }

    /// Hands the function an event.
    pub async fn invoke(&mut self, call: usize, event: &Value, lambda_id: &str, timeout: Duration) -> Value {
        let mut context = Context::default();
        lambda_id.clone_into(&mut context.request_id);
        let deadline = (wall_clock() + timeout).duration_since(UNIX_EPOCH).expect("a clock after 1970");
        context.deadline = deadline.as_millis().try_into().expect("milliseconds");
        let event: Event = serde_json::from_value(event.clone()).expect("an event of a gateway");
        as_call(call, (self.invoke)(LambdaEvent::new(event, context))).await
    }
}

/// The configuration as the binary makes it, but for where to connect to and whose clock it is.
async fn load() -> SdkConfig {
    let config = client::config()
        .endpoint_url("http://dynamodb.invalid")
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "tests"))
        .time_source(SharedTimeSource::new(VirtualTime));
    let config = config.load().await;
    SDK_CONFIG.set(Some(config.clone()));
    config
}
