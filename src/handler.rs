//! The use case: route the request, authenticate the caller, revoke the other sessions, answer.

use std::convert::Infallible;
use std::sync::Arc;

use lambda_http::http::{HeaderMap, Method};
use lambda_http::tower::ServiceBuilder;
use lambda_http::{Adapter, Body, Context, LambdaEvent, Request, RequestExt, Response, Service, service_fn};
use serde::Serialize;
use tokio::time::Instant;

use crate::config::Config;
use crate::dynamodb::store::Store;
use crate::http::credentials;
use crate::http::event::Event;
use crate::http::response::{Answer, Error, respond};
use crate::log::record::Record;
use crate::revocation::{revoke_others, wait_until};
use crate::rules::budget::Budget;
use crate::rules::evidence::{Attempts, Cause, Failure};
use crate::rules::limits::Limits;
use crate::session::{Clock, Inactive, Revocation, Session, TokenHash, since_epoch};

/// The function, as one cold start makes it for all its invocations.
#[derive(Debug)]
pub struct Handler {
    config: Config,
    store: Store,
    clock: Clock,
    limits: Limits,
}

impl Handler {
    /// A function with this configuration and this store. It has the limits of the deployed function.
    #[must_use]
    pub fn new(config: Config, store: Store, clock: Clock) -> Self {
        Self { config, store, clock, limits: Limits::DEPLOYED }
    }

    /// This function with other limits, for tests.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The function as the Lambda runtime runs it: a gateway's event in, an answer in the format of that gateway out.
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

    /// Answers an HTTP request. Every error becomes an answer, so the runtime sees none.
    async fn handle(&self, request: Request) -> Response<Body> {
        let mut record = Record::of(&request);
        let outcome = self.serve(&request, &mut record).await;
        let cors = self.config.allowed_origins.cors_headers(request.method(), request.headers());
        let response = respond(&outcome, &record.request_id, cors, self.config.error_debug);
        record.write(&outcome, response.status());
        response
    }

    async fn serve(&self, request: &Request, record: &mut Record) -> Result<Answer, Error> {
        // Every prefix of the path is ignored, since stages, domain mappings and load balancers add one. So is a final slash.
        let path = request.raw_http_path();
        if path.strip_suffix('/').unwrap_or(path).rsplit('/').next() != Some("sessions") {
            return Err(Error::RouteNotFound);
        }
        match *request.method() {
            Method::DELETE => {
                let lambda = request.lambda_context_ref().cloned().unwrap_or_default();
                self.disable_my_other_sessions(request.headers(), &lambda, record).await.map(Answer::Revoked)
            }
            Method::OPTIONS => Ok(Answer::Preflight),
            _ => Err(Error::MethodNotAllowed),
        }
    }

    async fn disable_my_other_sessions(
        &self,
        headers: &HeaderMap,
        lambda: &Context,
        record: &mut Record,
    ) -> Result<u64, Error> {
        let mut budget = Budget::until(lambda.deadline(), (self.clock)(), Instant::now());
        let credential = credentials::from_headers(headers, &self.config.cookie_name)?.ok_or(Inactive::NoCredential)?;
        if credential.source.is_sent_by_browsers {
            self.config.allowed_origins.check_cookie_use(headers)?;
        }
        let caller = self.authenticate(&credential.token.hash(), &mut budget, record).await;
        let caller = caller.map_err(|cause| Error::Store { cause, revoked: None })??;
        record.authenticated(&caller);
        if self.config.max_authentication_age.is_some_and(|age| !caller.is_authenticated_within(age, (self.clock)())) {
            return Err(Error::SessionRefreshRequired);
        }
        let at = since_epoch((self.clock)()).as_secs();
        let revocation = Revocation { at, by: caller.session_id.clone(), id: lambda.request_id.clone() };
        let call = revoke_others(&self.store, &caller, &revocation, self.limits, budget).await;
        record.revoked(&call);
        let revoked = call.began.then_some(call.count);
        call.result.map(|()| call.count).map_err(|cause| Error::Store { cause, revoked })
    }

    /// The session of the caller. The read is retried after causes that may pass.
    async fn authenticate(
        &self,
        token_hash: &TokenHash,
        budget: &mut Budget,
        record: &mut Record,
    ) -> Result<Result<Session, Inactive>, Failure> {
        let mut attempts = Attempts::default();
        let mut out_of_time = Failure::from(Cause::OutOfTime);
        loop {
            let begin = Instant::now();
            let Some(timeout) = budget.read_timeout(attempts.failed(), begin) else { return Err(out_of_time) };
            let failure = match self.store.authenticate(token_hash, self.clock, timeout).await {
                Ok(session) => {
                    budget.responded_after(begin.elapsed());
                    return Ok(session);
                }
                Err(failure) => failure,
            };
            attempts.fail(failure.cause);
            if attempts.are_used_up(self.limits.attempts) {
                return Err(failure.as_cause(attempts.conclusion()));
            }
            out_of_time = failure.as_cause(Cause::OutOfTime);
            let at = budget.retry_at(failure.cause, attempts.failed(), Instant::now(), fastrand::f64());
            wait_until(Some(at)).await;
            record.retries += 1;
        }
    }
}
