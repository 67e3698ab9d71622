use std::collections::HashMap;
use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue::{self, N, S};
use aws_sdk_dynamodb::types::{Put, TransactWriteItem, Update};
use sha2::{Digest, Sha256};

const LIFETIME: u64 = 30 * 24 * 3600;
const NEW_SESSION: &str = "attribute_not_exists(token_hash)";
const END_SESSION: &str = "SET #status = :revoked, revoked_at = :now, revoked_by = session_id";
const IF_ACTIVE: &str = "#status = :active";

type Item = HashMap<String, AttributeValue>;

pub struct Table {
    pub client: Client,
    pub name: String,
}

impl Table {
    /// The token of a new session. It is stored nowhere: give it to the device.
    pub async fn sign_in(&self, user_id: &str) -> Result<String, Box<dyn Error>> {
        let (token, mut session) = new_token()?;
        let now = now()?;
        session.extend([
            ("user_id".to_owned(), S(user_id.to_owned())),
            ("status".to_owned(), S("active".to_owned())),
            ("created_at".to_owned(), N(now.to_string())),
            ("authenticated_at".to_owned(), N(now.to_string())),
            ("expires_at".to_owned(), N((now + LIFETIME).to_string())),
        ]);
        let request = self.client.put_item().table_name(&self.name).set_item(Some(session));
        request.condition_expression(NEW_SESSION).send().await?;
        Ok(token)
    }

    /// The active session of a token.
    pub async fn check(&self, token: &str) -> Result<Option<Item>, Box<dyn Error>> {
        let request =
            self.client.get_item().table_name(&self.name).key("token_hash", hash(token)).consistent_read(true);
        let Some(session) = request.send().await?.item else { return Ok(None) };
        let is_active = matches!(session.get("status"), Some(S(status)) if status == "active");
        let expires_at = match session.get("expires_at") {
            Some(N(seconds)) => seconds.parse().unwrap_or(0),
            _ => 0,
        };
        Ok((is_active && expires_at > now()?).then_some(session))
    }

    pub async fn sign_out(&self, token: &str) -> Result<(), Box<dyn Error>> {
        let answer = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("token_hash", hash(token))
            .update_expression(END_SESSION)
            .condition_expression(IF_ACTIVE)
            .expression_attribute_names("#status", "status")
            .set_expression_attribute_values(Some(values()?))
            .send()
            .await;
        match answer.map_err(aws_sdk_dynamodb::Error::from) {
            // With the condition it was revoked before, or does not exist.
            Ok(_) | Err(aws_sdk_dynamodb::Error::ConditionalCheckFailedException(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A new token for the session; `None` if the session has ended. After an error the old token is still valid.
    pub async fn rotate(&self, token: &str) -> Result<Option<String>, Box<dyn Error>> {
        let Some(mut session) = self.check(token).await? else { return Ok(None) };
        let (new_token, changes) = new_token()?;
        session.extend(changes);
        let end = Update::builder()
            .table_name(&self.name)
            .key("token_hash", hash(token))
            .update_expression(END_SESSION)
            .condition_expression(IF_ACTIVE)
            .expression_attribute_names("#status", "status")
            .set_expression_attribute_values(Some(values()?))
            .build()?;
        let create =
            Put::builder().table_name(&self.name).set_item(Some(session)).condition_expression(NEW_SESSION).build()?;
        let answer = self
            .client
            .transact_write_items()
            .transact_items(TransactWriteItem::builder().update(end).build())
            .transact_items(TransactWriteItem::builder().put(create).build())
            .send()
            .await;
        match answer.map_err(aws_sdk_dynamodb::Error::from) {
            Ok(_) => Ok(Some(new_token)),
            Err(aws_sdk_dynamodb::Error::TransactionCanceledException(canceled))
                if canceled
                    .cancellation_reasons()
                    .iter()
                    .all(|reason| matches!(reason.code(), Some("None" | "ConditionalCheckFailed"))) =>
            {
                // It was revoked after the check.
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A token, and the attributes of a session that depend on it.
fn new_token() -> Result<(String, Item), Box<dyn Error>> {
    let (token, session_id) = (random::<32>()?, random::<16>()?);
    let attributes = Item::from([("token_hash".to_owned(), hash(&token)), ("session_id".to_owned(), S(session_id))]);
    Ok((token, attributes))
}

fn values() -> Result<Item, Box<dyn Error>> {
    Ok(Item::from([
        (":active".to_owned(), S("active".to_owned())),
        (":revoked".to_owned(), S("revoked".to_owned())),
        (":now".to_owned(), N(now()?.to_string())),
    ]))
}

fn hash(token: &str) -> AttributeValue {
    S(hex::encode(Sha256::digest(token)))
}

fn random<const BYTES: usize>() -> Result<String, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

fn now() -> Result<u64, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}
