//! What a worker's round asks of whatever moves bytes between it and the kernel.
//!
//! A backend has what is kept open: sockets, local ports, the doorbell. It decides nothing: the core says what is to be sent and written, by [`Io`], and
//! the round shows it what came in.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use ipop_learning::PortId;

use super::mail::{Doorbell, Outbox};
use crate::{
    counters::{WorkerCounters, drops::DropReason},
    io::{Io, SocketId, TapFrame},
    os::{OsError, udp::UdpPort},
};

/// What a backend is made of.
pub struct Parts {
    /// Rings when there is something in the worker's mailbox.
    pub bell: Arc<Doorbell>,
    /// In the order of the worker's table of sockets.
    pub sockets: Vec<UdpPort>,
    /// Where [`Io::mail`] puts frames.
    pub outbox: Outbox,
    /// The worker's counters, of which a backend counts what it alone sees.
    pub counters: Arc<WorkerCounters>,
    /// For how long it looks for work before it sleeps.
    pub busy_poll: Duration,
}

/// A worker's part of a local port, by kind.
#[derive(Debug)]
pub enum LocalQueue {
    /// Of a TAP.
    Tap(TapQueue),
}

/// A worker's queue of one TAP.
#[derive(Debug)]
pub struct TapQueue {
    /// The descriptor.
    pub queue: OwnedFd,
    /// Whether this worker reads it; a single-queue TAP is read by the first worker only.
    pub read: bool,
}

/// What came in, or came of something that was begun.
pub enum Completed<'a> {
    /// A frame was read from a local port.
    Frame(TapFrame<'a>),
    /// A train came in at a socket.
    Train {
        /// The socket.
        socket: SocketId,
        /// Who sent it.
        remote: SocketAddr,
        /// The local address that it was sent to, if the kernel told.
        local_ip: Option<IpAddr>,
        /// Its packets, to be taken out.
        packets: &'a mut Vec<BytesMut>,
    },
    /// What was to be written to a local port is lost.
    NotWritten(NotWritten),
    /// The kernel refused to send a packet.
    SendRefused {
        /// Where it was to go.
        remote: SocketAddr,
        /// The kernel's number of the reason.
        errno: i32,
    },
    /// A local port was deleted while in use. Nothing more is read there.
    PortGone(PortId),
    /// The doorbell rang.
    Rang,
}

/// Frames that were to be written to a local port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotWritten {
    /// The port.
    pub port: PortId,
    /// How many: several if they were joined.
    pub frames: u32,
    /// Why they are lost.
    pub reason: DropReason,
    /// Whether the kernel does not take this superframe, or any.
    pub is_superframe_refused: bool,
}

/// What moves bytes between a worker and the kernel, and the surroundings of its core.
pub trait Backend: Io + Sized {
    /// How it is called in what operators read.
    const NAME: &'static str;

    /// Sets it up; to be called in the thread that will use it. Packets and the bell are waited for from now on.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn new(parts: Parts) -> Result<Self, OsError>;

    /// Reads a local port and takes frames for it from now on.
    fn open_port(&mut self, port: PortId, queue: LocalQueue);

    /// Reads nothing more from a local port. What is under way may still complete; then [`Backend::end_round`] tells that it is closed.
    fn close_port(&mut self, port: PortId);

    /// Begins what brings frames of local ports; true if some of it completes by itself, whether there are frames or not.
    fn begin(&mut self) -> bool;

    /// Waits until something has completed, at most for so long.
    ///
    /// # Errors
    /// If the kernel refuses: the worker cannot go on.
    fn wait(&mut self, timeout: Duration) -> Result<(), OsError>;

    /// Shows what has completed.
    fn take_in(&mut self, now: Instant, show: &mut impl FnMut(&mut Self, Completed<'_>));

    /// Takes back what nobody holds any more, and tells which ports are closed: their descriptors are let go of.
    fn end_round(&mut self, closed: impl FnMut(PortId));

    /// Counts what the kernel has dropped at the sockets since the last call.
    fn count_overflows(&mut self);

    /// What it was given for mail.
    fn outbox(&mut self) -> &mut Outbox;
}
