//! One trial: the people in it, and all that they share. Everything runs on one thread under tokio's paused clock, so a seed decides
//! every event.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::answer::Answer;
use crate::check;
use crate::dynamodb::{Service, TABLE};
use crate::events::{Gateway, delete};
use crate::faults::{self, Request};
use crate::function::Sandbox;
use crate::history::{Actor, Call, Item, Look, Moment, News, n, s, text};
use crate::network::{Connection, Connections, Response, Sent, latency};
use crate::plan::{Act, Deed, Fault, Kind, Plan, Press, Step, Target, When};
use crate::report::Report;
use crate::role;
use disable_my_other_sessions::session::Token;

/// When a trial begins: on 2026-11-24.
const WALL_CLOCK: Duration = Duration::from_hours(498_750);
/// How long index and late writes may take until they are done, in milliseconds.
const CALM: u64 = 60_000;
/// The number of calls in which a user without faults must be done.
const LAST_CALLS: usize = 4;

pub const ALICE: &str = "alice";
pub const BOB: &str = "bob";

/// What everyone in a trial shares.
pub struct World {
    pub plan: Plan,
    pub service: Service,
    pub connections: Connections,
    pub calls: BTreeMap<usize, Call>,
    /// Requests that DynamoDB has not finished.
    pub under_way: usize,
    requests: BTreeMap<usize, Exchange>,
    next_request: usize,
    hashes: BTreeMap<Target, String>,
    tokens: BTreeMap<String, String>,
    done_acts: Vec<bool>,
    digest: DefaultHasher,
    trace: Option<Vec<String>>,
    pub report: Report,
    pub wrong: Vec<String>,
}

/// A request, from the function to DynamoDB and back.
struct Exchange {
    call: Option<usize>,
    operation: String,
    body: Value,
    step: Step,
    nth: u32,
    fault: Option<Fault>,
    sent: Moment,
    /// When it was carried out.
    moment: Moment,
}

/// What came of a trial.
#[derive(Debug)]
pub struct Outcome {
    /// What was wrong.
    pub wrong: Vec<String>,
    /// One line for each event, if asked for.
    pub trace: Vec<String>,
    /// The same for two runs if all events were the same.
    pub digest: u64,
    pub report: Report,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    static BEGIN: Cell<Option<Instant>> = const { Cell::new(None) };
}

tokio::task_local! {
    static CALL: usize;
}

/// Does something with the world of this thread.
pub fn with_world<T>(use_it: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| use_it(world.as_mut().expect("a trial")))
}

/// The same, unless the trial is over.
pub fn if_there(use_it: impl FnOnce(&mut World)) {
    WORLD.with(|world| {
        if let Ok(mut world) = world.try_borrow_mut()
            && let Some(world) = world.as_mut()
        {
            use_it(world);
        }
    });
}

/// The call that is running right now.
pub fn calling() -> Option<usize> {
    CALL.try_with(|call| *call).ok()
}

/// Milliseconds since the trial began.
pub fn now() -> u64 {
    BEGIN.get().map_or(0, |begin| begin.elapsed().as_millis() as u64)
}

/// The wall clock of the function and of DynamoDB.
pub fn wall_clock() -> SystemTime {
    UNIX_EPOCH + WALL_CLOCK + BEGIN.get().map_or(Duration::ZERO, |begin| begin.elapsed())
}

