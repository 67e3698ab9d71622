//! Time: the deadlines of an invocation, and the time-outs and back-offs of its requests. The time is a parameter;
//! only [`Timeout::run_out`] and [`wait_until`] wait.
//!
//! An invocation of `T` is divided from its end, so that what was begun can be finished and counted:
//!
//! ```text
//! |---------- writes may be sent ----------|-- wait for them --|-- read their results --|-- answer --|
//! 0                                  stop_writing         writes_end                answer_by        T
//!                                        min(1 s, T/5)      min(2 s, T/4)       min(0.5 s, T/10)
//! ```
//!
//! | | |
//! |---|---|
//! | time-outs of the attempts at a read | 0.5, 1, 2, 3, 3, 3, 3, 3 s |
//! | time-outs of the attempts at a batch of writes | 0.25, 0.5, 1, 2, 3, 3, 3, 3 s |
//! | back-off before each but the first, at random up to | 50, 100, 200, 400, 800, 1,000, 1,000 ms |
//! | attempts in a row of which none gets further | 8; reads of sessions in doubt: until `answer_by` |
//!
//! DynamoDB answers in some 10 ms, and in 30 ms at the 99th percentile, so the first time-out finds a dead connection and the
//! later ones allow for a slow table. No time-out is shorter than twice the slowest answer so far. A read waits for no more
//! than half of the time left, so that another attempt is always possible.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::dynamodb::failure::StoreError;

/// Reserved to send the answer: at most this long, and at most this part of the invocation.
const ANSWERING: (Duration, u32) = (Duration::from_millis(500), 10);
/// Reserved before that to read the results of writes whose answers were lost.
const RESOLVING: (Duration, u32) = (Duration::from_secs(2), 4);
/// Reserved before that to wait for the answers to writes that have been sent.
const ENDING: (Duration, u32) = (Duration::from_secs(1), 5);
/// Length of an invocation whose deadline has passed before it began, as under `cargo lambda watch`.
const WITHOUT_DEADLINE: Duration = Duration::from_secs(25);

/// Time-out of the request that opens a connection during the start.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A read that has less time left is not begun.
const SHORTEST_READ: Duration = Duration::from_millis(20);
/// Without a response to a read for so long, on a connection that may have died in a pause, it is sent on another one too.
pub const HEDGE_AFTER: Duration = Duration::from_millis(40);

const FIRST_READ_TIMEOUT: Duration = Duration::from_millis(500);
const FIRST_WRITE_TIMEOUT: Duration = Duration::from_millis(250);
const MAX_TIMEOUT: Duration = Duration::from_secs(3);
/// Sleeps that make up a time-out.
const SLEEPS: u32 = 10;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// The deadlines of one invocation, and the slowest answer in it so far.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// From here on no write is sent.
    pub stop_writing: Instant,
    /// From here on no answer to a write is waited for.
    pub writes_end: Instant,
    /// From here on there is only time to answer.
    pub answer_by: Instant,
    slowest: Duration,
}

/// How long to wait for the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// Without any response for so long, the connection counts as dead.
    pub patience: Duration,
    /// However slow this process is, the wait ends here.
    pub end: Instant,
}

impl Timeout {
    /// Waits until the time has run out; false if it ended while there were responses to other requests, of which `responses`
    /// is the number.
    ///
    /// The patience begins anew with each response, since a request that waits its turn is not dead. It is made of short sleeps,
    /// one after the other, so a process that gets little CPU does not use it up.
    pub async fn run_out(self, responses: impl Fn() -> u64) -> bool {
        let patience = async {
            let (mut quiet_sleeps, mut seen) = (0, responses());
            while quiet_sleeps < SLEEPS {
                sleep(self.patience / SLEEPS).await;
                quiet_sleeps = if responses() == seen { quiet_sleeps + 1 } else { 0 };
                seen = responses();
            }
        };
        timeout_at(self.end, patience).await.is_ok()
    }
}

impl Budget {
    /// The budget of an invocation that begins at `now`, by the wall clock at `wall`, and must have answered by `deadline`.
    #[must_use]
    pub fn until(deadline: SystemTime, wall: SystemTime, now: Instant) -> Self {
        let left = deadline.duration_since(wall).unwrap_or_default();
        let time = if left.is_zero() { WITHOUT_DEADLINE } else { left };
        let reserved = |(most, part): (Duration, u32)| most.min(time / part);
        // The runtime's clock ends somewhere, and no invocation takes a day.
        let answer_by = now + time.min(Duration::from_hours(24)) - reserved(ANSWERING);
        let writes_end = answer_by - reserved(RESOLVING);
        let stop_writing = writes_end - reserved(ENDING);
        Self { stop_writing, writes_end, answer_by, slowest: Duration::ZERO }
    }

    /// Learns how long a request took to be answered. One answer that comes very late does not keep others from being sent.
    pub fn answered_after(&mut self, time: Duration) {
        self.slowest = self.slowest.max(time.min(MAX_TIMEOUT));
    }

    /// Whether a write that is sent at this time will be answered in time, even if that takes twice as long as the slowest
    /// answer so far. An unanswered one could be applied after this call has reported its count.
    #[must_use]
    pub fn may_write(&self, at: Instant) -> bool {
        at < self.stop_writing && at + 2 * self.slowest < self.writes_end
    }

    /// The time-out of a write that is sent now, after this many failures.
    #[must_use]
    pub fn write_timeout(&self, failures: u32) -> Timeout {
        Timeout { patience: self.patience(FIRST_WRITE_TIMEOUT, failures), end: self.writes_end }
    }

