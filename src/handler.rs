//! The use case, top-down: route, authenticate, revoke the others, answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lambda_http::http::{HeaderMap, Method};
use lambda_http::request::RequestContext;
use lambda_http::tower::ServiceBuilder;
use lambda_http::tracing::{error, info};
use lambda_http::{Adapter, Body, Context, LambdaEvent, Request, RequestExt, Response, Service, service_fn};
use serde::Serialize;

use crate::budget::Budget;
use crate::config::Config;
use crate::credentials::{self, Source};
use crate::event::Event;
use crate::response::{Answer, Error, respond};
use crate::revocation::{Progress, revoke_others};
use crate::session::{Revocation, Session};
use crate::store::{Inactive, Store};

/// The function: its configuration and its store, made once a cold start.
#[derive(Debug)]
pub struct Handler {
    config: Config,
    store: Store,
}

impl Handler {
    /// A function with this configuration on this store.
    #[must_use]
    pub fn new(config: Config, store: Store) -> Self {
        Self { config, store }
    }

    /// The function as the Lambda runtime runs it: events in, each gateway's own kind of answer out.
    #[must_use]
    pub fn into_service(self) -> impl Service<LambdaEvent<Event>, Response = impl Serialize, Error = Infallible> {
        let handler = Arc::new(self);
        let adapter = Adapter::from(service_fn(move |request| {
            let handler = Arc::clone(&handler);
            async move { Ok::<_, Infallible>(handler.handle(request).await) }
        }));
        ServiceBuilder::new()
            .map_request(|event: LambdaEvent<Event>| LambdaEvent::new(event.payload.into_inner(), event.context))
            .service(adapter)
    }

    /// Answers a request. There is no error that is not an answer.
    async fn handle(&self, request: Request) -> Response<Body> {
        let request_id = request_id(&request);
        let outcome = self.serve(&request, &request_id).await;
        log(&outcome, &request_id);
        let cors = self.config.allowed_origins.cors_headers(request.headers());
        respond(&outcome, &request_id, cors, self.config.error_debug)
    }

    async fn serve(&self, request: &Request, request_id: &str) -> Result<Answer, Error> {
        if request.raw_http_path().rsplit('/').next() != Some("sessions") {
            return Err(Error::RouteNotFound);
        }
        match *request.method() {
            Method::DELETE => self.disable_my_other_sessions(request, request_id).await.map(Answer::Revoked),
            Method::OPTIONS => Ok(Answer::Preflight),
            _ => Err(Error::MethodNotAllowed),
        }
    }

    async fn disable_my_other_sessions(&self, request: &Request, request_id: &str) -> Result<u64, Error> {
        let deadline = request.lambda_context_ref().map_or(UNIX_EPOCH, Context::deadline);
        let budget = Budget::until(deadline);
        let caller = self.authenticate(request.headers(), &budget).await?;
        let revocation = Revocation { at: epoch_seconds(), by: caller.session_id.clone(), id: request_id.to_owned() };
        let progress = Progress::default();
        match revoke_others(&self.store, &caller, &revocation, &budget, &progress).await {
            Ok(()) => Ok(progress.revoked.get()),
            Err(cause) => {
                let began = progress.batches.get() > 0;
                Err(Error::Store { cause, revoked: began.then(|| progress.revoked.get()) })
            }
        }
    }

    async fn authenticate(&self, headers: &HeaderMap, budget: &Budget) -> Result<Session, Error> {
        let credential = credentials::from_headers(headers, &self.config.cookie_name)?.ok_or(Inactive::NoCredential)?;
        match credential.source {
            Source::Cookie => self.config.allowed_origins.check_cookie_use(headers)?,
            Source::SessionTokenHeader | Source::Bearer => {}
        }
        let session = self
            .store
            .authenticate(credential.token.hash(), budget)
            .await
            .map_err(|cause| Error::Store { cause, revoked: None })?;
        Ok(session?)
    }
}

/// The gateway's id of the request, else Lambda's: load balancers give none.
fn request_id(request: &Request) -> String {
    let gateway = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV1(context)) => context.request_id.clone(),
        Some(RequestContext::ApiGatewayV2(context)) => context.request_id.clone(),
        _ => None,
    };
    let lambda = || request.lambda_context_ref().map(|context| context.request_id.clone());
    gateway.or_else(lambda).unwrap_or_default()
}

fn epoch_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The one place where a failure is logged.
fn log(outcome: &Result<Answer, Error>, request_id: &str) {
    match outcome {
        Ok(Answer::Revoked(count)) => info!(request = request_id, outcome = "revoked", count, "sessions revoked"),
        Ok(Answer::Preflight) => info!(request = request_id, outcome = "preflight", "preflight answered"),
        Err(error) if error.is_fault() => {
            error!(request = request_id, outcome = error.id(), revoked = error.revoked(), "request failed: {error}");
        }
        Err(error) => info!(request = request_id, outcome = error.id(), "request refused: {error}"),
    }
}
