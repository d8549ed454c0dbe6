//! Frames in, frames out: the datapath of ipop-switch.
//!
//! The modules in the order in which a frame flows, TAP to tunnel: [`os::tap`] opens the device, [`engine`] reads it through io_uring, `forward`
//! classifies, learns and looks up, [`record`] packs the frame into datagrams, `tunnel` puts them on a QUIC connection ([`quic`] says how that is
//! set up), and [`engine`] sends its trains over UDP ([`os::udp`]). Inbound it is the same way back. [`core::Core`] holds one worker's share of all
//! of this without doing any I/O: what it asks of its surroundings is [`io::Io`].

#![deny(unsafe_code)]

pub mod admission;
pub mod bucket;
pub mod channel_data;
pub mod command;
mod context;
pub mod core;
pub mod counters;
pub mod drops;
#[allow(unsafe_code, reason = "the kernel reads and writes buffers of its ring's operations")]
pub mod engine;
mod forward;
pub mod frame;
#[cfg(feature = "testing")]
pub mod fuzzing;
pub mod hello;
pub mod io;
mod liveness;
pub mod loop_probe;
#[cfg(feature = "testing")]
pub mod memory;
mod moves;
pub mod node_id;
#[allow(unsafe_code, reason = "ioctls, control messages, socket options")]
pub mod os;
pub mod path;
pub mod port;
mod queue;
pub mod quic;
pub mod record;
mod repeat;
pub mod shared;
mod sharing;
mod signal;
mod tunnel;
mod unsent;

pub use context::Observer;
pub use ipop_learning::{MacAddr, PortId, VlanId};
pub use moves::StationMoves;
pub use port::{LocalPort, TapOffload};
