//! The sessions of docs/code, in each language: what they write, and that they keep their rules when others act, and DynamoDB fails,
//! between any two of their requests.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::gate::{Gate, Held};
use super::{Snippet, direct, make_table, old_table, root, row, snippet_of};
use crate::support::{Answer, Row, Session, World, delete, n, now, s};

pub const LANGUAGES: [&str; 2] = ["python", "node"];
/// Seconds between two rotations of a session, as the files have it.
const REST: u64 = 60;
/// How many requests a call of the function makes at most before the attacks here no longer matter to it.
const POSITIONS: usize = 5;

/// The order in which requests arrive that the function sends at once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    AsSent,
    WritesLast,
}

/// A running process that calls the functions of a file, with a gate in front of the database.
pub struct Store {
    language: &'static str,
    pub world: World,
    gate: Gate,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// The result of the function that was called last, once it has returned.
    result: Option<Result<Value, String>>,
    /// Ends with the store.
    _process: Child,
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn sessions_are_written_checked_rotated_and_ended_as_the_page_says() {
    in_each_language(async |world, store| {
        let laptop = store.sign_in("dora").await;
        let phone = store.sign_in("dora").await;
        let other = store.sign_in("emil").await;
        assert_eq!(BTreeSet::from([&laptop, &phone, &other]).len(), 3);
        for token in [&laptop, &phone, &other] {
            assert!(token.len() >= 43, "256 bits take as many characters: {token}");
            assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
        }
        let session = row(world, &laptop).await.expect("a session under the token's hash");
        let names: Vec<&str> = session.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "authenticated_at",
                "created_at",
                "delete_at",
                "expires_at",
                "session_id",
                "status",
                "token_hash",
                "user_id"
            ]
        );
        assert_eq!((session["user_id"].as_str(), session["status"].as_str()), ("S:dora", "S:active"));
        assert!(seconds(&session, "created_at").abs_diff(now()) < 300);
        assert!(seconds(&session, "authenticated_at").abs_diff(now()) < 300);
        assert!(seconds(&session, "expires_at") > now() + 24 * 3600);
        assert_ne!(session["session_id"], row(world, &phone).await.expect("a session")["session_id"]);
        assert!(!format!("{:?}", world.database.rows().await).contains(&laptop), "the table holds a raw token");

        assert_eq!(store.check(&laptop).await, "dora");
        world.send(delete().token(&laptop)).await.assert_count(1);
        for (token, user) in [(&laptop, "dora"), (&phone, ""), (&other, "emil")] {
            assert_eq!(store.check(token).await, user);
        }
        let before = row(world, &phone).await;
        store.call("sign_out", &[&phone]).await;
        assert_eq!(row(world, &phone).await, before, "who revoked it, and when, is kept");

        assert_eq!(store.call("rotate", &[&phone]).await, Value::Null, "a revoked session got a new token");
        let rotated = store.token("rotate", &laptop).await;
        assert!(rotated.len() >= 43 && rotated != laptop, "{rotated}");
        for (token, user) in [(&laptop, ""), (&rotated, "dora")] {
            assert_eq!(store.check(token).await, user);
        }
        let (old, new) =
            (row(world, &laptop).await.expect("a session"), row(world, &rotated).await.expect("a session"));
        assert_eq!((old["status"].as_str(), &old["revoked_by"]), ("S:revoked", &old["session_id"]));
        assert_ne!(old["session_id"], new["session_id"]);
        for name in ["user_id", "created_at", "authenticated_at", "expires_at", "delete_at"] {
            assert_eq!(old[name], new[name], "{name}");
        }
        world.send(delete().token(&rotated)).await.assert_count(0);

        store.call("sign_out", &[&rotated]).await;
        assert_eq!(store.check(&rotated).await, "");
        world.send(delete().token(&rotated)).await.assert_error(401, "session_inactive", None);
        let signed_out = row(world, &rotated).await.expect("the data to be kept");
        assert_eq!(signed_out["status"], "S:revoked");
        assert_eq!(signed_out["revoked_by"], signed_out["session_id"]);
        assert!(signed_out["revoked_at"].starts_with("N:"), "{signed_out:?}");
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_session_is_valid_exactly_if_the_function_accepts_it() {
    in_each_language(async |world, store| {
        let of_emil = |token: &str| Session::with_token("emil", token, token);
        world
            .database
            .put(&[
                of_emil("expired").with("expires_at", n(now())),
                of_emil("without-status").without("status"),
                of_emil("pending").with("status", s("mfa_pending")),
                of_emil("without-expiry").without("expires_at"),
                of_emil("without-id").without("session_id"),
                of_emil("iso-expiry").with("expires_at", s("2100-01-01T00:00:00Z")),
                of_emil("string-expiry").with("expires_at", s("4102444800")),
                of_emil("fraction").with("expires_at", n("4102444800.5")),
                of_emil("huge").with("expires_at", n("123456789012345678901234567890")),
                of_emil("milliseconds").with("expires_at", n((now() - 60) * 1000)),
            ])
            .await;
        let rows = world.database.rows().await.len();
        for token in
            ["expired", "without-status", "pending", "without-expiry", "iso-expiry", "string-expiry", "unknown"]
        {
            assert_eq!(store.check(token).await, "", "{token}");
            world.send(delete().token(token)).await.assert_error(401, "session_inactive", None);
        }
        assert_eq!(store.check("without-id").await, "");
        assert_eq!(store.check("a b\u{e9}").await, "");
        for token in ["fraction", "huge"] {
            assert_eq!(store.check(token).await, "emil", "{token}");
        }
        assert_eq!(store.check("milliseconds").await, "emil", "as the page warns, milliseconds never expire");
        store.call("sign_out", &["unknown"]).await;
        assert_eq!(store.call("rotate", &["unknown"]).await, Value::Null);
        assert_eq!(world.database.rows().await.len(), rows, "neither signing out nor rotating creates a session");
        // The function revokes expired and incomplete sessions too.
        world.send(delete().token("fraction")).await.assert_count(9);
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn an_intruder_who_rotates_between_any_two_requests_of_a_call_is_signed_out() {
    in_each_language(async |world, store| {
        let positions = (0..=POSITIONS).flat_map(|read| (read..=POSITIONS).map(move |write| (read, write)));
        let orders = [Order::AsSent, Order::WritesLast];
        for ((read, write), order) in positions.flat_map(|positions| orders.map(|order| (positions, order))) {
            let user = format!("user-{read}-{write}-{order:?}");
            let (owner, intruder) = (store.sign_in(&user).await, store.sign_in(&user).await);
            let mut transaction: Option<Held> = None;
            let mut has_begun = false;
            let answer = press_with(world, &owner, order, async |position| {
                if position == read {
                    has_begun = true;
                    store.begin("rotate", &[&intruder]).await;
                    transaction = store.advance_to("TransactWriteItems").await;
                }
                if position == write
                    && let Some(transaction) = transaction.take()
                {
                    transaction.forward().await;
                    store.finish().await.expect("a token or none");
                }
            })
            .await;
            assert_eq!(answer.status, 200, "{answer:?}");
            if let Some(transaction) = transaction.take() {
                transaction.forward().await;
            }
            let rotated = if has_begun { store.finish().await.expect("a token or none") } else { Value::Null };
            let at = format!("read before request {read}, written before request {write}, {order:?}");
            for token in [Some(intruder.as_str()), rotated.as_str()].into_iter().flatten() {
                assert_eq!(store.check(token).await, "", "{at}: the intruder stays signed in");
            }
            assert_eq!(store.check(&owner).await, user, "{at}: the caller was signed out");
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn an_intruder_who_rotates_in_a_loop_is_signed_out_at_the_first_press() {
    in_each_language(async |world, store| {
        for order in [Order::AsSent, Order::WritesLast] {
            let user = format!("user-{order:?}");
            let (owner, mut intruder) = (store.sign_in(&user).await, store.sign_in(&user).await);
            let mut tokens = vec![intruder.clone()];
            let answer = press_with(world, &owner, order, async |_| {
                // Without a rest, he is ahead of every write of the function.
                if let Value::String(token) = store.call("rotate", &[&intruder]).await {
                    intruder = token;
                    tokens.push(intruder.clone());
                }
            })
            .await;
            assert_eq!(answer.status, 200, "{answer:?}");
            for token in tokens {
                assert_eq!(store.check(&token).await, "", "the intruder stays signed in");
            }
            assert_eq!(store.check(&owner).await, user);
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_session_rests_between_two_rotations() {
    in_each_language(async |world, store| {
        let first = store.sign_in("dora").await;
        store.begin("rotate", &[&first]).await;
        let transaction = store.advance_to("TransactWriteItems").await.expect("a transaction");
        transaction.forward().await;
        let second = store.finish().await.expect("a token").as_str().expect("a token").to_owned();
        assert_ne!(first, second);
        assert_eq!(store.token("rotate", &second).await, second);
        change(world, &second, "SET rotated_at = :value", n(now() - REST + 5)).await;
        assert_eq!(store.token("rotate", &second).await, second);
        change(world, &second, "SET rotated_at = :value", n(now() - REST)).await;
        assert_ne!(store.token("rotate", &second).await, second);
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_caller_who_pins_the_token_first_is_not_signed_out_by_a_rotation_of_its_own() {
    in_each_language(async |world, store| {
        // Another request of the same device has begun to rotate before the pin, or begins during the call.
        for begins_before in [true, false] {
            let user = format!("user-{begins_before}");
            let (owner, phone) = (store.sign_in(&user).await, store.sign_in(&user).await);
            let mut transaction = None;
            if begins_before {
                let mut other = Store::start(store.language, world).await;
                other.begin("rotate", &[&owner]).await;
                transaction = Some((other.advance_to("TransactWriteItems").await.expect("a transaction"), other));
            }
            assert_eq!(store.call("pin", &[&owner]).await, true);
            let answer = press_with(world, &owner, Order::WritesLast, async |_| {
                if let Some((transaction, mut other)) = transaction.take() {
                    transaction.forward().await;
                    assert_eq!(other.finish().await.expect("a token"), owner);
                }
                assert_eq!(store.token("rotate", &owner).await, owner);
            })
            .await;
            answer.assert_count(1);
            assert_eq!(store.check(&owner).await, user, "the caller was signed out");
            assert_eq!(store.check(&phone).await, "");
        }
        assert_eq!(store.call("pin", &["unknown"]).await, false);
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_password_change_ends_every_session_however_odd_it_is() {
    in_each_language(async |world, store| {
        let laptop = store.sign_in("dora").await;
        let of_dora = |token: &str| Session::with_token("dora", token, token);
        let odd = ["without-id", "pending", "without-status", "expired", "refused", "ended"];
        world
            .database
            .put(&[
                of_dora("without-id").without("session_id"),
                of_dora("pending").with("status", s("mfa_pending")),
                of_dora("without-status").without("status"),
                of_dora("expired").with("expires_at", n(1)),
                of_dora("refused"),
                of_dora("ended").with("status", s("revoked")).with("revoked_by", s("somebody")),
            ])
            .await;
        let refused = Session::with_token("dora", "", "refused").token_hash().to_owned();
        store.begin("end_all", &["dora"]).await;
        let result = loop {
            match store.next().await {
                Ok(result) => break result,
                // As DynamoDB answers for an item that would grow beyond 400 KB.
                Err(held) if held.body["Key"]["token_hash"]["S"] == refused.as_str() => {
                    held.fail("ValidationException", &Value::Null);
                }
                Err(held) => held.forward().await,
            }
        };
        result.expect_err("the session that could not be written is reported");
        for token in odd.into_iter().chain([laptop.as_str()]) {
            let row = row(world, token).await.expect("a session");
            assert_eq!(row.get("status").is_some_and(|status| status == "S:revoked"), token != "refused", "{token}");
            // Somebody confirms the second factor, or corrects the item.
            direct(world)
                .update_item()
                .table_name(&world.database.table)
                .key("token_hash", s(Session::with_token("", "", token).token_hash()))
                .update_expression("SET #status = :active, session_id = :id, expires_at = :later")
                .expression_attribute_names("#status", "status")
                .expression_attribute_values(":active", s("active"))
                .expression_attribute_values(":id", s(token))
                .expression_attribute_values(":later", n(now() + 3600))
                .send()
                .await
                .expect("an update");
            assert_eq!(store.check(token).await, "", "{token} is valid after the password was changed");
        }
        let ended = row(world, "ended").await.expect("a session");
        assert_eq!(ended["revoked_by"], "S:somebody", "who ended it is kept");
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_password_change_finds_sessions_that_the_index_shows_late() {
    in_each_language(async |world, store| {
        let (early, late) = (store.sign_in("dora").await, store.sign_in("dora").await);
        let late_hash = Session::with_token("dora", "", &late).token_hash().to_owned();
        store.begin("end_all", &["dora"]).await;
        let mut looks = 0;
        let result = loop {
            match store.next().await {
                Ok(result) => break result,
                Err(held) if held.operation == "Query" && looks < 2 => {
                    looks += 1;
                    let early_hash = Session::with_token("dora", "", &early).token_hash().to_owned();
                    let items = [json!({"token_hash": {"S": early_hash}})];
                    held.answer(&json!({"Items": items, "Count": 1, "ScannedCount": 1}));
                }
                Err(held) => held.forward().await,
            }
        };
        result.expect("no error");
        let row = row(world, &late).await.expect("a session");
        assert_eq!(row["status"], "S:revoked", "{late_hash} was not found");
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_rotation_keeps_what_changes_while_it_is_under_way() {
    in_each_language(async |world, store| {
        let late = n(now() + 77 * 24 * 3600);
        for (expression, name, value) in [
            ("SET expires_at = :value", "expires_at", late),
            ("SET device = :value", "device", s("renamed")),
            // Attributes that the session did not have when it was read.
            ("SET rotated_at = :value", "rotated_at", n(1)),
        ] {
            for function in ["rotate", "step_up"] {
                let token = store.sign_in("dora").await;
                change(world, &token, "SET device = :value", s("laptop")).await;
                store.begin(function, &[&token]).await;
                let transaction = store.advance_to("TransactWriteItems").await.expect("a transaction");
                change(world, &token, expression, value.clone()).await;
                transaction.forward().await;
                let token = store.finish().await.expect("a token");
                let row = row(world, token.as_str().expect("a token")).await.expect("a session");
                let is_kept = row[name].ends_with(value.as_s().or(value.as_n()).expect("a value"));
                assert!(is_kept || name == "rotated_at" && row[name] != "N:1", "{function} lost {name}: {row:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_step_up_is_one_transaction_that_leaves_the_old_token_as_it_was() {
    in_each_language(async |world, store| {
        let token = store.sign_in("dora").await;
        change(world, &token, "SET authenticated_at = :value", n(1)).await;
        store.begin("step_up", &[&token]).await;
        let transaction = store.advance_to("TransactWriteItems").await.expect("a transaction");
        assert_eq!(row(world, &token).await.expect("a session")["authenticated_at"], "N:1", "upgraded before");
        transaction.forward().await;
        let upgraded = store.finish().await.expect("a token").as_str().expect("a token").to_owned();
        let (old, new) =
            (row(world, &token).await.expect("a session"), row(world, &upgraded).await.expect("a session"));
        assert_eq!((old["status"].as_str(), old["authenticated_at"].as_str()), ("S:revoked", "N:1"));
        assert!(seconds(&new, "authenticated_at").abs_diff(now()) < 300);
        // It needs no rest: it takes the password.
        assert_ne!(store.token("step_up", &upgraded).await, upgraded);
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn an_extension_moves_the_time_of_ttl_too_and_brings_no_session_back() {
    in_each_language(async |world, store| {
        let day = 24 * 3600;
        let token = store.sign_in("dora").await;
        let fresh = row(world, &token).await.expect("a session");
        let kept = seconds(&fresh, "delete_at") - seconds(&fresh, "expires_at");
        store.call("extend", &[&token]).await;
        assert_eq!(row(world, &token).await.expect("a session"), fresh, "a write at every request costs");

        change(world, &token, "SET expires_at = :value", n(now() + day)).await;
        store.call("extend", &[&token]).await;
        let extended = row(world, &token).await.expect("a session");
        assert!(seconds(&extended, "expires_at") >= seconds(&fresh, "expires_at"));
        assert_eq!(seconds(&extended, "delete_at"), seconds(&extended, "expires_at") + kept);

        change(world, &token, "SET expires_at = :value", n(now() + day)).await;
        change(world, &token, "SET created_at = :value", n(now() - 365 * day + 3 * day)).await;
        store.call("extend", &[&token]).await;
        let longest = row(world, &token).await.expect("a session");
        assert!(seconds(&longest, "expires_at").abs_diff(now() + 3 * day) < 300, "it can be extended for ever");
        assert_eq!(seconds(&longest, "delete_at"), seconds(&longest, "expires_at") + kept);

        change(world, &token, "SET created_at = :value", n(now())).await;
        store.begin("extend", &[&token]).await;
        let update = store.advance_to("UpdateItem").await.expect("an extension");
        world.database.put(&[Session::with_token("dora", "laptop", "laptop")]).await;
        world.send(delete().token("laptop")).await.assert_count(1);
        let revoked = row(world, &token).await;
        update.forward().await;
        store.finish().await.expect("no error");
        assert_eq!(row(world, &token).await, revoked);

        // Somebody shortens the session after it was read.
        let token = store.sign_in("dora").await;
        change(world, &token, "SET expires_at = :value", n(now() + day)).await;
        store.begin("extend", &[&token]).await;
        let update = store.advance_to("UpdateItem").await.expect("an extension");
        change(world, &token, "SET expires_at = :value", n(now() + 60)).await;
        let shortened = row(world, &token).await;
        update.forward().await;
        store.finish().await.expect("no error");
        assert_eq!(row(world, &token).await, shortened);
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_lost_answer_loses_no_session_and_no_token() {
    in_each_language(async |world, store| {
        for attempts_lost in [1, usize::MAX] {
            let user = format!("user-{attempts_lost}");
            put_user(world, &user).await;
            store.begin("sign_in", &[&user]).await;
            store.lose_answers(attempts_lost).await;
            let mut token =
                store.finish().await.expect("the session that was written").as_str().expect("a token").to_owned();
            assert_eq!(store.check(&token).await, user);
            for function in ["rotate", "step_up"] {
                store.begin(function, &[&token]).await;
                store.lose_answers(attempts_lost).await;
                let new =
                    store.finish().await.expect("the token that was written").as_str().expect("a token").to_owned();
                assert_ne!(new, token, "{function}");
                assert_eq!((store.check(&token).await.as_str(), store.check(&new).await), ("", user.clone()));
                token = new;
            }
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_transaction_that_arrives_after_it_was_given_up_changes_nothing() {
    in_each_language(async |world, store| {
        for function in ["rotate", "step_up"] {
            let token = store.sign_in(function).await;
            assert_eq!(store.call("pin", &[&token]).await, true);
            change(world, &token, "SET rotated_at = :value", n(1)).await;
            store.begin(function, &[&token]).await;
            let mut late = Vec::new();
            let result = loop {
                match store.next().await {
                    Ok(result) => break result,
                    Err(held) if held.operation == "TransactWriteItems" => late.push(held.drop_request()),
                    Err(held) => held.forward().await,
                }
            };
            result.expect_err("the failure");
            assert_eq!(store.check(&token).await, function);
            // As if the function had pinned the session in the same second as it was pinned before.
            change(world, &token, "SET rotated_at = :value", n(1)).await;
            for request in late {
                assert_eq!(request.arrive().await, 400, "the session is ended, and its new token lost");
            }
            assert_eq!(store.check(&token).await, function);
            world.send(delete().token(&token)).await.assert_count(0);
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_transaction_that_met_another_is_sent_again_and_a_refused_one_is_reported() {
    in_each_language(async |world, store| {
        let token = store.sign_in("dora").await;
        let canceled =
            |code: &str| json!({"CancellationReasons": [{"Code": "None"}, {"Code": code}, {"Code": "None"}]});
        store.begin("rotate", &[&token]).await;
        let transaction = store.advance_to("TransactWriteItems").await.expect("a transaction");
        transaction.fail("TransactionCanceledException", &canceled("TransactionConflict"));
        let rotated = store.finish().await.expect("a token").as_str().expect("a token").to_owned();
        assert_ne!(rotated, token);

        // The other is the same transaction, sent before, whose answer got lost.
        store.begin("step_up", &[&rotated]).await;
        store.advance_to("TransactWriteItems").await.expect("a transaction").lose_answer().await;
        let transaction = store.advance_to("TransactWriteItems").await.expect("a transaction");
        transaction.fail("TransactionCanceledException", &canceled("TransactionConflict"));
        let rotated = store.finish().await.expect("a token").as_str().expect("the new token").to_owned();
        assert_eq!(store.check(&rotated).await, "dora");

        store.begin("step_up", &[&rotated]).await;
        let transaction = store.advance_to("TransactWriteItems").await.expect("a transaction");
        transaction.fail("TransactionCanceledException", &canceled("ItemCollectionSizeLimitExceeded"));
        store.finish().await.expect_err("the failure");
        assert_eq!(store.check(&rotated).await, "dora");

        // Conflicts without an end: nothing is rotated, and nobody is signed out.
        change(world, &rotated, "SET rotated_at = :value", n(0)).await;
        store.begin("rotate", &[&rotated]).await;
        while let Some(transaction) = store.advance_to("TransactWriteItems").await {
            transaction.fail("TransactionCanceledException", &canceled("TransactionConflict"));
        }
        assert_eq!(store.finish().await.expect("a token"), rotated);
        assert_eq!(store.check(&rotated).await, "dora");
    })
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn moving_over_keeps_what_the_application_wrote_and_what_changes_meanwhile() {
    let world = World::new().await;
    let (old, later) = (old_table(&world), now() + 3600);
    make_table(&world, &users(&world), "user_id").await;
    make_table(&world, &old, "token").await;
    put_user(&world, "dora").await;
    let put = async |token: &str, expires_at: u64, device: &str| {
        let request = direct(&world).put_item().table_name(&old).item("token", s(token)).item("user_id", s("dora"));
        let request = request.item("expires_at", n(expires_at)).item("device", s(device));
        request.send().await.expect("an old session");
    };
    put("laptop", later, "laptop").await;
    put("phone", later, "phone").await;
    put("expired", now() - 1, "expired").await;
    let mut store = Store::start("python", &world).await;
    store.begin("move_over", &[]).await;
    let mut moves = 0;
    let found = loop {
        match store.next().await {
            Ok(found) => break found,
            Err(held) => {
                if held.operation == "TransactWriteItems" {
                    moves += 1;
                    // After they were read, one is extended and renamed, the other gets an attribute that it did not have.
                    put("laptop", later + 1, "renamed").await;
                    let seen = direct(&world).update_item().table_name(&old).key("token", s("phone"));
                    let seen = seen.update_expression("SET last_seen = :now").expression_attribute_values(":now", n(1));
                    seen.condition_expression("attribute_exists(expires_at)").send().await.expect("an old session");
                }
                held.forward().await;
            }
        }
    };
    assert_eq!((found.expect("a number"), moves), (json!(2), 2));
    let left = store.call("move_over", &[]).await;
    assert_ne!(left, 0, "a session that is not moved is not counted");
    assert_eq!(store.call("move_over", &[]).await, 0);
    let laptop = row(&world, "laptop").await.expect("the session in the new table");
    assert_eq!((laptop["device"].as_str(), laptop.get("token")), ("S:renamed", None));
    assert_eq!(seconds(&laptop, "expires_at"), later + 1);
    assert!(seconds(&laptop, "delete_at") > later + 1);
    assert_eq!(row(&world, "phone").await.expect("the session in the new table")["last_seen"], "N:1");
    assert!(row(&world, "expired").await.is_none());
    world.send(delete().token("laptop")).await.assert_count(1);
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn filling_in_makes_old_sessions_callers_and_brings_no_ended_one_back() {
    let world = World::new().await;
    make_table(&world, &users(&world), "user_id").await;
    put_user(&world, "dora").await;
    let bare = |id: &str| Session::of("dora", id).without("status").without("session_id");
    let gone = Session::of("dora", "gone").with("status", s("revoked"));
    let deleted = bare("deleted");
    world.database.put(&[bare("laptop"), bare("phone"), gone, deleted.clone()]).await;
    let mut store = Store::start("python", &world).await;
    assert_eq!(store.check("token-laptop").await, "");
    store.begin("fill_in", &[]).await;
    let result = loop {
        match store.next().await {
            Ok(result) => break result,
            Err(held) => {
                if held.body["Key"]["token_hash"]["S"] == deleted.token_hash() {
                    let request = direct(&world).delete_item().table_name(&world.database.table);
                    let request = request.key("token_hash", s(deleted.token_hash()));
                    request.send().await.expect("the session to be deleted");
                }
                held.forward().await;
            }
        }
    };
    result.expect("no error");
    assert_eq!(store.check("token-laptop").await, "dora");
    for token in ["token-gone", "token-deleted"] {
        assert_eq!(store.check(token).await, "", "{token}");
    }
    assert!(row(&world, "token-deleted").await.is_none());
    world.send(delete().token("token-laptop")).await.assert_count(1);
}

/// Runs a test on a store of each language, each with a world of its own.
async fn in_each_language(test: impl AsyncFn(&World, &mut Store)) {
    for language in LANGUAGES {
        // Shown if the test fails.
        println!("{language}");
        let world = World::new().await;
        make_table(&world, &users(&world), "user_id").await;
        put_user(&world, "emil").await;
        let mut store = Store::start(language, &world).await;
        test(&world, &mut store).await;
    }
}

/// Calls the function with a token, and lets the test act before each of the function's requests to DynamoDB.
///
/// The function sends its writes and its next look at the index at once. `Order` says which of the two arrives first.
async fn press_with(world: &World, token: &str, order: Order, mut before: impl AsyncFnMut(usize)) -> Answer {
    let mut gate = Gate::start(world.database.address).await;
    let mut behind_gate = world.clone();
    let endpoint = format!("http://{}", gate.address);
    behind_gate.sdk_config = world.sdk_config.to_builder().endpoint_url(endpoint).build();
    let mut press = Box::pin(behind_gate.send(delete().token(token)));
    let mut overtaken = None;
    let mut position = 0;
    loop {
        let held = tokio::select! {
            answer = &mut press => return answer,
            held = gate.next() => held,
        };
        if order == Order::WritesLast && held.operation == "BatchExecuteStatement" && overtaken.is_none() {
            overtaken = Some(held);
            continue;
        }
        for request in [Some(held), overtaken.take()].into_iter().flatten() {
            before(position).await;
            position += 1;
            request.forward().await;
        }
    }
}

impl Store {
    /// A process of a language, with its files as they stand in docs/code.
    pub async fn start(language: &'static str, world: &World) -> Self {
        let (gate, snippet) = prepare(language, world).await;
        Self::run(language, world, gate, &snippet)
    }

    /// A process that makes no pause between two looks at the index: with pauses, there are more looks, and too many orders.
    pub async fn without_pauses(language: &'static str, world: &World) -> Self {
        let (gate, snippet) = prepare(language, world).await;
        let file = if language == "python" { "sessions.py" } else { "sessions.mjs" };
        snippet.edit(file, "INDEX_LAG = ", "INDEX_LAG = 0 * ");
        Self::run(language, world, gate, &snippet)
    }

    fn run(language: &'static str, world: &World, gate: Gate, snippet: &Snippet) -> Self {
        let mut process = Command::new(&snippet.command[0])
            .args(&snippet.command[1..])
            .current_dir(&snippet.folder)
            .envs(snippet.environment(world))
            .env("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{}", gate.address))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("an interpreter: `make test-snippets` gets it");
        let input = process.stdin.take().expect("a pipe");
        let output = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        Self { language, world: world.clone(), gate, input, output, result: None, _process: process }
    }

    /// Calls a function, which gets as far as its first request.
    async fn begin(&mut self, function: &str, arguments: &[&str]) {
        self.begin_with(function, &arguments.iter().map(|&argument| json!(argument)).collect::<Vec<_>>()).await;
    }

    pub async fn begin_with(&mut self, function: &str, arguments: &[Value]) {
        self.result = None;
        let line = [&[json!(function)], arguments].concat();
        self.input.write_all(format!("{}\n", Value::Array(line)).as_bytes()).await.expect("the process to read");
    }

    /// The next request of the function, or what it has returned.
    pub async fn next(&mut self) -> Result<Result<Value, String>, Held> {
        if let Some(result) = &self.result {
            return Ok(result.clone());
        }
        tokio::select! {
            held = self.gate.next() => {
                let is_read = ["GetItem", "Scan"].contains(&held.operation.as_str());
                assert!(!is_read || held.body["ConsistentRead"] == true, "the read can show a revoked session as active");
                Err(held)
            }
            line = self.output.next_line() => {
                let line = line.expect("output").expect("the process to run");
                let answer: Value = serde_json::from_str(&line).expect("JSON");
                let result = match answer.get("error") {
                    Some(error) => Err(error.as_str().expect("a text").to_owned()),
                    None => Ok(answer["result"].clone()),
                };
                self.result = Some(result.clone());
                Ok(result)
            }
        }
    }

    /// Lets all requests through until one of this operation arrives. `None`: the function has returned without one.
    async fn advance_to(&mut self, operation: &str) -> Option<Held> {
        loop {
            match self.next().await {
                Ok(_) => return None,
                Err(held) if held.operation == operation => return Some(held),
                Err(held) => held.forward().await,
            }
        }
    }

    /// Lets all requests through, but loses the answers to this many attempts of a transaction.
    async fn lose_answers(&mut self, attempts: usize) {
        for _ in 0..attempts {
            let Some(transaction) = self.advance_to("TransactWriteItems").await else { return };
            transaction.lose_answer().await;
        }
    }

    /// Lets all requests through until the function returns. An error is what it has raised.
    pub async fn finish(&mut self) -> Result<Value, String> {
        loop {
            match self.next().await {
                Ok(result) => return result,
                Err(held) => held.forward().await,
            }
        }
    }

    /// Calls a function that does not fail.
    pub async fn call(&mut self, function: &str, arguments: &[&str]) -> Value {
        self.begin(function, arguments).await;
        self.finish().await.unwrap_or_else(|error| panic!("{function} in {}: {error}", self.language))
    }

    /// Signs a user in, who is created if there is none of this name yet.
    pub async fn sign_in(&mut self, user: &str) -> String {
        put_user(&self.world, user).await;
        self.token("sign_in", user).await
    }

    /// Calls a function that returns a token.
    async fn token(&mut self, function: &str, argument: &str) -> String {
        self.call(function, &[argument]).await.as_str().expect("a token").to_owned()
    }

    /// The user of a token's session, or nothing.
    pub async fn check(&mut self, token: &str) -> String {
        self.call("check", &[token]).await.as_str().unwrap_or_default().to_owned()
    }
}

/// The gate and the files of a process.
async fn prepare(language: &str, world: &World) -> (Gate, Snippet) {
    let gate = Gate::start(world.database.address).await;
    let snippet = snippet_of(language, &format!("{}-{}", gate.address.port(), world.database.table));
    (gate, snippet)
}

/// The table with the users of an application.
pub fn users(world: &World) -> String {
    format!("users-{}", world.database.table)
}

/// Creates a user, or leaves the one that is there.
pub async fn put_user(world: &World, user: &str) {
    let request = direct(world).update_item().table_name(users(world)).key("user_id", s(user));
    let request = request.update_expression("SET password_hash = if_not_exists(password_hash, :old)");
    request.expression_attribute_values(":old", s("old")).send().await.expect("a user");
}

/// Changes an attribute of a token's session, as the application may at any time.
pub async fn change(world: &World, token: &str, expression: &str, value: aws_sdk_dynamodb::types::AttributeValue) {
    let request = direct(world).update_item().table_name(&world.database.table);
    let request = request.key("token_hash", s(Session::with_token("", "", token).token_hash()));
    let request = request.update_expression(expression).expression_attribute_values(":value", value);
    request.send().await.expect("an update");
}

fn seconds(session: &Row, name: &str) -> u64 {
    session[name].strip_prefix("N:").expect("a number").parse().expect("seconds")
}

#[test]
fn the_versions_of_the_sdks_are_those_that_are_tested() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).expect("a file");
    let version = |name: &str| {
        let line = makefile.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" := "));
        line.expect("a version").to_owned()
    };
    let requirements = include_str!("../../docs/code/python/requirements.txt");
    assert_eq!(requirements.trim(), format!("boto3=={}", version("BOTO3")));
    let package: Value = serde_json::from_str(include_str!("../../docs/code/node/package.json")).expect("JSON");
    assert_eq!(package["dependencies"], json!({"@aws-sdk/client-dynamodb": version("AWS_SDK_JS")}));
}
