//! The page of `make run`: a small application as an adopter's own would be, on an origin of its own. It signs a user
//! in, keeps the token in a cookie, and shows the user's sessions. Revoking them is left to the function, which the
//! page calls.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use disable_my_other_sessions::session::{Token, TokenHash};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, HOST, HeaderName, LOCATION, SET_COOKIE, USER_AGENT};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

use test_support::database::{Database, Row, Session, n, now, s};

const HTML: &str = include_str!("page.html");

/// The only user of the page. Those of the printed lines are left alone, so that both can be tried in any order.
pub const USER: &str = "dana";

/// Where the user is signed in, too.
const OTHER_DEVICES: [&str; 3] = ["Phone", "Tablet", "Computer in the library"];

pub struct Page {
    database: Database,
    /// Where a browser must find the page: as `127.0.0.1` it would be another site than the function, which is at
    /// `localhost`, and get no cookie.
    host: String,
    /// The function's URL.
    function: String,
    cookie_name: String,
    /// Sign-ins so far, to number sessions by.
    sign_ins: AtomicUsize,
}

impl Page {
    /// The page, with its user signed in on some devices.
    pub async fn new(database: Database, host: String, function: String, cookie_name: String) -> Self {
        let page = Self { database, host, function, cookie_name, sign_ins: AtomicUsize::new(0) };
        page.sign_in_elsewhere().await;
        page
    }

    /// Answers browsers for as long as it is polled.
    pub async fn serve(self, listener: TcpListener) -> Infallible {
        let page = Arc::new(self);
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely.
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let page = Arc::clone(&page);
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    let page = Arc::clone(&page);
                    async move { Ok::<_, Infallible>(page.answer(&request).await) }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if header(request, HOST) != self.host {
            let mut answer = empty(StatusCode::TEMPORARY_REDIRECT);
            set(&mut answer, LOCATION, &format!("http://{}/", self.host));
            return answer;
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => with_body("text/html; charset=utf-8", HTML.to_owned()),
            (&Method::GET, "/sessions") => with_body("application/json", self.sessions(request).await.to_string()),
            (&Method::POST, "/sign-in") => {
                let token = self.sign_in(&device(header(request, USER_AGENT))).await;
                let mut answer = empty(StatusCode::NO_CONTENT);
                // Cookies ignore ports, so the function gets it as well. Lax, since both are of one site.
                let cookie = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600", self.cookie_name);
                set(&mut answer, SET_COOKIE, &cookie);
                answer
            }
            (&Method::POST, "/sign-in-elsewhere") => {
                self.sign_in_elsewhere().await;
                empty(StatusCode::NO_CONTENT)
            }
            _ => empty(StatusCode::NOT_FOUND),
        }
    }

    /// The user's sessions as the table holds them, the latest first.
    async fn sessions(&self, request: &Request<Incoming>) -> Value {
        let hash = self.token_of(header(request, COOKIE)).map(|token| token.hash());
        let hash = hash.as_ref().map(TokenHash::as_str);
        let rows = self.database.rows().await;
        let mut rows: Vec<_> = rows.values().filter(|row| text(row, "user_id") == USER).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(number(row, "sign_in")));
        let sessions: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({
                    "session_id": text(row, "session_id"),
                    "device": text(row, "device"),
                    "status": text(row, "status"),
                    "created_at": number(row, "created_at"),
                    "revoked_at": number(row, "revoked_at"),
                    "revoked_by": text(row, "revoked_by"),
                    "this_device": hash == Some(text(row, "token_hash")),
                })
            })
            .collect();
        json!({"user": USER, "function": self.function, "sessions": sessions})
    }

    /// Makes a session, as a login would, and returns its token.
    async fn sign_in(&self, device: &str) -> String {
        let sign_in = self.sign_ins.fetch_add(1, Ordering::Relaxed) + 1;
        // Good enough for a table in memory that is gone with the process. Elsewhere a token comes from the operating
        // system's randomness.
        let token: String = "ory_st_".chars().chain(std::iter::repeat_with(fastrand::alphanumeric).take(32)).collect();
        let session = Session::with_token(USER, &format!("{USER}-{sign_in}"), &token)
            .with("created_at", n(now()))
            .with("authenticated_at", n(now()))
            .with("device", s(device))
            .with("sign_in", n(sign_in));
        self.database.put(&[session]).await;
        token
    }

    async fn sign_in_elsewhere(&self) {
        for device in OTHER_DEVICES {
            self.sign_in(device).await;
        }
    }

    fn token_of(&self, cookies: &str) -> Option<Token> {
        cookies
            .split(';')
            .filter_map(|cookie| cookie.trim().split_once('='))
            .find(|(name, _)| *name == self.cookie_name)
            .and_then(|(_, token)| Token::parse(token.as_bytes()).ok())
    }
}

/// A name for a browser by its `User-Agent`, in which most claim to be others as well.
fn device(user_agent: &str) -> String {
    let named = |names: &[(&str, &'static str)], or: &'static str| {
        names.iter().find(|(part, _)| user_agent.contains(part)).map_or(or, |(_, name)| *name)
    };
    let browser = named(
        &[("Edg/", "Edge"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari")],
        "Some browser",
    );
    let system = named(
        &[("Windows", "Windows"), ("Android", "Android"), ("iPhone", "iPhone"), ("Mac OS", "Mac"), ("Linux", "Linux")],
        "some system",
    );
    format!("{browser} on {system}")
}

fn header(request: &Request<Incoming>, name: HeaderName) -> &str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// An attribute without the type in front of it.
fn text<'a>(row: &'a Row, attribute: &str) -> &'a str {
    row.get(attribute).and_then(|value| value.get(2..)).unwrap_or_default()
}

fn number(row: &Row, attribute: &str) -> Option<u64> {
    text(row, attribute).parse().ok()
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

fn with_body(content_type: &str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body));
    set(&mut answer, CONTENT_TYPE, content_type);
    set(&mut answer, CACHE_CONTROL, "no-store");
    answer
}

/// Sets a header to a value that can be one; there is no other here.
fn set(answer: &mut Response<Full<Bytes>>, name: HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        answer.headers_mut().insert(name, value);
    }
}
