//! A frame on its way: what it is, and its bytes, wherever they lie.

use std::ops::Range;

use bytes::{BufMut, Bytes};

use super::Description;

/// A frame and what is known of it.
pub struct Frame<'a> {
    /// What it is.
    pub what: &'a Description,
    /// As long as that says.
    pub bytes: FrameBytes<'a>,
}

/// The bytes of a frame, from the destination MAC on. The first piece holds the headers, and nobody writes to it while the frame is on its way.
#[derive(Debug)]
pub enum FrameBytes<'a> {
    /// In one piece, copied by whoever has to keep it.
    Whole(&'a [u8]),
    /// In one piece that can be kept for a while.
    Shared(&'a Bytes),
    /// In pieces as they came out of the tunnel; whoever takes the frame may drain them.
    Pieces(&'a mut Vec<Bytes>),
}

/// Buffers that software segmentation uses again and again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// A frame that came in pieces.
    pub(crate) whole: Vec<u8>,
    /// A segment.
    pub(crate) segment: Vec<u8>,
}

impl Frame<'_> {
    /// The same frame for one more taker. Of pieces that one drains nothing is left.
    pub fn again(&mut self) -> Frame<'_> {
        Frame { what: self.what, bytes: self.bytes.again() }
    }
}

impl FrameBytes<'_> {
    /// The same bytes for one more taker; see [`Frame::again`].
    pub fn again(&mut self) -> FrameBytes<'_> {
        match self {
            Self::Whole(bytes) => FrameBytes::Whole(bytes),
            Self::Shared(bytes) => FrameBytes::Shared(bytes),
            Self::Pieces(pieces) => FrameBytes::Pieces(pieces),
        }
    }

    /// Length of the frame, bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first piece, which holds the headers.
    #[inline]
    pub fn head(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Pieces(pieces) => pieces.first().map_or(&[][..], |head| head),
        }
    }

    /// Appends a part of the frame to `out`.
    #[inline]
    pub fn put(&self, part: Range<usize>, out: &mut impl BufMut) {
        match self {
            Self::Whole(bytes) => out.put_slice(&bytes[part]),
            Self::Shared(bytes) => out.put_slice(&bytes[part]),
            Self::Pieces(pieces) => put_pieces(pieces, part, out),
        }
    }

    /// The frame in one piece, for which pieces are joined in `buffer`.
    pub(crate) fn contiguous<'a>(&'a self, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Pieces(pieces) => {
                buffer.clear();
                pieces.iter().for_each(|piece| buffer.extend_from_slice(piece));
                buffer
            }
        }
    }
}

fn put_pieces(pieces: &[Bytes], part: Range<usize>, out: &mut impl BufMut) {
    let mut start = 0;
    for piece in pieces {
        let (from, to) = (part.start.max(start), part.end.min(start + piece.len()));
        if from < to {
            out.put_slice(&piece[from - start..to - start]);
        }
        start += piece.len();
    }
}
