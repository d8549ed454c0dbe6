//! Datagrams into frames: the receiving half of the record stream.
//!
//! Almost always a record is a whole frame, or the next piece of the one frame that is in progress; that path does a
//! window bit and a push on a vector. The rest is for networks that lose and reorder packets.
//!
//! **Order.** A frame that has pieces and holes holds back the frames after it, so that TCP behind the tunnel does not see
//! a hole where there is only reordering, and sees the salvaged part of a superframe before what follows. It is given up
//! when [`RELEASE_AFTER_DATAGRAMS`] more datagrams came after one with a later frame, or after [`OVERTAKEN_WAIT`]: a
//! TCP frame's contiguous runs are delivered, another kind is dropped. A frame of which nothing came holds back nothing.
//!
//! **Memory.** Held pieces are slices of the receive buffers. [`Reassembler::unpin`], called after each receive batch,
//! copies those that stay for longer into chunks of our own, of which there is a fixed number. What is held is
//! bounded in frames, pieces and bytes; beyond that the oldest frame goes.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};

use crate::{drops::DropReason, frame::Offload};

use super::{
    Piece, RecordCursor, Sequence, WholeFrame,
    arena::{Arena, WhenFull},
    decode::Body,
    held::{Held, HeldFrame, HeldFrames},
    kind,
    partial::{Overtaken, Partial, gather_head},
    salvage::Salvager,
    window::{Standing, Window},
};

/// Datagrams for which an overtaken frame is waited for. Paths reorder by a few packets where they reorder at all (RFC 4737
/// and TCP's own threshold of 3 speak of such); every packet more is delay for all frames behind a real loss.
pub const RELEASE_AFTER_DATAGRAMS: u64 = 16;
/// Time for which an overtaken frame is waited for at most: the burst may have ended with fewer datagrams than that. Longer than
/// the spread of one train on a path of 10 Mbit/s, shorter than the shortest retransmission time-out of inner TCP.
pub const OVERTAKEN_WAIT: Duration = Duration::from_millis(5);
/// Time for which a frame is waited for that nothing has overtaken. It holds nothing back, and its rest may be
/// waiting for the far end's congestion window, which opens a round trip later: longer than any round trip.
pub const STALLED_WAIT: Duration = Duration::from_secs(1);
/// Receive batches for which a piece may stay in its receive buffer. One superframe is spread over a few reads; copying
/// half of each would cost as much as the tunnel's other copies.
const BATCHES_IN_RECEIVE_BUFFERS: u64 = 2;

/// Chunks of pieces that were copied: together as much as may be held.
const COPY_CHUNK_LEN: usize = 128 * 1_024;
const COPY_CHUNKS_MAX: usize = 32;
/// Chunks of gathered heads and rewritten headers, which live until the frame is written.
const HEAD_CHUNK_LEN: usize = 16 * 1_024;
const HEAD_CHUNKS_MAX: usize = 8;

/// Where frames go.
pub trait FrameSink {
    /// A frame: `pieces` are its bytes in order, none empty; the first holds at least 256 bytes, or the frame if that is shorter.
    ///
    /// The sink may take the pieces or only read them. The vector is cleared afterwards and used again.
    fn deliver(&mut self, offload: Offload, pieces: &mut Vec<Bytes>);

    /// Frames, or records that belong to no frame, were dropped.
    fn dropped(&mut self, reason: DropReason, frames: u64);
}

/// What came of the peer's frames, by their sequence numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReassemblyStats {
    /// Frames that were delivered as they were sent.
    pub delivered: u64,
    /// Frames with holes of which something was delivered.
    pub salvaged: u64,
    /// Segments that were made of them.
    pub salvaged_runs: u64,
    /// Frames with holes that were dropped, with their reason told to the sink.
    pub given_up: u64,
    /// Frames with a lower number than the latest of which nothing has come.
    pub missing: u64,
}

/// Puts together the frames of one connection.
#[derive(Debug)]
pub struct Reassembler {
    max_frame_len: usize,
    window: Window,
    held: HeldFrames,
    /// Datagrams so far.
    datagrams: u64,
    /// Receive batches so far.
    batch: u64,
    copies: Arena,
    heads: Arena,
    salvager: Salvager,
    /// A whole frame on its way to the sink.
    whole: Vec<Bytes>,
    /// Frames that the sequence numbers so far speak of.
    announced: u64,
    /// Without `missing`, which follows from the others.
    stats: ReassemblyStats,
}

impl Reassembler {
    /// For a peer that was told `max_frame_len`, bytes, as the largest frame.
    pub fn new(max_frame_len: usize) -> Self {
        Self {
            max_frame_len,
            window: Window::new(),
            held: HeldFrames::default(),
            datagrams: 0,
            batch: 0,
            copies: Arena::new(COPY_CHUNK_LEN, COPY_CHUNKS_MAX, WhenFull::Refuse),
            heads: Arena::new(HEAD_CHUNK_LEN, HEAD_CHUNKS_MAX, WhenFull::Replace),
            salvager: Salvager::default(),
            whole: Vec::with_capacity(1),
            announced: 0,
            stats: ReassemblyStats::default(),
        }
    }

