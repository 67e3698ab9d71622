//! DynamoDB: an embedded implementation of its API, and what that does not show by itself. The index is a table of its own,
//! written a little later than the table, as in DynamoDB; a partition of it takes only so many writes a second; TTL runs when the
//! trial says so.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use dynoxide::errors::DynoxideError;
use dynoxide::storage_backend::Clock;
use dynoxide::{Database, ImportOptions};
use fastrand::Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::history::{Actor, Change, History, Item, Moment, s, text};
use crate::plan::{Behaviour, Lag};
use crate::yaml::{list, resource, string};

pub const TABLE: &str = "sessions";
pub const INDEX: &str = "user_id-index";
/// The table that holds the index.
const REPLICA: &str = "replica";

/// An answer of DynamoDB's.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
}

/// A table, its index, and their history.
pub struct Service {
    database: Rc<Database>,
    pub history: History,
    behaviour: Behaviour,
    seed: u64,
    moment: Moment,
    /// Changes on their way to the index: when, and in which order.
    on_their_way: BTreeMap<(u64, Moment), Entry>,
    /// When the latest change of an entry arrives. Changes of one entry arrive in their order.
    latest: BTreeMap<(String, String), u64>,
    /// What the index holds.
    entries: BTreeSet<(String, String)>,
    partitions: BTreeMap<String, Room>,
    pub throttled: u64,
    pub carried_out: u64,
}

/// An entry of the index as it will be.
struct Entry {
    user: String,
    hash: String,
    item: Option<Item>,
}

/// What a partition still takes.
struct Room {
    writes: f64,
    since: u64,
}

thread_local! {
    /// To make a database takes longer than a trial, so each thread keeps one.
    static DATABASE: RefCell<Option<Rc<Database>>> = const { RefCell::new(None) };
}

impl Service {
    /// Empty.
    pub fn new(seed: u64, behaviour: Behaviour) -> Self {
        let database = DATABASE.with_borrow_mut(|kept| Rc::clone(kept.get_or_insert_with(|| Rc::new(database()))));
        Self {
            database,
            history: History::default(),
            behaviour,
            seed,
            moment: 0,
            on_their_way: BTreeMap::new(),
            latest: BTreeMap::new(),
            entries: BTreeSet::new(),
            partitions: BTreeMap::new(),
            throttled: 0,
            carried_out: 0,
        }
    }