    /// The time-out of a read that starts now, after this many failures; `None` if there is no time left.
    #[must_use]
    pub fn read_timeout(&self, failures: u32, now: Instant) -> Option<Timeout> {
        let time_left = self.answer_by.saturating_duration_since(now);
        let end = now + time_left / 2;
        (time_left >= SHORTEST_READ).then(|| Timeout { patience: self.patience(FIRST_READ_TIMEOUT, failures), end })
    }

    /// When to attempt something again after this many failures, the latest of which ended in `error`. A connection
    /// that fails is replaced at once, but only the first time.
    #[must_use]
    pub fn retry_at(&self, error: &StoreError, failures: u32, now: Instant, random: f64) -> Instant {
        if failures == 1 && !error.needs_backoff() { now } else { self.backoff(failures, now, random) }
    }

    /// The end of the back-off after this many failures. `random` is from 0 to 1.
    ///
    /// The back-off is drawn evenly between nothing and its ceiling, since equal ones would bring throttled callers back
    /// together. Source: "Exponential Backoff And Jitter" in the AWS Architecture Blog.
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

/// Waits until this time. A timer ends at a whole millisecond after its time, so one that has nothing to wait for would still
/// cost a call a millisecond.
pub async fn wait_until(time: Instant) {
    if time > Instant::now() {
        sleep_until(time).await;
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
    fn a_deadline_in_the_past_counts_as_none() {
        let (wall, now) = (SystemTime::now(), Instant::now());
        let budget = Budget::until(SystemTime::UNIX_EPOCH, wall, now);
        assert_eq!((budget.answer_by - now).as_millis(), 24_500);
        let far = wall + Duration::from_secs(u64::from(u32::MAX));
        assert!(Budget::until(far, wall, now).answer_by - now > Duration::from_hours(1));
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
    fn no_time_out_is_shorter_than_twice_the_slowest_answer() {
        let (mut budget, now) = lasting(Duration::from_secs(29));
        budget.answered_after(Duration::from_millis(600));
        budget.answered_after(Duration::from_millis(10));
        assert_eq!(budget.write_timeout(0).patience.as_millis(), 1_200);
        assert_eq!(budget.read_timeout(0, now).map(|timeout| timeout.patience.as_millis()), Some(1_200));
    }

    #[test]
    fn a_read_leaves_half_of_the_time_for_another_until_there_is_none() {
        let (budget, now) = lasting(Duration::from_secs(1));
        let end = |at| budget.read_timeout(0, at).map(|timeout| timeout.end);
        assert_eq!(end(now), Some(now + Duration::from_millis(450)));
        assert_eq!(end(budget.answer_by), None);
    }

    #[test]
    fn no_write_is_sent_that_could_be_answered_too_late() {
        let (mut budget, _) = lasting(Duration::from_secs(29));
        let last = budget.stop_writing - Duration::from_millis(1);
        assert!(budget.may_write(last) && !budget.may_write(budget.stop_writing));
        budget.answered_after(Duration::from_millis(501));
        let last = budget.writes_end - Duration::from_millis(1_002);
        assert!(!budget.may_write(last) && budget.may_write(last - Duration::from_millis(1)));
    }

    #[test]
    fn a_back_off_is_drawn_below_a_ceiling_that_doubles_up_to_a_second() {
        let (budget, now) = lasting(Duration::from_secs(29));
        let throttled = StoreError::unreadable("Query");
        let backoff = |failures, random| (budget.retry_at(&throttled, failures, now, random) - now).as_millis();
        assert_eq!([1, 2, 3, 5, 6, 99].map(|failures| backoff(failures, 1.0)), [50, 100, 200, 800, 1000, 1000]);
        assert_eq!((backoff(3, 0.0), backoff(3, 0.5)), (0, 100));
        assert_eq!(budget.retry_at(&throttled, 9, budget.answer_by, 1.0), budget.answer_by);
    }

    #[test]
    fn a_connection_that_fails_is_replaced_at_once_but_only_the_first_time() {
        let (budget, now) = lasting(Duration::from_secs(29));
        let no_response = StoreError::no_response("Query", Duration::from_millis(500));
        assert_eq!(budget.retry_at(&no_response, 1, now, 1.0), now);
        assert_eq!(budget.retry_at(&no_response, 2, now, 1.0), now + Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_now_takes_no_time_even_between_two_milliseconds() {
        tokio::time::advance(Duration::from_micros(300)).await;
        let now = Instant::now();
        wait_until(now).await;
        assert_eq!(now.elapsed(), Duration::ZERO);
        wait_until(now + Duration::from_millis(2)).await;
        assert!(now.elapsed() >= Duration::from_millis(2));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_begins_anew_with_every_response_but_ends_at_the_deadline() {
        let begin = Instant::now();
        let timeout = Timeout { patience: Duration::from_millis(250), end: begin + Duration::from_secs(2) };
        assert!(timeout.run_out(|| 7).await);
        assert_eq!(begin.elapsed().as_millis(), 250);
        // There are responses for a second.
        let millis = || u64::try_from(begin.elapsed().as_millis()).expect("a number");
        assert!(timeout.run_out(|| millis().min(1_000)).await);
        assert_eq!(begin.elapsed().as_millis(), 1_250);
        assert!(!timeout.run_out(millis).await);
        assert_eq!(begin.elapsed().as_millis(), 2_000);
    }
}
