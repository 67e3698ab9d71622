//! A request from the function to DynamoDB and back: which fault meets it, what it is for, and what everybody learns from it.

use std::hash::Hash;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::answers::{is_whole, news};
use crate::dynamodb::Service;
use crate::fault::Fault;
use crate::faults::{self, Request};
use crate::history::{Actor, Look, Moment, News, Seen};
use crate::network::{Connection, Response, Sent, latency};
use crate::plan::{Step, When};
use crate::role;
use crate::story::{self, list};
use crate::world::{ALICE, BOB, World, now};

/// More requests of one step than any call needs.
const MOST_REQUESTS: u32 = 30_000;

/// A request, from the function to DynamoDB and back.
#[derive(Clone)]
pub struct Exchange {
    call: Option<usize>,
    operation: String,
    body: Value,
    step: Step,
    nth: u32,
    fault: Option<Fault>,
    sent: Moment,
    sent_at: u64,
    /// When it was carried out.
    moment: Moment,
    /// What the index held then.
    held: Vec<String>,
    /// The responses of statements that were carried out before the others.
    responses: Vec<Value>,
}

impl World {
    /// Takes a request from the function.
    pub fn send(&mut self, call: Option<usize>, pool: usize, key: &str, operation: String, body: Value) -> Sent {
        let number = self.next_request;
        self.next_request += 1;
        let sent = self.service.moment();
        let step = self.step(call, &operation, &body, sent);
        let nth = call.and_then(|call| self.calls.get_mut(&call)).map_or(0, |call| {
            let nth = call.requests.entry(step).or_default();
            *nth += 1;
            *nth - 1
        });
        assert!(nth < MOST_REQUESTS, "the call does not end");
        if let Some(call) = call.and_then(|call| self.calls.get(&call))
            && call.answer.is_some()
        {
            self.wrong.push(format!("call {}: a request after the answer", call.number));
        }
        if !role::allows(&operation, &body) {
            self.wrong.push(format!("the role of template.yaml forbids {operation} {body}"));
        }
        let connection = self.connections.take(pool);
        let fault = self.fault(call, step, nth, key, &operation);
        let mut rng = Rng::with_seed(
            self.plan.seed
                ^ ((call.unwrap_or(99) as u64) << 48 | (step as u64) << 32 | u64::from(nth))
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15),
        );
        let exact = self.plan.service.exact_latency;
        let (out, back) = latency(exact, &mut rng);
        let connect = if connection == Connection::Opening && exact.is_none() { 2 * rng.u64(1..4) } else { 0 };
        let out = out
            + match fault {
                Some(Fault::SlowRequest(late) | Fault::Late(late)) => late,
                _ => 0,
            };
        (now(), &operation, body.to_string(), connection == Connection::Opening).hash(&mut self.digest);
        if let Some(call) = call.and_then(|call| self.calls.get_mut(&call)) {
            let is_dead = matches!(connection, Connection::Dead(_));
            call.disturbed += u32::from(is_dead || fault.is_some_and(|fault| !fault.is_of_the_index()));
            call.permanent += u32::from(fault.is_some_and(Fault::is_permanent));
            call.cut_short += u32::from(fault.is_some_and(Fault::is_permanent));
            if fault.is_some_and(Fault::is_of_the_signature) {
                for thing in self.service.all_named(&body).into_iter().chain([operation.clone()]) {
                    // A batch is as often refused as its sessions.
                    if operation != "BatchExecuteStatement" || thing != operation {
                        *call.signature.entry(thing).or_default() += 1;
                    }
                }
            }
        }
        self.note(|world| {
            let who = call.map_or_else(|| "start".to_owned(), |call| format!("call {call}"));
            let fault = fault.map_or_else(String::new, |fault| format!("  [{fault:?}]"));
            let on = if connection == Connection::Open { String::new() } else { format!(" on {connection:?}") };
            format!("{who}: #{number} {step:?} {}{on}{fault}", story::summary(&world.service, &operation, &body))
        });
        let refused = fault == Some(Fault::Refused);
        let closed_early = if let Some(Fault::ClosedThenLate(late)) = fault { Some(late) } else { None };
        let sent_at = now();
        let (held, responses) = (Vec::new(), Vec::new());
        let exchange = Exchange { call, operation, body, step, nth, fault, sent, sent_at, moment: 0, held, responses };
        self.requests.insert(number, exchange);
        Sent { number, pool, connection, connect, out, back, refused, closed_early }
    }

    /// The fault that meets a request.
    fn fault(&mut self, call: Option<usize>, step: Step, nth: u32, key: &str, operation: &str) -> Option<Fault> {
        let named = call.or((step == Step::Connect).then_some(0));
        let place = named.and_then(|call| self.plan.fault(call, step, nth));
        if let Some(place) = place {
            self.met_faults[place] = true;
        }
        let fault = place.map(|place| self.plan.faults[place].fault).filter(|fault| {
            // What cannot meet this operation does not.
            !matches!(fault, Fault::Unprocessed(_)) || operation == "BatchGetItem"
        });
        let fault = if self.expired_keys.contains(key) { Some(Fault::KeyExpired) } else { fault };
        if fault == Some(Fault::KeyExpired) {
            self.expired_keys.insert(key.to_owned());
        }
        if let Some(fault) = fault {
            self.report.met(step, fault);
        }
        fault
    }

    /// What a request is for.
    fn step(&mut self, call: Option<usize>, operation: &str, body: &Value, moment: Moment) -> Step {
        let Some(call) = call.and_then(|call| self.calls.get_mut(&call)) else { return Step::Connect };
        if operation == "Query" {
            user(body).clone_into(&mut call.user);
        }
        match operation {
            "GetItem" if body["Key"]["token_hash"]["S"] == call.caller.as_str() => Step::Caller,
            "Query" if !body["ExclusiveStartKey"].is_null() => Step::FurtherPage,
            "Query" if call.looks.is_empty() => Step::FirstPage,
            "Query" => Step::LaterLook,
            "BatchExecuteStatement" => {
                let mut again = false;
                for hash in self.service.all_named(body) {
                    again |= call.written.contains_key(&hash);
                    if !call.unreported.insert(hash.clone()) {
                        self.wrong.push(format!("call {}: a session is written again before it was read", call.number));
                    }
                    call.written.entry(hash).or_insert(moment);
                }
                let time_left = (call.begin + call.timeout).saturating_sub(now());
                if time_left + 1 < call.reserved().iter().sum() {
                    self.wrong.push(format!("call {}: a write is sent when {time_left} ms are left", call.number));
                }
                if again { Step::WriteAgain } else { Step::Write }
            }
            _ => Step::Sessions,
        }
    }

    /// Carries out the next part of a staggered batch: how long it takes until the next; `None` when only the last part is left.
    pub fn carry_out_a_part(&mut self, number: usize) -> Option<u64> {
        let exchange = self.requests.get(&number)?;
        let Some(Fault::Staggered(seed)) = exchange.fault else { return None };
        let mut rng = Rng::with_seed(seed ^ exchange.responses.len() as u64);
        let left = &list(&exchange.body["Statements"])[exchange.responses.len()..];
        if left.len() < 2 || !exchange.responses.is_empty() && rng.bool() {
            return None;
        }
        let body = json!({"Statements": left[..rng.usize(1..left.len())]});
        let by = exchange.call.map_or(Actor::Nobody, Actor::Call);
        let reply = self.service.carry_out("BatchExecuteStatement", &body, by, now());
        let exchange = self.requests.get_mut(&number)?;
        exchange.responses.extend_from_slice(list(&reply.body["Responses"]));
        let (done, all) = (exchange.responses.len(), list(&exchange.body["Statements"]).len());
        self.note(|_| format!("  dynamodb: #{number} has carried out {done} of {all}"));
        let most = [30, 400, 2_000][rng.usize(0..3)];
        (reply.status == 200).then(|| rng.u64(1..most))
    }

    /// DynamoDB's end of a request.
    pub fn carry_out(&mut self, number: usize) -> Option<(Response, u64)> {
        let mut exchange = self.requests.remove(&number).expect("a request");
        self.act_at(
            exchange.call,
            |when| matches!(when, When::Before(s, nth) if (s, nth) == (exchange.step, exchange.nth)),
        );
        exchange.moment = self.service.moment();
        let by = exchange.call.map_or(Actor::Nobody, Actor::Call);
        let done = exchange.responses.len();
        let left = (done > 0).then(|| json!({"Statements": list(&exchange.body["Statements"])[done..]}));
        let body = left.as_ref().unwrap_or(&exchange.body);
        let request = Request { operation: &exchange.operation, body, by, now: now() };
        let throttled = self.service.throttled;
        let mut call = exchange.call.and_then(|call| self.calls.get_mut(&call));
        let is_first_page = exchange.step.is_page() && exchange.step != Step::FurtherPage;
        if let Some(call) = call.as_mut().filter(|_| is_first_page) {
            call.hidden.clear();
        }
        let mut outcome = faults::carry_out(&mut self.service, &request, exchange.fault, call);
        if !exchange.responses.is_empty()
            && let Some((Response::Answer { body, .. }, _)) = &mut outcome
        {
            exchange.responses.extend_from_slice(list(&body["Responses"]));
            body["Responses"] = json!(exchange.responses);
        }
        if is_first_page {
            exchange.held = self.service.held(user(&exchange.body));
        }
        if self.service.throttled > throttled
            && let Some(call) = exchange.call.and_then(|call| self.calls.get_mut(&call))
        {
            call.disturbed += 1;
        }
        if exchange.step.is_write() && !self.service.troubles.is_empty() {
            let named = self.service.all_named(body);
            let troubles = named.iter().filter_map(|hash| self.service.troubles.get(hash));
            troubles.for_each(|trouble| self.report.tick("session", trouble));
        }
        for cell in std::mem::take(&mut self.service.damaged) {
            self.report.damaged(cell);
        }
        self.note(|world| match &outcome {
            Some((response, late)) => {
                let late = if *late == 0 { String::new() } else { format!(", {late} ms late") };
                format!("  dynamodb: #{number} {}{late}", story::describe(&world.service, response))
            }
            None => format!("  dynamodb: #{number} carried out as the fault says, no answer"),
        });
        let (call, step, nth) = (exchange.call, exchange.step, exchange.nth);
        self.requests.insert(number, exchange);
        self.act_at(call, |when| matches!(when, When::Behind(s, n) if (s, n) == (step, nth)));
        outcome
    }

    /// The function's end of an answer.
    pub fn arrived(&mut self, number: usize, response: &Response) {
        let closed_early =
            matches!(self.requests.get(&number), Some(Exchange { fault: Some(Fault::ClosedThenLate(_)), .. }));
        let exchange = if closed_early { self.requests.get(&number).cloned() } else { self.requests.remove(&number) };
        let Some(exchange) = exchange else { return };
        self.note(|world| match response {
            Response::Closed => format!("  arrives: #{number} {}", story::describe(&world.service, response)),
            _ => format!("  arrives: #{number}"),
        });
        (number, now()).hash(&mut self.digest);
        if let Response::Answer { body, text, .. } = response {
            (body.to_string(), text).hash(&mut self.digest);
        }
        let moment = self.service.moment();
        let reported = sessions_with(&self.service, &exchange, response, is_reported);
        let refused = sessions_with(&self.service, &exchange, response, is_refused);
        let Some(call) = exchange.call.and_then(|call| self.calls.get_mut(&call)) else { return };
        call.unreported.retain(|hash| !reported.contains(hash));
        call.refused.extend(refused);
        let body = match response {
            Response::Answer { status: 200, body, .. } if is_whole(&exchange.operation, &exchange.body, body) => body,
            _ => {
                call.failed_reads.extend((exchange.step == Step::Sessions).then_some(moment));
                return;
            }
        };
        let left_out = body["UnprocessedKeys"].as_object().is_some_and(|tables| !tables.is_empty());
        if exchange.step == Step::Sessions && left_out {
            call.failed_reads.push(moment);
        }
        if exchange.step.is_page() {
            call.pages += 1;
            if exchange.step != Step::FurtherPage {
                call.look = Look {
                    begin: exchange.sent,
                    begin_at: exchange.sent_at,
                    held: exchange.held,
                    held_at: exchange.moment,
                    ..Look::default()
                };
            }
        }
        if exchange.step == Step::Caller {
            call.authenticated_at = now();
        }
        for news in news(&self.service, &call.user, &exchange.operation, &exchange.body, body) {
            match news {
                News::Shown(hash) => {
                    call.look.shows_new |= hash != call.caller && !call.shown.contains_key(&hash);
                    call.shown.entry(hash).or_insert(moment);
                }
                News::Changed(hash) => drop(call.changed.insert(hash)),
                News::Read(hash, seen) => {
                    call.unreported.remove(&hash);
                    if exchange.step == Step::Sessions {
                        match seen {
                            Seen::Live => *call.found_live.entry(hash.clone()).or_default() += 1,
                            Seen::EndedByOthers => call.trace = Some(now()),
                            Seen::Done => {}
                        }
                    }
                    call.reads.entry(hash).or_default().push(exchange.moment);
                }
            }
        }
        if exchange.step.is_page() && body["LastEvaluatedKey"].is_null() {
            call.look.hidden.clone_from(&call.hidden);
            call.looks.push(call.look.clone());
        }
    }

    /// The function does not wait for an answer any longer.
    pub fn given_up(&mut self, number: usize) {
        self.note(|_| format!("  given up: #{number}"));
        (number, now()).hash(&mut self.digest);
        let moment = self.service.moment();
        let Some(exchange) = self.requests.get(&number) else { return };
        let Some(call) = exchange.call.and_then(|call| self.calls.get_mut(&call)) else { return };
        call.failed_reads.extend((exchange.step == Step::Sessions).then_some(moment));
    }
}

