//! The documentation, made of `performance.md` beside this file and of the results: every `{{name}}` in it is replaced, so
//! that no figure is typed by hand.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::lambda::TIMEOUT;
use crate::measure::{CONDITIONS, Cold, LATENCIES, SIZES, Warm, median, quantile};
use crate::subjects::{HELLO, OURS};

const TEMPLATE: &str = include_str!("performance.md");

/// Sessions in one wave of the function's batches, and index entries on one of its pages.
const WAVE: usize = 500;
const PAGE: usize = 2_000;
const BATCH: usize = 25;

/// All that a run has found.
#[derive(Serialize, Deserialize)]
pub struct Results {
    /// Processor, cores, memory, kernel.
    pub machine: String,
    /// Compilers, interpreters, SDKs.
    pub versions: BTreeMap<String, String>,
    pub rounds: usize,
    pub minutes: f64,
    pub binary_bytes: u64,
    /// Of the binary, deflated, as in the package that Lambda gets.
    pub zip_bytes: u64,
    pub subjects: Vec<Named>,
    pub cold: Vec<Cold>,
    pub warm: Vec<Warm>,
}

#[derive(Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub what: String,
}

impl Results {
    pub fn cold(&self, subject: &str, latency: u64, percent: u64) -> Option<&Cold> {
        self.cold.iter().find(|cell| cell.subject == subject && cell.latency == latency && cell.percent == percent)
    }

    pub fn warm(&self, subject: &str, others: usize, latency: u64) -> Option<&Warm> {
        self.warm.iter().find(|cell| cell.subject == subject && cell.others == others && cell.latency == latency)
    }

    /// None if it was not measured.
    pub fn warm_median(&self, subject: &str, others: usize, latency: u64) -> Option<f64> {
        self.warm(subject, others, latency).filter(|cell| !cell.time.is_empty()).map(|cell| median(&cell.time))
    }

    fn revoking(&self) -> impl Iterator<Item = &str> {
        self.subjects.iter().map(|subject| subject.name.as_str()).filter(|name| *name != HELLO)
    }

    /// Sequential round trips of a call: by how much it takes longer for each millisecond of latency.
    fn slope(&self, subject: &str, others: usize) -> Option<f64> {
        let points: Vec<_> = LATENCIES
            .iter()
            .filter_map(|&latency| Some((latency as f64, self.warm_median(subject, others, latency)?)))
            .collect();
        let number = points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / number;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let over: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
        let under: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
        (points.len() > 1).then_some(over / under)
    }
}

/// `docs/performance.md`.
pub fn document(results: &Results) -> Result<String, String> {
    let mut values = HashMap::from([
        ("machine", results.machine.clone()),
        (
            "versions",
            results.versions.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", "),
        ),
        ("rounds", results.rounds.to_string()),
        ("minutes", format!("{:.0}", results.minutes)),
        ("binary", megabytes(results.binary_bytes)),
        ("zip", megabytes(results.zip_bytes)),
        ("subjects", subjects(results)),
        ("cold", cold(results)),
        ("limited", limited(results)),
        ("warm", LATENCIES.map(|latency| warm(results, latency)).join("\n\n")),
        ("requests", requests(results)),
        ("cpu", cpu(results)),
        ("memory", memory(results)),
        ("round_trips", round_trips(results)),
        ("floor", floors(results)),
        ("cost", cost(results)),
    ]);
    values.extend(sentences(results)?);
    let mut document = TEMPLATE.to_owned();
    for (name, value) in values {
        let place = format!("{{{{{name}}}}}");
        if !document.contains(&place) {
            return Err(format!("tests/bench/performance.md has no {place}."));
        }
        document = document.replace(&place, &value);
    }
    match document.split("{{").nth(1) {
        Some(rest) => Err(format!("tests/bench/performance.md asks for what is not known: {{{{{rest:.30}")),
        None => Ok(document),
    }
}

/// Figures within sentences.
fn sentences(results: &Results) -> Result<Vec<(&'static str, String)>, String> {
    let cell = |subject, latency| results.cold(subject, latency, 100).ok_or("cold starts are missing");
    let (ours, hello) = (cell(OURS, 0)?, cell(HELLO, 0)?);
    let warm = |others, latency| results.warm_median(OURS, others, latency).ok_or("warm calls are missing");
    let hundred = results.warm(OURS, 100, 0).ok_or("warm calls are missing")?;
    let thousand = results.warm(OURS, 1_000, 0).ok_or("warm calls are missing")?;
    let overhead = warm(1, 5)? - 20.0;
    Ok(vec![
        ("init", number(median(&ours.init))),
        ("init_ratio", number(median(&ours.init) / median(&hello.init))),
        ("first_ratio", number(median(&ours.first) / median(&ours.warm))),
        ("warm_1", number(warm(1, 5)?)),
        ("warm_100", number(warm(100, 5)?)),
        ("warm_1000", number(warm(1_000, 5)?)),
        ("overhead", number(overhead)),
        ("requests_1000", thousand.requests.values().sum::<u64>().to_string()),
        ("memory_100", megabytes(hundred.memory)),
    ])
}

