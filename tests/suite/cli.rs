//! `sessions`, the command line of tests/cli: run as a person runs it, on an embedded DynamoDB and the real function.

use std::collections::BTreeMap;
use std::env::current_exe;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::cargo_lambda::Watch;
use crate::support::{Row, Session, World, n, now, s, sessions_of};

/// What a command has left.
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

    // In the environment, on standard input, on the command line.
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
async fn every_session_is_listed_whatever_it_holds() {
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
    assert_eq!(line_of(&listed, "\\u{1b}[2J")[1..4], ["-", "-", "-"]);
    assert_eq!(line_of(&listed, "bare")[1..4], ["-", "-", "-"]);
    assert_eq!(line_of(&listed, "expired")[1..3], ["active,", "expired"]);
    assert!(!listed.stdout.contains('\u{1b}'), "{listed:?}");
}

#[tokio::test]
async fn a_token_goes_nowhere_unencrypted_and_into_no_error() {
    let world = World::new().await;
    // One that accepts connections and hangs up, and one where nobody listens.
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
        ("http://127.0.0.1:9/", "canary", "refused"),
        ("https://127.0.0.1:9/", "canary", "refused"),
        (&rude, "canary", "connection"),
        (&rude, "canary\u{7f}", "no header"),
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
async fn what_cannot_work_is_said_and_changes_nothing() {
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
    let arguments = [local.as_str(), "--table", &world.database.table, "create", "--user", "gus"];
    let elsewhere = [("AWS_REGION", ""), ("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9"), ("AWS_PROFILE", "none")];
    let token = created(&sessions(&world, &arguments, &elsewhere, "").await);
    assert_eq!(row_of(&world.database.rows().await, &token)["user_id"], "S:gus");
}

/// Runs the command on a world's database.
async fn sessions(world: &World, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Output {
    let mut process = Command::new(program())
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
        .expect("the example to be built: run the tests with `make test`, or `cargo build --example sessions` before");
    let mut stdin = process.stdin.take().expect("standard input");
    // Most commands end without having read it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = process.wait_with_output().await.expect("an exit status");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Output { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Cargo builds examples with the tests, but only tells tests where binaries are.
fn program() -> PathBuf {
    let test = current_exe().expect("a path");
    test.parent().and_then(|deps| deps.parent()).expect("cargo's folders").join("examples/sessions")
}

/// The token that `create` has printed, and nothing else on standard output.
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

/// The words of a session's line.
fn line_of(listed: &Output, session: &str) -> Vec<String> {
    assert_eq!(listed.status, Some(0), "{listed:?}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    listed.stdout.lines().map(words).find(|words| words[0] == session).expect("the session's line")
}
