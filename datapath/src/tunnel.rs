//! One QUIC connection to a peer: handshake, hello, then frames both ways.

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
    admission::{EXPORTER_LABEL, Proved},
    command::{CloseReason, ConnectionId, Direction, Ended, Lane},
    core::HANDSHAKE_TIME,
    counters::{PortCounters, TunnelGauges},
    drops::DropReason,
    frame::{Gso, MAX_FRAME_LEN, Offload, flow_hash},
    hello::{Capabilities, Hello, HelloError, MAX_HELLO_LEN},
    io::SocketId,
    liveness::Liveness,
    node_id::NodeId,
    queue::{FlowQueue, Outgoing},
    quic::{
        LinkHealth, tls,
        transport::{IDLE_TIMEOUT, SEND_QUEUE_BYTES},
    },
    record::{FrameSink, Reassembler, ReassemblyStats, RecordWriter, first_begun},
    repeat::Repeater,
    sharing::Sharing,
    signal::SignalStreams,
    unsent::Unsent,
};

/// Records and their headers cost this much of the queue at most, for each datagram that a frame begins or continues in.
const RECORD_OVERHEAD: usize = 64;
/// What QUIC's queue is filled up to from the queues of flows: two trains; one while flows share the tunnel. Bytes.
const FED_BYTES: usize = 128 << 10;
const SHARED_FED_BYTES: usize = 64 << 10;
/// Longer superframes, segments, are those of large windows: for them the loss of another segment is nothing, and the work of segmenting would be much.
const SEGMENTED_MAX: usize = 8;
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
    /// Known when the handshake is done.
    pub(crate) peer: Option<(NodeId, PortId)>,
    /// Known when the peer's hello was read.
    pub(crate) hello: Option<Hello>,
    /// What the peer proved; known once its hello was read and was good enough. Before that no frame passes, either way.
    pub(crate) proved: Option<Proved>,
    /// Control chose this connection to send the port's frames.
    pub(crate) active: bool,
    /// This node closed the connection, or it was lost: nothing goes in or out any more.
    pub(crate) ended: bool,
    /// The lane that control dialled it for.
    pub(crate) dialled_lane: Option<Lane>,
    /// In the list of connections to drive.
    pub(crate) dirty: bool,
    pub(crate) gauges: Arc<TunnelGauges>,
    health: Arc<LinkHealth>,
    liveness: Liveness,
    hello_bytes: Vec<u8>,
    hello_stream: Option<StreamId>,
    signals: SignalStreams,
    /// When the far end, which dialled, must have shown who it is and that it may join.
    handshake_until: Option<Instant>,
    queue: FlowQueue,
    sharing: Sharing,
    writer: RecordWriter,
    reassembler: Reassembler,
    unsent: Unsent,
    repeater: Repeater,
    /// Datagrams that QUIC refused to queue.
    unqueued: u64,
    /// Reassembly counts that were passed on already.
    counted: ReassemblyStats,
}

/// What a drive of the connection brought to light.
pub(crate) enum Progress {
    /// The handshake is done; the hello should go out.
    HandshakeDone,
    /// The peer's hello was read.
    HelloRead,
    /// The connection is lost.
    Lost(Ended),
    /// It must be closed for this reason; the text is told to the peer.
    MustClose(CloseReason, String),
}

/// How to make a [`Tunnel`].
pub(crate) struct NewTunnel {
    pub(crate) id: ConnectionId,
    pub(crate) handle: ConnectionHandle,
    pub(crate) connection: Connection,
    pub(crate) direction: Direction,
    pub(crate) socket: SocketId,
    pub(crate) gauges: Arc<TunnelGauges>,
    pub(crate) health: Arc<LinkHealth>,
    pub(crate) now: Instant,
}

