//! The whole function under a simulated clock, network and database. One seed decides everything that happens in a trial, so any
//! trial can be repeated.
//!
//! ```text
//! plan -> world -> function -> network -> exchange -> faults -> dynamodb
//!   \______ people                            \______ history -> check
//! ```
//!
//! `TRIALS` is the number of trials and `TRIALS_SEED` the seed of the first, the others follow:
//! `TRIALS=1 TRIALS_SEED=42 cargo test --test simulation trials` repeats number 42. With `KINDS=1` a failing trial does not end the
//! run: each kind of failure is listed with the first trial that has it. `SHRINK=0` shows a failing trial as it is.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that does not find what it looks for should fail; figures of a simulation are small"
)]

mod answers;
mod check;
mod deadlines;
mod directed;
mod dynamodb;
mod exchange;
mod fault;
mod faults;
mod function;
mod history;
mod network;
mod people;
mod plan;
mod report;
mod shrink;
mod story;
mod timing;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use plan::Plan;
use report::Report;
use test_support::{answer, events, role, yaml};
use world::Outcome;

/// A quarter of a trial's time goes to allocations with the allocator of libc, an eighth with this one.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// As many as take some seconds in the profile that `make test` uses. CI runs a hundred thousand.
const TRIALS: u64 = 100;
/// From this number of trials on, a fault that never met a step fails the run.
const ENOUGH_TRIALS: u64 = 20_000;

/// A trial takes milliseconds, and one that fails up to a minute, until its story is printed.
const LONGEST_TRIAL: Duration = Duration::from_mins(5);

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn in_all_trials_what_is_answered_is_true() {
    let trials = variable("TRIALS").unwrap_or(TRIALS);
    let seed = variable("TRIALS_SEED").unwrap_or(20_261_124);
    let begin = Instant::now();
    let kinds = Mutex::new(BTreeMap::new());
    let report = on_all_cores(seed..seed + trials, |seed| {
        let plan = Plan::of(seed);
        let outcome = world::run(&plan, false);
        if outcome.wrong.is_empty() {
            return Ok(outcome.report);
        }
        if variable("KINDS") != Some(1) {
            return Err(story(&plan, &outcome.wrong));
        }
        let mut kinds = kinds.lock().expect("no trial to panic");
        for wrong in outcome.wrong {
            let (times, first, text) = kinds.entry(story::kind(&wrong)).or_insert((0, seed, wrong.clone()));
            *times += 1;
            if seed < *first {
                (*first, *text) = (seed, wrong);
            }
        }
        Ok(outcome.report)
    });
    let seconds = begin.elapsed().as_secs_f64();
    let report = report.unwrap_or_else(|story| panic!("{story}"));
    let kinds = kinds.into_inner().expect("no trial to panic");
    for (times, first, wrong) in kinds.values() {
        println!("{times} times, first in trial {first}: {wrong}");
    }
    println!("{report}\n{:.0} trials a second, from seed {seed}", trials as f64 / seconds);
    let missing = report.missing();
    println!("never met: {missing:?}");
    assert!(kinds.is_empty(), "{} kinds of failure", kinds.len());
    assert!(trials < ENOUGH_TRIALS || missing.is_empty(), "never met: {missing:?}");
}

/// Trials that run twice.
const SEEDS: u64 = 20;

#[test]
fn a_seed_decides_everything() {
    let report = on_all_cores(0..SEEDS, |seed| {
        let plan = Plan::of(seed);
        let (first, second) = (world::run(&plan, false), alone(&plan, false));
        if first.digest == second.digest {
            return Ok(first.report);
        }
        let (first, second) = (world::run(&plan, true).trace, alone(&plan, true).trace);
        let line = first.iter().zip(&second).position(|(first, second)| first != second).unwrap_or(first.len());
        Err(format!("seed {seed} differs from line {line} on: {:?} and {:?}", first.get(line), second.get(line)))
    });
    assert_eq!(report.map(|report| report.trials), Ok(SEEDS));
}

/// A trial in a thread of its own, where no trial before it can have left anything.
fn alone(plan: &Plan, traced: bool) -> Outcome {
    std::thread::scope(|scope| scope.spawn(|| world::run(plan, traced)).join().expect("a trial without a panic"))
}

/// Runs trials on all cores until one fails.
fn on_all_cores(
    seeds: std::ops::Range<u64>,
    trial: impl Fn(u64) -> Result<Report, String> + Sync,
) -> Result<Report, String> {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Ok(Report::default()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let (beats, heard) = channel();
                std::thread::spawn(move || watch(&heard));
                let mut own = Report::default();
                let failed = loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || stop.load(Ordering::Relaxed) {
                        break None;
                    }
                    beats.send(seed).expect("somebody who listens");
                    match trial(seed) {
                        Ok(report) => own.add(&report),
                        Err(story) => break Some(story),
                    }
                };
                let mut sum = sum.lock().expect("no trial to panic");
                match (failed, &mut *sum) {
                    (Some(story), Ok(_)) => {
                        stop.store(true, Ordering::Relaxed);
                        *sum = Err(story);
                    }
                    (None, Ok(sum)) => sum.add(&own),
                    (_, Err(_)) => {}
                }
            });
        }
    });
    sum.into_inner().expect("no trial to panic")
}

/// Ends the process if a trial loops without a request and without time going by, so that nothing else can see it.
fn watch(begun: &Receiver<u64>) {
    let mut seed = None;
    loop {
        match begun.recv_timeout(LONGEST_TRIAL) {
            Ok(next) => seed = Some(next),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                println!("trial {seed:?} does not end");
                std::process::exit(1);
            }
        }
    }
}

/// What was wrong, and what happened in the smallest trial that is still wrong.
fn story(plan: &Plan, wrong: &[String]) -> String {
    let smallest = if variable("SHRINK") == Some(0) { plan.clone() } else { shrink::shrink(plan, &wrong[0]) };
    let outcome = world::run(&smallest, true);
    format!(
        "trial {} fails (repeat it with TRIALS=1 TRIALS_SEED={}):\n  {}\n\nthe smallest trial that still fails:\n  {}\n{smallest}\n\n{}",
        plan.seed,
        plan.seed,
        wrong.join("\n  "),
        outcome.wrong.join("\n  "),
        story::shortened(&outcome.trace).join("\n"),
    )
}
