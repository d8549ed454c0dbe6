//! Single events of the record stream, one by one: where frames are cut, what is held back, for how long, and what it pins.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::{
    counters::drops::DropReason,
    frame::{self, Description, FrameBytes, Gso, MAX_FRAME_LEN, Offload},
};

use super::{
    DEFAULT_REORDERING_WAIT, RELEASE_AFTER_DATAGRAMS, Reassembler, Record, RecordWriter,
    STALLED_WAIT, Sequence,
    held::HELD_MAX,
    records,
    testing::{Collector, Frame, TCP_HEADERS_LEN, identify, plain, tcp},
};

const DATAGRAM_LEN: usize = 1_400;

/// Each burst of frames as datagrams.
fn encode(bursts: &[&[&Frame]]) -> Vec<Vec<Bytes>> {
    let mut writer = RecordWriter::new();
    let mut encode_burst = |burst: &[&Frame]| {
        let mut datagrams = Vec::new();
        for Frame { offload, headers_len, bytes } in burst {
            writer.push_bytes(DATAGRAM_LEN, *offload, *headers_len, bytes, &mut |d| {
                datagrams.push(d);
            });
        }
        writer.flush(&mut |datagram| datagrams.push(datagram));
        datagrams
    };
    bursts.iter().map(|burst| encode_burst(burst)).collect()
}

fn numbers(sink: &Collector) -> Vec<usize> {
    sink.delivered.iter().map(|(_, bytes)| identify(bytes).0).collect()
}

struct Receiver {
    now: Instant,
    reassembler: Reassembler,
    sink: Collector,
}

impl Receiver {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            reassembler: Reassembler::new(MAX_FRAME_LEN),
            sink: Collector::default(),
        }
    }

    fn push(&mut self, datagrams: &[Bytes]) {
        for datagram in datagrams {
            self.reassembler.push(self.now, datagram.clone(), &mut self.sink);
        }
    }

    /// One batch.
    fn batch(&mut self, datagrams: &[Bytes]) {
        self.push(datagrams);
        self.reassembler.end_batch(self.now, &mut self.sink);
    }

    fn wait(&mut self, wait: Duration) {
        self.now += wait;
        self.reassembler.handle_timeout(self.now, &mut self.sink);
    }

    fn numbers(&self) -> Vec<usize> {
        numbers(&self.sink)
    }
}

#[test]
fn templates_stand_in_every_16th_piece_and_the_last() {
    for payload_len in [1_400, 21_000, 45_000, 60_000, 60_001] {
        let datagrams = encode(&[&[&tcp(0, payload_len)]]).remove(0);
        let templates: Vec<bool> = datagrams
            .iter()
            .flat_map(|datagram| records(datagram))
            .map(|record| match record.unwrap() {
                Record::Piece(piece) => !piece.template.is_empty(),
                Record::Whole(_) => panic!("too long for one record"),
            })
            .collect();
        let last = templates.len() - 1;
        for (number, has_template) in templates.into_iter().enumerate() {
            let is_due = number == last || (number > 0 && number % 16 == 0);
            assert!(has_template || !is_due, "piece {number} of {payload_len}");
            assert!(
                !has_template || is_due || number + 1 == last,
                "piece {number} of {payload_len}"
            );
        }
    }
}

/// Every length around the place where the last piece no longer takes the template along.
#[test]
fn a_last_piece_always_has_room_for_its_template() {
    for payload_len in 2 * DATAGRAM_LEN - 300..2 * DATAGRAM_LEN + 10 {
        let frame = tcp(0, payload_len);
        let datagrams = encode(&[&[&frame]]).remove(0);
        let last = records(datagrams.last().unwrap()).last().unwrap();
        let Ok(Record::Piece(piece)) = last else { panic!("{last:?}") };
        assert!(!piece.template.is_empty(), "{payload_len}");
        let mut receiver = Receiver::new();
        receiver.push(&datagrams);
        assert_eq!(receiver.sink.delivered, [(frame.offload, frame.bytes)]);
    }
}

