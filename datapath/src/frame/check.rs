//! What a frame is, by one look at its headers, and whether what its vnet header claims fits it.
//!
//! Kernels and the segmenter trust the fields of a vnet header, and they come from a peer or from whatever writes to a TAP. A frame
//! passes here once, when its head is there; from then on its [`Description`] is passed along with its bytes, and nobody reads its headers again to
//! decide on its way. VLAN tags are part of the headers, carried and not interpreted.
//!
//! A superframe must be exactly what Linux makes: one whole IP packet that fills the frame, TCP or UDP, its checksum
//! partial (`NEEDS_CSUM`: a superframe with a complete checksum does not exist), no SYN. TCP and UDP behind an IPv6
//! routing or authentication header are refused as superframes. A plain frame may ask for a checksum of any
//! protocol anywhere behind the Ethernet header.

use super::{
    ETHERNET_HEADER_LEN, Gso, Headers, IpHeaders, IpVersion, MAX_FRAME_LEN, Offload, Transport,
    VNET_HEADER_LEN, flow_hash,
    headers::{Fragment, is_dhcp},
    rewrite::{TCP_CHECKSUM, TCP_FLAGS, UDP_CHECKSUM, UDP_LENGTH, tcp_flag, u16_at},
};
use crate::counters::drops::{DropReason, Passed};

/// Most segments in a TCP superframe: 64 KiB in pieces of 8 bytes, Linux's own least GSO size. A limit on segments
/// rather than on their size, since GRO merges smaller ones (a few keystrokes) as well.
pub const MAX_TCP_SEGMENTS: usize = 8_192;
/// Most segments in a UDP superframe: Linux's `UDP_MAX_SEGMENTS`.
pub const MAX_UDP_SEGMENTS: usize = 128;

/// What is known of a frame, and an offload that agrees with it; only [`describe`] makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Description {
    offload: Offload,
    headers: Headers,
    headers_len: u16,
    is_dhcp: bool,
    total_len: u32,
    flow: u32,
}

impl Description {
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

    /// Length of the frame, bytes.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.total_len as usize
    }

    /// Length of the frame, or of the longest that a superframe stands for.
    pub fn longest_segment_len(&self) -> usize {
        match self.offload.gso {
            Gso::None => self.total_len(),
            _ => {
                let full = usize::from(self.headers_len) + usize::from(self.offload.gso_size);
                full.min(self.total_len())
            }
        }
    }

    /// The flow's number: see [`flow_hash`].
    #[inline]
    pub fn flow(&self) -> u32 {
        self.flow
    }

    /// Whether the frame has an offload and belongs to DHCP: see [`is_dhcp`].
    #[inline]
    pub fn is_dhcp(&self) -> bool {
        self.is_dhcp
    }

    /// The vnet header with which a TAP is given the frame.
    pub fn to_tap(&self) -> [u8; VNET_HEADER_LEN] {
        self.offload.to_tap(if self.offload.is_none() { 0 } else { self.headers_len })
    }

    /// A frame of this length that [`super::segment()`] made of this one.
    pub(crate) fn of_segment(&self, len: usize) -> Self {
        let whole = Self { is_dhcp: false, offload: Offload::NONE, ..*self };
        if self.offload.gso == Gso::None { whole } else { whole.of_len(Offload::NONE, len) }
    }

    /// A superframe of this length, of datagrams like this one of which each but the last has so much payload.
    pub(super) fn of_joined(&self, gso_size: u16, len: usize) -> Self {
        self.of_len(Offload { gso: Gso::Udp, gso_size, ..self.offload }, len)
    }

    /// A frame with these headers that its IP packet fills.
    fn of_len(&self, offload: Offload, len: usize) -> Self {
        let ip = self.headers.ip.map(|ip| IpHeaders { packet_end: len as u32, ..ip });
        let headers = Headers { ip, ..self.headers };
        Self { offload, headers, total_len: len as u32, ..*self }
    }
}

#[cfg(test)]
impl Description {
    /// Of bytes that need not be a sound frame.
    pub(crate) fn for_test(offload: Offload, headers_len: u16, len: usize, flow: u32) -> Self {
        let sound = describe(Offload::NONE, &[0; ETHERNET_HEADER_LEN], ETHERNET_HEADER_LEN);
        Self { offload, headers_len, total_len: len as u32, flow, ..sound.expect("not a runt") }
    }
}

