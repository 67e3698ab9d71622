//! What a call does next: reads of the index, batches of writes, reads of sessions, pauses. Plain data: no I/O. The time and
//! randomness are parameters, so every order of events can be tried in a test.
//!
//! The index is read to its last page. What it shows is written in batches, up to [`Limits::in_flight`] at once. When no session
//! waits to be sent, the index is read again while the last batches are under way, because it lags behind the table. That
//! is repeated until a read shows no session that no earlier read has shown.
//!
//! A batch is written until each of its sessions is closed in the [`Ledger`], with a read in between where a write did not
//! report what it did. When no further write is possible, sessions in doubt are read until it is known what became of them
//! or it is time to answer.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::dynamodb::failure::{Effect, StoreError, Written};
use crate::dynamodb::store::{Cursor, Page, State};
use crate::rules::budget::{Budget, Timeout};
use crate::rules::ledger::{Ledger, Standing};
use crate::rules::pace::Pace;
use crate::session::TokenHash;

/// How much a call does at once, and how often it tries. Tests can make these numbers small, so that few sessions reach all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions of one batch of writes, and of one read of sessions.
    pub batch: usize,
    /// Batches under way at once.
    pub in_flight: usize,
    /// Index entries of one page.
    pub page: i32,
    /// Attempts at one thing in a row without any progress: a read, or a batch of writes.
    pub attempts: u32,
}

impl Limits {
    /// The limits of the deployed function.
    pub const DEPLOYED: Self = Self {
        // The most statements that `BatchExecuteStatement` accepts.
        batch: 25,
        // 500 sessions in one round trip. More would need more connections, and a user's sessions cannot be written much faster
        // anyway: see [`Pace`].
        in_flight: 20,
        // 80 full batches, some 200 kB. The largest page that DynamoDB gives (1 MB) would cost several megabytes of memory and
        // save little, since the next page is read while this one is worked on.
        page: 2_000,
        attempts: 8,
    };
}

/// How long a write that ended in an error or a closed connection may take to become visible.
const STRAGGLING: Duration = Duration::from_millis(1_500);

/// The state of one call.
#[derive(Debug)]
pub struct Schedule {
    caller: TokenHash,
    limits: Limits,
    budget: Budget,
    pace: Pace,
    ledger: Ledger,
    index: Index,
    /// This read of the index has shown a new session, so the index is read once more.
    shows_new: bool,
    /// Sessions that no batch has taken yet, in the order in which the index has shown them.
    unsent: VecDeque<TokenHash>,
    /// Batches whose next step has not been decided.
    ready: Vec<Batch>,
    /// Batches that have begun and not ended: at most [`Limits::in_flight`].
    open_batches: usize,
    /// Those of them that wait to be sent.
    waiting_batches: usize,
    /// Whether a write has been sent.
    began: bool,
    /// The error to report: a permanent one if there is one.
    error: Option<StoreError>,
    /// A batch has ended without any success, so no other is begun.
    stopped: bool,
    statistics: Statistics,
}

/// Where the reading of the index is.
#[derive(Debug)]
enum Index {
    /// A page is to be read.
    Due(PageRead),
    /// A page is being read.
    UnderWay(PageRead),
    /// No further page is needed, or none can be read.
    Complete,
}

#[derive(Debug)]
struct PageRead {
    /// Where the page begins; without a cursor, it is the first one of another read of the index.
    from: Option<Cursor>,
    /// Failed attempts so far.
    failures: u32,
    /// When the next attempt begins, or the one under way has begun.
    at: Instant,
}

/// Sessions that are written together until each of them is closed.
#[derive(Debug)]
pub struct Batch {
    /// Those that the step under way is about.
    pub sent: Vec<TokenHash>,
    /// Those of its sessions that are open.
    open: Vec<TokenHash>,
    /// How many sessions it began with.
    size: usize,
    /// When that step began.
    since: Instant,
    /// Failed attempts since the last one that closed a session.
    failures: u32,
    /// The next step is not taken before this time.
    not_before: Instant,
    /// Whether it waits to be sent, at a time that [`Pace`] has given.
    waits: bool,
    /// Once no further write is possible: until when sessions in doubt are read.
    reads_until: Option<Instant>,
    /// The error to report if a session stays open.
    error: Option<StoreError>,
}

/// What the driver has to do. It hands the batch back with the [`Event`].
#[derive(Debug)]
pub enum Step {
    /// Read the page that begins here, with this many entries, at this time.
    ReadPage(Option<Cursor>, i32, Instant, Timeout),
    /// Write the sessions in [`Batch::sent`].
    Write(Batch, Timeout),
    /// Read the sessions in [`Batch::sent`].
    Read(Batch, Timeout),
    /// Wait until this time.
    Wait(Batch, Instant),
}

