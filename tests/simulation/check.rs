//! What must hold after every call, and at the end, whatever has happened. It is judged by the history, which knows more than any
//! client can: where no client could have known, it says so and why.

use std::collections::{BTreeMap, BTreeSet};

use crate::dynamodb::Service;
use crate::history::{Actor, Call, Item, Moment, is_done, s, text};
use crate::plan::Step;
use crate::report::Other;
use crate::story::name;
use crate::world::{ALICE, World, epoch_seconds_at};

/// What a change that comes so shortly before the answer is, in milliseconds: the function's last read may have been before it.
const LAST_MOMENT: u64 = 150;
/// With this many milliseconds a call has all the time that it needs for a few faults.
const AMPLE_TIME: u64 = 20_000;
/// A call that has all the time that it needs has met no more faults than this.
const FEW_FAULTS: u32 = 2;
/// So often a call sends something again that was refused because of its signature, until that is permanent.
const SIGNATURE_ATTEMPTS: u32 = 5;
/// How long after a session was ended by others its successor may be missing in the index, in milliseconds.
const REPLACED: u64 = 1_000;

/// The status of a call's answer, and how many sessions it claims to have revoked.
pub fn claim(call: &Call) -> (u64, u64) {
    let Some(answer) = &call.answer else { return (0, 0) };
    (answer.status, answer.claimed())
}

/// Whether a session signs in.
pub fn is_active(item: &Item, seconds: f64) -> bool {
    let expires = text(item, "expires_at").and_then(|at| at.parse::<f64>().ok());
    text(item, "status") == Some("active") && expires.is_some_and(|at| at > seconds)
}

/// After a call has been answered.
pub fn after_call(world: &mut World, number: usize) {
    let call = &world.calls[&number];
    let mut wrong = Vec::new();
    in_time(call, &mut wrong);
    by_an_active_session(&world.service, call, &mut wrong);
    status_is_right(world, call, &mut wrong);
    only_revocations(&world.service, call, &mut wrong);
    let uncounted = count_is_exact(&world.service, call, &mut wrong);
    others_are_revoked(world, call, &mut wrong);
    everything_shown_is_done(&world.service, call, &mut wrong);
    everything_held_is_done(&world.service, call, &mut wrong);
    index_was_read_to_its_end(call, &mut wrong);
    replaced_sessions_were_looked_for(call, &mut wrong);
    no_intruder_is_left(world, call, &mut wrong);
    requests_are_bounded(world, call, &mut wrong);
    if claim(call).0 == 200 {
        let was = [
            (call.trace.is_some(), Other::SucceedsAfterOthersEndedASession),
            (!call.found_live.is_empty(), Other::SucceedsAfterASessionWasFoundLive),
            (!call.signature.is_empty(), Other::SucceedsAfterErrorsOfSignature),
        ];
        was.into_iter().filter(|(was, _)| *was).for_each(|(_, other)| world.report.tick("call", other));
    }
    world.report.calls += 1;
    world.report.uncounted += uncounted;
    world.report.claimed += claim(call).1;
    let wrong: Vec<_> = wrong.into_iter().map(|wrong| format!("call {number}: {wrong}")).collect();
    world.wrong.extend(wrong);
}

/// When calls have met no fault but the trouble of some sessions.
pub fn only_trouble_is_left(world: &mut World) {
    let Some(last) = world.calls.values().last() else { return };
    let is_left = |(hash, item): &(&String, &Item)| {
        **hash != last.caller && !world.service.troubles.contains_key(*hash) && !is_done(Some(item), ALICE)
    };
    let left: Vec<_> = world.service.history.items().filter(is_left).map(|(hash, _)| world.name(hash)).collect();
    if !left.is_empty() {
        let wrong = format!("calls do not get beyond the sessions in trouble: {} not revoked", left.join(" "));
        world.wrong.push(wrong);
    } else if claim(last).0 != 200 {
        world.report.tick("call", Other::FailsAndOnlyTroubleIsLeft);
    }
}

