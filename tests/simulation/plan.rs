//! What will happen in one trial, drawn from a seed before the trial begins: sessions, calls, faults, and what other people do.
//!
//! A plan is a list of parts. Each part can be left out without changing what the others mean, so that a failing trial can be
//! repeated with fewer and fewer of them.

use std::fmt;

use disable_my_other_sessions::rules::limits::Limits;
use fastrand::Rng;

use crate::fault::Fault;

/// A trial.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub service: Behaviour,
    /// Of the function. Small ones are reached with few sessions.
    pub limits: Limits,
    pub sessions: Vec<PlannedSession>,
    pub intruder: Option<Intruder>,
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
    /// At most the second that the contract names: as measured, but one in four up to a second.
    UpToASecond,
    /// Exactly so many milliseconds.
    Exactly(u64),
}

#[derive(Clone, Copy, Debug)]
pub struct PlannedSession {
    /// Part of its id.
    pub number: usize,
    pub kind: Kind,
    pub trouble: Option<Trouble>,
}

/// What happens to every statement that names a session, in all calls but the last ones of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Refused for good, with one of the codes for it: the item may be too large, for example.
    Refused(u8),
    /// In conflict with transactions.
    Conflict,
    Throttled,
    /// Not carried out, and answered with a code that nobody knows.
    Unknown,
    /// Carried out, and answered with a code that nobody knows.
    UnknownAfter,
}

/// Somebody who holds one of the user's sessions, and makes the application rotate it in a loop while a call is made. A rotation
/// is one transaction: the old session ends, and a new one with another token begins.
#[derive(Clone, Copy, Debug)]
pub struct Intruder {
    /// The session that he begins with.
    pub session: usize,
    /// Milliseconds from one rotation to the next.
    pub period: u64,
    /// Milliseconds from the beginning of a call to the first rotation.
    pub phase: u64,
    /// Whether the application deletes the old session. Otherwise it revokes it, without a `revocation_id`.
    pub deletes: bool,
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
    pub oddity: Oddity,
    pub credential: u8,
    pub beside: Option<Beside>,
}

impl Press {
    /// A press without anything unusual.
    pub fn plain(number: usize, timeout: u64) -> Self {
        Self {
            number,
            pause: 0,
            meanwhile: None,
            timeout,
            gateway: 0,
            oddity: Oddity::None,
            credential: 0,
            beside: None,
        }
    }
}

/// Something in parts of the event that the function does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    None,
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// Half of a surrogate pair, escaped.
    HalfSurrogate,
    /// A body of this many bytes.
    Body(usize),
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

    pub fn operation(self) -> &'static str {
        match self {
            Self::Connect | Self::Caller => "GetItem",
            Self::FirstPage | Self::FurtherPage | Self::LaterLook => "Query",
            Self::Write | Self::WriteAgain => "BatchExecuteStatement",
            Self::Sessions => "BatchGetItem",
        }
    }

    pub fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::WriteAgain)
    }

    pub fn is_page(self) -> bool {
        matches!(self, Self::FirstPage | Self::FurtherPage | Self::LaterLook)
    }
}

/// Something that others do.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// Part of the name of what it makes.
    pub number: usize,
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
    /// It expires in so many milliseconds.
    ExpireIn(u64),
    /// TTL deletes what has expired.
    Sweep,
    /// The process of the function gets no CPU for so many milliseconds. Everybody else goes on.
    Stall(u64),
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x0005_eed0_fa71_a1a1);
        let sessions = sessions(&mut rng);
        let service = behaviour(&mut rng, sessions.len());
        let limits = limits(&mut rng, sessions.len());
        let presses = presses(&mut rng, sessions.len());
        let (mut faults, mut acts) = (Vec::new(), Vec::new());
        // Some trials have one kind of trouble only, so that it is not hidden by another.
        let (with_faults, with_acts) = [(true, true), (true, false), (false, true), (true, true)][rng.usize(0..4)];
        let is_busy = with_acts && rng.u8(0..20) == 0;
        for press in &presses {
            let calls = 2 * press.number..=2 * press.number + usize::from(press.beside.is_some());
            for call in calls {
                if with_faults {
                    draw_faults(&mut rng, call, &mut faults);
                }
                if with_acts {
                    draw_acts(&mut rng, call, sessions.len(), &mut acts);
                }
                if is_busy {
                    draw_busy_acts(&mut rng, call, sessions.len(), &mut acts);
                }
            }
        }
        let mut plan = Self { seed, service, limits, sessions, intruder: None, presses, faults, acts };
        if !plan.sessions.is_empty() && rng.u8(0..80) == 0 {
            plan.let_in_an_intruder(&mut rng);
        }
        plan
    }

    /// An intruder can be anywhere in a look of several pages, and where others reactivate his sessions. Both is left out.
    fn let_in_an_intruder(&mut self, rng: &mut Rng) {
        let period = match rng.u8(0..3) {
            0 => rng.u64(5..40),
            1 => rng.u64(40..400),
            _ => rng.u64(400..10_000),
        };
        let session = rng.usize(0..self.sessions.len());
        self.intruder = Some(Intruder { session, period, phase: rng.u64(0..period.min(60)), deletes: rng.bool() });
        self.sessions[session] = PlannedSession { number: session, kind: Kind::Active, trouble: None };
        self.acts.clear();
        self.service.lag = [Lag::None, Lag::Usual, Lag::UpToASecond, Lag::UpToASecond][rng.usize(0..4)];
        self.service.page_limit = None;
        self.limits.page = Limits::DEPLOYED.page;
        for press in &mut self.presses {
            // He does not press himself, and so many rotations are enough.
            press.beside.iter_mut().for_each(|beside| beside.by = beside.by.filter(|by| *by != session));
            press.timeout = press.timeout.min(1_000 + 200 * period);
        }
    }

    /// The place of the fault that meets this request.
    pub fn fault(&self, call: usize, step: Step, nth: u32) -> Option<usize> {
        let meets = |planned: &PlannedFault| {
            planned.call == call
                && planned.step == step
                && (planned.nth == nth || planned.onwards && planned.nth <= nth)
        };
        self.faults.iter().position(meets)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}\n{:?}", self.service, self.limits)?;
        let sessions = self.sessions.iter().map(|session| {
            let trouble = session.trouble.map_or_else(String::new, |trouble| format!(" {trouble:?}"));
            format!("s{} {:?}{trouble}", session.number, session.kind)
        });
        writeln!(f, "sessions: {}", sessions.collect::<Vec<_>>().join(", "))?;
        self.intruder.iter().try_for_each(|intruder| writeln!(f, "{intruder:?}"))?;
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
    // One session in trouble, or some, or all. Each is sent again for seconds, so not too many.
    let share = match rng.u8(0..40) {
        0 => 1.5 / number as f64,
        1 if number < 30 => 0.5,
        2 if number < 30 => 1.0,
        _ => 0.0,
    };
    let trouble = |rng: &mut Rng| (rng.f64() < share).then(|| one_of(rng, troubles));
    (0..number).map(|number| PlannedSession { number, kind: kind(rng), trouble: trouble(rng) }).collect()
}

