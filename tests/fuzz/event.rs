//! The fuzz target: any bytes in place of a gateway's event. Run by `make fuzz`.
//!
//! Most changes that libFuzzer itself makes to an event leave no JSON. So every other change is made to the JSON here, and then
//! perhaps to the bytes of its strings.

#![no_main]

mod model;

use fastrand::Rng;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
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
const WORDS: [&str; 28] = [
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
    "\t",
    "\"",
    "null",
    "\u{0}",
    "\u{7f}",
    "DELETE",
    "OPTIONS",
    "/sessions",
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

fuzz_target!(|event: &[u8]| {
    model::check(event);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let rng = &mut Rng::with_seed(seed.into());
    match serde_json::from_slice(&data[..size]) {
        Ok(mut event) if rng.bool() => {
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
            if event.len() > max_size {
                return fuzzer_mutate(data, size, max_size);
            }
            data[..event.len()].copy_from_slice(&event);
            event.len()
        }
        _ => fuzzer_mutate(data, size, max_size),
    }
});

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
