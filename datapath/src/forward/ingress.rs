//! The first part of a frame's way: it is counted, checked and described, and its sender is learned.

use std::time::Instant;

use ipop_learning::{Learned, PortId, VlanId};

use super::Ingoing;
use crate::{
    command::{Event, FromPort, FromWorker},
    core::{
        context::Context,
        shared::{NodeFacts, Shared},
    },
    counters::drops::{DropReason, Passed},
    frame::{Description, ETHERNET_HEADER_LEN, Headers, udp_endpoints},
    policy::{
        loop_probe::{CLEAR_AFTER_S, LoopProbe},
        moves::Moves,
    },
    port::{LocalPort, PortKind, SharedPort},
};

/// What is kept of the frames that came in.
pub(crate) struct Ingress {
    moves: Moves,
    /// Of all workers' sockets.
    udp_ports: Vec<u16>,
}

impl Ingress {
    pub(super) fn new(udp_ports: Vec<u16>) -> Self {
        Self { moves: Moves::default(), udp_ports }
    }

    /// Learns where the sender of a frame is, if it may go on.
    #[inline]
    pub(super) fn learn(
        &mut self,
        now_s: u32,
        (port, kind): (PortId, PortKind),
        what: &Description,
        head: &[u8],
        cx: &Context,
    ) -> Passed {
        may_enter(kind, what, head, &self.udp_ports, &cx.facts, &cx.shared)?;
        let Headers { source, .. } = *what.headers();
        let (shared, vlan) = (&cx.shared, VlanId::UNTAGGED);
        if let Learned::Moved { from } = shared.fdb.learn(vlan, source, port, now_s) {
            self.moves.note(source, from, port);
        }
        Ok(())
    }

    /// Tells control of the stations that moved.
    pub(crate) fn tell_moves(&mut self, cx: &mut Context) {
        let moved = self.moves.take().map(FromWorker::StationsMoved);
        cx.events.extend(moved.map(Event::Worker));
    }
}

/// Whether a frame may go on, by what it says.
#[inline]
pub(super) fn may_enter(
    kind: PortKind,
    what: &Description,
    head: &[u8],
    udp_ports: &[u16],
    facts: &NodeFacts,
    shared: &Shared,
) -> Passed {
    match kind {
        PortKind::Tap if is_own_packet(what, head, udp_ports, shared) => {
            return Err(DropReason::OwnPacket);
        }
        PortKind::Peer if what.longest_segment_len() > max_len(what, facts) => {
            return Err(DropReason::OverMtu);
        }
        PortKind::Tap | PortKind::Peer | PortKind::Closed => {}
    }
    let Headers { destination, source, .. } = *what.headers();
    if destination.is_reserved() {
        return Err(DropReason::Reserved);
    }
    if source.is_group() || source.is_zero() {
        return Err(DropReason::BadSource);
    }
    Ok(())
}

/// Whether this is a packet of one of the switch's own tunnels, which would go round for ever.
fn is_own_packet(what: &Description, head: &[u8], udp_ports: &[u16], shared: &Shared) -> bool {
    let Some(endpoints) = udp_endpoints(what.headers(), head) else { return false };
    let port = endpoints.source.port();
    udp_ports.contains(&port) && shared.is_own_flow(port, endpoints.destination)
}

/// Counts a frame and checks what is seen at once. Tells what the port leads to.
#[inline]
pub(super) fn check(
    now_s: u32,
    frame: &Ingoing<'_>,
    cx: &mut Context,
) -> Result<PortKind, DropReason> {
    cx.came_in(frame);
    let (port, head) = (frame.port, frame.bytes.head());
    if head.len() < ETHERNET_HEADER_LEN {
        return Err(DropReason::Runt);
    }
    let shared = cx.shared.ports.of(port);
    let (kind, passed) = (shared.kind(), may_come(shared, head));
    if passed == Err(DropReason::LoopProbe) && kind == PortKind::Tap {
        probe_seen(now_s, port, head, cx);
    }
    passed
}

