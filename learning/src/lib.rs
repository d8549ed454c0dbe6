//! The forwarding database: which port leads to which (VLAN, MAC).
//!
//! Pure: no I/O, no clock. Time is given in whole seconds by the caller.
//!
//! [`MacTable`] is the table that all workers share. Below it, `bucket` holds the slots and the rules by which readers and
//! writers meet in them, `permutation` spreads the addresses over the buckets, and `sync` lets loom stand in for the atomics.
#![forbid(unsafe_code)]

mod address;
mod bucket;
#[cfg(all(test, not(loom)))]
mod model;
mod permutation;
mod sync;
mod table;

pub use address::{BadMacAddr, MacAddr, PortId, VlanId};
pub use table::{Entry, Learned, MacTable, MacTableConfig, TableCounters};
