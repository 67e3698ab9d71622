//! DynamoDB: an embedded implementation of its API, and what that does not show by itself. The index is a table of its own,
//! written a little later than the table, as in DynamoDB; a partition of it takes only so many writes a second; TTL runs when the
//! trial says so.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use dynoxide::errors::DynoxideError;
use dynoxide::storage_backend::Clock;
use dynoxide::{Database, ImportOptions};
use fastrand::Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::faults::PERMANENT;
use crate::history::{Actor, Change, History, Item, Moment, s, text};
use crate::plan::{Behaviour, Lag, Trouble};
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
    /// What the index holds, and whether it is shown as revoked.
    entries: BTreeMap<(String, String), bool>,
    /// Sessions whose statements never get a plain answer.
    pub troubles: BTreeMap<String, Trouble>,
    /// Cells of damage that answers have had.
    pub damaged: Vec<usize>,
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
            entries: BTreeMap::new(),
            troubles: BTreeMap::new(),
            damaged: Vec::new(),
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
            "BatchGetItem" => self.shuffled(reply(self.call(body, Database::batch_get_item))),
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

    /// DynamoDB promises no order for the items of a batch.
    fn shuffled(&self, mut reply: Reply) -> Reply {
        if let Some(items) = reply.body["Responses"][TABLE].as_array_mut() {
            Rng::with_seed(self.seed ^ self.moment).shuffle(items);
        }
        reply
    }

    /// The sessions of a user that the index holds and does not show as revoked.
    pub fn held(&self, user: &str) -> Vec<String> {
        let from = (user.to_owned(), String::new());
        let of_user = self.entries.range(from..).take_while(|((owner, _), _)| owner == user);
        of_user.filter(|(_, revoked)| !**revoked).map(|((_, hash), _)| hash.clone()).collect()
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

    /// A batch, of which a part may be throttled by the partitions of the index, or be in trouble.
    fn batch(&mut self, body: &Value, by: Actor, now: u64) -> Reply {
        let statements = body["Statements"].as_array().cloned().unwrap_or_default();
        let hashes: Vec<_> = statements.iter().map(|statement| self.named(statement)).collect();
        let troubles: Vec<_> = hashes.iter().map(|hash| self.troubles.get(hash.as_ref()?).copied()).collect();
        let mut errors = Vec::new();
        for (hash, trouble) in hashes.iter().zip(&troubles) {
            let error = trouble.and_then(code_without_effect);
            errors.push(error.or_else(|| {
                let has_room = self.has_room(hash.as_deref(), now);
                self.throttled += u64::from(!has_room);
                (!has_room).then_some("ThrottlingError")
            }));
        }
        let passed = statements.iter().zip(&errors).filter(|(_, error)| error.is_none());
        let passed: Vec<_> = passed.map(|(statement, _)| statement.clone()).collect();
        self.carried_out += passed.len() as u64;
        let mut responses = Vec::new();
        if !passed.is_empty() {
            let answer = reply(self.call(&json!({"Statements": passed}), Database::batch_execute_statement));
            if answer.status != 200 {
                return answer;
            }
            responses.clone_from(answer.body["Responses"].as_array().expect("responses"));
        }
        for (place, error) in errors.iter().enumerate() {
            if let Some(error) = error {
                responses.insert(place, statement_error(error));
            }
        }
        let changed = hashes.iter().zip(&responses).filter(|(_, response)| response.get("Error").is_none());
        let changed: Vec<_> = changed.filter_map(|(hash, _)| hash.clone()).collect();
        self.record_as_they_are(&changed, by, now);
        for (response, trouble) in responses.iter_mut().zip(troubles) {
            if trouble == Some(Trouble::UnknownAfter) && response.get("Error").is_none() {
                *response = statement_error("SomethingNew");
            }
        }
        Reply { status: 200, body: json!({"Responses": responses}) }
    }

    /// The session that a statement names.
    pub fn named(&self, statement: &Value) -> Option<String> {
        let parameters = statement["Parameters"].as_array()?;
        let named = parameters.iter().filter_map(|parameter| parameter["S"].as_str());
        named.map(str::to_owned).find(|value| self.history.knows(value))
    }

    /// The sessions that a batch names.
    pub fn all_named(&self, body: &Value) -> Vec<String> {
        body["Statements"].as_array().into_iter().flatten().filter_map(|statement| self.named(statement)).collect()
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
        let arrives = now + self.lag();
        self.record_and_send(hash, item, by, now, arrives);
    }

    fn record_and_send(&mut self, hash: &str, item: Option<Item>, by: Actor, now: u64, arrives: u64) {
        let moment = self.moment();
        let user_of = |item: Option<&Item>| item.and_then(|item| text(item, "user_id")).map(str::to_owned);
        let before = user_of(self.history.item(hash));
        let after = user_of(item.as_ref());
        if let Some(user) = before.filter(|user| Some(user) != after.as_ref()) {
            self.send_to_index(user, hash, None, arrives);
        }
        if let Some(user) = after {
            self.send_to_index(user, hash, item.as_ref().map(projected), arrives);
        }
        self.history.record(hash, Change { moment, at: now, by, item });
    }

    /// How late a change arrives in the index, in milliseconds.
    fn lag(&mut self) -> u64 {
        let moment = self.moment();
        lag(self.behaviour.lag, &mut Rng::with_seed(self.seed ^ moment.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    fn send_to_index(&mut self, user: String, hash: &str, item: Option<Item>, arrives: u64) {
        let moment = self.moment();
        let key = (user, hash.to_owned());
        let latest = self.latest.entry(key.clone()).or_default();
        *latest = (*latest).max(arrives);
        self.on_their_way.insert((*latest, moment), Entry { user: key.0, hash: key.1, item });
    }

    /// Ends one session and begins another in one transaction. The index shows both changes at once, and not before it shows
    /// those of earlier rotations.
    pub fn rotate(&mut self, old: &str, ended: Option<Item>, new: &Item, now: u64) {
        match &ended {
            Some(item) => drop(self.call(&json!({"TableName": TABLE, "Item": item}), Database::put_item)),
            None => self.delete(TABLE, &json!({"token_hash": s(old)})),
        }
        self.call(&json!({"TableName": TABLE, "Item": new}), Database::put_item).expect("the item to be written");
        let user = text(new, "user_id").expect("an owner").to_owned();
        let earlier = self.latest.get(&(user, old.to_owned())).copied().unwrap_or_default();
        let arrives = earlier.max(now + self.lag().min(1_000));
        self.record_and_send(old, ended, Actor::Others, now, arrives);
        let hash = text(new, "token_hash").expect("a key").to_owned();
        self.record_and_send(&hash, Some(new.clone()), Actor::Others, now, arrives);
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
                self.entries.insert(key, is_revoked(&item));
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
            self.entries.insert((user, hash.clone()), is_revoked(&item));
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
        let entries: Vec<_> =
            entries.map(|((user, hash), _)| json!({"user_id": s(user), "token_hash": s(hash)})).collect();
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

fn is_revoked(item: &Item) -> bool {
    text(item, "status") == Some("revoked")
}

/// What is answered to a statement that is not carried out because of its session.
fn code_without_effect(trouble: Trouble) -> Option<&'static str> {
    match trouble {
        Trouble::Refused(which) => Some(PERMANENT[usize::from(which) % 3]),
        Trouble::Conflict => Some("TransactionConflict"),
        Trouble::Throttled => Some("ThrottlingError"),
        Trouble::Unknown => Some("SomethingNew"),
        Trouble::UnknownAfter => None,
    }
}

/// What the index shows of an item.
fn projected(item: &Item) -> Item {
    let shown = |(name, _): &(&String, &Value)| ["token_hash", "user_id", "status"].contains(&name.as_str());
    item.iter().filter(shown).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A failed statement of a batch; without a code if it is empty.
pub fn statement_error(code: &str) -> Value {
    if code.is_empty() {
        return json!({"Error": {"Message": "canary-message"}, "TableName": TABLE});
    }
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
        Lag::Exactly(lag) => lag,
        Lag::UpToASecond if rng.u8(0..4) == 0 => rng.u64(0..=1_000),
        Lag::Usual | Lag::UpToASecond => usual(rng),
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