/// What became of a [`Step`].
#[derive(Debug)]
pub enum Event {
    /// The page, or why there is none.
    PageRead(Result<Page, StoreError>),
    /// A result for each of the sessions, or why there is none.
    Written(Batch, Result<Vec<Result<Written, StoreError>>, StoreError>),
    /// The state of each of the sessions where it was read, or why none was.
    Read(Batch, Result<Vec<Option<State>>, StoreError>),
    /// The time has come.
    Waited(Batch),
}

/// The result of a call.
#[derive(Debug)]
pub struct Outcome {
    /// Whether there is evidence for every session that the index has shown, and the index has been read often enough.
    pub result: Result<(), StoreError>,
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
    /// Reads of the index begun.
    pub passes: u64,
    /// Pages read.
    pub pages: u64,
    /// Index entries read, revoked and repeated ones included.
    pub seen: u64,
    /// Batches sent, those sent again included.
    pub batches: u64,
    /// Requests that were sent again, wholly or in part.
    pub retries: u64,
}

impl Schedule {
    /// A call of this session that begins now.
    #[must_use]
    pub fn new(caller: TokenHash, limits: Limits, budget: Budget, now: Instant) -> Self {
        Self {
            caller,
            limits,
            budget,
            pace: Pace::unlimited(now),
            ledger: Ledger::default(),
            index: Index::Due(PageRead { from: None, failures: 0, at: now }),
            shows_new: false,
            unsent: VecDeque::new(),
            ready: Vec::new(),
            open_batches: 0,
            waiting_batches: 0,
            began: false,
            error: None,
            stopped: false,
            statistics: Statistics::default(),
        }
    }

    /// The next thing to do at this time; `None` if all that can be done is under way. The call is over when nothing is.
    ///
    /// Batches come before the index, so that they are sent on the connection that has just answered.
    pub fn next(&mut self, now: Instant) -> Option<Step> {
        while let Some(batch) = self.ready.pop().or_else(|| self.new_batch(now)) {
            if let Some(step) = self.next_of_batch(batch, now) {
                return Some(step);
            }
        }
        self.next_page(now)
    }

    /// Learns what became of a step. `random` is from 0 to 1.
    pub fn apply(&mut self, event: Event, now: Instant, random: f64) {
        match event {
            Event::PageRead(page) => self.page_read(page, now, random),
            Event::Written(batch, outcomes) => self.written(batch, outcomes, now, random),
            Event::Read(batch, states) => self.read(batch, states, now, random),
            Event::Waited(batch) => {
                self.waiting_batches -= usize::from(batch.waits);
                self.ready.push(batch);
            }
        }
    }

    /// The result, once nothing is under way. Success takes evidence: it does not follow from the absence of errors.
    #[must_use]
    pub fn finish(self) -> Outcome {
        let count = self.ledger.count();
        let proven = matches!(self.index, Index::Complete) && self.unsent.is_empty() && self.ledger.is_closed();
        let result = match self.error {
            Some(error) => Err(error),
            None if proven => Ok(()),
            None => Err(StoreError::OutOfTime),
        };
        Outcome { result, count, began: self.began, statistics: self.statistics }
    }

    /// Takes sessions that wait to be sent.
    fn new_batch(&mut self, now: Instant) -> Option<Batch> {
        if self.unsent.is_empty() || self.stopped || self.open_batches == self.limits.in_flight {
            return None;
        }
        self.open_batches += 1;
        let open: Vec<_> = self.unsent.drain(..self.unsent.len().min(self.limits.batch)).collect();
        Some(Batch {
            size: open.len(),
            open,
            sent: Vec::new(),
            since: now,
            failures: 0,
            not_before: now,
            waits: false,
            reads_until: None,
            error: None,
        })
    }

    /// A page is read ahead as long as little waits to be sent. Another read of the index begins when nothing does.
    fn next_page(&mut self, now: Instant) -> Option<Step> {
        let Index::Due(read) = &mut self.index else { return None };
        let is_time = match read.from {
            Some(_) => self.unsent.len() < self.limits.in_flight * self.limits.batch,
            None => self.unsent.is_empty() && self.waiting_batches == 0,
        };
        if !is_time || self.stopped {
            return None;
        }
        read.at = read.at.max(now);
        let timeout = self.budget.read_timeout(read.failures, read.at)?;
        self.statistics.passes += u64::from(read.from.is_none() && read.failures == 0);
        self.statistics.retries += u64::from(read.failures > 0);
        let step = Step::ReadPage(read.from.clone(), self.limits.page, read.at, timeout);
        if let Index::Due(read) = std::mem::replace(&mut self.index, Index::Complete) {
            self.index = Index::UnderWay(read);
        }
        Some(step)
    }