#[test]
fn plain_frames_and_udp_carry_no_template() {
    let udp = Offload { gso: Gso::Udp, ..tcp(0, 1).offload };
    let mtu_sized = Offload { gso: Gso::None, gso_size: 0, ..tcp(0, 1).offload };
    for (offload, len) in [(udp, 20_000), (mtu_sized, 1_514), (Offload::NONE, 9_014)] {
        let frame = Frame { headers_len: 66, ..plain(0, len, offload) };
        let datagrams = encode(&[&[&frame]]).remove(0);
        let has_template =
            |record| matches!(record, Ok(Record::Piece(piece)) if !piece.template.is_empty());
        assert!(!datagrams.iter().flat_map(|datagram| records(datagram)).any(has_template));
    }
}

#[test]
fn too_little_room_is_padded_and_the_frame_starts_afresh() {
    // 7 bytes of record header each: 20 bytes are left.
    let (long, short) = (plain(0, DATAGRAM_LEN - 27, Offload::NONE), plain(1, 600, Offload::NONE));
    let datagrams = encode(&[&[&long, &short]]).remove(0);
    assert_eq!(datagrams.iter().map(Bytes::len).collect::<Vec<_>>(), [DATAGRAM_LEN, 607]);
    assert!(datagrams[0][DATAGRAM_LEN - 20..].iter().all(|byte| *byte == 0));
}

#[test]
fn frames_that_are_kept_whole_are_cut_only_if_no_datagram_holds_them() {
    let (mut writer, mut datagrams) = (RecordWriter::new(), Vec::new());
    writer.keep_whole(true);
    let frames: Vec<_> = [1_000, 1_393, 300, 1_394]
        .into_iter()
        .enumerate()
        .map(|(number, len)| plain(number, len, Offload::NONE))
        .collect();
    for frame in &frames {
        writer.push_bytes(DATAGRAM_LEN, Offload::NONE, 0, &frame.bytes, &mut |d| datagrams.push(d));
    }
    writer.flush(&mut |datagram| datagrams.push(datagram));
    let records: Vec<_> = datagrams.iter().map(|datagram| records(datagram).count()).collect();
    // The last frame is a byte too long.
    assert_eq!(records, [1, 1, 2, 1]);
    assert!(datagrams[..3].iter().all(|datagram| datagram.len() == DATAGRAM_LEN));
    let mut receiver = Receiver::new();
    receiver.push(&datagrams);
    assert_eq!(receiver.numbers(), [0, 1, 2, 3]);
}

#[test]
fn a_frame_in_pieces_makes_the_same_datagrams() {
    let frames = [plain(0, 60, Offload::NONE), tcp(1, 50_000), plain(2, 3_000, Offload::NONE)];
    let encode = |cuts: &[usize]| {
        let (mut writer, mut datagrams) = (RecordWriter::new(), Vec::new());
        for Frame { offload, headers_len, bytes } in &frames {
            let what = &Description::for_test(*offload, *headers_len, bytes.len(), 0);
            let mut rest = Bytes::copy_from_slice(bytes);
            let cut = |cut: &usize| rest.split_to((*cut).min(rest.len()));
            let mut pieces: Vec<Bytes> = cuts.iter().map(cut).collect();
            pieces.push(rest);
            let bytes = FrameBytes::Pieces(&mut pieces);
            writer.push(DATAGRAM_LEN, &frame::Frame { what, bytes }, &mut |d| datagrams.push(d));
        }
        writer.flush(&mut |datagram| datagrams.push(datagram));
        datagrams
    };
    let whole = encode(&[]);
    assert_eq!(encode(&[256, 1_000]), whole);
    assert_eq!(encode(&[66, 1, 20_000, 7]), whole);
}

