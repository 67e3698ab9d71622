//! Why a request to DynamoDB, or one statement of a batch, failed: the SDK's errors translated into a [`Cause`], and a text for
//! the log that says what to check. Codes are matched, never messages: messages are not stable, and may quote data. Texts of the
//! SDK and of connections may quote data too, so none is kept or printed.
//!
//! | function | translates |
//! |---|---|
//! | [`of_request`] | an error of a whole request, as the SDK returns it |
//! | [`of_statement`] | the code in the response to one statement |
//!
//! Source: "Error handling with DynamoDB" in the Amazon DynamoDB Developer Guide.

use std::error::Error;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::RequestId;
use aws_sdk_dynamodb::types::BatchStatementError;

use crate::config::Table;
use crate::rules::evidence::{Cause, Failure};

/// The failure of a request without a response within this time.
#[must_use]
pub fn no_response(operation: &'static str, within: Duration) -> Failure {
    failure(Cause::NoResponse, operation, &format!("no response within {} ms", within.as_millis()))
}

/// The failure of a response that lacks what every response of this operation has.
#[must_use]
pub fn unreadable(operation: &'static str) -> Failure {
    failure(Cause::Unreadable, operation, "the response cannot be read")
}

/// The failure of an index entry without its key.
#[must_use]
pub fn bad_entry() -> Failure {
    Failure::new(Cause::BadEntry, "an entry of the index has no usable token_hash")
}

/// The failure of an item without this attribute.
#[must_use]
pub fn bad_item(attribute: &'static str) -> Failure {
    Failure::new(Cause::BadItem, format!("an item has no usable {attribute}"))
}

/// Translates the error of a whole request.
pub fn of_request<E: ProvideErrorMetadata + Error + 'static>(
    operation: &'static str,
    table: &Table,
    error: &SdkError<E>,
) -> Failure {
    let refused = |cause: &str, hint| needs_change(Cause::Refused, operation, cause, table, hint);
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let request = printable(context.err().meta().request_id().unwrap_or_default());
            of_response(operation, table, status, context.err().code(), &request)
        }
        // The text of an error of the kind "other" quotes the whole request, so only the types of its sources are used.
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_)
            if let Some(credentials) = find::<CredentialsError>(error) =>
        {
            // Only missing or invalid configuration is permanent for certain. A provider of credentials may recover.
            let cause = match credentials {
                CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => Cause::Refused,
                _ => Cause::BadSignature,
            };
            let hint = "Check the function's role, AWS_PROFILE or AWS_ACCESS_KEY_ID.";
            needs_change(cause, operation, "no credentials could be loaded", table, hint)
        }
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            refused("the request is not valid HTTP", "Check AWS_ENDPOINT_URL_DYNAMODB.")
        }
        SdkError::DispatchFailure(dispatch) => {
            // A response that ends too early has the kind "other" in the SDK.
            let disconnected = dispatch.is_io() || dispatch.as_other().is_some();
            let cause = if disconnected { Cause::Disconnected } else { Cause::Unreadable };
            failure(cause, operation, &connection_failure(error))
        }
        SdkError::TimeoutError(_) => failure(Cause::NoResponse, operation, "no response in time"),
        SdkError::ResponseError(_) => unreadable(operation),
        _ => refused("the request could not be built", "Check AWS_REGION and the credentials."),
    }
}

/// Translates the error in the response to one statement; `None` if the statement's condition failed, which is no failure.
#[must_use]
pub fn of_statement(table: &Table, error: &BatchStatementError) -> Option<Failure> {
    match error.code().map_or("", |code| code.as_str()) {
        "ConditionalCheckFailed" => None,
        code => {
            let cause = known(code).unwrap_or(Cause::UnknownCode);
            Some(with_hint(cause, "A statement of BatchExecuteStatement", table, code, &printable(code)))
        }
    }
}

