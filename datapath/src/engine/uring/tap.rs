//! Frames to and from the TAPs.
//!
//! A TAP that has nothing to read has one read waiting for the next frame. A frame that comes after a silence goes out at once; behind one that does not, and
//! wherever there may be more, a batch of reads follows, which complete while they are submitted, in order. Long frames are handed on in the buffer that they were
//! read into, which comes back when nobody holds the frame any more. Writes gather a frame from the pieces that it arrived in.
//!
//! TAPs come and go, so their descriptors are none of the ring's registered files: the kernel lets go of one of those only when everything that was begun
//! before is done, and receives at sockets never are.

use std::{
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use io_uring::{opcode, types::Fd};
use ipop_learning::PortId;

use super::{
    local::{Brought, LocalPorts},
    ring::{Op, Ring},
};
use crate::{
    counters::drops::{DropReason, Passed},
    engine::backend::{NotWritten, TapQueue},
    frame::{Frame, FrameBytes, Gso, MAX_FRAME_LEN, VNET_HEADER_LEN},
    io::TapFrame,
    tunnel::queue::KEEP_FROM,
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

/// The TAPs of this worker.
#[derive(Default)]
pub(super) struct Taps {
    /// A place that is empty is given again. What is under way names it by its number.
    places: Vec<Option<Tap>>,
    /// Read buffers beyond those of each TAP, some of which hold frames that others still have. The last one given back is the warmest.
    spare: Vec<BytesMut>,
    slots: Slots,
    /// Writes were queued since [`LocalPorts::start_writes`].
    is_unsubmitted: bool,
}

/// This worker's queue of one TAP.
struct Tap {
    port: PortId,
    fd: OwnedFd,
    /// `None` if another worker reads it.
    reads: Option<Reads>,
    /// Writes under way.
    writes: usize,
    is_closing: bool,
}

/// What is read from a TAP.
struct Reads {
    /// [`BATCH_MAX`].
    buffers: Vec<BytesMut>,
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

/// A frame that was read.
pub(super) struct Lent {
    port: PortId,
    vnet: [u8; VNET_HEADER_LEN],
    bytes: LentBytes,
}

enum LentBytes {
    /// The buffer of this read, with the vnet header: it is wanted back.
    Short(u32, BytesMut),
    /// A long frame, which others may keep.
    Long(Bytes),
}

impl Lent {
    pub(super) fn frame(&self) -> TapFrame<'_> {
        let bytes = match &self.bytes {
            LentBytes::Short(_, buffer) => FrameBytes::Whole(&buffer[VNET_HEADER_LEN..]),
            LentBytes::Long(bytes) => FrameBytes::Shared(bytes),
        };
        TapFrame { tap: self.port, vnet: &self.vnet, bytes }
    }
}

impl LocalPorts for Taps {
    type Queue = TapQueue;
    type Lent = Lent;

    fn open(&mut self, port: PortId, TapQueue { queue: fd, read }: TapQueue) {
        let tap = Tap { port, fd, reads: read.then(Reads::new), writes: 0, is_closing: false };
        match self.places.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(tap),
            None => self.places.push(Some(tap)),
        }
    }

    fn close(&mut self, port: PortId, ring: &mut Ring) {
        for tap in self.places.iter_mut().flatten().filter(|tap| tap.port == port) {
            tap.is_closing = true;
            tap.reads.iter_mut().for_each(|reads| reads.ended = true);
            ring.cancel(tap.fd.as_raw_fd());
        }
    }

    fn let_go(&mut self, mut closed: impl FnMut(PortId)) {
        for place in &mut self.places {
            let is_over = |tap: &mut Tap| {
                let reads = tap.reads.as_ref().map_or(0, |reads| reads.in_flight);
                tap.is_closing && reads + tap.writes == 0
            };
            place.take_if(is_over).into_iter().for_each(|tap| closed(tap.port));
        }
    }

    fn begin(&mut self, ring: &mut Ring) -> bool {
        let mut is_reading = false;
        for (place, tap) in self.places.iter_mut().enumerate() {
            let Some(Tap { fd, reads: Some(reads), .. }) = tap else { continue };
            if reads.in_flight == 0 && !reads.ended {
                reads.pressing = false;
                reads.parked = !reads.readable;
                reads.begin(ring, place, fd.as_raw_fd(), &mut self.spare);
            }
            is_reading |= reads.in_flight > 0 && !reads.parked;
        }
        is_reading
    }

    fn is_pressing(&self) -> bool {
        let reads = self.places.iter().flatten().filter_map(|tap| tap.reads.as_ref());
        reads.into_iter().any(|reads| reads.pressing)
    }

    fn brought(&mut self, now: Instant, index: u32, result: i32) -> Brought<Lent> {
        let (place, read) = (index as usize / BATCH_MAX, index as usize % BATCH_MAX);
        let Some(Tap { port, reads: Some(reads), .. }) = &mut self.places[place] else {
            return Brought::Nothing;
        };
        if reads.completed(now, result) {
            return Brought::Gone(*port);
        }
        let len = usize::try_from(result).unwrap_or(0).min(BUFFER_LEN);
        let buffer = &mut reads.buffers[read];
        // SAFETY: the kernel has written the first `len` bytes, and the capacity is at least BUFFER_LEN.
        unsafe { buffer.set_len(len) };
        let Some(&vnet) = buffer.first_chunk() else { return Brought::Nothing };
        let bytes = if len < KEEP_FROM {
            LentBytes::Short(index, std::mem::take(buffer))
        } else {
            let mut long = buffer.split().freeze();
            long.advance(VNET_HEADER_LEN);
            LentBytes::Long(long)
        };
        Brought::Frame(Lent { port: *port, vnet, bytes })
    }

    fn done(&mut self, frame: Lent) -> Brought<Lent> {
        if let LentBytes::Short(index, buffer) = frame.bytes
            && let Some(Tap { reads: Some(reads), .. }) =
                &mut self.places[index as usize / BATCH_MAX]
        {
            reads.buffers[index as usize % BATCH_MAX] = buffer;
        }
        Brought::Nothing
    }

    fn write(&mut self, ring: &mut Ring, port: PortId, frame: Frame<'_>, frames: u32) -> Passed {
        let taps = self.places.iter_mut().enumerate();
        let mut taps = taps.filter_map(|(place, tap)| Some((place, tap.as_mut()?)));
        let (place, tap) = taps.find(|(_, tap)| tap.port == port).ok_or(DropReason::TapDown)?;
        let is_superframe = frame.what.offload().gso != Gso::None;
        let write = Write { place, port, frames, is_superframe };
        let index = self.slots.take(write).ok_or(DropReason::TapWrite)?;
        let slot = &mut self.slots.all[index];
        slot.header = frame.what.to_tap();
        slot.fill(frame.bytes);
        tap.writes += 1;
        let (iovecs, count) = (slot.iovecs.as_ptr(), slot.iovecs.len() as u32);
        let entry = opcode::Writev::new(Fd(tap.fd.as_raw_fd()), iovecs, count)
            .offset(u64::MAX)
            .rw_flags(libc::RWF_NOWAIT)
            .build()
            .user_data(Op::TapWrite.user_data(index as u32));
        // SAFETY: the slot is boxed, and neither it nor what its iovecs point to is touched until its completion was read.
        unsafe { ring.push(&entry) };
        self.is_unsubmitted = true;
        Ok(())
    }

    fn start_writes(&mut self, ring: &mut Ring) {
        if std::mem::take(&mut self.is_unsubmitted) {
            ring.submit();
        }
    }

    fn written(&mut self, index: u32, result: i32) -> Option<NotWritten> {
        let slot = &mut self.slots.all[index as usize];
        slot.pieces.clear();
        let Write { place, port, frames, is_superframe } = slot.write;
        self.slots.free.push(index as usize);
        if let Some(tap) = &mut self.places[place] {
            tap.writes -= 1;
        }
        let reason = match -result {
            ..=0 => return None,
            libc::EIO | libc::EBADFD | libc::ENODEV => DropReason::TapDown,
            _ => DropReason::TapWrite,
        };
        let is_superframe_refused = is_superframe && -result == libc::EINVAL;
        Some(NotWritten { port, frames, reason, is_superframe_refused })
    }
}

impl Reads {
    fn new() -> Self {
        // The kernel touches only what frames need.
        let buffers = std::iter::repeat_with(|| BytesMut::with_capacity(BUFFER_LEN));
        Self {
            buffers: buffers.take(BATCH_MAX).collect(),
            parked: false,
            readable: false,
            pressing: false,
            frame_at: Instant::now(),
            batch: BATCH_MIN,
            in_flight: 0,
            dry: false,
            ended: false,
        }
    }

    /// Begins a batch of reads, or the one that waits for a frame.
    fn begin(&mut self, ring: &mut Ring, place: usize, fd: RawFd, spare: &mut Vec<BytesMut>) {
        let (reads, flags) = if self.parked { (1, 0) } else { (self.batch, libc::RWF_NOWAIT) };
        for (read, bytes) in self.buffers.iter_mut().take(reads).enumerate() {
            bytes.clear();
            if !bytes.try_reclaim(BUFFER_LEN) {
                exchange(bytes, spare);
            }
            let index = place * BATCH_MAX + read;
            let entry = opcode::Read::new(Fd(fd), bytes.as_mut_ptr(), BUFFER_LEN as u32)
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

    /// A read has completed; true if it shows, for the first time, that the TAP was deleted.
    fn completed(&mut self, now: Instant, result: i32) -> bool {
        let silence = now.saturating_duration_since(self.frame_at);
        self.in_flight -= 1;
        if result >= 0 {
            self.frame_at = now;
        } else {
            self.dry = true;
            // The device is gone; EIO would only mean that it is down and has nothing to say.
            if matches!(-result, libc::EBADFD | libc::ENODEV)
                && !std::mem::replace(&mut self.ended, true)
            {
                return true;
            }
        }
        if self.in_flight == 0 {
            let found = !std::mem::take(&mut self.dry);
            if std::mem::take(&mut self.parked) {
                self.pressing = found && silence < LULL;
                self.readable = self.pressing;
                self.batch = BATCH_MIN;
            } else {
                self.readable = found;
                self.batch = (self.batch * 2).min(BATCH_MAX);
            }
        }
        false
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

/// Writes on their way to all TAPs.
#[derive(Default)]
struct Slots {
    /// Boxed: the kernel holds pointers into a slot while the vector grows.
    #[expect(clippy::vec_box)]
    all: Vec<Box<WriteSlot>>,
    free: Vec<usize>,
}

/// What a write is about.
#[derive(Clone, Copy)]
struct Write {
    /// The TAP's.
    place: usize,
    port: PortId,
    frames: u32,
    is_superframe: bool,
}

/// What `writev` reads.
struct WriteSlot {
    write: Write,
    header: [u8; VNET_HEADER_LEN],
    iovecs: Vec<libc::iovec>,
    pieces: Vec<Bytes>,
    copy: Vec<u8>,
}

impl Slots {
    fn take(&mut self, write: Write) -> Option<usize> {
        if let Some(index) = self.free.pop() {
            self.all[index].write = write;
            return Some(index);
        }
        if self.all.len() >= MAX_WRITES {
            return None;
        }
        self.all.push(Box::new(WriteSlot {
            write,
            header: [0; VNET_HEADER_LEN],
            iovecs: Vec::new(),
            pieces: Vec::new(),
            copy: Vec::new(),
        }));
        Some(self.all.len() - 1)
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
