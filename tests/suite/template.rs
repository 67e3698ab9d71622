//! `template.yaml` against the function: its role may do in DynamoDB what the function does and no more, and what API
//! Gateway answers by itself looks like what the function answers.
//!
//! The proxy asks [`allows`] about each request, so no test of the suite passes with a call that the role forbids.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use saphyr::{LoadableYamlNode, Yaml};
use serde_json::{Value, json};

use crate::support::proxy::Call;
use crate::support::{Action, Answer, World, delete};

static TEMPLATE: LazyLock<Yaml<'static>> = LazyLock::new(|| {
    let mut documents = Yaml::load_from_str(include_str!("../../template.yaml")).expect("template.yaml to be YAML");
    documents.remove(0)
});

/// What the role may do in DynamoDB.
static ALLOWED: LazyLock<BTreeSet<Permission>> = LazyLock::new(|| {
    let statements = statements().filter(|statement| statement.actions.iter().any(|a| a.starts_with("dynamodb:")));
    statements
        .flat_map(|statement| {
            let on = statement.on.expect("the table or its index, wherever it is from");
            statement.actions.into_iter().map(move |action| Permission { action, on })
        })
        .collect()
});

/// An action of IAM's, and what it is done to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Permission {
    action: String,
    on: Resource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Resource {
    Table,
    Index,
}

/// A statement of the role's policy.
struct Statement {
    name: String,
    actions: Vec<String>,
    on: Option<Resource>,
}

/// Whether the role may make this call.
pub fn allows(call: &Call) -> bool {
    needed(call).is_subset(&ALLOWED)
}

#[tokio::test]
async fn the_role_may_do_what_the_function_does_and_no_more() {
    let mut done = BTreeSet::new();
    // Also what is done when answers get lost, and when there is more than one page.
    for (others, action) in [(30, None), (30, Some(Action::LoseAnswer)), (2_100, None)] {
        let (world, caller) = World::with_others(others).await;
        let mut action = action;
        world.proxy.rule(move |call| match call.operation.as_str() {
            "BatchExecuteStatement" => action.take().unwrap_or(Action::Forward),
            _ => Action::Forward,
        });
        world.press(&caller).await.assert_count(others as u64);
        done.extend(world.proxy.seen().iter().flat_map(needed));
    }
    assert_eq!(done, *ALLOWED);
    assert!(done.iter().any(|permission| permission.on == Resource::Index), "{done:?}");
}

