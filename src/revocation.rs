//! The heart: revoke every session of a user but one, and know exactly how many. Knows neither HTTP nor DynamoDB's API.
//!
//! A *pass* reads the user's index entries page by page and revokes what they show, twenty batches at a time,
//! while the next page is on its way. Passes are repeated until one changes nothing, because the index lags behind the
//! table: a session it has not shown yet may be shown by the next pass.
//!
//! The count is exact because a session is counted where the table says that *this* statement changed it. If an answer
//! is lost, the statement is sent again; if that finds nothing to change, a consistent read tells by the revocation's id
//! whether the lost one had changed it. That id would also be found on what an earlier pass has changed and counted, so
//! from the second pass on a session is looked at before it is written to, and only those still live are.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Fuse, FusedFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use tokio::select;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::budget::{Attempts, Budget, Pauses};
use crate::pace::Pace;
use crate::session::{Revocation, Session, TokenHash};
use crate::store::{BATCH_SIZE, Cursor, Fate, Page, State, StatementOutcome, Store, StoreError};

/// Batches under way at once: 500 sessions in one round trip. More would need more connections, and a user's sessions
/// cannot be written much faster anyway: see [`Pace`].
const IN_FLIGHT: usize = 20;
/// Looks at single sessions under way at once.
const LOOKS_IN_FLIGHT: usize = 50;

/// What a call has done so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// Sessions changed by this call: exactly, once it is over.
    pub revoked: Counter,
    /// Index entries shown, the caller's own and repeated ones included.
    pub seen: Counter,
    /// Passes begun.
    pub passes: Counter,
    /// Pages read.
    pub pages: Counter,
    /// Batches sent, those sent again included.
    pub batches: Counter,
}

/// A number that concurrent futures count up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Revokes every other session of the caller's user that the index shows, whatever its status and expiry. How many this
/// call changed is in `progress`, also if it fails.
///
/// # Errors
/// [`StoreError`] if anything is left. Calling again is safe and continues.
pub async fn revoke_others(
    store: &Store,
    caller: &Session,
    revocation: &Revocation,
    budget: &Budget,
    progress: &Progress,
) -> Result<(), StoreError> {
    let (looks, pace) = (Semaphore::new(LOOKS_IN_FLIGHT), Mutex::new(Pace::unlimited()));
    let call = Call { store, caller, revocation, budget, progress, looks, pace };
    timeout_at(budget.answer_by, call.all_passes()).await.unwrap_or(Err(StoreError::OutOfTime))
}

/// One call of [`revoke_others`].
struct Call<'a> {
    store: &'a Store,
    caller: &'a Session,
    revocation: &'a Revocation,
    budget: &'a Budget,
    progress: &'a Progress,
    /// A permit for each look at a single session, since a batch may want to look at all of its own.
    looks: Semaphore,
    pace: Mutex<Pace>,
}

/// A batch that left something undone.
struct Failure {
    cause: StoreError,
    /// Nothing of the batch was done, so it is vain to begin another. Otherwise it may be one session that fails every
    /// time, and that must not save the others.
    stalled: bool,
}

/// A batch on its way.
struct Batch {
    /// Sessions it began with.
    size: usize,
    /// Sessions yet to be revoked.
    left: Vec<TokenHash>,
    /// Sessions that cannot be revoked.
    refused: Vec<TokenHash>,
    /// What may have become of attempts that told nothing.
    fate: Fate,
    /// What no further attempt will mend.
    cannot: Option<StoreError>,
    /// Why the last attempt was not the last one.
    not_yet: StoreError,
}