/// The same as seconds since 1970.
pub fn epoch_seconds() -> f64 {
    wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The same, some milliseconds after the trial began.
pub fn epoch_seconds_at(millis: u64) -> f64 {
    (WALL_CLOCK + Duration::from_millis(millis)).as_secs_f64()
}

/// Runs a trial.
pub fn run(plan: &Plan, traced: bool) -> Outcome {
    run_with(plan, traced, trial)
}

/// Runs something else in the world of a plan.
pub fn run_with<F: Future<Output = ()>>(plan: &Plan, traced: bool, people: impl FnOnce() -> F) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let result = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            BEGIN.set(Some(Instant::now()));
            WORLD.set(Some(World::new(plan.clone(), traced)));
            fastrand::seed(plan.seed);
            people().await;
            with_world(|world| world.report.milliseconds += now());
        });
    }));
    drop(runtime);
    let mut world = WORLD.take().expect("a world");
    BEGIN.set(None);
    match result {
        Ok(()) if world.wrong.is_empty() && world.plan.sessions.len() < 1_000 => world.service.clear(),
        Ok(()) => Service::forget(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            world.wrong.push(format!("a panic: {}", text.unwrap_or_default()));
            Service::forget();
        }
    }
    world.report.trials += 1;
    world.report.throttled += world.service.throttled;
    Outcome {
        wrong: world.wrong,
        trace: world.trace.unwrap_or_default(),
        digest: world.digest.finish(),
        report: world.report,
    }
}

/// The people of a trial: press the button as planned, let everything come to rest, and press until all is done.
async fn trial() {
    let plan = with_world(|world| {
        world.settle_down();
        world.plan.clone()
    });
    let mut first = Sandbox::start(0).await;
    let mut second = None;
    for press in &plan.presses {
        sleep(Duration::from_millis(press.pause)).await;
        with_world(|world| world.before(press));
        if press.beside.is_some() && second.is_none() {
            second = Some(Sandbox::start(1).await);
        }
        fastrand::seed(plan.seed ^ press.number as u64);
        let begin = now();
        let others = join_all(plan.acts.iter().enumerate().filter_map(|(place, act)| match act.when {
            When::After(millis) if act.call / 2 == press.number => Some(async move {
                sleep(Duration::from_millis(millis)).await;
                with_world(|world| world.act(place));
            }),
            _ => None,
        }));
        let beside = async {
            let Some(beside) = press.beside else { return };
            sleep(Duration::from_millis(beside.after)).await;
            let by = beside.by.map_or(Target::Caller, Target::Session);
            let sandbox = second.as_mut().expect("a second sandbox");
            one_call(sandbox, 2 * press.number + 1, by, press).await;
        };
        tokio::join!(one_call(&mut first, 2 * press.number, Target::Caller, press), beside, others);
        assert!(now() >= begin);
    }
    rest().await;
    finish(&mut first, &plan).await;
    with_world(check::the_end);
}

/// Waits until DynamoDB has carried out all it has ever received, and the index shows it.
async fn rest() {
    sleep(Duration::from_millis(CALM)).await;
    while with_world(|world| world.under_way > 0) {
        sleep(Duration::from_secs(1)).await;
    }
    with_world(|world| world.connections.close_idle());
}

/// Presses without faults until there is nothing left.
async fn finish(sandbox: &mut Sandbox, plan: &Plan) {
    for number in 0..LAST_CALLS {
        with_world(World::sign_in_if_necessary);
        let press = Press {
            number: plan.presses.last().map_or(0, |press| press.number) + 1 + number,
            pause: 0,
            meanwhile: None,
            timeout: 29_000,
            gateway: 0,
            credential: 0,
            beside: None,
        };
        let call = 2 * press.number;
        one_call(sandbox, call, Target::Caller, &press).await;
        let (status, count) = with_world(|world| check::claim(&world.calls[&call]));
        if status == 200 && count == 0 {
            return;
        }
        rest().await;
    }
    with_world(|world| world.wrong.push("calls without faults do not come to an end".to_owned()));
}

/// One press of the button, checked when it has been answered.
pub async fn one_call(sandbox: &mut Sandbox, number: usize, by: Target, press: &Press) {
    let Some((token, lambda_id, gateway_id)) = with_world(|world| world.begin_call(number, by, press)) else { return };
    let request = delete().request_id(&gateway_id).through(Gateway::ALL[usize::from(press.gateway) % 4]);
    let request = match press.credential % 3 {
        0 => request.token(&token),
        1 => request.cookie(&token),
        _ => request.bearer(&token),
    };
    let answer = sandbox.invoke(number, &request.into_event(), &lambda_id, Duration::from_millis(press.timeout)).await;
    with_world(|world| {
        world.end_call(number, Answer::from_gateway(&answer));
        check::after_call(world, number);
    });
}

