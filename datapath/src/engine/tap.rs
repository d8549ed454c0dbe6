//! Frames to and from the TAPs.
//!
//! A TAP that has nothing to read has one read waiting for the next frame. A frame that comes after a silence goes out at once; behind one that does not, and
//! wherever there may be more, a batch of reads follows, which complete while they are submitted, in order. Long frames are handed on in the buffer that they were
//! read into, which comes back when nobody holds the frame any more. Writes gather a frame from the pieces that it arrived in.
//!
//! TAPs come and go, so their descriptors are none of the ring's registered files: the kernel lets go of one of those only when everything that was begun
//! before is done, and receives at sockets never are.

use std::{
    os::fd::{OwnedFd, RawFd},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use io_uring::{opcode, types::Fd};
use ipop_learning::PortId;

use super::ring::{Op, Ring};
use crate::{
    drops::{DropReason, Passed},
    frame::{Frame, FrameBytes, Gso, MAX_FRAME_LEN, VNET_HEADER_LEN},
    io::TapFrame,
    queue::KEEP_FROM,
};

/// Reads in one batch at most: two megabytes of superframes, a burst of small ones.
const BATCH_MAX: usize = 32;
/// And at least, when a burst begins.
const BATCH_MIN: usize = 4;
/// A frame after a silence of that length is more often alone than not (a ping, a query): it goes out at once.
const LULL: Duration = Duration::from_millis(1);
const BUFFER_LEN: usize = (VNET_HEADER_LEN + MAX_FRAME_LEN).next_multiple_of(64);
/// Buffers beyond those being read into that are kept for use: as many long frames as may wait for one tunnel.
const SPARE_MAX: usize = 64;
/// Frames of more pieces are joined first; the kernel takes 1,024.
const MAX_PIECES: usize = 512;
/// Writes that may wait for completion. They complete while they are submitted, so this is never reached unless the kernel is stuck.
const MAX_WRITES: usize = 4_096;

/// A worker's queue of one TAP.
#[derive(Debug)]
pub struct TapQueue {
    /// The descriptor.
    pub queue: OwnedFd,
    /// Whether this worker reads it; a single-queue TAP is read by the first worker only.
    pub read: bool,
}

/// One queue of a TAP, read by this worker.
struct ReadQueue {
    tap: PortId,
    fd: RawFd,
    /// The read under way waits for the next frame.
    parked: bool,
    /// There may be more frames.
    readable: bool,
    /// There may be more frames that should go out with the last one.
    pressing: bool,
    /// When the last frame was read.
    frame_at: Instant,
    /// Reads in the next batch.
    batch: usize,
    in_flight: usize,
    /// A read of this batch found nothing.
    dry: bool,
    /// Nothing more is read: the TAP was deleted, or the port is being closed.
    ended: bool,
}

/// What a finished read means.
pub(crate) enum Read<'a> {
    /// A frame.
    Frame(TapFrame<'a>),
    /// The TAP was deleted.
    Gone(PortId),
    /// Nothing to read, or less than a header.
    Nothing,
}

/// The TAP queues that this worker reads.
#[derive(Default)]
pub(crate) struct TapReader {
    /// A place that is empty is given again.
    queues: Vec<Option<ReadQueue>>,
    /// [`BATCH_MAX`] for each place.
    buffers: Vec<BytesMut>,
    /// More of them, some of which hold frames that others still have. The last one given back is the warmest.
    spare: Vec<BytesMut>,
    /// The long frame that was read last, and its vnet header.
    long: Bytes,
    long_vnet: [u8; VNET_HEADER_LEN],
}

impl TapReader {
    /// Reads a queue from now on. Its descriptor stays open until [`TapReader::release`].
    pub(crate) fn open(&mut self, tap: PortId, fd: RawFd, now: Instant) {
        let queue = ReadQueue {
            tap,
            fd,
            parked: false,
            readable: false,
            pressing: false,
            frame_at: now,
            batch: BATCH_MIN,
            in_flight: 0,
            dry: false,
            ended: false,
        };
        let place = self.queues.iter().position(Option::is_none).unwrap_or(self.queues.len());
        self.queues.resize_with(self.queues.len().max(place + 1), || None);
        self.queues[place] = Some(queue);
        // The kernel touches only what frames need.
        let buffer = || BytesMut::with_capacity(BUFFER_LEN);
        self.buffers.resize_with(self.queues.len() * BATCH_MAX, buffer);
    }

    /// Begins no more reads of a queue.
    pub(crate) fn close(&mut self, tap: PortId) {
        let queues = self.queues.iter_mut().flatten();
        queues.filter(|queue| queue.tap == tap).for_each(|queue| queue.ended = true);
    }

    /// Forgets a queue that was closed, unless some of its reads are under way; whether it is forgotten.
    pub(crate) fn release(&mut self, tap: PortId) -> bool {
        let is_of = |queue: &Option<ReadQueue>| queue.as_ref().is_some_and(|q| q.tap == tap);
        let Some(place) = self.queues.iter().position(is_of) else { return true };
        if self.queues[place].take_if(|queue| queue.in_flight == 0).is_none() {
            return false;
        }
        while self.queues.pop_if(|last| last.is_none()).is_some() {}
        self.buffers.truncate(self.queues.len() * BATCH_MAX);
        true
    }

    /// Queues reads; true if some are under way that do not wait for a frame.
    pub(crate) fn arm(&mut self, ring: &mut Ring) -> bool {
        let mut reading = false;
        let Self { queues, buffers, spare, long, .. } = self;
        let places = queues.iter_mut().zip(buffers.chunks_mut(BATCH_MAX));
        for (place, (queue, buffers)) in places.enumerate() {
            let Some(queue) = queue else { continue };
            if queue.in_flight == 0 && !queue.ended {
                queue.pressing = false;
                queue.parked = !queue.readable;
                *long = Bytes::new();
                queue.read(ring, place, buffers, spare);
            }
            reading |= queue.in_flight > 0 && !queue.parked;
        }
        reading
    }

    /// Whether more frames should be read before those at hand go out: a burst may have begun.
    pub(crate) fn is_pressing(&self) -> bool {
        self.queues.iter().flatten().any(|queue| queue.pressing)
    }

    /// A read has completed.
    pub(crate) fn finish(&mut self, now: Instant, index: u32, result: i32) -> Read<'_> {
        let buffer = index as usize;
        let Some(queue) = &mut self.queues[buffer / BATCH_MAX] else { return Read::Nothing };
        let silence = now.saturating_duration_since(queue.frame_at);
        queue.in_flight -= 1;
        if result >= 0 {
            queue.frame_at = now;
        } else {
            queue.dry = true;
            // The device is gone; EIO would only mean that it is down and has nothing to say.
            if matches!(-result, libc::EBADFD | libc::ENODEV)
                && !std::mem::replace(&mut queue.ended, true)
            {
                return Read::Gone(queue.tap);
            }
        }
        if queue.in_flight == 0 {
            let found = !std::mem::take(&mut queue.dry);
            if std::mem::take(&mut queue.parked) {
                queue.pressing = found && silence < LULL;
                queue.readable = queue.pressing;
                queue.batch = BATCH_MIN;
            } else {
                queue.readable = found;
                queue.batch = (queue.batch * 2).min(BATCH_MAX);
            }
        }
        let tap = queue.tap;
        let len = usize::try_from(result).unwrap_or(0).min(BUFFER_LEN);
        let bytes = &mut self.buffers[buffer];
        // SAFETY: the kernel has written the first `len` bytes, and the capacity is at least BUFFER_LEN.
        unsafe { bytes.set_len(len) };
        if len < KEEP_FROM {
            return match bytes.split_first_chunk() {
                Some((vnet, frame)) => {
                    Read::Frame(TapFrame { tap, vnet, bytes: FrameBytes::Whole(frame) })
                }
                None => Read::Nothing,
            };
        }
        self.long = bytes.split().freeze();
        self.long.copy_to_slice(&mut self.long_vnet);
        let bytes = FrameBytes::Shared(&self.long);
        Read::Frame(TapFrame { tap, vnet: &self.long_vnet, bytes })
    }
}

