//! Which requests reach the operation, and by which id an answer names its request.

use serde_json::json;

use crate::support::{Answer, Gateway, World, delete};

#[tokio::test]
async fn the_last_path_segment_is_the_route() {
    for gateway in Gateway::ALL {
        let (world, caller) = World::with_others(1).await;
        let request = |path: &str| delete().through(gateway).path(path).token(&caller.token);
        for path in [
            "/auth/sessions//",
            "/auth/sessions/7",
            "/auth/sessions/7/",
            "/auth/session",
            "/auth/Sessions",
            "/auth%2fsessions",
            "/auth/%73essions",
            "/auth/sessions%2f",
            "/auth/sessions;v=1",
            "/auth/sessions/.",
            "/",
            "",
            "/sessions2",
            "*",
        ] {
            world.send(request(path)).await.assert_error(404, "route_not_found", None);
        }
        assert!(world.proxy.seen().is_empty());
        for (number, path) in [
            "/sessions",
            "/auth/sessions",
            "/auth/sessions/",
            "/prod/auth/sessions",
            "/a/b/c/sessions",
            "//sessions",
            "/auth/../sessions",
            "/a%2fb;v=1/sessions",
        ]
        .into_iter()
        .enumerate()
        {
            world.send(request(path)).await.assert_count(u64::from(number == 0));
        }
    }
}

#[tokio::test]
async fn other_methods_are_refused_and_cannot_be_overridden() {
    let (world, caller) = World::with_others(1).await;
    for gateway in Gateway::ALL {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "delete", "PURGE"] {
            let request = delete()
                .through(gateway)
                .method(method)
                .token(&caller.token)
                .header("X-HTTP-Method-Override", "DELETE")
                .header("X-Method-Override", "DELETE");
            let mut event = request.into_event();
            event["queryStringParameters"] = json!({"_method": "DELETE"});
            event["body"] = json!("_method=DELETE");
            let answer = Answer::from_gateway(&world.invoke(&event).await);
            answer.assert_error(405, "method_not_allowed", None);
            assert_eq!(answer.header("allow"), Some("DELETE, OPTIONS"));
        }
    }
    assert!(world.proxy.seen().is_empty());
}

#[tokio::test]
async fn the_request_id_is_that_of_the_gateway_or_else_that_of_lambda() {
    for (gateway, id) in [
        (Gateway::Rest, "gateway-request-id"),
        (Gateway::Http, "gateway-request-id"),
        (Gateway::Alb, "lambda-request-id"),
        (Gateway::AlbMultiValue, "lambda-request-id"),
    ] {
        assert_eq!(World::new().await.send(delete().through(gateway)).await.body["error"]["request"], id);
    }
    let without_id = delete().request_id("");
    assert_eq!(World::new().await.send(without_id).await.body["error"]["request"], "lambda-request-id");
}
