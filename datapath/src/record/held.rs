//! The frames that cannot be delivered yet: incomplete ones, complete ones behind them, and incomplete ones that hold back others no longer.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

use crate::{counters::drops::DropReason, frame::Offload};

use super::{
    Piece, Sequence, WholeFrame,
    arena::{Arena, Exhausted},
    partial::{Gap, Partial},
};

/// Frames in pieces that are held at a time. A hole is no reordering any more when more than a train has come behind it, a frame with each datagram.
const PARTIALS_MAX: usize = 64;
/// Frames that are held at a time, complete ones included: 16 datagrams of 64 frames.
const FRAMES_MAX: usize = 1_024;
/// Frames that hold back others no longer and may still get pieces. One for each loss within the second that they are kept, on a path that
/// loses so many; beyond that the oldest go, of which least can be expected.
const LATE_MAX: usize = 32;
/// Bytes that are held at a time, bookkeeping included: 64 superframes.
pub(super) const HELD_MAX: usize = 4 * 1_024 * 1_024;
/// Bookkeeping of a frame, bytes.
const FRAME_COST: usize = 128;
/// Empty partial frames that are kept for use: as many as there can be.
const SPARE_MAX: usize = PARTIALS_MAX + LATE_MAX;

/// A frame that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) sequence: Sequence,
    pub(super) frame: HeldFrame,
}

/// What has come of it.
#[derive(Debug)]
pub(super) enum HeldFrame {
    /// It came in one record.
    Whole {
        /// Its vnet header.
        offload: Offload,
        /// Its bytes.
        bytes: Bytes,
        /// Receive batch in which it came; none once it was copied.
        batch: Option<u64>,
    },
    /// Some pieces, or all of them.
    Partial(Box<Partial>),
}

/// An incomplete frame that holds back others no longer.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) sequence: Sequence,
    /// When it is given up.
    pub(super) until: Instant,
    pub(super) partial: Box<Partial>,
}

/// When a piece came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) batch: u64,
}

#[derive(Debug, Default)]
pub(super) struct HeldFrames {
    /// Ordered by sequence number. All numbers are within one window, so that their order is unambiguous.
    frames: VecDeque<Held>,
    /// In the order in which they are given up.
    late: VecDeque<Late>,
    partials: usize,
    cost: usize,
    #[expect(
        clippy::vec_box,
        reason = "a partial frame moves between here and the queue by its box"
    )]
    spare: Vec<Box<Partial>>,
}

impl HeldFrames {
    #[inline]
    pub(super) fn front(&self) -> Option<&Held> {
        self.frames.front()
    }

    pub(super) fn pop_front(&mut self) -> Option<Held> {
        let held = self.frames.pop_front()?;
        self.cost -= match &held.frame {
            HeldFrame::Whole { bytes, .. } => FRAME_COST + bytes.len(),
            HeldFrame::Partial(partial) => {
                self.partials -= 1;
                FRAME_COST + partial.cost()
            }
        };
        Some(held)
    }

    /// Holds a frame in pieces before all others.
    pub(super) fn push_front(&mut self, sequence: Sequence, partial: Box<Partial>) {
        self.cost += FRAME_COST + partial.cost();
        self.partials += 1;
        self.frames.push_front(Held { sequence, frame: HeldFrame::Partial(partial) });
    }

    /// How many frames are held.
    pub(super) fn len(&self) -> usize {
        self.frames.len() + self.late.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.late.is_empty()
    }

    /// Bytes that are held, bookkeeping included.
    #[cfg(feature = "testing")]
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Whether more frames hold back others, or wait behind one, than may.
    #[inline]
    pub(super) fn has_too_many(&self) -> bool {
        self.partials > PARTIALS_MAX || self.frames.len() > FRAMES_MAX
    }

    /// Whether what is held costs more than it may.
    #[inline]
    pub(super) fn costs_too_much(&self) -> bool {
        self.cost > HELD_MAX
    }

    /// Holds a frame that came whole.
    ///
    /// # Errors
    /// [`DropReason::BadPiece`]: something of that number is held already.
    pub(super) fn insert_whole(
        &mut self,
        whole: &WholeFrame,
        bytes: Bytes,
        batch: u64,
    ) -> Result<(), DropReason> {
        let sequence = whole.sequence;
        let at = self.place(sequence);
        if self.is_at(at, sequence) {
            return Err(DropReason::BadPiece);
        }
        self.cost += FRAME_COST + bytes.len();
        let frame = HeldFrame::Whole { offload: whole.offload, bytes, batch: Some(batch) };
        self.frames.insert(at, Held { sequence, frame });
        Ok(())
    }

