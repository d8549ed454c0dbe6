//! Frames that tell which one they are, however they were cut, and what must hold of what arrives.

use std::ops::Range;

use ipop_datapath::{
    MacAddr,
    frame::{self, Gso, Offload, internet_checksum},
};

/// IEEE 802 local experimental EtherType 2.
const ETHERTYPE: [u8; 2] = [0x88, 0xb6];
const IPV4: [u8; 2] = [0x08, 0x00];
const TCP: u8 = 6;
const UDP: u8 = 17;
const L4_START: usize = 14 + 20;
const TCP_HEADERS_LEN: usize = L4_START + 32;
const UDP_HEADERS_LEN: usize = L4_START + 8;
/// A TCP frame's sequence numbers start at its number shifted by this.
const SEQUENCE_SHIFT: u32 = 17;
/// Frames that can be told apart.
pub(crate) const MAX_FRAMES: u32 = 1 << (32 - SEQUENCE_SHIFT);
/// The payload of UDP repeats number and place in units of this, and every segment starts with one.
const UDP_UNIT: usize = 8;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// Of this length, without IP.
    Plain(usize),
    /// One TCP segment whose checksum is partial.
    PartialChecksum(usize),
    /// TCP with this much payload.
    TcpSuperframe(usize),
    /// UDP with about this much payload.
    UdpSuperframe(usize),
}

/// A frame as a TAP hands it over.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) offload: Offload,
    pub(crate) headers_len: u16,
    pub(crate) bytes: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(number: u32, kind: Kind, destination: MacAddr, source: MacAddr) -> Self {
        assert!(number < MAX_FRAMES);
        let mut bytes = [destination.0, source.0].concat();
        let (gso, gso_size, protocol, payload_len) = match kind {
            Kind::Plain(len) => {
                bytes.extend_from_slice(&ETHERTYPE);
                bytes.extend_from_slice(&number.to_be_bytes());
                bytes.extend((bytes.len()..len).map(|at| pattern(number, at)));
                return Self { offload: Offload::NONE, headers_len: 0, bytes };
            }
            Kind::PartialChecksum(payload_len) => (Gso::None, 0, TCP, payload_len),
            Kind::TcpSuperframe(payload_len) => (Gso::Tcp4 { ecn: false }, 1_448, TCP, payload_len),
            Kind::UdpSuperframe(payload_len) => {
                (Gso::Udp, 1_200, UDP, payload_len / UDP_UNIT * UDP_UNIT)
            }
        };
        let headers_len = if protocol == TCP { TCP_HEADERS_LEN } else { UDP_HEADERS_LEN };
        let l4_len = headers_len - L4_START + payload_len;
        push_ip(&mut bytes, protocol, l4_len, number, [destination, source]);
        if protocol == TCP {
            push_tcp(&mut bytes, number);
            bytes.extend((0..payload_len).map(|at| pattern(number, at)));
        } else {
            bytes.extend_from_slice(&[0xc3, 0x50, 0xc3, 0x51]);
            bytes.extend_from_slice(&(l4_len as u16).to_be_bytes());
            bytes.extend_from_slice(&[0, 0]);
            for at in (0..payload_len).step_by(UDP_UNIT) {
                bytes.extend_from_slice(&number.to_be_bytes());
                bytes.extend_from_slice(&(at as u32).to_be_bytes());
            }
        }
        let csum_offset = if protocol == TCP { 16 } else { 6 };
        let partial = !internet_checksum(&pseudo_header(&bytes, l4_len));
        let at = L4_START + csum_offset;
        bytes[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        let offload = Offload {
            needs_csum: true,
            gso,
            gso_size,
            csum_start: L4_START as u16,
            csum_offset: csum_offset as u16,
        };
        Self { offload, headers_len: headers_len as u16, bytes }
    }

    /// The bytes that tell how much of the frame has arrived: everything, or what follows the headers.
    pub(crate) fn extent(&self) -> Range<usize> {
        usize::from(self.headers_len)..self.bytes.len()
    }

    /// Which part of this frame has arrived.
    ///
    /// # Panics
    /// If what arrived is not a sound part of this frame.
    pub(crate) fn arrived(&self, offload: Offload, bytes: &[u8]) -> Vec<Range<usize>> {
        if offload == self.offload && bytes == self.bytes {
            return vec![self.extent()];
        }
        assert!(!self.offload.is_none(), "a plain frame arrives as it was sent");
        let checked = frame::describe(offload, bytes, bytes.len());
        let checked = checked.unwrap_or_else(|reason| panic!("{reason:?}: {offload:?}"));
        let mut parts = Vec::new();
        frame::segment(&checked, bytes, &mut Vec::new(), |segment| {
            parts.push(self.segment_arrived(segment));
        })
        .expect("what was checked can be cut");
        parts
    }

    fn segment_arrived(&self, segment: &[u8]) -> Range<usize> {
        let headers_len = usize::from(self.headers_len);
        assert!(segment.len() > headers_len);
        assert_eq!(segment[..14], self.bytes[..14], "Ethernet header");
        assert_eq!(internet_checksum(&segment[14..L4_START]), 0, "IPv4 header checksum");
        let total_len = usize::from(u16::from_be_bytes([segment[16], segment[17]]));
        assert_eq!(total_len, segment.len() - 14, "IPv4 total length");
        assert_eq!(segment[22..24], self.bytes[22..24], "TTL and protocol");
        assert_eq!(segment[26..38], self.bytes[26..38], "addresses and ports");
        let l4 = &segment[L4_START..];
        let summed = [&pseudo_header(segment, l4.len())[..], l4].concat();
        assert_eq!(internet_checksum(&summed), 0, "transport checksum");
        let (_, at) = identify(segment);
        let part = headers_len + at..at + segment.len();
        assert_eq!(Some(&segment[headers_len..]), self.bytes.get(part.clone()), "payload");
        part
    }
}

