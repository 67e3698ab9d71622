//! What an error means: of a request to DynamoDB, and of one statement of a batch. Codes are matched, never messages: these
//! are not stable, and may quote data. For the same reason no text of the SDK's or of a connection's is kept or printed,
//! only the closed set of things that [`classify`] picks out of an error.
//!
//! Source: "Error handling with DynamoDB" in the Amazon DynamoDB Developer Guide.

use std::error::Error;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::RequestId;
use aws_sdk_dynamodb::types::BatchStatementResponse;

use crate::config::Table;

/// What a failed write may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It was not applied.
    None,
    /// It was applied or not.
    Unknown,
    /// It was applied or not, or will be applied later: there was no response.
    StillPossible,
}

/// What a statement of a batch reports about its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The session was not revoked before, and is now.
    Changed,
    /// The condition failed. Only a read can say why.
    Unchanged,
}

/// A request to DynamoDB, or a statement of one, failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Retryable.
    #[error("{operation} failed: {cause}")]
    Unavailable {
        /// The DynamoDB operation.
        operation: &'static str,
        /// The reason, free of request and item data.
        cause: String,
        /// What the request may have done if it was a write.
        effect: Effect,
        /// The connection failed at once, so the next attempt needs no back-off.
        disconnected: bool,
    },
    /// Permanent: something must be changed before another call can succeed.
    #[error("{operation} was refused: {cause}. {hint}")]
    Refused {
        /// The DynamoDB operation.
        operation: &'static str,
        /// The reason, free of request and item data.
        cause: String,
        /// What to check.
        hint: &'static str,
    },
    /// A session is not revoked although the condition of its update failed and no earlier attempt can explain that.
    #[error("a session is not revoked, but the condition of its update failed: was it changed in between?")]
    Contradiction,
    /// An item of the table or of the index lacks an attribute that every session has. Permanent.
    #[error("an item has no usable {0}")]
    BadItem(&'static str),
    /// The time of the invocation is used up. Retryable.
    #[error("no time left")]
    OutOfTime,
}

impl StoreError {
    /// Whether another call may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::OutOfTime => true,
            Self::Refused { .. } | Self::Contradiction | Self::BadItem(_) => false,
        }
    }

    /// What a write that ended in this error may have done.
    #[must_use]
    pub fn effect(&self) -> Effect {
        if let Self::Unavailable { effect, .. } = self { *effect } else { Effect::None }
    }

    /// Whether DynamoDB did nothing because there was too much to do at once. Then it helps to write more slowly.
    #[must_use]
    pub fn is_throttle(&self) -> bool {
        matches!(self, Self::Unavailable { effect: Effect::None, .. })
    }

    /// Whether the next attempt should wait for a while.
    #[must_use]
    pub fn needs_backoff(&self) -> bool {
        !matches!(
            self,
            Self::Unavailable { effect: Effect::StillPossible, .. } | Self::Unavailable { disconnected: true, .. }
        )
    }

    /// No response came within this time.
    #[must_use]
    pub fn no_response(operation: &'static str, within: Duration) -> Self {
        Self::unavailable(operation, format!("no response within {} ms", within.as_millis()), Effect::StillPossible)
    }

    /// A response without what every response of this operation has.
    #[must_use]
    pub fn unreadable(operation: &'static str) -> Self {
        Self::unavailable(operation, "the response cannot be read".to_owned(), Effect::Unknown)
    }

    fn unavailable(operation: &'static str, cause: String, effect: Effect) -> Self {
        Self::Unavailable { operation, cause, effect, disconnected: false }
    }
}

