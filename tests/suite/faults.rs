//! What is answered, counted and written when DynamoDB fails.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::proxy::Call;
use crate::support::{
    Action, Answer, Row, Session, World, assert_only_revocations, assert_requests, meanwhile, revoked, s, to_revoke,
};

const BATCH: &str = "BatchExecuteStatement";
const READ: &str = "BatchGetItem";

/// A rule that applies an action to the first request of an operation.
fn first(operation: &'static str, action: impl Fn() -> Action + Send + 'static) -> impl FnMut(&Call) -> Action + Send {
    move |call| if call.operation == operation && call.number == 0 { action() } else { Action::Forward }
}

/// A rule that applies an action to every request of an operation.
fn every(operation: &'static str, action: impl Fn() -> Action + Send + 'static) -> impl FnMut(&Call) -> Action + Send {
    move |call| if call.operation == operation { action() } else { Action::Forward }
}

/// Calls the function, and checks what holds after any call: the claimed count is exact, and nothing else has changed.
async fn press(world: &World, caller: &Session) -> (Answer, BTreeMap<String, Row>) {
    let before = world.database.rows().await;
    let answer = world.press(caller).await;
    let after = world.database.rows().await;
    assert_only_revocations(&before, &after);
    assert_eq!(before["caller"], after["caller"]);
    assert_eq!(answer.claimed(), revoked(&after) - revoked(&before), "{answer:?}");
    if answer.status == 200 {
        assert_eq!(to_revoke(&after, caller), 0, "a 200 means that every other session is revoked");
    }
    (answer, after)
}

#[tokio::test]
async fn a_fault_in_one_request_changes_no_count() {
    let actions: [fn() -> Action; 9] = [
        || Action::Fail(400, "ThrottlingException"),
        || Action::Fail(400, "ProvisionedThroughputExceededException"),
        || Action::Fail(400, "RequestLimitExceeded"),
        || Action::Fail(500, "InternalServerError"),
        || Action::Fail(503, "ServiceUnavailable"),
        || Action::Refuse,
        || Action::Garbage,
        || Action::Hang,
        || Action::LoseAnswer,
    ];
    for action in actions {
        for operation in ["GetItem", "Query", BATCH] {
            let (world, caller) = World::with_others(60).await;
            world.proxy.rule(first(operation, action));
            press(&world, &caller).await.0.assert_count(60);
        }
    }
}

#[tokio::test]
async fn sessions_revoked_by_a_write_without_an_answer_are_counted_once() {
    let actions: [fn() -> Action; 3] =
        [|| Action::LoseAnswer, || Action::HangAfter, || Action::FailAfter(500, "InternalServerError")];
    for action in actions {
        let (world, caller) = World::with_others(60).await;
        world.proxy.rule(first(BATCH, action));
        press(&world, &caller).await.0.assert_count(60);

        let (world, caller) = World::with_others(60).await;
        world.proxy.rule(move |call| match call.operation.as_str() {
            BATCH if call.number < 6 => action(),
            _ => Action::Forward,
        });
        press(&world, &caller).await.0.assert_count(60);
    }
}

#[tokio::test]
async fn a_write_without_a_report_is_read_before_it_is_sent_again() {
    for (lost, writes) in
        [((|| Action::LoseAnswer) as fn() -> Action, 1), (|| Action::HangAfter, 1), (|| Action::Refuse, 2)]
    {
        let (world, caller) = World::with_others(25).await;
        world.proxy.rule(first(BATCH, lost));
        press(&world, &caller).await.0.assert_count(25);
        assert_requests(world.proxy.count(READ), 1);
        assert_requests(world.proxy.count(BATCH), writes);
    }
}

#[tokio::test]
async fn a_failed_condition_is_always_followed_by_a_read() {
    let (world, caller) = World::with_others(25).await;
    let database = world.database.clone();
    // Another call revokes one of the sessions, and every write is answered.
    world.proxy.rule(first(BATCH, move || {
        let (database, revoked) = (database.clone(), Session::of("alice", "alice-3").with("status", s("revoked")));
        meanwhile(async move { database.put(&[revoked]).await });
        Action::Forward
    }));
    world.press(&caller).await.assert_count(24);
    let reads: Vec<_> = world.proxy.seen().into_iter().filter(|call| call.operation == READ).collect();
    assert_requests(reads.len(), 1);
    let request = &reads[0].body["RequestItems"][&world.database.table];
    assert_eq!(request["ConsistentRead"], true);
    let keys = request["Keys"].as_array().expect("keys");
    assert_requests(keys.len(), 1);
    assert!(keys.contains(&json!({"token_hash": {"S": Session::of("alice", "alice-3").token_hash()}})));
}

