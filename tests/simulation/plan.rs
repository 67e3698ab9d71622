//! What will happen in one trial, drawn from a seed before the trial begins: sessions, calls, faults, and what other people do.
//!
//! A plan is a list of parts. Each part can be left out without changing what the others mean, so that a failing trial can be
//! repeated with fewer and fewer of them.

use std::fmt;

use fastrand::Rng;

/// A trial.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub service: Behaviour,
    pub sessions: Vec<PlannedSession>,
    pub presses: Vec<Press>,
    pub faults: Vec<PlannedFault>,
    pub acts: Vec<Act>,
}

/// How network and service behave when nothing is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// Every request takes exactly this long and opening a connection nothing, in milliseconds. Drawn if `None`.
    pub exact_latency: Option<u64>,
    /// The most entries that DynamoDB returns in one page of the index, if fewer than requested.
    pub page_limit: Option<u64>,
    pub partition: Option<Partition>,
    pub lag: Lag,
}

/// What the index partition of a user can write.
#[derive(Clone, Copy, Debug)]
pub struct Partition {
    /// Writes a second.
    pub rate: f64,
    /// Unused capacity that can be used later, in writes.
    pub burst: f64,
}

/// How far the index is behind the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    None,
    /// As measured on DynamoDB: mostly below 10 ms, 0.3 % above 100 ms.
    Usual,
    /// Often seconds.
    Long,
}

#[derive(Clone, Copy, Debug)]
pub struct PlannedSession {
    /// Part of its id.
    pub number: usize,
    pub kind: Kind,
}

/// The state in which a session of the caller's user begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Active,
    WithForeignAttributes,
    Expired,
    Suspended,
    WithoutStatus,
    Revoked,
}

/// One press of the button, and perhaps a second one at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Press {
    /// Calls are counted by press: the first has twice this number, the one beside it one more.
    pub number: usize,
    /// Time before it, in which the sandbox is frozen, in milliseconds.
    pub pause: u64,
    /// What happens to idle connections in this time: to each with this probability.
    pub meanwhile: Option<(Death, f64)>,
    /// Time until Lambda's deadline, in milliseconds.
    pub timeout: u64,
    pub gateway: u8,
    pub credential: u8,
    pub beside: Option<Beside>,
}

/// A second press of the button.
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    /// Milliseconds after the first.
    pub after: u64,
    /// The session that presses: the caller's if `None`.
    pub by: Option<usize>,
}

/// How a connection can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Closed by the server. The client has noticed before it sends again.
    Closed,
    /// Answers the next request with a reset.
    Reset,
    /// Whatever is sent is lost, without a sign.
    Silent,
}

/// A fault and the requests that it meets.
#[derive(Clone, Copy, Debug)]
pub struct PlannedFault {
    pub call: usize,
    pub step: Step,
    /// The request of this step of this call, counted from 0.
    pub nth: u32,
    /// Whether it meets all requests of the step after that one too.
    pub onwards: bool,
    pub fault: Fault,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The request that opens a connection during the start.
    Connect,
    /// Who calls.
    Caller,
    /// The first page of the first look at the index.
    FirstPage,
    /// Any further page of a look.
    FurtherPage,
    /// The first page of any further look.
    LaterLook,
    /// A batch of sessions that no batch of this call has named before.
    Write,
    /// A batch with a session that was sent before.
    WriteAgain,
    /// A consistent read of sessions that are not the caller's.
    Sessions,
}

impl Step {
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Caller,
        Self::FirstPage,
        Self::FurtherPage,
        Self::LaterLook,
        Self::Write,
        Self::WriteAgain,
        Self::Sessions,
    ];

    pub fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::WriteAgain)
    }

    pub fn is_page(self) -> bool {
        matches!(self, Self::FirstPage | Self::FurtherPage | Self::LaterLook)
    }
}

