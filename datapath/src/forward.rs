//! The switch proper: learn, look up, choose the way out (IEEE 802.1Q clause 8, one VLAN, full mesh).
//!
//! A frame from a TAP goes through [`Switch::classify_local`], which says where it goes; a frame from a peer goes through
//! [`Switch::inbound`], which also writes it out, since the mesh's split horizon leaves only local TAPs.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use ipop_learning::{Learned, PortId, VlanId};

use crate::{
    command::Event,
    counters::{PortCounters, WorkerCounters},
    drops::DropReason,
    frame::{
        Description, EthernetHeader, Frame, FrameBytes, Gso, Joined, Offload, Scratch, UdpJoin,
        VNET_HEADER_LEN, describe, segment, udp_endpoints,
    },
    io::Io,
    loop_probe::{CLEAR_AFTER_S, LoopProbe},
    moves::Moves,
    node_id::NodeId,
    record::arena::{Arena, Exhausted, WhenFull},
    shared::{NodeFacts, Shared},
    storm::{STORM_BURST_FRAMES, STORM_RATE_FRAMES, TokenBucket},
};

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Egress {
    /// To one port.
    Port(PortId),
    /// To every port but the one that it came from.
    Flood,
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

/// The forwarding state of one worker.
pub(crate) struct Switch {
    pub(crate) facts: Arc<NodeFacts>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) events: Vec<Event>,
    moves: Moves,
    udp_ports: Vec<u16>,
    buckets: Vec<TokenBucket>,
    taps: Vec<TapOffload>,
    scratch: Scratch,
    /// UDP frames on their way to a TAP, by its port; written at the end of the train that they came in.
    joins: Vec<UdpJoin>,
    /// Headers of joined frames.
    join_heads: Arena,
}

/// Headers of joined frames live until the frame is written: a few hundred at once.
const JOIN_HEADS_CHUNK_LEN: usize = 16 * 1_024;
const JOIN_HEADS_CHUNKS_MAX: usize = 4;

impl Switch {
    pub(crate) fn new(
        facts: Arc<NodeFacts>,
        shared: Arc<Shared>,
        counters: Arc<WorkerCounters>,
        taps: &[TapOffload],
        udp_ports: Vec<u16>,
        now: Instant,
    ) -> Self {
        let bucket = TokenBucket::new(STORM_RATE_FRAMES, STORM_BURST_FRAMES, now);
        Self {
            buckets: vec![bucket; shared.ports.len()],
            taps: taps.to_vec(),
            facts,
            shared,
            counters,
            events: Vec::new(),
            moves: Moves::default(),
            udp_ports,
            scratch: Scratch::default(),
            joins: taps.iter().map(|_| UdpJoin::default()).collect(),
            join_heads: Arena::new(JOIN_HEADS_CHUNK_LEN, JOIN_HEADS_CHUNKS_MAX, WhenFull::Replace),
        }
    }

    pub(crate) fn count_drop(&self, port: PortId, reason: DropReason) {
        self.counters.port(port).drop_frames(reason, 1);
    }

    /// Checks a frame that a TAP's kernel side sent, learns its source and chooses its way.
    pub(crate) fn classify_local(
        &mut self,
        now: Instant,
        tap: PortId,
        vnet: &[u8; VNET_HEADER_LEN],
        bytes: &FrameBytes<'_>,
    ) -> Result<(Description, Egress), DropReason> {
        let (head, total_len) = (bytes.head(), bytes.len());
        count_received(self.counters.port(tap), total_len);
        EthernetHeader::new(head).ok_or(DropReason::Runt)?;
        if LoopProbe::is_probe(head) {
            self.probe_seen(now, tap, head);
            return Err(DropReason::LoopProbe);
        }
        if self.shared.port(tap).is_blocked() {
            return Err(DropReason::Blocked);
        }
        let offload = Offload::from_tap(vnet).map_err(|_| DropReason::BadOffload)?;
        let what = describe(offload, head, total_len)?;
        if self.is_own_packet(&what, head) {
            return Err(DropReason::OwnPacket);
        }
        let egress = self.learn_and_look_up(now, tap, &what)?;
        Ok((what, egress))
    }

