//! Each file of `events/`, and the complete answer to it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::support::{World, demo, revoked};

/// The name of an event, the status, the headers in addition to those of every answer, the body, and the number of revoked
/// sessions in the table afterwards. One is revoked before.
type Case = (&'static str, u64, Vec<(&'static str, &'static str)>, String, u64);

/// The headers of an answer to a preflight that is granted these headers.
fn preflight(granted: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![
        ("access-control-allow-headers", granted),
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "DELETE"),
        ("access-control-expose-headers", "Retry-After"),
        ("access-control-max-age", "7200"),
        ("allow", "DELETE, OPTIONS"),
        ("vary", "Origin, Access-Control-Request-Headers"),
    ]
}

/// The members of an error in the order in which they are sent: code, id, message, reason, request, status.
fn error(code: u64, id: &str, message: &str, reason: &str, request: &str, status: &str) -> String {
    format!(
        r#"{{"error":{{"code":{code},"id":"{id}","message":"{message}","reason":"{reason}","request":"{request}","status":"{status}"}}}}"#
    )
}

fn malformed(request: &str) -> String {
    let reason =
        "The session token is not an RFC 7235 token68 of 1 to 4096 characters, or comes with two different values.";
    error(400, "malformed_credentials", "The request was malformed.", reason, request, "Bad Request")
}

fn no_credential(request: &str) -> String {
    let reason = "No active session was found for the credentials of the request.";
    error(401, "session_inactive", "The request could not be authorized.", reason, request, "Unauthorized")
}

fn cross_site(request: &str) -> String {
    let reason = "The session cookie was sent from a web origin that is not allowed to use it.";
    error(403, "security_csrf_violation", "The requested action was forbidden.", reason, request, "Forbidden")
}

fn wrong_path(request: &str) -> String {
    let reason = "The only route is DELETE /auth/sessions.";
    error(404, "route_not_found", "The requested resource could not be found.", reason, request, "Not Found")
}

fn wrong_method(request: &str) -> String {
    let message = "The method is not allowed on this resource.";
    let reason = "Sessions are disabled with DELETE.";
    error(405, "method_not_allowed", message, reason, request, "Method Not Allowed")
}

fn cases() -> Vec<Case> {
    let alice = || r#"{"count":3}"#.to_owned();
    let bob = || r#"{"count":1}"#.to_owned();
    let allow = ("allow", "DELETE, OPTIONS");
    let authenticate = ("www-authenticate", "Bearer realm=\"sessions\"");
    vec![
        ("rest-token", 200, vec![], alice(), 4),
        ("rest-cookie", 200, vec![], bob(), 2),
        ("rest-bearer", 200, vec![], alice(), 4),
        ("rest-several-cookies", 200, vec![], bob(), 2),
        ("rest-no-credential", 401, vec![authenticate], no_credential("0a1b2c3d-0005-4e5f-8a9b-0c1d2e3f4a5b"), 1),
        ("rest-malformed", 400, vec![], malformed("0a1b2c3d-0006-4e5f-8a9b-0c1d2e3f4a5b"), 1),
        ("rest-wrong-path", 404, vec![], wrong_path("0a1b2c3d-0007-4e5f-8a9b-0c1d2e3f4a5b"), 1),
        ("rest-wrong-method", 405, vec![allow], wrong_method("0a1b2c3d-0008-4e5f-8a9b-0c1d2e3f4a5b"), 1),
        ("rest-cross-site", 403, vec![], cross_site("0a1b2c3d-0009-4e5f-8a9b-0c1d2e3f4a5b"), 1),
        ("rest-preflight", 204, preflight("x-session-token"), String::new(), 1),
        ("rest-null-origin", 200, vec![], bob(), 2),
        ("http-token", 200, vec![], alice(), 4),
        ("http-cookie", 200, vec![], bob(), 2),
        ("http-several-cookies", 200, vec![], bob(), 2),
        ("http-no-credential", 401, vec![authenticate], no_credential("0a1b2c3d-0015-4e5f-8a9b-0c1d2e3f4a5b"), 1),
        ("http-cross-site", 403, vec![], cross_site("0a1b2c3d-0019-4e5f-8a9b-0c1d2e3f4a5b"), 1),
        ("http-preflight", 204, preflight("baggage, sentry-trace, x-requested-with"), String::new(), 1),
        ("http-mapped-path", 200, vec![], alice(), 4),
        ("function-url-token", 200, vec![], alice(), 4),
        ("function-url-cookie", 200, vec![], bob(), 2),
        ("function-url-cookie-header", 200, vec![], bob(), 2),
        ("alb-token", 200, vec![], alice(), 4),
        ("alb-cookie", 200, vec![], bob(), 2),
        ("alb-not-utf-8", 200, vec![], bob(), 2),
        ("alb-multi-value-bearer", 200, vec![], alice(), 4),
        ("alb-multi-value-not-utf-8", 200, vec![], alice(), 4),
        ("alb-multi-value-malformed", 400, vec![], malformed("lambda-request-id"), 1),
    ]
}

/// The answer as the gateway of an event expects it.
fn answer((event, status, headers, body, _): &Case) -> Value {
    let mut all = vec![
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("vary", "Origin"),
    ];
    all.extend(headers);
    let single: Map<String, Value> = all.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let multi: Map<String, Value> = all.iter().map(|(name, value)| ((*name).to_owned(), json!([value]))).collect();
    match event.split('-').next() {
        Some("rest") => json!({
            "statusCode": status, "headers": {}, "multiValueHeaders": multi, "body": body, "isBase64Encoded": false,
        }),
        Some("alb") => json!({
            "statusCode": status, "headers": single, "multiValueHeaders": multi, "body": body, "isBase64Encoded": false,
            "statusDescription": if *status == 200 { "200 OK" } else { "400 Bad Request" },
        }),
        _ => json!({
            "statusCode": status, "headers": single, "multiValueHeaders": {}, "body": body, "isBase64Encoded": false,
            "cookies": [],
        }),
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("events")
}

#[tokio::test]
async fn each_event_gets_exactly_its_answer() {
    for case in cases() {
        let world = World::new().await;
        world.database.put(&demo::sessions()).await;
        let event = std::fs::read(folder().join(case.0).with_extension("json")).expect("an event");
        assert_eq!(world.invoke_bytes(&event).await, answer(&case), "{}", case.0);
        assert_eq!(revoked(&world.database.rows().await), case.4, "{}", case.0);
    }
}

#[test]
fn every_event_has_a_test() {
    let files = std::fs::read_dir(folder()).expect("the folder");
    let files: BTreeSet<String> =
        files.map(|file| file.expect("a file").file_name().into_string().expect("a name")).collect();
    let tested: BTreeSet<String> = cases().iter().map(|case| format!("{}.json", case.0)).collect();
    assert_eq!(files, tested);
}
