//! The headers of one segment, made out of those of the superframe that it is a part of.
//!
//! Segmentation and salvage cut superframes at different places; what the headers of a part must say is the same.

use super::{
    Description, IpHeaders, IpVersion, Transport,
    checksum::{internet_checksum, pseudo_header_sum},
};

/// TCP's checksum field, from the start of the TCP header.
pub(super) const TCP_CHECKSUM: u16 = 16;
/// UDP's checksum field, from the start of the UDP header.
pub(super) const UDP_CHECKSUM: u16 = 6;
/// UDP's length field, from the start of the UDP header.
pub(super) const UDP_LENGTH: usize = 4;
/// The byte of TCP's flags, from the start of the TCP header.
pub(super) const TCP_FLAGS: usize = 13;

/// The TCP flags that matter when a segment is cut (RFC 9293 section 3.1, RFC 3168 section 6.1).
pub(super) mod tcp_flag {
    pub(in super::super) const FIN: u8 = 0x01;
    pub(in super::super) const SYN: u8 = 0x02;
    pub(in super::super) const RST: u8 = 0x04;
    pub(in super::super) const PSH: u8 = 0x08;
    pub(in super::super) const URG: u8 = 0x20;
    pub(in super::super) const CWR: u8 = 0x80;
}

/// A contiguous part of a superframe's transport payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// Where it starts in the payload.
    pub(super) start: usize,
    /// Its length.
    pub(super) len: usize,
    /// Length of the superframe's payload.
    pub(super) payload_len: usize,
    /// How many segments of the superframe come before.
    pub(super) index: u16,
}

/// Turns the superframe's headers into those of the part and gives the sum of its pseudo-header.
///
/// `headers` are exactly the bytes up to the payload. The transport's checksum field is left zero.
pub(super) fn rewrite_headers(
    headers: &mut [u8],
    what: &Description,
    ip: &IpHeaders,
    part: Part,
) -> u32 {
    let l2_len = what.headers().l2_len;
    let l4_start = usize::from(ip.l4_start);
    let l4_len = headers.len() - l4_start + part.len;
    rewrite_ip(&mut headers[usize::from(l2_len)..l4_start], ip.version, l4_len, part.index);
    let l4 = &mut headers[l4_start..];
    match ip.transport {
        Transport::Tcp { .. } => rewrite_tcp(l4, part),
        Transport::Udp => {
            put_u16(l4, UDP_LENGTH, l4_len as u16);
            put_u16(l4, usize::from(UDP_CHECKSUM), 0);
        }
        Transport::Other => {}
    }
    pseudo_header_sum(l2_len, ip, headers, l4_len as u32)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

const IPV4_TOTAL_LENGTH: usize = 2;
const IPV4_IDENTIFICATION: usize = 4;
const IPV4_CHECKSUM: usize = 10;
const IPV6_PAYLOAD_LENGTH: usize = 4;
const IPV6_HEADER_LEN: usize = 40;
const TCP_SEQUENCE: usize = 4;
const TCP_URGENT: usize = 18;

/// `header` runs to the transport header: with IPv4's options, with IPv6's extension headers.
fn rewrite_ip(header: &mut [u8], version: IpVersion, l4_len: usize, index: u16) {
    let ip_len = header.len() + l4_len;
    match version {
        IpVersion::V4 => {
            put_u16(header, IPV4_TOTAL_LENGTH, ip_len as u16);
            let identification = u16_at(header, IPV4_IDENTIFICATION).wrapping_add(index);
            put_u16(header, IPV4_IDENTIFICATION, identification);
            put_u16(header, IPV4_CHECKSUM, 0);
            put_u16(header, IPV4_CHECKSUM, internet_checksum(header));
        }
        IpVersion::V6 => {
            put_u16(header, IPV6_PAYLOAD_LENGTH, (ip_len - IPV6_HEADER_LEN) as u16);
        }
    }
}

fn rewrite_tcp(header: &mut [u8], part: Part) {
    if let Some(sequence) = header[TCP_SEQUENCE..].first_chunk_mut::<4>() {
        let first = u32::from_be_bytes(*sequence);
        *sequence = first.wrapping_add(part.start as u32).to_be_bytes();
    }
    let mut flags = header[TCP_FLAGS];
    if part.start > 0 {
        flags &= !tcp_flag::CWR;
    }
    if part.start + part.len < part.payload_len {
        flags &= !(tcp_flag::FIN | tcp_flag::PSH);
    }
    if flags & tcp_flag::URG != 0 && part.start > 0 {
        // The pointer counts from the segment's own sequence number; later parts hold no urgent byte any more.
        let pointer = usize::from(u16_at(header, TCP_URGENT)).saturating_sub(part.start);
        put_u16(header, TCP_URGENT, pointer as u16);
        if pointer == 0 {
            flags &= !tcp_flag::URG;
        }
    }
    header[TCP_FLAGS] = flags;
    put_u16(header, usize::from(TCP_CHECKSUM), 0);
}