    /// Takes one DATAGRAM's payload.
    #[inline]
    pub fn push(&mut self, now: Instant, mut datagram: Bytes, sink: &mut impl FrameSink) {
        self.datagrams += 1;
        let mut cursor = RecordCursor::default();
        while let Some(body) = cursor.next_body(&datagram) {
            let taken = match body {
                Some(body) => self.record(body, &mut datagram, cursor, now, sink),
                None => Err(DropReason::BadRecord),
            };
            if let Err(reason) = taken {
                sink.dropped(reason, 1);
            }
        }
        if self.held.front().is_some() {
            self.release_due(now, sink);
        }
    }

    /// When [`Reassembler::handle_timeout`] is due, if anything waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.held.front()?.frame {
            HeldFrame::Partial(partial) => deadline(partial),
            HeldFrame::Whole { .. } => None,
        }
    }

    /// Gives up what has waited for too long.
    pub fn handle_timeout(&mut self, now: Instant, sink: &mut impl FrameSink) {
        self.release_due(now, sink);
    }

    /// Gives up everything that waits: nothing comes any more.
    pub fn abandon(&mut self, sink: &mut impl FrameSink) {
        self.release(|_| true, sink);
    }

    /// Ends a receive batch: pieces that have stayed for a while are copied, so that they do not keep receive buffers of
    /// 64 KiB each from being used again. A receive buffer is pinned for the batch that filled it and the two after.
    pub fn unpin(&mut self, sink: &mut impl FrameSink) {
        self.batch += 1;
        if self.held.front().is_none() {
            return;
        }
        let before = self.batch.saturating_sub(BATCHES_IN_RECEIVE_BUFFERS);
        while self.held.copy_out(before, &mut self.copies).is_err() {
            self.settle_front(DropReason::ReassemblyFull, sink);
        }
        self.release(|_| false, sink);
    }

    /// Counters since the connection began.
    pub fn stats(&self) -> ReassemblyStats {
        let stats = self.stats;
        let seen = stats.delivered + stats.salvaged + stats.given_up + self.held.len() as u64;
        ReassemblyStats { missing: self.announced - seen, ..stats }
    }

    /// How many frames are held.
    pub(super) fn held_len(&self) -> usize {
        self.held.len()
    }

    /// Bytes that held frames cost, bookkeeping included.
    pub(super) fn held_cost(&self) -> usize {
        self.held.cost()
    }

    /// How many chunks copies take, free ones included.
    #[cfg(test)]
    pub(super) fn copied_chunks(&self) -> usize {
        self.copies.chunks()
    }

    #[inline]
    fn record(
        &mut self,
        body: Body,
        datagram: &mut Bytes,
        cursor: RecordCursor,
        now: Instant,
        sink: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        match body.kind {
            kind::WHOLE | kind::WHOLE_OFFLOAD => {
                let whole = body.whole(datagram).ok_or(DropReason::BadRecord)?;
                self.whole(&whole, datagram, cursor, now, sink)
            }
            kind::FIRST | kind::PIECE | kind::PIECE_TEMPLATE => {
                let piece = body.piece(datagram).ok_or(DropReason::BadRecord)?;
                self.piece(&piece, datagram, cursor, now, sink)
            }
            _ => Err(DropReason::UnknownRecord),
        }
    }

    #[inline]
    fn whole(
        &mut self,
        whole: &WholeFrame,
        datagram: &mut Bytes,
        cursor: RecordCursor,
        now: Instant,
        sink: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        if whole.frame.len() > self.max_frame_len {
            return Err(DropReason::BadRecord);
        }
        self.admit(whole.sequence, now, sink)?;
        let bytes = take(datagram, whole.frame.clone(), cursor);
        let waits = match self.held.front() {
            Some(front) => whole.sequence.distance_from(front.sequence) >= 0,
            None => false,
        };
        if waits {
            self.held.insert_whole(whole, bytes, self.batch)?;
            self.keep_bounds(sink);
        } else {
            self.deliver_whole(whole.offload, bytes, sink);
        }
        self.window.finish(whole.sequence);
        Ok(())
    }

    #[inline]
    fn piece(
        &mut self,
        piece: &Piece,
        datagram: &mut Bytes,
        cursor: RecordCursor,
        now: Instant,
        sink: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        if piece.shape.map_or(piece.end(), |shape| shape.total_len) > self.max_frame_len {
            return Err(DropReason::BadRecord);
        }
        self.admit(piece.sequence, now, sink)?;
        let bytes = if piece.template.is_empty() {
            take(datagram, piece.bytes.clone(), cursor)
        } else {
            datagram.slice(piece.bytes.clone())
        };
        let partial = self.held.insert_piece(piece, bytes, now, self.batch)?;
        if !piece.template.is_empty() {
            partial.keep_template(&datagram[piece.template.clone()]);
        }
        if !self.window.is_latest(piece.sequence) {
            partial.overtaken.get_or_insert(Overtaken { at: now, datagrams: self.datagrams });
        }
        if partial.is_complete() {
            self.window.finish(piece.sequence);
            self.release(|_| false, sink);
        }
        self.keep_bounds(sink);
        Ok(())
    }

    /// Whether a record of this number is still wanted. The latest number overtakes all held frames.
    #[inline]
    fn admit(
        &mut self,
        sequence: Sequence,
        now: Instant,
        sink: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        match self.window.standing(sequence) {
            Standing::Ahead => {
                self.announced += u64::from(self.window.advance_to(sequence));
                if self.held.front().is_some() {
                    self.overtake(now, sink);
                }
                Ok(())
            }
            Standing::Late => Ok(()),
            Standing::Finished | Standing::Stale => Err(DropReason::BadPiece),
        }
    }

    fn overtake(&mut self, now: Instant, sink: &mut impl FrameSink) {
        self.held.overtake(Overtaken { at: now, datagrams: self.datagrams });
        // The order of sequence numbers is only known within the window.
        while self
            .held
            .front()
            .is_some_and(|front| self.window.standing(front.sequence) == Standing::Stale)
        {
            self.settle_front(DropReason::Incomplete, sink);
        }
        self.release(|_| false, sink);
    }

    fn keep_bounds(&mut self, sink: &mut impl FrameSink) {
        while self.held.is_over_bounds() {
            self.settle_front(DropReason::ReassemblyFull, sink);
            self.release(|_| false, sink);
        }
    }

    /// Settles frames from the front until one has holes and is not due.
    #[inline]
    fn release(&mut self, is_due: impl Fn(&Partial) -> bool, sink: &mut impl FrameSink) {
        while self.held.front().is_some_and(|front| match &front.frame {
            HeldFrame::Whole { .. } => true,
            HeldFrame::Partial(partial) => partial.is_complete() || is_due(partial),
        }) {
            self.settle_front(DropReason::Incomplete, sink);
        }
    }

    #[inline]
    fn release_due(&mut self, now: Instant, sink: &mut impl FrameSink) {
        let datagrams = self.datagrams;
        let is_due = |partial: &Partial| {
            let by_count = partial.overtaken.is_some_and(|overtaken| {
                datagrams - overtaken.datagrams >= RELEASE_AFTER_DATAGRAMS
            });
            by_count || deadline(partial).is_some_and(|deadline| now >= deadline)
        };
        self.release(is_due, sink);
    }

    /// Delivers the first held frame if it is complete; otherwise what can be salvaged of it, or drops it.
    fn settle_front(&mut self, reason: DropReason, sink: &mut impl FrameSink) {
        let Some(Held { sequence, frame }) = self.held.pop_front() else { return };
        match frame {
            HeldFrame::Whole { offload, bytes, .. } => self.deliver_whole(offload, bytes, sink),
            HeldFrame::Partial(mut partial) => {
                match partial.shape {
                    Some(shape) if partial.is_complete() => {
                        gather_head(partial.pieces(), &mut self.heads);
                        sink.deliver(shape.offload, partial.pieces());
                        self.stats.delivered += 1;
                    }
                    _ => self.give_up(&mut partial, reason, sink),
                }
                self.window.finish(sequence);
                self.held.recycle(partial);
            }
        }
    }

    fn give_up(&mut self, partial: &mut Partial, reason: DropReason, sink: &mut impl FrameSink) {
        let deliver = |offload, pieces: &mut Vec<Bytes>| sink.deliver(offload, pieces);
        match self.salvager.salvage(partial, &mut self.heads, deliver) {
            0 => {
                self.stats.given_up += 1;
                sink.dropped(reason, 1);
            }
            runs => {
                self.stats.salvaged += 1;
                self.stats.salvaged_runs += runs;
            }
        }
    }

    #[inline]
    fn deliver_whole(&mut self, offload: Offload, bytes: Bytes, sink: &mut impl FrameSink) {
        self.stats.delivered += 1;
        self.whole.push(bytes);
        sink.deliver(offload, &mut self.whole);
        self.whole.clear();
    }
}

fn deadline(partial: &Partial) -> Option<Instant> {
    match partial.overtaken {
        Some(overtaken) => Some(overtaken.at + OVERTAKEN_WAIT),
        None => partial.last_arrival.map(|at| at + STALLED_WAIT),
    }
}

/// A record's bytes; the datagram's last record takes the datagram itself, which saves touching its reference count.
#[inline]
fn take(datagram: &mut Bytes, range: Range<usize>, cursor: RecordCursor) -> Bytes {
    if !cursor.is_done(datagram) {
        return datagram.slice(range);
    }
    let mut last = std::mem::take(datagram);
    last.truncate(range.end);
    last.advance(range.start);
    last
}
