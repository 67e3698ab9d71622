//! `DELETE /auth/sessions` as an AWS Lambda function: signs a user out of all their other devices.
//!
//! The modules, from the top down. Each may use those below it, never one above it:
//!
//! | module | |
//! |---|---|
//! | [`handler`] | the use case of one request: route, authenticate, revoke the other sessions, answer |
//! | [`revocation`] | the driver: does what the schedule says, with the database |
//! | [`dynamodb`], [`log`] | the table, and all that names the SDK; what a request leaves in the log |
//! | [`config`] | the environment, read once |
//! | [`http`] | what gateways and browsers send and get |
//! | [`rules`] | what a call does next and what it knows: no SDK, no I/O, no clock |
//! | [`session`] | tokens, sessions, ids |
//!
//! Invariants:
//!
//! - Only `dynamodb` names the SDK, only `config` reads the environment, only `http::response` knows status codes.
//! - No credential, token hash or item data reaches a log, an error, a `Debug` or a panic.
//! - The caller's own session is in no write.
//! - The operation is safe to repeat. A session counts as revoked only on evidence: see [`rules::ledger`].
//! - What the log counts never decides what happens.
//! - The handler's error type is `Infallible`: every error becomes an answer.

pub mod config;
pub mod dynamodb;
pub mod handler;
pub mod http;
pub mod log;
pub mod revocation;
pub mod rules;
pub mod session;
