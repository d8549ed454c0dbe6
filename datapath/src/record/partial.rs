//! The pieces of one frame.

use std::{ops::Range, time::Instant};

use bytes::{Buf, Bytes};

use crate::{counters::drops::DropReason, frame::MAX_HEADERS_LEN};

use super::{
    FrameShape,
    arena::{Arena, Exhausted},
};

/// What a delivered frame's first piece holds at least, unless the frame is shorter: enough for all headers.
pub(super) const HEAD_LEN: usize = 256;
/// More pieces than the longest frame makes in the shortest datagrams. Without a bound a peer could have us move megabytes
/// around for each byte that it sends.
const MAX_PIECES: usize = 512;
/// Pieces of the longest frame on a path of 1,200 bytes: room for so many is made at once.
const USUAL_PIECES: usize = 64;
/// Bookkeeping of a piece, bytes, so that one-byte pieces are not taken for free.
const PIECE_COST: usize = 64;

/// When something came that belongs behind bytes that had not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    /// When.
    pub(super) at: Instant,
    /// How many datagrams had come by then.
    pub(super) datagrams: u64,
}

/// A frame of which some pieces have come. Its vectors are used again for other frames.
#[derive(Debug)]
pub(super) struct Partial {
    /// The first sign that a piece is lost or late: a later piece, or a later frame.
    pub(super) gap: Option<Gap>,
    /// When its latest piece came.
    pub(super) last_arrival: Option<Instant>,
    /// Since its latest piece came, what could be delivered of it was.
    pub(super) is_flushed: bool,
    pub(super) shape: Option<FrameShape>,
    /// The frame's headers, from a piece with a template; empty if there was none.
    pub(super) template: Vec<u8>,
    /// Ordered by offset, not overlapping. Those that were delivered are empty.
    pieces: Vec<Bytes>,
    /// One for each piece.
    marks: Vec<Mark>,
    received_len: usize,
    delivered_len: usize,
    /// Receive batch of the oldest piece that is still a slice of a receive buffer.
    oldest_batch: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    start: usize,
    end: usize,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    ReceiveBuffer,
    Copied,
    Delivered,
}

/// Pieces without a hole between them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// Which of the pieces.
    pub(super) pieces: Range<usize>,
    /// Which bytes of the frame.
    pub(super) bytes: Range<usize>,
}

impl Default for Partial {
    fn default() -> Self {
        Self {
            gap: None,
            last_arrival: None,
            is_flushed: false,
            shape: None,
            template: Vec::with_capacity(MAX_HEADERS_LEN),
            pieces: Vec::with_capacity(USUAL_PIECES),
            marks: Vec::with_capacity(USUAL_PIECES),
            received_len: 0,
            delivered_len: 0,
            oldest_batch: None,
        }
    }
}

impl Partial {
    /// Forgets the frame, keeping the vectors.
    pub(super) fn clear(&mut self) {
        self.gap = None;
        self.last_arrival = None;
        self.is_flushed = false;
        self.shape = None;
        self.template.clear();
        self.pieces.clear();
        self.marks.clear();
        self.received_len = 0;
        self.delivered_len = 0;
        self.oldest_batch = None;
    }

    /// Adds a piece; gives the bytes that it costs to hold it.
    ///
    /// # Errors
    /// [`DropReason::BadPiece`]: it overlaps or contradicts what is there.
    pub(super) fn insert(
        &mut self,
        start: usize,
        shape: Option<FrameShape>,
        bytes: Bytes,
        batch: u64,
    ) -> Result<usize, DropReason> {
        let end = start + bytes.len();
        let known_end = self.marks.last().map_or(0, |last| last.end);
        let shape = match (self.shape, shape) {
            (Some(known), Some(told)) if known != told => return Err(DropReason::BadPiece),
            (known, told) => known.or(told),
        };
        if shape.is_some_and(|shape| end.max(known_end) > shape.total_len)
            || self.pieces.len() == MAX_PIECES
        {
            return Err(DropReason::BadPiece);
        }
        let mark = Mark { start, end, place: Place::ReceiveBuffer };
        let len = bytes.len();
        if start >= known_end {
            self.pieces.push(bytes);
            self.marks.push(mark);
        } else {
            let at = self.marks.partition_point(|mark| mark.start < start);
            if end > self.marks[at..].first().map_or(end, |next| next.start)
                || start < self.marks[..at].last().map_or(0, |previous| previous.end)
            {
                return Err(DropReason::BadPiece);
            }
            self.pieces.insert(at, bytes);
            self.marks.insert(at, mark);
        }
        self.shape = shape;
        self.is_flushed = false;
        self.received_len += len;
        self.oldest_batch.get_or_insert(batch);
        Ok(len + PIECE_COST)
    }

