//! Which web pages may call: the allowed origins, the CORS headers for them, and the CSRF rule for cookies.

use lambda_http::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use url::Url;

use crate::http::credentials::SOURCES;

/// `Sec-Fetch-Site`, by which a browser says how the page's site is related to the host that is called.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The headers that this module reads. `event` drops every header that neither this list nor `SOURCES` names.
pub const HEADERS: [&str; 4] = ["Origin", "Sec-Fetch-Site", "Host", "Access-Control-Request-Headers"];

/// The longest list of header names that a preflight is granted, in bytes. No page asks for so many, and API Gateway allows
/// 10,240 bytes for all headers of an answer.
const MAX_GRANTED_HEADERS: usize = 2_048;

/// Web origins that may call with credentials (`ALLOWED_ORIGINS`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOrigins(Vec<String>);

/// An entry of the list is not an origin as browsers send it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin as a browser sends it, such as https://app.example.com or capacitor://localhost: a scheme and a host, in lower case, without path, wildcard or default port"
)]
pub struct NotAnOrigin(String);

/// The request comes from a web page that may not use the user's cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrfViolation {
    /// `Origin` is neither allowed nor the host that is called.
    #[error("Origin is not allowed")]
    Origin,
    /// `Sec-Fetch-Site` names another site, and no allowed `Origin` comes with it.
    #[error("Sec-Fetch-Site names another site")]
    FetchSite,
}

impl AllowedOrigins {
    /// Reads a comma-separated list. An entry that no browser would ever send is an error, since it would never match.
    ///
    /// # Errors
    /// [`NotAnOrigin`] with the first entry that no browser would send.
    ///
    /// Source: the serialization of an origin in RFC 6454, section 6.2.
    pub fn parse(list: &str) -> Result<Self, NotAnOrigin> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries
            .map(|entry| if is_origin(entry) { Ok(entry.to_owned()) } else { Err(NotAnOrigin(entry.to_owned())) })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The request's `Origin`, if it is allowed.
    fn allowed<'a>(&self, request: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = request.get(header::ORIGIN)?;
        self.0.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then_some(origin)
    }

    /// The CORS headers of an answer to this request. `Vary` is always there: without it, a cache could give the answer for one
    /// origin to a page of another.
    #[must_use]
    pub fn cors_headers(&self, method: &Method, request: &HeaderMap) -> HeaderMap {
        let is_preflight = *method == Method::OPTIONS;
        let vary = if is_preflight { "Origin, Access-Control-Request-Headers" } else { "Origin" };
        let mut headers = HeaderMap::with_capacity(7);
        headers.insert(header::VARY, HeaderValue::from_static(vary));
        if let Some(origin) = self.allowed(request) {
            let asked = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|_| is_preflight);
            let granted = granted(asked.map_or(b"", HeaderValue::as_bytes));
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("DELETE"));
            headers.extend(granted.map(|granted| (header::ACCESS_CONTROL_ALLOW_HEADERS, granted)));
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After"));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
        }
        headers
    }

    /// Whether a request may use the cookie it carries. `Sec-Fetch-Site` can only reject a request, never authorize one: clients
    /// other than browsers send it too, or nothing at all.
    ///
    /// # Errors
    /// [`CsrfViolation`] if the browser says that a page of another site, or of an origin that is not allowed, made the request.
    pub fn check_cookie_use(&self, request: &HeaderMap) -> Result<(), CsrfViolation> {
        if self.allowed(request).is_some() {
            return Ok(());
        }
        match (non_empty(request, &header::ORIGIN), non_empty(request, &SEC_FETCH_SITE)) {
            // Under `Referrer-Policy: no-referrer`, a page of the called host sends these two values. No script can forge
            // `Sec-Fetch-Site`.
            (Some(b"null"), Some(b"same-origin")) => Ok(()),
            (Some(origin), _) if !is_own_host(origin, request) => Err(CsrfViolation::Origin),
            (_, None | Some(b"same-origin" | b"none")) => Ok(()),
            (_, Some(_)) => Err(CsrfViolation::FetchSite),
        }
    }
}

/// Whether an entry is an origin as a browser would serialize it. `*` is valid in the host of a URL, but the entry would look
/// like a wildcard and match nothing.
fn is_origin(entry: &str) -> bool {
    let serialized = |url: Url| {
        let host = url.host_str()?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{}://{host}{port}", url.scheme()))
    };
    !entry.contains('*') && Url::parse(entry).ok().and_then(serialized).is_some_and(|origin| origin == entry)
}