    /// The inbound way: a frame out of a tunnel, to the TAPs behind this switch.
    pub(crate) fn inbound(
        &mut self,
        now: Instant,
        peer: PortId,
        offload: Offload,
        pieces: &mut Vec<Bytes>,
        io: &mut impl Io,
    ) -> Result<(), DropReason> {
        let total_len = pieces.iter().map(Bytes::len).sum();
        count_received(self.counters.port(peer), total_len);
        let head = pieces.first().ok_or(DropReason::Runt)?;
        EthernetHeader::new(head).ok_or(DropReason::Runt)?;
        if LoopProbe::is_probe(head) {
            return Err(DropReason::LoopProbe);
        }
        let what = &describe(offload, head, total_len)?;
        // The kernel takes longer ones for a TAP, and its bridges drop them without a word.
        let max_len = self.facts.inner_mtu + what.headers().l2_len;
        if what.longest_segment_len() > usize::from(max_len) {
            return Err(DropReason::OverMtu);
        }
        match self.learn_and_look_up(now, peer, what)? {
            Egress::Port(tap) if self.shared.is_tap(tap) => {
                self.write_tap(tap, Frame { what, bytes: FrameBytes::Pieces(pieces) }, io)
            }
            Egress::Port(_) => Err(DropReason::SplitHorizon),
            Egress::Flood => self.flood_taps(what, pieces, io),
        }
    }

    /// Writes a frame to a local TAP, finished in software where the TAP or its reader needs that.
    pub(crate) fn write_tap(
        &mut self,
        tap: PortId,
        mut frame: Frame<'_>,
        io: &mut impl Io,
    ) -> Result<(), DropReason> {
        if !self.shared.port(tap).is_up() {
            return Err(DropReason::TapDown);
        }
        if self.shared.port(tap).is_blocked() {
            return Err(DropReason::Blocked);
        }
        if self.join(tap, &mut frame, io) {
            return Ok(());
        }
        let (what, sent) = (frame.what, self.counters.port(tap));
        if !self.must_finish(tap, what) {
            sent.sent_frames.add(1);
            sent.sent_bytes.add(what.total_len() as u64);
            io.write_tap(tap, frame, 1);
            return Ok(());
        }
        let mut segments = 0;
        let whole = frame.bytes.contiguous(&mut self.scratch.whole);
        let result = segment(what, whole, &mut self.scratch.segment, |segment| {
            segments += 1;
            sent.sent_frames.add(1);
            sent.sent_bytes.add(segment.len() as u64);
            let what = &what.of_segment(segment.len());
            io.write_tap(tap, Frame { what, bytes: FrameBytes::Whole(segment) }, 1);
        });
        sent.count_segments(what.offload(), segments, result);
        result
    }

    /// Writes what was joined: ends a train.
    #[inline]
    pub(crate) fn end_of_train(&mut self, io: &mut impl Io) {
        for tap in 0..self.joins.len() as u16 {
            self.write_joined(PortId(tap), io);
        }
    }

    /// Takes a UDP frame that can be joined to others; writes those that it cannot be joined to.
    #[inline]
    fn join(&mut self, tap: PortId, frame: &mut Frame<'_>, io: &mut impl Io) -> bool {
        let (index, what) = (usize::from(tap.0), frame.what);
        if let FrameBytes::Pieces(pieces) = &mut frame.bytes
            && self.joins[index].append(what, pieces)
        {
            return true;
        }
        self.write_joined(tap, io);
        match &mut frame.bytes {
            FrameBytes::Pieces(pieces) if self.taps[index] == TapOffload::Full => {
                !self.must_finish(tap, what) && self.joins[index].open(what, pieces)
            }
            _ => false,
        }
    }

    #[inline]
    fn write_joined(&mut self, tap: PortId, io: &mut impl Io) {
        let join = &mut self.joins[usize::from(tap.0)];
        if !join.is_open() {
            return;
        }
        let heads = &mut self.join_heads;
        let keep = |headers: &[u8]| {
            heads.copy(headers).unwrap_or_else(|Exhausted| Bytes::copy_from_slice(headers))
        };
        let Some(Joined { ref what, pieces, frames }) = join.close(keep) else { return };
        let sent = self.counters.port(tap);
        // Counted as the frames that they were, as they were received.
        sent.sent_frames.add(u64::from(frames));
        sent.sent_bytes.add(what.total_len() as u64);
        io.write_tap(tap, Frame { what, bytes: FrameBytes::Pieces(pieces) }, frames);
        pieces.clear();
    }

