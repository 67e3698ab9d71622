//! What a call does next: pages of the index, writes of sessions, reads of sessions. Plain data: no I/O. The time and randomness
//! are parameters, so every order of events can be tried in a test.
//!
//! The contract with the driver:
//!
//! 1. The driver calls [`Schedule::next`] until it returns no step, and begins each step at once.
//! 2. Then [`Schedule::next_at`] returns when to call `next` again. Without a step under way and without such a time the call is
//!    over.
//! 3. When a step ends, the driver passes its result to [`Schedule::apply`], and begins again at 1. Each step has one result, and
//!    steps may end in any order.
//! 4. When the call is over, [`Schedule::finish`] returns the result of the call. The driver must not call it while a step is
//!    under way, since what a step changes must be counted.
//!
//! The driver passes times that never go back. The schedule promises: at most one page and at most [`Limits::in_flight`] batches
//! are under way; no session is in two steps at the same time; no write begins that the [`Budget`] does not allow; the caller's
//! own session is in no step.
//!
//! | the first of these steps that can begin | begins when |
//! |---|---|
//! | a read of sessions | sessions are due to be read, and fewer than `in_flight` batches are under way |
//! | a batch of writes | sessions are due to be written, fewer than `in_flight` batches are under way, and the [`Pace`] allows |
//! | the next page of a look | fewer sessions wait to be written than `in_flight` batches can hold |
//! | the first page of a look | no session waits to be written, and the pause before the look is over |
//!
//! A batch exists for one request only. The [`Ledger`] knows each session by itself, so the sessions that are due next share a
//! batch whatever their history. A write that fails concerns one session. Only when all attempts at a session have failed as whole
//! requests, the sessions that wait to be written are given up: the next request would probably fail too.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::budget::{Budget, Timeout};
use super::evidence::{Cause, Failure, Found, Page, Report};
use super::ledger::{Ending, Ledger, Work};
use super::limits::Limits;
use super::looks::Looks;
use super::pace::Pace;
use crate::session::TokenHash;

/// The state of one call. `C` is where a page of the index begins; only `dynamodb` knows what is in it.
#[derive(Debug)]
pub struct Schedule<C> {
    caller: TokenHash,
    limits: Limits,
    budget: Budget,
    pace: Pace,
    ledger: Ledger,
    looks: Looks<C>,
    /// How many batches of writes and reads of sessions are under way.
    under_way: usize,
    /// Why the sessions that waited to be written were given up, as later ones of the index are; `None` if they were not.
    stopped: Option<Cause>,
    /// The latest failure of each cause, with its text for the log. The ledger and the looks keep causes only.
    failures: BTreeMap<Cause, Failure>,
    /// The cause of the latest failure.
    latest: Option<Cause>,
    /// Whether a write has been sent.
    began: bool,
    statistics: Statistics,
}

/// A request that the driver has to begin at once.
#[derive(Debug)]
pub enum Step<C> {
    /// Read a page of the index: where it begins, the most entries on it, and how long to wait.
    Page(Option<C>, i32, Timeout),
    /// Write these sessions as revoked.
    Write(Batch),
    /// Read these sessions, strongly consistent.
    Read(Batch),
}

/// The sessions of one step.
#[derive(Debug)]
pub struct Batch {
    /// At least one.
    pub sessions: Vec<TokenHash>,
    /// How long to wait for the response.
    pub timeout: Timeout,
    /// When the step began.
    since: Instant,
}

/// The result of a [`Step`].
#[derive(Debug)]
pub enum StepResult<C> {
    /// The page, or why there is none.
    Page(Result<Page<C>, Failure>),
    /// One report for each session of the batch, in the batch's order, or why the whole request failed.
    Written(Batch, Result<Vec<Result<Report, Failure>>, Failure>),
    /// What was found of each session of the batch, in the batch's order, or why the whole request failed. `None` is a session
    /// that DynamoDB did not read.
    Read(Batch, Result<Vec<Option<Found>>, Failure>),
}

/// The result of a call.
#[derive(Debug)]
pub struct CallResult {
    /// Success if there is evidence for every session that the index has shown and no further look is necessary; else why not.
    pub result: Result<(), Failure>,
    /// How many sessions this call has changed to revoked.
    pub count: u64,
    /// Whether a write has been sent.
    pub began: bool,
    /// For the log.
    pub statistics: Statistics,
}

/// What the log reports of a call. Nothing is decided by these numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    /// Looks at the index begun.
    pub looks: u64,
    /// Pages of the index read.
    pub pages: u64,
    /// Index entries read, revoked and repeated ones included.
    pub entries: u64,
    /// Batches of writes sent, those that repeat a write included.
    pub writes: u64,
    /// Requests that repeated an earlier one, wholly or in part.
    pub retries: u64,
}

impl<C: Clone> Schedule<C> {
    /// The schedule of a call that begins now. `caller` is the session that stays signed in.
    #[must_use]
    pub fn new(caller: TokenHash, limits: Limits, budget: Budget, now: Instant) -> Self {
        Self {
            caller,
            limits,
            budget,
            pace: Pace::unlimited(now),
            ledger: Ledger::default(),
            looks: Looks::new(now),
            under_way: 0,
            stopped: None,
            failures: BTreeMap::new(),
            latest: None,
            began: false,
            statistics: Statistics::default(),
        }
    }

    /// The next step to begin now; `None` if no step is due.
    ///
    /// Batches come before pages, so that a batch is sent on the connection that has just responded.
    pub fn next(&mut self, now: Instant) -> Option<Step<C>> {
        if self.under_way < self.limits.in_flight
            && let Some(step) = self.next_read(now).or_else(|| self.next_write(now))
        {
            self.under_way += 1;
            return Some(step);
        }
        self.next_page(now)
    }

