//! Frames in, frames out: the datapath of ipop-switch.
//!
//! The rooms in the order in which a frame goes through them, TAP to tunnel: [`os`] opens the device, [`engine`] reads it through io_uring, [`core`] is one
//! worker's share of the switch without any I/O, `forward` checks, learns and looks up ([`frame`] says what a frame is, [`policy`] what may pass),
//! [`tunnel`] has a queue for it and a connection, [`record`] packs it into datagrams, [`quic`] says how the connection is set up, [`path`] where the
//! peer is, and [`engine`] sends its trains over UDP. Inbound it is the same way back. What the core asks of its surroundings is [`io::Io`]; what
//! control says and hears is [`command`]. [`port`] is what frames come from and go to, [`counters`] what is counted on the way.

#![deny(unsafe_code)]

pub mod command;
pub mod core;
pub mod counters;
pub mod engine;
mod forward;
pub mod frame;
#[cfg(feature = "testing")]
pub mod fuzzing;
pub mod io;
#[cfg(feature = "testing")]
pub mod memory;
pub mod node_id;
#[allow(unsafe_code, reason = "ioctls, control messages, socket options")]
pub mod os;
pub mod path;
pub mod policy;
pub mod port;
pub mod quic;
pub mod record;
pub mod tunnel;

pub use ipop_learning::{MacAddr, PortId, VlanId};

pub use self::forward::trace;
pub use self::{
    core::context::Observer,
    policy::moves::StationMoves,
    port::{LocalPort, TapOffload},
};
