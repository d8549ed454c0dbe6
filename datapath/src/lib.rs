//! Frames in, frames out.

pub mod admission;
pub mod command;
pub mod drops;
pub mod frame;
pub mod hello;
pub mod node_id;

pub use ipop_learning::{MacAddr, PortId, VlanId};
