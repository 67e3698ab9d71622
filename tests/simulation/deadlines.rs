//! Faults that take time, one at a time: what is answered, and when. No test waits for a real clock.

use disable_my_other_sessions::rules::limits::Limits;

use crate::fault::Fault;
use crate::function::Sandbox;
use crate::plan::{Plan, PlannedFault, Press, Step};
use crate::timing::{Taken, all_right, always, call, calls, first, quiet};
use crate::world::{World, run_with, with_world};

/// A call of a user with so many other sessions, with these faults; what holds after any call is checked too.
#[track_caller]
fn call_with(others: usize, timeout: u64, faults: Vec<PlannedFault>) -> Taken {
    calls(&Plan { faults, ..quiet(others, None) }, &[Press::plain(0, timeout)])[0]
}

#[test]
fn the_answer_leaves_before_the_deadline_however_dynamodb_hangs() {
    for step in [Step::Caller, Step::FirstPage, Step::Write, Step::LaterLook] {
        for timeout in [1_000, 2_000, 10_000, 29_000] {
            // That it leaves in time is checked after every call.
            let taken = call_with(60, timeout, vec![always(step, Fault::Hang), always(Step::WriteAgain, Fault::Hang)]);
            let count = if step == Step::LaterLook { 60 } else { 0 };
            assert_eq!((taken.status, taken.count), (503, count), "{step:?} hangs, {timeout} ms");
        }
    }
}

#[test]
fn a_read_that_fails_is_tried_eight_times_and_one_that_is_refused_once() {
    for step in [Step::Caller, Step::FirstPage, Step::LaterLook] {
        for (fault, status, attempts) in
            [(Fault::Throttled(0), 503, Limits::DEPLOYED.attempts), (Fault::AccessDenied, 500, 1)]
        {
            let taken = call_with(30, 29_000, vec![always(step, fault)]);
            assert_eq!((taken.status, taken.disturbed), (status, attempts), "{fault:?} at {step:?}");
        }
    }
}

#[test]
fn a_session_is_written_after_a_read_that_failed_and_a_read_that_is_refused_soon_ends_the_call() {
    // The first batch has 25 of the 30 sessions.
    let silent_then = |fault| call_with(30, 29_000, vec![first(Step::Write, Fault::Hang), fault]);
    let taken = silent_then(first(Step::Sessions, Fault::InternalError));
    assert_eq!((taken.status, taken.count), (200, 30));
    let taken = silent_then(always(Step::Sessions, Fault::AccessDenied));
    assert_eq!((taken.status, taken.count), (500, 5));
    assert!(taken.millis < 2_000, "{taken:?}");
}

#[test]
fn a_read_that_is_refused_once_does_not_keep_a_lost_write_from_being_counted() {
    let faults = vec![first(Step::Write, Fault::HungAnswer), first(Step::Sessions, Fault::AccessDenied)];
    let taken = call_with(30, 29_000, faults);
    assert_eq!((taken.status, taken.count), (200, 30));
}

#[test]
fn writes_that_are_applied_and_never_answered_are_counted_and_soon() {
    let hung = || [Step::Write, Step::WriteAgain].map(|step| always(step, Fault::HungAnswer)).to_vec();
    for others in [1, 60, 500] {
        let taken = call_with(others, 29_000, hung());
        assert_eq!((taken.status, taken.count), (200, others as u64));
        assert!(taken.millis < 2_000, "{others} others: {taken:?}");
    }
    let taken = call_with(60, 2_000, hung());
    assert_eq!((taken.status, taken.count), (200, 60));
}

#[test]
fn what_became_of_a_lost_write_is_read_however_slow_reads_are() {
    let slow = [Step::Caller, Step::FirstPage, Step::LaterLook, Step::Sessions];
    let mut faults: Vec<_> = slow.map(|step| always(step, Fault::SlowAnswer(700))).into();
    faults.extend([Step::Write, Step::WriteAgain].map(|step| always(step, Fault::HungAnswer)));
    let taken = call_with(25, 8_000, faults);
    assert_eq!((taken.status, taken.count), (200, 25));
}

#[test]
fn a_write_that_is_carried_out_long_after_it_was_given_up_is_counted() {
    let faults = vec![first(Step::Write, Fault::Late(8_000)), always(Step::WriteAgain, Fault::Throttled(0))];
    let taken = call_with(25, 29_000, faults);
    assert_eq!(taken.count, 25, "{taken:?}");
}

#[test]
fn a_call_without_time_changes_nothing_and_says_so() {
    let faults = Step::ALL.map(|step| always(step, Fault::SlowRequest(200))).into();
    let taken = call_with(10, 100, faults);
    assert_eq!((taken.status, taken.count), (503, 0));
}

#[test]
fn slow_answers_are_waited_for() {
    let faults = Step::ALL.map(|step| always(step, Fault::SlowAnswer(700))).into();
    let taken = call_with(30, 29_000, faults);
    assert_eq!((taken.status, taken.count), (200, 30));
}

#[test]
fn every_call_gets_further_until_one_is_done() {
    let mut plan = quiet(3_000, None);
    for call in (0..20).step_by(2) {
        let slow = [Step::Write, Step::WriteAgain].map(|step| always(step, Fault::SlowRequest(200)));
        plan.faults.extend(slow.map(|fault| PlannedFault { call, ..fault }));
    }
    let outcome = run_with(&plan, false, || async move {
        with_world(World::settle_down);
        let mut sandbox = Sandbox::start(0).await;
        let (mut sum, mut calls) = (0, 0);
        loop {
            let taken = call(&mut sandbox, Press::plain(calls, 2_000)).await;
            (sum, calls) = (sum + taken.count, calls + 1);
            assert!(taken.count > 0 || taken.status == 200, "{taken:?}");
            if taken.status == 200 {
                break;
            }
        }
        assert_eq!(sum, 3_000);
        assert!(calls > 1, "the time was to be too short for one call");
    });
    all_right(&plan, &outcome);
}