/// At the end of a trial.
pub fn the_end(world: &mut World) {
    let table = world.service.table();
    let known: BTreeMap<_, _> =
        world.service.history.items().map(|(hash, item)| (hash.clone(), item.clone())).collect();
    if table != known {
        world.wrong.push("the table holds what nobody has written".to_owned());
    }
    let callers: BTreeSet<_> = world.calls.values().last().map(|call| call.caller.clone()).into_iter().collect();
    for (hash, item) in &table {
        if !callers.contains(hash) && !is_done(Some(item), ALICE) {
            world.wrong.push(format!("{:?} is not revoked in the end", text(item, "session_id")));
        }
    }
    let numbers: Vec<_> = world.calls.keys().copied().collect();
    for number in numbers {
        let (late, wrong) = changed_after_the_answer(world, &world.calls[&number]);
        world.report.late += late;
        world.wrong.extend(wrong);
    }
}

/// What is carried out after the answer is in no count. So a call that has writes without a response waits for them as long as it
/// may. Returns how many came later, and those that it should have waited for.
fn changed_after_the_answer(world: &World, call: &Call) -> (u64, Vec<String>) {
    let service = &world.service;
    let waited = call.end - call.begin + call.reserved()[2] + LAST_MOMENT >= call.timeout;
    let late = service.history.changes_of(call.number).filter(|(_, _, change)| change.moment > call.end_moment);
    let (mut number, mut wrong) = (0, Vec::new());
    for (hash, _, change) in late {
        number += 1;
        // Whoever writes an item again makes it one that a write of before can still revoke.
        let mut others = service.history.during(hash, call.begin_moment, change.moment);
        let written_again = others.any(|change| change.by == Actor::Others && change.moment > call.begin_moment);
        if !waited && !written_again && call.cut_short == 0 && !is_unsigned(world, call) {
            wrong.push(format!(
                "call {}: {} was revoked after an answer that came early",
                call.number,
                name(service, hash)
            ));
        }
    }
    (number, wrong)
}

fn in_time(call: &Call, wrong: &mut Vec<String>) {
    let margin = (call.timeout / 20).min(250);
    let took = call.end - call.begin;
    if took + margin > call.timeout && !was_stalled(call) {
        wrong.push(format!("took {took} ms of {} ms", call.timeout));
    }
}

/// Whether the process got no CPU until there was only time to answer. Then it cannot read, and may answer too late.
fn was_stalled(call: &Call) -> bool {
    call.stalled_until + call.reserved()[2] + LAST_MOMENT > call.begin + call.timeout
}

/// Whether something was refused for its signature until that was permanent.
fn is_unsigned(world: &World, call: &Call) -> bool {
    call.signature.values().any(|times| *times >= SIGNATURE_ATTEMPTS.min(world.plan.limits.attempts))
}

/// Whether the call had the time that it takes to revoke all that can be revoked, in spite of the faults that it has met.
fn has_time(world: &World, call: &Call) -> bool {
    call.timeout >= AMPLE_TIME
        && call.stalled < LAST_MOMENT
        && world.plan.sessions.len() < 300
        && world.plan.service.partition.is_none()
        && call.disturbed <= FEW_FAULTS
}

/// Whether a session has an error of its own: its statement was refused, is in trouble, or it was found live in spite of its writes
/// until that is an error.
fn is_at_fault(world: &World, call: &Call, hash: &String) -> bool {
    call.refused.contains(hash)
        || world.service.troubles.contains_key(hash)
        || call.found_live.get(hash).is_some_and(|times| *times >= world.plan.limits.attempts)
}

/// The caller as the function saw it: the item that its consistent read showed.
fn caller<'a>(service: &'a Service, call: &Call) -> Option<&'a Item> {
    let read = call.reads.get(&call.caller)?.first()?;
    service.history.at(&call.caller, *read)
}

