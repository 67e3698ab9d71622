//! `sessions`, the command line of tests/cli: run as a person runs it, on an embedded DynamoDB and the real function.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::cargo_lambda::environment::is_set_by_cargo;
use crate::support::watch::Watch;
use crate::support::{Row, Session, World, n, now, s, sessions_of};

/// Included for its unit tests, since cargo runs none of an example.
#[path = "../cli/check.rs"]
mod check;
#[path = "../cli/items.rs"]
mod items;

/// The exit status and the output of a command.
#[derive(Debug)]
struct Output {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

#[tokio::test]
async fn sessions_are_created_listed_signed_out_and_deleted() {
    let world = World::new().await;
    let watch = Watch::start(&world).await;
    let url = format!("http://{}/auth/sessions", watch.address);

    let laptop = created(&sessions(&world, &["create", "--user", "dora"], &[], "").await);
    let phone = created(&sessions(&world, &["create", "--user", "dora", "--ttl-hours", "1"], &[], "").await);
    assert_ne!(laptop, phone);
    let rows = world.database.rows().await;
    for (hours, token) in [(720, &laptop), (1, &phone)] {
        let row = row_of(&rows, token);
        assert_eq!((row["user_id"].as_str(), row["status"].as_str()), ("S:dora", "S:active"));
        assert_eq!(number(row, "expires_at"), number(row, "created_at") + hours * 3600);
        assert!(number(row, "created_at").abs_diff(now()) < 60, "{row:?}");
        assert_eq!(row["authenticated_at"], row["created_at"]);
    }
    let id = |token| row_of(&rows, token)["session_id"].trim_start_matches("S:").to_owned();

    let listed = sessions(&world, &["list", "--user", "dora"], &[], "").await;
    assert_eq!(line_of(&listed, &id(&phone))[1], "active");
    assert_eq!(line_of(&listed, &id(&laptop))[1], "active");

    // The token comes from the environment, from standard input, and from the command line.
    let revoke = ["revoke-others", "--url", &url];
    let first = sessions(&world, &revoke, &[("SESSION_TOKEN", &laptop)], "").await;
    assert_eq!((first.status, first.stdout.as_str()), (Some(0), "{\"count\":1}\n"), "{first:?}");
    let second = sessions(&world, &revoke, &[("SESSION_TOKEN", "")], &format!("{laptop}\n")).await;
    assert_eq!((second.status, second.stdout.as_str()), (Some(0), "{\"count\":0}\n"), "{second:?}");
    let refused = sessions(&world, &[&revoke[..], &["--token", &phone]].concat(), &[], "").await;
    assert_eq!(refused.status, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("session_inactive") && refused.stderr.contains("401"), "{refused:?}");

    let listed = sessions(&world, &["list", "--user", "dora"], &[], "").await;
    let (revoked, kept) = (line_of(&listed, &id(&phone)), line_of(&listed, &id(&laptop)));
    assert_eq!((revoked[1].as_str(), kept[1].as_str()), ("revoked", "active"));
    assert_eq!(revoked.last(), Some(&id(&laptop)));

    for token in [&laptop, &phone] {
        let delete = async || sessions(&world, &["delete"], &[("SESSION_TOKEN", token)], "").await;
        assert_eq!(delete().await.status, Some(0));
        let again = delete().await;
        assert_eq!(again.status, Some(1), "{again:?}");
        assert!(!again.stderr.contains(token.as_str()), "{again:?}");
    }
    assert!(world.database.rows().await.is_empty());
    let listed = sessions(&world, &["list", "--user", "dora"], &[], "").await;
    assert_eq!((listed.status, listed.stdout.as_str()), (Some(0), ""), "{listed:?}");
    assert!(listed.stderr.contains("no sessions of dora"), "{listed:?}");
}

#[tokio::test]
async fn every_session_is_listed_even_with_invalid_attributes() {
    let world = World::new().await;
    world.database.put(&sessions_of("erin", 230)).await;
    let odd = Session::of("erin", "odd")
        .with("session_id", s("\u{1b}[2J"))
        .with("status", n(7))
        .with("expires_at", n("99999999999999999999"))
        .with("created_at", s("yesterday"));
    let bare = Session::of("erin", "bare").without("status").without("created_at").without("expires_at");
    let expired = Session::of("erin", "expired").with("expires_at", n(now() - 1));
    world.database.put(&[odd, bare, expired]).await;

    let listed = sessions(&world, &["list", "--user", "erin"], &[], "").await;
    assert_eq!(listed.stdout.lines().count(), 1 + 233, "{listed:?}");
    assert_eq!(line_of(&listed, "\u{fffd}[2J")[1..3], ["-", "-"]);
    assert_eq!(line_of(&listed, "bare")[1..4], ["-", "-", "-"]);
    assert_eq!(line_of(&listed, "expired")[1..3], ["active,", "expired"]);
    assert!(!listed.stdout.contains('\u{1b}'), "{listed:?}");
}

#[tokio::test]
async fn a_token_leaves_the_machine_only_encrypted_and_is_in_no_error() {
    let world = World::new().await;
    // A server that closes each connection at once. Nothing listens on port 9.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let rude = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            drop(connection);
        }
    });
    for (url, token, expected) in [
        ("http://192.0.2.1/auth/sessions", "canary", "must be https"),
        ("http://localhost.example.com/auth/sessions", "canary", "must be https"),
        ("ftp://localhost/", "canary", "must be https"),
        ("http://127.0.0.1:9/", "canary", "http://127.0.0.1:9 cannot be called: "),
        ("http://127.0.0.1:9/", "canary", "refused"),
        ("https://127.0.0.1:9/", "canary", "https://127.0.0.1:9 cannot be called: "),
        (&rude, "canary", "connection"),
        (&rude, "canary\u{7f}", "not a token68"),
    ] {
        let output = sessions(&world, &["revoke-others", "--url", url], &[("SESSION_TOKEN", token)], "").await;
        assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""), "{url}: {output:?}");
        assert!(output.stderr.contains(expected), "{url}: {output:?}");
        assert!(!output.stderr.contains("canary"), "{url}: {output:?}");
    }
    let output = sessions(&world, &["delete"], &[("SESSION_TOKEN", "no canary")], "").await;
    assert_eq!(output.status, Some(1), "{output:?}");
    assert!(output.stderr.contains("not a token68") && !output.stderr.contains("canary"), "{output:?}");
}

