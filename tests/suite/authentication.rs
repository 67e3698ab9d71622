//! Who may call, and what every other caller is answered.

use aws_sdk_dynamodb::types::AttributeValue;

use crate::support::events::Request;
use crate::support::{Answer, Gateway, Session, World, assert_only_revocations, delete, n, now, s, sessions_of};

/// Asserts that a request is refused with 401 and changes nothing in the table.
async fn assert_unauthorized(world: &World, request: Request) -> Answer {
    let before = world.database.rows().await;
    let answer = world.send(request).await;
    answer.assert_error(401, "session_inactive", None);
    assert_eq!(world.database.rows().await, before);
    assert_eq!(world.proxy.count("BatchExecuteStatement"), 0);
    answer
}

#[tokio::test]
async fn each_kind_of_credential_works_behind_each_gateway() {
    for gateway in Gateway::ALL {
        for send in [Request::token, Request::cookie, Request::bearer] {
            let (world, caller) = World::with_others(2).await;
            let before = world.database.rows().await;
            world.send(send(delete().through(gateway), &caller.token)).await.assert_count(2);
            let after = world.database.rows().await;
            assert_only_revocations(&before, &after);
            assert_eq!(after["caller"], before["caller"]);
        }
    }
}

#[tokio::test]
async fn every_invalid_session_gets_the_same_401() {
    let world = World::new().await;
    let number = |value: &str| AttributeValue::N(value.to_owned());
    let sessions = [
        Session::of("alice", "expired").with("expires_at", n(now() - 1)),
        Session::of("alice", "expires-now").with("expires_at", n(now())),
        Session::of("alice", "expired-with-fraction").with("expires_at", number("1.5")),
        Session::of("alice", "expired-long-ago").with("expires_at", number("-9.9E+40")),
        Session::of("alice", "revoked").with("status", s("revoked")),
        Session::of("alice", "suspended").with("status", s("suspended")),
        Session::of("alice", "shouting").with("status", s("ACTIVE")),
        Session::of("alice", "spaced").with("status", s("active ")),
        Session::of("alice", "status-of-another-type").with("status", n(1)),
        Session::of("alice", "without-status").without("status"),
        Session::of("alice", "without-expiry").without("expires_at"),
        Session::of("alice", "expiry-of-another-type").with("expires_at", s(&(now() + 3600).to_string())),
        Session::of("alice", "revoked-without-owner").with("status", s("revoked")).without("user_id"),
    ];
    world.database.put(&sessions).await;
    world.database.put(&sessions_of("alice", 2)).await;
    let nobody = assert_unauthorized(&world, delete()).await;
    for token in ["unknown", Session::of("alice", "alice-0").token_hash()] {
        assert_eq!(assert_unauthorized(&world, delete().token(token)).await, nobody);
    }
    for session in &sessions {
        assert_eq!(assert_unauthorized(&world, delete().token(&session.token)).await, nobody, "{}", session.id());
    }
}

#[tokio::test]
async fn an_expiry_with_a_fraction_or_an_exponent_is_a_number() {
    for expires_at in ["99999999999.5", "9.9E+40"] {
        let world = World::new().await;
        let caller = Session::of("alice", "caller").with("expires_at", n(expires_at));
        world.database.put(std::slice::from_ref(&caller)).await;
        world.press(&caller).await.assert_count(0);
    }
}

#[tokio::test]
async fn an_active_session_without_owner_or_id_is_an_internal_error() {
    let world = World::new().await;
    let broken = [
        Session::of("alice", "without-owner").without("user_id"),
        Session::of("alice", "without-id").without("session_id"),
        Session::of("alice", "id-of-another-type").with("session_id", n(7)),
        Session::of("alice", "empty-id").with("session_id", s("")),
    ];
    world.database.put(&sessions_of("alice", 1)).await;
    for session in broken {
        world.database.put(std::slice::from_ref(&session)).await;
        world.press(&session).await.assert_error(500, "internal_error", None);
        assert_eq!(world.proxy.count("Query"), 0);
    }
}

#[tokio::test]
async fn a_malformed_credential_is_refused_before_the_table_is_read() {
    let (world, caller) = World::with_others(1).await;
    for gateway in Gateway::ALL {
        for request in [
            delete().token("not a token").cookie(&caller.token),
            delete().token("\u{fc}"),
            delete().cookie("\"half"),
            delete().bearer("a b"),
        ] {
            let answer = world.send(request.through(gateway)).await;
            answer.assert_error(400, "malformed_credentials", None);
        }
    }
    assert!(world.proxy.seen().is_empty());
}

#[tokio::test]
async fn the_cookie_name_can_be_configured() {
    let (mut world, caller) = World::with_others(1).await;
    "__Host-session".clone_into(&mut world.config.cookie_name);
    assert_unauthorized(&world, delete().cookie(&caller.token)).await;
    world.send(delete().header("Cookie", &format!("a=b; __Host-session={}", caller.token))).await.assert_count(1);
}

#[tokio::test]
async fn authentication_is_strongly_consistent_and_reads_only_what_it_needs() {
    let (world, caller) = World::with_others(0).await;
    world.press(&caller).await.assert_count(0);
    let get = world.proxy.seen().into_iter().find(|call| call.operation == "GetItem").expect("a read");
    assert_eq!(get.body["ConsistentRead"], true);
    assert_eq!(
        get.body["ProjectionExpression"],
        "token_hash, session_id, user_id, #status, expires_at, authenticated_at"
    );
}

#[tokio::test]
async fn with_a_maximum_age_a_session_authenticated_before_it_revokes_nothing() {
    let number = |value: &str| AttributeValue::N(value.to_owned());
    for (authenticated_at, is_fresh) in [
        (Some(n(now())), true),
        (Some(n(now() - 800)), true),
        (Some(number(&format!("{}.5", now() - 10))), true),
        (Some(n(now() - 901)), false),
        (Some(n(0)), false),
        (Some(n((now() - 10) * 1_000)), false),
        (Some(s(&now().to_string())), false),
        (None, false),
    ] {
        let mut world = World::new().await;
        let mut caller = Session::of("alice", "caller");
        if let Some(value) = authenticated_at.clone() {
            caller = caller.with("authenticated_at", value);
        }
        world.database.put(std::slice::from_ref(&caller)).await;
        world.database.put(&sessions_of("alice", 2)).await;
        let before = world.database.rows().await;

        world.config.max_authentication_age = Some(std::time::Duration::from_mins(15));
        let answer = world.press(&caller).await;
        if is_fresh {
            answer.assert_count(2);
            continue;
        }
        answer.assert_error(403, "session_refresh_required", None);
        assert_eq!(world.database.rows().await, before);
        assert_eq!(world.proxy.count("Query") + world.proxy.count("BatchExecuteStatement"), 0);

        world.config.max_authentication_age = None;
        world.press(&caller).await.assert_count(2);
    }
}
