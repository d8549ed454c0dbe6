//! One worker's share of the switch, without I/O: frames and packets in, frames, packets and events out.
//!
//! The shell feeds [`Core`] what its file descriptors gave and calls [`Core::flush`] at the end of each round; everything that goes
//! out goes through [`Io`]. Frames come in by [`Core::outbound`] (from a TAP) and out of tunnels; their way is the same, `Switch::forward`.

mod agenda;
mod connections;
pub(crate) mod context;
mod deadlines;
mod door;
mod handshakes;
mod inbound;
mod lanes;
mod packets;
mod paths;
pub mod shared;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_learning::PortId;
use quinn_proto::{Endpoint, ServerConfig, crypto::rustls::QuicServerConfig};

pub(crate) use self::handshakes::HANDSHAKE_TIME;
use self::{
    door::Door,
    handshakes::{Handshakes, MAX_HANDSHAKES},
    lanes::Lanes,
    packets::Allowance,
    paths::Paths,
};

use crate::{
    command::{
        Answer, Audience, Command, ConnectionId, ConnectionIds, Direction, Event, Query, ToPaths,
        ToPort, ToWorker,
    },
    core::{
        context::{Context, Observer},
        shared::{NodeFacts, Shared},
    },
    counters::{WorkerCounters, drops::DropReason, ledger::Ledger},
    forward::{Ingoing, Switch, clear_loops},
    frame::{Frame, FrameBytes, Offload, VNET_HEADER_LEN, describe},
    io::{Io, Sockets, TapFrame},
    policy::{
        admission::Admission,
        bucket::Bucket,
        loop_probe::{LoopProbe, PROBE_INTERVAL},
    },
    port::LocalPort,
    quic::{CidKey, Congestion, InitialKey, TlsIdentity, tls, transport},
    tunnel::Tunnel,
};

/// Housekeeping: counts, ageing, loop probes.
const TICK: Duration = PROBE_INTERVAL;
/// One round of the forwarding database takes about this many ticks.
const SWEEP_TICKS: usize = 30;

/// What a [`Core`] is made of.
pub struct CoreConfig {
    /// Number of the worker, and of the lanes that it carries.
    pub worker: u8,
    /// This node.
    pub facts: Arc<NodeFacts>,
    /// Shared with the other workers.
    pub shared: Arc<Shared>,
    /// This node's key.
    pub identity: Arc<TlsIdentity>,
    /// Who may join.
    pub admission: Arc<dyn Admission>,
    /// Congestion control of the tunnels.
    pub congestion: Congestion,
    /// The worker's UDP sockets.
    pub sockets: Sockets,
    /// The UDP ports of all workers' sockets, for the own-packet guard.
    pub udp_ports: Vec<u16>,
    /// Seed of QUIC's random numbers; `None` outside simulations.
    pub rng_seed: Option<[u8; 32]>,
}

/// One worker's share of the switch: its connections, its part of each port, its endpoint.
pub struct Core {
    cx: Context,
    switch: Switch,
    lanes: Lanes,
    sockets: Sockets,
    identity: Arc<TlsIdentity>,
    door: Door,
    congestion: Congestion,
    initial_key: InitialKey,
    cid_key: CidKey,
    server_crypto: Arc<QuicServerConfig>,
    endpoint: Endpoint,
    paths: Paths,
    /// Packets for control, which may come as often as they like.
    allowance: Allowance,
    next_tick: Instant,
    handshakes: Handshakes,
    /// [`ToWorker::Shutdown`] came: whoever dials now would be up for a moment and then hear nothing.
    shutting_down: bool,
    /// Reports of refused nodes, which may come as often as they like.
    rejections: Bucket,
    ids: ConnectionIds,
    /// QUIC's answers outside connections.
    response: Vec<u8>,
}

impl Core {
    /// A worker without ports and connections.
    ///
    /// # Errors
    /// If the identity's certificate and key do not belong together.
    pub fn new(config: CoreConfig, now: Instant) -> Result<Self, rustls::Error> {
        let CoreConfig { worker, facts, shared, identity, admission, .. } = config;
        let cid_key = CidKey::new(&identity.cid_secret);
        let server_crypto = tls::server_config(&identity, admission.clone())?;
        let endpoint_config = transport::endpoint_config(&cid_key, &identity.reset_secret, worker);
        let mut server = ServerConfig::with_crypto(server_crypto.clone());
        server.max_incoming(MAX_HANDSHAKES).incoming_buffer_size_total(1 << 20);
        let endpoint =
            Endpoint::new(Arc::new(endpoint_config), Some(Arc::new(server)), true, config.rng_seed);
        Ok(Self {
            cx: Context::new(worker, facts, shared),
            switch: Switch::new(now, config.udp_ports),
            lanes: Lanes::default(),
            sockets: config.sockets,
            door: Door::new(admission),
            congestion: config.congestion,
            initial_key: InitialKey::of(identity.node),
            cid_key,
            server_crypto,
            endpoint,
            paths: Paths::default(),
            allowance: Allowance::new(now),
            next_tick: now,
            handshakes: Handshakes::default(),
            shutting_down: false,
            rejections: Bucket::new(now, 1, 5),
            ids: ConnectionIds::new(Direction::Accepted),
            response: Vec::new(),
            identity,
        })
    }

