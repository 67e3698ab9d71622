//! What gateways and browsers send and get: headers and status codes, and nothing of DynamoDB. Read `event`, `credentials`,
//! `origin` and `response`.

pub mod credentials;
pub mod event;
pub mod origin;
pub mod response;
