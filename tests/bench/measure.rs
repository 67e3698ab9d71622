//! What is measured, in which order. All subjects take turns, so that whatever else the machine does hits them alike, and
//! each is warm before its first figure.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::dynamodb::{DynamoDb, Requests};
use crate::lambda::{Call, CpuLimit, Function, TIMEOUT};
use crate::report;
use crate::subjects::Subject;

/// Latencies injected, in milliseconds.
pub const LATENCIES: [u64; 3] = [0, 5, 20];
/// Numbers of other sessions, back to back on a whole core.
pub const SIZES: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// The same after a pause and on parts of a core.
pub const FEW: [usize; 3] = [1, 10, 100];
/// Numbers of other sessions for the calls under the limit of a partition of the index.
pub const MANY: [usize; 3] = [1_000, 2_500, 10_000];
/// Percent of a core for the handler. Lambda gives memory / 1,769 MB of one: this at the template's 256 MB.
pub const USUAL_SHARE: u64 = 15;
/// Percent of a core of a function with 1,769 MB, which no limit is set for.
const WHOLE: u64 = 100;

/// Under which first calls are measured.
pub const COLD: [Condition; 4] =
    [under(WHOLE, 0, 1), under(WHOLE, 5, 1), under(WHOLE, 20, 1), under(USUAL_SHARE, 5, 1)];

/// How long a function is frozen between two calls, at least.
pub const PAUSE: Duration = Duration::from_secs(10);
/// Calls of each process before the first that is measured.
const WARM_UP: usize = 10;
/// Most other sessions in those.
const WARM_UP_OTHERS: usize = 10;
/// So much time for one subject under one condition, unless a single call takes longer.
const CELL: Duration = Duration::from_secs(8);
/// A call of such length is not preceded by another like it.
const LONG: Duration = Duration::from_millis(1_500);
/// The latency at which the limit of a partition is measured, in milliseconds.
const LIMITED_LATENCY: u64 = 5;

/// What a call meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Of a core.
    pub percent: u64,
    /// Of DynamoDB, in milliseconds.
    pub latency: u64,
    /// Sessions to revoke.
    pub others: usize,
}

pub const fn under(percent: u64, latency: u64, others: usize) -> Condition {
    Condition { percent, latency, others }
}

/// The conditions of the calls after pauses. One pause serves the calls under all of them.
pub fn pauses() -> Vec<Condition> {
    [WHOLE, USUAL_SHARE].iter().flat_map(|&percent| FEW.map(|others| under(percent, 5, others))).collect()
}

/// Samples of a new process, all times in milliseconds.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Cold {
    pub subject: String,
    pub under: Condition,
    /// From exec to asking for the first event.
    pub init: Vec<f64>,
    /// From getting the first event to having answered it.
    pub first: Vec<f64>,
}

/// Samples of a process that was frozen between its calls, in milliseconds.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Paused {
    pub subject: String,
    pub under: Condition,
    pub after: Vec<f64>,
}

/// Samples of a process that has been used just before, all times in milliseconds.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Warm {
    pub subject: String,
    pub latency: u64,
    pub others: usize,
    pub time: Vec<f64>,
    pub cpu: Vec<f64>,
    /// Of the last call.
    pub requests: Requests,
    /// Peak, in bytes, so far.
    pub memory: u64,
    /// What it would take, where that is more than Lambda allows and was not measured.
    pub estimate: Option<f64>,
}

/// The outcome of one call while the partition of the index has the limit that it has in DynamoDB.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Limited {
    pub subject: String,
    pub others: usize,
    /// The HTTP status; `None` without an answer.
    pub status: Option<u64>,
    /// In milliseconds.
    pub time: f64,
    /// Sessions that are not revoked then.
    pub left: usize,
    /// Write units that it took of the index.
    pub units: f64,
}

