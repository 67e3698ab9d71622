//! The driver of a call: carries out the steps of the [`Schedule`] with the database until no step is left. It decides nothing:
//! what counts as evidence is in [`crate::rules::ledger`].

use std::future::pending;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::select;
use tokio::time::{Instant, sleep_until};

use crate::dynamodb::store::{Cursor, Store};
use crate::rules::budget::Budget;
use crate::rules::limits::Limits;
use crate::rules::schedule::{CallResult, Schedule, Step, StepResult};
use crate::session::{Revocation, Session, UserId};

/// Revokes every other session of the caller's user that the index shows, whatever the session's status and expiry. After a
/// failure, another call is safe and continues.
pub async fn revoke_others(
    store: &Store,
    caller: &Session,
    revocation: &Revocation,
    limits: Limits,
    budget: Budget,
) -> CallResult {
    let mut schedule = Schedule::new(caller.token_hash.clone(), limits, budget, Instant::now());
    let mut under_way = FuturesUnordered::new();
    loop {
        while let Some(step) = schedule.next(Instant::now()) {
            under_way.push(perform(step, store, &caller.user_id, revocation));
        }
        let next_at = schedule.next_at();
        select! {
            biased;
            Some(result) = under_way.next() => schedule.apply(result, Instant::now(), fastrand::f64()),
            () = wait_until(next_at), if next_at.is_some() => {}
            // No step is under way any more. A step is never abandoned, whatever fails meanwhile: its changes must be counted.
            else => return schedule.finish(),
        }
    }
}

async fn perform(step: Step<Cursor>, store: &Store, user: &UserId, revocation: &Revocation) -> StepResult<Cursor> {
    match step {
        Step::Page(from, size, timeout) => StepResult::Page(store.page(user, from, size, timeout).await),
        Step::Write(batch) => {
            let reports = store.revoke(user, &batch.sessions, revocation, batch.timeout).await;
            StepResult::Written(batch, reports)
        }
        Step::Read(batch) => {
            let found = store.find(user, &batch.sessions, revocation, batch.timeout).await;
            StepResult::Read(batch, found)
        }
    }
}

/// Waits until this time, or for ever without one. A timer ends at a whole millisecond after its time, so a timer for a time that
/// has passed would still cost a call a millisecond.
pub async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) if time > Instant::now() => sleep_until(time).await,
        Some(_) => {}
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_time_that_has_come_is_not_waited_for() {
        // Between two whole milliseconds, at which timers end.
        advance(Duration::from_micros(500)).await;
        assert!(wait_until(Some(Instant::now())).now_or_never().is_some());
        assert!(wait_until(Some(Instant::now() + Duration::from_millis(1))).now_or_never().is_none());
    }
}
