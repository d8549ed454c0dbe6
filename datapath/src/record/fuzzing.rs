//! What must hold of records and reassembly for any bytes at all; see [`crate::fuzzing`], which lists the targets.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{counters::drops::DropReason, frame::Offload};

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
            _ => reassembler.end_batch(now, &mut sink),
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use crate::record::{
        MIN_DATAGRAM_LEN, RecordWriter,
        testing::{Frame, plain, tcp},
    };

    use super::*;

    /// Small bursts with every kind of record.
    fn bursts() -> Vec<Vec<Frame>> {
        let plain = |number, len| plain(number, len, Offload::NONE);
        let unsummed = Frame { bytes: plain(1, 70).bytes, ..tcp(1, 4) };
        vec![
            vec![plain(0, 60), plain(1, 60), plain(2, 42)],
            vec![plain(0, 130), unsummed, plain(2, 300)],
            vec![tcp(0, 900), plain(1, 60)],
            vec![plain(0, 60), tcp(1, 500), tcp(2, 400)],
            vec![tcp(0, 1_400)],
        ]
    }

    fn datagrams(frames: &[Frame]) -> Vec<Bytes> {
        let (mut writer, mut datagrams) = (RecordWriter::new(), Vec::new());
        for Frame { offload, headers_len, bytes } in frames {
            let emit = &mut |datagram| datagrams.push(datagram);
            writer.push_bytes(MIN_DATAGRAM_LEN, *offload, *headers_len, bytes, emit);
        }
        writer.flush(&mut |datagram| datagrams.push(datagram));
        datagrams
    }

    /// In order; the first lost; one in the middle lost and a batch's end; backwards; the last again.
    fn scripts(datagrams: &[Bytes]) -> Vec<Vec<u8>> {
        let step = |datagram: &Bytes| [&[0, datagram.len() as u8], &datagram[..]].concat();
        let steps: Vec<_> = datagrams.iter().map(step).collect();
        let middle = steps.len() / 2;
        let wait: &[u8] = &[6, 40];
        vec![
            steps.concat(),
            [&steps[1..].concat(), wait].concat(),
            [&steps[..middle].concat(), &[7, 0, 7, 0, 7, 0][..], &steps[middle + 1..].concat()]
                .concat(),
            steps.iter().rev().flatten().copied().collect(),
            [&steps.concat(), &[5, 0][..], wait].concat(),
        ]
    }

    #[test]
    #[ignore = "writes the seed corpora"]
    fn write_seed_corpora() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let write = |target: &str, name: &str, seed: &[u8]| {
            fs::create_dir_all(corpora.join(target)).unwrap();
            fs::write(corpora.join(target).join(name), seed).unwrap();
        };
        for (number, burst) in bursts().iter().enumerate() {
            let datagrams = datagrams(burst);
            for (index, datagram) in datagrams.iter().take(3).enumerate() {
                write("records", &format!("seed-{number}{index}"), datagram);
            }
            for (index, script) in scripts(&datagrams).iter().enumerate() {
                write("reassembly", &format!("seed-{number}{index}"), script);
            }
        }
        write("records", "seed-unknown", &[9, 0, 1, 0xff, 1, 0, 5, 0, 0, 0, 0, 0xaa, 1, 0, 9]);
    }
}