fn subjects(results: &Results) -> String {
    let lines = results.subjects.iter().map(|subject| format!("- {}: {}", subject.name, subject.what));
    lines.collect::<Vec<_>>().join("\n")
}

fn cold(results: &Results) -> String {
    let hello = results.cold(HELLO, 0, 100).map_or(f64::NAN, |cell| median(&cell.init));
    let rows = results.subjects.iter().filter_map(|subject| {
        let cell = results.cold(&subject.name, 0, 100)?;
        Some(vec![
            subject.name.clone(),
            spread(&cell.init),
            format!("{} ×", number(median(&cell.init) / hello)),
            spread(&cell.first),
            spread(&cell.warm),
            number(median(&cell.init_cpu)),
            number(median(&cell.first_cpu)),
        ])
    });
    let head = [
        "",
        "exec → `/next`, ms",
        "of hello world's",
        "first call, ms",
        "third call, ms",
        "CPU until `/next`, ms",
        "CPU of the first call, ms",
    ];
    table(&head, rows)
}

/// First calls where the handler gets a part of a core.
fn limited(results: &Results) -> String {
    let mut head = vec![String::new(), "exec → `/next`, ms".to_owned()];
    let conditions: Vec<_> = CONDITIONS.iter().filter(|(latency, _)| *latency == 5).collect();
    head.extend(conditions.iter().map(|(_, percent)| format!("first call at {percent} % of a core, ms")));
    let rows = results.subjects.iter().filter_map(|subject| {
        let mut row = vec![subject.name.clone(), number(median(&results.cold(&subject.name, 5, 100)?.init))];
        for &&(latency, percent) in &conditions {
            row.push(match results.cold(&subject.name, latency, percent) {
                // It does nothing to compare with.
                Some(cell) if subject.name == HELLO => spread(&cell.first),
                Some(cell) => {
                    let ours = results.cold(OURS, latency, percent).map_or(f64::NAN, |cell| median(&cell.first));
                    against(&cell.first, ours, subject.name == OURS)
                }
                None => "not measured".to_owned(),
            });
        }
        Some(row)
    });
    table(&head, rows)
}

fn warm(results: &Results, latency: u64) -> String {
    let mut head = vec![format!("{latency} ms latency")];
    head.extend(SIZES.iter().map(|others| thousands(*others)));
    let rows = results.revoking().map(|subject| {
        let cells = SIZES.iter().map(|&others| {
            let ours = results.warm_median(OURS, others, latency).unwrap_or(f64::NAN);
            match results.warm(subject, others, latency) {
                Some(Warm { estimate: Some(estimate), .. }) => {
                    format!("more than {} s, some {} s", TIMEOUT.as_secs(), thousands((estimate / 1_000.0) as usize))
                }
                Some(cell) => against(&cell.time, ours, subject == OURS),
                None => "not measured".to_owned(),
            }
        });
        [subject.to_owned()].into_iter().chain(cells).collect()
    });
    table(&head, rows)
}

fn requests(results: &Results) -> String {
    let mut head = vec![String::new()];
    head.extend(SIZES.iter().map(|others| thousands(*others)));
    head.push("of which, at 1,000".to_owned());
    let rows = results.revoking().map(|subject| {
        let mut row = vec![subject.to_owned()];
        for others in SIZES {
            let sum = results.warm(subject, others, 0).map_or(0, |cell| cell.requests.values().sum::<u64>());
            row.push(thousands(sum as usize));
        }
        let of = results.warm(subject, 1_000, 0).map(|cell| cell.requests.clone()).unwrap_or_default();
        let of = of.iter().map(|(operation, number)| format!("{} {operation}", thousands(*number as usize)));
        row.push(of.collect::<Vec<_>>().join(", "));
        row
    });
    table(&head, rows)
}

fn cpu(results: &Results) -> String {
    by_size(results, |cell, ours| match cell.cpu.as_slice() {
        [] => "not measured".to_owned(),
        samples => against(samples, median(&ours.cpu), cell.subject == OURS),
    })
}

fn memory(results: &Results) -> String {
    by_size(results, |cell, _| match cell.memory {
        0 => "not measured".to_owned(),
        bytes => format!("{:.1}", bytes as f64 / 1e6),
    })
}

/// A table of what was found at each size, without latency.
fn by_size(results: &Results, content: impl Fn(&Warm, &Warm) -> String) -> String {
    let mut head = vec![String::new()];
    head.extend(SIZES.iter().map(|others| thousands(*others)));
    let rows = results.revoking().map(|subject| {
        let cells =
            SIZES.iter().map(|&others| match (results.warm(subject, others, 0), results.warm(OURS, others, 0)) {
                (Some(cell), Some(ours)) => content(cell, ours),
                _ => "not measured".to_owned(),
            });
        [subject.to_owned()].into_iter().chain(cells).collect()
    });
    table(&head, rows)
}

