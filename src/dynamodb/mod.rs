//! The sessions table in DynamoDB. No other module names the SDK. `store` says what is requested, `client` how it is sent, and
//! `failure` what an error means.

pub mod client;
pub mod failure;
pub mod store;
