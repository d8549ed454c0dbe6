//! Connections: dialled, accepted, driven, closed.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use ipop_learning::PortId;
use quinn_proto::{ClientConfig, Connection, ConnectionHandle, Endpoint, TransportConfig};

use super::{Core, door::Closing, paths::NextHop};
use crate::{
    command::{
        CloseReason, ConnectionId, Direction, Ended, Event, Failure, FromConnection, FromWorker,
        Lane, ToConnection,
    },
    counters::{IoCounters, WorkerCounters},
    io::{Io, SocketId, SocketKind},
    node_id::NodeId,
    path::{channel_data, port_of_alias},
    quic::{InitialKey, TunnelHealth, tls, transport},
    tunnel::{Admitted, NewTunnel, Progress, Tunnel},
};

/// Trains that one connection may send in a round, so that others and the TAP get their turn.
const TRAINS_PER_ROUND: usize = 16;
/// And when flows share the tunnel: a frame that comes to the TAP meanwhile waits for the round to end, 0.1 ms for each train.
const TRAINS_PER_SHARED_ROUND: usize = 1;

/// Connections.
impl Core {
    /// Carries out what a connection is to do.
    pub(super) fn connection_command(
        &mut self,
        now: Instant,
        id: ConnectionId,
        what: ToConnection,
        io: &mut impl Io,
    ) {
        match what {
            ToConnection::Dial { peer, lane, remote } => {
                if let Err(why) = self.dial(now, id, peer, lane, remote, io) {
                    let ended = FromConnection::Ended(Ended::Failed(why));
                    self.cx.events.push(Event::Connection(id, ended));
                }
            }
            ToConnection::Activate(port) => self.activate(id, port),
            ToConnection::Close(reason) => {
                if let Some(tunnel) = self.lanes.named(id) {
                    let handle = tunnel.handle;
                    self.close(now, handle, reason, io);
                }
            }
            ToConnection::Probe => {
                if let Some(tunnel) = self.lanes.named(id) {
                    tunnel.connection.local_address_changed();
                    let handle = tunnel.handle;
                    self.lanes.agenda.add(handle);
                }
            }
            ToConnection::Signal(message) => self.signal(id, &message),
        }
    }

