//! The end that is hardest to get right: hundreds of writes are applied just before the deadline, and none is answered. The
//! count must be exact and the answer in time.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::dynamodb::DynamoDb;
use crate::lambda::{CpuLimit, Function};
use crate::measure::{USUAL_SHARE, millis};
use crate::subjects::Subject;

const OTHERS: usize = 500;
const LATENCY: Duration = Duration::from_millis(5);
/// Eight seconds are the shortest invocation that has the same reserves before its end as one of 29 s.
const TIME_LIMIT: Duration = Duration::from_secs(8);
/// The function sends no write later than 3.5 s before its deadline.
const WRITES_BEGIN: Duration = Duration::from_millis(4_000);

/// One call that ended so.
#[derive(Clone, Serialize, Deserialize)]
pub struct BadEnd {
    pub percent: u64,
    pub status: u64,
    /// As it was answered.
    pub count: u64,
    /// Until the answer, in milliseconds.
    pub time: f64,
    /// Writes, and reads of what became of them.
    pub requests: u64,
    pub connections: u64,
}

/// What the calls had to keep to.
pub fn rules() -> String {
    format!(
        "{OTHERS} sessions, {} ms latency, deadline after {} s, first write after {} s",
        LATENCY.as_millis(),
        TIME_LIMIT.as_secs(),
        WRITES_BEGIN.as_secs()
    )
}

/// Has the function meet it so many times on a part of a core.
///
/// # Errors
/// If the answer is late, or its count is not the number of sessions that the call has revoked.
pub async fn measure(subject: &Subject, dynamodb: &DynamoDb, rounds: usize) -> Result<Vec<BadEnd>, String> {
    let Some(limit) = CpuLimit::new(USUAL_SHARE) else {
        println!("  not at {USUAL_SHARE} % of a core: that takes root and control groups that can be written to");
        return Ok(Vec::new());
    };
    let mut ends = Vec::new();
    for _ in 0..rounds {
        dynamodb.answer_again();
        dynamodb.delay(LATENCY);
        dynamodb.reset(OTHERS);
        let (mut function, _) = Function::start(subject).await?;
        limit.apply(&function)?;
        dynamodb.take_work();
        dynamodb.lose_answers(Instant::now() + WRITES_BEGIN);
        let call = function.invoke(OTHERS, TIME_LIMIT).await;
        dynamodb.answer_again();
        let (call, work) = (call?, dynamodb.take_work());
        function.stop().await;
        let status = call.status.unwrap_or_default();
        let count = match status {
            200 => &call.body["count"],
            _ => &call.body["error"]["details"]["revoked"],
        };
        let revoked = dynamodb.revoked(OTHERS);
        if revoked != OTHERS {
            return Err(format!("the bad end did not come about: {revoked} of {OTHERS} writes were applied"));
        }
        let Some(count) = count.as_u64().filter(|count| *count == revoked as u64) else {
            return Err(format!("at a bad end it answered {status} {}, and has revoked {revoked}", call.body));
        };
        if call.time > TIME_LIMIT {
            return Err(format!("at a bad end it answered {:?} after its deadline", call.time - TIME_LIMIT));
        }
        let end = BadEnd {
            percent: USUAL_SHARE,
            status,
            count,
            time: millis(call.time),
            requests: work.requests.values().sum(),
            connections: work.connections,
        };
        println!(
            "  {status}, {count} revoked, after {:.0} ms; {} requests, {} new connections",
            end.time, end.requests, end.connections
        );
        ends.push(end);
    }
    Ok(ends)
}
