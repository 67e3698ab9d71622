//! How much a call does at once, and how often it tries.

/// The limits of one call. Tests can make these numbers small, so that few sessions reach all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions of one batch of writes, and of one read of sessions.
    pub batch: usize,
    /// Writes and reads of sessions under way at once.
    pub in_flight: usize,
    /// Index entries of one page.
    pub page: i32,
    /// Attempts at one thing in a row of which none gets further: a read, or the revocation of a session.
    pub attempts: u32,
}

impl Limits {
    /// The limits of the deployed function.
    pub const DEPLOYED: Self = Self {
        // The most statements that `BatchExecuteStatement` accepts.
        batch: 25,
        // 500 sessions in one round trip. More would need more connections, and the index partition of a user accepts only
        // 1,000 writes a second anyway.
        in_flight: 20,
        // 80 full batches, some 200 kB. The largest page that DynamoDB gives (1 MB) would cost several megabytes of memory and
        // save little, since the next page is read while this one is worked on.
        page: 2_000,
        // With the back-offs of `budget` they span 1.8 s on average. DynamoDB needs about that long to split a partition that
        // is too busy.
        attempts: 8,
    };
}
