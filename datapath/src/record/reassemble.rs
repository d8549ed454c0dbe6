//! Datagrams into frames: the receiving half of the record stream.
//!
//! Almost always a record is a whole frame, or the next piece of the one frame that is in progress; that path does a
//! window bit and a push on a vector. The rest is for networks that lose and reorder packets.
//!
//! **Order.** A frame with holes holds back the frames after it, so that TCP behind the tunnel does not see a hole where there
//! is only reordering, and sees the salvaged part of a superframe before what follows. That ends when
//! [`RELEASE_AFTER_DATAGRAMS`] more datagrams came after the first that showed the hole, or after a part of the path's
//! round-trip time ([`Reassembler::set_reordering_wait`]): what has come of a TCP frame is delivered, each contiguous run as a segment of its own, and
//! the frame holds back nobody any more. What comes of it later is delivered late, as the path would have done it without the tunnel; a
//! frame that is not TCP is delivered late if it becomes whole. A frame of which nothing came holds back nothing.
//!
//! A TCP frame that nothing has overtaken is delivered as far as it came when its rest is late by a round trip: the end of a burst may be
//! lost, and nothing come behind it until the sender's TCP has noticed.
//!
//! **Memory.** Held pieces are slices of the receive buffers. [`Reassembler::end_batch`] copies those that stay for longer
//! into chunks of our own, of which there is a fixed number. What is held is bounded in frames, pieces and bytes; beyond that
//! the oldest frame goes.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};

use crate::{counters::drops::DropReason, frame::Offload};

use super::{
    Piece, RecordCursor, Sequence, WholeFrame,
    arena::{Arena, WhenFull},
    decode::Body,
    held::{Arrival, Held, HeldFrame, HeldFrames, Late},
    kind,
    partial::{Gap, Partial, gather_head},
    salvage::Salvager,
    window::{Age, Window},
};

/// Datagrams that may follow the first that shows a hole before the hole counts as a loss. As many as TCP goes by (RFC 5681 section 3.2):
/// every one more is delay for all that is behind a real loss, and with the small windows of lossy paths often nothing more comes.
pub const RELEASE_AFTER_DATAGRAMS: u64 = 3;
/// Time after which a hole counts as a loss at the latest, until the path's round-trip time is known.
pub const DEFAULT_REORDERING_WAIT: Duration = Duration::from_millis(1);
/// The rest of a frame behind which nothing came is waited for so many times longer. With the reordering wait a quarter of the round trip this is
/// a whole one: there is no sign yet that anything is lost, and a sender may have lost the processor in the middle of a frame.
const REST_WAIT: u32 = 4;
/// Time for which the rest of a frame is waited for while that holds back nobody: longer than any round trip.
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
    /// Frames that were delivered in part, or in parts.
    pub salvaged: u64,
    /// Segments that were made of them.
    pub salvaged_runs: u64,
    /// Frames with holes that were dropped, with their reason told to the sink.
    pub given_up: u64,
    /// Frames with a lower number than the latest of which nothing has come.
    pub missing: u64,
}

impl ReassemblyStats {
    /// What came between an earlier state and this one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            delivered: self.delivered - earlier.delivered,
            salvaged: self.salvaged - earlier.salvaged,
            salvaged_runs: self.salvaged_runs - earlier.salvaged_runs,
            given_up: self.given_up - earlier.given_up,
            missing: self.missing - earlier.missing,
        }
    }
}

