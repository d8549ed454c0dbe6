//! One worker's share of the switch, without I/O: frames and packets in, frames, packets and events out.
//!
//! The shell feeds [`Core`] what its file descriptors gave and calls [`Core::flush`] at the end of each round; everything that goes
//! out goes through [`Io`]. The way of a frame is [`Core::outbound`] (TAP to tunnel) and [`Switch::inbound`] (tunnel to TAP).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use ipop_learning::{MacAddr, PortId};
use quinn_proto::{
    ClientConfig, ConnectionHandle, DatagramEvent, Endpoint, Incoming, ServerConfig, Transmit,
    crypto::rustls::QuicServerConfig,
};

use crate::{
    admission::Admission,
    command::{CloseReason, Command, ConnectionId, Direction, Ended, Event, Lane},
    drops::DropReason,
    forward::{Egress, Switch, TapOffload},
    frame::{MAX_FRAME_LEN, Offload, VNET_HEADER_LEN, flow_hash},
    hello::{Capabilities, Hello},
    io::{FrameBytes, Io, SocketId},
    loop_probe::{LoopProbe, PROBE_INTERVAL},
    node_id::NodeId,
    quic::{
        CidKey, Congestion, InitialKey, LinkHealth, TlsIdentity, cid::admit_packet, tls, transport,
    },
    record::FrameSink,
    refusals::Refusals,
    shared::{NodeFacts, Shared},
    tunnel::{NewTunnel, Progress, Tunnel},
};

/// Handshakes of strangers under way in one worker before new ones must prove their address (RFC 9000 section 8.1.2).
const RETRY_ABOVE_HANDSHAKES: usize = 16;
/// And before they are ignored.
const MAX_HANDSHAKES: usize = 128;
/// Trains that one connection may send in a round, so that others and the TAP get their turn.
const TRAINS_PER_ROUND: usize = 16;
/// Housekeeping: gauges, ageing, loop probes.
const TICK: Duration = PROBE_INTERVAL;
/// One round of the forwarding database takes about this many ticks.
const SWEEP_TICKS: usize = 30;
const AGENT: &str = concat!("ipop-switch ", env!("CARGO_PKG_VERSION"));

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
    /// The local TAPs, in the order of their ports.
    pub taps: Vec<TapOffload>,
    /// Their MAC addresses, the source of loop probes.
    pub tap_macs: Vec<MacAddr>,
    /// The listening UDP port, for the own-packet guard.
    pub listen_port: u16,
    /// Seed of QUIC's random numbers; `None` outside simulations.
    pub rng_seed: Option<[u8; 32]>,
}

/// See the head of this file.
pub struct Core {
    switch: Switch,
    config: CoreConfig,
    initial_key: InitialKey,
    cid_key: CidKey,
    server_crypto: Arc<QuicServerConfig>,
    endpoint: Endpoint,
    /// By [`ConnectionHandle`].
    tunnels: Vec<Option<Box<Tunnel>>>,
    by_id: HashMap<ConnectionId, ConnectionHandle>,
    /// The connection that sends a port's frames, by port.
    active: Vec<Option<ConnectionHandle>>,
    dirty: Vec<ConnectionHandle>,
    /// No timer of a connection is earlier.
    deadline: Option<Instant>,
    next_tick: Instant,
    handshakes: usize,
    /// [`Command::Shutdown`] came: whoever dials now would be up for a moment and then hear nothing.
    shutting_down: bool,
    refusals: Refusals,
    next_id: u64,
    scratch: Vec<u8>,
}

