//! The sessions table: every attribute name, expression and statement, and what each error of DynamoDB means. Reads are
//! tried again here; a write is one attempt, because whoever tries it again must know what became of the first.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::RequestId;
use aws_sdk_dynamodb::operation::batch_execute_statement::BatchExecuteStatementInput;
use aws_sdk_dynamodb::operation::get_item::GetItemInput;
use aws_sdk_dynamodb::operation::query::QueryInput;
use aws_sdk_dynamodb::types::{AttributeValue, BatchStatementRequest, BatchStatementResponse};
use lambda_http::tracing::debug;
use tokio::time::{Instant, timeout};

use crate::budget::{Attempts, Budget, CONNECT_TIMEOUT};
use crate::client::Connections;
use crate::config::Table;
use crate::session::{Clock, Revocation, Session, TokenHash, UserId, since_epoch};

/// Most statements that `BatchExecuteStatement` takes.
pub const BATCH_SIZE: usize = 25;

/// Index entries read at once: 80 full batches, and some 200 kB. A page as large as DynamoDB gives (1 MB) would cost
/// several megabytes of memory and save little, since the next page is fetched while this one is worked on.
const PAGE_SIZE: i32 = 2_000;

/// An item of the table, or of the index.
type Item = HashMap<String, AttributeValue>;

/// Access to the sessions table.
#[derive(Debug)]
pub struct Store {
    connections: Connections,
    table: Table,
    revoke_statement: String,
}

/// Why a token is not worth anything. The client is not told which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inactive {
    /// The request carries no credential.
    #[error("no credential")]
    NoCredential,
    /// No session has this token.
    #[error("unknown token")]
    Unknown,
    /// The session's `status` is not exactly `active`.
    #[error("status is not active")]
    NotActive,
    /// The session's `expires_at` is in the past, or not a number.
    #[error("expired")]
    Expired,
}

/// What became of one conditional update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatementOutcome {
    /// The session was not revoked before and is now.
    Changed,
    /// There was nothing to change: it is revoked, gone, or of another user.
    Unchanged,
    /// Nothing was changed, because there was too much to do: DynamoDB's code of the error.
    Throttled(String),
    /// Nothing was changed this time; another attempt may: DynamoDB's code of the error.
    TryAgain(String),
    /// It may have been changed or not.
    PerhapsChanged,
    /// It cannot be changed, however often one tries: DynamoDB's code of the error.
    Refused(String),
}

/// What a strongly consistent look at a session shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Still to be revoked.
    Live,
    /// Revoked by this very call.
    RevokedByThis,
    /// Revoked by someone else, gone, or of another user.
    NothingToRevoke,
}

/// What may have become of a write that has failed. In the order of what it takes to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It was not carried out.
    NotApplied,
    /// It was carried out or not; DynamoDB did something, but has not told what.
    PerhapsApplied,
    /// It was met with silence: carried out, not carried out, or yet to be carried out.
    PerhapsYetToCome,
}

/// One page of a user's sessions as the index shows them.
#[derive(Debug)]
pub struct Page {
    /// Sessions not shown as revoked.
    pub token_hashes: Vec<TokenHash>,
    /// Where the next page begins.
    pub next: Option<Cursor>,
}

/// Place between two pages.
#[derive(Clone)]
pub struct Cursor(Item);

/// The store did not do what it was asked to.
///
/// The SDK's own error is not kept: it holds the raw answer, and its texts quote what was sent. The code, the operation
/// and AWS's request id are enough to act on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Trying again may help.
    #[error("{operation} failed: {cause}")]
    Unavailable {
        /// The DynamoDB operation.
        operation: &'static str,
        /// What went wrong, free of request and item data.
        cause: String,
        /// What that means for a write.
        fate: Fate,
    },
    /// Trying again will not help.
    #[error("{operation} was refused: {cause}")]
    Refused {
        /// The DynamoDB operation.
        operation: &'static str,
        /// What went wrong, free of request and item data.
        cause: String,
    },
    /// DynamoDB answers, but not for some sessions; trying again may help.
    #[error("BatchExecuteStatement failed a statement: {0}")]
    StatementFailed(String),
    /// DynamoDB answers, but some sessions cannot be revoked.
    #[error("BatchExecuteStatement refused a statement: {0}")]
    StatementRefused(String),
    /// An item of the table or the index lacks what every session has.
    #[error("an item has no usable {0}")]
    BadItem(&'static str),
    /// The invocation's time is used up.
    #[error("no time left")]
    OutOfTime,
}

