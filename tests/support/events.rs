//! Requests as each gateway passes them to the function.

use serde_json::{Map, Value, json};

/// What stands in front of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// API Gateway REST API, or HTTP API with payload format 1.0.
    Rest,
    /// API Gateway HTTP API with payload format 2.0, or a function URL.
    Http,
    /// Application Load Balancer.
    Alb,
    /// Application Load Balancer with multi-value headers.
    AlbMultiValue,
}

impl Gateway {
    pub const ALL: [Self; 4] = [Self::Rest, Self::Http, Self::Alb, Self::AlbMultiValue];
}

/// An HTTP request that a gateway receives.
#[derive(Clone, Debug)]
pub struct Request {
    gateway: Gateway,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    id: String,
}

/// `DELETE /auth/sessions` through a REST API.
pub fn delete() -> Request {
    Request {
        gateway: Gateway::Rest,
        method: "DELETE".to_owned(),
        path: "/auth/sessions".to_owned(),
        headers: vec![("Host".to_owned(), "apis.example.com".to_owned())],
        id: "gateway-request-id".to_owned(),
    }
}

impl Request {
    pub fn through(mut self, gateway: Gateway) -> Self {
        self.gateway = gateway;
        self
    }

    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn request_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    pub fn token(self, token: &str) -> Self {
        self.header("X-Session-Token", token)
    }

    pub fn cookie(self, token: &str) -> Self {
        self.header("Cookie", &format!("ory_kratos_session={token}"))
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// The event. Of a repeated header, a REST API passes on the last value and a list of all values, an HTTP API all values
    /// joined, and a load balancer either the last value or the list.
    pub fn into_event(self) -> Value {
        let mut single = Map::new();
        let mut multi = Map::new();
        let mut joined = Map::new();
        let mut cookies = Vec::new();
        for (name, value) in &self.headers {
            single.insert(name.clone(), json!(value));
            let values = multi.entry(name.clone()).or_insert_with(|| json!([]));
            values.as_array_mut().expect("values").push(json!(value));
            if name.eq_ignore_ascii_case("cookie") {
                cookies.extend(value.split("; ").map(str::to_owned));
            } else {
                let sum = joined.entry(name.to_lowercase()).or_insert_with(|| json!(""));
                let sum_so_far = sum.as_str().expect("a string");
                *sum = if sum_so_far.is_empty() { json!(value) } else { json!(format!("{sum_so_far},{value}")) };
            }
        }
        let (method, path, id) = (&self.method, &self.path, &self.id);
        match self.gateway {
            Gateway::Rest => json!({
                "resource": "/auth/sessions", "path": path, "httpMethod": method,
                "headers": single, "multiValueHeaders": multi,
                "queryStringParameters": null, "multiValueQueryStringParameters": null,
                "pathParameters": null, "stageVariables": null,
                "requestContext": {
                    "accountId": "123456789012", "apiId": "a1b2c3d4e5", "resourceId": "abc123", "stage": "prod",
                    "httpMethod": method, "path": format!("/prod{path}"), "resourcePath": "/auth/sessions",
                    "protocol": "HTTP/1.1", "requestId": id, "identity": {"sourceIp": "203.0.113.7"},
                },
                "body": null, "isBase64Encoded": false,
            }),
            Gateway::Http => {
                let mut event = json!({
                    "version": "2.0", "routeKey": "DELETE /auth/sessions", "rawPath": path, "rawQueryString": "",
                    "headers": joined,
                    "requestContext": {
                        "accountId": "123456789012", "apiId": "a1b2c3d4e5", "stage": "$default",
                        "http": {
                            "method": method, "path": path, "protocol": "HTTP/1.1",
                            "sourceIp": "203.0.113.7", "userAgent": "tests",
                        },
                        "requestId": id, "time": "23/Nov/2026:12:00:00 +0000", "timeEpoch": 1_795_435_200_000_u64,
                    },
                    "isBase64Encoded": false,
                });
                if !cookies.is_empty() {
                    event["cookies"] = json!(cookies);
                }
                event
            }
            Gateway::Alb | Gateway::AlbMultiValue => {
                let mut event = json!({
                    "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/sessions/0123456789abcdef"}},
                    "httpMethod": method, "path": path, "body": "", "isBase64Encoded": false,
                });
                if self.gateway == Gateway::Alb {
                    event["headers"] = single.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
                    event["queryStringParameters"] = json!({});
                } else {
                    event["multiValueHeaders"] =
                        multi.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
                    event["multiValueQueryStringParameters"] = json!({});
                }
                event
            }
        }
    }
}
