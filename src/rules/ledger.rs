//! What one call knows of each session, and what follows from it. Plain data: no I/O, no clock, no randomness.
//!
//! Each session has one entry, however often the index shows it. An entry is open until there is *evidence* that the session
//! is revoked: a statement of this call reports that it changed it, or a strongly consistent read shows it revoked, gone or
//! of another user. An open entry is closed once and stays closed, so each session is counted at most once. The count is the
//! number of sessions that were changed by this call.
//!
//! | standing | event | next standing |
//! |---|---|---|
//! | `ToWrite` | written: changed | `Changed` |
//! | | written: throttled, or in conflict with another write | `ToWrite` |
//! | | written: condition failed | `ToRead` |
//! | | written, but not reported: an error, or no response | `ToRead`, in doubt |
//! | | written: refused | `Refused` |
//! | `ToRead` | read: revoked by this call | `Changed` |
//! | | read: revoked by another, gone, or of another user | `NothingToRevoke` |
//! | | read: live, in doubt | `ToWrite` |
//! | | read: live, nothing in doubt: its condition cannot have failed | `Refused` |

use std::collections::HashMap;

use crate::dynamodb::failure::{Effect, StoreError, Written};
use crate::dynamodb::store::State;
use crate::session::TokenHash;

/// The sessions that the index has shown during a call.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The effect is the doubt about the session: whether a write without a report may have been applied, or may still be.
    entries: HashMap<TokenHash, (Standing, Effect)>,
}

/// What is known of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Open: to be written, again if need be.
    ToWrite,
    /// Open: to be read, because the latest write did not report that it changed the session.
    ToRead,
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

    /// A write of the session has ended like this.
    pub fn written(&mut self, session: &TokenHash, result: &Result<Written, StoreError>) {
        let (standing, effect) = match result {
            Ok(Written::Changed) => (Standing::Changed, Effect::None),
            Ok(Written::Unchanged) => (Standing::ToRead, Effect::None),
            Err(error) => match error.effect() {
                Effect::None if error.is_retryable() => (Standing::ToWrite, Effect::None),
                Effect::None => (Standing::Refused, Effect::None),
                effect @ (Effect::Unknown | Effect::StillPossible) => (Standing::ToRead, effect),
            },
        };
        self.set(session, standing, effect);
    }

    /// A strongly consistent read shows this of the session.
    ///
    /// # Errors
    /// [`StoreError::Contradiction`] if it is live and no write is in doubt: then it is read because its condition has failed.
    pub fn was_read(&mut self, session: &TokenHash, state: State) -> Result<(), StoreError> {
        let standing = match state {
            State::RevokedByThis => Standing::Changed,
            State::NothingToRevoke => Standing::NothingToRevoke,
            State::Live if self.of(session).1 == Effect::None => Standing::Refused,
            State::Live => Standing::ToWrite,
        };
        self.set(session, standing, Effect::None);
        if standing == Standing::Refused { Err(StoreError::Contradiction) } else { Ok(()) }
    }

    /// What is known of a session, and the doubt about it.
    #[must_use]
    pub fn of(&self, session: &TokenHash) -> (Standing, Effect) {
        self.entries.get(session).copied().unwrap_or((Standing::ToRead, Effect::None))
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
            ledger.written(&session, &Ok(Written::Changed));
            assert!(!ledger.enter(&session));
            assert_eq!(ledger.was_read(&session, State::RevokedByThis).ok(), Some(()));
            ledger.written(&session, &Ok(Written::Unchanged));
        }
        assert_eq!((ledger.count(), ledger.is_closed()), (1, true));
    }

    #[test]
    fn a_failed_condition_is_no_evidence() {
        let (mut ledger, session) = ledger();
        ledger.written(&session, &Ok(Written::Unchanged));
        assert_eq!((ledger.of(&session).0, ledger.is_closed()), (Standing::ToRead, false));
        ledger.was_read(&session, State::NothingToRevoke).expect("no contradiction");
        assert_eq!((ledger.count(), ledger.is_closed()), (0, true));
    }

    #[test]
    fn a_live_session_whose_condition_failed_is_a_contradiction_unless_a_write_is_in_doubt() {
        let (mut ledger, session) = ledger();
        ledger.written(&session, &Ok(Written::Unchanged));
        let contradiction = ledger.was_read(&session, State::Live);
        assert!(matches!(contradiction, Err(StoreError::Contradiction)), "{contradiction:?}");
        assert_eq!((ledger.of(&session).0, ledger.is_closed()), (Standing::Refused, false));

        let (mut ledger, session) = self::ledger();
        ledger.written(&session, &Err(StoreError::unreadable("BatchExecuteStatement")));
        ledger.was_read(&session, State::Live).expect("no contradiction");
        ledger.written(&session, &Ok(Written::Unchanged));
        ledger.was_read(&session, State::Live).expect("no contradiction");
        assert_eq!(ledger.of(&session), (Standing::ToWrite, Effect::Unknown));
    }

    #[test]
    fn doubt_once_raised_stays() {
        let (mut ledger, session) = ledger();
        for error in [
            StoreError::no_response("BatchExecuteStatement", std::time::Duration::ZERO),
            StoreError::unreadable("BatchExecuteStatement"),
        ] {
            ledger.written(&session, &Err(error));
        }
        assert_eq!(ledger.of(&session), (Standing::ToRead, Effect::StillPossible));
    }
}
