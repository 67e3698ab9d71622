//! The event of a gateway, reduced to what this function reads. This module knows the JSON of the four gateways, and not what a
//! request means.
//!
//! Only the members in `MEMBERS` and the headers in `headers` are read. All other members are skipped, so neither their size nor
//! their bytes matter. Strings are read as bytes: a client can send bytes that are not UTF-8, and a gateway may pass them on as
//! they are, or as half of a surrogate pair.
//!
//! `lambda_http` turns events into requests, and answers into the format of the gateway. But it trusts its input (1.3.2):
//! of repeated headers in a REST event it keeps only the last, a control character in one header fails the whole event, and
//! an invalid host, path, body or scheme makes it panic. So the values that are read are made safe before `lambda_http` gets
//! them. No part of a credential is dropped: `credentials` must see a second value or an invalid character to reject it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lambda_http::aws_lambda_events::{
    alb::AlbTargetGroupRequest,
    apigw::{ApiGatewayProxyRequest, ApiGatewayV2httpRequest},
};
use lambda_http::http::{HeaderMap, HeaderValue, Method};
use lambda_http::request::LambdaRequest;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use url::Url;

use self::Place::{Elb, Headers, Http, MultiValueHeaders, RequestContext, Top};
use crate::http::credentials::SOURCES;
use crate::http::origin;

/// Where in an event a member stands: the objects that are read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The event itself.
    Top,
    RequestContext,
    /// Only HTTP APIs and function URLs have it.
    Http,
    /// Only load balancers have it.
    Elb,
    Headers,
    MultiValueHeaders,
}

/// The members that are read, besides headers: the object that contains the member, the name of the member, and the object that
/// the member is, or `None` for a string.
const MEMBERS: [(Place, &str, Option<Place>); 14] = [
    (Top, "version", None),
    (Top, "requestContext", Some(RequestContext)),
    (RequestContext, "http", Some(Http)),
    (RequestContext, "elb", Some(Elb)),
    (Http, "method", None),
    (Top, "httpMethod", None),
    (Top, "rawPath", None),
    (Http, "path", None),
    (Top, "path", None),
    (Top, "headers", Some(Headers)),
    (Top, "multiValueHeaders", Some(MultiValueHeaders)),
    (Top, "cookies", None),
    (RequestContext, "domainName", None),
    (RequestContext, "requestId", None),
];

/// The headers that are read. No other header leaves this module.
fn headers() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|source| source.header).chain(origin::HEADERS)
}

/// The longest path, in bytes: longer than the request line that any gateway accepts. A longer path is not the route.
const MAX_PATH_LENGTH: usize = 16 * 1024;

/// The longest host, in bytes: a domain name, a colon and a port.
const MAX_HOST_LENGTH: usize = 253 + 1 + 5;

/// The longest request id, in bytes: more than three times a UUID. The limit exists since the answer and the log repeat the id.
const MAX_REQUEST_ID_LENGTH: usize = 128;

/// Replaces what cannot be a header's value. Neither a token nor the name of a cookie can contain this character, so the
/// credential is malformed.
const INVALID: &str = "?";

/// An event of an API Gateway REST API (format 1.0), an HTTP API (1.0 or 2.0), a Lambda function URL (2.0) or an
/// Application Load Balancer, made safe for `lambda_http`.
pub struct Event(LambdaRequest);

impl Event {
    /// The request for `lambda_http` to convert.
    #[must_use]
    pub fn into_inner(self) -> LambdaRequest {
        self.0
    }
}

impl<'de> Deserialize<'de> for Event {
    /// # Errors
    /// When the payload is not of one of the four gateways. The runtime logs the text, so the text repeats nothing of the
    /// payload.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut payload = Payload::default();
        let _ = Value(&mut payload, Member::Object(Top)).deserialize(deserializer);
        payload.event().map(Self).ok_or_else(|| {
            D::Error::custom(
                "not an event of an API Gateway REST or HTTP API, a Lambda function URL or an Application Load Balancer",
            )
        })
    }
}

