//! One QUIC connection to a peer: handshake, hello, then frames both ways.
//!
//! `Life` says how far it has come, and owns what exists only then: the hello that is being read, and later the sending half (`Outbound`).
//! So no frame and no message can pass before the peer is admitted, or after the connection has ended.

pub mod hello;
mod liveness;
mod outbound;
pub(crate) mod queue;
mod repeat;
mod sharing;
pub(crate) mod signal;
mod unsent;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ipop_learning::PortId;
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, Dir, Event as QuicEvent, StreamEvent, StreamId,
    TransportErrorCode, VarInt,
};
use rustls_pki_types::CertificateDer;

use crate::{
    command::{
        CloseReason, ConnectionId, ConnectionStats, Direction, Ended, Failure, Lane, Refusal,
    },
    core::{HANDSHAKE_TIME, context::Context},
    frame::MAX_FRAME_LEN,
    io::SocketId,
    node_id::NodeId,
    policy::admission::EXPORTER_LABEL,
    quic::{
        TunnelHealth, tls,
        transport::{IDLE_TIMEOUT, SEND_QUEUE_BYTES},
    },
    record::{FrameSink, Reassembler, ReassemblyStats},
    tunnel::{
        hello::{Capabilities, Hello, HelloError, MAX_HELLO_LEN},
        liveness::Liveness,
        signal::SignalStreams,
    },
};

use self::outbound::Outbound;

/// Bounds of [`reordering_wait`].
const MIN_REORDERING_WAIT: Duration = Duration::from_micros(250);
const MAX_REORDERING_WAIT: Duration = Duration::from_millis(5);

/// A connection and what hangs on it.
pub(crate) struct Tunnel {
    pub(crate) id: ConnectionId,
    pub(crate) handle: ConnectionHandle,
    pub(crate) connection: Connection,
    pub(crate) direction: Direction,
    pub(crate) socket: SocketId,
    pub(crate) remote: SocketAddr,
    life: Life,
    health: Arc<TunnelHealth>,
    signals: SignalStreams,
    /// What comes before the peer is admitted is put together too, to be counted.
    reassembler: Reassembler,
    /// Reassembly counts that were passed on already.
    counted: ReassemblyStats,
}

/// How far a connection has come.
pub(crate) enum Life {
    /// It is being found out who the far end is, and whether it may join.
    Handshake(Handshake),
    /// Frames and signalling messages pass, both ways.
    Admitted(Box<Admitted>),
    /// This node closed the connection, or it was lost: nothing goes in or out any more.
    Ended {
        /// Where the frames of a peer that was admitted were counted.
        port: Option<PortId>,
    },
}

/// Before the peer is admitted.
pub(crate) struct Handshake {
    /// The lane that control dialled the connection for.
    pub(crate) dialled_lane: Option<Lane>,
    /// When the far end, which dialled, must have shown who it is and that it may join.
    until: Option<Instant>,
    /// Whose key was proved in TLS, and its port.
    pub(crate) peer: Option<(NodeId, PortId)>,
    hello: HelloStream,
}

/// The first stream that the peer opens.
enum HelloStream {
    Awaited,
    /// So much of the hello has come.
    Open(StreamId, Vec<u8>),
    Read,
}

/// A peer that showed who it is and that it may join.
pub(crate) struct Admitted {
    pub(crate) node: NodeId,
    pub(crate) port: PortId,
    pub(crate) hello: Hello,
    pub(crate) out: Outbound,
    liveness: Liveness,
}

/// What a drive of the connection brought to light.
pub(crate) enum Progress {
    /// The handshake is done; the hello should go out.
    HandshakeDone,
    /// The peer's hello was read.
    HelloRead(Hello),
    /// The connection is lost.
    Lost(Ended),
    /// The peer's hello cannot be read.
    BadHello(HelloError),
}

/// How to make a [`Tunnel`].
pub(crate) struct NewTunnel {
    pub(crate) id: ConnectionId,
    pub(crate) handle: ConnectionHandle,
    pub(crate) connection: Connection,
    /// The lane that control dialled it for; `None` if the far end dialled.
    pub(crate) dialled_lane: Option<Lane>,
    pub(crate) socket: SocketId,
    pub(crate) health: Arc<TunnelHealth>,
    pub(crate) now: Instant,
}

impl Life {
    fn admitted_mut(&mut self) -> Option<&mut Admitted> {
        match self {
            Self::Admitted(admitted) => Some(admitted),
            Self::Handshake(_) | Self::Ended { .. } => None,
        }
    }
}

