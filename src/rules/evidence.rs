//! What the responses of DynamoDB say, in plain types: a page of the index, the report of a write, what a read found, and why
//! a request or a write failed. `dynamodb` translates into these types, so the rules need not know DynamoDB.

use std::fmt;
use std::sync::Arc;

use crate::session::TokenHash;

/// One page of a user's sessions as the index shows them. `C` is where a page begins; only `dynamodb` knows what is in it.
#[derive(Clone, Debug)]
pub struct Page<C> {
    /// Sessions that the index does not show as revoked.
    pub sessions: Vec<TokenHash>,
    /// Index entries that DynamoDB has read for this page, revoked ones included.
    pub entries: u64,
    /// Where the next page begins; `None` after the last page.
    pub next: Option<C>,
}

/// What a response reports of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The session was not revoked before the write, and is now.
    Changed,
    /// The condition of the write failed. Only a read can say why.
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

/// What a write that failed may have done. A later variant is a greater doubt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// The write was not applied.
    #[default]
    None,
    /// The write may have been applied.
    Applied,
    /// There was no response: the write may have been applied, or may be applied later.
    StillPossible,
}

/// Why a request, or one write of it, failed. [`Cause::rule`] says what follows from each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// DynamoDB had too much to do at once.
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
    /// The signature or the credentials were not accepted. A retry may succeed: a clock lagged, or the credentials were new.
    BadSignature,
    /// A write failed with a code that this function does not know.
    UnknownCode,
    /// A whole request failed with a code that this function does not know.
    UnknownError,
    /// The condition of a write failed. If a read then finds the session live, somebody has changed it in between.
    Overtaken,
    /// The request cannot succeed before something is changed, such as a permission.
    Refused,
    /// An entry of the index lacks its key, without which its session cannot be revoked.
    BadEntry,
    /// An item of the table breaks its schema.
    BadItem,
    /// Too little of the invocation's time is left.
    OutOfTime,
}

/// Which retries wait for a back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// Every retry waits, for a random part of the longest back-off.
    Always,
    /// Every retry but the first, which is made at once.
    ButTheFirst,
    /// Every retry but the first, for at least half of the longest back-off, so that the attempts span a time.
    LongButTheFirst,
}

/// What follows from a [`Cause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// After so many attempts in a row that fail for this cause, none is left.
    /// [`Limits::attempts`](super::limits::Limits::attempts) is the limit whatever the causes are.
    pub attempts: u32,
    /// Which retries wait for a back-off, and how long that is.
    pub backoff: Backoff,
    /// Whether writing more slowly helps.
    pub slows_down: bool,
    /// What a write that failed for this cause may have done.
    pub doubt: Doubt,
    /// Whether another call may succeed although nothing else is changed.
    pub calling_again_helps: bool,
}

/// No limit for a cause that may pass, besides [`Limits::attempts`](super::limits::Limits::attempts).
const AS_OFTEN_AS_POSSIBLE: u32 = u32::MAX;
/// The limit for errors of the signature. With back-offs of 50 to 100, 100 to 200 and 200 to 400 ms, five attempts span 0.35 to
/// 0.7 s: longer than the clock of a thawed sandbox lags, and less than a second.
const A_FEW: u32 = 5;

