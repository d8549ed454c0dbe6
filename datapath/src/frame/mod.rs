//! Ethernet frames and what hangs on them: headers, offloads, checksums, segments.

mod offload;

pub use offload::{BadGsoType, Gso, Offload, VNET_HEADER_LEN, WIRE_OFFLOAD_LEN};

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_HEADER_LEN: usize = 14;
/// The largest frame that is ever handled: an IP packet of 65,535 bytes, Ethernet and two VLAN tags.
pub const MAX_FRAME_LEN: usize = 65_535 + ETHERNET_HEADER_LEN + 8;
