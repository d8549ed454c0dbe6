//! Ports: what a number leads to, what a local port takes, and the table that is indexed by number.
//!
//! Numbers are given by one allocator, control's (`ipop_control::trust`), to local ports and peers alike, so a number says nothing of the kind.
//! Local ports come and go while the switch runs:
//!
//! 1. Control opens the port here ([`SharedPorts::open`]), then hands each worker its descriptor. Until a worker has it, what that one has for the port is dropped, counted.
//! 2. To close it control says so here first ([`SharedPorts::close`]): from then on no worker takes a frame from the port or learns a station there.
//!    Each worker lets go of its descriptor, once nothing of it is under way, and says so.
//! 3. When all have, no frame of the port is about any more: what was read was switched in the same round, and frames in other workers' mailboxes and in tunnels' queues name
//!    peers' ports alone. What a worker learned there while the port was being closed is forgotten now, and the number may be another's ([`SharedPorts::free`]).

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
};

use crossbeam::utils::CachePadded;
use ipop_learning::{MacAddr, PortId};

use crate::command::{Lane, MAX_LANES};

/// Local ports at once: virtual machines of one host, or segments that it joins.
pub const MAX_LOCAL_PORTS: usize = 64;
/// Ports at once, and so numbers: local ones and 1,024 peers.
pub const MAX_PORTS: usize = MAX_LOCAL_PORTS + 1_024;
/// Numbers for which a table makes room together.
const CHUNK: usize = 64;

/// What stands before each frame at a TAP, bytes: `virtio_net_hdr_v1` (VIRTIO 1.2, section 5.1.6).
pub const VNET_HEADER_LEN: usize = 12;

/// What a port leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PortKind {
    /// A peer's tunnels. A number that is nobody's counts as such: none of its lanes is up.
    Peer = 0,
    /// A local TAP.
    Tap = 1,
    /// What was a local port, while workers let go of it.
    Closed = 2,
}

/// What a TAP can be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TapOffload {
    /// Superframes and partial checksums.
    Full,
    /// The same but for UDP superframes, which kernels before 6.2 refuse.
    WithoutUso,
    /// Plain frames only.
    None,
}

/// A local port, as workers know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalPort {
    /// Its number.
    pub port: PortId,
    /// What it can be given.
    pub takes: TapOffload,
    /// Its MAC address, the source of loop probes.
    pub mac: MacAddr,
}

/// A table by port number that grows while others read it. Its entries stay where they are for as long as the program runs, since others read them
/// at any time and without a lock: it is as large as the numbers that were in use at once. A number that is given again finds its entry.
#[derive(Debug)]
pub(crate) struct PortTable<T>([OnceLock<Box<Chunk<T>>>; MAX_PORTS / CHUNK]);

type Chunk<T> = [CachePadded<T>; CHUNK];

impl<T> Default for PortTable<T> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; MAX_PORTS / CHUNK])
    }
}

impl<T: Default> PortTable<T> {
    /// The entry of a port, whose number is below [`MAX_PORTS`].
    #[inline]
    pub(crate) fn of(&self, PortId(number): PortId) -> &T {
        let number = usize::from(number);
        let chunk = self.0[number / CHUNK].get_or_init(empty_chunk);
        &chunk[number % CHUNK]
    }

    /// Every entry that there is room for yet.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(OnceLock::get).flat_map(|chunk| chunk.iter()).map(|entry| &**entry)
    }
}

#[cold]
fn empty_chunk<T: Default>() -> Box<Chunk<T>> {
    Box::new(std::array::from_fn(|_| CachePadded::default()))
}

/// State of one port that all workers see.
#[derive(Debug, Default)]
pub struct SharedPort {
    /// A [`PortKind`].
    kind: AtomicU8,
    /// Bit i: lane i of the peer is up.
    lanes: AtomicU32,
    /// A loop was seen: frames in and out are dropped.
    blocked: AtomicBool,
    /// When a probe that closes a loop came in last, seconds of [`Shared::now_s`](crate::core::shared::Shared::now_s) plus one; 0 if none did.
    probe_seen_s: AtomicU32,
    /// The same for a probe of a loop that is broken elsewhere.
    foreign_probe_seen_s: AtomicU32,
    /// First 8 bytes of the probe token that the peer told, 0 if none. Enough to recognise, not to forge.
    probe_token: AtomicU64,
}

/// The ports as all workers see them.
#[derive(Debug, Default)]
pub struct SharedPorts {
    table: PortTable<SharedPort>,
    /// No port from this one on has ever had a lane up: what goes over all peers stops here.
    peers_end: AtomicU16,
}

impl SharedPorts {
    /// A port's shared state. Its number is below [`MAX_PORTS`].
    #[inline]
    pub fn of(&self, port: PortId) -> &SharedPort {
        self.table.of(port)
    }

    /// All peers that have a lane up.
    pub fn live_peers(&self) -> impl Iterator<Item = PortId> + '_ {
        let end = self.peers_end.load(Ordering::Acquire);
        (0..end).map(PortId).filter(|port| self.of(*port).is_up())
    }

    /// Marks a lane of a peer up.
    pub fn lane_up(&self, port: PortId, lane: Lane) {
        self.of(port).lane_up(lane);
        self.peers_end.fetch_max(port.0.saturating_add(1), Ordering::AcqRel);
    }

    /// A number is a TAP's from now on. Control's.
    pub fn open(&self, port: PortId) {
        let shared = self.of(port);
        shared.set_blocked(false);
        shared.probe_seen_s.store(0, Ordering::Relaxed);
        shared.foreign_probe_seen_s.store(0, Ordering::Relaxed);
        shared.kind.store(PortKind::Tap as u8, Ordering::Release);
    }

    /// A local port goes. Control's.
    pub fn close(&self, port: PortId) {
        self.of(port).kind.store(PortKind::Closed as u8, Ordering::Release);
    }

    /// No worker knows a port that was closed any more. Control's.
    pub fn free(&self, port: PortId) {
        self.of(port).kind.store(PortKind::Peer as u8, Ordering::Release);
    }
}

impl SharedPort {
    /// What the port leads to.
    #[inline]
    pub fn kind(&self) -> PortKind {
        match self.kind.load(Ordering::Relaxed) {
            1 => PortKind::Tap,
            2 => PortKind::Closed,
            _ => PortKind::Peer,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_makes_room_for_the_ports_that_are_used() {
        let table = PortTable::<AtomicU8>::default();
        assert_eq!(table.iter().count(), 0);
        for number in [0, 63, 1_087] {
            table.of(PortId(number)).store(1, Ordering::Relaxed);
        }
        let used = table.iter().filter(|entry| entry.load(Ordering::Relaxed) == 1).count();
        assert_eq!((table.iter().count(), used), (2 * CHUNK, 3));
    }

    #[test]
    fn a_number_is_what_it_was_given_to_last_and_begins_anew() {
        let (ports, number) = (SharedPorts::default(), PortId(9));
        assert_eq!(ports.of(number).kind(), PortKind::Peer);
        ports.open(number);
        assert_eq!(ports.of(number).kind(), PortKind::Tap);
        ports.of(number).set_blocked(true);
        ports.of(number).probe_seen(5);
        ports.close(number);
        assert_eq!(ports.of(number).kind(), PortKind::Closed);
        ports.free(number);
        assert_eq!(ports.of(number).kind(), PortKind::Peer);
        ports.open(number);
        assert!(!ports.of(number).is_blocked());
        assert_eq!(ports.of(number).probe_age_s(7), None);
        assert_eq!(ports.live_peers().count(), 0);
    }

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
