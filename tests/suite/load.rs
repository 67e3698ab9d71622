//! Many sessions: memory. The pace of writes is tested in virtual time, by `tests/simulation/timing.rs`.
//!
//! With `FUNCTION=target/release/disable-my-other-sessions` the release build is tried, with 100,000 sessions too.

use std::time::Duration;

use crate::support::runtime::Function;
use crate::support::{World, delete};

/// The most memory that each further session may take during a call, in bytes: an entry in the ledger, and its hash. Measured:
/// 257 to 269 in a debug build.
const BYTES_A_SESSION: u64 = 310;

/// The most memory that a release build may take for a call with 100,000 other sessions, in kB. Measured:
/// 22,780 and 22,944.
const RELEASE_BUILD: u64 = 40_000;

/// The peak memory in kB of the binary after it has revoked so many sessions in one call.
async fn peak_memory(others: usize) -> u64 {
    let (mut world, caller) = World::with_others(others).await;
    // The longest that Lambda allows. The database of the tests takes longer than the function's own time-out.
    world.timeout = Duration::from_mins(15);
    let mut function = Function::start(&world, &[("AWS_LAMBDA_LOG_LEVEL", "ERROR")]).await;
    function.send(delete().token(&caller.token)).await.assert_count(others as u64);
    let peak = function.peak_memory();
    println!("{others} others: at most {peak} kB");
    peak
}

#[tokio::test]
async fn each_further_session_takes_at_most_310_bytes_of_memory() {
    let few = peak_memory(2_500).await;
    let many = peak_memory(20_000).await;
    let bytes = many.saturating_sub(few) * 1_024 / 17_500;
    println!("{bytes} bytes a session");
    assert!(bytes <= BYTES_A_SESSION, "{bytes} bytes a session: {few} kB, {many} kB");
    if std::env::var_os("FUNCTION").is_some() {
        let most = peak_memory(100_000).await;
        assert!(most < RELEASE_BUILD, "{most} kB");
    }
}
