//! Frames to and from the TAPs.
//!
//! A TAP that has nothing to read is polled; one that has is read in batches of reads, which complete while they are submitted, in order.
//! Writes gather a frame from the pieces that it arrived in.

use bytes::Bytes;
use io_uring::{opcode, types::Fixed};
use ipop_learning::PortId;

use super::ring::{Op, Ring};
use crate::{
    frame::{Gso, MAX_FRAME_LEN, Offload, VNET_HEADER_LEN},
    io::FrameBytes,
};

/// Reads in one batch at most: two megabytes of superframes, a burst of small ones.
const BATCH_MAX: usize = 32;
/// And at least, for a TAP that was just found readable.
const BATCH_MIN: usize = 4;
const BUFFER_LEN: usize = (VNET_HEADER_LEN + MAX_FRAME_LEN).next_multiple_of(64);
/// Frames of more pieces are joined first; the kernel takes 1,024.
const MAX_PIECES: usize = 512;
/// Writes that may wait for completion. They complete while they are submitted, so this is never reached unless the kernel is stuck.
const MAX_WRITES: usize = 4_096;

/// One queue of a TAP, read by this worker.
struct ReadQueue {
    tap: PortId,
    file: u32,
    polled: bool,
    readable: bool,
    /// Reads in the next batch.
    batch: usize,
    in_flight: usize,
    /// A read of this batch found nothing.
    dry: bool,
    gone: bool,
}

/// What a finished read means.
pub(crate) enum Read<'a> {
    /// A frame, in a buffer that is read into again after the next [`TapReader::arm`].
    Frame { tap: PortId, vnet: &'a [u8; VNET_HEADER_LEN], frame: &'a [u8] },
    /// The TAP was deleted.
    Gone(PortId),
    /// Nothing to read, or less than a header.
    Nothing,
}

/// The TAP queues that this worker reads.
pub(crate) struct TapReader {
    queues: Vec<ReadQueue>,
    /// One allocation for all buffers; the kernel touches only what frames need.
    buffers: Vec<u8>,
}

impl TapReader {
    /// Of TAPs, with the indices of their registered files.
    pub(crate) fn new(queues: &[(PortId, u32)]) -> Self {
        let queues: Vec<_> = queues
            .iter()
            .map(|&(tap, file)| ReadQueue {
                tap,
                file,
                polled: false,
                readable: false,
                batch: BATCH_MIN,
                in_flight: 0,
                dry: false,
                gone: false,
            })
            .collect();
        let buffers = vec![0; queues.len() * BATCH_MAX * BUFFER_LEN];
        Self { queues, buffers }
    }

    /// Queues reads of TAPs that have frames, polls of those that have none; true if there are reads under way.
    pub(crate) fn arm(&mut self, ring: &mut Ring) -> bool {
        let mut reading = false;
        for index in 0..self.queues.len() {
            let queue = &mut self.queues[index];
            if queue.gone {
                continue;
            }
            if queue.in_flight == 0 && queue.readable {
                self.read_batch(ring, index);
            } else if queue.in_flight == 0 && !std::mem::replace(&mut queue.polled, true) {
                let entry = opcode::PollAdd::new(Fixed(queue.file), libc::POLLIN as u32)
                    .build()
                    .user_data(Op::TapReadable.user_data(index as u32));
                // SAFETY: a poll points to nothing.
                unsafe { ring.push(&entry) };
            }
            reading |= self.queues[index].in_flight > 0;
        }
        reading
    }

    /// A TAP became readable.
    pub(crate) fn readable(&mut self, index: u32) {
        let queue = &mut self.queues[index as usize];
        queue.polled = false;
        queue.readable = true;
        queue.batch = BATCH_MIN;
    }

