//! Frames into datagrams: the sending half of the record stream.
//!
//! Frames are copied once, from where the TAP left them into an arena, behind a record's header. A datagram that has
//! reached its full length is cut off and handed out; what is left at the end of a burst goes out short
//! ([`RecordWriter::flush`]). A frame that does not fit the rest of a datagram is cut there: every datagram but a
//! burst's last has exactly the same length, which is what lets QUIC and the kernel send the burst as one train.

use bytes::{BufMut, Bytes};

#[cfg(test)]
use crate::frame::Offload;
use crate::frame::{Description, Frame, FrameBytes, Gso, MAX_HEADERS_LEN, WIRE_OFFLOAD_LEN};

use super::{
    FIRST_LEN, PIECE_LEN, PIECE_TEMPLATE_LEN, RECORD_HEAD_LEN, Sequence, WHOLE_LEN,
    WHOLE_OFFLOAD_LEN,
    arena::{Arena, WhenFull},
    kind,
};

/// The smallest datagram that is filled. QUIC paths carry packets of at least 1,200 bytes (RFC 9000 section 14), so a smaller
/// limit is a mistake of the caller; its datagrams would be refused, but frames would not take more than 400 pieces.
pub const MIN_DATAGRAM_LEN: usize = 200;
/// The payload of the largest UDP packet (IPv4), and so the largest datagram: a record's length field holds more.
const MAX_DATAGRAM_LEN: usize = 65_507;

/// Room for less than this of a frame is padded instead: 19 bytes of header and the work of reassembly for a handful
/// of bytes cost more than they carry. At most 6 % of a 1,400-byte datagram, 2 % on average.
const MIN_FIRST_PIECE_LEN: usize = 64;
/// Every piece of this number carries the template (`docs/WIRE.md`): tail drop takes neighbours together, so the
/// copies are spread. 80 bytes in 22,000 cost nothing.
const TEMPLATE_EVERY_PIECES: usize = 16;
/// A frame that is no superframe gets a template when it fills more datagrams than this. Below that a salvaged run is
/// no more than the retransmission that the hole costs anyway, and the template would take 5 % of the link.
const PLAIN_TEMPLATE_ABOVE_DATAGRAMS: usize = 2;
/// `csum_offset` of TCP.
const TCP_CSUM_OFFSET: u16 = 16;

/// A train or two: small chunks are used again while they are still in the cache; see [`Arena`].
const CHUNK_LEN: usize = 128 * 1_024;
/// What quinn may hold of ours before chunks are allocated anew: 4 MiB.
const CHUNKS_MAX: usize = 32;

/// Packs the frames of one connection, in the direction of sending, into datagrams.
#[derive(Debug)]
pub struct RecordWriter {
    next: Sequence,
    /// Limit of the open datagram.
    max_datagram_len: usize,
    keep_whole: bool,
    arena: Arena,
    /// Full datagrams in front of the open one, which [`Self::hand_out`] has yet to cut off.
    full: usize,
}

impl Default for RecordWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl RecordWriter {
    /// What a frame without an offload takes of a datagram beside its own bytes.
    pub const WHOLE_LEN: usize = WHOLE_LEN;

    /// A writer whose next frame has sequence number 0.
    pub fn new() -> Self {
        Self {
            next: Sequence(0),
            max_datagram_len: MIN_DATAGRAM_LEN,
            keep_whole: false,
            arena: Arena::new(CHUNK_LEN, CHUNKS_MAX, WhenFull::Replace),
            full: 0,
        }
    }

    /// Appends a frame and hands out the datagrams that it fills. An empty one is ignored.
    ///
    /// `max_datagram_len`, bytes, is what the connection takes now. When it changes, the open datagram is handed out as
    /// it is, and may be longer than the new limit: callers flush at the end of each burst and ask for the limit at the
    /// beginning of the next.
    #[inline]
    pub fn push(
        &mut self,
        max_datagram_len: usize,
        frame: &Frame<'_>,
        emit: &mut impl FnMut(Bytes),
    ) {
        let Frame { what, ref bytes } = *frame;
        debug_assert_eq!(what.total_len(), bytes.len());
        if what.total_len() == 0 {
            return;
        }
        let max_datagram_len = max_datagram_len.clamp(MIN_DATAGRAM_LEN, MAX_DATAGRAM_LEN);
        if max_datagram_len != self.max_datagram_len {
            self.flush(emit);
            self.max_datagram_len = max_datagram_len;
        }
        let len = whole_len(what);
        if len <= self.room() {
            self.put_whole(what, bytes);
        } else {
            self.cut(what, bytes, len <= self.max_datagram_len, emit);
        }
        if self.room() == 0 {
            self.end_datagram(emit);
        }
        if self.full > 0 {
            self.hand_out(emit);
        }
        self.next = self.next.next();
    }

