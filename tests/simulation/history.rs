//! The truth of a trial: every version of every session, and what each call sent, was shown, and answered.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::answer::Answer;
use crate::plan::Step;

/// An item in DynamoDB's own notation.
pub type Item = BTreeMap<String, Value>;

/// A place in the order of everything that happens. Much can happen at one instant of virtual time.
pub type Moment = u64;

/// Who changed an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Before the trial.
    Nobody,
    /// The function, in this call.
    Call(usize),
    Others,
}

/// A version of an item, from this moment on.
#[derive(Clone, Debug)]
pub struct Change {
    pub moment: Moment,
    /// Milliseconds since the trial began.
    pub at: u64,
    pub by: Actor,
    /// `None` once it is deleted.
    pub item: Option<Item>,
}

/// All versions of all items, by token hash.
#[derive(Debug, Default)]
pub struct History {
    versions: BTreeMap<String, Vec<Change>>,
}

/// Something in the answer to a request.
#[derive(Clone, Debug)]
pub enum News {
    /// The index shows a session.
    Shown(String),
    /// A statement reports that it has changed a session.
    Changed(String),
    /// A consistent read of a session, and what it shows.
    Read(String, Seen),
}

/// What a consistent read shows of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Live,
    /// Gone, or revoked by somebody other than the function: it may have been replaced by a new session.
    EndedByOthers,
    /// Revoked by the function, or of another user.
    Done,
}

/// A read of the index from its first page to its last.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// When its first page was asked for, and the same in milliseconds.
    pub begin: Moment,
    pub begin_at: u64,
    /// Whether it has shown a session, other than the caller's, that no look before has shown.
    pub shows_new: bool,
    /// The sessions that the index held when DynamoDB carried out the first page, and when that was.
    pub held: Vec<String>,
    pub held_at: Moment,
    /// Sessions that a fault has left out of its pages.
    pub hidden: BTreeSet<String>,
}

/// One invocation of the function.
#[derive(Debug, Default)]
pub struct Call {
    pub number: usize,
    pub caller: String,
    pub lambda_id: String,
    /// Whose sessions it reads from the index.
    pub user: String,
    /// When the answer to the read of its caller arrived, in milliseconds.
    pub authenticated_at: u64,
    /// Milliseconds until Lambda's deadline.
    pub timeout: u64,
    pub begin: u64,
    pub begin_moment: Moment,
    pub end: u64,
    pub end_moment: Moment,
    pub answer: Option<Answer>,
    /// Requests of each step.
    pub requests: BTreeMap<Step, u32>,
    /// Requests that were not answered as DynamoDB answers when all is well.
    pub disturbed: u32,
    /// Errors that no retry can help against.
    pub permanent: u32,
    /// Those of them that were errors of whole requests.
    pub cut_short: u32,
    /// How often each thing was refused because of a signature: a session, a page, or the caller.
    pub signature: BTreeMap<String, u32>,
    /// For how many milliseconds the process gets no CPU next.
    pub stall: Option<u64>,
    /// For how long it got none so far, and until when.
    pub stalled: u64,
    pub stalled_until: u64,
    /// Reads of the index of which all pages have arrived.
    pub looks: Vec<Look>,
    /// The one under way.
    pub look: Look,
    /// Sessions that a fault has left out of its pages so far.
    pub hidden: BTreeSet<String>,
    /// When a consistent read has last shown a session that others have ended, in milliseconds.
    pub trace: Option<u64>,
    /// How often consistent reads have shown a session live.
    pub found_live: BTreeMap<String, u32>,
    pub pages: u32,
    /// Sessions that the index has shown, and since when the function knew.
    pub shown: BTreeMap<String, Moment>,
    /// Sessions that a statement has reported as changed.
    pub changed: BTreeSet<String>,
    /// When DynamoDB carried out the consistent reads of a session that have arrived.
    pub reads: BTreeMap<String, Vec<Moment>>,
    /// Sessions named in a batch, and when the first of these batches was sent.
    pub written: BTreeMap<String, Moment>,
    /// Sessions that were written, and of which neither a report nor a read has arrived since.
    pub unreported: BTreeSet<String>,
    /// Sessions of which a write was answered with a permanent error.
    pub refused: BTreeSet<String>,
    /// When reads of sessions failed.
    pub failed_reads: Vec<Moment>,
}

impl Call {
    /// Milliseconds that the call reserves: to wait for its last writes, to read what became of them, and to answer.
    pub fn reserved(&self) -> [u64; 3] {
        [(1_000, 5), (2_000, 4), (500, 10)].map(|(most, part): (u64, u64)| most.min(self.timeout / part))
    }
}

impl History {
    pub fn record(&mut self, hash: &str, change: Change) {
        self.versions.entry(hash.to_owned()).or_default().push(change);
    }

    /// The item as it is now.
    pub fn item(&self, hash: &str) -> Option<&Item> {
        self.versions.get(hash)?.last()?.item.as_ref()
    }

    /// The first version that ever was.
    pub fn first(&self, hash: &str) -> Option<&Item> {
        self.versions.get(hash)?.first()?.item.as_ref()
    }

    /// The version at this moment.
    pub fn at(&self, hash: &str, moment: Moment) -> Option<&Item> {
        self.versions.get(hash)?.iter().rfind(|change| change.moment <= moment)?.item.as_ref()
    }

    pub fn knows(&self, hash: &str) -> bool {
        self.versions.contains_key(hash)
    }

    pub fn hashes(&self) -> impl Iterator<Item = &String> {
        self.versions.keys()
    }

    pub fn versions(&self, hash: &str) -> &[Change] {
        self.versions.get(hash).map_or(&[], Vec::as_slice)
    }

    /// All items that there are now.
    pub fn items(&self) -> impl Iterator<Item = (&String, &Item)> {
        self.versions.iter().filter_map(|(hash, versions)| Some((hash, versions.last()?.item.as_ref()?)))
    }

    /// Each version with the one before it, in which something happened during `from..=to`, and the one that was there at
    /// the beginning.
    pub fn during(&self, hash: &str, from: Moment, to: Moment) -> impl Iterator<Item = &Change> {
        let versions = self.versions(hash);
        let first = versions.iter().rposition(|change| change.moment <= from).unwrap_or(0);
        versions[first..].iter().take_while(move |change| change.moment <= to || change.moment <= from)
    }

    /// The changes that a call has made: session, version before, version after.
    pub fn changes_of(&self, call: usize) -> impl Iterator<Item = (&String, Option<&Item>, &Change)> {
        self.versions.iter().flat_map(move |(hash, versions)| {
            versions.iter().enumerate().filter(move |(_, change)| change.by == Actor::Call(call)).map(
                move |(place, change)| {
                    let before = place.checked_sub(1).and_then(|before| versions[before].item.as_ref());
                    (hash, before, change)
                },
            )
        })
    }
}

/// An attribute's text, of a string or a number.
pub fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    let value = item.get(name)?.as_object()?;
    value.get("S").or_else(|| value.get("N"))?.as_str()
}

/// Whether a session is no longer one to be revoked for this user.
pub fn is_done(item: Option<&Item>, user: &str) -> bool {
    item.is_none_or(|item| text(item, "user_id") != Some(user) || text(item, "status") == Some("revoked"))
}

pub fn s(value: impl Into<String>) -> Value {
    json!({"S": value.into()})
}

pub fn n(value: u64) -> Value {
    json!({"N": value.to_string()})
}
