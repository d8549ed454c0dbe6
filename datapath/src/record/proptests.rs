//! Writer and reassembler, back to back over a network that does what networks do.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use crate::{
    counters::drops::DropReason,
    frame::{Gso, MAX_FRAME_LEN, Offload},
};

use super::{
    MIN_DATAGRAM_LEN, Reassembler, RecordWriter, fuzzing, records,
    testing::{Collector, Frame, TCP_HEADERS_LEN, identify, plain, tcp},
};

#[derive(Clone, Copy, Debug)]
enum Make {
    Plain(usize),
    Udp(usize),
    Tcp(usize),
}

impl Make {
    fn frame(self, number: usize) -> Frame {
        let udp = Offload {
            needs_csum: true,
            gso: Gso::Udp,
            gso_size: 1_200,
            csum_start: 34,
            csum_offset: 6,
        };
        match self {
            Self::Plain(len) => plain(number, len, Offload::NONE),
            Self::Udp(len) => plain(number, len, udp),
            Self::Tcp(payload_len) => tcp(number, payload_len),
        }
    }
}

fn make() -> impl Strategy<Value = Make> {
    let len = || prop_oneof![4 => 18..200_usize, 3 => 1_000..1_600_usize, 1 => 18..20_000_usize];
    prop_oneof![
        4 => len().prop_map(Make::Plain),
        1 => len().prop_map(Make::Udp),
        3 => prop_oneof![2 => 1_100..8_000_usize, 1 => 20_000..65_000_usize].prop_map(Make::Tcp),
    ]
}

/// Frames, each with whether a burst ends behind it, and what the path carries meanwhile.
fn burst() -> impl Strategy<Value = (usize, Vec<Make>)> {
    let max_datagram_len = prop_oneof![1 => MIN_DATAGRAM_LEN..9_000, 3 => 1_150..1_460_usize];
    (max_datagram_len, proptest::collection::vec(make(), 1..8))
}

/// Every other burst with frames kept whole.
fn encode(bursts: &[(usize, Vec<Make>)]) -> (Vec<Frame>, Vec<Bytes>) {
    let mut writer = RecordWriter::new();
    let (mut frames, mut datagrams) = (Vec::new(), Vec::new());
    for (number, (max_datagram_len, makes)) in bursts.iter().enumerate() {
        writer.keep_whole(number % 2 == 1);
        let begin = datagrams.len();
        for make in makes {
            let frame = make.frame(frames.len());
            let Frame { offload, headers_len, bytes } = &frame;
            writer.push_bytes(*max_datagram_len, *offload, *headers_len, bytes, &mut |datagram| {
                datagrams.push(datagram);
            });
            frames.push(frame);
        }
        writer.flush(&mut |datagram| datagrams.push(datagram));
        assert_eq!(writer.open_len(), 0);
        let (last, full) = datagrams[begin..].split_last().unwrap();
        assert!(full.iter().all(|datagram| datagram.len() == *max_datagram_len));
        assert!((1..=*max_datagram_len).contains(&last.len()));
    }
    (frames, datagrams)
}

/// What happens to a datagram: lost, twice, or how many places late.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Arrives,
    Lost,
    Twice,
    Late(usize),
}

fn in_order() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![20 => Just(Fate::Arrives), 1 => Just(Fate::Lost)];
    proptest::collection::vec(fate, 1..100)
}

fn any_fate() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        20 => Just(Fate::Arrives),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        2 => (1..40_usize).prop_map(Fate::Late),
    ];
    proptest::collection::vec(fate, 1..100)
}

/// The datagrams as they arrive. The last one is never lost, so that the receiver knows what was sent.
fn carry(datagrams: &[Bytes], fates: &[Fate]) -> Vec<Bytes> {
    let mut arrivals = Vec::new();
    for (index, datagram) in datagrams.iter().enumerate() {
        let late = |by: usize| (index + by, index, datagram.clone());
        match fates[index % fates.len()] {
            Fate::Lost if index + 1 < datagrams.len() => {}
            Fate::Arrives | Fate::Lost => arrivals.push(late(0)),
            Fate::Twice => arrivals.extend([late(0), late(3)]),
            Fate::Late(by) => arrivals.push(late(by)),
        }
    }
    arrivals.sort_by_key(|(at, index, _)| (*at, *index));
    arrivals.into_iter().map(|(_, _, datagram)| datagram).collect()
}

fn receive(arrivals: Vec<Bytes>) -> (Reassembler, Collector) {
    let mut now = Instant::now();
    let mut reassembler = Reassembler::new(MAX_FRAME_LEN);
    let mut sink = Collector::default();
    for (index, datagram) in arrivals.into_iter().enumerate() {
        reassembler.push(now, datagram, &mut sink);
        now += Duration::from_micros(3);
        if index % 7 == 6 {
            reassembler.end_batch(now, &mut sink);
        }
    }
    while let Some(deadline) = reassembler.poll_timeout() {
        reassembler.handle_timeout(deadline, &mut sink);
    }
    (reassembler, sink)
}

