//! Peers found over XMPP: [`room`] is who is there, [`jingle`] how two nodes exchange what they need to connect,
//! [`services`] which STUN and TURN servers the XMPP server offers, [`answers`] what every entity must answer.
//!
//! These are state machines without I/O, clock or randomness of their own. They see stanzas as typed values, and say
//! what to send.

pub mod answers;
pub mod bucket;
pub mod jingle;
pub mod request;
pub mod room;
pub mod services;
