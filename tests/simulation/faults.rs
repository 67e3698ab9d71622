//! What a fault does to a request at DynamoDB's end: whether it is carried out, and what is answered.

use fastrand::Rng;
use serde_json::{Value, json};

use crate::answers::CELLS;
use crate::dynamodb::{Service, TABLE, statement_error};
use crate::fault::Fault;
use crate::history::{Actor, Call, Item, text};
use crate::network::Response;

/// Codes of requests that were throttled.
const THROTTLED: [(u16, &str); 4] = [
    (400, "ThrottlingException"),
    (400, "ProvisionedThroughputExceededException"),
    (400, "RequestLimitExceeded"),
    (429, "TooManyRequests"),
];
/// Codes of requests whose signature is not accepted, for now or for good.
const SIGNATURE: [&str; 3] = ["InvalidSignatureException", "UnrecognizedClientException", "ExpiredTokenException"];
/// Codes of statements that were not carried out, and can be sent again.
const TRANSIENT: [&str; 4] =
    ["ThrottlingError", "ProvisionedThroughputExceeded", "RequestLimitExceeded", "TransactionConflict"];
/// Codes of statements that cannot, and of requests.
pub const PERMANENT: [&str; 5] = [
    "ValidationError",
    "AccessDenied",
    "ItemCollectionSizeLimitExceeded",
    "AccessDeniedException",
    "ValidationException",
];
/// Codes of statements that may have been carried out. The last two are in no documentation, and the last is none at all.
const UNCLEAR: [&str; 3] = ["InternalServerError", "SomethingNew", ""];

/// Whether a statement with this code may have been carried out.
pub fn is_unclear(code: &str) -> bool {
    code != "ConditionalCheckFailed" && !TRANSIENT.contains(&code) && !PERMANENT.contains(&code)
}

/// A request at DynamoDB's end.
pub struct Request<'a> {
    pub operation: &'a str,
    pub body: &'a Value,
    pub by: Actor,
    pub now: u64,
}

/// Carries a request out as the fault allows: what is answered, and how many milliseconds late; `None` for no answer.
pub fn carry_out(
    service: &mut Service,
    request: &Request,
    fault: Option<Fault>,
    call: Option<&mut Call>,
) -> Option<(Response, u64)> {
    let mut whole = || answer(service, request, request.body);
    let error = |status: u16, code: &str| {
        let kind = format!("com.amazonaws.dynamodb.v20120810#{code}");
        Some((Response::answer(status, json!({"__type": kind, "message": "canary-message"})), 0))
    };
    let Some(fault) = fault else { return Some((whole(), 0)) };
    match fault {
        Fault::Throttled(which) => {
            let (status, code) = THROTTLED[usize::from(which) % THROTTLED.len()];
            error(status, code)
        }
        Fault::InternalError => error(500, "InternalServerError"),
        Fault::Unavailable => error(503, "ServiceUnavailable"),
        Fault::AccessDenied => error(400, "AccessDeniedException"),
        Fault::Invalid => error(400, "ValidationException"),
        Fault::UnknownCode => error(400, "SomethingNewException"),
        Fault::Signature(which) => error(400, SIGNATURE[usize::from(which) % SIGNATURE.len()]),
        Fault::KeyExpired => error(400, SIGNATURE[2]),
        Fault::Garbled => Some((Response::Garbled, 0)),
        Fault::Refused | Fault::Reset => Some((Response::Closed, 0)),
        Fault::Hang => None,
        // The statements that are left.
        Fault::SlowRequest(_) | Fault::Staggered(_) => Some((whole(), 0)),
        Fault::SlowAnswer(late) => Some((whole(), late)),
        Fault::LostAnswer => {
            whole();
            Some((Response::Closed, 0))
        }
        Fault::HungAnswer | Fault::Late(_) | Fault::ClosedThenLate(_) => {
            whole();
            None
        }
        Fault::GarbledAnswer => {
            whole();
            Some((Response::Garbled, 0))
        }
        Fault::ErrorAfter => {
            whole();
            error(500, "InternalServerError")
        }
        Fault::Statements(seed) => Some((fail_statements(service, request, seed, call), 0)),
        Fault::StatementsAfter(seed) => {
            let mut rng = Rng::with_seed(seed);
            Some((edited(whole(), |body| fail_afterwards(body, &mut rng)), 0))
        }
        Fault::Curtailed(part) => {
            let mut body = request.body.clone();
            let statements = body["Statements"].as_array_mut().expect("statements");
            statements.truncate(1.max((statements.len() as f64 * part) as usize));
            Some((answer(service, request, &body), 0))
        }
        Fault::Damaged(place) => {
            let response = whole();
            Some((damaged(service, response, place), 0))
        }
        Fault::Unprocessed(seed) => Some((leave_unprocessed(service, request, seed), 0)),
        Fault::Twice(_) | Fault::Again(_) | Fault::Missed(_) | Fault::Stale(_) => {
            let response = whole();
            let stale = stale(service, call.as_deref());
            Some((edited(response, |body| change_page(body, fault, request.body, &stale, call)), 0))
        }
    }
}

fn answer(service: &mut Service, request: &Request, body: &Value) -> Response {
    let reply = service.carry_out(request.operation, body, request.by, request.now);
    Response::answer(reply.status, reply.body)
}

fn edited(response: Response, edit: impl FnOnce(&mut Value)) -> Response {
    match response {
        Response::Answer { status: 200, mut body, .. } => {
            edit(&mut body);
            Response::answer(200, body)
        }
        other => other,
    }
}