/// Puts together the frames of one connection.
#[derive(Debug)]
pub struct Reassembler {
    max_frame_len: usize,
    reordering_wait: Duration,
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
            reordering_wait: DEFAULT_REORDERING_WAIT,
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
    }

    /// For how long a hole may be reordering, by what is known of the path.
    pub fn set_reordering_wait(&mut self, wait: Duration) {
        self.reordering_wait = wait;
    }

    /// Ends a receive batch: settles what has waited for long enough, and copies pieces that have stayed for a while, so that they do
    /// not keep receive buffers of 64 KiB each from being used again. A receive buffer is pinned for the batch that filled it
    /// and the two after.
    pub fn end_batch(&mut self, now: Instant, sink: &mut impl FrameSink) {
        self.batch += 1;
        if self.held.is_empty() {
            return;
        }
        self.settle_due(now, sink);
        let before = self.batch.saturating_sub(BATCHES_IN_RECEIVE_BUFFERS);
        while self.held.copy_out(before, &mut self.copies).is_err() {
            self.drop_oldest(now, sink);
        }
    }

    /// When [`Reassembler::handle_timeout`] is due, if anything waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let late = self.held.first_late().map(|late| late.until);
        let front = self.held.front().and_then(|held| match &held.frame {
            HeldFrame::Partial(partial) => self.deadline(held.sequence, partial),
            HeldFrame::Whole { .. } => None,
        });
        late.into_iter().chain(front).min()
    }

    /// Settles what has waited for long enough.
    pub fn handle_timeout(&mut self, now: Instant, sink: &mut impl FrameSink) {
        self.settle_due(now, sink);
    }

    /// Gives up everything that waits: nothing comes any more.
    pub fn abandon(&mut self, sink: &mut impl FrameSink) {
        while let Some(late) = self.held.take_late(0) {
            self.conclude(late.sequence, late.partial, DropReason::Incomplete, sink);
        }
        while self.held.front().is_some() {
            self.conclude_front(sink);
        }
    }

    /// Counters since the connection began.
    pub fn stats(&self) -> ReassemblyStats {
        let stats = self.stats;
        let seen = stats.delivered + stats.salvaged + stats.given_up + self.held.len() as u64;
        ReassemblyStats { missing: self.announced - seen, ..stats }
    }

    /// How many frames are held.
    #[cfg(feature = "testing")]
    pub(super) fn held_len(&self) -> usize {
        self.held.len()
    }

    /// Bytes that held frames cost, bookkeeping included.
    #[cfg(feature = "testing")]
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
        match self.admit(whole.sequence, now, sink) {
            Age::Finished => return Err(DropReason::Repeated),
            Age::Stale => return Err(DropReason::BadPiece),
            Age::Late if self.held.late_index(whole.sequence).is_some() => {
                return Err(DropReason::BadPiece);
            }
            Age::Ahead | Age::Late => {}
        }
        let bytes = take(datagram, whole.frame.clone(), cursor);
        let waits = match self.held.front() {
            Some(front) => whole.sequence.distance_from(front.sequence) >= 0,
            None => false,
        };
        if waits {
            self.held.insert_whole(whole, bytes, self.batch)?;
            self.keep_bounds(now, sink);
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
        let late = match self.admit(piece.sequence, now, sink) {
            Age::Finished | Age::Stale => return Err(DropReason::BadPiece),
            Age::Late => self.held.late_index(piece.sequence),
            Age::Ahead => None,
        };
        let bytes = if piece.template.is_empty() {
            take(datagram, piece.bytes.clone(), cursor)
        } else {
            datagram.slice(piece.bytes.clone())
        };
        let arrival = Arrival { at: now, batch: self.batch };
        let partial = match late {
            Some(index) => self.held.insert_late_piece(index, piece, bytes, arrival)?,
            None => self.held.insert_piece(piece, bytes, arrival)?,
        };
        if !piece.template.is_empty() {
            partial.keep_template(&datagram[piece.template.clone()]);
        }
        if !self.window.is_latest(piece.sequence) || partial.has_hole() {
            partial.gap.get_or_insert(Gap { at: now, datagrams: self.datagrams });
        } else {
            partial.gap = None;
        }
        if partial.is_complete() {
            self.window.finish(piece.sequence);
            match late.and_then(|index| self.held.take_late(index)) {
                Some(Late { sequence, partial, .. }) => {
                    self.conclude(sequence, partial, DropReason::Incomplete, sink);
                }
                None => self.deliver_complete(sink),
            }
        }
        self.keep_bounds(now, sink);
        Ok(())
    }

    /// How a record of this number stands to those before. The latest number overtakes all held frames.
    #[inline]
    fn admit(&mut self, sequence: Sequence, now: Instant, sink: &mut impl FrameSink) -> Age {
        let age = self.window.age(sequence);
        if age == Age::Ahead {
            self.announced += u64::from(self.window.advance_to(sequence));
            if self.held.front().is_some() {
                self.overtake(now, sink);
            }
        }
        age
    }

    fn overtake(&mut self, now: Instant, sink: &mut impl FrameSink) {
        self.held.overtake(Gap { at: now, datagrams: self.datagrams });
        // The order of sequence numbers is only known within the window.
        while self.held.front().is_some_and(|front| self.window.age(front.sequence) == Age::Stale) {
            self.pass_by_front(now, sink);
        }
        self.deliver_complete(sink);
    }

    fn keep_bounds(&mut self, now: Instant, sink: &mut impl FrameSink) {
        while self.held.has_too_many() {
            self.pass_by_front(now, sink);
            self.deliver_complete(sink);
        }
        while self.held.costs_too_much() {
            self.drop_oldest(now, sink);
        }
    }

    /// Makes room: the late frame that has waited for longest goes, or the frame at the front becomes a late one.
    fn drop_oldest(&mut self, now: Instant, sink: &mut impl FrameSink) {
        match self.held.take_late(0) {
            Some(late) => {
                self.conclude(late.sequence, late.partial, DropReason::ReassemblyFull, sink);
            }
            None => {
                self.pass_by_front(now, sink);
                self.deliver_complete(sink);
            }
        }
    }

    /// Delivers complete frames from the front on.
    #[inline]
    fn deliver_complete(&mut self, sink: &mut impl FrameSink) {
        while self.held.front().is_some_and(|front| match &front.frame {
            HeldFrame::Whole { .. } => true,
            HeldFrame::Partial(partial) => partial.is_complete(),
        }) {
            self.conclude_front(sink);
        }
    }

    /// What has waited for long enough is delivered as far as it came, holds back others no longer, or is given up.
    fn settle_due(&mut self, now: Instant, sink: &mut impl FrameSink) {
        while self.held.first_late().is_some_and(|late| late.until <= now) {
            let Some(late) = self.held.take_late(0) else { break };
            self.conclude(late.sequence, late.partial, DropReason::Incomplete, sink);
        }
        let Self { held, salvager, heads, stats, .. } = self;
        held.flush_late(|partial| flush(partial, salvager, heads, stats, sink));
        while let Some(Held { sequence, frame: HeldFrame::Partial(partial) }) = self.held.front() {
            let is_overtaken = !self.window.is_latest(*sequence);
            let is_flushed = partial.is_flushed;
            let shown_by_datagrams = partial.gap.map_or(0, |gap| self.datagrams - gap.datagrams);
            let is_due = shown_by_datagrams >= RELEASE_AFTER_DATAGRAMS
                && (is_overtaken || !is_flushed)
                || self.deadline(*sequence, partial).is_some_and(|deadline| deadline <= now);
            match (is_due, is_overtaken, is_flushed) {
                (false, _, _) => return,
                (true, true, _) => {
                    self.pass_by_front(now, sink);
                    self.deliver_complete(sink);
                }
                (true, false, false) => return self.flush_front(sink),
                (true, false, true) => self.conclude_front(sink),
            }
        }
    }

    /// When the frame at the front is due.
    fn deadline(&self, sequence: Sequence, partial: &Partial) -> Option<Instant> {
        if partial.is_flushed && self.window.is_latest(sequence) {
            return partial.last_arrival.map(|at| at + STALLED_WAIT);
        }
        match partial.gap {
            Some(gap) => Some(gap.at + self.reordering_wait),
            None => partial.last_arrival.map(|at| at + REST_WAIT * self.reordering_wait),
        }
    }

    /// The latest frame is delivered as far as it came, and goes on to hold back those that may follow.
    fn flush_front(&mut self, sink: &mut impl FrameSink) {
        let Some(Held { sequence, frame }) = self.held.pop_front() else { return };
        let HeldFrame::Partial(mut partial) = frame else { return };
        flush(&mut partial, &mut self.salvager, &mut self.heads, &mut self.stats, sink);
        self.held.push_front(sequence, partial);
    }

    /// The frame at the front, if it is not complete, is delivered as far as it came and holds back others no longer.
    fn pass_by_front(&mut self, now: Instant, sink: &mut impl FrameSink) {
        let Some(Held { sequence, frame }) = self.held.pop_front() else { return };
        match frame {
            HeldFrame::Whole { offload, bytes, .. } => self.deliver_whole(offload, bytes, sink),
            HeldFrame::Partial(mut partial) => {
                flush(&mut partial, &mut self.salvager, &mut self.heads, &mut self.stats, sink);
                self.held.put_late(Late { sequence, until: now + STALLED_WAIT, partial });
                if self.held.has_too_many_late()
                    && let Some(late) = self.held.take_late(0)
                {
                    self.conclude(late.sequence, late.partial, DropReason::Incomplete, sink);
                }
            }
        }
    }

    fn conclude_front(&mut self, sink: &mut impl FrameSink) {
        let Some(Held { sequence, frame }) = self.held.pop_front() else { return };
        match frame {
            HeldFrame::Whole { offload, bytes, .. } => self.deliver_whole(offload, bytes, sink),
            HeldFrame::Partial(partial) => {
                self.conclude(sequence, partial, DropReason::Incomplete, sink);
            }
        }
    }

    /// Delivers what is left of a frame and forgets it; counts it as dropped if nothing could be delivered.
    fn conclude(
        &mut self,
        sequence: Sequence,
        mut partial: Box<Partial>,
        reason: DropReason,
        sink: &mut impl FrameSink,
    ) {
        match partial.shape {
            Some(shape) if partial.is_complete() && partial.is_untouched() => {
                gather_head(partial.pieces(), &mut self.heads);
                sink.deliver(shape.offload, partial.pieces());
                self.stats.delivered += 1;
            }
            _ => {
                flush(&mut partial, &mut self.salvager, &mut self.heads, &mut self.stats, sink);
                if partial.is_untouched() {
                    self.stats.given_up += 1;
                    sink.dropped(reason, 1);
                } else {
                    self.stats.salvaged += 1;
                }
            }
        }
        self.window.finish(sequence);
        self.held.recycle(partial);
    }

    #[inline]
    fn deliver_whole(&mut self, offload: Offload, bytes: Bytes, sink: &mut impl FrameSink) {
        self.stats.delivered += 1;
        self.whole.push(bytes);
        sink.deliver(offload, &mut self.whole);
        self.whole.clear();
    }
}

/// Delivers what has come of a TCP frame and was not delivered.
fn flush(
    partial: &mut Partial,
    salvager: &mut Salvager,
    heads: &mut Arena,
    stats: &mut ReassemblyStats,
    sink: &mut impl FrameSink,
) {
    partial.is_flushed = true;
    stats.salvaged_runs +=
        salvager.salvage(partial, heads, |offload, pieces| sink.deliver(offload, pieces));
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