/// Something that goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// DynamoDB's code of a throttled request.
    Throttled(u8),
    InternalError,
    Unavailable,
    AccessDenied,
    Invalid,
    /// An answer that is not DynamoDB's, to a request that was not carried out.
    Garbled,
    Refused,
    Reset,
    /// Never arrives.
    Hang,
    /// Arrives this many milliseconds late.
    SlowRequest(u64),
    /// Carried out, and answered this many milliseconds late.
    SlowAnswer(u64),
    /// Carried out, and the connection is closed instead of an answer.
    LostAnswer,
    /// Carried out, and never answered.
    HungAnswer,
    /// Carried out, and answered with something that is not DynamoDB's.
    GarbledAnswer,
    /// Carried out, and answered with an internal error.
    ErrorAfter,
    /// Never answered, and carried out this many milliseconds later.
    Late(u64),
    /// Some statements of a batch fail, each with a code of its own, drawn from this seed.
    Statements(u64),
    /// Some statements of a batch are carried out and answered with an internal error.
    StatementsAfter(u64),
    /// Only this part of a batch is carried out and answered.
    Curtailed(f64),
    /// Only this part of the answer to a batch arrives.
    TailLost(f64),
    /// All is carried out, and the answer is an empty object.
    Empty,
    /// Some keys of a batch of reads are not processed.
    Unprocessed(u64),
    /// Some entries are on the page twice.
    Twice(u64),
    /// Some entries of pages before are on this page too.
    Again(u64),
    /// Some entries are missing on the page.
    Missed(u64),
    /// The page shows entries as they once were, of sessions that may be revoked, gone, or of another user by now.
    Stale(u64),
}

impl Fault {
    pub const NAMES: [&'static str; 26] = [
        "Throttled",
        "InternalError",
        "Unavailable",
        "AccessDenied",
        "Invalid",
        "Garbled",
        "Refused",
        "Reset",
        "Hang",
        "SlowRequest",
        "SlowAnswer",
        "LostAnswer",
        "HungAnswer",
        "GarbledAnswer",
        "ErrorAfter",
        "Late",
        "Statements",
        "StatementsAfter",
        "Curtailed",
        "TailLost",
        "Empty",
        "Unprocessed",
        "Twice",
        "Again",
        "Missed",
        "Stale",
    ];

    fn drawn(kind: usize, rng: &mut Rng) -> Self {
        match kind {
            0 => Self::Throttled(rng.u8(0..4)),
            1 => Self::InternalError,
            2 => Self::Unavailable,
            3 => Self::AccessDenied,
            4 => Self::Invalid,
            5 => Self::Garbled,
            6 => Self::Refused,
            7 => Self::Reset,
            8 => Self::Hang,
            9 => Self::SlowRequest(rng.u64(10..900)),
            10 => Self::SlowAnswer(rng.u64(10..900)),
            11 => Self::LostAnswer,
            12 => Self::HungAnswer,
            13 => Self::GarbledAnswer,
            14 => Self::ErrorAfter,
            15 => Self::Late(if rng.bool() { rng.u64(50..3_000) } else { rng.u64(50..30_000) }),
            16 => Self::Statements(rng.u64(..)),
            17 => Self::StatementsAfter(rng.u64(..)),
            18 => Self::Curtailed(rng.f64()),
            19 => Self::TailLost(rng.f64()),
            20 => Self::Empty,
            21 => Self::Unprocessed(rng.u64(..)),
            22 => Self::Twice(rng.u64(..)),
            23 => Self::Again(rng.u64(..)),
            24 => Self::Missed(rng.u64(..)),
            _ => Self::Stale(rng.u64(..)),
        }
    }

    /// Its place in [`Fault::NAMES`].
    pub fn kind(self) -> usize {
        match self {
            Self::Throttled(_) => 0,
            Self::InternalError => 1,
            Self::Unavailable => 2,
            Self::AccessDenied => 3,
            Self::Invalid => 4,
            Self::Garbled => 5,
            Self::Refused => 6,
            Self::Reset => 7,
            Self::Hang => 8,
            Self::SlowRequest(_) => 9,
            Self::SlowAnswer(_) => 10,
            Self::LostAnswer => 11,
            Self::HungAnswer => 12,
            Self::GarbledAnswer => 13,
            Self::ErrorAfter => 14,
            Self::Late(_) => 15,
            Self::Statements(_) => 16,
            Self::StatementsAfter(_) => 17,
            Self::Curtailed(_) => 18,
            Self::TailLost(_) => 19,
            Self::Empty => 20,
            Self::Unprocessed(_) => 21,
            Self::Twice(_) => 22,
            Self::Again(_) => 23,
            Self::Missed(_) => 24,
            Self::Stale(_) => 25,
        }
    }