#[test]
fn a_changed_limit_ends_the_open_datagram() {
    let mut writer = RecordWriter::new();
    let mut datagrams = Vec::new();
    let mut emit = |datagram: Bytes| datagrams.push(datagram.len());
    let frame = plain(0, 100, Offload::NONE).bytes;
    writer.push_bytes(1_400, Offload::NONE, 0, &frame, &mut emit);
    assert_eq!(writer.open_len(), 107);
    writer.push_bytes(1_200, Offload::NONE, 0, &frame, &mut emit);
    writer.push_bytes(1_200, Offload::NONE, 0, &[], &mut emit);
    writer.flush(&mut emit);
    writer.flush(&mut emit);
    assert_eq!(datagrams, [107, 107]);
}

#[test]
fn frames_wait_for_one_with_holes_and_not_for_one_unseen() {
    let frames: Vec<_> = (0..4).map(|number| plain(number, 1_600, Offload::NONE)).collect();
    let bursts = encode(&[&[&frames[0]], &[&frames[1]], &[&frames[2]], &[&frames[3]]]);
    let mut receiver = Receiver::new();
    receiver.push(&bursts[0][..1]);
    receiver.push(&bursts[2]);
    receiver.push(&bursts[3]);
    assert_eq!(receiver.numbers(), []);
    receiver.push(&bursts[0][1..]);
    assert_eq!(receiver.numbers(), [0, 2, 3]);
    // Frame 1 comes after all: late is better than never.
    receiver.push(&bursts[1]);
    assert_eq!(receiver.numbers(), [0, 2, 3, 1]);
    assert_eq!(receiver.reassembler.stats().missing, 0);
}

#[test]
fn a_hole_holds_back_others_for_so_many_datagrams() {
    let whole: Vec<_> = (1..10).map(|number| plain(number, 60, Offload::NONE)).collect();
    let mut bursts: Vec<Vec<&Frame>> = whole.iter().map(|frame| vec![frame]).collect();
    let holed = plain(0, 3_000, Offload::NONE);
    bursts.insert(0, vec![&holed]);
    let bursts: Vec<_> = bursts.iter().map(Vec::as_slice).collect();
    let datagrams = encode(&bursts);
    let mut receiver = Receiver::new();
    receiver.batch(&datagrams[0][..2]);
    for (count, burst) in datagrams[1..].iter().enumerate() {
        receiver.batch(burst);
        let expected = if (count as u64) < RELEASE_AFTER_DATAGRAMS { 0 } else { count + 1 };
        assert_eq!(receiver.sink.delivered.len(), expected, "after {count} more");
    }
    // What comes of it now completes it; afterwards nothing more is wanted.
    receiver.batch(&datagrams[0][2..]);
    assert_eq!(receiver.numbers().last(), Some(&0));
    assert_eq!(receiver.reassembler.held_len(), 0);
    receiver.batch(&datagrams[0][2..]);
    assert_eq!(receiver.sink.dropped, [(DropReason::BadPiece, 1)]);
}

#[test]
fn a_hole_at_the_end_of_a_burst_holds_back_others_for_a_time() {
    let (holed, next) = (plain(0, 3_000, Offload::NONE), plain(1, 60, Offload::NONE));
    let bursts = encode(&[&[&holed], &[&next]]);
    let mut receiver = Receiver::new();
    let (wait, instant) = (Duration::from_micros(700), Duration::from_nanos(1));
    receiver.reassembler.set_reordering_wait(wait);
    receiver.batch(&bursts[0][..2]);
    receiver.batch(&bursts[1]);
    receiver.wait(wait - instant);
    assert_eq!(receiver.numbers(), []);
    receiver.wait(instant);
    assert_eq!(receiver.numbers(), [1]);
    assert_eq!(receiver.sink.dropped, []);
    receiver.wait(STALLED_WAIT);
    assert_eq!(receiver.sink.dropped, [(DropReason::Incomplete, 1)]);
    assert_eq!(receiver.reassembler.poll_timeout(), None);
    receiver.batch(&bursts[0][2..]);
    assert_eq!(receiver.sink.dropped[1..], [(DropReason::BadPiece, 1)]);
}

