//! Headers and events that no honest client or gateway sends. The function reads them as the model in
//! `tests/fuzz/model.rs` does, answers each, and revokes only for the token of an active session.
//!
//! `PROPTEST_CASES` sets the number of cases, and `PROPTEST_RNG_SEED` their seed.

#[path = "../fuzz/model.rs"]
mod model;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngSeed, TestRunner, contextualize_config};
use serde_json::{Value, json};

use self::model::{CookieUse, Credential, Meaning};
use crate::support::events::Request;
use crate::support::runtime::Function;
use crate::support::{Answer, Gateway, Row, Session, World, assert_only_revocations, delete, demo, revoked, to_revoke};

/// The gateways that pass on every value of a repeated header. A load balancer without multi-value headers keeps the last.
const LOSSLESS: [Gateway; 3] = [Gateway::Rest, Gateway::Http, Gateway::AlbMultiValue];

#[test]
fn any_headers_are_read_as_the_model_reads_them() {
    let accepted = RefCell::new(BTreeMap::new());
    // A gateway spells the name of a repeated header in one way. So does this test.
    let result = runner(4_000).run(&(vec(header(), 0..5), spelling()), |(headers, spell)| {
        let credential = |gateway| {
            let event = request(&headers, spell).through(gateway).into_event();
            model::check(event.to_string().as_bytes()).expect("an event").credential
        };
        credential(Gateway::Alb);
        let mut tokens: Vec<_> = LOSSLESS.into_iter().map(credential).filter(is_token).collect();
        tokens.dedup();
        assert!(tokens.len() <= 1, "not the same credential behind every gateway: {tokens:?}");
        if let Some(Credential::Token(source, _)) = tokens.first() {
            *accepted.borrow_mut().entry((*source).to_owned()).or_insert(0) += 1;
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    let accepted = accepted.into_inner();
    println!("{accepted:?}");
    assert!(accepted.len() == 3 && accepted.values().all(|times| *times > 50), "too few valid tokens: {accepted:?}");
}

#[test]
fn a_hostile_event_is_answered_and_revokes_only_with_an_active_token() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let world = runtime.block_on(World::new());
    let sessions = demo::sessions();
    runtime.block_on(world.database.put(&sessions));
    let before = runtime.block_on(world.database.rows());
    let statuses = RefCell::new(BTreeMap::new());

    let strategy = (event(), vec(mutation(), 0..6), vec(edit(), 0..3));
    let result = runner(600).run(&strategy, |(mut event, mutations, edits)| {
        for mutation in mutations {
            mutation.apply(&mut event);
        }
        let mut event = event.to_string().into_bytes();
        for edit in edits {
            edit.apply(&mut event);
        }
        let Some(meaning) = model::check(&event) else { return Ok(()) };
        let answer = Answer::from_gateway(&runtime.block_on(world.invoke_bytes(&event)));
        let after = runtime.block_on(world.database.rows());

        let caller = caller(&meaning, &sessions);
        assert!(statuses_of(&meaning, caller.is_some()).contains(&answer.status), "{answer:?} to {meaning:?}");
        if answer.status == 200 {
            assert_every_other_session_is_revoked(&before, &after, caller.expect("a caller"), &answer);
            runtime.block_on(world.database.put(&sessions));
        } else {
            assert_eq!(before, after, "{answer:?} to {meaning:?}");
        }
        *statuses.borrow_mut().entry(answer.status).or_insert(0) += 1;
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    // Each of these answers must have occurred, or the checks above would prove nothing about it.
    let statuses = statuses.into_inner();
    println!("{statuses:?}");
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200, 204, 400, 401, 403, 404, 405], "{statuses:?}");
}

#[test]
fn the_seeds_of_the_fuzz_target_pass_its_check_whole_and_cut_off() {
    for file in files("events").into_iter().chain(files("tests/fuzz/corpus/event")) {
        let seed = std::fs::read(&file).expect("a seed");
        assert!(model::check(&seed).is_some(), "{} is not an event", file.display());
        for end in (0..seed.len()).step_by(50) {
            model::check(&seed[..end]);
        }
    }
}

/// The Lambda runtime reads the bytes of an event before the function does. At `trace` it would print them, which ends the
/// process if they are not UTF-8.
#[tokio::test]
async fn the_binary_answers_an_event_with_any_bytes_and_of_any_size() {
    let (world, caller) = World::with_others(1).await;
    let mut function = Function::start(&world, &[("RUST_LOG", "trace")]).await;
    let longest_body = vec![b'a'; 6_000_000];
    for gateway in Gateway::ALL {
        for bytes in [&b"caf\xe9"[..], b"\\ud800", &longest_body] {
            let request = |token: &str| {
                let request =
                    delete().through(gateway).token(token).header("User-Agent", "BYTES").header("X-BYTES", "a");
                let mut event = request.into_event();
                event["body"] = json!("BYTES");
                replaced(&event.to_string(), bytes)
            };
            let answer = function.invoke_bytes(request(&caller.token)).await.expect("an answer");
            assert_eq!(answer["statusCode"], 200, "{gateway:?}");
            if bytes.len() < 10 {
                let answer = function.invoke_bytes(request("BYTES")).await.expect("an answer");
                assert_eq!(answer["statusCode"], 400, "{gateway:?}");
            }
        }
    }
}

fn replaced(event: &str, bytes: &[u8]) -> Vec<u8> {
    event.split("BYTES").map(str::as_bytes).collect::<Vec<_>>().join(bytes)
}

/// Runs the same cases each time, so that a failure can be repeated.
fn runner(cases: u32) -> TestRunner {
    TestRunner::new(contextualize_config(Config {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20_261_123),
        max_shrink_iters: 2_000,
        ..Config::default()
    }))
}

fn is_token(credential: &Credential) -> bool {
    matches!(credential, Credential::Token(..))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
}

/// The active session of the token that the event carries.
fn caller<'a>(meaning: &Meaning, sessions: &'a [Session]) -> Option<&'a Session> {
    let Credential::Token(_, token) = &meaning.credential else { return None };
    // The other sessions whose tokens events carry are expired.
    sessions.iter().find(|session| session.token == *token && [demo::ALICE, demo::BOB].contains(&token.as_str()))
}

