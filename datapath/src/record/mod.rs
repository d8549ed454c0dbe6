//! The overlay record stream: frames to QUIC DATAGRAM payloads and back (`docs/WIRE.md`, "Frames in QUIC DATAGRAMs").
//!
//! [`RecordWriter`] fills datagrams exactly, cutting frames where a datagram ends, so that a burst becomes one train of
//! equal packets. [`RecordCursor`] reads a datagram's records. [`Reassembler`] joins pieces, keeps the order of frames
//! where the network kept the order of packets, and saves what it can of TCP superframes that lost pieces.
//! Nothing here does I/O or reads a clock.
#![forbid(unsafe_code)]

use bytes::Bytes;

pub(crate) mod arena;
mod decode;
mod encode;
#[cfg(feature = "testing")]
pub mod fuzzing;
mod held;
mod partial;
#[cfg(test)]
mod proptests;
mod reassemble;
mod salvage;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod testing;
mod window;

pub use decode::{FrameShape, Piece, Record, RecordCursor, WholeFrame, records};
pub use encode::{MIN_DATAGRAM_LEN, RecordWriter};
pub use reassemble::{
    DEFAULT_REORDERING_WAIT, FrameSink, RELEASE_AFTER_DATAGRAMS, Reassembler, ReassemblyStats,
    STALLED_WAIT,
};

use crate::frame::WIRE_OFFLOAD_LEN;

/// The number of a frame on one connection and direction, modulo 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Sequence(pub u32);

impl Sequence {
    /// The number of the frame after this one.
    #[must_use]
    #[inline]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// How many frames this one is after `origin`; negative if it is before (RFC 1982 arithmetic).
    #[inline]
    pub const fn distance_from(self, origin: Self) -> i32 {
        self.0.wrapping_sub(origin.0).cast_signed()
    }
}

/// Values of a record's first byte.
mod kind {
    pub(super) const PADDING: u8 = 0;
    pub(super) const WHOLE: u8 = 1;
    pub(super) const WHOLE_OFFLOAD: u8 = 2;
    pub(super) const FIRST: u8 = 3;
    pub(super) const PIECE: u8 = 4;
    pub(super) const PIECE_TEMPLATE: u8 = 5;
}

/// The first frame that begins in a datagram of [`RecordWriter`]'s, or the one after it if only a piece of one is in it.
#[inline]
pub(crate) fn first_begun(datagram: &[u8]) -> Sequence {
    let Some(&[kind, _, _, a, b, c, d]) = datagram.first_chunk() else {
        return Sequence::default();
    };
    let frame = Sequence(u32::from_be_bytes([a, b, c, d]));
    match kind {
        kind::PIECE | kind::PIECE_TEMPLATE => frame.next(),
        _ => frame,
    }
}

/// What follows the pieces at the beginning of a datagram of [`RecordWriter`]'s: whole frames, if it is the last of a burst.
pub(crate) fn whole_frames(datagram: &Bytes) -> Bytes {
    let mut at = 0;
    while let Some(&[kind::FIRST | kind::PIECE | kind::PIECE_TEMPLATE, high, low]) =
        datagram.get(at..).and_then(<[u8]>::first_chunk)
    {
        at += RECORD_HEAD_LEN + usize::from(u16::from_be_bytes([high, low]));
    }
    datagram.slice(at.min(datagram.len())..)
}

/// Kind and length of the body.
const RECORD_HEAD_LEN: usize = 3;
/// A record's bytes before the frame's, by kind; for [`kind::PIECE_TEMPLATE`] without the template.
const WHOLE_LEN: usize = RECORD_HEAD_LEN + 4;
const WHOLE_OFFLOAD_LEN: usize = WHOLE_LEN + WIRE_OFFLOAD_LEN;
const FIRST_LEN: usize = RECORD_HEAD_LEN + 4 + 4 + WIRE_OFFLOAD_LEN;
const PIECE_LEN: usize = RECORD_HEAD_LEN + 4 + 4;
const PIECE_TEMPLATE_LEN: usize = PIECE_LEN + 4 + WIRE_OFFLOAD_LEN + 2;
