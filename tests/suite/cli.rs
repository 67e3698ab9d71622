//! `sessions`, the command line of tests/cli: run as a person runs it, on an embedded DynamoDB and the real function.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType, TimeToLiveSpecification,
};
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
    assert_eq!(line_of(&listed, "\\u{1b}[2J")[1..4], ["-", "-", "-"]);
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
    let port = world.database.address.port().to_string();
    let joined = format!("--local={port}");
    let command = ["--table", &world.database.table, "create", "--user", "gus"];
    let elsewhere = [
        ("AWS_REGION", ""),
        ("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9"),
        ("AWS_PROFILE", "none"),
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
    ];
    for local in [&[joined.as_str()][..], &["--local", &port]] {
        let token = created(&sessions(&world, &[local, &command[..]].concat(), &elsewhere, "").await);
        assert_eq!(row_of(&world.database.rows().await, &token)["user_id"], "S:gus");
    }
    let last = [&command[..], &["--local", &port]].concat();
    created(&sessions(&world, &last, &elsewhere, "").await);
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
    assert!(empty.stdout.contains("The table is empty"), "{empty:?}");

    let authenticated = |session: Session| session.with("authenticated_at", n(now()));
    let mut items: Vec<_> = sessions_of("hal", 30).into_iter().map(authenticated).collect();
    world.database.put(&items).await;
    let full = sessions(&world, &["check-table"], &[], "").await;
    assert_eq!((full.status, full.stderr.as_str()), (Some(0), ""), "{full:?}");
    assert!(full.stdout.contains("All 30 sampled items"), "{full:?}");
    assert!(full.stdout.ends_with("\nThe function works on this table.\n"), "{full:?}");
    let bounded = sessions(&world, &["check-table", "--sample", "7"], &[], "").await;
    assert!(bounded.stdout.contains("All 7 sampled items"), "{bounded:?}");

    // A warning alone does not fail the check.
    items.push(Session::of("hal", "never-authenticated"));
    world.database.put(&items).await;
    let warned = sessions(&world, &["check-table"], &[], "").await;
    assert_eq!(warned.status, Some(0), "{warned:?}");
    assert!(warned.stdout.contains("WARNING  1 of 31 sampled items have no authenticated_at"), "{warned:?}");
}

#[tokio::test]
async fn a_table_on_which_the_function_cannot_work_fails_the_check() {
    use ScalarAttributeType::{B, S};
    let world = World::new().await;
    // Not through the proxy, which refuses what the function's role does not allow.
    let endpoint = format!("http://{}", world.database.address);
    let client = Client::new(&world.sdk_config.to_builder().endpoint_url(endpoint).build());
    let sound = Form {
        keys: &[("token_hash", S)],
        index: Some("user_id-index"),
        index_keys: &[("user_id", S)],
        projection: ProjectionType::Include,
        projected: &["status"],
    };
    for (case, form, expected) in [
        ("key", Form { keys: &[("id", S)], ..sound.clone() }, "partition key is id"),
        ("sort", Form { keys: &[("token_hash", S), ("made", S)], ..sound.clone() }, "sort key made"),
        ("binary", Form { keys: &[("token_hash", B)], ..sound.clone() }, "token_hash is not of type S"),
        ("index", Form { index: None, ..sound.clone() }, "no index user_id-index"),
        ("name", Form { index: Some("by-user"), ..sound.clone() }, "ExistingIndexName=by-user"),
        ("owner", Form { index_keys: &[("owner", S)], ..sound.clone() }, "partition key owner"),
        ("range", Form { index_keys: &[("user_id", S), ("made", S)], ..sound.clone() }, "sort key made"),
        ("other", Form { projected: &["device"], ..sound.clone() }, "does not project status"),
        (
            "keys-only",
            Form { projection: ProjectionType::KeysOnly, projected: &[], ..sound.clone() },
            "does not project status",
        ),
    ] {
        let table = format!("{}-{case}", world.database.table);
        form.create(&client, &table).await;
        let output = sessions(&world, &["check-table", "--table", &table], &[], "").await;
        assert_eq!(output.status, Some(1), "{case}: {output:?}");
        let problems: Vec<_> = output.stdout.lines().filter(|line| line.starts_with("PROBLEM")).collect();
        assert_eq!(problems.len(), 1, "{case}: {output:?}");
        assert!(output.stdout.contains(expected), "{case}: {output:?}");
        assert!(output.stdout.contains("\nThe table is not ready for the function. Problems: 1"), "{output:?}");
    }
    let table = format!("{}-sound", world.database.table);
    sound.create(&client, &table).await;
    let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name("purge_at").build().expect("TTL");
    client.update_time_to_live().table_name(&table).time_to_live_specification(ttl).send().await.expect("TTL");
    let output = sessions(&world, &["check-table", "--table", &table], &[], "").await;
    assert_eq!(output.status, Some(0), "{output:?}");
    assert!(output.stdout.contains("-> Whenever a session is extended, move purge_at together"), "{output:?}");
    let output = sessions(&world, &["check-table", "--table", &table, "--expect-stream"], &[], "").await;
    assert_eq!(output.status, Some(1), "{output:?}");
    assert!(output.stdout.contains("PROBLEM  The table has no stream"), "{output:?}");
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
        "PROBLEM  2 of 12 sampled items have an expires_at that is not a number",
        "PROBLEM  1 of 12 sampled items have no expires_at",
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

/// The form of a table.
#[derive(Clone)]
struct Form<'a> {
    keys: &'a [(&'a str, ScalarAttributeType)],
    index: Option<&'a str>,
    index_keys: &'a [(&'a str, ScalarAttributeType)],
    projection: ProjectionType,
    projected: &'a [&'a str],
}

impl Form<'_> {
    async fn create(&self, client: &Client, table: &str) {
        let schema = |keys: &[(&str, ScalarAttributeType)]| {
            let kinds = [KeyType::Hash, KeyType::Range];
            let key = |((name, _), kind): (&(&str, ScalarAttributeType), KeyType)| {
                KeySchemaElement::builder().attribute_name(*name).key_type(kind).build().expect("a key")
            };
            Some(keys.iter().zip(kinds).map(key).collect())
        };
        let index_keys = if self.index.is_some() { self.index_keys } else { &[] };
        let types: BTreeMap<_, _> = self.keys.iter().chain(index_keys).cloned().collect();
        let definitions = types.into_iter().map(|(name, kind)| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().expect("a definition")
        });
        let projected = self.projected.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let index = self.index.map(|name| {
            let projection = Projection::builder()
                .projection_type(self.projection.clone())
                .set_non_key_attributes((!projected.is_empty()).then_some(projected))
                .build();
            let index = GlobalSecondaryIndex::builder().index_name(name).set_key_schema(schema(self.index_keys));
            vec![index.projection(projection).build().expect("an index")]
        });
        client
            .create_table()
            .table_name(table)
            .billing_mode(BillingMode::PayPerRequest)
            .set_key_schema(schema(self.keys))
            .set_attribute_definitions(Some(definitions.collect()))
            .set_global_secondary_indexes(index)
            .send()
            .await
            .expect("the table to be created");
    }
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
