//! What is revoked, what is not, and with which requests, on a database that works. `tests/simulation` has what others do meanwhile.

use serde_json::json;

use crate::support::{
    Action, Session, World, assert_only_revocations, assert_requests, delete, meanwhile, n, now, revoked, s,
    sessions_of,
};

#[tokio::test]
async fn a_revoked_session_records_when_by_whom_and_by_which_invocation_and_cannot_call() {
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
    world.press(&Session::of("alice", "alice-0")).await.assert_error(401, "session_inactive", None);
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
async fn other_users_revoked_sessions_and_other_attributes_are_not_touched() {
    let (world, caller) = World::with_others(0).await;
    let device = Session::of("alice", "phone").with("device", s("phone")).with("logins", n(3));
    let old = Session::of("alice", "old").with("status", s("revoked")).with("revoked_at", n(7));
    world.database.put(&[device, old]).await;
    world.database.put(&sessions_of("bob", 3)).await;
    let before = world.database.rows().await;
    world.press(&caller).await.assert_count(1);
    let after = world.database.rows().await;
    assert_only_revocations(&before, &after);
    assert_eq!(revoked(&after), 2);
    assert_eq!(after["phone"]["device"], "S:phone");
}

#[tokio::test]
async fn every_number_of_sessions_is_counted_exactly_with_no_more_requests_than_it_needs() {
    for (others, requests) in [(0, 2), (1, 4), (25, 4), (26, 5), (500, 23), (501, 24), (1_000, 43)] {
        let (world, caller) = World::with_others(others).await;
        world.press(&caller).await.assert_count(others as u64);
        let rows = world.database.rows().await;
        assert_eq!(revoked(&rows), others as u64);
        assert_eq!(rows["caller"]["status"], "S:active");
        assert_requests(world.proxy.seen().len(), requests);
        assert!(!world.proxy.seen().iter().any(|call| call.writes_to(&caller)));
    }
}

#[tokio::test]
async fn all_pages_of_the_index_are_read() {
    let (world, caller) = World::with_others(3_000).await;
    world.press(&caller).await.assert_count(3_000);
    assert_eq!(revoked(&world.database.rows().await), 3_000);
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
async fn two_presses_at_once_share_the_count() {
    let (world, caller) = World::with_others(300).await;
    let (first, second) = tokio::join!(world.press(&caller), world.press(&caller));
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.claimed() + second.claimed(), 300);
    assert_eq!(revoked(&world.database.rows().await), 300);
}