    fn page_read(&mut self, page: Result<Page, StoreError>, now: Instant, random: f64) {
        let Index::UnderWay(read) = std::mem::replace(&mut self.index, Index::Complete) else { return };
        match page {
            Ok(page) => {
                self.budget.answered_after(now - read.at);
                self.statistics.pages += 1;
                self.statistics.seen += page.scanned;
                for session in page.token_hashes {
                    // The caller's own session is never written: it enters no list.
                    if session != self.caller && self.ledger.enter(&session) {
                        self.unsent.push_back(session);
                        self.shows_new = true;
                    }
                }
                // The last page of a read that has shown something new is not the last page of the call.
                if page.next.is_some() || std::mem::take(&mut self.shows_new) {
                    self.index = Index::Due(PageRead { from: page.next, failures: 0, at: now });
                }
            }
            Err(error) if error.is_retryable() && read.failures + 1 < self.limits.attempts => {
                let failures = read.failures + 1;
                let at = self.budget.retry_at(&error, failures, now, random);
                self.index = Index::Due(PageRead { failures, at, ..read });
            }
            Err(error) => note(&mut self.error, error),
        }
    }

    /// The next step of a batch; `None` if it has ended.
    fn next_of_batch(&mut self, mut batch: Batch, now: Instant) -> Option<Step> {
        let waited = std::mem::take(&mut batch.waits);
        if batch.reads_until.is_none() && batch.failures < self.limits.attempts {
            let to_read = self.open_sessions(&batch, |standing, _| standing == Standing::ToRead);
            if !to_read.is_empty() {
                return self.next_read(batch, to_read, now);
            }
            let to_write = self.open_sessions(&batch, |standing, _| standing == Standing::ToWrite);
            if !to_write.is_empty() {
                let at = if waited { now } else { self.pace.reserve(to_write.len(), now).max(batch.not_before) };
                if self.budget.may_write(at) {
                    return Some(self.next_write(batch, to_write, at, now));
                }
            }
        }
        self.next_last_read(batch, now)
    }

    /// After the last write: sessions are read until it is known what the writes have done, or may still do.
    fn next_last_read(&mut self, mut batch: Batch, now: Instant) -> Option<Step> {
        let in_doubt =
            self.open_sessions(&batch, |standing, doubt| standing == Standing::ToRead || doubt > Effect::None);
        let until = *batch.reads_until.get_or_insert_with(|| {
            batch.failures = 0;
            let may_still_be_applied = |session| self.ledger.of(session).1 == Effect::StillPossible;
            let answer_by = self.budget.answer_by;
            if in_doubt.iter().any(may_still_be_applied) { answer_by } else { answer_by.min(now + STRAGGLING) }
        });
        if in_doubt.is_empty() || batch.since >= until {
            return self.end(batch);
        }
        // The last read is made when the time ends.
        batch.not_before = batch.not_before.min(until);
        self.next_read(batch, in_doubt, now)
    }

    fn next_write(&mut self, mut batch: Batch, sessions: Vec<TokenHash>, at: Instant, now: Instant) -> Step {
        if at > now {
            batch.waits = true;
            self.waiting_batches += 1;
            return Step::Wait(batch, at);
        }
        self.began = true;
        self.statistics.batches += 1;
        self.statistics.retries += u64::from(!batch.sent.is_empty());
        let timeout = self.budget.write_timeout(batch.failures);
        (batch.sent, batch.since) = (sessions, now);
        Step::Write(batch, timeout)
    }

    fn next_read(&mut self, mut batch: Batch, sessions: Vec<TokenHash>, now: Instant) -> Option<Step> {
        if batch.not_before > now {
            let until = batch.not_before;
            return Some(Step::Wait(batch, until));
        }
        let Some(timeout) = self.budget.read_timeout(batch.failures, now) else { return self.end(batch) };
        (batch.sent, batch.since) = (sessions, now);
        Some(Step::Read(batch, timeout))
    }

    fn end(&mut self, batch: Batch) -> Option<Step> {
        self.open_batches -= 1;
        if !batch.open.is_empty() {
            // If only some sessions fail, the others must be revoked all the same. If a whole batch fails, the table is left
            // alone.
            self.stopped |= batch.open.len() == batch.size;
            note(&mut self.error, batch.error.unwrap_or(StoreError::OutOfTime));
        }
        None
    }