    /// Remembers a piece's copy of the headers, unless there is one already or it is too long to be one.
    #[inline]
    pub(super) fn keep_template(&mut self, template: &[u8]) {
        if self.template.is_empty() && template.len() <= MAX_HEADERS_LEN {
            self.template.extend_from_slice(template);
        }
    }

    #[inline]
    pub(super) fn is_complete(&self) -> bool {
        self.shape.is_some_and(|shape| shape.total_len == self.received_len)
    }

    /// Whether a piece has come that is behind one that has not.
    #[inline]
    pub(super) fn has_hole(&self) -> bool {
        self.marks.last().is_some_and(|last| last.end != self.received_len)
    }

    /// Whether nothing of it was delivered.
    #[inline]
    pub(super) fn is_untouched(&self) -> bool {
        self.delivered_len == 0
    }

    /// What the pieces cost, as [`Partial::insert`] counted, without the bytes of those that were delivered.
    pub(super) fn cost(&self) -> usize {
        self.received_len - self.delivered_len + self.pieces.len() * PIECE_COST
    }

    /// All pieces, in order; the first is not yet made long enough for delivery.
    pub(super) fn pieces(&mut self) -> &mut Vec<Bytes> {
        &mut self.pieces
    }

    /// The first run among the pieces from `from` on that were not delivered.
    pub(super) fn run(&self, from: usize) -> Option<Run> {
        let waits = |mark: &Mark| mark.place != Place::Delivered;
        let from = from + self.marks.get(from..)?.iter().position(waits)?;
        let joined = self.marks[from..]
            .windows(2)
            .take_while(|pair| pair[0].end == pair[1].start && waits(&pair[1]));
        let last = from + joined.count();
        Some(Run { pieces: from..last + 1, bytes: self.marks[from].start..self.marks[last].end })
    }

    /// Takes a piece out, to be delivered.
    pub(super) fn take(&mut self, piece: usize) -> Bytes {
        self.marks[piece].place = Place::Delivered;
        let bytes = std::mem::take(&mut self.pieces[piece]);
        self.delivered_len += bytes.len();
        bytes
    }

    /// Copies the pieces that came in batches before `before` out of the receive buffers, and any younger ones with them.
    pub(super) fn copy_out(&mut self, before: u64, arena: &mut Arena) -> Result<(), Exhausted> {
        if self.oldest_batch.is_none_or(|oldest| oldest >= before) {
            return Ok(());
        }
        for (mark, piece) in self.marks.iter_mut().zip(&mut self.pieces) {
            if mark.place == Place::ReceiveBuffer {
                *piece = arena.copy(piece)?;
                mark.place = Place::Copied;
            }
        }
        self.oldest_batch = None;
        Ok(())
    }
}

/// Sees to it that the first piece holds [`HEAD_LEN`] bytes, or the whole frame if it is shorter.
pub(super) fn gather_head(pieces: &mut Vec<Bytes>, heads: &mut Arena) {
    if pieces.len() < 2 || pieces[0].len() >= HEAD_LEN || heads.make_room(HEAD_LEN).is_err() {
        return;
    }
    let mut emptied = 0;
    for piece in pieces.iter_mut() {
        let len = piece.len().min(HEAD_LEN - heads.open_len());
        heads.open().extend_from_slice(&piece[..len]);
        if len < piece.len() {
            piece.advance(len);
            break;
        }
        emptied += 1;
    }
    // The first piece was shorter than the head, so at least that one is empty.
    pieces[emptied - 1] = heads.take(heads.open_len());
    pieces.drain(..emptied - 1);
}

#[cfg(test)]
mod tests {
    use crate::{frame::Offload, record::arena::WhenFull};

    use super::*;