/// What an error of a request to a table means.
pub fn classify<E: ProvideErrorMetadata + Error + 'static>(
    operation: &'static str,
    table: &Table,
    error: &SdkError<E>,
) -> StoreError {
    let unavailable = |cause, effect| StoreError::unavailable(operation, cause, effect);
    let refused = |cause: &str, hint| StoreError::Refused { operation, cause: in_table(cause, table), hint };
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let request = printable(context.err().meta().request_id().unwrap_or_default());
            judge_answer(operation, table, status, context.err().code(), &request)
        }
        // An error of the kind "other" quotes the whole request, so only what is found among its sources is used.
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_)
            if find::<CredentialsError>(error).is_some() =>
        {
            refused("no credentials could be loaded", "Check the function's role, AWS_PROFILE or AWS_ACCESS_KEY_ID.")
        }
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            refused("the request is not valid HTTP", "Check AWS_ENDPOINT_URL_DYNAMODB.")
        }
        SdkError::DispatchFailure(failure) => {
            // The SDK gives a kind of its own to responses that end too early.
            let disconnected = failure.is_io() || failure.as_other().is_some();
            let cause = connection_failure(error);
            StoreError::Unavailable { operation, cause, effect: Effect::Unknown, disconnected }
        }
        SdkError::TimeoutError(_) => unavailable("no response in time".to_owned(), Effect::StillPossible),
        SdkError::ResponseError(_) => StoreError::unreadable(operation),
        _ => refused("the request could not be built", "Check AWS_REGION and the credentials."),
    }
}

/// What DynamoDB's answer to a request with an error means.
fn judge_answer(operation: &'static str, table: &Table, status: u16, code: Option<&str>, request: &str) -> StoreError {
    let Some(code) = code else {
        let cause = format!("the response is not DynamoDB's (HTTP {status})");
        return StoreError::unavailable(operation, cause, Effect::Unknown);
    };
    let cause = format!("{} (HTTP {status}, request {request})", printable(code));
    match status {
        500.. => StoreError::unavailable(operation, cause, Effect::Unknown),
        429 => StoreError::unavailable(operation, cause, Effect::None),
        _ => judge_code(operation, table, code, cause),
    }
}

/// What the response to one statement of a batch means.
///
/// # Errors
/// [`StoreError`] if the statement was not carried out, or may not have been.
pub fn judge(table: &Table, response: &BatchStatementResponse) -> Result<Written, StoreError> {
    let Some(error) = response.error() else { return Ok(Written::Changed) };
    match error.code().map_or("", |code| code.as_str()) {
        "ConditionalCheckFailed" => Ok(Written::Unchanged),
        code => Err(judge_code("A statement of BatchExecuteStatement", table, code, printable(code))),
    }
}

/// What DynamoDB's code of a request or of a statement means.
fn judge_code(operation: &'static str, table: &Table, code: &str, cause: String) -> StoreError {
    let effect = match code.strip_suffix("Exception").unwrap_or(code) {
        "Throttling"
        | "ThrottlingError"
        | "ProvisionedThroughputExceeded"
        | "RequestLimitExceeded"
        | "TransactionConflict"
        | "ReplicatedWriteConflict" => Effect::None,
        "InternalServerError" => Effect::Unknown,
        _ => return StoreError::Refused { operation, cause: in_table(&cause, table), hint: hint(code) },
    };
    StoreError::unavailable(operation, cause, effect)
}

/// What to check when DynamoDB refuses a request with this code.
fn hint(code: &str) -> &'static str {
    match code {
        "ValidationException" => {
            "Is token_hash (S) the table's only key, and user_id (S) that of the index USER_ID_INDEX?"
        }
        "ResourceNotFoundException" => "Check SESSIONS_TABLE, USER_ID_INDEX, AWS_REGION and the account.",
        "AccessDeniedException" => "Compare the function's role with FunctionRole in template.yaml.",
        "UnrecognizedClientException" | "ExpiredTokenException" => "Check the credentials.",
        _ => "The code is explained in the Amazon DynamoDB Developer Guide.",
    }
}

/// The configured names are no secret, and often the cause.
fn in_table(cause: &str, table: &Table) -> String {
    format!("{cause}, table {}, index {}", table.name, table.index)
}

