//! Strangers who know a node's id, or have only seen its packets: what they get, and that peers get in beside them.
//!
//! * `siege`: a whole core that listens, whole cores that dial it, and attackers, on a network that takes its time.
//! * `attackers`: QUIC clients that begin handshakes and never finish them.
//! * `places`: who gets in while handshakes are under way.
//! * `silence`: packets that get no answer.
//! * `two_packets`: a first hello is too long for one, and each of the two may be lost.
#![expect(clippy::unwrap_used, reason = "tests")]

mod attackers;
#[path = "../common/mod.rs"]
mod common;
mod places;
mod siege;
mod silence;
mod two_packets;
