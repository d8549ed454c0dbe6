//! The sending half of an admitted connection: frames wait in the queues of their flows, are cut into datagrams, and go into QUIC's queue.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use bytes::Bytes;
use ipop_learning::PortId;
use quinn_proto::Connection;

use crate::{
    core::context::Context,
    counters::drops::{DropReason, Passed},
    frame::{Description, Frame, FrameBytes, Gso, Offload, Scratch, segment},
    quic::{TunnelHealth, transport::SEND_QUEUE_BYTES},
    record::{RecordWriter, first_begun},
    tunnel::{
        hello::{Capabilities, Hello},
        queue::FlowQueue,
        repeat::Repeater,
        sharing::Sharing,
        unsent::Unsent,
    },
};

/// Records and their headers cost this much of the queue at most, for each datagram that a frame begins or continues in.
const RECORD_OVERHEAD: usize = 64;
/// What QUIC's queue is filled up to from the queues of flows: two trains; one while flows share the tunnel. Bytes.
const FED_BYTES: usize = 128 << 10;
const SHARED_FED_BYTES: usize = 64 << 10;
/// Longer superframes, segments, are those of large windows: for them the loss of another segment is nothing, and the work of segmenting would be much.
const SEGMENTED_MAX: usize = 8;

/// What an admitted connection sends: its queues, its open datagram, what the peer takes.
pub(crate) struct Outbound {
    port: PortId,
    /// What the far end takes, by its hello.
    capabilities: Capabilities,
    max_frame_len: usize,
    health: Arc<TunnelHealth>,
    queue: FlowQueue,
    sharing: Sharing,
    writer: RecordWriter,
    unsent: Unsent,
    repeater: Repeater,
}

impl Outbound {
    /// To the peer at `port`; nothing is queued on the connection.
    pub(super) fn new(
        port: PortId,
        hello: &Hello,
        health: Arc<TunnelHealth>,
        connection: &mut Connection,
    ) -> Self {
        Self {
            port,
            capabilities: hello.capabilities,
            max_frame_len: hello.max_frame_len as usize,
            health,
            queue: FlowQueue::new(),
            sharing: Sharing::default(),
            writer: RecordWriter::new(),
            unsent: Unsent::new(connection.datagrams().send_buffer_space()),
            repeater: Repeater::default(),
        }
    }

    /// Takes a frame for the peer: into datagrams if there is room, else into the queue of its flow.
    pub(crate) fn offer(
        &mut self,
        connection: &mut Connection,
        frame: Frame<'_>,
        scratch: &mut Scratch,
        cx: &Context,
    ) -> Passed {
        self.sharing.note(frame.what.total_len(), frame.what.flow());
        if self.queue.is_empty() && self.has_room(connection) {
            return self.enqueue(connection, frame, scratch, cx);
        }
        self.queue.push(frame);
        while let Some(gone) = self.queue.pop_excess() {
            cx.drop(self.port, DropReason::TunnelQueueFull, &gone.frame().bytes);
        }
        Ok(())
    }

    /// Whether other flows want to get past one that fills the tunnel: little is to be in flight then, and rounds are to be short.
    pub(crate) fn is_shared(&mut self, now: Instant) -> bool {
        let is_shared = self.sharing.is_shared(now);
        self.health.shared.store(is_shared, Relaxed);
        is_shared
    }

    /// Cuts waiting frames into datagrams as far as there is room. When none is left the burst has ended, and the open datagram goes out short.
    pub(crate) fn feed(
        &mut self,
        connection: &mut Connection,
        scratch: &mut Scratch,
        cx: &Context,
    ) {
        while self.has_room(connection)
            && let Some(waiting) = self.queue.pop()
        {
            if let Err(reason) = self.enqueue(connection, waiting.frame(), scratch, cx) {
                cx.drop(self.port, reason, &waiting.frame().bytes);
            }
        }
        if self.queue.is_empty() {
            self.end_burst(connection, cx);
        }
    }

    /// Whether QUIC has less in its queue than it is to have. What waits there is past all choice, so it is no more than keeps trains full.
    fn has_room(&self, connection: &mut Connection) -> bool {
        let queued = SEND_QUEUE_BYTES - connection.datagrams().send_buffer_space();
        let is_shared = self.health.shared.load(Relaxed);
        let limit = if is_shared { SHARED_FED_BYTES } else { FED_BYTES };
        queued + self.writer.open_len() < limit
    }

    /// Queues a frame, segmented first if the peer cannot take it as it is, or if that saves segments; counts what the peer will see.
    fn enqueue(
        &mut self,
        connection: &mut Connection,
        frame: Frame<'_>,
        scratch: &mut Scratch,
        cx: &Context,
    ) -> Passed {
        let what = frame.what;
        let takes_it = needs(what.offload()) & !self.capabilities.0 == 0;
        if takes_it && !self.is_better_segmented(connection, what) {
            if what.total_len() > self.max_frame_len {
                return Err(DropReason::Oversized);
            }
            return self.push(connection, &frame, cx);
        }
        let (mut segments, mut result) = (0, Ok(()));
        let whole = frame.bytes.contiguous(&mut scratch.whole);
        segment(what, whole, &mut scratch.segment, |segment| {
            if result.is_ok() {
                let what = &what.of_segment(segment.len());
                let frame = Frame { what, bytes: FrameBytes::Whole(segment) };
                result = self.push(connection, &frame, cx);
                segments += u64::from(result.is_ok());
            }
        })?;
        cx.is_segmented(self.port, what, segments, result)
    }