    /// A local port is there from now on. Control has opened it, and no worker has a port of this number.
    pub fn open_port(&mut self, port: LocalPort) {
        self.cx.counters.begin_anew(port.port);
        self.switch.egress.open(port, &mut self.cx);
    }

    /// A local port goes, which control has closed.
    pub fn close_port(&mut self, port: PortId) {
        self.switch.egress.close(port, &mut self.cx);
    }

    /// The outbound way: a frame that a TAP's kernel side sent.
    pub fn outbound(&mut self, now: Instant, from: TapFrame<'_>, io: &mut impl Io) {
        self.take_in(now, from, None, io);
    }

    fn take_in(
        &mut self,
        now: Instant,
        from: TapFrame<'_>,
        only: Option<PortId>,
        io: &mut impl Io,
    ) {
        let TapFrame { tap: port, vnet, bytes } = from;
        let offload = Offload::from_tap(vnet).map_err(|_| DropReason::BadOffload);
        let frame = Ingoing { port, offload, bytes };
        self.switch.forward(now, frame, only, &mut self.lanes, &mut self.cx, io);
    }

    /// A frame that another worker hands over because this one carries the peer's lane.
    pub fn mailed(&mut self, port: PortId, mut frame: Frame<'_>) {
        self.cx.counters.io.mailed_in_frames.add(1);
        if let Err(reason) = self.lanes.offer(port, frame.again(), &self.cx) {
            self.cx.drop(port, reason, &frame.bytes);
        }
    }

    /// Takes the frames out of the connections that the last packets belonged to. What comes during a handshake waits until it is known whether it is done.
    pub fn end_of_train(&mut self, now: Instant, io: &mut impl Io) {
        for index in 0..self.lanes.agenda.iter().len() {
            let Some(&handle) = self.lanes.agenda.iter().nth(index) else { break };
            let received = |tunnel: &mut Box<Tunnel>| tunnel.handshake().is_none();
            if let Some(mut tunnel) = self.lanes.tunnels[handle.0].take_if(received) {
                tunnel.drain_received(now, &mut self.inbound(now, &tunnel, io));
                self.lanes.tunnels[handle.0] = Some(tunnel);
            }
        }
        self.switch.egress.end_of_train(&self.cx, io);
    }