impl Cause {
    /// What follows from this cause. *All* attempts are those that `Limits::attempts` allows.
    ///
    /// | cause | attempts | first retry | slow down | doubt | calling again helps |
    /// |---|---|---|---|---|---|
    /// | throttled | all | after a back-off | yes | | yes |
    /// | conflict | all | after a back-off | | | yes |
    /// | server error, unreadable | all | after a back-off | | applied | yes |
    /// | disconnected | all | at once | | applied | yes |
    /// | no response | all | at once | | still possible | yes |
    /// | bad signature | 5 | at once, later ones after long back-offs | | | |
    /// | unknown code, bad entry | all | after a back-off | | applied | |
    /// | unknown error | 1 | | | applied | |
    /// | overtaken | all | at once | | | |
    /// | refused, bad item | 1 | | | | |
    /// | out of time | 1 | | | | yes |
    #[must_use]
    pub fn rule(self) -> Rule {
        let rule = |attempts, backoff, slows_down, doubt, calling_again_helps| Rule {
            attempts,
            backoff,
            slows_down,
            doubt,
            calling_again_helps,
        };
        match self {
            Self::Throttled => rule(AS_OFTEN_AS_POSSIBLE, Backoff::Always, true, Doubt::None, true),
            Self::Conflict => rule(AS_OFTEN_AS_POSSIBLE, Backoff::Always, false, Doubt::None, true),
            Self::ServerError | Self::Unreadable => {
                rule(AS_OFTEN_AS_POSSIBLE, Backoff::Always, false, Doubt::Applied, true)
            }
            Self::Disconnected => rule(AS_OFTEN_AS_POSSIBLE, Backoff::ButTheFirst, false, Doubt::Applied, true),
            Self::NoResponse => rule(AS_OFTEN_AS_POSSIBLE, Backoff::ButTheFirst, false, Doubt::StillPossible, true),
            Self::BadSignature => rule(A_FEW, Backoff::LongButTheFirst, false, Doubt::None, false),
            Self::UnknownCode | Self::BadEntry => {
                rule(AS_OFTEN_AS_POSSIBLE, Backoff::Always, false, Doubt::Applied, false)
            }
            Self::UnknownError => rule(1, Backoff::ButTheFirst, false, Doubt::Applied, false),
            Self::Overtaken => rule(AS_OFTEN_AS_POSSIBLE, Backoff::ButTheFirst, false, Doubt::None, false),
            Self::Refused | Self::BadItem => rule(1, Backoff::ButTheFirst, false, Doubt::None, false),
            Self::OutOfTime => rule(1, Backoff::ButTheFirst, false, Doubt::None, true),
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

    /// A failure with the text of this one and another cause, on which the rules act.
    #[must_use]
    pub fn as_cause(&self, cause: Cause) -> Self {
        Self { cause, ..self.clone() }
    }

    /// Whether another call may succeed although nothing else is changed.
    #[must_use]
    pub fn calling_again_helps(&self) -> bool {
        self.cause.rule().calling_again_helps
    }
}

impl From<Cause> for Failure {
    /// A failure that no response reports: the rules have found it themselves.
    fn from(cause: Cause) -> Self {
        Self::new(
            cause,
            match cause {
                Cause::OutOfTime => "no time left",
                Cause::Overtaken => {
                    "a session is live, although the condition of its update fails: is it changed all the time?"
                }
                Cause::Throttled
                | Cause::Conflict
                | Cause::ServerError
                | Cause::Unreadable
                | Cause::Disconnected
                | Cause::NoResponse
                | Cause::BadSignature
                | Cause::UnknownCode
                | Cause::UnknownError
                | Cause::Refused
                | Cause::BadEntry
                | Cause::BadItem => "DynamoDB failed",
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

/// The failed attempts at one read, or to revoke one session, since the last attempt that got further.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts {
    /// How many attempts have failed, whatever the cause.
    failed: u16,
    /// How many of the latest attempts failed for `cause`, one after the other.
    in_a_row: u16,
    /// Why the latest attempt failed.
    cause: Option<Cause>,
    /// The latest cause after which calling again helps.
    passing: Option<Cause>,
}

impl Attempts {
    /// Counts an attempt that failed.
    pub fn fail(&mut self, cause: Cause) {
        self.failed = self.failed.saturating_add(1);
        self.in_a_row = if self.cause == Some(cause) { self.in_a_row.saturating_add(1) } else { 1 };
        self.cause = Some(cause);
        if cause.rule().calling_again_helps {
            self.passing = Some(cause);
        }
    }

    /// How many attempts have failed.
    #[must_use]
    pub fn failed(&self) -> u32 {
        u32::from(self.failed)
    }

    /// Why the latest attempt failed; `None` if none has failed.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// The cause to report when no attempt is left. A permanent cause is reported only if it alone has used up its attempts. If
    /// it came once among causes that pass, calling again may help.
    #[must_use]
    pub fn conclusion(&self) -> Cause {
        let cause = self.cause.unwrap_or(Cause::OutOfTime);
        let stayed = u32::from(self.in_a_row) >= cause.rule().attempts;
        self.passing.filter(|_| !stayed).unwrap_or(cause)
    }

    /// Whether no attempt is left: `limit` is reached, or the limit of the latest cause.
    #[must_use]
    pub fn are_used_up(&self, limit: u32) -> bool {
        u32::from(self.failed) >= limit
            || self.cause.is_some_and(|cause| u32::from(self.in_a_row) >= cause.rule().attempts)
    }

    /// Counts from 0 again. The causes are kept for [`Attempts::conclusion`].
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
        assert!(!used_up(&[Cause::BadSignature; 4]) && used_up(&[Cause::BadSignature; 5]));
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
            BadEntry,
            BadItem,
            OutOfTime,
        ];
        let with = |holds: fn(Rule) -> bool| all.into_iter().filter(|cause| holds(cause.rule())).collect::<Vec<_>>();
        assert_eq!(with(|rule| rule.slows_down), [Throttled]);
        assert_eq!(
            with(|rule| rule.doubt > Doubt::None),
            [ServerError, Unreadable, Disconnected, NoResponse, UnknownCode, UnknownError, BadEntry]
        );
        assert_eq!(
            with(|rule| !rule.calling_again_helps),
            [BadSignature, UnknownCode, UnknownError, Overtaken, Refused, BadEntry, BadItem]
        );
    }
}
