//! Peers whose path control chooses: whole cores on a network of a direct way and a relay, both of which can be cut.
//!
//! * `ends`: connections that end with frames in them.
//! * `moves`: paths that change under traffic, sources, strangers.
//! * `packets`: STUN and TURN among QUIC.
//! * `signals`: messages between the control planes.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
mod ends;
mod moves;
mod net;
mod packets;
mod signals;