/// The statuses that the contract allows for an event.
fn statuses_of(meaning: &Meaning, is_active: bool) -> Vec<u64> {
    let authenticated = if is_active { 200 } else { 401 };
    let path = meaning.path.strip_suffix('/').unwrap_or(&meaning.path);
    match (path.rsplit('/').next(), &*meaning.method, &meaning.credential) {
        (Some("sessions"), b"OPTIONS", _) => vec![204],
        (Some("sessions"), b"DELETE", Credential::Absent) => vec![401],
        (Some("sessions"), b"DELETE", Credential::Malformed) => vec![400],
        (Some("sessions"), b"DELETE", Credential::Token("Cookie", _)) => match meaning.cookie_use {
            CookieUse::Allowed => vec![authenticated],
            CookieUse::Refused => vec![403],
            CookieUse::Either => vec![authenticated, 403],
        },
        (Some("sessions"), b"DELETE", Credential::Token(..)) => vec![authenticated],
        (Some("sessions"), ..) => vec![405],
        _ => vec![404],
    }
}

fn assert_every_other_session_is_revoked(
    before: &BTreeMap<String, Row>,
    after: &BTreeMap<String, Row>,
    caller: &Session,
    answer: &Answer,
) {
    assert_only_revocations(before, after);
    assert_eq!(before[caller.id()], after[caller.id()]);
    assert_eq!(to_revoke(after, caller), 0, "{after:?}");
    let others = to_revoke(before, caller);
    assert_eq!(revoked(after) - revoked(before), others, "a session of another user was revoked");
    answer.assert_count(others);
}