#[tokio::test]
async fn a_session_that_is_live_although_its_condition_failed_is_an_internal_error() {
    let (world, caller) = World::with_others(30).await;
    world.proxy.rule(|call| match call.position_of(&Session::of("alice", "alice-7")) {
        Some(index) => Action::FailStatements(vec![(index, "ConditionalCheckFailed")]),
        None => Action::Forward,
    });
    let (answer, rows) = press(&world, &caller).await;
    answer.assert_error(500, "internal_error", Some(29));
    assert_eq!(rows["alice-7"]["status"], "S:active");
}

#[tokio::test]
async fn sessions_that_a_read_leaves_out_are_read_again() {
    let (world, caller) = World::with_others(25).await;
    let table = world.database.table.clone();
    world.proxy.rule(move |call| match (call.operation.as_str(), call.number) {
        (BATCH, 0) => Action::LoseAnswer,
        (READ, 0) => {
            let (table, keys) = (table.clone(), call.body["RequestItems"][&table]["Keys"].clone());
            Action::Edit(Box::new(move |answer| {
                *answer = json!({"Responses": {&table: []}, "UnprocessedKeys": {&table: {"Keys": keys}}});
            }))
        }
        // The answer says nothing about any session.
        (READ, 1) => Action::Edit(Box::new(|answer| *answer = json!({}))),
        _ => Action::Forward,
    });
    press(&world, &caller).await.0.assert_count(25);
    assert_requests(world.proxy.count(READ), 3);
}

#[tokio::test]
async fn an_index_that_shows_an_entry_twice_has_it_written_and_counted_once() {
    let (world, caller) = World::with_others(20).await;
    world.proxy.rule(|call| match (call.operation.as_str(), call.number) {
        ("Query", _) => Action::edit_items(|items| items.extend(items.clone())),
        (BATCH, 0) => Action::LoseAnswer,
        _ => Action::Forward,
    });
    press(&world, &caller).await.0.assert_count(20);
    let batches: Vec<_> = world.proxy.seen().into_iter().filter(|call| call.operation == BATCH).collect();
    assert!(batches.iter().all(|batch| batch.statements().len() == 20));
}

#[tokio::test]
async fn a_session_that_cannot_be_read_does_not_keep_other_sessions_from_being_revoked() {
    let (world, caller) = World::with_others(60).await;
    world.proxy.rule(|call| match (call.operation.as_str(), call.number) {
        (BATCH, 0) => Action::FailStatements(vec![(7, "InternalServerError")]),
        (READ, _) => Action::Fail(400, "ValidationException"),
        _ => Action::Forward,
    });
    press(&world, &caller).await.0.assert_error(500, "internal_error", Some(59));
}

#[tokio::test]
async fn a_lost_answer_is_counted_once_even_if_the_index_shows_its_sessions_again() {
    let (world, caller) = World::with_others(10).await;
    let stale: Vec<Value> = crate::support::sessions_of("alice", 10)
        .iter()
        .map(|session| json!({"token_hash": {"S": session.token_hash()}}))
        .collect();
    world.proxy.rule(move |call| match (call.operation.as_str(), call.number) {
        (BATCH, _) => Action::LoseAnswer,
        ("Query", _) => {
            let stale = stale.clone();
            Action::edit_items(move |items| *items = stale)
        }
        _ => Action::Forward,
    });
    press(&world, &caller).await.0.assert_count(10);
    assert!(world.proxy.count("Query") >= 2);
}

