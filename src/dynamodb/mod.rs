//! The sessions table in DynamoDB. The only modules, with `main`, that name the SDK.

pub mod client;
pub mod failure;
pub mod store;
