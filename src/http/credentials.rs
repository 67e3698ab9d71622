//! The caller's token, read from the headers. Every rule about credential headers is here. This module does not know whether a
//! session has the token.

use lambda_http::http::{HeaderMap, HeaderValue};

use crate::session::Token;

/// A kind of credential.
#[derive(Debug)]
pub struct Source {
    /// The name of this kind in the log.
    pub name: &'static str,
    /// The header that carries the credential, as CORS announces it to web pages.
    pub header: &'static str,
    /// Whether a browser adds the header by itself, even to requests from pages of other sites. If so, CSRF is possible, and CORS
    /// need not announce the header.
    pub is_sent_by_browsers: bool,
    /// The values in the header; two different values are an error. The second argument is the name of the session cookie.
    values: for<'a> fn(&'a [u8], &str) -> Vec<&'a [u8]>,
}

/// All kinds of credentials, and the only list of them: a new row is read from events, tried in this order, and announced to web
/// pages.
pub static SOURCES: [Source; 3] = [
    Source { name: "X-Session-Token", header: "X-Session-Token", is_sent_by_browsers: false, values: list },
    Source { name: "the session cookie", header: "Cookie", is_sent_by_browsers: true, values: cookies },
    Source { name: "Authorization: Bearer", header: "Authorization", is_sent_by_browsers: false, values: bearer },
];

/// The credential that decides the request.
#[derive(Debug)]
pub struct Credential {
    /// The token to authenticate with.
    pub token: Token,
    /// The kind of the credential.
    pub source: &'static Source,
}

/// The deciding credential is malformed. The error does not repeat its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// One kind has two different values. Choosing a value could keep an intruder's session and revoke the owner's.
    #[error("{0} carries two different values")]
    Ambiguous(&'static str),
    /// Not a token, see [`Token::parse`].
    #[error("{0} does not carry a token")]
    NotAToken(&'static str),
}

/// The first credential that is present and not empty, in the order of [`SOURCES`]; `None` if there is none.
///
/// # Errors
/// [`Malformed`] if that credential is malformed. No other credential is tried then, since it could belong to someone else.
pub fn from_headers(headers: &HeaderMap, cookie_name: &str) -> Result<Option<Credential>, Malformed> {
    for source in &SOURCES {
        // `event` joins the values of a header, so a header occurs at most once.
        let header = headers.get(source.header).map_or(&b""[..], HeaderValue::as_bytes);
        let values = (source.values)(header, cookie_name);
        let Some((first, rest)) = values.split_first() else { continue };
        if rest.iter().any(|value| value != first) {
            return Err(Malformed::Ambiguous(source.name));
        }
        if first.is_empty() {
            continue;
        }
        let token = Token::parse(first).map_err(|_| Malformed::NotAToken(source.name))?;
        return Ok(Some(Credential { token, source }));
    }
    Ok(None)
}

/// The values of a list: a repeated header arrives joined by commas, and no token holds a comma.
fn list<'a>(header: &'a [u8], _: &str) -> Vec<&'a [u8]> {
    header.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect()
}

/// The values of all cookies of this name, which is case-sensitive. A value may be in double quotes (RFC 6265, section 4.1.1),
/// and is not decoded (section 5.4).
fn cookies<'a>(header: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    header
        .split(|byte| *byte == b';')
        .filter_map(|pair| {
            let (key, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
            (key.trim_ascii() == name.as_bytes()).then(|| unquoted(value.get(1..).unwrap_or_default().trim_ascii()))
        })
        .collect()
}

/// A cookie's value without the one pair of double quotes around it.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// The tokens of an `Authorization` header with the scheme `Bearer`. Each further token may repeat the scheme. A header that
/// begins with another scheme has no token.
fn bearer<'a>(header: &'a [u8], cookie_name: &str) -> Vec<&'a [u8]> {
    let mut values = list(header, cookie_name).into_iter();
    match values.next().and_then(after_scheme) {
        Some(first) => std::iter::once(first).chain(values.map(|value| after_scheme(value).unwrap_or(value))).collect(),
        None => Vec::new(),
    }
}

