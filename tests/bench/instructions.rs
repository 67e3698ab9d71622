//! Instructions that the function takes, counted by callgrind. Unlike times they hardly vary, so that a change of one percent
//! can be seen. A warm call is the difference of two runs with different numbers of calls, so that the start is in neither.
//!
//! Where they go says `callgrind_annotate target/bench/callgrind.out`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dynamodb::{DynamoDb, Trust};
use crate::lambda::Function;
use crate::measure::FEW;
use crate::subjects;

/// The function as it is deployed, with its symbols.
pub const BINARY: &str = "target/callgrind/release/disable-my-other-sessions";
/// Calls of the two runs that are compared: so many that a connection more in one of them does not count.
const RUNS: [u64; 2] = [10, 110];

/// What one build takes.
#[derive(Clone, Serialize, Deserialize)]
pub struct Instructions {
    /// Until it asks for the first event.
    pub start: f64,
    /// Of a warm call, by the number of other sessions.
    pub calls: Vec<(usize, f64)>,
}

/// Counts the instructions of a build; `None` where that is not possible, which is said.
pub async fn count(binary: &Path, dynamodb: &DynamoDb, trust: &Trust) -> Result<Option<Instructions>, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let valgrind = env::split_paths(&path).map(|folder| folder.join("valgrind")).find(|file| file.is_file());
    let Some(valgrind) = valgrind.filter(|_| binary.is_file()) else {
        println!("NOT COUNTED: instructions, since there is no valgrind on the PATH, or no {}.", binary.display());
        return Ok(None);
    };
    let build = binary.to_string_lossy().into_owned();
    dynamodb.delay(Duration::ZERO);
    let output = Path::new("target/bench").canonicalize().map_err(|error| error.to_string())?.join("callgrind.out");
    let output_option = PathBuf::from(format!("--callgrind-out-file={}", output.display()));
    let command = vec![valgrind, PathBuf::from("--tool=callgrind"), output_option, binary.to_owned()];
    let subject = subjects::wrapped(&build, command, dynamodb, trust);
    let run = async |others: usize, calls: u64| -> Result<f64, String> {
        let _ = fs::remove_file(&output);
        let (mut function, _) = Function::start(&subject).await?;
        for _ in 0..calls {
            dynamodb.reset(others);
            function.call(others, others).await?;
        }
        function.terminate().await?;
        total(&fs::read_to_string(&output).map_err(|error| format!("{}: {error}", output.display()))?)
    };
    let start = run(1, 0).await?;
    println!("  {build}, millions: start {:.3}", start / 1e6);
    let mut calls = Vec::new();
    for others in FEW {
        let [few, many] = [run(others, RUNS[0]).await?, run(others, RUNS[1]).await?];
        let call = (many - few) / (RUNS[1] - RUNS[0]) as f64;
        println!("  {build}, millions: warm call with {others} others {:.3}", call / 1e6);
        calls.push((others, call));
    }
    Ok(Some(Instructions { start, calls }))
}

/// The sum in a file that callgrind has written.
///
/// Source: "Callgrind Format Specification" in the Valgrind manual.
fn total(file: &str) -> Result<f64, String> {
    let total = file.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok());
    total.ok_or_else(|| "callgrind has counted nothing".to_owned())
}