    /// The kernel refused a superframe at this TAP: it gets plain frames from now on.
    pub(crate) fn disable_offload(&mut self, tap: PortId) {
        self.taps[usize::from(tap.0)] = TapOffload::None;
    }

    /// Tells control of the stations that moved.
    pub(crate) fn tell_moves(&mut self) {
        self.events.extend(self.moves.take().map(Event::StationsMoved));
    }

    /// Unblocks TAPs on which no probe was seen for a while.
    pub(crate) fn clear_loops(&mut self, now: Instant) {
        let now_s = self.shared.now_s(now);
        for port in self.shared.taps() {
            let tap = self.shared.port(port);
            let quiet = tap.probe_age_s(now_s).is_some_and(|age_s| age_s >= CLEAR_AFTER_S);
            if quiet && tap.set_blocked(false) {
                self.events.push(Event::LoopCleared { port });
            }
        }
    }

    fn flood_taps(
        &mut self,
        what: &Description,
        pieces: &mut Vec<Bytes>,
        io: &mut impl Io,
    ) -> Result<(), DropReason> {
        let mut result = Err(DropReason::NoPort);
        let mut copy = Vec::new();
        let taps = self.taps.len() as u16;
        for tap in (0..taps).map(PortId) {
            let bytes = if tap.0 + 1 == taps {
                FrameBytes::Pieces(pieces)
            } else {
                copy.clone_from(pieces);
                FrameBytes::Pieces(&mut copy)
            };
            let written = self.write_tap(tap, Frame { what, bytes }, io);
            result = if result.is_ok() { result } else { written };
        }
        result
    }

    fn learn_and_look_up(
        &mut self,
        now: Instant,
        ingress: PortId,
        what: &Description,
    ) -> Result<Egress, DropReason> {
        let (destination, source) = (what.destination(), what.source());
        if destination.is_reserved() {
            return Err(DropReason::Reserved);
        }
        if source.is_group() || source.is_zero() {
            return Err(DropReason::BadSource);
        }
        let now_s = self.shared.now_s(now);
        let fdb = &self.shared.fdb;
        if let Learned::Moved { from } = fdb.learn(VlanId::UNTAGGED, source, ingress, now_s) {
            self.moves.note(source, from, ingress);
        }
        if !destination.is_group()
            && let Some(port) = fdb.look_up(VlanId::UNTAGGED, destination, now_s)
        {
            return if port == ingress {
                Err(DropReason::SamePort)
            } else {
                Ok(Egress::Port(port))
            };
        }
        if !self.buckets[usize::from(ingress.0)].take(now) {
            return Err(DropReason::Storm);
        }
        Ok(Egress::Flood)
    }

    /// Whether a frame must be finished before this TAP may have it.
    fn must_finish(&self, tap: PortId, what: &Description) -> bool {
        let offload = what.offload();
        if offload.is_none() {
            return false;
        }
        match self.taps[usize::from(tap.0)] {
            TapOffload::None => true,
            TapOffload::WithoutUso if offload.gso == Gso::Udp => true,
            TapOffload::WithoutUso | TapOffload::Full => what.is_dhcp(),
        }
    }

    /// Whether this is a packet of one of the switch's own tunnels, which would go round for ever.
    fn is_own_packet(&self, what: &Description, head: &[u8]) -> bool {
        let Some(endpoints) = udp_endpoints(what.headers(), head) else { return false };
        let port = endpoints.source.port();
        self.udp_ports.contains(&port) && self.shared.is_own_flow(port, endpoints.destination)
    }

