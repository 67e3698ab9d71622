//! What is revoked, what is not, and how it is counted, while DynamoDB works.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Action, Session, World, assert_only_revocations, assert_requests, delete, meanwhile, n, now, revoked, s,
    sessions_of,
};

/// Asserts that no statement was about a session.
#[track_caller]
fn assert_never_written(world: &World, session: &Session) {
    assert!(world.proxy.seen().iter().all(|call| call.position_of(session).is_none()));
}

#[tokio::test]
async fn a_revoked_session_records_when_by_whom_and_by_which_invocation() {
    let (world, caller) = World::with_others(1).await;
    let since = now();
    world.send(delete().token(&caller.token).request_id("request-1")).await.assert_count(1);
    let rows = world.database.rows().await;
    let row = &rows["alice-0"];
    assert_eq!(row["status"], "S:revoked");
    assert_eq!(row["revoked_by"], "S:caller");
    assert_eq!(row["revocation_id"], "S:lambda-request-id");
    let at: u64 = row["revoked_at"].trim_start_matches("N:").parse().expect("epoch seconds");
    assert!((since..=now()).contains(&at));
}

#[tokio::test]
async fn sessions_of_any_status_but_revoked_are_revoked() {
    let (world, caller) = World::with_others(1).await;
    let others = [
        Session::of("alice", "expired").with("expires_at", n(1)),
        Session::of("alice", "suspended").with("status", s("suspended")),
        Session::of("alice", "shouting").with("status", s("REVOKED")),
        Session::of("alice", "without-status").without("status"),
        Session::of("alice", "status-of-another-type").with("status", n(7)),
        Session::of("alice", "without-expiry").without("expires_at"),
        Session::of("alice", "without-id").without("session_id"),
    ];
    world.database.put(&others).await;
    world.press(&caller).await.assert_count(8);
    assert_eq!(revoked(&world.database.rows().await), 8);
}

#[tokio::test]
async fn a_revoked_session_keeps_its_history_and_is_not_counted() {
    let (world, caller) = World::with_others(1).await;
    let old = Session::of("alice", "old").with("status", s("revoked")).with("revoked_at", n(7));
    world.database.put(&[old]).await;
    let before = world.database.rows().await;
    world.press(&caller).await.assert_count(1);
    assert_eq!(world.database.rows().await["old"], before["old"]);
}

#[tokio::test]
async fn other_users_sessions_and_other_attributes_are_not_touched() {
    let (world, caller) = World::with_others(0).await;
    let device = Session::of("alice", "phone").with("device", s("phone")).with("logins", n(3));
    world.database.put(&[device]).await;
    world.database.put(&sessions_of("bob", 3)).await;
    let before = world.database.rows().await;
    world.press(&caller).await.assert_count(1);
    let after = world.database.rows().await;
    assert_only_revocations(&before, &after);
    assert_eq!(revoked(&after), 1);
    assert_eq!(after["phone"]["device"], "S:phone");
}

#[tokio::test]
async fn a_second_call_revokes_nothing() {
    let (world, caller) = World::with_others(30).await;
    world.press(&caller).await.assert_count(30);
    let before = world.database.rows().await;
    world.press(&caller).await.assert_count(0);
    assert_eq!(world.database.rows().await, before);
}

#[tokio::test]
async fn a_revoked_session_cannot_call() {
    let (world, caller) = World::with_others(1).await;
    world.press(&Session::of("alice", "alice-0")).await.assert_count(1);
    world.press(&caller).await.assert_error(401, "session_inactive", None);
}

#[tokio::test]
async fn batches_of_every_size_are_counted_exactly() {
    for others in [0, 1, 24, 25, 26, 49, 50, 51, 500, 501] {
        let (world, caller) = World::with_others(others).await;
        world.press(&caller).await.assert_count(others as u64);
        let rows = world.database.rows().await;
        assert_eq!(revoked(&rows), others as u64);
        assert_eq!(rows["caller"]["status"], "S:active");
        assert_requests(world.proxy.count("BatchExecuteStatement"), others.div_ceil(25));
        assert_never_written(&world, &caller);
    }
}

