//! The binary that is deployed, run on its own Runtime API: how it starts, and what it logs.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::runtime::{Function, run};
use crate::support::{Action, Session, World, delete, s, sessions_of};

#[tokio::test]
async fn the_first_call_finds_its_connections_open() {
    let (world, caller) = World::with_others(3).await;
    let mut function = Function::start(&world, &[]).await;
    function.send(delete().token(&caller.token)).await.assert_count(3);
    let operations: Vec<_> = world.proxy.seen().into_iter().map(|call| call.operation).collect();
    let reads_and_writes = ["GetItem", "Query", "BatchExecuteStatement", "Query"];
    assert_eq!(operations, [&["GetItem", "GetItem"][..], &reads_and_writes].concat());
    assert_eq!(world.proxy.connections(), 2, "the call has opened another connection");
}

#[tokio::test]
async fn the_function_starts_even_if_dynamodb_cannot_be_reached() {
    let actions: [fn() -> Action; 3] =
        [|| Action::Hang, || Action::Refuse, || Action::Fail(400, "AccessDeniedException")];
    for action in actions {
        let (world, caller) = World::with_others(3).await;
        world.proxy.rule(move |call| {
            if (call.operation.as_str(), call.number) == ("GetItem", 0) { action() } else { Action::Forward }
        });
        let mut function = Function::start(&world, &[]).await;
        function.send(delete().token(&caller.token)).await.assert_count(3);
    }
}

#[tokio::test]
async fn an_event_that_is_not_of_a_gateway_fails_its_invocation_and_no_other() {
    let (world, caller) = World::with_others(1).await;
    let mut function = Function::start(&world, &[]).await;
    for event in [json!(null), json!({}), json!({"Records": ["canary"]})] {
        let error = function.invoke(event).await.expect_err("no answer");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
    function.send(delete().token(&caller.token)).await.assert_count(1);
}

#[tokio::test]
async fn a_bad_configuration_stops_the_start_with_an_error_that_names_the_variable() {
    for (variable, value) in [
        ("SESSIONS_TABLE", ""),
        ("SESSIONS_TABLE", "no table name"),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "https://app.example.com/"),
        ("SESSION_COOKIE_NAME", "a=b"),
        ("MAX_AUTHENTICATION_AGE", "soon"),
        ("ERROR_DEBUG", "maybe"),
        ("AWS_REGION", ""),
        ("AWS_ENDPOINT_URL_DYNAMODB", "localhost:8000"),
    ] {
        for format in ["Text", "JSON"] {
            let output = run(&[(variable, value), ("AWS_LAMBDA_LOG_FORMAT", format)]).await;
            assert!(!output.success, "{variable}={value}");
            assert!(output.stdout.contains(variable), "{output:?}");
            assert_eq!(output.stderr, "");
        }
    }
}

#[tokio::test]
async fn missing_credentials_are_logged_at_the_start_and_answered_with_an_internal_error() {
    let (world, caller) = World::with_others(1).await;
    let none = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_EC2_METADATA_DISABLED", "true")];
    let mut function = Function::start(&world, &none).await;
    function.send(delete().token(&caller.token)).await.assert_error(500, "internal_error", None);
    let output = function.stop().await;
    let (warning, error) = output.stdout.split_once('\n').expect("two lines");
    assert!(warning.contains("WARN") && warning.contains("no credentials could be loaded"), "{warning}");
    assert!(error.contains("ERROR") && error.contains("no credentials could be loaded"), "{error}");
    assert_eq!(world.proxy.seen().len(), 0);
}

#[tokio::test]
async fn a_wrong_table_or_index_name_is_logged_with_its_variable() {
    let (world, caller) = World::with_others(1).await;
    for (variable, value) in [("SESSIONS_TABLE", "no-such-table"), ("USER_ID_INDEX", "no-such-index")] {
        let mut function = Function::start(&world, &[(variable, value)]).await;
        function.send(delete().token(&caller.token)).await.assert_error(500, "internal_error", None);
        let output = function.stop().await.stdout;
        assert!(output.contains(value) && output.contains(variable), "{output}");
    }
}

