//! What a client got, read from the answer of any gateway.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What a client got.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u64,
    pub headers: BTreeMap<String, String>,
    /// `Null` where there is no body.
    pub body: Value,
}

impl Answer {
    /// Reads the answer of any gateway's format.
    pub fn from_gateway(answer: &Value) -> Self {
        let mut headers = BTreeMap::new();
        for field in ["headers", "multiValueHeaders"] {
            for (name, value) in answer[field].as_object().into_iter().flatten() {
                let value = value.as_array().map_or(value, |values| &values[0]);
                headers.insert(name.to_lowercase(), value.as_str().expect("a header").to_owned());
            }
        }
        let body = match answer["body"].as_str() {
            None | Some("") => Value::Null,
            Some(body) => serde_json::from_str(body).expect("a JSON body"),
        };
        Self { status: answer["statusCode"].as_u64().expect("a status"), headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn error_id(&self) -> &str {
        self.body["error"]["id"].as_str().unwrap_or_default()
    }

    /// How many sessions the call claims to have revoked: the count of a 200, or `details.revoked` of an error.
    pub fn claimed(&self) -> u64 {
        if self.status == 200 {
            return self.body["count"].as_u64().expect("a count");
        }
        self.body["error"]["details"]["revoked"].as_u64().unwrap_or_default()
    }

    /// Asserts a 200 with this count.
    #[track_caller]
    pub fn assert_count(&self, count: u64) {
        assert_eq!((self.status, &self.body), (200, &json!({"count": count})), "{self:?}");
    }

    /// Asserts an error and its `details.revoked`, absent for errors before the first revocation.
    #[track_caller]
    pub fn assert_error(&self, status: u64, id: &str, revoked: Option<u64>) {
        assert_eq!((self.status, self.error_id()), (status, id), "{self:?}");
        assert_eq!(self.body["error"]["details"]["revoked"].as_u64(), revoked, "{self:?}");
    }
}