impl ReadQueue {
    /// Begins a batch of reads, or the one that waits for a frame.
    fn read(
        &mut self,
        ring: &mut Ring,
        place: usize,
        buffers: &mut [BytesMut],
        spare: &mut Vec<BytesMut>,
    ) {
        let (reads, flags) = if self.parked { (1, 0) } else { (self.batch, libc::RWF_NOWAIT) };
        for (read, bytes) in buffers.iter_mut().take(reads).enumerate() {
            bytes.clear();
            if !bytes.try_reclaim(BUFFER_LEN) {
                exchange(bytes, spare);
            }
            let index = place * BATCH_MAX + read;
            let entry = opcode::Read::new(Fd(self.fd), bytes.as_mut_ptr(), BUFFER_LEN as u32)
                .offset(u64::MAX)
                .rw_flags(flags)
                .build()
                .user_data(Op::TapRead.user_data(index as u32));
            self.in_flight += 1;
            // SAFETY: the buffer holds BUFFER_LEN bytes, nobody else has it, and it is not touched until the completion was read: its place
            // is not given again before.
            unsafe { ring.push(&entry) };
        }
    }
}

/// Puts a buffer in the place of one whose frame somebody still holds.
fn exchange(held: &mut BytesMut, spare: &mut Vec<BytesMut>) {
    let free = spare.iter_mut().rposition(|buffer| buffer.try_reclaim(BUFFER_LEN));
    let buffer = match free {
        Some(index) => spare.remove(index),
        None => BytesMut::with_capacity(BUFFER_LEN),
    };
    let held = std::mem::replace(held, buffer);
    if spare.len() < SPARE_MAX {
        spare.push(held);
    }
}

