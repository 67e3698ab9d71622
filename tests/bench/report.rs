//! The documentation, made of `performance.md` beside this file and of the results: every `{{name}}` in it is replaced, so
//! that no figure is typed by hand. Whether another subject is ahead is written by [`verdict`], not by a person.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::bad_end::{self, BadEnd};
use crate::instructions::Instructions;
use crate::lambda::TIMEOUT;
use crate::measure::{
    COLD, Cold, Condition, FEW, LATENCIES, PAUSE, Paused, SHARES, SIZES, USUAL_SHARE, Warm, median, quantile, under,
};
use crate::subjects::{HELLO, OURS};

const TEMPLATE: &str = include_str!("performance.md");

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
    pub paused: Vec<Paused>,
    pub warm: Vec<Warm>,
    pub bad_ends: Vec<BadEnd>,
    /// None where there is no valgrind.
    pub instructions: Option<Instructions>,
}

#[derive(Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub what: String,
}

impl Results {
    pub fn cold(&self, subject: &str, under: Condition) -> Option<&Cold> {
        self.cold.iter().find(|cell| cell.subject == subject && cell.under == under)
    }

    fn paused(&self, subject: &str, under: Condition) -> Option<&Paused> {
        self.paused.iter().find(|cell| cell.subject == subject && cell.under == under)
    }

    pub fn warm(&self, subject: &str, others: usize, latency: u64) -> Option<&Warm> {
        self.warm.iter().find(|cell| cell.subject == subject && cell.others == others && cell.latency == latency)
    }

    /// None if it was not measured.
    pub fn warm_median(&self, subject: &str, others: usize, latency: u64) -> Option<f64> {
        self.warm(subject, others, latency).filter(|cell| !cell.time.is_empty()).map(|cell| median(&cell.time))
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

    /// A column of a table that compares, made of what each subject was found to take.
    fn column(&self, head: String, full: String, content: impl Fn(&str) -> Option<Cell>) -> Column {
        let cells = self.subjects.iter().filter_map(|subject| Some((subject.name.clone(), content(&subject.name)?)));
        Column { head, full, cells: cells.collect() }
    }
}

/// What each subject takes of something of which less is better.
struct Column {
    head: String,
    /// The head, and what the table is about.
    full: String,
    cells: Vec<(String, Cell)>,
}

#[derive(Clone)]
enum Cell {
    Samples(Vec<f64>),
    /// Was not measured, since it would take so many milliseconds.
    TooLong(f64),
}

impl Cell {
    /// None if there are no samples.
    fn of(samples: &[f64]) -> Option<Self> {
        (!samples.is_empty()).then(|| Self::Samples(samples.to_vec()))
    }

    fn text(&self) -> String {
        match self {
            Self::Samples(samples) => spread(samples),
            Self::TooLong(estimate) => {
                format!("more than {} s, some {} s", TIMEOUT.as_secs(), thousands((estimate / 1_000.0) as usize))
            }
        }
    }
}

impl Column {
    fn samples(&self) -> impl Iterator<Item = (&str, &[f64])> {
        self.cells.iter().filter_map(|(name, cell)| match cell {
            Cell::Samples(samples) => Some((name.as_str(), samples.as_slice())),
            Cell::TooLong(_) => None,
        })
    }

    fn ours(&self) -> Option<&[f64]> {
        self.samples().find(|(name, _)| *name == OURS).map(|(_, samples)| samples)
    }

    /// The one that takes least of those that do the same work.
    fn best(&self) -> Option<(&str, &[f64])> {
        let others = self.samples().filter(|(name, _)| ![OURS, HELLO].contains(name));
        others.min_by(|left, right| median(left.1).total_cmp(&median(right.1)))
    }

    /// How often the median of the best goes into ours.
    fn ratio(&self) -> Option<f64> {
        Some(median(self.ours()?) / median(self.best()?.1))
    }

