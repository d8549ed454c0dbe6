//! A TCP superframe as a TAP's kernel side hands it over.

use ipop_datapath::frame::{Gso, Offload, VNET_HEADER_LEN};

pub(crate) const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 8];
pub(crate) const RECEIVER: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Ethernet, IPv4, TCP with time stamps.
pub(crate) const HEADERS_LEN: usize = 14 + 20 + 32;

/// Vnet header and frame, of so many segments of this payload length, bytes.
pub(crate) fn tcp_superframe(
    segments: usize,
    segment_len: u16,
) -> ([u8; VNET_HEADER_LEN], Vec<u8>) {
    let gso = Gso::Tcp4 { ecn: false };
    let offload =
        Offload { needs_csum: true, gso, gso_size: segment_len, csum_start: 34, csum_offset: 16 };
    let mut frame = vec![0; HEADERS_LEN + segments * usize::from(segment_len)];
    let ip_len = (frame.len() - 14) as u16;
    frame[..6].copy_from_slice(&RECEIVER);
    frame[6..12].copy_from_slice(&SENDER);
    frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    frame[16..18].copy_from_slice(&ip_len.to_be_bytes());
    frame[23] = 6;
    // 32 bytes of TCP header, ACK.
    frame[46..48].copy_from_slice(&[0x80, 0x10]);
    (offload.to_tap(HEADERS_LEN as u16), frame)
}