impl Tunnel {
    pub(crate) fn new(mut new: NewTunnel) -> Self {
        let unsent = Unsent::new(new.connection.datagrams().send_buffer_space());
        let accepted = new.direction == Direction::Accepted;
        Self {
            id: new.id,
            handle: new.handle,
            direction: new.direction,
            socket: new.socket,
            remote: new.connection.remote_address(),
            connection: new.connection,
            peer: None,
            hello: None,
            proved: None,
            active: false,
            ended: false,
            dialled_lane: None,
            dirty: false,
            gauges: new.gauges,
            health: new.health,
            liveness: Liveness::default(),
            hello_bytes: Vec::new(),
            hello_stream: None,
            signals: SignalStreams::new(new.now),
            handshake_until: accepted.then(|| new.now + HANDSHAKE_TIME),
            queue: FlowQueue::new(),
            sharing: Sharing::default(),
            writer: RecordWriter::new(),
            reassembler: Reassembler::new(MAX_FRAME_LEN),
            unsent,
            repeater: Repeater::default(),
            unqueued: 0,
            counted: ReassemblyStats::default(),
        }
    }

    pub(crate) fn lane(&self) -> Option<Lane> {
        self.hello.as_ref().map(|hello| Lane(hello.lane))
    }

    /// Takes a frame for the peer: into datagrams if there is room, else into the queue of its flow.
    pub(crate) fn offer(
        &mut self,
        out: Outgoing<'_>,
        scratch: &mut Vec<u8>,
        counters: &PortCounters,
    ) -> Result<(), DropReason> {
        self.sharing.note(out.frame.len(), || flow_hash(out.frame));
        if self.queue.is_empty() && self.has_room() {
            return self.enqueue(out, scratch, counters);
        }
        if self.proved.is_none() {
            return Err(DropReason::NotAdmitted);
        }
        let gone = self.queue.push(flow_hash(out.frame), out);
        counters.drop_frames(DropReason::TunnelQueueFull, gone);
        Ok(())
    }

    /// Whether other flows want to get past one that fills the tunnel: little is to be in flight then, and rounds are to be short.
    pub(crate) fn is_shared(&mut self, now: Instant) -> bool {
        let is_shared = self.sharing.is_shared(now);
        self.health.shared.store(is_shared, Relaxed);
        is_shared
    }

    /// Cuts waiting frames into datagrams as far as there is room. When none is left the burst has ended, and the open datagram goes out short.
    pub(crate) fn feed(&mut self, scratch: &mut Vec<u8>, counters: &PortCounters) {
        while self.has_room()
            && let Some(waiting) = self.queue.pop()
        {
            if let Err(reason) = self.enqueue(waiting.outgoing(), scratch, counters) {
                counters.drop_frames(reason, 1);
            }
        }
        if self.queue.is_empty() {
            self.end_burst();
        }
    }

    /// Whether QUIC has less in its queue than it is to have. What waits there is past all choice, so it is no more than keeps trains full.
    fn has_room(&mut self) -> bool {
        let queued = SEND_QUEUE_BYTES - self.connection.datagrams().send_buffer_space();
        let is_shared = self.health.shared.load(Relaxed);
        let limit = if is_shared { SHARED_FED_BYTES } else { FED_BYTES };
        queued + self.writer.open_len() < limit
    }

    /// Queues a frame, segmented first if the peer cannot take it as it is, or if that saves segments; counts what the peer will see.
    fn enqueue(
        &mut self,
        out: Outgoing<'_>,
        scratch: &mut Vec<u8>,
        sent: &PortCounters,
    ) -> Result<(), DropReason> {
        let Outgoing { offload, frame, .. } = out;
        let proven = self.proved.is_some();
        let hello = self.hello.as_ref().filter(|_| proven).ok_or(DropReason::NotAdmitted)?;
        let takes_it = needs(offload) & !hello.capabilities.0 == 0;
        let max_frame_len = hello.max_frame_len as usize;
        if takes_it && !self.is_better_segmented(offload, out.headers_len, frame.len()) {
            if frame.len() > max_frame_len {
                return Err(DropReason::Oversized);
            }
            return self.push(out, sent);
        }
        let (mut segments, mut result) = (0, Ok(()));
        crate::forward::finish_in_software(offload, frame, scratch, |segment| {
            if result.is_ok() {
                let (offload, headers_len, shared) = (Offload::NONE, 0, None);
                result = self.push(Outgoing { offload, headers_len, frame: segment, shared }, sent);
                segments += u64::from(result.is_ok());
            }
        })?;
        sent.count_segments(offload, segments, result);
        result
    }

