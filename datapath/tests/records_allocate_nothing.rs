//! The record stream allocates nothing per frame or datagram once its buffers are there.
//!
//! A file of its own, since the counting allocator serves the whole process.

#[path = "common/counting.rs"]
mod counting;

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use ipop_datapath::{
    counters::drops::DropReason,
    frame::{Frame, FrameBytes, Gso, MAX_FRAME_LEN, Offload, describe},
    record::{FrameSink, Reassembler, RecordWriter},
};

const DATAGRAM_LEN: usize = 1_400;
const RECEIVE_BUFFER_LEN: usize = 65_536;

#[derive(Default)]
struct Sink {
    delivered: u64,
    dropped: u64,
}

impl FrameSink for Sink {
    fn deliver(&mut self, _: Offload, _: &mut Vec<Bytes>) {
        self.delivered += 1;
    }

    fn dropped(&mut self, _: DropReason, frames: u64) {
        self.dropped += frames;
    }
}

/// Sends bursts of frames through a queue of bounded length and receive buffers, as QUIC and the kernel would.
struct Path {
    writer: RecordWriter,
    queue: Vec<Bytes>,
    buffers: Vec<BytesMut>,
    reassembler: Reassembler,
    sink: Sink,
    datagrams: u64,
    /// Every datagram of this number is lost; 0 for none.
    lose_every: u64,
}

impl Path {
    fn new(lose_every: u64) -> Self {
        Self {
            writer: RecordWriter::new(),
            queue: Vec::with_capacity(4_096),
            buffers: (0..8).map(|_| receive_buffer()).collect(),
            reassembler: Reassembler::new(MAX_FRAME_LEN),
            sink: Sink::default(),
            datagrams: 0,
            lose_every,
        }
    }

    fn burst(&mut self, offload: Offload, frame: &[u8], frames: usize) {
        let now = Instant::now();
        let Self { writer, queue, buffers, reassembler, sink, .. } = self;
        let what = &describe(offload, frame, frame.len()).expect("sound");
        for _ in 0..frames {
            let frame = Frame { what, bytes: FrameBytes::Whole(frame) };
            writer.push(DATAGRAM_LEN, &frame, &mut |datagram| queue.push(datagram));
        }
        writer.flush(&mut |datagram| queue.push(datagram));
        for datagram in queue.drain(..) {
            self.datagrams += 1;
            if self.lose_every > 0 && self.datagrams.is_multiple_of(self.lose_every) {
                continue;
            }
            let free = buffers.iter_mut().position(|buffer| buffer.try_reclaim(DATAGRAM_LEN));
            let buffer =
                &mut buffers[free.expect("what is delivered or unpinned frees its buffer")];
            buffer.extend_from_slice(&datagram);
            reassembler.push(now, buffer.split().freeze(), sink);
            if self.datagrams.is_multiple_of(40) {
                reassembler.end_batch(now, sink);
            }
        }
    }
}

/// Cut once: `bytes` allocates a reference count then, and keeps it.
fn receive_buffer() -> BytesMut {
    let mut buffer = BytesMut::with_capacity(RECEIVE_BUFFER_LEN);
    buffer.extend_from_slice(&[0]);
    drop(buffer.split());
    buffer
}

fn tcp_superframe() -> (Offload, Vec<u8>) {
    let offload = Offload {
        needs_csum: true,
        gso: Gso::Tcp4 { ecn: false },
        gso_size: 1_448,
        csum_start: 34,
        csum_offset: 16,
    };
    let mut frame = vec![0; 65_226];
    frame[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0xfe, 0xbc]);
    frame[23] = 6;
    // 32 bytes of TCP header, ACK.
    frame[46..48].copy_from_slice(&[0x80, 0x10]);
    (offload, frame)
}

fn allocations_of(path: &mut Path, rounds: usize) -> u64 {
    let (offload, superframe) = &tcp_superframe();
    let before = counting::allocations();
    for _ in 0..rounds {
        path.burst(Offload::NONE, &superframe[..60], 300);
        path.burst(Offload::NONE, &superframe[..1_514], 50);
        path.burst(*offload, superframe, 8);
    }
    counting::allocations() - before
}

#[test]
fn no_allocation_per_frame_in_steady_state() {
    let mut path = Path::new(0);
    let warm_up = allocations_of(&mut path, 20);
    assert!(warm_up > 0, "the counter counts");
    assert_eq!(allocations_of(&mut path, 50), 0);
    assert_eq!((path.sink.delivered, path.sink.dropped), (70 * 358, 0));

    let mut path = Path::new(97);
    allocations_of(&mut path, 100);
    assert_eq!(allocations_of(&mut path, 50), 0, "nor with loss");
    assert!(path.reassembler.stats().salvaged > 10);
    assert!(path.sink.dropped > 10);
}
