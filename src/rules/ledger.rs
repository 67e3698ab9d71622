//! What one call knows of each session, on what evidence, and when the session is due again. Plain data: no I/O, no clock, no
//! randomness.
//!
//! Each session has one row, however often the index shows it. A row is closed on *evidence* only: a write of this call reports
//! that it changed the session, or a strongly consistent read finds the session revoked, gone or of another user. A closed row
//! stays closed, so each session is counted at most once. The count is the number of sessions that this call has changed.
//!
//! | standing | what happens | next standing |
//! |---|---|---|
//! | no row yet | the index shows the session | `ToWrite`, at once |
//! | `ToWrite` | report: changed | `Changed` |
//! | | report: condition failed | `ToRead`, at once |
//! | | failed, and may have been applied | `ToRead`, in doubt, after a back-off |
//! | | failed, and was certainly not applied | `ToWrite`, after a back-off |
//! | | no attempt or no time is left, or the call stops writing | last reads if in doubt, else `GivenUp` |
//! | `ToRead` | found: revoked by this call | `Changed` |
//! | | found: revoked by another call, ended, or of another user | `NothingToRevoke` |
//! | | found: live | `ToWrite`; if no attempt or no time is left, as above |
//! | | not read | `ToRead`, after a back-off |
//! | | not read, and no attempt is left | last reads, whether in doubt or not |
//! | last reads | found: live, or not read | `ToRead` again until the last reads end, then `GivenUp` |
//! | any `ToRead` | no time for a read is left | `GivenUp` |
//!
//! The table leaves out `Sent`, the standing of a session while its request is under way. The *last reads* are those of a session
//! that is not written again. They end 1.5 s after its last failure. If a write got no response, they end when it is time to
//! answer, unless the reads fail for a permanent cause.
//!
//! A session that is given up says nothing about any other, so it stops no other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::time::Instant;

use super::budget::{Budget, STRAGGLING};
use super::evidence::{Attempts, Cause, Doubt, Found, Report};
use crate::session::TokenHash;

/// The sessions that the index has shown during a call.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The position of each session in `rows`.
    numbers: HashMap<TokenHash, usize>,
    rows: Vec<Row>,
    /// The rows whose standing is [`Standing::ToWrite`] or [`Standing::ToRead`], by the time when they are due.
    waiting: BTreeMap<Work, BTreeSet<(Instant, usize)>>,
}

/// What a request does for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Write the session as revoked.
    Write,
    /// Read the session, strongly consistent.
    Read,
}

#[derive(Debug)]
struct Row {
    session: TokenHash,
    standing: Standing,
    /// What the writes of the session may have done. Doubt never shrinks: a write that fails for certain says nothing about an
    /// earlier one.
    doubt: Doubt,
    attempts: Attempts,
    /// The whole requests in a row in which a write of the session was and that failed.
    requests: Attempts,
    /// Set once the session is not written again. In a box, since few sessions have last reads.
    last_reads: Option<Box<LastReads>>,
    /// Whether the session has been in a read before, for [`Taken::again`].
    was_read: bool,
    /// Whether the condition of the latest write failed.
    condition_failed: bool,
}

/// The reads of a session that is not written again.
#[derive(Clone, Copy, Debug)]
struct LastReads {
    /// When the last read begins.
    until: Instant,
    /// Why the session is given up if no read closes it: the cause for which it is not written again, or a permanent cause of
    /// its reads.
    cause: Cause,
    /// How many of the last reads have closed nothing, so that their back-off grows.
    made: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Open: to be written, not before this time.
    ToWrite(Instant),
    /// Open: to be read, not before this time, because its latest write did not report that it changed the session.
    ToRead(Instant),
    /// Open: in a request that is under way.
    Sent(Work),
    /// Closed: this call has revoked the session.
    Changed,
    /// Closed: a read has found the session revoked by someone else, gone, or of another user.
    NothingToRevoke,
    /// Not closed: there is no evidence that the session is revoked, and this call does nothing more for it.
    GivenUp(Cause),
}

/// The end of a request, the same for all its sessions.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// When the request ended.
    pub now: Instant,
    /// From 0 to 1. One number for the whole request, so that its sessions that failed alike are due together.
    pub random: f64,
    /// The time of the invocation.
    pub budget: Budget,
    /// Attempts at one session.
    pub attempts: u32,
    /// Whether there was no response, or only one error for the whole request.
    pub is_failure: bool,
}

