//! What one call knows of each session, and what follows from it. Plain data: no I/O, no clock, no randomness.
//!
//! Each session has one entry, however often the index shows it. An entry is open until there is *evidence* that the session
//! is revoked: a statement of this call reports that it changed it, or a strongly consistent read shows it revoked, gone or
//! of another user. An open entry is closed once and stays closed, so each session is counted at most once. The count is the
//! number of sessions that were changed by this call.
//!
//! | standing | event | next standing |
//! |---|---|---|
//! | `ToWrite` | statement: changed | `Changed` |
//! | | statement: throttled, or in conflict | `ToWrite` |
//! | | statement: condition failed | `ToExplain` |
//! | | no report of what the write did | `ToRead`, in doubt |
//! | | refused | `Refused` |
//! | `ToRead`, `ToExplain` | read: revoked by this call | `Changed` |
//! | | read: revoked by another, gone, of another user | `NothingToRevoke` |
//! | | read: live | `ToWrite`, but `Refused` from `ToExplain` with nothing in doubt |

use std::collections::HashMap;

use crate::failure::{Effect, StatementOutcome, StoreError};
use crate::session::TokenHash;
use crate::store::State;

/// The sessions that the index has shown during a call.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The effect is the most that any write without a report may have had: the doubt about the session.
    entries: HashMap<TokenHash, (Standing, Effect)>,
}

/// What is known of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Open: to be written, again if need be.
    ToWrite,
    /// Open: to be read, because the latest write did not report what it did.
    ToRead,
    /// Open: to be read, because the condition of the latest write failed.
    ToExplain,
    /// Open, and no further write can succeed.
    Refused,
    /// Closed: this call has revoked it.
    Changed,
    /// Closed: a read has shown it revoked by someone else, gone, or of another user.
    NothingToRevoke,
}

impl Standing {
    /// Whether there is no evidence yet.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Changed | Self::NothingToRevoke)
    }

    /// Whether only a read can say what the latest write did.
    #[must_use]
    pub fn needs_read(self) -> bool {
        matches!(self, Self::ToRead | Self::ToExplain)
    }
}

impl Ledger {
    /// Enters a session that the index shows; false if it has been entered before.
    pub fn enter(&mut self, session: &TokenHash) -> bool {
        let is_new = !self.entries.contains_key(session);
        if is_new {
            self.entries.insert(session.clone(), (Standing::ToWrite, Effect::None));
        }
        is_new
    }

    /// A statement has reported this about its session.
    pub fn reported(&mut self, session: &TokenHash, outcome: &StatementOutcome) {
        match outcome {
            StatementOutcome::Changed => self.set(session, Standing::Changed, Effect::None),
            StatementOutcome::Unchanged => self.set(session, Standing::ToExplain, Effect::None),
            StatementOutcome::Throttled(_) | StatementOutcome::Conflict(_) => {
                self.set(session, Standing::ToWrite, Effect::None);
            }
            StatementOutcome::Unreported => self.set(session, Standing::ToRead, Effect::Unknown),
            StatementOutcome::Refused(_) => self.set(session, Standing::Refused, Effect::None),
        }
    }

    /// A write of the session has failed as a whole, together with others.
    pub fn not_reported(&mut self, session: &TokenHash, error: &StoreError) {
        let standing = match error.effect() {
            Effect::None if error.is_retryable() => Standing::ToWrite,
            Effect::None => Standing::Refused,
            Effect::Unknown | Effect::StillPossible => Standing::ToRead,
        };
        self.set(session, standing, error.effect());
    }