    /// Ends a round: bursts are closed, connections driven, trains sent.
    pub fn flush(&mut self, now: Instant, io: &mut impl Io) {
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now, io);
        }
        self.handle_timeouts(now, io);
        // Those that wait for a socket or their turn come back onto the agenda while they are driven.
        for _ in 0..self.lanes.agenda.iter().len() {
            if let Some(handle) = self.lanes.agenda.next() {
                self.drive(now, handle, io);
            }
        }
        self.switch.egress.end_of_train(&self.cx, io);
    }

    /// Whether [`Core::flush`] has more to send now, on sockets that take it.
    pub fn has_backlog(&self, io: &impl Io) -> bool {
        self.lanes
            .agenda
            .iter()
            .filter_map(|handle| self.lanes.tunnels[handle.0].as_ref())
            .any(|tunnel| io.can_send(self.paths.next_hop(tunnel.socket, tunnel.remote).socket))
    }

    /// Frames that wait for their tunnels: neither sent nor dropped yet.
    pub fn waiting_frames(&self) -> u64 {
        let admitted = self.lanes.tunnels.iter().flatten().filter_map(|tunnel| tunnel.admitted());
        admitted.map(|admitted| admitted.out.waiting_frames()).sum()
    }

    /// What became of this worker's frames.
    pub fn ledger(&self) -> Ledger {
        Ledger::of(&self.cx.counters, self.waiting_frames())
    }

    /// Whether there is such a connection that has not ended.
    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.lanes.by_id.contains_key(&connection)
    }

    /// When [`Core::flush`] must be called at the latest.
    pub fn poll_timeout(&self) -> Instant {
        self.lanes.deadlines.first().map_or(self.next_tick, |first| first.min(self.next_tick))
    }

    /// What happened since the last call.
    pub fn drain_events(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.cx.events.drain(..)
    }

    /// Carries out what control asks for.
    pub fn command(&mut self, now: Instant, command: Command, io: &mut impl Io) {
        match command {
            Command::Connection(connection, what) => {
                self.connection_command(now, connection, what, io);
            }
            Command::Path(ToPaths::Set { port, path }) => self.set_path(now, port, path, io),
            Command::Path(ToPaths::AddSource { source, port }) => {
                self.paths.add_source(source, port);
            }
            Command::Path(ToPaths::RemoveSource(source)) => self.paths.remove_source(source),
            Command::Port(port, ToPort::KnowAddresses(addresses)) => {
                self.handshakes.know(port, &addresses);
            }
            Command::Port(tap, ToPort::Announce { frame, to }) => {
                // To write it to the TAP would show it to this host.
                let only = match to {
                    Audience::Everybody => None,
                    Audience::Peer(port) => Some(port),
                };
                let (vnet, bytes) = (&[0; VNET_HEADER_LEN], FrameBytes::Whole(&frame));
                self.take_in(now, TapFrame { tap, vnet, bytes }, only, io);
            }
            Command::Packet(packet) => self.send_packet(&packet, io),
            Command::Worker(ToWorker::AnswerStrangers(strangers)) => {
                self.paths.strangers = strangers;
            }
            Command::Worker(ToWorker::Shutdown) => self.shut_down(now, io),
            Command::Query(token, Query::Connections) => {
                let (connections, ledger) = (self.lanes.stats(), self.ledger());
                let answer = Answer::Connections { connections, ledger };
                self.cx.events.push(Event::Answer(token, answer));
            }
        }
    }

    /// This worker's counters.
    pub fn counters(&self) -> &WorkerCounters {
        &self.cx.counters
    }

    /// The kernel refused frames that were written to a TAP.
    pub fn not_written(&self, tap: PortId, reason: DropReason, frames: u32) {
        self.cx.drop_after(tap, reason, u64::from(frames));
    }

    /// The kernel refused a superframe at this TAP. True if that is one too many: the TAP gets plain frames from now on.
    pub fn superframe_refused(&mut self, tap: PortId) -> bool {
        self.switch.egress.superframe_refused(tap, &mut self.cx)
    }

    /// Shows every frame to this observer from now on, or to none.
    pub fn observe(&mut self, observer: Option<Box<dyn Observer>>) {
        self.cx.observer = observer;
    }
}

/// Housekeeping.
impl Core {
    fn tick(&mut self, now: Instant, io: &mut impl Io) {
        for tunnel in self.lanes.tunnels.iter_mut().flatten().filter(|tunnel| !tunnel.is_ended()) {
            tunnel.observe_path();
            connections::take_counts(tunnel, &self.cx.counters);
        }
        self.switch.ingress.tell_moves(&mut self.cx);
        self.switch.relay.flooded.forget_full(now);
        self.allowance.peers.forget_full(now);
        if self.cx.worker != 0 {
            return;
        }
        clear_loops(now, &mut self.cx);
        let fdb = &self.cx.shared.fdb;
        fdb.age_out(self.cx.shared.now_s(now), fdb.buckets().div_ceil(SWEEP_TICKS));
        for LocalPort { port, mac, .. } in &self.cx.local {
            let probe = LoopProbe {
                origin: self.cx.facts.node,
                token: self.cx.facts.probe_token,
                tap: port.0,
            };
            let bytes = &probe.encode(*mac);
            if let Ok(what) = &describe(Offload::NONE, bytes, bytes.len()) {
                let frame = Frame { what, bytes: FrameBytes::Whole(bytes) };
                // The next one comes in a second.
                let _ = io.write_tap(*port, frame, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory, quic::tls::tests::identity};

    #[test]
    fn nothing_is_kept_of_a_port_that_has_been_quiet() {
        let (start, peer) = (Instant::now(), identity().node);
        let mut node = memory::node(identity(), peer, 1, memory::MemoryIoConfig::default(), start);
        node.core.flush(start, &mut node.io);
        let frame = [&[0xff; 6][..], &[2; 54]].concat();
        let (vnet, bytes) = (&[0; VNET_HEADER_LEN], FrameBytes::Whole(&frame));
        node.core.outbound(start, TapFrame { tap: memory::TAP, vnet, bytes }, &mut node.io);
        assert!(node.core.allowance.peers.take(start, PortId(7)));
        let kept = |core: &Core| (core.switch.relay.flooded.len(), core.allowance.peers.len());
        assert_eq!(kept(&node.core), (1, 1));
        node.core.flush(start + 2 * TICK, &mut node.io);
        assert_eq!(kept(&node.core), (0, 0));
    }
}