    /// Whether a superframe goes segment by segment, each in a packet of its own: on a path that loses packets, where its segments fit into packets. Cut where packets end,
    /// two of its segments are lost with one packet, and of a small window that is much: a tenth of the throughput at 1 % of loss and 20 ms.
    fn is_better_segmented(
        &mut self,
        offload: Offload,
        headers_len: u16,
        frame_len: usize,
    ) -> bool {
        if !matches!(offload.gso, Gso::Tcp4 { .. } | Gso::Tcp6 { .. }) || !self.repeater.is_lossy()
        {
            return false;
        }
        let segment_len = usize::from(offload.gso_size);
        let record_len = usize::from(headers_len) + segment_len + RecordWriter::WHOLE_LEN;
        let max_len = self.connection.datagrams().max_size().unwrap_or_default();
        frame_len <= SEGMENTED_MAX * segment_len && record_len <= max_len
    }

    fn push(&mut self, out: Outgoing<'_>, sent: &PortCounters) -> Result<(), DropReason> {
        let Outgoing { offload, headers_len, frame, .. } = out;
        let mut datagrams = self.connection.datagrams();
        let max_len = datagrams.max_size().ok_or(DropReason::NotAdmitted)?;
        let cost = frame.len() + RECORD_OVERHEAD * (2 + frame.len() / max_len);
        if datagrams.send_buffer_space() < cost + self.writer.open_len() {
            return Err(DropReason::TunnelQueueFull);
        }
        self.writer.push(max_len, offload, headers_len, frame, &mut |datagram| {
            self.unqueued += queue(&mut datagrams, &mut self.unsent, datagram);
        });
        sent.sent_frames.add(1);
        sent.sent_bytes.add(frame.len() as u64);
        Ok(())
    }

    /// Ends the burst: the open datagram goes out short.
    pub(crate) fn end_burst(&mut self) {
        let mut datagrams = self.connection.datagrams();
        self.writer.flush(&mut |datagram| {
            self.repeater.burst_ends(&datagram);
            self.unqueued += queue(&mut datagrams, &mut self.unsent, datagram);
        });
    }

    /// Queues the small frames that the burst ended with once more, if they are to be repeated; true if there are some. For another packet, so the burst
    /// has to be gone.
    pub(crate) fn repeat_tail(&mut self) -> bool {
        let frames = self.repeater.take();
        let knows = |hello: &Hello| hello.capabilities.has(Capabilities::REPEATS);
        if frames.is_empty() || !self.hello.as_ref().is_some_and(knows) {
            return false;
        }
        let mut datagrams = self.connection.datagrams();
        let (len, room) = (frames.len(), datagrams.send_buffer_space());
        let is_queued = datagrams.send(frames, false).is_ok();
        if is_queued {
            // No frame begins in it.
            self.unsent.push(self.writer.next_frame(), len, room);
        }
        is_queued
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
        let quic = self.connection.poll_timeout();
        let own = [self.reassembler.poll_timeout(), self.looks_at(), self.handshake_ends_at()];
        own.into_iter().chain([quic]).flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, sink: &mut impl FrameSink) {
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        if self.reassembler.poll_timeout().is_some_and(|at| at <= now) {
            self.reassembler.handle_timeout(now, sink);
        }
    }

    /// When silence is to be looked at again.
    fn looks_at(&self) -> Option<Instant> {
        self.liveness.poll_timeout().filter(|_| self.is_admitted())
    }

    /// By when a handshake that the far end began must be finished; `None` once it is.
    pub(crate) fn handshake_ends_at(&self) -> Option<Instant> {
        self.handshake_until.filter(|_| self.proved.is_none() && !self.ended)
    }

    /// If the peer has been silent for too long by now. While it is silent it is asked whether it is there.
    pub(crate) fn silence(&mut self, now: Instant) -> Option<Duration> {
        if !self.is_admitted() {
            return None;
        }
        let silence = self.liveness.look(now, &self.connection);
        if self.liveness.must_ask(now) {
            self.connection.ping();
        }
        silence
    }