/// What is read of an event.
#[derive(Default)]
struct Payload {
    /// All strings of a member. An array has several strings, and so has a member that the event repeats.
    strings: BTreeMap<(Place, &'static str), Vec<Vec<u8>>>,
    /// The objects that the event has, whatever they contain.
    objects: BTreeSet<Place>,
    /// How many objects and arrays could not be read to their end.
    cut_off: usize,
}

impl Payload {
    /// `None` if the event is of none of the four gateways.
    fn event(&self) -> Option<LambdaRequest> {
        let (method, path, headers) = (self.method(), self.path(), self.header_map());
        let request_id = self.last(RequestContext, "requestId").and_then(request_id);
        let is_http_api = self.objects.contains(&Http)
            || self.last(Top, "rawPath").is_some()
            || self.last(Top, "version") == Some(b"2.0");
        if is_http_api {
            let mut event = ApiGatewayV2httpRequest::default();
            event.request_context.http.method = method;
            event.request_context.request_id = request_id;
            event.raw_path = Some(path);
            event.headers = headers;
            Some(LambdaRequest::ApiGatewayV2(event))
        } else if self.objects.contains(&Elb) {
            let mut event = AlbTargetGroupRequest::default();
            event.http_method = method;
            event.path = Some(path);
            event.multi_value_headers = headers;
            Some(LambdaRequest::Alb(event))
        } else {
            self.last(Top, "httpMethod")?;
            let mut event = ApiGatewayProxyRequest::default();
            event.http_method = method;
            event.request_context.request_id = request_id;
            event.path = Some(path);
            event.multi_value_headers = headers;
            Some(LambdaRequest::ApiGatewayV1(event))
        }
    }

    /// An unknown or invalid method becomes `TRACE`, which is not served.
    fn method(&self) -> Method {
        match self.last(Http, "method").or(self.last(Top, "httpMethod")) {
            Some(method) => Method::from_bytes(method).unwrap_or(Method::TRACE),
            // The event is cut off, so its method is unknown: `DELETE` lets the malformed credential be the answer.
            None if self.cut_off > 0 => Method::DELETE,
            None => Method::TRACE,
        }
    }

    /// An HTTP API whose domain maps the whole path sends an empty `rawPath`, or `/`; then `requestContext.http.path` decides.
    ///
    /// `lambda_http` builds a URL of the path and unwraps the result. That cannot fail if the path begins with `/`.
    fn path(&self) -> String {
        let paths = [(Top, "rawPath"), (Http, "path"), (Top, "path")].map(|(place, name)| self.last(place, name));
        let path = paths.into_iter().flatten().find(|path| !matches!(*path, b"" | b"/")).map(str::from_utf8);
        match path {
            Some(Ok(path)) if path.starts_with('/') && path.len() <= MAX_PATH_LENGTH => path.to_owned(),
            _ => "/".to_owned(),
        }
    }

    /// The headers. Their values are joined as an HTTP API joins them, so that a request is the same behind every gateway.
    fn header_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for name in headers() {
            let value = match name {
                "Cookie" => self.cookies().join(&b"; "[..]),
                "Host" => self.host().unwrap_or_default().to_vec(),
                _ => self.values(name).join(&b","[..]),
            };
            if !value.is_empty() {
                map.insert(name, header_value(value));
            }
        }
        if self.cut_off > 0 {
            // The deciding credential may be missing, and another credential could revoke the owner's session.
            let [first, ..] = &SOURCES;
            map.insert(first.header, HeaderValue::from_static(INVALID));
        }
        map
    }

    /// The cookies. If an event has the member `cookies`, its header `Cookie` adds none.
    fn cookies(&self) -> Vec<&[u8]> {
        match self.strings.get(&(Top, "cookies")) {
            Some(cookies) => cookies.iter().map(Vec::as_slice).collect(),
            None => self.values("Cookie"),
        }
    }

    /// The host that is called. Two different hosts count as none, so that no origin is the request's own.
    fn host(&self) -> Option<&[u8]> {
        let mut hosts = self.values("Host");
        if hosts.is_empty() {
            hosts.extend(self.last(RequestContext, "domainName"));
        }
        hosts.retain(|host| is_host(host));
        hosts.pop().filter(|_| hosts.is_empty())
    }

