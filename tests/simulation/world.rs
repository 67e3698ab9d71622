//! One trial: the people in it, and all that they share. Everything runs on one thread under tokio's paused clock, so a seed decides
//! every event.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use disable_my_other_sessions::rules::limits::Limits;
use disable_my_other_sessions::session::Token;
use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::answer::Answer;
use crate::check;
use crate::dynamodb::Service;
use crate::events::{Gateway, delete};
use crate::exchange::Exchange;
use crate::function::Sandbox;
use crate::history::{Call, Item, Moment, n, s, text};
use crate::network::Connections;
use crate::people::beside_the_intruder;
use crate::plan::{Kind, Oddity, Plan, Press, Target, When};
use crate::report::{Other, Report};
use crate::story;

/// When a trial begins: on 2026-11-24.
const WALL_CLOCK: Duration = Duration::from_hours(498_750);
/// How long index and late writes may take until they are done, in milliseconds.
const CALM: u64 = 60_000;
/// The number of calls in which a user without faults must be done.
const LAST_CALLS: usize = 4;
/// The number of calls in which every session that is in no trouble of its own must be revoked.
const TROUBLED_CALLS: usize = 2;
/// The last presses of a trial begin with this number, so no planned fault meets them.
const LAST_PRESSES: usize = 1_000;
/// Stands for an odd part of an event until the event is text.
const PLACEHOLDER: &str = "odd-part";

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
    pub requests: BTreeMap<usize, Exchange>,
    pub next_request: usize,
    /// Access keys given out so far, and those that have expired.
    keys: usize,
    pub expired_keys: BTreeSet<String>,
    pub hashes: BTreeMap<Target, String>,
    pub tokens: BTreeMap<String, String>,
    pub done_acts: Vec<bool>,
    pub met_faults: Vec<bool>,
    pub digest: DefaultHasher,
    trace: Option<Vec<String>>,
    pub report: Report,
    pub wrong: Vec<String>,
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
    /// The plan without faults that have met nothing and acts that were not done.
    pub used: Plan,
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
    let mut used = world.plan;
    let (mut met, mut done) = (world.met_faults.iter(), world.done_acts.iter());
    used.faults.retain(|_| met.next() == Some(&true));
    used.acts.retain(|_| done.next() == Some(&true));
    Outcome {
        used,
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
        one_press(&plan, press, &mut first, second.as_mut()).await;
    }
    rest().await;
    finish(&mut first).await;
    with_world(check::the_end);
}

/// A press, and all that happens while it is answered.
pub async fn one_press(plan: &Plan, press: &Press, first: &mut Sandbox, second: Option<&mut Sandbox>) {
    let others = join_all(plan.acts.iter().enumerate().filter_map(|(place, act)| match act.when {
        When::After(millis) if act.call / 2 == press.number => Some(async move {
            sleep(Duration::from_millis(millis)).await;
            with_world(|world| world.act(place));
        }),
        _ => None,
    }));
    let beside = async {
        let (Some(beside), Some(sandbox)) = (press.beside, second) else { return };
        sleep(Duration::from_millis(beside.after)).await;
        let by = beside.by.map_or(Target::Caller, Target::Session);
        one_call(sandbox, 2 * press.number + 1, by, press).await;
    };
    let calls = async { tokio::join!(one_call(first, 2 * press.number, Target::Caller, press), beside, others) };
    beside_the_intruder(plan.intruder, calls).await;
}

/// Waits until DynamoDB has carried out all it has ever received, and the index shows it.
async fn rest() {
    sleep(Duration::from_millis(CALM)).await;
    while with_world(|world| world.under_way > 0) {
        sleep(Duration::from_secs(1)).await;
    }
    with_world(|world| world.connections.close_idle());
}