impl StoreError {
    /// Whether calling again may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::StatementFailed(_) | Self::OutOfTime => true,
            Self::Refused { .. } | Self::StatementRefused(_) | Self::BadItem(_) => false,
        }
    }

    /// What may have become of a write that ended so.
    #[must_use]
    pub fn fate(&self) -> Fate {
        if let Self::Unavailable { fate, .. } = self { *fate } else { Fate::NotApplied }
    }
}

impl Store {
    /// A store in this table.
    #[must_use]
    pub fn new(connections: Connections, table: Table) -> Self {
        // The owner condition keeps a stale index entry from revoking a session that meanwhile is someone else's. The
        // status condition makes the answer tell who changed the session, and the statement safe to repeat; it holds for
        // a missing status too. Neither creates an item, as UpdateItem would for one that TTL has just deleted.
        let revoke_statement = format!(
            r#"UPDATE "{}" SET "status"='revoked' SET "revoked_at"=? SET "revoked_by"=? SET "revocation_id"=? WHERE "token_hash"=? AND "user_id"=? AND "status"<>'revoked'"#,
            table.name
        );
        Self { connections, table, revoke_statement }
    }

    /// Opens a connection to DynamoDB, so that the first call finds it open. Any answer will do, and none does no harm: what
    /// is wrong, if anything, the first call will tell.
    pub async fn connect(&self) {
        let request = GetItemInput::builder()
            .table_name(&self.table.name)
            // No token has this hash.
            .key("token_hash", string("none"))
            .projection_expression("token_hash");
        let send = |client: Client| async move { request.send_with(&client).await };
        if let Err(error) = self.attempt("GetItem", CONNECT_TIMEOUT, send).await {
            debug!("no connection in advance: {error}");
        }
    }

    /// The session of a token, if it is active now. Strongly consistent, so that a session that was revoked a moment ago
    /// cannot revoke others.
    ///
    /// # Errors
    /// [`StoreError`], also for an active session without `user_id` or `session_id`.
    pub async fn authenticate(
        &self,
        token_hash: TokenHash,
        clock: Clock,
        budget: &Budget,
    ) -> Result<Result<Session, Inactive>, StoreError> {
        let request = GetItemInput::builder()
            .table_name(&self.table.name)
            .key("token_hash", string(token_hash.as_str()))
            .consistent_read(true)
            .projection_expression("session_id, user_id, #status, expires_at, authenticated_at")
            .expression_attribute_names("#status", "status");
        let send = move |client: Client| {
            let request = request.clone();
            async move { request.send_with(&client).await }
        };
        let output = self.read("GetItem", Attempts::read(budget), send).await?;
        let Some(item) = output.item else { return Ok(Err(Inactive::Unknown)) };
        if text(&item, "status") != Some("active") {
            return Ok(Err(Inactive::NotActive));
        }
        // The whole second that has begun is the past.
        if moment(&item, "expires_at").is_none_or(|expires_at| expires_at <= since_epoch(clock()).as_secs_f64()) {
            return Ok(Err(Inactive::Expired));
        }
        let required = |name| text(&item, name).filter(|value| !value.is_empty()).ok_or(StoreError::BadItem(name));
        Ok(Ok(Session {
            token_hash,
            session_id: required("session_id")?.to_owned(),
            user_id: UserId(required("user_id")?.to_owned()),
            authenticated_at: moment(&item, "authenticated_at"),
        }))
    }