fn limits(rng: &mut Rng, sessions: usize) -> Limits {
    if rng.u8(0..3) > 0 {
        return Limits::DEPLOYED;
    }
    let smallest = i32::try_from(sessions / 20).expect("few sessions");
    let small = |rng: &mut Rng, most: usize| if rng.bool() { rng.usize(1..=4.min(most)) } else { rng.usize(1..=most) };
    Limits {
        batch: small(rng, Limits::DEPLOYED.batch),
        in_flight: small(rng, Limits::DEPLOYED.in_flight),
        // Pages of one entry for hundreds of sessions show nothing new and take long.
        page: [rng.i32(1..5), rng.i32(5..100), Limits::DEPLOYED.page][rng.usize(0..3)].max(smallest),
        attempts: rng.u32(4..=Limits::DEPLOYED.attempts),
    }
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
        oddity: if rng.u8(0..10) == 0 { one_of(rng, oddities) } else { Oddity::None },
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
    // Damage comes in many kinds.
    let damaged = rng.u8(0..8) == 0;
    let kind = if damaged { Fault::Damaged(0).kind() } else { possible[rng.usize(0..possible.len())] };
    let fault = Fault::drawn(kind, step, rng);
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
        let deed = one_of(rng, deeds);
        let on =
            if sessions == 0 || rng.u8(0..24) == 0 { Target::Caller } else { Target::Session(rng.usize(0..sessions)) };
        acts.push(Act { number: acts.len(), call, when, deed, on });
    }
}

/// An application that ends, deletes and revives sessions between any two requests. The caller's may expire while it is read.
fn draw_busy_acts(rng: &mut Rng, call: usize, sessions: usize, acts: &mut Vec<Act>) {
    if rng.u8(0..4) == 0 {
        let expires = Deed::ExpireIn(rng.u64(0..12));
        acts.push(Act {
            number: acts.len(),
            call,
            when: When::Before(Step::Caller, 0),
            deed: expires,
            on: Target::Caller,
        });
    }
    // Few sessions, so that much happens to each.
    let few = sessions.min(4);
    for step in Step::ALL.into_iter().filter(|step| *step != Step::Connect && few > 0) {
        for nth in 0..8 {
            let deed = [Deed::Revoke, Deed::Delete, Deed::Reactivate, Deed::Reactivate, Deed::Rotate][rng.usize(0..5)];
            let when = if rng.bool() { When::Before(step, nth) } else { When::Behind(step, nth) };
            acts.push(Act { number: acts.len(), call, when, deed, on: Target::Session(rng.usize(0..few)) });
        }
    }
}

/// One of several, all of them as likely.
fn one_of<T: Copy, const N: usize>(rng: &mut Rng, all: fn(&mut Rng) -> [T; N]) -> T {
    let all = all(rng);
    all[rng.usize(0..N)]
}

pub fn troubles(rng: &mut Rng) -> [Trouble; 6] {
    let refused = Trouble::Refused(rng.u8(0..3));
    [refused, refused, Trouble::Conflict, Trouble::Throttled, Trouble::Unknown, Trouble::UnknownAfter]
}

pub fn oddities(rng: &mut Rng) -> [Oddity; 4] {
    [Oddity::None, Oddity::NotUtf8, Oddity::HalfSurrogate, Oddity::Body(rng.usize(1..20_000))]
}

pub fn deeds(rng: &mut Rng) -> [Deed; 14] {
    let most = [100, 2_000, 30_000][rng.usize(0..3)];
    [
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
        Deed::ExpireIn(rng.u64(0..60)),
        Deed::Stall(rng.u64(1..most)),
    ]
}
