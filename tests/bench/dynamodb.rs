//! DynamoDB as the function sees it: an embedded one behind TLS, that answers no sooner than after the latency asked for
//! and counts what it is asked. It can also throttle the writes of a user as DynamoDB does.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dynoxide::errors::CancellationReason;
use dynoxide::{AttributeValue, Database, DynoxideError, ImportOptions, Item};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use test_support::yaml::resource;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

pub const TABLE: &str = "sessions";
const INDEX: &str = "user_id-index";

/// Requests by operation.
pub type Requests = BTreeMap<String, u64>;

#[derive(Clone)]
pub struct DynamoDb {
    /// `https://localhost:…`
    pub endpoint: String,
    database: Database,
    state: Arc<State>,
}

/// Files that say whom to trust.
pub struct Trust {
    /// The bench's authority.
    pub authority: PathBuf,
    /// The same after those that the machine trusts: to read them is part of a cold start.
    pub bundle: PathBuf,
}

impl Trust {
    /// In this folder, as absolute paths because each SDK resolves others in its own way.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let folder = folder.canonicalize()?;
        Ok(Self { authority: folder.join("authority.pem"), bundle: folder.join("authorities.pem") })
    }
}

/// Write units that one partition of an index takes in a second. All sessions of a user are in one partition.
///
/// Source: "Best practices for designing and using partition keys effectively" in the Amazon DynamoDB Developer Guide.
const UNITS_A_SECOND: f64 = 1_000.0;
/// Unused units that a partition keeps, here those of a second. DynamoDB may keep more, and promises none.
const BURST: f64 = 1_000.0;
/// Write units of a write in a transaction. Another takes one.
const UNITS_IN_A_TRANSACTION: f64 = 2.0;

#[derive(Default)]
struct State {
    latency_micros: AtomicU64,
    work: Mutex<Work>,
    /// The partition of the index that takes all writes, if it has a limit.
    partition: Mutex<Option<Partition>>,
}

/// Write units that the partition of the index has left, and when they were counted.
struct Partition {
    units: f64,
    since: Instant,
}

/// What the database was asked to do.
#[derive(Default)]
pub struct Work {
    pub requests: Requests,
    /// Write units in the index, while it has a limit: of what was carried out, not of what was throttled.
    pub units: f64,
}

