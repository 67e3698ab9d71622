//! The driver of a call: does what [`Schedule`] says, until every session of the user but one is revoked. The rules of evidence
//! are in [`crate::rules::ledger`].

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use crate::dynamodb::store::Store;
use crate::rules::budget::{Budget, wait_until};
use crate::rules::schedule::{Event, Limits, Outcome, Schedule, Step};
use crate::session::{Revocation, Session, UserId};

/// Revokes every other session of the caller's user that the index shows, whatever its status and expiry. If it fails,
/// another call is safe and continues.
pub async fn revoke_others(
    store: &Store,
    caller: &Session,
    revocation: &Revocation,
    limits: Limits,
    budget: Budget,
) -> Outcome {
    let mut schedule = Schedule::new(caller.token_hash.clone(), limits, budget, Instant::now());
    let mut under_way = FuturesUnordered::new();
    loop {
        while let Some(step) = schedule.next(Instant::now()) {
            under_way.push(perform(step, store, &caller.user_id, revocation));
        }
        // All that has begun is waited for, whatever fails meanwhile: what it changes must be counted.
        match under_way.next().await {
            Some(event) => schedule.apply(event, Instant::now(), fastrand::f64()),
            None => return schedule.finish(),
        }
    }
}

async fn perform(step: Step, store: &Store, user: &UserId, revocation: &Revocation) -> Event {
    match step {
        Step::ReadPage(from, size, at, timeout) => {
            wait_until(at).await;
            Event::PageRead(store.page(user, from, size, timeout).await)
        }
        Step::Write(batch, timeout) => {
            let outcomes = store.revoke(user, &batch.sent, revocation, timeout).await;
            Event::Written(batch, outcomes)
        }
        Step::Read(batch, timeout) => {
            let states = store.states(user, &batch.sent, revocation, timeout).await;
            Event::Read(batch, states)
        }
        Step::Wait(batch, until) => {
            wait_until(until).await;
            Event::Waited(batch)
        }
    }
}