    /// Whether a frame that fits a datagram starts in a fresh one rather than being cut, so that one lost packet is one lost frame. What is left of the
    /// datagram before is padded.
    pub fn keep_whole(&mut self, keep_whole: bool) {
        self.keep_whole = keep_whole;
    }

    /// Hands out the open datagram, short, if there is one: the end of a burst.
    #[inline]
    pub fn flush(&mut self, emit: &mut impl FnMut(Bytes)) {
        if self.open_len() > 0 {
            emit(self.arena.take(self.open_len()));
        }
    }

    /// The number that the next frame gets.
    pub fn next_frame(&self) -> Sequence {
        self.next
    }

    /// Bytes that wait in the open datagram; 0 if none does.
    #[inline]
    pub fn open_len(&self) -> usize {
        self.arena.open_len() - self.full * self.max_datagram_len
    }

    #[inline]
    fn room(&self) -> usize {
        self.max_datagram_len - self.open_len()
    }

    /// The open datagram is full; the next one begins behind it.
    fn end_datagram(&mut self, emit: &mut impl FnMut(Bytes)) {
        self.full += 1;
        if !self.arena.has_room(self.max_datagram_len) {
            self.hand_out(emit);
        }
    }

    /// Hands out the full datagrams. Not each as soon as it is full: cutting it off takes a locked instruction, which waits until all that was
    /// written into it has left the processor's store buffer.
    fn hand_out(&mut self, emit: &mut impl FnMut(Bytes)) {
        for _ in 0..std::mem::take(&mut self.full) {
            emit(self.arena.take(self.max_datagram_len));
        }
    }

    /// A frame that the open datagram has no room for.
    fn cut(
        &mut self,
        what: &Description,
        bytes: &FrameBytes<'_>,
        fits_alone: bool,
        emit: &mut impl FnMut(Bytes),
    ) {
        let template_len = self.template_len(what);
        // A first piece that holds the headers is a template in itself.
        let least = FIRST_LEN + MIN_FIRST_PIECE_LEN.max(template_len + 1);
        if self.room() < least || fits_alone && self.keep_whole {
            self.pad();
            self.end_datagram(emit);
            if fits_alone {
                return self.put_whole(what, bytes);
            }
        }
        let total_len = what.total_len();
        let mut offset = self.put_first(what, bytes);
        for number in 1.. {
            if self.room() == 0 {
                self.end_datagram(emit);
            }
            if offset == total_len {
                break;
            }
            // The last piece carries the template; if both together do not fit, the last but one does as well.
            let is_last = PIECE_LEN + total_len - offset <= self.room();
            let is_due = is_last || number % TEMPLATE_EVERY_PIECES == 0;
            offset += if is_due && template_len > 0 {
                self.put_piece_template(what, template_len, offset, bytes)
            } else {
                self.put_piece(what, offset, bytes)
            };
        }
    }

    /// The length of the frame's headers if they are to be repeated in some pieces, else 0.
    fn template_len(&self, what: &Description) -> usize {
        let (offload, headers_len) = (what.offload(), usize::from(what.headers_len()));
        let is_worth_it = match offload.gso {
            Gso::Tcp4 { .. } | Gso::Tcp6 { .. } => true,
            Gso::Udp => false,
            Gso::None => {
                offload.needs_csum
                    && offload.csum_offset == TCP_CSUM_OFFSET
                    && what.total_len() > PLAIN_TEMPLATE_ABOVE_DATAGRAMS * self.max_datagram_len
            }
        };
        let overhead = PIECE_TEMPLATE_LEN + headers_len;
        let has_template = is_worth_it
            && headers_len <= MAX_HEADERS_LEN
            && headers_len < what.total_len()
            && overhead + MIN_FIRST_PIECE_LEN <= self.max_datagram_len;
        if has_template { headers_len } else { 0 }
    }