/// Describes a frame and checks its offload: by its head, at least the first [`super::MAX_HEADERS_LEN`] bytes or all of it, and its length.
///
/// Where others can write to a frame's bytes meanwhile, the head is a copy that they cannot reach.
///
/// # Errors
/// [`DropReason::Runt`] and [`DropReason::Oversized`] for the length, [`DropReason::BadOffload`] if offload and frame
/// contradict each other.
#[inline]
pub fn describe(
    offload: Offload,
    frame_head: &[u8],
    total_len: usize,
) -> Result<Description, DropReason> {
    if total_len > MAX_FRAME_LEN {
        return Err(DropReason::Oversized);
    }
    let head = &frame_head[..frame_head.len().min(total_len)];
    let headers = Headers::parse(head).ok_or(DropReason::Runt)?;
    let mut what = Description {
        offload: Offload::NONE,
        headers,
        headers_len: headers.end(),
        is_dhcp: false,
        total_len: total_len as u32,
        flow: flow_hash(&headers, head),
    };
    if !offload.is_none() {
        what.take_offload(offload, head)?;
    }
    Ok(what)
}

impl Description {
    /// The frame has this offload, if they agree.
    fn take_offload(&mut self, mut offload: Offload, head: &[u8]) -> Passed {
        let total_len = self.total_len();
        if offload.gso != Gso::None {
            let payload_len = check_superframe(offload, &self.headers, head, total_len);
            // All of it fits one segment.
            if payload_len.ok_or(DropReason::BadOffload)? <= usize::from(offload.gso_size) {
                (offload.gso, offload.gso_size) = (Gso::None, 0);
            }
        }
        let field_end = usize::from(offload.csum_start) + usize::from(offload.csum_offset) + 2;
        if usize::from(offload.csum_start) < ETHERNET_HEADER_LEN || field_end > total_len {
            return Err(DropReason::BadOffload);
        }
        self.offload = offload;
        self.is_dhcp = is_dhcp(&self.headers, head);
        // A plain frame's checksum field may lie beyond what 16 bits say; `hdr_len` is only a hint there.
        self.headers_len = self.headers_len.max(field_end.min(usize::from(u16::MAX)) as u16);
        Ok(())
    }
}

