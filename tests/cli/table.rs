//! The sessions table, as an application writes it and as a person wants to see it.

use std::error::Error;
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::BehaviorVersion;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{Credentials, Region};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, TableDescription, TimeToLiveStatus};
use aws_sdk_dynamodb::{Client, Config};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_runtime_api::client::http::{SharedHttpClient, http_client_fn};
use disable_my_other_sessions::session::Token;
use futures_util::stream::{StreamExt, TryStreamExt, iter};

use super::Problem;
use super::call::connector;
use super::items::{Item, Sample, number};

/// How many sessions are read at once.
const READS: usize = 20;

pub struct Table {
    client: Client,
    name: String,
    pub index: String,
}

/// A session that was just made.
pub struct Created {
    pub token: String,
    pub session_id: String,
    /// In epoch seconds, as all times here.
    pub expires_at: u64,
}

impl Table {
    /// The table in the DynamoDB on a port of this machine, or in the one that the environment says.
    pub async fn connect(name: String, index: String, local: Option<NonZeroU16>) -> Result<Self, Problem> {
        let version = BehaviorVersion::v2026_01_12();
        let timeouts = TimeoutConfig::builder().operation_timeout(Duration::from_secs(30)).build();
        let client = if let Some(port) = local {
            // Without the environment: with AWS_USE_FIPS_ENDPOINT, also in a profile, the SDK refuses this endpoint, and
            // a proxy cannot reach this machine.
            let config = Config::builder()
                .behavior_version(version)
                .endpoint_url(format!("http://127.0.0.1:{port}"))
                .region(Region::new("eu-central-1"))
                .credentials_provider(Credentials::new("local", "local", None, None, "--local"))
                .http_client(http_client(ProxyConfig::disabled()))
                .timeout_config(timeouts);
            Client::from_conf(config.build())
        } else {
            let http_client = http_client(ProxyConfig::from_env());
            let config = aws_config::defaults(version).http_client(http_client).timeout_config(timeouts).load().await;
            if config.region().is_none_or(|region| region.as_ref().is_empty()) {
                return Err(
                    "no region: set AWS_REGION or AWS_PROFILE, or say --local for the DynamoDB of `make run`".into()
                );
            }
            Client::new(&config)
        };
        Ok(Self { client, name, index })
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
            .send()
            .await
            .map_err(|error| self.problem(&error))?;
        Ok(created)
    }

    /// A user's sessions that the index shows, as the table holds them, oldest first. The index holds no more than keys and
    /// status, and holds them late.
    pub async fn list(&self, user: &str) -> Result<Vec<Item>, Problem> {
        let query = self
            .client
            .query()
            .table_name(&self.name)
            .index_name(&self.index)
            .key_condition_expression("user_id = :user")
            .expression_attribute_values(":user", AttributeValue::S(user.to_owned()))
            .projection_expression("token_hash");
        let keys: Result<Vec<Item>, _> = query.into_paginator().items().send().collect().await;
        let keys = keys.map_err(|error| self.problem(&error))?;
        let sessions = iter(keys).map(async |key| {
            let request = self.client.get_item().table_name(&self.name).set_key(Some(key)).consistent_read(true);
            request.send().await.map(|answer| answer.item)
        });
        let sessions: Vec<_> = sessions.buffered(READS).try_collect().await.map_err(|error| self.problem(&error))?;
        let mut sessions: Vec<Item> = sessions.into_iter().flatten().collect();
        let created_at = |session: &Item| number(session, "created_at").unwrap_or_default();
        sessions.sort_by(|a, b| created_at(a).total_cmp(&created_at(b)));
        Ok(sessions)
    }

    pub async fn describe(&self) -> Result<TableDescription, Problem> {
        let answer = self.client.describe_table().table_name(&self.name).send().await;
        answer.map_err(|error| self.problem(&error))?.table.ok_or_else(|| "DynamoDB described no table".into())
    }

    /// The attribute by which TTL deletes items, if it does.
    pub async fn ttl_attribute(&self) -> Result<Option<String>, Problem> {
        use TimeToLiveStatus::{Enabled, Enabling};
        let answer = self.client.describe_time_to_live().table_name(&self.name).send().await;
        let ttl = answer.map_err(|error| self.problem(&error))?.time_to_live_description;
        let ttl = ttl.filter(|ttl| matches!(ttl.time_to_live_status(), Some(Enabled | Enabling)));
        Ok(ttl.and_then(|ttl| ttl.attribute_name))
    }

    /// The defects of the first `items` of the table. They are a fair sample, since a table is in the order of hashes of its
    /// keys. Items are read as a whole: a projection would cost as much, and hide their sizes.
    pub async fn sample(&self, items: u32) -> Result<Sample, Problem> {
        let mut sample = Sample::new(self.ttl_attribute().await?.as_deref());
        let mut scanned =
            self.client.scan().table_name(&self.name).into_paginator().page_size(i32::try_from(items)?).items().send();
        while sample.items < u64::from(items)
            && let Some(item) = scanned.next().await
        {
            sample.add(&item.map_err(|error| self.problem(&error))?);
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
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