/// The user whose sessions a page of the index is about.
fn user(query: &Value) -> &str {
    let values = query["ExpressionAttributeValues"].as_object().into_iter().flatten();
    values.filter_map(|(_, value)| value["S"].as_str()).find(|user| [ALICE, BOB].contains(user)).unwrap_or_default()
}

/// The sessions of a batch for whose response this holds: HTTP status, and DynamoDB's code of the statement or of all; no status
/// if there is no response of DynamoDB's.
fn sessions_with(
    service: &Service,
    exchange: &Exchange,
    response: &Response,
    holds: fn(Option<u16>, Option<&str>) -> bool,
) -> Vec<String> {
    let is_whole = |body| is_whole(&exchange.operation, &exchange.body, body);
    let holds = |place: usize| match response {
        Response::Answer { status: 200, body, .. } if is_whole(body) => match &body["Responses"][place] {
            response if response["Error"].is_object() => {
                holds(Some(200), Some(response["Error"]["Code"].as_str().unwrap_or_default()))
            }
            response => holds(response["TableName"].is_string().then_some(200), None),
        },
        Response::Answer { status, body, .. } if *status != 200 => {
            holds(Some(*status), body["__type"].as_str().and_then(|kind| kind.rsplit('#').next()))
        }
        _ => holds(None, None),
    };
    let found = list(&exchange.body["Statements"]).iter().enumerate().filter(|(place, _)| holds(*place));
    found.filter_map(|(_, statement)| service.named(statement)).collect()
}

/// Whether it is known what a write has done. A request that failed with a code of its own has done nothing.
fn is_reported(status: Option<u16>, code: Option<&str>) -> bool {
    match status {
        Some(200) => code.is_none_or(|code| !faults::is_unclear(code)),
        Some(status) => status < 500,
        None => false,
    }
}

/// Whether a write cannot succeed, however often it is sent.
fn is_refused(_: Option<u16>, code: Option<&str>) -> bool {
    code.is_some_and(|code| faults::PERMANENT.contains(&code))
}
