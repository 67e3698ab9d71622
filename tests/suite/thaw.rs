//! A sandbox that was frozen between two requests while its connections died.

use std::time::{Duration, Instant};

use crate::support::runtime::Function;
use crate::support::{Action, Proxy, World, delete, sessions_of};

/// The most connections that one call opens: one for each of the batches that are under way at once.
const MOST: usize = 20;

/// Freezes a function that has so many open connections, lets them die, thaws the function, and returns the time that the
/// next call takes.
async fn time_after_pause(connections: usize, let_die: fn(&Proxy)) -> Duration {
    let (world, caller) = World::with_others(500).await;
    let mut function = Function::start(&world, &[]).await;
    // The delay keeps all batches under way at once, so that each takes a connection.
    world.proxy.rule(|call| match call.operation.as_str() {
        "BatchExecuteStatement" => Action::Delay(Duration::from_millis(50)),
        _ => Action::Forward,
    });
    function.send(delete().token(&caller.token)).await.assert_count(500);
    world.proxy.reset();
    assert!(world.proxy.connections() >= MOST, "{} connections", world.proxy.connections());
    world.proxy.close_all_connections_but(connections);
    world.database.put(&sessions_of("alice", 30)).await;

    function.signal("STOP").await;
    let_die(&world.proxy);
    function.signal("CONT").await;

    let begin = Instant::now();
    function.send(delete().token(&caller.token)).await.assert_count(30);
    begin.elapsed()
}

#[track_caller]
fn assert_less_than_a_second(time: Duration) {
    assert!(time < Duration::from_secs(1), "{time:?}");
}

#[tokio::test]
async fn after_a_pause_that_closed_one_connection_a_call_takes_less_than_a_second() {
    assert_less_than_a_second(time_after_pause(1, Proxy::close_connections).await);
}

#[tokio::test]
async fn after_a_pause_that_closed_twenty_connections_a_call_takes_less_than_a_second() {
    assert_less_than_a_second(time_after_pause(MOST, Proxy::close_connections).await);
}

#[tokio::test]
async fn after_a_pause_in_which_one_connection_died_without_a_sign_a_call_takes_less_than_a_second() {
    assert_less_than_a_second(time_after_pause(1, Proxy::stop_answering_on_open_connections).await);
}

#[tokio::test]
async fn after_a_pause_in_which_twenty_connections_died_without_a_sign_a_call_takes_less_than_a_second() {
    assert_less_than_a_second(time_after_pause(MOST, Proxy::stop_answering_on_open_connections).await);
}
