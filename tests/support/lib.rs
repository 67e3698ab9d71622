//! What all kinds of tests are made of. It knows the contract, and nothing of `src/`.
//!
//! | question | module |
//! |---|---|
//! | What can I send, and what did the client get? | `events`, `answer` |
//! | What does the table hold? | `database`, `demo` |
//! | How do I run a process as Lambda does? | `runtime_api` |
//! | What does `template.yaml` say? | `yaml`, `role`, `gateway` |

pub mod answer;
pub mod database;
pub mod demo;
pub mod events;
pub mod gateway;
pub mod role;
pub mod runtime_api;
pub mod yaml;
