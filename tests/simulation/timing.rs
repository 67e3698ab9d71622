//! Time without noise: in virtual time, how long a call takes is a number.

use std::time::Duration;

use disable_my_other_sessions::rules::limits::Limits;
use tokio::time::sleep;

use crate::check::claim;
use crate::fault::Fault;
use crate::function::Sandbox;
use crate::plan::{Behaviour, Death, Kind, Lag, Partition, Plan, PlannedFault, PlannedSession, Press, Step, Target};
use crate::world::{Outcome, run_with, with_world};

/// What every request takes, in milliseconds.
const REQUEST: u64 = 5;
/// Round trips of a call with 1 to 500 other sessions: the caller, the index, and the writes beside the index once more.
const ROUND_TRIPS: u64 = 3;
/// How long a call under a partition's limit may take, in terms of the least that it could.
const MOST_TIME: f64 = 1.1;
/// The part of its writes that may be throttled.
const MOST_WASTE: f64 = 0.1;
/// What an index partition of DynamoDB's takes: writes a second, and the unused capacity of a second.
const PARTITION: Partition = Partition { rate: 1_000.0, burst: 1_000.0 };

/// A user with so many other sessions on a network without noise.
pub fn quiet(others: usize, partition: Option<Partition>) -> Plan {
    let sessions = (0..others).map(|number| PlannedSession { number, kind: Kind::Active, trouble: None });
    Plan {
        seed: 1,
        service: Behaviour { exact_latency: Some(REQUEST), page_limit: None, partition, lag: Lag::None },
        limits: Limits::DEPLOYED,
        intruder: None,
        sessions: sessions.collect(),
        presses: Vec::new(),
        faults: Vec::new(),
        acts: Vec::new(),
    }
}

/// A fault that meets a step from its first request on.
pub fn always(step: Step, fault: Fault) -> PlannedFault {
    PlannedFault { call: 0, step, nth: 0, onwards: true, fault }
}

pub fn first(step: Step, fault: Fault) -> PlannedFault {
    PlannedFault { onwards: false, ..always(step, fault) }
}

/// What a call has answered, and what it has taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub status: u64,
    pub count: u64,
    pub millis: u64,
    /// Requests that a fault has met.
    pub disturbed: u32,
}

fn taken(number: usize) -> Taken {
    with_world(|world| {
        let Some(call) = world.calls.get(&number) else { panic!("{:?}", world.wrong) };
        let (status, count) = claim(call);
        Taken { status, count, millis: call.end - call.begin, disturbed: call.disturbed }
    })
}

pub async fn call(sandbox: &mut Sandbox, press: Press) -> Taken {
    crate::world::one_call(sandbox, 2 * press.number, Target::Caller, &press).await;
    taken(2 * press.number)
}

/// The presses of a plan's world, and then something else. Nothing of what is checked after every call may be wrong.
#[track_caller]
pub fn calls_then(plan: &Plan, presses: &[Press], then: impl FnOnce()) -> Vec<Taken> {
    let mut all = Vec::new();
    let result = &mut all;
    let outcome = run_with(plan, true, || async move {
        with_world(crate::world::World::settle_down);
        let (mut sandbox, mut second) = (Sandbox::start(0).await, Sandbox::start(1).await);
        for press in presses {
            crate::world::one_press(plan, press, &mut sandbox, Some(&mut second)).await;
            result.push(taken(2 * press.number));
        }
        then();
    });
    all_right(plan, &outcome);
    all
}

/// The presses of a plan's world.
#[track_caller]
pub fn calls(plan: &Plan, presses: &[Press]) -> Vec<Taken> {
    calls_then(plan, presses, || {})
}

/// Nothing of what is checked after every call was wrong.
#[track_caller]
pub fn all_right(plan: &Plan, outcome: &Outcome) {
    let trace = crate::story::shortened(&outcome.trace);
    assert!(outcome.wrong.is_empty(), "{:?}\n{plan}\n{}", outcome.wrong, trace.join("\n"));
}