    /// A page of the user's sessions that the index does not show as revoked. What it shows may be out of date.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn page(&self, user: &UserId, from: Option<Cursor>, budget: &Budget) -> Result<Page, StoreError> {
        let request = QueryInput::builder()
            .table_name(&self.table.name)
            .index_name(&self.table.index)
            .key_condition_expression("user_id = :user")
            .filter_expression("attribute_not_exists(#status) OR #status <> :revoked")
            .projection_expression("token_hash")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":user", string(&user.0))
            .expression_attribute_values(":revoked", string("revoked"))
            .limit(PAGE_SIZE)
            .set_exclusive_start_key(from.map(|cursor| cursor.0));
        let send = move |client: Client| {
            let request = request.clone();
            async move { request.send_with(&client).await }
        };
        let output = self.read("Query", Attempts::read(budget), send).await?;
        let token_hashes =
            output.items.unwrap_or_default().into_iter().map(|mut item| match item.remove("token_hash") {
                Some(AttributeValue::S(token_hash)) => Ok(TokenHash::from_table(token_hash)),
                // To leave the entry out would be to leave its session in.
                _ => Err(StoreError::BadItem("token_hash")),
            });
        Ok(Page {
            token_hashes: token_hashes.collect::<Result<_, _>>()?,
            next: output.last_evaluated_key.filter(|key| !key.is_empty()).map(Cursor),
        })
    }

    /// Tries once, for no longer than `limit`, to revoke up to [`BATCH_SIZE`] sessions of the user: one outcome for each,
    /// in their order.
    ///
    /// It does not ask for the items that stand in the way (`ALL_OLD`): the service does not always send them, and a batch
    /// of them may be as large as 10 MB. [`Store::state`] tells, at the price of a request.
    ///
    /// # Errors
    /// [`StoreError`] if there is no answer for any of them.
    pub async fn revoke(
        &self,
        user: &UserId,
        token_hashes: &[TokenHash],
        revocation: &Revocation,
        limit: Duration,
    ) -> Result<Vec<StatementOutcome>, StoreError> {
        let statements = token_hashes.iter().map(|token_hash| {
            BatchStatementRequest::builder()
                .statement(&self.revoke_statement)
                .parameters(AttributeValue::N(revocation.at.to_string()))
                .parameters(string(&revocation.by))
                .parameters(string(&revocation.id))
                .parameters(string(token_hash.as_str()))
                .parameters(string(&user.0))
                .build()
                .map_err(|_| StoreError::Refused {
                    operation: "BatchExecuteStatement",
                    cause: "the statement could not be built".to_owned(),
                })
        });
        let statements = statements.collect::<Result<Vec<_>, _>>()?;
        let request = BatchExecuteStatementInput::builder().set_statements(Some(statements));
        let send = |client: Client| async move { request.send_with(&client).await };
        let output = self.attempt("BatchExecuteStatement", limit, send).await?;
        let mut responses = output.responses.unwrap_or_default().into_iter();
        // A statement without an answer of its own is one whose answer was lost.
        let judge = |response: BatchStatementResponse| judge(&response);
        Ok(token_hashes.iter().map(|_| responses.next().map_or(StatementOutcome::PerhapsChanged, judge)).collect())
    }

    /// A strongly consistent look at one session of the user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn state(
        &self,
        user: &UserId,
        token_hash: &TokenHash,
        revocation: &Revocation,
        budget: &Budget,
    ) -> Result<State, StoreError> {
        let request = GetItemInput::builder()
            .table_name(&self.table.name)
            .key("token_hash", string(token_hash.as_str()))
            .consistent_read(true)
            .projection_expression("user_id, #status, revoked_at, revoked_by, revocation_id")
            .expression_attribute_names("#status", "status");
        let send = move |client: Client| {
            let request = request.clone();
            async move { request.send_with(&client).await }
        };
        let output = self.read("GetItem", Attempts::look(budget), send).await?;
        Ok(output.item.map_or(State::NothingToRevoke, |item| state_of(&item, user, revocation)))
    }

    /// Tries a read until it succeeds, cannot succeed, or has been tried often enough.
    async fn read<T, E, F>(
        &self,
        operation: &'static str,
        mut attempts: Attempts<'_>,
        send: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let mut last = StoreError::OutOfTime;
        while let Some(limit) = attempts.next().await {
            let begin = Instant::now();
            match self.attempt(operation, limit, &send).await {
                Err(error) if error.is_retryable() => last = error,
                outcome => {
                    attempts.answered_after(begin.elapsed());
                    return outcome;
                }
            }
        }
        Err(last)
    }

    /// One attempt, given up after `limit`, and its connection with it.
    async fn attempt<T, E, F>(
        &self,
        operation: &'static str,
        limit: Duration,
        send: impl FnOnce(Client) -> F,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let (generation, client) = self.connections.client();
        match timeout(limit, send(client)).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(classify(operation, &error)),
            Err(_) => {
                self.connections.give_up(generation);
                let cause = format!("no answer within {} ms", limit.as_millis());
                Err(StoreError::Unavailable { operation, cause, fate: Fate::PerhapsYetToCome })
            }
        }
    }
}

