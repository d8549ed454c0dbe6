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
        CheckedOffload, ETHERNET_HEADER_LEN, EthernetHeader, Gso, Headers, Joined, MAX_FRAME_LEN,
        MAX_HEADERS_LEN, Offload, UdpJoin, VNET_HEADER_LEN, check_offload, is_dhcp, segment,
        udp_endpoints,
    },
    io::{FrameBytes, Io},
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

/// A frame from a TAP, checked.
pub(crate) struct LocalFrame {
    pub(crate) offload: Offload,
    /// 0 for a frame without offloads.
    pub(crate) headers_len: u16,
    pub(crate) egress: Egress,
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
    scratch: Vec<u8>,
    contiguous: Vec<u8>,
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
            scratch: Vec::new(),
            contiguous: Vec::new(),
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
        frame: &[u8],
    ) -> Result<LocalFrame, DropReason> {
        let counters = self.counters.port(tap);
        count_received(counters, frame.len());
        let ethernet = EthernetHeader::new(frame).ok_or(DropReason::Runt)?;
        if LoopProbe::is_probe(frame) {
            self.probe_seen(now, tap, frame);
            return Err(DropReason::LoopProbe);
        }
        if self.shared.port(tap).is_blocked() {
            return Err(DropReason::Blocked);
        }
        let offload = Offload::from_tap(vnet).map_err(|_| DropReason::BadOffload)?;
        let (offload, headers_len) = check(offload, frame, frame.len())?;
        if self.is_own_packet(frame) {
            return Err(DropReason::OwnPacket);
        }
        let egress = self.learn_and_look_up(now, tap, ethernet)?;
        Ok(LocalFrame { offload, headers_len, egress })
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
        let ethernet = EthernetHeader::new(head).ok_or(DropReason::Runt)?;
        if LoopProbe::is_probe(head) {
            return Err(DropReason::LoopProbe);
        }
        let (offload, headers_len) = check(offload, head, total_len)?;
        if longest_segment_len(offload, headers_len, total_len) > self.max_len(head) {
            return Err(DropReason::OverMtu);
        }
        match self.learn_and_look_up(now, peer, ethernet)? {
            Egress::Port(tap) if self.shared.is_tap(tap) => {
                self.write_tap(tap, offload, headers_len, FrameBytes::Pieces(pieces), io)
            }
            Egress::Port(_) => Err(DropReason::SplitHorizon),
            Egress::Flood => self.flood_taps(offload, headers_len, pieces, io),
        }
    }

    /// How long a frame for the TAPs may be that begins so: the kernel takes longer ones, and its bridges drop them without a word.
    fn max_len(&self, head: &[u8]) -> usize {
        usize::from(self.facts.inner_mtu) + ETHERNET_HEADER_LEN + tags_len(head)
    }

    /// Writes a frame to a local TAP, finished in software where the TAP or its reader needs that.
    pub(crate) fn write_tap(
        &mut self,
        tap: PortId,
        offload: Offload,
        headers_len: u16,
        mut frame: FrameBytes<'_>,
        io: &mut impl Io,
    ) -> Result<(), DropReason> {
        if !self.shared.port(tap).is_up() {
            return Err(DropReason::TapDown);
        }
        if self.shared.port(tap).is_blocked() {
            return Err(DropReason::Blocked);
        }
        if self.join(tap, offload, &mut frame, io) {
            return Ok(());
        }
        let counters = self.counters.clone();
        let sent = counters.port(tap);
        if offload.is_none() || !self.must_finish(tap, offload, &frame) {
            sent.sent_frames.add(1);
            sent.sent_bytes.add(frame.len() as u64);
            io.write_tap(tap, offload, headers_len, frame, 1);
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.contiguous);
        let mut scratch = std::mem::take(&mut self.scratch);
        let whole = contiguous(&mut frame, &mut buffer);
        let mut segments = 0;
        let result = finish_in_software(offload, whole, &mut scratch, |segment| {
            segments += 1;
            sent.sent_frames.add(1);
            sent.sent_bytes.add(segment.len() as u64);
            io.write_tap(tap, Offload::NONE, 0, FrameBytes::Whole(segment), 1);
        });
        sent.count_segments(offload, segments, result);
        (self.contiguous, self.scratch) = (buffer, scratch);
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
    fn join(
        &mut self,
        tap: PortId,
        offload: Offload,
        frame: &mut FrameBytes<'_>,
        io: &mut impl Io,
    ) -> bool {
        let index = usize::from(tap.0);
        if let FrameBytes::Pieces(pieces) = frame
            && self.joins[index].append(offload, pieces)
        {
            return true;
        }
        self.write_joined(tap, io);
        match frame {
            FrameBytes::Pieces(pieces) if self.taps[index] == TapOffload::Full => {
                !self.must_finish(tap, offload, &FrameBytes::Pieces(pieces))
                    && self.joins[index].open(offload, pieces)
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
        let Some(Joined { offload, headers_len, pieces, frames }) = join.close(keep) else {
            return;
        };
        let sent = self.counters.port(tap);
        // Counted as the frames that they were, as they were received.
        sent.sent_frames.add(u64::from(frames));
        sent.sent_bytes.add(pieces.iter().map(Bytes::len).sum::<usize>() as u64);
        io.write_tap(tap, offload, headers_len, FrameBytes::Pieces(pieces), frames);
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
        offload: Offload,
        headers_len: u16,
        pieces: &mut Vec<Bytes>,
        io: &mut impl Io,
    ) -> Result<(), DropReason> {
        let mut result = Err(DropReason::NoPort);
        let mut copy = Vec::new();
        let taps = self.taps.len() as u16;
        for tap in (0..taps).map(PortId) {
            let frame = if tap.0 + 1 == taps {
                FrameBytes::Pieces(pieces)
            } else {
                copy.clone_from(pieces);
                FrameBytes::Pieces(&mut copy)
            };
            let written = self.write_tap(tap, offload, headers_len, frame, io);
            result = if result.is_ok() { result } else { written };
        }
        result
    }

    fn learn_and_look_up(
        &mut self,
        now: Instant,
        ingress: PortId,
        ethernet: EthernetHeader<'_>,
    ) -> Result<Egress, DropReason> {
        let (destination, source) = (ethernet.destination(), ethernet.source());
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

    /// Whether a frame with offloads must be finished before this TAP may have it.
    fn must_finish(&self, tap: PortId, offload: Offload, frame: &FrameBytes<'_>) -> bool {
        const UDP_CSUM_OFFSET: u16 = 6;
        match self.taps[usize::from(tap.0)] {
            TapOffload::None => return true,
            TapOffload::WithoutUso if offload.gso == Gso::Udp => return true,
            TapOffload::WithoutUso | TapOffload::Full => {}
        }
        if offload.csum_offset != UDP_CSUM_OFFSET {
            return false;
        }
        let head = match frame {
            FrameBytes::Whole(frame) => frame,
            FrameBytes::Pieces(pieces) => pieces.first().map_or(&[][..], |head| head),
        };
        Headers::parse(head).is_some_and(|headers| is_dhcp(&headers, head))
    }

    /// Whether this is a packet of one of the switch's own tunnels, which would go round for ever.
    fn is_own_packet(&self, frame: &[u8]) -> bool {
        const UDP: u8 = 17;
        // The common case is told apart by few bytes: only UDP from a tunnel's own port is looked at closely.
        let l4_may_be_udp = match frame.get(12..14) {
            Some([0x08, 0x00]) => frame.get(23) == Some(&UDP),
            Some([0x86, 0xdd]) => frame.get(20) == Some(&UDP),
            Some([0x81 | 0x88, _]) => true,
            _ => false,
        };
        if !l4_may_be_udp {
            return false;
        }
        let Some(endpoints) =
            Headers::parse(head_of(frame)).and_then(|headers| udp_endpoints(&headers, frame))
        else {
            return false;
        };
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

/// The length of the frame, or of the longest that a superframe stands for.
fn longest_segment_len(offload: Offload, headers_len: u16, total_len: usize) -> usize {
    match offload.gso {
        Gso::None => total_len,
        _ => total_len.min(usize::from(headers_len) + usize::from(offload.gso_size)),
    }
}

/// The length of a frame's VLAN tags, of which it may have two (IEEE 802.1Q, 802.1ad).
fn tags_len(head: &[u8]) -> usize {
    const TAG_LEN: usize = 4;
    const TYPE_AT: usize = 12;
    let is_tag = |tag: &usize| {
        let kind = head.get(TYPE_AT + tag * TAG_LEN..).and_then(|rest| rest.first_chunk());
        matches!(kind, Some([0x81, 0x00] | [0x88, 0xa8]))
    };
    (0..2).take_while(is_tag).count() * TAG_LEN
}

fn head_of(frame: &[u8]) -> &[u8] {
    &frame[..frame.len().min(MAX_HEADERS_LEN)]
}

/// The offload as it may be passed on, and the length of the headers; frames without offloads are not parsed.
fn check(offload: Offload, head: &[u8], total_len: usize) -> Result<(Offload, u16), DropReason> {
    if total_len < ETHERNET_HEADER_LEN {
        return Err(DropReason::Runt);
    }
    if total_len > MAX_FRAME_LEN {
        return Err(DropReason::Oversized);
    }
    if offload.is_none() {
        return Ok((Offload::NONE, 0));
    }
    let checked = check_offload(offload, head_of(head), total_len)?;
    Ok((checked.offload(), checked.headers_len()))
}

/// Segments a superframe and completes checksums.
pub(crate) fn finish_in_software(
    offload: Offload,
    frame: &[u8],
    scratch: &mut Vec<u8>,
    emit: impl FnMut(&[u8]),
) -> Result<(), DropReason> {
    let checked: CheckedOffload = check_offload(offload, head_of(frame), frame.len())?;
    segment(&checked, frame, scratch, emit)
}

fn contiguous<'a>(frame: &'a mut FrameBytes<'_>, joined: &'a mut Vec<u8>) -> &'a [u8] {
    match frame {
        FrameBytes::Whole(frame) => frame,
        FrameBytes::Pieces(pieces) => {
            joined.clear();
            pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
            joined
        }
    }
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
        let frame = FrameBytes::Whole(&[0; 60]);
        let finished =
            |offload| [0, 1, 2].map(|tap| switch.must_finish(PortId(tap), offload, &frame));
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
        assert_eq!(longest_segment_len(Offload::NONE, 0, 9_014), 9_014);
        let gso = Gso::Tcp4 { ecn: false };
        let superframe = Offload { gso, gso_size: 1_448, ..Offload::NONE };
        assert_eq!(longest_segment_len(superframe, 66, 60_000), 1_514);
        assert_eq!(longest_segment_len(superframe, 66, 1_000), 1_000, "shorter than a segment");
    }
}
