//! What is measured: the function, and what people would otherwise use.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dynamodb::{DynamoDb, TABLE, Trust};

/// How each is called in the results.
pub const OURS: &str = "this function";
pub const HELLO: &str = "hello world";

/// A function, and how to start it.
#[derive(Clone)]
pub struct Subject {
    pub name: String,
    /// In a few words.
    pub what: &'static str,
    pub command: Vec<PathBuf>,
    pub variables: Vec<(String, String)>,
    /// Whether it revokes anything.
    pub revokes: bool,
}

/// The function and all it is compared with, as far as it is there.
pub fn all(binary: &Path, dynamodb: &DynamoDb, trust: &Trust) -> Vec<Subject> {
    let baseline = |name| PathBuf::from("target/bench/release").join(name);
    let subject = |name, what, command, extra: &[_]| subject(name, what, command, extra, dynamodb, trust);
    let mut subjects = vec![
        subject(OURS, "`BatchExecuteStatement`s of 25 updates, 20 at once", vec![binary.to_owned()], &[]),
        Subject { revokes: false, ..hello(dynamodb, trust) },
        subject(
            "Rust, UpdateItem",
            "SDK with default features and settings, one `UpdateItem` a session, 50 at once",
            vec![baseline("rust-sdk")],
            &[("WRITES", "update")],
        ),
        subject(
            "Rust, TransactWriteItems",
            "the same with `TransactWriteItems` of 100 sessions, 10 at once",
            vec![baseline("rust-sdk")],
            &[("WRITES", "transact")],
        ),
    ];
    let scripts = Path::new("tests/bench/baselines");
    if let Some(node) =
        interpreter("node", ["-p", "process.execPath"]).filter(|_| Path::new(".tools/aws-sdk-js/node_modules").exists())
    {
        subjects.push(subject(
            "Node.js, Promise.all",
            "SDK v3, one `UpdateItem` a session, all at once on the SDK's 50 connections",
            vec![node, scripts.join("node_promise_all.mjs")],
            &[("NODE_PATH", ".tools/aws-sdk-js/node_modules")],
        ));
    } else {
        println!("Without Node.js: there is no node or no npm on the PATH.");
    }
    if let Some(python) = interpreter("python3", ["-c", "import sys; print(sys.executable)"]) {
        subjects.push(subject(
            "Python, boto3 loop",
            "one `update_item` a session, one after the other",
            vec![python, scripts.join("python_boto3.py")],
            &[("PYTHONPATH", ".tools/boto3")],
        ));
    }
    subjects
}

/// The floor of a cold start in Rust.
pub fn hello(dynamodb: &DynamoDb, trust: &Trust) -> Subject {
    let command = vec![PathBuf::from("target/bench/release/hello")];
    Subject { revokes: false, ..subject(HELLO, "`lambda_http` that answers a constant", command, &[], dynamodb, trust) }
}

/// Another build of the function.
pub fn build(binary: &Path, dynamodb: &DynamoDb, trust: &Trust) -> Subject {
    wrapped(&binary.to_string_lossy(), vec![binary.to_owned()], dynamodb, trust)
}

/// A build of the function that is started by another command, such as a profiler.
pub fn wrapped(name: &str, command: Vec<PathBuf>, dynamodb: &DynamoDb, trust: &Trust) -> Subject {
    subject(name, "", command, &[], dynamodb, trust)
}

fn subject(
    name: &str,
    what: &'static str,
    command: Vec<PathBuf>,
    extra: &[(&str, &str)],
    dynamodb: &DynamoDb,
    trust: &Trust,
) -> Subject {
    let variables = [
        ("SESSIONS_TABLE", TABLE),
        ("AWS_ENDPOINT_URL_DYNAMODB", &dynamodb.endpoint),
        // How each of them is told whom to trust.
        ("SSL_CERT_FILE", &trust.bundle.to_string_lossy()),
        ("AWS_CA_BUNDLE", &trust.bundle.to_string_lossy()),
        // Besides those it comes with.
        ("NODE_EXTRA_CA_CERTS", &trust.authority.to_string_lossy()),
        ("NODE_NO_WARNINGS", "1"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_DEFAULT_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        ("AWS_LAMBDA_FUNCTION_NAME", "disable-my-other-sessions"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
        ("AWS_LAMBDA_LOG_LEVEL", "INFO"),
    ];
    let variables = variables.iter().chain(extra).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Subject { name: name.to_owned(), what, command, variables: variables.collect(), revokes: true }
}

/// Where an interpreter is, by its own account: what is on the PATH may be a script of a version manager that takes longer
/// to start than the interpreter.
fn interpreter(name: &str, arguments: [&str; 2]) -> Option<PathBuf> {
    let output = Command::new(name).args(arguments).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}
