//! `make bench`: how fast the function is, next to what people would otherwise use.
//!
//! ```sh
//! make bench                        # half an hour; writes docs/performance.md and its charts
//! make bench BENCH=quick            # ten minutes: fewer rounds, nothing written
//! make bench BENCH=instructions     # only instructions, by callgrind, with the functions that take most
//! make bench BENCH=bad-end          # only 500 writes whose answers are lost before the deadline
//! make bench COMPARE="path path …"  # starts and calls of several builds, nothing written
//! make bench BENCH=report           # writes the documentation again from the results of the last full run
//! ```
//!
//! To try a change: `cp target/release/disable-my-other-sessions /tmp/before`, make the change, `cargo build --release`,
//! then `make bench COMPARE="/tmp/before target/release/disable-my-other-sessions"`. Ratios are to the first. To compare
//! instructions, do the same with builds that have symbols, such as `target/callgrind/release/disable-my-other-sessions`, and
//! `BENCH=instructions`.
//!
//! Read on in `lambda.rs` (the function's process and the Runtime API), `dynamodb.rs` (the database, TLS, latency),
//! `subjects.rs` (what is run), `measure.rs` (in which order), `bad_end.rs` (answers that are lost before the deadline),
//! `instructions.rs` (callgrind), `report.rs` and `charts.rs` (what becomes of it).

mod bad_end;
mod charts;
mod dynamodb;
mod instructions;
mod lambda;
mod measure;
mod report;
mod subjects;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use dynamodb::{DynamoDb, Trust};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use lambda::LOG;
use measure::{COLD, COLD_OF_BUILDS, Cold, Condition, LATENCIES, PAUSES_OF_BUILDS, Paused, SIZES, Warm, median};
use report::{Named, Results};

/// The function as it is deployed.
const BINARY: &str = "target/release/disable-my-other-sessions";
/// What the last full run has found.
const RESULTS: &str = "target/bench/results.json";

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = tokio::select! {
        outcome = run() => outcome,
        // Not the default, which would leave control groups behind.
        _ = tokio::signal::ctrl_c() => Err("It was interrupted.".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("\nThe bench has failed. {problem}\nWhat the functions have printed is in {LOG}.");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let builds: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).map(PathBuf::from).collect();
    if given("--report") {
        let file = File::open(RESULTS).map_err(|error| format!("{RESULTS}: {error}. Run `make bench` first."))?;
        return report::write(&serde_json::from_reader(file).map_err(|error| format!("{RESULTS}: {error}"))?);
    }
    let _ = fs::remove_file(LOG);
    let trust = Trust::new(Path::new("target/bench")).map_err(|error| format!("target/bench: {error}"))?;
    let dynamodb = DynamoDb::start(&trust).await;
    if given("--instructions") {
        let builds = if builds.is_empty() { vec![PathBuf::from(instructions::BINARY)] } else { builds };
        return compare_instructions(&builds, &dynamodb, &trust).await;
    }
    if given("--bad-end") {
        let build = builds.first().map_or(Path::new(BINARY), PathBuf::as_path);
        return bad_end::measure(&subjects::build(build, &dynamodb, &trust), &dynamodb, 3).await.map(drop);
    }
    if !builds.is_empty() {
        return compare_builds(&builds, &dynamodb, &trust, if given("--quick") { 8 } else { 30 }).await;
    }
    let results = measure_all(&dynamodb, &trust, if given("--quick") { 3 } else { 15 }).await?;
    println!("\n{}", report::summary(&results));
    if given("--quick") {
        // What it would say is still checked.
        report::document(&results)?;
        println!("\nNothing is written after a quick run: its figures are too rough.");
        return Ok(());
    }
    let file = File::create(RESULTS).map_err(|error| format!("{RESULTS}: {error}"))?;
    serde_json::to_writer_pretty(file, &results).map_err(|error| format!("{RESULTS}: {error}"))?;
    report::write(&results)?;
    println!("\nWritten: docs/performance.md, docs/performance/*.svg; all samples are in {RESULTS}.");
    Ok(())
}