/// A connection failed: the kind of the operating system's error, where there is one.
fn connection_failure(error: &(dyn Error + 'static)) -> String {
    let Some(error) = find::<io::Error>(error) else { return "the connection failed".to_owned() };
    let number = error.raw_os_error().map(|number| format!(" (os error {number})")).unwrap_or_default();
    format!("the connection failed: {}{number}", error.kind())
}

/// The first error of this type among an error and its sources.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// A code or an id of AWS's. Whatever does not have the form of one may be data.
fn printable(name: &str) -> String {
    let is_name = name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_name && !name.is_empty() { name.to_owned() } else { "unknown".to_owned() }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::error::CredentialsError;
    use aws_sdk_dynamodb::config::http::HttpResponse;
    use aws_sdk_dynamodb::error::{BoxError, ConnectorError, ErrorMetadata};
    use aws_sdk_dynamodb::operation::get_item::GetItemError;
    use aws_sdk_dynamodb::types::BatchStatementError;

    use super::*;

    /// Stands for a token, its hash or item data.
    const CANARY: &str = "canary";

    #[derive(Debug, thiserror::Error)]
    #[error("{CANARY}")]
    struct Foreign(#[source] BoxError);

    fn response(status: u16) -> HttpResponse {
        HttpResponse::new(status.try_into().expect("a status"), CANARY.into())
    }

    /// DynamoDB's answer with a code.
    fn answer(status: u16, code: Option<&str>) -> SdkError<GetItemError> {
        let mut error = ErrorMetadata::builder().message(CANARY);
        error = error.custom("aws_request_id", "4KBNVRGD25RG1KEO9UT4V3FQDJVV4KQNSO5AEMVJF66Q9ASUAAJG");
        if let Some(code) = code {
            error = error.code(code);
        }
        SdkError::service_error(GetItemError::generic(error.build()), response(status))
    }

    fn connection(error: ConnectorError) -> SdkError<GetItemError> {
        SdkError::dispatch_failure(error)
    }

    fn classified(error: &SdkError<GetItemError>) -> StoreError {
        let table = Table { name: "the-table".to_owned(), index: "the-index".to_owned() };
        classify("GetItem", &table, error)
    }

    fn foreign(source: impl Into<BoxError>) -> BoxError {
        Foreign(source.into()).into()
    }

    fn io(kind: io::ErrorKind) -> BoxError {
        foreign(io::Error::new(kind, CANARY))
    }

    #[test]
    fn errors_are_printed_without_any_text_of_the_sdk_or_the_connection() {
        let transient = aws_smithy_types::retry::ErrorKind::TransientError;
        for (error, printed) in [
            (
                SdkError::construction_failure(CANARY),
                "the request could not be built, table the-table, index the-index. Check AWS_REGION",
            ),
            (SdkError::timeout_error(CANARY), "no response in time"),
            (SdkError::response_error(CANARY, response(200)), "the response cannot be read"),
            (connection(ConnectorError::timeout(foreign(CANARY))), "the connection failed"),
            (
                connection(ConnectorError::user(foreign(CANARY))),
                "the request is not valid HTTP, table the-table, index the-index. Check AWS_ENDPOINT",
            ),
            (
                connection(ConnectorError::io(io(io::ErrorKind::ConnectionReset))),
                "the connection failed: connection reset",
            ),
            (
                connection(ConnectorError::io(foreign(io::Error::from_raw_os_error(111)))),
                "the connection failed: connection refused (os error 111)",
            ),
            (connection(ConnectorError::other(foreign(CANARY), None)), "the connection failed"),
            (connection(ConnectorError::other(foreign(CANARY), Some(transient))), "the connection failed"),
            (
                connection(ConnectorError::other(foreign(CredentialsError::not_loaded(CANARY)), None)),
                "no credentials could be loaded, table the-table, index the-index. Check the function's role",
            ),
            (answer(400, Some("AccessDeniedException")), "AccessDeniedException (HTTP 400, request 4KBNVRGD"),
            (answer(400, Some("the code is canary")), "unknown (HTTP 400"),
            (answer(502, None), "the response is not DynamoDB's (HTTP 502)"),
        ] {
            let error = classified(&error);
            let text = format!("{error} {error:?}");
            assert!(text.contains(printed) && text.contains("GetItem"), "{text}");
            assert!(!text.contains(CANARY), "{text}");
            assert!(error.source().is_none(), "{text}");
        }
    }

    #[test]
    fn each_error_of_a_request_says_whether_to_retry_and_what_a_write_may_have_done() {
        let throttles = [
            "ThrottlingException",
            "ThrottlingError",
            "ProvisionedThroughputExceededException",
            "RequestLimitExceeded",
            "ReplicatedWriteConflictException",
            "TransactionConflictException",
        ];
        let retryable = |effect| (true, effect);
        let permanent = (false, Effect::None);
        let mut cases: Vec<_> = throttles.map(|code| (answer(400, Some(code)), retryable(Effect::None))).into();
        cases.extend([
            (answer(429, Some("SomethingNew")), retryable(Effect::None)),
            (answer(400, Some("InternalServerError")), retryable(Effect::Unknown)),
            (answer(500, Some("InternalServerError")), retryable(Effect::Unknown)),
            (answer(503, Some("AccessDeniedException")), retryable(Effect::Unknown)),
            (answer(502, None), retryable(Effect::Unknown)),
            (SdkError::response_error(CANARY, response(200)), retryable(Effect::Unknown)),
            (connection(ConnectorError::io(io(io::ErrorKind::ConnectionReset))), retryable(Effect::Unknown)),
            (connection(ConnectorError::other(foreign(CANARY), None)), retryable(Effect::Unknown)),
            (SdkError::timeout_error(CANARY), retryable(Effect::StillPossible)),
            (answer(400, Some("AccessDeniedException")), permanent),
            (answer(400, Some("ResourceNotFoundException")), permanent),
            (answer(400, Some("SomethingNew")), permanent),
            (connection(ConnectorError::user(foreign(CANARY))), permanent),
            (connection(ConnectorError::other(foreign(CredentialsError::unhandled(CANARY)), None)), permanent),
            (SdkError::construction_failure(CANARY), permanent),
        ]);
        for (error, expected) in cases {
            let judged = classified(&error);
            assert_eq!((judged.is_retryable(), judged.effect()), expected, "{judged}");
            assert_eq!(judged.is_throttle(), expected == retryable(Effect::None), "{judged}");
        }
    }

    #[test]
    fn the_hint_says_what_to_check() {
        for (code, hint) in [
            ("ValidationException", "USER_ID_INDEX"),
            ("ResourceNotFoundException", "SESSIONS_TABLE"),
            ("AccessDeniedException", "role"),
            ("ExpiredTokenException", "credentials"),
        ] {
            let text = classified(&answer(400, Some(code))).to_string();
            assert!(text.contains(hint), "{text}");
        }
    }

    #[test]
    fn only_a_connection_that_failed_at_once_or_did_not_answer_needs_no_back_off() {
        for (error, needs_backoff) in [
            (connection(ConnectorError::io(io(io::ErrorKind::ConnectionReset))), false),
            (SdkError::timeout_error(CANARY), false),
            (answer(400, Some("ThrottlingException")), true),
            (answer(500, Some("InternalServerError")), true),
        ] {
            assert_eq!(classified(&error).needs_backoff(), needs_backoff);
        }
    }

    #[test]
    fn each_response_to_a_statement_has_one_meaning() {
        let table = Table { name: "the-table".to_owned(), index: "the-index".to_owned() };
        let outcome = |error: Option<BatchStatementError>| {
            judge(&table, &BatchStatementResponse::builder().set_error(error).build())
                .map_err(|error| (error.is_retryable(), error.effect()))
        };
        for (code, expected) in [
            ("ConditionalCheckFailed", Ok(Written::Unchanged)),
            ("ThrottlingError", Err((true, Effect::None))),
            ("ProvisionedThroughputExceeded", Err((true, Effect::None))),
            ("RequestLimitExceeded", Err((true, Effect::None))),
            ("TransactionConflict", Err((true, Effect::None))),
            ("InternalServerError", Err((true, Effect::Unknown))),
            ("ValidationError", Err((false, Effect::None))),
            ("SomethingNew", Err((false, Effect::None))),
        ] {
            let error = BatchStatementError::builder().code(code.into()).message(CANARY).build();
            assert_eq!(outcome(Some(error)), expected, "{code}");
        }
        assert_eq!(outcome(None), Ok(Written::Changed));
        assert_eq!(outcome(Some(BatchStatementError::builder().message(CANARY).build())), Err((false, Effect::None)));
    }
}