/// Starts everyone so many times, under each condition.
pub async fn cold(subjects: &[Subject], dynamodb: &DynamoDb, rounds: usize) -> Result<Vec<Cold>, String> {
    // From here on the machine has everyone's files in memory.
    for subject in subjects {
        start_once(subject, dynamodb, None, &mut Cold::default()).await?;
    }
    let limits = limits();
    let mut cells: Vec<Cold> = Vec::new();
    for under in COLD.into_iter().filter(|under| limits.contains_key(&under.percent)) {
        dynamodb.delay(Duration::from_millis(under.latency));
        let begin = cells.len();
        cells.extend(subjects.iter().map(|subject| Cold { subject: subject.name.clone(), under, ..Cold::default() }));
        for round in 0..rounds {
            progress(&format!("  {}: round {} of {rounds}", described(under), round + 1));
            for index in turns(round, subjects.len()) {
                let limit = limits[&under.percent].as_ref();
                start_once(&subjects[index], dynamodb, limit, &mut cells[begin + index]).await?;
            }
        }
        progress("");
        println!("  {}: exec → /next, first call; ms", described(under));
        for cell in &cells[begin..] {
            println!("    {:<32}{:>9.2}{:>9.2}", cell.subject, median(&cell.init), median(&cell.first));
        }
    }
    Ok(cells)
}

async fn start_once(
    subject: &Subject,
    dynamodb: &DynamoDb,
    limit: Option<&CpuLimit>,
    cell: &mut Cold,
) -> Result<(), String> {
    let others = cell.under.others;
    dynamodb.reset(others);
    let started = Function::start(subject).await;
    let (mut function, init) = started.map_err(|problem| format!("{}: {problem}", subject.name))?;
    cell.init.push(millis(init));
    if let Some(limit) = limit {
        limit.apply(&function)?;
    }
    cell.first.push(millis(call(subject, &mut function, dynamodb, others).await?.time));
    function.stop().await;
    Ok(())
}

/// Calls everyone after pauses in which all processes are frozen. There is one process for each subject under each condition,
/// so that one pause serves all.
pub async fn paused(subjects: &[Subject], dynamodb: &DynamoDb, rounds: usize) -> Result<Vec<Paused>, String> {
    let conditions = pauses();
    let limits = limits();
    let conditions: Vec<_> = conditions.iter().filter(|under| limits.contains_key(&under.percent)).collect();
    let subjects: Vec<_> = subjects.iter().filter(|subject| subject.revokes).collect();
    let (mut cells, mut functions) = (Vec::new(), Vec::new());
    dynamodb.delay(Duration::ZERO);
    for under in &conditions {
        for subject in &subjects {
            progress(&format!("  warmed up: {} of {}", functions.len(), conditions.len() * subjects.len()));
            let function = warmed_up(subject, dynamodb, under.others.min(WARM_UP_OTHERS)).await?;
            if let Some(limit) = &limits[&under.percent] {
                limit.apply(&function)?;
            }
            function.freeze()?;
            functions.push(function);
            cells.push(Paused { subject: subject.name.clone(), under: **under, ..Paused::default() });
        }
    }
    let mut spent = vec![Duration::ZERO; cells.len()];
    for round in 0..rounds {
        progress(&format!("  a pause of {} s: round {} of {rounds}", PAUSE.as_secs(), round + 1));
        sleep(PAUSE).await;
        for row in turns(round, conditions.len()) {
            dynamodb.delay(Duration::from_millis(conditions[row].latency));
            for index in turns(round, subjects.len()) {
                let place = row * subjects.len() + index;
                if spent[place] > CELL {
                    continue;
                }
                let (cell, function) = (&mut cells[place], &mut functions[place]);
                let started = Instant::now();
                // Before the thaw, so that the function is called as soon as it can run.
                dynamodb.reset(cell.under.others);
                function.thaw()?;
                cell.after
                    .push(millis(call_prepared(subjects[index], function, dynamodb, cell.under.others).await?.time));
                function.freeze()?;
                spent[place] += started.elapsed();
            }
        }
    }
    progress("");
    for (row, under) in conditions.iter().enumerate() {
        println!("  {}: after a pause; ms", described(**under));
        for cell in &cells[row * subjects.len()..][..subjects.len()] {
            println!("    {:<32}{:>9.2}", cell.subject, median(&cell.after));
        }
    }
    for function in functions {
        function.stop().await;
    }
    Ok(cells)
}

