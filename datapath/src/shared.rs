//! What the workers share: the forwarding database, the ports' lanes, counters. Read on the hot path, written rarely.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use crossbeam::utils::CachePadded;
use ipop_learning::{MacTable, PortId};

use crate::{
    command::{Lane, MAX_LANES},
    counters::WorkerCounters,
    node_id::NodeId,
};

/// Shared by all workers and the control plane.
pub struct Shared {
    /// (VLAN, MAC) -> port.
    pub fdb: MacTable,
    /// The ports, by number: TAPs first, then peers.
    pub ports: Box<[CachePadded<SharedPort>]>,
    /// Counters by worker.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Own tunnels as (local UDP port, remote address) and how many there are, for the own-packet guard.
    own_flows: RwLock<HashMap<(u16, SocketAddr), u32>>,
    taps: u16,
    /// No port from this one on has ever been up: what goes over all peers stops here.
    ports_used: AtomicU16,
    epoch: Instant,
}

/// What a port leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// A local TAP.
    Tap,
    /// A peer's tunnels.
    Peer,
}

/// State of one port that all workers see.
#[derive(Default)]
pub struct SharedPort {
    /// Bit i: lane i of the peer is up; bit 0 of a TAP: it is up.
    lanes: AtomicU32,
    /// A loop was seen: frames in and out are dropped.
    blocked: AtomicBool,
    /// When a probe that closes a loop came in last, seconds of [`Shared::now_s`] plus one; 0 if none did.
    probe_seen_s: AtomicU32,
    /// The same for a probe of a loop that is broken elsewhere.
    foreign_probe_seen_s: AtomicU32,
    /// First 8 bytes of the probe token that the peer told, 0 if none. Enough to recognise, not to forge.
    probe_token: AtomicU64,
}

impl Shared {
    /// For `taps` local TAPs and at most `peers` peers; time is counted from `epoch`.
    pub fn new(fdb: MacTable, taps: u16, peers: u16, workers: u8, epoch: Instant) -> Self {
        let ports = usize::from(taps) + usize::from(peers);
        let shared_ports: Box<[CachePadded<SharedPort>]> =
            (0..ports).map(|_| CachePadded::default()).collect();
        shared_ports.iter().take(usize::from(taps)).for_each(|tap| tap.lane_up(Lane(0)));
        Self {
            fdb,
            ports: shared_ports,
            counters: (0..workers).map(|_| Arc::new(WorkerCounters::new(ports))).collect(),
            own_flows: RwLock::default(),
            taps,
            ports_used: AtomicU16::new(taps),
            epoch,
        }
    }

    /// The coarse time that all workers share, whole seconds.
    pub fn now_s(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_secs() as u32
    }

    /// What a port leads to.
    #[inline]
    pub fn kind(&self, port: PortId) -> PortKind {
        if port.0 < self.taps { PortKind::Tap } else { PortKind::Peer }
    }

    /// All local TAPs.
    pub fn taps(&self) -> impl Iterator<Item = PortId> + use<> {
        (0..self.taps).map(PortId)
    }

    /// All peers that have a lane up.
    pub fn live_peers(&self) -> impl Iterator<Item = PortId> + '_ {
        let end = self.ports_used.load(Ordering::Acquire);
        (self.taps..end).map(PortId).filter(|port| self.port(*port).is_up())
    }

    /// A port's shared state.
    #[inline]
    pub fn port(&self, port: PortId) -> &SharedPort {
        &self.ports[usize::from(port.0)]
    }

    /// Marks a lane of a peer up.
    pub fn lane_up(&self, port: PortId, lane: Lane) {
        self.port(port).lane_up(lane);
        self.ports_used.fetch_max(port.0.saturating_add(1), Ordering::AcqRel);
    }

    /// Remembers a tunnel, or a path of one, for the own-packet guard.
    pub fn add_own_flow(&self, local_port: u16, remote: SocketAddr) {
        let mut flows = self.own_flows.write().unwrap_or_else(PoisonError::into_inner);
        *flows.entry((local_port, remote)).or_default() += 1;
    }

    /// Forgets it; others to the same address stay.
    pub fn remove_own_flow(&self, local_port: u16, remote: SocketAddr) {
        let mut flows = self.own_flows.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = flows.get_mut(&(local_port, remote)) {
            *count -= 1;
            if *count == 0 {
                flows.remove(&(local_port, remote));
            }
        }
    }

    /// Whether a UDP packet from this local port to this address is one of the own tunnels'.
    pub fn is_own_flow(&self, local_port: u16, remote: SocketAddr) -> bool {
        self.own_flows
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&(local_port, remote))
    }
}