#[tokio::test]
async fn a_command_that_cannot_work_names_the_cause_and_changes_nothing() {
    let world = World::new().await;
    for (arguments, variables, status, expected) in [
        (&["create"][..], &[][..], 2, "--user"),
        (&["create", "--user", ""], &[], 2, "--user"),
        (&["create", "--user", "f", "--ttl-hours", "0"], &[], 2, "--ttl-hours"),
        (&["create", "--user", "f", "--ttl-hours", "87601"], &[], 2, "--ttl-hours"),
        (&["create", "--user", "f"], &[("SESSIONS_TABLE", "")], 2, "--table"),
        (&["create", "--user", "f", "--table", "no-such-table"], &[], 1, "no-such-table: ResourceNotFoundException"),
        (&["list", "--user", "f", "--index", "no-such-index"], &[], 1, "no-such-index"),
        (&["list", "--user", "f"], &[("AWS_REGION", "")], 1, "AWS_REGION"),
        (&["list", "--user", "f", "--local=9"], &[], 1, "refused"),
        (&["list", "--user", "f", "--local=0"], &[], 2, "--local"),
        (&["check-table", "--table", "no-such-table"], &[], 1, "no-such-table: ResourceNotFoundException"),
        (&["check-table", "--sample", "100001"], &[], 2, "--sample"),
        (&["revoke-others", "--url", "nowhere"], &[], 2, "--url"),
        (&["delete"], &[], 1, "no token"),
    ] {
        let output = sessions(&world, arguments, variables, "").await;
        assert_eq!((output.status, output.stdout.as_str()), (Some(status), ""), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(expected), "{arguments:?}: {output:?}");
    }
    assert!(world.database.rows().await.is_empty());
}

