//! Cases that somebody has thought of, one at a time, on the simulator of the random trials. What is checked after every call is
//! checked here too, so most cases only say what is answered.

use disable_my_other_sessions::rules::limits::Limits;

use crate::answers::CELLS;
use crate::fault::Fault;
use crate::plan::{Act, Deed, Intruder, Lag, Oddity, Plan, PlannedFault, Press, Step, Target, Trouble, When};
use crate::timing::{Taken, always, calls, calls_then, first, quiet};
use crate::world::with_world;

fn one_call(plan: &Plan) -> Taken {
    calls(plan, &[Press::plain(0, 29_000)])[0]
}

fn with_faults(others: usize, faults: Vec<PlannedFault>) -> Plan {
    Plan { faults, ..quiet(others, None) }
}

fn with_acts(others: usize, acts: impl IntoIterator<Item = (When, Deed, Target)>) -> Plan {
    let acts = acts.into_iter().enumerate().map(|(number, (when, deed, on))| Act { number, call: 0, when, deed, on });
    Plan { acts: acts.collect(), ..quiet(others, None) }
}

/// Sessions of which some are in trouble.
fn in_trouble(others: usize, trouble: Trouble, which: impl Fn(usize) -> bool) -> Plan {
    let mut plan = quiet(others, None);
    for session in &mut plan.sessions {
        session.trouble = which(session.number).then_some(trouble);
    }
    plan
}

#[test]
fn an_answer_that_lacks_what_it_always_has_is_not_believed() {
    for (number, cell) in CELLS.iter().enumerate() {
        for step in Step::ALL.into_iter().filter(|step| *step != Step::Connect && step.operation() == cell.operation) {
            let mut plan = with_faults(5, vec![first(step, Fault::Damaged(number))]);
            plan.service.page_limit = Some(4);
            match step {
                Step::Sessions => plan.faults.push(first(Step::Write, Fault::Hang)),
                Step::WriteAgain => plan.faults.push(first(Step::Write, Fault::Throttled(0))),
                _ => {}
            }
            let taken = one_call(&plan);
            if !(cell.breaks_an_item() && taken.status == 500) {
                assert_eq!((taken.status, taken.count), (200, 5), "{} at {step:?}", cell.name());
            }
        }
    }
}

