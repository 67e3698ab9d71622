//! Lambda as a function sees it: a process under a Runtime API, with less CPU for the handler than for the init.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde_json::Value;
use test_support::events::{Gateway, delete};
use test_support::runtime_api::RuntimeApi;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::dynamodb::token;
use crate::subjects::Subject;

/// What functions print on standard error.
pub const LOG: &str = "target/bench/stderr.log";
/// The longest that a function behind a REST API may take by default.
pub const TIMEOUT: Duration = Duration::from_secs(29);
/// Nothing measured takes longer; what does hangs.
const PATIENCE: Duration = Duration::from_mins(2);
/// The period in which CPU is dealt out. Lambda's own is not documented.
const PERIOD_MICROS: u64 = 20_000;

/// A running function.
pub struct Function {
    process: Child,
    runtime_api: RuntimeApi,
}

/// What one call took, and its answer.
pub struct Call {
    pub time: Duration,
    /// Of the process, from when it was given the event until it asked for the next.
    pub cpu: Duration,
    /// The HTTP status.
    pub status: Option<u64>,
    /// The JSON of the HTTP body.
    pub body: Value,
}

impl Function {
    /// Starts one, and returns how long it took until it asked for its first event.
    pub async fn start(subject: &Subject) -> Result<(Self, Duration), String> {
        let runtime_api = RuntimeApi::start(TIMEOUT).await;
        let mut command = Command::new(&subject.command[0]);
        command
            .args(&subject.command[1..])
            .env_clear()
            .envs(subject.variables.iter().cloned())
            .env("AWS_LAMBDA_RUNTIME_API", &runtime_api.address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log().map_or(Stdio::null(), Stdio::from))
            .kill_on_drop(true);
        let begin = Instant::now();
        let process = command.spawn().map_err(|error| format!("it does not start: {error}"))?;
        let mut function = Self { process, runtime_api };
        let ready = function.asked().await?;
        Ok((function, ready - begin))
    }

    /// Has the caller with so many other sessions call it, and checks its answer.
    pub async fn call(&mut self, others: usize, expected: usize) -> Result<Call, String> {
        let call = self.invoke(others).await?;
        if call.status != Some(200) || call.body["count"].as_u64() != Some(expected as u64) {
            let (status, body) = (call.status, call.body);
            return Err(format!("asked to revoke {expected} sessions it answered {status:?} {body}"));
        }
        Ok(call)
    }

    /// Has the caller with so many other sessions call it.
    pub async fn invoke(&mut self, others: usize) -> Result<Call, String> {
        let clock = self.cpu_clock()?;
        let cpu = now(clock);
        let outcome = tokio::select! {
            outcome = timeout(PATIENCE, self.runtime_api.invoke(event(others))) => outcome.map_err(|_| "no answer")?,
            status = self.process.wait() => return Err(format!("it has ended by itself: {status:?}")),
        };
        self.asked().await?;
        let cpu = now(clock).saturating_sub(cpu);
        let answer = outcome.answer.unwrap_or_default();
        let body = serde_json::from_str(answer["body"].as_str().unwrap_or_default()).unwrap_or_default();
        let status = answer["statusCode"].as_u64();
        Ok(Call { time: outcome.received - outcome.given, cpu, status, body })
    }

    /// Stops the process between two calls, as Lambda does.
    pub fn freeze(&self) -> Result<(), String> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<(), String> {
        self.signal(Signal::SIGCONT)
    }

    /// Ends the process so that a profiler around it writes down what it has counted.
    pub async fn terminate(mut self) -> Result<(), String> {
        self.signal(Signal::SIGTERM)?;
        let ended = timeout(PATIENCE, self.process.wait()).await;
        ended.map(drop).map_err(|_| "it does not end".to_owned())
    }

    /// The most memory it has used so far, in bytes.
    pub fn peak_memory(&self) -> Result<u64, String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).map_err(|error| error.to_string())?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        peak.trim().trim_end_matches(" kB").parse().map(|kb: u64| kb * 1024).map_err(|_| "no number".to_owned())
    }

    pub async fn stop(mut self) {
        let _ = self.process.kill().await;
    }

    async fn asked(&mut self) -> Result<Instant, String> {
        tokio::select! {
            asked = timeout(PATIENCE, self.runtime_api.asked()) => asked.map_err(|_| "it asks for no event".to_owned()),
            status = self.process.wait() => Err(format!("it has ended by itself: {status:?}")),
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        kill(Pid::from_raw(self.pid()?.cast_signed()), signal).map_err(|error| error.to_string())
    }

    fn pid(&self) -> Result<u32, String> {
        self.process.id().ok_or("it has ended".to_owned())
    }

    /// Counts threads that have ended as well, and nanoseconds, unlike /proc.
    fn cpu_clock(&self) -> Result<ClockId, String> {
        ClockId::pid_cpu_clock_id(Pid::from_raw(self.pid()?.cast_signed())).map_err(|error| error.to_string())
    }
}

fn log() -> io::Result<File> {
    File::options().append(true).create(true).open(LOG)
}

fn now(clock: ClockId) -> Duration {
    clock.now().map(Duration::from).unwrap_or_default()
}

/// The event of an HTTP API, with the headers that a client and the gateway add.
fn event(others: usize) -> Vec<u8> {
    let request = delete()
        .through(Gateway::Http)
        .token(&token(others, 0))
        .header("Accept", "application/json")
        .header("User-Agent", "curl/8.14.1")
        .header("X-Amzn-Trace-Id", "Root=1-6560c1a0-2f6a1b3c4d5e6f7a8b9c0d1e")
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Forwarded-Port", "443")
        .header("X-Forwarded-Proto", "https");
    request.into_event().to_string().into_bytes()
}

/// A group of processes that share a part of one core.
pub struct CpuLimit {
    folder: PathBuf,
}

impl CpuLimit {
    /// None if the machine does not let us: that takes root, and control groups that can be written to.
    pub fn new(percent: u64) -> Option<Self> {
        let quota = PERIOD_MICROS * percent / 100;
        let name = format!("bench-{}-{percent}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let (folder, settings) = if root.join("cgroup.controllers").exists() {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
            (root.join(name), vec![("cpu.max", format!("{quota} {PERIOD_MICROS}"))])
        } else {
            let settings =
                vec![("cpu.cfs_period_us", PERIOD_MICROS.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
            (root.join("cpu").join(name), settings)
        };
        fs::create_dir(&folder).ok()?;
        let limit = Self { folder };
        settings.iter().all(|(file, value)| fs::write(limit.folder.join(file), value).is_ok()).then_some(limit)
    }

    /// From here on the function has this much CPU.
    pub fn apply(&self, function: &Function) -> Result<(), String> {
        let process = function.pid()?.to_string();
        fs::write(self.folder.join("cgroup.procs"), process).map_err(|error| format!("no CPU limit: {error}"))
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        // Its processes may not have been buried yet.
        for _ in 0..50 {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(Duration::from_millis(10)),
                Ok(()) | Err(_) => break,
            }
        }
    }
}
