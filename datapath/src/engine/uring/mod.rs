//! io_uring: one ring a worker.
//!
//! Each file holds one kind of operation: `ring` the ring itself, `receive` UDP in, `send` UDP out, `tap` frames to and from TAPs, which is the one kind of
//! local port that there is (`local`).

mod local;
mod receive;
mod ring;
mod send;
mod tap;

use std::{
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use io_uring::{opcode, types::Fixed};
use ipop_learning::PortId;
use quinn_proto::Transmit;

use self::{
    local::{Brought, LocalPorts},
    receive::Receiver,
    ring::{Completion, Op, Ring},
    send::{Outlet, Sender},
    tap::Taps,
};
use super::{
    backend::{Backend, Completed, LocalQueue, Parts},
    mail::{Doorbell, Outbox},
};
use crate::{
    counters::{WorkerCounters, drops::Passed},
    frame::Frame,
    io::{Io, SocketId},
    os::{OsError, udp::first_hop_mtu},
};

/// MTU assumed where the kernel does not tell.
const COMMON_MTU: u16 = 1_500;
/// Its place among the registered files; the sockets follow.
const DOORBELL_FILE: u32 = 0;

/// A socket's place among the registered files.
fn socket_file(SocketId(place): SocketId) -> Fixed {
    Fixed(DOORBELL_FILE + 1 + u32::from(place))
}

/// A ring and what hangs on it. Fields drop in order: the ring first, then what its operations point to.
pub struct Uring {
    ring: Ring,
    receiver: Receiver,
    sender: Sender,
    taps: Taps,
    bell: Arc<Doorbell>,
    outbox: Outbox,
    counters: Arc<WorkerCounters>,
    busy_poll: Duration,
    completions: Vec<Completion>,
    /// Of the train at hand.
    packets: Vec<BytesMut>,
}

impl Backend for Uring {
    const NAME: &'static str = "io_uring";

    fn new(parts: Parts) -> Result<Self, OsError> {
        let Parts { bell, sockets, outbox, counters, busy_poll } = parts;
        let ring = Ring::new()?;
        let mut files = vec![bell.raw_fd()];
        files.extend(sockets.iter().map(|socket| socket.fd.as_raw_fd()));
        ring.uring
            .submitter()
            .register_files(&files)
            .map_err(|error| OsError::new("cannot register files with io_uring", error))?;
        let outlets: Vec<Outlet> = sockets.into_iter().map(Outlet::new).collect();
        let sockets = outlets.len() as u8;
        let mut uring = Self {
            receiver: Receiver::new(&ring)?,
            ring,
            sender: Sender::new(outlets),
            taps: Taps::default(),
            bell,
            outbox,
            counters,
            busy_poll,
            completions: Vec::with_capacity(512),
            packets: Vec::with_capacity(64),
        };
        uring.await_bell();
        (0..sockets).for_each(|place| uring.receiver.arm(&mut uring.ring, SocketId(place)));
        Ok(uring)
    }

    fn open_port(&mut self, port: PortId, queue: LocalQueue) {
        let LocalQueue::Tap(queue) = queue;
        self.taps.open(port, queue);
    }

    fn close_port(&mut self, port: PortId) {
        self.taps.close(port, &mut self.ring);
    }

    fn begin(&mut self) -> bool {
        self.taps.begin(&mut self.ring)
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), OsError> {
        let polled = self.busy_poll.min(timeout);
        if !polled.is_zero() && self.ring.poll(polled)? {
            return Ok(());
        }
        self.ring.wait(timeout - polled)
    }

    fn take_in(&mut self, now: Instant, show: &mut impl FnMut(&mut Self, Completed<'_>)) {
        self.reap(now, show);
        if self.taps.is_pressing() {
            self.taps.begin(&mut self.ring);
            self.ring.submit();
            self.reap(now, show);
        }
    }

    fn end_round(&mut self, closed: impl FnMut(PortId)) {
        self.receiver.return_buffers();
        self.taps.let_go(closed);
    }

    fn count_overflows(&mut self) {
        self.sender.count_overflows(&self.counters.io);
    }

    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }
}

impl Uring {
    fn await_bell(&mut self) {
        let entry = opcode::PollAdd::new(Fixed(DOORBELL_FILE), libc::POLLIN as u32)
            .build()
            .user_data(Op::Doorbell.user_data(0));
        // SAFETY: a poll points to nothing.
        unsafe { self.ring.push(&entry) };
    }

    fn reap(&mut self, now: Instant, show: &mut impl FnMut(&mut Self, Completed<'_>)) {
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.reap(&mut completions);
        for completion in completions.drain(..) {
            self.completed(now, completion, show);
        }
        self.completions = completions;
    }

    fn completed(
        &mut self,
        now: Instant,
        completion: Completion,
        show: &mut impl FnMut(&mut Self, Completed<'_>),
    ) {
        let Completion { op, index, result, .. } = completion;
        match op {
            Op::TapRead => {
                let mut brought = self.taps.brought(now, index, result);
                while let Brought::Frame(frame) = brought {
                    show(self, Completed::Frame(frame.frame()));
                    brought = self.taps.done(frame);
                }
                if let Brought::Gone(port) = brought {
                    show(self, Completed::PortGone(port));
                }
            }
            Op::Receive => self.train_received(&completion, show),
            Op::TapWrite => {
                if let Some(lost) = self.taps.written(index, result) {
                    show(self, Completed::NotWritten(lost));
                }
            }
            Op::Send => {
                let counters = &self.counters.io;
                let refused = self.sender.completed(&mut self.ring, index, result, counters);
                if let Some((remote, errno)) = refused {
                    show(self, Completed::SendRefused { remote, errno });
                }
            }
            Op::Writable => self.sender.writable(&mut self.ring, index),
            Op::Doorbell => {
                self.bell.silence();
                self.await_bell();
                show(self, Completed::Rang);
            }
        }
    }

    fn train_received(
        &mut self,
        completion: &Completion,
        show: &mut impl FnMut(&mut Self, Completed<'_>),
    ) {
        let socket = SocketId(completion.index as u8);
        if let (Some(buffer), Ok(len)) = (completion.buffer(), usize::try_from(completion.result)) {
            match self.receiver.take(buffer, len) {
                Some(train) => {
                    let (remote, local_ip) = (train.remote, train.local_ip);
                    let mut packets = std::mem::take(&mut self.packets);
                    train.cut(&mut packets);
                    let received = &mut packets;
                    show(self, Completed::Train { socket, remote, local_ip, packets: received });
                    self.packets = packets;
                }
                None => self.counters.io.receive_errors.add(1),
            }
        } else if -completion.result != libc::ENOBUFS {
            self.counters.io.receive_errors.add(1);
        }
        if !completion.more() {
            self.counters.io.receive_rearms.add(1);
            self.receiver.return_buffers();
            self.receiver.arm(&mut self.ring, socket);
        }
    }
}

impl Io for Uring {
    fn write_tap(&mut self, tap: PortId, frame: Frame<'_>, frames: u32) -> Passed {
        self.taps.write(&mut self.ring, tap, frame, frames)
    }

    fn start_writes(&mut self) {
        self.taps.start_writes(&mut self.ring);
    }

    fn mail(&mut self, worker: u8, port: PortId, frame: Frame<'_>) -> Passed {
        self.outbox.put(worker, port, frame)
    }

    fn train_buffer(&mut self) -> Vec<u8> {
        self.sender.train_buffer()
    }

    fn return_buffer(&mut self, buffer: Vec<u8>) {
        self.sender.return_buffer(buffer);
    }

    fn send(&mut self, socket: SocketId, transmit: &Transmit, train: Vec<u8>) {
        self.sender.send(&mut self.ring, socket, transmit, train);
    }

    fn can_send(&self, socket: SocketId) -> bool {
        self.sender.can_send(socket)
    }

    fn can_send_packet(&self, socket: SocketId) -> bool {
        self.sender.can_send_packet(socket)
    }

    fn max_segments(&self, socket: SocketId) -> usize {
        self.sender.max_segments(socket)
    }

    fn first_hop_mtu(&self, remote: SocketAddr) -> u16 {
        first_hop_mtu(remote).unwrap_or(COMMON_MTU)
    }
}
