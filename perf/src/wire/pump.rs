//! The wire's thread: reads frames from two TAPs and writes each to the other when its time has come.
//!
//! One thread polls both. Frames without a delay are written at once from the buffer that they were read into; others
//! wait in a heap, in buffers that are used again.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use serde::Serialize;

use super::{
    capture::Capture,
    line::{Fate, Impairments, Line, Lost, Order},
    tap::Tap,
};

/// The largest frame that a TAP without offloads gives, with room to spare.
const MAX_FRAME_LEN: usize = 66_000;
/// Frames read from one side before the other gets its turn, and the clock is looked at.
const BATCH: usize = 32;
/// Buffers that are kept for later.
const MAX_SPARE_BUFFERS: usize = 4096;

/// What became of the frames of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Frames that went in.
    pub frames: u64,
    /// Their bytes, Ethernet headers included.
    pub bytes: u64,
    /// Frames that came out, duplicates included.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped since they were above the MTU.
    pub too_large: u64,
    /// Dropped since the queue was full.
    pub queue_full: u64,
    /// Dropped since the wire was cut.
    pub cut: u64,
    /// Came out twice.
    pub duplicated: u64,
    /// Were held back.
    pub reordered: u64,
    /// Refused by the TAP at the far end, which was down.
    pub refused: u64,
    /// Left out of the capture file.
    pub not_captured: u64,
}

/// What the wire's owner and its thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) impairments: Mutex<[Impairments; 2]>,
    /// Set after a change of the impairments.
    pub(super) changed: AtomicBool,
    pub(super) stop: AtomicBool,
    /// Wakes the thread.
    pub(super) wake: OwnedFd,
    /// As of the thread's last round; exact when the wire is idle.
    pub(super) counters: Mutex<[Counters; 2]>,
}

/// The thread's own.
pub(super) struct Pump {
    shared: Arc<Shared>,
    taps: [Tap; 2],
    directions: [Direction; 2],
    capture: Option<Capture>,
    clock: Clock,
    buffer: Vec<u8>,
}

/// Frames from one TAP to the other.
struct Direction {
    line: Line,
    impairments: Impairments,
    waiting: BinaryHeap<Reverse<Waiting>>,
    waiting_bytes: usize,
    admitted: u64,
    spare: Vec<Vec<u8>>,
    counters: Counters,
}

/// Ordered by time, then by admission.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    at_ns: u64,
    number: u64,
    frame: Vec<u8>,
}

struct Clock {
    start: Instant,
    epoch: Duration,
}

impl Pump {
    pub(super) fn new(
        shared: Arc<Shared>,
        taps: [Tap; 2],
        seed: u64,
        capture: Option<Capture>,
    ) -> Self {
        let directions = [0, 1].map(|direction| Direction {
            line: Line::new(seed, direction),
            impairments: Impairments::default(),
            waiting: BinaryHeap::new(),
            waiting_bytes: 0,
            admitted: 0,
            spare: Vec::new(),
            counters: Counters::default(),
        });
        let epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let clock = Clock { start: Instant::now(), epoch };
        Self { shared, taps, directions, capture, clock, buffer: vec![0; MAX_FRAME_LEN] }
    }

    /// Works until it is told to stop.
    pub(super) fn run(mut self) -> Result<()> {
        while !self.shared.stop.load(Ordering::Acquire) {
            if self.shared.changed.swap(false, Ordering::Acquire) {
                self.take_impairments();
            }
            let mut busy = false;
            for direction in [0, 1] {
                self.deliver_due(direction);
                busy |= self.read_batch(direction)?;
            }
            self.publish();
            if !busy {
                self.wait()?;
            }
        }
        self.publish();
        match self.capture {
            Some(capture) => capture.finish(),
            None => Ok(()),
        }
    }

    fn take_impairments(&mut self) {
        let now = *self.shared.impairments.lock().unwrap_or_else(PoisonError::into_inner);
        for (direction, impairments) in self.directions.iter_mut().zip(now) {
            direction.impairments = impairments;
        }
    }

