//! Many sessions: memory, and the pace of writes where DynamoDB limits them.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::support::runtime::Function;
use crate::support::{Action, Answer, World, delete, revoked};

/// What one index partition takes a second.
const PER_SECOND: f64 = 1_000.0;

/// Writes that a partition has room for: those of the last second at the most.
struct Partition {
    room: f64,
    last: Instant,
    passed: u32,
    throttled: u32,
}

impl Partition {
    /// The positions of the statements that do not fit in any more.
    fn throttle(&mut self, statements: usize) -> Vec<(usize, &'static str)> {
        let now = Instant::now();
        self.room = (self.room + (now - self.last).as_secs_f64() * PER_SECOND).min(PER_SECOND);
        self.last = now;
        let mut throttled = Vec::new();
        for index in 0..statements {
            if self.room < 1.0 {
                throttled.push((index, "ThrottlingError"));
                self.throttled += 1;
            } else {
                self.room -= 1.0;
                self.passed += 1;
            }
        }
        throttled
    }
}

#[tokio::test]
async fn a_throttling_partition_is_used_well_and_little_is_wasted() {
    let others: u16 = 8_000;
    let (world, caller) = World::with_others(others.into()).await;
    let partition = Arc::new(Mutex::new(Partition { room: PER_SECOND, last: Instant::now(), passed: 0, throttled: 0 }));
    let enforced = Arc::clone(&partition);
    world.proxy.rule(move |call| match call.body["Statements"].as_array() {
        Some(statements) => Action::FailStatements(enforced.lock().expect("a lock").throttle(statements.len())),
        None => Action::Forward,
    });

    let begin = Instant::now();
    world.press(&caller).await.assert_count(others.into());
    let seconds = begin.elapsed().as_secs_f64();

    assert_eq!(revoked(&world.database.rows().await), u64::from(others));
    let partition = partition.lock().expect("a lock");
    let wasted = f64::from(partition.throttled) / f64::from(partition.passed + partition.throttled);
    let floor = (f64::from(others) - PER_SECOND) / PER_SECOND;
    let requests = world.proxy.count("BatchExecuteStatement");
    println!(
        "{seconds:.1} s for a floor of {floor:.1} s, {:.1} % of the writes wasted, {requests} requests for {}",
        wasted * 100.0,
        others / 25
    );
    assert!(wasted < 0.2, "{wasted}");
    assert!(requests * 8 < usize::from(others) / 25 * 10, "{requests}");
    // Another database may be slower than the limit.
    assert!(seconds < 1.3 * floor || world.database.is_shared(), "{seconds} s for a floor of {floor} s");
}

/// The peak memory of the function in kB after it has revoked so many sessions, in as many calls as it takes.
async fn peak_memory(others: usize) -> u64 {
    let (world, caller) = World::with_others(others).await;
    let mut function = Function::start(&world, &[("AWS_LAMBDA_LOG_LEVEL", "ERROR")]).await;
    let (mut sum, mut calls) = (0, 0);
    loop {
        calls += 1;
        let answer = function.invoke(delete().token(&caller.token).into_event()).await.expect("an answer");
        let answer = Answer::from_gateway(&answer);
        if answer.status == 200 {
            sum += answer.body["count"].as_u64().expect("a count");
            break;
        }
        sum += answer.body["error"]["details"]["revoked"].as_u64().expect("a count");
    }
    assert_eq!(sum, others as u64);
    let peak = function.peak_memory();
    println!("{others} others: {calls} calls, {peak} kB at most");
    peak
}

#[tokio::test]
async fn memory_does_not_grow_with_the_number_of_sessions() {
    let most = std::env::var("SESSIONS").map_or(20_000, |number| number.parse().expect("a number"));
    let few = peak_memory(2_500).await;
    let many = peak_memory(most).await;
    assert!(many < few + 4_000, "{few} kB, {many} kB");
}