async fn measure_all(dynamodb: &DynamoDb, trust: &Trust, rounds: usize) -> Result<Results, String> {
    let begin = Instant::now();
    let binary = fs::read(BINARY).map_err(|error| format!("{BINARY}: {error}"))?;
    let mut zip = DeflateEncoder::new(Vec::new(), Compression::default());
    let zip = zip.write_all(&binary).and_then(|()| zip.finish()).map_err(|error| error.to_string())?;
    let subjects = subjects::all(Path::new(BINARY), dynamodb, trust);
    println!("New processes, {rounds} of each:");
    let cold = measure::cold(&subjects, dynamodb, &COLD, rounds).await?;
    println!("After pauses, up to {rounds} calls of each:");
    let mut paused = Vec::new();
    for conditions in measure::pauses() {
        paused.extend(measure::paused(&subjects, dynamodb, &conditions, rounds).await?);
    }
    println!("Back to back, up to {rounds} calls of each:");
    let warm = measure::warm(&subjects, dynamodb, &SIZES, &LATENCIES, rounds).await?;
    println!("A bad end ({}):", bad_end::rules());
    let bad_ends = bad_end::measure(&subjects[0], dynamodb, 3).await?;
    println!("Instructions:");
    let instructions = instructions::count(Path::new(instructions::BINARY), dynamodb, trust, false).await?;
    Ok(Results {
        machine: machine(),
        versions: versions(),
        rounds,
        minutes: begin.elapsed().as_secs_f64() / 60.0,
        binary_bytes: binary.len() as u64,
        zip_bytes: zip.len() as u64,
        subjects: subjects
            .into_iter()
            .map(|subject| Named { name: subject.name, what: subject.what.to_owned() })
            .collect(),
        cold,
        paused,
        warm,
        bad_ends,
        instructions,
    })
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|line| line.trim_start_matches(['\t', ' ', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores of {}", model.unwrap_or(std::env::consts::ARCH))
}

/// Of what the subjects are made with.
fn versions() -> BTreeMap<String, String> {
    let print_boto3 = "import boto3; print(boto3.__version__)";
    let print_sdk =
        "console.log(require('./.tools/aws-sdk-js/node_modules/@aws-sdk/client-dynamodb/package.json').version)";
    let commands: [(&str, &[&str]); 5] = [
        ("Rust", &["rustc", "--version"]),
        ("Python", &["python3", "--version"]),
        ("boto3", &["python3", "-c", print_boto3]),
        ("Node.js", &["node", "--version"]),
        ("AWS SDK for JavaScript", &["node", "-e", print_sdk]),
    ];
    let version = |command: &[&str]| {
        let output = Command::new(command[0]).args(&command[1..]).env("PYTHONPATH", ".tools/boto3").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let number = text
            .split_whitespace()
            .find(|word| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()))?;
        Some(number.trim_start_matches('v').to_owned())
    };
    commands.iter().filter_map(|(name, command)| Some(((*name).to_owned(), version(command)?))).collect()
}

/// Of several builds; ratios are to the first.
async fn compare_instructions(builds: &[PathBuf], dynamodb: &DynamoDb, trust: &Trust) -> Result<(), String> {
    let mut counted = Vec::new();
    for build in builds {
        let Some(counts) = instructions::count(build, dynamodb, trust, true).await? else { return Ok(()) };
        counted.push(counts);
    }
    let Some(first) = counted.first() else { return Ok(()) };
    for counts in &counted {
        println!("\n{}: millions of instructions", counts.build);
        for ((what, groups), (_, reference)) in counts.columns().into_iter().zip(first.columns()) {
            let total = |groups: &instructions::Groups| groups.values().sum::<f64>();
            print!("  {what:<28}{:>8.3}{:>8.3} ×  ", total(groups) / 1e6, total(groups) / total(reference));
            for (group, count) in groups {
                print!("  {group} {:.3}", count / 1e6);
            }
            println!();
        }
    }
    Ok(())
}

async fn compare_builds(builds: &[PathBuf], dynamodb: &DynamoDb, trust: &Trust, rounds: usize) -> Result<(), String> {
    let mut subjects: Vec<_> = builds.iter().map(|binary| subjects::build(binary, dynamodb, trust)).collect();
    subjects.push(subjects::hello(dynamodb, trust));
    println!("New processes, {rounds} of each build:");
    let cold = measure::cold(&subjects, dynamodb, &COLD_OF_BUILDS, rounds).await?;
    println!("After pauses:");
    let paused = measure::paused(&subjects, dynamodb, &PAUSES_OF_BUILDS, rounds / 2).await?;
    println!("Back to back:");
    let warm = measure::warm(&subjects, dynamodb, &[1, 100, 1_000], &[0, 5], rounds).await?;

    println!("\nMedians, and how they compare with those of the first build:");
    let first = &subjects[0].name;
    for subject in &subjects {
        println!("\n{}", subject.name);
        let line = |what: &str, unit: &str, value: &dyn Fn(&str) -> f64| {
            let (value, reference) = (value(&subject.name), value(first));
            // Not everything can be measured everywhere.
            if !value.is_nan() {
                println!("  {what:<44}{value:>10.2} {unit:<3}{:>8.2} ×", value / reference);
            }
        };
        let size = |name: &str| {
            let path = subjects.iter().find(|subject| subject.name == name).map(|subject| &subject.command[0]);
            path.and_then(|path| fs::metadata(path).ok()).map_or(f64::NAN, |file| file.len() as f64 / 1e6)
        };
        line("binary", "MB", &size);
        for under in COLD_OF_BUILDS {
            let cell = |name: &str| {
                let is = |cell: &&Cold| cell.subject == name && cell.under == under;
                cold.iter().find(is).cloned().unwrap_or_default()
            };
            let Condition { percent, latency, .. } = under;
            let name = format!("{latency} ms latency, {percent} % of a core");
            line(&format!("exec → /next, {name}"), "ms", &|name| median(&cell(name).init));
            line(&format!("first call, {name}"), "ms", &|name| median(&cell(name).first));
            if (latency, percent) == (0, 100) {
                line("CPU until /next", "ms", &|name| median(&cell(name).init_cpu));
                line("CPU of the first call", "ms", &|name| median(&cell(name).first_cpu));
                line("peak memory at /next", "MB", &|name| cell(name).memory as f64 / 1e6);
            }
        }
        for under in PAUSES_OF_BUILDS {
            let cell = |name: &str| {
                let is = |cell: &&Paused| cell.subject == name && cell.under == under;
                paused.iter().find(is).cloned().unwrap_or_default()
            };
            let Condition { percent, latency, .. } = under;
            let name = format!("{latency} ms latency, {percent} % of a core");
            line(&format!("after a pause, {name}"), "ms", &|name| median(&cell(name).after));
        }
        for cell in warm.iter().filter(|cell| cell.subject == subject.name) {
            let same = |name: &str| {
                let is = |other: &&Warm| {
                    other.subject == name && (other.others, other.latency) == (cell.others, cell.latency)
                };
                warm.iter().find(is).cloned().unwrap_or_default()
            };
            let under = format!("{} others, {} ms latency", cell.others, cell.latency);
            line(&format!("warm, {under}"), "ms", &|name| median(&same(name).time));
            if cell.latency == 0 {
                line(&format!("  CPU of that, {under}"), "ms", &|name| median(&same(name).cpu));
                line(&format!("  peak memory, {under}"), "MB", &|name| same(name).memory as f64 / 1e6);
            }
        }
    }
    Ok(())
}
