//! Which requests reach the operation, and what every answer has in common.

use serde_json::{Value, json};

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
async fn a_body_is_ignored() {
    for body in [json!("{\"count\":7}"), json!("not base64!"), json!(7), json!({"a": []})] {
        for encoded in [true, false] {
            let (world, caller) = World::with_others(1).await;
            let mut event = delete().token(&caller.token).into_event();
            event["body"] = body.clone();
            event["isBase64Encoded"] = json!(encoded);
            Answer::from_gateway(&world.invoke(&event).await).assert_count(1);
        }
    }
}

#[tokio::test]
async fn every_answer_is_json_that_is_neither_stored_nor_sniffed() {
    let (world, caller) = World::with_others(1).await;
    for request in [
        delete().token(&caller.token),
        delete(),
        delete().token("not a token"),
        delete().path("/"),
        delete().method("GET"),
        delete().method("OPTIONS"),
        delete().cookie(&caller.token).header("Origin", "https://evil.example"),
    ] {
        let answer = world.send(request).await;
        assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
    }
}

#[tokio::test]
async fn an_error_has_every_field_of_the_envelope() {
    let world = World::new().await;
    for (request, code, status, id) in [
        (delete().token("a b"), 400, "Bad Request", "malformed_credentials"),
        (delete(), 401, "Unauthorized", "session_inactive"),
        (delete().cookie("a").header("Origin", "null"), 403, "Forbidden", "security_csrf_violation"),
        (delete().path("/"), 404, "Not Found", "route_not_found"),
        (delete().method("GET"), 405, "Method Not Allowed", "method_not_allowed"),
    ] {
        let answer = world.send(request).await;
        assert_eq!(answer.status, code);
        let error = answer.body["error"].as_object().expect("an error");
        assert_eq!(error["code"], json!(code));
        assert_eq!(error["status"], status);
        assert_eq!(error["id"], id);
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert!(error["reason"].as_str().is_some_and(|reason| reason.ends_with('.')));
        assert_eq!(error["request"], "gateway-request-id");
        assert_eq!(error.len(), 6, "{error:?}");
    }
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

#[tokio::test]
async fn the_count_is_an_integer_literal() {
    let (world, caller) = World::with_others(1).await;
    let answer = world.invoke(&delete().token(&caller.token).into_event()).await;
    assert_eq!(answer["body"], r#"{"count":1}"#);
    assert_eq!(answer["isBase64Encoded"], false);
}

#[tokio::test]
async fn each_gateway_gets_the_answer_in_its_format() {
    let world = World::new().await;
    let answer = |gateway| {
        let event = delete().through(gateway).into_event();
        let world = &world;
        async move { world.invoke(&event).await }
    };
    let unauthorized = "Bearer realm=\"sessions\"";
    assert_eq!(answer(Gateway::Rest).await["multiValueHeaders"]["www-authenticate"], json!([unauthorized]));
    assert_eq!(answer(Gateway::Http).await["headers"]["www-authenticate"], unauthorized);
    let alb = answer(Gateway::Alb).await;
    assert_eq!(alb["headers"]["www-authenticate"], unauthorized);
    assert_eq!(alb["multiValueHeaders"]["www-authenticate"], json!([unauthorized]));
    assert_eq!(alb["statusDescription"], "401 Unauthorized");
}

#[tokio::test]
async fn an_event_with_missing_parts_is_served() {
    let (world, caller) = World::with_others(1).await;
    let event = json!({
        "httpMethod": "DELETE", "path": "/sessions", "multiValueHeaders": null, "requestContext": Value::Null,
        "headers": {"x-session-token": caller.token, "x-number": 7, "x-null": null},
    });
    Answer::from_gateway(&world.invoke(&event).await).assert_count(1);
}
