//! Time: how long an invocation may take, an attempt may wait, and a retry backs off. Every time-out of the function is
//! here, with the arithmetic that makes them fit.
//!
//! An invocation of `T` (29 s as deployed) is divided from its end, so that what was begun can be finished and counted:
//!
//! ```text
//! |------------- writes may start ------------|-- they end --|-- lost answers --|-- answer --|
//! 0                                     stop_writing     writes_end         answer_by        T
//!                                            min(1 s, T/5)    min(2 s, T/4)   min(0.5 s, T/10)
//! ```
//!
//! DynamoDB takes some 10 ms for any of the calls made here, and 30 ms at its 99th percentile. An attempt at a read waits
//! 0.5 s the first time, so that a connection that died while the sandbox was frozen costs little, and then 1 s, 2 s,
//! 3 s, 3 s, so that a slow table is still answered. A write is worth more patience, because one that is given up may
//! still be carried out: 1 s, 2 s, 3 s, 3 s … Once a read has been seen to take longer than half of its first time-out,
//! the next begins with twice as long as that one took.
//!
//! Reads are tried 5 times: at worst 9.5 s of waiting and 0.75 s of back-off. A batch is tried until it got nowhere 10
//! times in a row, which takes 3 s on average when all is throttled. A look at what became of a lost write is tried 12
//! times, the first of them for 0.1 s, because the exact count hangs on it. Whatever comes first, these or `answer_by`,
//! ends the request. Near the end no read waits or backs off for more than half of the time left, so that there is always
//! another try.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

/// Left at the end to send the answer: no more than this, and no more than this part of the invocation.
const ANSWERING: (Duration, u32) = (Duration::from_millis(500), 10);
/// Left before that to find out what became of writes whose answer was lost.
const SETTLING: (Duration, u32) = (Duration::from_secs(2), 4);
/// Left before that to wait for the writes under way.
const ENDING: (Duration, u32) = (Duration::from_secs(1), 5);
/// For an invocation whose deadline has passed before it began, as under `cargo lambda watch`.
const WITHOUT_DEADLINE: Duration = Duration::from_secs(25);

/// For the request that opens a connection during the start, which it must not delay for long.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

const FIRST_READ_TIMEOUT: Duration = Duration::from_millis(500);
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_millis(100);
const FIRST_WRITE_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(3);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Tries of a read.
const READ_ATTEMPTS: u32 = 5;
/// Tries of a look at what became of a write.
const LOOK_ATTEMPTS: u32 = 12;
/// Tries of a batch of writes in which none of them succeeds.
const WRITE_ATTEMPTS: u32 = 10;

/// How long a write that ended in an error or a closed connection may take to become visible.
const STRAGGLING: Duration = Duration::from_millis(1_500);
/// Before a second look at it; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// What a last look takes.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// What an invocation may spend, and what it has: when it must stop doing what, how long its requests take, and how many
/// of them were tried again.
#[derive(Debug)]
pub struct Budget {
    /// From here on no write is begun.
    pub stop_writing: Instant,
    /// From here on no write is waited for.
    pub writes_end: Instant,
    /// From here on there is only the answer.
    pub answer_by: Instant,
    slowest_read: Slowest,
    slowest_write: Slowest,
    retries: AtomicU64,
}

/// The longest time that has been seen so far, in microseconds.
#[derive(Debug, Default)]
struct Slowest(AtomicU64);

impl Budget {
    /// The budget of an invocation that begins `now` and must have answered by `deadline`.
    #[must_use]
    pub fn until(deadline: SystemTime, now: SystemTime) -> Self {
        match deadline.duration_since(now) {
            Ok(left) if !left.is_zero() => Self::lasting(left),
            Ok(_) | Err(_) => Self::lasting(WITHOUT_DEADLINE),
        }
    }