/// Nothing is delivered that was not sent; every frame is accounted for.
fn assert_honest(frames: &[Frame], reassembler: &Reassembler, sink: &Collector) {
    let mut whole = 0;
    for (offload, bytes) in &sink.delivered {
        let (number, start) = identify(bytes);
        let sent = &frames[number];
        if (*offload, bytes.as_slice()) == (sent.offload, sent.bytes.as_slice()) {
            whole += 1;
            continue;
        }
        assert!(sent.headers_len > 0, "frame {number} is not what was sent");
        let payload = &bytes[TCP_HEADERS_LEN..];
        assert_eq!(payload, &sent.bytes[TCP_HEADERS_LEN + start..][..payload.len()]);
    }
    let stats = reassembler.stats();
    assert_eq!(stats.delivered, whole);
    assert_eq!(stats.delivered + stats.salvaged_runs, sink.delivered.len() as u64);
    let all = stats.delivered + stats.salvaged + stats.given_up + stats.missing;
    assert_eq!(all, frames.len() as u64, "{stats:?}");
    assert_eq!(stats.given_up, sink.count(DropReason::Incomplete));
    assert_eq!(sink.count(DropReason::BadRecord), 0);
    assert_eq!(sink.count(DropReason::ReassemblyFull), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn frames_round_trip_in_order(bursts in proptest::collection::vec(burst(), 1..5)) {
        let (frames, datagrams) = encode(&bursts);
        let (reassembler, sink) = receive(datagrams);
        let sent: Vec<_> = frames.into_iter().map(|frame| (frame.offload, frame.bytes)).collect();
        prop_assert_eq!(reassembler.stats().delivered, sent.len() as u64);
        prop_assert!(sink.delivered == sent);
        prop_assert!(sink.dropped.is_empty());
    }

    #[test]
    fn loss_costs_what_was_lost_and_never_the_order(
        bursts in proptest::collection::vec(burst(), 1..8),
        fates in in_order(),
    ) {
        let (frames, datagrams) = encode(&bursts);
        let (reassembler, sink) = receive(carry(&datagrams, &fates));
        assert_honest(&frames, &reassembler, &sink);
        let order: Vec<_> = sink.delivered.iter().map(|(_, bytes)| identify(bytes)).collect();
        prop_assert!(order.is_sorted_by(|a, b| a < b), "{:?}", order);
    }

    #[test]
    fn reordering_and_repetition_deliver_nothing_wrong_and_nothing_twice(
        bursts in proptest::collection::vec(burst(), 1..8),
        fates in any_fate(),
    ) {
        let (frames, datagrams) = encode(&bursts);
        let (reassembler, sink) = receive(carry(&datagrams, &fates));
        assert_honest(&frames, &reassembler, &sink);
        let mut seen: Vec<_> = sink.delivered.iter().map(|(_, bytes)| identify(bytes)).collect();
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), sink.delivered.len());
    }

    /// Within the packets that are waited for, reordering is invisible when frames come in pieces all the time.
    #[test]
    fn a_little_reordering_of_pieces_is_repaired(
        payload_lens in proptest::collection::vec(20_000..65_000_usize, 2..6),
        swaps in proptest::collection::vec(0..3_usize, 1..50),
    ) {
        let makes = payload_lens.into_iter().map(Make::Tcp).collect();
        let (frames, datagrams) = encode(&[(1_400, makes)]);
        let fates: Vec<_> = swaps.into_iter().map(Fate::Late).collect();
        let (_, sink) = receive(carry(&datagrams, &fates));
        let sent: Vec<_> = frames.into_iter().map(|frame| (frame.offload, frame.bytes)).collect();
        prop_assert!(sink.delivered == sent);
    }

    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::records(&bytes);
        fuzzing::reassembly(&bytes);
    }

    /// Records that are well formed and mean nothing good.
    #[test]
    fn arbitrary_records_are_safe(
        pieces in proptest::collection::vec(
            (3..6_u8, 0..40_u32, 0..3_000_u32, 1..3_200_u32, 1..90_u8, 0..8_u8),
            1..150,
        ),
    ) {
        let mut script = Vec::new();
        for (kind, sequence, offset, total_len, len, step) in pieces {
            let record = hostile(kind, sequence * 150, offset, total_len, len);
            prop_assert_eq!(records(&record).count(), 1);
            script.extend_from_slice(&[0, record.len() as u8]);
            script.extend_from_slice(&record);
            if step >= 5 {
                script.extend_from_slice(&[step, 9]);
            }
        }
        fuzzing::reassembly(&script);
    }
}

fn hostile(kind: u8, sequence: u32, offset: u32, total_len: u32, len: u8) -> Vec<u8> {
    let shape = [total_len.to_be_bytes(), [1, 1, 0, 90], [0, 34, 0, 16]].concat();
    let mut body = sequence.to_be_bytes().to_vec();
    if kind > 3 {
        body.extend_from_slice(&offset.to_be_bytes());
    }
    if kind != 4 {
        body.extend_from_slice(&shape);
    }
    if kind == 5 {
        let frame = tcp(1, 200).bytes;
        body.extend_from_slice(&[0, TCP_HEADERS_LEN as u8]);
        body.extend_from_slice(&frame[..TCP_HEADERS_LEN]);
    }
    body.extend(std::iter::repeat_n(0xab, usize::from(len)));
    [&[kind], &(body.len() as u16).to_be_bytes()[..], &body].concat()
}
