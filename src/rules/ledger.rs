//! What one call knows of each session, on what evidence, and when it is due again. Plain data: no I/O, no clock, no randomness.
//!
//! Each session has one entry, however often the index shows it. An entry is closed on *evidence* only: a statement of this call
//! reports that it changed the session, or a strongly consistent read finds it revoked, gone or of another user. A closed entry
//! stays closed, so each session is counted at most once. The count is the number of sessions that this call has changed.
//!
//! | standing | what happens | next standing |
//! |---|---|---|
//! | `ToWrite` | reported: changed | `Changed` |
//! | | reported: condition failed | `ToRead`, at once |
//! | | failed, and was certainly not applied | `ToWrite`, after a back-off |
//! | | failed, and may have been applied | `ToRead`, in doubt |
//! | | no attempt or no time is left | `ToRead` for the last time if in doubt, else `GivenUp` |
//! | `ToRead` | found: revoked by this call | `Changed` |
//! | | found: revoked by another call, ended, or of another user | `NothingToRevoke` |
//! | | found: live | `ToWrite`; without any attempt left as above |
//! | | not read | `ToRead`, after a back-off |
//! | `ToRead` for the last time | found: live, or not read | `ToRead` until its doubt is over, then `GivenUp` |
//!
//! Nobody's bad luck stops the others: an entry that is given up says nothing about any other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::time::Instant;

use super::budget::{Budget, STRAGGLING};
use super::evidence::{Attempts, Cause, Doubt, Found, Report};
use crate::session::TokenHash;

/// The sessions that the index has shown during a call.
#[derive(Debug, Default)]
pub struct Ledger {
    numbers: HashMap<TokenHash, usize>,
    entries: Vec<Entry>,
    /// The entries whose standing is [`Standing::ToWrite`] or [`Standing::ToRead`], by the time when they are due.
    waiting: BTreeMap<Work, BTreeSet<(Instant, usize)>>,
}

/// What a request does for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Write it as revoked.
    Write,
    /// Read it, strongly consistent.
    Read,
}

#[derive(Debug)]
struct Entry {
    session: TokenHash,
    standing: Standing,
    /// What its writes may have done, or may still do. Doubt once raised stays until the entry is closed.
    doubt: Doubt,
    attempts: Attempts,
    /// Set once no further write is possible.
    last_reads: Option<LastReads>,
    /// Whether a read of it has been sent.
    was_read: bool,
}

/// The reads of a session that is not written any more.
#[derive(Clone, Copy, Debug)]
struct LastReads {
    /// When the last of them is made.
    until: Instant,
    /// Why the session is not written any more: that is why it is given up, whatever the reads meet.
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Open: to be written, not before this time.
    ToWrite(Instant),
    /// Open: to be read, not before this time, because its latest write did not report that it changed the session.
    ToRead(Instant),
    /// Open: in a request that is under way.
    Sent(Work),
    /// Closed: this call has revoked it.
    Changed,
    /// Closed: a read has found it revoked by someone else, gone, or of another user.
    NothingToRevoke,
    /// Nothing more can be done for it in this call, and there is no evidence that it is revoked.
    GivenUp(Cause),
}

/// What is the same for all sessions of a request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// When it ended.
    pub now: Instant,
    /// From 0 to 1. The same for all sessions of the request, so that those that failed alike are due together.
    pub random: f64,
    /// The time of the invocation.
    pub budget: &'a Budget,
    /// Attempts at one session.
    pub attempts: u32,
}

/// The sessions of one request.
#[derive(Debug)]
pub struct Taken {
    /// At least one.
    pub sessions: Vec<TokenHash>,
    /// The most failed attempts that one of them has had.
    pub failures: u32,
    /// Whether one of them was in such a request before.
    pub again: bool,
}

