//! What API Gateway answers by itself, as `template.yaml` configures it.

use serde_json::{Value, json};

use super::answer::Answer;
use super::yaml::{entries, resource, string};

/// A gateway response of `template.yaml`, with an allowed origin configured or without.
pub struct GatewayResponse {
    /// Such as `THROTTLED`.
    pub kind: &'static str,
    pub has_origins: bool,
    pub answer: Answer,
}

/// Each gateway response twice: with an allowed origin configured, and without.
pub fn responses() -> impl Iterator<Item = GatewayResponse> {
    entries(&resource("RestApi")["GatewayResponses"]).flat_map(|(kind, response)| {
        [false, true].map(|has_origins| {
            let headers = entries(&response["ResponseParameters"]["Headers"])
                .filter_map(|(name, value)| Some((name.to_lowercase(), header(value, has_origins)?)));
            let body = string(&response["ResponseTemplates"]["application/json"]);
            let answer = Answer {
                status: response["StatusCode"].as_u64().expect("a status"),
                // A gateway response takes its type from its template.
                headers: headers.chain([("content-type".to_owned(), "application/json".to_owned())]).collect(),
                body: serde_json::from_str(body).expect("a JSON body"),
            };
            GatewayResponse { kind, has_origins, answer }
        })
    })
}

/// The value of a header: `'value'`, the first allowed origin, or one of these only with allowed origins.
fn header(node: &Value, has_origins: bool) -> Option<String> {
    if let Some(branches) = node["Fn::If"].as_array() {
        assert_eq!(branches[0], "HasOrigins");
        return has_origins.then(|| header(&branches[1], has_origins))?;
    }
    let value = match &node["Fn::Sub"] {
        Value::Null => string(node),
        first_origin => {
            let one = json!({"One": {"Fn::Select": [0, {"Fn::Split": [",", {"Ref": "AllowedOrigins"}]}]}});
            assert_eq!(*first_origin, json!(["'${One}'", one]));
            "'https://app.example.com'"
        }
    };
    Some(value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).expect("a quoted value").to_owned())
}
