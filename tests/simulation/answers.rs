//! What the successful answer of each operation always has, by the service's model, and what damage can be done to it. A client
//! may believe only a whole answer.
//!
//! Left out is damage that no client can see: an item that is missing in a `GetItem` or a `BatchGetItem` is a session that is
//! gone, and a page without `LastEvaluatedKey` is the last one.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::dynamodb::{Service, TABLE};
use crate::history::{News, Seen};
use crate::story::list;

/// What is done to a member of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Missing,
    Null,
    /// Nothing in it.
    Empty,
    OtherType,
    /// Each element twice.
    Twice,
    /// Without its last element.
    Fewer,
    /// With its first element once more at the end.
    More,
    /// Another number.
    Wrong,
    /// No byte at all. Only of a whole answer, as the next two.
    NoBody,
    /// Only the first half of the text.
    Cut,
    /// The members in another order: no damage, but not what a careless reader expects.
    Reordered,
}

/// A damage to one member.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub operation: &'static str,
    /// From the answer to the member, `.` between; empty for the whole answer.
    pub path: &'static str,
    pub damage: Damage,
}

macro_rules! cells {
    ($($operation:literal, $path:literal: $($damage:ident)*;)*) => {
        &[$($(Cell { operation: $operation, path: $path, damage: Damage::$damage },)*)*]
    };
}

/// All that can happen to answers.
pub const CELLS: &[Cell] = cells! {
    "GetItem", "": OtherType Cut Reordered;
    "GetItem", "Item": OtherType;
    "Query", "": Empty OtherType NoBody Cut Reordered;
    "Query", "Items": Missing Null Empty OtherType Twice Fewer More;
    "Query", "Items.0": OtherType;
    "Query", "Items.0.token_hash": Missing Null OtherType;
    "Query", "Count": Missing Null OtherType Wrong;
    "Query", "ScannedCount": Missing Null OtherType Wrong;
    "Query", "LastEvaluatedKey": OtherType;
    "BatchExecuteStatement", "": Empty OtherType NoBody Cut Reordered;
    "BatchExecuteStatement", "Responses": Missing Null Empty OtherType Twice Fewer More;
    "BatchExecuteStatement", "Responses.0": Null Empty OtherType;
    "BatchExecuteStatement", "Responses.0.TableName": Missing Null OtherType;
    "BatchGetItem", "": Empty OtherType NoBody Cut Reordered;
    "BatchGetItem", "Responses": Missing Null Empty OtherType;
    "BatchGetItem", "Responses.sessions": Missing Null OtherType Twice More;
    "BatchGetItem", "Responses.sessions.0": Empty OtherType;
    "BatchGetItem", "Responses.sessions.0.token_hash": Missing Null OtherType;
    "BatchGetItem", "UnprocessedKeys": Missing Null OtherType;
};

impl Cell {
    pub fn name(&self) -> String {
        format!("{} {} {:?}", self.operation, self.path, self.damage)
    }

    /// Whether it looks like an item that breaks the schema, which is a permanent error.
    pub fn breaks_an_item(&self) -> bool {
        self.path.ends_with("token_hash")
    }

    /// The answer with this damage, as JSON and as the text that is sent; `None` if there is nothing to be damaged.
    pub fn applied(&self, body: &Value) -> Option<(Value, String)> {
        let mut damaged = body.clone();
        let text = body.to_string();
        match self.damage {
            Damage::NoBody => return Some((json!({}), String::new())),
            Damage::Cut => return Some((Value::Null, text[..text.len() / 2].to_owned())),
            Damage::Reordered => {
                let members = damaged.as_object()?.iter().rev().map(|(name, value)| format!("{}:{value}", json!(name)));
                let members: Vec<_> = members.collect();
                return Some((damaged.clone(), format!("{{{}}}", members.join(","))));
            }
            _ => {}
        }
        let (parent, name) = self.path.rsplit_once('.').unwrap_or(("", self.path));
        if self.damage == Damage::Missing {
            at(&mut damaged, parent)?.as_object_mut()?.remove(name)?;
        } else {
            let member = at(&mut damaged, self.path)?;
            *member = damage(member, self.damage)?;
        }
        let text = damaged.to_string();
        (damaged != *body).then_some((damaged, text))
    }
}

/// The member at the end of a path.
fn at<'a>(body: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    if path.is_empty() { Some(body) } else { body.pointer_mut(&format!("/{}", path.replace('.', "/"))) }
}

