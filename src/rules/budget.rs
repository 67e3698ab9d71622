//! The deadlines of an invocation, and its time-outs, back-offs and pauses. Every duration of the rules and of the connections is
//! here, but for the reaction time in `pace`. The time is a parameter.
//!
//! An invocation of length `T` is divided from its end, so that every write that was sent can be resolved and counted:
//!
//! ```text
//! |---- requests of every kind ----|-- responses to writes --|-- reads of doubtful writes --|-- answer --|
//! 0                          stop_writing               writes_end                      answer_by       T
//!                                      min(1 s, T/5)              min(2 s, T/4)          min(0.5 s, T/10)
//! ```
//!
//! | phase | what may begin in it |
//! |---|---|
//! | until `stop_writing` | every read; a write if twice the slowest response so far fits before `writes_end` |
//! | until `writes_end` | reads of the index and of sessions; responses to writes still count |
//! | until 20 ms before `answer_by` | reads of the index and of sessions |
//! | until `T` | nothing: the answer is sent |
//!
//! A session in doubt that is not written again is read from its last failure on: for 1.5 s if its writes ended in errors, and
//! until `answer_by` if a write got no response.
//!
//! | duration | values |
//! |---|---|
//! | time-outs of the attempts at a read | 0.5, 1, 2, 3, 3, 3, 3, 3 s: 18.5 s in all |
//! | time-outs of the attempts at a batch of writes | 0.25, 0.5, 1, 2, 3, 3, 3, 3 s: 15.75 s in all |
//! | back-offs before the retries, at random between 0 and | 50, 100, 200, 400, 800, 1,000, 1,000 ms: 3.55 s in all |
//! | pauses between looks after a session was replaced, at random between half of and | 0, 25, 50, 100, 150, 150, … ms |
//!
//! So all attempts at one read, or at one write, fit into the 25.5 s that an invocation of 29 s has until `stop_writing`. No
//! time-out is shorter than twice the slowest response so far, of which at most 3 s count. A read waits for no more than half of
//! the time left, so that another attempt is possible. A pause is cut so that the last look begins 1 s after the replaced session
//! was found.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::evidence::{Backoff, Cause};

/// Reserved to send the answer: at most this long, and at most one part in so many of the invocation. A sandbox of 128 MB has
/// 7 % of a core and needs some 80 ms.
const ANSWERING: (Duration, u32) = (Duration::from_millis(500), 10);
/// Reserved before [`ANSWERING`] to read what writes without a report have done: two attempts, of 0.5 and 1 s, and the back-off
/// between them.
const RESOLVING: (Duration, u32) = (Duration::from_secs(2), 4);
/// Reserved before [`RESOLVING`] for the responses to writes: 30 times the 99th percentile of a batch of writes.
const ENDING: (Duration, u32) = (Duration::from_secs(1), 5);
/// Length of an invocation without a usable deadline: shorter than the 29 s after which a REST API gives up.
const WITHOUT_DEADLINE: Duration = Duration::from_secs(25);
/// 2026-11-01, in time since 1970, when this function was written. An earlier deadline counts as none, since `cargo lambda watch`
/// sends a deadline in 1970.
const WRITTEN_AT: Duration = Duration::from_hours(498_192);

/// Time-out of the request that opens a connection during the cold start, which must not take longer than it saves.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections that have responded within this time count as alive, since the pauses in which connections die are longer.
pub const PROVEN_FOR: Duration = Duration::from_secs(1);
/// After so long without a response, on a connection that may have died in a pause, a read is sent on another connection too.
/// DynamoDB responds to 99 % of reads within 30 ms.
pub const HEDGE_AFTER: Duration = Duration::from_millis(40);