/// The number of the frame that these bytes belong to, and their place in its payload.
pub(crate) fn identify(bytes: &[u8]) -> (u32, usize) {
    let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|index| bytes[at + index]));
    match [bytes[12], bytes[13]] {
        ETHERTYPE => (word(14), 0),
        IPV4 if bytes[23] == TCP => {
            let sequence = word(L4_START + 4);
            (sequence >> SEQUENCE_SHIFT, (sequence % (1 << SEQUENCE_SHIFT)) as usize)
        }
        IPV4 if bytes[23] == UDP => (word(UDP_HEADERS_LEN), word(UDP_HEADERS_LEN + 4) as usize),
        other => panic!("nobody sent a frame of type {other:02x?}"),
    }
}

fn pattern(number: u32, at: usize) -> u8 {
    (number.wrapping_mul(31) as usize + at * 7 + at / 256) as u8
}

fn push_ip(
    bytes: &mut Vec<u8>,
    protocol: u8,
    l4_len: usize,
    number: u32,
    [destination, source]: [MacAddr; 2],
) {
    let ip_of = |mac: MacAddr| [192, 168, mac.0[4], mac.0[5]];
    bytes.extend_from_slice(&IPV4);
    bytes.extend_from_slice(&[0x45, 0]);
    bytes.extend_from_slice(&((20 + l4_len) as u16).to_be_bytes());
    bytes.extend_from_slice(&(number as u16).to_be_bytes());
    bytes.extend_from_slice(&[0x40, 0, 64, protocol, 0, 0]);
    bytes.extend_from_slice(&ip_of(source));
    bytes.extend_from_slice(&ip_of(destination));
    let checksum = internet_checksum(&bytes[14..L4_START]);
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// 20 bytes and 12 of options; ACK and PSH.
fn push_tcp(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend_from_slice(&[0x01, 0xbb, 0xc3, 0x50]);
    bytes.extend_from_slice(&(number << SEQUENCE_SHIFT).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 1, 0x80, 0x18, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[1; 12]);
}

fn pseudo_header(frame: &[u8], l4_len: usize) -> Vec<u8> {
    let mut header = frame[26..L4_START].to_vec();
    header.extend_from_slice(&[0, frame[23]]);
    header.extend_from_slice(&(l4_len as u32).to_be_bytes());
    header
}
