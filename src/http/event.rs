//! The event of a gateway, reduced to what this function reads. Knows the JSON of the four gateways, and nothing of its
//! meaning.
//!
//! `lambda_http` turns events into requests, and answers into the format of the gateway. But it trusts its input (1.3.2):
//! of repeated headers in a REST event it keeps only the last, a control character in one header fails the whole event, and
//! an invalid host, path, body or scheme makes it panic. So the event is reduced here to the few values that the function
//! reads, each of them made safe, before `lambda_http` gets it. No part of a credential is dropped: `credentials` must see a
//! second value or an invalid character to reject it.

use lambda_http::aws_lambda_events::{
    alb::AlbTargetGroupRequest,
    apigw::{ApiGatewayProxyRequest, ApiGatewayV2httpRequest},
};
use lambda_http::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use lambda_http::request::LambdaRequest;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use url::Url;

use crate::http::credentials::SOURCES;
use crate::http::origin;

/// The headers that this function reads. No other header leaves this module.
fn needed() -> impl Iterator<Item = HeaderName> {
    SOURCES.iter().filter_map(|source| source.header.parse().ok()).chain(origin::HEADERS.iter().cloned())
}

/// Longer than the request line that any gateway accepts. A longer path is not the route.
const MAX_PATH_LENGTH: usize = 16 * 1024;

/// A domain name, a colon and a port.
const MAX_HOST_LENGTH: usize = 253 + 1 + 5;

/// An event of an API Gateway REST API (format 1.0), an HTTP API (1.0 or 2.0), a Lambda function URL (2.0) or an
/// Application Load Balancer, safe to hand to `lambda_http`.
pub struct Event(LambdaRequest);

impl Event {
    /// The request for `lambda_http` to convert.
    #[must_use]
    pub fn into_inner(self) -> LambdaRequest {
        self.0
    }

    fn from_payload(payload: &Value) -> Option<Self> {
        let headers = headers(payload)?;
        let request_id = text(payload, "/requestContext/requestId").filter(|id| !id.is_empty()).map(str::to_owned);
        if let Some(method) = text(payload, "/requestContext/http/method") {
            let mut event = ApiGatewayV2httpRequest::default();
            event.request_context.http.method = parse_method(method);
            event.request_context.request_id = request_id;
            event.raw_path = Some(path(text(payload, "/rawPath")));
            event.headers = headers;
            return Some(Self(LambdaRequest::ApiGatewayV2(event)));
        }
        let method = parse_method(text(payload, "/httpMethod")?);
        let path = path(text(payload, "/path"));
        if payload.pointer("/requestContext/elb").is_some() {
            let mut event = AlbTargetGroupRequest::default();
            event.http_method = method;
            event.path = Some(path);
            event.multi_value_headers = headers;
            return Some(Self(LambdaRequest::Alb(event)));
        }
        let mut event = ApiGatewayProxyRequest::default();
        event.http_method = method;
        event.request_context.request_id = request_id;
        event.path = Some(path);
        event.multi_value_headers = headers;
        Some(Self(LambdaRequest::ApiGatewayV1(event)))
    }
}

impl<'de> Deserialize<'de> for Event {
    /// # Errors
    /// When the payload is not JSON or not of one of the four gateways. The text repeats nothing of the payload, since
    /// the runtime logs it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let payload = Value::deserialize(deserializer)?;
        Self::from_payload(&payload).ok_or_else(|| {
            D::Error::custom(
                "not an event of an API Gateway REST or HTTP API, a Lambda function URL or an Application Load Balancer",
            )
        })
    }
}

/// An invalid method becomes `TRACE`, which is not served.
fn parse_method(method: &str) -> Method {
    Method::from_bytes(method.as_bytes()).unwrap_or(Method::TRACE)
}

fn text<'a>(payload: &'a Value, pointer: &str) -> Option<&'a str> {
    payload.pointer(pointer)?.as_str()
}