/// With less time left, no read is begun. A read waits for half of the time left, and the median of a read is 10 ms.
const SHORTEST_READ: Duration = Duration::from_millis(20);
/// Time-out of the first attempt at a read: 16 times the 99th percentile of a read.
const FIRST_READ_TIMEOUT: Duration = Duration::from_millis(500);
/// Time-out of the first attempt at a write: half of that of a read, since a read shows what a write without a response has done.
const FIRST_WRITE_TIMEOUT: Duration = Duration::from_millis(250);
/// The longest time-out, so that eight attempts fit into an invocation: see the table above.
const MAX_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest first back-off: five times the median of a request, so that other requests are served before the retry.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The longest back-off: DynamoDB counts capacity by the second.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// How long a write that ended in an error or a closed connection may take to become visible: 45 times the 99th percentile of a
/// batch of writes.
pub const STRAGGLING: Duration = Duration::from_millis(1_500);

/// How long the index may lag behind the table. Of new entries, 99.7 % are visible after 0.1 s.
pub const INDEX_LAG: Duration = Duration::from_secs(1);
/// The first pause between looks that is not zero: twice the median time in which the index shows a change.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause between looks: a seventh of [`INDEX_LAG`], so that a session that the index shows for a short time only is
/// probably seen.
const MAX_PAUSE: Duration = Duration::from_millis(150);

/// The deadlines of one invocation, and the slowest response in it so far.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// From here on no write is sent.
    pub stop_writing: Instant,
    /// From here on no response to a write is waited for.
    pub writes_end: Instant,
    /// From here on no read is waited for: there is only time to answer.
    pub answer_by: Instant,
    /// The longest time to a response so far, at most [`MAX_TIMEOUT`].
    slowest: Duration,
}

/// How long to wait for the response to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// Without any response for so long, the connection counts as dead.
    pub patience: Duration,
    /// However slow this process is, the wait ends here.
    pub end: Instant,
}

impl Budget {
    /// The budget of an invocation that begins at `now`, which the wall clock calls `wall`, and must answer before `deadline`. A
    /// deadline that has passed leaves no time.
    #[must_use]
    pub fn until(deadline: SystemTime, wall: SystemTime, now: Instant) -> Self {
        let is_deadline = deadline >= SystemTime::UNIX_EPOCH + WRITTEN_AT;
        let left = deadline.duration_since(wall).unwrap_or_default();
        let time = if is_deadline { left } else { WITHOUT_DEADLINE };
        let reserved = |(most, part): (Duration, u32)| most.min(time / part);
        // A far deadline could overflow `Instant`, and no invocation takes a day.
        let answer_by = now + time.min(Duration::from_hours(24)) - reserved(ANSWERING);
        let writes_end = answer_by - reserved(RESOLVING);
        let stop_writing = writes_end - reserved(ENDING);
        Self { stop_writing, writes_end, answer_by, slowest: Duration::ZERO }
    }

    /// Learns how long a response took. At most 3 s of it count: one very late response must not stop all writes.
    pub fn responded_after(&mut self, time: Duration) {
        self.slowest = self.slowest.max(time.min(MAX_TIMEOUT));
    }

    /// Whether the response to a write that is sent at this time comes in time, even if it takes twice as long as the slowest so
    /// far. A write without a response could be applied after this call has reported its count.
    #[must_use]
    pub fn may_write(&self, at: Instant) -> bool {
        at < self.stop_writing && at + 2 * self.slowest < self.writes_end
    }

    /// The time-out of a write that is sent now, after this many failed attempts.
    #[must_use]
    pub fn write_timeout(&self, failures: u32) -> Timeout {
        Timeout { patience: self.patience(FIRST_WRITE_TIMEOUT, failures), end: self.writes_end }
    }

    /// The time-out of a read that begins now, after this many failed attempts; `None` if too little time is left.
    #[must_use]
    pub fn read_timeout(&self, failures: u32, now: Instant) -> Option<Timeout> {
        let time_left = self.answer_by.saturating_duration_since(now);
        let end = now + time_left / 2;
        (time_left >= SHORTEST_READ).then(|| Timeout { patience: self.patience(FIRST_READ_TIMEOUT, failures), end })
    }

