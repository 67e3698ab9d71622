//! The function, from a gateway's event to rows changed in a real DynamoDB API.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that does not find what it looks for should fail"
)]

mod authentication;
mod binary;
mod browsers;
mod events;
mod faults;
mod revocation;
mod routing;
mod support;
