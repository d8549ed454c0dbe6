//! The record stream of `docs/WIRE.md`, read and written in the plainest way.
//!
//! On purpose it shares nothing with the switch's own code: where two independent readers of the document disagree,
//! the document is unclear or one of them is wrong. It sends WHOLE records only, one a datagram; it reads every kind,
//! since the switch packs several records into a datagram and cuts frames at datagram boundaries.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes};

/// Bytes in front of the frame in a WHOLE record.
pub const WHOLE_HEADER_LEN: usize = RECORD_HEADER_LEN + 4;

const RECORD_HEADER_LEN: usize = 3;
const OFFLOAD_LEN: usize = 8;

const PADDING: u8 = 0;
const WHOLE: u8 = 1;
const WHOLE_OFFLOAD: u8 = 2;
const FIRST: u8 = 3;
const PIECE: u8 = 4;
const PIECE_TEMPLATE: u8 = 5;

/// Incomplete frames that are kept at once.
const MAX_PARTIAL_FRAMES: usize = 32;

/// What was read, and what was wrong with the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames delivered.
    pub frames: u64,
    /// Records that are cut short, empty, overlapping or whose lengths disagree.
    pub malformed: u64,
    /// Records of a kind that this program does not know.
    pub unknown: u64,
    /// Frames with an offload, which this program never announced that it takes.
    pub offloads: u64,
    /// Frames that were given up incomplete.
    pub incomplete: u64,
}

/// Writes the header of a WHOLE record.
///
/// # Panics
/// If the frame is longer than a record's 16-bit length can say.
pub fn write_whole_header(mut header: &mut [u8], sequence: u32, frame_len: usize) {
    header.put_u8(WHOLE);
    header.put_u16(u16::try_from(4 + frame_len).expect("a frame of one datagram"));
    header.put_u32(sequence);
}

/// Turns one connection's datagrams into frames.
#[derive(Debug)]
pub struct Reader {
    max_frame_len: usize,
    /// Ordered by first sight.
    partial: VecDeque<Partial>,
    counts: Counts,
}

/// What is known of an incomplete frame. Pieces never overlap, so it is complete when their lengths add up.
#[derive(Debug)]
struct Partial {
    sequence: u32,
    total_len: Option<usize>,
    offload: bool,
    pieces: BTreeMap<usize, Bytes>,
    received_len: usize,
}

struct Malformed;

