//! What trials have met and done, summed up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fastrand::Rng;

use crate::answers::CELLS;
use crate::fault::Fault;
use crate::plan::{Step, deeds, oddities, troubles};

const STEPS: usize = Step::ALL.len();
const FAULTS: usize = Fault::NAMES.len();

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub trials: u64,
    pub calls: u64,
    pub sessions: u64,
    /// Virtual time.
    pub milliseconds: u64,
    /// Writes that a partition throttled.
    pub throttled: u64,
    /// The sum of all counts.
    pub claimed: u64,
    /// Sessions changed before the answer that no client could have counted.
    pub uncounted: u64,
    /// Sessions changed after the answer.
    pub late: u64,
    /// Answers by status, and how many of these although there were faults.
    statuses: [(u64, u64); 4],
    /// How often each fault met each step.
    met: [[u64; STEPS]; FAULTS],
    /// How often each damage was done to an answer.
    damaged: BTreeMap<usize, u64>,
    /// How often other things have happened.
    ticks: BTreeMap<String, u64>,
}

/// What must happen to some calls.
#[derive(Clone, Copy, Debug)]
pub enum Other {
    HasSmallLimits,
    SucceedsAfterOthersEndedASession,
    SucceedsAfterASessionWasFoundLive,
    SucceedsAfterErrorsOfSignature,
    FailsAndOnlyTroubleIsLeft,
}

const OTHERS: [Other; 5] = [
    Other::HasSmallLimits,
    Other::SucceedsAfterOthersEndedASession,
    Other::SucceedsAfterASessionWasFoundLive,
    Other::SucceedsAfterErrorsOfSignature,
    Other::FailsAndOnlyTroubleIsLeft,
];

const STATUSES: [u64; 4] = [200, 401, 500, 503];

/// The name of something that happens: the name of its kind, without what is in it.
fn name(of: &str, what: impl fmt::Debug) -> String {
    let what = format!("{what:?}");
    format!("{of}: {}", what.split('(').next().unwrap_or_default())
}

fn all_ticks() -> impl Iterator<Item = String> {
    let rng = &mut Rng::with_seed(0);
    let events = oddities(rng).map(|oddity| name("event", oddity)).into_iter();
    let sessions = troubles(rng).map(|trouble| name("session", trouble)).into_iter();
    let deeds = deeds(rng).map(|deed| name("deed", deed)).into_iter();
    let rotations = [true, false].map(|deletes| name("intruder deletes", deletes)).into_iter();
    let all = events.chain(sessions).chain(deeds).chain(rotations).chain(OTHERS.map(|other| name("call", other)));
    all.collect::<BTreeSet<_>>().into_iter()
}

impl Report {
    pub fn met(&mut self, step: Step, fault: Fault) {
        self.met[fault.kind()][step as usize] += 1;
    }

    pub fn damaged(&mut self, cell: usize) {
        *self.damaged.entry(cell).or_default() += 1;
    }

    pub fn tick(&mut self, of: &str, what: impl fmt::Debug) {
        *self.ticks.entry(name(of, what)).or_default() += 1;
    }

    pub fn answered(&mut self, status: u64, disturbed: bool) {
        if let Some(place) = STATUSES.iter().position(|known| *known == status) {
            self.statuses[place].0 += 1;
            self.statuses[place].1 += u64::from(disturbed);
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.trials += other.trials;
        self.calls += other.calls;
        self.sessions += other.sessions;
        self.milliseconds += other.milliseconds;
        self.throttled += other.throttled;
        self.claimed += other.claimed;
        self.uncounted += other.uncounted;
        self.late += other.late;
        for (sum, more) in self.statuses.iter_mut().zip(other.statuses) {
            *sum = (sum.0 + more.0, sum.1 + more.1);
        }
        for (cell, more) in &other.damaged {
            *self.damaged.entry(*cell).or_default() += more;
        }
        for (name, more) in &other.ticks {
            *self.ticks.entry(name.clone()).or_default() += more;
        }
        for (sum, more) in self.met.iter_mut().flatten().zip(other.met.iter().flatten()) {
            *sum += more;
        }
    }

    /// What should have happened and has not: faults at steps, damage to answers, and others.
    pub fn missing(&self) -> Vec<String> {
        let pairs = (0..FAULTS).flat_map(|kind| Step::ALL.map(|step| (kind, step)));
        let missing =
            pairs.filter(|(kind, step)| Fault::can_meet(*kind, *step) && self.met[*kind][*step as usize] == 0);
        let missing = missing.map(|(kind, step)| format!("{} at {step:?}", Fault::NAMES[kind]));
        let undamaged = CELLS.iter().enumerate().filter(|(cell, _)| !self.damaged.contains_key(cell));
        let never = all_ticks().filter(|name| !self.ticks.contains_key(name));
        missing.chain(undamaged.map(|(_, cell)| cell.name())).chain(never).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.milliseconds as f64 / 3_600_000.0;
        writeln!(f, "{} trials, {hours:.0} simulated hours", self.trials)?;
        writeln!(f, "{} calls, {} sessions at the beginning", self.calls, self.sessions)?;
        writeln!(
            f,
            "{} sessions counted, {} changed after the answer, {} that nobody could count, {} writes throttled by a partition",
            self.claimed, self.late, self.uncounted, self.throttled
        )?;
        for (status, (all, disturbed)) in STATUSES.iter().zip(self.statuses) {
            writeln!(f, "{status}: {all} answers, {disturbed} of them with faults")?;
        }
        for name in all_ticks() {
            writeln!(f, "{:>7} {name}", self.ticks.get(&name).unwrap_or(&0))?;
        }
        let rarest = (0..CELLS.len()).min_by_key(|cell| self.damaged.get(cell));
        let rarest = rarest.map(|cell| (self.damaged.get(&cell).unwrap_or(&0), CELLS[cell].name()));
        writeln!(
            f,
            "{} answers damaged in {} ways, least often {rarest:?}",
            self.damaged.values().sum::<u64>(),
            CELLS.len()
        )?;
        write!(f, "{:>16}", "")?;
        for step in Step::ALL {
            write!(f, "{:>12}", format!("{step:?}"))?;
        }
        for (kind, name) in Fault::NAMES.iter().enumerate() {
            write!(f, "\n{name:>16}")?;
            for step in Step::ALL {
                let met = self.met[kind][step as usize];
                let met = if Fault::can_meet(kind, step) { met.to_string() } else { "-".to_owned() };
                write!(f, "{met:>12}")?;
            }
        }
        Ok(())
    }
}