    /// Reads what is there, up to a batch; whether there was anything.
    fn read_batch(&mut self, direction: usize) -> Result<bool> {
        for n in 0..BATCH {
            let now_ns = self.clock.now_ns();
            match self.taps[direction].read(&mut self.buffer) {
                Ok(len) => self.frame(direction, len, now_ns),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(n > 0),
                // The interface is down: it has no frames, and poll tells when it is up again.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(n > 0),
                Err(error) => return Err(error).context("reading a TAP of the wire"),
            }
        }
        Ok(true)
    }

    /// A frame is in the buffer.
    fn frame(&mut self, direction: usize, len: usize, now_ns: u64) {
        let of = &mut self.directions[direction];
        let frame = &self.buffer[..len];
        of.counters.frames += 1;
        of.counters.bytes += len as u64;
        match of.line.decide(&of.impairments, now_ns, frame, of.waiting_bytes) {
            Fate::Lost(Lost::Chance) => of.counters.lost += 1,
            Fate::Lost(Lost::TooLarge) => of.counters.too_large += 1,
            Fate::Lost(Lost::QueueFull) => of.counters.queue_full += 1,
            Fate::Lost(Lost::Cut) => of.counters.cut += 1,
            Fate::Arrives { at_ns, again_at_ns, order } => {
                of.counters.reordered += u64::from(order == Order::Overtaken);
                of.counters.duplicated += u64::from(again_at_ns.is_some());
                for at_ns in [Some(at_ns), again_at_ns].into_iter().flatten() {
                    if at_ns <= now_ns {
                        let frame = &self.buffer[..len];
                        let far = &self.taps[1 - direction];
                        let counters = &mut self.directions[direction].counters;
                        deliver(far, frame, &self.clock, &mut self.capture, counters);
                    } else {
                        self.directions[direction].admit(at_ns, &self.buffer[..len]);
                    }
                }
            }
        }
    }

    fn deliver_due(&mut self, direction: usize) {
        let now_ns = self.clock.now_ns();
        let of = &mut self.directions[direction];
        while of.waiting.peek().is_some_and(|Reverse(first)| first.at_ns <= now_ns) {
            let Some(Reverse(due)) = of.waiting.pop() else { return };
            of.waiting_bytes -= due.frame.len();
            let far = &self.taps[1 - direction];
            deliver(far, &due.frame, &self.clock, &mut self.capture, &mut of.counters);
            if of.spare.len() < MAX_SPARE_BUFFERS {
                of.spare.push(due.frame);
            }
        }
    }

    /// Sleeps until a frame comes or is due, or the owner wants something.
    fn wait(&mut self) -> Result<()> {
        if let Some(capture) = &mut self.capture {
            capture.hand_over();
        }
        let first = |of: &Direction| of.waiting.peek().map(|Reverse(first)| first.at_ns);
        let now_ns = self.clock.now_ns();
        let until = self.directions.iter().filter_map(first).min();
        let timeout = until.map(|at_ns| {
            let left_ns = at_ns.saturating_sub(now_ns);
            Timespec {
                tv_sec: (left_ns / 1_000_000_000) as i64,
                tv_nsec: (left_ns % 1_000_000_000) as i64,
            }
        });
        let [a, b] = &self.taps;
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds =
            [readable(a.as_fd()), readable(b.as_fd()), readable(self.shared.wake.as_fd())];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("poll(2)"),
        }
        if fds[2].revents().contains(PollFlags::IN) {
            // Non-blocking, and what it counts means nothing.
            let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        }
        Ok(())
    }

    fn publish(&mut self) {
        let not_captured = self.capture.as_ref().map_or(0, Capture::dropped);
        self.directions[0].counters.not_captured = not_captured;
        let mut counters = self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner);
        *counters = self.directions.each_ref().map(|direction| direction.counters);
    }
}

impl Direction {
    fn admit(&mut self, at_ns: u64, frame: &[u8]) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        self.waiting_bytes += frame.len();
        self.admitted += 1;
        self.waiting.push(Reverse(Waiting { at_ns, number: self.admitted, frame: buffer }));
    }
}

impl Clock {
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

fn deliver(
    far: &Tap,
    frame: &[u8],
    clock: &Clock,
    capture: &mut Option<Capture>,
    counters: &mut Counters,
) {
    match far.write(frame) {
        Ok(_) => counters.delivered += 1,
        Err(_) => counters.refused += 1,
    }
    if let Some(capture) = capture {
        capture.packet(clock.epoch + clock.start.elapsed(), frame);
    }
}