/// The length of a superframe's payload, if all of it is right.
fn check_superframe(
    offload: Offload,
    headers: &Headers,
    head: &[u8],
    total_len: usize,
) -> Option<usize> {
    let ip = headers.ip?;
    let is_whole = ip.fragment == Fragment::Whole && ip.packet_end as usize == total_len;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{
        MAX_HEADERS_LEN,
        testing::{ACK, Family, Protocol, Recipe, SYN, recipe},
    };

    fn check(offload: Offload, frame: &[u8]) -> Result<Description, DropReason> {
        describe(offload, frame, frame.len())
    }

    fn refused(offload: Offload, frame: &[u8]) {
        assert_eq!(check(offload, frame), Err(DropReason::BadOffload), "{offload:?}");
    }

    #[test]
    fn lengths_out_of_bounds() {
        assert_eq!(check(Offload::NONE, &[0; 13]), Err(DropReason::Runt));
        assert_eq!(check(Offload::NONE, &[]), Err(DropReason::Runt));
        let long = vec![0; MAX_FRAME_LEN + 1];
        assert_eq!(check(Offload::NONE, &long), Err(DropReason::Oversized));
        assert!(check(Offload::NONE, &long[1..]).is_ok());
    }

    #[test]
    fn a_superframe_of_another_type_than_its_headers() {
        for family in [Family::V4, Family::V6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let recipe = Recipe { family, protocol, ..Recipe::tcp4(3_000, 1_000) };
                let (offload, frame) = recipe.build();
                for gso in [Gso::Tcp4 { ecn: false }, Gso::Tcp6 { ecn: false }, Gso::Udp] {
                    let checked = check(Offload { gso, ..offload }, &frame);
                    assert_eq!(checked.is_ok(), gso == offload.gso, "{gso:?} {recipe:?}");
                }
            }
        }
        refused(Recipe::tcp4(3_000, 1_000).build().0, &[0; 3_000]);
    }

    #[test]
    fn a_superframe_with_a_field_that_lies() {
        let (offload, frame) = Recipe::tcp4(3_000, 1_000).build();
        refused(Offload { needs_csum: false, ..offload }, &frame);
        refused(Offload { csum_start: offload.csum_start + 1, ..offload }, &frame);
        refused(Offload { csum_offset: 6, ..offload }, &frame);
        refused(Offload { gso_size: 0, ..offload }, &frame);
        refused(Offload { gso_size: u16::MAX, ..offload }, &frame);
        let (offload, frame) =
            Recipe { protocol: Protocol::Udp, ..Recipe::tcp4(3_000, 1_000) }.build();
        refused(Offload { csum_offset: 16, ..offload }, &frame);
    }

    #[test]
    fn a_superframe_that_linux_would_not_make() {
        let (offload, frame) = Recipe::tcp4(3_000, 1_000).build();
        // Not the length that its IP header states; a fragment; SYN.
        refused(offload, &frame[..frame.len() - 1]);
        refused(offload, &[&frame[..], &[0]].concat());
        let mut fragment = frame.clone();
        fragment[20] |= 0x20;
        refused(offload, &fragment);
        let (offload, frame) = Recipe { flags: ACK | SYN, ..Recipe::tcp4(3_000, 1_000) }.build();
        refused(offload, &frame);
        let udp = Recipe { protocol: Protocol::Udp, ..Recipe::tcp4(3_000, 1_000) };
        let (offload, mut frame) = udp.build();
        frame[39] ^= 1;
        refused(offload, &frame);
    }

    #[test]
    fn the_number_of_segments_is_bounded() {
        let (offload, frame) = Recipe::tcp4(MAX_TCP_SEGMENTS, 1).build();
        assert!(check(offload, &frame).is_ok());
        let (offload, frame) = Recipe::tcp4(MAX_TCP_SEGMENTS + 1, 1).build();
        refused(offload, &frame);
        let udp = Recipe { protocol: Protocol::Udp, ..Recipe::tcp4(MAX_UDP_SEGMENTS * 7, 7) };
        let (offload, frame) = udp.build();
        assert!(check(offload, &frame).is_ok());
        let (offload, frame) = Recipe { payload_len: MAX_UDP_SEGMENTS * 7 + 1, ..udp }.build();
        refused(offload, &frame);
    }

    #[test]
    fn one_segment_becomes_a_plain_frame() {
        let (offload, frame) = Recipe::tcp4(1_000, 1_000).build();
        let checked = check(offload, &frame).unwrap();
        assert_eq!(checked.offload(), Offload { gso: Gso::None, gso_size: 0, ..offload });
        let (offload, frame) = Recipe::tcp4(0, 1_000).build();
        assert_eq!(check(offload, &frame).unwrap().offload().gso, Gso::None);
    }

    #[test]
    fn a_superframe_is_as_long_as_its_longest_segment() {
        let longest =
            |offload, len| Description::for_test(offload, 66, len, 0).longest_segment_len();
        assert_eq!(longest(Offload::NONE, 9_014), 9_014);
        let superframe =
            Offload { gso: Gso::Tcp4 { ecn: false }, gso_size: 1_448, ..Offload::NONE };
        assert_eq!(longest(superframe, 60_000), 1_514);
        assert_eq!(longest(superframe, 1_000), 1_000, "shorter than a segment");
    }

    #[test]
    fn a_plain_frame_may_have_any_checksum_within_it() {
        let partial = |csum_start, csum_offset| {
            let offload = Offload { needs_csum: true, csum_start, csum_offset, ..Offload::NONE };
            check(offload, &[0x77; 100]).map(|checked| checked.headers_len())
        };
        assert_eq!(partial(14, 0), Ok(16));
        assert_eq!(partial(60, 38), Ok(100));
        assert_eq!(partial(13, 16), Err(DropReason::BadOffload));
        assert_eq!(partial(60, 39), Err(DropReason::BadOffload));
        assert_eq!(partial(u16::MAX, u16::MAX), Err(DropReason::BadOffload));
        let stale = Offload { csum_start: 9, csum_offset: 9, gso_size: 9, ..Offload::NONE };
        assert_eq!(check(stale, &[0x77; 100]).unwrap().offload(), Offload::NONE);
    }

    proptest! {
        #[test]
        fn superframes_pass_and_their_head_is_enough(recipe in recipe()) {
            let (offload, frame) = recipe.build();
            let checked = check(offload, &frame).unwrap();
            prop_assert_eq!(usize::from(checked.headers_len()), frame.len() - recipe.payload_len);
            let head = &frame[..frame.len().min(MAX_HEADERS_LEN)];
            prop_assert_eq!(describe(offload, head, frame.len()), Ok(checked));
            if recipe.segments() > 1 {
                prop_assert_eq!(checked.offload(), offload);
            }
        }
    }
}
