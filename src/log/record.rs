//! The record of an HTTP request: one line in the log, whatever the outcome. The line also carries the metrics of the request.
//!
//! The line holds no credential and no token hash. Its only item data is the public id of the caller's session.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lambda_http::http::StatusCode;
use lambda_http::request::RequestContext;
use lambda_http::tracing::{error, info};
use lambda_http::{Context, Request, RequestExt};
use serde::Serialize;

use crate::http::response::{Answer, Error};
use crate::rules::schedule::{CallResult, Statistics};
use crate::session::{Session, since_epoch};

/// The target of the line. The log adds [`Metrics`] to lines with this target, and to no others.
pub const TARGET: &str = concat!(env!("CARGO_CRATE_NAME"), "::request");

/// What the log line says of an HTTP request.
#[derive(Debug)]
pub struct Record {
    /// The gateway's id of the request; Lambda's id of the invocation where there is none, as with load balancers.
    pub request_id: String,
    /// How often the read of the caller's session was retried.
    pub retries: u64,
    revoked: u64,
    statistics: Statistics,
    /// Lambda's context of the invocation.
    lambda: Context,
    cold_start: bool,
    begin: Instant,
    caller: Option<Caller>,
}

/// The authenticated caller.
#[derive(Debug)]
struct Caller {
    session_id: String,
    /// Time from the beginning of the request to the end of authentication.
    after: Duration,
}

impl Record {
    /// The record of an HTTP request that has just arrived.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        static WARM: AtomicBool = AtomicBool::new(false);
        let lambda = request.lambda_context_ref().cloned().unwrap_or_default();
        let gateway = match request.request_context_ref() {
            Some(RequestContext::ApiGatewayV1(context)) => context.request_id.clone(),
            Some(RequestContext::ApiGatewayV2(context)) => context.request_id.clone(),
            _ => None,
        };
        Self {
            request_id: gateway.unwrap_or_else(|| lambda.request_id.clone()),
            retries: 0,
            revoked: 0,
            statistics: Statistics::default(),
            lambda,
            cold_start: !WARM.swap(true, Ordering::Relaxed),
            begin: Instant::now(),
            caller: None,
        }
    }

    /// Records the authenticated caller.
    pub fn authenticated(&mut self, session: &Session) {
        self.caller = Some(Caller { session_id: session.session_id.clone(), after: self.begin.elapsed() });
    }

    /// Records the result of the call.
    pub fn revoked(&mut self, call: &CallResult) {
        (self.revoked, self.statistics) = (call.count, call.statistics);
    }

    /// Writes the line. Names that begin with a capital are metrics and their dimensions: see [`Metrics`].
    pub fn write(&self, outcome: &Result<Answer, Error>, status: StatusCode) {
        let duration = self.begin.elapsed();
        let (name, error) = match outcome {
            Ok(Answer::Revoked(_)) => ("revoked", None),
            Ok(Answer::Preflight) => ("preflight", None),
            Err(error) => (error.id(), Some(error.to_string())),
        };
        let caller = self.caller.as_ref();
        macro_rules! line {
            ($level:ident, $message:literal) => {
                $level!(
                    target: TARGET,
                    FunctionName = self.lambda.env_config.function_name,
                    Outcome = name,
                    Requests = 1,
                    SessionsRevoked = self.revoked,
                    Duration = millis(duration),
                    DynamoDBRetries = self.retries + self.statistics.retries,
                    status = status.as_u16(),
                    request = self.request_id,
                    lambda_request = self.lambda.request_id,
                    trace = self.lambda.xray_trace_id,
                    cold_start = self.cold_start,
                    error,
                    session = caller.map(|caller| &caller.session_id),
                    authenticate_ms = caller.map(|caller| millis(caller.after)),
                    revoke_ms = caller.map(|caller| millis(duration - caller.after)),
                    looks = caller.map(|_| self.statistics.looks),
                    pages = caller.map(|_| self.statistics.pages),
                    entries = caller.map(|_| self.statistics.entries),
                    writes = caller.map(|_| self.statistics.writes),
                    $message
                )
            };
        }
        if status.is_server_error() {
            line!(error, "request failed");
        } else {
            line!(info, "request served");
        }
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Declares which fields of the line are metrics, in CloudWatch's embedded metric format: no request to CloudWatch is needed.
///
/// Source: "Embedded metric format specification" in the Amazon CloudWatch User Guide. The maintained library for the format
/// (`metrique`) would add ninety crates for this one object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Metrics {
    /// The time of the line, in epoch milliseconds.
    timestamp: u64,
    cloud_watch_metrics: [Declaration; 2],
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Declaration {
    namespace: &'static str,
    /// Sets of fields by which a metric is split. Each further set costs one more metric for every combination of values.
    dimensions: &'static [&'static [&'static str]],
    metrics: &'static [Metric],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metric {
    name: &'static str,
    unit: &'static str,
}

impl Metrics {
    const DECLARED: [Declaration; 2] = [
        Declaration {
            namespace: env!("CARGO_PKG_NAME"),
            dimensions: &[&["FunctionName"], &["FunctionName", "Outcome"]],
            metrics: &[Metric { name: "Requests", unit: "Count" }],
        },
        Declaration {
            namespace: env!("CARGO_PKG_NAME"),
            dimensions: &[&["FunctionName"]],
            metrics: &[
                Metric { name: "SessionsRevoked", unit: "Count" },
                Metric { name: "Duration", unit: "Milliseconds" },
                Metric { name: "DynamoDBRetries", unit: "Count" },
            ],
        },
    ];

    /// The metrics of a line that is written at this time.
    #[must_use]
    pub fn at(now: SystemTime) -> Self {
        let timestamp = u64::try_from(since_epoch(now).as_millis()).unwrap_or(u64::MAX);
        Self { timestamp, cloud_watch_metrics: Self::DECLARED }
    }
}
