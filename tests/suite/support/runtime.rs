//! The binary under a Lambda Runtime API. `FUNCTION` is the path of another build of it, such as a release build.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::events::Request;
use super::runtime_api::RuntimeApi;
use super::{Answer, World};

/// The binary, waiting for events.
pub struct Function {
    process: Child,
    runtime_api: RuntimeApi,
}

/// The exit and the output of a binary that has ended.
#[derive(Debug)]
pub struct Output {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Function {
    /// Starts the binary on a world's database and with its time-out. The variables are added to the usual ones or replace
    /// them.
    pub async fn start(world: &World, variables: &[(&str, &str)]) -> Self {
        let runtime_api = RuntimeApi::start(world.timeout).await;
        let mut all = vec![("SESSIONS_TABLE", world.database.table.as_str())];
        all.extend(variables);
        let process = command(&runtime_api.address, &format!("http://{}", world.proxy.address), &all);
        Self { process, runtime_api }
    }

    /// Sends the function an event. Returns its answer, or the error that it reports for the invocation.
    pub async fn invoke(&mut self, event: Value) -> Result<Value, Value> {
        self.invoke_bytes(event.to_string().into_bytes()).await
    }

    /// Sends the function an event, which need not be UTF-8.
    pub async fn invoke_bytes(&mut self, event: Vec<u8>) -> Result<Value, Value> {
        self.runtime_api.invoke(event).await.answer
    }

    /// Sends the function a request.
    pub async fn send(&mut self, request: Request) -> Answer {
        Answer::from_gateway(&self.invoke(request.into_event()).await.expect("an answer"))
    }

    /// Sends the process a signal, by name.
    pub async fn signal(&self, name: &str) {
        let process = self.process.id().expect("a running process").to_string();
        let status = Command::new("kill").args(["-s", name, &process]).status().await.expect("kill to run");
        assert!(status.success(), "{status}");
    }

    /// The most memory it has used so far, in kB.
    pub fn peak_memory(&self) -> u64 {
        let process = self.process.id().expect("a running process");
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        peak.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Stops it and returns its output.
    pub async fn stop(mut self) -> Output {
        self.process.start_kill().expect("a running process");
        output(self.process).await
    }
}

/// Runs the binary without a Runtime API until it ends by itself.
pub async fn run(variables: &[(&str, &str)]) -> Output {
    output(command("127.0.0.1:9", "http://127.0.0.1:9", variables)).await
}

fn command(runtime_api: &str, endpoint: &str, variables: &[(&str, &str)]) -> Child {
    let binary = std::env::var_os("FUNCTION");
    Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_disable-my-other-sessions").into()))
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", runtime_api)
        .env("AWS_LAMBDA_FUNCTION_NAME", "disable-my-other-sessions")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_REGION", "eu-central-1")
        .env("AWS_ACCESS_KEY_ID", "local")
        .env("AWS_SECRET_ACCESS_KEY", "local")
        .env("AWS_ENDPOINT_URL_DYNAMODB", endpoint)
        .env("SESSIONS_TABLE", "sessions")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary to start")
}

async fn output(mut process: Child) -> Output {
    let mut output = Output { success: false, stdout: String::new(), stderr: String::new() };
    let mut stdout = process.stdout.take().expect("standard output");
    let mut stderr = process.stderr.take().expect("standard error");
    let (read_out, read_err) =
        tokio::join!(stdout.read_to_string(&mut output.stdout), stderr.read_to_string(&mut output.stderr));
    read_out.and(read_err).expect("readable output");
    output.success = process.wait().await.expect("an exit status").success();
    output
}
