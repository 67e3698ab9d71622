//! The code in docs/, run as it stands there: it is taken from the pages. `make test-snippets` runs all of it and gets
//! what that takes; without it, only what takes nothing more than Rust.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use aws_sdk_dynamodb::Client;
use tokio::process::Command;

use crate::cargo_lambda::Watch;
use crate::support::{Row, Session, World, delete, n, now, revoked};

#[allow(clippy::missing_errors_doc, reason = "it is as the page has it")]
#[path = "../snippets/sessions.rs"]
mod sessions;

const CALLING: &str = include_str!("../../docs/calling-it.md");
const TABLE: &str = include_str!("../../docs/sessions-table.md");

/// Code of a page in a folder of its own, to run on a world.
struct Snippet {
    folder: PathBuf,
    /// What its commands get beside what every one gets.
    variables: Vec<(&'static str, String)>,
    /// The command that runs it.
    command: Vec<String>,
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn calling_in_bash() {
    calls("bash", "call.sh", &[], &["bash", "call.sh"], "{\"count\":1}").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn calling_in_python() {
    calls("python", "call.py", &[], &["python3", "call.py"], "1").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn calling_in_go() {
    calls("go", "call.go", &["go", "build", "call.go"], &["./call"], "1").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn calling_in_js() {
    calls("js", "call.mjs", &[], &["node", "call.mjs"], "1").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn calling_in_ruby() {
    calls("ruby", "call.rb", &[], &["ruby", "call.rb"], "1").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn calling_in_csharp() {
    let build = ["mcs", "-langversion:7.2", "-reference:System.Net.Http.dll", "call.cs"];
    calls("csharp", "call.cs", &build, &["mono", "call.exe"], "{\"count\":1}").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn calling_in_php() {
    calls("php", "call.php", &[], &["php", "call.php"], "1").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn calling_in_java() {
    let build = ["javac", "RevokeOthers.java"];
    calls("java", "RevokeOthers.java", &build, &["java", "RevokeOthers"], "{\"count\":1}").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn sessions_in_python() {
    writes_and_checks_sessions(&python("sessions-python")).await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn sessions_in_js() {
    let snippet = Snippet::new("sessions-js", &["node", "sessions_drive.mjs"]);
    snippet.write("sessions.mjs", &code(TABLE, "js"));
    snippet.write("sessions_drive.mjs", include_str!("../snippets/sessions_drive.mjs"));
    let modules = root().join(".tools/aws-sdk-js/node_modules");
    std::os::unix::fs::symlink(modules, snippet.folder.join("node_modules")).expect("a link");
    writes_and_checks_sessions(&snippet).await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn sessions_in_go() {
    let mut snippet = Snippet::new("sessions-go", &["./drive"]);
    // Modules would come over the network; Debian packages the SDK for the layout before them.
    snippet.variables.push(("GO111MODULE", "off".to_owned()));
    snippet.variables.push(("GOPATH", format!("{}:/usr/share/gocode", snippet.folder.display())));
    snippet.write("src/snippets/sessions/sessions.go", &code(TABLE, "go"));
    snippet.write("src/snippets/drive/drive.go", include_str!("../snippets/sessions_drive.go"));
    snippet.succeed(&["go", "vet", "snippets/..."], &[]).await;
    snippet.succeed(&["go", "build", "-o", "drive", "snippets/drive"], &[]).await;
    writes_and_checks_sessions(&snippet).await;
}

#[tokio::test]
async fn sessions_in_rust() {
    assert_eq!(code(TABLE, "rust"), include_str!("../snippets/sessions.rs"), "what is compiled is not what is shown");
    let world = World::new().await;
    // Not through the proxy, which allows only what the function may do.
    let endpoint = format!("http://{}", world.database.address);
    let client = Client::new(&world.sdk_config.to_builder().endpoint_url(endpoint).build());
    let table = sessions::Table { client, name: world.database.table.clone() };
    // The same as the other languages, one process less.
    let call = async |function: &str, argument: &str| match function {
        "sign_in" => table.sign_in(argument).await.expect("a token"),
        "sign_out" => table.sign_out(argument).await.map(|()| String::new()).expect("no error"),
        _ => match table.check(argument).await.expect("an answer") {
            Some(session) => session["user_id"].as_s().expect("a string").clone(),
            None => String::new(),
        },
    };
    scenario(&world, call).await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn moving_over_from_raw_tokens() {
    let world = World::new().await;
    let mut python = python("moving-over");
    python.variables.push(("OLD_SESSIONS_TABLE", format!("old-{}", world.database.table)));
    let call = async |arguments: &[&str]| python.call(&world, arguments).await;
    call(&["make_old_table"]).await;
    let (later, earlier) = ((now() + 3600).to_string(), (now() - 1).to_string());
    for (token, expires_at) in [("laptop", &later), ("phone", &later), ("left", &later), ("expired", &earlier)] {
        call(&["sign_in_old", token, "dora", expires_at]).await;
    }
    // While both tables count.
    for (token, user) in [("laptop", "dora"), ("left", "dora"), ("expired", ""), ("unknown", "")] {
        assert_eq!(call(&["check_both", token]).await, user, "{token}");
    }
    call(&["sign_out_both", "left"]).await;
    assert_eq!(call(&["check_both", "left"]).await, "");

    assert_eq!(call(&["move_over"]).await, "2");
    assert_eq!(call(&["move_over"]).await, "0");
    for (token, user) in [("laptop", "dora"), ("phone", "dora"), ("left", ""), ("expired", "")] {
        assert_eq!(call(&["check_both", token]).await, user, "{token}");
        assert_eq!(call(&["check", token]).await, user, "{token}");
    }
    let laptop = row(&world, "laptop").await.expect("it to be moved");
    assert_eq!((laptop["device"].as_str(), laptop.get("token")), ("S:old", None));

    world.send(delete().token("laptop")).await.assert_count(1);
    assert_eq!(call(&["check_both", "phone"]).await, "", "the old table has no say any more");
    assert_eq!(call(&["move_over"]).await, "0", "what is revoked stays revoked");
    assert_eq!(call(&["check", "phone"]).await, "");
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn adding_the_index() {
    let (world, caller) = World::with_others(3).await;
    let python = python("adding-the-index");
    python.call(&world, &["drop_index"]).await;
    world.press(&caller).await.assert_error(500, "internal_error", None);
    python.call(&world, &["add_index"]).await;
    world.press(&caller).await.assert_count(3);
}

/// Presses the button with the code in one of the languages: with a session's token, and with one of none.
async fn calls(language: &str, file: &str, build: &[&str], command: &[&str], count: &str) {
    let mut snippet = Snippet::new(&format!("calling-{language}"), command);
    snippet.write(file, &code(CALLING, language));
    if !build.is_empty() {
        snippet.succeed(build, &[]).await;
    }
    let (world, caller) = World::with_others(1).await;
    let watch = Watch::start(&world).await;
    snippet.variables.push(("SESSIONS_URL", format!("http://{}/auth/sessions", watch.address)));

    let token = ("SESSION_TOKEN", caller.token.clone());
    assert_eq!(snippet.succeed(&as_strs(&snippet.command), &[token]).await.trim(), count);
    assert_eq!(revoked(&world.database.rows().await), 1);

    let (success, output) =
        snippet.run(&as_strs(&snippet.command), &[("SESSION_TOKEN", "of-no-session".to_owned())]).await;
    assert!(!success && output.contains("session_inactive"), "{output}");
}

async fn writes_and_checks_sessions(snippet: &Snippet) {
    let world = World::new().await;
    scenario(&world, async |function: &str, argument: &str| snippet.call(&world, &[function, argument]).await).await;
}

/// What the page says of sign-in, check and sign-out, and that the function and the application understand each other.
async fn scenario(world: &World, call: impl AsyncFn(&str, &str) -> String) {
    let laptop = call("sign_in", "dora").await;
    let phone = call("sign_in", "dora").await;
    let other = call("sign_in", "emil").await;
    assert_eq!(BTreeSet::from([&laptop, &phone, &other]).len(), 3);
    for token in [&laptop, &phone, &other] {
        assert!(token.len() >= 43, "256 bits take as many characters: {token}");
    }
    let session = row(world, &laptop).await.expect("a session under the token's hash");
    let names: Vec<&str> = session.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["authenticated_at", "created_at", "expires_at", "session_id", "status", "token_hash", "user_id"]
    );
    assert_eq!((session["user_id"].as_str(), session["status"].as_str()), ("S:dora", "S:active"));
    let seconds = |name: &str| session[name].strip_prefix("N:").expect("a number").parse::<u64>().expect("seconds");
    assert!(seconds("created_at").abs_diff(now()) < 300 && seconds("authenticated_at").abs_diff(now()) < 300);
    assert!(seconds("expires_at") > now() + 24 * 3600);
    assert_ne!(session["session_id"], row(world, &phone).await.expect("a session")["session_id"]);
    assert!(!format!("{:?}", world.database.rows().await).contains(&laptop), "the table holds a raw token");

    assert_eq!(call("check", &laptop).await, "dora");
    world.send(delete().token(&laptop)).await.assert_count(1);
    for (token, user) in [(&laptop, "dora"), (&phone, ""), (&other, "emil")] {
        assert_eq!(call("check", token).await, user);
    }
    let before = row(world, &phone).await;
    call("sign_out", &phone).await;
    assert_eq!(row(world, &phone).await, before, "who revoked it, and when, is kept");

    call("sign_out", &laptop).await;
    assert_eq!(call("check", &laptop).await, "");
    world.send(delete().token(&laptop)).await.assert_error(401, "session_inactive", None);
    let signed_out = row(world, &laptop).await.expect("the data to be kept");
    assert_eq!(signed_out["status"], "S:revoked");
    assert_eq!(signed_out["revoked_by"], signed_out["session_id"]);
    assert!(signed_out["revoked_at"].starts_with("N:"), "{signed_out:?}");

    let of_emil = |token: &str| Session::with_token("emil", token, token);
    world
        .database
        .put(&[
            of_emil("expired").with("expires_at", n(now())),
            of_emil("without-status").without("status"),
            of_emil("without-expiry").without("expires_at"),
        ])
        .await;
    let rows = world.database.rows().await.len();
    for token in ["expired", "without-status", "without-expiry", "unknown", "a b\u{e9}"] {
        assert_eq!(call("check", token).await, "", "{token}");
    }
    call("sign_out", "unknown").await;
    assert_eq!(world.database.rows().await.len(), rows, "signing out creates nothing");
}

/// The Python of the page, with a way to call its functions.
fn python(folder: &str) -> Snippet {
    let mut snippet = Snippet::new(folder, &["python3", "sessions_drive.py"]);
    let packages = root().join(".tools/boto3");
    snippet.variables.push(("PYTHONPATH", packages.display().to_string()));
    snippet.write("sessions.py", &code(TABLE, "python"));
    snippet.write("sessions_drive.py", include_str!("../snippets/sessions_drive.py"));
    snippet
}

impl Snippet {
    fn new(name: &str, command: &[&str]) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("snippets").join(name);
        // Left by the run before, if there was one.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        Self { folder, variables: Vec::new(), command: command.iter().map(|&word| word.to_owned()).collect() }
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.folder.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// Runs its command with arguments on a world's database, and returns what it prints.
    async fn call(&self, world: &World, arguments: &[&str]) -> String {
        let variables = [
            ("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{}", world.database.address)),
            ("SESSIONS_TABLE", world.database.table.clone()),
        ];
        let command = [&as_strs(&self.command)[..], arguments].concat();
        self.succeed(&command, &variables).await.trim_end_matches('\n').to_owned()
    }

    async fn succeed(&self, command: &[&str], variables: &[(&'static str, String)]) -> String {
        let (success, output) = self.run(command, variables).await;
        assert!(success, "{command:?} in {}: {output}", self.folder.display());
        output
    }

    /// Whether a command has succeeded, and its output: of a failure all, else what a program would read.
    async fn run(&self, command: &[&str], variables: &[(&'static str, String)]) -> (bool, String) {
        let (program, arguments) = command.split_first().expect("a program");
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&self.folder)
            .env("AWS_REGION", "eu-central-1")
            // What boto3 calls it.
            .env("AWS_DEFAULT_REGION", "eu-central-1")
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .env_remove("AWS_PROFILE")
            .envs(self.variables.iter().chain(variables).map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap_or_else(|error| panic!("{program} cannot be run: {error}. `make test-snippets` gets it"));
        let mut text = String::from_utf8(output.stdout).expect("UTF-8");
        if !output.status.success() {
            text += &String::from_utf8_lossy(&output.stderr);
        }
        (output.status.success(), text)
    }
}

/// All blocks of a language on a page, one after the other.
fn code(page: &str, language: &str) -> String {
    let mut code = String::new();
    for block in page.split(&format!("\n```{language}\n")).skip(1) {
        code += block.split_once("```").expect("an end").0;
    }
    assert!(!code.is_empty(), "the page has no {language}");
    code
}

/// A session's item by its token.
async fn row(world: &World, token: &str) -> Option<Row> {
    let hash = format!("S:{}", Session::with_token("", "", token).token_hash());
    world.database.rows().await.into_values().find(|row| row["token_hash"] == hash)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn as_strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