/// `lambda_http` builds a URL of the path and unwraps the result. That cannot fail if the path begins with `/`.
fn path(path: Option<&str>) -> String {
    match path {
        Some(path) if path.starts_with('/') && path.len() <= MAX_PATH_LENGTH => path.to_owned(),
        _ => "/".to_owned(),
    }
}

/// The headers that are [`needed`]. The values of each are joined as an HTTP API joins them, so that a request is the same behind
/// every gateway. `None` if a value cannot be a header value, which [`harmless`] excludes.
fn headers(payload: &Value) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for name in needed() {
        let mut values = header_values(payload, &name);
        let mut separator = ",";
        if name == header::COOKIE {
            values.extend(payload.get("cookies").into_iter().flat_map(strings));
            separator = "; ";
        }
        if name == header::HOST {
            if values.is_empty() {
                values.extend(text(payload, "/requestContext/domainName"));
            }
            values.retain(|host| is_host(host));
            // With two hosts, no origin is the request's own.
            if values.len() > 1 {
                values.clear();
            }
        }
        if !values.is_empty() {
            headers.insert(name, HeaderValue::from_str(&harmless(&values.join(separator))).ok()?);
        }
    }
    Some(headers)
}

/// All different values of a header. REST APIs and load balancers put headers into `headers`, `multiValueHeaders` or both.
fn header_values<'a>(payload: &'a Value, name: &HeaderName) -> Vec<&'a str> {
    let mut values = Vec::new();
    for field in ["headers", "multiValueHeaders"] {
        for (key, value) in payload.get(field).and_then(Value::as_object).into_iter().flatten() {
            if key.eq_ignore_ascii_case(name.as_str()) {
                for value in strings(value) {
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
            }
        }
    }
    values
}

/// The strings in a value that is a string or an array.
fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice).iter().filter_map(Value::as_str)
}

