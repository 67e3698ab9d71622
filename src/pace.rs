//! How fast to write: as fast as answers come, until DynamoDB throttles; from then on at the rate that it takes.
//!
//! More requests at once than the table takes buy only throttles, each of them billed and answered late. So the first
//! throttle sets a rate, every further one lowers it, and every write that succeeds raises it a little: it swings
//! between 80 and 100 % of what the table takes, wherever that is.

use std::time::Duration;

use tokio::time::Instant;

/// Writes a second that one partition takes, and all entries of a user are in one partition of the index.
///
/// Source: "Best practices for designing and using partition keys" in the Amazon DynamoDB Developer Guide.
const PARTITION_RATE: f64 = 1_000.0;
/// The rate falls to this part of itself on a throttle,
const DECREASE: f64 = 0.8;
/// but only once in this time: requests under way were sent at the old rate and say nothing about the new one.
const REACTION: Duration = Duration::from_millis(200);
/// It rises by this for each write that succeeds, at 1,000 a second by a tenth a second.
const INCREASE: f64 = 0.1;
/// It never falls below one batch a second.
const SLOWEST: f64 = 25.0;

/// The rate of one call's writes.
#[derive(Debug)]
pub struct Pace {
    /// Writes a second; `None` while nothing has been throttled.
    rate: Option<f64>,
    /// When the writes reserved so far will have been sent.
    reserved_until: Instant,
    last_decrease: Instant,
}

impl Pace {
    /// No limit, until a throttle.
    #[must_use]
    pub fn unlimited() -> Self {
        let now = Instant::now();
        Self { rate: None, reserved_until: now, last_decrease: now }
    }

    /// Takes a place in the queue for so many writes and returns when to send them.
    pub fn reserve(&mut self, writes: usize) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.rate else { return now };
        let begin = self.reserved_until.max(now);
        self.reserved_until = begin + Duration::from_secs_f64(count(writes) / rate);
        begin
    }

    /// Learns from an answer how many writes went through and how many were throttled.
    pub fn learn(&mut self, passed: usize, throttled: usize) {
        let now = Instant::now();
        self.rate = match self.rate {
            None if throttled == 0 => None,
            None => Some(PARTITION_RATE * DECREASE),
            Some(rate) if throttled == 0 => Some(rate + INCREASE * count(passed)),
            Some(rate) if now < self.last_decrease + REACTION => Some(rate),
            Some(rate) => Some((rate * DECREASE).max(SLOWEST)),
        };
        if throttled > 0 && now >= self.last_decrease + REACTION {
            self.last_decrease = now;
        }
    }
}

fn count(writes: usize) -> f64 {
    u32::try_from(writes).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

    use super::*;

    /// A table that takes so many writes a second and saves up those of one second: seconds taken, and the part of the
    /// writes that were throttled, for so many sessions in full batches.
    async fn simulate(per_second: f64, sessions: f64) -> (f64, f64) {
        let mut pace = Pace::unlimited();
        let begin = Instant::now();
        let (mut saved, mut last) = (per_second, begin);
        let (mut left, mut sent) = (sessions, 0.0);
        while left > 0.0 {
            sleep_until(pace.reserve(25)).await;
            advance(Duration::from_micros(500)).await;
            let now = Instant::now();
            saved = f64::min(saved + (now - last).as_secs_f64() * per_second, per_second);
            last = now;
            let passed = if saved >= 25.0 { 25 } else { 0 };
            saved -= count(passed);
            left -= count(passed);
            sent += 25.0;
            pace.learn(passed, 25 - passed);
        }
        (begin.elapsed().as_secs_f64(), (sent - sessions) / sent)
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_does_not_throttle_is_not_waited_for() {
        let mut pace = Pace::unlimited();
        for _ in 0..1_000 {
            assert_eq!(pace.reserve(25), Instant::now());
            pace.learn(25, 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_is_used_almost_to_its_limit_and_little_is_wasted() {
        for per_second in [500.0, 1_000.0, 1_500.0] {
            let sessions = 20_000.0;
            let (seconds, wasted) = simulate(per_second, sessions).await;
            let floor = (sessions - per_second) / per_second;
            assert!(seconds < 1.3 * floor, "{per_second}: {seconds} of {floor}");
            assert!(wasted < 0.1, "{per_second}: {wasted}");
        }
    }
}