#[test]
fn a_sender_that_pauses_within_a_frame_is_waited_for() {
    let frame = plain(0, 3_000, Offload::NONE);
    let datagrams = encode(&[&[&frame]]).remove(0);
    let mut receiver = Receiver::new();
    for datagram in &datagrams {
        receiver.batch(std::slice::from_ref(datagram));
        receiver.wait(STALLED_WAIT - Duration::from_millis(1));
    }
    assert_eq!(receiver.numbers(), [0]);
}

/// The payload of each TCP run that was delivered: where it starts and how long it is.
fn runs(sink: &Collector) -> Vec<(usize, usize)> {
    let run = |(_, bytes): &(Offload, Vec<u8>)| (identify(bytes).1, bytes.len() - TCP_HEADERS_LEN);
    sink.delivered.iter().map(run).collect()
}

/// Nothing overtakes the end of a burst, and what came of it must not wait for that.
#[test]
fn a_tcp_frame_goes_on_in_parts_when_its_rest_is_late() {
    let (frame, next) = (tcp(0, 20_000), plain(1, 60, Offload::NONE));
    let bursts = encode(&[&[&frame], &[&next]]);
    let mut receiver = Receiver::new();
    receiver.batch(&bursts[0][..5]);
    receiver.wait(DEFAULT_REORDERING_WAIT);
    assert_eq!(receiver.sink.delivered.len(), 0);
    let round_trip = receiver.reassembler.poll_timeout().unwrap() - receiver.now;
    receiver.wait(round_trip);
    assert_eq!(receiver.sink.delivered.len(), 1);
    receiver.batch(&bursts[0][5..7]);
    assert_eq!(receiver.sink.delivered.len(), 1);
    // The next frame waits for what is before it, which is no longer a hole.
    receiver.push(&bursts[0][7..]);
    receiver.batch(&bursts[1]);
    let delivered = receiver.sink.delivered.pop();
    assert_eq!(delivered, Some((next.offload, next.bytes)));
    let runs = runs(&receiver.sink);
    assert_eq!(runs.len(), 2);
    assert_eq!((runs[0].0, runs[1].0, runs[1].0 + runs[1].1), (0, runs[0].1, 20_000));
    let stats = receiver.reassembler.stats();
    assert_eq!((stats.delivered, stats.salvaged, stats.salvaged_runs), (1, 1, 2));
    assert_eq!(receiver.reassembler.held_len(), 0);
}

/// A datagram that others overtake by more than is waited for is late, not lost.
#[test]
fn late_pieces_of_a_tcp_frame_are_delivered_late() {
    let frame = tcp(0, 20_000);
    let datagrams = encode(&[&[&frame]]).remove(0);
    let mut receiver = Receiver::new();
    receiver.push(&datagrams[..3]);
    receiver.batch(&datagrams[4..9]);
    assert_eq!(receiver.sink.delivered.len(), 2, "a hole is shown by the frame itself, too");
    receiver.batch(&datagrams[3..4]);
    receiver.batch(&datagrams[9..]);
    let mut runs = runs(&receiver.sink);
    assert_eq!(runs.len(), 4);
    assert!(runs[2].0 < runs[1].0, "the late one");
    runs.sort_unstable();
    let ends: Vec<_> = runs.iter().map(|(start, len)| start + len).collect();
    let starts: Vec<_> = runs.iter().map(|(start, _)| *start).collect();
    assert_eq!((starts[0], &starts[1..], ends[3]), (0, &ends[..3], 20_000));
}

