//! Ory's SDK for Rust, as it is published.

use std::env;

use ory_client::apis::configuration::Configuration;
use ory_client::apis::frontend_api::{DisableMyOtherSessionsError, disable_my_other_sessions};
use ory_client::apis::{Error, ResponseContent};
use ory_client::models::DeleteMySessionsCount;
use serde_json::{Value, json};

/// A user of their own for a test, with a session to call with and some others.
struct User {
    name: String,
    session: String,
    token: String,
}

type Answer = Result<DeleteMySessionsCount, Error<DisableMyOtherSessionsError>>;

#[tokio::test]
async fn a_token_signs_the_others_out() {
    let user = User::new(3).await;
    for count in [3, 0] {
        assert_count(&call("FUNCTION_URL", Some(&user.token), None).await, count);
        assert_eq!(user.signed_out().await, 3);
    }
}

#[tokio::test]
async fn a_cookie_signs_the_others_out() {
    let user = User::new(2).await;
    let cookie = format!("theme=dark; ory_kratos_session={}; csrf_token=a=b=", user.token);
    assert_count(&call("FUNCTION_URL", None, Some(&cookie)).await, 2);
    assert_eq!(user.signed_out().await, 2);
}

#[tokio::test]
async fn a_refusal_is_an_error_that_says_why() {
    let user = User::new(1).await;
    for (token, status, id) in [
        (Some("unknown"), 401, "session_inactive"),
        (None, 401, "session_inactive"),
        (Some("not a token"), 400, "malformed_credentials"),
    ] {
        let error = assert_error(call("FUNCTION_URL", token, None).await, status, id);
        assert_eq!(error.get("details"), None);
    }
    assert_eq!(user.signed_out().await, 0);
}

#[tokio::test]
async fn an_outage_is_an_error_and_calling_again_mends_it() {
    let user = User::new(2).await;
    fail(1000).await;
    let answer = call("FAILING_URL", Some(&user.token), None).await;
    fail(0).await;
    let error = assert_error(answer, 503, "temporarily_unavailable");
    assert_eq!(error["details"], json!({"revoked": 0}));
    assert_eq!(user.signed_out().await, 0);
    assert_count(&call("FAILING_URL", Some(&user.token), None).await, 2);
    assert_eq!(user.signed_out().await, 2);
}

async fn call(base_path: &str, token: Option<&str>, cookie: Option<&str>) -> Answer {
    let configuration = Configuration { base_path: variable(base_path), ..Configuration::default() };
    disable_my_other_sessions(&configuration, token, cookie).await
}

#[track_caller]
fn assert_count(answer: &Answer, count: i64) {
    assert_eq!(answer.as_ref().expect("an answer"), &DeleteMySessionsCount { count: Some(count) });
}

/// Asserts an error as the SDK gives it, and returns what it says.
#[track_caller]
fn assert_error(answer: Answer, status: u16, id: &str) -> Value {
    let Err(Error::ResponseError(ResponseContent { status: answered, entity: Some(entity), .. })) = answer else {
        panic!("not an error with something to say: {answer:?}");
    };
    assert_eq!(answered, status);
    // The SDK has a type for two ids of Ory's own cloud only, and passes on the rest as it is.
    let DisableMyOtherSessionsError::UnknownValue(body) = entity else { panic!("now typed: {entity:?}") };
    assert_eq!(body["error"]["code"], status);
    assert_eq!(body["error"]["id"], id);
    body["error"].clone()
}

impl User {
    async fn new(others: usize) -> Self {
        let user = table(reqwest::Method::POST, &format!("/users?others={others}")).await;
        let text = |name: &str| user[name].as_str().expect("a string").to_owned();
        Self { name: text("user"), session: text("session"), token: text("token") }
    }

    /// How many of the others are revoked. The caller's own session never is.
    async fn signed_out(&self) -> usize {
        let statuses = table(reqwest::Method::GET, &format!("/users/{}", self.name)).await;
        assert_eq!(statuses[&self.session], "active");
        statuses.as_object().expect("statuses").values().filter(|status| *status == "revoked").count()
    }
}

/// Makes the next requests to DynamoDB of the function at `FAILING_URL` fail.
async fn fail(requests: usize) {
    table(reqwest::Method::POST, &format!("/outage?requests={requests}")).await;
}

async fn table(method: reqwest::Method, path: &str) -> Value {
    let url = variable("TABLE_URL") + path;
    let answer = reqwest::Client::new().request(method, url).send().await.expect("an answer");
    answer.error_for_status().expect("success").json().await.expect("JSON")
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test-clients`"))
}
