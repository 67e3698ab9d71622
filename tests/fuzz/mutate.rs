//! Changes to an event that leave it one, mostly: for the fuzz target and the suite.
//!
//! A change to the bytes of an event at random mostly leaves no JSON. So the JSON is changed first, and then perhaps the bytes of
//! its strings.

use fastrand::Rng;
use serde_json::{Map, Value};

/// Members that are read.
const NAMES: [&str; 20] = [
    "version",
    "headers",
    "multiValueHeaders",
    "cookies",
    "path",
    "rawPath",
    "httpMethod",
    "method",
    "requestContext",
    "requestId",
    "http",
    "elb",
    "domainName",
    "x-session-token",
    "cookie",
    "authorization",
    "origin",
    "sec-fetch-site",
    "host",
    "access-control-request-headers",
];

/// What values are made of.
const WORDS: [&str; 32] = [
    "",
    "a",
    "b",
    "é",
    " ",
    ",",
    ";",
    "=",
    "/",
    ":",
    "?",
    "%2f",
    "\t",
    "\"",
    "null",
    "2.0",
    "\u{0}",
    "\u{7f}",
    "DELETE",
    "OPTIONS",
    "/sessions",
    "[::1",
    "a.b",
    "http://",
    "https://",
    ":80",
    ":443",
    "https://app.example.com",
    "same-origin",
    "cross-site",
    "Bearer ",
    "ory_kratos_session=",
];

/// What JSON cannot hold as a string of Rust's: bytes that are no UTF-8, and halves of surrogate pairs.
const BYTES: [&[u8]; 6] = [b"\xff", b"\xe9", b"\xc3(", b"\\ud800", b"\\udc00\\ud83d", b"\\ud83d\\ude00"];

/// Longer than any path that is read.
const LONG: usize = 17 * 1024;

/// The event after some changes.
pub fn mutated(mut event: Value, rng: &mut Rng) -> Vec<u8> {
    for _ in 0..rng.u8(1..5) {
        change(&mut event, rng);
    }
    let mut event = event.to_string().into_bytes();
    for _ in 0..rng.u8(0..3) {
        let place = rng.usize(0..=event.len());
        let bytes = BYTES[rng.usize(0..BYTES.len())];
        event.splice(place..place, bytes.iter().copied());
    }
    if rng.u8(0..8) == 0 {
        repeat_member(&mut event, rng);
    }
    event
}

/// Puts a member before the first of an object, where one of the same name may follow.
fn repeat_member(event: &mut Vec<u8>, rng: &mut Rng) {
    let objects: Vec<_> = (1..event.len()).filter(|end| event[end - 1] == b'{' && event[*end] == b'"').collect();
    if objects.is_empty() {
        return;
    }
    let place = objects[rng.usize(0..objects.len())];
    let [name, word] = [NAMES[rng.usize(0..NAMES.len())], WORDS[rng.usize(0..WORDS.len())]];
    let member = format!("{}:{},", Value::from(name), Value::from(word));
    event.splice(place..place, member.into_bytes());
}

fn change(event: &mut Value, rng: &mut Rng) {
    let word = WORDS[rng.usize(0..WORDS.len())];
    let other = if rng.bool() { word.into() } else { any(event, rng).clone() };
    match (any(event, rng), rng.u8(0..3)) {
        (Value::Object(members), 0 | 1) => {
            let name = NAMES[rng.usize(0..NAMES.len())];
            members.insert(if rng.bool() { name.to_owned() } else { name.to_uppercase() }, other);
        }
        (Value::Object(members), _) => {
            let name = members.keys().nth(rng.usize(0..=members.len())).cloned();
            name.and_then(|name| members.remove(&name));
        }
        (Value::Array(elements), 0 | 1) => elements.push(other),
        (Value::Array(elements), _) => {
            elements.pop();
        }
        (Value::String(string), 0) => {
            let places: Vec<_> = (0..=string.len()).filter(|at| string.is_char_boundary(*at)).collect();
            string.insert_str(places[rng.usize(0..places.len())], word);
        }
        (Value::String(string), 1) => word.clone_into(string),
        (Value::String(string), _) if rng.u8(0..8) == 0 => *string = string.repeat(LONG / string.len().max(1) + 1),
        (value, _) => *value = other,
    }
}

/// Some value within one, or the value itself.
fn any<'a>(value: &'a mut Value, rng: &mut Rng) -> &'a mut Value {
    let members = value.as_object().map_or(0, Map::len) + value.as_array().map_or(0, Vec::len);
    if members == 0 || rng.u8(0..4) == 0 {
        return value;
    }
    let number = rng.usize(0..members);
    let member = match value {
        Value::Object(members) => members.values_mut().nth(number),
        value => value.get_mut(number),
    };
    any(member.expect("a member"), rng)
}
