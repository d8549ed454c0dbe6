//! The worker's loop: wait, take in, switch, send out.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use crossbeam::channel::{Sender as EventSender, TrySendError};
use io_uring::{opcode, types::Fixed};
use ipop_learning::PortId;
use quinn_proto::Transmit;

use super::{
    mail::{Order, Outbox, WorkerHandle},
    receive::Receiver,
    ring::{Completion, Op, Ring},
    send::{Outlet, SendRefused, Sender},
    tap::{Read, TapQueue, TapReader, TapWriter},
};
use crate::{
    bucket::Bucket,
    command::{Command, Event, FromPort, FromWorker, ToWorker},
    core::{Core, CoreConfig},
    counters::WorkerCounters,
    drops::{DropReason, Passed},
    frame::Frame,
    io::{Io, SocketId},
    os::{
        OsError,
        udp::{UdpPort, first_hop_mtu},
    },
};

/// A refused superframe may be the peer's fault; that many are the kernel's.
const REFUSED_SUPERFRAMES: u32 = 16;
/// How long a stopping worker waits for its last packets to leave.
const FAREWELL: Duration = Duration::from_millis(200);
/// How often what the kernel counts at the sockets is read.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Events that wait for control before packets for it are dropped.
const UNSENT_EVENTS_MAX: usize = 4_096;
/// MTU assumed where the kernel does not tell.
const COMMON_MTU: u16 = 1_500;

/// What a [`Worker`] is made of.
pub struct WorkerConfig {
    /// The core's part.
    pub core: CoreConfig,
    /// One for each of the core's local ports, in their order.
    pub taps: Vec<TapQueue>,
    /// The listening socket, then the socket to dial from, if it is another.
    pub sockets: Vec<UdpPort>,
    /// What to speak to TURN servers from; the first worker's business.
    pub relay: Option<UdpPort>,
    /// How all workers are reached, by number.
    pub workers: Vec<WorkerHandle>,
    /// Where events go.
    pub events: EventSender<Event>,
    /// For how long a worker with nothing to do looks for work before it sleeps.
    pub busy_poll: Duration,
}

/// One thread of the switch.
pub struct Worker {
    core: Core,
    io: UringIo,
    reader: TapReader,
    mailbox: WorkerHandle,
    events: EventSender<Event>,
    unsent_events: VecDeque<Event>,
    completions: Vec<Completion>,
    /// Of the train at hand.
    packets: Vec<BytesMut>,
    refused_superframes: u32,
    /// Reports of refused sends, of which there may be one for each packet.
    refused_sends: Bucket,
    busy_poll: Duration,
    look_at: Instant,
    stop_at: Option<Instant>,
}

/// The ring and what hangs on it. Fields drop in order: the ring first, then what its operations point to.
struct UringIo {
    ring: Ring,
    receiver: Receiver,
    sender: Sender,
    writer: TapWriter,
    outbox: Outbox,
    counters: std::sync::Arc<WorkerCounters>,
    queues: Vec<OpenQueue>,
}

/// This worker's descriptor of a local port. While operations are under way they name it by its number.
struct OpenQueue {
    port: PortId,
    fd: OwnedFd,
    is_closing: bool,
}

const DOORBELL_FILE: u32 = 0;

impl Worker {
    /// Sets a worker up; call it in the thread that will run it.
    ///
    /// # Errors
    /// If the kernel refuses the ring.
    pub fn new(config: WorkerConfig) -> Result<Self, OsError> {
        let number = config.core.worker;
        let mailbox = config.workers[usize::from(number)].clone();
        let counters = config.core.shared.counters[usize::from(number)].clone();
        let ring = Ring::new()?;
        let mut files = vec![mailbox.bell().raw_fd()];
        let mut outlets = Vec::new();
        let ids = [SocketId::LISTEN, SocketId::DIAL];
        let relay = config.relay.map(|port| (SocketId::RELAY, port));
        for (id, port) in ids.into_iter().zip(config.sockets).chain(relay) {
            let file = files.len() as u32;
            files.push(port.fd.as_raw_fd());
            outlets.push(Outlet::new(id, port, file));
        }
        ring.uring
            .submitter()
            .register_files(&files)
            .map_err(|error| OsError::new("cannot register files with io_uring", error))?;
        let receiver = Receiver::new(&ring)?;
        let ports: Vec<PortId> = config.core.ports.iter().map(|local| local.port).collect();
        let core = Core::new(config.core, Instant::now()).map_err(|error| {
            OsError::new(format!("cannot set up TLS ({error})"), std::io::ErrorKind::InvalidInput)
        })?;
        let mut worker = Self {
            core,
            io: UringIo {
                ring,
                receiver,
                sender: Sender::new(outlets),
                writer: TapWriter::default(),
                outbox: Outbox::new(config.workers),
                counters,
                queues: Vec::new(),
            },
            reader: TapReader::default(),
            mailbox,
            events: config.events,
            unsent_events: VecDeque::new(),
            completions: Vec::with_capacity(512),
            packets: Vec::with_capacity(64),
            refused_superframes: 0,
            refused_sends: Bucket::new(Instant::now(), 1, 5),
            busy_poll: config.busy_poll,
            look_at: Instant::now(),
            stop_at: None,
        };
        for (port, queue) in ports.into_iter().zip(config.taps) {
            worker.take_queue(port, queue);
        }
        Ok(worker)
    }

