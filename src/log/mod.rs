//! What the log says. Only reports: what is counted here decides nothing.

pub mod logging;
pub mod record;