    /// Whether a fault of this kind can meet a request of this step.
    pub fn can_meet(kind: usize, step: Step) -> bool {
        match kind {
            0..=14 => true,
            15..=20 => step.is_write(),
            21 => step == Step::Sessions,
            23 => step == Step::FurtherPage,
            _ => step.is_page(),
        }
    }

    /// Whether the call may fail for good because of it.
    pub fn is_permanent(self) -> bool {
        matches!(self, Self::AccessDenied | Self::Invalid)
    }

    /// Whether it changes only what the index shows, which is no reason to fail.
    pub fn is_of_the_index(self) -> bool {
        matches!(self, Self::Twice(_) | Self::Again(_) | Self::Missed(_) | Self::Stale(_))
    }
}

/// Something that others do.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// The call during which it happens.
    pub call: usize,
    pub when: When,
    pub deed: Deed,
    pub on: Target,
}

#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Milliseconds after the call has begun.
    After(u64),
    /// Just before this request of a step is carried out.
    Before(Step, u32),
    /// Just after this request of a step was carried out, before its answer arrives.
    Behind(Step, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Caller,
    /// By its number.
    Session(usize),
}

/// What an application, or DynamoDB itself, can do to sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A new sign-in.
    Create,
    /// A later `expires_at`.
    Extend,
    /// The same session under a new token: the old item goes, a new one comes.
    Rotate,
    /// The whole item is written as if it were new, and is active.
    Reactivate,
    /// The session gets another owner.
    MoveAway,
    /// A session of another user becomes the caller's.
    MoveHere,
    Delete,
    /// The application revokes it itself.
    Revoke,
    /// A status of the application's own.
    Suspend,
    /// TTL deletes what has expired.
    Sweep,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x0005_eed0_fa71_a1a1);
        let sessions = sessions(&mut rng);
        let service = behaviour(&mut rng, sessions.len());
        let presses = presses(&mut rng, sessions.len());
        let (mut faults, mut acts) = (Vec::new(), Vec::new());
        // Some trials have one kind of trouble only, so that it is not hidden by another.
        let (with_faults, with_acts) = [(true, true), (true, false), (false, true), (true, true)][rng.usize(0..4)];
        for press in &presses {
            let calls = 2 * press.number..=2 * press.number + usize::from(press.beside.is_some());
            for call in calls {
                if with_faults {
                    draw_faults(&mut rng, call, &mut faults);
                }
                if with_acts {
                    draw_acts(&mut rng, call, sessions.len(), &mut acts);
                }
            }
        }
        Self { seed, service, sessions, presses, faults, acts }
    }

    /// The fault that meets this request.
    pub fn fault(&self, call: usize, step: Step, nth: u32) -> Option<Fault> {
        let meets = |planned: &&PlannedFault| {
            planned.call == call
                && planned.step == step
                && (planned.nth == nth || planned.onwards && planned.nth <= nth)
        };
        self.faults.iter().find(meets).map(|planned| planned.fault)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.service)?;
        let sessions = self.sessions.iter().map(|session| format!("s{} {:?}", session.number, session.kind));
        writeln!(f, "sessions: {}", sessions.collect::<Vec<_>>().join(", "))?;
        self.presses.iter().try_for_each(|press| writeln!(f, "{press:?}"))?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault:?}"))?;
        self.acts.iter().try_for_each(|act| writeln!(f, "{act:?}"))
    }
}

fn sessions(rng: &mut Rng) -> Vec<PlannedSession> {
    // Above 25 there are several batches. Most mistakes show with few sessions, which take less time.
    let number = match rng.u8(0..100) {
        0..55 => rng.usize(0..7),
        55..88 => rng.usize(0..20),
        88..98 => rng.usize(20..60),
        _ => rng.usize(60..200),
    };
    let kind = |rng: &mut Rng| match rng.u8(0..12) {
        0 => Kind::Expired,
        1 => Kind::Suspended,
        2 => Kind::WithoutStatus,
        3 => Kind::Revoked,
        4 => Kind::WithForeignAttributes,
        _ => Kind::Active,
    };
    (0..number).map(|number| PlannedSession { number, kind: kind(rng) }).collect()
}