    /// Each datagram is contiguous: the room for all of it is made when its first record begins.
    #[inline]
    fn begin(&mut self, kind: u8, body_len: usize) -> &mut bytes::BytesMut {
        if self.arena.open_len() == 0 {
            let made = self.arena.make_room(self.max_datagram_len);
            debug_assert!(made.is_ok(), "a replacing arena does not refuse");
        }
        debug_assert!(self.arena.has_room(self.room()), "a datagram does not fit its chunk");
        let sequence = self.next.0;
        let open = self.arena.open();
        let mut head = [kind, 0, 0, 0, 0, 0, 0];
        // No datagram is longer than 65,507 bytes.
        head[1..3].copy_from_slice(&(body_len as u16).to_be_bytes());
        head[3..].copy_from_slice(&sequence.to_be_bytes());
        open.put_slice(&head);
        open
    }

    #[inline]
    fn put_whole(&mut self, what: &Description, bytes: &FrameBytes<'_>) {
        let body_len = whole_len(what) - RECORD_HEAD_LEN;
        let open = if what.offload().is_none() {
            self.begin(kind::WHOLE, body_len)
        } else {
            let open = self.begin(kind::WHOLE_OFFLOAD, body_len);
            open.put_slice(&what.offload().to_wire());
            open
        };
        bytes.put(0..what.total_len(), open);
    }

    fn put_first(&mut self, what: &Description, bytes: &FrameBytes<'_>) -> usize {
        let len = what.total_len().min(self.room() - FIRST_LEN);
        let open = self.begin(kind::FIRST, FIRST_LEN - RECORD_HEAD_LEN + len);
        open.put_slice(&shape(what));
        bytes.put(0..len, open);
        len
    }

    fn put_piece(&mut self, what: &Description, offset: usize, bytes: &FrameBytes<'_>) -> usize {
        let len = (what.total_len() - offset).min(self.room() - PIECE_LEN);
        let open = self.begin(kind::PIECE, PIECE_LEN - RECORD_HEAD_LEN + len);
        open.put_u32(offset as u32);
        bytes.put(offset..offset + len, open);
        len
    }

    fn put_piece_template(
        &mut self,
        what: &Description,
        template_len: usize,
        offset: usize,
        bytes: &FrameBytes<'_>,
    ) -> usize {
        let overhead = PIECE_TEMPLATE_LEN + template_len;
        let len = (what.total_len() - offset).min(self.room() - overhead);
        let open = self.begin(kind::PIECE_TEMPLATE, overhead - RECORD_HEAD_LEN + len);
        open.put_u32(offset as u32);
        open.put_slice(&shape(what));
        open.put_u16(template_len as u16);
        bytes.put(0..template_len, open);
        bytes.put(offset..offset + len, open);
        len
    }

    /// Fills the open datagram with padding.
    fn pad(&mut self) {
        let end = (self.full + 1) * self.max_datagram_len;
        self.arena.open().resize(end, kind::PADDING);
    }
}

/// What a frame takes of a datagram that has room for all of it.
#[inline]
fn whole_len(what: &Description) -> usize {
    let overhead = if what.offload().is_none() { WHOLE_LEN } else { WHOLE_OFFLOAD_LEN };
    overhead + what.total_len()
}

/// Total length and offload, as two kinds of records carry them.
fn shape(what: &Description) -> [u8; 4 + WIRE_OFFLOAD_LEN] {
    let mut shape = [0; 4 + WIRE_OFFLOAD_LEN];
    shape[..4].copy_from_slice(&(what.total_len() as u32).to_be_bytes());
    shape[4..].copy_from_slice(&what.offload().to_wire());
    shape
}

#[cfg(test)]
impl RecordWriter {
    /// Appends bytes that need not be a sound frame.
    pub(crate) fn push_bytes(
        &mut self,
        max_datagram_len: usize,
        offload: Offload,
        headers_len: u16,
        bytes: &[u8],
        emit: &mut impl FnMut(Bytes),
    ) {
        let what = &Description::for_test(offload, headers_len, bytes.len(), 0);
        let bytes = FrameBytes::Whole(bytes);
        self.push(max_datagram_len, &Frame { what, bytes }, emit);
    }
}