#[tokio::test]
async fn what_the_role_forbids_fails_in_every_test() {
    let call = |operation: &str, body| Call { operation: operation.to_owned(), number: 0, under_way: 1, body };
    let statement = |statement: &str| json!({"Statements": [{"Statement": statement}]});
    for (call, allowed) in [
        (call("GetItem", json!({"TableName": "sessions"})), true),
        (call("Query", json!({"TableName": "sessions", "IndexName": "user_id-index"})), true),
        (call("Query", json!({"TableName": "sessions"})), false),
        (call("UpdateItem", json!({"TableName": "sessions"})), false),
        (call("Scan", json!({"TableName": "sessions", "IndexName": "user_id-index"})), false),
        (call("BatchExecuteStatement", statement(r#"UPDATE "sessions" SET "a"=1"#)), true),
        (call("BatchExecuteStatement", statement(r#"DELETE FROM "sessions" WHERE "a"=1"#)), false),
        (call("BatchExecuteStatement", statement(r#"SELECT * FROM "sessions"."user_id-index""#)), false),
    ] {
        assert_eq!(allows(&call), allowed, "{call:?}");
    }
}

#[test]
fn beside_dynamodb_the_role_logs_traces_and_opens_the_tables_key() {
    let others: BTreeMap<_, _> = statements()
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
async fn what_the_gateway_answers_by_itself_is_in_the_functions_envelope() {
    let unknown_path = World::new().await.send(delete().path("/").request_id("$context.requestId")).await;
    let mut headers_of_all = BTreeSet::new();
    let responses = entries(&resource("RestApi")["GatewayResponses"]);
    for (kind, response) in &responses {
        let status = response["StatusCode"].as_integer().expect("a status");
        let body = string(&response["ResponseTemplates"]["application/json"]);
        let body: Value = serde_json::from_str(body).expect("a JSON body");
        let names: Vec<_> = body["error"].as_object().expect("an error").keys().map(String::as_str).collect();
        let all = ["code", "id", "message", "reason", "request", "status"];
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), all.into(), "{kind}");
        assert_eq!(body["error"]["code"], status, "{kind}");
        assert_eq!(body["error"]["request"], "$context.requestId", "{kind}");
        if status == 404 {
            assert_eq!(body, unknown_path.body, "{kind}");
        }
        let mut headers = entries(&response["ResponseParameters"]["Headers"]);
        assert_eq!(headers.remove("Retry-After").is_some(), [429, 504].contains(&status), "{kind}");
        headers_of_all.insert(format!("{headers:?}"));
    }
    for kind in ["DEFAULT_4XX", "DEFAULT_5XX", "THROTTLED", "MISSING_AUTHENTICATION_TOKEN", "INTEGRATION_TIMEOUT"] {
        assert!(responses.contains_key(kind), "{kind}");
    }
    assert_eq!(headers_of_all.len(), 1, "{headers_of_all:#?}");
    // What every answer of the function has, but for the type, which a gateway response takes from its template.
    for (name, value) in [("cache-control", "no-store"), ("x-content-type-options", "nosniff"), ("vary", "Origin")] {
        assert_eq!(unknown_path.header(name), Some(value));
        assert!(headers_of_all.first().is_some_and(|all| all.contains(&format!("'{value}'"))), "{name}");
    }
}

/// The function's 503 has the exact count, API Gateway's 504 has none.
#[test]
fn the_gateway_waits_a_second_longer_than_the_function_runs() {
    let paths = entries(&resource("RestApi")["DefinitionBody"]["paths"]);
    assert_eq!(paths.keys().copied().collect::<Vec<_>>(), ["/", "/auth/sessions"]);
    let function = resource("Function")["Timeout"].as_integer().expect("seconds");
    for (path, methods) in paths {
        let integration = &methods["x-amazon-apigateway-any-method"]["x-amazon-apigateway-integration"];
        let gateway = integration["timeoutInMillis"].as_integer().expect("milliseconds");
        assert!((function + 1) * 1_000 <= gateway, "{path}: {function} s, {gateway} ms");
    }
}

/// The answers of API Gateway itself, without an allowed origin and with one.
pub fn gateway_answers() -> Vec<Answer> {
    let responses = entries(&resource("RestApi")["GatewayResponses"]);
    let answers = responses.values().flat_map(|response| {
        [false, true].map(|has_origins| {
            let headers = entries(&response["ResponseParameters"]["Headers"])
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_lowercase(), header_value(value, has_origins)?)));
            let body = string(&response["ResponseTemplates"]["application/json"]);
            Answer {
                status: response["StatusCode"]
                    .as_integer()
                    .and_then(|status| status.try_into().ok())
                    .expect("a status"),
                headers: headers.chain([("content-type".to_owned(), "application/json".to_owned())]).collect(),
                body: serde_json::from_str(body).expect("a JSON body"),
            }
        })
    });
    answers.collect()
}

/// The value of a header of a gateway response: `'value'`, or `!If [HasOrigins, value, nothing]`, where the value may
/// be the first allowed origin.
fn header_value(node: &Yaml, has_origins: bool) -> Option<String> {
    if let Some(branches) = tagged(node, "If") {
        assert_eq!(branches[0].as_str(), Some("HasOrigins"));
        return has_origins.then(|| header_value(&branches[1], has_origins))?;
    }
    let value = match tagged(node, "Sub") {
        Some(_) => "'https://app.example.com'",
        None => string(node),
    };
    Some(value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).expect("a quoted value").to_owned())
}

/// What a call takes.
fn needed(call: &Call) -> BTreeSet<Permission> {
    if call.operation == "BatchExecuteStatement" {
        let statements = call.body["Statements"].as_array().expect("statements");
        return statements.iter().map(|statement| needed_by_partiql(&statement["Statement"])).collect();
    }
    let on = if call.body["IndexName"].is_string() { Resource::Index } else { Resource::Table };
    [Permission { action: format!("dynamodb:{}", call.operation), on }].into()
}

/// Source: "IAM security policies with PartiQL for DynamoDB" in the Amazon DynamoDB Developer Guide.
fn needed_by_partiql(statement: &Value) -> Permission {
    let statement = statement.as_str().expect("a statement");
    let action = match statement.split(' ').next() {
        Some("SELECT") => "PartiQLSelect",
        Some("INSERT") => "PartiQLInsert",
        Some("UPDATE") => "PartiQLUpdate",
        Some("DELETE") => "PartiQLDelete",
        _ => panic!("{statement}"),
    };
    let on = if statement.contains(r#"".""#) { Resource::Index } else { Resource::Table };
    Permission { action: format!("dynamodb:{action}"), on }
}

fn statements() -> impl Iterator<Item = Statement> {
    let policies = list(&resource("FunctionRole")["Policies"]);
    policies.flat_map(|policy| list(&policy["PolicyDocument"]["Statement"])).map(|node| {
        // One that is there only if a parameter says so: !If [condition, statement, nothing].
        let node = tagged(node, "If").map_or(node, |branches| &branches[1]);
        assert_eq!(node["Effect"].as_str(), Some("Allow"));
        let actions = match &node["Action"] {
            action if action.as_str().is_some() => vec![string(action).to_owned()],
            actions => list(actions).map(|action| string(action).to_owned()).collect(),
        };
        Statement { name: string(&node["Sid"]).to_owned(), actions, on: named(&node["Resource"]) }
    })
}

/// Whether a policy's resource is the sessions table or its index, be it the stack's own or an existing one.
fn named(node: &Yaml) -> Option<Resource> {
    if let Some(branches) = tagged(node, "If") {
        let (own, existing) = (named(&branches[1]), named(&branches[2]));
        assert_eq!(own, existing, "{node:?}");
        return own;
    }
    let existing = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${ExistingTableName}";
    match tagged(node, "GetAtt").or(tagged(node, "Sub")).and_then(Yaml::as_str) {
        Some("SessionsTable.Arn") => Some(Resource::Table),
        Some("${SessionsTable.Arn}/index/user_id-index") => Some(Resource::Index),
        Some(name) if name == existing => Some(Resource::Table),
        Some(name) if name == format!("{existing}/index/${{ExistingIndexName}}") => Some(Resource::Index),
        _ => None,
    }
}

fn resource(name: &str) -> &'static Yaml<'static> {
    &TEMPLATE["Resources"][name]["Properties"]
}

/// What stands behind a tag such as `!If`, if it is that tag.
fn tagged<'a>(node: &'a Yaml<'a>, name: &str) -> Option<&'a Yaml<'a>> {
    match node {
        Yaml::Tagged(tag, node) if tag.suffix == name => Some(node),
        _ => None,
    }
}

fn entries<'a>(node: &'a Yaml<'a>) -> BTreeMap<&'a str, &'a Yaml<'a>> {
    node.as_mapping().expect("a mapping in template.yaml").iter().map(|(key, value)| (string(key), value)).collect()
}

fn list<'a>(node: &'a Yaml<'a>) -> impl Iterator<Item = &'a Yaml<'a>> {
    node.as_vec().expect("a list in template.yaml").iter()
}

fn string<'a>(node: &'a Yaml<'a>) -> &'a str {
    node.as_str().expect("a string in template.yaml")
}
