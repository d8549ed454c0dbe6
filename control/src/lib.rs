//! Who the peers are and how to reach them.
//!
//! [`identity`] is this node's key, [`peer`] how a peer is written, [`trust`] who may connect, and [`sessions`] the
//! state machine that decides which connection carries which lane of which peer. [`local_addresses`] is the only
//! part that asks the system anything while the switch runs.
#![forbid(unsafe_code)]

pub mod identity;
pub mod local_addresses;
pub mod peer;
pub mod sessions;
pub mod trust;
pub mod xmpp;
