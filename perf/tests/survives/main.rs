//! What `ipop-switch` lives through, end to end: real TAPs, the real program, hosts out of network namespaces. Needs root.
//!
//! * `ends`: a switch is killed, is told to stop, stops its peer waiting.
//! * `refusals`: what it does not start with, and the message that says why.
//! * `dialling`: both ends at once, hosts that move, names, wrong ids.
//! * `wires`: loss, reordering, duplication, delay, a path that shrinks, partitions.
//! * `loops`: segments that are connected twice; an underlay that leads through the overlay.
//! * `devices`: TAPs and links that vanish or go down.
//! * `denied`: configured peers that the operator denies, and lets in again.
//! * `strangers`: packets from nobody.
//! * `secrets`: network secrets, and what the operator decides while the switch runs.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod denied;
mod devices;
mod dialling;
mod ends;
mod loops;
mod ports;
mod refusals;
mod seccomp;
mod secrets;
mod strangers;
mod support;
mod wires;
