//! `DELETE /auth/sessions` as an AWS Lambda function: signs a user out of all their other devices.
//!
//! The modules in the order in which a request passes through them, which is also the order to read them in:
//!
//! ```text
//! event -> credentials, origin -> caller -> index pages -> batches -> count or error -> response
//! ```
//!
//! | module | |
//! |---|---|
//! | [`handler`] | the use case: route, authenticate, revoke the other sessions, answer |
//! | [`event`] | a gateway's event, reduced to what is read of it |
//! | [`credentials`] | the token in the headers |
//! | [`origin`] | which web pages may call: CORS and CSRF |
//! | [`session`] | tokens, sessions and their ids |
//! | [`revocation`] | every other session revoked and counted: the driver |
//! | [`schedule`] | what a call does next |
//! | [`ledger`] | what a call knows of each session, on what evidence |
//! | [`budget`] | deadlines, time-outs, back-off |
//! | [`pace`] | how fast to write |
//! | [`store`] | DynamoDB: each operation once |
//! | [`failure`] | what an error means |
//! | [`response`] | the count, the errors, the envelope |
//! | [`record`] | a request's line in the log and its metrics |
//! | [`client`] | the connections to DynamoDB |
//! | [`config`], [`logging`] | the environment; the log |
//!
//! Invariants:
//!
//! - Only `store`, `failure` and `client` name the SDK, only `config` reads the environment, only `response` knows status codes.
//! - No credential, token hash or item data reaches a log, an error, a `Debug` or a panic.
//! - The caller's own session is in no write.
//! - The operation is safe to repeat. A session counts as revoked only on evidence: see [`ledger`].
//! - What the log counts never decides what happens.
//! - The handler's error type is `Infallible`: every error becomes an answer.

pub mod budget;
pub mod client;
pub mod config;
pub mod credentials;
pub mod event;
pub mod failure;
pub mod handler;
pub mod ledger;
pub mod logging;
pub mod origin;
pub mod pace;
pub mod record;
pub mod response;
pub mod revocation;
pub mod schedule;
pub mod session;
pub mod store;
