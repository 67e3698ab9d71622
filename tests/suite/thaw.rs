//! A sandbox that was frozen between two requests, and whose connections have died meanwhile.

use std::time::{Duration, Instant};

use crate::support::runtime::Function;
use crate::support::{Answer, Proxy, Session, World, delete, sessions_of};

/// Presses the button, freezes the function, lets something happen to its connections, thaws it, and presses again.
async fn freeze_and_thaw(happen: fn(&Proxy)) -> Duration {
    let (world, caller) = World::with_others(500).await;
    let mut function = Function::start(&world, &[]).await;
    let press = |caller: &Session| delete().token(&caller.token).into_event();
    Answer::from_gateway(&function.invoke(press(&caller)).await.expect("an answer")).assert_count(500);
    world.database.put(&sessions_of("alice", 30)).await;

    function.signal("STOP").await;
    happen(&world.proxy);
    function.signal("CONT").await;

    let begin = Instant::now();
    Answer::from_gateway(&function.invoke(press(&caller)).await.expect("an answer")).assert_count(30);
    begin.elapsed()
}

#[tokio::test]
async fn closed_connections_cost_no_second() {
    let pause = freeze_and_thaw(Proxy::close_connections).await;
    assert!(pause < Duration::from_secs(1), "{pause:?}");
}

#[tokio::test]
async fn silent_connections_cost_no_second() {
    let pause = freeze_and_thaw(Proxy::silence_connections).await;
    assert!(pause < Duration::from_secs(1), "{pause:?}");
}
