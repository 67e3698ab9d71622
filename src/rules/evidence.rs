//! What the responses of DynamoDB say, in plain types: a page of the index, the report of a statement, what a read found, and
//! why a request or a statement failed. `dynamodb` translates into these types, and the rules know no other.

use std::fmt;
use std::sync::Arc;

use crate::session::TokenHash;

/// One page of a user's sessions as the index shows them. `C` is a place in the index, of which the rules know nothing more.
#[derive(Clone, Debug)]
pub struct Page<C> {
    /// Sessions that the index does not show as revoked.
    pub sessions: Vec<TokenHash>,
    /// Index entries that DynamoDB has read for this page, revoked ones included.
    pub entries: u64,
    /// Where the next page begins; `None` after the last page.
    pub next: Option<C>,
}

/// What a statement reports of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The session was not revoked before the statement, and is now.
    Changed,
    /// The condition of the statement failed. Only a read can say why.
    ConditionFailed,
}

/// What a strongly consistent read finds of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The session belongs to the user and is not revoked.
    Live,
    /// This very call has revoked the session.
    RevokedByThisCall,
    /// Another call of this function has revoked the session.
    RevokedByAnotherCall,
    /// The session is gone, or revoked, and it was not this function that did it. The application may have replaced the session
    /// by a new one, which the index may not show yet.
    Ended,
    /// The session belongs to another user now.
    OfAnotherUser,
}

/// What a write that failed may have done. The later variant is the greater doubt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// The write was not applied.
    #[default]
    None,
    /// The write was applied or not.
    Applied,
    /// The write was applied or not, or will be applied later: there was no response.
    StillPossible,
}

/// Why a request, or one statement of it, failed. [`Cause::rule`] says what follows from each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// There was too much to do at once.
    Throttled,
    /// Another write or transaction was at work on the item.
    Conflict,
    /// An error inside DynamoDB, or of a proxy before it.
    ServerError,
    /// The response lacks what every response of the operation has.
    Unreadable,
    /// The connection failed.
    Disconnected,
    /// There was no response in time.
    NoResponse,
    /// The signature or the credentials were not accepted. That passes if a clock was wrong or the credentials were new.
    BadSignature,
    /// A statement failed with a code that this function does not know.
    UnknownCode,
    /// A whole request failed with a code that this function does not know.
    UnknownError,
    /// The condition of a write failed, and a read found the session live: somebody changed it in between.
    Overtaken,
    /// Something must be changed before the same request can succeed, such as a permission.
    Refused,
    /// An item of the table breaks its schema.
    BadItem,
    /// The time of the invocation is used up.
    OutOfTime,
}

/// What follows from a [`Cause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Attempts in a row that may fail for this cause. Other limits apply too.
    pub attempts: u32,
    /// Whether the first attempt after a failure waits for a back-off. Every later attempt does.
    pub backs_off_at_once: bool,
    /// Whether writing more slowly helps.
    pub slows_down: bool,
    /// What a write that failed for this cause may have done.
    pub doubt: Doubt,
    /// Whether another call may succeed although nothing else is changed.
    pub calling_again_helps: bool,
}

/// Attempts that are limited by nothing but [`Limits::attempts`](super::limits::Limits::attempts).
const AS_OFTEN_AS_POSSIBLE: u32 = u32::MAX;
/// Attempts after errors that are usually permanent. With their back-offs of at most 50, 100 and 200 ms they end in half a
/// second.
const A_FEW: u32 = 4;

impl Cause {
    /// What follows from this cause.
    ///
    /// | cause | attempts | back-off at once | slow down | doubt | calling again helps |
    /// |---|---|---|---|---|---|
    /// | throttled | all | yes | yes | | yes |
    /// | conflict | all | yes | | | yes |
    /// | server error, unreadable | all | yes | | applied | yes |
    /// | disconnected | all | | | applied | yes |
    /// | no response | all | | | still possible | yes |
    /// | bad signature | 4 | | | | |
    /// | unknown code | 4 | yes | | applied | |
    /// | unknown error | 1 | | | applied | |
    /// | overtaken | all | | | | |
    /// | refused, bad item | 1 | | | | |
    /// | out of time | 1 | | | | yes |
    #[must_use]
    pub fn rule(self) -> Rule {
        let rule = |attempts, backs_off_at_once, slows_down, doubt, calling_again_helps| Rule {
            attempts,
            backs_off_at_once,
            slows_down,
            doubt,
            calling_again_helps,
        };
        match self {
            Self::Throttled => rule(AS_OFTEN_AS_POSSIBLE, true, true, Doubt::None, true),
            Self::Conflict => rule(AS_OFTEN_AS_POSSIBLE, true, false, Doubt::None, true),
            Self::ServerError | Self::Unreadable => rule(AS_OFTEN_AS_POSSIBLE, true, false, Doubt::Applied, true),
            Self::Disconnected => rule(AS_OFTEN_AS_POSSIBLE, false, false, Doubt::Applied, true),
            Self::NoResponse => rule(AS_OFTEN_AS_POSSIBLE, false, false, Doubt::StillPossible, true),
            Self::BadSignature => rule(A_FEW, false, false, Doubt::None, false),
            Self::UnknownCode => rule(A_FEW, true, false, Doubt::Applied, false),
            Self::UnknownError => rule(1, false, false, Doubt::Applied, false),
            Self::Overtaken => rule(AS_OFTEN_AS_POSSIBLE, false, false, Doubt::None, false),
            Self::Refused | Self::BadItem => rule(1, false, false, Doubt::None, false),
            Self::OutOfTime => rule(1, false, false, Doubt::None, true),
        }
    }
}

