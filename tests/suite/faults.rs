//! What is answered, counted and written when a connection or DynamoDB fails: on sockets, one fault at a time.
//!
//! `tests/simulation` has all other faults, and all orders of faults, in virtual time.

use std::time::Duration;

use crate::support::proxy::Call;
use crate::support::{Action, Session, World, assert_only_revocations, meanwhile, revoked, s, to_revoke};

const BATCH: &str = "BatchExecuteStatement";

/// A rule that applies an action to the first request of an operation.
fn first(operation: &'static str, action: impl Fn() -> Action + Send + 'static) -> impl FnMut(&Call) -> Action + Send {
    move |call| if call.operation == operation && call.number == 0 { action() } else { Action::Forward }
}

#[tokio::test]
async fn a_fault_in_one_request_changes_no_count() {
    let actions: [fn() -> Action; 8] = [
        || Action::Fail(400, "ThrottlingException"),
        || Action::Fail(500, "InternalServerError"),
        || Action::Refuse,
        || Action::Garbage,
        || Action::Hang,
        || Action::LoseAnswer,
        || Action::HangAfter,
        || Action::FailAfter(500, "InternalServerError"),
    ];
    for action in actions {
        for operation in ["GetItem", "Query", BATCH] {
            let (world, caller) = World::with_others(60).await;
            let before = world.database.rows().await;
            world.proxy.rule(first(operation, action));
            world.press(&caller).await.assert_count(60);
            let after = world.database.rows().await;
            assert_only_revocations(&before, &after);
            assert_eq!((to_revoke(&after, &caller), &after["caller"]), (0, &before["caller"]));
        }
    }
}

#[tokio::test]
async fn a_session_that_has_moved_to_another_user_is_not_revoked_even_after_a_lost_answer() {
    let (world, caller) = World::with_others(10).await;
    let moved = Session::of("alice", "alice-0").with("user_id", s("bob"));
    let database = world.database.clone();
    world.proxy.rule(first(BATCH, move || {
        let (database, moved) = (database.clone(), moved.clone());
        meanwhile(async move { database.put(&[moved]).await });
        Action::LoseAnswer
    }));
    world.press(&caller).await.assert_count(9);
    assert_eq!(world.database.rows().await["alice-0"]["status"], "S:active");
}

#[tokio::test]
async fn a_deadline_that_has_passed_leaves_no_time_for_any_change() {
    let (mut world, caller) = World::with_others(10).await;
    world.timeout = Duration::ZERO;
    world.press(&caller).await.assert_error(503, "temporarily_unavailable", Some(0));
    assert_eq!(revoked(&world.database.rows().await), 0);
}

#[tokio::test]
async fn a_refused_connection_is_a_503() {
    let (mut world, caller) = World::with_others(1).await;
    world.sdk_config = world.sdk_config.to_builder().endpoint_url("http://127.0.0.1:9").build();
    world.press(&caller).await.assert_error(503, "temporarily_unavailable", Some(0));
}

#[tokio::test]
async fn a_missing_table_or_index_is_an_internal_error() {
    let (mut world, caller) = World::with_others(1).await;
    "no-such-index".clone_into(&mut world.config.table.index);
    world.press(&caller).await.assert_error(500, "internal_error", None);
    "no-such-table".clone_into(&mut world.config.table.name);
    world.press(&caller).await.assert_error(500, "internal_error", None);
}
