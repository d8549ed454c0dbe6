//! What a new user runs into on the way to a network, with the real program, Prosody and coturn: each time a message that
//! says what to do, the documented exit code, and no storm of attempts. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod account;
mod as_a_service;
mod check;
mod check_run;
#[path = "../common/mod.rs"]
mod common;
mod documents;
mod ejabberd;
mod guide;
mod names;
mod room;
mod server;
mod start;
mod world;