impl Ledger {
    /// Enters a session that the index shows, to be written now; false if it has been entered before.
    pub fn enter(&mut self, session: TokenHash, now: Instant) -> bool {
        let number = self.entries.len();
        if self.numbers.contains_key(&session) {
            return false;
        }
        self.numbers.insert(session.clone(), number);
        self.waiting.entry(Work::Write).or_default().insert((now, number));
        self.entries.push(Entry {
            session,
            standing: Standing::ToWrite(now),
            doubt: Doubt::None,
            attempts: Attempts::default(),
            last_reads: None,
            was_read: false,
        });
        true
    }

    /// How many sessions wait to be written, now or later.
    #[must_use]
    pub fn waiting_to_be_written(&self) -> usize {
        self.waiting.get(&Work::Write).map_or(0, BTreeSet::len)
    }

    /// When the first session is due that waits for this.
    #[must_use]
    pub fn next_due(&self, work: Work) -> Option<Instant> {
        Some(self.waiting.get(&work)?.first()?.0)
    }

    /// Takes up to `most` sessions that are due for this, those that have waited longest first; `None` if none is due.
    pub fn take(&mut self, work: Work, most: usize, now: Instant) -> Option<Taken> {
        let mut taken = Taken { sessions: Vec::new(), failures: 0, again: false };
        while taken.sessions.len() < most
            && let Some((at, number)) = self.waiting.get(&work).and_then(BTreeSet::first).copied()
            && at <= now
        {
            self.set(number, Standing::Sent(work));
            let Some(entry) = self.entries.get_mut(number) else { break };
            taken.again |= match work {
                Work::Write => entry.attempts.failed() > 0,
                Work::Read => std::mem::replace(&mut entry.was_read, true),
            };
            taken.failures = taken.failures.max(entry.attempts.failed());
            taken.sessions.push(entry.session.clone());
        }
        (!taken.sessions.is_empty()).then_some(taken)
    }

    /// A write of the session has ended like this. `gets_further` is whether the attempts before it do not count, because the
    /// request has changed other sessions. Returns whether no attempt is left.
    pub fn written(
        &mut self,
        session: &TokenHash,
        report: Result<Report, Cause>,
        gets_further: bool,
        ending: &Ending,
    ) -> bool {
        let Some((number, entry)) = self.sent(session, Work::Write) else { return false };
        let cause = match report {
            Ok(Report::Changed) => {
                self.set(number, Standing::Changed);
                return false;
            }
            // Counted as a failed attempt: should a read find the session live, somebody has changed it in between.
            Ok(Report::ConditionFailed) => Cause::Overtaken,
            Err(cause) => cause,
        };
        if gets_further {
            entry.attempts.restart();
        }
        entry.attempts.fail(cause);
        entry.doubt = entry.doubt.max(cause.rule().doubt);
        let attempts = entry.attempts;
        if cause == Cause::Overtaken {
            self.set(number, Standing::ToRead(ending.now));
        } else if cause.rule().doubt > Doubt::None {
            self.set(number, Standing::ToRead(ending.retry_at(&attempts)));
        } else {
            self.write_again(number, ending);
        }
        attempts.are_used_up(ending.attempts)
    }

    /// A read of the session has found this, or has failed.
    pub fn was_read(&mut self, session: &TokenHash, found: Result<Found, Cause>, ending: &Ending) {
        let Some((number, entry)) = self.sent(session, Work::Read) else { return };
        match found {
            Ok(Found::RevokedByThisCall) => self.set(number, Standing::Changed),
            Ok(Found::RevokedByAnotherCall | Found::Ended | Found::OfAnotherUser) => {
                self.set(number, Standing::NothingToRevoke);
            }
            Ok(Found::Live) if entry.last_reads.is_none() => self.write_again(number, ending),
            Ok(Found::Live) => self.read_again(number, ending),
            Err(cause) => {
                entry.attempts.fail(cause);
                let (are_used_up, doubt) = (entry.attempts.are_used_up(ending.attempts), entry.doubt);
                let conclusion = entry.attempts.conclusion();
                if are_used_up && !conclusion.rule().calling_again_helps {
                    self.read_until(number, conclusion, ending.soon(), ending);
                } else if are_used_up && entry.last_reads.is_none() {
                    self.read_until(number, conclusion, ending.end_of_doubt(doubt), ending);
                } else {
                    self.read_again(number, ending);
                }
            }
        }
    }

