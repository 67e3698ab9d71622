//! The sessions table, as an application writes it and as a person wants to see it.

use std::error::Error;
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{Credentials, Region};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, ReturnValue, TableDescription, TimeToLiveDescription,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_runtime_api::client::http::{SharedHttpClient, http_client_fn};
use disable_my_other_sessions::session::Token;

use super::Problem;
use super::call::connector;
use super::items::{Item, Sample};

/// How many items one request may ask for.
const BATCH: usize = 100;

pub struct Table {
    client: Client,
    name: String,
    index: String,
}

/// A session that was just made.
pub struct Created {
    pub token: String,
    pub session_id: String,
    /// In epoch seconds, as all times here.
    pub expires_at: u64,
}

/// What there is to show of a session. Applications differ in what they write, so nothing need be there.
pub struct Row {
    pub session_id: Option<String>,
    pub status: Option<String>,
    pub created_at: Option<u64>,
    pub expires_at: Option<u64>,
    pub revoked_at: Option<u64>,
    pub revoked_by: Option<String>,
}

impl Table {
    /// The table in the DynamoDB on a port of this machine, or in the one that the environment says.
    pub async fn connect(name: String, index: String, local: Option<NonZeroU16>) -> Result<Self, Problem> {
        let timeouts = TimeoutConfig::builder().operation_timeout(Duration::from_secs(30)).build();
        let config = if let Some(port) = local {
            // Without the environment: with AWS_USE_FIPS_ENDPOINT, also in a profile, the SDK refuses this endpoint, and a
            // proxy cannot reach this machine.
            SdkConfig::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .endpoint_url(format!("http://127.0.0.1:{port}"))
                .region(Region::new("eu-central-1"))
                .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                    "local", "local", None, None, "--local",
                )))
                .http_client(http_client(ProxyConfig::disabled()))
                .timeout_config(timeouts)
                .build()
        } else {
            aws_config::defaults(BehaviorVersion::v2026_01_12())
                .http_client(http_client(ProxyConfig::from_env()))
                .timeout_config(timeouts)
                .load()
                .await
        };
        if config.region().is_none_or(|region| region.as_ref().is_empty()) {
            return Err(
                "no region: set AWS_REGION or AWS_PROFILE, or say --local for the DynamoDB of `make run`".into()
            );
        }
        Ok(Self { client: Client::new(&config), name, index })
    }

    /// Writes a session with a random token, as an application does when a user signs in.
    pub async fn create(&self, user: &str, seconds: u64) -> Result<Created, Problem> {
        let (token, session_id) = (random::<32>()?, random::<16>()?);
        let now = now();
        let created = Created { token, session_id, expires_at: now + seconds };
        self.client
            .put_item()
            .table_name(&self.name)
            .item("token_hash", AttributeValue::S(Token::parse(created.token.as_bytes())?.hash().as_str().to_owned()))
            .item("session_id", AttributeValue::S(created.session_id.clone()))
            .item("user_id", AttributeValue::S(user.to_owned()))
            .item("status", AttributeValue::S("active".to_owned()))
            .item("created_at", AttributeValue::N(now.to_string()))
            .item("authenticated_at", AttributeValue::N(now.to_string()))
            .item("expires_at", AttributeValue::N(created.expires_at.to_string()))
            .condition_expression("attribute_not_exists(token_hash)")
            .send()
            .await
            .map_err(|error| self.problem(&error))?;
        Ok(created)
    }

    /// A user's sessions that the index shows, as the table holds them, oldest first.
    pub async fn list(&self, user: &str) -> Result<Vec<Row>, Problem> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.name)
            .index_name(&self.index)
            .key_condition_expression("user_id = :user")
            .expression_attribute_values(":user", AttributeValue::S(user.to_owned()))
            .projection_expression("token_hash")
            .into_paginator()
            .send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            keys.extend(page.map_err(|error| self.problem(&error))?.items.unwrap_or_default());
        }
        let mut rows = Vec::new();
        for keys in keys.chunks(BATCH) {
            rows.extend(self.read(keys).await?.iter().map(Row::of));
        }
        rows.sort_by(|a, b| (a.created_at, &a.session_id).cmp(&(b.created_at, &b.session_id)));
        Ok(rows)
    }

    /// The index holds no more than keys and status, and holds them late; here is what the table itself says.
    async fn read(&self, keys: &[Item]) -> Result<Vec<Item>, Problem> {
        let mut items = Vec::new();
        let mut left = keys.to_vec();
        let mut pause = Duration::from_millis(50);
        while !left.is_empty() {
            let wanted = KeysAndAttributes::builder().set_keys(Some(left)).consistent_read(true).build()?;
            let answer = self.client.batch_get_item().request_items(&self.name, wanted).send().await;
            let answer = answer.map_err(|error| self.problem(&error))?;
            items.extend(answer.responses.unwrap_or_default().remove(&self.name).unwrap_or_default());
            left = answer
                .unprocessed_keys
                .unwrap_or_default()
                .remove(&self.name)
                .map(|keys| keys.keys)
                .unwrap_or_default();
            if !left.is_empty() {
                if pause > Duration::from_secs(10) {
                    return Err("DynamoDB throttles: try again later".into());
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
        Ok(items)
    }

    pub fn index(&self) -> &str {
        &self.index
    }

    pub async fn describe(&self) -> Result<TableDescription, Problem> {
        let answer = self.client.describe_table().table_name(&self.name).send().await;
        answer.map_err(|error| self.problem(&error))?.table.ok_or_else(|| "DynamoDB described no table".into())
    }

    pub async fn time_to_live(&self) -> Result<TimeToLiveDescription, Problem> {
        let answer = self.client.describe_time_to_live().table_name(&self.name).send().await;
        let description = answer.map_err(|error| self.problem(&error))?.time_to_live_description;
        description.ok_or_else(|| "DynamoDB described no TTL".into())
    }

    /// The defects of the first `items` of the table, whose TTL is on this attribute. They are a fair sample, since a table is
    /// in the order of hashes of its keys. Items are read as a whole: a projection would cost as much, and hide their sizes.
    pub async fn sample(&self, items: u32, ttl: Option<&str>) -> Result<Sample, Problem> {
        let mut sample = Sample::new(ttl);
        let mut start = None;
        while sample.items < u64::from(items) {
            let remaining = i32::try_from(u64::from(items) - sample.items)?;
            let request = self.client.scan().table_name(&self.name).limit(remaining).set_exclusive_start_key(start);
            let page = request.send().await.map_err(|error| self.problem(&error))?;
            for item in page.items() {
                sample.add(item);
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                break;
            }
        }
        Ok(sample)
    }

    /// Deletes the session of a token: whether there was one.
    pub async fn delete(&self, token: &Token) -> Result<bool, Problem> {
        let request = self
            .client
            .delete_item()
            .table_name(&self.name)
            .key("token_hash", AttributeValue::S(token.hash().as_str().to_owned()))
            .return_values(ReturnValue::AllOld);
        let answer = request.send().await.map_err(|error| self.problem(&error))?;
        Ok(answer.attributes.is_some())
    }

    /// What DynamoDB says, or why it cannot be asked.
    fn problem<E>(&self, error: &SdkError<E>) -> Problem
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let what = match error.as_service_error() {
            Some(refusal) => {
                format!("{}: {}", refusal.code().unwrap_or("error"), refusal.message().unwrap_or("no reason given"))
            }
            None => causes(error),
        };
        format!("DynamoDB, table {}: {what}", super::visible(&self.name)).into()
    }
}

impl Row {
    fn of(item: &Item) -> Self {
        let text = |name| item.get(name).and_then(|value| value.as_s().ok()).cloned();
        let number = |name| item.get(name).and_then(|value| value.as_n().ok()?.parse().ok());
        Self {
            session_id: text("session_id"),
            status: text("status"),
            created_at: number("created_at"),
            expires_at: number("expires_at"),
            revoked_at: number("revoked_at"),
            revoked_by: text("revoked_by"),
        }
    }

    pub fn is_expired(&self) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now())
    }
}

fn http_client(proxy: ProxyConfig) -> SharedHttpClient {
    let connector = connector(proxy);
    http_client_fn(move |_, _| connector.clone())
}

/// An error and what has led to it.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some errors repeat their cause.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// So many bytes of the operating system's randomness, as hexadecimal digits.
fn random<const BYTES: usize>() -> Result<String, Problem> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| format!("no randomness: {error}"))?;
    Ok(hex::encode(bytes))
}

/// Epoch seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
