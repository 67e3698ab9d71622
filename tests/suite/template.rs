//! `template.yaml` against the function: the role allows what the function does and no more, and the answers of API Gateway
//! itself have the form of the function's answers.
//!
//! The proxy refuses each request that the role does not allow, so the whole suite runs under the role.

use std::collections::{BTreeMap, BTreeSet};

use disable_my_other_sessions::http::origin::AllowedOrigins;
use serde_json::json;

use crate::support::gateway::GatewayResponse;
use crate::support::yaml::{entries, parse, resource, string};
use crate::support::{Action, World, delete, gateway, role};

#[tokio::test]
async fn the_role_may_do_what_the_function_does_and_no_more() {
    let mut done = BTreeSet::new();
    // Lost answers are followed by reads, and more sessions take more than one page.
    for (others, action) in [(30, None), (30, Some(Action::LoseAnswer)), (2_100, None)] {
        let (world, caller) = World::with_others(others).await;
        let mut action = action;
        world.proxy.rule(move |call| match call.operation.as_str() {
            "BatchExecuteStatement" => action.take().unwrap_or(Action::Forward),
            _ => Action::Forward,
        });
        world.press(&caller).await.assert_count(others as u64);
        done.extend(world.proxy.seen().iter().flat_map(|call| role::needed(&call.operation, &call.body)));
    }
    assert_eq!(done, *role::ALLOWED);
    assert!(done.iter().any(|permission| permission.on == role::Resource::Index), "{done:?}");
}

