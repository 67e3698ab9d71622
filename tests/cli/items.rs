//! Rules for the items of a table: which defects a sample of them has. No I/O.
//!
//! A finding holds counts and names of attributes, never the value of one.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use disable_my_other_sessions::session::Token;

use super::check::{Finding, Level};

pub type Item = HashMap<String, AttributeValue>;

/// Epoch times above this are in milliseconds: in seconds, it is the year 5138.
const LARGEST_SECONDS: f64 = 1e11;

/// Size of an item in bytes above which a revocation may not fit in. DynamoDB refuses items over 400 KB, the function
/// adds three attributes, and the application may add more. Source: "Service, account, and table quotas".
const LARGEST_ITEM: usize = 380 << 10;

/// A defect that an item can have. In both texts, `{ttl}` stands for the attribute of TTL.
struct Defect {
    level: Level,
    meaning: &'static str,
    advice: &'static str,
    /// Whether an item has it. The second argument is the attribute of TTL.
    found: fn(&Item, &str) -> bool,
}

const DEFECTS: [Defect; 13] = [
    Defect {
        level: Level::Problem,
        meaning: "have a token_hash that is not 64 lower-case hexadecimal digits: the function never finds them. \
                  If it is the token, a reader of the table can sign in.",
        advice: "Store the lower-case hexadecimal SHA-256 of the token. If tokens were stored, sign everyone out.",
        // Where the key has another name or type, that is the finding.
        found: |item, _| text(item, "token_hash").is_some_and(|key| !is_hash(key)),
    },
    Defect {
        level: Level::Problem,
        meaning: "hold their own token, in session_id or in another attribute: a reader of the table, of a backup or \
                  of a log with ids can sign in.",
        advice: "Store the token nowhere, use a random session_id, and sign everyone out.",
        found: |item, _| text(item, "token_hash").is_some_and(|key| item.values().any(|value| is_token_of(key, value))),
    },
    Defect {
        level: Level::Problem,
        meaning: "have their token_hash as session_id, which is shown, logged and sent to others.",
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
        meaning: "have no status of type S: the function answers 401 to their users, and an application that does not \
                  check status does not notice a revocation.",
        advice: "Write active at sign-in and to what is stored, and let the application admit active sessions only.",
        found: |item, _| text(item, "status").is_none(),
    },
    Defect {
        level: Level::Warning,
        meaning: "have a status other than active and revoked: the function answers 401 to their users, and revokes \
                  these sessions with the others.",
        advice: "Write active, in lower case, for sessions that may sign out the others.",
        found: |item, _| text(item, "status").is_some_and(|status| !["active", "revoked"].contains(&status)),
    },
    Defect {
        level: Level::Problem,
        meaning: "have no expires_at of type N, but none, an ISO date or a number written as a string: the function \
                  answers 401 to their users.",
        advice: "Write it as a number of seconds since 1970, and convert what is stored.",
        found: |item, _| number(item, "expires_at").is_none(),
    },
    Defect {
        level: Level::Problem,
        meaning: "have an expires_at in milliseconds: read as seconds, they do not expire for thousands of years.",
        advice: "Write it as a number of seconds since 1970, and convert what is stored.",
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
        meaning: "have no authenticated_at that is a number of seconds: with MaxAuthenticationAge, their users must \
                  sign in again.",
        advice: "Write it at each sign-in, in seconds since 1970, or do not use MaxAuthenticationAge.",
        found: |item, _| seconds(item, "authenticated_at").is_none(),
    },
    Defect {
        level: Level::Problem,
        meaning: "are over 380 KB. Near DynamoDB's limit of 400 KB they cannot take the attributes of a revocation: \
                  they stay active, and each call of their user is answered 500.",
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
        let found = self.counts.iter().zip(&DEFECTS).filter(|(count, _)| **count > 0);
        let finding = |(count, defect): (&u64, &Defect)| Finding {
            level: defect.level,
            meaning: format!("{count} of {} sampled items {}", self.items, defect.meaning.replace("{ttl}", &self.ttl)),
            advice: defect.advice.replace("{ttl}", &self.ttl),
        };
        found.map(finding).collect()
    }
}

/// A string that is not empty.
pub fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str).filter(|value| !value.is_empty())
}

pub fn number(item: &Item, name: &str) -> Option<f64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// A number that can be a time in seconds.
fn seconds(item: &Item, name: &str) -> Option<f64> {
    number(item, name).filter(|moment| *moment <= LARGEST_SECONDS)
}

