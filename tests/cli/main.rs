//! `sessions`: creates, lists, signs out and deletes sessions, and checks a table, for tours, smoke tests and people at a
//! desk.
//!
//! Here are its words: arguments, output, exit status. `table` knows DynamoDB, `check` and `items` the rules for a table and
//! its items, `call` the function's URL.

#![allow(clippy::print_stderr, reason = "it talks to the person who has typed the command")]
#![allow(clippy::doc_markdown, reason = "clap prints comments as they are")]
#![allow(clippy::cast_precision_loss, reason = "seconds since 1970 are small numbers")]

mod call;
mod check;
mod items;
mod table;

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write as _};
use std::num::NonZeroU16;
use std::process::ExitCode;

use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};
use check::{Finding, Level, Observed};
use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand};
use disable_my_other_sessions::session::Token;
use items::{Item, number, text};
use table::{Table, now};
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
    match run(Arguments::parse()).await {
        Ok(status) => status,
        Err(problem) => {
            eprintln!("sessions: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, Problem> {
    let Arguments { table, index, local, command } = arguments;
    let table = async || Table::connect(table, index, local).await;
    match command {
        Command::Create { user, ttl_hours } => {
            let created = table().await?.create(&user, u64::from(ttl_hours) * 3600).await?;
            print(&format!("{}\n", created.token))?;
            let until = time(created.expires_at as f64);
            eprintln!("Session {} of {}, until {until}.", created.session_id, visible(&user));
        }
        Command::List { user } => {
            let sessions = table().await?.list(&user).await?;
            if sessions.is_empty() {
                eprintln!("The index shows no sessions of {}.", visible(&user));
            } else {
                print(&listed(&sessions))?;
            }
        }
        Command::RevokeOthers { url, token } => {
            let (status, body) = call::revoke_others(&url, &token.read()?).await?;
            print(&format!("{}\n", visible(body.trim_end())))?;
            if status != 200 {
                return Err(format!("the answer's status is {status}").into());
            }
        }
        Command::CheckTable { sample, expect_stream } => {
            let table = table().await?;
            let description = table.describe().await?;
            let sample = table.sample(sample).await?;
            let observed = Observed { table: &description, index: &table.index, expects_stream: expect_stream };
            let mut findings = check::findings(&observed);
            findings.extend(sample.findings());
            print(&report(&findings, sample.items))?;
            if findings.iter().any(|finding| finding.level == Level::Problem) {
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
        Token::parse(token.as_bytes()).map_err(|error| format!("the token is {error}"))?;
        Ok(token)
    }
}

/// Each finding with what to do, and a verdict.
fn report(findings: &[Finding], items: u64) -> String {
    let mut report = String::new();
    for Finding { level, meaning, advice } in findings {
        let level = match level {
            Level::Warning => "WARNING",
            Level::Problem => "PROBLEM",
        };
        let _ = writeln!(report, "{level}  {}\n         -> {}", visible(meaning), visible(advice));
    }
    let checked = format!("Checked: the table's description and {items} of its items.");
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    let verdict = match (problems, findings.len() - problems) {
        (0, 0) => "The function works on this table.".to_owned(),
        (0, warnings) => format!("The function works on this table. Warnings: {warnings}."),
        _ => format!("The table is not ready for the function. Problems: {problems}."),
    };
    let _ = writeln!(report, "{checked} {verdict}");
    report
}

/// A line for each session. Applications differ in what they write, so any attribute may be missing.
fn listed(sessions: &[Item]) -> String {
    let line = |[session, status, created, expires, revoked, by]: [&str; 6]| {
        format!("{session:<36}  {status:<15}  {created:<20}  {expires:<20}  {revoked:<20}  {by}\n")
    };
    let mut lines = line(["SESSION", "STATUS", "CREATED", "EXPIRES", "REVOKED", "BY"]);
    for session in sessions {
        let text = |name| text(session, name).map_or_else(|| "-".to_owned(), visible);
        let date = |name| number(session, name).map_or_else(|| "-".to_owned(), time);
        let is_expired = number(session, "expires_at").is_some_and(|expires_at| expires_at <= now() as f64);
        let status = text("status") + if is_expired { ", expired" } else { "" };
        let [created, expires, revoked] = ["created_at", "expires_at", "revoked_at"].map(date);
        lines += &line([&text("session_id"), &status, &created, &expires, &revoked, &text("revoked_by")]);
    }
    lines
}

/// Epoch seconds for people.
fn time(epoch_seconds: f64) -> String {
    let time = DateTime::from_secs_f64(epoch_seconds).fmt(DateTimeFormat::DateTime);
    time.unwrap_or_else(|_| epoch_seconds.to_string())
}

/// What a table or an answer holds may be anyone's, and a terminal obeys control characters.
fn visible(value: &str) -> String {
    value.replace(char::is_control, "\u{fffd}")
}

/// Prints unless the reader has gone, as `head` does once it has seen enough.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
