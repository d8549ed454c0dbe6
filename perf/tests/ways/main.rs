//! Ways through NATs, end to end: the real program behind the lab's NATs, with a real Prosody and a real coturn. Each
//! test is one network in which all nodes meet all others at once. Needs root.
//!
//! * `matrix`: every kind of NAT against every other, and public hosts.
//! * `homes`: NATs in a row, hosts behind one NAT, the same private addresses at several places.
//! * `families`: IPv6 alone, and both families.
//! * `relays`: from a relay to a direct path; TURN servers that refuse, and none at all.
//! * `offers`: which of its addresses a host offers to its peers.
//! * `upheavals`: NATs that forget, NATs that get another address, hosts that move.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod families;
mod homes;
mod matrix;
mod offers;
mod relays;
mod upheavals;