/// What follows `Bearer`, in any case (RFC 7235, section 2.1).
fn after_scheme(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at(value.iter().position(u8::is_ascii_whitespace).unwrap_or(value.len()));
    scheme.eq_ignore_ascii_case(b"bearer").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use lambda_http::http::HeaderName;

    use super::*;

    /// The kind of the credential that was found, and the hash of its token, since a token cannot be printed.
    fn found(headers: &[(&'static str, &str)]) -> Result<Option<(&'static str, String)>, Malformed> {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_str(value).unwrap_or_else(|_| unreachable!());
                (HeaderName::from_static(name), value)
            })
            .collect();
        let credential = from_headers(&headers, "ory_kratos_session")?;
        Ok(credential.map(|credential| (credential.source.name, credential.token.hash().as_str().to_owned())))
    }

    fn hash(token: &str) -> String {
        Token::parse(token.as_bytes()).map(|token| token.hash().as_str().to_owned()).unwrap_or_default()
    }

    const TOKEN: &str = "x-session-token";
    const HEADER: &str = "X-Session-Token";
    const COOKIE: &str = "the session cookie";
    const BEARER: &str = "Authorization: Bearer";

    #[test]
    fn the_first_credential_present_decides() {
        let all = [(TOKEN, "a"), ("cookie", "ory_kratos_session=b"), ("authorization", "Bearer c")];
        assert_eq!(found(&all), Ok(Some((HEADER, hash("a")))));
        assert_eq!(found(&all[1..]), Ok(Some((COOKIE, hash("b")))));
        assert_eq!(found(&all[2..]), Ok(Some((BEARER, hash("c")))));
        assert_eq!(found(&[]), Ok(None));
    }

    #[test]
    fn an_empty_credential_is_no_credential() {
        let empty = [(TOKEN, " "), ("cookie", "ory_kratos_session="), ("authorization", "Bearer c")];
        assert_eq!(found(&empty), Ok(Some((BEARER, hash("c")))));
        for nothing in ["Bearer", "bearer ", "", "Basic YTpi", "Bearerc", "Basic a, Bearer c"] {
            assert_eq!(found(&[("authorization", nothing)]), Ok(None), "{nothing}");
        }
    }

    #[test]
    fn a_malformed_credential_does_not_fall_back_to_the_next() {
        let headers = [(TOKEN, "not a token"), ("authorization", "Bearer c")];
        assert_eq!(found(&headers), Err(Malformed::NotAToken(HEADER)));
        let headers = [("cookie", "ory_kratos_session=q%3D"), ("authorization", "Bearer c")];
        assert_eq!(found(&headers), Err(Malformed::NotAToken(COOKIE)));
        assert_eq!(found(&[("authorization", "Bearer a b")]), Err(Malformed::NotAToken(BEARER)));
    }

    #[test]
    fn two_different_values_are_malformed() {
        for value in ["a,b", "a, b", "a,", ",a"] {
            assert_eq!(found(&[(TOKEN, value)]), Err(Malformed::Ambiguous(HEADER)), "{value}");
        }
        let cookies = "ory_kratos_session=a; ory_kratos_session=b";
        assert_eq!(found(&[("cookie", cookies)]), Err(Malformed::Ambiguous(COOKIE)));
        for value in ["Bearer a,Bearer b", "Bearer a,b", "Bearer a, Basic b"] {
            assert_eq!(found(&[("authorization", value)]), Err(Malformed::Ambiguous(BEARER)), "{value}");
        }
    }

    #[test]
    fn a_value_that_is_given_twice_counts_once() {
        assert_eq!(found(&[(TOKEN, "a,a")]), Ok(Some((HEADER, hash("a")))));
        assert_eq!(found(&[("cookie", "ory_kratos_session=a;ory_kratos_session=a")]), Ok(Some((COOKIE, hash("a")))));
        assert_eq!(found(&[("authorization", "Bearer a,bearer a")]), Ok(Some((BEARER, hash("a")))));
    }

    #[test]
    fn the_cause_in_the_log_names_the_credential() {
        let causes = [Malformed::NotAToken(HEADER), Malformed::Ambiguous(COOKIE)].map(|cause| cause.to_string());
        assert_eq!(
            causes,
            ["X-Session-Token does not carry a token", "the session cookie carries two different values"]
        );
        assert_eq!(SOURCES.each_ref().map(|source| source.name), [HEADER, COOKIE, BEARER]);
    }

    #[test]
    fn one_pair_of_quotes_around_the_value_of_a_cookie_is_no_part_of_it() {
        for value in ["\"a==\"", " \"a==\" ", "a==; ory_kratos_session=\"a==\""] {
            let cookie = format!("ory_kratos_session={value}");
            assert_eq!(found(&[("cookie", &cookie)]), Ok(Some((COOKIE, hash("a==")))), "{value}");
        }
        assert_eq!(found(&[("cookie", "ory_kratos_session=\"\"")]), Ok(None));
        for value in ["\"", "\"a", "a\"", "\"\"a\"\"", "\"a\" b", "\" a\"", "a%3D"] {
            let cookie = format!("ory_kratos_session={value}");
            assert_eq!(found(&[("cookie", &cookie)]), Err(Malformed::NotAToken(COOKIE)), "{value}");
        }
        assert_eq!(found(&[(TOKEN, "\"a\"")]), Err(Malformed::NotAToken(HEADER)));
    }

    #[test]
    fn other_cookies_are_ignored() {
        let cookies =
            "theme=dark;ory_kratos_session=a==; =x; broken; ORY_KRATOS_SESSION=b; ory_kratos_session_old=c; k=é";
        assert_eq!(found(&[("cookie", cookies)]), Ok(Some((COOKIE, hash("a==")))));
        assert_eq!(found(&[("cookie", "theme=1,ory_kratos_session=a")]), Ok(None));
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        for value in ["Bearer c", "bearer c", "BEARER  c "] {
            assert_eq!(found(&[("authorization", value)]), Ok(Some((BEARER, hash("c")))), "{value}");
        }
    }
}