    /// When to call [`Schedule::next`] again if no result comes before; `None` if only a result can make a step due. The driver
    /// asks after `next` has returned `None`: otherwise the time may have passed.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        let read = self.ledger.next_due(Work::Read);
        let write = self.ledger.next_due(Work::Write).map(|due| due.max(self.pace.free_at()));
        let batch = if self.under_way < self.limits.in_flight { [read, write] } else { [None, None] };
        let page = self.looks.due().filter(|(_, is_first)| self.may_look(*is_first)).map(|(at, _)| at);
        batch.into_iter().chain([page]).flatten().min()
    }

    /// Applies the result of a step. `random` is from 0 to 1, for the back-offs and pauses.
    pub fn apply(&mut self, result: StepResult<C>, now: Instant, random: f64) {
        match result {
            StepResult::Page(page) => self.page_read(page, now, random),
            StepResult::Written(batch, reports) => self.written(&batch, reports, now, random),
            StepResult::Read(batch, found) => self.read(&batch, found, now, random),
        }
    }

    /// The result of the call, once no step is under way. Success needs evidence: that nothing failed does not suffice.
    #[must_use]
    pub fn finish(self) -> CallResult {
        debug_assert!(self.under_way == 0, "a batch is under way");
        let causes = self.ledger.given_up().chain(self.stopped).chain(self.looks.failure());
        // A permanent cause takes precedence: the client must not call again for nothing.
        let cause = causes.max_by_key(|cause| !cause.rule().calling_again_helps);
        let is_proven = self.looks.are_enough() && self.ledger.is_closed();
        let result = if is_proven { Ok(()) } else { Err(self.failure(cause.unwrap_or(Cause::OutOfTime))) };
        CallResult { result, count: self.ledger.count(), began: self.began, statistics: self.statistics }
    }

    fn next_read(&mut self, now: Instant) -> Option<Step<C>> {
        if self.budget.read_timeout(0, now).is_none() {
            self.ledger.stop_reading();
            return None;
        }
        let taken = self.ledger.take(Work::Read, self.limits.batch, now)?;
        let timeout = self.budget.read_timeout(taken.failures, now)?;
        self.statistics.retries += u64::from(taken.again);
        Some(Step::Read(Batch { sessions: taken.sessions, timeout, since: now }))
    }

    fn next_write(&mut self, now: Instant) -> Option<Step<C>> {
        let is_late = !self.budget.may_write(now.max(self.pace.free_at()));
        let stop = self.stopped.or(is_late.then_some(Cause::OutOfTime));
        if let Some(cause) = stop.filter(|_| self.ledger.waiting_to_be_written() > 0) {
            self.stop(cause, now);
            return None;
        }
        if self.pace.free_at() > now {
            return None;
        }
        let taken = self.ledger.take(Work::Write, self.limits.batch, now)?;
        self.pace.sent(taken.sessions.len(), now);
        self.began = true;
        self.statistics.writes += 1;
        self.statistics.retries += u64::from(taken.again);
        let timeout = self.budget.write_timeout(taken.failures);
        Some(Step::Write(Batch { sessions: taken.sessions, timeout, since: now }))
    }

    fn next_page(&mut self, now: Instant) -> Option<Step<C>> {
        let (at, is_first) = self.looks.due()?;
        if at > now || !self.may_look(is_first) {
            return None;
        }
        let page = self.looks.begin(&self.budget, now)?;
        self.statistics.looks += u64::from(is_first && !page.again);
        self.statistics.retries += u64::from(page.again);
        Some(Step::Page(page.from, self.limits.page, page.timeout))
    }

    /// Whether few enough sessions wait to be written, so that a page may be read.
    fn may_look(&self, is_first: bool) -> bool {
        let waiting = self.ledger.waiting_to_be_written();
        if is_first { waiting == 0 } else { waiting < self.limits.in_flight * self.limits.batch }
    }

    fn page_read(&mut self, page: Result<Page<C>, Failure>, now: Instant, random: f64) {
        let page = match page {
            Ok(page) => page,
            Err(failure) => {
                let cause = self.note(failure);
                self.looks.page_failed(cause, self.limits.attempts, &self.budget, now, random);
                return;
            }
        };
        let mut shows_new = false;
        for session in page.sessions {
            // The caller's own session gets no row in the ledger, so no step can hold it.
            shows_new |= session != self.caller && self.ledger.add(session, now);
        }
        self.statistics.pages += 1;
        self.statistics.entries += page.entries;
        let took = self.looks.page_read(shows_new, page.next, &self.budget, now, random);
        self.budget.responded_after(took);
    }

    fn written(
        &mut self,
        batch: &Batch,
        reports: Result<Vec<Result<Report, Failure>>, Failure>,
        now: Instant,
        random: f64,
    ) {
        self.under_way -= 1;
        let has_response = reports.is_ok();
        let reports = reports.unwrap_or_else(|failure| vec![Err(failure); batch.sessions.len()]);
        debug_assert_eq!(reports.len(), batch.sessions.len(), "not one report for each session");
        if has_response {
            self.budget.responded_after(now - batch.since);
        }
        let slows_down =
            |report: &&Result<Report, Failure>| report.as_ref().is_err_and(|failure| failure.cause.rule().slows_down);
        let throttled = reports.iter().filter(slows_down).count();
        let changed = reports.iter().filter(|report| matches!(report, Ok(Report::Changed))).count();
        self.pace.learn(changed, throttled, now);
        let ending = Ending { is_failure: !has_response, ..self.ending(now, random) };
        let mut used_up = None;
        for (session, report) in batch.sessions.iter().zip(reports) {
            let report = report.map_err(|failure| self.note(failure));
            // A table that accepts some writes of a request is only busy: the throttled ones get all their attempts anew.
            let gets_further = changed > 0 && report == Err(Cause::Throttled);
            if self.ledger.written(session, report, gets_further, &ending) {
                used_up = report.err();
            }
        }
        if let Some(cause) = used_up {
            self.stop(cause, now);
        }
    }

    fn read(&mut self, batch: &Batch, found: Result<Vec<Option<Found>>, Failure>, now: Instant, random: f64) {
        self.under_way -= 1;
        let found: Vec<_> = match found {
            Ok(found) => {
                self.budget.responded_after(now - batch.since);
                // DynamoDB does not read all sessions of a request when it has too much to do.
                found.into_iter().map(|found| found.ok_or(Cause::Throttled)).collect()
            }
            Err(failure) => {
                let cause = self.note(failure);
                vec![Err(cause); batch.sessions.len()]
            }
        };
        debug_assert_eq!(found.len(), batch.sessions.len(), "not one result for each session");
        let ending = self.ending(now, random);
        for (session, found) in batch.sessions.iter().zip(found) {
            if found == Ok(Found::Ended) {
                self.looks.replaced(now);
                if let Some(cause) = self.stopped {
                    self.looks.fail(cause);
                }
            }
            self.ledger.was_read(session, found, &ending);
        }
    }

    /// Gives up the sessions that wait to be written, and the looks if they are not enough. Sessions in doubt are still read.
    fn stop(&mut self, cause: Cause, now: Instant) {
        let ending = self.ending(now, 0.0);
        self.ledger.stop_writing(cause, &ending);
        self.looks.fail(cause);
        self.stopped.get_or_insert(cause);
    }

    fn ending(&self, now: Instant, random: f64) -> Ending {
        Ending { now, random, budget: self.budget, attempts: self.limits.attempts, is_failure: false }
    }

    /// Keeps the text of a failure for the log.
    fn note(&mut self, failure: Failure) -> Cause {
        let cause = failure.cause;
        self.latest = Some(cause);
        self.failures.insert(cause, failure);
        cause
    }

    /// The failure of a call that ends for this cause. If it ends because the time is over, the log says what took the time.
    fn failure(&self, cause: Cause) -> Failure {
        let noted = match (cause, self.latest) {
            (Cause::OutOfTime, Some(latest)) => self.failures.get(&latest),
            _ => self.failures.get(&cause),
        };
        noted.map_or_else(|| Failure::from(cause), |failure| failure.as_cause(cause))
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "the figures of a test are small")]
mod tests {
    use std::collections::VecDeque;
    use std::time::{Duration, SystemTime};