fn round_trips(results: &Results) -> String {
    // With more the emulator's work hides them.
    let sizes = &SIZES[..4];
    let mut head = vec![String::new()];
    head.extend(sizes.iter().map(|others| thousands(*others)));
    let rows = results.revoking().map(|subject| {
        let slope = |&others| results.slope(subject, others).map_or("not measured".to_owned(), number);
        [subject.to_owned()].into_iter().chain(sizes.iter().map(slope)).collect()
    });
    table(&head, rows)
}

/// Round trips that the function has to make one after the other: caller, first page, waves of batches while further
/// pages come, and the pages again that must show nothing new.
fn sequential(others: usize) -> usize {
    1 + 1 + others.div_ceil(WAVE) + pages(others)
}

fn pages(others: usize) -> usize {
    (others + 1).div_ceil(PAGE)
}

fn floors(results: &Results) -> String {
    let rows = SIZES.iter().flat_map(|&others| LATENCIES[1..].iter().map(move |&latency| (others, latency)));
    let rows = rows.filter_map(|(others, latency)| {
        let time = results.warm_median(OURS, others, latency)?;
        let floor = sequential(others) as f64 * latency as f64;
        let cell = results.warm(OURS, others, latency)?;
        Some(vec![
            thousands(others),
            latency.to_string(),
            sequential(others).to_string(),
            number(floor),
            number(time),
            format!("{} ×", number(time / floor)),
            number(time - floor),
            number(median(&cell.cpu)),
            number(median(&cell.database_cpu)),
        ])
    });
    let head = [
        "others",
        "latency, ms",
        "round trips",
        "floor, ms",
        "measured, ms",
        "",
        "above the floor, ms",
        "CPU of the function, ms",
        "CPU of the database, ms",
    ];
    table(&head, rows)
}

/// How cost grows, by DynamoDB's rules and the CPU that was measured.
fn cost(results: &Results) -> String {
    // Names and values of an index entry: token_hash, user_id (a UUID) and status.
    const ENTRY: usize = (10 + 64) + (7 + 36) + (6 + 6);
    const UNIT: usize = 4_096;
    // 256 MB of the 1,769 that are a core.
    const CORE: f64 = 256.0 / 1_769.0;
    let cpu = |others: usize| {
        let measured = |others| results.warm(OURS, others, 0).map_or(f64::NAN, |cell| median(&cell.cpu));
        if SIZES.contains(&others) { measured(others) } else { measured(10_000) * others as f64 / 10_000.0 }
    };
    let rows = SIZES.into_iter().chain([100_000]).map(|others| {
        let entries = others + 1;
        let full = entries / PAGE * (PAGE * ENTRY).div_ceil(UNIT) + (entries % PAGE * ENTRY).div_ceil(UNIT);
        // The caller, strongly consistent, and the index twice at half price.
        let reads = 1.0 + full as f64;
        let latency = sequential(others) as f64 * 5.0;
        let cpu = cpu(others) / CORE;
        let partition = others.saturating_sub(1_000) as f64;
        let longest = (latency + cpu).max(partition) / 1_000.0;
        vec![
            thousands(others),
            thousands(1 + 2 * pages(others) + others.div_ceil(BATCH)),
            thousands(2 * others),
            thousands(reads as usize),
            number(latency),
            number(cpu),
            number(partition),
            if longest > 25.5 {
                format!("{} calls of 25 s", (longest / 25.5).ceil())
            } else {
                format!("{longest:.2} s")
            },
        ]
    });
    let head = [
        "others",
        "requests",
        "write units",
        "read units",
        "round trips at 5 ms, ms",
        "CPU at 256 MB, ms",
        "partition, ms",
        "Lambda, about",
    ];
    table(&head, rows)
}

fn table<S: AsRef<str>>(head: &[S], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = String::new();
    let head: Vec<_> = head.iter().map(AsRef::as_ref).collect();
    let _ = write!(table, "| {} |\n|---|{}", head.join(" | "), "---:|".repeat(head.len() - 1));
    for row in rows {
        let _ = write!(table, "\n| {} |", row.join(" | "));
    }
    table
}

/// Median, quartiles, and how often ours goes into it.
fn against(samples: &[f64], ours: f64, is_ours: bool) -> String {
    let spread = spread(samples);
    if is_ours { spread } else { format!("{spread}, {} ×", number(median(samples) / ours)) }
}

fn spread(samples: &[f64]) -> String {
    let median = number(median(samples));
    match samples.len() {
        0..3 => median,
        _ => format!("{median} ({}–{})", number(quantile(samples, 0.25)), number(quantile(samples, 0.75))),
    }
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "–".to_owned(),
        0.0..10.0 => format!("{value:.1}"),
        _ => thousands(value.round().max(0.0) as usize),
    }
}

fn thousands(value: usize) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// Writes the documentation and its charts.
pub fn write(results: &Results) -> Result<(), String> {
    let write = |path: &str, content: &str| fs::write(path, content).map_err(|error| format!("{path}: {error}"));
    fs::create_dir_all("docs/performance").map_err(|error| format!("docs/performance: {error}"))?;
    for (name, chart) in crate::charts::draw(results) {
        write(&format!("docs/performance/{name}"), &chart)?;
    }
    write("docs/performance.md", &document(results)?)
}