    /// Whether the peer has answered nothing for so long that it is dead. On a further lane QUIC itself would wait for as long as
    /// such a lane may be idle, also when the network does not even take questions.
    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        let is_further = self.lane().is_some_and(|lane| lane.0 > 0);
        let waits_since = self.liveness.waits_since().filter(|_| is_further);
        let is_idle = waits_since.is_some_and(|since| since + IDLE_TIMEOUT <= now);
        self.is_admitted() && (is_idle || self.liveness.is_dead(now))
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

    /// Datagrams that QUIC refused to queue, since the last call.
    pub(crate) fn take_unqueued(&mut self) -> u64 {
        std::mem::take(&mut self.unqueued)
    }

    /// Frames that wait for their turn.
    pub(crate) fn waiting_frames(&self) -> u64 {
        self.queue.len() as u64
    }

    /// Forgets the frames that wait for their turn; returns how many.
    pub(crate) fn drop_waiting_frames(&mut self) -> u64 {
        let frames = self.waiting_frames();
        while self.queue.pop().is_some() {}
        frames
    }

    /// Frames that were counted as sent and still wait, when the connection has ended.
    pub(crate) fn take_unsent_frames(&mut self) -> u64 {
        self.end_burst();
        let room = self.connection.datagrams().send_buffer_space();
        self.unsent.take_frames(self.writer.next_frame(), room)
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
                        // In the order in which the peer opened them: its hello is the first.
                        match self.hello_stream {
                            None => self.hello_stream = Some(id),
                            Some(_) => self.signals.opened(id),
                        }
                    }
                    if let Some(progress) = self.read_hello() {
                        return Some(progress);
                    }
                }
                QuicEvent::Stream(StreamEvent::Readable { id })
                    if Some(id) == self.hello_stream =>
                {
                    if let Some(progress) = self.read_hello() {
                        return Some(progress);
                    }
                }
                _ => {}
            }
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

    /// Whether frames and signalling messages may pass.
    fn is_admitted(&self) -> bool {
        self.peer.is_some() && self.proved.is_some() && !self.ended
    }

    /// Queues a signalling message for the peer, or counts it as dropped.
    pub(crate) fn signal(&mut self, message: &[u8]) {
        let knows = |hello: &Hello| hello.capabilities.has(Capabilities::SIGNALLING);
        if self.is_admitted() && self.hello.as_ref().is_some_and(knows) {
            self.signals.queue(message);
        } else {
            self.signals.drop_one();
        }
    }

    /// Gives the stream as much of the queued messages as it takes.
    pub(crate) fn write_signals(&mut self) {
        self.signals.write(&mut self.connection);
    }

    /// Shows the messages that have come; none before the peer is admitted.
    pub(crate) fn read_signals(&mut self, now: Instant, mut deliver: impl FnMut(NodeId, &[u8])) {
        if let (Some((peer, _)), true) = (self.peer, self.is_admitted()) {
            self.signals.read(now, &mut self.connection, |message| deliver(peer, message));
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
        self.liveness.path_changed();
        let dropped = self.connection.datagrams().send_buffer_space().saturating_sub(space);
        // Something must be acknowledged soon, or what was lost on the old path blocks the new one until QUIC's timer.
        self.connection.ping();
        dropped.div_ceil(cost) as u64
    }

    pub(crate) fn close(&mut self, now: Instant, reason: CloseReason, phrase: &str) {
        self.end_burst();
        self.connection.close(
            now,
            VarInt::from_u32(reason as u32),
            Bytes::copy_from_slice(phrase.as_bytes()),
        );
    }

    /// Housekeeping, once a second: what others see of the connection, and what it has learned of the path.
    pub(crate) fn refresh_gauges(&mut self) {
        let stats = self.connection.stats();
        self.reassembler.set_reordering_wait(reordering_wait(stats.path.min_rtt));
        self.repeater.observe(stats.path.sent_packets, stats.path.lost_packets);
        self.writer.keep_whole(self.repeater.is_lossy());
        let gauges = &self.gauges;
        gauges.rtt_us.set(stats.path.rtt.as_micros() as u64);
        gauges.path_mtu_bytes.set(u64::from(stats.path.current_mtu));
        gauges.lost_packets.set(stats.path.lost_packets);
        gauges.sent_packets.set(stats.path.sent_packets);
        gauges.black_holes.set(stats.path.black_holes_detected);
        gauges.breaker_open.set(u64::from(self.health.tripped.load(Relaxed)));
        let queued =
            SEND_QUEUE_BYTES.saturating_sub(self.connection.datagrams().send_buffer_space());
        gauges.queued_bytes.set((queued + self.queue.bytes()) as u64);
    }

    fn read_hello(&mut self) -> Option<Progress> {
        let id = self.hello_stream?;
        if self.hello.is_some() {
            return None;
        }
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return None };
        while let Ok(Some(chunk)) = chunks.next(MAX_HELLO_LEN) {
            self.hello_bytes.extend_from_slice(&chunk.bytes);
            if self.hello_bytes.len() > MAX_HELLO_LEN {
                break;
            }
        }
        let _ = chunks.finalize();
        match Hello::decode(&self.hello_bytes) {
            Ok(hello) => {
                self.hello = Some(hello);
                self.hello_bytes = Vec::new();
                Some(Progress::HelloRead)
            }
            Err(HelloError::Incomplete) => None,
            Err(error @ HelloError::Version(_)) => {
                Some(Progress::MustClose(CloseReason::Version, error.to_string()))
            }
            Err(error) => Some(Progress::MustClose(CloseReason::BadHello, error.to_string())),
        }
    }
}

