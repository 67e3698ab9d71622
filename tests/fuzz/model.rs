//! What an event means, read a second time from the contract alone and as plainly as possible, and the check that the
//! function reads it the same way. For the fuzz target and the suite; knows events as bytes, no database.

use std::collections::BTreeSet;

use disable_my_other_sessions::http::credentials;
use disable_my_other_sessions::http::event::Event;
use disable_my_other_sessions::http::origin::AllowedOrigins;
use disable_my_other_sessions::session::Token;
use lambda_http::request::RequestContext;
use lambda_http::{Request, RequestExt};
use serde::Deserialize;

const COOKIE: &str = "ory_kratos_session";
const ALLOWED_ORIGIN: &str = "https://app.example.com";

/// As much of an event as decides its answer.
#[derive(Debug)]
pub struct Meaning {
    pub method: Vec<u8>,
    pub path: String,
    pub credential: Credential,
    pub cookie_use: CookieUse,
    gateway: &'static str,
    request_id: Option<Vec<u8>>,
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

/// Why an event has no meaning.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaningless {
    /// It is of no gateway, and the function refuses it.
    OfNoGateway,
    /// It is no JSON, or has something else where gateways have a string. The function may do with it what it likes, except panic.
    Unspecified,
}

/// Reads an event with the function's own code and with the model, and panics where they differ. What they agree on, if it has
/// a meaning.
pub fn check(event: &[u8]) -> Option<Meaning> {
    // The runtime, too, ignores what follows the event.
    let read = Event::deserialize(&mut serde_json::Deserializer::from_slice(event));
    let request = read.ok().map(|event| Request::from(event.into_inner()));
    let meaning = match meaning(event) {
        Ok(meaning) => meaning,
        Err(meaningless) => {
            assert!(meaningless == Meaningless::Unspecified || request.is_none(), "an event of no gateway was read");
            return None;
        }
    };
    let request = request.expect("an event of a gateway");

    assert_eq!(request.raw_http_path(), meaning.path);
    for method in ["DELETE", "OPTIONS"] {
        assert_eq!(request.method() == method, meaning.method == method.as_bytes(), "{meaning:?}");
    }
    let (gateway, request_id) = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV1(context)) => ("REST", context.request_id.as_deref()),
        Some(RequestContext::ApiGatewayV2(context)) => ("HTTP", context.request_id.as_deref()),
        _ => ("load balancer", None),
    };
    assert_eq!(gateway, meaning.gateway);
    assert_eq!(request_id.map(str::as_bytes), meaning.request_id.as_deref());

    let found = credentials::from_headers(request.headers(), COOKIE)
        .map(|found| found.map(|credential| (credential.source.header, credential.token.hash())))
        .map_err(|_| ());
    let expected = match &meaning.credential {
        Credential::Absent => Ok(None),
        Credential::Malformed => Err(()),
        Credential::Token(header, token) => {
            Ok(Some((*header, Token::parse(token.as_bytes()).expect("a token68").hash())))
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
    let cors = origins.cors_headers(request.method(), request.headers());
    if let Some(reflected) = cors.get("access-control-allow-origin") {
        assert_eq!(reflected, ALLOWED_ORIGIN);
    }
    if let Some(granted) = cors.get("access-control-allow-headers") {
        let granted = granted.to_str().expect("names of headers");
        // An asterisk is a wildcard only by itself.
        let is_name = |name: &str| !name.is_empty() && name != "*" && !name.contains([' ', ',', ':']);
        assert!(granted.split(", ").all(is_name), "{granted}");
    }
    Some(meaning)
}

/// What an event means.
fn meaning(event: &[u8]) -> Result<Meaning, Meaningless> {
    let event = Json::parse(event).ok_or(Meaningless::Unspecified)?;
    let event = std::slice::from_ref(&event);
    let context = members(event, "requestContext");
    let (http, elb) = (members(&context, "http"), members(&context, "elb"));
    let headers = Headers(members(event, "headers"), members(event, "multiValueHeaders"));
    for object in [event, &context, &http, &elb, &headers.0, &headers.1] {
        // A string in place of an object is no gateway's.
        if object.iter().any(|value| matches!(value, Json::String(_))) {
            return Err(Meaningless::Unspecified);
        }
    }

    let version = strings(&members(event, "version"))?;
    let raw_path = strings(&members(event, "rawPath"))?;
    let http_method = strings(&members(event, "httpMethod"))?;
    let is_http = !http.is_empty() || !raw_path.is_empty() || version.last().is_some_and(|version| version == b"2.0");
    let gateway = match (is_http, elb.is_empty(), http_method.is_empty()) {
        (true, ..) => "HTTP",
        (_, false, _) => "load balancer",
        (_, _, false) => "REST",
        _ => return Err(Meaningless::OfNoGateway),
    };
    let methods = [http_method, strings(&members(&http, "method"))?].concat();
    let path = [strings(&members(event, "path"))?, strings(&members(&http, "path"))?, raw_path]
        .into_iter()
        .filter_map(|mut paths| paths.pop())
        .rfind(|path| path != b"" && path != b"/")
        .and_then(|path| String::from_utf8(path).ok())
        .filter(|path| path.starts_with('/') && path.len() <= 16 * 1024);
    let request_id = strings(&members(&context, "requestId"))?.pop();
    let request_id = request_id.filter(|id| (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic));
    let listed = members(event, "cookies");
    let is_listed = listed.iter().any(|cookies| matches!(cookies, Json::String(_) | Json::Array(_)));
    let (listed, in_header) = (strings(&listed)?, headers.values("cookie")?);
    let cookies = if is_listed { listed } else { in_header };
    let mut hosts = headers.values("host")?;
    let domain_name = strings(&members(&context, "domainName"))?.pop();
    if hosts.is_empty() {
        hosts.extend(domain_name);
    }
    headers.values("access-control-request-headers")?;
    Ok(Meaning {
        method: methods.last().cloned().unwrap_or_default(),
        path: path.unwrap_or_else(|| "/".to_owned()),
        credential: credential(&headers.values("x-session-token")?, &cookies, &headers.values("authorization")?),
        cookie_use: cookie_use(&headers.values("origin")?, &headers.values("sec-fetch-site")?, &hosts),
        gateway,
        request_id: request_id.filter(|_| gateway != "load balancer"),
    })
}

fn credential(token: &[Vec<u8>], cookies: &[Vec<u8>], authorization: &[Vec<u8>]) -> Credential {
    let in_header = split(token, b',');
    let in_cookies = split(cookies, b';')
        .into_iter()
        .filter_map(|cookie| cookie.split_at_checked(cookie.iter().position(|byte| *byte == b'=')?))
        .filter(|(name, _)| trim(name) == COOKIE.as_bytes())
        .map(|(_, value)| unquoted(trim(&value[1..])))
        .collect();
    let authorizations = split(authorization, b',');
    let as_bearer = match authorizations.first().and_then(|first| after_bearer(first)) {
        Some(_) => authorizations.iter().map(|value| after_bearer(value).unwrap_or(value)).collect(),
        None => Vec::new(),
    };

    let kinds = [("X-Session-Token", in_header), ("Cookie", in_cookies), ("Authorization", as_bearer)];
    for (header, values) in kinds {
        let mut values: BTreeSet<&[u8]> = values.into_iter().collect();
        match (values.pop_first(), values.is_empty()) {
            (None | Some(b""), true) => {}
            (Some(token), true) if is_token68(token) => {
                return Credential::Token(header, String::from_utf8(token.to_vec()).expect("ASCII"));
            }
            _ => return Credential::Malformed,
        }
    }
    Credential::Absent
}

fn cookie_use(origin: &[Vec<u8>], site: &[Vec<u8>], hosts: &[Vec<u8>]) -> CookieUse {
    let [origin, site] = [origin, site].map(|values| values.join(&b","[..]));
    let is_own = |host: &Vec<u8>| {
        let (host, origin) = (host.to_ascii_lowercase(), origin.to_ascii_lowercase());
        let is = |scheme: &[u8], host: &[u8]| origin == [scheme, host].concat();
        is(b"http://", &host)
            || is(b"https://", &host)
            || host.strip_suffix(b":80").is_some_and(|name| is(b"http://", name))
            || host.strip_suffix(b":443").is_some_and(|name| is(b"https://", name))
    };
    if origin == ALLOWED_ORIGIN.as_bytes() || origin == b"null" && site == b"same-origin" {
        CookieUse::Allowed
    } else if ![&b""[..], b"same-origin", b"none"].contains(&&*site) {
        CookieUse::Refused
    } else if origin.is_empty() {
        CookieUse::Allowed
    } else if hosts.iter().any(is_own) {
        CookieUse::Either
    } else {
        CookieUse::Refused
    }
}

/// The objects in `headers` and in `multiValueHeaders`.
struct Headers(Vec<Json>, Vec<Json>);

impl Headers {
    /// All different values of a header, in either field and any spelling.
    fn values(&self, name: &str) -> Result<Vec<Vec<u8>>, Meaningless> {
        let mut values = Vec::new();
        for objects in [&self.0, &self.1] {
            values.extend(strings(&members_where(objects, |member| member.to_ascii_lowercase() == name.as_bytes()))?);
        }
        let mut seen = BTreeSet::new();
        values.retain(|value: &Vec<u8>| seen.insert(value.clone()));
        Ok(values)
    }
}

/// The members of this name of all these objects: a name may be repeated.
fn members(objects: &[Json], name: &str) -> Vec<Json> {
    members_where(objects, |member| member == name.as_bytes())
}

fn members_where(objects: &[Json], is_wanted: impl Fn(&[u8]) -> bool) -> Vec<Json> {
    let members =
        objects.iter().filter_map(|object| if let Json::Object(members) = object { Some(members) } else { None });
    members.flatten().filter(|(name, _)| is_wanted(name)).map(|(_, value)| value.clone()).collect()
}

/// The strings among values that may be strings or arrays of strings.
fn strings(values: &[Json]) -> Result<Vec<Vec<u8>>, Meaningless> {
    let mut strings = Vec::new();
    for value in values {
        match value {
            Json::String(string) => strings.push(string.clone()),
            Json::Array(elements) => {
                for element in elements {
                    let Json::String(string) = element else { return Err(Meaningless::Unspecified) };
                    strings.push(string.clone());
                }
            }
            Json::Object(_) => return Err(Meaningless::Unspecified),
            Json::Other => {}
        }
    }
    Ok(strings)
}

fn split(values: &[Vec<u8>], separator: u8) -> Vec<&[u8]> {
    values.iter().flat_map(|value| value.split(move |byte| *byte == separator)).map(trim).collect()
}

/// Only of spaces: a tab is a control character like any other, and spoils what it is in.
fn trim(mut value: &[u8]) -> &[u8] {
    while let Some(rest) = value.strip_prefix(b" ").or(value.strip_suffix(b" ")) {
        value = rest;
    }
    value
}

/// Without the one pair of double quotes that a cookie's value may stand in.
fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

fn after_bearer(value: &[u8]) -> Option<&[u8]> {
    let end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| trim(rest))
}