fn damage(member: &Value, damage: Damage) -> Option<Value> {
    let list = || member.as_array().filter(|list| !list.is_empty()).cloned();
    Some(match damage {
        Damage::Empty => {
            if member.is_array() {
                json!([])
            } else {
                json!({})
            }
        }
        Damage::OtherType if member.is_string() => json!(7),
        Damage::OtherType => json!("text"),
        Damage::Twice => json!(list()?.iter().flat_map(|element| [element, element]).collect::<Vec<_>>()),
        Damage::Fewer => json!(list()?.split_last()?.1),
        Damage::More => {
            let mut list = list()?;
            list.push(list[0].clone());
            json!(list)
        }
        Damage::Wrong => json!(member.as_u64()? + 3),
        Damage::Null => Value::Null,
        Damage::Missing | Damage::NoBody | Damage::Cut | Damage::Reordered => return None,
    })
}

/// Whether a client may believe an answer. A member that is missing, and that the SDK replaces by what it would have been, does
/// no harm.
pub fn is_whole(operation: &str, request: &Value, answer: &Value) -> bool {
    let is_object = |value: &Value| value.is_null() || value.is_object();
    let is_number = |value: &Value| value.is_null() || value.is_u64();
    let key = |item: &Value| item["token_hash"]["S"].as_str().map(str::to_owned);
    if !answer.is_object() {
        return false;
    }
    match operation {
        "GetItem" => is_object(&answer["Item"]),
        "Query" => {
            let Some(items) = answer["Items"].as_array() else { return false };
            items.iter().all(|item| key(item).is_some())
                && answer["Count"].as_u64().unwrap_or_default() == items.len() as u64
                && is_number(&answer["Count"])
                && is_number(&answer["ScannedCount"])
                && is_object(&answer["LastEvaluatedKey"])
        }
        "BatchExecuteStatement" => {
            let Some(responses) = answer["Responses"].as_array() else { return false };
            let is_readable = |response: &Value| {
                response.is_object() && (response["TableName"].is_null() || response["TableName"].is_string())
            };
            Some(responses.len()) == request["Statements"].as_array().map(Vec::len) && responses.iter().all(is_readable)
        }
        _ => {
            let Some(items) = answer["Responses"][TABLE].as_array() else { return false };
            let keys: Option<Vec<_>> = items.iter().map(key).collect();
            let different = keys.map(|keys| keys.into_iter().collect::<BTreeSet<_>>().len());
            different == Some(items.len()) && is_object(&answer["UnprocessedKeys"])
        }
    }
}

/// What a whole answer lets its reader know, who works for this user.
pub fn news(service: &Service, user: &str, operation: &str, request: &Value, answer: &Value) -> Vec<News> {
    let hash = |key: &Value| Some(key["token_hash"]["S"].as_str()?.to_owned());
    match operation {
        "Query" => list(&answer["Items"]).iter().filter_map(|item| hash(item).map(News::Shown)).collect(),
        "BatchExecuteStatement" => {
            let statements = list(&request["Statements"]).iter().zip(list(&answer["Responses"]));
            let changed =
                statements.filter(|(_, response)| response["Error"].is_null() && response["TableName"].is_string());
            changed.filter_map(|(statement, _)| service.named(statement).map(News::Changed)).collect()
        }
        "GetItem" if request["ConsistentRead"] == true => {
            let seen = seen(Some(&answer["Item"]).filter(|item| item.is_object()), user);
            hash(&request["Key"]).map(|hash| News::Read(hash, seen)).into_iter().collect()
        }
        "BatchGetItem" if request["RequestItems"][TABLE]["ConsistentRead"] == true => {
            let unprocessed = list(&answer["UnprocessedKeys"][TABLE]["Keys"]);
            let keys = list(&request["RequestItems"][TABLE]["Keys"]).iter().filter(|key| !unprocessed.contains(key));
            let items = list(&answer["Responses"][TABLE]);
            let item_of = |key: &Value| items.iter().find(|item| item["token_hash"] == key["token_hash"]);
            keys.filter_map(|key| Some(News::Read(hash(key)?, seen(item_of(key), user)))).collect()
        }
        _ => Vec::new(),
    }
}

/// What the item of a session shows to somebody who works for this user.
fn seen(item: Option<&Value>, user: &str) -> Seen {
    let Some(item) = item else { return Seen::EndedByOthers };
    if item["user_id"]["S"] != user {
        Seen::Done
    } else if item["status"]["S"] != "revoked" {
        Seen::Live
    } else if item["revocation_id"]["S"].is_string() {
        Seen::Done
    } else {
        Seen::EndedByOthers
    }
}