impl SharedPort {
    /// Marks a lane up.
    fn lane_up(&self, lane: Lane) {
        self.lanes.fetch_or(1 << lane.0, Ordering::Release);
    }

    /// Marks a lane down; true if it was the last.
    pub fn lane_down(&self, lane: Lane) -> bool {
        let bit = 1 << lane.0;
        self.lanes.fetch_and(!bit, Ordering::AcqRel) & !bit == 0
    }

    /// Whether any lane is up.
    #[inline]
    pub fn is_up(&self) -> bool {
        self.lanes.load(Ordering::Acquire) != 0
    }

    /// A lane that is up, chosen by the flow's hash.
    pub fn lane_for(&self, flow: u32) -> Option<Lane> {
        let lanes = self.lanes.load(Ordering::Acquire);
        let count = lanes.count_ones();
        let mut skip = if count == 0 { return None } else { flow % count };
        (0..MAX_LANES as u8).filter(|lane| lanes & (1 << lane) != 0).find_map(|lane| {
            if skip == 0 {
                return Some(Lane(lane));
            }
            skip -= 1;
            None
        })
    }

    /// Whether a loop blocks the port.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Blocks or unblocks; true if that changed something.
    pub fn set_blocked(&self, blocked: bool) -> bool {
        self.blocked.swap(blocked, Ordering::Relaxed) != blocked
    }

    /// Notes a probe that closes a loop.
    pub fn probe_seen(&self, now_s: u32) {
        self.probe_seen_s.store(now_s.saturating_add(1), Ordering::Relaxed);
    }

    /// Seconds since the last probe that closed a loop, `None` if none did.
    pub fn probe_age_s(&self, now_s: u32) -> Option<u32> {
        let seen = self.probe_seen_s.load(Ordering::Relaxed).checked_sub(1)?;
        Some(now_s.saturating_sub(seen))
    }

    /// Notes a probe of a loop that is broken elsewhere; whether it is the first for this many seconds.
    pub fn foreign_probe_seen(&self, now_s: u32, quiet_s: u32) -> bool {
        let before = self.foreign_probe_seen_s.swap(now_s.saturating_add(1), Ordering::Relaxed);
        before.checked_sub(1).is_none_or(|seen_s| now_s.saturating_sub(seen_s) >= quiet_s)
    }

    /// Remembers the peer's probe token.
    pub fn set_probe_token(&self, token: Option<[u8; 16]>) {
        self.probe_token.store(token.map_or(0, short_token), Ordering::Relaxed);
    }

    /// Whether the port's peer announced this token.
    pub fn has_probe_token(&self, token: &[u8; 16]) -> bool {
        let short = short_token(*token);
        short != 0 && self.is_up() && self.probe_token.load(Ordering::Relaxed) == short
    }
}

fn short_token(token: [u8; 16]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = token;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Fixed facts about this node that all workers know.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Own id.
    pub node: NodeId,
    /// Random at each start.
    pub instance: [u8; 16],
    /// What own loop probes carry.
    pub probe_token: [u8; 16],
    /// For people.
    pub name: String,
    /// Inner MTU, bytes.
    pub inner_mtu: u16,
    /// Workers, and so lanes that this node serves.
    pub lanes: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_spread_over_the_lanes_that_are_up() {
        let port = SharedPort::default();
        assert_eq!(port.lane_for(7), None);
        port.lane_up(Lane(0));
        port.lane_up(Lane(3));
        assert_eq!(port.lane_for(2), Some(Lane(0)));
        assert_eq!(port.lane_for(3), Some(Lane(3)));
        assert!(!port.lane_down(Lane(0)));
        assert_eq!(port.lane_for(2), Some(Lane(3)));
        assert!(port.lane_down(Lane(3)));
        assert!(!port.is_up());
    }
}