/// What an error of a whole request means. Codes are matched, never messages: these are not stable, and may quote data.
///
/// Source: "Error handling with DynamoDB" in the Amazon DynamoDB Developer Guide.
fn classify<E: ProvideErrorMetadata>(operation: &'static str, error: &SdkError<E>) -> StoreError {
    let unavailable = |cause, fate| StoreError::Unavailable { operation, cause, fate };
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let Some(code) = context.err().code() else {
                return unavailable(format!("an answer that is not DynamoDB's (HTTP {status})"), Fate::PerhapsApplied);
            };
            let request_id = context.err().meta().request_id().unwrap_or("unknown");
            let cause = format!("{code} (HTTP {status}, request {request_id})");
            match code {
                _ if status >= 500 => unavailable(cause, Fate::PerhapsApplied),
                "ThrottlingException"
                | "ThrottlingError"
                | "ProvisionedThroughputExceededException"
                | "ProvisionedThroughputExceeded"
                | "RequestLimitExceeded"
                | "RequestLimitExceededException"
                | "TransactionConflictException"
                | "ReplicatedWriteConflictException" => unavailable(cause, Fate::NotApplied),
                "InternalServerError" => unavailable(cause, Fate::PerhapsApplied),
                _ if status == 429 => unavailable(cause, Fate::NotApplied),
                _ => StoreError::Refused { operation, cause },
            }
        }
        // These texts come from the connection and the SDK, not from DynamoDB.
        SdkError::DispatchFailure(failure) => {
            let cause = failure.as_connector_error().map_or_else(String::new, |error| Chain(error).to_string());
            if failure.is_user() {
                StoreError::Refused { operation, cause }
            } else {
                unavailable(cause, Fate::PerhapsApplied)
            }
        }
        SdkError::TimeoutError(_) => unavailable("no answer in time".to_owned(), Fate::PerhapsYetToCome),
        SdkError::ResponseError(_) => unavailable("an answer that cannot be read".to_owned(), Fate::PerhapsApplied),
        SdkError::ConstructionFailure(_) => StoreError::Refused {
            operation,
            cause: "the request could not be built; are region and credentials set?".to_owned(),
        },
        _ => StoreError::Refused { operation, cause: "an unknown kind of error".to_owned() },
    }
}

/// What an item of the table says about its session.
fn state_of(item: &Item, user: &UserId, revocation: &Revocation) -> State {
    if text(item, "user_id") != Some(&user.0) {
        return State::NothingToRevoke;
    }
    if text(item, "status") != Some("revoked") {
        return State::Live;
    }
    // A gateway lets clients choose its request id, so the id alone could be that of another call.
    let by_this = text(item, "revocation_id") == Some(&revocation.id)
        && text(item, "revoked_by") == Some(&revocation.by)
        && number(item, "revoked_at") == Some(&revocation.at.to_string());
    if by_this { State::RevokedByThis } else { State::NothingToRevoke }
}

/// What the answer to one statement means.
fn judge(response: &BatchStatementResponse) -> StatementOutcome {
    let Some(error) = response.error() else { return StatementOutcome::Changed };
    match error.code().map_or("", |code| code.as_str()) {
        "ConditionalCheckFailed" => StatementOutcome::Unchanged,
        code @ ("ThrottlingError" | "ProvisionedThroughputExceeded" | "RequestLimitExceeded") => {
            StatementOutcome::Throttled(code.to_owned())
        }
        code @ "TransactionConflict" => StatementOutcome::TryAgain(code.to_owned()),
        "InternalServerError" => StatementOutcome::PerhapsChanged,
        code => StatementOutcome::Refused(code.to_owned()),
    }
}

fn string(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

fn number<'a>(item: &'a Item, name: &str) -> Option<&'a String> {
    item.get(name)?.as_n().ok()
}

/// Epoch seconds. DynamoDB's numbers may have a fraction or an exponent.
fn moment(item: &Item, name: &str) -> Option<f64> {
    number(item, name)?.parse().ok().filter(|moment: &f64| moment.is_finite())
}

/// An error with its sources. Unlike the SDK's own, this leaves out their `Debug` form, which holds raw answers.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut error = self.0;
        while let Some(source) = error.source() {
            write!(f, ": {source}")?;
            error = source;
        }
        Ok(())
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cursor(redacted)")
    }
}
