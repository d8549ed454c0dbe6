//! The internet checksum (RFC 1071), and completing a partial one.
//!
//! The ones' complement sum does not care about byte order as long as words stay whole, so words are added in the
//! machine's order, many at a time, and the result is swapped once.

use super::{Gso, Headers, IpHeaders, IpVersion, Offload, rewrite::put_u16};
use crate::drops::DropReason;

/// The internet checksum over these bytes, ready for a header field that was zero in them.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Writes the checksum of a frame whose field holds the pseudo-header sum only.
///
/// The sum ends where the IP packet ends: padding behind it does not count. A result of zero is written as 0xffff,
/// the same number in ones' complement, because UDP reads zero as "no checksum" (RFC 768).
///
/// # Errors
/// [`DropReason::BadOffload`] if the offload lies about the frame or asks for segmentation too ([`super::segment`]).
pub fn complete_checksum(offload: Offload, frame: &mut [u8]) -> Result<(), DropReason> {
    if offload.gso != Gso::None {
        return Err(DropReason::BadOffload);
    }
    if !offload.needs_csum {
        return Ok(());
    }
    let packet_end = Headers::parse(frame).and_then(|headers| headers.ip).map(|ip| ip.end as usize);
    complete_until(offload, packet_end, frame)
}

/// As [`complete_checksum`], for an offload that needs a checksum, with the end of the IP packet known.
pub(super) fn complete_until(
    offload: Offload,
    packet_end: Option<usize>,
    frame: &mut [u8],
) -> Result<(), DropReason> {
    let start = usize::from(offload.csum_start);
    let field = start + usize::from(offload.csum_offset);
    let end = match packet_end {
        Some(end) if end <= frame.len() && field + 2 <= end => end,
        _ => frame.len(),
    };
    let summed = frame.get(start..end).ok_or(DropReason::BadOffload)?;
    if field + 2 > end {
        return Err(DropReason::BadOffload);
    }
    // The field takes part in the sum: it holds the pseudo-header's.
    let checksum = finish(sum(summed));
    put_u16(frame, field, checksum);
    Ok(())
}

/// Adds up the bytes as big-endian words; an odd last byte counts as the high half of a word.
///
/// At most 0xffff, so that a few sums can be added before they are folded.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut total = 0_u64;
    let mut carries = 0_u64;
    for word in words {
        let (next, carry) = total.overflowing_add(u64::from_ne_bytes(*word));
        total = next;
        carries += u64::from(carry);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let (next, carry) = total.overflowing_add(u64::from_ne_bytes(last));
    carries += u64::from(carry);
    // 2^64, 2^32 and 2^16 are all 1 modulo 0xffff: halves and carries may simply be added.
    let halves = (next & 0xffff_ffff) + (next >> 32) + carries;
    u32::from(fold_wide(halves).to_be())
}

/// Brings a sum of sums to 16 bits.
pub(super) fn fold(sum: u32) -> u16 {
    fold_wide(u64::from(sum))
}

/// The checksum field for this sum; never zero.
pub(super) fn finish(sum: u32) -> u16 {
    match !fold(sum) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// The pseudo-header's sum for a transport packet of `l4_len` bytes (RFC 9293 section 3.1, RFC 8200 section 8.1).
///
/// `frame` starts with the headers that were parsed, whole.
pub(super) fn pseudo_header_sum(l2_len: u16, ip: &IpHeaders, frame: &[u8], l4_len: u32) -> u32 {
    let addresses = match ip.version {
        IpVersion::V4 => 12..20,
        IpVersion::V6 => 8..40,
    };
    let packet = &frame[usize::from(l2_len)..];
    sum(&packet[addresses]) + u32::from(ip.protocol) + (l4_len & 0xffff) + (l4_len >> 16)
}

fn fold_wide(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