impl Core {
    /// A worker without connections.
    ///
    /// # Errors
    /// If the identity's certificate and key do not belong together.
    pub fn new(config: CoreConfig, now: Instant) -> Result<Self, rustls::Error> {
        let identity = &config.identity;
        let cid_key = CidKey::new(&identity.cid_secret);
        let server_crypto = tls::server_config(identity, config.admission.clone())?;
        let endpoint_config =
            transport::endpoint_config(&cid_key, &identity.reset_secret, config.worker);
        let mut server = ServerConfig::with_crypto(server_crypto.clone());
        server.max_incoming(MAX_HANDSHAKES).incoming_buffer_size_total(1 << 20);
        let endpoint =
            Endpoint::new(Arc::new(endpoint_config), Some(Arc::new(server)), true, config.rng_seed);
        let ports = config.shared.ports.len();
        Ok(Self {
            switch: Switch::new(
                config.facts.clone(),
                config.shared.clone(),
                config.shared.counters[usize::from(config.worker)].clone(),
                &config.taps,
                config.listen_port,
                now,
            ),
            initial_key: InitialKey::of(identity.node),
            cid_key,
            server_crypto,
            endpoint,
            tunnels: Vec::new(),
            by_id: HashMap::new(),
            active: vec![None; ports],
            dirty: Vec::new(),
            deadline: None,
            next_tick: now,
            handshakes: 0,
            shutting_down: false,
            refusals: Refusals::default(),
            next_id: 0,
            scratch: Vec::new(),
            config,
        })
    }

    /// The outbound way: a frame that a TAP's kernel side sent.
    pub fn outbound(
        &mut self,
        now: Instant,
        tap: PortId,
        vnet: &[u8; VNET_HEADER_LEN],
        frame: &[u8],
        io: &mut impl Io,
    ) {
        let sent = self.switch.classify_local(now, tap, vnet, frame).and_then(|local| {
            let (offload, headers_len) = (local.offload, local.headers_len);
            match local.egress {
                Egress::Port(port) => self.send_to(port, offload, headers_len, frame, io),
                Egress::Flood => self.flood(tap, offload, headers_len, frame, io),
            }
        });
        if let Err(reason) = sent {
            self.switch.count_drop(tap, reason);
        }
    }

    /// A frame that another worker hands over because this one carries the peer's lane.
    pub fn mailed(&mut self, port: PortId, offload: Offload, headers_len: u16, frame: &[u8]) {
        let sent = match self.active[usize::from(port.0)] {
            Some(handle) => self.enqueue(handle, port, offload, headers_len, frame),
            None => Err(DropReason::TunnelDown),
        };
        if let Err(reason) = sent {
            self.switch.count_drop(port, reason);
        }
    }