impl Reader {
    /// For frames of at most so many bytes.
    pub fn new(max_frame_len: usize) -> Self {
        Self { max_frame_len, partial: VecDeque::new(), counts: Counts::default() }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Reads a datagram, and hands every frame that it completes to the closure.
    pub fn read(&mut self, mut datagram: Bytes, mut deliver: impl FnMut(&[u8])) {
        while !datagram.is_empty() && datagram[0] != PADDING {
            if datagram.len() < RECORD_HEADER_LEN {
                self.counts.malformed += 1;
                return;
            }
            let kind = datagram.get_u8();
            let len = usize::from(datagram.get_u16());
            if datagram.len() < len {
                self.counts.malformed += 1;
                return;
            }
            let body = datagram.split_to(len);
            match self.record(kind, body) {
                Ok(Some(frame)) => {
                    self.counts.frames += 1;
                    deliver(&frame);
                }
                Ok(None) => {}
                Err(Malformed) => self.counts.malformed += 1,
            }
        }
    }

    fn record(&mut self, kind: u8, mut body: Bytes) -> Result<Option<Bytes>, Malformed> {
        match kind {
            WHOLE => {
                let _sequence = take_u32(&mut body)?;
                self.whole(body, false)
            }
            WHOLE_OFFLOAD => {
                let _sequence = take_u32(&mut body)?;
                let offload = take_offload(&mut body)?;
                self.whole(body, offload)
            }
            FIRST => {
                let sequence = take_u32(&mut body)?;
                let total_len = take_u32(&mut body)? as usize;
                let offload = take_offload(&mut body)?;
                self.piece(sequence, 0, Some((total_len, offload)), body)
            }
            PIECE => {
                let sequence = take_u32(&mut body)?;
                let offset = take_u32(&mut body)? as usize;
                self.piece(sequence, offset, None, body)
            }
            PIECE_TEMPLATE => {
                let sequence = take_u32(&mut body)?;
                let offset = take_u32(&mut body)? as usize;
                let total_len = take_u32(&mut body)? as usize;
                let offload = take_offload(&mut body)?;
                let headers_len = usize::from(take_u16(&mut body)?);
                // The headers help to salvage a superframe; this program is never sent one.
                take(&mut body, headers_len)?;
                self.piece(sequence, offset, Some((total_len, offload)), body)
            }
            _ => {
                self.counts.unknown += 1;
                Ok(None)
            }
        }
    }

    fn whole(&mut self, frame: Bytes, offload: bool) -> Result<Option<Bytes>, Malformed> {
        if frame.is_empty() || frame.len() > self.max_frame_len {
            return Err(Malformed);
        }
        self.counts.offloads += u64::from(offload);
        Ok((!offload).then_some(frame))
    }

    fn piece(
        &mut self,
        sequence: u32,
        offset: usize,
        frame: Option<(usize, bool)>,
        piece: Bytes,
    ) -> Result<Option<Bytes>, Malformed> {
        let end = offset.checked_add(piece.len()).ok_or(Malformed)?;
        let total_len = frame.map_or(self.max_frame_len, |(total_len, _)| total_len);
        if piece.is_empty() || end > total_len || total_len > self.max_frame_len {
            return Err(Malformed);
        }
        let index = match self.partial.iter().position(|partial| partial.sequence == sequence) {
            Some(index) => index,
            None => self.start(sequence),
        };
        let partial = &mut self.partial[index];
        partial.add(offset, frame, piece)?;
        if partial.total_len != Some(partial.received_len) {
            return Ok(None);
        }
        let complete = self.partial.remove(index).ok_or(Malformed)?;
        let frame: Bytes = complete.pieces.into_values().flatten().collect();
        self.whole(frame, complete.offload)
    }

    fn start(&mut self, sequence: u32) -> usize {
        if self.partial.len() == MAX_PARTIAL_FRAMES {
            self.partial.pop_front();
            self.counts.incomplete += 1;
        }
        self.partial.push_back(Partial {
            sequence,
            total_len: None,
            offload: false,
            pieces: BTreeMap::new(),
            received_len: 0,
        });
        self.partial.len() - 1
    }
}

impl Partial {
    fn add(
        &mut self,
        offset: usize,
        frame: Option<(usize, bool)>,
        piece: Bytes,
    ) -> Result<(), Malformed> {
        let end = offset + piece.len();
        let total_len = match (self.total_len, frame) {
            (Some(known), Some((told, _))) if known != told => return Err(Malformed),
            (Some(known), _) => Some(known),
            (None, told) => told.map(|(total_len, _)| total_len),
        };
        let last_end = self.pieces.last_key_value().map_or(0, |(at, last)| at + last.len());
        let before = self.pieces.range(..end).next_back();
        let overlaps = before.is_some_and(|(at, before)| at + before.len() > offset);
        if overlaps || total_len.is_some_and(|total_len| last_end.max(end) > total_len) {
            return Err(Malformed);
        }
        self.total_len = total_len;
        self.offload |= frame.is_some_and(|(_, offload)| offload);
        self.received_len += piece.len();
        self.pieces.insert(offset, piece);
        Ok(())
    }
}

fn take(body: &mut Bytes, len: usize) -> Result<Bytes, Malformed> {
    if body.len() < len { Err(Malformed) } else { Ok(body.split_to(len)) }
}

fn take_u16(body: &mut Bytes) -> Result<u16, Malformed> {
    body.try_get_u16().map_err(|_| Malformed)
}

fn take_u32(body: &mut Bytes) -> Result<u32, Malformed> {
    body.try_get_u32().map_err(|_| Malformed)
}

/// Whether there is anything in it: flags or a GSO type.
fn take_offload(body: &mut Bytes) -> Result<bool, Malformed> {
    let offload = take(body, OFFLOAD_LEN)?;
    Ok(offload[0] != 0 || offload[1] != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        [&[kind][..], &(body.len() as u16).to_be_bytes(), &body].concat()
    }

    fn read(reader: &mut Reader, records: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        reader.read(records.concat().into(), |frame| frames.push(frame.to_vec()));
        frames
    }

    fn first(sequence: u32, total_len: u32, bytes: &[u8]) -> Vec<u8> {
        record(FIRST, &[&sequence.to_be_bytes(), &total_len.to_be_bytes(), &[0; 8], bytes])
    }

    fn piece(sequence: u32, offset: u32, bytes: &[u8]) -> Vec<u8> {
        record(PIECE, &[&sequence.to_be_bytes(), &offset.to_be_bytes(), bytes])
    }

    #[test]
    fn what_is_written_is_read() {
        let mut header = [0; WHOLE_HEADER_LEN];
        write_whole_header(&mut header, 9, 5);
        assert_eq!(header, [1, 0, 9, 0, 0, 0, 9]);
        let mut reader = Reader::new(1418);
        let datagram = [header.to_vec(), b"frame".to_vec()].concat();
        assert_eq!(read(&mut reader, &[datagram]), [b"frame"]);
    }

    #[test]
    fn packed_records_and_pieces_in_any_order_are_read() {
        let mut reader = Reader::new(1418);
        let whole = record(WHOLE, &[&[0, 0, 0, 1], b"one"]);
        let none = record(WHOLE_OFFLOAD, &[&[0, 0, 0, 2], &[0; 8], b"two"]);
        let packed = [whole, none, first(3, 8, b"thr"), vec![PADDING, 77, 77, 77]];
        assert_eq!(read(&mut reader, &packed), [b"one", b"two"]);
        let template = record(
            PIECE_TEMPLATE,
            &[&[0, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0, 8], &[0; 8], &[0, 2], b"hh", b"!!"],
        );
        assert_eq!(read(&mut reader, &[template]), [[0; 0]; 0]);
        assert_eq!(read(&mut reader, &[piece(3, 3, b"eee")]), [b"threee!!"]);
        assert_eq!(reader.counts(), Counts { frames: 3, ..Counts::default() });
    }

    #[test]
    fn bad_records_are_counted_and_the_rest_is_read() {
        let mut reader = Reader::new(100);
        let good = record(WHOLE, &[&[0, 0, 0, 1], b"good"]);
        let bad = [
            record(WHOLE, &[&[0, 0, 0, 1]]),            // no frame bytes
            record(WHOLE, &[&[0, 0, 0, 1], &[0; 101]]), // above the largest frame
            first(5, 101, b"x"),                        // so is this
            piece(6, u32::MAX, b"x"),                   // far outside
            record(PIECE_TEMPLATE, &[&[0; 20], &[0, 9], b"short"]),
        ];
        for record in bad {
            let before = reader.counts().malformed;
            assert_eq!(read(&mut reader, &[record.clone(), good.clone()]), [b"good"]);
            assert_eq!(reader.counts().malformed, before + 1, "{record:?}");
        }
        // Overlap, and a total length that pieces seen before do not fit.
        let overlap = [first(7, 8, b"abcd"), piece(7, 3, b"xx"), piece(7, 4, b"efgh")];
        assert_eq!(read(&mut reader, &overlap), [b"abcdefgh"]);
        assert_eq!(read(&mut reader, &[piece(8, 10, b"x"), first(8, 5, b"abcde")]), [[0; 0]; 0]);
        assert_eq!(reader.counts().malformed, 7);
        // A record that is cut short takes the rest with it.
        assert_eq!(read(&mut reader, &[vec![WHOLE, 0, 200, 1], good]), [[0; 0]; 0]);
        let superframe = record(WHOLE_OFFLOAD, &[&[0; 4], &[1, 1, 5, 0, 0, 0, 0, 0], b"x"]);
        assert_eq!(read(&mut reader, &[record(99, &[b"later"]), superframe]), [[0; 0]; 0]);
        assert_eq!((reader.counts().unknown, reader.counts().offloads), (1, 1));
    }

    #[test]
    fn incomplete_frames_are_bounded() {
        let mut reader = Reader::new(1418);
        for sequence in 0..1000 {
            assert_eq!(read(&mut reader, &[first(sequence, 900, b"start")]), [[0; 0]; 0]);
        }
        assert_eq!(reader.partial.len(), MAX_PARTIAL_FRAMES);
        assert_eq!(reader.counts().incomplete, 1000 - MAX_PARTIAL_FRAMES as u64);
    }
}