/// Calls everyone back to back at each size and latency, each in one process, on a whole core.
pub async fn warm(
    subjects: &[Subject],
    dynamodb: &DynamoDb,
    sizes: &[usize],
    most_rounds: usize,
) -> Result<Vec<Warm>, String> {
    let subjects: Vec<_> = subjects.iter().filter(|subject| subject.revokes).collect();
    let mut functions = Vec::new();
    dynamodb.delay(Duration::ZERO);
    for subject in &subjects {
        functions.push(warmed_up(subject, dynamodb, WARM_UP_OTHERS).await?);
    }
    let mut cells: Vec<Warm> = Vec::new();
    // In ascending order, so that the peak of memory is that of the size.
    for &others in sizes {
        let rounds = match others {
            0..1_000 => most_rounds,
            1_000..10_000 => most_rounds.div_ceil(2),
            _ => most_rounds.div_ceil(4),
        };
        let begin = cells.len();
        for latency in LATENCIES {
            for subject in &subjects {
                let estimate = estimate(&cells, &subject.name, latency, others);
                let subject = subject.name.clone();
                cells.push(Warm { subject, latency, others, estimate, ..Warm::default() });
            }
        }
        let mut spent = vec![Duration::ZERO; cells.len() - begin];
        for round in 0..rounds {
            for (row, latency) in LATENCIES.into_iter().enumerate() {
                progress(&format!("  {others} others, {latency} ms latency: round {} of {rounds}", round + 1));
                for index in turns(round, subjects.len()) {
                    let place = row * subjects.len() + index;
                    let cell = &mut cells[begin + place];
                    if cell.estimate.is_some() || spent[place] > CELL {
                        continue;
                    }
                    let started = Instant::now();
                    dynamodb.delay(Duration::from_millis(latency));
                    call_again(subjects[index], &mut functions[index], dynamodb, cell).await?;
                    spent[place] += started.elapsed();
                }
            }
        }
        progress("");
        println!("  {others} others, at {LATENCIES:?} ms latency; ms");
        for (index, subject) in subjects.iter().enumerate() {
            print!("    {:<32}", subject.name);
            for cell in cells[begin..].iter().skip(index).step_by(subjects.len()) {
                match cell.estimate {
                    None => print!("{:>10.2}", median(&cell.time)),
                    Some(_) => print!("{:>10}", format!("> {}", TIMEOUT.as_millis())),
                }
            }
            println!();
        }
    }
    for function in functions {
        function.stop().await;
    }
    Ok(cells)
}

/// How many milliseconds a call with so many sessions would take, if that is surely longer than Lambda allows. A few sessions
/// cost no less than one, so only a call that is slow already is sure to grow with them.
fn estimate(cells: &[Warm], subject: &str, latency: u64, others: usize) -> Option<f64> {
    let smaller = cells.iter().rfind(|cell| cell.subject == subject && cell.latency == latency)?;
    let time = smaller.estimate.unwrap_or_else(|| median(&smaller.time));
    let estimate = time * others as f64 / smaller.others as f64;
    (others >= 1_000 && estimate > millis(TIMEOUT)).then_some(estimate)
}

/// One call that is measured, right after one that is not.
async fn call_again(
    subject: &Subject,
    function: &mut Function,
    dynamodb: &DynamoDb,
    cell: &mut Warm,
) -> Result<(), String> {
    let long = cell.others >= 1_000 && cell.time.first().is_none_or(|time| *time > millis(LONG));
    call(subject, function, dynamodb, if long { 1 } else { cell.others }).await?;
    dynamodb.take_work();
    let made = call(subject, function, dynamodb, cell.others).await?;
    cell.requests = dynamodb.take_work().requests;
    cell.time.push(millis(made.time));
    cell.cpu.push(millis(made.cpu));
    cell.memory = function.peak_memory()?;
    Ok(())
}

