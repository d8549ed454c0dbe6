//! Who the peers are and how to reach them.
//!
//! [`identity`] is this node's key, [`peer`] how a peer is written, [`network`] the secret of a network and the invitation to it, [`trust`]
//! who may connect, and [`sessions`] the state machine that decides which connection carries which lane of which peer.
//! [`local_addresses`] is the only part that asks the system anything while the switch runs; [`private_file`] reads and writes what is kept.
#![forbid(unsafe_code)]

pub mod fuzzing;
pub mod ice;
pub mod identity;
pub mod local_addresses;
pub mod network;
pub mod peer;
pub mod private_file;
pub mod sessions;
pub mod trust;