    fn written(
        &mut self,
        mut batch: Batch,
        result: Result<Vec<Result<Written, StoreError>>, StoreError>,
        now: Instant,
        random: f64,
    ) {
        let (mut passed, mut throttled) = (0, 0);
        let results = match result {
            Ok(results) => {
                self.budget.answered_after(now - batch.since);
                results
            }
            Err(error) => batch.sent.iter().map(|_| Err(error.clone())).collect(),
        };
        batch.not_before = now;
        for (session, result) in batch.sent.iter().zip(results) {
            self.ledger.written(session, &result);
            passed += usize::from(matches!(result, Ok(Written::Changed)));
            if let Err(error) = result {
                throttled += usize::from(error.is_throttle());
                if batch.not_before == now {
                    batch.not_before = self.budget.retry_at(&error, batch.failures + 1, now, random);
                }
                note(&mut batch.error, error);
            }
        }
        self.pace.learn(passed, throttled, now);
        self.attempted(batch, true);
    }

    fn read(&mut self, mut batch: Batch, result: Result<Vec<Option<State>>, StoreError>, now: Instant, random: f64) {
        // After the last write, a read that closes nothing counts as failed, so that the back-off grows.
        let mut failed = batch.reads_until.is_some();
        match result {
            Ok(states) => {
                self.budget.answered_after(now - batch.since);
                for (session, state) in batch.sent.iter().zip(states) {
                    match state.map(|state| self.ledger.was_read(session, state)) {
                        Some(result) => result.unwrap_or_else(|error| note(&mut batch.error, error)),
                        None => failed = true,
                    }
                }
            }
            Err(error) => {
                failed = true;
                if !error.is_retryable() {
                    // Nothing more is written, and reading is not tried for long.
                    let until = now + STRAGGLING;
                    batch.reads_until = Some(batch.reads_until.map_or(until, |earlier| earlier.min(until)));
                }
                note(&mut batch.error, error);
            }
        }
        if failed {
            batch.not_before = self.budget.backoff(batch.failures + 1, now, random);
        }
        self.attempted(batch, failed);
    }

    /// Drops the sessions that are closed now, counts the failures since the last one was closed, and lets the next step be
    /// decided.
    fn attempted(&mut self, mut batch: Batch, failed: bool) {
        let before = batch.open.len();
        batch.open.retain(|session| self.ledger.of(session).0.is_open());
        batch.failures = if batch.open.len() < before { 0 } else { batch.failures + u32::from(failed) };
        self.ready.push(batch);
    }

    /// The open sessions of a batch for which this holds, given their standing and the doubt about them.
    fn open_sessions(&self, batch: &Batch, holds: impl Fn(Standing, Effect) -> bool) -> Vec<TokenHash> {
        let holds = |session: &&TokenHash| {
            let (standing, doubt) = self.ledger.of(session);
            standing.is_open() && holds(standing, doubt)
        };
        batch.open.iter().filter(holds).cloned().collect()
    }
}

