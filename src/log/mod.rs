//! What the log says. The log only reports: what it counts decides nothing.

pub mod logging;
pub mod record;