    /// Says goodbye to everybody.
    pub(super) fn shut_down(&mut self, now: Instant, io: &mut impl Io) {
        self.shutting_down = true;
        let tunnels = self.lanes.tunnels.iter().flatten();
        let handles: Vec<_> = tunnels.map(|tunnel| tunnel.handle).collect();
        for handle in handles {
            self.close(now, handle, CloseReason::Shutdown, io);
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
    ) -> Result<(), Failure> {
        let listen = self.sockets.listen();
        if self.paths.next_hop(listen, remote).is_nowhere() {
            return Err(Failure::NoPath);
        }
        let crypto = tls::client_config(&self.identity, peer)?;
        let initial = InitialKey::of(peer);
        let further = self.sockets.of(SocketKind::Dial).filter(|_| lane.0 > 0);
        let socket = further.unwrap_or(listen);
        let dial = |endpoint: &mut Endpoint, transport| {
            let mut config = ClientConfig::new(crypto);
            config.initial_dst_cid_provider(Arc::new(move || initial.generate(lane)));
            config.transport_config(transport);
            endpoint.connect(now, config, remote, tls::SERVER_NAME)
        };
        self.begin(now, (id, Some(lane)), (socket, remote), dial, io)?;
        Ok(())
    }

    /// A connection begins: one that control dials for a lane, or one that the far end dialled. `open` has QUIC make it.
    pub(super) fn begin<E>(
        &mut self,
        now: Instant,
        (id, dialled_lane): (ConnectionId, Option<Lane>),
        (socket, remote): (SocketId, SocketAddr),
        open: impl FnOnce(
            &mut Endpoint,
            Arc<TransportConfig>,
        ) -> Result<(ConnectionHandle, Connection), E>,
        io: &mut impl Io,
    ) -> Result<ConnectionHandle, E> {
        let direction =
            if dialled_lane.is_some() { Direction::Dialled } else { Direction::Accepted };
        let health = Arc::new(TunnelHealth::default());
        let transport = self.transport_config(direction, remote, &health, io);
        let (handle, connection) = open(&mut self.endpoint, transport)?;
        let new = NewTunnel { id, handle, connection, dialled_lane, socket, health, now };
        if port_of_alias(remote).is_none() {
            self.cx.shared.add_own_flow(self.sockets.port(socket), remote);
            self.paths.add_plain_remote(remote);
        }
        self.lanes.insert(Tunnel::new(new));
        Ok(handle)
    }

    /// Settings of a connection to this address, or to the path that it stands for now. Discovery of the path MTU keeps its upper bound on every
    /// later path, so one that may be relayed leaves room for the relay's header.
    fn transport_config(
        &self,
        direction: Direction,
        remote: SocketAddr,
        health: &Arc<TunnelHealth>,
        io: &impl Io,
    ) -> Arc<TransportConfig> {
        let next_hop = self.paths.next_hop(self.sockets.listen(), remote);
        let (first_hop, header_len) = match next_hop.first_host() {
            Some(host) => (host, channel_data::HEADER_LEN),
            None => (remote, 0),
        };
        let mtu = io.first_hop_mtu(first_hop).saturating_sub(header_len as u16);
        let (congestion, lane) = (self.congestion, Lane(self.cx.worker));
        let health = health.clone();
        transport::transport_config(congestion, (lane, direction), health, &first_hop, mtu)
    }

    fn activate(&mut self, connection: ConnectionId, port: PortId) {
        let Some(tunnel) = self.lanes.named(connection) else { return };
        let admitted = tunnel.admitted().filter(|admitted| admitted.port == port);
        let Some(Admitted { hello, .. }) = admitted else { return };
        let handle = tunnel.handle;
        let ports = &self.cx.shared.ports;
        ports.of(port).set_probe_token(hello.probe_token);
        ports.lane_up(port, Lane(hello.lane));
        self.lanes.activate(port, handle);
    }

    /// A connection that no longer sends or receives frames; its lane goes down if it was the active one.
    pub(super) fn retire(&mut self, now: Instant, handle: ConnectionHandle, why: Ended) {
        let Some(tunnel) = self.lanes.tunnels[handle.0].as_mut() else { return };
        if tunnel.is_ended() {
            return;
        }
        let admitted = tunnel.admitted().map(|peer| (peer.port, Lane(peer.hello.lane)));
        tunnel.end(&self.cx);
        self.lanes.by_id.remove(&tunnel.id);
        let announced = admitted.is_some() || tunnel.direction == Direction::Dialled;
        if announced {
            self.cx.events.push(Event::Connection(tunnel.id, FromConnection::Ended(why)));
        } else if let Ended::Refused(why) = why
            && self.rejections.take(now, 1)
        {
            self.cx.events.push(Event::Worker(FromWorker::Rejected { remote: tunnel.remote, why }));
        }
        let Some((port, lane)) = admitted else { return };
        let shared = &self.cx.shared;
        if self.lanes.deactivate(port, handle) && shared.ports.of(port).lane_down(lane) {
            shared.fdb.flush_port(port);
        }
    }

    /// Closes a connection, and tells the peer why.
    fn close(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        why: impl Into<Closing>,
        io: &mut impl Io,
    ) {
        if let Some(tunnel) = self.lanes.tunnels[handle.0].as_mut()
            && !tunnel.is_ended()
        {
            // What is queued goes out first.
            tunnel.end_burst(&self.cx);
            let next_hop = self.paths.next_hop(tunnel.socket, tunnel.remote);
            transmit(now, tunnel, next_hop, &self.cx.counters.io, io);
            let why = why.into();
            tunnel.close(now, why.reason(), &why.to_string());
            self.lanes.agenda.add(handle);
            self.retire(now, handle, why.ended());
        }
    }

    /// Everything that a connection has to say, then its trains.
    pub(super) fn drive(&mut self, now: Instant, handle: ConnectionHandle, io: &mut impl Io) {
        let Some(mut tunnel) = self.lanes.tunnels[handle.0].take() else { return };
        let shakes_hands = tunnel.handshake().is_some();
        if !shakes_hands {
            self.take_received(now, &mut tunnel, io);
        }
        tunnel.write_signals();
        // Before the rest, so that questions go out with it.
        if let Some(rtt) = tunnel.silence(now) {
            self.cx.events.push(Event::Connection(tunnel.id, FromConnection::Silent { rtt }));
        }
        let more = self.send_frames(now, &mut tunnel, io);
        self.follow_move(&mut tunnel);
        let is_dead = tunnel.is_dead(now);
        let mut drained = false;
        while let Some(event) = tunnel.connection.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                tunnel.connection.handle_event(event);
                self.lanes.agenda.add(handle);
            }
        }
        let mut progress = Vec::new();
        while let Some(step) = tunnel.poll() {
            progress.push(step);
        }
        if more {
            self.lanes.agenda.add(handle);
        }
        self.lanes.deadlines.set(handle, tunnel.poll_timeout());
        self.lanes.tunnels[handle.0] = Some(tunnel);
        for step in progress {
            self.progress(now, handle, step, io);
        }
        if shakes_hands && let Some(mut tunnel) = self.lanes.tunnels[handle.0].take() {
            // The peer's first frames may have come with its hello.
            self.take_received(now, &mut tunnel, io);
            self.lanes.deadlines.set(handle, tunnel.poll_timeout());
            self.lanes.tunnels[handle.0] = Some(tunnel);
        }
        self.read_signals(now, handle);
        if is_dead {
            self.give_up(now, handle);
        }
        let tunnel = self.lanes.tunnels[handle.0].as_ref();
        if tunnel.is_some_and(|tunnel| tunnel.is_overdue(now)) {
            self.forget_handshake(now, handle, io);
        }
        if drained {
            self.forget(now, handle, io);
        }
    }

    /// Takes the frames out of what came in this round.
    fn take_received(&mut self, now: Instant, tunnel: &mut Tunnel, io: &mut impl Io) {
        let mut inbound = self.inbound(now, tunnel, io);
        tunnel.drain_received(now, &mut inbound);
        tunnel.end_round(now, &mut inbound);
    }

    /// The peer is dead as far as this connection tells: QUIC would wait for longer.
    fn give_up(&mut self, now: Instant, handle: ConnectionHandle) {
        if let Some(tunnel) =
            self.lanes.tunnels[handle.0].as_mut().filter(|tunnel| !tunnel.is_ended())
        {
            tunnel.close(now, CloseReason::Replaced, "nothing was heard on this lane");
            self.lanes.agenda.add(handle);
            self.retire(now, handle, Ended::TimedOut);
        }
    }

    /// Sends what waits, train by train; true if there is more to send. Frames are taken from the queues of flows as late as possible.
    fn send_frames(&mut self, now: Instant, tunnel: &mut Tunnel, io: &mut impl Io) -> bool {
        let next_hop = self.paths.next_hop(tunnel.socket, tunnel.remote);
        let counters = &self.cx.counters;
        let is_shared = tunnel.sending().is_some_and(|(out, _)| out.is_shared(now));
        if is_shared {
            io.start_writes();
        }
        for _ in 0..if is_shared { TRAINS_PER_SHARED_ROUND } else { TRAINS_PER_ROUND } {
            if let Some((out, connection)) = tunnel.sending() {
                out.feed(connection, &mut self.lanes.scratch, &self.cx);
            }
            match send_train(now, tunnel, next_hop, &counters.io, io) {
                Sent::Train => {}
                Sent::SocketIsFull => return true,
                Sent::Nothing => {
                    let is_repeated = tunnel
                        .sending()
                        .is_some_and(|(out, connection)| out.repeat_tail(connection));
                    return is_repeated && transmit(now, tunnel, next_hop, &counters.io, io);
                }
            }
        }
        true
    }

    fn read_signals(&mut self, now: Instant, handle: ConnectionHandle) {
        let Some(tunnel) = self.lanes.tunnels[handle.0].as_mut() else { return };
        let (connection, events) = (tunnel.id, &mut self.cx.events);
        tunnel.read_signals(now, |peer, message| {
            events.push(Event::Connection(
                connection,
                FromConnection::Signal { peer, message: message.to_vec() },
            ));
        });
    }

    fn signal(&mut self, connection: ConnectionId, message: &[u8]) {
        match self.lanes.named(connection) {
            Some(tunnel) => {
                tunnel.signal(message);
                let handle = tunnel.handle;
                self.lanes.agenda.add(handle);
            }
            None => self.cx.counters.io.dropped_signals.add(1),
        }
    }

    fn progress(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        step: Progress,
        io: &mut impl Io,
    ) {
        let Some(tunnel) = self.lanes.tunnels[handle.0].as_mut() else { return };
        let passed = match step {
            Progress::HandshakeDone => self.door.greet(tunnel, &self.cx),
            Progress::HelloRead(hello) => self.door.admit(tunnel, hello, &mut self.cx),
            Progress::BadHello(error) => Err(Closing::BadHello(error)),
            Progress::Lost(why) => return self.retire(now, handle, why),
        };
        match passed {
            Ok(()) => self.lanes.agenda.add(handle),
            Err(why) => self.close(now, handle, why, io),
        }
    }

    fn follow_move(&mut self, tunnel: &mut Tunnel) {
        let remote = tunnel.connection.remote_address();
        if remote == tunnel.remote {
            return;
        }
        let local_port = self.sockets.port(tunnel.socket);
        self.cx.shared.remove_own_flow(local_port, tunnel.remote);
        self.cx.shared.add_own_flow(local_port, remote);
        self.paths.remove_plain_remote(tunnel.remote);
        self.paths.add_plain_remote(remote);
        tunnel.remote = remote;
        self.cx.events.push(Event::Connection(tunnel.id, FromConnection::Moved { remote }));
    }

    pub(super) fn forget(&mut self, now: Instant, handle: ConnectionHandle, io: &mut impl Io) {
        self.retire(now, handle, Ended::Failed(Failure::Forgotten));
        if let Some(mut tunnel) = self.lanes.remove(handle) {
            tunnel.abandon(&mut self.inbound(now, &tunnel, io));
            take_counts(&mut tunnel, &self.cx.counters);
            if port_of_alias(tunnel.remote).is_none() {
                let local_port = self.sockets.port(tunnel.socket);
                self.cx.shared.remove_own_flow(local_port, tunnel.remote);
                self.paths.remove_plain_remote(tunnel.remote);
            }
        }
    }

    /// Those that have something to do now; they are driven in this round.
    pub(super) fn handle_timeouts(&mut self, now: Instant, io: &mut impl Io) {
        while let Some(handle) = self.lanes.deadlines.take_due(now) {
            let Some(mut tunnel) = self.lanes.tunnels[handle.0].take() else { continue };
            match tunnel.poll_timeout() {
                Some(at) if at <= now => {
                    tunnel.handle_timeout(now, &mut self.inbound(now, &tunnel, io));
                    self.lanes.agenda.add(handle);
                }
                later => self.lanes.deadlines.set(handle, later),
            }
            self.lanes.tunnels[handle.0] = Some(tunnel);
        }
    }
}