    /// All different values of a header. REST APIs and load balancers put headers into `headers`, `multiValueHeaders` or both.
    fn values(&self, name: &'static str) -> Vec<&[u8]> {
        let mut values = Vec::new();
        let places = [Headers, MultiValueHeaders].into_iter();
        for value in places.filter_map(|place| self.strings.get(&(place, name))).flatten().map(Vec::as_slice) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    }

    /// The last string of a member: of repeated members the last counts.
    fn last(&self, place: Place, name: &'static str) -> Option<&[u8]> {
        self.strings.get(&(place, name))?.last().map(Vec::as_slice)
    }
}

/// The value of a header, in which each control character is replaced: dropping it could turn an invalid token into a valid one.
fn header_value(mut value: Vec<u8>) -> HeaderValue {
    for byte in value.iter_mut().filter(|byte| byte.is_ascii_control()) {
        *byte = b'?';
    }
    HeaderValue::from_maybe_shared(value).unwrap_or(HeaderValue::from_static(INVALID))
}

/// Whether `lambda_http` can build a URL of the host. An invalid host is left out: no origin is equal to it.
fn is_host(host: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte);
    host.len() <= MAX_HOST_LENGTH
        && host.iter().all(is_part)
        && str::from_utf8(host).is_ok_and(|host| Url::parse(&format!("https://{host}/")).is_ok())
}

/// The gateway's id of a request, if it can stand in an answer and in a line of the log as it is.
fn request_id(id: &[u8]) -> Option<String> {
    let is_safe = (1..=MAX_REQUEST_ID_LENGTH).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    is_safe.then(|| String::from_utf8_lossy(id).into_owned())
}

/// What to read of a member.
#[derive(Clone, Copy)]
enum Member {
    Object(Place),
    Strings(Place, &'static str),
}

impl Member {
    fn of(place: Place, name: &[u8]) -> Option<Self> {
        if let Headers | MultiValueHeaders = place {
            let header = headers().find(|header| name.eq_ignore_ascii_case(header.as_bytes()));
            return header.map(|header| Self::Strings(place, header));
        }
        let (_, name, object) =
            MEMBERS.iter().find(|(parent, member, _)| (*parent, member.as_bytes()) == (place, name))?;
        Some(object.map_or(Self::Strings(place, name), Self::Object))
    }
}

/// A name of a member or a string, which need not be UTF-8.
#[derive(Deserialize)]
#[serde(transparent)]
struct Bytes<'a>(#[serde(borrow)] Cow<'a, [u8]>);

/// Reads the value of a member into the payload.
struct Value<'p>(&'p mut Payload, Member);

