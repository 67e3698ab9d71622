//! What others hear of: the stream of `template.yaml`'s table, and the filter of docs/code/consumer/template.yaml.
//!
//! The records are a database's own, of what the function and an application write. The filter is evaluated by quamina.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, StreamSpecification, StreamViewType};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use quamina::Quamina;
use serde_json::{Value, json};

use crate::support::yaml::{list, parse, resource, string};
use crate::support::{Session, World, n, now, s};

/// A world whose table has the stream that `TableStream=true` gives it.
struct Stream {
    world: World,
    /// Not behind the proxy, which allows only what the function may do.
    client: Client,
    shard: Value,
    /// Records that were read before.
    read: usize,
}

impl Stream {
    async fn new() -> Self {
        let world = World::new().await;
        let endpoint = format!("http://{}", world.database.address);
        let client = Client::new(&world.sdk_config.to_builder().endpoint_url(endpoint).build());
        let specification = &resource("SessionsTable")["StreamSpecification"]["Fn::If"][1];
        let view = StreamViewType::from(string(&specification["StreamViewType"]));
        let specification = StreamSpecification::builder().stream_enabled(true).stream_view_type(view);
        let table = client
            .update_table()
            .table_name(&world.database.table)
            .stream_specification(specification.build().expect("a specification"))
            .send()
            .await
            .expect("a stream")
            .table_description
            .expect("a description");
        let arn = table.latest_stream_arn.expect("a stream");
        let mut stream = Self { world, client, shard: Value::Null, read: 0 };
        let description = stream.call("DescribeStream", &json!({"StreamArn": arn})).await;
        stream.shard = json!({
            "StreamArn": arn,
            "ShardId": description["StreamDescription"]["Shards"][0]["ShardId"],
            "ShardIteratorType": "TRIM_HORIZON",
        });
        stream
    }

    async fn call(&self, operation: &str, body: &Value) -> Value {
        let credential = "AWS4-HMAC-SHA256 Credential=local/20260101/eu-central-1/dynamodb/aws4_request, \
                          SignedHeaders=host, Signature=0";
        let request = Request::post(format!("http://{}/", self.world.database.address))
            .header("X-Amz-Target", format!("DynamoDBStreams_20120810.{operation}"))
            .header("Content-Type", "application/x-amz-json-1.0")
            .header("Authorization", credential)
            .header("X-Amz-Date", "20260101T000000Z")
            .body(Full::<Bytes>::from(body.to_string()))
            .expect("a request");
        let answer = HttpClient::builder(TokioExecutor::new()).build_http().request(request).await.expect("an answer");
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        assert!(status.is_success(), "{operation}: {body:?}");
        serde_json::from_slice(&body).expect("JSON")
    }

    /// The records since the last call.
    async fn records(&mut self) -> Vec<Value> {
        let iterator = self.call("GetShardIterator", &self.shard).await["ShardIterator"].clone();
        let records = self.call("GetRecords", &json!({"ShardIterator": iterator})).await["Records"].clone();
        let records = records.as_array().expect("records")[self.read..].to_vec();
        self.read += records.len();
        records
    }

    /// The one record since the last call.
    async fn record(&mut self) -> Value {
        let records = self.records().await;
        let [record] = &records[..] else { panic!("expected one record, not {records:#?}") };
        record.clone()
    }

    /// Changes attributes as an application does.
    async fn update(&self, session: &Session, expression: &str, values: &[(&str, AttributeValue)]) {
        let names = expression.contains("#status").then(|| [("#status".to_owned(), "status".to_owned())].into());
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        self.client
            .update_item()
            .table_name(&self.world.database.table)
            .key("token_hash", session.item["token_hash"].clone())
            .update_expression(expression)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values((values.len() > 0).then(|| values.collect()))
            .send()
            .await
            .expect("a write");
    }

    async fn revoke_as_application(&self, session: &Session) {
        let expression = "SET #status = :revoked, revoked_at = :now, revoked_by = session_id";
        self.update(session, expression, &[(":revoked", s("revoked")), (":now", n(now()))]).await;
    }
}

/// Whether Lambda would invoke the consumer with a record: one of its filters lets the record through.
fn is_let_through(record: &Value) -> bool {
    matches(record, str::to_owned)
}

/// Whether Lambda would invoke it if its filters were changed like this.
fn matches(record: &Value, change: impl Fn(&str) -> String) -> bool {
    let template = parse(include_str!("../../docs/code/consumer/template.yaml"));
    let mapping = &template["Resources"]["Consumer"]["Properties"]["Events"]["Revocations"]["Properties"];
    let mut filter = Quamina::new();
    for (number, criteria) in list(&mapping["FilterCriteria"]["Filters"]).enumerate() {
        filter.add_pattern(number, &change(string(&criteria["Pattern"]))).expect("a pattern");
    }
    filter.has_matches(record.to_string().as_bytes()).expect("an event")
}

