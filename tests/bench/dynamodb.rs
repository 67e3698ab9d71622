//! DynamoDB as the function sees it: an embedded one behind TLS, that answers no sooner than after the latency asked for
//! and counts what it is asked. It can also lose the answers to writes.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dynoxide::{AttributeValue, Database, DynoxideError, ImportOptions, Item};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::time::ClockId;
use saphyr::{LoadableYamlNode, Yaml};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
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

/// How long an empty page takes, while the answers to writes are being lost.
const EMPTY_PAGE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    latency_micros: AtomicU64,
    work: Mutex<Work>,
    /// While answers to writes are lost: until when pages of the index are empty.
    loses_answers: Mutex<Option<Instant>>,
}

/// What the database was asked to do.
#[derive(Default)]
pub struct Work {
    pub requests: Requests,
    /// CPU that it took for it.
    pub cpu: Duration,
    /// New connections.
    pub connections: u64,
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

    /// From now on writes are applied and never answered. Until `empty_until` every page of the index is empty and is not
    /// the last one, which DynamoDB may do whenever it filters, so that the writes begin then.
    pub fn lose_answers(&self, empty_until: Instant) {
        *self.loses_answers() = Some(empty_until);
    }

    /// From now on everything is answered.
    pub fn answer_again(&self) {
        *self.loses_answers() = None;
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

    fn loses_answers(&self) -> MutexGuard<'_, Option<Instant>> {
        self.state.loses_answers.lock().expect("a lock")
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
        self.state.work.lock().expect("a lock").connections += 1;
        let service = service_fn(|request| self.respond(request));
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
        let operation = target.unwrap_or_default().trim_start_matches("DynamoDB_20120810.").to_owned();
        let Ok(body) = request.into_body().collect().await else { return Ok(Response::default()) };
        let body = body.to_bytes();
        let empty_until = *self.loses_answers();
        if operation == "Query" && empty_until.is_some_and(|until| Instant::now() < until) {
            sleep(EMPTY_PAGE).await;
            return Ok(respond_with(200, empty_page(&body)));
        }
        let is_lost = empty_until.is_some() && operation == "BatchExecuteStatement";
        let (database, latency, state) = (self.database.clone(), self.latency(), Arc::clone(&self.state));
        // On threads of their own, since the runtime's timers know whole milliseconds only.
        let work = spawn_blocking(move || {
            thread::sleep(latency);
            let begin = cpu();
            let answer = dispatch(&database, &operation, &body);
            let mut work = state.work.lock().expect("a lock");
            work.cpu += cpu().saturating_sub(begin);
            *work.requests.entry(operation).or_default() += 1;
            answer
        });
        let (status, body) = match work.await.expect("an answer") {
            Ok(body) => (200, body),
            Err(error) => (error.status_code(), error.to_json()),
        };
        if is_lost {
            std::future::pending::<()>().await;
        }
        Ok(respond_with(status, body))
    }
}

fn respond_with(status: u16, body: String) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("Content-Type", "application/x-amz-json-1.0");
    response.body(Full::new(Bytes::from(body))).expect("a response")
}

/// The answer to a `Query` whose page holds nothing and is not the last one: the next begins before the first entry.
fn empty_page(query: &[u8]) -> String {
    let query: Value = serde_json::from_slice(query).unwrap_or_default();
    let next = json!({"user_id": query["ExpressionAttributeValues"][":user"], "token_hash": {"S": "0"}});
    json!({"Items": [], "Count": 0, "ScannedCount": 0, "LastEvaluatedKey": next}).to_string()
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

/// Of this thread, without waiting for others.
fn cpu() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).unwrap_or_default()
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
    let invalid = |error: serde_json::Error| DynoxideError::ValidationException(error.to_string());
    let answer = operation(serde_json::from_slice(body).map_err(invalid)?)?;
    serde_json::to_string(&answer).map_err(invalid)
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
    let template = Yaml::load_from_str(include_str!("../../template.yaml")).expect("template.yaml to be YAML");
    let properties = json_of(&template[0]["Resources"]["SessionsTable"]["Properties"]);
    let wanted = ["BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes"];
    let mut request: HashMap<_, _> = wanted.map(|name| (name, properties[name].clone())).into();
    request.insert("TableName", json!(TABLE));
    parse(&json!(request))
}

fn json_of(yaml: &Yaml) -> Value {
    if let Some(mapping) = yaml.as_mapping() {
        mapping.iter().filter_map(|(key, value)| Some((key.as_str()?.to_owned(), json_of(value)))).collect()
    } else if let Some(list) = yaml.as_vec() {
        list.iter().map(json_of).collect()
    } else {
        yaml.as_str().map_or(Value::Null, |text| json!(text))
    }
}

fn parse<T: DeserializeOwned>(request: &Value) -> T {
    serde_json::from_value(request.clone()).expect("a valid request")
}
