//! What must hold of records and reassembly for any bytes at all; see [`crate::fuzzing`].

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{drops::DropReason, frame::Offload};

use super::{FrameSink, Reassembler, Record, held::HELD_MAX, partial::HEAD_LEN, records as parse};

/// Small enough for a fuzzer to reach.
const MAX_FRAME_LEN: usize = 4_000;

/// One datagram: records lie within it, one behind the other.
///
/// # Panics
/// When that does not hold.
pub fn records(bytes: &[u8]) {
    let mut at = 0;
    let mut dropped = 0;
    for record in parse(bytes) {
        assert_ne!(at, bytes.len(), "nothing comes after the end");
        match record {
            Ok(Record::Whole(whole)) => {
                assert!(at < whole.frame.start && !whole.frame.is_empty());
                at = whole.frame.end;
            }
            Ok(Record::Piece(piece)) => {
                assert!(at < piece.bytes.start && !piece.bytes.is_empty());
                assert!(piece.template.is_empty() || at < piece.template.start);
                assert!(piece.template.end <= piece.bytes.start);
                assert!(piece.shape.is_none_or(|shape| piece.end() <= shape.total_len));
                at = piece.bytes.end;
            }
            Err(reason) => {
                assert!(matches!(reason, DropReason::BadRecord | DropReason::UnknownRecord));
                dropped += 1;
            }
        }
        assert!(at <= bytes.len());
    }
    assert!(
        dropped * 3 <= bytes.len().next_multiple_of(3),
        "each takes a header, but for the last"
    );
}

/// A script of steps: an operation (1 byte), an argument (1 byte), and for a datagram its bytes.
///
/// | operation modulo 8 | |
/// | --- | --- |
/// | 0 to 4 | the next 256 × operation + argument bytes come as a datagram |
/// | 5 | the last datagram comes again |
/// | 6 | argument / 4 milliseconds pass |
/// | 7 | a receive batch ends |
///
/// Frames that are delivered are within bounds and counted, what is held is bounded, and once nothing comes any more
/// nothing is held.
///
/// # Panics
/// When that does not hold.
pub fn reassembly(bytes: &[u8]) {
    let mut now = Instant::now();
    let mut reassembler = Reassembler::new(MAX_FRAME_LEN);
    let mut sink = Checker::default();
    let mut last = Bytes::new();
    let mut rest = bytes;
    while let Some((&[operation, argument], tail)) = rest.split_first_chunk() {
        rest = tail;
        match operation % 8 {
            high @ 0..=4 => {
                let len = usize::from(high) * 256 + usize::from(argument);
                let (datagram, tail) = rest.split_at(len.min(rest.len()));
                rest = tail;
                last = Bytes::copy_from_slice(datagram);
                reassembler.push(now, last.clone(), &mut sink);
            }
            5 => reassembler.push(now, last.clone(), &mut sink),
            6 => {
                now += Duration::from_millis(u64::from(argument / 4));
                reassembler.handle_timeout(now, &mut sink);
            }
            _ => reassembler.unpin(&mut sink),
        }
        check(&reassembler, &sink);
    }
    while let Some(deadline) = reassembler.poll_timeout() {
        now = now.max(deadline);
        reassembler.handle_timeout(now, &mut sink);
    }
    assert_eq!(reassembler.held_len(), 0);
    check(&reassembler, &sink);
}

fn check(reassembler: &Reassembler, sink: &Checker) {
    let stats = reassembler.stats();
    assert_eq!(sink.delivered, stats.delivered + stats.salvaged_runs);
    assert!(stats.salvaged <= stats.salvaged_runs);
    assert!(stats.given_up <= sink.dropped);
    assert!(reassembler.held_cost() <= HELD_MAX);
    assert_eq!(reassembler.held_len() > 0, reassembler.poll_timeout().is_some());
}

#[derive(Default)]
struct Checker {
    delivered: u64,
    dropped: u64,
}

impl FrameSink for Checker {
    fn deliver(&mut self, _: Offload, pieces: &mut Vec<Bytes>) {
        let total_len = pieces.iter().map(Bytes::len).sum::<usize>();
        assert!(total_len > 0 && total_len <= MAX_FRAME_LEN);
        assert!(pieces[0].len() >= total_len.min(HEAD_LEN));
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        self.delivered += 1;
    }

    fn dropped(&mut self, _: DropReason, frames: u64) {
        self.dropped += frames;
    }
}