/// As docs/signed-out-everywhere.md says, for those who want the application's sign-outs too.
fn without_revocation_id(pattern: &str) -> String {
    let changed = pattern.replace(r#", "revocation_id": {"S": [{"exists": true}]}"#, "");
    assert_ne!(changed, pattern);
    changed
}

#[tokio::test]
async fn a_revocation_is_let_through_whatever_the_status_was() {
    let mut stream = Stream::new().await;
    let caller = Session::of("alice", "caller");
    stream.world.database.put(std::slice::from_ref(&caller)).await;
    for (id, status) in [
        ("active", Some(s("active"))),
        ("other", Some(s("mfa_pending"))),
        ("none", None),
        ("number", Some(n(1))),
        ("null", Some(AttributeValue::Null(true))),
    ] {
        let session = Session::of("alice", id);
        let session = match status {
            Some(status) => session.with("status", status),
            None => session.without("status"),
        };
        stream.world.database.put(&[session]).await;
        stream.records().await;
        stream.world.press(&caller).await.assert_count(1);
        let record = stream.record().await;
        assert!(is_let_through(&record), "{id}: {record:#}");
        let revoked = &record["dynamodb"]["NewImage"];
        assert_eq!(revoked["session_id"], json!({"S": id}));
        assert_eq!(revoked["user_id"], json!({"S": "alice"}));
        assert_eq!(revoked["revoked_by"], json!({"S": "caller"}));
        assert!(revoked["revoked_at"]["N"].is_string() && revoked["revocation_id"]["S"].is_string(), "{revoked:#}");
    }
}

#[tokio::test]
async fn each_revoked_session_is_one_event_and_a_repeated_call_none() {
    let mut stream = Stream::new().await;
    let caller = Session::of("alice", "caller");
    let others: Vec<_> = (0..30).map(|number| Session::of("alice", &format!("other-{number}"))).collect();
    stream.world.database.put(std::slice::from_ref(&caller)).await;
    stream.world.database.put(&others).await;
    assert!(!stream.records().await.iter().any(is_let_through), "a creation");
    stream.world.press(&caller).await.assert_count(30);
    let records = stream.records().await;
    assert_eq!(records.len(), 30);
    assert!(records.iter().all(is_let_through));
    stream.world.press(&caller).await.assert_count(0);
    assert_eq!(stream.records().await, Vec::<Value>::new());
}

#[tokio::test]
async fn what_an_application_writes_is_not_let_through() {
    let mut stream = Stream::new().await;
    let caller = Session::of("alice", "caller");
    let other = Session::of("alice", "other");
    let ended = Session::of("alice", "ended");
    let database = stream.world.database.clone();
    database.put(std::slice::from_ref(&caller)).await;
    let mut refused = Vec::new();
    let created_revoked = Session::of("alice", "copy").with("status", s("revoked")).with("revocation_id", s("old"));
    database.put(&[created_revoked]).await;
    refused.push(("the creation of a revoked item, as a copy of a table makes it", stream.records().await.remove(1)));
    database.put(std::slice::from_ref(&other)).await;
    refused.push(("a sign-in", stream.record().await));
    stream.update(&other, "SET expires_at = :then", &[(":then", n(now() + 7_200))]).await;
    refused.push(("an extension", stream.record().await));
    database.put(std::slice::from_ref(&ended)).await;
    stream.records().await;
    stream.revoke_as_application(&ended).await;
    refused.push(("a sign-out, which has no revocation_id", stream.record().await));

    stream.world.press(&caller).await.assert_count(1);
    assert!(is_let_through(&stream.record().await));
    stream.update(&other, "SET last_seen = :now", &[(":now", n(now()))]).await;
    refused.push(("a change of a revoked item", stream.record().await));
    let item = other.clone().with("status", s("revoked")).with("revocation_id", s("1")).with("revoked_at", n(1));
    database.put(&[item]).await;
    refused.push(("a revoked item that is written again as a whole", stream.record().await));
    stream.update(&other, "SET #status = :active", &[(":active", s("active"))]).await;
    refused.push(("a revoked session that is made active again", stream.record().await));

    // It still has the revocation_id of its first revocation.
    stream.world.press(&caller).await.assert_count(1);
    assert!(is_let_through(&stream.record().await), "a session that is revoked for the second time");
    database.delete(&other).await;
    let deletion = stream.record().await;
    let mut expiry = deletion.clone();
    expiry["userIdentity"] = json!({"type": "Service", "principalId": "dynamodb.amazonaws.com"});
    refused.extend([("a deletion", deletion), ("a deletion by TTL", expiry)]);
    for (what, record) in refused {
        assert!(!is_let_through(&record), "{what}: {record:#}");
        let is_sign_out = what.starts_with("a sign-out");
        assert_eq!(matches(&record, without_revocation_id), is_sign_out, "{what}: {record:#}");
    }
}