    /// Runs until [`ToWorker::Shutdown`].
    ///
    /// # Errors
    /// If the ring fails.
    pub fn run(mut self) -> Result<(), OsError> {
        self.io.arm_doorbell();
        for socket in 0..self.io.sender.outlets.len() {
            self.io.arm_receive(socket as u32);
        }
        loop {
            let reading = self.reader.arm(&mut self.io.ring);
            self.wait(reading)?;
            self.io.counters.io.waits.add(1);
            let now = Instant::now();
            self.take_in(now);
            if self.reader.is_pressing() {
                self.reader.arm(&mut self.io.ring);
                self.io.ring.submit();
                self.take_in(now);
            }
            self.core.flush(now, &mut self.io);
            self.io.outbox.flush();
            self.io.receiver.return_buffers();
            self.let_go();
            self.post_events();
            if now >= self.look_at {
                // The core wakes up as often, if nothing else does.
                self.look_at = now + LOOK_INTERVAL;
                self.io.sender.count_overflows(&self.io.counters.io);
            }
            if self.stop_at.is_some_and(|at| now >= at) {
                return Ok(());
            }
        }
    }

    /// Submits, and waits until there is something to do.
    fn wait(&mut self, reading: bool) -> Result<(), OsError> {
        let timeout = self.timeout(reading);
        let polled = self.busy_poll.min(timeout);
        if !polled.is_zero() && self.io.ring.poll(polled)? {
            return Ok(());
        }
        self.io.ring.wait(timeout - polled)
    }

    /// How long to wait for a completion.
    fn timeout(&self, reading: bool) -> Duration {
        const SOON: Duration = Duration::from_micros(200);
        if !reading && self.core.has_backlog(&self.io) {
            return Duration::ZERO;
        }
        if self.io.outbox.is_waiting() || !self.unsent_events.is_empty() {
            return SOON;
        }
        let until = self.stop_at.map_or_else(
            || self.core.poll_timeout(),
            |stop_at| stop_at.min(self.core.poll_timeout()),
        );
        // A zero time-out would not wait for the deferred completions of reads.
        until.saturating_duration_since(Instant::now()).max(Duration::from_micros(1))
    }

    fn take_in(&mut self, now: Instant) {
        let mut completions = std::mem::take(&mut self.completions);
        self.io.ring.reap(&mut completions);
        for completion in completions.drain(..) {
            self.completed(now, completion);
        }
        self.completions = completions;
    }

    fn completed(&mut self, now: Instant, completion: Completion) {
        let Completion { op, index, result, .. } = completion;
        match op {
            Op::TapRead => self.frame_read(now, index, result),
            Op::Receive => self.train_received(now, &completion),
            Op::TapWrite => self.frame_written(index, result),
            Op::Send => {
                let io = &mut self.io;
                let refused = io.sender.completed(&mut io.ring, index, result, &io.counters.io);
                if let Some(SendRefused { remote, errno }) = refused
                    && self.refused_sends.take(now, 1)
                {
                    let refused = FromWorker::SendRefused { remote, errno };
                    self.unsent_events.push_back(Event::Worker(refused));
                }
            }
            Op::Writable => self.io.sender.writable(&mut self.io.ring, index),
            Op::Doorbell => self.answer_doorbell(now),
        }
    }

    fn frame_read(&mut self, now: Instant, index: u32, result: i32) {
        match self.reader.finish(now, index, result) {
            Read::Frame(frame) => self.core.outbound(now, frame, &mut self.io),
            Read::Gone(port) => self.unsent_events.push_back(Event::Port(port, FromPort::Gone)),
            Read::Nothing => {}
        }
    }

    fn frame_written(&mut self, index: u32, result: i32) {
        let written = self.io.writer.written(index);
        if result >= 0 {
            return;
        }
        let reason = match -result {
            libc::EIO | libc::EBADFD | libc::ENODEV => DropReason::TapDown,
            _ => DropReason::TapWrite,
        };
        self.core.not_written(written.tap, reason, written.frames);
        if -result == libc::EINVAL && written.was_superframe {
            self.refused_superframes += 1;
            if self.refused_superframes == REFUSED_SUPERFRAMES {
                tracing::warn!("the kernel refuses superframes at a TAP: segmenting in software");
                self.core.disable_offload(written.tap);
            }
        }
    }

