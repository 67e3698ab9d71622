//! Log lines: where they go and which ones. Knows nothing of what is logged.

use std::str::FromStr;

use lambda_http::tracing::subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

use crate::config::Logging;

/// Starts logging to standard output, as the Lambda runtime's own subscriber would, with two differences: JSON lines have
/// a timestamp, and whatever level is asked for, other crates get no further than `INFO`.
pub fn init(logging: &Logging) {
    let level = LevelFilter::from_str(&logging.level).unwrap_or(LevelFilter::INFO);
    let asked = EnvFilter::builder().with_default_directive(level.into()).parse_lossy(&logging.directives);
    let lines = fmt::layer().with_target(false).with_ansi(false);
    // Text gets its time from CloudWatch. Of JSON, Lambda believes a level only beside a timestamp: without one it takes
    // the line for INFO, and drops even an error where only errors are wanted.
    let lines = if logging.json { lines.json().flatten_event(true).boxed() } else { lines.without_time().boxed() };
    registry().with(lines.with_filter(asked.and(loud_enough_for_others()))).init();
}

/// At `debug` and `trace` the runtime prints whole events and the SDK whole requests and items, credentials and all. Only
/// what this crate writes itself may go below `info`; of the others only the runtime may speak at all, for its span
/// carries the request id.
fn loud_enough_for_others() -> Targets {
    Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), LevelFilter::TRACE)
        .with_target("lambda_runtime", LevelFilter::INFO)
        .with_default(LevelFilter::OFF)
}
