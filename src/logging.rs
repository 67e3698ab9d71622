//! Log lines: where they go, in which format, and which ones. Knows nothing of what is logged.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::time::SystemTime;

use lambda_http::tracing::field::{Field, Visit};
use lambda_http::tracing::subscriber::{
    Layer,
    filter::{FilterExt, LevelFilter, Targets, filter_fn},
    fmt::{self as lines, format::Writer, time::FormatTime},
    layer::{Context, SubscriberExt},
    registry,
    util::SubscriberInitExt,
};
use lambda_http::tracing::{Event, Metadata, Subscriber};
use serde_json::{Map, Value, json};

use crate::config::Logging;
use crate::session::since_epoch;

/// Starts logging to standard output, as the Lambda runtime's own subscriber would, with three differences: JSON lines
/// have a timestamp, the line of a request is a record of metrics, and whatever level is asked for, other crates get no
/// further than `INFO`.
pub fn init(logging: &Logging) {
    let all = lines::layer().with_target(false).with_ansi(false);
    let layers = if logging.json {
        // Lambda believes a line's level only beside a timestamp: without one it takes the line for INFO, and drops even
        // an error where only errors are wanted. Text gets its time from CloudWatch.
        let others = all.json().flatten_event(true).with_filter(filter_fn(|metadata| !is_request_line(metadata)));
        RequestLines.with_filter(filter_fn(is_request_line)).and_then(others).boxed()
    } else {
        all.without_time().boxed()
    };
    registry().with(layers.with_filter(asked_for(logging).and(loud_enough_for_others()))).init();
}

/// What the directives ask for, such as `warn` or `disable_my_other_sessions=debug`; invalid ones are ignored. Unlike the
/// runtime's own, these filters know no spans, which would take a megabyte of regular expressions.
fn asked_for(logging: &Logging) -> Targets {
    let directives = logging.directives.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let mut directives = directives.filter_map(|directive| directive.parse::<Targets>().ok());
    match directives.next() {
        Some(first) => directives.fold(first, |all, directive| match directive.default_level() {
            Some(level) => all.with_default(level),
            None => all.with_targets(directive),
        }),
        None => Targets::new().with_default(LevelFilter::from_str(&logging.level).unwrap_or(LevelFilter::INFO)),
    }
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

fn is_request_line(metadata: &Metadata<'_>) -> bool {
    metadata.target() == concat!(env!("CARGO_CRATE_NAME"), "::record")
}

/// Writes the line of a request as a record of CloudWatch's embedded metric format: log line and metrics in one, without a
/// request of its own to CloudWatch.
///
/// Source: "Embedded metric format specification" in the Amazon CloudWatch User Guide. The one library for it that is
/// kept well (`metrique`) would add ninety crates to write this one object.
struct RequestLines;

impl<S: Subscriber> Layer<S> for RequestLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), timestamp().into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        event.record(&mut Fields(&mut line));
        line.insert("_aws".to_owned(), metrics());
        // Standard output is gone only if Lambda is.
        let _ = writeln!(io::stdout().lock(), "{}", Value::Object(line));
    }
}

/// Now, in RFC 3339, as in all other lines.
fn timestamp() -> String {
    let mut timestamp = String::new();
    // A string takes whatever is written to it.
    let _ = lines::time::SystemTime.format_time(&mut Writer::new(&mut timestamp));
    timestamp
}

/// Which members of the line are metrics. A dimension more is a metric more to pay for, for each of its values.
fn metrics() -> Value {
    let namespace = env!("CARGO_PKG_NAME");
    json!({
        "Timestamp": u64::try_from(since_epoch(SystemTime::now()).as_millis()).unwrap_or(u64::MAX),
        "CloudWatchMetrics": [
            {
                "Namespace": namespace,
                "Dimensions": [["FunctionName"], ["FunctionName", "Outcome"]],
                "Metrics": [{"Name": "Requests", "Unit": "Count"}],
            },
            {
                "Namespace": namespace,
                "Dimensions": [["FunctionName"]],
                "Metrics": [
                    {"Name": "SessionsRevoked", "Unit": "Count"},
                    {"Name": "Duration", "Unit": "Milliseconds"},
                    {"Name": "DynamoDBRetries", "Unit": "Count"},
                ],
            },
        ],
    })
}

/// Collects the fields of an event.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn insert(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }
}