#[test]
fn an_intruder_who_rotates_is_signed_out_or_the_call_is_no_success() {
    for deletes in [true, false] {
        for lag in [0, 20, 1_000] {
            for period in [5, 13, 30, 40, 100, 3_000] {
                for phase in [0, 14] {
                    let mut plan = quiet(3, None);
                    plan.service.exact_latency = Some(6);
                    plan.service.lag = Lag::Exactly(lag);
                    plan.intruder = Some(Intruder { session: 0, period, phase, deletes });
                    // That he is out after a 200 is checked after every call.
                    let timeout = if period < 40 { 1_500 } else { 4_000 };
                    let taken = calls(&plan, &[Press::plain(0, timeout)])[0];
                    // He can be overtaken if the index shows a session while it is his.
                    let can_win = period >= lag + 40;
                    let what = format!("{taken:?}: every {period} ms from {phase}, index {lag} ms late");
                    assert!([200, 503].contains(&taken.status), "{what}");
                    assert!(!can_win || taken.status == 200 && taken.millis < 2_500, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_call_that_waits_for_the_index_answers_before_its_deadline() {
    let plan = with_acts(1, [(When::Before(Step::Write, 0), Deed::Delete, Target::Session(0))]);
    for timeout in (900..1_600).step_by(13) {
        // When it is answered is checked after every call.
        let taken = calls(&plan, &[Press::plain(0, timeout)])[0];
        assert!([200, 503].contains(&taken.status), "{taken:?} of {timeout} ms");
    }
}

#[test]
fn two_devices_that_press_at_once_are_as_fast_as_one() {
    let beside = |after| Press { beside: Some(crate::plan::Beside { after, by: None }), ..Press::plain(0, 29_000) };
    let alone = one_call(&quiet(30, None)).millis;
    for after in 0..20 {
        let taken = calls(&quiet(30, None), &[beside(after)])[0];
        // What the other call has revoked is read.
        assert!(taken.status == 200 && taken.millis <= alone + 10, "{taken:?} instead of {alone} ms");
    }
}

#[test]
fn a_session_in_trouble_keeps_no_other_session_signed_in_wherever_it_is() {
    for (trouble, statuses) in [
        (Trouble::Refused(0), &[500][..]),
        (Trouble::Refused(2), &[500]),
        (Trouble::Conflict, &[503]),
        (Trouble::Throttled, &[503]),
        (Trouble::Unknown, &[500, 503]),
    ] {
        for (batch, in_flight, page) in [(1, 1, 1), (1, 2, 3), (2, 1, 1), (25, 20, 1), (25, 20, 2_000)] {
            for place in 0..4 {
                let mut plan = in_trouble(4, trouble, |session| session == place);
                plan.limits = Limits { batch, in_flight, page, ..Limits::DEPLOYED };
                let taken = one_call(&plan);
                assert!(statuses.contains(&taken.status), "{trouble:?}, {:?}: {taken:?}", plan.limits);
                assert_eq!(taken.count, 3, "{trouble:?}, {:?}", plan.limits);
            }
        }
    }
}

#[test]
fn refused_sessions_keep_no_other_session_signed_in_however_many_they_are() {
    for (others, refused) in [(31, 1), (31, 30), (60, 30), (600, 20), (600, 300)] {
        let mut plan = in_trouble(others, Trouble::Refused(0), |session| session < refused);
        for (batch, in_flight) in [(25, 20), (1, 2)] {
            plan.limits = Limits { batch, in_flight, ..Limits::DEPLOYED };
            let taken = one_call(&plan);
            assert_eq!((taken.status, taken.count), (500, (others - refused) as u64), "{others}, {refused} refused");
        }
    }
}

#[test]
fn a_page_may_show_more_sessions_than_the_batches_under_way_can_hold() {
    for (batch, in_flight, page_limit) in [(1, 1, None), (2, 3, None), (2, 3, Some(7))] {
        let mut plan = quiet(40, None);
        plan.limits = Limits { batch, in_flight, ..Limits::DEPLOYED };
        plan.service.page_limit = page_limit;
        let taken = one_call(&plan);
        assert_eq!((taken.status, taken.count), (200, 40), "{:?}", plan.limits);
    }
}

#[test]
fn a_batch_that_is_carried_out_bit_by_bit_is_counted() {
    for seed in 0..20 {
        let again = always(Step::WriteAgain, Fault::Staggered(seed));
        let taken = one_call(&with_faults(25, vec![always(Step::Write, Fault::Staggered(seed)), again]));
        assert_eq!((taken.status, taken.count), (200, 25), "{seed}");
    }
}

/// Another call revokes the session before each write of this one, and the application makes it active again before each read.
fn revived(times: u32) -> Plan {
    let revived = (0..times).flat_map(|time| {
        let write = if time == 0 { (Step::Write, 0) } else { (Step::WriteAgain, time - 1) };
        [
            (When::Before(write.0, write.1), Deed::Revoke, Target::Session(0)),
            (When::Before(Step::Sessions, time), Deed::Reactivate, Target::Session(0)),
        ]
    });
    with_acts(3, revived)
}

#[test]
fn a_session_that_was_revived_is_written_again_eight_attempts_long() {
    for times in 1..Limits::DEPLOYED.attempts {
        let taken = one_call(&revived(times));
        assert_eq!((taken.status, taken.count), (200, 3), "revived {times} times");
    }
    let taken = one_call(&revived(20));
    assert_eq!((taken.status, taken.count), (500, 2));
}

#[test]
fn errors_of_signature_pass_at_every_step() {
    for step in Step::ALL {
        for fault in [Fault::Signature(0), Fault::Signature(1), Fault::Signature(2), Fault::KeyExpired] {
            let mut plan = with_faults(30, vec![first(step, fault)]);
            match step {
                Step::Sessions => plan.faults.push(first(Step::Write, Fault::Hang)),
                Step::WriteAgain => plan.faults.push(first(Step::Write, Fault::Throttled(0))),
                Step::FurtherPage => plan.service.page_limit = Some(20),
                _ => {}
            }
            let taken = one_call(&plan);
            assert_eq!((taken.status, taken.count), (200, 30), "{fault:?} at {step:?}");
        }
        let again = |nth| PlannedFault { nth, ..first(step, Fault::Signature(1)) };
        let taken = one_call(&with_faults(20, vec![again(0), again(1), again(2)]));
        assert_eq!((taken.status, taken.count), (200, 20), "three times at {step:?}");
    }
}

#[test]
fn lasting_errors_of_signature_end_the_call_within_a_second() {
    for (step, count) in [(Step::Caller, 0), (Step::FirstPage, 0), (Step::LaterLook, 30), (Step::Write, 0)] {
        let again = always(Step::WriteAgain, Fault::Signature(0));
        let faults = if step == Step::Write { vec![again] } else { Vec::new() };
        let taken = one_call(&with_faults(30, [faults, vec![always(step, Fault::Signature(0))]].concat()));
        assert_eq!((taken.status, taken.count), (500, count), "at {step:?}");
        assert!(taken.millis < 1_000, "{taken:?} at {step:?}");
    }
}

#[test]
fn what_a_statement_with_an_unknown_code_has_done_is_read() {
    let taken = one_call(&in_trouble(30, Trouble::UnknownAfter, |session| session % 2 == 0));
    assert_eq!((taken.status, taken.count), (200, 30));
}

#[test]
fn a_few_sessions_in_conflict_do_not_slow_down_the_others() {
    let plan = in_trouble(2_000, Trouble::Conflict, |session| session % 250 == 0);
    calls_then(&plan, &[Press::plain(0, 29_000)], || {
        with_world(|world| {
            let by_call = world.service.history.changes_of(0).map(|(_, _, change)| change.at);
            let last = by_call.max().expect("changes") - world.calls[&0].begin;
            assert_eq!(world.service.history.changes_of(0).count(), 2_000 - 8);
            assert!(last < 200, "the last of them after {last} ms");
        });
    });
}

#[test]
fn a_session_that_expires_while_it_is_read_is_inactive() {
    let expires = |millis| [(When::Before(Step::Caller, 0), Deed::ExpireIn(millis), Target::Caller)];
    // The answer arrives 3 ms after the read.
    for (millis, status) in [(0, 401), (1, 401), (2, 401), (20, 200)] {
        assert_eq!(one_call(&with_acts(3, expires(millis))).status, status, "{millis}");
    }
}

#[test]
fn a_write_whose_connection_is_closed_is_counted_if_it_is_carried_out_in_a_second() {
    for late in [10, 100, 1_000, 1_400] {
        let again = always(Step::WriteAgain, Fault::Throttled(0));
        let taken = one_call(&with_faults(25, vec![first(Step::Write, Fault::ClosedThenLate(late)), again]));
        assert_eq!(taken.count, 25, "{taken:?}, {late} ms late");
    }
}

/// A process that gets no CPU for so many milliseconds while a write waits for the end of its back-off.
fn stalled_in_a_back_off(millis: u64) -> Plan {
    let mut plan = with_acts(30, [(When::After(16), Deed::Stall(millis), Target::Caller)]);
    plan.faults = vec![
        first(Step::Write, Fault::Throttled(0)),
        PlannedFault { nth: 1, ..first(Step::Write, Fault::Throttled(0)) },
    ];
    plan
}

#[test]
fn a_process_without_cpu_sends_no_write_when_the_time_for_writes_is_over() {
    let taken = one_call(&stalled_in_a_back_off(26_000));
    assert_eq!((taken.status, taken.count), (503, 0));
}

#[test]
fn a_write_is_sent_once_however_long_nothing_was_heard_before_it() {
    // After such a silence, a read without a response would be sent on another connection too.
    let mut plan = stalled_in_a_back_off(5_000);
    plan.faults.push(always(Step::WriteAgain, Fault::SlowAnswer(200)));
    let taken = one_call(&plan);
    assert_eq!((taken.status, taken.count), (200, 30));
}

#[test]
fn nothing_that_the_function_does_not_need_is_read_of_an_event() {
    for oddity in [Oddity::NotUtf8, Oddity::HalfSurrogate, Oddity::Body(6_000_000)] {
        for gateway in 0..4 {
            let taken = calls(&quiet(1, None), &[Press { gateway, oddity, ..Press::plain(0, 29_000) }]);
            assert_eq!(taken.first().map(|taken| taken.status), Some(200), "{oddity:?}");
        }
    }
}

#[test]
fn the_last_calls_of_a_trial_meet_no_planned_fault() {
    for seed in 0..20 {
        let mut plan = Plan::of(seed);
        plan.presses.clear();
        let outcome = crate::world::run(&plan, false);
        assert!(outcome.wrong.is_empty(), "{seed}: {:?}", outcome.wrong);
    }
}
