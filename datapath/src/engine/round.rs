//! A worker's round, whatever engine is beneath: wait, take in, switch, send out.
//!
//! The core decides and the [`Backend`] moves bytes. What lies between is here: orders and mail, events for control, the next timer, the end.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam::channel::{Sender as EventSender, TrySendError};

use super::{
    backend::{Backend, Completed, LocalQueue, NotWritten, Parts},
    mail::{Order, Outbox, WorkerHandle},
};
use crate::{
    command::{Command, Event, FromPort, FromWorker, ToWorker},
    core::{Core, CoreConfig},
    counters::WorkerCounters,
    os::{OsError, udp::UdpPort},
    policy::bucket::Bucket,
    port::LocalPort,
};

/// How long a stopping worker waits for its last packets to leave.
const FAREWELL: Duration = Duration::from_millis(200);
/// How often what the kernel counts at the sockets is read.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Events that wait for control before packets for it are dropped.
const UNSENT_EVENTS_MAX: usize = 4_096;

/// What a [`Worker`] is made of.
pub struct WorkerConfig {
    /// The core's part.
    pub core: CoreConfig,
    /// The local ports that are there from the start, which control has opened.
    pub ports: Vec<(LocalPort, LocalQueue)>,
    /// One for each of the core's sockets, in their order.
    pub sockets: Vec<UdpPort>,
    /// How all workers are reached, by number.
    pub workers: Vec<WorkerHandle>,
    /// Where events go.
    pub events: EventSender<Event>,
    /// For how long a worker with nothing to do looks for work before it sleeps.
    pub busy_poll: Duration,
}

/// One thread of the switch.
pub struct Worker<B> {
    backend: B,
    round: Round,
}

/// All of a worker but what moves bytes.
struct Round {
    worker: u8,
    core: Core,
    counters: Arc<WorkerCounters>,
    mailbox: WorkerHandle,
    events: EventSender<Event>,
    unsent_events: VecDeque<Event>,
    /// Reports of refused sends, of which there may be one for each packet.
    refused_sends: Bucket,
    look_at: Instant,
    stop_at: Option<Instant>,
}

impl<B: Backend> Worker<B> {
    /// Sets a worker up; call it in the thread that will run it.
    ///
    /// # Errors
    /// If the kernel refuses what the backend needs.
    pub fn new(config: WorkerConfig) -> Result<Self, OsError> {
        let worker = config.core.worker;
        let number = usize::from(worker);
        let mailbox = config.workers[number].clone();
        let counters = config.core.shared.counters[number].clone();
        let mut backend = B::new(Parts {
            bell: mailbox.bell().clone(),
            sockets: config.sockets,
            outbox: Outbox::new(config.workers),
            counters: counters.clone(),
            busy_poll: config.busy_poll,
        })?;
        let now = Instant::now();
        let core = Core::new(config.core, now).map_err(|error| {
            OsError::new(format!("cannot set up TLS ({error})"), std::io::ErrorKind::InvalidInput)
        })?;
        let mut round = Round {
            worker,
            core,
            counters,
            mailbox,
            events: config.events,
            unsent_events: VecDeque::new(),
            refused_sends: Bucket::new(now, 1, 5),
            look_at: now,
            stop_at: None,
        };
        for (local, queue) in config.ports {
            round.open_port(local, queue, &mut backend);
        }
        Ok(Self { backend, round })
    }

    /// Runs until [`ToWorker::Shutdown`].
    ///
    /// # Errors
    /// If the backend fails.
    pub fn run(self) -> Result<(), OsError> {
        let Self { mut backend, mut round } = self;
        loop {
            let is_reading = backend.begin();
            let timeout = round.timeout(is_reading, &mut backend);
            backend.wait(timeout)?;
            round.counters.io.waits.add(1);
            let now = Instant::now();
            backend.take_in(now, &mut |backend, what| round.completed(now, what, backend));
            round.core.flush(now, &mut backend);
            backend.outbox().flush();
            let worker = round.worker;
            let closed = |port| Event::Port(port, FromPort::Closed { worker });
            backend.end_round(|port| round.unsent_events.push_back(closed(port)));
            round.post_events();
            if now >= round.look_at {
                // The core wakes up as often, if nothing else does.
                round.look_at = now + LOOK_INTERVAL;
                backend.count_overflows();
            }
            if round.stop_at.is_some_and(|at| now >= at) {
                return Ok(());
            }
        }
    }
}

