//! How much a call does at once, and how often it tries.

/// The limits of one call. Tests make the limits small, so that few sessions reach all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most sessions in one batch of writes, or in one read of sessions.
    pub batch: usize,
    /// The most batches of writes and reads of sessions under way at once.
    pub in_flight: usize,
    /// The most index entries on one page, revoked ones included.
    pub page: i32,
    /// The most attempts at one read, or to revoke one session, of which none gets further.
    pub attempts: u32,
}

impl Limits {
    /// The limits of the deployed function.
    pub const DEPLOYED: Self = Self {
        // The most statements that `BatchExecuteStatement` accepts.
        batch: 25,
        // 500 sessions in one round trip. More batches at once would need more connections, and the index partition of a user
        // accepts only 1,000 writes a second anyway.
        in_flight: 20,
        // 80 full batches, some 200 kB. The largest page that DynamoDB gives (1 MB) would cost several megabytes of memory and
        // save little, since the next page is read while the sessions of this page are written.
        page: 2_000,
        // The back-offs between eight attempts take 1.8 s on average: about as long as DynamoDB needs to split a partition that
        // is too busy.
        attempts: 8,
    };
}
