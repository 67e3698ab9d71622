//! How fast to write: without a limit until DynamoDB throttles, and from then on at about the rate that the table accepts.
//!
//! Writes beyond that rate are throttled, and each throttled request costs a round trip. The first throttle sets a rate,
//! each further one lowers it by a fifth, and each write that succeeds raises it a little. So the rate swings between 80
//! and 100 % of what the table accepts, which need not be known. No clock: the time is a parameter.

use std::time::Duration;

use tokio::time::Instant;

/// Writes a second that one partition accepts. All entries of a user are in one partition of the index.
///
/// Source: "Best practices for designing and using partition keys" in the Amazon DynamoDB Developer Guide.
const PARTITION_RATE: f64 = 1_000.0;
/// The factor by which a throttle lowers the rate.
const DECREASE: f64 = 0.8;
/// The rate is lowered at most once in this time, since the responses that come within it are to writes at the old rate.
const REACTION: Duration = Duration::from_millis(200);
/// Each successful write raises the rate by so many writes a second: at 1,000 writes a second, by 10 % in a second.
const INCREASE: f64 = 0.1;
/// The lowest rate, in writes a second: one batch, so that the call goes on.
const SLOWEST: f64 = 25.0;

/// The rate of one call's writes.
#[derive(Debug)]
pub struct Pace {
    /// Writes a second; `None` while nothing has been throttled.
    rate: Option<f64>,
    /// When the next writes may be sent.
    free_at: Instant,
    /// When a throttle last lowered the rate, for [`REACTION`].
    last_decrease: Instant,
}

impl Pace {
    /// A pace without a limit until the first throttle.
    #[must_use]
    pub fn unlimited(now: Instant) -> Self {
        Self { rate: None, free_at: now, last_decrease: now }
    }

    /// When the next writes may be sent. This time may have passed.
    #[must_use]
    pub fn free_at(&self) -> Instant {
        self.free_at
    }

    /// Learns that `writes` writes are sent now. Time that passed unused counts for them, since timers end late; time beyond what
    /// they need is lost.
    pub fn sent(&mut self, writes: usize, now: Instant) {
        if let Some(rate) = self.rate {
            let takes = Duration::from_secs_f64(count(writes) / rate);
            self.free_at = (self.free_at + takes).max(now);
        }
    }

    /// Learns from a response how many writes succeeded and how many were throttled.
    pub fn learn(&mut self, passed: usize, throttled: usize, now: Instant) {
        self.rate = match self.rate {
            rate if throttled == 0 => rate.map(|rate| rate + INCREASE * count(passed)),
            Some(rate) if now < self.last_decrease + REACTION => Some(rate),
            rate => {
                self.last_decrease = now;
                Some(rate.map_or(PARTITION_RATE * DECREASE, |rate| (rate * DECREASE).max(SLOWEST)))
            }
        };
    }
}

fn count(writes: usize) -> f64 {
    u32::try_from(writes).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends writes as soon as they may be sent, from now on, and returns when.
    fn send(pace: &mut Pace, writes: usize, now: Instant) -> Instant {
        let at = pace.free_at().max(now);
        pace.sent(writes, at);
        at
    }

    /// Full batches for `sessions` sessions against a table that accepts `per_second` writes and saves up those of one
    /// second: seconds taken, and the part of the writes that was throttled.
    fn simulate(per_second: f64, sessions: f64) -> (f64, f64) {
        let begin = Instant::now();
        let mut pace = Pace::unlimited(begin);
        let (mut saved, mut now) = (per_second, begin);
        let (mut pending, mut sent) = (sessions, 0.0);
        while pending > 0.0 {
            let next = send(&mut pace, 25, now) + Duration::from_micros(500);
            saved = f64::min(saved + (next - now).as_secs_f64() * per_second, per_second);
            now = next;
            let passed = if saved >= 25.0 { 25 } else { 0 };
            saved -= count(passed);
            pending -= count(passed);
            sent += 25.0;
            pace.learn(passed, 25 - passed, now);
        }
        ((now - begin).as_secs_f64(), (sent - sessions) / sent)
    }

    #[test]
    fn writes_are_not_delayed_while_nothing_is_throttled() {
        let now = Instant::now();
        let mut pace = Pace::unlimited(now);
        for _ in 0..1_000 {
            assert_eq!(send(&mut pace, 25, now), now);
            pace.learn(25, 0, now);
        }
    }

    #[test]
    fn the_first_throttle_sets_a_rate_and_each_further_one_lowers_it_but_not_within_200_ms() {
        let begin = Instant::now();
        let mut pace = Pace::unlimited(begin);
        let mut micros_a_batch = |throttled_after| {
            pace.learn(0, 25, begin + Duration::from_millis(throttled_after));
            let first = send(&mut pace, 25, begin);
            (send(&mut pace, 25, begin) - first).as_micros()
        };
        // 800, 640, 512 writes a second.
        assert_eq!([0, 199, 200, 399, 400].map(&mut micros_a_batch), [31_250, 31_250, 39_062, 39_062, 48_828]);
    }

    #[test]
    fn a_partition_is_used_almost_to_its_limit_and_little_is_wasted() {
        for per_second in [500.0, 1_000.0, 1_500.0] {
            let sessions = 20_000.0;
            let (seconds, wasted) = simulate(per_second, sessions);
            let floor = (sessions - per_second) / per_second;
            assert!(seconds < 1.1 * floor, "{per_second}: {seconds} of {floor}");
            assert!(wasted < 0.1, "{per_second}: {wasted}");
        }
    }
}
