//! A sandbox that was frozen between two requests while all its connections died.

use std::time::{Duration, Instant};

use crate::support::runtime::Function;
use crate::support::{Action, Proxy, World, delete, sessions_of};

/// The most connections that one call opens: one for each of the batches that are under way at once.
const MOST: usize = 20;

/// A silent connection costs some 40 ms, and one whose death is not noticed seconds.
const PATIENCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn after_a_pause_in_which_all_connections_died_a_call_takes_less_than_a_second() {
    let deaths: [fn(&Proxy); 2] = [Proxy::close_connections, Proxy::stop_answering_on_open_connections];
    for let_die in deaths {
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
        world.database.put(&sessions_of("alice", 30)).await;

        function.signal("STOP").await;
        let_die(&world.proxy);
        function.signal("CONT").await;

        let begin = Instant::now();
        function.send(delete().token(&caller.token)).await.assert_count(30);
        assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    }
}
