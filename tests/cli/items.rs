//! Rules for the items of a table: which defects a sample of them has. No I/O.
//!
//! A finding holds counts and names of attributes, never the value of one.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use disable_my_other_sessions::session::Token;

use super::check::{Finding, Level, ok};

pub type Item = HashMap<String, AttributeValue>;

/// Epoch times above this are in milliseconds: in seconds, it is the year 5138.
const LARGEST_SECONDS: f64 = 1e11;

/// Size of an item in bytes above which a revocation may not fit in. DynamoDB refuses items over 400 KB, the function
/// adds three attributes, and the application may add more. Source: "Service, account, and table quotas".
const LARGEST_ITEM: usize = 380 << 10;

/// A rule: what is wrong with an item, what follows, and what to do. `{ttl}` stands for the attribute of TTL.
struct Defect {
    level: Level,
    meaning: &'static str,
    advice: &'static str,
    /// Whether an item has it. The second argument is the attribute of TTL.
    found: fn(&Item, &str) -> bool,
}

const SECONDS: &str = "Write it as a number of seconds since 1970, and convert what is stored.";

const DEFECTS: [Defect; 14] = [
    Defect {
        level: Level::Problem,
        meaning: "have a token_hash that is not 64 lower-case hexadecimal digits: the function never finds them, and raw tokens may be stored, with which a reader of the table can sign in.",
        advice: "Store the lower-case hexadecimal SHA-256 of the token. If raw tokens were stored, sign everyone out.",
        // Where the key has another name or type, that is the finding.
        found: |item, _| text(item, "token_hash").is_some_and(|key| !is_hash(key)),
    },
    Defect {
        level: Level::Problem,
        meaning: "hold their own token, in session_id or in another attribute: a reader of the table, of a backup or of a log with ids can sign in.",
        advice: "Store the token nowhere, use a random session_id, and sign everyone out.",
        found: |item, _| text(item, "token_hash").is_some_and(|key| item.values().any(|value| is_token_of(key, value))),
    },
    Defect {
        level: Level::Problem,
        meaning: "have their token_hash as session_id, which is shown, logged and sent to others: the hash is the key of the table.",
        advice: "Use a random session_id, and replace those that are stored.",
        found: |item, _| {
            let key = text(item, "token_hash");
            key.zip(text(item, "session_id")).is_some_and(|(key, id)| key.eq_ignore_ascii_case(id))
        },
    },
    Defect {
        level: Level::Problem,
        meaning: "have no user_id of type S: they are not in the index and are never revoked.",
        advice: "Give each of them the id of its user, or delete them.",
        found: |item, _| text(item, "user_id").is_none(),
    },
    Defect {
        level: Level::Problem,
        meaning: "have no session_id of type S: a call with such a session is answered 500.",
        advice: "Give each of them an id that may be shown and logged, never the token.",
        found: |item, _| text(item, "session_id").is_none(),
    },
    Defect {
        level: Level::Problem,
        meaning: "have no status of type S: the function answers 401 to their users, and an application that does not check status does not notice a revocation.",
        advice: "Write active at sign-in and to what is stored, and let the application admit active sessions only.",
        found: |item, _| text(item, "status").is_none(),
    },
    Defect {
        level: Level::Warning,
        meaning: "have a status other than active and revoked: the function answers 401 to their users, and revokes these sessions with the others.",
        advice: "Write active, in lower case, for sessions that may sign out the others.",
        found: |item, _| text(item, "status").is_some_and(|status| !["active", "revoked"].contains(&status)),
    },
    Defect {
        level: Level::Problem,
        meaning: "have no expires_at: the function answers 401 to their users.",
        advice: "Write the time of expiry, in seconds since 1970, as a number.",
        found: |item, _| is_absent(item, "expires_at"),
    },
    Defect {
        level: Level::Problem,
        meaning: "have an expires_at that is not a number, but an ISO date or a number written as a string: the function answers 401 to their users.",
        advice: SECONDS,
        found: |item, _| !is_absent(item, "expires_at") && number(item, "expires_at").is_none(),
    },
    Defect {
        level: Level::Problem,
        meaning: "have an expires_at in milliseconds: read as seconds, they do not expire for thousands of years.",
        advice: SECONDS,
        found: |item, _| number(item, "expires_at").is_some() && seconds(item, "expires_at").is_none(),
    },
    Defect {
        level: Level::Warning,
        meaning: "have no {ttl} that is a number of seconds: TTL never deletes them.",
        advice: "Write it at sign-in, in seconds since 1970, and add it to what is stored.",
        // What is wrong with `expires_at` has rules of its own.
        found: |item, ttl| !["", "expires_at"].contains(&ttl) && seconds(item, ttl).is_none(),
    },
    Defect {
        level: Level::Warning,
        meaning: "have a {ttl} before their expires_at: TTL deletes them while their users are signed in.",
        advice: "Write {ttl} some time after expires_at, and move both whenever a session is extended.",
        found: |item, ttl| {
            seconds(item, ttl).zip(seconds(item, "expires_at")).is_some_and(|(deleted, expires)| deleted < expires)
        },
    },
    Defect {
        level: Level::Warning,
        meaning: "have no authenticated_at that is a number of seconds: with MaxAuthenticationAge, their users must sign in again.",
        advice: "Write it at each sign-in, in seconds since 1970, or do not use MaxAuthenticationAge.",
        found: |item, _| seconds(item, "authenticated_at").is_none(),
    },
    Defect {
        level: Level::Problem,
        meaning: "are over 380 KB. Near DynamoDB's limit of 400 KB they cannot take the attributes of a revocation: they stay active, and each call of their user is answered 500.",
        advice: "Move large attributes to another table, or delete these items.",
        found: |item, _| item.iter().map(|(name, value)| name.len() + size(value)).sum::<usize>() > LARGEST_ITEM,
    },
];

