//! The sessions table: every attribute name, expression and statement. Each operation is one request and never retries: only the
//! rules know what a lost response may hide.
//!
//! A response counts only if it is complete. An incomplete response is a failure
//! ([`Cause::Unreadable`](crate::rules::evidence::Cause)), since a missing part could be a session that stays signed in:
//!
//! | operation | a complete response has |
//! |---|---|
//! | `GetItem` | no item (there is no such session), or an item with the requested key |
//! | `Query` | `Items`, as many as `Count` says; no `LastEvaluatedKey`, or another than the page before |
//! | `BatchExecuteStatement` | one response for each statement, with an `Error` or the name of the table |
//! | `BatchGetItem` | the table; only requested items and unprocessed keys, and none of them twice |

use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::batch_execute_statement::BatchExecuteStatementInput;
use aws_sdk_dynamodb::operation::batch_get_item::{BatchGetItemInput, BatchGetItemOutput};
use aws_sdk_dynamodb::operation::get_item::GetItemInput;
use aws_sdk_dynamodb::operation::query::{QueryInput, QueryOutput};
use aws_sdk_dynamodb::types::{AttributeValue, BatchStatementRequest, BatchStatementResponse, KeysAndAttributes};
use lambda_http::tracing::warn;
use tokio::time::Instant;

use super::client::{Connections, Terms};
use super::failure::{bad_entry, bad_item, of_statement, unreadable};
use crate::config::Table;
use crate::rules::budget::{CONNECT_TIMEOUT, Timeout};
use crate::rules::evidence::{Failure, Found, Page, Report};
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

/// Where a page of the index begins: the `LastEvaluatedKey` of the page before.
#[derive(Clone, PartialEq)]
pub struct Cursor(Item);

impl Store {
    /// The store of this table.
    #[must_use]
    pub fn new(connections: Connections, table: Table) -> Self {
        // The condition on the owner protects a session that was moved to another user meanwhile. The condition on the status
        // lets only one call change a session, so only one counts it. In PartiQL a comparison with a missing status is not true,
        // so `IS MISSING` is needed. Unlike UpdateItem, the statement does not create an item that TTL has just deleted.
        let revoke_statement = format!(
            r#"UPDATE "{}" SET "status"='revoked' SET "revoked_at"=? SET "revoked_by"=? SET "revocation_id"=? WHERE "token_hash"=? AND "user_id"=? AND ("status" IS MISSING OR "status"<>'revoked')"#,
            table.name
        );
        Self { connections, table, revoke_statement }
    }

    /// Opens two connections to DynamoDB, since a call writes and reads the index at the same time. A failure is only logged: the
    /// first call meets the same failure, and reports it to its client.
    pub async fn connect(&self) {
        let (first, second) = tokio::join!(self.open_connection(), self.open_connection());
        if let Err(error) = first.and(second) {
            warn!("DynamoDB cannot be used: {error}");
        }
    }

    async fn open_connection(&self) -> Result<(), Failure> {
        let timeout = Timeout { patience: CONNECT_TIMEOUT, end: Instant::now() + CONNECT_TIMEOUT };
        // No token has this hash.
        self.authenticate(&TokenHash::from_table("none"), SystemTime::now, timeout).await.map(drop)
    }

    /// The session of a token, if the session is active at the time of `clock` after the read. The read is strongly consistent,
    /// so that a session that was revoked a moment ago cannot revoke others.
    ///
    /// # Errors
    /// [`Failure`], also for an active session without `user_id` or `session_id`.
    pub async fn authenticate(
        &self,
        token_hash: &TokenHash,
        clock: Clock,
        timeout: Timeout,
    ) -> Result<Result<Session, Inactive>, Failure> {
        const OPERATION: &str = "GetItem";
        let request = GetItemInput::builder()
            .table_name(&self.table.name)
            .key("token_hash", string(token_hash.as_str()))
            .consistent_read(true)
            .projection_expression("token_hash, session_id, user_id, #status, expires_at, authenticated_at")
            .expression_attribute_names("#status", "status");
        let send = |client: Client| {
            let request = request.clone();
            async move { request.send_with(&client).await }
        };
        let output = self.connections.read(self.terms(OPERATION, timeout), send).await?;
        let Some(item) = output.item else { return Ok(Err(Inactive::Unknown)) };
        if text(&item, "token_hash") != Some(token_hash.as_str()) {
            return Err(unreadable(OPERATION));
        }
        if let Err(inactive) = check_active(&item, clock()) {
            return Ok(Err(inactive));
        }
        let required = |name| text(&item, name).filter(|value| !value.is_empty()).ok_or_else(|| bad_item(name));
        Ok(Ok(Session {
            token_hash: token_hash.clone(),
            session_id: required("session_id")?.to_owned(),
            user_id: UserId(required("user_id")?.to_owned()),
            authenticated_at: moment(&item, "authenticated_at"),
        }))
    }

    /// A page of the index: the user's sessions that it does not show as revoked, among up to `size` entries. `None` is the first
    /// page. The index may lag behind the table.
    ///
    /// # Errors
    /// [`Failure`], also for an entry without a key.
    pub async fn page(
        &self,
        user: &UserId,
        from: Option<Cursor>,
        size: i32,
        timeout: Timeout,
    ) -> Result<Page<Cursor>, Failure> {
        const OPERATION: &str = "Query";
        let start = from.clone().map(|cursor| cursor.0);
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
            .set_exclusive_start_key(start);
        let send = |client: Client| {
            let request = request.clone();
            async move { request.send_with(&client).await }
        };
        let output = self.connections.read(self.terms(OPERATION, timeout), send).await?;
        let page = complete_page(OPERATION, output)?;
        // A page that ends where it begins would be requested for ever.
        if page.next.is_some() && page.next == from { Err(unreadable(OPERATION)) } else { Ok(page) }
    }