    /// Adds a piece to the frame of its number, or makes a new one of it; gives the frame.
    ///
    /// # Errors
    /// [`DropReason::BadPiece`]: the piece contradicts what is held already.
    pub(super) fn insert_piece(
        &mut self,
        piece: &Piece,
        bytes: Bytes,
        arrival: Arrival,
    ) -> Result<&mut Partial, DropReason> {
        let sequence = piece.sequence;
        let last = self.frames.len().wrapping_sub(1);
        let at = if self.is_at(last, sequence) { last } else { self.place(sequence) };
        if !self.is_at(at, sequence) {
            let partial = self.spare.pop().unwrap_or_default();
            self.frames.insert(at, Held { sequence, frame: HeldFrame::Partial(partial) });
            self.partials += 1;
            self.cost += FRAME_COST;
        }
        let HeldFrame::Partial(partial) = &mut self.frames[at].frame else {
            return Err(DropReason::BadPiece);
        };
        self.cost += partial.insert(piece.offset, piece.shape, bytes, arrival.batch)?;
        partial.last_arrival = Some(arrival.at);
        Ok(partial)
    }

    /// Adds a piece to a late frame; gives the frame.
    ///
    /// # Errors
    /// As [`HeldFrames::insert_piece`].
    pub(super) fn insert_late_piece(
        &mut self,
        index: usize,
        piece: &Piece,
        bytes: Bytes,
        arrival: Arrival,
    ) -> Result<&mut Partial, DropReason> {
        let partial = &mut self.late[index].partial;
        self.cost += partial.insert(piece.offset, piece.shape, bytes, arrival.batch)?;
        Ok(partial)
    }

    /// Where among the late frames this one is.
    pub(super) fn late_index(&self, sequence: Sequence) -> Option<usize> {
        self.late.iter().position(|late| late.sequence == sequence)
    }

    /// The late frame that is given up first.
    #[inline]
    pub(super) fn first_late(&self) -> Option<&Late> {
        self.late.front()
    }

    /// Lets a frame that was taken from the front wait without holding back others, until a time that is no earlier than those of before.
    pub(super) fn put_late(&mut self, late: Late) {
        self.cost += FRAME_COST + late.partial.cost();
        self.late.push_back(late);
    }

    pub(super) fn take_late(&mut self, index: usize) -> Option<Late> {
        let late = self.late.remove(index)?;
        self.cost -= FRAME_COST + late.partial.cost();
        Some(late)
    }

    /// Whether there are more late frames than may be.
    pub(super) fn has_too_many_late(&self) -> bool {
        self.late.len() > LATE_MAX
    }

    /// Shows the late frames that something came of since they were shown last; pieces may be taken out.
    pub(super) fn flush_late(&mut self, mut flush: impl FnMut(&mut Partial)) {
        for late in self.late.iter_mut().filter(|late| !late.partial.is_flushed) {
            self.cost -= late.partial.cost();
            flush(&mut late.partial);
            self.cost += late.partial.cost();
        }
    }

    fn is_at(&self, at: usize, sequence: Sequence) -> bool {
        self.frames.get(at).is_some_and(|held| held.sequence == sequence)
    }

    /// Takes a partial frame back for later use.
    pub(super) fn recycle(&mut self, mut partial: Box<Partial>) {
        if self.spare.len() < SPARE_MAX {
            partial.clear();
            self.spare.push(partial);
        }
    }

    /// A record of a later number than all of these came. Only the last can be new to that.
    pub(super) fn overtake(&mut self, gap: Gap) {
        if let Some(Held { frame: HeldFrame::Partial(partial), .. }) = self.frames.back_mut() {
            partial.gap.get_or_insert(gap);
        }
    }

    /// Copies what came in batches before `before` out of the receive buffers.
    pub(super) fn copy_out(&mut self, before: u64, arena: &mut Arena) -> Result<(), Exhausted> {
        for late in &mut self.late {
            late.partial.copy_out(before, arena)?;
        }
        for held in &mut self.frames {
            match &mut held.frame {
                HeldFrame::Partial(partial) => partial.copy_out(before, arena)?,
                HeldFrame::Whole { bytes, batch, .. } => {
                    if batch.is_some_and(|batch| batch < before) {
                        *bytes = arena.copy(bytes)?;
                        *batch = None;
                    }
                }
            }
        }
        Ok(())
    }

    fn place(&self, sequence: Sequence) -> usize {
        self.frames.partition_point(|held| held.sequence.distance_from(sequence) < 0)
    }
}
