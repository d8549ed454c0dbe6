//! Who the peers are and how to reach them.
//!
//! [`identity`] is this node's key, [`peer`] how a peer is written, [`network`] the secret of a network and the invitation to it, [`trust`]
//! who may connect, [`xmpp`] where nodes learn of one another, [`ice`] how they reach one another, [`paths`] what becomes of that for each
//! peer, [`questions`] what nodes ask each other inside their tunnels, [`rendezvous`] how the nodes of a room get there, [`sessions`] decides which connection carries which lane of which peer, and
//! [`node`] is all of these as one state machine. [`host`] asks the system for the host's addresses and keeps files, [`xmpp::stream`] keeps
//! the stream to the XMPP server; nothing else here does I/O.
#![forbid(unsafe_code)]

mod counters;
#[cfg(feature = "testing")]
pub mod fuzzing;
pub mod host;
pub mod ice;
pub mod identity;
pub mod network;
pub mod node;
pub mod notice;
pub mod paths;
pub mod peer;
pub mod questions;
pub mod rendezvous;
mod rng;
pub mod sessions;
#[cfg(test)]
mod testing;
mod timed;
pub mod trust;
pub mod xmpp;
