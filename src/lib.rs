//! `DELETE /auth/sessions` as an AWS Lambda function: signs a user out of all their other devices.
//!
//! The modules, from the top down. Each may use the modules below it, and none above it:
//!
//! | module | what it is |
//! |---|---|
//! | [`handler`] | the use case of one HTTP request: route, authenticate, revoke the other sessions, answer |
//! | [`revocation`] | the driver: carries out the steps of the schedule with the database |
//! | [`dynamodb`] | the sessions table, and all that names the SDK |
//! | [`log`] | the log line of an HTTP request; beside `dynamodb`, and neither uses the other |
//! | [`config`] | the environment, read once |
//! | [`http`] | what gateways and browsers send and get |
//! | [`rules`] | what a call does next and what it knows: no SDK, no I/O, no clock |
//! | [`session`] | tokens, sessions, ids |
//!
//! To read the code, begin with `main`, `handler` and `revocation`. Read [`rules`] before [`dynamodb`], which translates into the
//! types of [`rules::evidence`]. `.github/CONTRIBUTING.md` has the glossary.
//!
//! Invariants:
//!
//! - Only `dynamodb` names the SDK. Only `config` reads the environment, besides the SDK and the Lambda runtime. Only
//!   `http::response` chooses the status code of an answer.
//! - No credential, token hash or item data reaches a log, an error, a `Debug` or a panic, besides the public id of a session.
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
