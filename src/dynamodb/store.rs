//! The sessions table: every attribute name, expression and statement. Each operation is one request; whoever sends it again
//! must know what became of the first.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::time::SystemTime;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::batch_execute_statement::BatchExecuteStatementInput;
use aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemInput;
use aws_sdk_dynamodb::operation::get_item::GetItemInput;
use aws_sdk_dynamodb::operation::query::QueryInput;
use aws_sdk_dynamodb::types::{AttributeValue, BatchStatementRequest, KeysAndAttributes};
use futures_util::future::select_ok;
use lambda_http::tracing::warn;
use tokio::select;
use tokio::time::Instant;

use crate::config::Table;
use crate::dynamodb::client::Connections;
use crate::dynamodb::failure::{StoreError, Written, classify, judge};
use crate::rules::budget::{CONNECT_TIMEOUT, HEDGE_AFTER, Timeout};
use crate::session::{Clock, Inactive, Revocation, Session, TokenHash, UserId, since_epoch};

/// An item of the table, or of the index.
type Item = HashMap<String, AttributeValue>;

/// Access to the sessions table.
#[derive(Debug)]
pub struct Store {
    connections: Connections,
    table: Table,
    revoke_statement: String,
}

/// What a strongly consistent read shows of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It belongs to the user and is not revoked.
    Live,
    /// This very call has revoked it.
    RevokedByThis,
    /// There is nothing to revoke: it is revoked by someone else, gone, or of another user.
    NothingToRevoke,
}

/// One page of a user's sessions as the index shows them.
#[derive(Debug)]
pub struct Page {
    /// Sessions that are not shown as revoked.
    pub token_hashes: Vec<TokenHash>,
    /// Index entries that DynamoDB has read for this page, revoked ones included.
    pub scanned: u64,
    /// Where the next page begins; `None` after the last page.
    pub next: Option<Cursor>,
}

/// A position between two pages.
#[derive(Clone, Default)]
pub struct Cursor(Item);

impl Store {
    /// A store in this table.
    #[must_use]
    pub fn new(connections: Connections, table: Table) -> Self {
        // The condition on the owner protects a session that has been moved to another user meanwhile. The condition on the
        // status makes the answer say who changed the session; it holds for a missing status too. Unlike UpdateItem, the
        // statement does not create an item that TTL has just deleted.
        let revoke_statement = format!(
            r#"UPDATE "{}" SET "status"='revoked' SET "revoked_at"=? SET "revoked_by"=? SET "revocation_id"=? WHERE "token_hash"=? AND "user_id"=? AND "status"<>'revoked'"#,
            table.name
        );
        Self { connections, table, revoke_statement }
    }

    /// Opens two connections to DynamoDB, so that the first call finds them open: it writes, and reads the index again, at the
    /// same time. A failure is logged, and not returned: the first call reports it to its client.
    pub async fn connect(&self) {
        let (first, second) = tokio::join!(self.open_connection(), self.open_connection());
        if let Err(error) = first.and(second) {
            warn!("DynamoDB cannot be used: {error}");
        }
    }

    async fn open_connection(&self) -> Result<(), StoreError> {
        let timeout = Timeout { patience: CONNECT_TIMEOUT, end: Instant::now() + CONNECT_TIMEOUT };
        // No token has this hash.
        self.authenticate(&TokenHash::from_table("none"), SystemTime::now, timeout).await.map(drop)
    }

    /// The session of a token, if it is active at the time of `clock` after the read. Strongly consistent, so that a session
    /// that was revoked a moment ago cannot revoke others.
    ///
    /// # Errors
    /// [`StoreError`], also for an active session without `user_id` or `session_id`.
    pub async fn authenticate(
        &self,
        token_hash: &TokenHash,
        clock: Clock,
        timeout: Timeout,
    ) -> Result<Result<Session, Inactive>, StoreError> {
        let request = GetItemInput::builder()
            .table_name(&self.table.name)
            .key("token_hash", string(token_hash.as_str()))
            .consistent_read(true)
            .projection_expression("session_id, user_id, #status, expires_at, authenticated_at")
            .expression_attribute_names("#status", "status");
        let send = |client: Client| {
            let request = request.clone();
            async move { request.send_with(&client).await }
        };
        let output = self.read("GetItem", timeout, send).await?;
        let Some(item) = output.item else { return Ok(Err(Inactive::Unknown)) };
        if let Err(inactive) = check_active(&item, clock()) {
            return Ok(Err(inactive));
        }
        let required = |name| text(&item, name).filter(|value| !value.is_empty()).ok_or(StoreError::BadItem(name));
        Ok(Ok(Session {
            token_hash: token_hash.clone(),
            session_id: required("session_id")?.to_owned(),
            user_id: UserId(required("user_id")?.to_owned()),
            authenticated_at: moment(&item, "authenticated_at"),
        }))
    }

