//! What a call does next, and what it knows. Plain data: no SDK, no I/O, no clock.

pub mod budget;
pub mod ledger;
pub mod pace;
pub mod schedule;
