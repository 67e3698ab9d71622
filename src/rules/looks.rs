//! When to look at the index, and when the looks are enough. A *look* reads the index from its first page to its last. Plain
//! data: no I/O, no clock.
//!
//! The index lags behind the table, so one look can miss a session. A look that shows a session for the first time is followed by
//! another look. If a read finds that somebody else has ended a session, the application may have replaced that session by a new
//! one, as it does when it rotates a token. The index may not show the new session yet, so the looks go on for as long as the
//! index may lag.
//!
//! ```text
//!                 nothing new              a session was replaced                      nothing new for a second
//!   look, look, … -----------> enough ------------------------> look, pause, look, … ------------------------> enough
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::budget::{Budget, INDEX_LAG, Timeout, pause};
use super::evidence::{Attempts, Cause};

/// The state of the looks of one call.
#[derive(Debug)]
pub struct Looks<C> {
    state: State<C>,
    /// When the latest look began, which is when its first page was first requested; `None` before the first look.
    begun: Option<Instant>,
    /// Whether the latest look shows a session that no earlier look has shown.
    shows_new: bool,
    /// When a read last found a session that may have been replaced.
    replaced_at: Option<Instant>,
    /// How many looks have ended since the first such read. The pause before the next look grows with them.
    since_replaced: u32,
}

#[derive(Debug)]
enum State<C> {
    /// A page waits to be read, not before this time.
    Due(NextPage<C>, Instant),
    /// A page is being read, since this time.
    UnderWay(NextPage<C>, Instant),
    /// The latest look has shown nothing new, and nothing makes another look necessary.
    Enough,
    /// A look is necessary, and no page can be read any more, for this cause.
    Failed(Cause),
}

/// The next page to read, and the attempts at it.
#[derive(Clone, Debug)]
struct NextPage<C> {
    /// Where the page begins; `None` is the first page of a look.
    from: Option<C>,
    attempts: Attempts,
}

/// The request of a page, for the driver.
#[derive(Debug)]
pub struct PageRequest<C> {
    /// Where the page begins; `None` is the first page of a look.
    pub from: Option<C>,
    /// How long to wait for the response.
    pub timeout: Timeout,
    /// Whether an attempt at this page has failed before.
    pub again: bool,
}

