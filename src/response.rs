//! What the caller is told: the count, or one of a closed set of errors. The only module that knows status codes.
//!
//! An error is told twice. The client gets a status, an id and constant sentences; the log gets the cause, which is what
//! `Display` and `source` of [`Error`] are for.

use lambda_http::http::{HeaderMap, HeaderValue, StatusCode, header};
use lambda_http::{Body, Response};
use serde_json::{Map, Value, json};

use crate::credentials::Malformed;
use crate::failure::StoreError;
use crate::origin::CsrfViolation;
use crate::session::Inactive;

/// Methods of the route, for `Allow`.
const METHODS: HeaderValue = HeaderValue::from_static("DELETE, OPTIONS");

/// A request that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The others are out: how many sessions this call revoked.
    Revoked(u64),
    /// A CORS preflight; its answer is all in the headers.
    Preflight,
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such path.
    #[error("no such route")]
    RouteNotFound,
    /// The path has no such method.
    #[error("no such method on the route")]
    MethodNotAllowed,
    /// The deciding credential is no good.
    #[error("malformed credentials: {0}")]
    MalformedCredentials(#[from] Malformed),
    /// The caller has no active session.
    #[error("session inactive: {0}")]
    SessionInactive(#[from] Inactive),
    /// A page that may not use the user's cookie.
    #[error("security CSRF violation: {0}")]
    CsrfViolation(#[from] CsrfViolation),
    /// The caller has to prove again who they are.
    #[error("authenticated too long ago")]
    SessionRefreshRequired,
    /// The store failed. `revoked` is how many sessions this call revoked before; `None` if it had not begun to.
    #[error("{cause}")]
    Store {
        /// What the store said, for the log.
        cause: StoreError,
        /// Sessions this call did revoke.
        revoked: Option<u64>,
    },
}

/// What the client is told of an error.
struct ErrorText {
    status: StatusCode,
    id: &'static str,
    message: &'static str,
    reason: &'static str,
}

impl Error {
    /// Whether someone who runs this function should hear of it.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.text().status.is_server_error()
    }

    /// The stable name of the error.
    #[must_use]
    pub fn id(&self) -> &'static str {
        self.text().id
    }

    /// Sessions that this call did revoke before it failed; `None` if it had not begun to.
    #[must_use]
    pub fn revoked(&self) -> Option<u64> {
        match self {
            Self::Store { revoked, .. } => *revoked,
            Self::RouteNotFound
            | Self::MethodNotAllowed
            | Self::MalformedCredentials(_)
            | Self::SessionInactive(_)
            | Self::CsrfViolation(_)
            | Self::SessionRefreshRequired => None,
        }
    }

    fn text(&self) -> ErrorText {
        match self {
            Self::RouteNotFound => ErrorText {
                status: StatusCode::NOT_FOUND,
                id: "route_not_found",
                message: "The requested resource could not be found.",
                reason: "The only route is DELETE /auth/sessions.",
            },
            Self::MethodNotAllowed => ErrorText {
                status: StatusCode::METHOD_NOT_ALLOWED,
                id: "method_not_allowed",
                message: "The method is not allowed on this resource.",
                reason: "Sessions are disabled with DELETE.",
            },
            Self::MalformedCredentials(_) => ErrorText {
                status: StatusCode::BAD_REQUEST,
                id: "malformed_credentials",
                message: "The request was malformed.",
                reason: "The session token is not an RFC 7235 token68 of 1 to 4096 characters, or comes with two different values.",
            },
            Self::SessionInactive(_) => ErrorText {
                status: StatusCode::UNAUTHORIZED,
                id: "session_inactive",
                message: "The request could not be authorized.",
                reason: "No active session was found for the credentials of the request.",
            },
            Self::CsrfViolation(_) => ErrorText {
                status: StatusCode::FORBIDDEN,
                id: "security_csrf_violation",
                message: "The requested action was forbidden.",
                reason: "The session cookie was sent from a web origin that is not allowed to use it.",
            },
            Self::SessionRefreshRequired => ErrorText {
                status: StatusCode::FORBIDDEN,
                id: "session_refresh_required",
                message: "The requested action was forbidden.",
                reason: "The user was authenticated too long ago. Let them sign in again, and call with the new session.",
            },
            Self::Store { cause, .. } if cause.is_retryable() => ErrorText {
                status: StatusCode::SERVICE_UNAVAILABLE,
                id: "temporarily_unavailable",
                message: "The service is temporarily unavailable.",
                reason: "Not every other session could be revoked in time. Calling again is safe and continues where this call stopped.",
            },
            Self::Store { .. } => ErrorText {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                id: "internal_error",
                message: "An internal server error occurred.",
                reason: "The request failed for a reason that calling again will not mend.",
            },
        }
    }

    /// What a client that calls again later may want to add up.
    fn details(&self) -> Option<Value> {
        let revoked = match self {
            Self::Store { cause, revoked } if cause.is_retryable() => Some(revoked.unwrap_or(0)),
            _ => self.revoked(),
        };
        revoked.map(|revoked| json!({"revoked": revoked}))
    }

    /// The header that tells a client what to do next.
    fn advice(&self) -> Option<(header::HeaderName, HeaderValue)> {
        match self {
            Self::MethodNotAllowed => Some((header::ALLOW, METHODS)),
            // Never Basic, for which a browser would ask the user for a password.
            Self::SessionInactive(_) => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sessions\"")))
            }
            Self::Store { cause, .. } if cause.is_retryable() => {
                Some((header::RETRY_AFTER, HeaderValue::from_static("1")))
            }
            Self::Store { .. }
            | Self::RouteNotFound
            | Self::MalformedCredentials(_)
            | Self::CsrfViolation(_)
            | Self::SessionRefreshRequired => None,
        }
    }
}

/// The HTTP answer to a request.
///
/// `request_id` goes into the error envelope, `headers` are sent along, and `debug` adds the cause of an error for a
/// developer at their own desk.
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
            headers.insert(header::ALLOW, METHODS);
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        Err(error) => {
            headers.extend(error.advice());
            *response.status_mut() = error.text().status;
            *response.body_mut() = envelope(error, request_id, debug).to_string().into();
        }
    }
    response
}

fn envelope(error: &Error, request_id: &str, debug: bool) -> Value {
    let ErrorText { status, id, message, reason } = error.text();
    let mut envelope = Map::new();
    envelope.insert("code".to_owned(), status.as_u16().into());
    envelope.insert("status".to_owned(), status.canonical_reason().into());
    envelope.insert("id".to_owned(), id.into());
    envelope.insert("message".to_owned(), message.into());
    envelope.insert("reason".to_owned(), reason.into());
    envelope.insert("request".to_owned(), request_id.into());
    if let Some(details) = error.details() {
        envelope.insert("details".to_owned(), details);
    }
    if debug {
        envelope.insert("debug".to_owned(), error.to_string().into());
    }
    json!({"error": envelope})
}