    /// A page of the user's sessions that the index does not show as revoked. What it shows may be out of date.
    ///
    /// # Errors
    /// [`StoreError`], also for an entry without a key: to skip it would be to leave its session signed in.
    pub async fn page(
        &self,
        user: &UserId,
        from: Option<Cursor>,
        size: i32,
        timeout: Timeout,
    ) -> Result<Page, StoreError> {
        let request = QueryInput::builder()
            .table_name(&self.table.name)
            .index_name(&self.table.index)
            .key_condition_expression("user_id = :user")
            .filter_expression("attribute_not_exists(#status) OR #status <> :revoked")
            .projection_expression("token_hash")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":user", string(&user.0))
            .expression_attribute_values(":revoked", string("revoked"))
            .limit(size)
            .set_exclusive_start_key(from.map(|cursor| cursor.0));
        let send = |client: Client| {
            let request = request.clone();
            async move { request.send_with(&client).await }
        };
        let output = self.read("Query", timeout, send).await?;
        Ok(Page {
            token_hashes: output.items.unwrap_or_default().iter().map(token_hash).collect::<Result<_, _>>()?,
            scanned: output.scanned_count.try_into().unwrap_or_default(),
            next: output.last_evaluated_key.filter(|key| !key.is_empty()).map(Cursor),
        })
    }

    /// Updates up to [`Limits::batch`](crate::rules::schedule::Limits::batch) sessions of the user to revoked, each on condition that it is not revoked yet: one result
    /// for each, in their order.
    ///
    /// The items that fail the condition are not asked for (`ALL_OLD`): the service does not always send them, and a batch of
    /// them can be 10 MB. [`Store::states`] reads what matters.
    ///
    /// # Errors
    /// [`StoreError`] if there is no result for any of them.
    pub async fn revoke(
        &self,
        user: &UserId,
        token_hashes: &[TokenHash],
        revocation: &Revocation,
        timeout: Timeout,
    ) -> Result<Vec<Result<Written, StoreError>>, StoreError> {
        const OPERATION: &str = "BatchExecuteStatement";
        let statements = token_hashes.iter().map(|token_hash| {
            BatchStatementRequest::builder()
                .statement(&self.revoke_statement)
                .parameters(AttributeValue::N(revocation.at.to_string()))
                .parameters(string(&revocation.by))
                .parameters(string(&revocation.id))
                .parameters(string(token_hash.as_str()))
                .parameters(string(&user.0))
                .build()
        });
        let statements = statements.collect::<Result<Vec<_>, _>>();
        let request = BatchExecuteStatementInput::builder().set_statements(statements.ok());
        let send = |client: Client| async move { request.send_with(&client).await };
        let output = self.request(OPERATION, timeout, send).await?;
        let mut responses = output.responses.unwrap_or_default().into_iter();
        // What a statement without a response has done is unknown.
        let missing = || Err(StoreError::unreadable(OPERATION));
        let result = |_| responses.next().map_or_else(missing, |response| judge(&self.table, &response));
        Ok(token_hashes.iter().map(result).collect())
    }

    /// A strongly consistent read of up to [`Limits::batch`](crate::rules::schedule::Limits::batch) sessions of the user: the state of each, in their order; `None` for
    /// those that DynamoDB did not read this time.
    ///
    /// # Errors
    /// [`StoreError`] if none of them was read.
    pub async fn states(
        &self,
        user: &UserId,
        token_hashes: &[TokenHash],
        revocation: &Revocation,
        timeout: Timeout,
    ) -> Result<Vec<Option<State>>, StoreError> {
        const OPERATION: &str = "BatchGetItem";
        let key = |token_hash: &TokenHash| HashMap::from([("token_hash".to_owned(), string(token_hash.as_str()))]);
        let keys = KeysAndAttributes::builder()
            .set_keys(Some(token_hashes.iter().map(key).collect()))
            .consistent_read(true)
            .projection_expression("token_hash, user_id, #status, revocation_id")
            .expression_attribute_names("#status", "status")
            .build();
        let request = BatchGetItemInput::builder()
            .set_request_items(keys.ok().map(|keys| HashMap::from([(self.table.name.clone(), keys)])));
        let send = |client: Client| {
            let request = request.clone();
            async move { request.send_with(&client).await }
        };
        let mut output = self.read(OPERATION, timeout, send).await?;
        // A session that is neither among the items nor unprocessed is gone, so the list of items must be there and readable.
        let items = output.responses.as_mut().and_then(|tables| tables.remove(&self.table.name));
        let items = items.ok_or_else(|| StoreError::unreadable(OPERATION))?;
        let items = items.iter().map(|item| Some((text(item, "token_hash")?, item))).collect::<Option<HashMap<_, _>>>();
        let items = items.ok_or_else(|| StoreError::unreadable(OPERATION))?;
        let unprocessed = output.unprocessed_keys.iter().flat_map(HashMap::values).flat_map(|keys| &keys.keys);
        let unprocessed: Vec<_> = unprocessed.filter_map(|key| text(key, "token_hash")).collect();
        let state = |token_hash: &TokenHash| match items.get(token_hash.as_str()) {
            Some(item) => Some(state_of(item, user, revocation)),
            None if unprocessed.contains(&token_hash.as_str()) => None,
            None => Some(State::NothingToRevoke),
        };
        Ok(token_hashes.iter().map(state).collect())
    }

    /// Sends a read. If the connections may have died in a pause, and there is no response soon, the same read is sent on a
    /// new connection beside it: the first response counts.
    async fn read<T, E, F>(
        &self,
        operation: &'static str,
        timeout: Timeout,
        send: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let pool = self.connections.pool();
        let mut first = Box::pin(self.request(operation, timeout, &send));
        if !pool.may_be_dead() {
            return first.await;
        }
        let soon = Timeout { patience: HEDGE_AFTER, ..timeout };
        select! {
            biased;
            result = &mut first => return result,
            _ = soon.run_out(|| self.connections.responses()) => self.connections.give_up(&pool),
        }
        select_ok([first, Box::pin(self.request(operation, timeout, &send))]).await.map(|(response, _)| response)
    }

    /// Sends a request and waits for its response.
    async fn request<T, E, F>(
        &self,
        operation: &'static str,
        timeout: Timeout,
        send: impl FnOnce(Client) -> F,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let pool = self.connections.pool();
        let may_be_dead = pool.may_be_dead();
        select! {
            biased;
            result = send(pool.client.clone()) => {
                if matches!(result, Ok(_) | Err(SdkError::ServiceError(_))) {
                    self.connections.answered(&pool);
                }
                let result = result.map_err(|error| classify(operation, &self.table, &error));
                // One that died in a pause is probably not the only one.
                if may_be_dead && result.as_ref().is_err_and(|error| !error.needs_backoff()) {
                    self.connections.give_up(&pool);
                }
                result
            }
            is_silent = timeout.run_out(|| self.connections.responses()) => {
                if is_silent {
                    self.connections.give_up(&pool);
                }
                Err(StoreError::no_response(operation, timeout.patience))
            }
        }
    }
}

