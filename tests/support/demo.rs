//! A few users and their sessions, to try the function on. The tokens are those of `events/` and of the README.

use super::database::{Session, n, now, s};

/// Alice calls from her laptop. That signs out her phone, her tablet and a PC whose session expired an hour ago. Her session
/// in the café is revoked already.
pub const ALICE: &str = "MP2YWEMeM8MxjkGKpH4dqOQ4Q4DlSPaj";
/// Bob calls from his browser. That signs out his phone.
pub const BOB: &str = "ory_st_bobs-browser-Zk3pX8vQ2nW6";
/// Carol's only session has expired.
pub const CAROL: &str = "ory_st_carols-old-browser-7Hd2Lm";

/// All their sessions.
pub fn sessions() -> Vec<Session> {
    let hour_ago = now() - 3600;
    vec![
        Session::with_token("alice", "alice-laptop", ALICE),
        Session::with_token("alice", "alice-phone", "ory_st_alices-phone-Qw9eRt5yUi1o"),
        Session::with_token("alice", "alice-tablet", "ory_st_alices-tablet-Pa4sDf8gHj2k"),
        Session::with_token("alice", "alice-old-pc", "ory_st_alices-old-pc-Lz6xCv0bNm3q")
            .with("expires_at", n(hour_ago)),
        Session::with_token("alice", "alice-cafe", "ory_st_alices-cafe-We5rTy9uIo1p")
            .with("status", s("revoked"))
            .with("revoked_at", n(hour_ago))
            .with("revoked_by", s("alice-laptop"))
            .with("revocation_id", s("an-earlier-request")),
        Session::with_token("bob", "bob-browser", BOB),
        Session::with_token("bob", "bob-phone", "ory_st_bobs-phone-As7dFg1hJk5l"),
        Session::with_token("carol", "carol-old-browser", CAROL).with("expires_at", n(hour_ago)),
    ]
}
