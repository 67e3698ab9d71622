use std::collections::HashMap;
use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue::{self, N, S};
use sha2::{Digest, Sha256};

const LIFETIME: u64 = 30 * 24 * 3600;

pub struct Table {
    pub client: Client,
    pub name: String,
}

impl Table {
    /// The token of a new session. It is nowhere else: hand it to the device.
    pub async fn sign_in(&self, user_id: &str) -> Result<String, Box<dyn Error>> {
        let (token, session_id) = (random::<32>()?, random::<16>()?);
        let now = now()?;
        self.client
            .put_item()
            .table_name(&self.name)
            .item("token_hash", hash(&token))
            .item("session_id", S(session_id))
            .item("user_id", S(user_id.to_owned()))
            .item("status", S("active".to_owned()))
            .item("created_at", N(now.to_string()))
            .item("authenticated_at", N(now.to_string()))
            .item("expires_at", N((now + LIFETIME).to_string()))
            .condition_expression("attribute_not_exists(token_hash)")
            .send()
            .await?;
        Ok(token)
    }

    /// The active session of a token.
    pub async fn check(&self, token: &str) -> Result<Option<HashMap<String, AttributeValue>>, Box<dyn Error>> {
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
            .update_expression("SET #status = :revoked, revoked_at = :now, revoked_by = session_id")
            .condition_expression("#status = :active")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":active", S("active".to_owned()))
            .expression_attribute_values(":revoked", S("revoked".to_owned()))
            .expression_attribute_values(":now", N(now()?.to_string()))
            .send()
            .await;
        match answer.map_err(aws_sdk_dynamodb::Error::from) {
            // With the condition it is revoked already, or gone.
            Ok(_) | Err(aws_sdk_dynamodb::Error::ConditionalCheckFailedException(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
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