    /// A strongly consistent read shows this of the session.
    ///
    /// # Errors
    /// [`StoreError::Contradiction`] if it is live although the condition of its update has failed, and no write is in doubt
    /// that could explain that.
    pub fn was_read(&mut self, session: &TokenHash, state: State) -> Result<(), StoreError> {
        let standing = match state {
            State::RevokedByThis => Standing::Changed,
            State::NothingToRevoke => Standing::NothingToRevoke,
            State::Live if self.of(session) == (Standing::ToExplain, Effect::None) => Standing::Refused,
            State::Live => Standing::ToWrite,
        };
        self.set(session, standing, Effect::None);
        if standing == Standing::Refused { Err(StoreError::Contradiction) } else { Ok(()) }
    }

    /// What is known of a session, and the doubt about it. One that the index has not shown has nothing to revoke.
    #[must_use]
    pub fn of(&self, session: &TokenHash) -> (Standing, Effect) {
        self.entries.get(session).copied().unwrap_or((Standing::NothingToRevoke, Effect::None))
    }

    /// How many sessions this call has changed to revoked.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.entries.values().filter(|(standing, _)| *standing == Standing::Changed).count() as u64
    }

    /// Whether there is evidence for every session that the index has shown.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.entries.values().any(|(standing, _)| standing.is_open())
    }

    /// Changes an open entry. Doubt once raised stays: the write may still be applied.
    fn set(&mut self, session: &TokenHash, standing: Standing, effect: Effect) {
        if let Some(entry) = self.entries.get_mut(session).filter(|(standing, _)| standing.is_open()) {
            *entry = (standing, effect.max(entry.1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> (Ledger, TokenHash) {
        let (mut ledger, session) = (Ledger::default(), TokenHash::from_table("a"));
        assert!(ledger.enter(&session));
        (ledger, session)
    }

    #[test]
    fn a_session_is_counted_once_however_often_it_is_shown_written_and_read() {
        let (mut ledger, session) = ledger();
        for _ in 0..2 {
            ledger.reported(&session, &StatementOutcome::Changed);
            assert!(!ledger.enter(&session));
            assert_eq!(ledger.was_read(&session, State::RevokedByThis).ok(), Some(()));
            ledger.reported(&session, &StatementOutcome::Unchanged);
        }
        assert_eq!((ledger.count(), ledger.is_closed()), (1, true));
    }

    #[test]
    fn a_failed_condition_is_no_evidence() {
        let (mut ledger, session) = ledger();
        ledger.reported(&session, &StatementOutcome::Unchanged);
        assert_eq!((ledger.of(&session).0, ledger.is_closed()), (Standing::ToExplain, false));
        ledger.was_read(&session, State::NothingToRevoke).expect("no contradiction");
        assert_eq!((ledger.count(), ledger.is_closed()), (0, true));
    }

    #[test]
    fn a_live_session_whose_condition_failed_is_a_contradiction_unless_a_write_is_in_doubt() {
        let (mut ledger, session) = ledger();
        ledger.reported(&session, &StatementOutcome::Unchanged);
        let contradiction = ledger.was_read(&session, State::Live);
        assert!(matches!(contradiction, Err(StoreError::Contradiction)), "{contradiction:?}");
        assert_eq!((ledger.of(&session).0, ledger.is_closed()), (Standing::Refused, false));

        let (mut ledger, session) = self::ledger();
        ledger.reported(&session, &StatementOutcome::Unreported);
        ledger.was_read(&session, State::Live).expect("no contradiction");
        ledger.reported(&session, &StatementOutcome::Unchanged);
        ledger.was_read(&session, State::Live).expect("no contradiction");
        assert_eq!(ledger.of(&session), (Standing::ToWrite, Effect::Unknown));
    }

    #[test]
    fn doubt_once_raised_stays() {
        let (mut ledger, session) = ledger();
        ledger.not_reported(&session, &StoreError::no_response("BatchExecuteStatement", std::time::Duration::ZERO));
        ledger.reported(&session, &StatementOutcome::Throttled("ThrottlingError".to_owned()));
        ledger.not_reported(&session, &StoreError::unreadable("BatchExecuteStatement"));
        assert_eq!(ledger.of(&session), (Standing::ToRead, Effect::StillPossible));
    }
}
