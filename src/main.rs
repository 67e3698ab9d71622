//! Cold start: logging, configuration, client, and the Lambda runtime's loop.

use std::process::ExitCode;
use std::time::SystemTime;

use disable_my_other_sessions::config::{Config, Logging};
use disable_my_other_sessions::dynamodb::client;
use disable_my_other_sessions::dynamodb::client::Connections;
use disable_my_other_sessions::dynamodb::store::Store;
use disable_my_other_sessions::handler::Handler;
use disable_my_other_sessions::log::logging;
use lambda_http::{Error, tracing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    logging::init(&Logging::from_environment());
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("cannot run: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Error> {
    let config = Config::from_environment()?;
    let sdk_config = client::config().load().await;
    if sdk_config.region().is_none_or(|region| region.as_ref().is_empty()) {
        return Err("AWS_REGION is not set: it must name the region of the table".into());
    }
    let store = Store::new(Connections::new(sdk_config, client::http_client), config.table.clone());
    // Connections are opened now, since Lambda gives more CPU during the start than during a call.
    store.connect().await;
    lambda_runtime::run(Handler::new(config, store, SystemTime::now).into_service()).await
}
