//! Signalling over XMPP: how nodes that share a room learn of one another.
//!
//! [`stream`] keeps one authenticated stream to the account's server and speaks stanzas to the rest, which is without
//! I/O. The server only routes: nothing that it says closes a tunnel or makes a node a member.

pub mod stream;
