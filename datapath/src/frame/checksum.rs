//! The internet checksum (RFC 1071), and completing a partial one.
//!
//! The ones' complement sum does not care about byte order as long as words stay whole, so words are added in the
//! machine's order, many at a time, and the result is swapped once.

use super::{Gso, Headers, IpHeaders, IpVersion, Offload, rewrite::put_u16};
use crate::counters::drops::DropReason;

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
/// [`DropReason::BadOffload`] if the offload lies about the frame or asks for segmentation too ([`super::segment()`]).
pub fn complete_checksum(offload: Offload, frame: &mut [u8]) -> Result<(), DropReason> {
    if offload.gso != Gso::None {
        return Err(DropReason::BadOffload);
    }
    if !offload.needs_csum {
        return Ok(());
    }
    let packet_end =
        Headers::parse(frame).and_then(|headers| headers.ip).map(|ip| ip.packet_end as usize);
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

#[cfg(test)]
mod tests {
    use etherparse::checksum::Sum16BitWords;
    use proptest::prelude::*;

    use super::*;
    use crate::frame::testing::{Protocol, Recipe, read_sound, recipe};

    fn plain(recipe: &Recipe) -> (Offload, Vec<u8>) {
        let (offload, frame) = recipe.build();
        (Offload { gso: Gso::None, gso_size: 0, ..offload }, frame)
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1071 section 3: the sum of these words is ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(internet_checksum(&bytes), !0xddf2);
        assert_eq!(internet_checksum(&[]), 0xffff);
        assert_eq!(internet_checksum(&[0xab]), !0xab00);
    }

    #[test]
    fn padding_behind_the_packet_does_not_count() {
        let (offload, mut frame) = plain(&Recipe::tcp4(3, 1_000));
        let len = frame.len();
        frame.extend_from_slice(&[0xaa; 5]);
        complete_checksum(offload, &mut frame).unwrap();
        assert_eq!(read_sound(&frame[..len]).payload.len(), 3);
        assert_eq!(frame[len..], [0xaa; 5]);
    }

    #[test]
    fn a_sum_of_zero_is_written_as_ones() {
        let (offload, mut frame) = plain(&Recipe { protocol: Protocol::Udp, ..Recipe::tcp4(2, 9) });
        let (start, end) = (usize::from(offload.csum_start), frame.len());
        frame[end - 2..].fill(0);
        // The last word brings the sum to 0xffff, of which the complement is zero.
        let missing = !fold(sum(&frame[start..end]));
        put_u16(&mut frame, end - 2, missing);
        complete_checksum(offload, &mut frame).unwrap();
        assert_eq!(frame[start + 6..start + 8], [0xff, 0xff]);
        read_sound(&frame);
    }

    #[test]
    fn an_offload_that_lies_is_refused_and_changes_nothing() {
        let (offload, frame) = plain(&Recipe::tcp4(20, 1_000));
        let refused = |offload: Offload| {
            let mut touched = frame.clone();
            let result = complete_checksum(offload, &mut touched);
            assert_eq!(touched, frame);
            assert_eq!(result, Err(DropReason::BadOffload), "{offload:?}");
        };
        let len = frame.len() as u16;
        refused(Offload { csum_start: len - 17, ..offload });
        refused(Offload { csum_start: len + 1, csum_offset: 0, ..offload });
        refused(Offload { csum_start: u16::MAX, csum_offset: u16::MAX, ..offload });
        refused(Offload { gso: Gso::Udp, gso_size: 9, ..offload });
        let mut touched = frame.clone();
        assert_eq!(complete_checksum(Offload::NONE, &mut touched), Ok(()));
        assert_eq!(touched, frame);
    }

    proptest! {
        #[test]
        fn sums_agree_with_etherparse(
            bytes in proptest::collection::vec(any::<u8>(), 0..3_000), ones in any::<bool>(),
        ) {
            let bytes = if ones { vec![0xff; bytes.len()] } else { bytes };
            let expected = Sum16BitWords::new().add_slice(&bytes).ones_complement().to_be();
            prop_assert_eq!(internet_checksum(&bytes), expected);
        }

        #[test]
        fn completed_frames_are_sound(recipe in recipe()) {
            let (offload, mut frame) = plain(&recipe);
            complete_checksum(offload, &mut frame).unwrap();
            prop_assert_eq!(read_sound(&frame).payload, recipe.payload());
        }
    }
}