fn by_an_active_session(service: &Service, call: &Call, wrong: &mut Vec<String>) {
    let (status, _) = claim(call);
    let seen = caller(service, call);
    let changed = service.history.changes_of(call.number).next().is_some();
    if (status == 200 || changed) && !seen.is_some_and(|item| is_active(item, epoch_seconds_at(call.authenticated_at)))
    {
        wrong.push("a session that is not active has revoked others".to_owned());
    }
    let read = call.reads.contains_key(&call.caller);
    if status == 401 && (!read || seen.is_some_and(|item| is_active(item, epoch_seconds_at(call.end)))) {
        wrong.push("an active session is called inactive".to_owned());
    }
}

fn status_is_right(world: &World, call: &Call, wrong: &mut Vec<String>) {
    let (status, _) = claim(call);
    let is_live = |hash: &String| world.service.history.item(hash).is_some_and(|item| !is_done(Some(item), ALICE));
    // A session that a read has found done is closed, and may have been made live since.
    let found_done = |hash: &String| {
        let mut reads = call.reads.get(hash).into_iter().flatten();
        reads.any(|read| is_done(world.service.history.at(hash, *read), ALICE))
    };
    let at_fault = call.shown.keys().any(|hash| is_at_fault(world, call, hash));
    match status {
        200 | 401 => {}
        503 if call.refused.iter().any(|hash| is_live(hash) && !found_done(hash)) => {
            wrong.push("503, though calling again cannot help".to_owned());
        }
        500 if call.permanent > 0 || at_fault || is_unsigned(world, call) => {}
        503 if !has_time(world, call) || at_fault || call.permanent > 0 || world.plan.intruder.is_some() => {}
        500 | 503 if call.disturbed == 0 => wrong.push(format!("{status} without any fault")),
        500 | 503 if !call.signature.is_empty() => wrong.push(format!("{status}, though errors of signature pass")),
        500 | 503 => wrong.push(format!("{status}, though only {} requests had a fault", call.disturbed)),
        _ => wrong.push(format!("{status} is no answer")),
    }
}

/// A call that had time, and that no error of a whole request has stopped, has revoked every session that is not itself at fault.
fn others_are_revoked(world: &World, call: &Call, wrong: &mut Vec<String>) {
    let (status, _) = claim(call);
    if ![500, 503].contains(&status) || !has_time(world, call) || call.cut_short > 0 || is_unsigned(world, call) {
        return;
    }
    for (hash, shown) in call.shown.iter().filter(|(hash, _)| **hash != call.caller) {
        let mut since = world.service.history.during(hash, *shown, call.end_moment);
        if !is_at_fault(world, call, hash) && !since.any(|change| is_done(change.item.as_ref(), &call.user)) {
            wrong.push(format!("{status}, and {} is not revoked, which had no fault", world.name(hash)));
        }
    }
}

/// What a call has changed was to be revoked by it, and nothing but the revocation was written.
fn only_revocations(service: &Service, call: &Call, wrong: &mut Vec<String>) {
    let seen = caller(service, call);
    let user = seen.and_then(|item| text(item, "user_id")).unwrap_or_default();
    let by = seen.and_then(|item| text(item, "session_id")).unwrap_or_default();
    for (hash, before, change) in service.history.changes_of(call.number) {
        let id = before.and_then(|item| text(item, "session_id")).unwrap_or("a new one");
        if *hash == call.caller {
            wrong.push("the caller's own session was written".to_owned());
        }
        if is_done(before, user) {
            wrong.push(format!("{id} was not to be revoked, and was written"));
        }
        let (Some(before), Some(after)) = (before, &change.item) else { continue };
        let at = text(after, "revoked_at").and_then(|at| at.parse::<f64>().ok()).unwrap_or_default();
        if at < epoch_seconds_at(call.begin).floor() || at > epoch_seconds_at(call.end) {
            wrong.push(format!("{id} was revoked at {at}"));
        }
        let mut expected = before.clone();
        expected.insert("status".to_owned(), s("revoked"));
        expected.insert("revoked_by".to_owned(), s(by));
        expected.insert("revocation_id".to_owned(), s(&call.lambda_id));
        expected.extend(after.get_key_value("revoked_at").map(|(name, value)| (name.clone(), value.clone())));
        if *after != expected {
            wrong.push(format!("{id} is {after:?} instead of {expected:?}"));
        }
    }
}

