//! Peers found over XMPP: how nodes that share a room learn of one another.
//!
//! [`stream`] keeps one authenticated stream to the account's server and speaks stanzas to the rest: [`room`] is who is
//! there, [`jingle`] how two nodes exchange what they need to connect, [`services`] which STUN and TURN servers the XMPP
//! server offers, [`answers`] what every entity must answer. All but the stream are state machines without I/O, clock or
//! randomness of their own. The server only routes: nothing that it says closes a tunnel or makes a node a member.

pub mod administration;
pub mod answers;
pub mod bound;
#[cfg(feature = "testing")]
pub(crate) mod fuzzing;
pub mod jingle;
pub mod request;
pub mod room;
pub mod services;
pub mod stream;

pub use xmpp_parsers::jid::{BareJid, FullJid};