/// Passes on what a tunnel has counted since the last call.
pub(super) fn take_counts(tunnel: &mut Tunnel, counters: &WorkerCounters) {
    counters.io.dropped_signals.add(tunnel.take_dropped_signals());
    if let Some(port) = tunnel.port() {
        let (stats, counters) = (tunnel.take_reassembly_counts(), counters.port(port));
        counters.missing_frames.add(stats.missing);
        counters.salvaged_frames.add(stats.salvaged);
        counters.salvaged_runs.add(stats.salvaged_runs);
    }
}

/// Sends what is in QUIC's queue; true if there is more to send.
pub(super) fn transmit(
    now: Instant,
    tunnel: &mut Tunnel,
    next_hop: NextHop,
    counters: &IoCounters,
    io: &mut impl Io,
) -> bool {
    for _ in 0..TRAINS_PER_ROUND {
        match send_train(now, tunnel, next_hop, counters, io) {
            Sent::Train => {}
            Sent::SocketIsFull => return true,
            Sent::Nothing => return false,
        }
    }
    true
}

/// What became of an attempt to send.
enum Sent {
    /// A train went out.
    Train,
    /// QUIC has nothing to send, or may not now.
    Nothing,
    /// The socket takes nothing now.
    SocketIsFull,
}

fn send_train(
    now: Instant,
    tunnel: &mut Tunnel,
    next_hop: NextHop,
    counters: &IoCounters,
    io: &mut impl Io,
) -> Sent {
    if !io.can_send(next_hop.socket) {
        return Sent::SocketIsFull;
    }
    let packet_len = usize::from(tunnel.connection.current_mtu()) + next_hop.header_len();
    // A train is one UDP send: at most 65,507 bytes.
    let segments = io.max_segments(next_hop.socket).min(65_507 / packet_len).max(1);
    let mut train = io.train_buffer();
    match tunnel.connection.poll_transmit(now, segments, &mut train) {
        Some(transmit) => {
            next_hop.send(transmit, train, counters, io);
            Sent::Train
        }
        None => {
            io.return_buffer(train);
            Sent::Nothing
        }
    }
}