/// Queues a datagram; returns how many were refused. Room was checked before the frame was begun, so a refusal means that the path MTU shrank
/// within the burst, or that the peer takes only datagrams too small to be useful.
fn queue(datagrams: &mut quinn_proto::Datagrams<'_>, unsent: &mut Unsent, datagram: Bytes) -> u64 {
    let (first_begun, len) = (first_begun(&datagram), datagram.len());
    let room = datagrams.send_buffer_space();
    if datagrams.send(datagram, false).is_err() {
        return 1;
    }
    unsent.push(first_begun, len, room);
    0
}

/// How long a hole may be reordering on a path of this round-trip time: as RACK has it (RFC 8985 section 6.2), a quarter. At least about as
/// long as a sender that lost the processor in the middle of a frame takes to go on; at most less than people hear.
fn reordering_wait(min_rtt: Duration) -> Duration {
    (min_rtt / 4).clamp(MIN_REORDERING_WAIT, MAX_REORDERING_WAIT)
}

/// The capabilities that a frame needs at the far end.
fn needs(offload: Offload) -> u64 {
    let csum = if offload.needs_csum { Capabilities::CSUM } else { 0 };
    csum | match offload.gso {
        Gso::None => 0,
        Gso::Tcp4 { ecn } => Capabilities::TSO4 | if ecn { Capabilities::TSO_ECN } else { 0 },
        Gso::Tcp6 { ecn } => Capabilities::TSO6 | if ecn { Capabilities::TSO_ECN } else { 0 },
        Gso::Udp => Capabilities::USO,
    }
}

/// Why a connection ended, for the operator.
pub fn explain(error: ConnectionError) -> Ended {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            Ended::ByPeer { code: close.error_code.into_inner(), phrase: printable(&close.reason) }
        }
        ConnectionError::ConnectionClosed(close) if is_tls(close.error_code) => {
            Ended::Refused(format!(
                "the peer refused this node ({}): is this node's id among its --peer options?",
                close.error_code
            ))
        }
        ConnectionError::TransportError(error) if is_tls(error.code) => {
            Ended::Refused(strip_rustls(&error.reason))
        }
        ConnectionError::Reset => Ended::Reset,
        ConnectionError::TimedOut => Ended::TimedOut,
        ConnectionError::LocallyClosed => Ended::Closed(CloseReason::Shutdown),
        other => Ended::Failed(other.to_string()),
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