/// The value of `Access-Control-Allow-Headers`: all header names that a preflight asks for, since libraries for tracing and HTTP
/// add their own headers. A preflight that asks for none, or for too many, is granted the headers of the credentials.
fn granted(asked: &[u8]) -> Option<HeaderValue> {
    let is_name = |name: &&[u8]| *name != b"*" && HeaderName::from_bytes(name).is_ok();
    let mut granted = Vec::new();
    for name in asked.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(is_name) {
        granted.extend_from_slice(if granted.is_empty() { b"" } else { b", " });
        granted.extend_from_slice(name);
    }
    if granted.is_empty() || granted.len() > MAX_GRANTED_HEADERS {
        let credentials = SOURCES.iter().filter(|source| !source.is_sent_by_browsers).map(|source| source.header);
        granted = credentials.chain(["Content-Type"]).collect::<Vec<_>>().join(", ").into_bytes();
    }
    HeaderValue::from_bytes(&granted).ok()
}

fn non_empty<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    headers.get(name).map(HeaderValue::as_bytes).filter(|value| !value.is_empty())
}

/// Whether an origin is the host that is called, port included. Only `Host` may name the default port.
fn is_own_host(origin: &[u8], request: &HeaderMap) -> bool {
    let Some(host) = request.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let Ok(origin) = std::str::from_utf8(origin) else { return false };
    let (name, default_port) = match origin.split_once("://") {
        Some(("https", name)) => (name, ":443"),
        Some(("http", name)) => (name, ":80"),
        _ => return false,
    };
    name.eq_ignore_ascii_case(host.strip_suffix(default_port).unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn allowed() -> AllowedOrigins {
        AllowedOrigins::parse("https://app.example.com, http://localhost:3000").unwrap_or_default()
    }

    #[test]
    fn an_entry_that_no_browser_sends_is_refused() {
        for entry in [
            "*",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://*.example.com",
            "HTTPS://app.example.com",
            "https://App.example.com",
            "https://app.example.com:443",
            "https://user@app.example.com",
            "https://",
            "https://a b",
            "https://münchen.example",
            "capacitor://",
            "capacitor://localhost/",
            "capacitor://*",
            "Capacitor://localhost",
            "tauri:localhost",
            "chrome-extension://*/",
            "app://user@localhost",
            "app://localhost?a",
            "app://localhost#a",
            "app://localhost:",
            "file:///index.html",
            "file://",
            "blob:https://app.example.com/1",
        ] {
            assert_eq!(AllowedOrigins::parse(entry), Err(NotAnOrigin(entry.to_owned())));
        }
        assert_eq!(AllowedOrigins::parse(" , "), Ok(AllowedOrigins::default()));
        assert_eq!(allowed().0, ["https://app.example.com", "http://localhost:3000"]);
    }

    #[test]
    fn an_origin_may_have_any_scheme_that_a_browser_sends() {
        let origins = [
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "http://tauri.localhost",
            "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb",
            "moz-extension://2f4e8b1c-0d3a-4a5b-9c6d-7e8f9a0b1c2d",
            "safari-web-extension://5A6B7C8D-0D3A-4A5B-9C6D-7E8F9A0B1C2D",
            "app://-",
            "app://localhost:8080",
            "http://[::1]:3000",
        ];
        let list = AllowedOrigins::parse(&origins.join(" , ")).unwrap_or_default();
        assert_eq!(list.0, origins);
        for origin in origins {
            let request = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]);
            assert_eq!(list.check_cookie_use(&request), Ok(()), "{origin}");
            assert_eq!(
                list.cors_headers(&Method::DELETE, &request).get("access-control-allow-origin"),
                request.get("origin")
            );
        }
        for other in ["capacitor://Localhost", "capacitor://localhost:80", "tauri://localhost/", "app://-a", "app://"] {
            let request = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(other))]);
            assert_eq!(list.check_cookie_use(&request), Err(CsrfViolation::Origin), "{other}");
            assert_eq!(list.cors_headers(&Method::DELETE, &request).len(), 1, "{other}");
        }
    }

    #[test]
    fn the_error_of_a_bad_entry_names_it_and_says_what_an_origin_is() {
        let error = AllowedOrigins::parse("https://a.example, app.example.com")
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert_eq!(
            error,
            "\"app.example.com\" is not an origin as a browser sends it, such as https://app.example.com or \
             capacitor://localhost: a scheme and a host, in lower case, without path, wildcard or default port"
        );
    }

    #[test]
    fn a_cookie_may_be_used_by_allowed_origins_the_own_host_and_clients_that_are_no_browsers() {
        for headers in [
            &[][..],
            &[("origin", "https://app.example.com"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://localhost:3000")],
            &[("origin", "https://apis.example.com"), ("host", "apis.example.com"), ("sec-fetch-site", "same-origin")],
            &[("origin", "https://apis.example.com"), ("host", "APIS.example.com:443")],
            &[("origin", "http://localhost:9000"), ("host", "localhost:9000")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
            &[("origin", ""), ("sec-fetch-site", "")],
            &[("origin", "null"), ("sec-fetch-site", "same-origin")],
        ] {
            assert_eq!(allowed().check_cookie_use(&request(headers)), Ok(()), "{headers:?}");
        }
    }

    #[test]
    fn a_cookie_may_not_be_used_by_another_site() {
        for (headers, violation) in [
            (&[("origin", "https://evil.example"), ("host", "apis.example.com")][..], CsrfViolation::Origin),
            (&[("origin", "null"), ("host", "null")], CsrfViolation::Origin),
            (&[("origin", "null"), ("sec-fetch-site", "none")], CsrfViolation::Origin),
            (&[("origin", "null"), ("sec-fetch-site", "same-site")], CsrfViolation::Origin),
            (&[("origin", "null"), ("sec-fetch-site", "cross-site")], CsrfViolation::Origin),
            (&[("origin", "null"), ("sec-fetch-site", "same-origin,cross-site")], CsrfViolation::Origin),
            (&[("origin", "NULL"), ("sec-fetch-site", "same-origin")], CsrfViolation::Origin),
            (&[("origin", "https://evil.example,https://app.example.com")], CsrfViolation::Origin),
            (&[("origin", "https://apis.example.com:8443"), ("host", "apis.example.com")], CsrfViolation::Origin),
            (&[("origin", "https://apis.example.com")], CsrfViolation::Origin),
            (&[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")], CsrfViolation::Origin),
            (&[("sec-fetch-site", "cross-site")], CsrfViolation::FetchSite),
            (&[("sec-fetch-site", "same-site")], CsrfViolation::FetchSite),
            (&[("sec-fetch-site", "same-origin,cross-site")], CsrfViolation::FetchSite),
            (
                &[
                    ("origin", "http://apis.example.com"),
                    ("host", "apis.example.com"),
                    ("sec-fetch-site", "cross-site"),
                ],
                CsrfViolation::FetchSite,
            ),
        ] {
            assert_eq!(allowed().check_cookie_use(&request(headers)), Err(violation), "{headers:?}");
        }
    }

    #[test]
    fn only_an_allowed_origin_is_reflected() {
        let cors = allowed().cors_headers(&Method::DELETE, &request(&[("origin", "https://app.example.com")]));
        assert_eq!(
            cors.get("access-control-allow-origin").map(HeaderValue::as_bytes),
            Some(&b"https://app.example.com"[..])
        );
        for origin in ["https://evil.example", "null", "", "https://app.example.com.evil.example"] {
            let cors = allowed().cors_headers(&Method::DELETE, &request(&[("origin", origin)]));
            assert_eq!(cors.len(), 1, "{origin}");
            assert!(cors.contains_key("vary"));
        }
    }

    #[test]
    fn a_preflight_is_granted_the_headers_that_it_asks_for() {
        let granted = |method: Method, asked: &[u8]| {
            let asked = HeaderValue::from_bytes(asked).unwrap_or(HeaderValue::from_static("invalid"));
            let mut request = request(&[("origin", "https://app.example.com")]);
            request.insert("access-control-request-headers", asked);
            let cors = allowed().cors_headers(&method, &request);
            let vary = cors.get("vary").and_then(|value| value.to_str().ok());
            let expected = if method == Method::OPTIONS { "Origin, Access-Control-Request-Headers" } else { "Origin" };
            assert_eq!(vary, Some(expected));
            cors.get("access-control-allow-headers").and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let of_credentials = Some("X-Session-Token, Authorization, Content-Type".to_owned());
        for (asked, expected) in [
            ("x-session-token", "x-session-token"),
            ("baggage,sentry-trace, x-requested-with", "baggage, sentry-trace, x-requested-with"),
            ("a,, ,b c,d:e,f", "a, f"),
            ("a,b\u{e9},*,c", "a, c"),
        ] {
            assert_eq!(granted(Method::OPTIONS, asked.as_bytes()).as_deref(), Some(expected), "{asked}");
        }
        let longest = "a".repeat(MAX_GRANTED_HEADERS);
        assert_eq!(granted(Method::OPTIONS, longest.as_bytes()), Some(longest.clone()));
        for nothing in ["", ",", "*", "a b", "\u{e9}", &format!("{longest}a")] {
            assert_eq!(granted(Method::OPTIONS, nothing.as_bytes()), of_credentials, "{nothing}");
        }
        assert_eq!(granted(Method::DELETE, b"x-requested-with"), of_credentials);
    }
}