    /// The next place in the order of events.
    pub fn moment(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    /// Carries a request out.
    pub fn carry_out(&mut self, operation: &str, body: &Value, by: Actor, now: u64) -> Reply {
        match operation {
            "GetItem" if body["ConsistentRead"] != true => self.outdated(body),
            "GetItem" => reply(self.call(body, Database::get_item)),
            "BatchGetItem" => reply(self.call(body, Database::batch_get_item)),
            "Query" if body["IndexName"].is_string() => self.query_index(body, now),
            "Query" => reply(self.call(body, Database::query)),
            "BatchExecuteStatement" => self.batch(body, by, now),
            _ => Reply { status: 400, body: json!({"__type": "UnknownOperationException"}) },
        }
    }

    /// A read that is not consistent may show an item as it once was.
    fn outdated(&self, body: &Value) -> Reply {
        let hash = body["Key"]["token_hash"]["S"].as_str().unwrap_or_default();
        let item = self.history.first(hash);
        Reply { status: 200, body: item.map_or_else(|| json!({}), |item| json!({"Item": item})) }
    }

    fn query_index(&mut self, body: &Value, now: u64) -> Reply {
        if body["IndexName"] != INDEX || body["TableName"] != TABLE || body["ConsistentRead"] == true {
            return Reply { status: 400, body: json!({"__type": "com.amazon.coral.validate#ValidationException"}) };
        }
        self.bring_index_up_to(now);
        let mut body = body.clone();
        let fields = body.as_object_mut().expect("an object");
        fields.remove("IndexName");
        fields.insert("TableName".to_owned(), json!(REPLICA));
        if let Some(most) = self.behaviour.page_limit {
            let asked = fields.get("Limit").and_then(Value::as_u64).unwrap_or(most);
            fields.insert("Limit".to_owned(), json!(asked.min(most)));
        }
        reply(self.call(&body, Database::query))
    }

    /// A batch, of which the partitions of the index may throttle a part.
    fn batch(&mut self, body: &Value, by: Actor, now: u64) -> Reply {
        let statements = body["Statements"].as_array().cloned().unwrap_or_default();
        let hashes: Vec<_> = statements.iter().map(|statement| self.named(statement)).collect();
        let fits: Vec<bool> = hashes.iter().map(|hash| self.has_room(hash.as_deref(), now)).collect();
        let passed: Vec<_> = statements.iter().zip(&fits).filter(|(_, fits)| **fits).map(|(s, _)| s.clone()).collect();
        self.throttled += (statements.len() - passed.len()) as u64;
        self.carried_out += passed.len() as u64;
        let mut responses = Vec::new();
        if !passed.is_empty() {
            let answer = reply(self.call(&json!({"Statements": passed}), Database::batch_execute_statement));
            if answer.status != 200 {
                return answer;
            }
            responses.clone_from(answer.body["Responses"].as_array().expect("responses"));
        }
        for (place, _) in fits.iter().enumerate().filter(|(_, fits)| !**fits) {
            responses.insert(place, statement_error("ThrottlingError"));
        }
        let changed = hashes.iter().zip(&responses).filter(|(_, response)| response.get("Error").is_none());
        let changed: Vec<_> = changed.filter_map(|(hash, _)| hash.clone()).collect();
        self.record_as_they_are(&changed, by, now);
        Reply { status: 200, body: json!({"Responses": responses}) }
    }

    /// The session that a statement names.
    pub fn named(&self, statement: &Value) -> Option<String> {
        let parameters = statement["Parameters"].as_array()?;
        let named = parameters.iter().filter_map(|parameter| parameter["S"].as_str());
        named.map(str::to_owned).find(|value| self.history.knows(value))
    }

    fn has_room(&mut self, hash: Option<&str>, now: u64) -> bool {
        let Some(partition) = self.behaviour.partition else { return true };
        let user = hash.and_then(|hash| self.history.item(hash)).and_then(|item| text(item, "user_id"));
        let Some(user) = user.map(str::to_owned) else { return true };
        let room = self.partitions.entry(user).or_insert(Room { writes: partition.burst, since: now });
        let gained = (now - room.since) as f64 / 1000.0 * partition.rate;
        *room = Room { writes: (room.writes + gained).min(partition.burst.max(1.0)), since: now };
        if room.writes < 1.0 {
            return false;
        }
        room.writes -= 1.0;
        true
    }

    fn record_as_they_are(&mut self, hashes: &[String], by: Actor, now: u64) {
        for hashes in hashes.chunks(100) {
            let keys: Vec<_> = hashes.iter().map(|hash| json!({"token_hash": s(hash.as_str())})).collect();
            let body = json!({"RequestItems": {TABLE: {"Keys": keys, "ConsistentRead": true}}});
            let answer = reply(self.call(&body, Database::batch_get_item));
            let items = answer.body["Responses"][TABLE].as_array().cloned().unwrap_or_default();
            let mut found: BTreeMap<String, Item> = BTreeMap::new();
            for item in items {
                let item: Item = serde_json::from_value(item).expect("an item");
                found.insert(text(&item, "token_hash").expect("a key").to_owned(), item);
            }
            for hash in hashes {
                self.record(hash, found.remove(hash), by, now);
            }
        }
    }

    /// Writes a version into the history, and sends it to the index.
    fn record(&mut self, hash: &str, item: Option<Item>, by: Actor, now: u64) {
        let moment = self.moment();
        let user_of = |item: Option<&Item>| item.and_then(|item| text(item, "user_id")).map(str::to_owned);
        let before = user_of(self.history.item(hash));
        let after = user_of(item.as_ref());
        if let Some(user) = before.filter(|user| Some(user) != after.as_ref()) {
            self.send_to_index(user, hash, None, now);
        }
        if let Some(user) = after {
            self.send_to_index(user, hash, item.as_ref().map(projected), now);
        }
        self.history.record(hash, Change { moment, at: now, by, item });
    }

    fn send_to_index(&mut self, user: String, hash: &str, item: Option<Item>, now: u64) {
        let moment = self.moment();
        let mut rng = Rng::with_seed(self.seed ^ moment.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let lag = lag(self.behaviour.lag, &mut rng);
        let key = (user, hash.to_owned());
        let latest = self.latest.entry(key.clone()).or_default();
        *latest = (*latest).max(now + lag);
        self.on_their_way.insert((*latest, moment), Entry { user: key.0, hash: key.1, item });
    }

    fn bring_index_up_to(&mut self, now: u64) {
        while let Some(first) = self.on_their_way.first_entry() {
            if first.key().0 > now {
                break;
            }
            let entry = first.remove();
            let key = (entry.user, entry.hash);
            if let Some(item) = entry.item {
                let body = json!({"TableName": REPLICA, "Item": item});
                self.call(&body, Database::put_item).expect("the index to be written");
                self.entries.insert(key);
            } else {
                self.entries.remove(&key);
                self.delete(REPLICA, &json!({"user_id": s(key.0), "token_hash": s(key.1)}));
            }
        }
    }

    /// What table and index hold when the trial begins.
    pub fn fill(&mut self, items: Vec<Item>) {
        let import = |table: &str, items: &[Item]| {
            let items = serde_json::from_value(json!(items)).expect("items");
            self.database.import_items(table, items, ImportOptions::default()).expect("items to be imported");
        };
        import(TABLE, &items);
        import(REPLICA, &items.iter().map(projected).collect::<Vec<_>>());
        for item in items {
            let of = |name| text(&item, name).expect("a key").to_owned();
            let (user, hash) = (of("user_id"), of("token_hash"));
            self.entries.insert((user, hash.clone()));
            let moment = self.moment();
            self.history.record(&hash, Change { moment, at: 0, by: Actor::Nobody, item: Some(item) });
        }
    }

    /// Writes an item as an application does.
    pub fn put(&mut self, item: &Item, now: u64) {
        let body = json!({"TableName": TABLE, "Item": item});
        self.call(&body, Database::put_item).expect("the item to be written");
        let hash = text(item, "token_hash").expect("a key").to_owned();
        self.record(&hash, Some(item.clone()), Actor::Others, now);
    }

    pub fn remove(&mut self, hash: &str, now: u64) {
        self.delete(TABLE, &json!({"token_hash": s(hash)}));
        self.record(hash, None, Actor::Others, now);
    }

    /// Deletes what has expired.
    pub fn sweep(&mut self, now: u64) {
        self.database.sweep_ttl().expect("TTL to run");
        let there: Vec<String> = self.history.items().map(|(hash, _)| hash.clone()).collect();
        let left = self.table();
        for hash in there.iter().filter(|hash| !left.contains_key(*hash)) {
            self.record(hash, None, Actor::Others, now);
        }
    }

    /// The whole table.
    pub fn table(&self) -> BTreeMap<String, Item> {
        let mut table = BTreeMap::new();
        let mut from = Value::Null;
        loop {
            let mut body = json!({"TableName": TABLE, "ConsistentRead": true});
            if !from.is_null() {
                body["ExclusiveStartKey"] = from;
            }
            let answer = self.call(&body, Database::scan).expect("a scan");
            for item in answer["Items"].as_array().into_iter().flatten() {
                let item: Item = serde_json::from_value(item.clone()).expect("an item");
                table.insert(text(&item, "token_hash").expect("a key").to_owned(), item);
            }
            from = answer["LastEvaluatedKey"].clone();
            if from.is_null() {
                return table;
            }
        }
    }

    fn delete(&self, table: &str, key: &Value) {
        self.call(&json!({"TableName": table, "Key": key}), Database::delete_item).expect("an item to be deleted");
    }

    /// Empties table and index for the next trial. What the history does not know is not deleted, so this is only for a trial
    /// in which all was right.
    pub fn clear(&mut self) {
        let table: Vec<_> = self.history.items().map(|(hash, _)| json!({"token_hash": s(hash.as_str())})).collect();
        self.delete_all(TABLE, &table);
        let entries = std::mem::take(&mut self.entries).into_iter();
        let entries: Vec<_> = entries.map(|(user, hash)| json!({"user_id": s(user), "token_hash": s(hash)})).collect();
        self.delete_all(REPLICA, &entries);
    }

    fn delete_all(&self, table: &str, keys: &[Value]) {
        for keys in keys.chunks(25) {
            let deletes: Vec<_> = keys.iter().map(|key| json!({"DeleteRequest": {"Key": key}})).collect();
            let body = json!({"RequestItems": {table: deletes}});
            self.call(&body, Database::batch_write_item).expect("items to be deleted");
        }
    }

    /// Forgets the database, which a panic may have left in any state.
    pub fn forget() {
        DATABASE.with_borrow_mut(|kept| *kept = None);
    }

    fn call<Request: DeserializeOwned, Response: Serialize>(
        &self,
        body: &Value,
        operation: impl FnOnce(&Database, Request) -> Result<Response, DynoxideError>,
    ) -> Result<Value, Reply> {
        // From text, as dynoxide's own server reads it: some of its types are written for that alone.
        let request = serde_json::from_str(&body.to_string());
        let request = request.map_err(|error| Reply {
            status: 400,
            body: json!({"__type": "com.amazon.coral.service#SerializationException", "Message": error.to_string()}),
        })?;
        match operation(&self.database, request) {
            Ok(response) => Ok(serde_json::to_value(response).expect("JSON")),
            Err(error) => {
                Err(Reply { status: error.status_code(), body: serde_json::from_str(&error.to_json()).expect("JSON") })
            }
        }
    }
}

fn reply(result: Result<Value, Reply>) -> Reply {
    result.map_or_else(|error| error, |body| Reply { status: 200, body })
}

/// What the index shows of an item.
fn projected(item: &Item) -> Item {
    let shown = |(name, _): &(&String, &Value)| ["token_hash", "user_id", "status"].contains(&name.as_str());
    item.iter().filter(shown).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A failed statement of a batch.
pub fn statement_error(code: &str) -> Value {
    json!({"Error": {"Code": code, "Message": "canary-message"}, "TableName": TABLE})
}

/// Milliseconds until the index shows a change. Source: alexdebrie/dynamodb-performance-testing, for the usual ones.
fn lag(lag: Lag, rng: &mut Rng) -> u64 {
    let usual = |rng: &mut Rng| match rng.u32(0..10_000) {
        0..9_654 => rng.u64(0..3),
        9_654..9_953 => rng.u64(1..10),
        9_953..9_972 => rng.u64(10..100),
        _ => rng.u64(100..1_000),
    };
    match lag {
        Lag::None => 0,
        Lag::Usual => usual(rng),
        Lag::Long => match rng.u8(0..4) {
            0 => usual(rng),
            1 => rng.u64(0..100),
            2 => rng.u64(0..1_000),
            _ => rng.u64(1_000..10_000),
        },
    }
}

/// The simulation's clock, for TTL.
struct VirtualClock;

impl Clock for VirtualClock {
    fn now_unix_secs(&self) -> u64 {
        crate::world::epoch_seconds() as u64
    }

    fn now_unix_secs_f64(&self) -> f64 {
        crate::world::epoch_seconds()
    }
}

/// A database with the table of `template.yaml`, and its index as a table.
fn database() -> Database {
    let database = Database::memory_with_clock(Arc::new(VirtualClock)).expect("a database in memory");
    let table = resource("SessionsTable");
    let index = &table["GlobalSecondaryIndexes"][0];
    let key = |node: &Value| {
        let keys: Vec<_> = list(&node["KeySchema"]).map(|key| string(&key["AttributeName"]).to_owned()).collect();
        let [key] = &keys[..] else { panic!("a key of {keys:?}") };
        key.clone()
    };
    assert_eq!(index["IndexName"], INDEX);
    assert_eq!(index["Projection"]["NonKeyAttributes"], json!(["status"]));
    create(&database, TABLE, &[(&key(table), "HASH")]);
    create(&database, REPLICA, &[(&key(index), "HASH"), (&key(table), "RANGE")]);
    // Only if a parameter says so.
    let specification = &table["TimeToLiveSpecification"]["Fn::If"][1];
    let ttl = json!({"TableName": TABLE, "TimeToLiveSpecification": specification});
    database.update_time_to_live(serde_json::from_value(ttl).expect("a request")).expect("TTL");
    database
}

fn create(database: &Database, table: &str, keys: &[(&str, &str)]) {
    let schema = keys.iter().map(|(name, kind)| json!({"AttributeName": name, "KeyType": kind}));
    let attributes = keys.iter().map(|(name, _)| json!({"AttributeName": name, "AttributeType": "S"}));
    let request = json!({
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": schema.collect::<Vec<_>>(),
        "AttributeDefinitions": attributes.collect::<Vec<_>>(),
    });
    database.create_table(serde_json::from_str(&request.to_string()).expect("a request")).expect("a table");
}