impl Value<'_> {
    fn push(self, string: &[u8]) {
        if let Member::Strings(place, name) = self.1 {
            self.0.strings.entry((place, name)).or_default().push(string.to_vec());
        }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.1 {
            Member::Object(place) => {
                self.0.objects.insert(place);
                deserializer.deserialize_struct("object", &[], self)
            }
            Member::Strings(..) => deserializer.deserialize_bytes(self),
        }
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("what a gateway sends")
    }

    /// Reads each member. Where `serde_json` expects a string or an object and finds null, a boolean or a number, it reads that
    /// value to its end before it returns the error. So the error is ignored, and the next member is read. After any other error,
    /// reading ends early and `cut_off` stays above 0.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(payload, Member::Object(place)) = self else { return Ok(()) };
        payload.cut_off += 1;
        while let Some(Bytes(name)) = map.next_key()? {
            match Member::of(place, &name) {
                Some(member) => _ = map.next_value_seed(Value(payload, member)),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        payload.cut_off -= 1;
        Ok(())
    }

    /// Reads the strings of an array. An array in place of an object has no members.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.0.cut_off += 1;
        if let Member::Strings(place, name) = self.1 {
            let strings = self.0.strings.entry((place, name)).or_default();
            while let Some(Bytes(string)) = seq.next_element()? {
                strings.push(string.into_owned());
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        self.0.cut_off -= 1;
        Ok(())
    }

    fn visit_bytes<E: Error>(self, string: &[u8]) -> Result<(), E> {
        self.push(string);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lambda_http::http::HeaderName;
    use lambda_http::request::RequestContext;
    use lambda_http::{Request, RequestExt};
    use serde_json::{Value, json};

    use super::*;

    const SESSION_TOKEN: HeaderName = HeaderName::from_static("x-session-token");

    fn read(payload: &[u8]) -> Option<Request> {
        // Like the runtime, this ignores what follows the event.
        let event = Event::deserialize(&mut serde_json::Deserializer::from_slice(payload)).ok()?;
        Some(event.into_inner().into())
    }

    fn request(payload: &Value) -> Option<Request> {
        read(payload.to_string().as_bytes())
    }

    fn header(payload: &(impl ToString + ?Sized), name: &str) -> Option<String> {
        let request = read(payload.to_string().as_bytes())?;
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
        assert_eq!(header(&payload, "x-session-token").as_deref(), Some("a?b"));
        assert_eq!(header(&payload, "authorization").as_deref(), Some("Bearer x"));
        assert_eq!(header(&payload, "cookie").as_deref(), Some("a=1; b=?; c=3"));
    }

    #[test]
    fn no_host_path_scheme_or_body_makes_the_conversion_panic() {
        for host in
            ["", "a b", "a:99999", "1.2.3.4.5", "[::1", "a@b", "%", "xn--", "a/b", "\u{0}", "é", "[v1.a]", ":80"]
        {
            for path in ["", "*", ":1", "//", "/%", "/a b", "/\u{0}é", "/?#", "\\", &"/é".repeat(9_000)] {
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
    fn two_different_hosts_count_as_none() {
        let payload = json!({
            "httpMethod": "DELETE", "path": "/auth/sessions", "requestContext": {},
            "multiValueHeaders": {"Host": ["a.example", "b.example"]},
        });
        assert_eq!(header(&payload, "host"), None);
    }

    #[test]
    fn a_request_id_that_is_empty_long_or_not_visible_ascii_is_none() {
        let id = |id: &str| {
            let context = json!({"http": {"method": "DELETE"}, "requestId": id});
            match request(&json!({"requestContext": context}))?.request_context_ref()? {
                RequestContext::ApiGatewayV2(context) => context.request_id.clone(),
                _ => None,
            }
        };
        let longest = "a".repeat(MAX_REQUEST_ID_LENGTH);
        for kept in ["JKJaXmPLvHcESHA=", "0a1b2c3d-0008-4e5f-8a9b-0c1d2e3f4a5b", &longest] {
            assert_eq!(id(kept).as_deref(), Some(kept));
        }
        for unsafe_id in ["", "a b", "a\n", "é", &format!("{longest}a")] {
            assert_eq!(id(unsafe_id), None, "{unsafe_id}");
        }
    }

    #[test]
    fn an_empty_raw_path_leaves_the_decision_to_the_path_of_the_request_context() {
        let path = |raw: Value, http: &str| {
            let event = json!({"rawPath": raw, "requestContext": {"http": {"method": "DELETE", "path": http}}});
            request(&event).map(|request| request.raw_http_path().to_owned())
        };
        for raw in [json!(""), json!("/"), Value::Null] {
            assert_eq!(path(raw, "/auth/sessions").as_deref(), Some("/auth/sessions"));
        }
        assert_eq!(path(json!("/other"), "/auth/sessions").as_deref(), Some("/other"));
        assert_eq!(path(json!("/"), "/").as_deref(), Some("/"));
    }

    #[test]
    fn the_member_cookies_replaces_the_cookie_header() {
        let cookie = |cookies: Value| {
            header(&json!({"rawPath": "/", "headers": {"cookie": "a=1,b=2"}, "cookies": cookies}), "cookie")
        };
        assert_eq!(cookie(json!(["a=1", "b=2"])).as_deref(), Some("a=1; b=2"));
        assert_eq!(cookie(json!("a=1")).as_deref(), Some("a=1"));
        assert_eq!(cookie(json!([])), None);
        assert_eq!(cookie(Value::Null).as_deref(), Some("a=1,b=2"));
    }

    /// One event of each gateway, with the bytes of a string in members that are not needed.
    fn events_with(string: &[u8]) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
        let events = [
            r#"{"httpMethod": "DELETE", "path": "/sessions", "requestContext": {"requestId": "a", "identity": "%"}, "headers": {"X-Session-Token": "a", "User-Agent": "%"}}"#,
            r#"{"httpMethod": "DELETE", "path": "/sessions", "requestContext": {"requestId": "%"}, "headers": {"X-Session-Token": "a", "%": "a"}, "%": "%"}"#,
            r#"{"httpMethod": "DELETE", "path": "/sessions", "headers": null, "multiValueHeaders": {"user-agent": ["%", "%"], "x-session-token": ["a"]}, "requestContext": {"elb": {"targetGroupArn": "%"}}, "body": "%"}"#,
            r#"{"version": "2.0", "rawPath": "/sessions", "rawQueryString": "%", "headers": {"x-session-token": "a", "x-%": "%"}, "requestContext": {"http": {"method": "DELETE", "userAgent": "%"}, "domainName": "%"}}"#,
        ];
        events.into_iter().map(move |event| {
            let parts: Vec<_> = event.split('%').map(str::as_bytes).collect();
            (event, parts.join(string))
        })
    }

    #[test]
    fn no_bytes_in_what_is_not_needed_matter() {
        for string in
            [&b"\xff"[..], b"\xe9t\xe9", b"\xc3", b"\\ud800", b"\\udfff\\ud800", b"\\u0000", b"\\\\", &[b'a'; 10_000]]
        {
            for (event, bytes) in events_with(string) {
                let request = read(&bytes).unwrap_or_else(|| panic!("{event} with {string:?} is refused"));
                let token = request.headers().get("x-session-token").map(HeaderValue::as_bytes);
                assert_eq!((token, request.raw_http_path()), (Some(&b"a"[..]), "/sessions"), "{event} with {string:?}");
                assert_eq!(request.method(), Method::DELETE, "{event} with {string:?}");
            }
        }
        let nested = format!(
            r#"{{"a": {}1{}, "httpMethod": "DELETE", "path": "/a"}}"#,
            "[{\"a\":".repeat(100_000),
            "}]".repeat(100_000)
        );
        assert_eq!(read(nested.as_bytes()).as_ref().map(RequestExt::raw_http_path), Some("/a"));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_kept_in_a_credential_and_make_the_path_another_path() {
        for (string, kept) in [(&b"a\xff"[..], &b"a\xff"[..]), (b"a\\ud800", b"a\xed\xa0\x80")] {
            let event = [
                br#"{"httpMethod": "DELETE", "path": "/"#,
                string,
                br#"/sessions", "headers": {"cookie": ""#,
                string,
                b"\"}}",
            ]
            .concat();
            let request = read(&event).unwrap_or_else(|| panic!("refused with {string:?}"));
            assert_eq!(request.headers().get("cookie").map(HeaderValue::as_bytes), Some(kept));
            assert_eq!(request.raw_http_path(), "/");
        }
    }

    #[test]
    fn members_of_another_type_are_ignored() {
        for other in ["null", "true", "false", "7", "-1.5e3", "0"] {
            let event = format!(
                r#"{{"version": {other}, "path": {other}, "requestContext": {{"requestId": {other}, "http": {other}, "domainName": {other}}}, "multiValueHeaders": {other}, "cookies": {other}, "headers": {{"origin": {other}, "x-session-token": "a", "host": {other}}}, "rawPath": {other}, "httpMethod": {other}}}"#
            );
            let request = read(event.as_bytes()).unwrap_or_else(|| panic!("{other} is refused"));
            assert_eq!(
                request.headers(),
                &HeaderMap::from_iter([(SESSION_TOKEN, HeaderValue::from_static("a"))]),
                "{other}"
            );
            assert_eq!((request.method(), request.raw_http_path()), (&Method::TRACE, "/"), "{other}");
        }
        for other in ["[]", "[{}]", "7", "\"a\"", "\"\u{e9}\""] {
            let event = format!(
                r#"{{"headers": {other}, "multiValueHeaders": {other}, "requestContext": {other}, "httpMethod": "DELETE"}}"#
            );
            assert_eq!(read(event.as_bytes()).as_ref().map(Request::method), Some(&Method::DELETE), "{other}");
        }
    }

    #[test]
    fn of_a_repeated_member_the_last_counts_and_of_a_header_every_value() {
        let event = br#"{"httpMethod": "GET", "path": "/a", "headers": {"x-session-token": "a"}, "headers": {"x-session-token": "b", "X-Session-Token": "c"}, "httpMethod": "DELETE", "path": "/b"}"#;
        let request = read(event).unwrap_or_else(|| panic!("refused"));
        assert_eq!((request.method(), request.raw_http_path()), (&Method::DELETE, "/b"));
        assert_eq!(request.headers().get("x-session-token").map(HeaderValue::as_bytes), Some(&b"a,b,c"[..]));
    }

    #[test]
    fn the_credential_of_an_event_that_cannot_be_read_to_its_end_is_malformed() {
        let whole = r#"{"httpMethod": "DELETE", "path": "/sessions", "headers": {"x-session-token": "a"}, "body": ""}"#;
        for end in whole.find(", \"path").unwrap_or_default()..whole.len() {
            let (cut_off, _) = whole.split_at(end);
            assert_eq!(header(cut_off, "x-session-token").as_deref(), Some("?"), "{cut_off}");
        }
        let not_json =
            "{\"httpMethod\": \"DELETE\", \"headers\": {\"x-session-token\": \"a\", \"user-agent\": \"\\q}}\"}}";
        assert_eq!(header(not_json, "x-session-token").as_deref(), Some("?"));
        for value in ["{}", "{\"a\": 1}", "[\"a\", 7]", "[\"a\", 7, \"b\"]", "[[\"a\"]]", "[{}]"] {
            for (event, method) in [
                (
                    format!(
                        r#"{{"rawPath": "/sessions", "headers": {{"x-session-token": {value}, "x-session-token": "a"}}}}"#
                    ),
                    Method::DELETE,
                ),
                (
                    format!(r#"{{"httpMethod": "GET", "cookies": {value}, "headers": {{"x-session-token": "a"}}}}"#),
                    Method::GET,
                ),
            ] {
                assert_eq!(header(&event, "x-session-token").as_deref(), Some("?"), "{event}");
                assert_eq!(read(event.as_bytes()).as_ref().map(Request::method), Some(&method), "{event}");
            }
        }
    }

    #[test]
    fn one_member_is_enough_to_recognize_a_gateway() {
        for (event, expected) in [
            (r#"{"version": "2.0"}"#, "http"),
            (r#"{"rawPath": "/"}"#, "http"),
            (r#"{"requestContext": {"http": null}}"#, "http"),
            (r#"{"requestContext": {"elb": {}}}"#, "elb"),
            (r#"{"httpMethod": "GET"}"#, "rest"),
            (r#"{"version": "1.0", "httpMethod": "GET"}"#, "rest"),
        ] {
            let request = read(event.as_bytes()).unwrap_or_else(|| panic!("{event} is refused"));
            let gateway = match request.request_context_ref() {
                Some(RequestContext::ApiGatewayV2(_)) => "http",
                Some(RequestContext::Alb(_)) => "elb",
                _ => "rest",
            };
            assert_eq!(gateway, expected, "{event}");
        }
    }

    #[test]
    fn a_payload_of_no_gateway_is_refused_and_the_error_does_not_repeat_it() {
        for payload in [
            "null",
            "[]",
            "\"canary\"",
            "{}",
            r#"{"source":"canary"}"#,
            r#"{"httpMethod":7}"#,
            r#"{"version":"canary"}"#,
            r#"{"headers":"canary"}"#,
            "{\"canary",
        ] {
            let Err(error) = serde_json::from_str::<Event>(payload) else { panic!("accepted {payload}") };
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
