//! `docs/openapi.yaml` lists exactly the answers of the function and of API Gateway in front of it. That its schemas fit its
//! examples, and what is sent, is tested by `tests/clients`.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::OnceCell;

use disable_my_other_sessions::http::credentials::Malformed;
use disable_my_other_sessions::http::origin::CsrfViolation;
use disable_my_other_sessions::http::response::Error;
use disable_my_other_sessions::rules::evidence::Cause;
use disable_my_other_sessions::session::Inactive;

use crate::support::events::Request;
use crate::support::{Action, Answer, World, delete, gateway, yaml};

const ROUTE: &str = "/auth/sessions";

/// The document.
struct Document(Value);

/// An operation of the document, and an answer to it.
type Given = (&'static str, Answer);

#[tokio::test]
async fn every_answer_is_documented_and_every_documented_answer_is_given() {
    let document = Document::read();
    let answers = answers().await;
    for (operation, answer) in answers {
        match document.response(operation, answer.status).get("content") {
            None => assert_eq!(answer.body, Value::Null),
            Some(content) => {
                let content_type = answer.header("content-type").expect("a content type");
                assert!(content.get(content_type).is_some(), "{answer:?}");
            }
        }
    }
    let outcomes = answers.iter().map(|(operation, answer)| outcome(operation, answer.status, answer.error_id()));
    assert_eq!(outcomes.collect::<BTreeSet<_>>(), document.outcomes());
}

#[tokio::test]
async fn exactly_the_headers_that_are_sent_are_documented() {
    let document = Document::read();
    let mut sent: BTreeMap<_, Vec<BTreeSet<_>>> = BTreeMap::new();
    for (operation, answer) in answers().await {
        let names = headers_of(answer).map(|(name, _)| name.clone()).collect();
        sent.entry((*operation, answer.status)).or_default().push(names);
    }
    for ((operation, status), sent) in sent {
        let documented = document.headers(document.response(operation, status));
        let ever: BTreeSet<_> = sent.iter().flatten().collect();
        assert_eq!(documented.keys().collect::<BTreeSet<_>>(), ever, "{operation} {status}");
        for (name, header) in &documented {
            let always = sent.iter().all(|sent| sent.contains(name));
            // REST APIs rename this header.
            let required = always && name != "www-authenticate";
            assert_eq!(header["required"].as_bool().unwrap_or_default(), required, "{operation} {status} {name}");
        }
    }
}

#[tokio::test]
async fn the_examples_are_the_real_answers_but_for_ids_and_numbers() {
    let document = Document::read();
    let real: Vec<_> = answers().await.iter().map(|(_, answer)| blanked(&answer.body)).collect();
    // An answer without a body needs no example.
    let mut shown = vec![Value::Null];
    for (operation, status, response) in document.responses() {
        let Some(content) = response.get("content") else { continue };
        let content = &content["application/json"];
        let examples = content["examples"].as_object().expect("examples");
        for (name, example) in examples {
            let body = blanked(&example["value"]);
            assert!(real.contains(&body), "{operation} {status} {name}: {example}");
            shown.push(body);
        }
        for id in ids(response) {
            assert!(examples.contains_key(&id) || status == 200, "{id} has no example");
        }
    }
    for body in real {
        assert!(shown.contains(&body), "no example is {body}");
    }
}

/// Fails when an error is added to the code or to the template, but not to the document.
#[test]
fn every_error_of_code_and_template_is_documented() {
    let errors = each_error();
    let in_code = errors.iter().map(|error| error.id().to_owned());
    let in_template = gateway::responses().map(|response| response.answer.error_id().to_owned());
    let document = Document::read();
    let documented = document.responses().into_iter().flat_map(|(_, _, response)| ids(response));
    let documented: BTreeSet<_> = documented.filter(|id| !id.is_empty()).collect();
    assert_eq!(in_code.chain(in_template).collect::<BTreeSet<_>>(), documented);
}

/// One error of each kind.
fn each_error() -> Vec<Error> {
    let errors = vec![
        Error::RouteNotFound,
        Error::MethodNotAllowed,
        Error::MalformedCredentials(Malformed::NotAToken("a credential")),
        Error::SessionInactive(Inactive::Unknown),
        Error::CsrfViolation(CsrfViolation::Origin),
        Error::SessionRefreshRequired,
        Error::Store { cause: Cause::OutOfTime.into(), revoked: None },
        Error::Store { cause: Cause::BadItem.into(), revoked: None },
    ];
    for error in &errors {
        // A new kind of error does not compile until it is added here. Add it to the list above too.
        match error {
            Error::RouteNotFound
            | Error::MethodNotAllowed
            | Error::MalformedCredentials(_)
            | Error::SessionInactive(_)
            | Error::CsrfViolation(_)
            | Error::SessionRefreshRequired
            | Error::Store { .. } => {}
        }
    }
    errors
}

#[tokio::test]
async fn every_documented_credential_is_accepted() {
    let document = Document::read();
    let operation = &document.0["paths"][ROUTE]["delete"];
    let alternatives = operation["security"].as_array().expect("alternatives");
    assert_eq!(alternatives.len(), 3);
    for alternative in alternatives {
        let (world, caller) = World::with_others(2).await;
        let (name, _) = alternative.as_object().and_then(|schemes| schemes.iter().next()).expect("a scheme");
        let scheme = &document.0["components"]["securitySchemes"][name];
        let field = |name: &str| scheme[name].as_str().unwrap_or_default();
        let (header, value) = match (field("type"), field("in")) {
            ("apiKey", "header") => (field("name"), caller.token),
            ("apiKey", "cookie") => ("Cookie", format!("{}={}", field("name"), caller.token)),
            ("http", "") => ("Authorization", format!("{} {}", field("scheme"), caller.token)),
            other => panic!("{other:?}"),
        };
        world.send(delete().header(header, &value)).await.assert_count(2);
    }
    assert_eq!(operation["operationId"], "disableMyOtherSessions");
    assert_eq!(document.0["info"]["version"], env!("CARGO_PKG_VERSION"));
}

/// Answers of every kind, also those of API Gateway itself. They are asked for once, for all tests.
async fn answers() -> &'static [Given] {
    static ANSWERS: OnceCell<Vec<Given>> = OnceCell::const_new();
    let ask = || async {
        let of_gateway = gateway::responses().map(|response| ("delete", response.answer));
        let of_function =
            [(false, false), (false, true), (true, true)].map(|(debug, page)| answers_of_function(debug, page));
        of_gateway.chain(join_all(of_function).await.concat()).collect()
    };
    ANSWERS.get_or_init(ask).await
}