    /// A read has completed.
    pub(crate) fn finish(&mut self, index: u32, result: i32) -> Read<'_> {
        let buffer = index as usize;
        let queue = &mut self.queues[buffer / BATCH_MAX];
        queue.in_flight -= 1;
        if result < 0 {
            queue.dry = true;
            // The device is gone; EIO would only mean that it is down and has nothing to say.
            if matches!(-result, libc::EBADFD | libc::ENODEV)
                && !std::mem::replace(&mut queue.gone, true)
            {
                return Read::Gone(queue.tap);
            }
        }
        if queue.in_flight == 0 {
            queue.readable = !std::mem::take(&mut queue.dry);
            if queue.readable {
                queue.batch = (queue.batch * 2).min(BATCH_MAX);
            }
        }
        let len = usize::try_from(result).unwrap_or(0).min(BUFFER_LEN);
        let bytes = &self.buffers[buffer * BUFFER_LEN..][..len];
        match bytes.split_first_chunk() {
            Some((vnet, frame)) => Read::Frame { tap: queue.tap, vnet, frame },
            None => Read::Nothing,
        }
    }

    fn read_batch(&mut self, ring: &mut Ring, index: usize) {
        let queue = &mut self.queues[index];
        for read in 0..queue.batch {
            let buffer = index * BATCH_MAX + read;
            let bytes = &mut self.buffers[buffer * BUFFER_LEN..][..BUFFER_LEN];
            let entry = opcode::Read::new(Fixed(queue.file), bytes.as_mut_ptr(), BUFFER_LEN as u32)
                .offset(u64::MAX)
                .build()
                .user_data(Op::TapRead.user_data(buffer as u32));
            queue.in_flight += 1;
            // SAFETY: `buffers` never grows, and this part of it is not touched until the completion was read.
            unsafe { ring.push(&entry) };
        }
    }
}

struct WriteSlot {
    tap: PortId,
    offload: Offload,
    header: [u8; VNET_HEADER_LEN],
    iovecs: Vec<libc::iovec>,
    pieces: Vec<Bytes>,
    copy: Vec<u8>,
}

/// What a finished write was about.
pub(crate) struct Written {
    pub(crate) tap: PortId,
    pub(crate) was_superframe: bool,
}

/// Writes to all TAPs.
pub(crate) struct TapWriter {
    /// Registered files by TAP port.
    files: Vec<u32>,
    /// Boxed: the kernel holds pointers into a slot while the vector grows.
    #[expect(clippy::vec_box)]
    slots: Vec<Box<WriteSlot>>,
    free: Vec<usize>,
}

// SAFETY: the iovecs point into their own slot and into reference-counted bytes, which move with it.
unsafe impl Send for TapWriter {}

impl TapWriter {
    /// To TAPs with these registered files, by port.
    pub(crate) fn new(files: Vec<u32>) -> Self {
        Self { files, slots: Vec::new(), free: Vec::new() }
    }

    /// Queues the write of a frame; false if too many wait.
    pub(crate) fn write(
        &mut self,
        ring: &mut Ring,
        tap: PortId,
        offload: Offload,
        headers_len: u16,
        frame: FrameBytes<'_>,
    ) -> bool {
        let Some(index) = self.slot(tap) else { return false };
        let slot = &mut self.slots[index];
        slot.tap = tap;
        slot.offload = offload;
        slot.header = offload.to_tap(headers_len);
        slot.fill(frame);
        let file = Fixed(self.files[usize::from(tap.0)]);
        let entry = opcode::Writev::new(file, slot.iovecs.as_ptr(), slot.iovecs.len() as u32)
            .offset(u64::MAX)
            .build()
            .user_data(Op::TapWrite.user_data(index as u32));
        // SAFETY: the slot is boxed, and neither it nor what its iovecs point to is touched until its completion was read.
        unsafe { ring.push(&entry) };
        true
    }

    /// A write has completed: its buffers are free.
    pub(crate) fn written(&mut self, index: u32) -> Written {
        let slot = &mut self.slots[index as usize];
        slot.pieces.clear();
        self.free.push(index as usize);
        Written { tap: slot.tap, was_superframe: slot.offload.gso != Gso::None }
    }

    fn slot(&mut self, tap: PortId) -> Option<usize> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        if self.slots.len() >= MAX_WRITES {
            return None;
        }
        self.slots.push(Box::new(WriteSlot {
            tap,
            offload: Offload::NONE,
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
            FrameBytes::Pieces(pieces) => {
                self.copy.clear();
                pieces.iter().for_each(|piece| self.copy.extend_from_slice(piece));
                self.iovecs.push(iovec(&self.copy));
            }
            FrameBytes::Whole(frame) => {
                self.copy.clear();
                self.copy.extend_from_slice(frame);
                self.iovecs.push(iovec(&self.copy));
            }
        }
    }
}

fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}
