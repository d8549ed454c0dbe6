//! One node, and programs of another hand that speak QUIC with it as no honest one does: too early, too much, too long, with the wrong keys.
//!
//! * `scene`: the node, those that dial it, and the network between them.
//! * `admission`: who gets a tunnel, and that nothing passes before.
//! * `bounds`: what somebody who has a tunnel can make the node hold and do.
#![expect(clippy::unwrap_used, reason = "tests")]

mod admission;
mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod scene;