/// The first pieces, one in the middle and the last lost in turn.
#[test]
fn a_tcp_superframe_is_salvaged_around_its_holes() {
    let (holed, next) = (tcp(0, 60_000), plain(1, 60, Offload::NONE));
    let bursts = encode(&[&[&holed], &[&next]]);
    let last = bursts[0].len() - 1;
    for lost in [vec![0], vec![20], vec![last], vec![0, 1, 5, 6, 30, last]] {
        let mut receiver = Receiver::new();
        for (index, datagram) in bursts[0].iter().enumerate() {
            if !lost.contains(&index) {
                receiver.push(std::slice::from_ref(datagram));
            }
        }
        receiver.batch(&bursts[1]);
        receiver.wait(DEFAULT_REORDERING_WAIT);
        receiver.reassembler.abandon(&mut receiver.sink);
        let (salvaged, plain) = receiver.sink.delivered.split_at(receiver.sink.delivered.len() - 1);
        assert_eq!(plain, [(next.offload, next.bytes.clone())]);
        let mut kept_len = 0;
        for (_, run) in salvaged {
            let (number, start) = identify(run);
            let payload = &run[TCP_HEADERS_LEN..];
            assert_eq!(
                (number, payload),
                (0, &holed.bytes[TCP_HEADERS_LEN + start..][..payload.len()])
            );
            kept_len += payload.len();
        }
        assert!(kept_len >= 60_000 - lost.len() * DATAGRAM_LEN, "{lost:?}: {kept_len}");
        let stats = receiver.reassembler.stats();
        assert_eq!((stats.salvaged, stats.salvaged_runs), (1, salvaged.len() as u64));
        assert!(receiver.sink.dropped.is_empty());
    }
}

/// Fills a receive buffer as the kernel would, and cuts the datagram from it.
fn receive_into(buffer: &mut BytesMut, datagram: &[u8]) -> Bytes {
    buffer.extend_from_slice(datagram);
    buffer.split().freeze()
}

#[test]
fn what_stays_is_copied_out_of_the_receive_buffers() {
    let (holed, next) = (plain(0, 3_000, Offload::NONE), plain(1, 60, Offload::NONE));
    let bursts = encode(&[&[&holed], &[&next]]);
    let mut buffer = BytesMut::with_capacity(65_536);
    let mut receiver = Receiver::new();
    for datagram in [&bursts[0][0], &bursts[0][1], &bursts[1][0]] {
        let datagram = receive_into(&mut buffer, datagram);
        receiver.reassembler.push(receiver.now, datagram, &mut receiver.sink);
    }
    for _ in 0..2 {
        receiver.batch(&[]);
        assert!(!buffer.try_reclaim(65_536), "the frame may still be completed without a copy");
    }
    receiver.batch(&[]);
    assert!(buffer.try_reclaim(65_536));
    receiver.push(&bursts[0][2..]);
    let expected = [holed, next].map(|frame| (frame.offload, frame.bytes));
    assert_eq!(receiver.sink.delivered, expected);
}

/// One byte held of each chunk's worth of traffic: the chunks are the bound, not the bytes.
#[test]
fn scattered_remains_cannot_pin_more_than_the_bound() {
    let mut receiver = Receiver::new();
    let mut piece = |sequence: u32, offset: u32, len: usize| {
        let mut record = vec![4];
        record.extend_from_slice(&(8 + len as u16).to_be_bytes());
        record.extend_from_slice(&sequence.to_be_bytes());
        record.extend_from_slice(&offset.to_be_bytes());
        record.resize(record.len() + len, 0x55);
        receiver.push(&[Bytes::from(record)]);
        for _ in 0..3 {
            receiver.batch(&[]);
        }
        assert!(receiver.reassembler.held_cost() <= HELD_MAX);
        assert!(receiver.reassembler.copied_chunks() * 128 * 1_024 <= HELD_MAX);
    };
    for round in 0..200 {
        piece(1_000_000, 2 * round, 1);
        for filler in 0..3 {
            piece(1_000_001 + round * 3 + filler, 0, 60_000);
        }
    }
    assert!(receiver.sink.count(DropReason::Incomplete) > 100);
}

