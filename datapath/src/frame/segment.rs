//! Software segmentation: a superframe becomes the frames that a wire would carry.
//!
//! For egress to a port that lacks the offload. The segments are those that Linux's own segmentation makes: IPv4
//! identification counts up, CWR stays on the first alone (RFC 3168 section 6.1.2), FIN and PSH on the last, and each
//! checksum is complete. The checksum is made anew from the pseudo-header; what the superframe's field held does not
//! matter.

use super::{
    Description, Gso,
    checksum::{complete_until, finish, sum},
    rewrite::{Part, put_u16, rewrite_headers},
};
use crate::counters::drops::DropReason;

/// Hands `emit` each frame of which the checked one consists, in order, with complete checksums.
///
/// A plain frame is emitted once. `scratch` holds each segment while `emit` runs; reused, it stops allocating.
///
/// # Errors
/// [`DropReason::BadOffload`], before anything is emitted, if `frame` is not the one that was what.
pub fn segment(
    what: &Description,
    frame: &[u8],
    scratch: &mut Vec<u8>,
    mut emit: impl FnMut(&[u8]),
) -> Result<(), DropReason> {
    if frame.len() != what.total_len() {
        return Err(DropReason::BadOffload);
    }
    let offload = what.offload();
    if offload.gso != Gso::None {
        return segment_superframe(what, frame, scratch, emit);
    }
    if !offload.needs_csum {
        emit(frame);
        return Ok(());
    }
    scratch.clear();
    scratch.extend_from_slice(frame);
    complete_until(offload, what.headers().ip.map(|ip| ip.packet_end as usize), scratch)?;
    emit(scratch);
    Ok(())
}

fn segment_superframe(
    what: &Description,
    frame: &[u8],
    scratch: &mut Vec<u8>,
    mut emit: impl FnMut(&[u8]),
) -> Result<(), DropReason> {
    let offload = what.offload();
    let ip = what.headers().ip.ok_or(DropReason::BadOffload)?;
    let (headers, payload) = frame.split_at(usize::from(what.headers_len()));
    let l4_start = usize::from(ip.l4_start);
    let checksum_at = l4_start + usize::from(offload.csum_offset);
    let gso_size = usize::from(offload.gso_size);
    for (index, bytes) in payload.chunks(gso_size).enumerate() {
        let part = Part {
            start: index * gso_size,
            len: bytes.len(),
            payload_len: payload.len(),
            index: index as u16,
        };
        scratch.clear();
        scratch.extend_from_slice(headers);
        let pseudo = rewrite_headers(scratch, what, &ip, part);
        let checksum = finish(pseudo + sum(&scratch[l4_start..]) + sum(bytes));
        put_u16(scratch, checksum_at, checksum);
        scratch.extend_from_slice(bytes);
        emit(scratch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{
        describe,
        testing::{ACK, CWR, FIN, Family, PSH, Protocol, Recipe, URG, Wire, read_sound, recipe},
    };

    fn cut(recipe: &Recipe) -> Vec<Wire> {
        let (offload, frame) = recipe.build();
        let checked = describe(offload, &frame, frame.len()).unwrap();
        let mut segments = Vec::new();
        segment(&checked, &frame, &mut Vec::new(), |frame| segments.push(read_sound(frame)))
            .unwrap();
        segments
    }

    #[test]
    fn flags_stand_where_they_belong() {
        let flags = ACK | PSH | FIN | CWR;
        let segments = cut(&Recipe { flags, ..Recipe::tcp4(2_500, 1_000) });
        let seen: Vec<u8> = segments.iter().map(|segment| segment.flags).collect();
        assert_eq!(seen, [ACK | CWR, ACK, ACK | PSH | FIN]);
        let lengths: Vec<usize> = segments.iter().map(|segment| segment.payload.len()).collect();
        assert_eq!(lengths, [1_000, 1_000, 500]);
    }

    #[test]
    fn identification_and_sequence_wrap() {
        let segments = cut(&Recipe::tcp4(10_000, 2_000));
        let seen: Vec<_> = segments.iter().map(|s| (s.identification, s.sequence)).collect();
        assert_eq!(
            seen,
            [
                (0xfffe, 0xffff_f000),
                (0xffff, 0xffff_f7d0),
                (0, 0xffff_ffa0),
                (1, 0x0770),
                (2, 0x0f40)
            ]
        );
    }

    #[test]
    fn the_urgent_pointer_moves_with_the_segment() {
        let urgent = Recipe { flags: ACK | URG, urgent: 1_500, ..Recipe::tcp4(3_000, 1_000) };
        let seen: Vec<_> = cut(&urgent).iter().map(|s| (s.flags, s.urgent)).collect();
        assert_eq!(seen, [(ACK | URG, 1_500), (ACK | URG, 500), (ACK, 0)]);
    }

    #[test]
    fn another_frame_than_the_checked_one_is_refused() {
        let (offload, frame) = Recipe::tcp4(3_000, 1_000).build();
        let checked = describe(offload, &frame, frame.len()).unwrap();
        let refused = segment(&checked, &frame[1..], &mut Vec::new(), |_| panic!("emitted"));
        assert_eq!(refused, Err(DropReason::BadOffload));
    }

    #[test]
    fn a_frame_without_offload_passes_untouched() {
        let frame = [0x5a; 60];
        let checked = describe(super::super::Offload::NONE, &frame, 60).unwrap();
        let mut seen = Vec::new();
        segment(&checked, &frame, &mut Vec::new(), |frame| seen.push(frame.to_vec())).unwrap();
        assert_eq!(seen, [frame.to_vec()]);
    }

    proptest! {
        #[test]
        fn segments_are_sound_and_carry_the_payload(recipe in recipe()) {
            let segments = cut(&recipe);
            prop_assert_eq!(segments.len(), recipe.segments());
            let mut carried = Vec::new();
            for (index, segment) in segments.iter().enumerate() {
                prop_assert!(segment.payload.len() <= usize::from(recipe.gso_size));
                if recipe.protocol == Protocol::Tcp {
                    let at = recipe.sequence.wrapping_add(carried.len() as u32);
                    prop_assert_eq!(segment.sequence, at);
                }
                if recipe.family == Family::V4 {
                    let expected = recipe.identification.wrapping_add(index as u16);
                    prop_assert_eq!(segment.identification, expected);
                }
                carried.extend_from_slice(&segment.payload);
            }
            prop_assert_eq!(carried, recipe.payload());
        }
    }
}