fn is_hash(key: &str) -> bool {
    key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_token_of(key: &str, value: &AttributeValue) -> bool {
    value.as_s().is_ok_and(|value| Token::parse(value.as_bytes()).is_ok_and(|token| token.hash().as_str() == key))
}

/// Size of a value in bytes, or a little more: DynamoDB packs two digits of a number into a byte. Source: "DynamoDB item
/// sizes and formats".
fn size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(value) | AttributeValue::N(value) => value.len(),
        AttributeValue::B(value) => value.as_ref().len(),
        AttributeValue::Ss(values) | AttributeValue::Ns(values) => values.iter().map(String::len).sum(),
        AttributeValue::Bs(values) => values.iter().map(|value| value.as_ref().len()).sum(),
        AttributeValue::L(values) => values.iter().map(|value| 1 + size(value)).sum(),
        AttributeValue::M(values) => values.iter().map(|(name, value)| 1 + name.len() + size(value)).sum(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::primitives::Blob;

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

    fn findings(ttl: Option<&str>, items: &[Item]) -> Vec<Finding> {
        let mut sample = Sample::new(ttl);
        for item in items {
            sample.add(item);
        }
        sample.findings()
    }

    #[test]
    fn sound_items_have_no_defect() {
        let expired = item(&[("expires_at", n("1")), ("delete_at", n("2"))]);
        let revoked = item(&[("status", s("revoked"))]);
        let large = item(&[("data", s(&"x".repeat(LARGEST_ITEM - 300)))]);
        let found = findings(Some("delete_at"), &[item(&[]), expired, revoked, large]);
        assert!(found.is_empty(), "{found:#?}");
        let found = findings(None, &[item(&[("delete_at", n("1"))]), item(&[("delete_at", s("never"))])]);
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn each_defect_of_an_item_is_the_only_one_reported() {
        use AttributeValue::{B, Bool, Bs, L, M, Null, Ss};
        use Level::{Problem, Warning};
        let hash = Token::parse(b"ory_st_raw").expect("a token").hash().as_str().to_owned();
        let half = || "x".repeat(LARGEST_ITEM / 2);
        let cases: [(&[_], _, _); 26] = [
            (&[("token_hash", s("ory_st_raw!"))], Problem, "can sign in"),
            (&[("token_hash", s(&"0A".repeat(32)))], Problem, "lower-case"),
            (&[("token_hash", s(&hash)), ("session_id", s("ory_st_raw"))], Problem, "own token"),
            (&[("token_hash", s(&hash)), ("cookie", s("ory_st_raw"))], Problem, "own token"),
            (&[("session_id", s(&"0A".repeat(32)))], Problem, "token_hash as session_id"),
            (&[("user_id", n("7"))], Problem, "no user_id"),
            (&[("user_id", s(""))], Problem, "no user_id"),
            (&[("session_id", n("7"))], Problem, "no session_id"),
            (&[("status", Bool(true))], Problem, "no status"),
            (&[("status", s("Active"))], Warning, "status other"),
            (&[("expires_at", Null(true))], Problem, "no expires_at"),
            (&[("expires_at", s("2030-01-01T00:00:00Z"))], Problem, "no expires_at"),
            (&[("expires_at", s("1790000000"))], Problem, "no expires_at"),
            (&[("expires_at", n("1790000000000"))], Problem, "milliseconds"),
            (&[("delete_at", n("1789999999"))], Warning, "have a delete_at before"),
            (&[("delete_at", s("1790000000"))], Warning, "have no delete_at"),
            (&[("delete_at", n("1790000000000"))], Warning, "have no delete_at"),
            (&[("delete_at", Null(true))], Warning, "have no delete_at"),
            (&[("authenticated_at", s("2030-01-01"))], Warning, "have no authenticated_at"),
            (&[("authenticated_at", n("1790000000000"))], Warning, "have no authenticated_at"),
            (&[("data", s(&half().repeat(2)))], Problem, "over 380 KB"),
            (&[("data", B(Blob::new(half().repeat(2))))], Problem, "over 380 KB"),
            (&[("data", Bs(vec![Blob::new(half()), Blob::new(half())]))], Problem, "over 380 KB"),
            (&[("data", Ss(vec![half(), half()]))], Problem, "over 380 KB"),
            (&[("data", L(vec![s(&half()), s(&half())]))], Problem, "over 380 KB"),
            (&[("data", M([("a".to_owned(), s(&half().repeat(2)))].into()))], Problem, "over 380 KB"),
        ];
        for (attributes, level, text) in cases {
            let found = findings(Some("delete_at"), &[item(&[]), item(attributes)]);
            let [fault] = &found[..] else { panic!("{text}: {found:#?}") };
            assert_eq!(fault.level, level, "{fault:?}");
            assert!(fault.meaning.starts_with("1 of 2 sampled items") && fault.meaning.contains(text), "{fault:?}");
            assert!(!fault.advice.contains("{ttl}"), "{fault:?}");
        }
    }

    #[test]
    fn an_item_without_any_attribute_has_every_defect_of_absence() {
        let found = findings(Some("delete_at"), &[Item::new()]);
        let names = ["user_id", "session_id", "status", "expires_at", "delete_at", "authenticated_at"];
        assert_eq!(found.len(), names.len(), "{found:#?}");
        assert!(names.iter().zip(found).all(|(name, fault)| fault.meaning.contains(&format!("have no {name}"))));
    }
}