impl Tunnel {
    pub(crate) fn new(new: NewTunnel) -> Self {
        let (direction, until) = match new.dialled_lane {
            Some(_) => (Direction::Dialled, None),
            None => (Direction::Accepted, Some(new.now + HANDSHAKE_TIME)),
        };
        let (dialled_lane, hello) = (new.dialled_lane, HelloStream::Awaited);
        Self {
            id: new.id,
            handle: new.handle,
            direction,
            socket: new.socket,
            remote: new.connection.remote_address(),
            connection: new.connection,
            life: Life::Handshake(Handshake { dialled_lane, until, peer: None, hello }),
            health: new.health,
            signals: SignalStreams::new(new.now),
            reassembler: Reassembler::new(MAX_FRAME_LEN),
            counted: ReassemblyStats::default(),
        }
    }

    /// What is known so far, while the peer is not admitted.
    pub(crate) fn handshake(&mut self) -> Option<&mut Handshake> {
        match &mut self.life {
            Life::Handshake(handshake) => Some(handshake),
            Life::Admitted(_) | Life::Ended { .. } => None,
        }
    }

    /// The peer, once it is admitted and until the connection ends.
    pub(crate) fn admitted(&self) -> Option<&Admitted> {
        match &self.life {
            Life::Admitted(admitted) => Some(admitted),
            Life::Handshake(_) | Life::Ended { .. } => None,
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.life, Life::Ended { .. })
    }

    /// The port of a peer that is admitted, or was until the connection ended.
    pub(crate) fn port(&self) -> Option<PortId> {
        match &self.life {
            Life::Handshake(_) => None,
            Life::Admitted(admitted) => Some(admitted.port),
            Life::Ended { port } => *port,
        }
    }

    /// From now on frames and signalling messages pass.
    pub(crate) fn admit(&mut self, node: NodeId, port: PortId, hello: Hello) {
        let out = Outbound::new(port, &hello, self.health.clone(), &mut self.connection);
        let liveness = Liveness::default();
        self.life = Life::Admitted(Box::new(Admitted { node, port, hello, out, liveness }));
    }

    /// From now on nothing passes; what waits is counted.
    pub(crate) fn end(&mut self, cx: &Context) {
        let ended = Life::Ended { port: self.port() };
        if let Life::Admitted(admitted) = std::mem::replace(&mut self.life, ended) {
            admitted.out.give_up(&mut self.connection, cx);
        }
    }

    /// The sending half, and what it sends over, while the peer is admitted.
    pub(crate) fn sending(&mut self) -> Option<(&mut Outbound, &mut Connection)> {
        let admitted = self.life.admitted_mut()?;
        Some((&mut admitted.out, &mut self.connection))
    }

    /// Ends the burst: the open datagram goes out short.
    pub(crate) fn end_burst(&mut self, cx: &Context) {
        if let Some((out, connection)) = self.sending() {
            out.end_burst(connection, cx);
        }
    }

    /// Takes in what the connection received.
    pub(crate) fn drain_received(&mut self, now: Instant, sink: &mut impl FrameSink) {
        while let Some(datagram) = self.connection.datagrams().recv() {
            self.reassembler.push(now, datagram, sink);
        }
    }

    /// Ends a round of receiving: what waits for the rest of its frame is settled if it has waited for long enough, and lets go of
    /// the receive buffers.
    pub(crate) fn end_round(&mut self, now: Instant, sink: &mut impl FrameSink) {
        self.reassembler.end_batch(now, sink);
    }