/// Calls everyone once at each size, while the partition of the index has its limit and has not been used for a second. Who
/// takes longer than Lambda allows without that limit is left out.
pub async fn limited(subjects: &[Subject], dynamodb: &DynamoDb, warm: &[Warm]) -> Result<Vec<Limited>, String> {
    dynamodb.delay(Duration::from_millis(LIMITED_LATENCY));
    let mut cells = Vec::new();
    for others in MANY {
        println!("  {others} others: status, ms, sessions left, write units of the index");
        for subject in subjects.iter().filter(|subject| subject.revokes) {
            if estimate(warm, &subject.name, LIMITED_LATENCY, others).is_some() {
                continue;
            }
            let mut function = warmed_up(subject, dynamodb, WARM_UP_OTHERS).await?;
            dynamodb.reset(others);
            dynamodb.take_work();
            dynamodb.limit(true);
            let begin = Instant::now();
            // Without an answer, the process has ended, or reports an error of the invocation.
            let status = function.invoke(others).await.ok().and_then(|call| call.status);
            let time = millis(begin.elapsed());
            dynamodb.limit(false);
            let cell = Limited {
                subject: subject.name.clone(),
                others,
                status,
                time,
                left: others - dynamodb.revoked(others),
                units: dynamodb.take_work().units,
            };
            let Limited { subject, status, time, left, units, .. } = &cell;
            println!("    {subject:<32}{:>5}{time:>10.0}{left:>8}{units:>8.0}", status.unwrap_or_default());
            cells.push(cell);
            function.stop().await;
        }
    }
    Ok(cells)
}

/// A function that has been called often enough for its interpreter to have compiled what it will.
async fn warmed_up(subject: &Subject, dynamodb: &DynamoDb, others: usize) -> Result<Function, String> {
    let started = Function::start(subject).await.map_err(|problem| format!("{}: {problem}", subject.name))?;
    let mut function = started.0;
    for _ in 0..WARM_UP {
        call(subject, &mut function, dynamodb, others).await?;
    }
    Ok(function)
}

/// One call, and whether it did what it says.
async fn call(subject: &Subject, function: &mut Function, dynamodb: &DynamoDb, others: usize) -> Result<Call, String> {
    dynamodb.reset(others);
    call_prepared(subject, function, dynamodb, others).await
}

/// The same with sessions that are active already.
async fn call_prepared(
    subject: &Subject,
    function: &mut Function,
    dynamodb: &DynamoDb,
    others: usize,
) -> Result<Call, String> {
    let expected = if subject.revokes { others } else { 0 };
    let call = function.call(others, expected).await.map_err(|problem| format!("{}: {problem}", subject.name))?;
    let revoked = dynamodb.revoked(others);
    if revoked != expected {
        let name = &subject.name;
        return Err(format!("{name}: it says that it has revoked {expected} sessions, and has revoked {revoked}"));
    }
    Ok(call)
}

/// The limits by percent of a core. One that the machine does not let us set is missing, and said to be.
fn limits() -> BTreeMap<u64, Option<CpuLimit>> {
    let mut limits = BTreeMap::from([(WHOLE, None)]);
    match CpuLimit::new(USUAL_SHARE) {
        Some(limit) => drop(limits.insert(USUAL_SHARE, Some(limit))),
        None => {
            println!("  not at {USUAL_SHARE} % of a core: that takes root, and control groups that can be written to");
        }
    }
    limits
}

/// All of so many, beginning with another one in each round.
fn turns(round: usize, number: usize) -> impl Iterator<Item = usize> {
    (0..number).map(move |turn| (round + turn) % number)
}

pub fn described(Condition { percent, latency, others }: Condition) -> String {
    format!("{latency} ms latency, {percent} % of a core, {}", report::others(others))
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// Interpolated between the two nearest samples.
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = part * (sorted.len().saturating_sub(1)) as f64;
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    at(place.floor()) + (at(place.ceil()) - at(place.floor())) * place.fract()
}

pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Shows where we are: on a line that the next one replaces, or now and then on one of its own if it goes into a file.
fn progress(text: &str) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut out = std::io::stdout();
    if out.is_terminal() {
        print!("\r{text:<70}\r");
        let _ = out.flush();
        return;
    }
    let mut last = LAST.lock().expect("a lock");
    if !text.is_empty() && last.is_none_or(|last| last.elapsed() > Duration::from_secs(15)) {
        println!("{text}");
        *last = Some(Instant::now());
    }
}