    /// The best, if it is ahead by more than the spread: even its upper quartile is below our lower one. Where there are too
    /// few samples for quartiles, what is printed decides.
    fn ahead(&self) -> Option<&str> {
        let (ours, (name, best)) = (self.ours()?, self.best()?);
        let is_ahead = if ours.len().min(best.len()) < QUARTILES_TAKE {
            median(best) < median(ours) && number(median(best)) != number(median(ours))
        } else {
            quantile(best, 0.75) < quantile(ours, 0.25)
        };
        is_ahead.then_some(name)
    }
}

/// So many samples, for quartiles to be printed.
const QUARTILES_TAKE: usize = 3;

/// A table that compares, and what it says.
fn compared(corner: &str, columns: &[Column]) -> String {
    format!("{}\n\n{}", comparison(corner, columns), verdict(columns))
}

/// A row for each subject, and the ratio to the best of those that do the same work.
fn comparison(corner: &str, columns: &[Column]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in columns.iter().flat_map(|column| &column.cells) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let row = |name: &&str| {
        let cell = |column: &Column| {
            let cell = column.cells.iter().find(|(subject, _)| subject == name);
            cell.map_or("not measured".to_owned(), |(_, cell)| cell.text())
        };
        [(*name).to_owned()].into_iter().chain(columns.iter().map(cell)).collect()
    };
    let ratio = |column: &Column| column.ratio().map_or("–".to_owned(), |ratio| format!("**{ratio:.2} ×**"));
    let ratios = ["**this function ÷ the best of the others**".to_owned()].into_iter().chain(columns.iter().map(ratio));
    let head: Vec<_> =
        [corner.to_owned()].into_iter().chain(columns.iter().map(|column| column.head.clone())).collect();
    table(&head, names.iter().map(row).chain([ratios.collect()]))
}

/// Whether another is ahead by more than the spread, and where.
fn verdict(columns: &[Column]) -> String {
    let behind: Vec<_> = columns.iter().filter_map(|column| losing(column, &column.head)).collect();
    match behind.as_slice() {
        _ if columns.iter().all(|column| column.ratio().is_none()) => "Not measured.".to_owned(),
        [] => "No other is ahead by more than the spread.".to_owned(),
        _ => format!("**Another is ahead by more than the spread:** {}.", behind.join("; ")),
    }
}

fn losing(column: &Column, name: &str) -> Option<String> {
    let (other, ratio) = (column.ahead()?, column.ratio()?);
    Some(format!("{name} ({other}; this function takes {ratio:.2} × as much)"))
}

/// In how many of the comparisons of time another is ahead by more than the spread, and in which.
pub fn summary(results: &Results) -> String {
    let columns: Vec<_> = times(results).into_iter().filter(|column| column.ratio().is_some()).collect();
    let behind: Vec<_> = columns.iter().filter_map(|column| losing(column, &column.full)).collect();
    let best = columns.iter().filter_map(Column::ratio).filter(|ratio| *ratio <= 1.0).count();
    let mut summary = format!(
        "Of {} comparisons of what a caller waits, this function is the fastest in {best}, and another is ahead by more than \
         the spread in {}",
        columns.len(),
        behind.len()
    );
    if behind.is_empty() {
        summary.push('.');
    } else {
        let _ = write!(summary, ":\n\n- {}", behind.join("\n- "));
    }
    summary
}

/// Every comparison of what a caller waits.
fn times(results: &Results) -> Vec<Column> {
    let pauses = pause_places().into_iter().flat_map(|(_, conditions)| after_pause(results, &conditions));
    let again = SHARES[1..].iter().flat_map(|&share| again(results, share));
    let first = first_calls(results);
    let warm = LATENCIES.into_iter().flat_map(|latency| warm(results, latency));
    pauses.chain(again).chain(first).chain(warm).collect()
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
        ("usual_share", USUAL_SHARE.to_string()),
        ("pause", PAUSE.as_secs().to_string()),
        ("binary", megabytes(results.binary_bytes)),
        ("zip", megabytes(results.zip_bytes)),
        ("summary", summary(results)),
        ("subjects", subjects(results)),
        ("usual", compared("other sessions", &after_pause(results, &FEW.map(|others| under(USUAL_SHARE, 5, others))))),
        ("pauses", pauses(results)),
        (
            "again",
            tables(SHARES[1..].iter().map(|&share| (format!("{share} % of a core"), again(results, share))).collect()),
        ),
        ("start", compared("", &start(results))),
        ("to_first_answer", compared("latency", &to_first_answer(results))),
        ("first_calls", compared("latency, share of a core, others", &first_calls(results))),
        ("warm", tables(LATENCIES.iter().map(|&at| (format!("{at} ms latency"), warm(results, at))).collect())),
        ("requests", requests(results)),
        ("cpu", compared("other sessions", &by_size(results, "CPU", |cell| Cell::of(&cell.cpu)))),
        ("memory", compared("other sessions", &by_size(results, "memory", memory))),
        ("round_trips", comparison("other sessions", &round_trips(results))),
        ("bad_end_rules", bad_end::rules()),
        ("bad_ends", bad_ends(results)),
        ("instructions", instructions(results)),
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
    let whole = |subject| results.cold(subject, under(100, 0, 1)).ok_or("cold starts are missing");
    let (ours, hello) = (whole(OURS)?, whole(HELLO)?);
    let warm = |others, latency| results.warm_median(OURS, others, latency).ok_or("warm calls are missing");
    let cell = |others| results.warm(OURS, others, 0).ok_or("warm calls are missing");
    let usual = |others| {
        let cell = results.paused(OURS, under(USUAL_SHARE, 5, others));
        number(cell.map_or(f64::NAN, |cell| median(&cell.after)))
    };
    let requests = |cell: &Warm| cell.requests.values().sum::<u64>().to_string();
    Ok(vec![
        ("usual_1", usual(1)),
        ("usual_10", usual(10)),
        ("init", number(median(&ours.init))),
        ("init_ratio", number(median(&ours.init) / median(&hello.init))),
        ("warm_1", number(warm(1, 5)?)),
        ("warm_100", number(warm(100, 5)?)),
        ("warm_1000", number(warm(1_000, 5)?)),
        ("overhead", number(warm(1, 5)? - 15.0)),
        ("cpu_1000", number(median(&cell(1_000)?.cpu))),
        ("database_cpu_1000", number(median(&cell(1_000)?.database_cpu))),
        ("requests_100", requests(cell(100)?)),
        ("requests_1000", requests(cell(1_000)?)),
        ("memory_100", megabytes(cell(100)?.memory)),
    ])
}

fn subjects(results: &Results) -> String {
    let lines = results.subjects.iter().map(|subject| format!("- {}: {}", subject.name, subject.what));
    lines.collect::<Vec<_>>().join("\n")
}

/// The tables of calls after a pause: a name, and a column for each condition.
fn pause_places() -> Vec<(String, Vec<Condition>)> {
    let share = |&percent: &u64| {
        let more = if percent == 100 { vec![1_000] } else { Vec::new() };
        let sizes = FEW.into_iter().chain(more);
        (format!("5 ms latency, {percent} % of a core"), sizes.map(|others| under(percent, 5, others)).collect())
    };
    let latency = |latency| {
        let conditions = FEW.iter().map(|&others| under(100, latency, others));
        (format!("{latency} ms latency, a whole core"), conditions.collect())
    };
    SHARES.iter().map(share).chain([0, 20].map(latency)).collect()
}

fn pauses(results: &Results) -> String {
    tables(pause_places().into_iter().map(|(name, conditions)| (name, after_pause(results, &conditions))).collect())
}

fn after_pause(results: &Results, conditions: &[Condition]) -> Vec<Column> {
    let column = |&condition: &Condition| {
        let full = format!("after a pause, {}", described(condition));
        let content = |subject: &str| Cell::of(&results.paused(subject, condition)?.after);
        results.column(others(condition.others), full, content)
    };
    conditions.iter().map(column).collect()
}

/// The call after the one after a pause.
fn again(results: &Results, share: u64) -> Vec<Column> {
    let column = |&size: &usize| {
        let condition = under(share, 5, size);
        let full = format!("back to back, {}", described(condition));
        results.column(others(size), full, |subject| Cell::of(&results.paused(subject, condition)?.again))
    };
    FEW.iter().map(column).collect()
}

/// Starts and first calls without latency on a whole core.
fn start(results: &Results) -> Vec<Column> {
    let column = |head: &str, content: fn(&Cold) -> Vec<f64>| {
        results.column(head.to_owned(), head.to_owned(), |subject| {
            Cell::of(&content(results.cold(subject, under(100, 0, 1))?))
        })
    };
    vec![
        column("exec → `/next`, ms", |cell| cell.init.clone()),
        column("first call, ms", |cell| cell.first.clone()),
        column("exec → first answer, ms", together),
        column("third call, ms", |cell| cell.third.clone()),
        column("CPU until `/next`, ms", |cell| cell.init_cpu.clone()),
        column("CPU of the first call, ms", |cell| cell.first_cpu.clone()),
        column("peak memory at `/next`, MB", |cell| vec![cell.memory as f64 / 1e6]),
    ]
}

/// From exec to the first answer.
fn together(cell: &Cold) -> Vec<f64> {
    cell.init.iter().zip(&cell.first).map(|(init, first)| init + first).collect()
}

fn to_first_answer(results: &Results) -> Vec<Column> {
    let column = |&latency: &u64| {
        let content = |subject: &str| Cell::of(&together(results.cold(subject, under(100, latency, 1))?));
        results.column(format!("{latency} ms"), format!("exec to the first answer, {latency} ms latency"), content)
    };
    LATENCIES.iter().map(column).collect()
}

/// First calls under each condition; hello world does nothing to compare with.
fn first_calls(results: &Results) -> Vec<Column> {
    let column = |&condition: &Condition| {
        let name = described(condition);
        let content = |subject: &str| Cell::of(&results.cold(subject, condition).filter(|_| subject != HELLO)?.first);
        results.column(name.clone(), format!("first call, {name}"), content)
    };
    COLD.iter().map(column).collect()
}

fn described(Condition { percent, latency, others: size }: Condition) -> String {
    format!("{latency} ms latency, {percent} % of a core, {}", others(size))
}

fn others(number: usize) -> String {
    if number == 1 { "1 other".to_owned() } else { format!("{} others", thousands(number)) }
}

fn warm(results: &Results, latency: u64) -> Vec<Column> {
    let column = |&size: &usize| {
        let full = format!("back to back, {}", described(under(100, latency, size)));
        results.column(others(size), full, |subject| {
            let cell = results.warm(subject, size, latency)?;
            cell.estimate.map(Cell::TooLong).or_else(|| Cell::of(&cell.time))
        })
    };
    SIZES.iter().map(column).collect()
}

/// What was found at each size, without latency.
fn by_size(results: &Results, what: &str, content: impl Fn(&Warm) -> Option<Cell>) -> Vec<Column> {
    let column = |&size: &usize| {
        let head = others(size);
        results.column(head.clone(), format!("{what}, {head}"), |subject| content(results.warm(subject, size, 0)?))
    };
    SIZES.iter().map(column).collect()
}

fn memory(cell: &Warm) -> Option<Cell> {
    Cell::of(&[cell.memory as f64 / 1e6]).filter(|_| cell.memory > 0)
}

fn requests(results: &Results) -> String {
    let sum =
        |cell: &Warm| Cell::of(&[cell.requests.values().sum::<u64>() as f64]).filter(|_| !cell.requests.is_empty());
    let of = results.subjects.iter().filter_map(|subject| {
        let requests = &results.warm(&subject.name, 1_000, 0)?.requests;
        let each = requests.iter().map(|(operation, number)| format!("{} {operation}", thousands(*number as usize)));
        Some(format!("- {}: {}", subject.name, each.collect::<Vec<_>>().join(", ")))
    });
    let of = of.collect::<Vec<_>>().join("\n");
    format!("{}\n\nOf which, at 1,000:\n\n{of}", compared("other sessions", &by_size(results, "requests", sum)))
}

fn round_trips(results: &Results) -> Vec<Column> {
    // With more the emulator's work hides them.
    let column = |&size: &usize| {
        let content = |subject: &str| Cell::of(&[results.slope(subject, size)?]);
        results.column(others(size), others(size), content)
    };
    SIZES[..4].iter().map(column).collect()
}

fn bad_ends(results: &Results) -> String {
    let rows = results.bad_ends.iter().map(|end| {
        vec![
            format!("{} %", end.percent),
            end.status.to_string(),
            thousands(end.count as usize),
            number(end.time),
            end.requests.to_string(),
            end.connections.to_string(),
        ]
    });
    match results.bad_ends.as_slice() {
        [] => "Not measured: that takes root and control groups that can be written to.".to_owned(),
        _ => table(&["of a core", "answer", "count", "after, ms", "requests", "new connections"], rows),
    }
}

fn instructions(results: &Results) -> String {
    let Some(counts) = &results.instructions else {
        return "Not counted: that takes `valgrind`.".to_owned();
    };
    let columns = counts.columns();
    let head: Vec<_> =
        ["millions of instructions"].into_iter().chain(columns.iter().map(|(name, _)| name.as_str())).collect();
    let mut names: Vec<&String> = columns.iter().flat_map(|(_, groups)| groups.keys()).collect();
    names.sort();
    names.dedup();
    let row = |name: &&String| {
        let share = |(_, groups): &(String, &BTreeMap<String, f64>)| {
            let (count, total) = (groups.get(*name).copied().unwrap_or_default(), groups.values().sum::<f64>());
            format!("{:.2} ({:.0} %)", count / 1e6, 100.0 * count / total)
        };
        [(*name).clone()].into_iter().chain(columns.iter().map(share)).collect()
    };
    let total = columns.iter().map(|(_, groups)| format!("**{:.2}**", groups.values().sum::<f64>() / 1e6));
    table(&head, names.iter().map(row).chain([["**all**".to_owned()].into_iter().chain(total).collect()]))
}

/// Tables that compare, each with a name in its corner.
fn tables(tables: Vec<(String, Vec<Column>)>) -> String {
    tables.iter().map(|(corner, columns)| compared(corner, columns)).collect::<Vec<_>>().join("\n\n")
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

/// Median, and quartiles.
fn spread(samples: &[f64]) -> String {
    let median = number(median(samples));
    match samples.len() {
        0..QUARTILES_TAKE => median,
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