    /// The earliest time at which [`Tunnel::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        let own = match &self.life {
            Life::Handshake(handshake) => handshake.until,
            Life::Admitted(admitted) => admitted.liveness.poll_timeout(),
            Life::Ended { .. } => None,
        };
        let others = [self.reassembler.poll_timeout(), self.connection.poll_timeout()];
        own.into_iter().chain(others.into_iter().flatten()).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, sink: &mut impl FrameSink) {
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        if self.reassembler.poll_timeout().is_some_and(|at| at <= now) {
            self.reassembler.handle_timeout(now, sink);
        }
    }

    /// Whether a handshake that the far end began should be finished by now.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        let Life::Handshake(handshake) = &self.life else { return false };
        handshake.until.is_some_and(|until| until <= now)
    }

    /// If the peer has been silent for too long by now. While it is silent it is asked whether it is there.
    pub(crate) fn silence(&mut self, now: Instant) -> Option<Duration> {
        let liveness = &mut self.life.admitted_mut()?.liveness;
        let silence = liveness.look(now, &self.connection);
        if liveness.must_ask(now) {
            self.connection.ping();
        }
        silence
    }

    /// Whether the peer has answered nothing for so long that it is dead. On a further lane QUIC itself would wait for as long as
    /// such a lane may be idle, also when the network does not even take questions.
    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        let Some(Admitted { hello, liveness, .. }) = self.admitted() else { return false };
        let waits_since = liveness.waits_since().filter(|_| hello.lane > 0);
        waits_since.is_some_and(|since| since + IDLE_TIMEOUT <= now) || liveness.is_dead(now)
    }

    /// Nothing comes any more: what waits for the rest of a frame is given up.
    pub(crate) fn abandon(&mut self, sink: &mut impl FrameSink) {
        self.reassembler.abandon(sink);
    }

    /// What came of the peer's frames since the last call.
    pub(crate) fn take_reassembly_counts(&mut self) -> ReassemblyStats {
        let mut stats = self.reassembler.stats();
        let old = self.counted;
        // A late frame takes one off the missing again, but counters only grow: the next one lost makes up for it.
        stats.missing = stats.missing.max(old.missing);
        self.counted = stats;
        stats.since(old)
    }

    /// The next thing that happened, if any.
    pub(crate) fn poll(&mut self) -> Option<Progress> {
        loop {
            match self.connection.poll()? {
                QuicEvent::Connected => return Some(Progress::HandshakeDone),
                QuicEvent::ConnectionLost { reason } => {
                    return Some(Progress::Lost(explain(reason)));
                }
                QuicEvent::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(id) = self.connection.streams().accept(Dir::Uni) {
                        self.opened(id);
                    }
                    if let Some(progress) = self.read_hello() {
                        return Some(progress);
                    }
                }
                QuicEvent::Stream(StreamEvent::Readable { .. }) => {
                    if let Some(progress) = self.read_hello() {
                        return Some(progress);
                    }
                }
                _ => {}
            }
        }
    }

    /// In the order in which the peer opened them: its hello is the first.
    fn opened(&mut self, stream: StreamId) {
        match &mut self.life {
            Life::Handshake(Handshake { hello: hello @ HelloStream::Awaited, .. }) => {
                *hello = HelloStream::Open(stream, Vec::new());
            }
            _ => self.signals.opened(stream),
        }
    }

    /// The node that the handshake proved.
    pub(crate) fn proven_node(&self) -> Option<NodeId> {
        let identity = self.connection.crypto_session().peer_identity()?;
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        tls::node_of(&chain)
    }

    /// What both ends export from their TLS session, once the handshake is done.
    pub(crate) fn exported(&self) -> Option<[u8; 32]> {
        let mut exported = [0; 32];
        let session = self.connection.crypto_session();
        session.export_keying_material(&mut exported, EXPORTER_LABEL, b"").ok()?;
        Some(exported)
    }

    /// Writes this node's hello.
    pub(crate) fn say_hello(&mut self, hello: &Hello) {
        let bytes = hello.encode();
        let Some(id) = self.connection.streams().open(Dir::Uni) else { return };
        let mut stream = self.connection.send_stream(id);
        // A hello is smaller than the smallest stream window that a peer of this version grants; one that grants
        // less never reads it and times out.
        if stream.write(&bytes).is_ok_and(|written| written == bytes.len()) {
            let _ = stream.finish();
        }
    }

    /// Queues a signalling message for the peer, or counts it as dropped.
    pub(crate) fn signal(&mut self, message: &[u8]) {
        let capabilities = self.admitted().map(|admitted| admitted.hello.capabilities);
        match capabilities {
            Some(capabilities) if capabilities.has(Capabilities::SIGNALLING) => {
                self.signals.queue(message);
            }
            _ => self.signals.drop_one(),
        }
    }

    /// Gives the stream as much of the queued messages as it takes.
    pub(crate) fn write_signals(&mut self) {
        self.signals.write(&mut self.connection);
    }

    /// Shows the messages that have come; none before the peer is admitted.
    pub(crate) fn read_signals(&mut self, now: Instant, mut deliver: impl FnMut(NodeId, &[u8])) {
        if let Some(node) = self.admitted().map(|admitted| admitted.node) {
            self.signals.read(now, &mut self.connection, |message| deliver(node, message));
        }
    }

    /// Signalling messages dropped, either way, since the last call.
    pub(crate) fn take_dropped_signals(&mut self) -> u64 {
        self.signals.take_dropped()
    }

    /// Packets take another path from now on. Returns how many queued datagrams were too large to be sent before its MTU is known, by their bytes.
    pub(crate) fn path_changed(&mut self, now: Instant) -> u64 {
        let datagrams = self.connection.datagrams();
        let cost = datagrams.max_size().unwrap_or(0) + size_of::<Bytes>();
        let space = datagrams.send_buffer_space();
        self.connection.path_changed(now);
        if let Some(admitted) = self.life.admitted_mut() {
            admitted.liveness.path_changed();
        }
        let dropped = self.connection.datagrams().send_buffer_space().saturating_sub(space);
        // Something must be acknowledged soon, or what was lost on the old path blocks the new one until QUIC's timer.
        self.connection.ping();
        dropped.div_ceil(cost) as u64
    }

    pub(crate) fn close(&mut self, now: Instant, reason: CloseReason, phrase: &str) {
        self.connection.close(
            now,
            VarInt::from_u32(reason as u32),
            Bytes::copy_from_slice(phrase.as_bytes()),
        );
    }

    /// Housekeeping, once a second: takes in what the connection has learned of the path.
    pub(crate) fn observe_path(&mut self) {
        let path = self.connection.stats().path;
        self.reassembler.set_reordering_wait(reordering_wait(path.min_rtt));
        if let Some((out, _)) = self.sending() {
            out.observe(path.sent_packets, path.lost_packets);
        }
    }

    /// How the connection is now.
    pub(crate) fn stats(&mut self) -> ConnectionStats {
        let path = self.connection.stats().path;
        let space = self.connection.datagrams().send_buffer_space();
        let waiting_bytes = self.admitted().map_or(0, |admitted| admitted.out.waiting_bytes());
        ConnectionStats {
            rtt: path.rtt,
            path_mtu_bytes: path.current_mtu,
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            black_holes: path.black_holes_detected,
            queued_bytes: (SEND_QUEUE_BYTES.saturating_sub(space) + waiting_bytes) as u64,
            breaker_open: self.health.tripped.load(Relaxed),
        }
    }

    fn read_hello(&mut self) -> Option<Progress> {
        let Life::Handshake(Handshake { hello, .. }) = &mut self.life else { return None };
        let HelloStream::Open(id, bytes) = hello else { return None };
        let mut stream = self.connection.recv_stream(*id);
        let Ok(mut chunks) = stream.read(true) else { return None };
        while let Ok(Some(chunk)) = chunks.next(MAX_HELLO_LEN) {
            bytes.extend_from_slice(&chunk.bytes);
            if bytes.len() > MAX_HELLO_LEN {
                break;
            }
        }
        let _ = chunks.finalize();
        let read = Hello::decode(bytes);
        if read != Err(HelloError::Incomplete) {
            *hello = HelloStream::Read;
        }
        match read {
            Ok(read) => Some(Progress::HelloRead(read)),
            Err(HelloError::Incomplete) => None,
            Err(error) => Some(Progress::BadHello(error)),
        }
    }
}

