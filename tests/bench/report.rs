//! The documentation, made of `performance.md` beside this file and of the results: every `{{name}}` in it is replaced, so
//! that no figure is typed by hand. Whether another subject is ahead is written by [`verdict`], not by a person.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::instructions::Instructions;
use crate::lambda::TIMEOUT;
use crate::measure::{
    COLD, Cold, Condition, FEW, LATENCIES, Limited, MANY, PAUSE, Paused, SIZES, USUAL_SHARE, Warm, described, median,
    quantile, under,
};
use crate::subjects::{HELLO, OURS};

const TEMPLATE: &str = include_str!("performance.md");

/// All that a run has found.
#[derive(Serialize, Deserialize)]
pub struct Results {
    /// Processor and cores.
    pub machine: String,
    /// Compilers, interpreters, SDKs.
    pub versions: BTreeMap<String, String>,
    pub rounds: usize,
    pub minutes: f64,
    pub binary_bytes: u64,
    pub subjects: Vec<Named>,
    pub cold: Vec<Cold>,
    pub paused: Vec<Paused>,
    pub warm: Vec<Warm>,
    pub limited: Vec<Limited>,
    /// None where there is no valgrind.
    pub instructions: Option<Instructions>,
}

#[derive(Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub what: String,
}

impl Results {
    fn cold(&self, subject: &str, under: Condition) -> Option<&Cold> {
        self.cold.iter().find(|cell| cell.subject == subject && cell.under == under)
    }

    fn paused(&self, subject: &str, under: Condition) -> Option<&Paused> {
        self.paused.iter().find(|cell| cell.subject == subject && cell.under == under)
    }