/// The function's answers of every kind to a web page or to another client, with `debug` or without.
async fn answers_of_function(debug: bool, page: bool) -> Vec<Given> {
    let mut answers = Vec::new();
    let (mut world, caller) = World::with_others(30).await;
    world.config.error_debug = debug;
    let sent = |request: Request| {
        let request = if page { request.header("Origin", "https://app.example.com") } else { request };
        let world = &world;
        async move { world.send(request).await }
    };
    let call = || delete().token(&caller.token);
    let forged = delete().cookie(&caller.token).header("Origin", "https://evil.example");
    answers.push(("delete", world.send(forged).await));
    let preflight = || delete().method("OPTIONS");
    for request in [preflight(), preflight().header("Access-Control-Request-Headers", "sentry-trace,x-session-token")] {
        answers.push(("options", sent(request).await));
    }
    for request in [delete(), delete().token("not a token"), call().path("/"), call().method("GET")] {
        answers.push(("delete", sent(request).await));
    }
    for (operation, number, code) in [
        ("GetItem", 0, "AccessDeniedException"),
        ("GetItem", 0, "ThrottlingException"),
        // The first of the two batches is carried out.
        ("BatchExecuteStatement", 1, "AccessDeniedException"),
    ] {
        world.proxy.reset();
        world.proxy.rule(move |seen| {
            let fails = seen.operation == operation && seen.number >= number;
            if fails { Action::Fail(400, code) } else { Action::Forward }
        });
        answers.push(("delete", sent(call()).await));
    }
    world.proxy.reset();
    for _ in 0..2 {
        answers.push(("delete", sent(call()).await));
    }
    let mut strict = world.clone();
    strict.config.max_authentication_age = Some(std::time::Duration::from_mins(15));
    let request = if page { call().header("Origin", "https://app.example.com") } else { call() };
    answers.push(("delete", strict.send(request).await));
    answers
}

/// All headers except `Content-Type`, which the document has as the key of the content.
fn headers_of(answer: &Answer) -> impl Iterator<Item = (&String, &String)> {
    answer.headers.iter().filter(|(name, _)| *name != "content-type")
}

/// A body without the values that differ from call to call, and without `debug`, since no example shows the cause of an error.
fn blanked(body: &Value) -> Value {
    let mut body = body.clone();
    if let Some(error) = body.get_mut("error").and_then(Value::as_object_mut) {
        assert!(error.remove("debug").is_none_or(|cause| cause.is_string()));
    }
    for field in ["/count", "/error/request", "/error/details/revoked"] {
        if let Some(value) = body.pointer_mut(field) {
            *value = Value::Null;
        }
    }
    body
}

fn outcome(operation: &str, status: u64, id: &str) -> String {
    format!("{operation} {status} {id}")
}

/// The error ids of a response; the empty string for a response without an error.
fn ids(response: &Value) -> Vec<String> {
    let schema = &response["content"]["application/json"]["schema"];
    match schema["allOf"][1]["properties"]["error"]["properties"]["id"]["enum"].as_array() {
        Some(ids) => ids.iter().map(|id| id.as_str().expect("an id").to_owned()).collect(),
        None => vec![String::new()],
    }
}

impl Document {
    fn read() -> Self {
        Self(yaml::parse(include_str!("../../docs/openapi.yaml")))
    }

    /// Every response, with its operation and status.
    fn responses(&self) -> Vec<(&str, u64, &Value)> {
        let operations = self.0["paths"][ROUTE].as_object().expect("operations");
        let responses = operations.iter().flat_map(|(operation, details)| {
            let responses = details["responses"].as_object().expect("responses").iter();
            responses.map(|(status, response)| (operation.as_str(), status.parse().expect("a status"), response))
        });
        responses.collect()
    }

    #[track_caller]
    fn response(&self, operation: &str, status: u64) -> &Value {
        let response = &self.0["paths"][ROUTE][operation]["responses"][status.to_string()];
        assert!(response.is_object(), "{operation} {status} is not documented");
        response
    }

    /// The headers of a response by their names in lower case.
    fn headers(&self, response: &Value) -> BTreeMap<String, Value> {
        let headers = response["headers"].as_object().expect("headers").iter();
        headers.map(|(name, header)| (name.to_lowercase(), self.resolved(header).clone())).collect()
    }

    fn outcomes(&self) -> BTreeSet<String> {
        let responses = self.responses().into_iter();
        responses
            .flat_map(|(operation, status, response)| {
                ids(response).into_iter().map(move |id| outcome(operation, status, &id))
            })
            .collect()
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        self.0.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} does not exist"))
    }
}