fn is_token68(value: &[u8]) -> bool {
    let end = value.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let is_char = |byte: &u8| byte.is_ascii_alphanumeric() || b"._~+/-".contains(byte);
    end > 0 && value.len() <= 4096 && value[..end].iter().all(is_char)
}

/// JSON whose strings are bytes, of which half a surrogate pair has three, and whose members may be repeated.
#[derive(Clone, Debug)]
enum Json {
    Object(Vec<(Vec<u8>, Json)>),
    Array(Vec<Json>),
    String(Vec<u8>),
    /// Null, a boolean or a number.
    Other,
}

impl Json {
    /// The value that some bytes begin with; `None` if that is no JSON, or nested more deeply than any gateway's.
    fn parse(bytes: &[u8]) -> Option<Self> {
        Parser(bytes).value(100)
    }
}

/// The bytes that have not been read yet.
struct Parser<'a>(&'a [u8]);

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Option<Json> {
        self.skip_space();
        match self.0.first()? {
            b'{' => {
                let mut members = Vec::new();
                self.list(b'}', |parser| {
                    parser.skip_space();
                    let name = parser.string()?;
                    parser.skip_space();
                    parser.take(b":")?;
                    members.push((name, parser.value(depth.checked_sub(1)?)?));
                    Some(())
                })?;
                Some(Json::Object(members))
            }
            b'[' => {
                let mut elements = Vec::new();
                self.list(b']', |parser| {
                    elements.push(parser.value(depth.checked_sub(1)?)?);
                    Some(())
                })?;
                Some(Json::Array(elements))
            }
            b'"' => self.string().map(Json::String),
            _ => {
                let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                let end = self.0.iter().position(|byte| !is_part(byte)).unwrap_or(self.0.len());
                let (word, rest) = self.0.split_at(end);
                self.0 = rest;
                // A number that is out of range for a double is no value either.
                serde_json::from_slice::<serde_json::Value>(word).ok().map(|_| Json::Other)
            }
        }
    }

    /// What stands between two brackets, separated by commas.
    fn list(&mut self, end: u8, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.0 = &self.0[1..];
        self.skip_space();
        if self.take(&[end]).is_some() {
            return Some(());
        }
        loop {
            element(self)?;
            self.skip_space();
            if self.take(b",").is_none() {
                return self.take(&[end]);
            }
        }
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        self.take(b"\"")?;
        let mut string = Vec::new();
        loop {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            match first {
                b'"' => return Some(string),
                b'\\' => self.escape(&mut string)?,
                0..b' ' => return None,
                byte => string.push(*byte),
            }
        }
    }

    fn escape(&mut self, string: &mut Vec<u8>) -> Option<()> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        let char = match first {
            b'"' | b'\\' | b'/' => char::from(*first),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit()?;
                let pair = matches!(unit, 0xd800..0xdc00).then(|| Parser(self.0).second_half()).flatten();
                if pair.is_some() {
                    self.0 = &self.0[6..];
                }
                let Some(Ok(char)) = char::decode_utf16([unit].into_iter().chain(pair)).next() else {
                    // As UTF-8 would encode it, if it did.
                    let [high, low] = unit.to_be_bytes();
                    string.extend([0xe0 | high >> 4, 0x80 | (high & 15) << 2 | low >> 6, 0x80 | low & 63]);
                    return Some(());
                };
                char
            }
            _ => return None,
        };
        string.extend(char.encode_utf8(&mut [0; 4]).bytes());
        Some(())
    }

    /// The second half of a surrogate pair, if it comes next.
    fn second_half(mut self) -> Option<u16> {
        self.take(b"\\u")?;
        self.unit().filter(|unit| matches!(unit, 0xdc00..0xe000))
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Option<u16> {
        let (digits, rest) =
            self.0.split_at_checked(4).filter(|(digits, _)| digits.iter().all(u8::is_ascii_hexdigit))?;
        self.0 = rest;
        u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
    }

    fn take(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }
}
