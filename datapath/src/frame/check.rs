//! What a vnet header claims, held against the frame that it came with.
//!
//! Kernels and the segmenter trust these fields, and they come from a peer or from whatever writes to a TAP. A frame
//! passes here once, when its head is there; from then on [`CheckedOffload`] is what is passed along.
//!
//! A superframe must be exactly what Linux makes: one whole IP packet that fills the frame, TCP or UDP, its checksum
//! partial (`NEEDS_CSUM`: a superframe with a complete checksum does not exist), no SYN. TCP and UDP behind an IPv6
//! routing or authentication header are refused as superframes. A plain frame may ask for a checksum of any
//! protocol anywhere behind the Ethernet header.

use super::{
    ETHERNET_HEADER_LEN, Gso, Headers, IpHeaders, IpVersion, MAX_FRAME_LEN, Offload, Transport,
    headers::Fragment,
    rewrite::{TCP_CHECKSUM, TCP_FLAGS, UDP_CHECKSUM, UDP_LENGTH, tcp_flag, u16_at},
};
use crate::drops::DropReason;

/// Most segments in a TCP superframe: 64 KiB in pieces of 8 bytes, Linux's own least GSO size. A limit on segments
/// rather than on their size, since GRO merges smaller ones (a few keystrokes) as well.
pub const MAX_TCP_SEGMENTS: usize = 8_192;
/// Most segments in a UDP superframe: Linux's `UDP_MAX_SEGMENTS`.
pub const MAX_UDP_SEGMENTS: usize = 128;

/// An offload that agrees with its frame; only [`check_offload`] makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckedOffload {
    offload: Offload,
    headers: Headers,
    headers_len: u16,
    total_len: u32,
}

impl CheckedOffload {
    /// The offload. A superframe that fits one segment has become a plain frame that needs a checksum.
    #[inline]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Bytes up to the transport payload, as far as the headers were understood: the `hdr_len` of the TAP's header
    /// ([`Offload::to_tap`]). It reaches behind the checksum field and never beyond the frame.
    #[inline]
    pub fn headers_len(&self) -> u16 {
        self.headers_len
    }

    /// Where the headers sit.
    #[inline]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Length of the frame that was checked.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.total_len as usize
    }
}

/// Checks an offload against the frame: its head, at least the first [`super::MAX_HEADERS_LEN`] bytes or all of it,
/// and its length.
///
/// # Errors
/// [`DropReason::Runt`] and [`DropReason::Oversized`] for the length, [`DropReason::BadOffload`] if offload and frame
/// contradict each other.
pub fn check_offload(
    offload: Offload,
    frame_head: &[u8],
    total_len: usize,
) -> Result<CheckedOffload, DropReason> {
    if total_len > MAX_FRAME_LEN {
        return Err(DropReason::Oversized);
    }
    let head = &frame_head[..frame_head.len().min(total_len)];
    let headers = Headers::parse(head).ok_or(DropReason::Runt)?;
    let plain = Offload { gso: Gso::None, gso_size: 0, ..offload };
    let offload = match offload.gso {
        Gso::None if !offload.needs_csum => Offload::NONE,
        Gso::None => plain,
        _ => {
            let payload_len = check_superframe(offload, &headers, head, total_len)
                .ok_or(DropReason::BadOffload)?;
            if payload_len <= usize::from(offload.gso_size) { plain } else { offload }
        }
    };
    let mut headers_len = usize::from(headers.end());
    if offload.needs_csum {
        let field_end = usize::from(offload.csum_start) + usize::from(offload.csum_offset) + 2;
        if usize::from(offload.csum_start) < ETHERNET_HEADER_LEN || field_end > total_len {
            return Err(DropReason::BadOffload);
        }
        headers_len = headers_len.max(field_end);
    }
    // A plain frame's checksum field may lie beyond what 16 bits say; `hdr_len` is only a hint there.
    let headers_len = headers_len.min(usize::from(u16::MAX)) as u16;
    Ok(CheckedOffload { offload, headers, headers_len, total_len: total_len as u32 })
}

/// The length of a superframe's payload, if all of it is right.
fn check_superframe(
    offload: Offload,
    headers: &Headers,
    head: &[u8],
    total_len: usize,
) -> Option<usize> {
    let ip = headers.ip?;
    let is_whole = ip.fragment == Fragment::Whole && ip.end as usize == total_len;
    let is_partial = offload.needs_csum && offload.csum_start == ip.l4_start;
    let l4 = head.get(usize::from(ip.l4_start)..)?;
    let max_segments = check_transport(offload, &ip, l4, total_len)?;
    let headers_len = usize::from(headers.end());
    let payload_len = total_len.checked_sub(headers_len)?;
    let gso_size = usize::from(offload.gso_size);
    let is_size_sane = gso_size > 0
        && headers_len + gso_size <= MAX_FRAME_LEN
        && payload_len.div_ceil(gso_size) <= max_segments;
    (is_whole && is_partial && is_size_sane).then_some(payload_len)
}

/// How many segments the superframe may have, if its type is that of its transport header `l4`.
fn check_transport(offload: Offload, ip: &IpHeaders, l4: &[u8], total_len: usize) -> Option<usize> {
    match (offload.gso, ip.version, ip.transport) {
        (Gso::Tcp4 { .. }, IpVersion::V4, Transport::Tcp { .. })
        | (Gso::Tcp6 { .. }, IpVersion::V6, Transport::Tcp { .. }) => {
            // SYN takes a sequence number of its own: the segments' numbers would be off by one.
            let is_cuttable = l4[TCP_FLAGS] & tcp_flag::SYN == 0;
            (is_cuttable && offload.csum_offset == TCP_CHECKSUM).then_some(MAX_TCP_SEGMENTS)
        }
        (Gso::Udp, _, Transport::Udp) => {
            let l4_len = total_len.checked_sub(usize::from(ip.l4_start))?;
            let is_whole = usize::from(u16_at(l4, UDP_LENGTH)) == l4_len;
            (is_whole && offload.csum_offset == UDP_CHECKSUM).then_some(MAX_UDP_SEGMENTS)
        }
        _ => None,
    }
}