/// The sessions that the ledger gives to one request.
#[derive(Debug)]
pub struct Taken {
    /// At least one.
    pub sessions: Vec<TokenHash>,
    /// The most failed attempts that one of the sessions has had. They set the time-out.
    pub failures: u32,
    /// Whether the request repeats an earlier one for one of the sessions. Only the log needs it.
    pub again: bool,
}

impl Ledger {
    /// Makes a row for a session that the index shows, to be written now; false if the session has a row already.
    pub fn add(&mut self, session: TokenHash, now: Instant) -> bool {
        let number = self.rows.len();
        if self.numbers.contains_key(&session) {
            return false;
        }
        self.numbers.insert(session.clone(), number);
        self.waiting.entry(Work::Write).or_default().insert((now, number));
        self.rows.push(Row {
            session,
            standing: Standing::ToWrite(now),
            doubt: Doubt::None,
            attempts: Attempts::default(),
            requests: Attempts::default(),
            last_reads: None,
            was_read: false,
            condition_failed: false,
        });
        true
    }

    /// How many sessions wait to be written, now or later.
    #[must_use]
    pub fn waiting_to_be_written(&self) -> usize {
        self.waiting.get(&Work::Write).map_or(0, BTreeSet::len)
    }

    /// When the first session that waits for this work is due.
    #[must_use]
    pub fn next_due(&self, work: Work) -> Option<Instant> {
        Some(self.waiting.get(&work)?.first()?.0)
    }

    /// Takes up to `most` sessions that are due for this work, in the order in which they became due; `None` if none is due.
    pub fn take(&mut self, work: Work, most: usize, now: Instant) -> Option<Taken> {
        let mut taken = Taken { sessions: Vec::new(), failures: 0, again: false };
        while taken.sessions.len() < most
            && let Some((at, number)) = self.waiting.get(&work).and_then(BTreeSet::first).copied()
            && at <= now
        {
            self.set(number, Standing::Sent(work));
            let Some(row) = self.rows.get_mut(number) else { break };
            taken.again |= match work {
                Work::Write => row.attempts.failed() > 0,
                Work::Read => std::mem::replace(&mut row.was_read, true),
            };
            taken.failures = taken.failures.max(row.attempts.failed());
            taken.sessions.push(row.session.clone());
        }
        (!taken.sessions.is_empty()).then_some(taken)
    }

    /// Applies the report of a write, or why there is none. `gets_further` says that the request has changed other sessions, so
    /// earlier attempts at this one do not count. Returns whether no attempt is left because whole requests have failed.
    pub fn written(
        &mut self,
        session: &TokenHash,
        report: Result<Report, Cause>,
        gets_further: bool,
        ending: &Ending,
    ) -> bool {
        let Some((number, row)) = self.sent(session, Work::Write) else { return false };
        let cause = match report {
            Ok(Report::Changed) => {
                self.set(number, Standing::Changed);
                return false;
            }
            // No failed attempt: a read says what it means.
            Ok(Report::ConditionFailed) => {
                row.condition_failed = true;
                row.requests.restart();
                self.set(number, Standing::ToRead(ending.now));
                return false;
            }
            Err(cause) => cause,
        };
        if gets_further {
            row.attempts.restart();
        }
        row.condition_failed = false;
        row.attempts.fail(cause);
        row.doubt = row.doubt.max(cause.rule().doubt);
        if ending.is_failure {
            row.requests.fail(cause);
        } else {
            row.requests.restart();
        }
        let (attempts, requests) = (row.attempts, row.requests);
        if cause.rule().doubt > Doubt::None {
            self.set(number, Standing::ToRead(ending.retry_at(attempts)));
        } else {
            self.write_again(number, ending);
        }
        ending.is_failure && requests.are_used_up(ending.attempts)
    }

