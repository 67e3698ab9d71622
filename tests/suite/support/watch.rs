//! The binary under `cargo lambda watch`: HTTP in and out, with the events and the Runtime API of cargo-lambda between.
//!
//! By default, cargo-lambda builds the binary itself, and most dependencies once more for it, since those of the tests have
//! more features. So here it runs without building, and the binary is the one that cargo built for the tests.

use std::collections::BTreeMap;
use std::env;
use std::iter::{once, repeat_with};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Stdio, id};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::{Answer, World};

/// The most that a start or an answer may take. Both take a tenth of a second on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_secs(30);

/// cargo-lambda and the binary. Dropping it ends both.
pub struct Watch {
    pub address: SocketAddr,
    _processes: [Child; 2],
}

impl Watch {
    /// Starts both on a world's database.
    pub async fn start(world: &World) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut cargo_lambda = Command::new(cargo_lambda())
            .args(["lambda", "watch", "--only-lambda-apis", "--disable-cors"])
            .args(["--invoke-address", &address.ip().to_string(), "--invoke-port", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("cargo-lambda to start");
        let listening = async {
            while TcpStream::connect(address).await.is_err() {
                assert_eq!(cargo_lambda.try_wait().expect("a status"), None, "cargo-lambda has ended");
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, listening).await.expect("cargo-lambda to listen");
        let binary = Command::new(env!("CARGO_BIN_EXE_disable-my-other-sessions"))
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", format!("http://{address}/.rt"))
            .env("AWS_LAMBDA_FUNCTION_NAME", "disable-my-other-sessions")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_LOG_LEVEL", "ERROR")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .env("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{}", world.database.address))
            .env("SESSIONS_TABLE", &world.database.table)
            .env("ALLOWED_ORIGINS", "https://app.example.com")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary to start");
        Self { address, _processes: [cargo_lambda, binary] }
    }

    /// Calls `/auth/sessions` with these headers.
    pub async fn call(&self, method: Method, headers: &[(&str, &str)]) -> Answer {
        let url = format!("http://{}/auth/sessions", self.address);
        let request = headers
            .iter()
            .fold(Request::builder().method(method).uri(url), |request, (name, value)| request.header(*name, *value))
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let client = Client::builder(TokioExecutor::new()).build_http();
        // cargo-lambda lets a request wait until there is a function to answer it.
        let answer = timeout(PATIENCE, client.request(request)).await.expect("an answer in time");
        let (head, body) = answer.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let headers: BTreeMap<String, String> = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().expect("a header in ASCII").to_owned()))
            .collect();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("a JSON body") };
        Answer { status: head.status.as_u16().into(), headers, body }
    }
}

fn cargo_lambda() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/cargo-lambda/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    once(installed)
        .chain(env::split_paths(&path))
        .map(|directory| directory.join("cargo-lambda"))
        .find(|program| program.is_file())
        .expect("cargo-lambda is missing: run the tests with `make test`, which installs it")
}

/// A port for cargo-lambda, which cannot choose one itself. It is below the ports that systems assign, so that no other test
/// gets it, and each port is returned once.
fn free_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(id() % 20_000).expect("a small number");
    repeat_with(|| first + GIVEN.fetch_add(1, Ordering::Relaxed))
        .take(2_000)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}
