//! Tokens, sessions and their ids. No I/O and no clock. Knows neither HTTP nor DynamoDB.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// A session token as a client sends it. A token is as secret as a password: it cannot be printed, and [`Token::hash`] is the
/// only way to use it.
pub struct Token(String);

/// The value is not an RFC 7235 `token68` of 1 to [`Token::MAX_LENGTH`] characters.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token68 of 1 to {} characters", Token::MAX_LENGTH)]
pub struct NotAToken;

impl Token {
    /// The longest token accepted, in characters.
    pub const MAX_LENGTH: usize = 4096;

    /// Reads `[A-Za-z0-9._~+/-]+=*` of at most [`Token::MAX_LENGTH`] characters.
    ///
    /// # Errors
    /// [`NotAToken`] for anything else; the error does not repeat the value.
    ///
    /// Source: `token68` in RFC 7235, section 2.1.
    pub fn parse(value: &[u8]) -> Result<Self, NotAToken> {
        let padding = value.iter().rev().take_while(|byte| **byte == b'=').count();
        let (body, _) = value.split_at(value.len() - padding);
        let is_token68 = !body.is_empty()
            && body
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'+' | b'/' | b'-'));
        if !is_token68 || value.len() > Self::MAX_LENGTH {
            return Err(NotAToken);
        }
        String::from_utf8(value.to_vec()).map(Self).map_err(|_| NotAToken)
    }

    /// The key under which the table keeps the session of this token.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(hex::encode(Sha256::digest(&self.0)).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// Lower-case hexadecimal SHA-256 of a token: the table's key. A hash cannot be printed, since a reader of the log could find the
/// session by the hash. Clones share the text, since a call holds each hash in several places.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenHash(Arc<str>);

impl TokenHash {
    /// A hash as the table holds it.
    #[must_use]
    pub fn from_table(value: &str) -> Self {
        Self(value.into())
    }

    /// The hash as the table holds it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(redacted)")
    }
}

/// The caller: an active session, authenticated by its token.
#[derive(Debug)]
pub struct Session {
    /// The session's key. No write may name this key: the caller stays signed in.
    pub token_hash: TokenHash,
    /// Public id of the session; safe to log.
    pub session_id: String,
    /// Owner of the session.
    pub user_id: UserId,
    /// When the user signed in, in epoch seconds; `None` if the item has no usable `authenticated_at`.
    pub authenticated_at: Option<f64>,
}

/// Why the caller has no active session. The client gets the same answer for every reason, and so learns nothing of the session.
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
    /// The session's `expires_at` is not in the future.
    #[error("expired")]
    Expired,
    /// The session's `expires_at` is missing, or is not a number.
    #[error("expires_at is missing or not of type N (epoch seconds)")]
    UnusableExpiry,
}

/// How far in the future a stored time may be, since the clock of the machine that wrote the time may be ahead.
const CLOCK_SKEW: Duration = Duration::from_mins(1);

impl Session {
    /// Whether the user signed in at most `age` ago. A sign-in in the future does not count: the time may be in milliseconds.
    #[must_use]
    pub fn is_authenticated_within(&self, age: Duration, now: SystemTime) -> bool {
        let now = since_epoch(now);
        self.authenticated_at
            .is_some_and(|at| at >= now.saturating_sub(age).as_secs_f64() && at <= (now + CLOCK_SKEW).as_secs_f64())
    }
}

/// Where the wall-clock time comes from: [`SystemTime::now`], or the clock of a simulation.
pub type Clock = fn() -> SystemTime;

/// The time since 1970-01-01 00:00:00 UTC; zero for a clock that is set earlier.
#[must_use]
pub fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The owner of sessions. A user's id is item data, so it cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct UserId(pub String);

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserId(redacted)")
    }
}

/// What a call writes into each session that it revokes. These attributes trace the change to its call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The time of the revocation, in epoch seconds.
    pub at: u64,
    /// The caller's session id.
    pub by: String,
    /// Lambda's id of the invocation, which no client can choose. A client can choose the gateway's request id.
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token68_is_accepted_as_a_token() {
        for value in
            ["MP2YWEMeM8MxjkGKpH4dqOQ4Q4DlSPaj", "ory_st_x", "a", "a._~+/-9Z", "abc=", "abc==", &"a".repeat(4096)]
        {
            assert!(Token::parse(value.as_bytes()).is_ok(), "{value}");
        }
    }

    #[test]
    fn what_is_not_token68_is_rejected() {
        for value in ["", "=", "==", "a b", "a,b", "a=b", "=a", "\"a\"", "a\n", "a;b", "ü", "a%20", &"a".repeat(4097)]
        {
            assert_eq!(Token::parse(value.as_bytes()).err(), Some(NotAToken), "{value}");
        }
        assert_eq!(Token::parse(b"\xff").err(), Some(NotAToken));
    }

    #[test]
    fn hash_is_lower_case_hex_sha256() {
        // The test vector of FIPS 180-2, appendix B.1.
        let hash = Token::parse(b"abc").map(|token| token.hash().as_str().to_owned());
        assert_eq!(hash.as_deref(), Ok("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    }

    fn session(authenticated_at: Option<f64>) -> Session {
        let token_hash = TokenHash::from_table("canary");
        let user_id = UserId("canary".to_owned());
        Session { token_hash, session_id: "public".to_owned(), user_id, authenticated_at }
    }

    #[test]
    fn a_sign_in_is_recent_for_its_age_and_never_from_the_future() {
        let age = Duration::from_mins(15);
        let now = UNIX_EPOCH + Duration::from_hours(500_000);
        let at = |seconds_ago: f64| session(Some(1.8e9 - seconds_ago)).is_authenticated_within(age, now);
        assert!(at(0.0) && at(899.0) && at(-30.0));
        assert!(!at(901.0) && !at(1e9) && !at(-120.0) && !at(-1e12));
        assert!(!session(None).is_authenticated_within(age, now));
    }

    #[test]
    fn nothing_secret_can_be_printed() {
        let token = Token::parse(b"canary").unwrap_or_else(|_| unreachable!());
        let printed = format!("{token:?} {:?} {:?}", token.hash(), session(None));
        assert!(printed.contains("public"));
        assert!(!printed.contains("canary") && !printed.contains(token.hash().as_str()), "{printed}");
    }
}
