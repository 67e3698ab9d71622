//! What the simulation may expect of the code between the index and the count. Issue by issue it may expect more.

/// Round trips of a call with 1 to 500 other sessions when nothing is wrong.
pub const ROUND_TRIPS: u64 = 3;

/// Whether sessions are read in batches, by `BatchGetItem`.
pub const READS_IN_BATCHES: bool = true;

/// Whether a session is counted at most once in a call, also if the index shows it on two pages, or if it is activated again
/// and revoked again.
pub const COUNTS_A_SESSION_ONCE: bool = true;

/// Whether a session is done with only when a statement has reported the change or a consistent read shows it done.
pub const RESTS_ON_EVIDENCE: bool = true;

/// Whether `revocation_id` is Lambda's id of the invocation. The gateway's can be chosen by the client.
pub const REVOCATION_ID_IS_LAMBDAS: bool = true;

/// How long a call with 8,000 others may take under a partition's limit, in terms of the least that it could.
pub const MOST_TIME_OF_FLOOR: f64 = 1.1;

/// The part of the writes that may be throttled then.
pub const MOST_WASTE: f64 = 0.1;