/// Values of a credential: tokens of sessions, other tokens, values that are almost tokens, and any text.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(vec![demo::ALICE, demo::BOB, demo::CAROL]).prop_map(str::to_owned),
        4 => "[ab]={0,1}",
        2 => "[A-Za-z0-9._~+/-]{1,40}={0,2}",
        3 => "[ab,;= \t\"é\u{0}\u{7f}\n]{0,8}",
        2 => any::<String>(),
        1 => (4_094..4_099_usize).prop_map(|length| "a".repeat(length)),
        1 => Just(String::new()),
    ]
}

/// A header that the function reads.
fn header() -> impl Strategy<Value = (String, String)> {
    let token = value();
    let cookie = (
        select(vec!["ory_kratos_session", "ory_kratos_session", " ory_kratos_session", "ORY_KRATOS_SESSION", "a", ""]),
        select(vec!["=", "=", "=", " = ", ""]),
        value(),
    );
    let cookies = (vec(cookie, 1..4), select(vec!["; ", ";", ",", "\t; "])).prop_map(|(cookies, separator)| {
        let cookies = cookies.into_iter().map(|(name, equals, value)| format!("{name}{equals}{value}"));
        cookies.collect::<Vec<_>>().join(separator)
    });
    let bearer =
        (select(vec!["Bearer", "bearer", "BEARER", "Basic", "Bearers", ""]), select(vec![" ", " ", "  ", "\t"]));
    let bearers = vec((bearer, value()), 1..3).prop_map(|values| {
        let values = values.into_iter().map(|((scheme, space), value)| format!("{scheme}{space}{value}"));
        values.collect::<Vec<_>>().join(",")
    });
    let origin =
        select(vec!["https://app.example.com", "https://apis.example.com", "https://evil.example", "null", ""]);
    let site = select(vec!["same-origin", "none", "same-site", "cross-site", ""]);
    let host = select(vec!["apis.example.com", "APIS.example.com:443", "a b", "[::1", "a:99999", "é", ""]);
    prop_oneof![
        3 => (Just("X-Session-Token"), token),
        3 => (Just("Cookie"), cookies),
        3 => (Just("Authorization"), bearers),
        1 => (Just("Origin"), origin.prop_map(str::to_owned)),
        1 => (Just("Sec-Fetch-Site"), site.prop_map(str::to_owned)),
        1 => (Just("Host"), host.prop_map(str::to_owned)),
    ]
    .prop_map(|(name, value)| (name.to_owned(), value))
}

fn spelling() -> impl Strategy<Value = fn(&str) -> String> {
    select(vec![str::to_owned as fn(&str) -> String, str::to_lowercase, str::to_uppercase])
}

fn request(headers: &[(String, String)], spell: fn(&str) -> String) -> Request {
    headers.iter().fold(delete(), |request, (name, value)| request.header(&spell(name), value))
}

/// A file of `events/`, or the event of a generated request.
fn event() -> impl Strategy<Value = Value> {
    let files: Vec<Value> = files("events")
        .iter()
        .map(|file| String::from_utf8_lossy(&std::fs::read(file).expect("an event")).into_owned())
        .map(|event| serde_json::from_str(&event).expect("JSON"))
        .collect();
    let generated = (select(Gateway::ALL.to_vec()), vec(header(), 0..4), spelling())
        .prop_map(|(gateway, headers, spell)| request(&headers, spell).through(gateway).into_event());
    prop_oneof![select(files), generated]
}

/// A change to an event.
#[derive(Clone, Debug)]
enum Mutation {
    /// Removes a value, by its number.
    Drop(Index),
    /// Replaces a value.
    Replace(Index, Value),
    /// Inserts into a string.
    Insert(Index, Index, String),
    /// Adds a header to `headers` or `multiValueHeaders`, perhaps one that is there in another spelling.
    Header(&'static str, String, Value),
    /// Sets a member that the function reads, wherever one of the gateways has it.
    Set(&'static [&'static str], Value),
}

