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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Fuse, FusedFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::select;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::budget::{Attempts, Budget, STRAGGLING};
use crate::pace::Pace;
use crate::session::{Revocation, Session, TokenHash};
use crate::store::{BATCH_SIZE, Cursor, Page, Revoked, State, Store, StoreError};

/// Batches under way at once: 500 sessions in one round trip. More would need more connections, and a user's sessions
/// cannot be written much faster anyway: see [`Pace`].
const IN_FLIGHT: usize = 20;
/// Looks at single sessions under way at once.
const LOOKS_IN_FLIGHT: usize = 50;

/// Not every other session is revoked.
#[derive(Debug)]
pub struct Incomplete {
    /// Sessions that were, by this call; `None` if no write was sent.
    pub revoked: Option<u64>,
    /// What came in between.
    pub cause: StoreError,
}

/// Revokes every other session of the caller's user that the index shows, whatever its status and expiry, and returns
/// how many this call changed.
///
/// # Errors
/// [`Incomplete`] if anything is left, with the exact number revoked before. Calling again is safe and continues.
pub async fn revoke_others(
    store: &Store,
    caller: &Session,
    revocation: &Revocation,
    budget: &Budget,
) -> Result<u64, Incomplete> {
    let call = Call {
        store,
        caller,
        revocation,
        budget,
        looks: Semaphore::new(LOOKS_IN_FLIGHT),
        pace: Mutex::new(Pace::unlimited()),
        began: AtomicBool::new(false),
        slowest_write: AtomicU64::new(0),
        revoked: AtomicU64::new(0),
    };
    let outcome = timeout_at(budget.answer_by, call.all_passes()).await.unwrap_or(Err(StoreError::OutOfTime));
    let revoked = call.revoked.into_inner();
    match outcome {
        Ok(()) => Ok(revoked),
        Err(cause) => Err(Incomplete { revoked: call.began.into_inner().then_some(revoked), cause }),
    }
}

/// One call of [`revoke_others`]. Its counts are atomic only because all batches share them.
struct Call<'a> {
    store: &'a Store,
    caller: &'a Session,
    revocation: &'a Revocation,
    budget: &'a Budget,
    /// A permit for each look at a single session, since a batch may want to look at all of its own.
    looks: Semaphore,
    pace: Mutex<Pace>,
    /// Whether a write was sent.
    began: AtomicBool,
    /// The longest that a write has taken to be answered, in microseconds.
    slowest_write: AtomicU64,
    /// Sessions changed by this call, as far as is known.
    revoked: AtomicU64,
}

/// A batch that left something undone.
struct Failure {
    cause: StoreError,
    /// Nothing of the batch was done, so it is vain to begin another. Otherwise it may be one session that fails every
    /// time, and that must not save the others.
    stalled: bool,
}