impl<C: Clone> Looks<C> {
    /// Looks of which the first is due now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Due(NextPage { from: None, attempts: Attempts::default() }, now),
            begun: None,
            shows_new: false,
            replaced_at: None,
            since_replaced: 0,
        }
    }

    /// When the next page may be requested, and whether it is the first one of a look; `None` if no page is to be read.
    #[must_use]
    pub fn due(&self) -> Option<(Instant, bool)> {
        match &self.state {
            State::Due(page, at) => Some((*at, page.from.is_none())),
            State::UnderWay(..) | State::Enough | State::Failed(_) => None,
        }
    }

    /// Requests the page that is due. `None` if there is no time left.
    pub fn begin(&mut self, budget: &Budget, now: Instant) -> Option<PageRequest<C>> {
        let State::Due(page, _) = &self.state else { return None };
        let Some(timeout) = budget.read_timeout(page.attempts.failed(), now) else {
            self.fail(Cause::OutOfTime);
            return None;
        };
        let again = page.attempts.failed() > 0;
        let request = PageRequest { from: page.from.clone(), timeout, again };
        if page.from.is_none() && !again {
            self.begun = Some(now);
        }
        self.state = State::UnderWay(page.clone(), now);
        Some(request)
    }

    /// Applies a page that has been read. `shows_new` says whether the page shows a session for the first time, and `next` where
    /// the next page begins. Returns how long the read took.
    pub fn page_read(
        &mut self,
        shows_new: bool,
        next: Option<C>,
        budget: &Budget,
        now: Instant,
        random: f64,
    ) -> Duration {
        let State::UnderWay(_, since) = self.state else { return Duration::ZERO };
        self.shows_new |= shows_new;
        let is_last = next.is_none();
        self.state = State::Due(NextPage { from: next, attempts: Attempts::default() }, now);
        if is_last {
            self.look_ended(budget, now, random);
        }
        now - since
    }

    /// Applies a failed read of a page: the page is read again after a back-off, while one of `attempts` is left.
    pub fn page_failed(&mut self, cause: Cause, attempts: u32, budget: &Budget, now: Instant, random: f64) {
        let State::UnderWay(page, _) = &self.state else { return };
        let mut page = page.clone();
        page.attempts.fail(cause);
        if page.attempts.are_used_up(attempts) {
            self.fail(page.attempts.conclusion());
        } else {
            let at = budget.retry_at(cause, page.attempts.failed(), now, random);
            self.state = State::Due(page, at);
        }
    }

    /// Makes further looks necessary: somebody else has ended a session that the index shows live, and may have replaced it.
    pub fn replaced(&mut self, now: Instant) {
        self.replaced_at = Some(now);
        if matches!(self.state, State::Enough) {
            self.state = State::Due(NextPage { from: None, attempts: Attempts::default() }, now);
        }
    }

    /// Reads no further page, for this cause. Looks that are enough stay enough: no page is missing then.
    pub fn fail(&mut self, cause: Cause) {
        if !matches!(self.state, State::Enough) {
            self.state = State::Failed(cause);
        }
    }

    /// Whether no further look is necessary.
    #[must_use]
    pub fn are_enough(&self) -> bool {
        matches!(self.state, State::Enough)
    }

    /// Why no page can be read any more; `None` while pages can be read, or the looks are enough.
    #[must_use]
    pub fn failure(&self) -> Option<Cause> {
        if let State::Failed(cause) = self.state { Some(cause) } else { None }
    }

    fn look_ended(&mut self, budget: &Budget, now: Instant, random: f64) {
        let shows_new = std::mem::take(&mut self.shows_new);
        let begun = self.begun.unwrap_or(now);
        let at = match self.replaced_at {
            None if shows_new => now,
            None => {
                self.state = State::Enough;
                return;
            }
            Some(replaced_at) if !shows_new && begun >= replaced_at + INDEX_LAG => {
                self.state = State::Enough;
                return;
            }
            Some(replaced_at) => {
                let after_pause = now + pause(self.since_replaced, random);
                self.since_replaced += 1;
                // A look that begins `INDEX_LAG` after the session was found can be the last one, so no pause delays it.
                let last = replaced_at + INDEX_LAG;
                let at = if now < last { after_pause.min(last) } else { after_pause };
                at.min(budget.answer_by)
            }
        };
        self.state = State::Due(NextPage { from: None, attempts: Attempts::default() }, at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const PAGE: Duration = Duration::from_millis(5);

    fn begin() -> (Looks<u32>, Budget, Instant) {
        let (wall, now) = (SystemTime::now(), Instant::now());
        (Looks::new(now), Budget::until(wall + Duration::from_secs(29), wall, now), now)
    }

    /// Looks at an index of one page from `now` on until the looks are enough; returns when they began, in milliseconds.
    fn looks(looks: &mut Looks<u32>, budget: &Budget, now: Instant, shows_new: impl Fn(usize) -> bool) -> Vec<u128> {
        let (mut at, mut begun) = (now, Vec::new());
        while let Some((due, is_first)) = looks.due() {
            assert!(is_first);
            at = at.max(due);
            assert!(looks.begin(budget, at).is_some());
            begun.push((at - now).as_millis());
            at += PAGE;
            looks.page_read(shows_new(begun.len()), None, budget, at, 1.0);
        }
        assert!(looks.are_enough());
        begun
    }

    #[test]
    fn looks_go_on_until_one_shows_nothing_new() {
        let (mut first, budget, now) = begin();
        assert_eq!(looks(&mut first, &budget, now, |_| false), [0]);
        let (mut others, budget, now) = begin();
        assert_eq!(looks(&mut others, &budget, now, |number| number < 3), [0, 5, 10]);
    }

    #[test]
    fn after_a_session_was_replaced_a_last_look_begins_a_second_later() {
        let (mut replaced, budget, now) = begin();
        looks(&mut replaced, &budget, now, |_| false);
        replaced.replaced(now);
        assert_eq!(looks(&mut replaced, &budget, now, |_| false), [0, 5, 35, 90, 195, 350, 505, 660, 815, 970, 1_000]);
        // After another session was replaced, there is a look at once, and a last one a second later.
        let later = now + Duration::from_secs(5);
        replaced.replaced(later);
        let begun = looks(&mut replaced, &budget, later, |_| false);
        assert_eq!((begun.first(), begun.last()), (Some(&0), Some(&1_000)));
    }

    #[test]
    fn a_look_that_began_too_early_is_followed_by_a_pause_even_if_it_ends_a_second_later() {
        let (mut replaced, budget, now) = begin();
        replaced.replaced(now);
        for ended in [now + PAGE, now + INDEX_LAG] {
            replaced.begin(&budget, ended - PAGE);
            replaced.page_read(false, None, &budget, ended, 1.0);
        }
        assert!(replaced.due().is_some_and(|(at, _)| at > now + INDEX_LAG));
    }

    #[test]
    fn a_new_session_in_the_last_look_makes_another_look_necessary() {
        let (mut replaced, budget, now) = begin();
        replaced.replaced(now);
        let begun = looks(&mut replaced, &budget, now, |number| number == 11);
        assert_eq!(begun.iter().filter(|at| **at >= 1_000).count(), 2, "{begun:?}");
    }

    #[test]
    fn a_look_begins_with_the_first_attempt_at_its_first_page() {
        let (mut long, budget, now) = begin();
        long.begin(&budget, now);
        long.page_failed(Cause::Throttled, 8, &budget, now, 0.0);
        long.begin(&budget, now + INDEX_LAG);
        long.replaced(now);
        long.page_read(false, Some(1), &budget, now + INDEX_LAG, 1.0);
        long.begin(&budget, now + INDEX_LAG);
        long.page_read(false, None, &budget, now + INDEX_LAG, 1.0);
        assert!(!long.are_enough() && long.due().is_some());
    }

    #[test]
    fn no_pause_is_longer_than_the_time_left() {
        let (mut late, budget, _) = begin();
        let now = budget.answer_by - Duration::from_millis(60);
        late.replaced(now);
        while let Some((at, _)) = late.due() {
            assert!(at <= budget.answer_by);
            if late.begin(&budget, at.max(now)).is_some() {
                late.page_read(false, None, &budget, at.max(now) + PAGE, 1.0);
            }
        }
        assert_eq!(late.failure(), Some(Cause::OutOfTime));
    }

    #[test]
    fn looks_at_an_index_that_cannot_be_read_are_never_enough() {
        let (mut failed, budget, now) = begin();
        for _ in 0..8 {
            assert_eq!(failed.failure(), None);
            failed.begin(&budget, now);
            failed.page_failed(Cause::Throttled, 8, &budget, now, 0.0);
        }
        failed.replaced(now);
        assert_eq!((failed.failure(), failed.are_enough(), failed.due()), (Some(Cause::Throttled), false, None));
        let (mut late, budget, _) = begin();
        assert!(late.begin(&budget, budget.answer_by).is_none());
        assert_eq!(late.failure(), Some(Cause::OutOfTime));
    }
}