    use super::super::budget::STRAGGLING;
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(5);
    const IN_FLIGHT: usize = Limits::DEPLOYED.in_flight;
    const ATTEMPTS: usize = Limits::DEPLOYED.attempts as usize;

    /// What happens to a write of one session.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Fate {
        /// The write is carried out, and the response reports the truth.
        Answered,
        /// Somebody else revokes the session just before, so its condition fails.
        OvertakenByOthers,
        /// Somebody else revokes the session just before and makes it live again just after, so its condition fails.
        RevivedByOthers,
        Throttled,
        Refused,
        /// A code that nobody knows, after the write was applied.
        UnknownAfter,
        /// A code that nobody knows, and the write was not applied.
        UnknownBefore,
        /// An error, after the write was applied.
        ErrorAfter,
        /// An error that may have been applied, but was not.
        ErrorBefore,
        /// No response, after the write was applied.
        SilentAfter,
        /// No response, and the write was not applied.
        SilentBefore,
        /// No response, and the write is applied while the next request is under way.
        Late,
        /// No response, and the write is applied while the request after the next is under way.
        Later,
    }

    /// The fates of the first and the second session of a batch.
    type Fates = [Fate; 2];

    const STATEMENT: [Fate; 9] = [
        Fate::Answered,
        Fate::OvertakenByOthers,
        Fate::RevivedByOthers,
        Fate::Throttled,
        Fate::Refused,
        Fate::UnknownAfter,
        Fate::UnknownBefore,
        Fate::ErrorAfter,
        Fate::ErrorBefore,
    ];
    /// The fates that all sessions of a request share.
    const SILENT: [Fate; 4] = [Fate::SilentAfter, Fate::SilentBefore, Fate::Late, Fate::Later];

    /// What the table holds.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Truth {
        Live,
        RevokedByThis,
        RevokedByOthers,
    }

    /// A table of `sessions` sessions that fails as a script says, and works when the script is over.
    struct Model<'a> {
        script: &'a [Fates],
        /// Writes so far.
        writes: usize,
        /// When the last write was sent.
        last_write: Option<Instant>,
        /// What the table holds of each session, whose hash is its index here.
        truth: Vec<Truth>,
        /// Writes that will be applied after so many further requests.
        late: Vec<(usize, usize)>,
    }

    impl<'a> Model<'a> {
        fn new(sessions: usize, script: &'a [Fates]) -> Self {
            Self { script, writes: 0, last_write: None, truth: vec![Truth::Live; sessions], late: Vec::new() }
        }

        fn perform(&mut self, step: Step<u32>, now: Instant) -> (StepResult<u32>, Duration) {
            match step {
                Step::Page(..) => (page(sessions(0..self.truth.len())), ROUND_TRIP),
                Step::Read(batch) => {
                    let found = |session: &TokenHash| match self.truth[number(session)] {
                        Truth::Live => Found::Live,
                        Truth::RevokedByThis => Found::RevokedByThisCall,
                        Truth::RevokedByOthers => Found::RevokedByAnotherCall,
                    };
                    let found = batch.sessions.iter().map(|session| Some(found(session))).collect();
                    self.let_late_writes_be_applied();
                    (StepResult::Read(batch, Ok(found)), ROUND_TRIP)
                }
                Step::Write(batch) => {
                    self.let_late_writes_be_applied();
                    self.last_write = Some(now);
                    let fates = self.script.get(self.writes).copied().unwrap_or([Fate::Answered; 2]);
                    self.writes += 1;
                    let silent = fates.iter().any(|fate| SILENT.contains(fate));
                    let sessions = batch.sessions.iter().zip(fates);
                    let reports = sessions.map(|(session, fate)| self.write(number(session), fate)).collect();
                    let patience = batch.timeout.patience;
                    if silent {
                        (StepResult::Written(batch, Err(failure(Cause::NoResponse))), patience)
                    } else {
                        (StepResult::Written(batch, Ok(reports)), ROUND_TRIP)
                    }
                }
            }
        }

        fn write(&mut self, session: usize, fate: Fate) -> Result<Report, Failure> {
            let truth = &mut self.truth[session];
            let mut apply = || {
                let changes = *truth == Truth::Live;
                if changes {
                    *truth = Truth::RevokedByThis;
                }
                if changes { Ok(Report::Changed) } else { Ok(Report::ConditionFailed) }
            };
            match fate {
                Fate::Answered | Fate::SilentAfter => apply(),
                Fate::ErrorAfter => apply().and(Err(failure(Cause::ServerError))),
                Fate::UnknownAfter => apply().and(Err(failure(Cause::UnknownCode))),
                Fate::OvertakenByOthers => {
                    if *truth == Truth::Live {
                        *truth = Truth::RevokedByOthers;
                    }
                    Ok(Report::ConditionFailed)
                }
                Fate::RevivedByOthers => Ok(Report::ConditionFailed),
                Fate::Throttled => Err(failure(Cause::Throttled)),
                Fate::Refused => Err(failure(Cause::Refused)),
                Fate::UnknownBefore => Err(failure(Cause::UnknownCode)),
                Fate::ErrorBefore | Fate::SilentBefore => Err(failure(Cause::ServerError)),
                Fate::Late | Fate::Later => {
                    self.late.push((usize::from(fate == Fate::Later), session));
                    Err(failure(Cause::NoResponse))
                }
            }
        }

        fn let_late_writes_be_applied(&mut self) {
            for (requests, session) in std::mem::take(&mut self.late) {
                match requests.checked_sub(1) {
                    Some(requests) => self.late.push((requests, session)),
                    None => drop(self.write(session, Fate::Answered)),
                }
            }
        }
    }

    fn failure(cause: Cause) -> Failure {
        Failure::new(cause, "a failure")
    }

    fn sessions(range: std::ops::Range<usize>) -> Vec<TokenHash> {
        range.map(|number| TokenHash::from_table(&number.to_string())).collect()
    }

    fn number(session: &TokenHash) -> usize {
        session.as_str().parse().expect("a number")
    }

    fn page(sessions: Vec<TokenHash>) -> StepResult<u32> {
        page_before(None, sessions)
    }

    fn page_before(next: Option<u32>, sessions: Vec<TokenHash>) -> StepResult<u32> {
        StepResult::Page(Ok(Page { entries: sessions.len() as u64, sessions, next }))
    }

    fn budget(now: Instant) -> Budget {
        let wall = SystemTime::now();
        Budget::until(wall + Duration::from_secs(29), wall, now)
    }

    fn schedule(now: Instant) -> Schedule<u32> {
        Schedule::new(TokenHash::from_table("caller"), Limits::DEPLOYED, budget(now), now)
    }

    /// Runs a call to its end, one step after another; `perform` returns the result of a step, and how long the step took.
    /// Returns the result of the call, and when the call ended.
    fn run(
        mut schedule: Schedule<u32>,
        begin: Instant,
        mut perform: impl FnMut(Step<u32>, Instant) -> (StepResult<u32>, Duration),
    ) -> (CallResult, Instant) {
        let mut now = begin;
        let mut steps = VecDeque::new();
        loop {
            while let Some(step) = schedule.next(now) {
                steps.push_back(step);
            }
            let next_at = schedule.next_at();
            match steps.pop_front() {
                Some(step) => {
                    let (result, took) = perform(step, now);
                    now += took;
                    schedule.apply(result, now, 0.5);
                }
                None => match next_at {
                    Some(at) => {
                        assert!(at > now, "a step that is due was not given out");
                        now = at;
                    }
                    None => return (schedule.finish(), now),
                },
            }
        }
    }

    /// Runs a call of some sessions, whose writes have these fates, and compares its result with the truth. Returns how many
    /// of the fates have been used.
    fn check(sessions: usize, script: &[Fates]) -> usize {
        let mut model = Model::new(sessions, script);
        let now = Instant::now();
        let (call, _) = run(schedule(now), now, |step, now| model.perform(step, now));
        let is = |truth: Truth| model.truth.iter().filter(|found| **found == truth).count();
        assert_eq!(call.count, is(Truth::RevokedByThis) as u64, "{script:?}: {call:?}");
        let refused = script.iter().take(model.writes).flatten().any(|fate| *fate == Fate::Refused);
        let unknown = script.iter().flatten().any(|fate| matches!(fate, Fate::UnknownAfter | Fate::UnknownBefore));
        match call.result.map_err(|failure| failure.cause) {
            Ok(()) => assert_eq!(is(Truth::Live), 0, "{script:?}"),
            Err(Cause::Refused) => assert!(refused, "{script:?}"),
            Err(Cause::UnknownCode) => assert!(unknown, "{script:?}"),
            Err(cause) => panic!("{script:?}: {cause:?}"),
        }
        model.writes
    }

    /// Checks all scripts of `length` writes, the first of which has one of the fates in `first`, and each further one one of
    /// `fates`. Scripts that differ only in writes that are not made are one run. Returns the number of runs.
    fn check_all(sessions: usize, first: &[Fates], fates: &[Fates], length: usize) -> usize {
        let of = |position| if position == 0 { first } else { fates };
        let mut choice = vec![0; length];
        let mut runs = 0;
        loop {
            let script: Vec<_> = choice.iter().enumerate().map(|(position, index)| of(position)[*index]).collect();
            let used = check(sessions, &script).min(length);
            runs += 1;
            let another = |position: &usize| choice[*position] + 1 < of(*position).len();
            let Some(position) = (0..used).rev().find(another) else { return runs };
            choice[position] += 1;
            choice[position + 1..].fill(0);
        }
    }

    #[test]
    fn the_count_is_exact_for_every_sequence_of_five_fates_of_one_session() {
        let fates: Vec<_> = STATEMENT.iter().chain(&SILENT).map(|fate| [*fate, Fate::Answered]).collect();
        let runs = check_all(1, &fates, &fates, 5);
        println!("{} sequences in {runs} runs", fates.len().pow(5));
        assert!(runs > 5_000, "{runs}");
    }

    /// Checks all sequences of so many fates of two sessions in a batch. Returns the number of runs.
    fn check_pairs(statement: &[Fate], length: usize) -> usize {
        let pairs = |fates: &[Fate]| -> Vec<Fates> {
            fates.iter().flat_map(|first| fates.iter().map(|second| [*first, *second])).collect()
        };
        let fates = [pairs(statement), pairs(&SILENT)].concat();
        // The two sessions are alike, so of each two first pairs that mirror each other one suffices.
        let first: Vec<_> = fates.iter().copied().filter(|[first, second]| first <= second).collect();
        let runs = check_all(2, &first, &fates, length);
        println!("{} sequences in {runs} runs", first.len() * fates.len().pow(length as u32 - 1));
        runs
    }

    #[test]
    fn the_count_is_exact_for_every_sequence_of_fates_of_two_sessions_in_a_batch() {
        assert!(check_pairs(&STATEMENT, 2) > 3_000);
        let fewer =
            STATEMENT.iter().copied().filter(|fate| *fate != Fate::UnknownAfter && *fate != Fate::UnknownBefore);
        assert!(check_pairs(&fewer.collect::<Vec<_>>(), 3) > 20_000);
    }

    /// A call of one session all of whose writes have this fate: when the last of them is sent, and when the call ends.
    fn no_attempt_succeeds(fate: Fate, begin: Instant) -> (Instant, Instant, Cause) {
        let script = [[fate; 2]; 100];
        let mut model = Model::new(1, &script);
        let (call, end) = run(schedule(begin), begin, |step, now| model.perform(step, now));
        assert_eq!(model.writes, ATTEMPTS);
        (model.last_write.expect("a write"), end, call.result.expect_err("a failure").cause)
    }

    #[test]
    fn a_session_whose_writes_got_no_response_is_read_until_it_is_time_to_answer() {
        let begin = Instant::now();
        let (last_write, end, cause) = no_attempt_succeeds(Fate::SilentBefore, begin);
        assert_eq!(cause, Cause::NoResponse);
        assert!(last_write < budget(begin).stop_writing);
        let left = budget(begin).answer_by - end;
        assert!(left < Duration::from_millis(50), "{left:?}");
    }

    #[test]
    fn sessions_whose_writes_ended_in_errors_are_read_for_a_while_after_the_last_write() {
        let (last_write, end, cause) = no_attempt_succeeds(Fate::ErrorBefore, Instant::now());
        assert_eq!(cause, Cause::ServerError);
        let reading = end - (last_write + ROUND_TRIP);
        assert!(STRAGGLING <= reading && reading < STRAGGLING + Duration::from_secs(1), "{reading:?}");
    }

    #[test]
    fn a_session_that_is_live_after_its_condition_failed_is_written_eight_times_before_that_is_an_error() {
        let (_, _, cause) = no_attempt_succeeds(Fate::RevivedByOthers, Instant::now());
        assert_eq!(cause, Cause::Overtaken);
    }

    /// A call whose first page is under way.
    fn begun(now: Instant) -> Schedule<u32> {
        let mut schedule = schedule(now);
        let steps = steps(&mut schedule, now);
        assert!(matches!(steps[..], [Step::Page(None, ..)]), "{steps:?}");
        schedule
    }

    /// A call after the index has shown these sessions, and its next steps.
    fn shown(sessions: Vec<TokenHash>, now: Instant) -> (Schedule<u32>, Vec<Step<u32>>) {
        let mut schedule = begun(now);
        schedule.apply(page(sessions), now, 0.5);
        let steps = steps(&mut schedule, now);
        (schedule, steps)
    }

    fn steps(schedule: &mut Schedule<u32>, now: Instant) -> Vec<Step<u32>> {
        std::iter::from_fn(|| schedule.next(now)).collect()
    }

    fn written(step: Step<u32>, report: &Result<Report, Failure>) -> StepResult<u32> {
        let Step::Write(batch) = step else { panic!("{step:?}") };
        let reports = vec![report.clone(); batch.sessions.len()];
        StepResult::Written(batch, Ok(reports))
    }

    fn all_changed(step: Step<u32>) -> StepResult<u32> {
        written(step, &Ok(Report::Changed))
    }

    #[test]
    fn a_session_on_two_pages_of_a_look_is_written_once() {
        let now = Instant::now();
        let mut schedule = begun(now);
        schedule.apply(page_before(Some(1), sessions(0..2)), now, 0.5);
        let first = steps(&mut schedule, now);
        assert!(matches!(&first[..], [Step::Write(..), Step::Page(Some(1), ..)]), "{first:?}");
        schedule.apply(page(sessions(0..3)), now, 0.5);
        let second = steps(&mut schedule, now);
        let [Step::Write(batch), Step::Page(None, ..)] = &second[..] else { panic!("{second:?}") };
        assert_eq!(batch.sessions, sessions(2..3));
    }

    #[test]
    fn a_first_look_that_shows_only_the_caller_is_enough() {
        let (schedule, steps) = shown(vec![TokenHash::from_table("caller")], Instant::now());
        assert!(steps.is_empty(), "{steps:?}");
        let call = schedule.finish();
        assert!(call.result.is_ok() && !call.began);
    }

    #[test]
    fn the_second_look_is_beside_the_last_writes_and_after_them_in_order() {
        let now = Instant::now();
        let (mut schedule, mut first) = shown(sessions(0..500), now);
        assert!(matches!(first.pop(), Some(Step::Page(None, ..))));
        assert_eq!(first.len(), IN_FLIGHT);
        // The second look repeats all sessions, and none is written again.
        schedule.apply(page(sessions(0..500)), now, 0.5);
        assert!(steps(&mut schedule, now).is_empty());
        for step in first {
            schedule.apply(all_changed(step), now, 0.5);
        }
        let call = schedule.finish();
        assert!(call.result.is_ok());
        assert_eq!((call.count, call.statistics.looks), (500, 2));
    }

    #[test]
    fn a_page_is_read_ahead_unless_as_many_sessions_wait_as_can_be_sent_at_once() {
        let now = Instant::now();
        for (number, is_read) in [(999, true), (1_000, false)] {
            let mut schedule = begun(now);
            schedule.apply(page_before(Some(1), sessions(0..number)), now, 0.5);
            let next = steps(&mut schedule, now);
            assert_eq!(next.iter().any(|step| matches!(step, Step::Page(..))), is_read, "{number}: {next:?}");
        }
    }

    #[test]
    fn a_page_that_could_not_be_read_is_read_again_after_a_back_off() {
        let now = Instant::now();
        let mut schedule = begun(now);
        schedule.apply(StepResult::Page(Err(failure(Cause::Unreadable))), now, 0.5);
        assert!(schedule.next(now).is_none());
        let at = schedule.next_at().expect("a time");
        assert_eq!(at - now, Duration::from_millis(25));
        assert!(matches!(schedule.next(at), Some(Step::Page(None, ..))));
    }

    #[test]
    fn the_index_is_read_even_if_it_is_too_late_to_write() {
        let mut schedule = schedule(Instant::now());
        let late = schedule.budget.stop_writing;
        assert!(matches!(schedule.next(late), Some(Step::Page(None, ..))));
        schedule.apply(page(Vec::new()), late + ROUND_TRIP, 0.5);
        assert!(schedule.next(late + ROUND_TRIP).is_none());
        assert!(schedule.finish().result.is_ok());
    }

    #[test]
    fn the_statistics_say_how_often_a_session_was_written_and_read_again() {
        let begin = Instant::now();
        let mut model = Model::new(1, &[[Fate::SilentBefore; 2]; 2]);
        let (call, _) = run(schedule(begin), begin, |step, now| model.perform(step, now));
        // Three writes and a read after each of the first two.
        assert_eq!((call.statistics.writes, call.statistics.retries), (3, 3));
    }

    #[test]
    fn the_statistics_say_what_was_read_and_how_often_it_was_read_again() {
        let now = Instant::now();
        let mut schedule = begun(now);
        let failed = || StepResult::Page(Err(failure(Cause::Disconnected)));
        let mut write = None;
        for result in [failed(), page_before(Some(1), sessions(0..1)), failed(), page(Vec::new())] {
            schedule.apply(result, now, 0.5);
            let mut steps = steps(&mut schedule, now);
            assert!(matches!(steps.pop(), Some(Step::Page(..))), "{steps:?}");
            write = write.or(steps.pop());
        }
        schedule.apply(page(Vec::new()), now, 0.5);
        schedule.apply(all_changed(write.expect("a write")), now, 0.5);
        let Statistics { looks, pages, entries, retries, .. } = schedule.finish().statistics;
        assert_eq!((looks, pages, entries, retries), (2, 3, 1, 2));
    }

    /// Runs a call of so many sessions, whose writes and reads end as `perform` says. Returns the waits between its steps in
    /// milliseconds.
    fn waits(number: usize, mut perform: impl FnMut(Step<u32>) -> StepResult<u32>) -> (CallResult, Vec<u128>) {
        let mut now = Instant::now();
        let (mut schedule, mut pending) = shown(sessions(0..number), now);
        let mut waits = Vec::new();
        loop {
            for step in pending {
                let result = match step {
                    Step::Page(..) => page(sessions(0..number)),
                    step => perform(step),
                };
                schedule.apply(result, now, 0.5);
            }
            pending = steps(&mut schedule, now);
            if pending.is_empty() {
                let Some(at) = schedule.next_at() else { return (schedule.finish(), waits) };
                waits.push((at - now).as_millis());
                now = at;
                pending = steps(&mut schedule, now);
            }
        }
    }

    #[test]
    fn a_session_that_is_throttled_is_written_again_after_a_longer_back_off_each_time() {
        let mut reports = (0..3).map(|_| Err(failure(Cause::Throttled))).chain([Ok(Report::Changed)]);
        let (call, waits) = waits(1, |step| written(step, &reports.next().expect("no write after a success")));
        assert_eq!((call.count, waits), (1, vec![25, 50, 100]));
        assert_eq!((call.statistics.writes, call.statistics.retries), (4, 3));
    }

    #[test]
    fn attempts_that_were_throttled_count_from_the_last_request_that_got_further() {
        // One session of a batch is revoked at a time.
        let (call, waits) = waits(25, |step| {
            let Step::Write(batch) = step else { panic!("{step:?}") };
            let throttled = batch.sessions.iter().skip(1).map(|_| Err(failure(Cause::Throttled)));
            let reports = std::iter::once(Ok(Report::Changed)).chain(throttled).collect();
            StepResult::Written(batch, Ok(reports))
        });
        assert_eq!((call.count, waits.len()), (25, 24));
    }

    #[test]
    fn a_lost_response_is_followed_by_a_read_at_once_and_by_others_after_a_longer_back_off_each_time() {
        let mut found = (0..3).map(|_| Err(failure(Cause::Throttled))).chain([Ok(Found::RevokedByThisCall)]);
        let (call, waits) = waits(1, |step| match step {
            Step::Write(batch) => StepResult::Written(batch, Err(failure(Cause::NoResponse))),
            Step::Read(batch) => {
                let found = found.next().expect("no read after the evidence");
                StepResult::Read(batch, found.map(|found| vec![Some(found)]))
            }
            Step::Page(..) => unreachable!(),
        });
        assert_eq!((call.count, waits), (1, vec![50, 100, 200]));
    }

    #[test]
    fn a_session_that_dynamodb_did_not_read_is_read_again() {
        let mut found = [None, Some(Found::RevokedByAnotherCall)].into_iter();
        let (call, waits) = waits(1, |step| match step {
            Step::Write(batch) => StepResult::Written(batch, Ok(vec![Ok(Report::ConditionFailed)])),
            Step::Read(batch) => StepResult::Read(batch, Ok(vec![found.next().expect("no further read")])),
            Step::Page(..) => unreachable!(),
        });
        assert!(call.result.is_ok() && call.count == 0 && waits.len() == 1, "{call:?} {waits:?}");
    }

    #[test]
    fn the_index_is_not_looked_at_again_while_a_session_waits_to_be_written() {
        let now = Instant::now();
        let (mut schedule, mut first) = shown(sessions(0..501), now);
        assert_eq!(first.len(), IN_FLIGHT);
        assert!(first.iter().all(|step| matches!(step, Step::Write(..))));
        schedule.apply(all_changed(first.remove(0)), now, 0.5);
        let next = steps(&mut schedule, now);
        assert!(matches!(&next[..], [Step::Write(..), Step::Page(None, ..)]), "{next:?}");
    }

    #[test]
    fn the_index_is_looked_at_until_it_shows_nothing_new() {
        let now = Instant::now();
        let (mut schedule, first) = shown(sessions(0..1), now);
        schedule.apply(page(sessions(0..2)), now, 0.5);
        let second = steps(&mut schedule, now);
        assert!(matches!(&second[..], [Step::Write(..), Step::Page(None, ..)]), "{second:?}");
        schedule.apply(page(sessions(0..2)), now, 0.5);
        for step in first.into_iter().chain(second).filter(|step| matches!(step, Step::Write(..))) {
            schedule.apply(all_changed(step), now, 0.5);
        }
        assert!(steps(&mut schedule, now).is_empty());
        let call = schedule.finish();
        assert!(call.result.is_ok());
        assert_eq!((call.count, call.statistics.looks), (2, 3));
    }

    /// A call of one session whose condition fails, and of which a read finds this: its result, its looks, and how long it took.
    fn condition_fails(found: Found) -> (CallResult, Duration) {
        let begin = Instant::now();
        let (call, end) = run(schedule(begin), begin, |step, _| {
            let result = match step {
                Step::Page(..) => page(sessions(0..1)),
                Step::Write(batch) => StepResult::Written(batch, Ok(vec![Ok(Report::ConditionFailed)])),
                Step::Read(batch) => StepResult::Read(batch, Ok(vec![Some(found)])),
            };
            (result, ROUND_TRIP)
        });
        assert!(call.result.is_ok() && call.count == 0, "{call:?}");
        (call, end - begin)
    }

    #[test]
    fn after_a_session_was_ended_by_somebody_else_the_index_is_looked_at_for_another_second() {
        let (call, took) = condition_fails(Found::Ended);
        assert!(took > Duration::from_secs(1) && took < Duration::from_millis(1_100), "{took:?}");
        assert!((8..20).contains(&call.statistics.looks), "{call:?}");
        for found in [Found::RevokedByAnotherCall, Found::OfAnotherUser] {
            let (call, took) = condition_fails(found);
            assert!(took < Duration::from_millis(50) && call.statistics.looks == 2, "{found:?}: {took:?} {call:?}");
        }
    }

    #[test]
    fn an_intruder_who_replaces_his_session_faster_than_it_can_be_written_is_a_failure_in_time() {
        let begin = Instant::now();
        let (mut number, mut looks) = (0, 0);
        let (call, end) = run(schedule(begin), begin, |step, _| {
            let result = match step {
                Step::Page(..) => {
                    (number, looks) = (number + 1, looks + 1);
                    page(sessions(number..number + 1))
                }
                Step::Write(batch) => StepResult::Written(batch, Ok(vec![Ok(Report::ConditionFailed)])),
                Step::Read(batch) => StepResult::Read(batch, Ok(vec![Some(Found::Ended)])),
            };
            (result, ROUND_TRIP)
        });
        assert_eq!(call.result.expect_err("a failure").cause, Cause::OutOfTime);
        assert!(end < budget(begin).answer_by && looks < 300, "{looks} looks in {:?}", end - begin);
    }

    #[test]
    fn a_page_that_waits_for_batches_does_not_count_as_slow() {
        let now = Instant::now();
        let (mut schedule, first) = shown(sessions(0..500), now);
        let later = now + Duration::from_secs(9);
        schedule.apply(page(sessions(500..1_000)), now, 0.5);
        for step in first.into_iter().filter(|step| matches!(step, Step::Write(..))) {
            schedule.apply(all_changed(step), now, 0.5);
        }
        assert_eq!(steps(&mut schedule, later).len(), IN_FLIGHT + 1);
        schedule.apply(page(Vec::new()), later + ROUND_TRIP, 0.5);
        assert_eq!(schedule.budget.write_timeout(0).patience, Duration::from_millis(250));
    }

    #[test]
    fn a_permanent_failure_is_reported_before_one_that_may_pass() {
        for causes in [[Cause::Refused, Cause::Throttled], [Cause::Throttled, Cause::Refused]] {
            let (call, _) = waits(2, |step| {
                let Step::Write(batch) = step else { panic!("{step:?}") };
                let reports = batch.sessions.iter().map(|session| Err(failure(causes[number(session)]))).collect();
                StepResult::Written(batch, Ok(reports))
            });
            assert_eq!(call.result.expect_err("a failure").cause, Cause::Refused);
        }
    }

    #[test]
    fn a_refused_session_keeps_no_other_from_being_revoked_wherever_it_stands() {
        for (number, refused) in [(1, 0), (25, 24), (26, 25), (700, 0), (700, 699)] {
            let (call, _) = waits(number, |step| {
                let Step::Write(batch) = step else { panic!("{step:?}") };
                let is_refused = |session: &TokenHash| self::number(session) == refused;
                let report =
                    |session| if is_refused(session) { Err(failure(Cause::Refused)) } else { Ok(Report::Changed) };
                let reports = batch.sessions.iter().map(report).collect();
                StepResult::Written(batch, Ok(reports))
            });
            assert_eq!(call.count, number as u64 - 1, "{number} {refused}");
            assert_eq!(call.result.expect_err("a failure").cause, Cause::Refused);
        }
    }

    #[test]
    fn a_table_that_refuses_a_whole_request_gets_no_further_writes() {
        let now = Instant::now();
        let (mut schedule, first) = shown(sessions(0..1_000), now);
        for step in first {
            let Step::Write(batch) = step else { panic!("{step:?}") };
            schedule.apply(StepResult::Written(batch, Err(failure(Cause::Refused))), now, 0.5);
        }
        assert!(steps(&mut schedule, now).is_empty());
        assert_eq!(schedule.next_at(), None);
        let call = schedule.finish();
        assert_eq!(call.result.map_err(|failure| failure.cause), Err(Cause::Refused));
        assert_eq!((call.count, call.began), (0, true));
    }

    #[test]
    fn a_session_in_conflict_and_one_closed_connection_give_up_no_other_session() {
        let (mut writes, limit) = (0, ATTEMPTS - 1);
        let (call, _) = waits(600, |step| match step {
            Step::Write(batch) => {
                let is_conflicting = |session: &TokenHash| number(session) == 0;
                if batch.sessions.iter().any(is_conflicting) {
                    writes += 1;
                    if writes > limit {
                        return StepResult::Written(batch, Err(failure(Cause::Disconnected)));
                    }
                }
                let report =
                    |session| if is_conflicting(session) { Err(failure(Cause::Conflict)) } else { Ok(Report::Changed) };
                let reports = batch.sessions.iter().map(report).collect();
                StepResult::Written(batch, Ok(reports))
            }
            Step::Read(batch) => {
                let found = batch.sessions.iter().map(|_| Some(Found::Live)).collect();
                StepResult::Read(batch, Ok(found))
            }
            Step::Page(..) => unreachable!(),
        });
        assert_eq!(call.count, 599);
        assert!(call.result.is_err());
    }

    #[test]
    fn once_a_call_has_stopped_writing_no_write_is_given_out() {
        let now = Instant::now();
        let (mut schedule, first) = shown(sessions(0..50), now);
        let mut first = first.into_iter();
        let (refused, throttled) = (first.next().expect("a step"), first.next().expect("a step"));
        let Step::Write(batch) = refused else { panic!("{refused:?}") };
        schedule.apply(StepResult::Written(batch, Err(failure(Cause::Refused))), now, 0.5);
        schedule.apply(written(throttled, &Err(failure(Cause::Throttled))), now, 0.5);
        let later = now + Duration::from_secs(2);
        assert!(steps(&mut schedule, later).is_empty() && schedule.next_at().is_none());
    }

    #[test]
    fn the_log_says_what_has_taken_the_time() {
        let begin = Instant::now();
        let (call, _) = run(schedule(begin), begin, |step, _| {
            let result = match step {
                Step::Page(..) => page(sessions(0..1)),
                Step::Write(batch) => StepResult::Written(batch, Ok(vec![Err(failure(Cause::Throttled))])),
                Step::Read(..) => unreachable!(),
            };
            (result, Duration::from_secs(9))
        });
        let failure = call.result.expect_err("a failure");
        assert_eq!((failure.cause, failure.to_string().as_str()), (Cause::OutOfTime, "a failure"));
    }

    #[test]
    fn lasting_errors_of_signature_end_within_a_second() {
        let begin = Instant::now();
        let (call, end) = run(schedule(begin), begin, |step, _| {
            let result = match step {
                Step::Page(..) => page(sessions(0..60)),
                Step::Write(batch) => StepResult::Written(batch, Err(failure(Cause::BadSignature))),
                Step::Read(..) => unreachable!(),
            };
            (result, ROUND_TRIP)
        });
        assert_eq!(call.result.expect_err("a failure").cause, Cause::BadSignature);
        assert!(end - begin < Duration::from_secs(1), "{:?}", end - begin);
    }

    #[test]
    fn no_write_is_given_out_after_the_time_for_writes() {
        let now = Instant::now();
        let (mut schedule, first) = shown(sessions(0..501), now);
        let late = budget(now).stop_writing;
        schedule.apply(all_changed(first.into_iter().next().expect("a step")), late, 0.5);
        assert!(steps(&mut schedule, late).is_empty());
    }
}