    fn warm(&self, subject: &str, others: usize, latency: u64) -> Option<&Warm> {
        self.warm.iter().find(|cell| cell.subject == subject && cell.others == others && cell.latency == latency)
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

    /// Where another is ahead by more than the spread.
    fn losing(&self, name: &str) -> Option<String> {
        let (other, ratio) = (self.ahead()?, self.ratio()?);
        Some(format!("{name} ({other}; this function takes {ratio:.2} × as much)"))
    }
}

/// So many samples, for quartiles to be printed.
const QUARTILES_TAKE: usize = 3;

/// A table that compares, and what it says: a row for each subject, and the ratio to the best of those that do the same work.
fn compared(corner: &str, columns: &[Column]) -> String {
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
    format!("{}\n\n{}", table(&head, names.iter().map(row).chain([ratios.collect()])), verdict(columns))
}

/// Whether another is ahead by more than the spread, and where.
fn verdict(columns: &[Column]) -> String {
    let behind: Vec<_> = columns.iter().filter_map(|column| column.losing(&column.head)).collect();
    match behind.as_slice() {
        _ if columns.iter().all(|column| column.ratio().is_none()) => "Not measured.".to_owned(),
        [] => "No other is ahead by more than the spread.".to_owned(),
        _ => format!("**Another is ahead by more than the spread:** {}.", behind.join("; ")),
    }
}

/// In how many of the comparisons of time another is ahead by more than the spread, and in which.
pub fn summary(results: &Results) -> String {
    let pauses = [USUAL_SHARE, 100].into_iter().flat_map(|share| after_pause(results, share));
    let warm = LATENCIES.into_iter().flat_map(|latency| warm(results, latency));
    let columns: Vec<_> = pauses.chain(warm).chain(cold(results)).filter(|column| column.ratio().is_some()).collect();
    let behind: Vec<_> = columns.iter().filter_map(|column| column.losing(&column.full)).collect();
    let best = columns.iter().filter_map(Column::ratio).filter(|ratio| *ratio <= 1.0).count();
    let mut summary = format!(
        "Of {} comparisons of time, this function is the fastest in {best}, and another is ahead by more than the spread \
         in {}",
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

/// `docs/performance.md`.
pub fn document(results: &Results) -> Result<String, String> {
    let versions = results.versions.iter().map(|(name, version)| format!("{name} {version}"));
    let subjects = results.subjects.iter().map(|subject| format!("- {}: {}", subject.name, subject.what));
    let warm_tables = LATENCIES.map(|at| compared(&format!("{at} ms latency"), &warm(results, at)));
    let mut values = HashMap::from([
        ("machine", results.machine.clone()),
        ("versions", versions.collect::<Vec<_>>().join(", ")),
        ("rounds", results.rounds.to_string()),
        ("minutes", format!("{:.0}", results.minutes)),
        ("usual_share", USUAL_SHARE.to_string()),
        ("pause", PAUSE.as_secs().to_string()),
        ("binary", megabytes(results.binary_bytes)),
        ("summary", summary(results)),
        ("subjects", subjects.collect::<Vec<_>>().join("\n")),
        ("usual", compared("other sessions", &after_pause(results, USUAL_SHARE))),
        ("whole", compared("other sessions", &after_pause(results, 100))),
        ("warm", warm_tables.join("\n\n")),
        ("limited", limited(results)),
        ("cold", compared("latency, share of a core", &cold(results))),
        ("requests", compared("other sessions", &by_size(results, "requests", requests))),
        ("cpu", compared("other sessions", &by_size(results, "CPU", |cell| Cell::of(&cell.cpu)))),
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
    let warm = |others, latency| results.warm(OURS, others, latency).ok_or("warm calls are missing");
    let usual = |others| {
        let cell = results.paused(OURS, under(USUAL_SHARE, 5, others));
        number(cell.map_or(f64::NAN, |cell| median(&cell.after)))
    };
    let requests = |cell: &Warm| cell.requests.values().sum::<u64>().to_string();
    Ok(vec![
        ("usual_1", usual(1)),
        ("usual_10", usual(10)),
        ("warm_1", number(median(&warm(1, 5)?.time))),
        ("warm_100", number(median(&warm(100, 5)?.time))),
        ("warm_1000", number(median(&warm(1_000, 5)?.time))),
        ("requests_100", requests(warm(100, 0)?)),
        ("requests_1000", requests(warm(1_000, 0)?)),
        ("memory_100", megabytes(warm(100, 0)?.memory)),
    ])
}

fn after_pause(results: &Results, share: u64) -> Vec<Column> {
    let column = |&size: &usize| {
        let condition = under(share, 5, size);
        let content = |subject: &str| Cell::of(&results.paused(subject, condition)?.after);
        results.column(others(size), format!("after a pause, {}", described(condition)), content)
    };
    FEW.iter().map(column).collect()
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

/// From exec to the first answer; hello world does nothing to compare with.
fn cold(results: &Results) -> Vec<Column> {
    let column = |&condition: &Condition| {
        let Condition { percent, latency, .. } = condition;
        let head = format!("{latency} ms, {percent} %");
        let content = |subject: &str| {
            let Cold { init, first, .. } = results.cold(subject, condition)?;
            Cell::of(&init.iter().zip(first).map(|(init, first)| init + first).collect::<Vec<_>>())
        };
        results.column(head, format!("exec to the first answer, {}", described(condition)), content)
    };
    COLD.iter().map(column).collect()
}

/// What was found at each size, without latency.
fn by_size(results: &Results, what: &str, content: impl Fn(&Warm) -> Option<Cell>) -> Vec<Column> {
    let column = |&size: &usize| {
        let head = others(size);
        results.column(head.clone(), format!("{what}, {head}"), |subject| content(results.warm(subject, size, 0)?))
    };
    SIZES.iter().map(column).collect()
}

fn requests(cell: &Warm) -> Option<Cell> {
    Cell::of(&[cell.requests.values().sum::<u64>() as f64]).filter(|_| !cell.requests.is_empty())
}

/// The table of the calls under the limit of a partition: how long each took, or that it failed and how many sessions it left.
fn limited(results: &Results) -> String {
    let head: Vec<_> = ["other sessions".to_owned()].into_iter().chain(MANY.map(others)).collect();
    let names = results.subjects.iter().map(|subject| subject.name.as_str());
    let rows = names.filter(|name| results.limited.iter().any(|cell| cell.subject == *name)).map(|name| {
        let cell = |size| match results.limited.iter().find(|cell| cell.subject == name && cell.others == size) {
            None => "not measured".to_owned(),
            Some(cell) if cell.status == Some(200) && cell.left == 0 => {
                format!("{:.1} s, {} units", cell.time / 1_000.0, thousands(cell.units as usize))
            }
            Some(cell) => format!("**fails** after {:.1} s, {} left", cell.time / 1_000.0, thousands(cell.left)),
        };
        [name.to_owned()].into_iter().chain(MANY.map(cell)).collect()
    });
    table(&head, rows)
}

fn instructions(results: &Results) -> String {
    let Some(counts) = &results.instructions else {
        return "Not counted: that takes `valgrind`.".to_owned();
    };
    let head: Vec<_> = [String::new(), "start".to_owned()]
        .into_iter()
        .chain(counts.calls.iter().map(|(size, _)| format!("warm call, {}", others(*size))))
        .collect();
    let figures = [counts.start].into_iter().chain(counts.calls.iter().map(|(_, count)| *count));
    let row = ["this function".to_owned()].into_iter().chain(figures.map(|count| format!("{:.2}", count / 1e6)));
    table(&head, [row.collect()])
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

/// A number of other sessions in words, such as `1 other` or `1,000 others`.
pub fn others(number: usize) -> String {
    if number == 1 { "1 other".to_owned() } else { format!("{} others", thousands(number)) }
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
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Writes the documentation.
pub fn write(results: &Results) -> Result<(), String> {
    let path = "docs/performance.md";
    fs::write(path, document(results)?).map_err(|error| format!("{path}: {error}"))
}