const PATH: &[&str] = &["/path", "/rawPath"];
const METHOD: &[&str] = &["/httpMethod", "/requestContext/http/method"];
const HOST: &[&str] = &["/requestContext/domainName"];
const COOKIES: &[&str] = &["/cookies"];

fn mutation() -> impl Strategy<Value = Mutation> {
    let paths = vec![
        "/sessions",
        "/auth/sessions/",
        "/auth/sessions/1",
        "/auth/sessions?a=/sessions",
        "/%2e%2e//sessions",
        "/é\u{0} /sessions",
        "sessions",
        "//",
        "*",
        "",
    ];
    let path =
        prop_oneof![select(paths).prop_map(str::to_owned), "[/a%?#é \u{0}]{0,9}", Just("/é".repeat(9_000)), value()];
    let method = select(vec!["DELETE", "OPTIONS", "delete", "POST", "TRACE", "DE LETE", "\u{0}", ""]);
    let host = select(vec!["apis.example.com", "a b", "a:99999", "[::1", "xn--", "é", "\u{0}", ""]);
    let headers = select(vec!["headers", "multiValueHeaders"]);
    let junk = || {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            value().prop_map(Value::from),
            vec(value(), 0..3).prop_map(Value::from),
            Just(json!({})),
            Just(json!([null, 1, [[]], {"http": {"method": "DELETE"}}])),
        ]
    };
    let header = (headers, header(), spelling(), junk(), any::<bool>());
    let header = header.prop_map(|(field, (name, value), spell, junk, is_junk)| {
        let value = match (is_junk, field) {
            (true, _) => junk,
            (false, "headers") => json!(value),
            (false, _) => json!([value]),
        };
        Mutation::Header(field, spell(&name), value)
    });
    prop_oneof![
        2 => any::<Index>().prop_map(Mutation::Drop),
        2 => (any::<Index>(), junk()).prop_map(|(place, junk)| Mutation::Replace(place, junk)),
        2 => (any::<Index>(), any::<Index>(), value())
            .prop_map(|(place, position, text)| Mutation::Insert(place, position, text)),
        3 => header,
        1 => path.prop_map(|path| Mutation::Set(PATH, json!(path))),
        1 => method.prop_map(|method| Mutation::Set(METHOD, json!(method))),
        1 => host.prop_map(|host| Mutation::Set(HOST, json!(host))),
        1 => junk().prop_map(|junk| Mutation::Set(COOKIES, junk)),
    ]
}

impl Mutation {
    fn apply(self, event: &mut Value) {
        match self {
            Self::Drop(place) => {
                let Some(place) = choose(event, place, |_| true) else { return };
                let (parent, member) = place.rsplit_once('/').expect("a pointer");
                match event.pointer_mut(parent).expect("a parent") {
                    Value::Object(members) => drop(members.remove(&unescape(member))),
                    Value::Array(elements) => drop(elements.remove(member.parse().expect("a number"))),
                    _ => unreachable!("only these have members"),
                }
            }
            Self::Replace(place, value) => {
                let Some(place) = choose(event, place, |_| true) else { return };
                *event.pointer_mut(&place).expect("a value") = value;
            }
            Self::Insert(place, position, text) => {
                let Some(place) = choose(event, place, Value::is_string) else { return };
                let Some(Value::String(string)) = event.pointer_mut(&place) else { unreachable!("it is a string") };
                let positions: Vec<_> = (0..=string.len()).filter(|at| string.is_char_boundary(*at)).collect();
                string.insert_str(*position.get(&positions), &text);
            }
            Self::Header(field, name, value) => {
                if !event[field].is_object() {
                    event[field] = json!({});
                }
                event[field][name] = value;
            }
            Self::Set(places, value) => {
                for place in places {
                    if let Some(there) = event.pointer_mut(place) {
                        *there = value.clone();
                    }
                }
            }
        }
    }
}

