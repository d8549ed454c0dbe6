//! Frames shown to whoever asks: captures.
//!
//! The control thread gives each worker an [`Onlooker`] while there is a [`Capture`], and takes it away with the last one. The onlooker copies the frames that
//! a capture's [`Filter`] means into its bounded queue, without waiting for anybody: a copy that finds the queue full is left out and counted, and the frame
//! goes on as it would have. The API's thread takes the copies out and writes them as [`pcapng`]. Whoever takes the copies says when it is over.

pub(crate) mod filter;
mod onlooker;
pub(crate) mod pcapng;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use ipop_datapath::{PortId, counters::drops::DropReason};

pub(crate) use self::{filter::Filter, onlooker::Onlooker};

/// Copies that may wait.
const MAX_COPIES: usize = 8_192;
/// Bytes of frames that may wait. Beside them stands what `MAX_COPIES` take.
const MAX_BYTES: usize = 16 << 20;

/// What is to be captured.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Only what concerns this port.
    pub(crate) port: Option<PortId>,
    /// Only what this means.
    pub(crate) filter: Option<Filter>,
    /// At most so many bytes of a frame.
    pub(crate) snap_len: usize,
}

/// What the workers and whoever takes the copies share.
#[derive(Debug)]
pub(crate) struct Capture {
    wanted: Wanted,
    copies: ArrayQueue<Copied>,
    waiting_bytes: AtomicUsize,
    missed: AtomicU64,
    is_over: AtomicBool,
}

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It came in at a port.
    CameIn,
    /// It goes out of a port; it came in at this one, if that is known.
    GoesOut {
        /// Where it came in.
        from: Option<PortId>,
    },
    /// It is dropped.
    Dropped(DropReason),
}

/// A frame, or its beginning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Copied {
    /// When, nanoseconds since 1970.
    pub(crate) unix_ns: u64,
    /// Where. None if the far end was not admitted.
    pub(crate) port: Option<PortId>,
    pub(crate) fate: Fate,
    /// The same for a frame where it came in, where it goes out and where it is dropped, as far as that is known.
    pub(crate) id: u64,
    /// Length of the frame, bytes.
    pub(crate) len: u32,
    /// Payload of each segment of a superframe, bytes; 0 of any other frame.
    pub(crate) segment_len: u16,
    pub(crate) bytes: Vec<u8>,
}

impl Capture {
    /// Nothing is captured yet.
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            copies: ArrayQueue::new(MAX_COPIES),
            waiting_bytes: AtomicUsize::new(0),
            missed: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// The next copy.
    pub(crate) fn take(&self) -> Option<Copied> {
        let copied = self.copies.pop()?;
        self.waiting_bytes.fetch_sub(copied.bytes.len(), Relaxed);
        Some(copied)
    }

    /// Copies that were left out since too many waited.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    /// Nobody takes copies any more.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// Whether nobody takes copies any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// Makes room for a copy of so many bytes, or counts that there is none.
    fn reserve(&self, len: usize) -> bool {
        let before = self.waiting_bytes.fetch_add(len, Relaxed);
        let is_room = before + len <= MAX_BYTES && !self.copies.is_full();
        if !is_room {
            self.leave_out(len);
        }
        is_room
    }

    fn leave_out(&self, len: usize) {
        self.waiting_bytes.fetch_sub(len, Relaxed);
        self.missed.fetch_add(1, Relaxed);
    }

    /// Puts a copy that has room into the queue. Other workers may have filled it meanwhile.
    fn put(&self, copied: Copied) {
        if let Err(copied) = self.copies.push(copied) {
            self.leave_out(copied.bytes.len());
        }
    }
}
