//! What can go wrong with one request: a table of faults, of the steps at which each can occur, and of how its number is drawn.

use fastrand::Rng;

use crate::answers::CELLS;
use crate::plan::Step;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident $(($type:ty, $draw:expr))?, $steps:expr;)*) => {
        /// Something that goes wrong with one request.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Fault { $($(#[$doc])* $name $(($type))?,)* }

        impl Fault {
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];
            const STEPS: &[fn(Step) -> bool] = &[$($steps),*];
            const DRAWN: &[fn(&mut Rng) -> Self] = &[$(|_rng| Self::$name $((($draw)(_rng)))?),*];

            /// Its place in [`Fault::NAMES`].
            pub fn kind(self) -> usize {
                let is = [$(matches!(self, Self::$name { .. })),*];
                is.iter().position(|is| *is).expect("one of the table")
            }
        }
    };
}

type Random<'a> = &'a mut Rng;

/// Steps: any.
fn any(_: Step) -> bool {
    true
}

fn seed(rng: Random) -> u64 {
    rng.u64(..)
}

/// Milliseconds that the function may or may not wait for.
fn slow(rng: Random) -> u64 {
    rng.u64(10..900)
}

/// Milliseconds after which a write that was given up can still be carried out.
fn late(rng: Random) -> u64 {
    let most = if rng.bool() { 3_000 } else { 30_000 };
    rng.u64(50..most)
}

faults! {
    /// A throttled request, with one of DynamoDB's codes for it.
    Throttled(u8, |rng: Random| rng.u8(0..4)), any;
    InternalError, any;
    Unavailable, any;
    AccessDenied, any;
    Invalid, any;
    /// A request that is refused with a code that nobody knows.
    UnknownCode, any;
    /// A request that is refused because of its signature, with one of the codes for it.
    Signature(u8, |rng: Random| rng.u8(0..3)), any;
    /// Requests with this access key are refused from now on: only new credentials help.
    KeyExpired, any;
    /// An answer that is not DynamoDB's, to a request that was not carried out.
    Garbled, any;
    Refused, any;
    Reset, any;
    /// The request never arrives.
    Hang, any;
    /// The request arrives this many milliseconds late.
    SlowRequest(u64, slow), any;
    /// Carried out, and answered this many milliseconds late.
    SlowAnswer(u64, slow), any;
    /// Carried out, and the connection is closed instead of an answer.
    LostAnswer, any;
    /// Carried out, and never answered.
    HungAnswer, any;
    /// Carried out, and answered with something that is not DynamoDB's.
    GarbledAnswer, any;
    /// Carried out, and answered with an internal error.
    ErrorAfter, any;
    /// Carried out, and the answer lacks something that such an answer always has: a cell of the table in `answers`.
    Damaged(usize, |rng: Random| rng.usize(0..CELLS.len())), any;
    /// Never answered, and carried out this many milliseconds later.
    Late(u64, late), Step::is_write;
    /// The connection is closed now, and the write is carried out this many milliseconds later.
    ClosedThenLate(u64, |rng: Random| rng.u64(10..1_400)), Step::is_write;
    /// The statements of a batch are carried out one part after the other, with pauses drawn from this seed.
    Staggered(u64, seed), Step::is_write;
    /// Some statements of a batch fail, each with a code of its own, drawn from this seed.
    Statements(u64, seed), Step::is_write;
    /// Some statements of a batch are carried out and answered with a code that does not say so.
    StatementsAfter(u64, seed), Step::is_write;
    /// Only this part of a batch is carried out and answered.
    Curtailed(f64, |rng: Random| rng.f64()), Step::is_write;
    /// Some keys of a batch of reads are not processed.
    Unprocessed(u64, seed), |step| step == Step::Sessions;
    /// Some entries are on the page twice.
    Twice(u64, seed), Step::is_page;
    /// Some entries of pages before are on this page too.
    Again(u64, seed), |step| step == Step::FurtherPage;
    /// Some entries are missing on the page.
    Missed(u64, seed), Step::is_page;
    /// The page shows entries as they once were, of sessions that may be revoked, gone, or of another user by now.
    Stale(u64, seed), Step::is_page;
}

impl Fault {
    /// A fault of this kind, at this step.
    pub fn drawn(kind: usize, step: Step, rng: &mut Rng) -> Self {
        loop {
            match Self::DRAWN[kind](rng) {
                Self::Damaged(place) if CELLS[place].operation != step.operation() => {}
                fault => return fault,
            }
        }
    }

    /// Whether a fault of this kind can meet a request of this step.
    pub fn can_meet(kind: usize, step: Step) -> bool {
        Self::STEPS[kind](step)
    }

    /// Whether the call may fail for good because of it.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::AccessDenied | Self::Invalid | Self::UnknownCode => true,
            Self::Damaged(place) => CELLS[place].breaks_an_item(),
            _ => false,
        }
    }

    /// Whether nothing was done because of the request's signature.
    pub fn is_of_the_signature(self) -> bool {
        matches!(self, Self::Signature(_) | Self::KeyExpired)
    }

    /// Whether it changes only what the index shows, which is no reason to fail.
    pub fn is_of_the_index(self) -> bool {
        matches!(self, Self::Twice(_) | Self::Again(_) | Self::Missed(_) | Self::Stale(_))
    }
}