    /// When to attempt something again after this many failures, the latest of which had this cause.
    #[must_use]
    pub fn retry_at(&self, cause: Cause, failures: u32, now: Instant, random: f64) -> Instant {
        match cause.rule().backoff {
            Backoff::ButTheFirst | Backoff::LongButTheFirst if failures == 1 => now,
            Backoff::Always | Backoff::ButTheFirst => self.backoff(failures, now, random),
            Backoff::LongButTheFirst => self.backoff(failures, now, 0.5 + random / 2.0),
        }
    }

    /// The end of the back-off after this many failures. `random` is from 0 to 1.
    ///
    /// The back-off is drawn evenly between zero and its ceiling, since equal back-offs would bring throttled callers back at the
    /// same time. Source: "Exponential Backoff And Jitter" in the AWS Architecture Blog.
    #[must_use]
    pub fn backoff(&self, failures: u32, now: Instant, random: f64) -> Instant {
        let ceiling = doubled(FIRST_BACKOFF, failures.saturating_sub(1)).min(MAX_BACKOFF);
        let time_left = self.answer_by.saturating_duration_since(now);
        now + ceiling.mul_f64(random).min(time_left / 2)
    }

    fn patience(&self, first: Duration, failures: u32) -> Duration {
        doubled(first, failures).min(MAX_TIMEOUT).max(2 * self.slowest)
    }
}

/// The pause before a look, after this many looks since a session was first replaced. `random` is from 0 to 1: an intruder who
/// replaces his session in a fixed rhythm must not stay ahead of looks in the same rhythm.
#[must_use]
pub fn pause(looks: u32, random: f64) -> Duration {
    match looks.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => doubled(FIRST_PAUSE, doublings).min(MAX_PAUSE).mul_f64(0.5 + random / 2.0),
    }
}