impl Call<'_> {
    async fn all_passes(&self) -> Result<(), StoreError> {
        loop {
            let before = self.progress.revoked.get();
            self.progress.passes.add(1);
            self.pass().await?;
            if self.progress.revoked.get() == before {
                return Ok(());
            }
        }
    }

    /// Revokes what the index shows now, and fetches the next page meanwhile. All batches that have begun are seen to
    /// their end, whatever happens to one of them: what they change must be counted.
    async fn pass(&self) -> Result<(), StoreError> {
        let mut page = pin!(self.page(None).fuse());
        let mut next = None;
        let mut unsent = Vec::new();
        let mut batches = FuturesUnordered::new();
        let mut failed: Option<StoreError> = None;
        loop {
            let failure = select! {
                // In this order, so that a call is repeatable under a simulated clock.
                biased;
                result = &mut page, if !page.is_terminated() => match result {
                    Ok(page) => {
                        unsent.extend(page.token_hashes);
                        next = page.next;
                        None
                    }
                    Err(cause) => Some(Failure { cause, stalled: false }),
                },
                Some(outcome) = batches.next() => Result::<(), Failure>::err(outcome),
                else => return failed.map_or(Ok(()), Err),
            };
            if let Some(Failure { cause, stalled }) = failure {
                // Of several causes, one that no retry will mend is the one to tell.
                if failed.as_ref().is_none_or(StoreError::is_retryable) {
                    failed = Some(cause);
                }
                if stalled {
                    page.set(Fuse::terminated());
                    next = None;
                    unsent.clear();
                }
            }
            if unsent.len() < IN_FLIGHT * BATCH_SIZE
                && let Some(from) = next.take()
            {
                page.set(self.page(Some(from)).fuse());
            }
            // A batch costs the same whether it is full or not, so one that is not waits for the next page.
            while batches.len() < IN_FLIGHT
                && (unsent.len() >= BATCH_SIZE || page.is_terminated() && !unsent.is_empty())
            {
                let batch = unsent.split_off(unsent.len().saturating_sub(BATCH_SIZE));
                batches.push(self.revoke_batch(batch));
            }
        }
    }

    /// A page of the user's sessions, each once and without the caller's own.
    async fn page(&self, from: Option<Cursor>) -> Result<Page, StoreError> {
        let mut page = self.store.page(&self.caller.user_id, from, self.budget).await?;
        self.progress.pages.add(1);
        self.progress.seen.add(page.token_hashes.len());
        // What keeps the caller signed in.
        page.token_hashes.retain(|token_hash| *token_hash != self.caller.token_hash);
        // DynamoDB takes no batch that names an item twice.
        page.token_hashes.sort_unstable();
        page.token_hashes.dedup();
        Ok(page)
    }

    /// Revokes a batch, again and again until nothing of it is left, it cannot be done, or time is up.
    async fn revoke_batch(&self, token_hashes: Vec<TokenHash>) -> Result<(), Failure> {
        let first_pass = self.progress.passes.get() == 1;
        let (live, unknown) = if first_pass { (token_hashes, None) } else { self.still_live(token_hashes).await };
        let mut batch = Batch::new(live);
        let mut attempts = Attempts::write(self.budget);
        while !batch.left.is_empty()
            && let Some(limit) = attempts.next().await
            && self.turn_to_write(batch.left.len()).await
        {
            let sent = batch.left.len();
            match self.write(&batch.left, limit).await {
                Ok(outcomes) => self.take_in(&mut batch, outcomes).await,
                Err(error) if error.is_retryable() => {
                    batch.fate = batch.fate.max(error.fate());
                    batch.not_yet = error;
                }
                Err(error) => {
                    batch.cannot = Some(error);
                    break;
                }
            }
            if batch.left.len() < sent {
                attempts.made_progress();
            }
        }
        batch.left.append(&mut batch.refused);
        if batch.fate > Fate::NotApplied {
            self.find_out(&mut batch).await;
        }
        batch.outcome().and_then(|()| unknown.map_or(Ok(()), |cause| Err(Failure { cause, stalled: false })))
    }

    /// Sorts the sessions of a batch by the outcomes of their statements, and counts those changed.
    async fn take_in(&self, batch: &mut Batch, outcomes: Vec<StatementOutcome>) {
        let fate_before = batch.fate;
        let mut unclear = Vec::new();
        for (token_hash, outcome) in std::mem::take(&mut batch.left).into_iter().zip(outcomes) {
            match outcome {
                StatementOutcome::Changed => self.progress.revoked.add(1),
                StatementOutcome::Unchanged if fate_before == Fate::NotApplied => {}
                // Perhaps unchanged only because an attempt without an answer has changed it.
                StatementOutcome::Unchanged => unclear.push(token_hash),
                StatementOutcome::Throttled(code) | StatementOutcome::TryAgain(code) => {
                    batch.not_yet = StoreError::StatementFailed(code);
                    batch.left.push(token_hash);
                }
                StatementOutcome::PerhapsChanged => {
                    batch.fate = batch.fate.max(Fate::PerhapsApplied);
                    batch.left.push(token_hash);
                }
                StatementOutcome::Refused(code) => {
                    batch.cannot = Some(StoreError::StatementRefused(code));
                    batch.refused.push(token_hash);
                }
            }
        }
        let (live, unknown) = self.settle(unclear).await;
        batch.left.extend(live);
        if let Some(error) = unknown {
            batch.not_yet = error;
        }
    }

    /// Finds out what became of the rest of a batch that was given up: its writes may still be carried out.
    async fn find_out(&self, batch: &mut Batch) {
        let mut pauses = Pauses::until_visible(self.budget, batch.fate == Fate::PerhapsYetToCome);
        loop {
            (batch.left, _) = self.settle(std::mem::take(&mut batch.left)).await;
            if batch.left.is_empty() || !pauses.next().await {
                return;
            }
        }
    }

    /// Waits until so many writes may be sent; false if that is too late for them to be answered in time.
    async fn turn_to_write(&self, writes: usize) -> bool {
        let turn = self.pace.lock().await.reserve(writes);
        if !self.budget.may_write(turn) {
            return false;
        }
        sleep_until(turn).await;
        true
    }

    async fn write(&self, token_hashes: &[TokenHash], limit: Duration) -> Result<Vec<StatementOutcome>, StoreError> {
        self.progress.batches.add(1);
        let begin = Instant::now();
        let limit = limit.min(self.budget.writes_end - begin);
        let outcomes = self.store.revoke(&self.caller.user_id, token_hashes, self.revocation, limit).await;
        let throttled = match &outcomes {
            Ok(outcomes) => outcomes.iter().filter(|outcome| matches!(outcome, StatementOutcome::Throttled(_))).count(),
            // A table that does not answer in time has too much to do as well.
            Err(_) => token_hashes.len(),
        };
        self.pace.lock().await.learn(token_hashes.len() - throttled, throttled);
        if outcomes.is_ok() {
            self.budget.write_took(begin.elapsed());
        }
        outcomes
    }

    /// Those of the sessions that are not revoked yet, and why others are not known to be.
    async fn still_live(&self, token_hashes: Vec<TokenHash>) -> (Vec<TokenHash>, Option<StoreError>) {
        let mut looks = self.look_at(token_hashes);
        let (mut live, mut unknown) = (Vec::new(), None);
        while let Some((token_hash, state)) = looks.next().await {
            match state {
                Ok(State::Live) => live.push(token_hash),
                Ok(State::RevokedByThis | State::NothingToRevoke) => {}
                Err(error) => unknown = Some(error),
            }
        }
        (live, unknown)
    }

    /// Counts those of the sessions that a write without an answer turns out to have revoked, and returns those left:
    /// the live ones, and those at which a look failed.
    async fn settle(&self, token_hashes: Vec<TokenHash>) -> (Vec<TokenHash>, Option<StoreError>) {
        let mut looks = self.look_at(token_hashes);
        let (mut left, mut unknown) = (Vec::new(), None);
        while let Some((token_hash, state)) = looks.next().await {
            match state {
                Ok(State::RevokedByThis) => self.progress.revoked.add(1),
                Ok(State::NothingToRevoke) => {}
                Ok(State::Live) => left.push(token_hash),
                Err(error) => {
                    left.push(token_hash);
                    unknown = Some(error);
                }
            }
        }
        (left, unknown)
    }

    fn look_at(
        &self,
        token_hashes: Vec<TokenHash>,
    ) -> impl Stream<Item = (TokenHash, Result<State, StoreError>)> + Unpin {
        let looks = token_hashes.into_iter().map(async |token_hash| {
            let _permit = self.looks.acquire().await;
            let state = self.store.state(&self.caller.user_id, &token_hash, self.revocation, self.budget).await;
            (token_hash, state)
        });
        looks.collect::<FuturesUnordered<_>>()
    }
}

impl Batch {
    fn new(token_hashes: Vec<TokenHash>) -> Self {
        Self {
            size: token_hashes.len(),
            left: token_hashes,
            refused: Vec::new(),
            fate: Fate::NotApplied,
            cannot: None,
            not_yet: StoreError::OutOfTime,
        }
    }

    fn outcome(self) -> Result<(), Failure> {
        if self.left.is_empty() {
            return Ok(());
        }
        let stalled = self.left.len() == self.size;
        Err(Failure { cause: self.cannot.unwrap_or(self.not_yet), stalled })
    }
}

impl Counter {
    /// The number so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }
}
