//! The use case, top-down: route, authenticate, revoke the others, answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use lambda_http::http::{HeaderMap, Method};
use lambda_http::tower::ServiceBuilder;
use lambda_http::{Adapter, Body, Context, LambdaEvent, Request, RequestExt, Response, Service, service_fn};
use serde::Serialize;

use crate::budget::Budget;
use crate::config::Config;
use crate::credentials::{self, Source};
use crate::event::Event;
use crate::record::Record;
use crate::response::{Answer, Error, respond};
use crate::revocation::revoke_others;
use crate::session::{Clock, Revocation, Session, since_epoch};
use crate::store::{Inactive, Store};

/// The function: its configuration and its store, made once a cold start.
#[derive(Debug)]
pub struct Handler {
    config: Config,
    store: Store,
    clock: Clock,
}

impl Handler {
    /// A function with this configuration on this store.
    #[must_use]
    pub fn new(config: Config, store: Store, clock: Clock) -> Self {
        Self { config, store, clock }
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
        let mut record = Record::of(&request);
        let outcome = self.serve(&request, &mut record).await;
        let cors = self.config.allowed_origins.cors_headers(request.headers());
        let response = respond(&outcome, &record.request_id, cors, self.config.error_debug);
        record.write(&outcome, response.status());
        response
    }

    async fn serve(&self, request: &Request, record: &mut Record) -> Result<Answer, Error> {
        if request.raw_http_path().rsplit('/').next() != Some("sessions") {
            return Err(Error::RouteNotFound);
        }
        match *request.method() {
            Method::DELETE => {
                let deadline = request.lambda_context_ref().map_or(UNIX_EPOCH, Context::deadline);
                let budget = Budget::until(deadline, (self.clock)());
                let outcome = self.disable_my_other_sessions(request.headers(), &budget, record).await;
                record.retries = budget.retries();
                outcome.map(Answer::Revoked)
            }
            Method::OPTIONS => Ok(Answer::Preflight),
            _ => Err(Error::MethodNotAllowed),
        }
    }

    async fn disable_my_other_sessions(
        &self,
        headers: &HeaderMap,
        budget: &Budget,
        record: &mut Record,
    ) -> Result<u64, Error> {
        let caller = self.authenticate(headers, budget).await?;
        record.authenticated(&caller);
        if self.config.max_authentication_age.is_some_and(|age| !caller.is_authenticated_within(age, (self.clock)())) {
            return Err(Error::SessionRefreshRequired);
        }
        let revocation = Revocation {
            at: since_epoch((self.clock)()).as_secs(),
            by: caller.session_id.clone(),
            id: record.request_id.clone(),
        };
        let progress = &record.progress;
        match revoke_others(&self.store, &caller, &revocation, budget, progress).await {
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
            .authenticate(credential.token.hash(), self.clock, budget)
            .await
            .map_err(|cause| Error::Store { cause, revoked: None })?;
        Ok(session?)
    }
}