fn doubled(duration: Duration, times: u32) -> Duration {
    duration.saturating_mul(2_u32.saturating_pow(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lasting(time: Duration) -> (Budget, Instant) {
        let (wall, now) = (SystemTime::now(), Instant::now());
        (Budget::until(wall + time, wall, now), now)
    }

    #[test]
    fn every_phase_after_the_last_write_fits_before_the_deadline() {
        for (invocation, phases) in [(29_000, [25_500, 26_500, 28_500]), (1_000, [450, 650, 900])] {
            let (budget, now) = lasting(Duration::from_millis(invocation));
            let begins = [budget.stop_writing, budget.writes_end, budget.answer_by].map(|at| (at - now).as_millis());
            assert_eq!(begins, phases);
        }
    }

    #[test]
    fn only_an_absurd_deadline_counts_as_none_and_one_that_has_passed_leaves_no_time() {
        let (wall, now) = (SystemTime::now(), Instant::now());
        let until = |deadline| Budget::until(deadline, wall, now);
        assert_eq!((until(SystemTime::UNIX_EPOCH).answer_by - now).as_millis(), 24_500);
        let passed = until(wall - Duration::from_millis(1));
        assert!(!passed.may_write(now) && passed.read_timeout(0, now).is_none());
        let far = wall + Duration::from_secs(u64::from(u32::MAX));
        assert!(until(far).answer_by - now > Duration::from_hours(1));
    }

    #[test]
    fn all_attempts_at_one_thing_fit_into_an_invocation() {
        let (budget, now) = lasting(Duration::from_secs(29));
        let attempts = super::super::limits::Limits::DEPLOYED.attempts;
        let reads =
            (0..attempts).filter_map(|failures| budget.read_timeout(failures, now)).map(|timeout| timeout.patience);
        let writes = (0..attempts).map(|failures| budget.write_timeout(failures).patience);
        let backoffs = (1..attempts).map(|failures| budget.backoff(failures, now, 1.0) - now);
        let [reads, writes, backoffs] =
            [reads.sum(), writes.sum(), backoffs.sum()].map(|time: Duration| time.as_millis());
        assert_eq!([reads, writes, backoffs], [18_500, 15_750, 3_550]);
        assert!(reads + backoffs < (budget.stop_writing - now).as_millis());
    }

    #[test]
    fn pauses_between_looks_double_up_to_a_limit() {
        let pauses = [0, 1, 2, 3, 4, 5, 6, 99].map(|looks| pause(looks, 1.0).as_millis());
        assert_eq!(pauses, [0, 25, 50, 100, 150, 150, 150, 150]);
        assert_eq!(pause(3, 0.0).as_millis(), 50);
    }

    #[test]
    fn time_outs_double_up_to_three_seconds() {
        let (budget, now) = lasting(Duration::from_secs(29));
        let read = |failures| budget.read_timeout(failures, now).map(|timeout| timeout.patience.as_millis());
        assert_eq!([0, 1, 2, 3, 4, 99].map(read), [500, 1000, 2000, 3000, 3000, 3000].map(Some));
        let write = |failures| budget.write_timeout(failures).patience.as_millis();
        assert_eq!([0, 1, 2, 3, 4, 99].map(write), [250, 500, 1000, 2000, 3000, 3000]);
    }

    #[test]
    fn no_time_out_is_shorter_than_twice_the_slowest_response() {
        let (mut budget, now) = lasting(Duration::from_secs(29));
        budget.responded_after(Duration::from_millis(600));
        budget.responded_after(Duration::from_millis(10));
        assert_eq!(budget.write_timeout(0).patience.as_millis(), 1_200);
        assert_eq!(budget.read_timeout(0, now).map(|timeout| timeout.patience.as_millis()), Some(1_200));
    }

    #[test]
    fn a_read_leaves_half_of_the_time_for_another_read_until_no_time_is_left() {
        let (budget, now) = lasting(Duration::from_secs(1));
        let end = |at| budget.read_timeout(0, at).map(|timeout| timeout.end);
        assert_eq!(end(now), Some(now + Duration::from_millis(450)));
        assert_eq!(end(budget.answer_by), None);
    }

    #[test]
    fn no_write_is_sent_whose_response_could_come_too_late() {
        let (mut budget, _) = lasting(Duration::from_secs(29));
        let last = budget.stop_writing - Duration::from_millis(1);
        assert!(budget.may_write(last) && !budget.may_write(budget.stop_writing));
        budget.responded_after(Duration::from_millis(501));
        let last = budget.writes_end - Duration::from_millis(1_002);
        assert!(!budget.may_write(last) && budget.may_write(last - Duration::from_millis(1)));
    }

    #[test]
    fn a_back_off_is_drawn_below_a_ceiling_that_doubles_up_to_a_second() {
        let (budget, now) = lasting(Duration::from_secs(29));
        let backoff = |failures, random| (budget.retry_at(Cause::Throttled, failures, now, random) - now).as_millis();
        assert_eq!([1, 2, 3, 5, 6, 99].map(|failures| backoff(failures, 1.0)), [50, 100, 200, 800, 1000, 1000]);
        assert_eq!((backoff(3, 0.0), backoff(3, 0.5)), (0, 100));
        assert_eq!(budget.retry_at(Cause::Throttled, 9, budget.answer_by, 1.0), budget.answer_by);
    }

    #[test]
    fn a_request_without_a_response_is_sent_again_at_once_but_only_the_first_time() {
        let (budget, now) = lasting(Duration::from_secs(29));
        assert_eq!(budget.retry_at(Cause::NoResponse, 1, now, 1.0), now);
        assert_eq!(budget.retry_at(Cause::NoResponse, 2, now, 1.0), now + Duration::from_millis(100));
    }

    #[test]
    fn a_back_off_after_a_bad_signature_is_at_least_half_of_its_ceiling() {
        let (budget, now) = lasting(Duration::from_secs(29));
        let backoff = |random| (budget.retry_at(Cause::BadSignature, 3, now, random) - now).as_millis();
        assert_eq!([0.0, 0.5, 1.0].map(backoff), [100, 150, 200]);
    }
}