/// A failure for two readers: the rules act on the cause, and the log gets the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the rules act on.
    pub cause: Cause,
    /// What the log says. The text holds no credential, no token hash and no item data.
    text: Arc<str>,
}

impl Failure {
    /// A failure with its text for the log.
    #[must_use]
    pub fn new(cause: Cause, text: impl Into<Arc<str>>) -> Self {
        Self { cause, text: text.into() }
    }

    /// The same failure, on which the rules act as on another cause.
    #[must_use]
    pub fn as_cause(&self, cause: Cause) -> Self {
        Self { cause, ..self.clone() }
    }

    /// Whether another call may succeed although nothing else is changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.cause.rule().calling_again_helps
    }
}

impl From<Cause> for Failure {
    /// A failure that the rules have found by themselves.
    fn from(cause: Cause) -> Self {
        Self::new(
            cause,
            match cause {
                Cause::OutOfTime => "no time left",
                Cause::Overtaken => {
                    "a session is live, although the condition of its update fails: is it changed all the time?"
                }
                _ => "see the failures before",
            },
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// The failed attempts at one thing since the last one that got further.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts {
    failed: u32,
    /// How many of the latest attempts failed for the cause of the last one.
    in_a_row: u32,
    cause: Option<Cause>,
    /// The latest cause that another call may not meet.
    passing: Option<Cause>,
}

impl Attempts {
    /// Counts an attempt that failed.
    pub fn fail(&mut self, cause: Cause) {
        self.failed += 1;
        self.in_a_row = if self.cause == Some(cause) { self.in_a_row + 1 } else { 1 };
        self.cause = Some(cause);
        if cause.rule().calling_again_helps {
            self.passing = Some(cause);
        }
    }

    /// How many attempts have failed.
    #[must_use]
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// Why the latest attempt failed; `None` if none has failed.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Why no attempt is left. A cause that is usually permanent has to stay for that: once among others it may pass.
    #[must_use]
    pub fn conclusion(&self) -> Cause {
        let cause = self.cause.unwrap_or(Cause::OutOfTime);
        let stayed = self.in_a_row >= cause.rule().attempts;
        self.passing.filter(|_| !stayed).unwrap_or(cause)
    }

    /// Whether no attempt is left: of `limit` in all, or of those that the latest cause allows.
    #[must_use]
    pub fn are_used_up(&self, limit: u32) -> bool {
        self.failed >= limit || self.cause.is_some_and(|cause| self.in_a_row >= cause.rule().attempts)
    }

    /// Begins to count anew, and keeps the latest cause.
    pub fn restart(&mut self) {
        (self.failed, self.in_a_row) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_is_usually_permanent_allows_fewer_attempts_but_only_in_a_row() {
        let used_up = |causes: &[Cause]| {
            let mut attempts = Attempts::default();
            for cause in causes {
                attempts.fail(*cause);
            }
            attempts.are_used_up(8)
        };
        assert!(!used_up(&[]));
        assert!(used_up(&[Cause::Refused]));
        assert!(!used_up(&[Cause::BadSignature; 3]) && used_up(&[Cause::BadSignature; 4]));
        let mixed =
            [Cause::BadSignature, Cause::BadSignature, Cause::Throttled, Cause::BadSignature, Cause::BadSignature];
        assert!(!used_up(&mixed));
        assert!(!used_up(&[Cause::Throttled; 7]) && used_up(&[Cause::Throttled; 8]));
    }

    #[test]
    fn a_cause_that_is_usually_permanent_is_the_conclusion_only_if_it_stays() {
        let conclusion = |causes: &[Cause]| {
            let mut attempts = Attempts::default();
            for cause in causes {
                attempts.fail(*cause);
            }
            attempts.conclusion()
        };
        assert_eq!(conclusion(&[Cause::Throttled, Cause::BadSignature]), Cause::Throttled);
        assert_eq!(conclusion(&[Cause::Throttled, Cause::Refused]), Cause::Refused);
        assert_eq!(conclusion(&[Cause::BadSignature; 2]), Cause::BadSignature);
        assert_eq!(conclusion(&[Cause::Overtaken; 8]), Cause::Overtaken);
    }

    #[test]
    fn only_a_throttle_slows_down_and_only_a_write_that_was_not_carried_out_for_certain_leaves_no_doubt() {
        use Cause::*;
        let all = [
            Throttled,
            Conflict,
            ServerError,
            Unreadable,
            Disconnected,
            NoResponse,
            BadSignature,
            UnknownCode,
            UnknownError,
            Overtaken,
            Refused,
            BadItem,
            OutOfTime,
        ];
        let with = |holds: fn(Rule) -> bool| all.into_iter().filter(|cause| holds(cause.rule())).collect::<Vec<_>>();
        assert_eq!(with(|rule| rule.slows_down), [Throttled]);
        assert_eq!(
            with(|rule| rule.doubt > Doubt::None),
            [ServerError, Unreadable, Disconnected, NoResponse, UnknownCode, UnknownError]
        );
        assert_eq!(
            with(|rule| !rule.calling_again_helps),
            [BadSignature, UnknownCode, UnknownError, Overtaken, Refused, BadItem]
        );
    }
}