    fn shape(total_len: usize) -> Option<FrameShape> {
        Some(FrameShape { total_len, offload: Offload::NONE })
    }

    fn insert(partial: &mut Partial, start: usize, len: usize) -> Result<usize, DropReason> {
        partial.insert(start, None, Bytes::from(vec![start as u8; len]), 0)
    }

    #[test]
    fn pieces_in_any_order_and_no_overlap() {
        let mut partial = Partial::default();
        for start in [20, 0, 30, 10] {
            assert_eq!(insert(&mut partial, start, 10), Ok(10 + PIECE_COST));
        }
        for (start, len) in [(0, 10), (5, 10), (35, 1), (15, 2), (29, 20), (0, 50)] {
            assert_eq!(insert(&mut partial, start, len), Err(DropReason::BadPiece), "{start}");
        }
        assert!(!partial.is_complete());
        let last = Bytes::from_static(&[40; 10]);
        assert_eq!(partial.insert(40, shape(45), last.clone(), 0), Err(DropReason::BadPiece));
        assert!(partial.insert(40, shape(50), last, 0).is_ok());
        assert!(partial.is_complete());
        assert_eq!(partial.cost(), 50 + 5 * PIECE_COST);
        let starts: Vec<u8> = partial.pieces().iter().map(|piece| piece[0]).collect();
        assert_eq!(starts, [0, 10, 20, 30, 40]);
    }

    #[test]
    fn a_contradicting_shape_is_refused() {
        let mut partial = Partial::default();
        assert!(partial.insert(0, shape(30), Bytes::from_static(&[0; 10]), 0).is_ok());
        let other = partial.insert(10, shape(40), Bytes::from_static(&[0; 10]), 0);
        assert_eq!(other, Err(DropReason::BadPiece));
        assert_eq!(insert(&mut partial, 25, 10), Err(DropReason::BadPiece));
    }

    #[test]
    fn runs_end_at_holes() {
        let mut partial = Partial::default();
        for start in [0, 10, 30, 50, 60] {
            insert(&mut partial, start, 10).unwrap();
        }
        let runs: Vec<_> = [0, 2, 3].iter().map(|from| partial.run(*from).unwrap().bytes).collect();
        assert_eq!(runs, [0..20, 30..40, 50..70]);
        assert_eq!(partial.run(3).unwrap().pieces, 3..5);
        assert_eq!(partial.run(5), None);
    }

    #[test]
    fn what_was_delivered_is_no_part_of_a_run_and_costs_no_bytes() {
        let mut partial = Partial::default();
        for start in [0, 10, 20, 30] {
            insert(&mut partial, start, 10).unwrap();
        }
        assert!(partial.is_untouched());
        assert_eq!(partial.take(1), [10; 10].as_slice());
        let runs: Vec<_> = [0, 1].iter().map(|from| partial.run(*from).unwrap().bytes).collect();
        assert_eq!(runs, [0..10, 20..40]);
        assert_eq!(partial.cost(), 30 + 4 * PIECE_COST);
        assert_eq!(insert(&mut partial, 12, 4), Err(DropReason::BadPiece));
        assert!(!partial.is_untouched() && !partial.has_hole());
    }

    #[test]
    fn the_number_of_pieces_is_bounded() {
        let mut partial = Partial::default();
        let taken = (0..1_000).rev().filter(|n| insert(&mut partial, n * 2, 1).is_ok()).count();
        assert_eq!(taken, MAX_PIECES);
    }

    #[test]
    fn a_head_is_gathered_from_as_many_pieces_as_it_takes() {
        let mut heads = Arena::new(1_024, 2, WhenFull::Replace);
        for lens in [&[300, 10][..], &[1, 1_000], &[100, 100, 56], &[100, 156, 7], &[9, 1, 2], &[5]]
        {
            let bytes: Vec<u8> = (0..lens.iter().sum::<usize>()).map(|n| n as u8).collect();
            let mut rest = Bytes::from(bytes.clone());
            let mut pieces: Vec<_> = lens.iter().map(|len| rest.split_to(*len)).collect();
            gather_head(&mut pieces, &mut heads);
            assert!(pieces[0].len() >= bytes.len().min(HEAD_LEN), "{lens:?}");
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
            assert_eq!(pieces.concat(), bytes);
        }
    }
}
