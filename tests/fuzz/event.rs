//! The fuzz target: any bytes in place of a gateway's event. Run by `make fuzz`.
//!
//! Most changes that libFuzzer itself makes to an event leave no JSON. So every other change is made to the JSON here.

#![no_main]

mod model;

use fastrand::Rng;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use serde_json::{Map, Value};

/// Members that are read.
const NAMES: [&str; 15] = [
    "headers",
    "multiValueHeaders",
    "cookies",
    "path",
    "rawPath",
    "httpMethod",
    "requestContext",
    "http",
    "domainName",
    "x-session-token",
    "cookie",
    "authorization",
    "origin",
    "sec-fetch-site",
    "host",
];

/// What values are made of.
const WORDS: [&str; 26] = [
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
            let event = event.to_string();
            if event.len() > max_size {
                return fuzzer_mutate(data, size, max_size);
            }
            data[..event.len()].copy_from_slice(event.as_bytes());
            event.len()
        }
        _ => fuzzer_mutate(data, size, max_size),
    }
});

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