#[test]
fn requests_that_the_role_does_not_allow_are_recognized() {
    let statement = |statement: &str| json!({"Statements": [{"Statement": statement}]});
    for (operation, body, allowed) in [
        ("GetItem", json!({"TableName": "sessions"}), true),
        ("Query", json!({"TableName": "sessions", "IndexName": "user_id-index"}), true),
        ("Query", json!({"TableName": "sessions"}), false),
        ("UpdateItem", json!({"TableName": "sessions"}), false),
        ("Scan", json!({"TableName": "sessions", "IndexName": "user_id-index"}), false),
        ("BatchExecuteStatement", statement(r#"UPDATE "sessions" SET "a"=1"#), true),
        ("BatchExecuteStatement", statement(r#"DELETE FROM "sessions" WHERE "a"=1"#), false),
        ("BatchExecuteStatement", statement(r#"SELECT * FROM "sessions"."user_id-index""#), false),
    ] {
        assert_eq!(role::allows(operation, &body), allowed, "{operation} {body}");
    }
}

#[test]
fn outside_dynamodb_the_role_may_only_log_trace_and_decrypt_the_table() {
    let others: BTreeMap<_, _> = role::statements()
        .filter(|statement| statement.on.is_none())
        .map(|statement| (statement.name, statement.actions))
        .collect();
    let expected = [
        ("OpenTableKey", &["kms:Decrypt"][..]),
        ("WriteLogs", &["logs:CreateLogStream", "logs:PutLogEvents"]),
        ("WriteTraces", &["xray:PutTraceSegments", "xray:PutTelemetryRecords"]),
    ];
    let owned = |actions: &[&str]| actions.iter().map(|&action| action.to_owned()).collect::<Vec<_>>();
    assert_eq!(others, expected.map(|(name, actions)| (name.to_owned(), owned(actions))).into());
}

#[tokio::test]
async fn the_gateways_own_answers_have_the_envelope_and_headers_of_the_functions() {
    let unknown_path = World::new().await.send(delete().path("/").request_id("$context.requestId")).await;
    let mut headers_of_all: BTreeMap<bool, BTreeSet<_>> = BTreeMap::new();
    for GatewayResponse { kind, has_origins, answer } in gateway::responses() {
        let error = answer.body["error"].as_object().expect("an error");
        let names: BTreeSet<_> = error.keys().map(String::as_str).collect();
        assert_eq!(names, ["code", "id", "message", "reason", "request", "status"].into(), "{kind}");
        assert_eq!(error["code"], answer.status, "{kind}");
        assert_eq!(error["request"], "$context.requestId", "{kind}");
        if answer.status == 404 {
            assert_eq!(answer.body, unknown_path.body, "{kind}");
        }
        let mut headers = answer.headers;
        assert_eq!(headers.remove("retry-after").is_some(), [429, 504].contains(&answer.status), "{kind}");
        headers_of_all.entry(has_origins).or_default().insert(headers);
    }
    let kinds: BTreeSet<_> = gateway::responses().map(|response| response.kind).collect();
    for kind in ["DEFAULT_4XX", "DEFAULT_5XX", "THROTTLED", "MISSING_AUTHENTICATION_TOKEN", "INTEGRATION_TIMEOUT"] {
        assert!(kinds.contains(kind), "{kind}");
    }
    // The same headers in all responses: without an allowed origin those of the function, and with one those of CORS too.
    let mut expected = unknown_path.headers;
    assert_eq!(headers_of_all[&false], [expected.clone()].into());
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "Retry-After"),
        ("access-control-max-age", "7200"),
    ] {
        expected.insert(name.to_owned(), value.to_owned());
    }
    assert_eq!(headers_of_all[&true], [expected].into());
}

#[test]
fn the_template_accepts_the_origins_with_which_the_function_starts() {
    let template = parse(include_str!("../../template.yaml"));
    let pattern = string(&template["Parameters"]["AllowedOrigins"]["AllowedPattern"]);
    let pattern = fancy_regex::Regex::new(pattern).expect("a pattern");
    for list in [
        "",
        "https://app.example.com",
        "https://app.example.com,http://localhost:3000",
        "https://app.example.com, http://localhost:3000",
        "https://app.example.com,  capacitor://localhost, tauri://localhost, ionic://localhost",
        "chrome-extension://aapbbdbdomjkkjkaonfhkkikfgjllcleb",
        "safari-web-extension://5A6B7C8D-0D3A-4A5B-9C6D-7E8F9A0B1C2D",
        "http://[::1]:3000",
        "https://a.example:80",
        "http://a.example:443",
    ] {
        assert!(pattern.is_match(list).expect("a match or none"), "{list}");
        assert!(AllowedOrigins::parse(list).is_ok(), "{list}");
    }
    for list in [
        "*",
        "null",
        "app.example.com",
        "https://",
        "https://*.example.com",
        "https://a.example/",
        "https://App.example.com",
        "http://App.example.com",
        "Capacitor://localhost",
        "https://a.example:443",
        "https://b.example, https://a.example:443, https://c.example",
        "http://a.example:80",
        "http://a.example:80,https://a.example",
        "capacitor://localhost/",
        "https://a.example https://b.example",
        "https://a.examplehttps://b.example",
        "https://a.example;https://b.example",
    ] {
        assert!(!pattern.is_match(list).expect("a match or none"), "{list}");
        assert!(AllowedOrigins::parse(list).is_err(), "{list}");
    }
    // Gateway responses name the first entry as it stands, in quotes. So nothing may stand before or after it, and no quote in it.
    for list in [
        " https://a.example",
        "https://a.example ,https://b.example",
        "https://a.example,",
        "https://a.example ",
        ",",
        " ",
        "https://a'b",
    ] {
        assert!(!pattern.is_match(list).expect("a match or none"), "{list}");
    }
}

/// The function's 503 has the exact count. API Gateway's 504 has none.
#[test]
fn the_gateway_waits_a_second_longer_than_the_function_runs() {
    let paths: BTreeMap<_, _> = entries(&resource("RestApi")["DefinitionBody"]["paths"]).collect();
    assert_eq!(paths.keys().copied().collect::<Vec<_>>(), ["/", "/auth/sessions"]);
    let function = resource("Function")["Timeout"].as_u64().expect("seconds");
    for (path, methods) in paths {
        let integration = &methods["x-amazon-apigateway-any-method"]["x-amazon-apigateway-integration"];
        let gateway = integration["timeoutInMillis"].as_u64().expect("milliseconds");
        assert!((function + 1) * 1_000 <= gateway, "{path}: {function} s, {gateway} ms");
    }
}

#[test]
fn aliases_are_followed_and_tags_become_functions() {
    let text = "
        first: &first {a: 1, b: [x, true, null, 0.5, '1']}
        second: *first
        third: !If [Condition, *first, !Ref Name]
        fourth: !GetAtt Table.Arn
    ";
    let first = json!({"a": 1, "b": ["x", true, null, 0.5, "1"]});
    let expected = json!({
        "first": first,
        "second": first,
        "third": {"Fn::If": ["Condition", first, {"Ref": "Name"}]},
        "fourth": {"Fn::GetAtt": "Table.Arn"},
    });
    assert_eq!(parse(text), expected);
}