impl Round {
    /// How long to wait for something to complete.
    fn timeout(&self, is_reading: bool, backend: &mut impl Backend) -> Duration {
        const SOON: Duration = Duration::from_micros(200);
        if !is_reading && self.core.has_backlog(backend) {
            return Duration::ZERO;
        }
        if backend.outbox().is_waiting() || !self.unsent_events.is_empty() {
            return SOON;
        }
        let until = self.core.poll_timeout();
        let until = self.stop_at.map_or(until, |stop_at| stop_at.min(until));
        // A zero time-out would not wait for reads that complete by themselves.
        until.saturating_duration_since(Instant::now()).max(Duration::from_micros(1))
    }

    fn completed(&mut self, now: Instant, what: Completed<'_>, backend: &mut impl Backend) {
        match what {
            Completed::Frame(frame) => self.core.outbound(now, frame, backend),
            Completed::Train { socket, remote, local_ip, packets } => {
                let counters = &self.counters.io;
                counters.received_trains.add(1);
                counters.received_packets.add(packets.len() as u64);
                for packet in packets.drain(..) {
                    self.core.packet(now, socket, remote, local_ip, packet, backend);
                }
                self.core.end_of_train(now, backend);
            }
            Completed::NotWritten(lost) => self.not_written(lost),
            Completed::SendRefused { remote, errno } => {
                if self.refused_sends.take(now, 1) {
                    let refused = FromWorker::SendRefused { remote, errno };
                    self.unsent_events.push_back(Event::Worker(refused));
                }
            }
            Completed::PortGone(port) => {
                self.unsent_events.push_back(Event::Port(port, FromPort::Gone));
            }
            Completed::Rang => self.empty_mailbox(now, backend),
        }
    }

    fn not_written(&mut self, lost: NotWritten) {
        self.core.not_written(lost.port, lost.reason, lost.frames);
        if lost.is_superframe_refused && self.core.superframe_refused(lost.port) {
            tracing::warn!("the kernel refuses superframes at a TAP: segmenting in software");
        }
    }

    fn empty_mailbox(&mut self, now: Instant, backend: &mut impl Backend) {
        while let Some(order) = self.mailbox.next_order() {
            match order {
                Order::Core(command) => {
                    if command == Command::Worker(ToWorker::Shutdown) {
                        self.stop_at.get_or_insert(now + FAREWELL);
                    }
                    self.core.command(now, command, backend);
                }
                Order::Observe(observer) => self.core.observe(observer),
                Order::OpenPort(local, queue) => self.open_port(local, queue, backend),
                Order::ClosePort(port) => {
                    self.core.close_port(port);
                    backend.close_port(port);
                }
            }
        }
        while let Some(batch) = self.mailbox.next_batch() {
            batch.for_each(|port, frame| self.core.mailed(port, frame));
        }
    }

    fn open_port(&mut self, local: LocalPort, queue: LocalQueue, backend: &mut impl Backend) {
        backend.open_port(local.port, queue);
        self.core.open_port(local);
    }

    fn post_events(&mut self) {
        for event in self.core.drain_events() {
            // Control does not keep up. What only it can lose is lost; what happened to connections is kept.
            let is_packet = matches!(event, Event::Packet(_) | Event::ChannelPacket { .. });
            if is_packet && self.unsent_events.len() >= UNSENT_EVENTS_MAX {
                self.counters.io.dropped_control_packets.add(1);
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