#[tokio::test]
async fn the_local_dynamodb_is_found_without_any_environment() {
    let world = World::new().await;
    let local = format!("--local={}", world.database.address.port());
    let command = ["--table", &world.database.table, "create", "--user", "gus"];
    let elsewhere = [
        ("AWS_REGION", ""),
        ("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9"),
        ("AWS_PROFILE", "none"),
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
    ];
    let token = created(&sessions(&world, &[&[local.as_str()], &command[..]].concat(), &elsewhere, "").await);
    assert_eq!(row_of(&world.database.rows().await, &token)["user_id"], "S:gus");
}

#[tokio::test]
async fn a_proxy_is_used_for_https_only() {
    let world = World::new().await;
    let watch = Watch::start(&world).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = format!("http://{}", listener.local_addr().expect("an address"));
    let first_lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&first_lines);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let line = BufReader::new(connection).lines().next_line().await.ok().flatten();
            seen.lock().expect("no panic").extend(line);
        }
    });
    let variables = |endpoint| {
        [
            ("HTTPS_PROXY", proxy.as_str()),
            ("HTTP_PROXY", proxy.as_str()),
            ("AWS_ENDPOINT_URL_DYNAMODB", endpoint),
            ("AWS_MAX_ATTEMPTS", "1"),
            ("SESSION_TOKEN", "canary"),
        ]
    };
    let call = async |arguments: &[&str], endpoint| sessions(&world, arguments, &variables(endpoint), "").await.status;
    let https = "https://sessions.example.com/";
    assert_eq!(call(&["revoke-others", "--url", https], https).await, Some(1));
    assert_eq!(call(&["list", "--user", "ida"], "https://dynamodb.example.com").await, Some(1));
    let local = format!("http://{}/auth/sessions", watch.address);
    assert_eq!(call(&["revoke-others", "--url", &local], https).await, Some(1));
    let expected = ["CONNECT sessions.example.com:443 HTTP/1.1", "CONNECT dynamodb.example.com:443 HTTP/1.1"];
    assert_eq!(*first_lines.lock().expect("no panic"), expected);
}

#[tokio::test]
async fn a_table_on_which_the_function_works_passes_the_check() {
    let world = World::new().await;
    let empty = sessions(&world, &["check-table"], &[], "").await;
    assert_eq!(empty.status, Some(0), "{empty:?}");

    let authenticated = |session: Session| session.with("authenticated_at", n(now()));
    let mut items: Vec<_> = sessions_of("hal", 30).into_iter().map(authenticated).collect();
    world.database.put(&items).await;
    let full = sessions(&world, &["check-table"], &[], "").await;
    let works = "Checked: the table's description and 30 of its items. The function works on this table.\n";
    assert_eq!((full.status, full.stdout.as_str(), full.stderr.as_str()), (Some(0), works, ""), "{full:?}");
    let bounded = sessions(&world, &["check-table", "--sample", "7"], &[], "").await;
    assert!(bounded.stdout.contains(" 7 of its items"), "{bounded:?}");

    // A warning alone does not fail the check.
    items.push(Session::of("hal", "never-authenticated"));
    world.database.put(&items).await;
    let warned = sessions(&world, &["check-table"], &[], "").await;
    assert_eq!(warned.status, Some(0), "{warned:?}");
    assert!(warned.stdout.contains("WARNING  1 of 31 sampled items have no authenticated_at"), "{warned:?}");
}

/// Each fault by itself is in the unit tests of the command.
#[tokio::test]
async fn a_table_on_which_the_function_cannot_work_fails_the_check() {
    let world = World::new().await;
    for (arguments, expected) in [
        (&["--index", "by-user"][..], "PROBLEM  The table has no global index by-user"),
        (&["--expect-stream"], "PROBLEM  The table has no stream"),
    ] {
        let output = sessions(&world, &[&["check-table"], arguments].concat(), &[], "").await;
        assert_eq!(output.status, Some(1), "{output:?}");
        assert!(output.stdout.contains(expected), "{output:?}");
        assert!(output.stdout.contains("The table is not ready for the function. Problems: 1."), "{output:?}");
    }
}

