//! What is done to single frames: classification, segmentation and checksums in software, salvage; each beside the plainest
//! way to get the same.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::{PacketBuilder, SlicedPacket};
use ipop_datapath::frame::{Gso, Offload, Template, complete_checksum, describe, segment};

const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 8];
const DESTINATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Ethernet, IPv4, TCP without options.
const HEADERS_LEN: usize = 54;
const MSS: usize = 1_460;
/// The largest superframe of whole segments.
const SUPERFRAME_SEGMENTS: usize = 44;

fn tcp(payload_len: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(SOURCE, DESTINATION)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(4_000, 5_001, 1, 64_000)
        .ack(1);
    let mut frame = Vec::with_capacity(builder.size(payload_len));
    builder.write(&mut frame, &vec![0x5a; payload_len]).expect("lengths fit");
    frame
}

fn udp(payload_len: usize) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(SOURCE, DESTINATION).ipv6([1; 16], [2; 16], 64).udp(4_000, 5_001);
    let mut frame = Vec::with_capacity(builder.size(payload_len));
    builder.write(&mut frame, &vec![0x5a; payload_len]).expect("lengths fit");
    frame
}

fn tcp_offload(frame: &[u8]) -> Offload {
    let (gso, gso_size) = if frame.len() > HEADERS_LEN + MSS {
        (Gso::Tcp4 { ecn: false }, MSS as u16)
    } else {
        (Gso::None, 0)
    };
    Offload { needs_csum: true, gso, gso_size, csum_start: 34, csum_offset: 16 }
}

/// Are frame and offload sound, where are its headers, and which flow is it of? Beside a full parse by etherparse.
fn classify(c: &mut Criterion) {
    let superframe = tcp(MSS * SUPERFRAME_SEGMENTS);
    let frames = [
        ("udp6_small", udp(4), Offload::NONE),
        ("tcp4_full", tcp(MSS), tcp_offload(&tcp(MSS))),
        ("tcp4_superframe", superframe.clone(), tcp_offload(&superframe)),
    ];
    let mut group = c.benchmark_group("classify");
    group.throughput(Throughput::Elements(1));
    for (name, frame, offload) in frames {
        group.bench_function(BenchmarkId::new("check_and_flow", name), |b| {
            b.iter(|| {
                let frame = black_box(frame.as_slice());
                describe(offload, frame, frame.len()).expect("sound").flow()
            });
        });
        group.bench_function(BenchmarkId::new("etherparse", name), |b| {
            b.iter(|| SlicedPacket::from_ethernet(black_box(&frame)).expect("sound").transport);
        });
    }
    group.finish();
}

/// A superframe cut in software, beside copying it in pieces of the same size.
fn segmentation(c: &mut Criterion) {
    let frame = tcp(MSS * SUPERFRAME_SEGMENTS);
    let checked = describe(tcp_offload(&frame), &frame, frame.len()).expect("sound");
    let mut group = c.benchmark_group("segment");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    let mut scratch = Vec::new();
    group.bench_function("segment", |b| {
        b.iter(|| {
            let mut count = 0;
            let emit = |part: &[u8]| count += usize::from(!black_box(part).is_empty());
            segment(&checked, black_box(&frame), &mut scratch, emit).expect("it is the frame");
            assert_eq!(count, SUPERFRAME_SEGMENTS);
        });
    });
    group.bench_function("copy_alone", |b| {
        b.iter(|| {
            for part in black_box(&frame)[HEADERS_LEN..].chunks(MSS) {
                scratch.clear();
                scratch.extend_from_slice(&frame[..HEADERS_LEN]);
                scratch.extend_from_slice(part);
                black_box(&scratch);
            }
        });
    });
    let mut plain = tcp(MSS);
    group.throughput(Throughput::Bytes(plain.len() as u64));
    group.bench_function("complete_checksum", |b| {
        let offload = tcp_offload(&plain);
        b.iter(|| complete_checksum(offload, black_box(&mut plain)).expect("sound"));
    });
    group.finish();
}

/// Headers for a run of 10 segments out of a superframe, beside copying the headers as they are.
fn salvage(c: &mut Criterion) {
    let frame = tcp(MSS * SUPERFRAME_SEGMENTS);
    let offload = tcp_offload(&frame);
    let (start, end) = (HEADERS_LEN + 3 * MSS, HEADERS_LEN + 13 * MSS);
    let mut group = c.benchmark_group("salvage");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::new();
    group.bench_function("template_and_run", |b| {
        b.iter(|| {
            let headers = black_box(&frame[..HEADERS_LEN]);
            let template = Template::new(offload, headers, frame.len()).expect("TCP");
            template.run(start, end, &mut out).expect("within the frame")
        });
    });
    group.bench_function("copy_alone", |b| {
        b.iter(|| {
            out.clear();
            out.extend_from_slice(black_box(&frame[..HEADERS_LEN]));
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = classify, segmentation, salvage
}
criterion_main!(benches);
