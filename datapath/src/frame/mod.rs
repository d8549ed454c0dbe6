//! Ethernet frames and what hangs on them: headers, offloads, checksums, segments.
//!
//! Pure functions over bytes, without I/O and without allocation of their own: what they write goes into buffers that
//! the caller reuses. A frame that came from a TAP or a peer passes [`describe`] once; [`segment()`],
//! [`complete_checksum`] and [`Template`] build on what was found there.
#![forbid(unsafe_code)]

mod announcement;
mod bytes;
mod check;
mod checksum;
mod flow;
mod headers;
mod join;
mod offload;
mod rewrite;
mod salvage;
mod segment;
#[cfg(test)]
pub(crate) mod testing;

pub use announcement::{HostOrRouter, announcement};
pub(crate) use bytes::Scratch;
pub use bytes::{Frame, FrameBytes};
pub use check::{Description, MAX_TCP_SEGMENTS, MAX_UDP_SEGMENTS, describe};
pub use checksum::{complete_checksum, internet_checksum};
pub use flow::flow_hash;
pub use headers::{
    Fragment, Headers, IpHeaders, IpVersion, MAX_HEADERS_LEN, Transport, UdpEndpoints, is_dhcp,
    udp_endpoints,
};
pub(crate) use join::{Joined, UdpJoin};
pub use offload::{BadGsoType, Gso, Offload, VNET_HEADER_LEN, WIRE_OFFLOAD_LEN};
pub use salvage::Template;
pub use segment::segment;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_HEADER_LEN: usize = 14;
/// The largest frame that is ever handled: an IP packet of 65,535 bytes, Ethernet and two VLAN tags.
pub const MAX_FRAME_LEN: usize = 65_535 + ETHERNET_HEADER_LEN + 8;
