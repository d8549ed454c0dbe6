//! Frames to datagrams and back, beside the plainest way to do the same: a vector for each datagram and each frame.

use std::{hint::black_box, time::Instant};

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipop_datapath::{
    counters::drops::DropReason,
    frame::{Description, Frame, FrameBytes, Gso, MAX_FRAME_LEN, Offload, describe},
    record::{FrameSink, Reassembler, RecordWriter},
};

const DATAGRAM_LEN: usize = 1_400;
/// One train.
const BURST_LEN: usize = 64 * 1_024;
const FRAME_LENS: [usize; 3] = [60, 1_514, 65_226];

/// A frame of this length, a TCP superframe if it is a long one.
fn frame(len: usize) -> (Description, Vec<u8>) {
    let mut frame = vec![0x5a; len];
    if len <= 1_514 {
        return (describe(Offload::NONE, &frame, len).expect("not a runt"), frame);
    }
    frame[12..54].fill(0);
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    frame[23] = 6;
    // 32 bytes of TCP header, ACK.
    frame[46..48].copy_from_slice(&[0x80, 0x10]);
    let gso = Gso::Tcp4 { ecn: false };
    let offload =
        Offload { needs_csum: true, gso, gso_size: 1_448, csum_start: 34, csum_offset: 16 };
    (describe(offload, &frame, len).expect("sound"), frame)
}

fn frames_in_burst(frame_len: usize) -> usize {
    BURST_LEN.div_ceil(frame_len)
}

#[derive(Default)]
struct Sink {
    bytes: usize,
}

impl FrameSink for Sink {
    fn deliver(&mut self, _: Offload, pieces: &mut Vec<Bytes>) {
        self.bytes += pieces.iter().map(Bytes::len).sum::<usize>();
    }

    fn dropped(&mut self, reason: DropReason, _: u64) {
        panic!("{reason:?}");
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for frame_len in FRAME_LENS {
        let frames = frames_in_burst(frame_len);
        let (ref what, frame) = frame(frame_len);
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::new("writer", frame_len), |b| {
            let mut writer = RecordWriter::new();
            let mut queue = Vec::with_capacity(1_024);
            b.iter(|| {
                for _ in 0..frames {
                    let frame = Frame { what, bytes: FrameBytes::Whole(black_box(&frame)) };
                    writer.push(DATAGRAM_LEN, &frame, &mut |d| queue.push(d));
                }
                writer.flush(&mut |datagram| queue.push(datagram));
                queue.clear();
            });
        });
        group.bench_function(BenchmarkId::new("vec_per_datagram", frame_len), |b| {
            let mut queue = Vec::with_capacity(2_048);
            b.iter(|| {
                for number in 0..frames {
                    vec_per_datagram(number as u32, black_box(&frame), &mut queue);
                }
                queue.clear();
            });
        });
        group.bench_function(BenchmarkId::new("copy_alone", frame_len), |b| {
            let mut to = vec![0; frame_len * frames];
            b.iter(|| {
                for place in to.chunks_mut(frame_len) {
                    place.copy_from_slice(black_box(&frame));
                }
                black_box(&mut to);
            });
        });
    }
    group.finish();
}

/// A header of 16 bytes, no packing, datagrams as they come.
fn vec_per_datagram(number: u32, frame: &[u8], queue: &mut Vec<Bytes>) {
    for (index, piece) in frame.chunks(DATAGRAM_LEN - 16).enumerate() {
        let mut datagram = Vec::with_capacity(DATAGRAM_LEN);
        datagram.extend_from_slice(&number.to_be_bytes());
        datagram.extend_from_slice(&((index * (DATAGRAM_LEN - 16)) as u32).to_be_bytes());
        datagram.extend_from_slice(&(frame.len() as u64).to_be_bytes());
        datagram.extend_from_slice(piece);
        queue.push(datagram.into());
    }
}

/// Datagrams as QUIC gives them: slices of a receive buffer.
fn received(datagrams: &[Bytes]) -> Vec<Bytes> {
    let mut buffer = BytesMut::with_capacity(datagrams.iter().map(Bytes::len).sum());
    let mut cut = |datagram: &Bytes| {
        buffer.extend_from_slice(datagram);
        buffer.split().freeze()
    };
    datagrams.iter().map(&mut cut).collect()
}

fn reassemble(c: &mut Criterion) {
    let mut group = c.benchmark_group("reassemble");
    for frame_len in FRAME_LENS {
        let frames = frames_in_burst(frame_len);
        let (ref what, frame) = frame(frame_len);
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::new("reassembler", frame_len), |b| {
            let mut sink = Sink::default();
            b.iter_custom(|iterations| {
                let mut writer = RecordWriter::new();
                let mut reassembler = Reassembler::new(MAX_FRAME_LEN);
                let mut elapsed = std::time::Duration::ZERO;
                for _ in 0..iterations {
                    let mut queue = Vec::new();
                    for _ in 0..frames {
                        let frame = Frame { what, bytes: FrameBytes::Whole(&frame) };
                        writer.push(DATAGRAM_LEN, &frame, &mut |datagram| queue.push(datagram));
                    }
                    writer.flush(&mut |datagram| queue.push(datagram));
                    let arrivals = received(&queue);
                    let now = Instant::now();
                    for datagram in arrivals {
                        reassembler.push(now, datagram, &mut sink);
                    }
                    reassembler.end_batch(now, &mut sink);
                    elapsed += now.elapsed();
                }
                elapsed
            });
            black_box(sink.bytes);
        });
        group.bench_function(BenchmarkId::new("vec_per_frame", frame_len), |b| {
            let mut queue = Vec::new();
            for number in 0..frames {
                vec_per_datagram(number as u32, &frame, &mut queue);
            }
            let arrivals = received(&queue);
            b.iter(|| {
                let mut bytes = Vec::with_capacity(frame_len);
                for datagram in &arrivals {
                    bytes.extend_from_slice(&datagram[16..]);
                    if bytes.len() == frame_len {
                        black_box(std::mem::take(&mut bytes));
                    }
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = encode, reassemble
}
criterion_main!(benches);