    /// Whether a superframe goes segment by segment, each in a packet of its own: on a path that loses packets, where its segments fit into packets. Cut where packets end,
    /// two of its segments are lost with one packet, and of a small window that is much: a tenth of the throughput at 1 % of loss and 20 ms.
    fn is_better_segmented(&self, connection: &mut Connection, what: &Description) -> bool {
        let offload = what.offload();
        if !matches!(offload.gso, Gso::Tcp4 { .. } | Gso::Tcp6 { .. }) || !self.repeater.is_lossy()
        {
            return false;
        }
        let segment_len = usize::from(offload.gso_size);
        let record_len = usize::from(what.headers_len()) + segment_len + RecordWriter::WHOLE_LEN;
        let max_len = connection.datagrams().max_size().unwrap_or_default();
        what.total_len() <= SEGMENTED_MAX * segment_len && record_len <= max_len
    }

    fn push(&mut self, connection: &mut Connection, frame: &Frame<'_>, cx: &Context) -> Passed {
        let len = frame.what.total_len();
        let mut datagrams = connection.datagrams();
        let max_len = datagrams.max_size().ok_or(DropReason::NotAdmitted)?;
        let cost = len + RECORD_OVERHEAD * (2 + len / max_len);
        if datagrams.send_buffer_space() < cost + self.writer.open_len() {
            return Err(DropReason::TunnelQueueFull);
        }
        self.writer.push(max_len, frame, &mut |datagram| {
            queue(&mut datagrams, &mut self.unsent, datagram, cx);
        });
        cx.goes_out(self.port, frame, 1);
        Ok(())
    }

    /// Ends the burst: the open datagram goes out short.
    pub(crate) fn end_burst(&mut self, connection: &mut Connection, cx: &Context) {
        let mut datagrams = connection.datagrams();
        self.writer.flush(&mut |datagram| {
            self.repeater.burst_ends(&datagram);
            queue(&mut datagrams, &mut self.unsent, datagram, cx);
        });
    }

    /// Queues the small frames that the burst ended with once more, if they are to be repeated; true if there are some. For another packet, so the burst
    /// has to be gone.
    pub(crate) fn repeat_tail(&mut self, connection: &mut Connection) -> bool {
        let frames = self.repeater.take();
        if frames.is_empty() || !self.capabilities.has(Capabilities::REPEATS) {
            return false;
        }
        let mut datagrams = connection.datagrams();
        let (len, room) = (frames.len(), datagrams.send_buffer_space());
        let is_queued = datagrams.send(frames, false).is_ok();
        if is_queued {
            // No frame begins in it.
            self.unsent.push(self.writer.next_frame(), len, room);
        }
        is_queued
    }

    /// What the connection has learned of its path, once a second: packets sent so far and lost of them.
    pub(super) fn observe(&mut self, sent_packets: u64, lost_packets: u64) {
        self.repeater.observe(sent_packets, lost_packets);
        self.writer.keep_whole(self.repeater.is_lossy());
    }

    /// Frames that wait for their turn.
    pub(crate) fn waiting_frames(&self) -> u64 {
        self.queue.len() as u64
    }

    /// Their bytes.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// The connection has ended: counts the frames that wait for their turn, and those that were counted as sent and still wait.
    pub(super) fn give_up(mut self, connection: &mut Connection, cx: &Context) {
        while let Some(waiting) = self.queue.pop() {
            cx.drop(self.port, DropReason::NoPort, &waiting.frame().bytes);
        }
        self.end_burst(connection, cx);
        let room = connection.datagrams().send_buffer_space();
        let unsent = self.unsent.take_frames(self.writer.next_frame(), room);
        cx.drop_after(self.port, DropReason::TunnelDown, unsent);
    }
}

/// Queues a datagram. Room was checked before the frame was begun, so a refusal means that the path MTU shrank within the burst, or that the peer takes
/// only datagrams too small to be useful; it is counted.
fn queue(
    datagrams: &mut quinn_proto::Datagrams<'_>,
    unsent: &mut Unsent,
    datagram: Bytes,
    cx: &Context,
) {
    let (first_begun, len) = (first_begun(&datagram), datagram.len());
    let room = datagrams.send_buffer_space();
    match datagrams.send(datagram, false) {
        Ok(()) => unsent.push(first_begun, len, room),
        Err(_) => cx.counters.io.unqueued_datagrams.add(1),
    }
}

/// The capabilities that a frame needs at the far end.
fn needs(offload: Offload) -> u64 {
    let csum = if offload.needs_csum { Capabilities::CSUM } else { 0 };
    csum | match offload.gso {
        Gso::None => 0,
        Gso::Tcp4 { ecn } => Capabilities::TSO4 | if ecn { Capabilities::TSO_ECN } else { 0 },
        Gso::Tcp6 { ecn } => Capabilities::TSO6 | if ecn { Capabilities::TSO_ECN } else { 0 },
        Gso::Udp => Capabilities::USO,
    }
}