/// Runs something as part of a call, so that its requests are known to be the call's.
pub async fn as_call<T>(number: usize, future: impl Future<Output = T>) -> T {
    CALL.scope(number, future).await
}

impl World {
    fn new(plan: Plan, traced: bool) -> Self {
        let acts = plan.acts.len();
        Self {
            service: Service::new(plan.seed, plan.service),
            connections: Connections::default(),
            calls: BTreeMap::new(),
            under_way: 0,
            requests: BTreeMap::new(),
            next_request: 0,
            hashes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            done_acts: vec![false; acts],
            digest: DefaultHasher::new(),
            trace: traced.then(Vec::new),
            report: Report::default(),
            wrong: Vec::new(),
            plan,
        }
    }

    /// Writes a line into the trace.
    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9} ms  {}", now(), line()));
        }
    }

    pub fn settle_down(&mut self) {
        let caller = self.session("caller", "caller");
        self.hashes.insert(Target::Caller, token_hash(&caller));
        let mut items = vec![caller];
        for planned in self.plan.sessions.clone() {
            let name = format!("s{}", planned.number);
            let mut item = self.session(&name, &name);
            match planned.kind {
                Kind::Active => {}
                Kind::WithForeignAttributes => {
                    item.insert("device".to_owned(), s("a phone"));
                    item.insert("logins".to_owned(), n(3));
                    // Left by an earlier life of the session.
                    item.insert("revocation_id".to_owned(), s("lambda-0"));
                }
                Kind::Expired => drop(item.insert("expires_at".to_owned(), n(WALL_CLOCK.as_secs() - 10))),
                Kind::Suspended => drop(item.insert("status".to_owned(), s("suspended"))),
                Kind::WithoutStatus => drop(item.remove("status")),
                Kind::Revoked => drop(item.insert("status".to_owned(), s("revoked"))),
            }
            self.hashes.insert(Target::Session(planned.number), token_hash(&item));
            items.push(item);
        }
        for name in ["b0", "b1"] {
            let mut item = self.session(name, name);
            item.insert("user_id".to_owned(), s(BOB));
            items.push(item);
        }
        self.service.fill(items);
        self.report.sessions += self.plan.sessions.len() as u64;
    }

    /// An active session of Alice's.
    fn session(&mut self, id: &str, token: &str) -> Item {
        let token = format!("token-{token}");
        let hash = Token::parse(token.as_bytes()).expect("a token").hash().as_str().to_owned();
        self.tokens.insert(hash.clone(), token);
        let seconds = epoch_seconds() as u64;
        [
            ("token_hash", s(hash)),
            ("session_id", s(id)),
            ("user_id", s(ALICE)),
            ("status", s("active")),
            ("created_at", n(seconds)),
            ("expires_at", n(seconds + 86_400)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Before a press: what has become of connections, and who still is signed in.
    pub fn before(&mut self, press: &Press) {
        let mut rng = Rng::with_seed(self.plan.seed ^ 0xdead ^ press.number as u64);
        if let Some((death, probability)) = press.meanwhile {
            self.connections.kill(death, probability, &mut rng);
            self.note(|| format!("network: idle connections are {death:?}, each with probability {probability}"));
        }
        if rng.u8(0..4) > 0 {
            self.sign_in_if_necessary();
        }
    }

    fn sign_in_if_necessary(&mut self) {
        let seconds = epoch_seconds();
        let caller = self.service.history.item(&self.hashes[&Target::Caller]);
        if !caller.is_some_and(|item| check::is_active(item, seconds) && text(item, "user_id") == Some(ALICE)) {
            let name = format!("caller-{}", self.service.moment());
            let item = self.session(&name, &name);
            self.note(|| format!("application: the user signs in again, {name}"));
            self.hashes.insert(Target::Caller, token_hash(&item));
            self.service.put(&item, now());
        }
    }

    fn begin_call(&mut self, number: usize, by: Target, press: &Press) -> Option<(String, String, String)> {
        let hash = self.hashes.get(&by)?.clone();
        let token = self.tokens.get(&hash)?.clone();
        let lambda_id = format!("lambda-{}", number + 1);
        // Clients can choose the gateway's id, and the same again and again.
        let chosen_by_client = self.plan.seed.is_multiple_of(4);
        let gateway_id = if chosen_by_client { "chosen".to_owned() } else { format!("gateway-{number}") };
        // Load balancers give no id, so it is Lambda's.
        let balanced = Gateway::ALL[usize::from(press.gateway) % 4];
        let gateway_id = match balanced {
            Gateway::Alb | Gateway::AlbMultiValue => lambda_id.clone(),
            Gateway::Rest | Gateway::Http => gateway_id,
        };
        let moment = self.service.moment();
        self.note(|| format!("call {number}: begins, with {token}, {} ms left", press.timeout));
        let call = Call::new(number, hash, [lambda_id, gateway_id], press.timeout, now(), moment);
        let ids = (token, call.lambda_id.clone(), call.gateway_id.clone());
        self.calls.insert(number, call);
        Some(ids)
    }

    fn end_call(&mut self, number: usize, answer: Answer) {
        self.note(|| format!("call {number}: answered {} {}", answer.status, answer.body));
        (number, answer.status, answer.body.to_string(), now()).hash(&mut self.digest);
        let moment = self.service.moment();
        let call = self.calls.get_mut(&number).expect("a call");
        call.end = now();
        call.end_moment = moment;
        self.report.answered(answer.status, call.disturbed > 0);
        call.answer = Some(answer);
    }

    /// Takes a request from the function.
    pub fn send(&mut self, call: Option<usize>, pool: usize, operation: String, body: Value) -> Sent {
        let number = self.next_request;
        self.next_request += 1;
        let sent = self.service.moment();
        let step = self.step(call, &operation, &body, sent);
        let nth = call.and_then(|call| self.calls.get_mut(&call)).map_or(0, |call| {
            let nth = call.requests.entry(step).or_default();
            *nth += 1;
            *nth - 1
        });
        if let Some(call) = call.and_then(|call| self.calls.get(&call))
            && call.answer.is_some()
        {
            self.wrong.push(format!("call {}: a request after the answer", call.number));
        }
        let named = call.or((step == Step::Connect).then_some(0));
        let fault = named.and_then(|call| self.plan.fault(call, step, nth)).filter(|fault| {
            // What cannot meet this operation does not.
            !matches!(fault, Fault::Unprocessed(_)) || operation == "BatchGetItem"
        });
        let connection = self.connections.take(pool);
        let mut rng = Rng::with_seed(
            self.plan.seed
                ^ ((call.unwrap_or(99) as u64) << 48 | (step as u64) << 32 | u64::from(nth))
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15),
        );
        let exact = self.plan.service.exact_latency;
        if !role::allows(&operation, &body) {
            self.wrong.push(format!("the role of template.yaml forbids {operation} {body}"));
        }
        let (out, back) = latency(exact, &mut rng);
        let connect = if connection == Connection::Opening && exact.is_none() { 2 * rng.u64(1..4) } else { 0 };
        let out = out
            + match fault {
                Some(Fault::SlowRequest(late) | Fault::Late(late)) => late,
                _ => 0,
            };
        (now(), &operation, body.to_string(), connection == Connection::Opening).hash(&mut self.digest);
        let who = call.map_or_else(|| "start".to_owned(), |call| format!("call {call}"));
        let connection_dead = matches!(connection, Connection::Dead(_));
        if let Some(fault) = fault {
            self.report.met(step, fault);
        }
        if let Some(call) = call.and_then(|call| self.calls.get_mut(&call)) {
            let fault = fault.filter(|fault| !fault.is_of_the_index());
            call.disturbed += u32::from(fault.is_some() || connection_dead);
            call.permanent += u32::from(fault.is_some_and(Fault::is_permanent));
        }
        self.note(|| {
            let fault = fault.map_or_else(String::new, |fault| format!("  [{fault:?}]"));
            format!("{who}: #{number} {step:?} {} on {connection:?}{fault}", summary(&operation, &body))
        });
        let refused = fault == Some(Fault::Refused);
        self.requests.insert(number, Exchange { call, operation, body, step, nth, fault, sent, moment: 0 });
        Sent { number, pool, connection, connect, out, back, refused }
    }

    /// What a request is for.
    fn step(&mut self, call: Option<usize>, operation: &str, body: &Value, moment: Moment) -> Step {
        let Some(call) = call.and_then(|call| self.calls.get_mut(&call)) else { return Step::Connect };
        match operation {
            "GetItem" if body["Key"]["token_hash"]["S"] == call.caller.as_str() => Step::Caller,
            "Query" if !body["ExclusiveStartKey"].is_null() => Step::FurtherPage,
            "Query" if call.looks.is_empty() => Step::FirstPage,
            "Query" => Step::LaterLook,
            "BatchExecuteStatement" => {
                let statements = body["Statements"].as_array();
                let named = statements.into_iter().flatten().filter_map(|statement| self.service.named(statement));
                let mut again = false;
                for hash in named {
                    if call.unreported.contains(&hash) {
                        self.wrong.push(format!("call {}: a write without a report is sent again unread", call.number));
                    }
                    again |= call.written.contains_key(&hash);
                    call.written.entry(hash).or_insert(moment);
                }
                if again { Step::WriteAgain } else { Step::Write }
            }
            _ => Step::Sessions,
        }
    }

    /// DynamoDB's end of a request.
    pub fn carry_out(&mut self, number: usize) -> Option<(Response, u64)> {
        let mut exchange = self.requests.remove(&number).expect("a request");
        self.act_at(
            exchange.call,
            |when| matches!(when, When::Before(s, nth) if (s, nth) == (exchange.step, exchange.nth)),
        );
        let moment = self.service.moment();
        let by = exchange.call.map_or(Actor::Nobody, Actor::Call);
        let request = Request { operation: &exchange.operation, body: &exchange.body, by, now: now() };
        let throttled = self.service.throttled;
        let call = exchange.call.and_then(|call| self.calls.get_mut(&call));
        let outcome = faults::carry_out(&mut self.service, &request, exchange.fault, call);
        if self.service.throttled > throttled
            && let Some(call) = exchange.call.and_then(|call| self.calls.get_mut(&call))
        {
            call.disturbed += 1;
        }
        exchange.moment = moment;
        self.note(|| match &outcome {
            Some((response, late)) => format!("  dynamodb: #{number} {} late {late}", describe(response)),
            None => format!("  dynamodb: #{number} carried out as the fault says, no answer"),
        });
        let (call, step, nth) = (exchange.call, exchange.step, exchange.nth);
        self.requests.insert(number, exchange);
        self.act_at(call, |when| matches!(when, When::Behind(s, n) if (s, n) == (step, nth)));
        outcome
    }

    /// The function's end of an answer.
    pub fn arrived(&mut self, number: usize, response: &Response) {
        let Some(exchange) = self.requests.remove(&number) else { return };
        self.note(|| format!("  arrives: #{number} {}", describe(response)));
        (number, now(), describe(response)).hash(&mut self.digest);
        if let Response::Answer { body, .. } = response {
            body.to_string().hash(&mut self.digest);
        }
        let moment = self.service.moment();
        let unreported = sessions_with(&self.service, &exchange, Some(response), is_unreported);
        let refused = sessions_with(&self.service, &exchange, Some(response), is_refused);
        let Some(call) = exchange.call.and_then(|call| self.calls.get_mut(&call)) else { return };
        call.unreported.extend(unreported);
        call.refused.extend(refused);
        let Response::Answer { status: 200, body } = response else {
            if exchange.step == Step::Sessions {
                call.failed_reads.push(moment);
            }
            return;
        };
        let left_out = body["UnprocessedKeys"].as_object().is_some_and(|tables| !tables.is_empty());
        if exchange.step == Step::Sessions && left_out {
            call.failed_reads.push(moment);
        }
        if exchange.step.is_page() {
            call.pages += 1;
            if exchange.step != Step::FurtherPage {
                call.look = Look { begin: exchange.sent, shows_new: false };
            }
        }
        for news in news(&self.service, &exchange, body) {
            match news {
                News::Shown(hash) => {
                    call.look.shows_new |= hash != call.caller && !call.shown.contains_key(&hash);
                    call.shown.entry(hash).or_insert(moment);
                }
                News::Changed(hash) => drop(call.changed.insert(hash)),
                News::Read(hash) => {
                    call.unreported.remove(&hash);
                    call.reads.entry(hash).or_default().push(exchange.moment);
                }
            }
        }
        if exchange.step.is_page() && body["LastEvaluatedKey"].is_null() {
            call.looks.push(call.look);
        }
    }

    /// The function does not wait for an answer any longer.
    pub fn given_up(&mut self, number: usize) {
        self.note(|| format!("  given up: #{number}"));
        (number, now()).hash(&mut self.digest);
        let moment = self.service.moment();
        let Some(exchange) = self.requests.get(&number) else { return };
        let unreported = sessions_with(&self.service, exchange, None, is_unreported);
        let Some(call) = exchange.call.and_then(|call| self.calls.get_mut(&call)) else { return };
        call.unreported.extend(unreported);
        if exchange.step == Step::Sessions {
            call.failed_reads.push(moment);
        }
    }

    fn act_at(&mut self, call: Option<usize>, now: impl Fn(When) -> bool) {
        for place in 0..self.plan.acts.len() {
            let act = self.plan.acts[place];
            if Some(act.call) == call && now(act.when) {
                self.act(place);
            }
        }
    }

    /// Others do something, once.
    fn act(&mut self, place: usize) {
        if std::mem::replace(&mut self.done_acts[place], true) {
            return;
        }
        let Act { deed, on, .. } = self.plan.acts[place];
        let Some(hash) = self.hashes.get(&on).cloned() else { return };
        let item = self.service.history.item(&hash).cloned();
        let seconds = epoch_seconds() as u64;
        let id = item.as_ref().and_then(|item| text(item, "session_id")).unwrap_or("a deleted one").to_owned();
        self.note(|| format!("application: {deed:?}, session {id}"));
        self.report.acts += 1;
        let changed = |name: &str, value: Value| {
            item.clone().map(|mut item| {
                item.insert(name.to_owned(), value);
                item
            })
        };
        let written = match deed {
            Deed::Create => {
                let name = format!("new-{place}");
                Some(self.session(&name, &name))
            }
            Deed::Extend => changed("expires_at", n(seconds + 172_800)),
            Deed::Suspend => changed("status", s("suspended")),
            Deed::Revoke => changed("status", s("revoked")),
            Deed::MoveAway => changed("user_id", s(BOB)),
            Deed::Rotate => item.filter(|item| text(item, "status") == Some("active")).map(|item| {
                self.service.remove(&hash, now());
                let fresh = self.session(&id, &format!("{id}-{place}"));
                let key = fresh["token_hash"].clone();
                self.hashes.insert(on, token_hash(&fresh));
                let mut rotated = item;
                rotated.insert("token_hash".to_owned(), key);
                rotated
            }),
            Deed::Reactivate => {
                let token = self.tokens[&hash].trim_start_matches("token-").to_owned();
                Some(self.session(&format!("again-{place}"), &token))
            }
            Deed::MoveHere => {
                let bobs = self.service.history.items().find(|(_, item)| text(item, "user_id") == Some(BOB));
                bobs.map(|(_, item)| {
                    let mut item = item.clone();
                    item.insert("user_id".to_owned(), s(ALICE));
                    item
                })
            }
            Deed::Delete => {
                if item.is_some() {
                    self.service.remove(&hash, now());
                }
                None
            }
            Deed::Sweep => {
                self.service.sweep(now());
                None
            }
        };
        if let Some(item) = written {
            self.service.put(&item, now());
        }
    }
}

/// The sessions of a batch for whose response this holds: HTTP status, and DynamoDB's code of the statement or of all; no status
/// if there is no response of DynamoDB's.
fn sessions_with(
    service: &Service,
    exchange: &Exchange,
    response: Option<&Response>,
    holds: fn(Option<u16>, Option<&str>) -> bool,
) -> Vec<String> {
    let statements = exchange.body["Statements"].as_array().cloned().unwrap_or_default();
    let holds = |place: usize| match response {
        Some(Response::Answer { status: 200, body }) => match body["Responses"].get(place) {
            Some(response) => holds(Some(200), response["Error"]["Code"].as_str()),
            None => holds(None, None),
        },
        Some(Response::Answer { status, body }) => {
            holds(Some(*status), body["__type"].as_str().and_then(|kind| kind.rsplit('#').next()))
        }
        Some(Response::Garbled | Response::Closed) | None => holds(None, None),
    };
    let found = statements.iter().enumerate().filter(|(place, _)| holds(*place));
    found.filter_map(|(_, statement)| service.named(statement)).collect()
}

/// Whether it is unknown what a write has done.
fn is_unreported(status: Option<u16>, code: Option<&str>) -> bool {
    status.is_none_or(|status| status >= 500 || code == Some("InternalServerError"))
}

/// Whether a write cannot succeed, however often it is sent.
fn is_refused(_: Option<u16>, code: Option<&str>) -> bool {
    code.is_some_and(|code| faults::PERMANENT.contains(&code))
}

fn token_hash(item: &Item) -> String {
    text(item, "token_hash").expect("a key").to_owned()
}

/// What an answer lets its reader know.
fn news(service: &Service, exchange: &Exchange, answer: &Value) -> Vec<News> {
    let (request, hash) = (&exchange.body, |key: &Value| Some(key["token_hash"]["S"].as_str()?.to_owned()));
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    match exchange.operation.as_str() {
        "Query" => list(&answer["Items"]).iter().filter_map(|item| hash(item).map(News::Shown)).collect(),
        "BatchExecuteStatement" => {
            let statements = list(&request["Statements"]).into_iter().zip(list(&answer["Responses"]));
            let changed = statements.filter(|(_, response)| response.get("Error").is_none());
            changed.filter_map(|(statement, _)| service.named(&statement).map(News::Changed)).collect()
        }
        "GetItem" if request["ConsistentRead"] == true => hash(&request["Key"]).map(News::Read).into_iter().collect(),
        "BatchGetItem" if request["RequestItems"][TABLE]["ConsistentRead"] == true => {
            let unprocessed = list(&answer["UnprocessedKeys"][TABLE]["Keys"]);
            let keys = list(&request["RequestItems"][TABLE]["Keys"]);
            keys.iter().filter(|key| !unprocessed.contains(key)).filter_map(|key| hash(key).map(News::Read)).collect()
        }
        _ => Vec::new(),
    }
}

/// A request in one line.
fn summary(operation: &str, body: &Value) -> String {
    match operation {
        "BatchExecuteStatement" => format!("{} statements", body["Statements"].as_array().map_or(0, Vec::len)),
        "BatchGetItem" => format!("{} keys", body["RequestItems"][TABLE]["Keys"].as_array().map_or(0, Vec::len)),
        "GetItem" => format!("GetItem {:.8}", body["Key"]["token_hash"]["S"].as_str().unwrap_or_default()),
        _ => operation.to_owned(),
    }
}

/// A response in one line.
fn describe(response: &Response) -> String {
    match response {
        Response::Answer { status, body } => {
            let entries = body["Items"].as_array().map(|items| format!("{} entries", items.len()));
            let responses = body["Responses"].as_array().map(|responses| {
                let errors = responses.iter().filter_map(|response| response["Error"]["Code"].as_str());
                format!("{} responses, errors {:?}", responses.len(), errors.collect::<Vec<_>>())
            });
            let item = body["Item"]["status"]["S"].as_str().map(str::to_owned);
            let kind = body["__type"].as_str().map(str::to_owned);
            format!("{status} {}", entries.or(responses).or(item).or(kind).unwrap_or_default())
        }
        Response::Garbled => "garbled".to_owned(),
        Response::Closed => "connection closed".to_owned(),
    }
}
