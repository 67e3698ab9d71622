//! The function over HTTP, with the sessions of `make run`.

use hyper::Method;
use serde_json::{Value, json};

use crate::support::watch::Watch;
use crate::support::{World, assert_only_revocations, demo, revoked};

#[tokio::test]
async fn the_function_works_over_http_under_cargo_lambda() {
    let world = World::new().await;
    world.database.put(&demo::sessions()).await;
    let before = world.database.rows().await;
    let watch = Watch::start(&world).await;

    let answer = watch.call(Method::DELETE, &[("X-Session-Token", demo::ALICE)]).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({"count": 3})), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));

    let cookie = format!("theme=dark; ory_kratos_session={}", demo::BOB);
    watch.call(Method::DELETE, &[("Cookie", &cookie)]).await.assert_count(1);

    let bearer = format!("Bearer {}", demo::CAROL);
    watch.call(Method::DELETE, &[("Authorization", &bearer)]).await.assert_error(401, "session_inactive", None);

    let origin = "https://app.example.com";
    let preflight =
        watch.call(Method::OPTIONS, &[("Origin", origin), ("Access-Control-Request-Method", "DELETE")]).await;
    assert_eq!((preflight.status, &preflight.body), (204, &Value::Null), "{preflight:?}");
    assert_eq!(preflight.header("access-control-allow-origin"), Some(origin));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("DELETE"));

    let after = world.database.rows().await;
    assert_only_revocations(&before, &after);
    assert_eq!(revoked(&after), revoked(&before) + 4);
    for caller in ["alice-laptop", "bob-browser"] {
        assert_eq!(after[caller], before[caller]);
    }
}
