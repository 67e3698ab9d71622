//! Many sessions: memory. The pace of writes is tested in virtual time, by `tests/simulation/timing.rs`.

use crate::support::runtime::Function;
use crate::support::{Answer, World, delete};

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
