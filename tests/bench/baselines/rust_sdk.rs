//! The function as one would write it with the AWS SDK and its default settings: with `WRITES=update` one `UpdateItem` a
//! session, fifty at once; with `WRITES=transact` `TransactWriteItems` of up to a hundred, ten at once.

use std::collections::HashMap;
use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_config::BehaviorVersion;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem, Update};
use futures::stream::{self, StreamExt, TryStreamExt};
use lambda_http::{Body, Error, Request, RequestExt, Response, run, service_fn};
use serde_json::json;
use sha2::{Digest, Sha256};

const UPDATE: &str = "SET #status = :revoked, revoked_at = :at, revoked_by = :by, revocation_id = :id";
const CONDITION: &str = "user_id = :user AND #status <> :revoked";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = Client::new(&aws_config::load_defaults(BehaviorVersion::latest()).await);
    let table = env::var("SESSIONS_TABLE")?;
    let transact = env::var("WRITES")? == "transact";
    run(service_fn(|request| revoke_others(&client, &table, transact, request))).await
}

async fn revoke_others(
    client: &Client,
    table: &str,
    transact: bool,
    request: Request,
) -> Result<Response<Body>, Error> {
    let Some(token) = request.headers().get("x-session-token") else { return answer(401, &json!({})) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let token_hash = hex::encode(Sha256::digest(token.as_bytes()));
    let caller = client
        .get_item()
        .table_name(table)
        .key("token_hash", AttributeValue::S(token_hash.clone()))
        .consistent_read(true)
        .send()
        .await?
        .item
        .filter(|session| is_active(session, now));
    let Some(caller) = caller else { return answer(401, &json!({})) };

    let mut others = Vec::new();
    let mut pages = client
        .query()
        .table_name(table)
        .index_name("user_id-index")
        .key_condition_expression("user_id = :user")
        .filter_expression("#status <> :revoked")
        .expression_attribute_names("#status", "status")
        .expression_attribute_values(":user", caller["user_id"].clone())
        .expression_attribute_values(":revoked", AttributeValue::S("revoked".into()))
        .into_paginator()
        .items()
        .send();
    while let Some(session) = pages.try_next().await? {
        if session["token_hash"].as_s().is_ok_and(|other| *other != token_hash) {
            others.push(session["token_hash"].clone());
        }
    }

    let values = HashMap::from([
        (":revoked".to_owned(), AttributeValue::S("revoked".into())),
        (":at".to_owned(), AttributeValue::N(now.to_string())),
        (":by".to_owned(), caller["session_id"].clone()),
        (":id".to_owned(), AttributeValue::S(request.lambda_context().request_id)),
        (":user".to_owned(), caller["user_id"].clone()),
    ]);
    let count = if transact {
        let chunks: Vec<_> = others.chunks(100).map(<[_]>::to_vec).collect();
        let writes = chunks.into_iter().map(|chunk| transaction(client, table, chunk, &values));
        stream::iter(writes).buffer_unordered(10).try_fold(0, async |sum, changed| Ok(sum + changed)).await?
    } else {
        let writes = others.into_iter().map(|session| update(client, table, session, &values));
        stream::iter(writes).buffer_unordered(50).try_fold(0, async |sum, changed| Ok(sum + changed)).await?
    };
    answer(200, &json!({"count": count}))
}

async fn update(
    client: &Client,
    table: &str,
    token_hash: AttributeValue,
    values: &HashMap<String, AttributeValue>,
) -> Result<usize, Error> {
    let result = client
        .update_item()
        .table_name(table)
        .key("token_hash", token_hash)
        .update_expression(UPDATE)
        .condition_expression(CONDITION)
        .expression_attribute_names("#status", "status")
        .set_expression_attribute_values(Some(values.clone()))
        .send()
        .await;
    match result {
        Ok(_) => Ok(1),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_conditional_check_failed_exception()) => {
            Ok(0)
        }
        Err(error) => Err(error.into()),
    }
}

async fn transaction(
    client: &Client,
    table: &str,
    token_hashes: Vec<AttributeValue>,
    values: &HashMap<String, AttributeValue>,
) -> Result<usize, Error> {
    let count = token_hashes.len();
    let mut request = client.transact_write_items();
    for token_hash in token_hashes {
        let update = Update::builder()
            .table_name(table)
            .key("token_hash", token_hash)
            .update_expression(UPDATE)
            .condition_expression(CONDITION)
            .expression_attribute_names("#status", "status")
            .set_expression_attribute_values(Some(values.clone()))
            .build()?;
        request = request.transact_items(TransactWriteItem::builder().update(update).build());
    }
    request.send().await?;
    Ok(count)
}

fn is_active(session: &HashMap<String, AttributeValue>, now: u64) -> bool {
    let is = |name, wanted: fn(&AttributeValue) -> Option<&String>| session.get(name).and_then(wanted);
    is("status", |value| value.as_s().ok()).is_some_and(|status| status == "active")
        && is("expires_at", |value| value.as_n().ok()).is_some_and(|at| at.parse().is_ok_and(|at: u64| at > now))
}

fn answer(status: u16, body: &serde_json::Value) -> Result<Response<Body>, Error> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(body.to_string().into())?)
}
