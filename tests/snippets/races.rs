//! The sessions of docs/code while two of their functions run at once: every order of their requests to DynamoDB is tried.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::stores::{LANGUAGES, Store, change, put_user, users};
use super::{direct, make_table, old_table, row};
use crate::support::{World, n, now, s};

/// A function of docs/code, and its arguments.
type Call = (&'static str, Vec<Value>);

/// Two calls that have ended.
struct Race {
    results: [Value; 2],
    /// Which of the two has made each request, the first or the second.
    order: Vec<usize>,
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_session_that_is_rotated_while_all_are_ended_is_ended() {
    in_every_order(
        &LANGUAGES,
        async |store, user| {
            let token = store.sign_in(user).await;
            ([("rotate", vec![json!(token)]), ("end_all", vec![json!(user)])], token)
        },
        async |store, user, token, Race { results: [rotated, _], .. }| {
            assert_refused(store, &json!(token)).await;
            assert_refused(store, &rotated).await;
            assert_none_is_active(store, user).await;
        },
    )
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn no_sign_in_with_the_old_password_survives_its_change() {
    in_every_order(
        &LANGUAGES,
        async |store, user| {
            put_user(&store.world, user).await;
            let new = json!({"password_hash": "new"});
            ([("sign_in", vec![json!(user)]), ("end_all", vec![json!(user), new])], ())
        },
        async |store, user, (), Race { results: [token, _], order }| {
            // Each of the two first turns to the user's item: one reads the password that it checks, one writes the new.
            if order[0] == 0 {
                assert_refused(store, &token).await;
                assert_none_is_active(store, user).await;
            } else {
                assert_eq!(
                    store.check(token.as_str().expect("a token")).await,
                    user,
                    "the new password is not accepted"
                );
            }
        },
    )
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn one_session_never_becomes_two() {
    for second in ["rotate", "step_up"] {
        in_every_order(
            &LANGUAGES,
            async |store, user| {
                let token = store.sign_in(user).await;
                ([("rotate", vec![json!(token)]), (second, vec![json!(token)])], token)
            },
            async |store, user, token, Race { results, .. }| {
                assert_refused(store, &json!(token)).await;
                let mut valid = BTreeSet::new();
                for new in results.iter().filter_map(Value::as_str) {
                    if store.check(new).await == user {
                        valid.insert(new);
                    }
                }
                assert_eq!(valid.len(), 1, "one session became {}", valid.len());
            },
        )
        .await;
    }
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_rotation_loses_no_extension() {
    in_every_order(
        &LANGUAGES,
        async |store, user| {
            let token = store.sign_in(user).await;
            change(&store.world, &token, "SET expires_at = :value", n(now() + 60)).await;
            ([("rotate", vec![json!(token)]), ("extend", vec![json!(token)])], token)
        },
        async |store, user, token, Race { results: [rotated, _], .. }| {
            let rotated = rotated.as_str().expect("a token");
            assert_eq!(store.check(rotated).await, user, "a valid session was lost");
            let old = row(&store.world, &token).await.expect("a session");
            let new = row(&store.world, rotated).await.expect("a session");
            assert_eq!(old["expires_at"], new["expires_at"], "an extension was lost");
        },
    )
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_session_that_is_signed_out_while_it_is_moved_over_stays_so() {
    in_every_order(
        &["python"],
        async |store, user| {
            let (ended, kept) = (old_session(store, user, "ended").await, old_session(store, user, "kept").await);
            ([("move_over", vec![]), ("sign_out_both", vec![json!(ended)])], (ended, kept))
        },
        async |store, user, (ended, kept), _| {
            assert_refused_everywhere(store, &ended).await;
            assert_eq!(store.call("check_both", &[&kept]).await, user, "a valid session was lost");
            move_the_rest(store).await;
            assert_eq!(store.check(&kept).await, user, "a valid session was not moved");
            assert_refused_everywhere(store, &ended).await;
        },
    )
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_session_that_is_moved_over_while_all_are_ended_is_ended() {
    in_every_order(
        &["python"],
        async |store, user| {
            put_user(&store.world, user).await;
            let token = old_session(store, user, "only").await;
            ([("move_over", vec![]), ("end_all_both", vec![json!(user), json!([token])])], token)
        },
        async |store, _, token, _| {
            move_the_rest(store).await;
            assert_refused_everywhere(store, &token).await;
        },
    )
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_session_is_valid_while_it_is_moved_over() {
    in_every_order(
        &["python"],
        async |store, user| {
            let token = old_session(store, user, "only").await;
            ([("move_over", vec![]), ("check_both", vec![json!(token)])], ())
        },
        async |store, user, (), Race { results: [_, checked], .. }| {
            assert_eq!(checked, user);
            move_the_rest(store).await;
        },
    )
    .await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_session_is_moved_over_once_if_that_runs_twice() {
    in_every_order(
        &["python"],
        async |store, user| {
            let token = old_session(store, user, "only").await;
            ([("move_over", vec![]), ("move_over", vec![])], token)
        },
        async |store, user, token, Race { results, .. }| {
            assert!(results.contains(&json!(1)), "a session was not found: {results:?}");
            assert_eq!(store.check(&token).await, user, "a valid session was not moved");
            let sessions = store.world.database.rows().await.into_values();
            assert_eq!(sessions.filter(|session| session["user_id"] == format!("S:{user}")).count(), 1);
        },
    )
    .await;
}

/// Makes two calls at once, in every order of their requests, in each of these languages. `prepare` gets a new user, and returns
/// the calls and what `holds` needs, which checks what has become of them.
async fn in_every_order<T>(
    languages: &[&'static str],
    prepare: impl AsyncFn(&mut Store, &str) -> ([Call; 2], T),
    holds: impl AsyncFn(&mut Store, &str, T, Race),
) {
    for language in languages {
        let world = World::new().await;
        make_table(&world, &users(&world), "user_id").await;
        make_table(&world, &old_table(&world), "token").await;
        let mut stores = [Store::without_pauses(language, &world).await, Store::without_pauses(language, &world).await];
        let (mut tried, mut first) = (0, Some(Vec::new()));
        while let Some(steps) = first {
            let user = format!("user-{tried}");
            let (calls, prepared) = prepare(&mut stores[0], &user).await;
            let taken = run(&mut stores, &calls, &steps).await;
            let order = taken.iter().map(|step| step.actor).collect();
            // Shown if something does not hold.
            println!("{language}, {} and {} in the order {order:?}", calls[0].0, calls[1].0);
            let [first_store, second_store] = &mut stores;
            let results = [first_store.finish().await, second_store.finish().await];
            let results = results.map(|result| result.expect("no error"));
            holds(&mut stores[0], &user, prepared, Race { results, order }).await;
            tried += 1;
            first = next(taken);
        }
        assert!(tried > 5, "{tried} orders in {language}: the requests were not held");
    }
}

/// A request that was let through.
struct Step {
    /// Who has made it: 0 or 1.
    actor: usize,
    /// Whether the other waited as well, and could have gone on instead.
    is_choice: bool,
}

/// Makes two calls, whose first requests arrive in this order. In what follows, the first call has precedence.
async fn run(stores: &mut [Store; 2], calls: &[Call; 2], first: &[usize]) -> Vec<Step> {
    let mut held = [None, None];
    for ((store, held), (function, arguments)) in stores.iter_mut().zip(&mut held).zip(calls) {
        store.begin_with(function, arguments).await;
        *held = store.next().await.err();
    }
    let mut taken: Vec<Step> = Vec::new();
    loop {
        let is_choice = held.iter().all(Option::is_some);
        let chosen = first.get(taken.len()).copied().unwrap_or(0);
        let actor = if is_choice { chosen } else { usize::from(held[0].is_none()) };
        let Some(request) = held[actor].take() else { return taken };
        request.forward().await;
        held[actor] = stores[actor].next().await.err();
        taken.push(Step { actor, is_choice });
    }
}

/// The first steps of the next order: the last choice that fell on the first call falls on the second.
fn next(mut taken: Vec<Step>) -> Option<Vec<usize>> {
    let last = taken.iter().rposition(|step| step.is_choice && step.actor == 0)?;
    taken.truncate(last);
    Some(taken.iter().map(|step| step.actor).chain([1]).collect())
}

/// A session in the table of raw tokens, which an application had before. Returns its token.
async fn old_session(store: &Store, user: &str, device: &str) -> String {
    put_user(&store.world, user).await;
    let token = format!("{device}-{user}");
    let request = direct(&store.world).put_item().table_name(old_table(&store.world)).item("token", s(&token));
    let request = request.item("user_id", s(user)).item("expires_at", n(now() + 3600));
    request.send().await.expect("an old session");
    token
}

/// Moves over until nothing is left, as the page says.
async fn move_the_rest(store: &mut Store) {
    while store.call("move_over", &[]).await != 0 {}
}

/// A token, if a call has returned one, is not accepted.
async fn assert_refused(store: &mut Store, token: &Value) {
    if let Some(token) = token.as_str() {
        assert_eq!(store.check(token).await, "", "a session that was ended is accepted");
    }
}

/// No version of an application that is moving over accepts a token.
async fn assert_refused_everywhere(store: &mut Store, token: &str) {
    let old = direct(&store.world).get_item().table_name(old_table(&store.world)).key("token", s(token));
    assert!(old.send().await.expect("an answer").item.is_none(), "version A accepts a session that was ended");
    for check in ["check_both", "check"] {
        assert_eq!(store.call(check, &[token]).await, Value::Null, "{check} accepts a session that was ended");
    }
}

/// The function accepts no session of a user.
async fn assert_none_is_active(store: &Store, user: &str) {
    let sessions = store.world.database.rows().await.into_values();
    let active = sessions.filter(|row| row["user_id"] == format!("S:{user}") && row["status"] == "S:active");
    assert_eq!(active.count(), 0, "a session is active after all were ended");
}