/// How many of the sampled items have which defect.
#[derive(Debug)]
pub struct Sample {
    pub items: u64,
    /// The attribute by which TTL deletes, or empty.
    ttl: String,
    counts: [u64; DEFECTS.len()],
}

impl Sample {
    /// No items yet, of a table whose TTL is on this attribute, if it is on.
    pub fn new(ttl: Option<&str>) -> Self {
        Self { items: 0, ttl: ttl.unwrap_or_default().to_owned(), counts: [0; DEFECTS.len()] }
    }

    /// Counts the defects of a whole item.
    pub fn add(&mut self, item: &Item) {
        self.items += 1;
        for (count, defect) in self.counts.iter_mut().zip(&DEFECTS) {
            *count += u64::from((defect.found)(item, &self.ttl));
        }
    }

    pub fn findings(&self) -> Vec<Finding> {
        if self.items == 0 {
            let advice = "Run this again once the application has written sessions.".to_owned();
            return vec![Finding { advice, ..ok("The table is empty, so there are no items to check.") }];
        }
        let found: Vec<_> = self
            .counts
            .iter()
            .zip(DEFECTS)
            .filter(|(count, _)| **count > 0)
            .map(|(count, Defect { level, meaning, advice, .. })| Finding {
                level,
                meaning: format!("{count} of {} sampled items {meaning}", self.items).replace("{ttl}", &self.ttl),
                advice: advice.replace("{ttl}", &self.ttl),
            })
            .collect();
        if found.is_empty() {
            return vec![ok(format!("All {} sampled items are as they should be.", self.items))];
        }
        found
    }
}

/// A string that is not empty.
fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str).filter(|value| !value.is_empty())
}

fn number(item: &Item, name: &str) -> Option<f64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// A number that can be a time in seconds.
fn seconds(item: &Item, name: &str) -> Option<f64> {
    number(item, name).filter(|moment| *moment <= LARGEST_SECONDS)
}

fn is_absent(item: &Item, name: &str) -> bool {
    matches!(item.get(name), None | Some(AttributeValue::Null(_)))
}