    /// A UDP packet (one segment of a train). [`Core::end_of_train`] must follow.
    pub fn packet(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        packet: BytesMut,
        io: &mut impl Io,
    ) {
        if !admit_packet(&packet, &self.initial_key, &self.cid_key) {
            self.switch.counters.io.strangers.add(1);
            return;
        }
        let mut response = std::mem::take(&mut self.scratch);
        response.clear();
        let event = self.endpoint.handle(now, remote, local_ip, None, packet, &mut response);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(tunnel) = self.tunnels.get_mut(handle.0).and_then(Option::as_mut) {
                    tunnel.connection.handle_event(event);
                    mark_dirty(&mut self.dirty, tunnel);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.accept(now, socket, remote, incoming, &mut response, io);
            }
            Some(DatagramEvent::Response(transmit)) => respond(socket, &transmit, &response, io),
            None => {}
        }
        self.scratch = response;
    }

    /// Takes the frames out of the connections that the last packets belonged to.
    pub fn end_of_train(&mut self, now: Instant, io: &mut impl Io) {
        for index in 0..self.dirty.len() {
            let handle = self.dirty[index];
            if let Some(tunnel) = self.tunnels[handle.0].as_mut() {
                drain(now, tunnel, &mut self.switch, io);
            }
        }
    }

    /// Ends a round: bursts are closed, connections driven, trains sent.
    pub fn flush(&mut self, now: Instant, io: &mut impl Io) {
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now, io);
        }
        if self.deadline.is_some_and(|at| at <= now) {
            self.handle_timeouts(now, io);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for handle in dirty.drain(..) {
            self.drive(now, handle, io);
        }
        // Driving may have marked connections again: those that wait for a socket or their turn.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Whether [`Core::flush`] has more to send as soon as the sockets take it.
    pub fn has_backlog(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// When [`Core::flush`] must be called at the latest.
    pub fn poll_timeout(&self) -> Instant {
        self.deadline.map_or(self.next_tick, |deadline| deadline.min(self.next_tick))
    }

    /// What happened since the last call.
    pub fn drain_events(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.switch.events.drain(..)
    }

    /// Carries out what control asks for.
    pub fn command(&mut self, now: Instant, command: Command, io: &mut impl Io) {
        match command {
            Command::Dial { connection, peer, lane, remote } => {
                if let Err(why) = self.dial(now, connection, peer, lane, remote, io) {
                    self.switch.events.push(Event::Ended { connection, why });
                }
            }
            Command::Activate { connection, port } => self.activate(connection, port),
            Command::Close { connection, reason } => {
                if let Some(&handle) = self.by_id.get(&connection) {
                    self.close(now, handle, reason, phrase(reason), io);
                }
            }
            Command::Probe { connection } => {
                if let Some(tunnel) = self.tunnel(connection) {
                    tunnel.connection.local_address_changed();
                    self.wake(connection);
                }
            }
            Command::Shutdown => {
                self.shutting_down = true;
                let handles: Vec<_> = self.by_id.values().copied().collect();
                for handle in handles {
                    let reason = CloseReason::Shutdown;
                    self.close(now, handle, reason, phrase(reason), io);
                }
            }
        }
    }

    /// The kernel refused a superframe at this TAP: it gets plain frames from now on.
    pub fn disable_offload(&mut self, tap: PortId) {
        self.switch.disable_offload(tap);
    }
}

/// Frames on their way out.
impl Core {
    fn flood(
        &mut self,
        ingress: PortId,
        offload: Offload,
        headers_len: u16,
        frame: &[u8],
        io: &mut impl Io,
    ) -> Result<(), DropReason> {
        let shared = self.config.shared.clone();
        let mut reached = false;
        for port in shared.taps().filter(|port| *port != ingress).chain(shared.live_peers()) {
            match self.send_to(port, offload, headers_len, frame, io) {
                Ok(()) => reached = true,
                Err(reason) => self.switch.count_drop(port, reason),
            }
        }
        if reached { Ok(()) } else { Err(DropReason::NoPort) }
    }

    fn send_to(
        &mut self,
        port: PortId,
        offload: Offload,
        headers_len: u16,
        frame: &[u8],
        io: &mut impl Io,
    ) -> Result<(), DropReason> {
        if self.config.shared.is_tap(port) {
            return self.switch.write_tap(port, offload, headers_len, FrameBytes::Whole(frame), io);
        }
        if let Some(handle) = self.active[usize::from(port.0)] {
            return self.enqueue(handle, port, offload, headers_len, frame);
        }
        let lane = self.config.shared.port(port).lane_for(flow_hash(frame));
        match lane {
            Some(Lane(worker)) if worker != self.config.worker => {
                io.mail(worker, port, offload, headers_len, frame)
            }
            _ => Err(DropReason::NoPort),
        }
    }

    fn enqueue(
        &mut self,
        handle: ConnectionHandle,
        port: PortId,
        offload: Offload,
        headers_len: u16,
        frame: &[u8],
    ) -> Result<(), DropReason> {
        let Some(tunnel) = self.tunnels[handle.0].as_mut() else {
            return Err(DropReason::TunnelDown);
        };
        tunnel.enqueue(offload, headers_len, frame, &mut self.scratch)?;
        let counters = self.switch.counters.port(port);
        counters.sent_frames.add(1);
        counters.sent_bytes.add(frame.len() as u64);
        mark_dirty(&mut self.dirty, tunnel);
        Ok(())
    }
}

/// Connections.
impl Core {
    fn tunnel(&mut self, connection: ConnectionId) -> Option<&mut Tunnel> {
        let handle = self.by_id.get(&connection)?;
        self.tunnels[handle.0].as_deref_mut()
    }

    fn wake(&mut self, connection: ConnectionId) {
        if let Some(&handle) = self.by_id.get(&connection)
            && let Some(tunnel) = self.tunnels[handle.0].as_mut()
        {
            mark_dirty(&mut self.dirty, tunnel);
        }
    }

    fn dial(
        &mut self,
        now: Instant,
        id: ConnectionId,
        peer: NodeId,
        lane: Lane,
        remote: SocketAddr,
        io: &mut impl Io,
    ) -> Result<(), Ended> {
        let crypto = tls::client_config(&self.config.identity, peer)
            .map_err(|error| Ended::Failed(error.to_string()))?;
        let health = Arc::new(LinkHealth::default());
        let mut config = ClientConfig::new(crypto);
        let initial = InitialKey::of(peer);
        config.initial_dst_cid_provider(Arc::new(move || initial.generate(lane))).transport_config(
            transport::transport_config(
                self.config.congestion,
                health.clone(),
                &remote,
                io.first_hop_mtu(remote),
            ),
        );
        let (handle, connection) = self
            .endpoint
            .connect(now, config, remote, tls::SERVER_NAME)
            .map_err(|error| Ended::Failed(error.to_string()))?;
        let gauges = self.config.shared.tunnels.insert(id);
        let socket = if lane.0 == 0 { SocketId::LISTEN } else { io.dial_socket() };
        let direction = Direction::Dialled;
        let mut tunnel =
            Tunnel::new(NewTunnel { id, handle, connection, direction, socket, gauges, health });
        tunnel.dialled_lane = Some(lane);
        self.insert(tunnel, io);
        Ok(())
    }

    fn accept(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        incoming: Incoming,
        response: &mut Vec<u8>,
        io: &mut impl Io,
    ) {
        if self.shutting_down || self.handshakes >= MAX_HANDSHAKES {
            self.endpoint.ignore(incoming);
            return;
        }
        if self.handshakes >= RETRY_ABOVE_HANDSHAKES && incoming.may_retry() {
            if let Ok(transmit) = self.endpoint.retry(incoming, response) {
                respond(socket, &transmit, response, io);
            }
            return;
        }
        let health = Arc::new(LinkHealth::default());
        let mut config = ServerConfig::with_crypto(self.server_crypto.clone());
        config.transport_config(transport::transport_config(
            self.config.congestion,
            health.clone(),
            &remote,
            io.first_hop_mtu(remote),
        ));
        match self.endpoint.accept(incoming, now, response, Some(Arc::new(config))) {
            Ok((handle, connection)) => {
                let id = self.new_id();
                let gauges = self.config.shared.tunnels.insert(id);
                let direction = Direction::Accepted;
                let tunnel = Tunnel::new(NewTunnel {
                    id,
                    handle,
                    connection,
                    direction,
                    socket,
                    gauges,
                    health,
                });
                self.handshakes += 1;
                self.insert(tunnel, io);
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    respond(socket, &transmit, response, io);
                }
            }
        }
    }

    /// Names of accepted connections: the worker in the top byte; the next bit, which marks control's own names, is clear.
    fn new_id(&mut self) -> ConnectionId {
        self.next_id += 1;
        ConnectionId(u64::from(self.config.worker) << 56 | self.next_id)
    }

    fn insert(&mut self, mut tunnel: Tunnel, io: &mut impl Io) {
        let handle = tunnel.handle;
        self.config.shared.add_own_flow(io.local_port(tunnel.socket), tunnel.remote);
        self.by_id.insert(tunnel.id, handle);
        mark_dirty(&mut self.dirty, &mut tunnel);
        if self.tunnels.len() <= handle.0 {
            self.tunnels.resize_with(handle.0 + 1, || None);
        }
        self.tunnels[handle.0] = Some(Box::new(tunnel));
    }

    fn activate(&mut self, connection: ConnectionId, port: PortId) {
        let Some(&handle) = self.by_id.get(&connection) else { return };
        let Some(tunnel) = self.tunnels[handle.0].as_mut() else { return };
        let (Some(hello), false) = (&tunnel.hello, tunnel.ended) else { return };
        let shared = self.config.shared.port(port);
        shared.set_probe_token(hello.probe_token);
        shared.lane_up(Lane(hello.lane));
        tunnel.active = true;
        let old = self.active[usize::from(port.0)].replace(handle);
        if let Some(old) = old.filter(|old| *old != handle)
            && let Some(old) = self.tunnels[old.0].as_mut()
        {
            old.active = false;
        }
    }

    /// A connection that no longer sends or receives frames; its lane goes down if it was the active one.
    fn retire(&mut self, now: Instant, handle: ConnectionHandle, why: Ended) {
        let Some(tunnel) = self.tunnels[handle.0].as_mut() else { return };
        if std::mem::replace(&mut tunnel.ended, true) {
            return;
        }
        if tunnel.hello.is_none() && tunnel.direction == Direction::Accepted {
            self.handshakes = self.handshakes.saturating_sub(1);
        }
        self.by_id.remove(&tunnel.id);
        self.config.shared.tunnels.remove(tunnel.id);
        let announced = tunnel.hello.is_some() || tunnel.direction == Direction::Dialled;
        if announced {
            self.switch.events.push(Event::Ended { connection: tunnel.id, why });
        } else {
            match &why {
                Ended::Refused(text) if self.refusals.is_news(text, now) => {
                    let remote = tunnel.remote;
                    tracing::warn!("refused a connection from {remote}: {text}");
                }
                _ => {
                    tracing::debug!(remote = %tunnel.remote, ?why, "a connection attempt failed");
                }
            }
        }
        let Some(port) = self.active.iter().position(|active| *active == Some(handle)) else {
            return;
        };
        self.active[port] = None;
        let port = PortId(port as u16);
        if let Some(lane) = tunnel.lane()
            && self.config.shared.port(port).lane_down(lane)
        {
            self.config.shared.fdb.flush_port(port);
        }
    }

    fn close(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        reason: CloseReason,
        phrase: &str,
        io: &mut impl Io,
    ) {
        if let Some(tunnel) = self.tunnels[handle.0].as_mut()
            && !tunnel.ended
        {
            // What is queued goes out first.
            tunnel.end_burst();
            transmit(now, tunnel, &self.switch, io);
            tunnel.close(now, reason, phrase);
            mark_dirty(&mut self.dirty, tunnel);
            self.retire(now, handle, Ended::Closed(reason));
        }
    }

    /// Everything that a connection has to say, then its trains.
    fn drive(&mut self, now: Instant, handle: ConnectionHandle, io: &mut impl Io) {
        let Some(mut tunnel) = self.tunnels[handle.0].take() else { return };
        tunnel.dirty = false;
        drain(now, &mut tunnel, &mut self.switch, io);
        tunnel.end_burst();
        let more = transmit(now, &mut tunnel, &self.switch, io);
        self.follow_move(&mut tunnel, io);
        let mut drained = false;
        while let Some(event) = tunnel.connection.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                tunnel.connection.handle_event(event);
                mark_dirty(&mut self.dirty, &mut tunnel);
            }
        }
        let mut progress = Vec::new();
        while let Some(step) = tunnel.poll() {
            progress.push(step);
        }
        if more {
            mark_dirty(&mut self.dirty, &mut tunnel);
        }
        self.deadline = earlier(self.deadline, tunnel.poll_timeout());
        self.tunnels[handle.0] = Some(tunnel);
        for step in progress {
            self.progress(now, handle, step, io);
        }
        if drained {
            self.forget(now, handle, io);
        }
    }

    fn progress(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        step: Progress,
        io: &mut impl Io,
    ) {
        match step {
            Progress::HandshakeDone => self.handshake_done(now, handle, io),
            Progress::HelloRead => self.hello_read(now, handle, io),
            Progress::Lost(why) => self.retire(now, handle, why),
            Progress::MustClose(reason, phrase) => self.close(now, handle, reason, &phrase, io),
        }
    }

    /// The peer's key is proven: its frames are welcome, and this node introduces itself.
    fn handshake_done(&mut self, now: Instant, handle: ConnectionHandle, io: &mut impl Io) {
        let Some(tunnel) = self.tunnels[handle.0].as_mut() else { return };
        let node = tunnel.proven_node();
        let Some((node, port)) =
            node.and_then(|node| Some((node, self.config.admission.port_of(node)?)))
        else {
            self.close(now, handle, CloseReason::NotAdmitted, phrase(CloseReason::NotAdmitted), io);
            return;
        };
        tunnel.peer = Some((node, port));
        let facts = &self.config.facts;
        let hello = Hello {
            capabilities: capabilities(&self.config.taps),
            max_frame_len: MAX_FRAME_LEN as u32,
            inner_mtu: facts.inner_mtu,
            lanes: facts.lanes,
            lane: tunnel.dialled_lane.map_or(self.config.worker, |lane| lane.0),
            name: facts.name.clone(),
            instance: facts.instance,
            probe_token: Some(facts.probe_token),
            agent: AGENT.into(),
        };
        tunnel.say_hello(&hello);
        mark_dirty(&mut self.dirty, tunnel);
    }

    fn hello_read(&mut self, now: Instant, handle: ConnectionHandle, io: &mut impl Io) {
        let Some(tunnel) = self.tunnels[handle.0].as_mut() else { return };
        let (Some((peer, _)), Some(hello)) = (tunnel.peer, tunnel.hello.clone()) else { return };
        if tunnel.direction == Direction::Accepted {
            self.handshakes = self.handshakes.saturating_sub(1);
        }
        if hello.lane != self.config.worker {
            let phrase = "the lane does not belong to the worker that got it";
            self.close(now, handle, CloseReason::BadHello, phrase, io);
            return;
        }
        self.switch.events.push(Event::Connected {
            connection: tunnel.id,
            peer,
            direction: tunnel.direction,
            remote: tunnel.remote,
            local_ip: tunnel.connection.local_ip(),
            hello,
        });
    }

    fn follow_move(&mut self, tunnel: &mut Tunnel, io: &mut impl Io) {
        let remote = tunnel.connection.remote_address();
        if remote == tunnel.remote {
            return;
        }
        let local_port = io.local_port(tunnel.socket);
        self.config.shared.remove_own_flow(local_port, tunnel.remote);
        self.config.shared.add_own_flow(local_port, remote);
        tunnel.remote = remote;
        self.switch.events.push(Event::Moved { connection: tunnel.id, remote });
    }

    fn forget(&mut self, now: Instant, handle: ConnectionHandle, io: &mut impl Io) {
        self.retire(now, handle, Ended::Failed("the connection ended".into()));
        if let Some(tunnel) = self.tunnels[handle.0].take() {
            self.config.shared.remove_own_flow(io.local_port(tunnel.socket), tunnel.remote);
        }
        self.dirty.retain(|dirty| *dirty != handle);
    }

    fn handle_timeouts(&mut self, now: Instant, io: &mut impl Io) {
        self.deadline = None;
        for index in 0..self.tunnels.len() {
            let Some(tunnel) = self.tunnels[index].as_mut() else { continue };
            match tunnel.poll_timeout() {
                Some(at) if at <= now => {
                    let mut inbound = Inbound::of(now, tunnel, &mut self.switch, io);
                    tunnel.handle_timeout(now, &mut inbound);
                    mark_dirty(&mut self.dirty, tunnel);
                }
                timeout => self.deadline = earlier(self.deadline, timeout),
            }
        }
    }

    fn tick(&mut self, now: Instant, io: &mut impl Io) {
        for tunnel in self.tunnels.iter_mut().flatten().filter(|tunnel| !tunnel.ended) {
            tunnel.refresh_gauges();
            if let Some((_, port)) = tunnel.peer {
                let (missing, salvaged) = tunnel.take_reassembly_counts();
                let counters = self.switch.counters.port(port);
                counters.missing_frames.add(missing);
                counters.salvaged_runs.add(salvaged);
            }
        }
        if self.config.worker != 0 {
            return;
        }
        let fdb = &self.config.shared.fdb;
        fdb.age_out(self.switch.now_s(now), fdb.buckets().div_ceil(SWEEP_TICKS));
        self.switch.clear_loops(now);
        for (index, mac) in self.config.tap_macs.iter().enumerate() {
            let probe = LoopProbe {
                origin: self.config.facts.node,
                token: self.config.facts.probe_token,
                tap: index as u16,
            };
            let frame = probe.encode(*mac);
            io.write_tap(PortId(index as u16), Offload::NONE, 0, FrameBytes::Whole(&frame));
        }
    }
}