    /// Writes sessions of the user as revoked, each on condition that it is not revoked yet. Returns one report for each session,
    /// in the order of `token_hashes`. `BatchExecuteStatement` takes up to 25.
    ///
    /// The request does not ask for the items whose condition fails (`ALL_OLD`): DynamoDB does not always send them, and a batch
    /// of items can be 10 MB. [`Store::find`] reads the few attributes that matter.
    ///
    /// # Errors
    /// [`Failure`] if the whole request failed: there is no report of any session.
    pub async fn revoke(
        &self,
        user: &UserId,
        token_hashes: &[TokenHash],
        revocation: &Revocation,
        timeout: Timeout,
    ) -> Result<Vec<Result<Report, Failure>>, Failure> {
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
        let output = self.connections.request(self.terms(OPERATION, timeout), send).await?;
        let responses = output.responses.unwrap_or_default();
        // Only its position says to which statement a response belongs.
        if responses.len() != token_hashes.len() {
            return Err(unreadable(OPERATION));
        }
        Ok(responses.iter().map(|response| self.report(response).ok_or_else(|| unreadable(OPERATION))?).collect())
    }

    /// The report in the response to one statement; `None` if the response is not complete.
    fn report(&self, response: &BatchStatementResponse) -> Option<Result<Report, Failure>> {
        match response.error() {
            Some(error) => Some(of_statement(&self.table, error).map_or(Ok(Report::ConditionFailed), Err)),
            None if response.table_name() == Some(&self.table.name) => Some(Ok(Report::Changed)),
            None => None,
        }
    }

    /// What a strongly consistent read finds of each session, in the order of `token_hashes`; `None` for a session that DynamoDB
    /// did not read this time. `BatchGetItem` takes up to 100.
    ///
    /// # Errors
    /// [`Failure`] if no session was read.
    pub async fn find(
        &self,
        user: &UserId,
        token_hashes: &[TokenHash],
        revocation: &Revocation,
        timeout: Timeout,
    ) -> Result<Vec<Option<Found>>, Failure> {
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
        let output = self.connections.read(self.terms(OPERATION, timeout), send).await?;
        let read = self.complete_read(&output, token_hashes).ok_or_else(|| unreadable(OPERATION))?;
        let found = |token_hash: &TokenHash| match read.get(token_hash.as_str()) {
            Some(Some(item)) => Some(found_in(item, user, revocation)),
            Some(None) => None,
            // The session is neither among the items nor unprocessed, so the table does not hold it.
            None => Some(Found::Ended),
        };
        Ok(token_hashes.iter().map(found).collect())
    }

    /// The items by their keys, with `None` for an unprocessed key. Returns `None` if the response is not complete.
    fn complete_read<'a>(
        &self,
        output: &'a BatchGetItemOutput,
        asked_for: &[TokenHash],
    ) -> Option<HashMap<&'a str, Option<&'a Item>>> {
        let items = output.responses()?.get(&self.table.name)?.iter().map(|item| (item, Some(item)));
        let unprocessed = output.unprocessed_keys().into_iter().flatten();
        let unprocessed = unprocessed.flat_map(|(_, keys)| keys.keys()).map(|key| (key, None));
        let mut read = HashMap::with_capacity(asked_for.len());
        for (key, item) in items.chain(unprocessed) {
            let key = text(key, "token_hash")?;
            let is_asked_for = asked_for.iter().any(|token_hash| token_hash.as_str() == key);
            if !is_asked_for || read.insert(key, item).is_some() {
                return None;
            }
        }
        Some(read)
    }

    fn terms(&self, operation: &'static str, timeout: Timeout) -> Terms<'_> {
        Terms { operation, table: &self.table, timeout }
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

/// The page in a response.
///
/// # Errors
/// [`Failure`] if the response is not complete, or an entry has no key: a skipped entry would leave its session signed in.
fn complete_page(operation: &'static str, output: QueryOutput) -> Result<Page<Cursor>, Failure> {
    let items = output.items.ok_or_else(|| unreadable(operation))?;
    let next = output.last_evaluated_key.filter(|key| !key.is_empty());
    let is_place = |key: &Item| text(key, "token_hash").is_some();
    if usize::try_from(output.count) != Ok(items.len()) || !next.as_ref().is_none_or(is_place) {
        return Err(unreadable(operation));
    }
    let token_hash = |entry| text(entry, "token_hash").map(TokenHash::from_table).ok_or_else(bad_entry);
    let sessions = items.iter().map(token_hash).collect::<Result<_, _>>()?;
    let entries = output.scanned_count.try_into().unwrap_or_default();
    Ok(Page { sessions, entries, next: next.map(Cursor) })
}

/// What the item of a session says about the session. A session that this call has revoked counts, whoever owns it now.
fn found_in(item: &Item, user: &UserId, revocation: &Revocation) -> Found {
    let is_revoked = text(item, "status") == Some("revoked");
    let revoked_by_function = item.get("revocation_id").is_some();
    if is_revoked && text(item, "revocation_id") == Some(&revocation.id) {
        Found::RevokedByThisCall
    } else if text(item, "user_id") != Some(&user.0) {
        Found::OfAnotherUser
    } else if !is_revoked {
        Found::Live
    } else if revoked_by_function {
        Found::RevokedByAnotherCall
    } else {
        Found::Ended
    }
}

fn string(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// A time in epoch seconds. DynamoDB's numbers may have a fraction or an exponent.
fn moment(item: &Item, name: &str) -> Option<f64> {
    item.get(name)?.as_n().ok()?.parse().ok().filter(|moment: &f64| moment.is_finite())
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cursor(redacted)")
    }
}