fn behaviour(rng: &mut Rng, sessions: usize) -> Behaviour {
    let page_limit = match rng.u8(0..4) {
        0 => Some(rng.u64(2..6)),
        1 => Some(rng.u64(3..50)),
        _ => None,
    };
    let rate = (sessions as f64 / 4.0).max(20.0) * (1.0 + rng.f64());
    let partition = (rng.u8(0..4) == 0).then(|| Partition { rate, burst: (rate * rng.f64()).max(5.0) });
    let lag = [Lag::None, Lag::Usual, Lag::Usual, Lag::Long][rng.usize(0..4)];
    // Pages of two entries for hundreds of sessions show nothing new and take long.
    let page_limit = page_limit.map(|limit| limit.max(sessions as u64 / 20));
    Behaviour { exact_latency: None, page_limit, partition, lag }
}

fn presses(rng: &mut Rng, sessions: usize) -> Vec<Press> {
    let number = rng.usize(1..4);
    let press = |number| Press {
        number,
        pause: match rng.u8(0..4) {
            0 => 0,
            1 => rng.u64(0..2_000),
            2 => rng.u64(1_000..60_000),
            _ => rng.u64(60_000..1_800_000),
        },
        meanwhile: (rng.u8(0..4) == 0)
            .then(|| ([Death::Closed, Death::Reset, Death::Silent][rng.usize(0..3)], [0.3, 1.0][rng.usize(0..2)])),
        timeout: match rng.u8(0..8) {
            0 => rng.u64(1_000..3_000),
            1..3 => rng.u64(3_000..10_000),
            3 => rng.u64(10_000..29_000),
            _ => 29_000,
        },
        gateway: rng.u8(0..4),
        credential: rng.u8(0..3),
        beside: (rng.u8(0..4) == 0).then(|| Beside {
            after: rng.u64(0..40),
            by: if sessions > 0 && rng.bool() { Some(rng.usize(0..sessions)) } else { None },
        }),
    };
    (0..number).map(press).collect()
}

/// Faults of a call: for each step a rate of its own, so that most calls get far enough to meet faults of later steps.
fn draw_faults(rng: &mut Rng, call: usize, faults: &mut Vec<PlannedFault>) {
    for step in Step::ALL {
        let (rate, nths) = match step {
            Step::Connect => (0.1, 1),
            Step::Caller => (0.12 * rng.f64(), 3),
            Step::FirstPage | Step::LaterLook => (0.35 * rng.f64(), 4),
            Step::FurtherPage => (0.2 * rng.f64(), 6),
            Step::Write => (0.8 * rng.f64(), 4),
            Step::WriteAgain => (0.6 * rng.f64() * rng.f64(), 8),
            Step::Sessions => (0.5 * rng.f64() * rng.f64(), 12),
        };
        for nth in 0..nths {
            if rng.f64() < rate
                && let Some(fault) = draw_fault(rng, step)
            {
                faults.push(PlannedFault { call, step, nth, onwards: rng.u8(0..24) == 0, fault });
            }
        }
    }
}

fn draw_fault(rng: &mut Rng, step: Step) -> Option<Fault> {
    let possible: Vec<_> = (0..Fault::NAMES.len()).filter(|kind| Fault::can_meet(*kind, step)).collect();
    let fault = Fault::drawn(possible[rng.usize(0..possible.len())], rng);
    // After a permanent error there is little to see.
    (!fault.is_permanent() || rng.u8(0..4) == 0).then_some(fault)
}

fn draw_acts(rng: &mut Rng, call: usize, sessions: usize, acts: &mut Vec<Act>) {
    let number = if rng.bool() { 0 } else { rng.usize(0..5) };
    for _ in 0..number {
        let step = Step::ALL[rng.usize(1..Step::ALL.len())];
        let nth = rng.u32(0..3);
        let when = match rng.u8(0..3) {
            0 => When::After(rng.u64(0..60)),
            1 => When::Before(step, nth),
            _ => When::Behind(step, nth),
        };
        let deed = [
            Deed::Create,
            Deed::Extend,
            Deed::Rotate,
            Deed::Reactivate,
            Deed::Reactivate,
            Deed::MoveAway,
            Deed::MoveAway,
            Deed::MoveHere,
            Deed::Delete,
            Deed::Revoke,
            Deed::Suspend,
            Deed::Sweep,
        ][rng.usize(0..12)];
        let on =
            if sessions == 0 || rng.u8(0..24) == 0 { Target::Caller } else { Target::Session(rng.usize(0..sessions)) };
        acts.push(Act { call, when, deed, on });
    }
}
