//! Who the peers are and how to reach them.
//!
//! [`identity`] is this node's key, [`peer`] how a peer is written, [`network`] the secret of a network and the invitation to it, [`trust`]
//! who may connect, [`xmpp`] where nodes learn of one another, [`ice`] how they reach one another, [`links`] how the two
//! become paths, [`sessions`] decides which connection carries which lane of which peer, and [`node`] is all of these as one state machine. [`local_addresses`] asks the system for the host's addresses, [`private_file`]
//! reads and writes what is kept, [`state_directory`] looks at who else could, [`refused_sends`] says why the kernel does not send a packet, [`xmpp::stream`] keeps the stream to the XMPP server; nothing else here does I/O.
#![forbid(unsafe_code)]

#[cfg(feature = "testing")]
pub mod fuzzing;
pub mod ice;
pub mod identity;
pub mod links;
pub mod local_addresses;
pub mod network;
pub mod node;
pub mod notice;
pub mod peer;
pub mod private_file;
pub mod refused_sends;
mod rng;
pub mod sessions;
pub mod state_directory;
#[cfg(test)]
mod testing;
mod timed;
pub mod trust;
pub mod xmpp;