/// Of several errors, the latest is reported, and a permanent one before a retryable one.
fn note(error: &mut Option<StoreError>, latest: StoreError) {
    if error.as_ref().is_none_or(StoreError::is_retryable) {
        *error = Some(latest);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(5);

    /// What happens to a write of one session.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Fate {
        /// It is answered truthfully, if nothing else happens.
        Answered,
        /// Somebody else revokes the session just before, so its condition fails.
        OvertakenByOthers,
        Throttled,
        Refused,
        /// An error, after it was applied.
        ErrorAfter,
        /// An error that may have been applied, but was not.
        ErrorBefore,
        /// No response, after it was applied.
        SilentAfter,
        /// No response, and it was not applied.
        SilentBefore,
        /// No response, and it is applied while the next request is under way.
        Late,
        /// No response, and it is applied while the request after the next is under way.
        Later,
    }

    /// Those of the first and the second session of a batch.
    type Fates = [Fate; 2];

    const STATEMENT: [Fate; 6] =
        [Fate::Answered, Fate::OvertakenByOthers, Fate::Throttled, Fate::Refused, Fate::ErrorAfter, Fate::ErrorBefore];
    /// These happen to all sessions of a request.
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
        /// When the last one was sent, from the beginning of the call.
        last_write: Duration,
        /// By session; its number is its hash.
        truth: Vec<Truth>,
        /// Writes that will be applied after so many further requests.
        late: Vec<(usize, usize)>,
    }

    impl<'a> Model<'a> {
        fn new(sessions: usize, script: &'a [Fates]) -> Self {
            let truth = vec![Truth::Live; sessions];
            Self { script, writes: 0, last_write: Duration::ZERO, truth, late: Vec::new() }
        }

        fn perform(&mut self, step: Step, now: Instant) -> (Event, Duration) {
            match step {
                Step::ReadPage(..) => {
                    let token_hashes =
                        (0..self.truth.len()).map(|number| TokenHash::from_table(NAMES[number])).collect();
                    (Event::PageRead(Ok(Page { token_hashes, scanned: 0, next: None })), ROUND_TRIP)
                }
                Step::Wait(batch, until) => (Event::Waited(batch), until.saturating_duration_since(now)),
                Step::Read(batch, _) => {
                    let state = |session: &TokenHash| match self.truth[number(session)] {
                        Truth::Live => State::Live,
                        Truth::RevokedByThis => State::RevokedByThis,
                        Truth::RevokedByOthers => State::NothingToRevoke,
                    };
                    let states = batch.sent.iter().map(|session| Some(state(session))).collect();
                    self.let_late_writes_be_applied();
                    (Event::Read(batch, Ok(states)), ROUND_TRIP)
                }
                Step::Write(batch, timeout) => {
                    self.let_late_writes_be_applied();
                    let fates = self.script.get(self.writes).copied().unwrap_or([Fate::Answered; 2]);
                    self.writes += 1;
                    let silent = fates.iter().any(|fate| SILENT.contains(fate));
                    let sessions = batch.sent.iter().zip(fates);
                    let outcomes = sessions.map(|(session, fate)| self.write(number(session), fate)).collect();
                    if silent {
                        let error = StoreError::no_response("BatchExecuteStatement", timeout.patience);
                        (Event::Written(batch, Err(error)), timeout.patience)
                    } else {
                        (Event::Written(batch, Ok(outcomes)), ROUND_TRIP)
                    }
                }
            }
        }

        fn write(&mut self, session: usize, fate: Fate) -> Result<Written, StoreError> {
            let truth = &mut self.truth[session];
            let mut apply = || {
                let changes = *truth == Truth::Live;
                if changes {
                    *truth = Truth::RevokedByThis;
                }
                if changes { Ok(Written::Changed) } else { Ok(Written::Unchanged) }
            };
            match fate {
                Fate::Answered | Fate::SilentAfter => apply(),
                Fate::ErrorAfter => {
                    drop(apply());
                    Err(unavailable(Effect::Unknown))
                }
                Fate::OvertakenByOthers => {
                    if *truth == Truth::Live {
                        *truth = Truth::RevokedByOthers;
                    }
                    Ok(Written::Unchanged)
                }
                Fate::Throttled => Err(unavailable(Effect::None)),
                Fate::Refused => Err(StoreError::Refused { operation: "a statement", cause: String::new(), hint: "" }),
                Fate::ErrorBefore | Fate::SilentBefore => Err(unavailable(Effect::Unknown)),
                Fate::Late | Fate::Later => {
                    self.late.push((usize::from(fate == Fate::Later), session));
                    Err(unavailable(Effect::StillPossible))
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

    const NAMES: [&str; 2] = ["0", "1"];

    fn unavailable(effect: Effect) -> StoreError {
        StoreError::Unavailable { operation: "a statement", cause: String::new(), effect, disconnected: false }
    }

    fn number(session: &TokenHash) -> usize {
        session.as_str().parse().expect("a number")
    }

    fn budget(now: Instant) -> Budget {
        let wall = SystemTime::UNIX_EPOCH;
        Budget::until(wall + Duration::from_secs(29), wall, now)
    }

    /// Runs a call that begins at `begin` against a model to its end, one request after another. Returns the end, too.
    fn run(model: &mut Model<'_>, begin: Instant) -> (Outcome, Instant) {
        let mut now = begin;
        let mut schedule = Schedule::new(TokenHash::from_table("caller"), Limits::DEPLOYED, budget(now), now);
        let mut steps = VecDeque::new();
        loop {
            while let Some(step) = schedule.next(now) {
                steps.push_back(step);
            }
            let Some(step) = steps.pop_front() else { return (schedule.finish(), now) };
            if matches!(step, Step::Write(..)) {
                model.last_write = now - begin;
            }
            let (event, took) = model.perform(step, now);
            now += took;
            schedule.apply(event, now, 0.5);
        }
    }

    /// Runs a call of some sessions, whose writes have these fates, and compares its answer with the truth. Returns how many
    /// of the fates have been used.
    fn check(sessions: usize, script: &[Fates]) -> usize {
        let mut model = Model::new(sessions, script);
        let (outcome, _) = run(&mut model, Instant::now());
        let is = |truth: Truth| model.truth.iter().filter(|found| **found == truth).count();
        assert_eq!(outcome.count, is(Truth::RevokedByThis) as u64, "{script:?}: {outcome:?}");
        let refused = script.iter().take(model.writes).flatten().any(|fate| *fate == Fate::Refused);
        match outcome.result {
            Ok(()) => assert_eq!(is(Truth::Live), 0, "{script:?}"),
            Err(StoreError::Refused { .. }) => assert!(refused, "{script:?}"),
            Err(error) => panic!("{script:?}: {error}"),
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
        assert_eq!(runs, 2_134);
    }

    #[test]
    fn the_count_is_exact_for_every_sequence_of_three_fates_of_two_sessions_in_a_batch() {
        let pairs = |fates: &[Fate]| -> Vec<Fates> {
            fates.iter().flat_map(|first| fates.iter().map(|second| [*first, *second])).collect()
        };
        let fates = [pairs(&STATEMENT), pairs(&SILENT)].concat();
        // The two sessions are alike, so half of the first pairs will do.
        let first: Vec<_> = fates.iter().copied().filter(|[first, second]| first <= second).collect();
        let runs = check_all(2, &first, &fates, 3);
        println!("{} sequences in {runs} runs", first.len() * fates.len().pow(2));
        assert!(runs > 20_000, "{runs}");
    }

    fn sessions(range: std::ops::Range<usize>) -> Vec<TokenHash> {
        range.map(|number| TokenHash::from_table(&number.to_string())).collect()
    }

    fn page(token_hashes: Vec<TokenHash>) -> Event {
        page_before(None, token_hashes)
    }

    fn page_before(next: Option<Cursor>, token_hashes: Vec<TokenHash>) -> Event {
        Event::PageRead(Ok(Page { scanned: token_hashes.len() as u64, token_hashes, next }))
    }

    /// A call that reads its first page.
    fn begun(now: Instant) -> Schedule {
        let mut schedule = Schedule::new(TokenHash::from_table("caller"), Limits::DEPLOYED, budget(now), now);
        let steps = steps(&mut schedule, now);
        assert!(matches!(steps[..], [Step::ReadPage(None, ..)]), "{steps:?}");
        schedule
    }

    /// A call that has been shown these sessions, and its steps after that.
    fn shown(token_hashes: Vec<TokenHash>, now: Instant) -> (Schedule, Vec<Step>) {
        let mut schedule = begun(now);
        schedule.apply(page(token_hashes), now, 0.5);
        let steps = steps(&mut schedule, now);
        (schedule, steps)
    }

    fn steps(schedule: &mut Schedule, now: Instant) -> Vec<Step> {
        std::iter::from_fn(|| schedule.next(now)).collect()
    }

    fn all_changed(step: Step) -> Event {
        let Step::Write(batch, _) = step else { panic!("{step:?}") };
        let outcomes = batch.sent.iter().map(|_| Ok(Written::Changed)).collect();
        Event::Written(batch, Ok(outcomes))
    }

    /// A call of one session all of whose writes have this fate: when the last of them is sent, and when the call ends.
    fn no_attempt_succeeds(fate: Fate, begin: Instant) -> (Instant, Instant) {
        let script = [[fate; 2]; 100];
        let mut model = Model::new(1, &script);
        let (outcome, end) = run(&mut model, begin);
        assert!(outcome.result.is_err_and(|error| error.is_retryable()));
        assert_eq!(model.writes, Limits::DEPLOYED.attempts as usize);
        (begin + model.last_write, end)
    }

    #[test]
    fn the_last_write_is_sent_in_time_and_its_result_is_read_until_it_is_time_to_answer() {
        let begin = Instant::now();
        let (last_write, end) = no_attempt_succeeds(Fate::SilentBefore, begin);
        assert!(last_write < budget(begin).stop_writing);
        let left = budget(begin).answer_by - end;
        assert!(left < Duration::from_millis(50), "{left:?}");
    }

    #[test]
    fn what_became_of_writes_that_ended_in_errors_is_read_for_a_while_after_the_last() {
        let (last_write, end) = no_attempt_succeeds(Fate::ErrorBefore, Instant::now());
        let reading = end - (last_write + ROUND_TRIP);
        assert!(STRAGGLING <= reading && reading < STRAGGLING + 2 * ROUND_TRIP, "{reading:?}");
    }

    #[test]
    fn a_session_on_two_pages_of_a_read_is_written_once() {
        let now = Instant::now();
        let mut schedule = begun(now);
        schedule.apply(page_before(Some(Cursor::default()), sessions(0..2)), now, 0.5);
        let first = steps(&mut schedule, now);
        assert!(matches!(&first[..], [Step::Write(..), Step::ReadPage(Some(_), ..)]), "{first:?}");
        schedule.apply(page(sessions(0..3)), now, 0.5);
        let second = steps(&mut schedule, now);
        let [Step::Write(batch, _), Step::ReadPage(None, ..)] = &second[..] else { panic!("{second:?}") };
        assert_eq!(batch.sent, sessions(2..3));
    }

    #[test]
    fn a_first_read_of_the_index_that_shows_only_the_caller_is_enough() {
        let (schedule, steps) = shown(vec![TokenHash::from_table("caller")], Instant::now());
        assert!(steps.is_empty(), "{steps:?}");
        let outcome = schedule.finish();
        assert!(outcome.result.is_ok() && !outcome.began);
    }

    #[test]
    fn the_index_is_read_again_beside_the_last_batches_and_after_them_in_order() {
        let now = Instant::now();
        let (mut schedule, mut first) = shown(sessions(0..500), now);
        assert!(matches!(first.pop(), Some(Step::ReadPage(None, ..))));
        assert_eq!(first.len(), Limits::DEPLOYED.in_flight);
        // What it repeats is not written again.
        schedule.apply(page(sessions(0..500)), now, 0.5);
        assert!(steps(&mut schedule, now).is_empty());
        for step in first {
            schedule.apply(all_changed(step), now, 0.5);
        }
        let outcome = schedule.finish();
        assert!(outcome.result.is_ok());
        assert_eq!((outcome.count, outcome.statistics.passes), (500, 2));
    }

    #[test]
    fn a_page_is_read_ahead_unless_as_many_sessions_wait_as_can_be_sent_at_once() {
        let now = Instant::now();
        for (number, is_read) in [(999, true), (1_000, false)] {
            let mut schedule = begun(now);
            schedule.apply(page_before(Some(Cursor::default()), sessions(0..number)), now, 0.5);
            let next = steps(&mut schedule, now);
            assert_eq!(next.iter().any(|step| matches!(step, Step::ReadPage(..))), is_read, "{number}: {next:?}");
        }
    }

    #[test]
    fn a_page_that_could_not_be_read_is_read_again_after_a_back_off() {
        let now = Instant::now();
        let mut schedule = begun(now);
        schedule.apply(Event::PageRead(Err(unavailable(Effect::Unknown))), now, 0.5);
        let Some(Step::ReadPage(None, _, at, _)) = schedule.next(now) else { panic!("it is not read") };
        assert_eq!(at - now, Duration::from_millis(25));
    }

    #[test]
    fn the_statistics_say_what_was_read_and_how_often_it_was_read_again() {
        let now = Instant::now();
        let mut schedule = begun(now);
        let failed = || Event::PageRead(Err(unavailable(Effect::Unknown)));
        let first = page_before(Some(Cursor::default()), sessions(0..1));
        for event in [failed(), first, failed(), page(Vec::new())] {
            schedule.apply(event, now, 0.5);
            let steps = steps(&mut schedule, now);
            assert!(matches!(steps.last(), Some(Step::ReadPage(..))), "{steps:?}");
        }
        schedule.apply(page(Vec::new()), now, 0.5);
        let Statistics { passes, pages, seen, retries, .. } = schedule.finish().statistics;
        assert_eq!((passes, pages, seen, retries), (2, 3, 1, 2));
    }

    /// Does what a call says from this step of a batch on, and waits only where it says so. Returns these waits in milliseconds.
    fn waits(
        schedule: &mut Schedule,
        first: Step,
        begin: Instant,
        mut perform: impl FnMut(Step) -> Event,
    ) -> Vec<u128> {
        let (mut step, mut now, mut waits) = (Some(first), begin, Vec::new());
        while let Some(next) = step {
            let event = match next {
                Step::Wait(batch, until) => {
                    waits.push((until - now).as_millis());
                    now = until;
                    Event::Waited(batch)
                }
                other => perform(other),
            };
            schedule.apply(event, now, 0.5);
            step = schedule.next(now);
        }
        waits
    }

    #[test]
    fn a_batch_that_is_throttled_is_sent_again_after_a_longer_back_off_each_time() {
        let now = Instant::now();
        let (mut schedule, mut first) = shown(sessions(0..1), now);
        let mut results = (0..3).map(|_| Err(unavailable(Effect::None))).chain([Ok(Written::Changed)]);
        let waits = waits(&mut schedule, first.remove(0), now, |step| {
            let Step::Write(batch, _) = step else { panic!("{step:?}") };
            Event::Written(batch, Ok(results.next().into_iter().collect()))
        });
        let Outcome { count, statistics, .. } = schedule.finish();
        assert_eq!((count, waits), (1, vec![25, 50, 100]));
        assert_eq!((statistics.batches, statistics.retries), (4, 3));
    }

    #[test]
    fn attempts_are_counted_from_the_last_success() {
        let now = Instant::now();
        let (mut schedule, mut first) = shown(sessions(0..25), now);
        // One session of the batch is revoked at a time.
        let waits = waits(&mut schedule, first.remove(0), now, |step| {
            let Step::Write(batch, _) = step else { panic!("{step:?}") };
            let throttled = batch.sent.iter().skip(1).map(|_| Err(unavailable(Effect::None)));
            let results = std::iter::once(Ok(Written::Changed)).chain(throttled).collect();
            Event::Written(batch, Ok(results))
        });
        assert_eq!((schedule.finish().count, waits.len()), (25, 24));
    }

    #[test]
    fn a_lost_answer_is_followed_by_a_read_at_once_and_by_others_after_a_longer_back_off_each_time() {
        let now = Instant::now();
        let (mut schedule, mut first) = shown(sessions(0..1), now);
        let mut reads = (0..3).map(|_| Err(unavailable(Effect::None))).chain([Ok(vec![Some(State::RevokedByThis)])]);
        let waits = waits(&mut schedule, first.remove(0), now, |step| match step {
            Step::Write(batch, timeout) => {
                Event::Written(batch, Err(StoreError::no_response("a statement", timeout.patience)))
            }
            Step::Read(batch, _) => Event::Read(batch, reads.next().expect("no read after the evidence")),
            other => panic!("{other:?}"),
        });
        assert_eq!((schedule.finish().count, waits), (1, vec![50, 100, 200]));
    }

    #[test]
    fn the_index_is_not_read_again_while_a_session_waits_to_be_sent() {
        let now = Instant::now();
        let (mut schedule, mut first) = shown(sessions(0..501), now);
        assert_eq!(first.len(), Limits::DEPLOYED.in_flight);
        assert!(first.iter().all(|step| matches!(step, Step::Write(..))));
        schedule.apply(all_changed(first.remove(0)), now, 0.5);
        let next = steps(&mut schedule, now);
        assert!(matches!(&next[..], [Step::Write(..), Step::ReadPage(None, ..)]), "{next:?}");
    }

    #[test]
    fn the_index_is_read_until_it_shows_nothing_new() {
        let now = Instant::now();
        let (mut schedule, first) = shown(sessions(0..1), now);
        schedule.apply(page(sessions(0..2)), now, 0.5);
        let second = steps(&mut schedule, now);
        assert!(matches!(&second[..], [Step::Write(..), Step::ReadPage(None, ..)]), "{second:?}");
        schedule.apply(page(sessions(0..2)), now, 0.5);
        for step in first.into_iter().chain(second).filter(|step| matches!(step, Step::Write(..))) {
            schedule.apply(all_changed(step), now, 0.5);
        }
        assert!(steps(&mut schedule, now).is_empty());
        let outcome = schedule.finish();
        assert!(outcome.result.is_ok());
        assert_eq!((outcome.count, outcome.statistics.passes), (2, 3));
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
        assert_eq!(steps(&mut schedule, later).len(), Limits::DEPLOYED.in_flight + 1);
        schedule.apply(page(Vec::new()), later + ROUND_TRIP, 0.5);
        assert_eq!(schedule.budget.write_timeout(0).patience, Duration::from_millis(250));
    }

    #[test]
    fn success_takes_evidence_for_every_session_that_was_shown() {
        let now = Instant::now();
        let (mut schedule, _batches_that_never_return) = shown(sessions(0..1), now);
        schedule.apply(page(sessions(0..1)), now, 0.5);
        assert!(matches!(schedule.finish().result, Err(StoreError::OutOfTime)));
    }

    #[test]
    fn a_permanent_error_is_reported_whenever_it_comes() {
        let retryable = || StoreError::OutOfTime;
        let permanent = || StoreError::BadItem("user_id");
        for errors in [[permanent(), retryable()], [retryable(), permanent()]] {
            let mut reported = None;
            for error in errors {
                note(&mut reported, error);
            }
            assert!(matches!(reported, Some(StoreError::BadItem(_))));
        }
    }

    #[test]
    fn a_table_that_accepts_nothing_gets_no_further_batches() {
        let now = Instant::now();
        let (mut schedule, first) = shown(sessions(0..1_000), now);
        for step in first {
            let Step::Write(batch, _) = step else { panic!("{step:?}") };
            let error = StoreError::Refused { operation: "BatchExecuteStatement", cause: String::new(), hint: "" };
            schedule.apply(Event::Written(batch, Err(error)), now, 0.5);
        }
        assert!(steps(&mut schedule, now).is_empty());
        let outcome = schedule.finish();
        assert!(matches!(outcome.result, Err(StoreError::Refused { .. })));
        assert_eq!((outcome.count, outcome.began), (0, true));
    }
}
