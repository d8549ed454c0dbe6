//! A datagram's records, checked for their form.
//!
//! Records are given as ranges of the datagram, so that the reader can take slices of its buffer without copying.
//! A record that is cut short ends the datagram; one that is malformed within its length is reported and skipped.

use std::ops::Range;

use crate::{
    counters::drops::DropReason,
    frame::{Offload, WIRE_OFFLOAD_LEN},
};

use super::{RECORD_HEAD_LEN, Sequence, kind};

/// One record. Ranges are of the datagram, and not empty unless it says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A frame.
    Whole(WholeFrame),
    /// A part of a frame.
    Piece(Piece),
}

/// A frame in one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WholeFrame {
    /// Its number.
    pub sequence: Sequence,
    /// Its vnet header.
    pub offload: Offload,
    /// Where it is.
    pub frame: Range<usize>,
}

/// A part of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The frame's number.
    pub sequence: Sequence,
    /// Where in the frame the part begins, bytes.
    pub offset: usize,
    /// What the first piece and those with a template say of the frame; the piece lies within it.
    pub shape: Option<FrameShape>,
    /// Where the template of a superframe's headers is; empty if there is none.
    pub template: Range<usize>,
    /// Where the part is.
    pub bytes: Range<usize>,
}

/// What must be known of a frame to put it together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameShape {
    /// Length of the frame, bytes.
    pub total_len: usize,
    /// Its vnet header.
    pub offload: Offload,
}

/// The records of a datagram, in their order.
pub fn records(datagram: &[u8]) -> impl Iterator<Item = Result<Record, DropReason>> {
    let mut cursor = RecordCursor::default();
    std::iter::from_fn(move || cursor.next_in(datagram))
}

/// A place in a datagram; it does not borrow the datagram, which may be taken apart meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordCursor {
    at: usize,
}

impl RecordCursor {
    /// The next record, or why there was one that cannot be used.
    pub fn next_in(&mut self, datagram: &[u8]) -> Option<Result<Record, DropReason>> {
        let Some(body) = self.next_body(datagram)? else { return Some(Err(DropReason::BadRecord)) };
        let record = match body.kind {
            kind::WHOLE | kind::WHOLE_OFFLOAD => body.whole(datagram).map(Record::Whole),
            kind::FIRST | kind::PIECE | kind::PIECE_TEMPLATE => {
                body.piece(datagram).map(Record::Piece)
            }
            _ => return Some(Err(DropReason::UnknownRecord)),
        };
        Some(record.ok_or(DropReason::BadRecord))
    }

    /// The next record's kind and place; the inner `None` is a record that is cut short.
    ///
    /// The reassembler goes on from here by itself: moving whole records about would cost more than all else it does for
    /// small frames.
    #[inline]
    pub(super) fn next_body(&mut self, datagram: &[u8]) -> Option<Option<Body>> {
        if self.is_done(datagram) {
            return None;
        }
        let body = self.body(datagram);
        self.at = body.as_ref().map_or(datagram.len(), |body| body.end);
        Some(body)
    }

    /// Whether nothing but padding follows.
    #[inline]
    pub fn is_done(&self, datagram: &[u8]) -> bool {
        datagram.get(self.at).is_none_or(|kind| *kind == kind::PADDING)
    }

    #[inline]
    fn body(&self, datagram: &[u8]) -> Option<Body> {
        let &[kind, high, low] = datagram.get(self.at..)?.first_chunk::<RECORD_HEAD_LEN>()?;
        let start = self.at + RECORD_HEAD_LEN;
        let end = start + usize::from(u16::from_be_bytes([high, low]));
        (end <= datagram.len()).then_some(Body { kind, start, end })
    }
}

/// A record whose body has not been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body {
    pub(super) kind: u8,
    start: usize,
    end: usize,
}

impl Body {
    /// Reads a frame; `None` if it is malformed.
    #[inline]
    pub(super) fn whole(self, datagram: &[u8]) -> Option<WholeFrame> {
        let mut fields = self.fields(datagram);
        let sequence = fields.sequence()?;
        let offload = if self.kind == kind::WHOLE { Offload::NONE } else { fields.offload()? };
        Some(WholeFrame { sequence, offload, frame: fields.rest()? })
    }

    /// Reads a piece; `None` if it is malformed.
    #[inline]
    pub(super) fn piece(self, datagram: &[u8]) -> Option<Piece> {
        let mut fields = self.fields(datagram);
        let sequence = fields.sequence()?;
        let offset = if self.kind == kind::FIRST { 0 } else { fields.number()? };
        let shape = if self.kind == kind::PIECE { None } else { Some(fields.shape()?) };
        let template = if self.kind == kind::PIECE_TEMPLATE { fields.template()? } else { 0..0 };
        let bytes = fields.rest()?;
        // Without a shape there is nothing to hold the offset against; 2^32 is beyond every frame.
        let total_len = shape.map_or(u32::MAX as usize, |shape| shape.total_len);
        let fits = bytes.len() <= total_len && offset <= total_len - bytes.len();
        fits.then_some(Piece { sequence, offset, shape, template, bytes })
    }

    #[inline]
    fn fields(self, datagram: &[u8]) -> Fields<'_> {
        Fields { datagram, at: self.start, end: self.end }
    }
}

/// What is left of a body.
struct Fields<'a> {
    datagram: &'a [u8],
    at: usize,
    end: usize,
}