    /// Applies what a read has found of the session, or why the session was not read.
    pub fn was_read(&mut self, session: &TokenHash, found: Result<Found, Cause>, ending: &Ending) {
        let Some((number, row)) = self.sent(session, Work::Read) else { return };
        match found {
            Ok(Found::RevokedByThisCall) => self.set(number, Standing::Changed),
            Ok(Found::RevokedByAnotherCall | Found::Ended | Found::OfAnotherUser) => {
                self.set(number, Standing::NothingToRevoke);
            }
            Ok(Found::Live) if row.last_reads.is_none() => {
                // Somebody has changed the session between the condition and the read.
                if row.condition_failed {
                    row.attempts.fail(Cause::Overtaken);
                }
                self.write_again(number, ending);
            }
            Ok(Found::Live) => {
                row.attempts.restart();
                self.read_again(number, ending);
            }
            Err(cause) => {
                row.attempts.fail(cause);
                let (are_used_up, doubt) = (row.attempts.are_used_up(ending.attempts), row.doubt);
                let conclusion = row.attempts.conclusion();
                if are_used_up && !conclusion.rule().calling_again_helps {
                    // After several attempts it is known that the cause stays.
                    let until = if conclusion.rule().attempts > 1 { ending.now } else { ending.soon() };
                    self.read_until(number, conclusion, until, ending);
                } else if are_used_up && row.last_reads.is_none() {
                    self.read_until(number, conclusion, ending.end_of_doubt(doubt), ending);
                } else {
                    self.read_again(number, ending);
                }
            }
        }
    }

    /// Gives up all sessions that wait to be written, for this cause. Sessions in doubt are still read.
    pub fn stop_writing(&mut self, cause: Cause, ending: &Ending) {
        let waiting = self.waiting.get(&Work::Write).cloned().unwrap_or_default();
        for (_, number) in waiting {
            if let Some(row) = self.rows.get_mut(number) {
                row.attempts.fail(cause);
                self.give_up(number, ending);
            }
        }
    }

    /// Gives up all sessions that wait to be read, because no time for a read is left.
    pub fn stop_reading(&mut self) {
        let waiting = self.waiting.get(&Work::Read).cloned().unwrap_or_default();
        for (_, number) in waiting {
            let cause = self.rows.get(number).and_then(|row| Some(row.last_reads.as_ref()?.cause));
            self.set(number, Standing::GivenUp(cause.unwrap_or(Cause::OutOfTime)));
        }
    }

    /// How many sessions this call has changed to revoked.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.rows.iter().filter(|row| row.standing == Standing::Changed).count() as u64
    }

    /// Whether there is evidence for every session that the index has shown.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.rows.iter().all(|row| matches!(row.standing, Standing::Changed | Standing::NothingToRevoke))
    }

    /// Why sessions have been given up.
    pub fn given_up(&self) -> impl Iterator<Item = Cause> {
        self.rows.iter().filter_map(|row| match row.standing {
            Standing::GivenUp(cause) => Some(cause),
            _ => None,
        })
    }

    /// The row of a session whose request for this work is under way, and its number.
    fn sent(&mut self, session: &TokenHash, work: Work) -> Option<(usize, &mut Row)> {
        let number = self.numbers.get(session).copied()?;
        let row = self.rows.get_mut(number).filter(|row| row.standing == Standing::Sent(work));
        debug_assert!(row.is_some(), "a result for a session that was not sent");
        Some((number, row?))
    }

    /// Lets a session be written again if an attempt and time are left, and gives it up otherwise.
    fn write_again(&mut self, number: usize, ending: &Ending) {
        let Some(row) = self.rows.get_mut(number) else { return };
        let is_in_doubt = row.attempts.cause().is_some_and(|cause| cause.rule().doubt > Doubt::None);
        // After a write in doubt, the back-off was before the read that found the session live.
        let at = if is_in_doubt { ending.now } else { ending.retry_at(row.attempts) };
        if row.attempts.are_used_up(ending.attempts) {
            self.give_up(number, ending);
        } else if ending.budget.may_write(at) {
            self.set(number, Standing::ToWrite(at));
        } else {
            row.attempts.fail(Cause::OutOfTime);
            self.give_up(number, ending);
        }
    }

    /// Gives up a session that is not written again. A session in doubt first gets its last reads, since its write may become
    /// visible.
    fn give_up(&mut self, number: usize, ending: &Ending) {
        let Some(row) = self.rows.get(number) else { return };
        let cause = row.attempts.conclusion();
        match row.doubt {
            Doubt::None => self.set(number, Standing::GivenUp(cause)),
            doubt => self.read_until(number, cause, ending.end_of_doubt(doubt), ending),
        }
    }

    /// Begins the last reads of a session, or shortens them: they end at `until`, or earlier if that was set before. `cause` is
    /// why the session is given up then.
    fn read_until(&mut self, number: usize, cause: Cause, until: Instant, ending: &Ending) {
        let Some(row) = self.rows.get_mut(number) else { return };
        match row.last_reads.as_deref_mut() {
            None => {
                row.attempts.restart();
                row.last_reads = Some(Box::new(LastReads { until, cause, made: 0 }));
            }
            Some(last) => {
                last.until = last.until.min(until);
                // A permanent cause stays: it must reach the client, who would call again for nothing.
                if last.cause.rule().calling_again_helps {
                    last.cause = cause;
                }
            }
        }
        self.read_again(number, ending);
    }

    /// Lets a session be read again after a back-off. When its last reads end, it is read once more, and then given up.
    fn read_again(&mut self, number: usize, ending: &Ending) {
        let Some(row) = self.rows.get_mut(number) else { return };
        let standing = match row.last_reads.as_deref_mut() {
            None => Standing::ToRead(ending.retry_at(row.attempts)),
            Some(last) if ending.now >= last.until => Standing::GivenUp(last.cause),
            Some(last) => {
                last.made += 1;
                Standing::ToRead(ending.budget.backoff(last.made, ending.now, ending.random).min(last.until))
            }
        };
        self.set(number, standing);
    }

    /// Changes the standing of a row, and updates `waiting`.
    fn set(&mut self, number: usize, standing: Standing) {
        let Some(row) = self.rows.get_mut(number) else { return };
        if let Some((work, at)) = row.standing.waits() {
            self.waiting.entry(work).or_default().remove(&(at, number));
        }
        if let Some((work, at)) = standing.waits() {
            self.waiting.entry(work).or_default().insert((at, number));
        }
        row.standing = standing;
    }
}

