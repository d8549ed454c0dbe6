//! Counters and gauges: written by one worker each, read by anyone.
//!
//! A worker owns its block, so an increment is a plain load and store; blocks of different ports sit on different cache lines.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crossbeam::utils::CachePadded;
use ipop_learning::PortId;

use crate::{command::ConnectionId, drops::DropReason};

/// A number that one thread adds to and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning thread may.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Sets a gauge; only the owning thread may.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What passed one port in one worker. "Received" is into the switch, "sent" out of it.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Frames that came in.
    pub received_frames: Counter,
    /// Their bytes, from the destination MAC on.
    pub received_bytes: Counter,
    /// Frames that went out.
    pub sent_frames: Counter,
    /// Their bytes.
    pub sent_bytes: Counter,
    /// Superframes that went out in segments.
    pub segmented_frames: Counter,
    /// Those segments, each of which was sent as a frame.
    pub segments: Counter,
    /// Frames of a peer that never arrived whole: gaps in record sequence numbers.
    pub missing_frames: Counter,
    /// TCP superframes whose pieces were lost or late, so that they were delivered in parts.
    pub salvaged_frames: Counter,
    /// Those parts, each of which was received as a frame.
    pub salvaged_runs: Counter,
    /// Frames that came in here, or were for here, and were dropped.
    pub drops: Drops,
}

impl PortCounters {
    /// Frames dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.of(reason)
    }
}

/// Frames dropped, by reason.
#[derive(Debug, Default)]
pub struct Drops([Counter; DropReason::ALL.len()]);

impl Drops {
    /// Counts frames.
    #[inline]
    pub fn add(&self, reason: DropReason, frames: u64) {
        self.0[reason as usize].add(frames);
    }

    /// Those dropped for this reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].get()
    }
}

/// What one worker did.
#[derive(Debug, Default)]
pub struct IoCounters {
    /// Waits for something to do.
    pub waits: Counter,
    /// UDP packets received, and the trains (GRO buffers) that they came in.
    pub received_packets: Counter,
    /// Buffers that the kernel filled.
    pub received_trains: Counter,
    /// Packets from strangers, dropped without an answer.
    pub strangers: Counter,
    /// Packets cut short or without room in the kernel's buffers.
    pub receive_errors: Counter,
    /// Times the receive ran out of buffers and was armed again.
    pub receive_rearms: Counter,
    /// Packets, or trains of them, that the kernel dropped since a socket's receive buffer was full.
    pub receive_overflows: Counter,
    /// UDP packets sent.
    pub sent_packets: Counter,
    /// Send calls.
    pub sent_trains: Counter,
    /// Times a socket's buffer was full.
    pub send_blocked: Counter,
    /// Sends that the kernel refused for any reason but size.
    pub send_errors: Counter,
    /// Of those, since it has no route to the host.
    pub send_unreachable: Counter,
    /// Of those, since it has no room for the packet.
    pub send_no_room: Counter,
    /// Packets that the kernel found too large for the interface.
    pub send_too_large: Counter,
    /// Full datagrams that QUIC did not take: the path MTU shrank within a burst.
    pub unqueued_datagrams: Counter,
    /// Datagrams that were queued when their path changed and too large for the next until its MTU is known, estimated from their bytes.
    pub oversized_datagrams: Counter,
    /// Times that control moved a peer from one path to another.
    pub path_changes: Counter,
    /// Packets to peers that had no path.
    pub pathless_packets: Counter,
    /// Packets of peers whose path control chooses, from elsewhere than the peer's sources.
    pub unmapped_packets: Counter,
    /// Initials of strangers, dropped since control said so.
    pub ignored_initials: Counter,
    /// First packets of dials that found no place, since as many handshakes were under way as may be.
    pub crowded_initials: Counter,
    /// Handshakes given up: not finished in time, or the oldest when another one came.
    pub unfinished_handshakes: Counter,
    /// STUN and TURN packets handed to control.
    pub received_control_packets: Counter,
    /// STUN and TURN packets sent for control.
    pub sent_control_packets: Counter,
    /// STUN and TURN packets, either way, beyond what is allowed or what the socket takes.
    pub dropped_control_packets: Counter,
    /// Signalling messages, either way, beyond what is allowed or to a peer that does not know them.
    pub dropped_signals: Counter,
    /// Frames that are no port's: of far ends that were not admitted.
    pub drops: Drops,
}

/// All counters of one worker.
#[derive(Debug)]
pub struct WorkerCounters {
    /// By port number.
    pub ports: Box<[CachePadded<PortCounters>]>,
    /// The worker's own.
    pub io: CachePadded<IoCounters>,
}

impl WorkerCounters {
    /// For ports `0..ports`.
    pub fn new(ports: usize) -> Self {
        Self {
            ports: (0..ports).map(|_| CachePadded::default()).collect(),
            io: CachePadded::default(),
        }
    }

    /// The counters of a port.
    #[inline]
    pub fn port(&self, port: PortId) -> &PortCounters {
        &self.ports[usize::from(port.0)]
    }
}

/// The state of one connection, refreshed about once a second.
#[derive(Debug, Default)]
pub struct TunnelGauges {
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: Counter,
    /// Path MTU, bytes of UDP payload.
    pub path_mtu_bytes: Counter,
    /// Packets declared lost.
    pub lost_packets: Counter,
    /// Packets sent.
    pub sent_packets: Counter,
    /// Black holes of path MTU found.
    pub black_holes: Counter,
    /// 1 while the circuit breaker is open.
    pub breaker_open: Counter,
    /// Waiting in the tunnel's queue, bytes.
    pub queued_bytes: Counter,
}

/// Gauges of all connections.
#[derive(Debug, Default)]
pub struct TunnelRegistry(Mutex<BTreeMap<ConnectionId, Arc<TunnelGauges>>>);

impl TunnelRegistry {
    /// Registers a connection.
    pub fn insert(&self, connection: ConnectionId) -> Arc<TunnelGauges> {
        self.lock().entry(connection).or_default().clone()
    }

    /// Forgets a connection.
    pub fn remove(&self, connection: ConnectionId) {
        self.lock().remove(&connection);
    }

    /// The gauges of a connection.
    pub fn get(&self, connection: ConnectionId) -> Option<Arc<TunnelGauges>> {
        self.lock().get(&connection).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ConnectionId, Arc<TunnelGauges>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
