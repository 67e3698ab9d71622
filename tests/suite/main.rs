//! The function, from a gateway's event to rows changed in a real DynamoDB API.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that does not find what it expects should fail"
)]

mod authentication;
mod binary;
mod browsers;
mod cargo_lambda;
mod cli;
mod events;
mod faults;
mod hostile;
mod layout;
mod load;
mod openapi;
mod revocation;
mod routing;
mod snippets;
mod stream;
mod support;
mod template;
mod thaw;
