//! Random mixtures of all faults at all steps, and what must hold after each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::support::proxy::Call;
use crate::support::{Action, Answer, Row, Session, World, delete, n, revoked, s, sessions_of, to_revoke};

/// The number of trials that run at once. Trials mostly wait, unless they share one slow database.
fn at_once() -> usize {
    if std::env::var_os("DYNAMODB_ADDRESS").is_some() { 2 } else { 8 }
}

/// Enough trials for each fault to occur on a real socket. The simulation tries many more orders of events.
const TRIALS: u64 = 40;

/// The number of calls with faults in a trial. Later calls have none, so the last one must succeed.
const CALLS_WITH_FAULTS: usize = 6;

/// The sums of all trials.
#[derive(Debug, Default)]
struct Summary {
    trials: u64,
    calls: usize,
    most_calls: usize,
    successes_among_faults: usize,
    revoked: u64,
}

#[test]
fn every_answer_is_true_whatever_fails() {
    let variable = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let trials = variable("TRIALS").unwrap_or(TRIALS);
    let seed = variable("TRIALS_SEED").unwrap_or(20_261_123);
    let next = AtomicU64::new(0);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..at_once() {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= trials {
                        break;
                    }
                    let failure = HowToRepeat(seed + number);
                    let trial = runtime.block_on(trial(failure.0));
                    summary.lock().expect("no other trial to fail").add(&trial);
                }
            });
        }
    });
    let summary = summary.into_inner().expect("no trial to fail");
    println!("{summary:?}, seed {seed}");
    assert_eq!(summary.trials, trials);
}

/// Prints how to repeat its trial if the trial panics.
struct HowToRepeat(u64);

impl Drop for HowToRepeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat this trial with TRIALS=1 TRIALS_SEED={}", self.0);
        }
    }
}

impl Summary {
    fn add(&mut self, trial: &Trial) {
        self.trials += 1;
        self.calls += trial.calls;
        self.most_calls = self.most_calls.max(trial.calls);
        self.successes_among_faults += trial.successes_among_faults;
        self.revoked += trial.revoked;
    }
}

#[derive(Debug)]
struct Trial {
    calls: usize,
    successes_among_faults: usize,
    revoked: u64,
}

async fn trial(seed: u64) -> Trial {
    let mut rng = Rng::with_seed(seed);
    let (mut world, caller, others) = world(&mut rng).await;
    let before = world.database.rows().await;
    let to_revoke = to_revoke(&before, &caller);
    let mut trial = Trial { calls: 0, successes_among_faults: 0, revoked: 0 };
    loop {
        let with_faults = trial.calls < CALLS_WITH_FAULTS;
        world.timeout = Duration::from_millis(if with_faults { rng.u64(4_000..10_000) } else { 29_000 });
        world.proxy.reset();
        let shown: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        if with_faults {
            world.proxy.rule(faults(&mut rng, &others, Arc::clone(&shown)));
        }
        let rows = world.database.rows().await;
        let presses = if rng.u8(0..4) == 0 { 2 } else { 1 };
        let answers = press(&world, &caller, trial.calls, presses).await;
        trial.calls += presses;

        let after = world.database.rows().await;
        check_rows(&before, &after, &caller);
        let claimed: u64 = answers.iter().map(Answer::claimed).sum();
        assert_eq!(claimed, revoked(&after) - revoked(&rows), "{answers:?}");
        trial.revoked += claimed;
        if presses == 1 && answers[0].status == 200 {
            let shown = shown.lock().expect("a lock");
            for row in after.values().filter(|row| shown.contains(row["token_hash"].trim_start_matches("S:"))) {
                let done =
                    row["status"] == "S:revoked" || row["session_id"] == "S:caller" || row["user_id"] != "S:alice";
                assert!(done, "a 200, and {row:?} is not revoked");
            }
        }
        if answers.iter().all(|answer| answer.status == 200) {
            trial.successes_among_faults += usize::from(with_faults);
            // Half of the trials go on, to see that later calls change nothing.
            if !with_faults || trial.revoked == to_revoke && rng.bool() {
                break;
            }
        }
        assert!(with_faults || presses == 2, "without faults a call succeeds: {answers:?}");
    }
    let after = world.database.rows().await;
    assert_eq!(revoked(&after) - revoked(&before), to_revoke);
    assert_eq!(trial.revoked, to_revoke, "the sum of all counts");
    trial
}

/// A world with the caller, other sessions of the user in all states, and sessions of another user.
async fn world(rng: &mut Rng) -> (World, Session, Vec<Session>) {
    let mut world = World::new().await;
    world.config.error_debug = true;
    let caller = Session::of("alice", "caller");
    let others: Vec<_> = sessions_of("alice", rng.usize(0..80))
        .into_iter()
        .map(|session| match rng.u8(0..8) {
            0 => session.with("expires_at", n(1)),
            1 => session.with("status", s("suspended")),
            2 => session.with("status", s("revoked")).with("revocation_id", s("gateway-request-id")),
            _ => session,
        })
        .collect();
    world.database.put(std::slice::from_ref(&caller)).await;
    world.database.put(&others).await;
    world.database.put(&sessions_of("bob", 3)).await;
    (world, caller, others)
}