impl Call<'_> {
    async fn all_passes(&self) -> Result<(), StoreError> {
        let mut first = true;
        loop {
            let before = self.revoked.load(Ordering::Relaxed);
            self.pass(first).await?;
            if self.revoked.load(Ordering::Relaxed) == before {
                return Ok(());
            }
            first = false;
        }
    }

    /// Revokes what the index shows now, and fetches the next page meanwhile. All batches that have begun are seen to
    /// their end, whatever happens to one of them: what they change must be counted.
    async fn pass(&self, first: bool) -> Result<(), StoreError> {
        let mut page = pin!(self.page(None).fuse());
        let mut next = None;
        let mut waiting = Vec::new();
        let mut batches = FuturesUnordered::new();
        let mut failed: Option<StoreError> = None;
        loop {
            let failure = select! {
                result = &mut page, if !page.is_terminated() => match result {
                    Ok(page) => {
                        waiting.extend(page.token_hashes);
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
                    waiting.clear();
                }
            }
            if waiting.len() < IN_FLIGHT * BATCH_SIZE
                && let Some(from) = next.take()
            {
                page.set(self.page(Some(from)).fuse());
            }
            // A batch costs the same whether it is full or not, so one that is not waits for the next page.
            while batches.len() < IN_FLIGHT
                && (waiting.len() >= BATCH_SIZE || page.is_terminated() && !waiting.is_empty())
            {
                let batch = waiting.split_off(waiting.len().saturating_sub(BATCH_SIZE));
                batches.push(self.revoke_batch(batch, first));
            }
        }
    }

    /// A page of the user's sessions, without the caller's own.
    async fn page(&self, from: Option<Cursor>) -> Result<Page, StoreError> {
        let mut page = self.store.page(&self.caller.user_id, from, self.budget).await?;
        // What keeps the caller signed in.
        page.token_hashes.retain(|token_hash| *token_hash != self.caller.token_hash);
        Ok(page)
    }

    /// Revokes a batch, again and again until nothing of it is left, it cannot be done, or time is up.
    async fn revoke_batch(&self, token_hashes: Vec<TokenHash>, first_pass: bool) -> Result<(), Failure> {
        let mut left = token_hashes;
        if !first_pass {
            let (live, failed) = self.still_live(left, false).await;
            if let Some(cause) = failed {
                return Err(Failure { cause, stalled: true });
            }
            left = live;
        }
        let size = left.len();
        let mut refused = Vec::new();
        let mut cannot = None;
        let mut may_later = StoreError::OutOfTime;
        let mut answer_lost = false;
        let mut attempts = Attempts::write(self.budget);
        while !left.is_empty()
            && let Some(limit) = attempts.next().await
            && self.turn_to_write(left.len()).await
        {
            let answers = match self.write(&left, answer_lost, limit).await {
                Ok(answers) => answers,
                Err(error) if error.is_retryable() => {
                    answer_lost |= error.perhaps_applied();
                    may_later = error;
                    continue;
                }
                Err(error) => {
                    cannot = Some(error);
                    break;
                }
            };
            let sent = left.len();
            let mut lost_now = false;
            let mut unclear = Vec::new();
            for (token_hash, answer) in std::mem::take(&mut left).into_iter().zip(answers) {
                match answer {
                    Revoked::Unchanged(_) if !answer_lost => {}
                    // Perhaps unchanged only because an attempt without an answer has changed it.
                    Revoked::Changed | Revoked::Unchanged(Some(State::RevokedByThis)) => self.count_one(),
                    Revoked::Unchanged(Some(State::Done)) => {}
                    Revoked::Unchanged(Some(State::Live)) => left.push(token_hash),
                    Revoked::Unchanged(None) => unclear.push(token_hash),
                    Revoked::Throttled(code) | Revoked::TryAgain(code) => {
                        may_later = StoreError::StatementFailed(code);
                        left.push(token_hash);
                    }
                    Revoked::Unknown => {
                        lost_now = true;
                        left.push(token_hash);
                    }
                    Revoked::Refused(code) => {
                        cannot = Some(StoreError::StatementRefused(code));
                        refused.push(token_hash);
                    }
                }
            }
            answer_lost |= lost_now;
            let (live, failed) = self.still_live(unclear, true).await;
            left.extend(live);
            may_later = failed.unwrap_or(may_later);
            if left.len() < sent {
                attempts.reset();
            }
        }
        left.append(&mut refused);
        if answer_lost {
            left = self.find_out(left).await;
        }
        if left.is_empty() {
            return Ok(());
        }
        Err(Failure { cause: cannot.unwrap_or(may_later), stalled: left.len() == size })
    }

    /// What became of sessions whose writes were given up: counts those revoked and returns the others. The writes may
    /// still be under way, and carried out only after the first look.
    async fn find_out(&self, token_hashes: Vec<TokenHash>) -> Vec<TokenHash> {
        let (mut left, _) = self.still_live(token_hashes, true).await;
        for pause in STRAGGLING {
            if left.is_empty() {
                break;
            }
            sleep(pause).await;
            (left, _) = self.still_live(left, true).await;
        }
        left
    }

    /// Waits until so many writes may be sent; false if that is too late for them to be answered in time. As things go,
    /// that may take twice as long as the slowest so far, and one that is not answered could be carried out after this
    /// call has told its count.
    async fn turn_to_write(&self, writes: usize) -> bool {
        let turn = self.pace.lock().await.reserve(writes);
        let slowest = Duration::from_micros(self.slowest_write.load(Ordering::Relaxed));
        if turn >= self.budget.stop_writing || turn + 2 * slowest >= self.budget.writes_end {
            return false;
        }
        sleep_until(turn).await;
        true
    }

    async fn write(
        &self,
        token_hashes: &[TokenHash],
        again: bool,
        limit: Duration,
    ) -> Result<Vec<Revoked>, StoreError> {
        self.began.store(true, Ordering::Relaxed);
        let begin = Instant::now();
        let limit = limit.min(self.budget.writes_end - begin);
        let answers = self.store.revoke(&self.caller.user_id, token_hashes, self.revocation, again, limit).await;
        let throttled = match &answers {
            Ok(answers) => answers.iter().filter(|answer| matches!(answer, Revoked::Throttled(_))).count(),
            // A table that does not answer in time has too much to do as well.
            Err(_) => token_hashes.len(),
        };
        self.pace.lock().await.learn(token_hashes.len() - throttled, throttled);
        if answers.is_ok() {
            self.slowest_write.fetch_max(micros(begin.elapsed()), Ordering::Relaxed);
        }
        answers
    }

    /// Looks at each session in the table and returns those still to be revoked, or not known not to be because their
    /// look failed, with the failure. After a lost answer, those that this call turns out to have revoked are counted.
    async fn still_live(
        &self,
        token_hashes: Vec<TokenHash>,
        answer_lost: bool,
    ) -> (Vec<TokenHash>, Option<StoreError>) {
        let mut looks: FuturesUnordered<_> = token_hashes.into_iter().map(|token_hash| self.look(token_hash)).collect();
        let mut live = Vec::new();
        let mut failed = None;
        while let Some((token_hash, state)) = looks.next().await {
            match state {
                Ok(State::RevokedByThis) if answer_lost => self.count_one(),
                Ok(State::RevokedByThis | State::Done) => {}
                Ok(State::Live) => live.push(token_hash),
                Err(error) => {
                    live.push(token_hash);
                    failed = Some(error);
                }
            }
        }
        (live, failed)
    }

    async fn look(&self, token_hash: TokenHash) -> (TokenHash, Result<State, StoreError>) {
        let _permit = self.looks.acquire().await;
        let state = self.store.state(&self.caller.user_id, &token_hash, self.revocation, self.budget).await;
        (token_hash, state)
    }

    fn count_one(&self) {
        self.revoked.fetch_add(1, Ordering::Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}