/// The count is the number of sessions that this call has changed before its answer. Returns how many of these no client could
/// have known of.
fn count_is_exact(service: &Service, call: &Call, wrong: &mut Vec<String>) -> u64 {
    let (status, claimed) = claim(call);
    let user = caller(service, call).and_then(|item| text(item, "user_id")).unwrap_or_default();
    let in_time = || service.history.changes_of(call.number).filter(|(_, _, change)| change.moment < call.end_moment);
    let sessions: BTreeMap<&String, (Moment, u64)> =
        in_time().map(|(hash, _, change)| (hash, (change.moment, change.at))).collect();
    let (mut known, mut unknown) = (0, 0);
    for (hash, (moment, at)) in sessions {
        let is_own = |item: &Item| is_own(item, call);
        if shows(service, call, hash, is_own) {
            known += 1;
            continue;
        }
        unknown += 1;
        let mut since = service.history.during(hash, moment, call.end_moment);
        let overwritten = since.any(|change| !change.item.as_ref().is_some_and(is_own));
        // Closed by a read, then made live by others, and only then changed by a write of before: in nobody's count.
        let mut reads = call.reads.get(hash).into_iter().flatten();
        let closed = reads.any(|read| *read < moment && is_done(service.history.at(hash, *read), user));
        let unreadable =
            call.failed_reads.iter().any(|read| *read > moment) || at + LAST_MOMENT > call.end || was_stalled(call);
        if !overwritten && !closed && (status == 200 || !unreadable) {
            wrong.push(format!("nobody has read what became of a write at {at} ms"));
        }
    }
    if claimed != known {
        wrong.push(format!("claims {claimed}, and has revoked {known}"));
    }
    unknown
}

/// Whether an answer that has arrived has shown that this call has changed the session.
fn shows(service: &Service, call: &Call, hash: &String, is_own: impl Fn(&Item) -> bool) -> bool {
    let mut reads = call.reads.get(hash).into_iter().flatten();
    call.changed.contains(hash) || reads.any(|read| service.history.at(hash, *read).is_some_and(&is_own))
}

fn is_own(item: &Item, call: &Call) -> bool {
    text(item, "status") == Some("revoked") && text(item, "revocation_id") == Some(call.lambda_id.as_str())
}

/// After a 200, every other session that the index has shown was revoked, gone, or another user's at some moment since.
fn everything_shown_is_done(service: &Service, call: &Call, wrong: &mut Vec<String>) {
    if claim(call).0 != 200 {
        return;
    }
    let user = caller(service, call).and_then(|item| text(item, "user_id")).unwrap_or_default();
    for (hash, shown) in call.shown.iter().filter(|(hash, _)| **hash != call.caller) {
        let mut since = service.history.during(hash, *shown, call.end_moment);
        if !since.any(|change| is_done(change.item.as_ref(), user)) {
            wrong.push(format!("a 200, and {} is not revoked", name(service, hash)));
        }
        let read = |read: &Moment| is_done(service.history.at(hash, *read), user);
        let is_proven = call.changed.contains(hash) || call.reads.get(hash).is_some_and(|reads| reads.iter().any(read));
        if !is_proven {
            wrong.push(format!("a 200, and nothing has shown that {} is revoked", name(service, hash)));
        }
    }
}