/// Translates the error in the response to a whole request.
fn of_response(operation: &'static str, table: &Table, status: u16, code: Option<&str>, request: &str) -> Failure {
    let Some(code) = code else {
        // A success that the SDK could not read.
        if status < 300 {
            return unreadable(operation);
        }
        return failure(Cause::ServerError, operation, &format!("the response is not DynamoDB's (HTTP {status})"));
    };
    let text = format!("{} (HTTP {status}, request {request})", printable(code));
    match status {
        500.. => failure(Cause::ServerError, operation, &text),
        429 => failure(Cause::Throttled, operation, &text),
        _ => with_hint(known(code).unwrap_or(Cause::UnknownError), operation, table, code, &text),
    }
}

/// The cause of a known error code, of a request or of a statement; `None` for a code that this function does not know.
fn known(code: &str) -> Option<Cause> {
    match code.strip_suffix("Exception").unwrap_or(code) {
        "Throttling" | "ThrottlingError" | "ProvisionedThroughputExceeded" | "RequestLimitExceeded" => {
            Some(Cause::Throttled)
        }
        "TransactionConflict" | "ReplicatedWriteConflict" => Some(Cause::Conflict),
        "InternalServerError" => Some(Cause::ServerError),
        // A retry may succeed: the clock of a thawed sandbox may lag, and new credentials are not known everywhere at once.
        "InvalidSignature" | "UnrecognizedClient" | "ExpiredToken" | "RequestExpired" | "InvalidClientTokenId" => {
            Some(Cause::BadSignature)
        }
        "AccessDenied"
        | "Validation"
        | "ValidationError"
        | "ResourceNotFound"
        | "ItemCollectionSizeLimitExceeded"
        | "DuplicateItem"
        | "MissingAuthenticationToken"
        | "IncompleteSignature" => Some(Cause::Refused),
        _ => None,
    }
}

/// A failure with a hint if something must be changed. A failure that may pass needs none.
fn with_hint(cause: Cause, operation: &'static str, table: &Table, code: &str, text: &str) -> Failure {
    if cause.rule().calling_again_helps {
        failure(cause, operation, text)
    } else {
        needs_change(cause, operation, text, table, hint(code))
    }
}

/// What an operator should check when DynamoDB refuses a request or a statement with this code.
fn hint(code: &str) -> &'static str {
    match code.strip_suffix("Exception").unwrap_or(code) {
        "Validation" => "Is token_hash (S) the table's only key, and user_id (S) that of the index USER_ID_INDEX?",
        "ValidationError" => {
            "Is an item almost 400 KB, so that a revocation does not fit? `sessions check-table` finds it."
        }
        "ResourceNotFound" => "Check SESSIONS_TABLE, USER_ID_INDEX, AWS_REGION and the account.",
        "AccessDenied" => "Compare the function's role with FunctionRole in template.yaml.",
        "InvalidSignature" | "UnrecognizedClient" | "ExpiredToken" => "Check the credentials and the clock.",
        _ => "The code is explained in the Amazon DynamoDB Developer Guide.",
    }
}

fn failure(cause: Cause, operation: &'static str, text: &str) -> Failure {
    Failure::new(cause, format!("{operation} failed: {text}"))
}

/// A failure that a retry is not expected to fix. The text names the table and the index: a wrong name is often the reason, and
/// neither name is secret.
fn needs_change(cause: Cause, operation: &'static str, text: &str, table: &Table, hint: &str) -> Failure {
    let (name, index) = (&table.name, &table.index);
    Failure::new(cause, format!("{operation} was refused: {text}, table {name}, index {index}. {hint}"))
}

/// The text for a failed connection: the kind of the operating system's error, where there is one.
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