    fn probe_seen(&mut self, now: Instant, tap: PortId, frame: &[u8]) {
        let Some(probe) = LoopProbe::decode(frame) else { return };
        if !self.is_from_overlay(&probe) {
            return;
        }
        let (now_s, port) = (self.shared.now_s(now), self.shared.port(tap));
        if !self.must_block(&probe, tap) {
            if port.foreign_probe_seen(now_s, CLEAR_AFTER_S) {
                self.events.push(Event::LoopElsewhere { port: tap });
            }
            return;
        }
        port.probe_seen(now_s);
        if port.set_blocked(true) {
            self.shared.fdb.flush_port(tap);
            self.events.push(Event::LoopSeen { port: tap, origin: probe.origin });
        }
    }

    /// Whether this node or a connected peer sent the probe, so that there is a loop.
    fn is_from_overlay(&self, probe: &LoopProbe) -> bool {
        if probe.origin == self.facts.node {
            return probe.token == self.facts.probe_token;
        }
        let mut peers = self.shared.live_peers();
        peers.any(|peer| self.shared.port(peer).has_probe_token(&probe.token))
    }

    /// Whether the loop that the probe proves is broken at the TAP where the probe came in.
    fn must_block(&self, probe: &LoopProbe, tap: PortId) -> bool {
        if probe.origin == self.facts.node {
            // Of two TAPs on one segment the one with the higher number is blocked; a TAP that hears itself is.
            return tap.0 >= probe.tap;
        }
        is_lower(probe.origin, self.facts.node)
    }
}

fn is_lower(a: NodeId, b: NodeId) -> bool {
    a < b
}

fn count_received(counters: &PortCounters, len: usize) {
    counters.received_frames.add(1);
    counters.received_bytes.add(len as u64);
}

#[cfg(test)]
mod tests {
    use ipop_learning::{MacTable, MacTableConfig};

    use super::*;
    use crate::{
        memory::{MemoryIo, MemoryIoConfig},
        node_id::NodeId,
    };

    fn switch(taps: &[TapOffload]) -> Switch {
        let now = Instant::now();
        let table = MacTable::new(MacTableConfig { capacity: 16, ..MacTableConfig::default() });
        let shared = Arc::new(Shared::new(table, taps.len() as u16, 1, 1, now));
        let facts = NodeFacts {
            node: NodeId([1; 32]),
            instance: [0; 16],
            probe_token: [0; 16],
            name: String::new(),
            inner_mtu: 1_500,
            lanes: 1,
        };
        let counters = shared.counters[0].clone();
        Switch::new(Arc::new(facts), shared, counters, taps, Vec::new(), now)
    }

    #[test]
    fn a_tap_is_given_only_what_it_takes_as_it_is() {
        let switch = switch(&[TapOffload::Full, TapOffload::WithoutUso, TapOffload::None]);
        let superframe = |gso, csum_offset| Offload {
            gso,
            gso_size: 1_000,
            needs_csum: true,
            csum_start: 34,
            csum_offset,
        };
        let tcp = superframe(Gso::Tcp4 { ecn: false }, 16);
        let udp = superframe(Gso::Udp, 6);
        let finished = |offload| {
            let what = Description::for_test(offload, 0, 60, 0);
            [0, 1, 2].map(|tap| switch.must_finish(PortId(tap), &what))
        };
        assert_eq!(finished(tcp), [false, false, true]);
        assert_eq!(finished(udp), [false, true, true]);
    }

    #[test]
    fn what_a_peer_sends_beyond_the_inner_mtu_is_dropped_here() {
        const PEER: PortId = PortId(1);
        let now = Instant::now();
        let mut switch = switch(&[TapOffload::Full]);
        let mut io = MemoryIo::new(MemoryIoConfig::default());
        let mut inbound = |types: &[u8], len: usize| {
            let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 7], types].concat();
            frame.resize(len, 0);
            let pieces = &mut vec![Bytes::from(frame)];
            switch.inbound(now, PEER, Offload::NONE, pieces, &mut io)
        };
        let (plain, tagged) = ([0x08, 0x06], [0x81, 0, 0, 5, 0x08, 0x06]);
        let twice = [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x08, 0x06];
        for (types, max_len) in [(&plain[..], 1_514), (&tagged, 1_518), (&twice, 1_522)] {
            assert_eq!(inbound(types, max_len), Ok(()));
            assert_eq!(inbound(types, max_len + 1), Err(DropReason::OverMtu));
        }
    }
}