impl Fields<'_> {
    #[inline]
    fn sequence(&mut self) -> Option<Sequence> {
        self.fixed().map(|bytes| Sequence(u32::from_be_bytes(bytes)))
    }

    #[inline]
    fn number(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.fixed()?)).ok()
    }

    #[inline]
    fn offload(&mut self) -> Option<Offload> {
        Offload::from_wire(&self.fixed::<WIRE_OFFLOAD_LEN>()?).ok()
    }

    #[inline]
    fn template(&mut self) -> Option<Range<usize>> {
        let len = usize::from(u16::from_be_bytes(self.fixed()?));
        let template = self.at..self.at + len;
        self.at = template.end;
        (template.end < self.end).then_some(template)
    }

    #[inline]
    fn shape(&mut self) -> Option<FrameShape> {
        Some(FrameShape { total_len: self.number()?, offload: self.offload()? })
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = *self.datagram.get(self.at..self.end)?.first_chunk::<N>()?;
        self.at += N;
        Some(bytes)
    }

    #[inline]
    fn rest(&mut self) -> Option<Range<usize>> {
        (self.at < self.end).then_some(self.at..self.end)
    }
}

impl Piece {
    /// Where in the frame the part ends, bytes.
    #[inline]
    pub fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use crate::frame::Gso;

    use super::*;

    const BAD: Result<Record, DropReason> = Err(DropReason::BadRecord);

    fn all(datagram: &[u8]) -> Vec<Result<Record, DropReason>> {
        records(datagram).collect()
    }

    #[test]
    fn every_kind_as_the_wire_format_says() {
        let whole = [1, 0, 6, 0, 0, 0, 7, 0xaa, 0xbb];
        let frame = WholeFrame { sequence: Sequence(7), offload: Offload::NONE, frame: 7..9 };
        assert_eq!(all(&whole), [Ok(Record::Whole(frame))]);

        let offload = Offload {
            needs_csum: true,
            gso: Gso::Tcp4 { ecn: true },
            gso_size: 1_448,
            csum_start: 34,
            csum_offset: 16,
        };
        let wire = [1, 0x81, 5, 0xa8, 0, 34, 0, 16];
        let whole = [&[2, 0, 13, 0, 0, 0, 8], wire.as_slice(), &[0xcc]].concat();
        let frame = WholeFrame { sequence: Sequence(8), offload, frame: 15..16 };
        assert_eq!(all(&whole), [Ok(Record::Whole(frame))]);

        let shape = Some(FrameShape { total_len: 259, offload });
        let first = [&[3, 0, 17, 0, 0, 0, 9, 0, 0, 1, 3], wire.as_slice(), &[0xdd]].concat();
        let piece =
            Piece { sequence: Sequence(9), offset: 0, shape, template: 0..0, bytes: 19..20 };
        assert_eq!(all(&first), [Ok(Record::Piece(piece))]);

        let piece = [4, 0, 9, 0, 0, 0, 9, 0, 0, 1, 0, 0xee];
        let expected = Piece {
            sequence: Sequence(9),
            offset: 256,
            shape: None,
            template: 0..0,
            bytes: 11..12,
        };
        assert_eq!(all(&piece), [Ok(Record::Piece(expected))]);

        let mut piece = vec![5, 0, 25, 0, 0, 0, 9, 0, 0, 1, 2, 0, 0, 1, 3];
        piece.extend_from_slice(&wire);
        piece.extend_from_slice(&[0, 2, 0x11, 0x22, 0xff, 0]);
        let expected =
            Piece { sequence: Sequence(9), offset: 258, shape, template: 25..27, bytes: 27..28 };
        assert_eq!(all(&piece), [Ok(Record::Piece(expected))]);
    }

    #[test]
    fn padding_ends_and_unknown_kinds_are_skipped() {
        assert_eq!(all(&[]), []);
        assert_eq!(all(&[0, 1, 2, 3]), []);
        let datagram = [9, 0, 1, 0xff, 1, 0, 5, 0, 0, 0, 0, 0xaa, 0, 0xff];
        let frame = WholeFrame { sequence: Sequence(0), offload: Offload::NONE, frame: 11..12 };
        assert_eq!(all(&datagram), [Err(DropReason::UnknownRecord), Ok(Record::Whole(frame))]);
    }

    #[test]
    fn a_record_cut_short_takes_the_rest_with_it() {
        let good = [1, 0, 5, 0, 0, 0, 0, 0xaa];
        let two = [good, good].concat();
        for len in good.len() + 1..two.len() {
            let found = all(&two[..len]);
            assert!(found.len() == 2 && found[0].is_ok() && found[1] == BAD, "{len}");
        }
    }

    #[test]
    fn malformed_bodies_are_dropped_alone() {
        let good = [1, 0, 5, 0, 0, 0, 0, 0xaa];
        let bad: &[&[u8]] = &[
            &[1, 0, 3, 0, 0, 0],                                 // no room for the sequence
            &[1, 0, 4, 0, 0, 0, 0],                              // no frame bytes
            &[2, 0, 13, 0, 0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 1], // undefined gso_type
            &[3, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], // longer than the frame
            &[4, 0, 9, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1],   // ends beyond 2^32
            &[5, 0, 3, 0, 0, 0],
        ];
        for bad in bad {
            let found = all(&[bad, good.as_slice()].concat());
            assert!(found.len() == 2 && found[0] == BAD && found[1].is_ok(), "{bad:?}");
        }
    }

    #[test]
    fn a_template_may_not_take_the_whole_body() {
        let mut piece = vec![5, 0, 24, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        piece.extend_from_slice(&[0, 2, 0x11, 0x22]);
        assert_eq!(all(&piece), [BAD]);
    }
}
