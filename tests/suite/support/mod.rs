//! What the tests are made of. It depends on no test.
//!
//! | question | module |
//! |---|---|
//! | How do I make DynamoDB fail, and see the requests that it got? | `proxy` |
//! | How do I run the binary: under a Runtime API, or over HTTP? | `runtime`, `watch` |
//! | Everything else | `tests/support`, which other kinds of tests use too |

pub mod proxy;
pub mod runtime;
pub mod watch;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::config::Credentials;
use disable_my_other_sessions::config::{Config, Table};
use disable_my_other_sessions::dynamodb::client::{self, Connections};
use disable_my_other_sessions::dynamodb::store::Store;
use disable_my_other_sessions::handler::Handler;
use disable_my_other_sessions::http::event::Event;
use disable_my_other_sessions::http::origin::AllowedOrigins;
use lambda_http::{Context, LambdaEvent, Service};
use serde::Deserialize;
use serde_json::{Deserializer, Value};

pub use proxy::{Action, Proxy};
pub use test_support::answer::Answer;
pub use test_support::database::{Database, Row, Session, n, now, s, sessions_of};
pub use test_support::events::{Gateway, delete};
pub use test_support::{database, demo, events, gateway, role, runtime_api, yaml};

/// Reads an event as the runtime does, which ignores what follows it.
pub fn read_event(event: &[u8]) -> serde_json::Result<Event> {
    Event::deserialize(&mut Deserializer::from_slice(event))
}

/// The function on a database of its own, called as the Lambda runtime calls it.
#[derive(Clone)]
pub struct World {
    pub database: Database,
    pub proxy: Proxy,
    pub config: Config,
    pub sdk_config: SdkConfig,
    /// How long an invocation may take.
    pub timeout: Duration,
    invocations: Arc<AtomicUsize>,
}

impl World {
    /// An empty world. Its database is an embedded one, or a table of its own in the one at `DYNAMODB_ADDRESS`.
    pub async fn new() -> Self {
        let database = match std::env::var("DYNAMODB_ADDRESS") {
            Ok(address) => {
                static TABLES: AtomicUsize = AtomicUsize::new(0);
                let table = format!("sessions-{}-{}", std::process::id(), TABLES.fetch_add(1, Ordering::Relaxed));
                Database::connect(address.parse().expect("an address and a port"), &table).await
            }
            Err(_) => Database::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.expect("a database"),
        };
        let proxy = Proxy::start(database.address);
        let config = Config {
            table: Table { name: database.table.clone(), index: database::INDEX.to_owned() },
            cookie_name: "ory_kratos_session".to_owned(),
            allowed_origins: AllowedOrigins::parse("https://app.example.com").expect("origins"),
            max_authentication_age: None,
            error_debug: false,
        };
        // As the binary makes it, except for the endpoint, the region and the credentials.
        let sdk_config = client::config()
            .endpoint_url(format!("http://{}", proxy.address))
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("local", "local", None, None, "tests"));
        let sdk_config = sdk_config.load().await;
        Self { database, proxy, config, sdk_config, timeout: Duration::from_secs(29), invocations: Arc::default() }
    }

    /// A world with a caller and `others` more sessions of the same user.
    pub async fn with_others(others: usize) -> (Self, Session) {
        let world = Self::new().await;
        let caller = Session::of("alice", "caller");
        world.database.put(std::slice::from_ref(&caller)).await;
        world.database.put(&sessions_of("alice", others)).await;
        (world, caller)
    }

    /// Sends the function the event of a gateway, and returns the answer in the same gateway's format.
    pub async fn invoke(&self, event: &Value) -> Value {
        self.invoke_bytes(event.to_string().as_bytes()).await
    }

    /// Sends the function the event of a gateway, which need not be UTF-8.
    pub async fn invoke_bytes(&self, event: &[u8]) -> Value {
        let store =
            Store::new(Connections::new(self.sdk_config.clone(), client::http_client), self.config.table.clone());
        let mut service = Handler::new(self.config.clone(), store, SystemTime::now).into_service();
        let mut context = Context::default();
        context.request_id = runtime_api::request_id(self.invocations.fetch_add(1, Ordering::Relaxed));
        let deadline = (SystemTime::now() + self.timeout).duration_since(UNIX_EPOCH).expect("a clock after 1970");
        context.deadline = deadline.as_millis().try_into().expect("milliseconds");
        let event = read_event(event).expect("an event of a gateway");
        let answer = service.call(LambdaEvent::new(event, context)).await.expect("an answer");
        serde_json::to_value(answer).expect("JSON")
    }

    /// Sends the function a request.
    pub async fn send(&self, request: events::Request) -> Answer {
        Answer::from_gateway(&self.invoke(&request.into_event()).await)
    }

    /// Sends the request that revokes the user's other sessions, with the token of this caller.
    pub async fn press(&self, caller: &Session) -> Answer {
        self.send(delete().token(&caller.token)).await
    }
}

/// Changes the database within a rule of the proxy, before the rule's request is forwarded.
pub fn meanwhile(change: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(change);
    });
    thread.join().expect("the change");
}

/// How many sessions a call of this caller has to revoke: those of its user that are not revoked, except its own.
pub fn to_revoke(rows: &BTreeMap<String, Row>, caller: &Session) -> u64 {
    let own = &rows[caller.id()];
    let others = rows.values().filter(|row| row.get("user_id") == own.get("user_id") && *row != own);
    others.filter(|row| row.get("status").is_none_or(|status| status != "S:revoked")).count() as u64
}

/// How many rows are revoked.
pub fn revoked(rows: &BTreeMap<String, Row>) -> u64 {
    rows.values().filter(|row| row.get("status").is_some_and(|status| status == "S:revoked")).count() as u64
}

/// Asserts that nothing was written between two readings of the table but complete revocations.
#[track_caller]
pub fn assert_only_revocations(before: &BTreeMap<String, Row>, after: &BTreeMap<String, Row>) {
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "items were created or deleted");
    for (id, row) in after {
        if row == &before[id] {
            continue;
        }
        let mut row = row.clone();
        assert_eq!(row.insert("status".to_owned(), String::new()).as_deref(), Some("S:revoked"), "{id}");
        for attribute in ["revoked_at", "revoked_by", "revocation_id"] {
            assert!(row.remove(attribute).is_some(), "{id} lacks {attribute}");
        }
        let mut old = before[id].clone();
        assert_ne!(old.insert("status".to_owned(), String::new()).as_deref(), Some("S:revoked"), "{id}");
        assert_eq!(row, old, "{id} was changed");
    }
}

/// Asserts how many requests were sent. A database of another process may answer so late that some are sent again.
#[track_caller]
pub fn assert_requests(sent: usize, least: usize) {
    assert!(sent == least || sent > least && std::env::var_os("DYNAMODB_ADDRESS").is_some(), "{sent}, not {least}");
}
