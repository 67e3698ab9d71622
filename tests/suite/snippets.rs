//! The code in docs/, run as it stands there: the files in docs/code, and what is extracted from the pages. `make test-snippets`
//! installs the interpreters and runs all of it. Otherwise only what needs nothing but Rust is run.
//!
//! | module | |
//! |---|---|
//! | `stores` | the sessions of docs/code, against attacks and faults |
//! | `races` | two of their functions at once, in every order of their requests |
//! | `gate` | what holds, loses and refuses their requests |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, DeleteGlobalSecondaryIndexAction, GlobalSecondaryIndexUpdate, KeySchemaElement,
    KeyType, ScalarAttributeType,
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::watch::Watch;
use crate::support::{Row, Session, World, delete, gateway, revoked, s};

#[path = "../snippets/gate.rs"]
mod gate;
#[path = "../snippets/races.rs"]
mod races;
#[path = "../snippets/stores.rs"]
mod stores;

const CALLING: &str = include_str!("../../docs/calling-it.md");
const TABLE: &str = include_str!("../../docs/sessions-table.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// The host of the application.
const APP: &str = "app.example.com";

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
    calls("bash", "call.sh", &["bash", "call.sh"], "{\"count\":1}").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn calling_in_js() {
    calls("js", "call.mjs", &["node", "call.mjs"], "1").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn calling_with_ory() {
    calls("js ory", "call.mjs", &["node", "call.mjs"], "1").await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_page_on_a_sibling_host_cannot_add_a_second_session_cookie() {
    let (mut world, caller) = World::with_others(1).await;
    let sibling = |name: &str, attributes: &str| ("blog.example.com", format!("{name}=evil; {attributes}"));
    let (second, same) = ("Domain=example.com; Path=/auth; Secure", "Domain=example.com; Path=/; Secure");
    // Without the advice, the attacks that the page warns of succeed: a second cookie, or one in place of the owner's.
    let unprotected = format!("ory_kratos_session={}; Domain=example.com; Path=/; Secure; HttpOnly", caller.token);
    let name = "ory_kratos_session";
    let own = (APP, unprotected);
    let cookies = cookies_of(&world, &[own.clone(), sibling(name, second)]).await;
    world.send(delete().header("Cookie", &cookies)).await.assert_error(400, "malformed_credentials", None);
    let cookies = cookies_of(&world, &[own, sibling(name, same)]).await;
    world.send(delete().header("Cookie", &cookies)).await.assert_error(401, "session_inactive", None);

    let (name, own) = advised_cookie(&caller.token);
    let attacks = [second, same, "Path=/; Secure"].map(|attributes| sibling(&name, attributes));
    let cookies = cookies_of(&world, &[&[(APP, own)], &attacks[..]].concat()).await;
    world.config.cookie_name = name;
    world.send(delete().header("Cookie", &cookies)).await.assert_count(1);
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn an_application_heals_a_browser_that_has_an_old_cookie_beside_the_new_one() {
    let (mut world, caller) = World::with_others(1).await;
    let before = (APP, "ory_kratos_session=old; Domain=example.com; Path=/; Secure; HttpOnly".to_owned());
    let now = (APP, format!("ory_kratos_session={}; Path=/; Secure; HttpOnly", caller.token));
    let cookies = cookies_of(&world, &[before.clone(), now.clone()]).await;
    world.send(delete().header("Cookie", &cookies)).await.assert_error(400, "malformed_credentials", None);
    // A deletion without the attributes of the old cookie deletes the new one, or nothing.
    let wrong = (APP, "ory_kratos_session=; Domain=example.com; Path=/auth; Secure; Max-Age=0".to_owned());
    let cookies = cookies_of(&world, &[before.clone(), now.clone(), wrong]).await;
    world.send(delete().header("Cookie", &cookies)).await.assert_error(400, "malformed_credentials", None);

    let advice = code(TABLE, "http deletion");
    let deletion = (APP, advice.trim().strip_prefix("Set-Cookie: ").expect("a cookie").to_owned());
    let cookies = cookies_of(&world, &[before.clone(), now, deletion]).await;
    world.send(delete().header("Cookie", &cookies)).await.assert_count(1);

    world.database.put(&[Session::of("alice", "another")]).await;
    let (name, own) = advised_cookie(&caller.token);
    let cookies = cookies_of(&world, &[before, (APP, own)]).await;
    world.config.cookie_name = name;
    world.send(delete().header("Cookie", &cookies)).await.assert_count(1);
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_server_that_acts_for_a_browser_keeps_the_protection_in_python() {
    keeps_the_protection("python", &["python3", "browser_drive.py"]).await;
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn a_server_that_acts_for_a_browser_keeps_the_protection_in_node() {
    keeps_the_protection("node", &["node", "browser_drive.mjs"]).await;
}

#[test]
fn the_readme_lists_every_status_and_id_that_a_caller_can_get() {
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
    for (status, id) in &answers {
        let is_listed = |line: &str| {
            let cells = line.strip_prefix("| ").and_then(|row| row.split_once(" |"));
            cells.is_some_and(|(statuses, rest)| statuses.contains(status) && rest.contains(id))
        };
        assert!(include_str!("../../README.md").lines().any(is_listed), "{status} {id} is not listed");
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
async fn the_page_says_which_tokens_fit() {
    let world = World::new().await;
    let fits =
        ["MP2YWEMeM8MxjkGKpH4dqOQ4Q4DlSPaj", "SECRET", "c2Vzc2lvbnMtYXJlLWhhc2hlZA_-", "a/b=", "a+b==", "TOKEN", "ID"];
    let sessions = fits.map(|token| Session::with_token("dora", token, token));
    world.database.put(&sessions).await;
    for token in fits {
        for request in [delete().token(token), delete().cookie(token), delete().cookie(&format!("\"{token}\""))] {
            let answer = world.send(request).await;
            assert_eq!(answer.status, 200, "{token}: {answer:?}");
            world.database.put(&sessions).await;
        }
    }
    // As in the rows of the page's table whose answer is 400.
    let rows =
        TABLE.lines().skip_while(|line| *line != "### Which tokens fit").filter(|line| line.contains(" | 400 | "));
    let mut refused = 0;
    for row in rows {
        let example = row.split(" | ").nth(1).expect("an example").replace("\\|", "|");
        for value in example.split('`').skip(1).step_by(2).filter(|value| !fits.contains(value)) {
            refused += 1;
            for request in [delete().token(value), delete().cookie(value)] {
                world.send(request).await.assert_error(400, "malformed_credentials", None);
            }
        }
    }
    assert_eq!(refused, 4, "examples in the table");
}

#[test]
fn no_step_is_rolled_back_to_a_version_that_needs_what_the_step_deletes() {
    let steps = TABLE.split_once("## Moving over from a table of raw tokens").expect("a section").1;
    let last = steps.lines().find(|line| line.starts_with("| 7 |")).expect("the step that deletes the old table");
    let roll_back = last.trim_end_matches(" |").rsplit(" | ").next().expect("a cell");
    // `orders.py` shows that none of these versions works without the old table.
    for version in ["to A", "to B", "to C"] {
        assert!(!roll_back.contains(version), "{roll_back}");
    }
}

#[tokio::test]
#[ignore = "make test-snippets"]
async fn the_example_signs_in_on_two_devices() {
    let world = World::new().await;
    let mut example = snippet_of("python", "example");
    example.command = ["python3", "example.py"].map(str::to_owned).to_vec();
    for _ in ["first", "again"] {
        let output = example.call(&world, &[]).await;
        let (device, token) = output.lines().next().and_then(|line| line.split_once(' ')).expect("a token");
        assert_eq!(device, "laptop");
        assert_eq!(world.send(delete().token(token)).await.status, 200);
    }
    assert_eq!((world.database.rows().await.len(), revoked(&world.database.rows().await)), (4, 3));
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
async fn adding_the_index() {
    let (world, caller) = World::with_others(3).await;
    let index = DeleteGlobalSecondaryIndexAction::builder().index_name("user_id-index").build().expect("an index");
    let update = GlobalSecondaryIndexUpdate::builder().delete(index).build();
    let request = direct(&world).update_table().table_name(&world.database.table);
    request.global_secondary_index_updates(update).send().await.expect("the index to be deleted");
    world.press(&caller).await.assert_error(500, "internal_error", None);
    let mut store = stores::Store::start("python", &world).await;
    store.call("add_index", &[]).await;
    world.press(&caller).await.assert_count(3);
}

/// The `Cookie` header of a browser after hosts have set these cookies.
async fn cookies_of(world: &World, set: &[(&str, String)]) -> String {
    let browser = Snippet::new(&format!("cookies-{}", world.database.address.port()), &["node", "cookies.mjs"]);
    browser.write("cookies.mjs", include_str!("../snippets/cookies.mjs"));
    browser.link_modules("snippets");
    browser.call(world, &[&json!(set).to_string()]).await
}

/// The cookie that the page advises: its name, and the value of its `Set-Cookie` header.
fn advised_cookie(token: &str) -> (String, String) {
    let advice = code(TABLE, "http");
    let cookie = advice.trim().strip_prefix("Set-Cookie: ").expect("a cookie").replace("TOKEN", token);
    (cookie.split_once('=').expect("a name").0.to_owned(), cookie)
}

/// Sends the function what the server forwards, for each form in which it has the browser's headers.
async fn keeps_the_protection(language: &str, command: &[&str]) {
    let own = "https://app.example.com";
    let server = snippet_of(language, &format!("browser-{language}"));
    let drive = command[1];
    server.write(drive, &fs::read_to_string(root().join("tests/snippets").join(drive)).expect("a text"));
    for (headers, is_own_page) in [
        (json!({"Origin": own, "Sec-Fetch-Site": "same-origin"}), true),
        (json!({"Origin": own, "Sec-Fetch-Site": "same-site"}), true),
        (json!({"Origin": own}), true),
        (json!({"Sec-Fetch-Site": "same-origin"}), true),
        (json!({"Origin": "null", "Sec-Fetch-Site": "same-origin"}), true),
        (json!({}), false),
        (json!({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}), false),
        (json!({"Origin": "https://evil.example"}), false),
        (json!({"Origin": "https://blog.example.com", "Sec-Fetch-Site": "same-site"}), false),
        (json!({"Origin": "null", "Sec-Fetch-Site": "cross-site"}), false),
        (json!({"Origin": "null"}), false),
        (json!({"Sec-Fetch-Site": "cross-site"}), false),
        (json!({"Sec-Fetch-Site": "same-site"}), false),
    ] {
        let (world, caller) = World::with_others(1).await;
        let mut browser = headers.clone();
        browser["Cookie"] = format!("ory_kratos_session={}", caller.token).into();
        let output = server.succeed(&[command, &[&browser.to_string()]].concat(), &server.environment(&world)).await;
        let output: Value = serde_json::from_str(&output).expect("JSON");
        for (form, answer) in output["understood"].as_object().expect("the forms") {
            let (forwarded, accepted): (BTreeMap<String, String>, bool) =
                serde_json::from_value(answer.clone()).expect("headers and a decision");
            assert_eq!(accepted, is_own_page, "{headers} as {form}");
            let request = forwarded.iter().fold(delete(), |request, (name, value)| request.header(name, value));
            let answer = world.send(request).await;
            assert_eq!(answer.status == 200, is_own_page, "{headers} as {form}: {answer:?}");
        }
        for (form, accepted) in output["not understood"].as_object().expect("the forms") {
            assert!(accepted == false || is_own_page, "{headers} as {form}");
        }
    }
}

/// Presses the button with the code in one of the languages: with the token of a session, and with an unknown one.
async fn calls(language: &str, file: &str, command: &[&str], count: &str) {
    let mut snippet = Snippet::new(&format!("calling-{}", language.replace(' ', "-")), command);
    snippet.write(file, &code(CALLING, language));
    if file.ends_with("mjs") {
        snippet.link_modules("snippets");
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

/// Runs a suite of `orders.py` on the Python of docs/code, and returns how many orders it has tried.
async fn tries_all_orders(suite: &str) -> u64 {
    let world = World::new().await;
    make_table(&world, &old_table(&world), "token").await;
    make_table(&world, &stores::users(&world), "user_id").await;
    let watch = Watch::start(&world).await;
    let mut python = snippet_of("python", &format!("orders-{suite}"));
    python.write("orders.py", include_str!("../snippets/orders.py"));
    python.variables.push(("SESSIONS_URL", format!("http://{}/auth/sessions", watch.address)));
    python.command = ["python3", "orders.py"].map(str::to_owned).to_vec();
    python.call(&world, &[suite]).await.parse().expect("a number of orders")
}

/// The files of docs/code in a language, with a program that calls their functions.
fn snippet_of(language: &str, folder: &str) -> Snippet {
    let (program, drive) = match language {
        "python" => ("python3", "drive.py"),
        _ => ("node", "drive.mjs"),
    };
    let mut snippet = Snippet::new(folder, &[program, drive]);
    let shown = fs::read_dir(root().join("docs/code").join(language)).expect("the folder of the language");
    let files = shown.map(|file| file.expect("a file").path());
    for file in files.filter(|file| file.is_file()).chain([root().join("tests/snippets").join(drive)]) {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        snippet.write(&name, &fs::read_to_string(&file).expect("a text"));
    }
    if language == "python" {
        snippet.variables.push(("PYTHONPATH", root().join(".tools/boto3").display().to_string()));
    } else {
        snippet.link_modules("aws-sdk-js");
    }
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

    /// Replaces a text that is in a file once.
    fn edit(&self, file: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.folder.join(file)).expect("a text");
        assert_eq!(text.matches(old).count(), 1, "{old} in {file}");
        self.write(file, &text.replace(old, new));
    }

    /// Lets Node.js find what is installed into a folder of `.tools`.
    fn link_modules(&self, tool: &str) {
        let modules = root().join(".tools").join(tool).join("node_modules");
        std::os::unix::fs::symlink(modules, self.folder.join("node_modules")).expect("a link");
    }

    /// The variables of a process that uses a world's database.
    fn environment(&self, world: &World) -> Vec<(&'static str, String)> {
        let of_world = [
            ("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{}", world.database.address)),
            ("SESSIONS_TABLE", world.database.table.clone()),
            ("OLD_SESSIONS_TABLE", old_table(world)),
            ("USERS_TABLE", stores::users(world)),
            ("AWS_REGION", "eu-central-1".to_owned()),
            // The same for boto3.
            ("AWS_DEFAULT_REGION", "eu-central-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
            // The AWS SDK warns of versions of Node.js that it will not support some day.
            ("NODE_NO_WARNINGS", "1".to_owned()),
        ];
        self.variables.iter().cloned().chain(of_world).collect()
    }

    /// Runs its command with arguments on a world's database, and returns what it prints.
    async fn call(&self, world: &World, arguments: &[&str]) -> String {
        let command = [&as_strs(&self.command)[..], arguments].concat();
        self.succeed(&command, &self.environment(world)).await.trim_end_matches('\n').to_owned()
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

/// Creates a table with a string as its key, beside the table of sessions.
async fn make_table(world: &World, name: &str, key: &str) {
    let attribute = AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash);
    let request = direct(world)
        .create_table()
        .table_name(name)
        .attribute_definitions(attribute.build().expect("an attribute"))
        .key_schema(key.build().expect("a key"))
        .billing_mode(BillingMode::PayPerRequest);
    request.send().await.expect("the table to be created");
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