#[test]
fn beyond_the_bounds_the_oldest_frame_goes() {
    let mut receiver = Receiver::new();
    // All in one datagram, so that nothing is given up for its age.
    let mut datagram = Vec::new();
    for sequence in 0..200_u32 {
        datagram.extend_from_slice(&[4, 0, 9]);
        datagram.extend_from_slice(&sequence.to_be_bytes());
        datagram.extend_from_slice(&[0, 0, 0, 7, 0xaa]);
    }
    receiver.push(&[datagram.into()]);
    // 64 hold back others, 32 are late.
    assert_eq!(receiver.reassembler.held_len(), 96);
    assert_eq!(receiver.sink.dropped, vec![(DropReason::Incomplete, 1); 104]);
    assert_eq!(receiver.reassembler.stats().given_up, 104);
}

#[test]
fn behind_a_hole_so_many_frames_wait_and_no_more() {
    let mut receiver = Receiver::new();
    // All in one datagram, so that the hole is not given up for its age.
    let mut datagram = vec![4, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7, 0xaa];
    for sequence in 1..=1_030_u32 {
        datagram.extend_from_slice(&[1, 0, 6]);
        datagram.extend_from_slice(&sequence.to_be_bytes());
        datagram.extend_from_slice(&[0xaa, 0xbb]);
    }
    receiver.push(&[datagram.into()]);
    // The frame with the hole is a late one now, and nobody waits for it.
    assert_eq!(receiver.sink.delivered.len(), 1_030);
    assert_eq!(receiver.reassembler.held_len(), 1);
}

#[test]
fn frames_in_long_pieces_cannot_hold_more_than_the_bound() {
    let mut receiver = Receiver::new();
    for sequence in 0..96_u32 {
        let mut record = vec![4];
        record.extend_from_slice(&60_008_u16.to_be_bytes());
        record.extend_from_slice(&sequence.to_be_bytes());
        record.resize(record.len() + 4 + 60_000, 0);
        receiver.push(&[record.into()]);
        assert!(receiver.reassembler.held_cost() <= 4 << 20);
    }
    assert!(receiver.sink.count(DropReason::ReassemblyFull) > 20);
}

#[test]
fn a_frame_that_comes_whole_and_in_pieces_is_taken_once() {
    let mut receiver = Receiver::new();
    let piece = Bytes::from_static(&[4, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0xaa]);
    let whole = Bytes::from_static(&[1, 0, 6, 0, 0, 0, 0, 0xaa, 0xbb]);
    receiver.push(&[piece.clone(), whole.clone()]);
    assert_eq!(receiver.sink.dropped, [(DropReason::BadPiece, 1)]);
    let mut receiver = Receiver::new();
    receiver.push(&[whole.clone(), piece, whole]);
    assert_eq!(receiver.sink.delivered.len(), 1);
    let expected = [DropReason::BadPiece, DropReason::Repeated].map(|reason| (reason, 1));
    assert_eq!(receiver.sink.dropped, expected);
}

#[test]
fn frames_longer_than_announced_are_refused() {
    let mut receiver = Receiver::new();
    receiver.reassembler = Reassembler::new(1_000);
    let long = plain(0, 1_001, Offload::NONE);
    let cut = plain(1, 2_000, Offload::NONE);
    for burst in encode(&[&[&long], &[&cut]]) {
        receiver.push(&burst);
    }
    // Both pieces of the second frame: what they say of it reaches too far.
    assert_eq!(receiver.sink.count(DropReason::BadRecord), 3);
    assert!(receiver.sink.delivered.is_empty());
}

#[test]
fn sequence_numbers_wrap() {
    assert_eq!(Sequence(u32::MAX).next(), Sequence(0));
    assert_eq!(Sequence(2).distance_from(Sequence(u32::MAX)), 3);
    assert_eq!(Sequence(u32::MAX).distance_from(Sequence(2)), -3);
}
