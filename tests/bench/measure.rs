//! What is measured, in which order. All subjects take turns, so that whatever else the machine does hits them alike.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::dynamodb::{DynamoDb, Requests};
use crate::lambda::{Call, CpuLimit, Function, TIMEOUT};
use crate::subjects::Subject;

/// Latencies injected, in milliseconds.
pub const LATENCIES: [u64; 3] = [0, 5, 20];
/// Numbers of other sessions.
pub const SIZES: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// Under which cold starts are measured: latency, and percent of a core for the handler.
///
/// Lambda gives memory / 1,769 MB of a core: 7 % at 128 MB and 29 % at 512 MB.
pub const CONDITIONS: [(u64, u64); 4] = [(0, 100), (5, 100), (5, 29), (5, 7)];
/// So much time for one subject at one size and latency, unless a single call takes longer.
const CELL: Duration = Duration::from_secs(8);
/// A call of such length is not preceded by another like it.
const LONG: Duration = Duration::from_millis(1_500);

/// Samples of a new process, all times in milliseconds.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Cold {
    pub subject: String,
    pub latency: u64,
    pub percent: u64,
    /// From exec to asking for the first event.
    pub init: Vec<f64>,
    /// CPU until then.
    pub init_cpu: Vec<f64>,
    /// From getting the first event to having answered it.
    pub first: Vec<f64>,
    pub first_cpu: Vec<f64>,
    /// The third call.
    pub warm: Vec<f64>,
}

/// Samples of a process that has been used before, all times in milliseconds.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Warm {
    pub subject: String,
    pub latency: u64,
    pub others: usize,
    pub time: Vec<f64>,
    pub cpu: Vec<f64>,
    /// CPU of the database.
    #[serde(default)]
    pub database_cpu: Vec<f64>,
    /// Of the last call.
    pub requests: Requests,
    /// Peak, in bytes, so far.
    pub memory: u64,
    /// What it would take, where that is more than Lambda allows and was not measured.
    pub estimate: Option<f64>,
}

/// Starts everyone so many times, under each condition.
pub async fn cold(
    subjects: &[Subject],
    dynamodb: &DynamoDb,
    conditions: &[(u64, u64)],
    rounds: usize,
) -> Result<Vec<Cold>, String> {
    let mut cells: Vec<Cold> = Vec::new();
    for &(latency, percent) in conditions {
        let limit = if percent == 100 { None } else { CpuLimit::new(percent) };
        if percent != 100 && limit.is_none() {
            println!("  not at {percent} % of a core: that takes root and control groups that can be written to");
            continue;
        }
        dynamodb.delay(Duration::from_millis(latency));
        let begin = cells.len();
        cells.extend(subjects.iter().map(|subject| Cold {
            subject: subject.name.clone(),
            latency,
            percent,
            ..Cold::default()
        }));
        for round in 0..rounds {
            progress(&format!("  {latency} ms latency, {percent} % of a core: round {} of {rounds}", round + 1));
            for turn in 0..subjects.len() {
                let index = (round + turn) % subjects.len();
                let subject = &subjects[index];
                start_once(subject, dynamodb, limit.as_ref(), &mut cells[begin + index])
                    .await
                    .map_err(|problem| format!("{}: {problem}", subject.name))?;
            }
        }
        progress("");
        println!("  {latency} ms latency, {percent} % of a core: exec → /next, first call, third call; ms");
        for cell in &cells[begin..] {
            let [init, first, warm] = [&cell.init, &cell.first, &cell.warm].map(|samples| median(samples));
            println!("    {:<32}{init:>9.2}{first:>9.2}{warm:>9.2}", cell.subject);
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
    dynamodb.reset(1);
    let (mut function, init) = Function::start(subject).await?;
    cell.init.push(millis(init));
    cell.init_cpu.push(millis(function.cpu()?));
    if let Some(limit) = limit {
        limit.apply(&function)?;
    }
    for number in 1..=3 {
        let made = call(subject, &mut function, dynamodb, 1).await?;
        match number {
            1 => {
                cell.first.push(millis(made.time));
                cell.first_cpu.push(millis(made.cpu));
            }
            3 => cell.warm.push(millis(made.time)),
            _ => {}
        }
    }
    function.stop().await;
    Ok(())
}

/// Calls everyone at each size and latency, each in one process.
pub async fn warm(
    subjects: &[Subject],
    dynamodb: &DynamoDb,
    sizes: &[usize],
    latencies: &[u64],
    most_rounds: usize,
) -> Result<Vec<Warm>, String> {
    let subjects: Vec<_> = subjects.iter().filter(|subject| subject.revokes).collect();
    let mut functions = Vec::new();
    for subject in &subjects {
        let started = Function::start(subject).await.map_err(|problem| format!("{}: {problem}", subject.name))?;
        functions.push(started.0);
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
        for &latency in latencies {
            for subject in &subjects {
                let estimate =
                    cells.iter().rfind(|cell| cell.subject == subject.name && cell.latency == latency).map(|smaller| {
                        let time = smaller.estimate.unwrap_or_else(|| median(&smaller.time));
                        // A few sessions cost no less than one: only what is slow already is sure to grow.
                        time * others as f64 / smaller.others as f64
                    });
                let certain = others >= 1_000;
                cells.push(Warm {
                    subject: subject.name.clone(),
                    latency,
                    others,
                    estimate: estimate.filter(|estimate| certain && *estimate > millis(TIMEOUT)),
                    ..Warm::default()
                });
            }
        }
        let mut spent = vec![Duration::ZERO; cells.len() - begin];
        for round in 0..rounds {
            for (row, &latency) in latencies.iter().enumerate() {
                progress(&format!("  {others} others, {latency} ms latency: round {} of {rounds}", round + 1));
                for turn in 0..subjects.len() {
                    let index = (round + turn) % subjects.len();
                    let place = row * subjects.len() + index;
                    let cell = &mut cells[begin + place];
                    if cell.estimate.is_some() || spent[place] > CELL {
                        continue;
                    }
                    let started = Instant::now();
                    dynamodb.delay(Duration::from_millis(latency));
                    call_again(subjects[index], &mut functions[index], dynamodb, cell)
                        .await
                        .map_err(|problem| format!("{}: {problem}", subjects[index].name))?;
                    spent[place] += started.elapsed();
                }
            }
        }
        progress("");
        println!("  {others} others, at {latencies:?} ms latency; ms");
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

/// One call that is measured, after one that is not: that one opens again what connections have been idle for too long.
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
    let work = dynamodb.take_work();
    cell.requests = work.requests;
    cell.database_cpu.push(millis(work.cpu));
    cell.time.push(millis(made.time));
    cell.cpu.push(millis(made.cpu));
    cell.memory = function.peak_memory()?;
    Ok(())
}

/// One call, and whether it did what it says.
async fn call(subject: &Subject, function: &mut Function, dynamodb: &DynamoDb, others: usize) -> Result<Call, String> {
    let expected = if subject.revokes { others } else { 0 };
    dynamodb.reset(others);
    let call = function.call(others, expected).await?;
    let revoked = dynamodb.revoked(others);
    if revoked != expected {
        return Err(format!("it says that it has revoked {expected} sessions, and has revoked {revoked}"));
    }
    Ok(call)
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

fn millis(duration: Duration) -> f64 {
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
