//! `sessions`: creates, lists, signs out and deletes sessions, and checks a table, for tours, smoke tests and people at a
//! desk.
//!
//! Here are its words: arguments, output, exit status. `table` knows DynamoDB, `check` and `items` the rules for a table and
//! its items, `call` the function's URL.

#![allow(clippy::print_stderr, reason = "it talks to the person who has typed the command")]
#![allow(clippy::doc_markdown, reason = "clap prints comments as they are")]

mod call;
mod check;
mod items;
mod table;

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write as _};
use std::num::NonZeroU16;
use std::process::ExitCode;

use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};
use check::{Finding, Level, Observed};
use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand};
use disable_my_other_sessions::session::Token;
use table::{Row, Table};
use url::Url;

/// Creates, lists, signs out and deletes sessions, and checks whether the function works on a table.
///
/// DynamoDB is found as every AWS SDK finds it: by AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL_DYNAMODB and so on.
/// The one that `make run` has started is found with --local. HTTPS_PROXY and NO_PROXY are heeded.
#[derive(Parser)]
#[command(name = "sessions", version, verbatim_doc_comment)]
struct Arguments {
    /// Table of the sessions
    #[arg(long, global = true, env = "SESSIONS_TABLE", default_value = "sessions")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    table: String,
    /// Its index by user
    #[arg(long, global = true, env = "USER_ID_INDEX", default_value = "user_id-index")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    index: String,
    /// Use the DynamoDB of `make run` on this machine, on port 8000 or as given: --local=8001
    #[arg(long, global = true, value_name = "PORT")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "8000")]
    local: Option<NonZeroU16>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sign a user in: write a session, and print its token, which is kept nowhere else
    Create {
        /// Id of the user
        #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
        user: String,
        /// How long the session is valid
        #[arg(long, value_name = "HOURS", default_value_t = 720)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=87_600))]
        ttl_hours: u32,
    },
    /// Show a user's sessions. One that was created a moment ago may be missing, since the index lags behind the table
    List {
        /// Id of the user
        #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
        user: String,
    },
    /// Call the function: revoke every session of the token's user but the token's own. Fails on any answer but 200
    RevokeOthers {
        /// Where to send DELETE: https, or http on this machine
        #[arg(long)]
        url: Url,
        #[command(flatten)]
        token: TokenArgument,
    },
    /// Check whether the function works on a table, by its description and a sample of its items. Reads only, shows nothing
    /// of an item, and fails if there is a problem
    CheckTable {
        /// How many items to read
        #[arg(long, value_name = "ITEMS", default_value_t = 1000)]
        #[arg(value_parser = clap::value_parser!(u32).range(0..=100_000))]
        sample: u32,
        /// Fail if the table has no stream from which others hear of revocations
        #[arg(long)]
        expect_stream: bool,
    },
    /// Delete the session of a token from the table, to leave nothing behind after a test
    Delete {
        #[command(flatten)]
        token: TokenArgument,
    },
}