    /// Gives up all sessions that wait to be written, for this cause. Those in doubt are still read.
    pub fn stop_writing(&mut self, cause: Cause, ending: &Ending) {
        let waiting = self.waiting.get(&Work::Write).cloned().unwrap_or_default();
        for (_, number) in waiting {
            if let Some(entry) = self.entries.get_mut(number) {
                entry.attempts.fail(cause);
                self.give_up(number, ending);
            }
        }
    }

    /// Gives up all sessions that wait to be read.
    pub fn stop_reading(&mut self) {
        let waiting = self.waiting.get(&Work::Read).cloned().unwrap_or_default();
        for (_, number) in waiting {
            let last = self.entries.get(number).and_then(|entry| entry.last_reads);
            self.set(number, Standing::GivenUp(last.map_or(Cause::OutOfTime, |last| last.cause)));
        }
    }

    /// How many sessions this call has changed to revoked.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.standing == Standing::Changed).count() as u64
    }

    /// Whether there is evidence for every session that the index has shown.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.standing, Standing::Changed | Standing::NothingToRevoke))
    }

    /// Why sessions have been given up.
    pub fn given_up(&self) -> impl Iterator<Item = Cause> {
        self.entries.iter().filter_map(|entry| match entry.standing {
            Standing::GivenUp(cause) => Some(cause),
            _ => None,
        })
    }

    /// The entry of a session that is in a request of this kind, and its number.
    fn sent(&mut self, session: &TokenHash, work: Work) -> Option<(usize, &mut Entry)> {
        let number = self.numbers.get(session).copied()?;
        let entry = self.entries.get_mut(number).filter(|entry| entry.standing == Standing::Sent(work));
        debug_assert!(entry.is_some(), "a result for a session that was not sent");
        Some((number, entry?))
    }

    /// Lets a session be written again, if an attempt and time for it are left.
    fn write_again(&mut self, number: usize, ending: &Ending) {
        let Some(entry) = self.entries.get_mut(number) else { return };
        let is_in_doubt = entry.attempts.cause().is_some_and(|cause| cause.rule().doubt > Doubt::None);
        // The back-off of a write in doubt was before its read.
        let at = if is_in_doubt { ending.now } else { ending.retry_at(&entry.attempts) };
        if entry.attempts.are_used_up(ending.attempts) {
            self.give_up(number, ending);
        } else if ending.budget.may_write(at) {
            self.set(number, Standing::ToWrite(at));
        } else {
            entry.attempts.fail(Cause::OutOfTime);
            self.give_up(number, ending);
        }
    }

    /// Gives up a session that cannot be written again. A session in doubt is read until the doubt is over.
    fn give_up(&mut self, number: usize, ending: &Ending) {
        let Some(entry) = self.entries.get(number) else { return };
        let cause = entry.attempts.conclusion();
        match entry.doubt {
            Doubt::None => self.set(number, Standing::GivenUp(cause)),
            doubt => self.read_until(number, cause, ending.end_of_doubt(doubt), ending),
        }
    }

    /// Lets a session that is not written again, for this cause, be read until this time, or an earlier one that was set before.
    fn read_until(&mut self, number: usize, cause: Cause, until: Instant, ending: &Ending) {
        let Some(entry) = self.entries.get_mut(number) else { return };
        entry.last_reads = Some(match entry.last_reads {
            None => {
                entry.attempts.restart();
                LastReads { until, cause }
            }
            // A permanent cause stays.
            Some(last) if !last.cause.rule().calling_again_helps => LastReads { until: until.min(last.until), ..last },
            Some(last) => LastReads { until: until.min(last.until), cause },
        });
        self.read_again(number, ending);
    }

    /// Lets a session be read again after a back-off. One that is not written again is read for the last time when its time ends.
    fn read_again(&mut self, number: usize, ending: &Ending) {
        let Some(entry) = self.entries.get_mut(number) else { return };
        let standing = match entry.last_reads {
            None => Standing::ToRead(ending.retry_at(&entry.attempts)),
            Some(last) if ending.now >= last.until => Standing::GivenUp(last.cause),
            Some(last) => {
                // A read that closes nothing counts as failed, so that the back-off grows.
                entry.attempts.fail(last.cause);
                let at = ending.budget.backoff(entry.attempts.failed(), ending.now, ending.random);
                Standing::ToRead(at.min(last.until))
            }
        };
        self.set(number, standing);
    }

    /// Changes the standing of an entry, and its place among those that wait.
    fn set(&mut self, number: usize, standing: Standing) {
        let Some(entry) = self.entries.get_mut(number) else { return };
        if let Some((work, at)) = entry.standing.waits() {
            self.waiting.entry(work).or_default().remove(&(at, number));
        }
        if let Some((work, at)) = standing.waits() {
            self.waiting.entry(work).or_default().insert((at, number));
        }
        entry.standing = standing;
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

impl Ending<'_> {
    /// When to attempt again something with these failed attempts.
    fn retry_at(&self, attempts: &Attempts) -> Instant {
        let retry_at = |cause| self.budget.retry_at(cause, attempts.failed(), self.now, self.random);
        attempts.cause().map_or(self.now, retry_at)
    }

    /// Until when a write that ended in an error, or in a closed connection, may become visible.
    fn soon(&self) -> Instant {
        self.budget.answer_by.min(self.now + STRAGGLING)
    }

    /// Until when a session with this doubt is read once it is not written again.
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
            assert!(ledger.enter(session.clone(), now));
            Self { ledger, session, budget, now }
        }

        /// Lets the session be written, or read, as soon as it is due.
        fn take(&mut self, work: Work) -> Taken {
            self.now = self.ledger.next_due(work).expect("a session that waits").max(self.now);
            self.ledger.take(work, 25, self.now).expect("a session")
        }

        fn write(&mut self, report: Result<Report, Cause>) -> bool {
            self.take(Work::Write);
            let ending = Ending { now: self.now, random: 0.5, budget: &self.budget, attempts: 8 };
            self.ledger.written(&self.session, report, false, &ending)
        }

        fn read(&mut self, found: Result<Found, Cause>) {
            self.take(Work::Read);
            let ending = Ending { now: self.now, random: 0.5, budget: &self.budget, attempts: 8 };
            self.ledger.was_read(&self.session, found, &ending);
        }
    }

    #[test]
    fn a_session_is_counted_once_however_often_it_is_shown() {
        let mut trial = Trial::new();
        trial.write(Ok(Report::Changed));
        assert!(!trial.ledger.enter(trial.session.clone(), trial.now));
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
        assert!(trial.write(Err(Cause::Refused)));
        assert!(!trial.ledger.is_closed());
        assert_eq!(trial.ledger.given_up().collect::<Vec<_>>(), [Cause::Refused]);
    }

    #[test]
    fn sessions_that_wait_longest_are_taken_first_and_those_that_failed_alike_together() {
        let mut trial = Trial::new();
        let others: Vec<_> = (0..3).map(|number| TokenHash::from_table(&number.to_string())).collect();
        for other in &others {
            trial.ledger.enter(other.clone(), trial.now);
        }
        let first = trial.ledger.take(Work::Write, 2, trial.now).expect("sessions");
        assert_eq!((first.sessions.len(), &first.sessions[1], first.again), (2, &others[0], false));
        let ending = Ending { now: trial.now, random: 0.5, budget: &trial.budget, attempts: 8 };
        for session in &first.sessions {
            trial.ledger.written(session, Err(Cause::Throttled), false, &ending);
        }
        let second = trial.ledger.take(Work::Write, 25, trial.now).expect("sessions");
        assert_eq!(second.sessions, others[1..]);
        let again = trial.take(Work::Write);
        assert_eq!((again.sessions, again.failures, again.again), (first.sessions, 1, true));
    }
}
