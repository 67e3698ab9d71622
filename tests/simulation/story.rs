//! What happened in a trial, one line for each event, for a person to read: sessions have names, and requests say what they ask for.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::dynamodb::{Service, TABLE};
use crate::history::text;
use crate::network::Response;

/// Above this number of lines, lines of a kind that has been printed often are left out.
const LONG: usize = 60;
/// How many lines of each kind are printed in a long story.
const OFTEN: usize = 3;
/// Of a long story, this many lines before each of the first answers are printed, whatever their kind.
const BEFORE_ANSWERS: usize = 12;
const FIRST_ANSWERS: usize = 2;
/// So many words of a line say of what kind it is.
const WORDS: usize = 5;

/// The name of a session: its first id.
pub fn name<'a>(service: &'a Service, hash: &'a str) -> &'a str {
    service.history.first(hash).and_then(|item| text(item, "session_id")).unwrap_or(hash)
}

/// The elements of a list; none if it is not one.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn key(item: &Value) -> &str {
    item["token_hash"]["S"].as_str().unwrap_or("?")
}

fn names<'a>(service: &Service, hashes: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = hashes.map(|hash| name(service, hash)).collect();
    match names.len() {
        0..=12 => names.join(" "),
        more => format!("{} and {} more", names[..10].join(" "), more - 10),
    }
}

/// A request in one line.
pub fn summary(service: &Service, operation: &str, body: &Value) -> String {
    let consistency = |request: &Value| if request["ConsistentRead"] == true { "consistent" } else { "eventual" };
    match operation {
        "BatchExecuteStatement" => {
            let named: Vec<_> = list(&body["Statements"]).iter().filter_map(|one| service.named(one)).collect();
            format!("{operation} {}", names(service, named.iter().map(String::as_str)))
        }
        "BatchGetItem" => {
            let request = &body["RequestItems"][TABLE];
            let keys = names(service, list(&request["Keys"]).iter().map(key));
            format!("{operation} {}, {keys}", consistency(request))
        }
        "GetItem" => format!("{operation} {}, {}", consistency(body), name(service, key(&body["Key"]))),
        _ => {
            let from = &body["ExclusiveStartKey"];
            let from = if from.is_null() { String::new() } else { format!(" after {}", name(service, key(from))) };
            format!("{operation} of {}{from}", body["Limit"])
        }
    }
}

/// A response in one line.
pub fn describe(service: &Service, response: &Response) -> String {
    let item = |item: &Value| {
        let status = item["status"]["S"].as_str().unwrap_or("without status");
        let by = item["revocation_id"]["S"].as_str().map(|by| format!(" by {by}")).unwrap_or_default();
        let name = item["token_hash"]["S"].as_str().map(|hash| name(service, hash)).unwrap_or_default();
        format!("{name} {status}{by}")
    };
    match response {
        Response::Answer { status, body, text } => {
            let what = if let Some(items) = body["Items"].as_array() {
                let last = if body["LastEvaluatedKey"].is_null() { ", the last page" } else { "" };
                format!("shows {}{last}", names(service, items.iter().map(key)))
            } else if let Some(responses) = body["Responses"].as_array() {
                let mut codes = Vec::<(&str, usize)>::new();
                for response in responses {
                    let code = match &response["Error"] {
                        Value::Null => "changed",
                        error => error["Code"].as_str().unwrap_or("no code"),
                    };
                    match codes.last_mut().filter(|(last, _)| *last == code) {
                        Some((_, times)) => *times += 1,
                        None => codes.push((code, 1)),
                    }
                }
                let codes = codes
                    .iter()
                    .map(|(code, times)| if *times == 1 { (*code).to_owned() } else { format!("{times} {code}") });
                codes.collect::<Vec<_>>().join(", ")
            } else if let Some(items) = body["Responses"][TABLE].as_array() {
                let unprocessed = list(&body["UnprocessedKeys"][TABLE]["Keys"]).len();
                let items = items.iter().map(item).collect::<Vec<_>>().join(", ");
                format!("has {items}; {unprocessed} unprocessed")
            } else if body["Item"].is_object() {
                item(&body["Item"])
            } else {
                body["__type"].as_str().and_then(|kind| kind.rsplit('#').next()).unwrap_or("nothing").to_owned()
            };
            let damage = text.as_ref().map(|text| format!(" as {text:.60}")).unwrap_or_default();
            format!("{status} {what}{damage}")
        }
        Response::Garbled => "garbled".to_owned(),
        Response::Closed => "connection closed".to_owned(),
    }
}

/// A text without its numbers: two with the same are of one kind.
pub fn kind(text: &str) -> String {
    text.chars().filter(|char| !char.is_ascii_digit()).collect()
}

/// The lines, or those that say something new if there are many: what comes shortly before the first answers, and of each kind of
/// line the first few. Lines are of one kind if they begin alike.
pub fn shortened(lines: &[String]) -> Vec<String> {
    let is_answer = |line: &&String| line.contains(": answered");
    let mut printed = BTreeMap::<String, usize>::new();
    let (mut kept, mut left_out, mut answers) = (Vec::new(), 0, 0);
    for (place, line) in lines.iter().enumerate() {
        let beginning: String = kind(line).split_whitespace().take(WORDS).collect();
        let times = printed.entry(beginning).or_default();
        *times += 1;
        let soon_answered = lines[place..].iter().take(BEFORE_ANSWERS).any(|line| is_answer(&line));
        answers += usize::from(is_answer(&line));
        if lines.len() > LONG && *times > OFTEN && !is_answer(&line) && !(soon_answered && answers < FIRST_ANSWERS) {
            left_out += 1;
            continue;
        }
        if left_out > 0 {
            kept.push(format!("{:>16}{left_out} lines like these", ""));
            left_out = 0;
        }
        kept.push(line.clone());
    }
    kept
}
