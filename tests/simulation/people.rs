//! What others do in a trial: the application, DynamoDB's TTL, and an intruder. All of it is the application's right, so no call may
//! answer what is not true because of it.

use std::time::Duration;

use futures_util::future::{Either, select};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::check::is_active;
use crate::history::{Item, n, s, text};
use crate::plan::{Act, Deed, Intruder, Target, When};
use crate::world::{ALICE, BOB, World, epoch_seconds, now, token_hash, with_world};

impl World {
    /// Does what is planned for this moment of a call.
    pub fn act_at(&mut self, call: Option<usize>, now: impl Fn(When) -> bool) {
        for place in 0..self.plan.acts.len() {
            let act = self.plan.acts[place];
            if Some(act.call) == call && now(act.when) {
                self.act(place);
            }
        }
    }

    /// Others do something, once.
    pub fn act(&mut self, place: usize) {
        if std::mem::replace(&mut self.done_acts[place], true) {
            return;
        }
        let Act { number, deed, on, call, .. } = self.plan.acts[place];
        let Some(hash) = self.hashes.get(&on).cloned() else { return };
        let item = self.service.history.item(&hash).cloned();
        self.note(|world| match deed {
            Deed::Stall(_) => format!("call {call}: {deed:?}"),
            _ => format!("application: {deed:?}, session {}", world.name(&hash)),
        });
        self.report.tick("deed", deed);
        let changed = |name: &str, value: Value| {
            item.clone().map(|mut item| {
                item.insert(name.to_owned(), value);
                item
            })
        };
        let written = match deed {
            Deed::Create => {
                let name = format!("new-{number}");
                Some(self.session(&name, &name))
            }
            Deed::Extend => changed("expires_at", n(epoch_seconds() as u64 + 172_800)),
            Deed::ExpireIn(millis) => {
                let at = ((epoch_seconds() * 1_000.0).round() + millis as f64) / 1_000.0;
                changed("expires_at", json!({"N": at.to_string()}))
            }
            Deed::Suspend => changed("status", s("suspended")),
            Deed::Revoke => changed("status", s("revoked")),
            Deed::MoveAway => changed("user_id", s(BOB)),
            Deed::Rotate => {
                self.rotate(on, &format!("r{number}"), true);
                None
            }
            Deed::Reactivate => {
                let token = self.tokens[&hash].trim_start_matches("token-").to_owned();
                Some(self.session(&format!("again-{number}"), &token))
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
            Deed::Stall(millis) => {
                if let Some(call) = self.calls.get_mut(&call) {
                    call.stall = Some(millis);
                }
                None
            }
        };
        if let Some(item) = written {
            self.service.put(&item, now());
        }
    }

    /// Rotates a session, if it is valid: the old one ends, and the new one is the same but for its token and ids.
    pub fn rotate(&mut self, on: Target, name: &str, deletes: bool) {
        let Some(old) = self.hashes.get(&on).cloned() else { return };
        let Some(item) = self.service.history.item(&old).filter(|item| is_active(item, epoch_seconds())).cloned()
        else {
            return;
        };
        let fresh = self.session(name, name);
        self.note(|world| format!("application: rotates {} to {name}", world.name(&old)));
        let mut new = item.clone();
        for attribute in ["token_hash", "session_id"] {
            new.insert(attribute.to_owned(), fresh[attribute].clone());
        }
        let ended: Option<Item> = (!deletes).then(|| {
            let mut ended = item;
            ended.insert("status".to_owned(), s("revoked"));
            ended
        });
        self.service.rotate(&old, ended, &new, now());
        self.hashes.insert(on, token_hash(&new));
    }

    /// The newest session of the intruder, if it is valid.
    pub fn intruders_session(&self) -> Option<&str> {
        let intruder = self.plan.intruder?;
        let hash = self.hashes.get(&Target::Session(intruder.session))?;
        let item = self.service.history.item(hash)?;
        (is_active(item, epoch_seconds()) && text(item, "user_id") == Some(ALICE)).then_some(hash)
    }
}

/// Lets the intruder of a plan rotate until something else is done.
pub async fn beside_the_intruder<T>(intruder: Option<Intruder>, something: impl Future<Output = T>) -> T {
    let Some(intruder) = intruder else { return something.await };
    let rotations = async {
        sleep(Duration::from_millis(intruder.phase)).await;
        loop {
            with_world(|world| {
                let name = format!("i{}", world.service.moment());
                world.rotate(Target::Session(intruder.session), &name, intruder.deletes);
                world.report.tick("intruder deletes", intruder.deletes);
            });
            sleep(Duration::from_millis(intruder.period)).await;
        }
    };
    match select(Box::pin(something), Box::pin(rotations)).await {
        Either::Left((done, _)) => done,
        Either::Right((never, _)) => never,
    }
}
