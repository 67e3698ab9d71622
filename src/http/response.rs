//! The answer to the client: the count, or one of a closed set of errors. No other module chooses a status code.
//!
//! An error has two readers. The client gets a status, an id and constant sentences, all of them in `Error::answer`. The log
//! gets the cause, by `Display` of [`Error`].

use lambda_http::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use lambda_http::{Body, Response};
use serde_json::{Map, Value, json};

use crate::http::credentials::Malformed;
use crate::http::origin::CsrfViolation;
use crate::rules::evidence::Failure;
use crate::session::Inactive;

/// The methods of the route, for `Allow`.
const METHODS: &str = "DELETE, OPTIONS";

/// The answer to a request that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Every other session is revoked, this many of them by this call.
    Revoked(u64),
    /// A CORS preflight, which only the headers answer.
    Preflight,
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is not the route.
    #[error("no such route")]
    RouteNotFound,
    /// The route does not have this method.
    #[error("no such method on the route")]
    MethodNotAllowed,
    /// The deciding credential is malformed.
    #[error("malformed credentials: {0}")]
    MalformedCredentials(#[from] Malformed),
    /// The caller has no active session.
    #[error("session inactive: {0}")]
    SessionInactive(#[from] Inactive),
    /// The request comes from a web page that may not use the user's cookie.
    #[error("security CSRF violation: {0}")]
    CsrfViolation(#[from] CsrfViolation),
    /// The user must sign in again first.
    #[error("authenticated too long ago")]
    SessionRefreshRequired,
    /// A request to DynamoDB failed, or the time ran out.
    #[error("{cause}")]
    Store {
        /// Why: its cause decides whether calling again helps, and its text is for the log.
        cause: Failure,
        /// How many sessions this call has revoked; `None` if it has not sent any write.
        revoked: Option<u64>,
    },
}

/// What the client gets for an error.
struct ErrorAnswer {
    status: StatusCode,
    id: &'static str,
    message: &'static str,
    reason: &'static str,
    /// A header that says what the client can do next.
    header: Option<(HeaderName, &'static str)>,
    /// Whether another call may succeed.
    retryable: bool,
}

impl Error {
    /// The stable name of the error, in the answer and in the log.
    #[must_use]
    pub fn id(&self) -> &'static str {
        self.answer().id
    }

    fn answer(&self) -> ErrorAnswer {
        let permanent =
            |status, id, message, reason| ErrorAnswer { status, id, message, reason, header: None, retryable: false };
        match self {
            Self::RouteNotFound => permanent(
                StatusCode::NOT_FOUND,
                "route_not_found",
                "The requested resource could not be found.",
                "The only route is DELETE /auth/sessions.",
            ),
            Self::MethodNotAllowed => ErrorAnswer {
                header: Some((header::ALLOW, METHODS)),
                ..permanent(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    "The method is not allowed on this resource.",
                    "Sessions are disabled with DELETE.",
                )
            },
            Self::MalformedCredentials(_) => permanent(
                StatusCode::BAD_REQUEST,
                "malformed_credentials",
                "The request was malformed.",
                "The session token is not an RFC 7235 token68 of 1 to 4096 characters, or comes with two different values.",
            ),
            Self::SessionInactive(_) => ErrorAnswer {
                // Not Basic: for that, a browser would ask the user for a password.
                header: Some((header::WWW_AUTHENTICATE, "Bearer realm=\"sessions\"")),
                ..permanent(
                    StatusCode::UNAUTHORIZED,
                    "session_inactive",
                    "The request could not be authorized.",
                    "No active session was found for the credentials of the request.",
                )
            },
            Self::CsrfViolation(_) => permanent(
                StatusCode::FORBIDDEN,
                "security_csrf_violation",
                "The requested action was forbidden.",
                "The session cookie was sent from a web origin that is not allowed to use it.",
            ),
            Self::SessionRefreshRequired => permanent(
                StatusCode::FORBIDDEN,
                "session_refresh_required",
                "The requested action was forbidden.",
                "The user was authenticated too long ago. Let them sign in again, and call with the new session.",
            ),
            Self::Store { cause, .. } if cause.calling_again_helps() => ErrorAnswer {
                status: StatusCode::SERVICE_UNAVAILABLE,
                id: "temporarily_unavailable",
                message: "The service is temporarily unavailable.",
                reason: "Not every other session could be revoked in time. Calling again is safe and continues where this call stopped.",
                header: Some((header::RETRY_AFTER, "1")),
                retryable: true,
            },
            Self::Store { .. } => permanent(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "An internal server error occurred.",
                "The request failed for a reason that calling again will not mend.",
            ),
        }
    }

    /// How many sessions this call has revoked: a client that calls again may add up the counts.
    fn revoked(&self) -> Option<u64> {
        match self {
            Self::Store { revoked, .. } if self.answer().retryable => Some(revoked.unwrap_or(0)),
            Self::Store { revoked, .. } => *revoked,
            Self::RouteNotFound
            | Self::MethodNotAllowed
            | Self::MalformedCredentials(_)
            | Self::SessionInactive(_)
            | Self::CsrfViolation(_)
            | Self::SessionRefreshRequired => None,
        }
    }
}

/// The HTTP answer to a request, which also gets these `headers`.
///
/// An error's envelope holds `request_id` and, if `debug` is set, the cause, for developers on their own machines.
#[must_use]
pub fn respond(outcome: &Result<Answer, Error>, request_id: &str, headers: HeaderMap, debug: bool) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    match outcome {
        Ok(Answer::Revoked(count)) => *response.body_mut() = json!({"count": count}).to_string().into(),
        Ok(Answer::Preflight) => {
            headers.insert(header::ALLOW, HeaderValue::from_static(METHODS));
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        Err(error) => {
            let answer = error.answer();
            headers.extend(answer.header.clone().map(|(name, value)| (name, HeaderValue::from_static(value))));
            *response.status_mut() = answer.status;
            *response.body_mut() = envelope(error, &answer, request_id, debug).to_string().into();
        }
    }
    response
}

fn envelope(error: &Error, answer: &ErrorAnswer, request_id: &str, debug: bool) -> Value {
    let mut envelope = Map::new();
    envelope.insert("code".to_owned(), answer.status.as_u16().into());
    envelope.insert("status".to_owned(), answer.status.canonical_reason().into());
    envelope.insert("id".to_owned(), answer.id.into());
    envelope.insert("message".to_owned(), answer.message.into());
    envelope.insert("reason".to_owned(), answer.reason.into());
    envelope.insert("request".to_owned(), request_id.into());
    if let Some(revoked) = error.revoked() {
        envelope.insert("details".to_owned(), json!({"revoked": revoked}));
    }
    if debug {
        envelope.insert("debug".to_owned(), error.to_string().into());
    }
    json!({"error": envelope})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::evidence::Cause;

    fn store(cause: Failure, revoked: Option<u64>) -> Error {
        Error::Store { cause, revoked }
    }

    fn answer(error: Error, debug: bool) -> (u16, HeaderMap, Value) {
        let response = respond(&Err(error), "the-request", HeaderMap::new(), debug);
        let (parts, Body::Text(body)) = response.into_parts() else { panic!("no text") };
        (parts.status.as_u16(), parts.headers, serde_json::from_str(&body).unwrap_or_default())
    }

    #[test]
    fn each_error_has_a_status_an_id_and_a_header_that_says_what_to_do() {
        for (error, status, id, header) in [
            (Error::RouteNotFound, 404, "route_not_found", None),
            (Error::MethodNotAllowed, 405, "method_not_allowed", Some(("allow", "DELETE, OPTIONS"))),
            (
                Error::SessionInactive(Inactive::Unknown),
                401,
                "session_inactive",
                Some(("www-authenticate", "Bearer realm=\"sessions\"")),
            ),
            (Error::SessionRefreshRequired, 403, "session_refresh_required", None),
            (store(Failure::from(Cause::OutOfTime), None), 503, "temporarily_unavailable", Some(("retry-after", "1"))),
            (store(Failure::from(Cause::Overtaken), None), 500, "internal_error", None),
        ] {
            assert_eq!(error.id(), id);
            let (answered, headers, body) = answer(error, false);
            assert_eq!((answered, &body["error"]["id"], &body["error"]["code"]), (status, &json!(id), &json!(status)));
            assert_eq!((&body["error"]["request"], &body["error"]["debug"]), (&json!("the-request"), &Value::Null));
            for name in ["allow", "www-authenticate", "retry-after"] {
                let expected = header.filter(|(expected, _)| *expected == name).map(|(_, value)| value);
                assert_eq!(headers.get(name).and_then(|value| value.to_str().ok()), expected, "{id}: {name}");
            }
        }
    }

    #[test]
    fn an_error_of_the_table_says_how_many_sessions_have_been_revoked() {
        for (cause, revoked, details) in [
            (Failure::from(Cause::OutOfTime), None, json!({"revoked": 0})),
            (Failure::from(Cause::OutOfTime), Some(3), json!({"revoked": 3})),
            (Failure::from(Cause::Overtaken), None, Value::Null),
            (Failure::from(Cause::Overtaken), Some(3), json!({"revoked": 3})),
        ] {
            let (_, _, body) = answer(store(cause, revoked), true);
            assert_eq!(body["error"]["details"], details);
            assert!(body["error"]["debug"].is_string());
        }
    }

    #[test]
    fn a_count_and_a_preflight_are_answers() {
        let response = respond(&Ok(Answer::Revoked(2)), "", HeaderMap::new(), false);
        assert_eq!((response.status().as_u16(), response.body()), (200, &Body::Text(r#"{"count":2}"#.to_owned())));
        assert_eq!(response.headers()["cache-control"], "no-store");
        let response = respond(&Ok(Answer::Preflight), "", HeaderMap::new(), false);
        assert_eq!((response.status().as_u16(), response.body()), (204, &Body::Empty));
        assert_eq!(response.headers()["allow"], "DELETE, OPTIONS");
    }
}