fn is_hash(key: &str) -> bool {
    key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_token_of(key: &str, value: &AttributeValue) -> bool {
    value.as_s().is_ok_and(|value| Token::parse(value.as_bytes()).is_ok_and(|token| token.hash().as_str() == key))
}

/// Size of a value in bytes. That of a number is an estimate, as DynamoDB's own formula is. Source: "DynamoDB item sizes
/// and formats".
fn size(value: &AttributeValue) -> usize {
    let of_number = |number: &str| number.len().div_ceil(2) + 1;
    match value {
        AttributeValue::S(value) => value.len(),
        AttributeValue::N(value) => of_number(value),
        AttributeValue::B(value) => value.as_ref().len(),
        AttributeValue::Ss(values) => values.iter().map(String::len).sum(),
        AttributeValue::Ns(values) => values.iter().map(|value| of_number(value)).sum(),
        AttributeValue::Bs(values) => values.iter().map(|value| value.as_ref().len()).sum(),
        AttributeValue::L(values) => 3 + values.iter().map(|value| 1 + size(value)).sum::<usize>(),
        AttributeValue::M(values) => 3 + values.iter().map(|(name, value)| 1 + name.len() + size(value)).sum::<usize>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(value: &str) -> AttributeValue {
        AttributeValue::S(value.to_owned())
    }

    fn n(value: &str) -> AttributeValue {
        AttributeValue::N(value.to_owned())
    }

    fn item(attributes: &[(&str, AttributeValue)]) -> Item {
        let sound = [
            ("token_hash", s(&"0a".repeat(32))),
            ("session_id", s("id")),
            ("user_id", s("user")),
            ("status", s("active")),
            ("expires_at", n("1790000000")),
            ("delete_at", n("1790000000")),
            ("authenticated_at", n("1.79e9")),
        ];
        sound.iter().chain(attributes).map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn findings(items: &[Item]) -> Vec<Finding> {
        let mut sample = Sample::new(Some("delete_at"));
        for item in items {
            sample.add(item);
        }
        sample.findings()
    }

    #[test]
    fn sound_items_have_no_defect() {
        let expired = item(&[("expires_at", n("1")), ("delete_at", n("2"))]);
        let revoked = item(&[("status", s("revoked"))]);
        let large = item(&[("data", s(&"x".repeat(LARGEST_ITEM - 200)))]);
        let without_ttl = [("delete_at", AttributeValue::Null(true))];
        for findings in [findings(&[item(&[]), expired, revoked, large]), {
            let mut sample = Sample::new(None);
            sample.add(&item(&without_ttl));
            sample.findings()
        }] {
            assert!(matches!(&findings[..], [Finding { level: Level::Ok, .. }]), "{findings:#?}");
        }
    }

    #[test]
    fn each_defect_of_an_item_is_the_only_one_reported() {
        use Level::{Problem, Warning};
        let hash = Token::parse(b"ory_st_raw").expect("a token").hash().as_str().to_owned();
        let data = |bytes| ("data", AttributeValue::M([("a".to_owned(), s(&"x".repeat(bytes)))].into()));
        let cases: [(&[_], _, _); 22] = [
            (&[("token_hash", s("ory_st_raw!"))], Problem, "raw tokens"),
            (&[("token_hash", s(&"0A".repeat(32)))], Problem, "lower-case"),
            (&[("token_hash", s(&hash)), ("session_id", s("ory_st_raw"))], Problem, "own token"),
            (&[("token_hash", s(&hash)), ("cookie", s("ory_st_raw"))], Problem, "own token"),
            (&[("session_id", s(&"0A".repeat(32)))], Problem, "token_hash as session_id"),
            (&[("user_id", n("7"))], Problem, "user_id"),
            (&[("user_id", s(""))], Problem, "user_id"),
            (&[("session_id", n("7"))], Problem, "session_id"),
            (&[("status", AttributeValue::Bool(true))], Problem, "no status"),
            (&[("status", s("Active"))], Warning, "status other"),
            (&[("expires_at", AttributeValue::Null(true))], Problem, "no expires_at"),
            (&[("expires_at", s("2030-01-01T00:00:00Z"))], Problem, "not a number"),
            (&[("expires_at", s("1790000000"))], Problem, "not a number"),
            (&[("expires_at", AttributeValue::Bool(true))], Problem, "not a number"),
            (&[("expires_at", n("1790000000000"))], Problem, "milliseconds"),
            (&[("delete_at", n("1789999999"))], Warning, "have a delete_at before"),
            (&[("delete_at", s("1790000000"))], Warning, "have no delete_at"),
            (&[("delete_at", n("1790000000000"))], Warning, "have no delete_at"),
            (&[("delete_at", AttributeValue::Null(true))], Warning, "have no delete_at"),
            (&[("authenticated_at", s("2030-01-01"))], Warning, "have no authenticated_at"),
            (&[("authenticated_at", n("1790000000000"))], Warning, "have no authenticated_at"),
            (&[data(380 << 10)], Problem, "over 380 KB"),
        ];
        for (attributes, level, text) in cases {
            let found = findings(&[item(&[]), item(attributes)]);
            let [fault] = &found[..] else { panic!("{text}: {found:#?}") };
            assert_eq!(fault.level, level, "{fault:?}");
            assert!(fault.meaning.starts_with("1 of 2 sampled items") && fault.meaning.contains(text), "{fault:?}");
            assert!(!fault.advice.is_empty() && !fault.advice.contains("{ttl}"), "{fault:?}");
        }
    }

    #[test]
    fn an_item_without_any_attribute_has_every_defect_of_absence() {
        let found = findings(&[Item::new()]);
        let names = ["user_id", "session_id", "status", "expires_at", "delete_at", "authenticated_at"];
        assert_eq!(found.len(), names.len(), "{found:#?}");
        for (name, fault) in names.iter().zip(found) {
            assert!(fault.meaning.contains(&format!("have no {name}")), "{name}: {fault:?}");
        }
    }

    #[test]
    fn the_size_of_each_type_is_counted() {
        let b = |bytes| aws_sdk_dynamodb::primitives::Blob::new(vec![0; bytes]);
        for (value, bytes) in [
            (s("éa"), 3),
            (n("1790000000"), 6),
            (AttributeValue::B(b(7)), 7),
            (AttributeValue::Bool(true), 1),
            (AttributeValue::Ss(vec!["ab".to_owned(), "c".to_owned()]), 3),
            (AttributeValue::Ns(vec!["12".to_owned(), "3".to_owned()]), 4),
            (AttributeValue::Bs(vec![b(2), b(3)]), 5),
            (AttributeValue::L(vec![s("ab"), s("c")]), 8),
            (AttributeValue::M([("name".to_owned(), s("ab"))].into()), 10),
        ] {
            assert_eq!(size(&value), bytes, "{value:?}");
        }
    }
}