#[tokio::test]
async fn bad_items_fail_the_check_and_nothing_of_them_is_shown() {
    let world = World::new().await;
    let canary = |id: &str| {
        Session::of("canary-user", &format!("canary-{id}"))
            .with("authenticated_at", n(now()))
            .with("device", s("canary-device"))
    };
    let good = canary("good");
    world
        .database
        .put(&[
            canary("milliseconds").with("expires_at", n(now() * 1000)),
            canary("iso").with("expires_at", s("canary 2030-01-01T00:00:00Z")),
            canary("numeric").with("expires_at", s("4242424242")),
            canary("no-expiry").without("expires_at"),
            canary("no-status").without("status"),
            canary("odd-status").with("status", s("canary-status")),
            canary("no-user").without("user_id"),
            canary("no-id").without("session_id"),
            canary("raw").with("token_hash", s("canary-token")),
            Session::with_token("canary-user", "canary-kept", "canary-kept").with("authenticated_at", n(now())),
            canary("large").with("data", s(&"canary".repeat(65_500))),
            good.clone(),
        ])
        .await;
    let output = sessions(&world, &["check-table"], &[], "").await;
    assert_eq!(output.status, Some(1), "{output:?}");
    for expected in [
        "PROBLEM  1 of 12 sampled items have an expires_at in milliseconds",
        "PROBLEM  3 of 12 sampled items have no expires_at",
        "PROBLEM  1 of 12 sampled items have no status",
        "WARNING  1 of 12 sampled items have a status other",
        "PROBLEM  1 of 12 sampled items have no user_id",
        "PROBLEM  1 of 12 sampled items have no session_id",
        "PROBLEM  1 of 12 sampled items have a token_hash that is not",
        "PROBLEM  1 of 12 sampled items hold their own token",
        "PROBLEM  1 of 12 sampled items are over 380 KB",
    ] {
        assert!(output.stdout.contains(expected), "{expected}: {output:?}");
    }
    let shown = format!("{}{}", output.stdout, output.stderr);
    for secret in ["canary", "4242424242", good.token_hash()] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
    // The check only reads.
    assert_eq!(world.database.rows().await.len(), 12);
}

/// Runs the command on a world's database.
async fn sessions(world: &World, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Output {
    let mut process = Command::new(program().await)
        .args(arguments)
        .env_clear()
        .env("AWS_REGION", "eu-central-1")
        .env("AWS_ACCESS_KEY_ID", "local")
        .env("AWS_SECRET_ACCESS_KEY", "local")
        .env("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{}", world.database.address))
        .env("SESSIONS_TABLE", &world.database.table)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the command to start");
    let mut stdin = process.stdin.take().expect("standard input");
    // An error means that the command ended without reading its input, as most do.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = process.wait_with_output().await.expect("an exit status");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Output { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The command, built once: `cargo test --test suite` builds no examples, so the one that is there may be an older one.
async fn program() -> &'static Path {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    PROGRAM
        .get_or_init(async || {
            let mut cargo = Command::new(env!("CARGO"));
            // The profile of the tests, whose libraries are built already.
            cargo.args(["build", "--locked", "--profile", "test", "--example", "sessions"]);
            cargo.args(["--message-format", "json-render-diagnostics"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_set_by_cargo)) {
                cargo.env_remove(name);
            }
            let output = cargo.output().await.expect("cargo to start");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let messages = String::from_utf8(output.stdout).expect("UTF-8");
            let mut built = messages.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            let program = built.find_map(|message| message["executable"].as_str().map(PathBuf::from));
            program.expect("the path of the command")
        })
        .await
}

/// The token that `create` has printed. Standard output has nothing else.
fn created(output: &Output) -> String {
    assert_eq!(output.status, Some(0), "{output:?}");
    let token = output.stdout.trim_end_matches('\n');
    assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{output:?}");
    assert!(!output.stderr.contains(token), "{output:?}");
    token.to_owned()
}

fn row_of<'a>(rows: &'a BTreeMap<String, Row>, token: &str) -> &'a Row {
    let hash = format!("S:{}", Session::with_token("", "", token).token_hash());
    rows.values().find(|row| row["token_hash"] == hash).expect("the session of the token")
}

fn number(row: &Row, name: &str) -> u64 {
    row[name].trim_start_matches("N:").parse().expect("a number")
}

/// The words of the line about a session.
fn line_of(listed: &Output, session: &str) -> Vec<String> {
    assert_eq!(listed.status, Some(0), "{listed:?}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    listed.stdout.lines().map(words).find(|words| words[0] == session).expect("the session's line")
}