    fn lasting(time: Duration) -> Self {
        let left_for = |(most, part): (Duration, u32)| most.min(time / part);
        // A deadline beyond the clock's range is as good as a day.
        let answer_by = Instant::now() + time.min(Duration::from_hours(24)) - left_for(ANSWERING);
        let writes_end = answer_by - left_for(SETTLING);
        let stop_writing = writes_end - left_for(ENDING);
        Self {
            stop_writing,
            writes_end,
            answer_by,
            slowest_read: Slowest::default(),
            slowest_write: Slowest::default(),
            retries: AtomicU64::new(0),
        }
    }

    /// Remembers how long a write took to be answered.
    pub fn write_took(&self, time: Duration) {
        self.slowest_write.learn(time);
    }

    /// Requests that were tried again so far.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Whether a write sent at this time will be answered in time. As things go, that may take twice as long as the slowest
    /// so far; and one that is not answered could be carried out after this call has told its count.
    #[must_use]
    pub fn may_write(&self, at: Instant) -> bool {
        at < self.stop_writing && at + 2 * self.slowest_write.so_far() < self.writes_end
    }
}

impl Slowest {
    fn learn(&self, time: Duration) {
        self.0.fetch_max(time.as_micros().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn so_far(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// The attempts at one thing: each a time-out, with a back-off before all but the first.
#[derive(Debug)]
pub struct Attempts<'a> {
    budget: &'a Budget,
    made: u32,
    most: u32,
    first_timeout: Duration,
    /// An attempt waits for no more than this part of the time left.
    share_of_time_left: u32,
    start_by: Instant,
    end_by: Instant,
}

impl<'a> Attempts<'a> {
    /// Attempts at a read.
    #[must_use]
    pub fn read(budget: &'a Budget) -> Self {
        Self::reading(budget, READ_ATTEMPTS, FIRST_READ_TIMEOUT)
    }

    /// Attempts at a look at what became of a write.
    #[must_use]
    pub fn look(budget: &'a Budget) -> Self {
        Self::reading(budget, LOOK_ATTEMPTS, FIRST_LOOK_TIMEOUT)
    }

    fn reading(budget: &'a Budget, most: u32, first_timeout: Duration) -> Self {
        let first_timeout = first_timeout.max(2 * budget.slowest_read.so_far());
        let (start_by, end_by) = (budget.answer_by, budget.answer_by);
        Self { budget, made: 0, most, first_timeout, share_of_time_left: 2, start_by, end_by }
    }

    /// Attempts at a write.
    #[must_use]
    pub fn write(budget: &'a Budget) -> Self {
        let (most, first_timeout) = (WRITE_ATTEMPTS, FIRST_WRITE_TIMEOUT);
        let (start_by, end_by) = (budget.stop_writing, budget.writes_end);
        Self { budget, made: 0, most, first_timeout, share_of_time_left: 1, start_by, end_by }
    }

    /// Backs off if this is not the first attempt, then gives how long the next one may wait; `None` if there is none.
    ///
    /// The back-off is drawn evenly between nothing and its ceiling, since equal ones would bring throttled callers back
    /// together. Source: "Exponential Backoff And Jitter" in the AWS Architecture Blog.
    pub async fn next(&mut self) -> Option<Duration> {
        if self.made == self.most {
            return None;
        }
        let retries = self.made.checked_sub(1);
        if let Some(retries) = retries {
            let ceiling = doubled(FIRST_BACKOFF, retries).min(MAX_BACKOFF);
            let time_left = self.start_by.saturating_duration_since(Instant::now());
            sleep(ceiling.mul_f64(fastrand::f64()).min(time_left / 2)).await;
        }
        let now = Instant::now();
        if now >= self.start_by {
            return None;
        }
        if retries.is_some() {
            self.budget.retries.fetch_add(1, Ordering::Relaxed);
        }
        let timeout = doubled(self.first_timeout, self.made).min(MAX_TIMEOUT);
        self.made += 1;
        Some(timeout.min((self.end_by - now) / self.share_of_time_left))
    }

    /// The last attempt was a read and took so long to be answered: reads to come are given the time they need.
    pub fn answered_after(&self, time: Duration) {
        self.budget.slowest_read.learn(time);
    }

    /// The last attempt got further: count anew.
    pub fn made_progress(&mut self) {
        self.made = 1;
    }
}

/// The pauses between looks at writes that were given up, which may be carried out late.
#[derive(Debug)]
pub struct Pauses {
    next: Duration,
    until: Instant,
}

impl Pauses {
    /// Pauses until the writes must have become visible. Those that were met with silence may never be, or at any time.
    #[must_use]
    pub fn until_visible(budget: &Budget, silence: bool) -> Self {
        let until = if silence { budget.answer_by } else { budget.answer_by.min(Instant::now() + STRAGGLING) };
        Self { next: FIRST_PAUSE, until }
    }

    /// Waits, for no more than half of the time left; false if there is no time for another look.
    pub async fn next(&mut self) -> bool {
        let time_left = self.until.saturating_duration_since(Instant::now());
        if time_left < LAST_LOOK {
            return false;
        }
        sleep(self.next.min(time_left / 2)).await;
        self.next = doubled(self.next, 1).min(MAX_BACKOFF);
        true
    }
}

fn doubled(duration: Duration, times: u32) -> Duration {
    duration.saturating_mul(2_u32.saturating_pow(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis_from_now(instant: Instant) -> u128 {
        (instant - Instant::now()).as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_after_the_last_write_fits_before_the_deadline() {
        let budget = Budget::lasting(Duration::from_secs(29));
        assert_eq!(millis_from_now(budget.stop_writing), 25_500);
        assert_eq!(millis_from_now(budget.writes_end), 26_500);
        assert_eq!(millis_from_now(budget.answer_by), 28_500);
        let budget = Budget::lasting(Duration::from_secs(1));
        assert_eq!(millis_from_now(budget.stop_writing), 450);
        assert_eq!(millis_from_now(budget.writes_end), 650);
        assert_eq!(millis_from_now(budget.answer_by), 900);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_in_the_past_counts_as_none() {
        let now = SystemTime::now();
        let budget = Budget::until(SystemTime::UNIX_EPOCH, now);
        assert_eq!(millis_from_now(budget.answer_by), 24_500);
        let far = now + Duration::from_secs(u64::from(u32::MAX));
        assert!(millis_from_now(Budget::until(far, now).answer_by) > 3_600_000);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_after_their_number() {
        let budget = Budget::lasting(Duration::from_secs(29));
        let mut attempts = Attempts::read(&budget);
        let mut timeouts = Vec::new();
        while let Some(timeout) = attempts.next().await {
            timeouts.push(timeout.as_millis());
        }
        assert_eq!(timeouts, [500, 1000, 2000, 3000, 3000]);
        assert_eq!(budget.retries(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_reads_are_given_the_time_they_need() {
        let budget = Budget::lasting(Duration::from_secs(29));
        assert_eq!(Attempts::look(&budget).next().await, Some(Duration::from_millis(100)));
        Attempts::read(&budget).answered_after(Duration::from_millis(600));
        Attempts::read(&budget).answered_after(Duration::from_millis(10));
        assert_eq!(Attempts::look(&budget).next().await, Some(Duration::from_millis(1_200)));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_another_try_until_the_end() {
        let budget = Budget::lasting(Duration::from_millis(500));
        let mut attempts = Attempts::look(&budget);
        let mut last = Instant::now();
        while let Some(timeout) = attempts.next().await {
            assert!(timeout > Duration::ZERO);
            sleep(timeout).await;
            last = Instant::now();
        }
        assert!(budget.answer_by - last < Duration::from_millis(5), "{:?}", budget.answer_by - last);
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_outlasts_the_budget() {
        let budget = Budget::lasting(Duration::from_secs(4));
        let mut attempts = Attempts::write(&budget);
        while let Some(timeout) = attempts.next().await {
            assert!(Instant::now() < budget.stop_writing);
            assert!(Instant::now() + timeout <= budget.writes_end);
            sleep(timeout).await;
            attempts.made_progress();
        }
        assert!(Instant::now() <= budget.writes_end);
    }
}
