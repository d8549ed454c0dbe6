//! Software segmentation: a superframe becomes the frames that a wire would carry.
//!
//! For egress to a port that lacks the offload. The segments are those that Linux's own segmentation makes: IPv4
//! identification counts up, CWR stays on the first alone (RFC 3168 section 6.1.2), FIN and PSH on the last, and each
//! checksum is complete. The checksum is made anew from the pseudo-header; what the superframe's field held does not
//! matter.

use super::{
    CheckedOffload, Gso,
    checksum::{complete_until, finish, sum},
    rewrite::{Part, put_u16, rewrite_headers},
};
use crate::drops::DropReason;

/// Hands `emit` each frame of which the checked one consists, in order, with complete checksums.
///
/// A plain frame is emitted once. `scratch` holds each segment while `emit` runs; reused, it stops allocating.
///
/// # Errors
/// [`DropReason::BadOffload`], before anything is emitted, if `frame` is not the one that was checked.
pub fn segment(
    checked: &CheckedOffload,
    frame: &[u8],
    scratch: &mut Vec<u8>,
    mut emit: impl FnMut(&[u8]),
) -> Result<(), DropReason> {
    if frame.len() != checked.total_len() {
        return Err(DropReason::BadOffload);
    }
    let offload = checked.offload();
    if offload.gso != Gso::None {
        return segment_superframe(checked, frame, scratch, emit);
    }
    if !offload.needs_csum {
        emit(frame);
        return Ok(());
    }
    scratch.clear();
    scratch.extend_from_slice(frame);
    complete_until(offload, checked.headers().ip.map(|ip| ip.end as usize), scratch)?;
    emit(scratch);
    Ok(())
}

fn segment_superframe(
    checked: &CheckedOffload,
    frame: &[u8],
    scratch: &mut Vec<u8>,
    mut emit: impl FnMut(&[u8]),
) -> Result<(), DropReason> {
    let offload = checked.offload();
    let ip = checked.headers().ip.ok_or(DropReason::BadOffload)?;
    let (headers, payload) = frame.split_at(usize::from(checked.headers_len()));
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
        let pseudo = rewrite_headers(scratch, checked, &ip, part);
        let checksum = finish(pseudo + sum(&scratch[l4_start..]) + sum(bytes));
        put_u16(scratch, checksum_at, checksum);
        scratch.extend_from_slice(bytes);
        emit(scratch);
    }
    Ok(())
}
