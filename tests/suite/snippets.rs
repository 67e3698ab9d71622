//! The code in docs/, extracted from the pages and run. `make test-snippets` installs the interpreters and runs all of it.
//! Otherwise only the code that needs nothing but Rust is run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use serde_json::json;
use tokio::process::Command;

use crate::support::watch::Watch;
use crate::support::{Row, Session, World, delete, gateway, n, now, revoked, s};

#[allow(clippy::missing_errors_doc, reason = "it is as the page has it")]
#[path = "../snippets/sessions.rs"]
mod sessions;

const CALLING: &str = include_str!("../../docs/calling-it.md");
const TABLE: &str = include_str!("../../docs/sessions-table.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// Code of a page in a folder of its own, to run on the database of a world.
struct Snippet {
    folder: PathBuf,
    /// Variables of its commands, in addition to those that all snippets get.
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
    snippet.link_modules("aws-sdk-js");
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
    let table = sessions::Table { client: direct(&world), name: world.database.table.clone() };
    // Called directly, where the other languages need a process.
    let call = async |function: &str, argument: &str| match function {
        "sign_in" => table.sign_in(argument).await.expect("a token"),
        "sign_out" => table.sign_out(argument).await.map(|()| String::new()).expect("no error"),
        "rotate" => table.rotate(argument).await.expect("an answer").unwrap_or_default(),
        _ => match table.check(argument).await.expect("an answer") {
            Some(session) => session["user_id"].as_s().expect("a string").clone(),
            None => String::new(),
        },
    };
    scenario(&world, call).await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_page_on_a_sibling_host_cannot_add_a_second_session_cookie() {
    let (mut world, caller) = World::with_others(1).await;
    let mut browser = Snippet::new("cookies", &["node", "cookies.mjs"]);
    browser.write("cookies.mjs", include_str!("../snippets/cookies.mjs"));
    browser.link_modules("snippets");
    let mut send = async |name: &str, own: &str, of_sibling: &[&str]| {
        browser.command.truncate(2);
        browser.command.push(own.to_owned());
        browser.command.extend(of_sibling.iter().map(|attributes| format!("{name}=evil; {attributes}")));
        let cookies = browser.call(&world, &[]).await;
        name.clone_into(&mut world.config.cookie_name);
        world.send(delete().header("Cookie", &cookies)).await
    };
    let (second, same) = ("Domain=example.com; Path=/auth; Secure", "Domain=example.com; Path=/; Secure");
    // Without the advice, the attacks that the page warns of succeed: a second cookie, or one in place of the owner's.
    let unprotected = format!("ory_kratos_session={}; Domain=example.com; Path=/; Secure; HttpOnly", caller.token);
    let name = "ory_kratos_session";
    send(name, &unprotected, &[second]).await.assert_error(400, "malformed_credentials", None);
    send(name, &unprotected, &[same]).await.assert_error(401, "session_inactive", None);

    let advice = code(TABLE, "http");
    let cookie = advice.trim().strip_prefix("Set-Cookie: ").expect("a cookie").replace("TOKEN", &caller.token);
    let (name, _) = cookie.split_once('=').expect("a name");
    send(name, &cookie, &[second, same, "Path=/; Secure"]).await.assert_count(1);
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_server_that_acts_for_a_browser_keeps_the_protection_from_other_sites() {
    let own = "https://app.example.com";
    for (headers, is_own_page) in [
        (json!({"Origin": own, "Sec-Fetch-Site": "same-origin"}), true),
        (json!({"origin": own, "sec-fetch-site": "same-site"}), true),
        (json!({"Sec-Fetch-Site": "same-origin"}), true),
        (json!({"Sec-Fetch-Site": "none"}), true),
        (json!({}), true),
        (json!({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}), false),
        (json!({"Origin": "https://evil.example"}), false),
        (json!({"Origin": "https://blog.example.com", "Sec-Fetch-Site": "same-site"}), false),
        (json!({"Origin": "null", "Sec-Fetch-Site": "cross-site"}), false),
        (json!({"Sec-Fetch-Site": "cross-site"}), false),
        (json!({"Sec-Fetch-Site": "same-site"}), false),
    ] {
        let (world, caller) = World::with_others(1).await;
        let server = Snippet::new("server", &["python3", "server_drive.py"]);
        server.write("server.py", &code(CALLING, "python server"));
        server.write("server_drive.py", include_str!("../snippets/server_drive.py"));
        let mut browser = headers.clone();
        browser["Cookie"] = format!("ory_kratos_session={}", caller.token).into();
        let output = server.call(&world, &[&browser.to_string()]).await;
        let (forwarded, accepted): (BTreeMap<String, String>, bool) =
            serde_json::from_str(&output).expect("headers and a decision");
        let request = forwarded.iter().fold(delete(), |request, (name, value)| request.header(name, value));
        let answer = world.send(request).await;
        assert_eq!((answer.status == 200, accepted), (is_own_page, is_own_page), "{headers}: {answer:?}");
    }
}

#[test]
fn the_lists_of_answers_have_every_status_and_id_that_a_caller_can_get() {
    let mut answers: Vec<(String, String)> = [
        ("200", "count"),
        ("400", "malformed_credentials"),
        ("401", "session_inactive"),
        ("403", "security_csrf_violation"),
        ("403", "session_refresh_required"),
        ("404", "route_not_found"),
        ("405", "method_not_allowed"),
        ("500", "internal_error"),
        ("503", "temporarily_unavailable"),
    ]
    .map(|(status, id)| (status.to_owned(), id.to_owned()))
    .into();
    let of_gateway = gateway::responses().map(|response| response.answer);
    answers.extend(of_gateway.map(|answer| (answer.status.to_string(), answer.error_id().to_owned())));
    assert!(answers.contains(&("504".to_owned(), "temporarily_unavailable".to_owned())), "{answers:?}");
    for page in [CALLING, include_str!("../../README.md")] {
        for (status, id) in &answers {
            let is_listed = |line: &str| {
                let cells = line.strip_prefix("| ").and_then(|row| row.split_once(" |"));
                cells.is_some_and(|(statuses, rest)| statuses.contains(status) && rest.contains(id))
            };
            assert!(page.lines().any(is_listed), "{status} {id} is not listed");
        }
    }
}

#[tokio::test]
async fn an_investigation_finds_the_invocation_whatever_id_a_client_has_chosen() {
    let (world, caller) = World::with_others(2).await;
    let attacker = Session::of("mallory", "attacker");
    world.database.put(&[attacker.clone(), Session::of("mallory", "second")]).await;
    world.send(delete().token(&caller.token).request_id("chosen")).await.assert_count(2);
    world.send(delete().token(&attacker.token).request_id("chosen")).await.assert_count(1);

    let (_, scan) = OPERATIONS.split_once("--filter-expression '").expect("a scan");
    let (filter, _) = scan.split_once('\'').expect("an expression");
    for (id, user, revoked) in
        [("lambda-request-id", "alice", 2), ("lambda-request-id-1", "mallory", 1), ("chosen", "", 0)]
    {
        let scan = direct(&world).scan().table_name(&world.database.table).filter_expression(filter);
        let found =
            scan.expression_attribute_values(":id", s(id)).send().await.expect("items").items.unwrap_or_default();
        assert_eq!(found.len(), revoked, "{id}");
        assert!(found.iter().all(|session| session["user_id"] == s(user)), "{id}");
    }
}

#[tokio::test]
async fn a_signed_cookie_is_refused_and_the_session_id_in_it_is_a_token() {
    let (world, caller) = World::with_others(1).await;
    let signed = format!("s%3A{}.uzYFEAkOLxTfAsGG0vqk3bWp8Q3QaUNLM0uP9tY0f0k", caller.token);
    world.send(delete().cookie(&signed)).await.assert_error(400, "malformed_credentials", None);
    world.send(delete().token(&caller.token)).await.assert_count(1);
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn moving_over_keeps_every_session_and_brings_none_back_in_any_order_of_events() {
    let orders = tries_all_orders("moving_over").await;
    assert!(orders > 500, "{orders} orders");
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_table_of_hashed_tokens_is_adopted_without_loss_in_any_order_of_events() {
    let orders = tries_all_orders("adopting").await;
    assert!(orders > 100, "{orders} orders");
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn no_revocation_is_overtaken_by_a_rotation() {
    let orders = tries_all_orders("rotating").await;
    assert!(orders > 10, "{orders} orders");
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn moving_over_keeps_what_the_application_wrote() {
    let world = World::new().await;
    let python = python("moving-over");
    let old_table = make_old_table(&world).await;
    let (later, earlier) = (now() + 3600, now() - 1);
    for (token, expires_at) in [("laptop", later), ("phone", later), ("expired", earlier)] {
        let item = [("token", s(token)), ("user_id", s("dora")), ("expires_at", n(expires_at)), ("device", s("old"))];
        let item = item.map(|(name, value)| (name.to_owned(), value)).into();
        direct(&world).put_item().table_name(&old_table).set_item(Some(item)).send().await.expect("an old session");
    }
    assert_eq!(python.call(&world, &["move_over"]).await, "2");
    assert_eq!(python.call(&world, &["move_over"]).await, "0");
    let laptop = row(&world, "laptop").await.expect("the session in the new table");
    assert_eq!((laptop["device"].as_str(), laptop.get("token")), ("S:old", None));
    assert_eq!(laptop["expires_at"], format!("N:{later}"));
    assert!(row(&world, "expired").await.is_none());
    world.send(delete().token("laptop")).await.assert_count(1);
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn filling_in_makes_old_sessions_callers_and_brings_no_revoked_one_back() {
    let world = World::new().await;
    let bare = |id: &str| Session::of("dora", id).without("status").without("session_id");
    let gone = Session::of("dora", "gone").with("status", s("revoked"));
    world.database.put(&[bare("laptop"), bare("phone"), gone]).await;
    let python = python("filling-in");
    assert_eq!(python.call(&world, &["check", "token-laptop"]).await, "");
    python.call(&world, &["fill_in"]).await;
    assert_eq!(python.call(&world, &["check", "token-laptop"]).await, "dora");
    assert_eq!(python.call(&world, &["check", "token-gone"]).await, "");
    world.send(delete().token("token-laptop")).await.assert_count(1);
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

/// Presses the button with the code in one of the languages: with the token of a session, and with an unknown one.
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

/// Checks what the page says of signing in, checking, rotating and signing out, together with calls of the function.
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

    assert_eq!(call("rotate", &phone).await, "", "a revoked session got a new token");
    let rotated = call("rotate", &laptop).await;
    assert!(rotated.len() >= 43 && rotated != laptop, "{rotated}");
    for (token, user) in [(&laptop, ""), (&rotated, "dora")] {
        assert_eq!(call("check", token).await, user);
    }
    let (old, new) = (row(world, &laptop).await.expect("a session"), row(world, &rotated).await.expect("a session"));
    assert_eq!((old["status"].as_str(), &old["revoked_by"]), ("S:revoked", &old["session_id"]));
    assert_ne!(old["session_id"], new["session_id"]);
    assert_eq!(
        ["user_id", "created_at", "expires_at"].map(|name| &old[name]),
        ["user_id", "created_at", "expires_at"].map(|name| &new[name])
    );
    world.send(delete().token(&rotated)).await.assert_count(0);

    let laptop = rotated;
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
            of_emil("iso-expiry").with("expires_at", s("2100-01-01T00:00:00Z")),
            of_emil("string-expiry").with("expires_at", s("4102444800")),
            of_emil("milliseconds").with("expires_at", n((now() - 60) * 1000)),
        ])
        .await;
    let rows = world.database.rows().await.len();
    for token in ["expired", "without-status", "without-expiry", "iso-expiry", "string-expiry", "unknown"] {
        assert_eq!(call("check", token).await, "", "{token}");
        world.send(delete().token(token)).await.assert_error(401, "session_inactive", None);
    }
    assert_eq!(call("check", "a b\u{e9}").await, "");
    assert_eq!(call("check", "milliseconds").await, "emil", "as the page warns, milliseconds never expire");
    for function in ["sign_out", "rotate"] {
        assert_eq!(call(function, "unknown").await, "");
    }
    assert_eq!(world.database.rows().await.len(), rows, "neither signing out nor rotating creates a session");
    // A time in milliseconds is in the future, so the call works. It revokes expired and incomplete sessions too.
    world.send(delete().token("milliseconds")).await.assert_count(6);
}

/// Runs a suite of `orders.py` with the Python of the page, and returns how many orders it has tried.
async fn tries_all_orders(suite: &str) -> u64 {
    let world = World::new().await;
    make_old_table(&world).await;
    let watch = Watch::start(&world).await;
    let mut python = python(&format!("orders-{suite}"));
    python.write("orders.py", include_str!("../snippets/orders.py"));
    python.variables.push(("SESSIONS_URL", format!("http://{}/auth/sessions", watch.address)));
    python.command = ["python3", "orders.py"].map(str::to_owned).to_vec();
    python.call(&world, &[suite]).await.parse().expect("a number of orders")
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
        // A previous run may have left it.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        Self { folder, variables: Vec::new(), command: command.iter().map(|&word| word.to_owned()).collect() }
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.folder.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// Lets Node.js find what is installed into a folder of `.tools`.
    fn link_modules(&self, tool: &str) {
        let modules = root().join(".tools").join(tool).join("node_modules");
        std::os::unix::fs::symlink(modules, self.folder.join("node_modules")).expect("a link");
    }

    /// Runs its command with arguments on a world's database, and returns what it prints.
    async fn call(&self, world: &World, arguments: &[&str]) -> String {
        let variables = [
            ("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{}", world.database.address)),
            ("SESSIONS_TABLE", world.database.table.clone()),
            ("OLD_SESSIONS_TABLE", old_table(world)),
        ];
        let command = [&as_strs(&self.command)[..], arguments].concat();
        self.succeed(&command, &variables).await.trim_end_matches('\n').to_owned()
    }

    async fn succeed(&self, command: &[&str], variables: &[(&'static str, String)]) -> String {
        let (success, output) = self.run(command, variables).await;
        assert!(success, "{command:?} in {}: {output}", self.folder.display());
        output
    }

    /// Whether a command has succeeded, and its standard output; after a failure also its standard error.
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

/// The name of the table of raw tokens that an application had before.
fn old_table(world: &World) -> String {
    format!("old-{}", world.database.table)
}

async fn make_old_table(world: &World) -> String {
    let attribute = AttributeDefinition::builder().attribute_name("token").attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name("token").key_type(KeyType::Hash);
    let request = direct(world)
        .create_table()
        .table_name(old_table(world))
        .attribute_definitions(attribute.build().expect("an attribute"))
        .key_schema(key.build().expect("a key"))
        .billing_mode(BillingMode::PayPerRequest);
    request.send().await.expect("the table to be created");
    old_table(world)
}

/// A client that is not behind the proxy, which allows only what the function may do.
fn direct(world: &World) -> Client {
    let endpoint = format!("http://{}", world.database.address);
    Client::new(&world.sdk_config.to_builder().endpoint_url(endpoint).build())
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