impl DynamoDb {
    /// Starts one with an empty table, and writes whom to trust.
    pub async fn start(trust: &Trust) -> Self {
        let database = Database::memory().expect("a database in memory");
        database.create_table(table()).expect("the table to be created");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
        let tls = TlsAcceptor::from(Arc::new(tls(trust)));
        let dynamodb = Self { endpoint, database, state: Arc::default() };
        let server = dynamodb.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(server.clone().serve(tls.clone(), stream));
            }
        });
        dynamodb
    }

    /// From now on each request takes this much longer, and a new connection twice this: a round trip for TCP, one for TLS.
    pub fn delay(&self, latency: Duration) {
        self.state.latency_micros.store(latency.as_micros() as u64, Ordering::Relaxed);
    }

    /// From now on the partition of the index has the limit that it has in DynamoDB, and all of its burst; or no limit.
    pub fn limit(&self, is_limited: bool) {
        let full = Partition { units: BURST, since: Instant::now() };
        *self.state.partition.lock().expect("a lock") = is_limited.then_some(full);
    }

    /// What was asked since the last time.
    pub fn take_work(&self) -> Work {
        std::mem::take(&mut self.state.work.lock().expect("a lock"))
    }

    /// Gives the user of this size a caller and so many other sessions, all of them active. See [`token`].
    pub fn reset(&self, others: usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let items = (0..=others).map(|index| {
            let token_hash = hex::encode(Sha256::digest(token(others, index)));
            Item::from([
                ("token_hash".to_owned(), AttributeValue::S(token_hash)),
                ("session_id".to_owned(), AttributeValue::S(session_id(others, index))),
                ("user_id".to_owned(), AttributeValue::S(user(others))),
                ("status".to_owned(), AttributeValue::S("active".to_owned())),
                ("created_at".to_owned(), AttributeValue::N((now - 60).to_string())),
                ("expires_at".to_owned(), AttributeValue::N((now + 86_400).to_string())),
            ])
        });
        self.database.import_items(TABLE, items.collect(), ImportOptions::default()).expect("sessions to be written");
    }

    /// How many sessions of the user of this size are revoked, and by the caller.
    pub fn revoked(&self, others: usize) -> usize {
        let mut request = json!({
            "TableName": TABLE, "IndexName": INDEX, "KeyConditionExpression": "user_id = :user",
            "FilterExpression": "#status = :revoked", "ExpressionAttributeNames": {"#status": "status"},
            "ExpressionAttributeValues": {":user": {"S": user(others)}, ":revoked": {"S": "revoked"}},
            "Select": "COUNT",
        });
        let mut sum = 0;
        loop {
            let page = self.database.query(parse(&request)).expect("a query");
            let page = serde_json::to_value(page).expect("JSON");
            sum += page["Count"].as_u64().expect("a count") as usize;
            if page["LastEvaluatedKey"].is_null() {
                return sum;
            }
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"].clone();
        }
    }

    fn latency(&self) -> Duration {
        Duration::from_micros(self.state.latency_micros.load(Ordering::Relaxed))
    }

    async fn serve(self, tls: TlsAcceptor, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let handshake = 2 * self.latency();
        if !handshake.is_zero() {
            sleep(handshake).await;
        }
        let Ok(stream) = tls.accept(stream).await else { return };
        let service = service_fn(|request| self.respond(request));
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
        let operation = target.unwrap_or_default().trim_start_matches("DynamoDB_20120810.").to_owned();
        let Ok(body) = request.into_body().collect().await else { return Ok(Response::default()) };
        let body = body.to_bytes();
        let (dynamodb, latency) = (self.clone(), self.latency());
        // On threads of their own, since the runtime's timers know whole milliseconds only.
        let work = spawn_blocking(move || {
            thread::sleep(latency);
            let answer = dynamodb.carry_out(&operation, &body);
            let mut work = dynamodb.state.work.lock().expect("a lock");
            *work.requests.entry(operation).or_default() += 1;
            answer
        });
        Ok(match work.await.expect("an answer") {
            Ok(body) => respond_with(200, body),
            Err(error) => respond_with(error.status_code(), error.to_json()),
        })
    }

    /// Carries a request out, as far as the partition has room for its writes.
    fn carry_out(&self, operation: &str, body: &[u8]) -> Result<String, DynoxideError> {
        if self.state.partition.lock().expect("a lock").is_none() {
            return dispatch(&self.database, operation, body);
        }
        match operation {
            "BatchExecuteStatement" => self.batch(body),
            "UpdateItem" if !self.takes(1.0) => {
                Err(DynoxideError::ProvisionedThroughputExceededException(THROTTLED.into()))
            }
            "TransactWriteItems" => {
                let request: Value = parse_bytes(body)?;
                let writes = request["TransactItems"].as_array().map_or(0, Vec::len);
                if self.takes(UNITS_IN_A_TRANSACTION * writes as f64) {
                    return dispatch(&self.database, operation, body);
                }
                let reason = CancellationReason { code: "ThrottlingError".to_owned(), message: None, item: None };
                Err(DynoxideError::TransactionCanceledException(THROTTLED.into(), vec![reason; writes]))
            }
            _ => dispatch(&self.database, operation, body),
        }
    }

    /// Carries out the statements for which there is room, and answers the others with an error.
    fn batch(&self, body: &[u8]) -> Result<String, DynoxideError> {
        let mut request: Value = parse_bytes(body)?;
        let statements = request["Statements"].as_array().cloned().unwrap_or_default();
        let has_room: Vec<_> = statements.iter().map(|_| self.takes(1.0)).collect();
        let passed = statements.into_iter().zip(&has_room).filter(|(_, has_room)| **has_room);
        request["Statements"] = passed.map(|(statement, _)| statement).collect();
        let mut answer = json!({"Responses": []});
        if has_room.contains(&true) {
            let text = dispatch(&self.database, "BatchExecuteStatement", request.to_string().as_bytes())?;
            answer = parse_bytes(text.as_bytes())?;
        }
        let responses = answer["Responses"].as_array_mut().expect("responses");
        for (place, _) in has_room.iter().enumerate().filter(|(_, has_room)| !**has_room) {
            responses
                .insert(place, json!({"Error": {"Code": "ThrottlingError", "Message": THROTTLED}, "TableName": TABLE}));
        }
        Ok(answer.to_string())
    }

    /// Whether the partition takes so many write units now, all or none.
    fn takes(&self, units: f64) -> bool {
        let mut partition = self.state.partition.lock().expect("a lock");
        let Some(Partition { units: left, since }) = partition.as_mut() else { return true };
        *left = (*left + since.elapsed().as_secs_f64() * UNITS_A_SECOND).min(BURST);
        *since = Instant::now();
        let has_room = *left >= units;
        if has_room {
            *left -= units;
            self.state.work.lock().expect("a lock").units += units;
        }
        has_room
    }
}

