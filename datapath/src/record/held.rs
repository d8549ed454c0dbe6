//! The frames that cannot be delivered yet: incomplete ones, and complete ones behind them.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

use crate::{drops::DropReason, frame::Offload};

use super::{
    Piece, Sequence, WholeFrame,
    arena::{Arena, Exhausted},
    partial::{Overtaken, Partial},
};

/// Frames in pieces that are held at a time. Between a loss and its release come 16 datagrams, each of which completes
/// at most one; the rest is for reordering.
const PARTIALS_MAX: usize = 64;
/// Frames that are held at a time, complete ones included: 16 datagrams of 64 frames.
const FRAMES_MAX: usize = 1_024;
/// Bytes that are held at a time, bookkeeping included: 64 superframes.
pub(super) const HELD_MAX: usize = 4 * 1_024 * 1_024;
/// Bookkeeping of a frame, bytes.
const FRAME_COST: usize = 128;
/// Empty partial frames that are kept for use. A loss among frames of 1,500 bytes holds one for each of the 16 datagrams
/// that are waited for.
const SPARE_MAX: usize = 32;

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

/// Ordered by sequence number. All numbers are within one window, so that their order is unambiguous.
#[derive(Debug, Default)]
pub(super) struct HeldFrames {
    frames: VecDeque<Held>,
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

    /// How many frames are held.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Bytes that are held, bookkeeping included.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Whether more is held than may be.
    #[inline]
    pub(super) fn is_over_bounds(&self) -> bool {
        self.partials > PARTIALS_MAX || self.frames.len() > FRAMES_MAX || self.cost > HELD_MAX
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
        now: Instant,
        batch: u64,
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
        self.cost += partial.insert(piece.offset, piece.shape, bytes, batch)?;
        partial.last_arrival = Some(now);
        Ok(partial)
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
    pub(super) fn overtake(&mut self, overtaken: Overtaken) {
        if let Some(Held { frame: HeldFrame::Partial(partial), .. }) = self.frames.back_mut() {
            partial.overtaken.get_or_insert(overtaken);
        }
    }

    /// Copies what came in batches before `before` out of the receive buffers.
    pub(super) fn copy_out(&mut self, before: u64, arena: &mut Arena) -> Result<(), Exhausted> {
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