#[tokio::test]
async fn sessions_that_another_call_revoked_meanwhile_are_not_counted_for_a_lost_answer() {
    let (world, caller) = World::with_others(10).await;
    let others = Session::of("alice", "alice-0")
        .with("status", s("revoked"))
        .with("revoked_by", s("caller"))
        .with("revocation_id", s("another-request"));
    let database = world.database.clone();
    world.proxy.rule(first(BATCH, move || {
        let (database, other) = (database.clone(), others.clone());
        meanwhile(async move { database.put(&[other]).await });
        Action::Refuse
    }));
    world.press(&caller).await.assert_count(9);
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
async fn only_the_statements_that_failed_are_sent_again() {
    for code in [
        "ThrottlingError",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "TransactionConflict",
        "InternalServerError",
    ] {
        let (world, caller) = World::with_others(25).await;
        world.proxy.rule(first(BATCH, move || Action::FailStatements(vec![(0, code), (7, code), (24, code)])));
        press(&world, &caller).await.0.assert_count(25);
        let batches: Vec<_> = world.proxy.seen().into_iter().filter(|call| call.operation == BATCH).collect();
        let [first, second] = &batches[..] else { panic!("{} batches", batches.len()) };
        let (first, second) = (first.statements(), second.statements());
        assert_eq!(second, [first[0].clone(), first[7].clone(), first[24].clone()], "{code}");
    }
}

#[tokio::test]
async fn a_batch_answered_in_part_is_finished() {
    let (world, caller) = World::with_others(25).await;
    world.proxy.rule(first(BATCH, || {
        Action::Edit(Box::new(|answer| answer["Responses"].as_array_mut().expect("responses").truncate(10)))
    }));
    press(&world, &caller).await.0.assert_count(25);

    let (world, caller) = World::with_others(25).await;
    world.proxy.rule(first(BATCH, || Action::Curtail(10)));
    press(&world, &caller).await.0.assert_count(25);

    let (world, caller) = World::with_others(25).await;
    world.proxy.rule(first(BATCH, || Action::Edit(Box::new(|answer| *answer = json!({})))));
    press(&world, &caller).await.0.assert_count(25);
}

#[tokio::test]
async fn a_dynamodb_that_stays_unavailable_is_a_503_that_does_not_name_the_cause() {
    let actions: [fn() -> Action; 3] =
        [|| Action::Fail(400, "ThrottlingException"), || Action::Fail(500, "InternalServerError"), || Action::Refuse];
    let tries = actions.iter().flat_map(|action| {
        ["GetItem", "Query", BATCH].map(|operation| async move {
            let (world, caller) = World::with_others(60).await;
            world.proxy.rule(every(operation, *action));
            let (answer, _) = press(&world, &caller).await;
            answer.assert_error(503, "temporarily_unavailable", Some(0));
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert_eq!(answer.header("www-authenticate"), None);
            assert_eq!(
                answer.body,
                json!({"error": {
                    "code": 503,
                    "status": "Service Unavailable",
                    "id": "temporarily_unavailable",
                    "message": "The service is temporarily unavailable.",
                    "reason": "Not every other session could be revoked in time. Calling again is safe and continues where this call stopped.",
                    "request": "gateway-request-id",
                    "details": {"revoked": 0},
                }})
            );
            world.proxy.reset();
            press(&world, &caller).await.0.assert_count(60);
        })
    });
    // Each waits through its back-offs, so they wait together.
    join_all(tries).await;
}

#[tokio::test]
async fn a_permanent_error_is_a_500_and_only_one_of_the_signature_is_tried_again() {
    for (status, code, attempts) in [
        (400, "AccessDeniedException", 1),
        (400, "ResourceNotFoundException", 1),
        (400, "ValidationException", 1),
        (400, "SomethingNew", 1),
        (400, "InvalidSignatureException", 5),
        (400, "UnrecognizedClientException", 5),
        (400, "ExpiredTokenException", 5),
    ] {
        for (operation, revoked) in [("GetItem", None), ("Query", None), (BATCH, Some(0))] {
            let (world, caller) = World::with_others(3).await;
            world.proxy.rule(every(operation, move || Action::Fail(status, code)));
            let (answer, _) = press(&world, &caller).await;
            answer.assert_error(500, "internal_error", revoked);
            assert_eq!(world.proxy.count(operation), attempts, "{code} of {operation}");
            assert_eq!(
                answer.body["error"]["reason"],
                "The request failed for a reason that calling again will not mend."
            );
        }
    }
}

#[tokio::test]
async fn a_statement_that_is_refused_does_not_keep_other_sessions_from_being_revoked() {
    for code in [
        "AccessDenied",
        "ResourceNotFound",
        "ValidationError",
        "ItemCollectionSizeLimitExceeded",
        "DuplicateItem",
        "New",
    ] {
        let (world, caller) = World::with_others(60).await;
        // Always the same session, at any position in its batch.
        world.proxy.rule(move |call| match call.position_of(&Session::of("alice", "alice-7")) {
            Some(index) => Action::FailStatements(vec![(index, code)]),
            None => Action::Forward,
        });
        let (answer, rows) = press(&world, &caller).await;
        answer.assert_error(500, "internal_error", Some(59));
        assert_eq!(rows["alice-7"]["status"], "S:active");
    }
}

#[tokio::test]
async fn a_permanent_error_is_reported_before_a_retryable_one() {
    let (world, caller) = World::with_others(25).await;
    world.proxy.rule(|call| match (call.operation.as_str(), call.number) {
        (BATCH, 0) => Action::FailStatements(vec![(3, "ValidationError"), (4, "ThrottlingError")]),
        (BATCH, _) => Action::Fail(400, "ThrottlingException"),
        _ => Action::Forward,
    });
    press(&world, &caller).await.0.assert_error(500, "internal_error", Some(23));
}

#[tokio::test]
async fn a_session_that_is_always_throttled_does_not_keep_other_sessions_from_being_revoked() {
    let (world, caller) = World::with_others(2_100).await;
    world.proxy.rule(|call| match call.position_of(&Session::of("alice", "alice-7")) {
        Some(index) => Action::FailStatements(vec![(index, "TransactionConflict")]),
        None => Action::Forward,
    });
    let (answer, _) = press(&world, &caller).await;
    answer.assert_error(503, "temporarily_unavailable", Some(2_099));
}

#[tokio::test]
async fn a_failure_half_way_is_answered_with_the_exact_number_of_revoked_sessions() {
    let actions: [fn() -> Action; 2] =
        [|| Action::Fail(400, "ThrottlingException"), || Action::Fail(400, "AccessDeniedException")];
    for (action, status, id) in [(actions[0], 503, "temporarily_unavailable"), (actions[1], 500, "internal_error")] {
        let (world, caller) = World::with_others(100).await;
        world.proxy.rule(move |call| match call.operation.as_str() {
            BATCH if call.number >= 2 => action(),
            _ => Action::Forward,
        });
        let (answer, _) = press(&world, &caller).await;
        answer.assert_error(status, id, Some(50));
        world.proxy.reset();
        press(&world, &caller).await.0.assert_count(50);
    }
}

#[tokio::test]
async fn a_failed_second_read_of_the_index_is_not_a_200() {
    let (world, caller) = World::with_others(30).await;
    world.proxy.rule(|call| match (call.operation.as_str(), call.number) {
        ("Query", 1..) => Action::Fail(500, "InternalServerError"),
        _ => Action::Forward,
    });
    press(&world, &caller).await.0.assert_error(503, "temporarily_unavailable", Some(30));
}

#[tokio::test]
async fn a_throttled_second_page_is_read_again() {
    let (world, caller) = World::with_others(2_500).await;
    world.proxy.rule(|call| match (call.operation.as_str(), call.number) {
        ("Query", 1) => Action::Fail(400, "ThrottlingException"),
        _ => Action::Forward,
    });
    press(&world, &caller).await.0.assert_count(2_500);
}

#[tokio::test]
async fn a_second_page_that_fails_is_not_a_200() {
    let (world, caller) = World::with_others(2_100).await;
    world.proxy.rule(|call| match (call.operation.as_str(), call.number) {
        ("Query", 1..) => Action::Fail(400, "AccessDeniedException"),
        _ => Action::Forward,
    });
    let (answer, _) = press(&world, &caller).await;
    assert_eq!(answer.error_id(), "internal_error");
}

#[tokio::test]
async fn an_index_entry_without_a_key_is_an_internal_error() {
    let (world, caller) = World::with_others(1).await;
    world.proxy.rule(every("Query", || Action::edit_items(|items| *items = vec![json!({})])));
    press(&world, &caller).await.0.assert_error(500, "internal_error", None);
}

#[tokio::test]
async fn a_deadline_that_has_passed_leaves_no_time_for_any_change() {
    let (mut world, caller) = World::with_others(10).await;
    world.timeout = Duration::ZERO;
    press(&world, &caller).await.0.assert_error(503, "temporarily_unavailable", Some(0));
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