#[tokio::test]
async fn invalid_log_settings_are_reported() {
    let (world, _) = World::with_others(0).await;
    for (variable, value) in
        [("RUST_LOG", "loud=very"), ("AWS_LAMBDA_LOG_LEVEL", "LOUD"), ("AWS_LAMBDA_LOG_FORMAT", "XML")]
    {
        let mut function = Function::start(&world, &[(variable, value)]).await;
        function.invoke(delete().into_event()).await.expect("an answer");
        let output = function.stop().await.stdout;
        assert!(output.contains("WARN") && output.contains(variable), "{output}");
        assert!(output.contains("request served"), "{output}");
    }
}

#[tokio::test]
async fn in_the_json_format_every_line_is_an_object_with_time_and_level() {
    let (world, caller) = World::with_others(1).await;
    let mut function = Function::start(&world, &[("AWS_LAMBDA_LOG_FORMAT", "JSON")]).await;
    let mut answers = Vec::new();
    for request in [delete().token(&caller.token), delete(), delete().path("/")] {
        answers.push(function.invoke(request.into_event()).await.expect("an answer"));
    }
    world.proxy.rule(|_| Action::Fail(400, "AccessDeniedException"));
    answers.push(function.invoke(delete().token(&caller.token).into_event()).await.expect("an answer"));
    function.invoke(json!({})).await.expect_err("no answer");
    let output = function.stop().await;
    let lines: Vec<Value> =
        output.stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert!(lines.len() >= 5, "{}", output.stdout);
    for line in &lines {
        assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let requests: Vec<&Value> = lines.iter().filter(|line| line["_aws"].is_object()).collect();
    let outcomes: Vec<&str> = requests.iter().map(|line| line["Outcome"].as_str().expect("an outcome")).collect();
    assert_eq!(outcomes, ["revoked", "session_inactive", "route_not_found", "internal_error"], "{}", output.stdout);
    assert_eq!(requests[3]["level"], "ERROR");
    assert!(
        requests[3]["error"].as_str().is_some_and(|m| m.contains("GetItem") && m.contains("AccessDeniedException"))
    );
}

#[tokio::test]
async fn the_log_line_of_a_request_has_what_was_done_and_its_metrics() {
    let (world, caller) = World::with_others(30).await;
    world.proxy.rule(|call| match (call.operation.as_str(), call.number) {
        ("Query" | "BatchExecuteStatement", 0) => Action::Fail(500, "InternalServerError"),
        _ => Action::Forward,
    });
    let mut function = Function::start(&world, &[("AWS_LAMBDA_LOG_FORMAT", "JSON")]).await;
    for request in [delete().token(&caller.token).request_id("first"), delete().request_id("second")] {
        function.invoke(request.into_event()).await.expect("an answer");
    }
    let output = function.stop().await;
    let lines = output.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    let lines: Vec<Value> = lines.filter(|line| line.get("_aws").is_some()).collect();
    let [served, refused] = &lines[..] else { panic!("{}", output.stdout) };

    for line in [served, refused] {
        let line = line.as_object().expect("an object");
        for directive in line["_aws"]["CloudWatchMetrics"].as_array().expect("directives") {
            assert_eq!(directive["Namespace"], "disable-my-other-sessions");
            let sets = directive["Dimensions"].as_array().expect("sets of dimensions");
            for dimension in sets.iter().filter_map(Value::as_array).flatten() {
                assert!(line[dimension.as_str().expect("a name")].is_string(), "{dimension}: {line:?}");
            }
            for metric in directive["Metrics"].as_array().expect("metrics") {
                assert!(line[metric["Name"].as_str().expect("a name")].is_number(), "{metric}: {line:?}");
            }
        }
        let age = u128::from(line["_aws"]["Timestamp"].as_u64().expect("milliseconds")).abs_diff(now_in_millis());
        assert!(age < 60_000, "{age}");
    }

    let mut served = served.clone();
    let line = served.as_object_mut().expect("an object");
    line.retain(|name, _| !["_aws", "timestamp"].contains(&name.as_str()));
    for name in ["Duration", "authenticate_ms", "revoke_ms"] {
        assert!(line.remove(name).is_some_and(|time| time.as_f64().is_some_and(|time| time > 0.0)), "{name}");
    }
    assert_eq!(
        served,
        json!({
            "level": "INFO", "message": "request served", "FunctionName": "disable-my-other-sessions",
            "Outcome": "revoked", "Requests": 1, "SessionsRevoked": 30, "DynamoDBRetries": 2, "status": 200,
            "request": "first", "lambda_request": "lambda-request-id",
            "trace": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
            "cold_start": true, "session": "caller",
            "looks": 2, "pages": 2, "writes": 3,
            // Both looks at the index read all 31 entries, revoked or not.
            "entries": 62,
        })
    );
    assert_eq!(refused["error"], "session inactive: no credential");
    assert_eq!(
        (&refused["cold_start"], &refused["status"], &refused["request"]),
        (&json!(false), &json!(401), &json!("second"))
    );
    assert_eq!(refused.get("session"), None);
}

fn now_in_millis() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis()
}