    fn train_received(&mut self, now: Instant, completion: &Completion) {
        let socket = self.io.sender.outlets[completion.index as usize].id;
        if let (Some(buffer), Ok(len)) = (completion.buffer(), usize::try_from(completion.result)) {
            match self.io.receiver.take(buffer, len) {
                Some(train) => {
                    let (remote, local_ip) = (train.remote, train.local_ip);
                    train.cut(&mut self.packets);
                    self.io.counters.io.received_trains.add(1);
                    self.io.counters.io.received_packets.add(self.packets.len() as u64);
                    for packet in self.packets.drain(..) {
                        self.core.packet(now, socket, remote, local_ip, packet, &mut self.io);
                    }
                    self.core.end_of_train(now, &mut self.io);
                }
                None => self.io.counters.io.receive_errors.add(1),
            }
        } else if -completion.result != libc::ENOBUFS {
            self.io.counters.io.receive_errors.add(1);
        }
        if !completion.more() {
            self.io.counters.io.receive_rearms.add(1);
            self.io.receiver.return_buffers();
            self.io.arm_receive(completion.index);
        }
    }

    fn answer_doorbell(&mut self, now: Instant) {
        self.mailbox.bell().silence();
        self.io.arm_doorbell();
        while let Some(order) = self.mailbox.next_order() {
            match order {
                Order::Core(command) => {
                    if command == Command::Worker(ToWorker::Shutdown) {
                        self.stop_at.get_or_insert(now + FAREWELL);
                    }
                    self.core.command(now, command, &mut self.io);
                }
                Order::OpenPort(local, queue) => {
                    self.take_queue(local.port, queue);
                    self.core.open_port(local);
                }
                Order::ClosePort(port) => self.close_port(port),
            }
        }
        while let Some(batch) = self.mailbox.next_batch() {
            batch.for_each(|port, frame| self.core.mailed(port, frame));
        }
    }

    fn take_queue(&mut self, port: PortId, queue: TapQueue) {
        let fd = queue.queue.as_raw_fd();
        if queue.read {
            self.reader.open(port, fd, Instant::now());
        }
        self.io.writer.open(port, fd);
        self.io.queues.push(OpenQueue { port, fd: queue.queue, is_closing: false });
    }

    /// Nothing more is read from the port or written to it. What is under way may still complete.
    fn close_port(&mut self, port: PortId) {
        self.core.close_port(port);
        self.reader.close(port);
        if let Some(queue) = self.io.queues.iter_mut().find(|queue| queue.port == port) {
            queue.is_closing = true;
            self.io.ring.cancel(queue.fd.as_raw_fd());
        }
    }

    /// Lets go of the ports that are being closed and of which nothing is under way any more.
    fn let_go(&mut self) {
        let (reader, UringIo { queues, writer, .. }) = (&mut self.reader, &mut self.io);
        let events = &mut self.unsent_events;
        queues.retain(|&OpenQueue { port, is_closing, .. }| {
            let is_done = is_closing && reader.release(port) && writer.release(port);
            events.extend(is_done.then_some(Event::Port(port, FromPort::Closed)));
            !is_done
        });
    }

    fn post_events(&mut self) {
        for event in self.core.drain_events() {
            // Control does not keep up. What only it can lose is lost; what happened to connections is kept.
            let is_packet = matches!(event, Event::Packet(_) | Event::ChannelPacket { .. });
            if is_packet && self.unsent_events.len() >= UNSENT_EVENTS_MAX {
                self.io.counters.io.dropped_control_packets.add(1);
            } else {
                self.unsent_events.push_back(event);
            }
        }
        while let Some(event) = self.unsent_events.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.unsent_events.push_front(event);
                    return;
                }
                // Nobody listens any more: the program ends.
                Err(TrySendError::Disconnected(_)) => {
                    self.stop_at.get_or_insert_with(Instant::now);
                    return;
                }
            }
        }
    }
}

impl UringIo {
    fn arm_doorbell(&mut self) {
        let entry = opcode::PollAdd::new(Fixed(DOORBELL_FILE), libc::POLLIN as u32)
            .build()
            .user_data(Op::Doorbell.user_data(0));
        // SAFETY: a poll points to nothing.
        unsafe { self.ring.push(&entry) };
    }

    fn arm_receive(&mut self, socket: u32) {
        let file = self.sender.outlets[socket as usize].file;
        self.receiver.arm(&mut self.ring, file, socket);
    }
}

impl Io for UringIo {
    fn write_tap(&mut self, tap: PortId, frame: Frame<'_>, frames: u32) -> Passed {
        self.writer.write(&mut self.ring, tap, frame, frames)
    }

    fn start_writes(&mut self) {
        if self.writer.has_unsubmitted() {
            self.ring.submit();
        }
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

    fn has_socket(&self, socket: SocketId) -> bool {
        self.sender.outlets.iter().any(|outlet| outlet.id == socket)
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

    fn dial_socket(&self) -> SocketId {
        if self.has_socket(SocketId::DIAL) { SocketId::DIAL } else { SocketId::LISTEN }
    }

    fn local_port(&self, socket: SocketId) -> u16 {
        self.sender.outlets[self.sender.index(socket)].port.local.port()
    }
}