/// How long a hole may be reordering on a path of this round-trip time: as RACK has it (RFC 8985 section 6.2), a quarter. At least about as
/// long as a sender that lost the processor in the middle of a frame takes to go on; at most less than people hear.
fn reordering_wait(min_rtt: Duration) -> Duration {
    (min_rtt / 4).clamp(MIN_REORDERING_WAIT, MAX_REORDERING_WAIT)
}

/// Why a connection ended.
pub fn explain(error: ConnectionError) -> Ended {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            Ended::ByPeer { code: close.error_code.into_inner(), phrase: printable(&close.reason) }
        }
        ConnectionError::ConnectionClosed(close) if is_tls(close.error_code) => {
            Ended::Refused(Refusal::ByPeer(close.error_code))
        }
        ConnectionError::TransportError(error) if is_tls(error.code) => {
            Ended::Refused(Refusal::ByTls(strip_rustls(&error.reason)))
        }
        ConnectionError::Reset => Ended::Reset,
        ConnectionError::TimedOut => Ended::TimedOut,
        ConnectionError::LocallyClosed => Ended::Closed(CloseReason::Shutdown),
        other => Ended::Failed(Failure::Quic(other)),
    }
}

/// TLS alerts are QUIC errors 0x100 to 0x1ff (RFC 9001 section 4.8).
fn is_tls(code: TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

fn strip_rustls(reason: &str) -> String {
    reason.strip_prefix("unexpected error: ").unwrap_or(reason).to_owned()
}

/// A peer's phrase ends up in logs and on terminals.
fn printable(phrase: &[u8]) -> String {
    let text = String::from_utf8_lossy(phrase);
    text.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}
