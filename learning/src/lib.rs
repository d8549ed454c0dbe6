//! The forwarding database: which port leads to which (VLAN, MAC).
//!
//! Pure: no I/O, no clock. Time is given in whole seconds by the caller.
#![forbid(unsafe_code)]

mod address;

pub use address::{BadMacAddr, MacAddr, PortId, VlanId};