/// Frames out of one tunnel, into the switch.
struct Inbound<'a, I> {
    now: Instant,
    /// `None` until the peer is known and while its connection is closing.
    port: Option<PortId>,
    switch: &'a mut Switch,
    io: &'a mut I,
}

impl<'a, I: Io> Inbound<'a, I> {
    fn of(now: Instant, tunnel: &Tunnel, switch: &'a mut Switch, io: &'a mut I) -> Self {
        let port = tunnel.peer.map(|(_, port)| port).filter(|_| tunnel.hello.is_some());
        Self { now, port, switch, io }
    }
}

impl<I: Io> FrameSink for Inbound<'_, I> {
    fn deliver(&mut self, offload: Offload, pieces: &mut Vec<Bytes>) {
        let Some(port) = self.port else {
            // No port to count it under: the first TAP's, which is where it would have gone.
            self.switch.count_drop(PortId(0), DropReason::NotAdmitted);
            return;
        };
        if let Err(reason) = self.switch.inbound(self.now, port, offload, pieces, self.io) {
            self.switch.count_drop(port, reason);
        }
    }

    fn dropped(&mut self, reason: DropReason, frames: u64) {
        let port = self.port.unwrap_or(PortId(0));
        self.switch.counters.port(port).drop_frames(reason, frames);
    }
}