/// After a 200, whatever the index held when DynamoDB carried out the last read of it is revoked, unless a fault has hidden it.
fn everything_held_is_done(service: &Service, call: &Call, wrong: &mut Vec<String>) {
    let Some(last) = call.looks.last().filter(|_| claim(call).0 == 200) else { return };
    for hash in last.held.iter().filter(|hash| **hash != call.caller && !last.hidden.contains(*hash)) {
        // Whoever revives a session after it was revoked does so too late for this call.
        let from = call.shown.get(hash).map_or(last.held_at, |shown| last.held_at.min(*shown));
        let mut since = service.history.during(hash, from, call.end_moment);
        if !since.any(|change| is_done(change.item.as_ref(), &call.user)) {
            wrong.push(format!("a 200, and {} is not revoked, which the index held", name(service, hash)));
        }
    }
}

/// A session that others have ended may have been replaced, and the index may not show the new one yet. So a 200 takes a read of
/// the index that began a while later. A call without such a session reads the index once more than it shows something new.
fn replaced_sessions_were_looked_for(call: &Call, wrong: &mut Vec<String>) {
    let needed = 1 + call.looks.iter().filter(|look| look.shows_new).count();
    match (call.trace, call.looks.last()) {
        (None, Some(_)) if call.looks.len() > needed => {
            wrong.push(format!("the index was read {} times, {needed} times were enough", call.looks.len()));
        }
        (Some(trace), Some(last)) if claim(call).0 == 200 && last.begin_at < trace + REPLACED => {
            wrong.push("a 200, and no look for what has replaced a session that others have ended".to_owned());
        }
        _ => {}
    }
}

/// After a 200, an intruder who has rotated his session in a loop has none that is valid.
fn no_intruder_is_left(world: &World, call: &Call, wrong: &mut Vec<String>) {
    let can_see = call.user == ALICE && call.looks.iter().all(|look| look.hidden.is_empty());
    if let Some(hash) = world.intruders_session().filter(|_| claim(call).0 == 200 && can_see) {
        wrong.push(format!("a 200, and the intruder is signed in with {}", world.name(hash)));
    }
}

/// A 200 takes a last read of the index that has shown nothing new, and that began when every session that reads before it have
/// shown had been sent.
fn index_was_read_to_its_end(call: &Call, wrong: &mut Vec<String>) {
    if claim(call).0 != 200 {
        return;
    }
    let Some(last) = call.looks.last() else {
        wrong.push("a 200, and the index was not read to its last page".to_owned());
        return;
    };
    if last.shows_new {
        wrong.push("a 200, and the last read of the index has shown a new session".to_owned());
    }
    if call.written.values().any(|sent| *sent > last.begin) {
        wrong.push("a 200, and the last read of the index began while sessions waited to be sent".to_owned());
    }
}

/// The most requests that a call may send: see the terms.
pub fn most_requests(world: &World, call: &Call) -> u64 {
    let sessions = call.shown.len() as u64;
    let disturbed = u64::from(call.disturbed);
    // The caller, and two looks at the index with all their pages.
    let reads = 3 + 2 * u64::from(call.pages);
    // Full batches, one that is not for each look, and again what a fault has left undone or others have revived.
    let again = 3 * disturbed + call.found_live.values().map(|times| u64::from(*times)).sum::<u64>();
    let writes = sessions.div_ceil(world.plan.limits.batch as u64) + call.looks.len() as u64 + 1 + again;
    // Every session of a batch that had a fault may be read until it is known what became of it.
    let sessions = sessions * (1 + disturbed.min(12)) * 12;
    reads + writes + sessions
}

fn requests_are_bounded(world: &World, call: &Call, wrong: &mut Vec<String>) {
    let requests: u64 =
        call.requests.iter().filter(|(step, _)| **step != Step::Connect).map(|(_, n)| u64::from(*n)).sum();
    let most = most_requests(world, call);
    if requests > most {
        wrong.push(format!("{requests} requests, more than {most}: {:?}", call.requests));
    }
}