#[test]
fn a_call_takes_its_round_trips_and_nothing_else() {
    // Of a thousand sessions, half are in batches that wait until others have been answered.
    for (others, round_trips) in
        [(0, 2), (1, ROUND_TRIPS), (25, ROUND_TRIPS), (26, ROUND_TRIPS), (500, ROUND_TRIPS), (1_000, ROUND_TRIPS + 1)]
    {
        let plan = quiet(others, None);
        let outcome = run_with(&plan, false, || async move {
            with_world(crate::world::World::settle_down);
            let mut sandbox = Sandbox::start(0).await;
            let opened = || with_world(|world| world.connections.opened);
            assert_eq!(opened(), 2, "the start opens two connections");
            let taken = call(&mut sandbox, Press::plain(0, 29_000)).await;
            assert_eq!((taken.status, taken.count), (200, others as u64));
            assert_eq!(taken.millis, round_trips * REQUEST, "with {others} others");
            // For each batch beyond the first one more, since each of the twenty that may be under way takes one.
            assert_eq!(opened(), 2.max(1 + others.div_ceil(25).min(20) as u64), "with {others} others");
        });
        all_right(&plan, &outcome);
    }
}

#[test]
fn a_call_keeps_the_limits_of_its_plan() {
    let plan = Plan { limits: Limits { batch: 2, in_flight: 1, ..Limits::DEPLOYED }, ..quiet(10, None) };
    let taken = calls(&plan, &[Press::plain(0, 29_000)])[0];
    // The caller, the index, and five batches one after the other.
    assert_eq!((taken.status, taken.count, taken.millis), (200, 10, 7 * REQUEST));
}

#[test]
fn a_throttling_partition_is_used_well_and_little_is_wasted() {
    let others = 5_000;
    let plan = quiet(others, Some(PARTITION));
    let outcome = run_with(&plan, false, || async move {
        with_world(crate::world::World::settle_down);
        let mut sandbox = Sandbox::start(0).await;
        let taken = call(&mut sandbox, Press::plain(0, 29_000)).await;
        assert_eq!((taken.status, taken.count), (200, others as u64));
        let (throttled, done) = with_world(|world| (world.service.throttled as f64, world.service.carried_out as f64));
        let wasted = throttled / (throttled + done);
        let floor = (others as f64 - PARTITION.burst) / PARTITION.rate;
        let seconds = taken.millis as f64 / 1_000.0;
        println!(
            "{others} others: {seconds:.2} s for a floor of {floor:.2} s, {:.1} % of the writes wasted",
            wasted * 100.0
        );
        assert!(seconds < MOST_TIME * floor, "{seconds} s for a floor of {floor} s");
        assert!(wasted < MOST_WASTE, "{wasted}");
    });
    all_right(&plan, &outcome);
}

#[test]
fn a_call_with_too_many_sessions_ends_in_time_with_an_exact_count_and_the_next_goes_on() {
    // CI has the time for as many as one user can have: SESSIONS=100000.
    let (others, timeout) = crate::variable("SESSIONS").map_or((4_000, 5_500), |sessions| (sessions as usize, 29_000));
    // No write begins in the last 3.5 s, so that its result is known before the answer.
    let least = 0.85 * PARTITION.rate * (timeout as f64 - 3_500.0) / 1_000.0;
    let plan = quiet(others, Some(PARTITION));
    let outcome = run_with(&plan, false, || async move {
        with_world(crate::world::World::settle_down);
        let mut sandbox = Sandbox::start(0).await;
        let (mut sum, mut calls) = (0, 0);
        loop {
            let taken = call(&mut sandbox, Press::plain(calls, timeout)).await;
            sum += taken.count;
            calls += 1;
            println!("call {calls}: {taken:?}");
            if taken.status == 200 {
                break;
            }
            assert_eq!(taken.status, 503);
            assert!(taken.count as f64 > least, "{taken:?}, and the partition accepts {least} writes in this time");
        }
        assert_eq!(sum, others as u64);
    });
    all_right(&plan, &outcome);
}

#[test]
fn dead_connections_after_a_pause_cost_little() {
    // One that is reset costs the request that finds it out, and a silent one the wait for its answer.
    for (death, cost) in [(Death::Closed, 0), (Death::Reset, REQUEST), (Death::Silent, 40)] {
        let plan = quiet(30, None);
        let outcome = run_with(&plan, false, || async move {
            with_world(crate::world::World::settle_down);
            let mut sandbox = Sandbox::start(0).await;
            sleep(Duration::from_secs(400)).await;
            let dead = Press { meanwhile: Some((death, 1.0)), ..Press::plain(0, 29_000) };
            with_world(|world| world.before(&dead));
            let taken = call(&mut sandbox, dead).await;
            assert_eq!((taken.status, taken.count), (200, 30));
            assert_eq!(taken.millis - ROUND_TRIPS * REQUEST, cost, "{death:?}");
        });
        all_right(&plan, &outcome);
    }
}