/// A header cannot hold control characters. To drop them could turn an invalid token into a valid one, so each is replaced by
/// a character that no token holds.
fn harmless(value: &str) -> String {
    value.chars().map(|char| if char.is_ascii_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

/// Whether `lambda_http` can build a URL of the host. An invalid host is left out: no origin is equal to it.
fn is_host(host: &str) -> bool {
    host.len() <= MAX_HOST_LENGTH
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
        && Url::parse(&format!("https://{host}/")).is_ok()
}

#[cfg(test)]
mod tests {
    use lambda_http::request::RequestContext;
    use lambda_http::{Request, RequestExt};
    use serde_json::json;

    use super::*;

    fn request(payload: &Value) -> Option<Request> {
        Some(Event::from_payload(payload)?.into_inner().into())
    }

    fn header(payload: &Value, name: &str) -> Option<String> {
        let request = request(payload)?;
        let value = request.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    #[test]
    fn both_values_of_a_repeated_header_survive_in_a_rest_event() {
        let payload = json!({
            "httpMethod": "DELETE", "path": "/auth/sessions", "requestContext": {},
            "headers": {"X-Session-Token": "b"}, "multiValueHeaders": {"X-Session-Token": ["a", "b"]},
        });
        assert_eq!(header(&payload, "x-session-token").as_deref(), Some("b,a"));
    }

    #[test]
    fn a_header_given_in_two_spellings_keeps_both_values() {
        let payload = json!({
            "httpMethod": "DELETE", "path": "/auth/sessions", "requestContext": {"elb": {}},
            "headers": {"X-Session-Token": "a", "x-session-token": "b"},
        });
        assert_eq!(header(&payload, "x-session-token").as_deref(), Some("a,b"));
    }

    #[test]
    fn a_control_character_spoils_its_header_only() {
        let payload = json!({
            "rawPath": "/auth/sessions", "requestContext": {"http": {"method": "DELETE"}},
            "headers": {"x-session-token": "a\u{0}b", "authorization": "Bearer x"}, "cookies": ["a=1", "b=\n", "c=3"],
        });
        assert_eq!(header(&payload, "x-session-token").as_deref(), Some("a\u{fffd}b"));
        assert_eq!(header(&payload, "authorization").as_deref(), Some("Bearer x"));
        assert_eq!(header(&payload, "cookie").as_deref(), Some("a=1; b=\u{fffd}; c=3"));
    }

    #[test]
    fn no_host_path_scheme_or_body_makes_the_conversion_panic() {
        for host in
            ["", "a b", "a:99999", "1.2.3.4.5", "[::1", "a@b", "%", "xn--", "a/b", "\u{0}", "é", "[v1.a]", ":80"]
        {
            for path in ["", "*", ":1", "//", "/%", "/a b", "/\u{0}é", "/?#", "\\", &"/é".repeat(30_000)] {
                for method in ["DELETE", "", "DE LETE", "é"] {
                    for headers in [json!({"host": host}), json!({"host": host, "Host": "b.example:443"})] {
                        for mut event in [
                            json!({"httpMethod": method, "path": path, "requestContext": {"domainName": host}}),
                            json!({"httpMethod": method, "path": path, "requestContext": {"elb": {}}}),
                            json!({"rawPath": path, "requestContext": {"http": {"method": method}, "stage": path}}),
                        ] {
                            event["headers"] = headers.clone();
                            event["headers"]["x-forwarded-proto"] = json!("1 ");
                            event["body"] = json!("not base64!");
                            event["isBase64Encoded"] = json!(true);
                            assert!(request(&event).is_some(), "{event}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_path_is_kept_as_sent() {
        let payload = json!({
            "rawPath": "/prod/auth/../sessions", "requestContext": {"http": {"method": "DELETE"}, "stage": "prod"},
        });
        assert_eq!(request(&payload).as_ref().map(RequestExt::raw_http_path), Some("/prod/auth/../sessions"));
    }

    #[test]
    fn only_a_path_or_a_host_that_is_too_long_is_left_out() {
        let payload = |path: &str, host: &str| {
            json!({
                "httpMethod": "DELETE", "path": path, "requestContext": {},
                "headers": {"host": host},
            })
        };
        // Four labels with three dots, which have 253 bytes, a colon and a port.
        let host = format!("{0}.{0}.{0}.{1}:65535", "a".repeat(63), "a".repeat(61));
        let path = format!("/{}", "a".repeat(16 * 1_024 - 1));
        let longest = payload(&path, &host);
        assert_eq!(header(&longest, "host"), Some(host.clone()));
        assert_eq!(request(&longest).as_ref().map(RequestExt::raw_http_path), Some(path.as_str()));
        let too_long = payload(&format!("{path}a"), &format!("a{host}"));
        assert_eq!(header(&too_long, "host"), None);
        assert_eq!(request(&too_long).as_ref().map(RequestExt::raw_http_path), Some("/"));
    }

    #[test]
    fn with_two_hosts_there_is_none() {
        let payload = json!({
            "httpMethod": "DELETE", "path": "/auth/sessions", "requestContext": {},
            "multiValueHeaders": {"Host": ["a.example", "b.example"]},
        });
        assert_eq!(header(&payload, "host"), None);
    }

    #[test]
    fn an_empty_request_id_is_none() {
        let id = |id: &str| {
            let context = json!({"http": {"method": "DELETE"}, "requestId": id});
            match request(&json!({"requestContext": context}))?.request_context_ref()? {
                RequestContext::ApiGatewayV2(context) => context.request_id.clone(),
                _ => None,
            }
        };
        assert_eq!((id("a"), id("")), (Some("a".to_owned()), None));
    }

    #[test]
    fn what_no_gateway_sent_is_refused_without_repeating_it() {
        for payload in ["null", "[]", "\"canary\"", "{}", r#"{"source":"canary"}"#, r#"{"httpMethod":7}"#, "{\"canary"]
        {
            let Err(error) = serde_json::from_str::<Event>(payload) else { panic!("accepted {payload}") };
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
