//! An embedded DynamoDB with the table of `template.yaml`, and sessions to put into it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, PutRequest, ScalarAttributeType, WriteRequest,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::yaml::{list, resource, string};

pub const INDEX: &str = "user_id-index";

/// An item as tests read it: the value of each attribute after its type, such as `S:active` or `N:1`.
pub type Row = BTreeMap<String, String>;

/// A database that no other test uses.
#[derive(Clone)]
pub struct Database {
    pub address: SocketAddr,
    /// Name of the table.
    pub table: String,
    client: Client,
    /// The server ends with the last clone.
    _running: Option<Arc<oneshot::Sender<()>>>,
}

/// A session as an application would write it, and the token that it would give to the user.
#[derive(Clone, Debug)]
pub struct Session {
    pub token: String,
    pub item: HashMap<String, AttributeValue>,
}

impl Database {
    /// Starts a database with an empty table. It listens on `address`; port 0 stands for any free port. It runs on a thread
    /// of its own, so that its work does not delay the function under test.
    pub async fn start(address: SocketAddr) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (running, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let database = dynoxide::Database::memory().expect("a database in memory");
                let server = dynoxide::server::serve_with_shutdown(listener, database, std::future::pending());
                tokio::select! {
                    result = server => result.expect("a server"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { _running: Some(Arc::new(running)), ..Self::connect(address, "sessions").await })
    }

    /// Creates the table in a database that is running.
    pub async fn connect(address: SocketAddr, table: &str) -> Self {
        let database =
            Self { address, table: table.to_owned(), client: client(&format!("http://{address}")), _running: None };
        database.create_table().await;
        database
    }

    async fn create_table(&self) {
        let table = resource("SessionsTable");
        let index = &table["GlobalSecondaryIndexes"][0];
        let attributes = list(&table["AttributeDefinitions"]).map(|attribute| {
            AttributeDefinition::builder()
                .attribute_name(string(&attribute["AttributeName"]))
                .attribute_type(ScalarAttributeType::from(string(&attribute["AttributeType"])))
                .build()
                .expect("an attribute definition")
        });
        let index = GlobalSecondaryIndex::builder()
            .index_name(string(&index["IndexName"]))
            .set_key_schema(Some(key_schema(&index["KeySchema"])))
            .projection(
                Projection::builder()
                    .projection_type(ProjectionType::from(string(&index["Projection"]["ProjectionType"])))
                    .set_non_key_attributes(Some(
                        list(&index["Projection"]["NonKeyAttributes"]).map(|name| string(name).to_owned()).collect(),
                    ))
                    .build(),
            )
            .build()
            .expect("an index");
        self.client
            .create_table()
            .table_name(&self.table)
            .billing_mode(BillingMode::from(string(&table["BillingMode"])))
            .set_attribute_definitions(Some(attributes.collect()))
            .set_key_schema(Some(key_schema(&table["KeySchema"])))
            .global_secondary_indexes(index)
            .send()
            .await
            .expect("the table to be created");
    }

    /// Writes sessions, replacing those with the same token.
    pub async fn put(&self, sessions: &[Session]) {
        for sessions in sessions.chunks(25) {
            let requests = sessions.iter().map(|session| {
                let put = PutRequest::builder().set_item(Some(session.item.clone())).build().expect("an item");
                WriteRequest::builder().put_request(put).build()
            });
            let request = self.client.batch_write_item().request_items(&self.table, requests.collect());
            let unprocessed = request.send().await.expect("sessions to be written").unprocessed_items;
            assert!(unprocessed.is_none_or(|items| items.is_empty()), "the emulator left items unprocessed");
        }
    }

    /// Deletes a session, as TTL does.
    pub async fn delete(&self, session: &Session) {
        let key = session.item["token_hash"].clone();
        self.client.delete_item().table_name(&self.table).key("token_hash", key).send().await.expect("a deletion");
    }

    /// The whole table by `session_id`, or by `token_hash` where an item has none.
    pub async fn rows(&self) -> BTreeMap<String, Row> {
        let mut rows = BTreeMap::new();
        let mut pages = self.client.scan().table_name(&self.table).consistent_read(true).into_paginator().send();
        while let Some(page) = pages.next().await {
            for item in page.expect("a page").items.unwrap_or_default() {
                let row: Row = item.iter().map(|(name, value)| (name.clone(), notation(value))).collect();
                let id = row.get("session_id").or(row.get("token_hash")).expect("an id").clone();
                rows.insert(id.trim_start_matches("S:").to_owned(), row);
            }
        }
        rows
    }
}

impl Session {
    /// An active session of a user that expires in an hour. Its token is its id with a prefix.
    pub fn of(user: &str, id: &str) -> Self {
        Self::with_token(user, id, &format!("token-{id}"))
    }

    /// The same with the given token.
    pub fn with_token(user: &str, id: &str, token: &str) -> Self {
        let hash = hex::encode(Sha256::digest(token));
        let session = Self { token: token.to_owned(), item: HashMap::new() };
        session
            .with("token_hash", s(&hash))
            .with("session_id", s(id))
            .with("user_id", s(user))
            .with("status", s("active"))
            .with("created_at", n(now() - 60))
            .with("expires_at", n(now() + 3600))
    }

    /// With an attribute set.
    pub fn with(mut self, name: &str, value: AttributeValue) -> Self {
        self.item.insert(name.to_owned(), value);
        self
    }

    /// With an attribute left out.
    pub fn without(mut self, name: &str) -> Self {
        self.item.remove(name);
        self
    }

    pub fn id(&self) -> &str {
        self.item["session_id"].as_s().expect("a string")
    }

    pub fn token_hash(&self) -> &str {
        self.item["token_hash"].as_s().expect("a string")
    }
}

/// Active sessions of a user: `alice-0`, `alice-1`, and so on.
pub fn sessions_of(user: &str, number: usize) -> Vec<Session> {
    (0..number).map(|index| Session::of(user, &format!("{user}-{index}"))).collect()
}

pub fn s(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

pub fn n(value: impl std::fmt::Display) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// Epoch seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// A client with the SDK's own settings, to write and read sessions with.
fn client(endpoint: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint)
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "tests"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

fn notation(value: &AttributeValue) -> String {
    match value {
        AttributeValue::S(value) => format!("S:{value}"),
        AttributeValue::N(value) => format!("N:{value}"),
        other => format!("{other:?}"),
    }
}

fn key_schema(keys: &Value) -> Vec<KeySchemaElement> {
    let element = |key: &Value| {
        KeySchemaElement::builder()
            .attribute_name(string(&key["AttributeName"]))
            .key_type(KeyType::from(string(&key["KeyType"])))
            .build()
            .expect("a key")
    };
    list(keys).map(element).collect()
}