/// Whether a port takes a frame at all. Tells what the port leads to.
#[inline]
pub(super) fn may_come(port: &SharedPort, head: &[u8]) -> Result<PortKind, DropReason> {
    let (kind, is_blocked) = (port.kind(), port.is_blocked());
    if kind == PortKind::Closed {
        return Err(DropReason::TapDown);
    }
    if LoopProbe::is_probe(head) {
        return Err(DropReason::LoopProbe);
    }
    if is_blocked {
        return Err(DropReason::Blocked);
    }
    Ok(kind)
}

/// How long a frame of a peer may be: the kernel takes longer ones, and its bridges drop them without a word.
fn max_len(what: &Description, facts: &NodeFacts) -> usize {
    usize::from(facts.inner_mtu) + usize::from(what.headers().l2_len)
}

/// Unblocks TAPs on which no probe was seen for a while.
pub(crate) fn clear_loops(now: Instant, cx: &mut Context) {
    let Context { shared, local, events, .. } = cx;
    let now_s = shared.now_s(now);
    for &LocalPort { port, .. } in &*local {
        let tap = shared.ports.of(port);
        let is_quiet = tap.probe_age_s(now_s).is_some_and(|age_s| age_s >= CLEAR_AFTER_S);
        if is_quiet && tap.set_blocked(false) {
            events.push(Event::Port(port, FromPort::LoopCleared));
        }
    }
}

fn probe_seen(now_s: u32, tap: PortId, frame: &[u8], cx: &mut Context) {
    let Some(probe) = LoopProbe::decode(frame) else { return };
    if !is_from_overlay(&probe, cx) {
        return;
    }
    let port = cx.shared.ports.of(tap);
    if !must_block(&probe, tap, cx) {
        if port.foreign_probe_seen(now_s, CLEAR_AFTER_S) {
            cx.events.push(Event::Port(tap, FromPort::LoopElsewhere));
        }
        return;
    }
    port.probe_seen(now_s);
    if port.set_blocked(true) {
        cx.shared.fdb.flush_port(tap);
        cx.events.push(Event::Port(tap, FromPort::LoopSeen { origin: probe.origin }));
    }
}

/// Whether this node or a connected peer sent the probe, so that there is a loop.
fn is_from_overlay(probe: &LoopProbe, cx: &Context) -> bool {
    if probe.origin == cx.facts.node {
        return probe.token == cx.facts.probe_token;
    }
    cx.shared.ports.live_peers().any(|peer| cx.shared.ports.of(peer).has_probe_token(&probe.token))
}

/// Whether the loop that the probe proves is broken at the TAP where the probe came in.
fn must_block(probe: &LoopProbe, tap: PortId, cx: &Context) -> bool {
    if probe.origin == cx.facts.node {
        // Of two TAPs on one segment the one with the higher number is blocked; a TAP that hears itself is.
        return tap.0 >= probe.tap;
    }
    probe.origin < cx.facts.node
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ipop_learning::{MacTable, MacTableConfig};

    use super::*;
    use crate::{
        core::shared::{NodeFacts, Shared},
        frame::{Offload, describe},
        node_id::NodeId,
    };

    #[test]
    fn what_a_peer_sends_beyond_the_inner_mtu_is_dropped_here() {
        let now = Instant::now();
        let table = MacTable::new(MacTableConfig { capacity: 16, ..MacTableConfig::default() });
        let shared = Arc::new(Shared::new(table, &[], 1, now));
        let facts = NodeFacts {
            node: NodeId([1; 32]),
            instance: [0; 16],
            probe_token: [0; 16],
            name: String::new(),
            inner_mtu: 1_500,
            lanes: 1,
        };
        let cx = Context::new(0, Arc::new(facts), shared);
        let learn = |types: &[u8], len: usize| {
            let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 7], types].concat();
            frame.resize(len, 0);
            let what = describe(Offload::NONE, &frame, len).unwrap();
            Ingress::new(Vec::new()).learn(0, (PortId(1), PortKind::Peer), &what, &frame, &cx)
        };
        let (plain, tagged) = ([0x08, 0x06], [0x81, 0, 0, 5, 0x08, 0x06]);
        let twice = [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x08, 0x06];
        for (types, max_len) in [(&plain[..], 1_514), (&tagged, 1_518), (&twice, 1_522)] {
            assert_eq!(learn(types, max_len), Ok(()));
            assert_eq!(learn(types, max_len + 1), Err(DropReason::OverMtu));
        }
    }
}
