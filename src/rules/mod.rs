//! What a call does next, and what it knows. Plain data: no SDK, no I/O, no clock; the time is a parameter. The rules import
//! nothing but `session`, `std` and tokio's `Instant`.
//!
//! Read `evidence`, `limits`, `budget`, `pace`, `ledger`, `looks` and last `schedule`, which uses them all.

pub mod budget;
pub mod evidence;
pub mod ledger;
pub mod limits;
pub mod looks;
pub mod pace;
pub mod schedule;
