//! `make bench`: how fast the function is, next to what people would otherwise use.
//!
//! ```sh
//! make bench                        # a quarter of an hour; writes docs/performance.md
//! make bench BENCH=quick            # some minutes: fewer rounds, nothing written
//! make bench BENCH=instructions     # only instructions, by callgrind
//! make bench COMPARE="path path …"  # starts and calls of several builds, nothing written
//! make bench BENCH=report           # writes docs/performance.md again from the results of the last full run
//! ```
//!
//! To try a change: `cp target/release/disable-my-other-sessions /tmp/before`, make the change, `cargo build --release`,
//! then `make bench COMPARE="/tmp/before target/release/disable-my-other-sessions"`. To compare instructions, do the same with
//! builds that have symbols, such as `target/callgrind/release/disable-my-other-sessions`, and `BENCH=instructions`.
//!
//! Read on in `lambda.rs` (the function's process, as Lambda runs it), `dynamodb.rs` (the database, TLS, latency, limits),
//! `subjects.rs` (what is run), `measure.rs` (in which order), `instructions.rs` (callgrind) and `report.rs` (what becomes of
//! it).

mod dynamodb;
mod instructions;
mod lambda;
mod measure;
mod report;
mod subjects;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use dynamodb::{DynamoDb, Trust};
use lambda::LOG;
use measure::SIZES;
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
        for build in &builds {
            instructions::count(build, &dynamodb, &trust).await?;
        }
        return Ok(());
    }
    if !builds.is_empty() {
        return compare(&builds, &dynamodb, &trust, if given("--quick") { 8 } else { 30 }).await;
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
    println!("\nWritten: docs/performance.md; all samples are in {RESULTS}.");
    Ok(())
}

async fn measure_all(dynamodb: &DynamoDb, trust: &Trust, rounds: usize) -> Result<Results, String> {
    let begin = Instant::now();
    let binary = fs::metadata(BINARY).map_err(|error| format!("{BINARY}: {error}"))?;
    let subjects = subjects::all(Path::new(BINARY), dynamodb, trust);
    println!("New processes, {rounds} of each:");
    let cold = measure::cold(&subjects, dynamodb, rounds).await?;
    println!("After pauses, up to {rounds} calls of each:");
    let paused = measure::paused(&subjects, dynamodb, rounds).await?;
    println!("Back to back, up to {rounds} calls of each:");
    let warm = measure::warm(&subjects, dynamodb, &SIZES, rounds).await?;
    println!("With the limit of a partition of the index:");
    let limited = measure::limited(&subjects, dynamodb, &warm).await?;
    println!("Instructions:");
    let instructions = instructions::count(Path::new(instructions::BINARY), dynamodb, trust).await?;
    Ok(Results {
        machine: machine(),
        versions: versions(),
        rounds,
        minutes: begin.elapsed().as_secs_f64() / 60.0,
        binary_bytes: binary.len() as u64,
        subjects: subjects
            .into_iter()
            .map(|subject| Named { name: subject.name, what: subject.what.to_owned() })
            .collect(),
        cold,
        paused,
        warm,
        limited,
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

/// Starts and calls of several builds: medians, as they are measured.
async fn compare(builds: &[PathBuf], dynamodb: &DynamoDb, trust: &Trust, rounds: usize) -> Result<(), String> {
    let mut subjects: Vec<_> = builds.iter().map(|binary| subjects::build(binary, dynamodb, trust)).collect();
    subjects.push(subjects::hello(dynamodb, trust));
    measure::cold(&subjects, dynamodb, rounds).await?;
    measure::paused(&subjects, dynamodb, rounds / 2).await?;
    measure::warm(&subjects, dynamodb, &SIZES[..4], rounds).await.map(drop)
}