/// The message of each error of a throttled write, which only a person reads.
const THROTTLED: &str = "Throughput exceeds the limit of a partition of the index";

fn respond_with(status: u16, body: String) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("Content-Type", "application/x-amz-json-1.0");
    response.body(Full::new(Bytes::from(body))).expect("a response")
}

/// The token of a user's session; the caller's is number 0.
pub fn token(others: usize, index: usize) -> String {
    format!("token-of-{}", session_id(others, index))
}

fn session_id(others: usize, index: usize) -> String {
    format!("{}-session-{index}", user(others))
}

fn user(others: usize) -> String {
    format!("user-with-{others}-others")
}

async fn sleep(duration: Duration) {
    spawn_blocking(move || thread::sleep(duration)).await.expect("a sleep");
}

fn dispatch(database: &Database, operation: &str, body: &[u8]) -> Result<String, DynoxideError> {
    match operation {
        "GetItem" => run(body, |request| database.get_item(request)),
        "Query" => run(body, |request| database.query(request)),
        "UpdateItem" => run(body, |request| database.update_item(request)),
        "BatchGetItem" => run(body, |request| database.batch_get_item(request)),
        "BatchExecuteStatement" => run(body, |request| database.batch_execute_statement(request)),
        "TransactWriteItems" => run(body, |request| database.transact_write_items(request)),
        "DescribeTable" => run(body, |request| database.describe_table(request)),
        _ => Err(DynoxideError::ValidationException(format!("the bench knows no {operation}"))),
    }
}

fn run<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    operation: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<String, DynoxideError> {
    let answer = operation(parse_bytes(body)?)?;
    serde_json::to_string(&answer).map_err(|error| DynoxideError::ValidationException(error.to_string()))
}

fn parse_bytes<T: DeserializeOwned>(body: &[u8]) -> Result<T, DynoxideError> {
    serde_json::from_slice(body).map_err(|error| DynoxideError::ValidationException(error.to_string()))
}

/// A certificate for `localhost`, signed by an authority of its own.
fn tls(trust: &Trust) -> ServerConfig {
    let mut ca = rcgen::CertificateParams::new([]).expect("parameters");
    ca.distinguished_name.push(rcgen::DnType::CommonName, "bench authority");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let authority = ca.self_signed(&ca_key).expect("a certificate");
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut leaf = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("parameters");
    leaf.use_authority_key_identifier_extension = true;
    let certificate = leaf.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).expect("a certificate");
    let system = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
    let mut bundle = system.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    bundle.push_str(&authority.pem());
    fs::write(&trust.bundle, bundle).expect("a writable file");
    fs::write(&trust.authority, authority.pem()).expect("a writable file");
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .expect("a usable certificate")
}

/// The table of `template.yaml`.
fn table<T: DeserializeOwned>() -> T {
    let properties = resource("SessionsTable");
    let wanted = ["BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes"];
    let mut request: HashMap<_, _> = wanted.map(|name| (name, properties[name].clone())).into();
    request.insert("TableName", json!(TABLE));
    parse(&json!(request))
}

fn parse<T: DeserializeOwned>(request: &Value) -> T {
    serde_json::from_value(request.clone()).expect("a valid request")
}
