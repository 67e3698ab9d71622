//! Which web pages may call: the allowed origins, the CORS headers for them, and the CSRF rule for cookies.

use lambda_http::http::{HeaderMap, HeaderName, HeaderValue, header};
use url::Url;

/// `Sec-Fetch-Site`.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The headers that this module reads. A header that is missing here does not reach it.
pub static HEADERS: [HeaderName; 3] = [header::ORIGIN, SEC_FETCH_SITE, header::HOST];

/// Web origins that may call with credentials (`ALLOWED_ORIGINS`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOrigins(Vec<String>);

/// An entry of the list is not an origin as browsers send it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin as a browser sends it, such as https://app.example.com: no path, no wildcard, lower case, no default port"
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
    /// [`NotAnOrigin`] with the first such entry.
    ///
    /// Source: the serialization of an origin in RFC 6454, section 6.2.
    pub fn parse(list: &str) -> Result<Self, NotAnOrigin> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries
            .map(|entry| if is_origin(entry) { Ok(entry.to_owned()) } else { Err(NotAnOrigin(entry.to_owned())) })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The request's `Origin`, if it is an allowed one.
    fn allowed<'a>(&self, request: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = request.get(header::ORIGIN)?;
        self.0.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then_some(origin)
    }

    /// The CORS headers of an answer to this request. `Vary` is always there: without it, a cache could give the answer for one
    /// origin to a page of another.
    #[must_use]
    pub fn cors_headers(&self, request: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(7);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = self.allowed(request) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("DELETE"));
            let allowed = HeaderValue::from_static("X-Session-Token, Authorization, Content-Type");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
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
        if non_empty(request, &header::ORIGIN).is_some_and(|origin| !is_own_host(origin, request)) {
            return Err(CsrfViolation::Origin);
        }
        match non_empty(request, &SEC_FETCH_SITE) {
            None | Some(b"same-origin" | b"none") => Ok(()),
            Some(_) => Err(CsrfViolation::FetchSite),
        }
    }
}

/// The host of a URL may contain `*`. Here it would look like a wildcard and match nothing.
fn is_origin(entry: &str) -> bool {
    !entry.contains('*')
        && Url::parse(entry)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == entry)
}

fn non_empty<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    headers.get(name).map(HeaderValue::as_bytes).filter(|value| !value.is_empty())
}

/// Whether an origin is the host that the request is for, port included. `Host` may name the default port.
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
    fn an_entry_that_is_no_origin_is_refused() {
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
            "ftp://app.example.com",
            "https://user@app.example.com",
            "https://",
            "https://a b",
            "chrome-extension://abc",
            "https://münchen.example",
        ] {
            assert_eq!(AllowedOrigins::parse(entry), Err(NotAnOrigin(entry.to_owned())));
        }
        assert_eq!(AllowedOrigins::parse(" , "), Ok(AllowedOrigins::default()));
        assert_eq!(allowed().0, ["https://app.example.com", "http://localhost:3000"]);
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
        ] {
            assert_eq!(allowed().check_cookie_use(&request(headers)), Ok(()), "{headers:?}");
        }
    }

    #[test]
    fn a_cookie_may_not_be_used_by_another_site() {
        for (headers, violation) in [
            (&[("origin", "https://evil.example"), ("host", "apis.example.com")][..], CsrfViolation::Origin),
            (&[("origin", "null"), ("host", "null")], CsrfViolation::Origin),
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
        let cors = allowed().cors_headers(&request(&[("origin", "https://app.example.com")]));
        assert_eq!(
            cors.get("access-control-allow-origin").map(HeaderValue::as_bytes),
            Some(&b"https://app.example.com"[..])
        );
        for origin in ["https://evil.example", "null", "", "https://app.example.com.evil.example"] {
            let cors = allowed().cors_headers(&request(&[("origin", origin)]));
            assert_eq!(cors.len(), 1, "{origin}");
            assert!(cors.contains_key("vary"));
        }
    }
}