#[tokio::test]
async fn all_pages_of_the_index_are_read() {
    let (world, caller) = World::with_others(3_000).await;
    world.press(&caller).await.assert_count(3_000);
    let rows = world.database.rows().await;
    assert_eq!(revoked(&rows), 3_000);
    assert_eq!(rows["caller"]["status"], "S:active");
}

#[tokio::test]
async fn pages_without_sessions_to_revoke_are_not_the_last() {
    let (world, caller) = World::with_others(3).await;
    let old: Vec<_> =
        sessions_of("alice", 2_500).into_iter().skip(3).map(|old| old.with("status", s("revoked"))).collect();
    world.database.put(&old).await;
    world.press(&caller).await.assert_count(3);
}

#[tokio::test]
async fn a_call_sends_no_more_requests_than_it_needs() {
    for others in [1, 100, 500] {
        let (world, caller) = World::with_others(others).await;
        world.press(&caller).await.assert_count(others as u64);
        assert_eq!(world.proxy.count("GetItem"), 1);
        assert_eq!(world.proxy.count("Query"), 2);
        assert_requests(world.proxy.seen().len(), 3 + others.div_ceil(25));
    }
    let (world, caller) = World::with_others(0).await;
    world.press(&caller).await.assert_count(0);
    assert_eq!(world.proxy.seen().len(), 2);
}

#[tokio::test]
async fn a_thousand_sessions_take_at_most_45_requests() {
    let (world, caller) = World::with_others(1_000).await;
    world.press(&caller).await.assert_count(1_000);
    assert_requests(world.proxy.seen().len(), 43);
}

#[tokio::test]
async fn only_projected_attributes_are_read_from_the_index() {
    let (world, caller) = World::with_others(1).await;
    world.press(&caller).await.assert_count(1);
    for call in world.proxy.seen().iter().filter(|call| call.operation == "Query") {
        assert_eq!(call.body["IndexName"], "user_id-index");
        assert_eq!(call.body["ProjectionExpression"], "token_hash");
        assert_eq!(call.body["FilterExpression"], "attribute_not_exists(#status) OR #status <> :revoked");
        assert_eq!(call.body["ExpressionAttributeNames"], json!({"#status": "status"}));
        assert_eq!(call.body.get("ConsistentRead"), None);
    }
}

#[tokio::test]
async fn an_index_that_shows_a_session_late_is_read_until_it_shows_nothing_new() {
    let (world, caller) = World::with_others(60).await;
    let hidden: Vec<_> = sessions_of("alice", 60).iter().skip(40).map(|late| late.token_hash().to_owned()).collect();
    world.proxy.rule(move |call| match (call.operation.as_str(), call.number) {
        // The first read of the index leaves out twenty sessions, and the second read ten of these.
        ("Query", pass @ 0..=1) => {
            let hidden = hidden[pass * 10..].to_vec();
            Action::edit_items(move |items| {
                items.retain(|item| !hidden.iter().any(|hash| item["token_hash"]["S"] == *hash));
            })
        }
        _ => Action::Forward,
    });
    world.press(&caller).await.assert_count(60);
    assert_eq!(revoked(&world.database.rows().await), 60);
    assert_eq!(world.proxy.count("Query"), 4);
}

#[tokio::test]
async fn an_index_that_shows_revoked_sessions_changes_no_count() {
    let (world, caller) = World::with_others(60).await;
    let stale: Vec<Value> =
        sessions_of("alice", 60).iter().map(|old| json!({"token_hash": {"S": old.token_hash()}})).collect();
    world.proxy.rule(move |call| match call.operation.as_str() {
        "Query" => {
            let stale = stale.clone();
            Action::edit_items(move |items| *items = stale)
        }
        _ => Action::Forward,
    });
    world.press(&caller).await.assert_count(60);
    assert_eq!(world.proxy.count("BatchExecuteStatement"), 3, "a revoked session was written again");
    world.press(&caller).await.assert_count(0);
}