/// A code or an id of AWS, if it has the form of one. Any other text may be data, so it is replaced.
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

    /// DynamoDB's response with an error code.
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

    fn classified(error: &SdkError<GetItemError>) -> Failure {
        let table = Table { name: "the-table".to_owned(), index: "the-index".to_owned() };
        of_request("GetItem", &table, error)
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
    fn each_error_of_a_request_has_one_cause() {
        let credentials = |error: CredentialsError| connection(ConnectorError::other(foreign(error), None));
        for (error, cause) in [
            (answer(400, Some("ThrottlingException")), Cause::Throttled),
            (answer(400, Some("ThrottlingError")), Cause::Throttled),
            (answer(400, Some("ProvisionedThroughputExceededException")), Cause::Throttled),
            (answer(400, Some("RequestLimitExceeded")), Cause::Throttled),
            (answer(429, Some("SomethingNew")), Cause::Throttled),
            (answer(400, Some("ReplicatedWriteConflictException")), Cause::Conflict),
            (answer(400, Some("TransactionConflictException")), Cause::Conflict),
            (answer(400, Some("InternalServerError")), Cause::ServerError),
            (answer(500, Some("InternalServerError")), Cause::ServerError),
            (answer(503, Some("AccessDeniedException")), Cause::ServerError),
            (answer(502, None), Cause::ServerError),
            (answer(300, None), Cause::ServerError),
            (answer(200, None), Cause::Unreadable),
            (SdkError::response_error(CANARY, response(200)), Cause::Unreadable),
            (connection(ConnectorError::io(io(io::ErrorKind::ConnectionReset))), Cause::Disconnected),
            (connection(ConnectorError::other(foreign(CANARY), None)), Cause::Unreadable),
            (SdkError::timeout_error(CANARY), Cause::NoResponse),
            (answer(400, Some("InvalidSignatureException")), Cause::BadSignature),
            (answer(400, Some("UnrecognizedClientException")), Cause::BadSignature),
            (answer(400, Some("ExpiredTokenException")), Cause::BadSignature),
            (credentials(CredentialsError::provider_error(CANARY)), Cause::BadSignature),
            (credentials(CredentialsError::not_loaded(CANARY)), Cause::Refused),
            (answer(400, Some("SomethingNew")), Cause::UnknownError),
            (answer(400, Some("AccessDeniedException")), Cause::Refused),
            (answer(400, Some("ResourceNotFoundException")), Cause::Refused),
            (answer(400, Some("MissingAuthenticationTokenException")), Cause::Refused),
            (connection(ConnectorError::user(foreign(CANARY))), Cause::Refused),
            (SdkError::construction_failure(CANARY), Cause::Refused),
        ] {
            let failure = classified(&error);
            assert_eq!(failure.cause, cause, "{failure}");
        }
    }

    #[test]
    fn the_hint_says_what_to_check() {
        for (code, hint) in [
            ("ValidationException", "USER_ID_INDEX"),
            ("ValidationError", "400 KB"),
            ("ResourceNotFoundException", "SESSIONS_TABLE"),
            ("AccessDeniedException", "role"),
            // The code of a statement.
            ("AccessDenied", "role"),
            ("ExpiredTokenException", "credentials"),
        ] {
            let text = classified(&answer(400, Some(code))).to_string();
            assert!(text.contains(hint), "{text}");
        }
    }

    #[test]
    fn each_error_of_a_statement_has_one_cause_but_a_failed_condition() {
        let table = Table { name: "the-table".to_owned(), index: "the-index".to_owned() };
        let cause = |error: &BatchStatementError| of_statement(&table, error).map(|failure| failure.cause);
        for (code, expected) in [
            ("ConditionalCheckFailed", None),
            ("ThrottlingError", Some(Cause::Throttled)),
            ("ProvisionedThroughputExceeded", Some(Cause::Throttled)),
            ("RequestLimitExceeded", Some(Cause::Throttled)),
            ("TransactionConflict", Some(Cause::Conflict)),
            ("InternalServerError", Some(Cause::ServerError)),
            ("ValidationError", Some(Cause::Refused)),
            ("AccessDenied", Some(Cause::Refused)),
            ("SomethingNew", Some(Cause::UnknownCode)),
        ] {
            let error = BatchStatementError::builder().code(code.into()).message(CANARY).build();
            assert_eq!(cause(&error), expected, "{code}");
        }
        assert_eq!(cause(&BatchStatementError::builder().message(CANARY).build()), Some(Cause::UnknownCode));
    }
}