#[tokio::test]
async fn nothing_is_logged_below_the_configured_level() {
    let (world, caller) = World::with_others(1).await;
    for variables in [&[("AWS_LAMBDA_LOG_LEVEL", "ERROR")][..], &[("RUST_LOG", "error")], &[("RUST_LOG", "off")]] {
        let mut function = Function::start(&world, variables).await;
        function.invoke(delete().token(&caller.token).into_event()).await.expect("an answer");
        assert_eq!(function.stop().await.stdout, "", "{variables:?}");
    }
}

#[tokio::test]
async fn no_secret_reaches_the_log_at_any_level_or_an_answer() {
    let text = [("RUST_LOG", "trace"), ("AWS_LAMBDA_LOG_LEVEL", "TRACE"), ("ERROR_DEBUG", "true")];
    let json = [("RUST_LOG", "trace,aws_smithy_runtime=trace,hyper=trace"), ("AWS_LAMBDA_LOG_FORMAT", "JSON")];
    tokio::join!(assert_that_no_secret_is_printed(&text, true), assert_that_no_secret_is_printed(&json, false));
}

/// `debug` is whether the errors of a function with these variables say more.
async fn assert_that_no_secret_is_printed(variables: &[(&str, &str)], debug: bool) {
    let actions: [fn() -> Action; 6] = [
        || Action::Forward,
        || Action::Fail(400, "ThrottlingException"),
        || Action::Fail(400, "ValidationException"),
        || Action::Garbage,
        || Action::Refuse,
        || Action::Edit(Box::new(|answer| *answer = json!({"Item": {"canary": 7}, "Items": "canary"}))),
    ];
    // Most calls wait through their back-offs, so they wait together.
    let (answers, logs): (Vec<_>, Vec<_>) =
        join_all(actions.map(|action| answers_and_log(variables, action))).await.into_iter().unzip();
    let (answers, log) = (answers.concat(), logs.concat());
    for cause in ["internal_error", "ThrottlingException", "ValidationException", "cannot be read", "connection failed"]
    {
        assert!(log.contains(cause), "no {cause} was logged, so this shows nothing: {log}");
    }
    let printed = answers + &log;
    assert_eq!(printed.contains("\\\"debug\\\""), debug);
    assert!(!printed.contains("canary"), "{printed}");
    for session in canaries().iter().chain([&canary(), &Session::of("x", "y")]) {
        assert!(!printed.contains(session.token_hash()), "{printed}");
    }
}

fn canary() -> Session {
    Session::with_token("canary-user", "caller-id", "canary-token").with("device", s("canary-device"))
}

fn canaries() -> Vec<Session> {
    sessions_of("canary-user", 30)
}

/// Calls a function with these variables in every way, while every request to DynamoDB meets this action.
async fn answers_and_log(variables: &[(&str, &str)], action: fn() -> Action) -> (String, String) {
    let (world, caller) = (World::new().await, canary());
    world.database.put(std::slice::from_ref(&caller)).await;
    world.database.put(&canaries()).await;
    world.proxy.rule(move |_| action());
    let mut function = Function::start(&world, variables).await;
    let mut answers = String::new();
    for request in [
        delete().token(&caller.token),
        delete().cookie(&caller.token),
        delete().bearer(&caller.token),
        delete().token("canary token"),
        delete().token("token-y"),
        delete().cookie(&caller.token).header("Origin", "https://canary.example"),
        delete().path("/canary"),
    ] {
        answers += &function.invoke(request.into_event()).await.expect("an answer").to_string();
    }
    answers += &function.invoke(json!({"canary": "canary"})).await.expect_err("no answer").to_string();
    let output = function.stop().await;
    (answers, output.stdout + &output.stderr)
}