impl Standing {
    /// What a session with this standing waits for, and until when.
    fn waits(self) -> Option<(Work, Instant)> {
        match self {
            Self::ToWrite(at) => Some((Work::Write, at)),
            Self::ToRead(at) => Some((Work::Read, at)),
            Self::Sent(_) | Self::Changed | Self::NothingToRevoke | Self::GivenUp(_) => None,
        }
    }
}

impl Ending {
    /// When to make the next attempt after these failed ones.
    fn retry_at(&self, attempts: Attempts) -> Instant {
        let retry_at = |cause| self.budget.retry_at(cause, attempts.failed(), self.now, self.random);
        attempts.cause().map_or(self.now, retry_at)
    }

    /// Until when a write that ended now, in an error or a closed connection, may become visible.
    fn soon(&self) -> Instant {
        self.budget.answer_by.min(self.now + STRAGGLING)
    }

    /// When the last reads of a session with this doubt end.
    fn end_of_doubt(&self, doubt: Doubt) -> Instant {
        if doubt == Doubt::StillPossible { self.budget.answer_by } else { self.soon() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    struct Trial {
        ledger: Ledger,
        session: TokenHash,
        budget: Budget,
        now: Instant,
    }

    impl Trial {
        fn new() -> Self {
            let (wall, now) = (SystemTime::now(), Instant::now());
            let budget = Budget::until(wall + Duration::from_secs(29), wall, now);
            let (mut ledger, session) = (Ledger::default(), TokenHash::from_table("a"));
            assert!(ledger.add(session.clone(), now));
            Self { ledger, session, budget, now }
        }

        /// Lets the session be written, or read, as soon as it is due.
        fn take(&mut self, work: Work) -> Taken {
            self.now = self.ledger.next_due(work).expect("a session that waits").max(self.now);
            self.ledger.take(work, 25, self.now).expect("a session")
        }

        fn write(&mut self, report: Result<Report, Cause>) -> bool {
            self.take(Work::Write);
            let ending = Ending { now: self.now, random: 0.5, budget: self.budget, attempts: 8, is_failure: false };
            self.ledger.written(&self.session, report, false, &ending)
        }

        fn read(&mut self, found: Result<Found, Cause>) {
            self.take(Work::Read);
            let ending = Ending { now: self.now, random: 0.5, budget: self.budget, attempts: 8, is_failure: false };
            self.ledger.was_read(&self.session, found, &ending);
        }
    }

    #[test]
    fn a_session_is_counted_once_however_often_it_is_shown() {
        let mut trial = Trial::new();
        trial.write(Ok(Report::Changed));
        assert!(!trial.ledger.add(trial.session.clone(), trial.now));
        assert_eq!((trial.ledger.next_due(Work::Write), trial.ledger.next_due(Work::Read)), (None, None));
        assert_eq!((trial.ledger.count(), trial.ledger.is_closed()), (1, true));
    }

    #[test]
    fn a_failed_condition_is_no_evidence() {
        let mut trial = Trial::new();
        trial.write(Ok(Report::ConditionFailed));
        assert_eq!((trial.ledger.count(), trial.ledger.is_closed()), (0, false));
        trial.read(Ok(Found::Ended));
        assert_eq!((trial.ledger.count(), trial.ledger.is_closed()), (0, true));
    }

    #[test]
    fn doubt_once_raised_stays() {
        let mut trial = Trial::new();
        trial.write(Err(Cause::NoResponse));
        trial.read(Ok(Found::Live));
        // The refused write leaves no doubt, but the one before it does.
        trial.write(Err(Cause::Refused));
        assert_eq!(trial.ledger.given_up().count(), 0);
        trial.read(Ok(Found::RevokedByThisCall));
        assert_eq!((trial.ledger.count(), trial.ledger.is_closed()), (1, true));
    }

    #[test]
    fn a_session_that_is_given_up_is_no_evidence_and_keeps_its_cause() {
        let mut trial = Trial::new();
        assert!(!trial.write(Err(Cause::Refused)), "no whole request has failed");
        assert!(!trial.ledger.is_closed());
        assert_eq!(trial.ledger.given_up().collect::<Vec<_>>(), [Cause::Refused]);
    }

    #[test]
    fn a_read_that_is_refused_is_made_again_for_a_while_and_one_with_a_bad_signature_five_times() {
        let mut refused = Trial::new();
        refused.write(Ok(Report::ConditionFailed));
        refused.read(Err(Cause::Refused));
        refused.read(Ok(Found::Ended));
        assert!(refused.ledger.is_closed());

        let mut unsigned = Trial::new();
        unsigned.write(Ok(Report::ConditionFailed));
        for _ in 0..4 {
            unsigned.read(Err(Cause::BadSignature));
        }
        assert_eq!(unsigned.ledger.given_up().count(), 0);
        unsigned.read(Err(Cause::BadSignature));
        assert_eq!(unsigned.ledger.given_up().collect::<Vec<_>>(), [Cause::BadSignature]);
    }

    #[test]
    fn a_session_that_is_read_after_a_back_off_is_written_at_once() {
        let mut trial = Trial::new();
        trial.write(Err(Cause::ServerError));
        assert!(trial.ledger.next_due(Work::Read) > Some(trial.now));
        trial.read(Ok(Found::Live));
        assert_eq!(trial.ledger.next_due(Work::Write), Some(trial.now));
    }

    #[test]
    fn the_pauses_between_the_last_reads_grow() {
        let mut trial = Trial::new();
        trial.write(Err(Cause::NoResponse));
        trial.read(Ok(Found::Live));
        trial.write(Err(Cause::Refused));
        let pauses = [(); 3].map(|()| {
            trial.read(Ok(Found::Live));
            trial.ledger.next_due(Work::Read).expect("a last read") - trial.now
        });
        assert!(pauses.is_sorted_by(|one, next| one < next), "{pauses:?}");
    }

    #[test]
    fn sessions_that_wait_longest_are_taken_first_and_those_that_failed_alike_together() {
        let mut trial = Trial::new();
        let others: Vec<_> = (0..3).map(|number| TokenHash::from_table(&number.to_string())).collect();
        for other in &others {
            trial.ledger.add(other.clone(), trial.now);
        }
        let first = trial.ledger.take(Work::Write, 2, trial.now).expect("sessions");
        assert_eq!((first.sessions.len(), &first.sessions[1], first.again), (2, &others[0], false));
        let ending = Ending { now: trial.now, random: 0.5, budget: trial.budget, attempts: 8, is_failure: false };
        for session in &first.sessions {
            trial.ledger.written(session, Err(Cause::Throttled), false, &ending);
        }
        let second = trial.ledger.take(Work::Write, 25, trial.now).expect("sessions");
        assert_eq!(second.sessions, others[1..]);
        let again = trial.take(Work::Write);
        assert_eq!((again.sessions, again.failures, again.again), (first.sessions, 1, true));
    }
}