/// Presses without faults: until only sessions in trouble are left, and without trouble until there is nothing left.
async fn finish(sandbox: &mut Sandbox) {
    let mut numbers = LAST_PRESSES..;
    let mut press = async || {
        with_world(World::sign_in_if_necessary);
        let number = numbers.next().expect("a number");
        one_call(sandbox, 2 * number, Target::Caller, &Press::plain(number, 29_000)).await;
        rest().await;
        with_world(|world| check::claim(&world.calls[&(2 * number)]))
    };
    if with_world(|world| !world.service.troubles.is_empty()) {
        for _ in 0..TROUBLED_CALLS {
            press().await;
        }
        with_world(check::only_trouble_is_left);
        with_world(|world| world.service.troubles.clear());
    }
    for _ in 0..LAST_CALLS {
        if press().await == (200, 0) {
            return;
        }
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
    let event = bytes(request, press.oddity);
    let answer = sandbox.invoke(number, &event, &lambda_id, Duration::from_millis(press.timeout)).await;
    with_world(|world| match answer {
        Ok(answer) => {
            world.end_call(number, Answer::from_gateway(&answer));
            check::after_call(world, number);
        }
        Err(error) => {
            world.wrong.push(format!("call {number}: an event makes an error of the invocation: {error}"));
            world.calls.remove(&number);
        }
    });
}

/// The event of a request, with something odd in the parts that are not needed.
fn bytes(request: crate::events::Request, oddity: Oddity) -> Vec<u8> {
    let odd = match oddity {
        Oddity::None => return request.into_event().to_string().into_bytes(),
        Oddity::NotUtf8 => b"\xff\xc3".to_vec(),
        Oddity::HalfSurrogate => b"\\ud800".to_vec(),
        Oddity::Body(length) => vec![b'a'; length],
    };
    let mut event = request.header("User-Agent", PLACEHOLDER).into_event();
    event["body"] = json!(PLACEHOLDER);
    let text = event.to_string();
    text.split(PLACEHOLDER).map(str::as_bytes).collect::<Vec<_>>().join(&odd[..])
}

/// Runs something as part of a call, so that its requests are known to be the call's.
pub async fn as_call<T>(number: usize, future: impl Future<Output = T>) -> T {
    CALL.scope(number, future).await
}

impl World {
    fn new(plan: Plan, traced: bool) -> Self {
        let (acts, faults) = (plan.acts.len(), plan.faults.len());
        Self {
            service: Service::new(plan.seed, plan.service),
            connections: Connections::default(),
            calls: BTreeMap::new(),
            under_way: 0,
            requests: BTreeMap::new(),
            next_request: 0,
            keys: 0,
            expired_keys: BTreeSet::new(),
            hashes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            done_acts: vec![false; acts],
            met_faults: vec![false; faults],
            digest: DefaultHasher::new(),
            trace: traced.then(Vec::new),
            report: Report::default(),
            wrong: Vec::new(),
            plan,
        }
    }

    /// Writes a line into the trace.
    pub fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>9} ms  {}", now(), line(self));
            self.trace.iter_mut().for_each(|trace| trace.push(line.clone()));
        }
    }

    /// The name of a session.
    pub fn name<'a>(&'a self, hash: &'a str) -> &'a str {
        story::name(&self.service, hash)
    }

    /// Another access key.
    pub fn new_key(&mut self) -> String {
        self.keys += 1;
        format!("KEY{}", self.keys)
    }

    /// For how long the process of a call gets no CPU from now on.
    pub fn stalls(&mut self, call: usize) -> Option<Duration> {
        let call = self.calls.get_mut(&call)?;
        let millis = call.stall.take()?;
        call.stalled += millis;
        call.stalled_until = now() + millis;
        Some(Duration::from_millis(millis))
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
            let hash = token_hash(&item);
            self.service.troubles.extend(planned.trouble.map(|trouble| (hash.clone(), trouble)));
            self.hashes.insert(Target::Session(planned.number), hash);
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
    pub fn session(&mut self, id: &str, token: &str) -> Item {
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
            self.note(|_| format!("network: idle connections are {death:?}, each with probability {probability}"));
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
            self.note(|_| format!("application: the user signs in again, {name}"));
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
        self.report.tick("event", press.oddity);
        if self.plan.limits != Limits::DEPLOYED {
            self.report.tick("call", Other::HasSmallLimits);
        }
        self.note(|_| format!("call {number}: begins, with {token}, {} ms left", press.timeout));
        let call = Call {
            number,
            caller: hash,
            lambda_id: lambda_id.clone(),
            timeout: press.timeout,
            begin: now(),
            begin_moment: moment,
            end_moment: Moment::MAX,
            ..Call::default()
        };
        self.calls.insert(number, call);
        Some((token, lambda_id, gateway_id))
    }

    fn end_call(&mut self, number: usize, answer: Answer) {
        self.note(|_| format!("call {number}: answered {} {}", answer.status, answer.body));
        (number, answer.status, answer.body.to_string(), now()).hash(&mut self.digest);
        let moment = self.service.moment();
        let call = self.calls.get_mut(&number).expect("a call");
        call.end = now();
        call.end_moment = moment;
        self.report.answered(answer.status, call.disturbed > 0);
        call.answer = Some(answer);
    }
}

pub fn token_hash(item: &Item) -> String {
    text(item, "token_hash").expect("a key").to_owned()
}
