//! Headers and events that no honest client or gateway sends. The function reads them as the model in
//! `tests/fuzz/model.rs` does, answers each, and revokes only for the token of an active session.
//!
//! `PROPTEST_CASES` sets the number of cases, and `PROPTEST_RNG_SEED` their seed.

#[path = "../fuzz/model.rs"]
mod model;
#[path = "../fuzz/mutate.rs"]
mod mutate;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
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
    let result = runner(2_000).run(&(vec(header(), 0..5), spelling()), |(headers, spell)| {
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
    assert!(accepted.len() == 3 && accepted.values().all(|times| *times > 25), "too few valid tokens: {accepted:?}");
}

#[test]
fn a_hostile_event_is_answered_and_revokes_only_with_an_active_token() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let world = runtime.block_on(World::new());
    let sessions = demo::sessions();
    runtime.block_on(world.database.put(&sessions));
    let before = runtime.block_on(world.database.rows());
    let statuses = RefCell::new(BTreeMap::new());

    // Some events are as a gateway makes them.
    let result = runner(600).run(&(event(), option::weighted(0.8, any::<u64>())), |(event, change)| {
        let event = match change {
            Some(seed) => mutate::mutated(event, &mut Rng::with_seed(seed)),
            None => event.to_string().into_bytes(),
        };
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