/// An answer with damage, if it has what is to be damaged.
fn damaged(service: &mut Service, response: Response, place: usize) -> Response {
    let Response::Answer { status: 200, body, .. } = &response else { return response };
    let Some((body, text)) = CELLS[place].applied(body) else { return response };
    service.damaged.push(place);
    Response::Answer { status: 200, body, text: Some(text) }
}

/// Fails some statements, and carries the others out.
fn fail_statements(service: &mut Service, request: &Request, seed: u64, call: Option<&mut Call>) -> Response {
    let mut rng = Rng::with_seed(seed);
    let statements = request.body["Statements"].as_array().expect("statements");
    let rate = rng.f64();
    let (permanent, codes) = match rng.u8(0..8) {
        0 => (true, &PERMANENT[..3]),
        1..3 => (false, &UNCLEAR[..]),
        _ => (false, &TRANSIENT[..]),
    };
    let failed: Vec<_> =
        statements.iter().map(|_| (rng.f64() < rate).then(|| codes[rng.usize(0..codes.len())])).collect();
    if permanent
        && failed.iter().any(Option::is_some)
        && let Some(call) = call
    {
        call.permanent += 1;
    }
    let passed = statements.iter().zip(&failed).filter(|(_, failed)| failed.is_none());
    let passed: Vec<_> = passed.map(|(statement, _)| statement.clone()).collect();
    let mut responses = Vec::new();
    if !passed.is_empty() {
        match answer(service, request, &json!({"Statements": passed})) {
            Response::Answer { status: 200, body, .. } => {
                responses.clone_from(body["Responses"].as_array().expect("responses"));
            }
            other => return other,
        }
    }
    for (place, code) in failed.iter().enumerate() {
        if let Some(code) = code {
            responses.insert(place, statement_error(code));
        }
    }
    Response::answer(200, json!({"Responses": responses}))
}

/// Replaces some answers of statements that were carried out.
fn fail_afterwards(body: &mut Value, rng: &mut Rng) {
    let (rate, code) = (rng.f64(), UNCLEAR[rng.usize(0..UNCLEAR.len())]);
    for response in body["Responses"].as_array_mut().into_iter().flatten() {
        if response.get("Error").is_none() && rng.f64() < rate {
            *response = statement_error(code);
        }
    }
}

/// Reads only some of the keys, and says so.
fn leave_unprocessed(service: &mut Service, request: &Request, seed: u64) -> Response {
    let mut rng = Rng::with_seed(seed);
    let rate = rng.f64();
    let mut body = request.body.clone();
    let Some(keys) = body["RequestItems"][TABLE]["Keys"].as_array_mut() else {
        return answer(service, request, request.body);
    };
    let (left, read): (Vec<_>, Vec<_>) = keys.drain(..).partition(|_| rng.f64() < rate);
    *keys = read;
    let mut unprocessed = body["RequestItems"].clone();
    unprocessed[TABLE]["Keys"] = json!(left);
    let mut response = if body["RequestItems"][TABLE]["Keys"] == json!([]) {
        Response::answer(200, json!({"Responses": {TABLE: []}, "UnprocessedKeys": {}}))
    } else {
        answer(service, request, &body)
    };
    if let Response::Answer { status: 200, body, .. } = &mut response
        && !left.is_empty()
    {
        body["UnprocessedKeys"] = unprocessed;
    }
    response
}

/// Sessions that ever belonged to the user of the call.
fn stale(service: &Service, call: Option<&Call>) -> Vec<String> {
    let Some(user) = call.and_then(|call| text(service.history.first(&call.caller)?, "user_id")) else {
        return Vec::new();
    };
    let was_of = |item: Option<&Item>| item.is_some_and(|item| text(item, "user_id") == Some(user));
    let ever = |hash: &&String| service.history.versions(hash).iter().any(|change| was_of(change.item.as_ref()));
    service.history.hashes().filter(ever).cloned().collect()
}

/// Changes what a page of the index shows.
fn change_page(body: &mut Value, fault: Fault, request: &Value, stale: &[String], call: Option<&mut Call>) {
    let entry = |hash: &String| {
        let mut entry = json!({"token_hash": {"S": hash}});
        if request["ProjectionExpression"].as_str().is_some_and(|projection| projection.contains("status")) {
            entry["status"] = json!({"S": "active"});
        }
        entry
    };
    let Some(items) = body["Items"].as_array_mut() else { return };
    match fault {
        Fault::Twice(seed) => {
            let mut rng = Rng::with_seed(seed);
            let again: Vec<_> = items.iter().filter(|_| rng.bool()).cloned().collect();
            items.extend(again);
        }
        Fault::Again(seed) => {
            let mut rng = Rng::with_seed(seed);
            let before = call.into_iter().flat_map(|call| call.shown.keys());
            items.extend(before.filter(|_| rng.bool()).map(entry));
        }
        Fault::Missed(seed) => {
            let mut rng = Rng::with_seed(seed);
            let (shown, hidden): (Vec<_>, Vec<_>) = items.drain(..).partition(|_| rng.bool());
            *items = shown;
            let hidden = hidden.iter().filter_map(|item| item["token_hash"]["S"].as_str().map(str::to_owned));
            if let Some(call) = call {
                call.hidden.extend(hidden);
            }
        }
        Fault::Stale(seed) => {
            let mut rng = Rng::with_seed(seed);
            let there = items.clone();
            let shown = |hash: &&String| !there.iter().any(|item| item["token_hash"]["S"] == hash.as_str());
            items.extend(stale.iter().filter(shown).filter(|_| rng.u8(0..3) == 0).map(entry));
        }
        _ => {}
    }
    let number = items.len();
    if body["Count"].is_number() {
        body["Count"] = json!(number);
    }
}