#[derive(clap::Args)]
struct TokenArgument {
    /// The session's token. On a command line it ends up in the shell's history: better in the environment, or, without
    /// either, as a line of standard input
    #[arg(long, env = "SESSION_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// What stops a command, in words for the person who has typed it. Never a token.
type Problem = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse_from(joined(env::args_os()))).await {
        Ok(status) => status,
        Err(problem) => {
            eprintln!("sessions: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// `--local 8001` means `--local=8001`. Clap alone takes `8001` for the command, since the port may be left out.
fn joined(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        let is_port = argument.to_str().is_some_and(|text| text.parse::<u16>().is_ok());
        match joined.last_mut() {
            Some(last) if is_port && last == "--local" => {
                last.push("=");
                last.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

async fn run(arguments: Arguments) -> Result<ExitCode, Problem> {
    let Arguments { table, index, local, command } = arguments;
    let table = async || Table::connect(table, index, local).await;
    match command {
        Command::Create { user, ttl_hours } => {
            let created = table().await?.create(&user, u64::from(ttl_hours) * 3600).await?;
            print(&format!("{}\n", created.token))?;
            eprintln!("Session {} of {}, until {}.", created.session_id, visible(&user), time(created.expires_at));
        }
        Command::List { user } => {
            let rows = table().await?.list(&user).await?;
            if rows.is_empty() {
                eprintln!("The index shows no sessions of {}.", visible(&user));
            } else {
                print(&format(&rows))?;
            }
        }
        Command::RevokeOthers { url, token } => {
            let answer = call::revoke_others(&url, &token.read()?).await?;
            print(&format!("{}\n", visible(answer.body.trim_end())))?;
            if answer.status != 200 {
                eprintln!("sessions: the answer's status is {}.", answer.status);
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::CheckTable { sample, expect_stream } => {
            let table = table().await?;
            let description = table.describe().await?;
            let time_to_live = heard(table.time_to_live().await);
            let ttl = time_to_live.as_ref().and_then(check::ttl_attribute);
            let sample = heard(table.sample(sample, ttl).await);
            let findings = check::findings(&Observed {
                table: &description,
                index: table.index(),
                expects_stream: expect_stream,
                time_to_live: time_to_live.as_ref(),
                sample: sample.as_ref(),
            });
            print(&report(&findings))?;
            if count(&findings, Level::Problem) > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Delete { token } => {
            let token = Token::parse(token.read()?.as_bytes())?;
            if !table().await?.delete(&token).await? {
                return Err("the table has no session of this token".into());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl TokenArgument {
    fn read(self) -> Result<String, Problem> {
        let token = if let Some(token) = self.token.filter(|token| !token.is_empty()) {
            token
        } else {
            if io::stdin().is_terminal() {
                eprint!("Token: ");
            }
            let mut line = String::new();
            io::stdin().read_line(&mut line)?;
            line.trim().to_owned()
        };
        if token.is_empty() {
            return Err("no token: neither --token nor SESSION_TOKEN, and nothing on standard input".into());
        }
        Ok(token)
    }
}

/// A value, or `None` with its problem on standard error, where the rest of a check is worth having without it.
fn heard<T>(result: Result<T, Problem>) -> Option<T> {
    result.inspect_err(|problem| eprintln!("sessions: {problem}")).ok()
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

/// Each finding with what to do, and a verdict.
fn report(findings: &[Finding]) -> String {
    let mut report = String::new();
    for Finding { level, meaning, advice } in findings {
        let level = match level {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Problem => "PROBLEM",
        };
        let _ = writeln!(report, "{level:<9}{}", visible(meaning));
        if !advice.is_empty() {
            let _ = writeln!(report, "{:<9}-> {}", "", visible(advice));
        }
    }
    let verdict = match (count(findings, Level::Problem), count(findings, Level::Warning)) {
        (0, 0) => "The function works on this table.".to_owned(),
        (0, warnings) => format!("The function works on this table. Warnings: {warnings}."),
        (problems, warnings) => {
            format!("The table is not ready for the function. Problems: {problems}, warnings: {warnings}.")
        }
    };
    let _ = writeln!(report, "\n{verdict}");
    report
}

/// A table as wide as its widest values.
fn format(rows: &[Row]) -> String {
    let header = ["SESSION", "STATUS", "CREATED", "EXPIRES", "REVOKED", "BY"].map(str::to_owned);
    let cells: Vec<[String; 6]> = std::iter::once(header)
        .chain(rows.iter().map(|row| {
            let text = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), visible);
            let date = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), time);
            let mut status = text(&row.status);
            if row.is_expired() {
                status += ", expired";
            }
            let [session, by] = [text(&row.session_id), text(&row.revoked_by)];
            [session, status, date(row.created_at), date(row.expires_at), date(row.revoked_at), by]
        }))
        .collect();
    let mut widths = [0; 6];
    for line in &cells {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut table = String::new();
    for line in &cells {
        let mut text = String::new();
        for (width, cell) in widths.iter().zip(line) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        table += text.trim_end();
        table.push('\n');
    }
    table
}

/// Epoch seconds for people.
fn time(epoch_seconds: u64) -> String {
    i64::try_from(epoch_seconds)
        .ok()
        .and_then(|seconds| DateTime::from_secs(seconds).fmt(DateTimeFormat::DateTime).ok())
        .unwrap_or_else(|| epoch_seconds.to_string())
}

/// What a table or an answer holds may be anyone's, and a terminal obeys control characters.
fn visible(value: &str) -> String {
    let mut shown = String::with_capacity(value.len());
    for character in value.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Prints unless the reader has gone, as `head` does once it has seen enough.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
