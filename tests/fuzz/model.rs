//! What an event means, read a second time from the contract alone and as plainly as possible, and the check that the
//! function reads it the same way. For the fuzz target and the suite; knows events as JSON, no database.

use std::collections::BTreeSet;

use disable_my_other_sessions::http::credentials;
use disable_my_other_sessions::http::event::Event;
use disable_my_other_sessions::http::origin::AllowedOrigins;
use disable_my_other_sessions::session::Token;
use lambda_http::{Request, RequestExt};
use serde_json::Value;

const COOKIE: &str = "ory_kratos_session";
const ALLOWED_ORIGIN: &str = "https://app.example.com";

/// As much of an event as decides its answer.
#[derive(Debug)]
pub struct Meaning {
    pub method: String,
    pub path: String,
    pub credential: Credential,
    pub cookie_use: CookieUse,
}

/// The deciding credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    Absent,
    Malformed,
    /// The header that carries it, and the token.
    Token(&'static str, String),
}

/// Whether a cookie may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieUse {
    Allowed,
    Refused,
    /// The origin is a host that the event names. Of an odd host the function may still think that it is none.
    Either,
}

/// Reads an event with the function's own code and with the model, and panics where they differ. What they agree on;
/// `None` if the event is of no gateway.
pub fn check(event: &[u8]) -> Option<Meaning> {
    let read = serde_json::from_slice::<Event>(event);
    let meaning = serde_json::from_slice(event).ok().as_ref().and_then(meaning);
    assert_eq!(read.is_ok(), meaning.is_some(), "is it an event?");
    let (event, meaning) = (read.ok()?, meaning?);

    let request = Request::from(event.into_inner());
    assert_eq!(request.raw_http_path(), meaning.path);
    for method in ["DELETE", "OPTIONS"] {
        assert_eq!(request.method() == method, meaning.method == method, "{meaning:?}");
    }

    let found = credentials::from_headers(request.headers(), COOKIE)
        .map(|found| found.map(|credential| (credential.source.header, credential.token.hash())))
        .map_err(|_| ());
    let expected = match &meaning.credential {
        Credential::Absent => Ok(None),
        Credential::Malformed => Err(()),
        Credential::Token(source, token) => {
            Ok(Some((*source, Token::parse(token.as_bytes()).expect("a token68").hash())))
        }
    };
    assert_eq!(found, expected, "{meaning:?}");

    let origins = AllowedOrigins::parse(ALLOWED_ORIGIN).unwrap_or_default();
    let cookie_use = match origins.check_cookie_use(request.headers()) {
        _ if meaning.cookie_use == CookieUse::Either => CookieUse::Either,
        Ok(()) => CookieUse::Allowed,
        Err(_) => CookieUse::Refused,
    };
    assert_eq!(cookie_use, meaning.cookie_use, "{meaning:?}");
    if let Some(reflected) =
        origins.cors_headers(request.method(), request.headers()).get("access-control-allow-origin")
    {
        assert_eq!(reflected, ALLOWED_ORIGIN);
    }
    Some(meaning)
}

/// What an event means; `None` if it is of no gateway.
pub fn meaning(event: &Value) -> Option<Meaning> {
    let (method, path) = match event["requestContext"]["http"]["method"].as_str() {
        Some(method) => (method, &event["rawPath"]),
        None => (event["httpMethod"].as_str()?, &event["path"]),
    };
    let path = path.as_str().filter(|path| path.starts_with('/') && path.len() <= 16 * 1024).unwrap_or("/");
    Some(Meaning {
        method: method.to_owned(),
        path: path.to_owned(),
        credential: credential(event),
        cookie_use: cookie_use(event),
    })
}

fn credential(event: &Value) -> Credential {
    let in_header = split(&header(event, "x-session-token"), ',');
    let mut cookies = header(event, "cookie");
    cookies.extend(strings(&event["cookies"]));
    let in_cookies = split(&cookies, ';')
        .into_iter()
        .filter_map(|cookie| cookie.split_once('='))
        .filter(|(name, _)| trim(name) == COOKIE)
        .map(|(_, value)| unquoted(trim(value)))
        .collect();
    let authorizations = split(&header(event, "authorization"), ',');
    let as_bearer = match authorizations.first().and_then(|first| after_bearer(first)) {
        Some(_) => authorizations.iter().map(|value| after_bearer(value).unwrap_or(value)).collect(),
        None => Vec::new(),
    };

    let kinds = [("X-Session-Token", in_header), ("Cookie", in_cookies), ("Authorization", as_bearer)];
    for (source, values) in kinds {
        let mut values: BTreeSet<&str> = values.into_iter().collect();
        match (values.pop_first(), values.is_empty()) {
            (None | Some(""), true) => {}
            (Some(token), true) if is_token68(token) => return Credential::Token(source, token.to_owned()),
            _ => return Credential::Malformed,
        }
    }
    Credential::Absent
}

fn cookie_use(event: &Value) -> CookieUse {
    let origin = header(event, "origin").join(",");
    let site = header(event, "sec-fetch-site").join(",");
    let mut hosts = header(event, "host");
    if hosts.is_empty() {
        hosts.extend(event["requestContext"]["domainName"].as_str());
    }
    let is_own = |host: &&str| {
        let host = host.to_ascii_lowercase();
        let origin = origin.to_ascii_lowercase();
        [format!("http://{host}"), format!("https://{host}")].contains(&origin)
            || host.strip_suffix(":80").is_some_and(|name| origin == format!("http://{name}"))
            || host.strip_suffix(":443").is_some_and(|name| origin == format!("https://{name}"))
    };
    if origin == ALLOWED_ORIGIN {
        CookieUse::Allowed
    } else if origin == "null" && site == "same-origin" {
        CookieUse::Allowed
    } else if !["", "same-origin", "none"].contains(&site.as_str()) {
        CookieUse::Refused
    } else if origin.is_empty() {
        CookieUse::Allowed
    } else if hosts.iter().any(is_own) {
        CookieUse::Either
    } else {
        CookieUse::Refused
    }
}

/// All different values of a header, in either field and any spelling.
fn header<'a>(event: &'a Value, name: &str) -> Vec<&'a str> {
    let mut values = Vec::new();
    for field in ["headers", "multiValueHeaders"] {
        for (key, value) in event[field].as_object().into_iter().flatten() {
            if key.to_ascii_lowercase() == name {
                values.extend(strings(value));
            }
        }
    }
    let mut seen = BTreeSet::new();
    values.retain(|value| seen.insert(*value));
    values
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(value) => vec![value],
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn split<'a>(values: &[&'a str], separator: char) -> Vec<&'a str> {
    values.iter().flat_map(|value| value.split(separator)).map(trim).collect()
}

/// Only of spaces: a tab is a control character like any other, and spoils what it is in.
fn trim(value: &str) -> &str {
    value.trim_matches(' ')
}

/// Without the one pair of double quotes that a cookie's value may stand in.
fn unquoted(value: &str) -> &str {
    let has_pair = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
    if has_pair { &value[1..value.len() - 1] } else { value }
}

fn after_bearer(value: &str) -> Option<&str> {
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| trim(rest))
}

fn is_token68(value: &str) -> bool {
    let body = value.trim_end_matches('=');
    !body.is_empty() && value.len() <= 4096 && body.chars().all(|c| c.is_ascii_alphanumeric() || "._~+/-".contains(c))
}
