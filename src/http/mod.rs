//! What gateways and browsers send and get. Knows headers and status codes, and nothing of DynamoDB.

pub mod credentials;
pub mod event;
pub mod origin;
pub mod response;