/// A change to the bytes of an event.
#[derive(Clone, Debug)]
enum Edit {
    /// Inserts within a string, or within the name of a member.
    InString(Index, &'static [u8]),
    /// Inserts after a bracket that opens an object: a member, which may be there already.
    InObject(Index, String),
    /// Inserts anywhere, which mostly leaves no JSON.
    Anywhere(Index, &'static [u8]),
}

fn edit() -> impl Strategy<Value = Edit> {
    let bytes: Vec<&[u8]> = vec![
        b"\xff",
        b"\xe9",
        b"\xc3\x28",
        b"\xf0\x9f",
        b"\\ud800",
        b"\\udc00\\ud800",
        b"\\ud83d\\ude00",
        b"\\u0000",
        b"\\\"",
        b" ",
    ];
    let structure: Vec<&[u8]> = vec![b"\xff", b"\0", b"{", b"}", b"[", b"]", b"\"", b",", b":", b"\\", b"0", b"null"];
    let name = select(vec![
        "headers",
        "multiValueHeaders",
        "requestContext",
        "http",
        "elb",
        "httpMethod",
        "method",
        "path",
        "rawPath",
        "version",
        "cookies",
        "requestId",
        "x-session-token",
        "cookie",
        "authorization",
        "origin",
        "host",
    ]);
    let value = select(vec![
        "null",
        "7",
        "-1.5e3",
        "true",
        "{}",
        "[]",
        "[\"\"]",
        "\"\"",
        "\"a\"",
        "\"2.0\"",
        "\"DELETE\"",
        "\"/sessions\"",
        "\"ory_kratos_session=a\"",
        "[\"\\ud800\", \"a\"]",
        "{\"x-session-token\": \"a\"}",
        "{\"http\": {\"method\": \"DELETE\"}}",
    ]);
    prop_oneof![
        3 => (any::<Index>(), select(bytes)).prop_map(|(place, bytes)| Edit::InString(place, bytes)),
        3 => (any::<Index>(), name, value)
            .prop_map(|(place, name, value)| Edit::InObject(place, format!("\"{name}\": {value},"))),
        1 => (any::<Index>(), select(structure)).prop_map(|(place, bytes)| Edit::Anywhere(place, bytes)),
    ]
}

impl Edit {
    fn apply(self, event: &mut Vec<u8>) {
        let mut in_strings = Vec::new();
        let (mut is_in_string, mut is_escaped) = (false, false);
        for (at, byte) in event.iter().enumerate() {
            if is_in_string && !is_escaped {
                in_strings.push(at);
            }
            is_in_string ^= *byte == b'"' && !is_escaped;
            is_escaped = is_in_string && *byte == b'\\' && !is_escaped;
        }
        let (place, bytes) = match &self {
            Self::InString(index, bytes) if !in_strings.is_empty() => (*index.get(&in_strings), *bytes),
            Self::InObject(index, member) => {
                let objects: Vec<_> = (1..=event.len()).filter(|end| event[*end - 1] == b'{').collect();
                if objects.is_empty() {
                    return;
                }
                (*index.get(&objects), member.as_bytes())
            }
            Self::InString(index, bytes) | Self::Anywhere(index, bytes) => (index.index(event.len() + 1), *bytes),
        };
        event.splice(place..place, bytes.iter().copied());
    }
}

/// A JSON pointer to one of the suitable values of an event.
fn choose(event: &Value, index: Index, suits: fn(&Value) -> bool) -> Option<String> {
    let mut places = Vec::new();
    pointers(event, "", &mut places);
    places.retain(|place| event.pointer(place).is_some_and(suits));
    (!places.is_empty()).then(|| places[index.index(places.len())].clone())
}

/// Collects the JSON pointers to all values within a value.
fn pointers(value: &Value, here: &str, all: &mut Vec<String>) {
    let members: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, value)| (escape(name), value)).collect(),
        Value::Array(elements) => elements.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => return,
    };
    for (name, value) in members {
        let there = format!("{here}/{name}");
        pointers(value, &there, all);
        all.push(there);
    }
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn unescape(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}