struct WriteSlot {
    written: Written,
    header: [u8; VNET_HEADER_LEN],
    iovecs: Vec<libc::iovec>,
    pieces: Vec<Bytes>,
    copy: Vec<u8>,
}

/// What a finished write was about.
#[derive(Clone, Copy)]
pub(crate) struct Written {
    pub(crate) tap: PortId,
    /// Several, if they were joined.
    pub(crate) frames: u32,
    pub(crate) was_superframe: bool,
}

/// What is written to one TAP.
struct WriteQueue {
    tap: PortId,
    fd: RawFd,
    in_flight: usize,
}

/// Writes to all TAPs.
#[derive(Default)]
pub(crate) struct TapWriter {
    queues: Vec<WriteQueue>,
    /// Boxed: the kernel holds pointers into a slot while the vector grows.
    #[expect(clippy::vec_box)]
    slots: Vec<Box<WriteSlot>>,
    free: Vec<usize>,
    /// Some were queued since [`Self::has_unsubmitted`].
    is_unsubmitted: bool,
}

// SAFETY: the iovecs point into their own slot and into reference-counted bytes, which move with it.
unsafe impl Send for TapWriter {}

impl TapWriter {
    /// Writes to a TAP from now on. Its descriptor stays open until [`TapWriter::release`].
    pub(crate) fn open(&mut self, tap: PortId, fd: RawFd) {
        self.queues.push(WriteQueue { tap, fd, in_flight: 0 });
    }

    /// Forgets a TAP to which nothing more is written, unless some writes are under way; whether it is forgotten.
    pub(crate) fn release(&mut self, tap: PortId) -> bool {
        self.queues.retain(|queue| queue.tap != tap || queue.in_flight > 0);
        self.queues.iter().all(|queue| queue.tap != tap)
    }

    /// Queues the write of a frame, unless too many wait, or there is no such TAP.
    pub(crate) fn write(
        &mut self,
        ring: &mut Ring,
        tap: PortId,
        frame: Frame<'_>,
        frames: u32,
    ) -> Passed {
        let was_superframe = frame.what.offload().gso != Gso::None;
        let written = Written { tap, frames, was_superframe };
        let at = self.queues.iter().position(|queue| queue.tap == tap);
        let at = at.ok_or(DropReason::TapDown)?;
        let index = self.slot(written).ok_or(DropReason::TapWrite)?;
        let slot = &mut self.slots[index];
        slot.written = written;
        slot.header = frame.what.to_tap();
        slot.fill(frame.bytes);
        let queue = &mut self.queues[at];
        queue.in_flight += 1;
        let entry =
            opcode::Writev::new(Fd(queue.fd), slot.iovecs.as_ptr(), slot.iovecs.len() as u32)
                .offset(u64::MAX)
                .rw_flags(libc::RWF_NOWAIT)
                .build()
                .user_data(Op::TapWrite.user_data(index as u32));
        // SAFETY: the slot is boxed, and neither it nor what its iovecs point to is touched until its completion was read.
        unsafe { ring.push(&entry) };
        self.is_unsubmitted = true;
        Ok(())
    }

    /// Whether writes were queued since the last call.
    pub(crate) fn has_unsubmitted(&mut self) -> bool {
        std::mem::take(&mut self.is_unsubmitted)
    }

    /// A write has completed: its buffers are free.
    pub(crate) fn written(&mut self, index: u32) -> Written {
        let slot = &mut self.slots[index as usize];
        slot.pieces.clear();
        self.free.push(index as usize);
        let written = slot.written;
        let queue = self.queues.iter_mut().find(|queue| queue.tap == written.tap);
        queue.into_iter().for_each(|queue| queue.in_flight -= 1);
        written
    }

    fn slot(&mut self, written: Written) -> Option<usize> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        if self.slots.len() >= MAX_WRITES {
            return None;
        }
        self.slots.push(Box::new(WriteSlot {
            written,
            header: [0; VNET_HEADER_LEN],
            iovecs: Vec::new(),
            pieces: Vec::new(),
            copy: Vec::new(),
        }));
        Some(self.slots.len() - 1)
    }
}

impl WriteSlot {
    fn fill(&mut self, frame: FrameBytes<'_>) {
        let header = iovec(&self.header);
        self.iovecs.clear();
        self.iovecs.push(header);
        match frame {
            FrameBytes::Pieces(pieces) if pieces.len() <= MAX_PIECES => {
                self.pieces.append(pieces);
                self.iovecs.extend(self.pieces.iter().map(|piece| iovec(piece)));
            }
            bytes => {
                self.copy.clear();
                bytes.put(0..bytes.len(), &mut self.copy);
                self.iovecs.push(iovec(&self.copy));
            }
        }
    }
}

fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}
