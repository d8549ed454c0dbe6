//! Between threads: orders from control, frames from other workers, and the bell that wakes a worker for them.

use std::{
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use crossbeam::queue::ArrayQueue;
use ipop_learning::PortId;
use rustix::event::{EventfdFlags, eventfd};

use super::backend::LocalQueue;
use crate::{
    Observer,
    command::Command,
    counters::drops::{DropReason, Passed},
    frame::{Description, Frame, FrameBytes},
    os::OsError,
    port::LocalPort,
};

/// Orders that may wait: control sends a handful a second for each peer.
const ORDERS: usize = 4_096;
/// Batches that may wait: some milliseconds of a full lane.
const BATCHES: usize = 64;
/// A batch is sent when it holds this many bytes, and at the end of each round.
const BATCH_BYTES: usize = 256 << 10;

/// Wakes a worker that waits on its ring.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    fn new() -> Result<Self, OsError> {
        eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map(Self)
            .map_err(|errno| OsError::new("cannot make an eventfd", errno))
    }

    /// Rings.
    pub fn ring(&self) {
        // It can only fail by being full of rings, which wakes as well.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Silences it.
    pub(crate) fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What control has a worker do.
#[derive(Debug)]
pub enum Order {
    /// For its core.
    Core(Command),
    /// A local port is there, which control has opened: this worker's part of it.
    OpenPort(LocalPort, LocalQueue),
    /// Let go of a local port, which control has closed. [`FromPort::Closed`](crate::command::FromPort::Closed) tells when that is done.
    ClosePort(PortId),
    /// Show every frame to this observer from now on, or to none.
    Observe(Option<Box<dyn Observer>>),
}

impl From<Command> for Order {
    fn from(command: Command) -> Self {
        Self::Core(command)
    }
}

/// How others reach a worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    orders: Arc<ArrayQueue<Order>>,
    mail: Arc<ArrayQueue<Batch>>,
    bell: Arc<Doorbell>,
}

impl WorkerHandle {
    /// A handle for a worker to be.
    ///
    /// # Errors
    /// If the kernel gives no eventfd.
    pub fn new() -> Result<Self, OsError> {
        Ok(Self {
            orders: Arc::new(ArrayQueue::new(ORDERS)),
            mail: Arc::new(ArrayQueue::new(BATCHES)),
            bell: Arc::new(Doorbell::new()?),
        })
    }

    /// Gives the worker a command, or another order.
    ///
    /// # Errors
    /// Gives it back if the worker has not taken those of before.
    pub fn send(&self, order: impl Into<Order>) -> Result<(), Order> {
        self.orders.push(order.into())?;
        self.bell.ring();
        Ok(())
    }

    pub(crate) fn next_order(&self) -> Option<Order> {
        self.orders.pop()
    }

    pub(crate) fn next_batch(&self) -> Option<Batch> {
        self.mail.pop()
    }

    pub(crate) fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }
}

/// Frames for the lanes of another worker.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    frames: Vec<Envelope>,
}

#[derive(Debug, Clone, Copy)]
struct Envelope {
    port: PortId,
    what: Description,
}

impl Batch {
    /// Shows each frame.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(PortId, Frame<'_>)) {
        let mut rest = &self.bytes[..];
        for Envelope { port, what } in &self.frames {
            let (bytes, tail) = rest.split_at(what.total_len());
            visit(*port, Frame { what, bytes: FrameBytes::Whole(bytes) });
            rest = tail;
        }
    }
}

/// Batches on their way to the other workers.
pub struct Outbox {
    workers: Vec<WorkerHandle>,
    open: Vec<Batch>,
}

impl Outbox {
    pub(crate) fn new(workers: Vec<WorkerHandle>) -> Self {
        Self { open: workers.iter().map(|_| Batch::default()).collect(), workers }
    }

    pub(crate) fn put(&mut self, worker: u8, port: PortId, frame: Frame<'_>) -> Passed {
        let len = frame.what.total_len();
        let batch = self.open.get_mut(usize::from(worker)).ok_or(DropReason::NoPort)?;
        if batch.bytes.len() + len > BATCH_BYTES {
            self.post(usize::from(worker));
        }
        let batch = &mut self.open[usize::from(worker)];
        if batch.bytes.len() + len > BATCH_BYTES {
            return Err(DropReason::MailboxFull);
        }
        frame.bytes.put(0..len, &mut batch.bytes);
        batch.frames.push(Envelope { port, what: *frame.what });
        Ok(())
    }

    /// Sends what is open. A batch that finds the mailbox full stays open and is tried again.
    pub(crate) fn flush(&mut self) {
        for worker in 0..self.open.len() {
            self.post(worker);
        }
    }

    /// Whether a batch waits for room.
    pub(crate) fn is_waiting(&self) -> bool {
        self.open.iter().any(|batch| !batch.frames.is_empty())
    }

    fn post(&mut self, worker: usize) {
        if self.open[worker].frames.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.open[worker]);
        match self.workers[worker].mail.push(batch) {
            Ok(()) => self.workers[worker].bell.ring(),
            Err(batch) => self.open[worker] = batch,
        }
    }
}
