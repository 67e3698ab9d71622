//! From a failing trial to the smallest one that still fails in the same way: parts of the plan are left out, many at once and then
//! one by one.

use std::time::{Duration, Instant};

use disable_my_other_sessions::rules::limits::Limits;

use crate::plan::{Lag, Oddity, Plan};
use crate::story::kind;
use crate::world::run;

/// How long it may take.
const MOST_TIME: Duration = Duration::from_secs(20);

/// The smallest plan in which something of the same kind is wrong.
pub fn shrink(plan: &Plan, wrong: &str) -> Plan {
    let begin = Instant::now();
    let same = |plan: &Plan| run(plan, false).wrong.iter().any(|other| self::kind(other) == self::kind(wrong));
    let mut fails = |plan: &Plan| begin.elapsed() < MOST_TIME && same(plan);
    let mut plan = plan.clone();
    let used = run(&plan, false).used;
    if fails(&used) {
        plan = used;
    }
    loop {
        let before = size(&plan);
        without(&mut plan, &mut fails, |plan| &mut plan.presses);
        without(&mut plan, &mut fails, |plan| &mut plan.acts);
        without(&mut plan, &mut fails, |plan| &mut plan.faults);
        without(&mut plan, &mut fails, |plan| &mut plan.sessions);
        simpler(&mut plan, &mut fails);
        if size(&plan) == before {
            return plan;
        }
    }
}

fn size(plan: &Plan) -> usize {
    plan.presses.len() + plan.acts.len() + plan.faults.len() + plan.sessions.len()
}

/// Leaves out what can be left out of a list.
fn without<T: Clone>(plan: &mut Plan, fails: &mut impl FnMut(&Plan) -> bool, list: fn(&mut Plan) -> &mut Vec<T>) {
    let mut chunk = list(plan).len();
    while chunk > 0 {
        let mut from = 0;
        while from < list(plan).len() {
            let mut smaller = plan.clone();
            let end = (from + chunk).min(list(plan).len());
            list(&mut smaller).drain(from..end);
            if fails(&smaller) {
                *plan = smaller;
            } else {
                from += chunk;
            }
        }
        chunk /= 2;
    }
}

/// Takes away what else is unusual.
fn simpler(plan: &mut Plan, fails: &mut impl FnMut(&Plan) -> bool) {
    let steps: [fn(&mut Plan); 10] = [
        |plan| plan.intruder = None,
        |plan| plan.limits = Limits::DEPLOYED,
        |plan| plan.sessions.iter_mut().for_each(|session| session.trouble = None),
        |plan| plan.presses.iter_mut().for_each(|press| press.oddity = Oddity::None),
        |plan| plan.service.partition = None,
        |plan| plan.service.lag = Lag::None,
        |plan| plan.service.page_limit = None,
        |plan| plan.presses.iter_mut().for_each(|press| press.beside = None),
        |plan| plan.presses.iter_mut().for_each(|press| press.meanwhile = None),
        |plan| plan.presses.iter_mut().for_each(|press| press.pause = 0),
    ];
    for step in steps {
        let mut simpler = plan.clone();
        step(&mut simpler);
        if fails(&simpler) {
            *plan = simpler;
        }
    }
}