/// Whether the item of a session says that it is active.
fn check_active(item: &Item, now: SystemTime) -> Result<(), Inactive> {
    if text(item, "status") != Some("active") {
        return Err(Inactive::NotActive);
    }
    let expires_at = moment(item, "expires_at").ok_or(Inactive::UnusableExpiry)?;
    // A session expires at the start of the second `expires_at`.
    if expires_at <= since_epoch(now).as_secs_f64() { Err(Inactive::Expired) } else { Ok(()) }
}

/// What the item of a session says about it.
fn state_of(item: &Item, user: &UserId, revocation: &Revocation) -> State {
    if text(item, "user_id") != Some(&user.0) {
        State::NothingToRevoke
    } else if text(item, "status") != Some("revoked") {
        State::Live
    } else if text(item, "revocation_id") == Some(&revocation.id) {
        State::RevokedByThis
    } else {
        State::NothingToRevoke
    }
}

fn token_hash(entry: &Item) -> Result<TokenHash, StoreError> {
    text(entry, "token_hash").map(TokenHash::from_table).ok_or(StoreError::BadItem("token_hash"))
}

fn string(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// Epoch seconds. DynamoDB's numbers may have a fraction or an exponent.
fn moment(item: &Item, name: &str) -> Option<f64> {
    item.get(name)?.as_n().ok()?.parse().ok().filter(|moment: &f64| moment.is_finite())
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cursor(redacted)")
    }
}