#[tokio::test]
async fn an_index_that_shows_deleted_sessions_or_those_of_another_user_changes_none_of_them() {
    let (world, caller) = World::with_others(2).await;
    world.database.put(&sessions_of("bob", 2)).await;
    let ghost = Session::of("alice", "ghost");
    let shown = [ghost.token_hash(), Session::of("bob", "bob-0").token_hash(), caller.token_hash()]
        .map(|hash| json!({"token_hash": {"S": hash}}));
    world.proxy.rule(move |call| match call.operation.as_str() {
        "Query" => {
            let shown = shown.clone();
            Action::edit_items(move |items| items.extend(shown))
        }
        _ => Action::Forward,
    });
    let before = world.database.rows().await;
    world.press(&caller).await.assert_count(2);
    let after = world.database.rows().await;
    assert_only_revocations(&before, &after);
    assert_eq!(after["bob-0"], before["bob-0"]);
    assert_eq!(after["caller"], before["caller"]);
    assert_never_written(&world, &caller);
}

#[tokio::test]
async fn a_session_that_becomes_live_again_is_counted_once_and_revoked_by_the_next_call() {
    let (world, caller) = World::with_others(2).await;
    let database = world.database.clone();
    world.proxy.rule(move |call| {
        let database = database.clone();
        match (call.operation.as_str(), call.number) {
            // Some applications write the whole item on every request.
            ("BatchExecuteStatement", 0) => Action::Edit(Box::new(move |_| {
                meanwhile(async move { database.put(&[Session::of("alice", "alice-0")]).await });
            })),
            _ => Action::Forward,
        }
    });
    world.press(&caller).await.assert_count(2);
    world.press(&caller).await.assert_count(1);
    assert_eq!(revoked(&world.database.rows().await), 2);
}

#[tokio::test]
async fn a_session_that_ttl_deletes_meanwhile_is_not_brought_back() {
    let (world, caller) = World::with_others(2).await;
    let database = world.database.clone();
    world.proxy.rule(move |call| {
        if call.operation == "BatchExecuteStatement" {
            let database = database.clone();
            meanwhile(async move { database.delete(&Session::of("alice", "alice-0")).await });
        }
        Action::Forward
    });
    world.press(&caller).await.assert_count(1);
    assert_eq!(world.database.rows().await.keys().collect::<Vec<_>>(), ["alice-1", "caller"]);
}

#[tokio::test]
async fn a_session_created_meanwhile_is_revoked_if_the_index_shows_it() {
    let (world, caller) = World::with_others(2).await;
    let database = world.database.clone();
    world.proxy.rule(move |call| {
        if call.operation == "Query" && call.number == 1 {
            let database = database.clone();
            meanwhile(async move { database.put(&[Session::of("alice", "intruder")]).await });
        }
        Action::Forward
    });
    world.press(&caller).await.assert_count(3);
    assert_eq!(world.database.rows().await["intruder"]["status"], "S:revoked");
}

#[tokio::test]
async fn a_caller_revoked_during_its_call_finishes_it() {
    let (world, caller) = World::with_others(2).await;
    let database = world.database.clone();
    world.proxy.rule(move |call| {
        if call.operation == "Query" && call.number == 0 {
            let database = database.clone();
            meanwhile(async move {
                database.put(&[Session::of("alice", "caller").with("status", s("revoked"))]).await;
            });
        }
        Action::Forward
    });
    world.press(&caller).await.assert_count(2);
    world.press(&caller).await.assert_error(401, "session_inactive", None);
}

#[tokio::test]
async fn two_presses_at_once_share_the_count() {
    let (world, caller) = World::with_others(300).await;
    let (first, second) = tokio::join!(world.press(&caller), world.press(&caller));
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.claimed() + second.claimed(), 300);
    assert_eq!(revoked(&world.database.rows().await), 300);
}

#[tokio::test]
async fn no_more_than_twenty_batches_are_under_way_at_once() {
    let (world, caller) = World::with_others(1_000).await;
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    world.proxy.rule(move |call| {
        if call.operation == "BatchExecuteStatement" {
            seen.fetch_max(call.under_way, Ordering::Relaxed);
            return Action::Delay(Duration::from_millis(30));
        }
        Action::Forward
    });
    world.press(&caller).await.assert_count(1_000);
    assert_eq!(most.load(Ordering::Relaxed), 20);
}
