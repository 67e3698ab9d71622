//! The log: where lines go, in which format, and which lines are written.

use std::io::{self, Write};
use std::str::FromStr;
use std::time::SystemTime;

use lambda_http::tracing::subscriber::{
    Layer,
    filter::{FilterExt, LevelFilter, Targets, filter_fn},
    fmt::{self as lines, format::Writer, time::FormatTime},
    layer::{Context, SubscriberExt},
    registry,
    util::SubscriberInitExt,
};
use lambda_http::tracing::{Event, Metadata, Subscriber, warn};
use serde::Serializer as _;
use serde::ser::SerializeMap;
use serde_json::Serializer;
use tracing_serde::SerdeMapVisitor;

use crate::config::Logging;
use crate::log::record::{self, Metrics};

/// Starts logging to standard output, as the Lambda runtime's own subscriber would, with three differences: JSON lines have a
/// timestamp, the line of a request declares its metrics, and no other crate writes below `INFO`.
pub fn init(logging: &Logging) {
    let all = lines::layer().with_target(false).with_ansi(false);
    let layers = if logging.json {
        // Lambda reads the level of a line only if the line has a timestamp. CloudWatch adds the time to lines of text.
        let others = all.json().flatten_event(true).with_filter(filter_fn(|metadata| !is_request(metadata)));
        RequestLines.with_filter(filter_fn(is_request)).and_then(others).boxed()
    } else {
        all.without_time().boxed()
    };
    let directives = logging.directives.as_deref().map(Targets::from_str);
    let level = LevelFilter::from_str(&logging.level);
    let wanted = match &directives {
        Some(Ok(directives)) => directives.clone(),
        Some(Err(_)) | None => Targets::new().with_default(*level.as_ref().unwrap_or(&LevelFilter::INFO)),
    };
    registry().with(layers.with_filter(wanted.and(allowed()))).init();
    if let Some(Err(_)) = directives {
        warn!("RUST_LOG is not a list of directives such as warn,disable_my_other_sessions=debug, so it is ignored");
    } else if level.is_err() && directives.is_none() {
        warn!("AWS_LAMBDA_LOG_LEVEL is {:?}, which is not a level, so INFO is used", logging.level);
    }
    if let Some(format) = &logging.unknown_format {
        warn!("AWS_LAMBDA_LOG_FORMAT is {format:?}, which is neither Text nor JSON, so Text is used");
    }
}

/// At `debug` and `trace` the runtime prints whole events and the SDK prints whole requests and items, credentials included.
/// So only this crate may write below `INFO`. Of all other crates only the runtime may write, since its span carries the request
/// id.
fn allowed() -> Targets {
    Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), LevelFilter::TRACE)
        .with_target("lambda_runtime", LevelFilter::INFO)
        .with_default(LevelFilter::OFF)
}

fn is_request(metadata: &Metadata<'_>) -> bool {
    metadata.target() == record::TARGET
}

/// Writes the line of a request with the declaration of its metrics.
struct RequestLines;

impl<S: Subscriber> Layer<S> for RequestLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Ok(mut line) = request_line(event) else { return };
        line.push(b'\n');
        // The error is ignored: standard output is closed only if Lambda is gone.
        let _ = io::stdout().lock().write_all(&line);
    }
}

/// The line of a request. It is written without a tree of JSON values, which took 3 % of the instructions of a call.
fn request_line(event: &Event<'_>) -> serde_json::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut serializer = Serializer::new(&mut line);
    let mut fields = SerdeMapVisitor::new(serializer.serialize_map(None)?);
    event.record(&mut fields);
    let mut fields = fields.take_serializer()?;
    fields.serialize_entry("timestamp", &timestamp())?;
    fields.serialize_entry("level", event.metadata().level().as_str())?;
    fields.serialize_entry("_aws", &Metrics::at(SystemTime::now()))?;
    SerializeMap::end(fields)?;
    Ok(line)
}

/// The time now, in the format of all other lines (RFC 3339).
fn timestamp() -> String {
    let mut timestamp = String::new();
    // Writing to a string cannot fail.
    let _ = lines::time::SystemTime.format_time(&mut Writer::new(&mut timestamp));
    timestamp
}
