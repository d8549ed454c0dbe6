//! Frames in, frames out.

pub mod command;
pub mod drops;
pub mod frame;
pub mod fuzzing;
pub mod hello;
pub mod node_id;
pub mod record;

pub use ipop_learning::{MacAddr, PortId, VlanId};
