//! Instructions that the function takes, counted by callgrind. Unlike times they hardly vary, so that a change of one percent
//! can be seen. A warm call is the difference of two runs with different numbers of calls, so that the start is in neither.

use std::collections::{BTreeMap, HashMap};
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
/// What callgrind writes.
const OUTPUT: &str = "target/bench/callgrind.out";
/// Calls of the two runs that are compared: so many that a connection more in one of them does not count.
const RUNS: [u64; 2] = [10, 110];
/// Functions that are listed by `make bench BENCH=instructions`.
const LISTED: usize = 25;

/// Instructions of each group of code.
pub type Groups = BTreeMap<String, f64>;

/// What one build takes.
#[derive(Clone, Serialize, Deserialize)]
pub struct Instructions {
    pub build: String,
    /// Until it asks for the first event.
    pub start: Groups,
    /// Of a warm call, by the number of other sessions.
    pub calls: Vec<(usize, Groups)>,
}

impl Instructions {
    /// Everything in its order: the start, and the calls.
    pub fn columns(&self) -> Vec<(String, &Groups)> {
        let calls = self.calls.iter().map(|(others, groups)| (format!("warm call, {others} others"), groups));
        [("start".to_owned(), &self.start)].into_iter().chain(calls).collect()
    }
}

/// Instructions by symbol.
type Profile = HashMap<String, u64>;

/// Counts the instructions of a build; `None` where that is not possible, which is said.
pub async fn count(
    binary: &Path,
    dynamodb: &DynamoDb,
    trust: &Trust,
    list: bool,
) -> Result<Option<Instructions>, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let Some(valgrind) = env::split_paths(&path).map(|folder| folder.join("valgrind")).find(|file| file.is_file())
    else {
        println!("NOT COUNTED: instructions, since there is no valgrind on the PATH.");
        return Ok(None);
    };
    let build = binary.to_string_lossy().into_owned();
    if !binary.is_file() {
        println!(
            "NOT COUNTED: instructions, since there is no {build}. `make bench` builds it where there is a valgrind."
        );
        return Ok(None);
    }
    dynamodb.delay(Duration::ZERO);
    let output = Path::new("target/bench").canonicalize().map_err(|error| error.to_string())?.join("callgrind.out");
    let command = vec![
        valgrind,
        PathBuf::from("--tool=callgrind"),
        PathBuf::from(format!("--callgrind-out-file={}", output.display())),
        binary.to_owned(),
    ];
    let subject = subjects::wrapped(&build, command, dynamodb, trust);
    let run = async |others: usize, calls: u64| -> Result<Profile, String> {
        let _ = fs::remove_file(&output);
        let (mut function, _) = Function::start(&subject).await?;
        for _ in 0..calls {
            dynamodb.reset(others);
            function.call(others, others).await?;
        }
        function.terminate().await?;
        profile(&fs::read_to_string(&output).map_err(|error| format!("{OUTPUT}: {error}"))?)
    };
    let start = run(1, 0).await?;
    if !start.keys().any(|symbol| symbol.contains("disable_my_other_sessions")) {
        return Err(format!("{build} has no symbols: build it with CARGO_PROFILE_RELEASE_STRIP=false"));
    }
    println!("  {build}: start");
    let mut calls = Vec::new();
    for others in FEW {
        let [few, many] = [run(others, RUNS[0]).await?, run(others, RUNS[1]).await?];
        let difference = |symbol: &String| {
            let [few, many] = [&few, &many].map(|profile| profile.get(symbol).copied().unwrap_or_default() as f64);
            (many - few) / (RUNS[1] - RUNS[0]) as f64
        };
        let call: Vec<_> = many.keys().map(|symbol| (symbol.as_str(), difference(symbol))).collect();
        println!("  {build}: {others} others");
        if list {
            print_most(&call);
        }
        calls.push((others, groups(call.into_iter())));
    }
    let start = groups(start.iter().map(|(symbol, count)| (symbol.as_str(), *count as f64)));
    Ok(Some(Instructions { build, start, calls }))
}

fn print_most(call: &[(&str, f64)]) {
    let mut call = call.to_vec();
    call.sort_by(|left, right| right.1.total_cmp(&left.1));
    for (symbol, count) in call.iter().take(LISTED) {
        println!("    {count:>10.0}  {:<12}{symbol:.140}", group(symbol));
    }
}

fn groups<'a>(symbols: impl Iterator<Item = (&'a str, f64)>) -> Groups {
    let mut groups = Groups::new();
    for (symbol, count) in symbols {
        *groups.entry(group(symbol).to_owned()).or_default() += count;
    }
    groups
}

/// Where a symbol belongs. Rust's belong to the first crate in them that is not the standard library, which is the type that
/// a generic function of that is made for.
fn group(symbol: &str) -> &'static str {
    // The first that fits counts.
    const CRATES: [(&str, &[&str]); 5] = [
        ("ours", &["disable_my_other_sessions"]),
        ("TLS", &["rustls", "ring", "webpki", "hyper_rustls", "tokio_rustls", "untrusted", "subtle", "zeroize"]),
        ("runtime", &["aws_lambda_events", "lambda_", "tokio", "hyper", "tower", "mio", "futures"]),
        ("runtime", &["http", "bytes", "want", "socket2", "slab", "serde", "tracing", "url", "idna", "query_map"]),
        ("SDK", &["aws_", "sha2", "hmac", "digest", "block_buffer"]),
    ];
    // Its C and assembly.
    const RING: [&str; 9] = ["ring_", "_aesni", "aesni", "gcm_", "ecp_", "__ecp", "x25519", "fe_", "fiat_"];
    const MEMORY: [&str; 8] = ["malloc", "free", "realloc", "calloc", "_int_", "unlink_chunk", "mem", "__mem"];
    if !symbol.contains("::") {
        return match symbol {
            _ if RING.iter().any(|prefix| symbol.starts_with(prefix)) => "TLS",
            _ if MEMORY.iter().any(|prefix| symbol.starts_with(prefix)) => "memory",
            _ => "other",
        };
    }
    let mut words = symbol.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let of = |word: &str| CRATES.iter().find(|(_, names)| names.iter().any(|name| word.starts_with(name)));
    words.find_map(of).map_or("other", |(group, _)| group)
}

/// Instructions by symbol of a file that callgrind has written: lines of cost that follow `fn=`, except those after
/// `calls=`, which repeat what the callee took.
///
/// Source: "Callgrind Format Specification" in the Valgrind manual.
fn profile(file: &str) -> Result<Profile, String> {
    let (mut names, mut profile) = (HashMap::new(), Profile::new());
    let (mut symbol, mut is_call) = (String::new(), false);
    for line in file.lines() {
        if let Some(name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            // A name comes with its number once, and as that number alone from then on.
            let (number, rest) = name.split_once(')').ok_or_else(|| format!("callgrind writes {line}"))?;
            if !rest.trim().is_empty() {
                names.insert(number.to_owned(), rest.trim().to_owned());
            }
            if line.starts_with("fn=") {
                symbol = names.get(number).cloned().unwrap_or_default();
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or_default();
            if !std::mem::take(&mut is_call) {
                *profile.entry(symbol.clone()).or_default() += cost;
            }
        }
    }
    if profile.is_empty() { Err("callgrind has counted nothing".to_owned()) } else { Ok(profile) }
}