fn drain(now: Instant, tunnel: &mut Tunnel, switch: &mut Switch, io: &mut impl Io) {
    let mut inbound = Inbound::of(now, tunnel, switch, io);
    tunnel.drain_received(now, &mut inbound);
}

/// Sends the connection's trains; true if there is more to send.
fn transmit(now: Instant, tunnel: &mut Tunnel, switch: &Switch, io: &mut impl Io) -> bool {
    for _ in 0..TRAINS_PER_ROUND {
        if !io.can_send(tunnel.socket) {
            return true;
        }
        let mtu = usize::from(tunnel.connection.current_mtu());
        // A train is one UDP send: at most 65,507 bytes.
        let segments = io.max_segments(tunnel.socket).min(65_507 / mtu).max(1);
        let mut train = io.train_buffer();
        let Some(transmit) = tunnel.connection.poll_transmit(now, segments, &mut train) else {
            io.return_buffer(train);
            return false;
        };
        let packets = transmit.segment_size.map_or(1, |size| transmit.size.div_ceil(size));
        switch.counters.io.sent_packets.add(packets as u64);
        switch.counters.io.sent_trains.add(1);
        io.send(tunnel.socket, &transmit, train);
    }
    true
}

fn respond(socket: SocketId, transmit: &Transmit, response: &[u8], io: &mut impl Io) {
    let mut train = io.train_buffer();
    train.extend_from_slice(&response[..transmit.size]);
    io.send(socket, transmit, train);
}

fn mark_dirty(dirty: &mut Vec<ConnectionHandle>, tunnel: &mut Tunnel) {
    if !std::mem::replace(&mut tunnel.dirty, true) {
        dirty.push(tunnel.handle);
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// What the hello promises: superframes only if every TAP takes them as they are. (One that does not gets them finished in
/// software, but then the far side may as well not make them.)
fn capabilities(taps: &[TapOffload]) -> Capabilities {
    let full = taps.iter().all(|tap| *tap == TapOffload::Full);
    if full { Capabilities::ALL } else { Capabilities::NONE }
}

fn phrase(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Shutdown => "the switch shuts down",
        CloseReason::Replaced => "a newer connection took over",
        CloseReason::Duplicate => "both ends dialled; the other connection stays",
        CloseReason::Version => "another version",
        CloseReason::BadHello => "malformed hello",
        CloseReason::NotAdmitted => "this node is not among the peers",
        CloseReason::DialledSelf => "the node dialled itself",
    }
}