/// Makes one call, or two at once. Asserts that each answers before its deadline.
async fn press(world: &World, caller: &Session, number: usize, presses: usize) -> Vec<Answer> {
    let one = |id: String| async move {
        let begin = Instant::now();
        let answer = world.send(delete().token(&caller.token).request_id(&id)).await;
        assert!(begin.elapsed() < world.timeout, "{:?} of {:?}", begin.elapsed(), world.timeout);
        assert!(matches!(answer.status, 200 | 500 | 503), "{answer:?}");
        answer
    };
    if presses == 1 {
        return vec![one(format!("request-{number}")).await];
    }
    let (first, second) = tokio::join!(one(format!("request-{number}")), one(format!("request-{number}-2")));
    vec![first, second]
}

/// Asserts that nothing has changed but the user's other sessions, and they only by revocation.
fn check_rows(before: &BTreeMap<String, Row>, after: &BTreeMap<String, Row>, caller: &Session) {
    crate::support::assert_only_revocations(before, after);
    assert_eq!(before[caller.id()], after[caller.id()]);
    for (id, row) in before.iter().filter(|(_, row)| row["user_id"] == "S:bob") {
        assert_eq!(row, &after[id]);
    }
}

/// A rule that injects faults at random, for each operation at a rate of its own.
fn faults(
    rng: &mut Rng,
    others: &[Session],
    shown: Arc<Mutex<BTreeSet<String>>>,
) -> impl FnMut(&Call) -> Action + Send + use<> {
    let mut rng = rng.fork();
    let hashes: Vec<String> = others.iter().map(|session| session.token_hash().to_owned()).collect();
    // Reads fail more rarely than writes. Otherwise some trials could read nothing until the deadline, and nobody could know
    // the count.
    let rates = [("GetItem", 0.2), ("BatchGetItem", 0.2), ("Query", 0.5), ("BatchExecuteStatement", 0.5)]
        .map(|(operation, most)| (operation, rng.f64() * rng.f64() * most));
    let index_lies = rng.bool();
    move |call| {
        let rate = rates.iter().find(|(operation, _)| *operation == call.operation).map_or(0.0, |(_, rate)| *rate);
        if rng.f64() < rate {
            return fault(&mut rng, call);
        }
        if call.operation == "Query" {
            let hidden: BTreeSet<String> = if index_lies {
                hashes.iter().filter(|_| rng.u8(0..4) == 0).cloned().collect()
            } else {
                BTreeSet::new()
            };
            let stale: Vec<String> =
                if index_lies { hashes.iter().filter(|_| rng.u8(0..4) == 0).cloned().collect() } else { Vec::new() };
            let shown = Arc::clone(&shown);
            return Action::Edit(Box::new(move |answer| lie(answer, &hidden, &stale, &shown)));
        }
        Action::Forward
    }
}

/// An index that hides some entries and shows some that are out of date.
fn lie(answer: &mut Value, hidden: &BTreeSet<String>, stale: &[String], shown: &Mutex<BTreeSet<String>>) {
    let Some(items) = answer["Items"].as_array_mut() else { return };
    let hash = |item: &Value| item["token_hash"]["S"].as_str().unwrap_or_default().to_owned();
    items.retain(|item| !hidden.contains(&hash(item)));
    let there: BTreeSet<String> = items.iter().map(hash).collect();
    items.extend(stale.iter().filter(|hash| !there.contains(*hash)).map(|hash| json!({"token_hash": {"S": hash}})));
    shown.lock().expect("a lock").extend(items.iter().map(hash));
    answer["Count"] = items.len().into();
}

fn fault(rng: &mut Rng, call: &Call) -> Action {
    let throttle =
        ["ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"][rng.usize(0..3)];
    let statements = call.statements().len();
    match rng.u8(0..if statements > 0 { 17 } else { 8 }) {
        0 => Action::Fail(400, throttle),
        1 => Action::Fail(500, "InternalServerError"),
        2 => Action::Fail(503, "ServiceUnavailable"),
        3 => Action::Refuse,
        4 => Action::Hang,
        5 => Action::Garbage,
        6 => Action::SlowAnswer(Duration::from_millis(rng.u64(0..700))),
        7 => Action::LoseAnswer,
        8 => Action::HangAfter,
        9 => Action::FailAfter(500, "InternalServerError"),
        10 if rng.bool() => Action::Curtail(rng.usize(1..=statements)),
        10 => {
            let part = rng.usize(0..=statements);
            Action::Edit(Box::new(move |answer| {
                if let Some(responses) = answer["Responses"].as_array_mut() {
                    responses.truncate(part);
                }
            }))
        }
        11 if rng.u8(0..8) == 0 => Action::Fail(400, "AccessDeniedException"),
        // Early enough for even the shortest call to read the result: see `budget`.
        12 => Action::ForwardLate(Duration::from_millis(rng.u64(500..1_000))),
        _ => {
            let codes = [
                "ThrottlingError",
                "ProvisionedThroughputExceeded",
                "RequestLimitExceeded",
                "InternalServerError",
                "TransactionConflict",
                "ThrottlingError",
                "TransactionConflict",
                "InternalServerError",
                "ValidationError",
                "AccessDenied",
                "ItemCollectionSizeLimitExceeded",
            ];
            let few = rng.f64();
            let mut failed = Vec::new();
            for index in 0..statements {
                if rng.f64() < few {
                    failed.push((index, codes[rng.usize(0..codes.len())]));
                }
            }
            Action::FailStatements(failed)
        }
    }
}
