//! What would become of a frame, stage by stage, without sending it: the decisions of `ingress` and `relay`, asked by others than a worker.
//!
//! What only a worker knows is left out: whether a port's bucket of flooded frames is empty, and whether a queue is full.

use ipop_learning::{MacAddr, PortId, VlanId};

use super::{ingress, relay};
use crate::{
    core::shared::{NodeFacts, Shared},
    counters::drops::DropReason,
    frame::{ETHERNET_HEADER_LEN, Offload, describe},
    port::{LocalPort, PortKind},
};

/// What decides.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// This node.
    pub facts: &'a NodeFacts,
    /// Ports and stations.
    pub shared: &'a Shared,
    /// The local ports.
    pub local: &'a [LocalPort],
    /// The UDP ports of all tunnels.
    pub udp_ports: &'a [u16],
    /// Of [`Shared::now_s`].
    pub now_s: u32,
}

/// A stage that a frame went through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It came in at this port.
    In(PortId),
    /// It was checked, and may go on.
    Checked,
    /// Its sender is known on this port, or would be learned there.
    Learned {
        /// The sender.
        source: MacAddr,
        /// Where it was known before, if it would move.
        moves_from: Option<PortId>,
    },
    /// The table leads its destination to this port.
    Found(PortId),
    /// Everybody gets it: it is for a group, or nobody knows its destination.
    Flooded {
        /// Whether it is for a group.
        is_group: bool,
    },
}

/// What becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It goes out at these ports.
    Out(Vec<PortId>),
    /// It is dropped.
    Dropped(DropReason),
}

/// A frame's way through the switch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    /// In order.
    pub stages: Vec<Stage>,
    /// At the end.
    pub fate: Fate,
}

/// The way that a frame would take that came in at a port.
pub fn trace(frame: &[u8], port: PortId, around: Surroundings<'_>) -> Trace {
    let mut stages = vec![Stage::In(port)];
    let fate = match pass(frame, port, around, &mut stages) {
        Ok(ports) => Fate::Out(ports),
        Err(reason) => Fate::Dropped(reason),
    };
    Trace { stages, fate }
}

fn pass(
    frame: &[u8],
    port: PortId,
    around: Surroundings<'_>,
    stages: &mut Vec<Stage>,
) -> Result<Vec<PortId>, DropReason> {
    let Surroundings { facts, shared, local, udp_ports, now_s } = around;
    if frame.len() < ETHERNET_HEADER_LEN {
        return Err(DropReason::Runt);
    }
    let kind = ingress::may_come(shared.ports.of(port), frame)?;
    let what = describe(Offload::NONE, frame, frame.len())?;
    ingress::may_enter(kind, &what, frame, udp_ports, facts, shared)?;
    stages.push(Stage::Checked);
    let (source, destination) = (what.headers().source, what.headers().destination);
    let known = shared.fdb.look_up(VlanId::UNTAGGED, source, now_s);
    stages.push(Stage::Learned { source, moves_from: known.filter(|known| *known != port) });
    let from = (port, kind);
    if let Some(to) = relay::look_up(now_s, from, destination, shared)? {
        stages.push(Stage::Found(to));
        may_leave(to, shared)?;
        return Ok(vec![to]);
    }
    stages.push(Stage::Flooded { is_group: destination.is_group() });
    let leaves = |port: &PortId| may_leave(*port, shared).is_ok();
    let ports: Vec<PortId> = relay::flood_set(local, shared, from).filter(leaves).collect();
    if ports.is_empty() { Err(DropReason::NoPort) } else { Ok(ports) }
}

/// What the port that it goes to has against it.
fn may_leave(to: PortId, shared: &Shared) -> Result<(), DropReason> {
    let port = shared.ports.of(to);
    match port.kind() {
        PortKind::Tap if port.is_blocked() => Err(DropReason::Blocked),
        PortKind::Tap => Ok(()),
        PortKind::Peer if port.is_up() => Ok(()),
        PortKind::Peer => Err(DropReason::NoPort),
        PortKind::Closed => Err(DropReason::TapDown),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ipop_learning::{MacTable, MacTableConfig};

    use super::*;
    use crate::{command::Lane, node_id::NodeId, port::TapOffload};

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const TAP: PortId = PortId(0);
    const PEERS: [PortId; 2] = [PortId(5), PortId(6)];

    fn frame(destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
        [&destination[..], &source, &[0x88, 0xb5], &[0; 46]].concat()
    }

    /// A TAP and two peers, of which the first is up.
    fn shared() -> (NodeFacts, Shared, Vec<LocalPort>) {
        let local = vec![LocalPort { port: TAP, takes: TapOffload::Full, mac: MacAddr(A) }];
        let shared =
            Shared::new(MacTable::new(MacTableConfig::default()), &local, 1, Instant::now());
        shared.ports.lane_up(PEERS[0], Lane(0));
        let facts = NodeFacts {
            node: NodeId([1; 32]),
            instance: [0; 16],
            probe_token: [0; 16],
            name: String::new(),
            inner_mtu: 1_500,
            lanes: 1,
        };
        (facts, shared, local)
    }

    #[test]
    fn the_way_of_a_frame_is_that_of_the_switch() {
        let (facts, shared, local) = shared();
        let around = Surroundings {
            facts: &facts,
            shared: &shared,
            local: &local,
            udp_ports: &[],
            now_s: 5,
        };
        let fate = |frame: &[u8], port| trace(frame, port, around).fate;
        let known = |mac, port| shared.fdb.learn(VlanId::UNTAGGED, MacAddr(mac), port, 5);
        assert_eq!(fate(&frame(B, A), TAP), Fate::Out(vec![PEERS[0]]), "unknown: flooded");
        known(B, PEERS[0]);
        let way = trace(&frame(B, A), TAP, around);
        assert_eq!(way.fate, Fate::Out(vec![PEERS[0]]));
        let learned = Stage::Learned { source: MacAddr(A), moves_from: None };
        let found = Stage::Found(PEERS[0]);
        assert_eq!(way.stages, [Stage::In(TAP), Stage::Checked, learned, found]);
        let moved = trace(&frame(A, B), TAP, around).stages[2];
        let moves_from = Some(PEERS[0]);
        assert_eq!(moved, Stage::Learned { source: MacAddr(B), moves_from });
        known(B, PEERS[1]);
        for (frame, port, reason) in [
            (frame(B, A), TAP, DropReason::NoPort),
            (frame(B, A), PEERS[0], DropReason::SplitHorizon),
            (frame(B, A), PEERS[1], DropReason::SamePort),
            (frame([1, 0x80, 0xc2, 0, 0, 0], A), TAP, DropReason::Reserved),
            (frame(B, [1; 6]), TAP, DropReason::BadSource),
            (frame(B, A)[..13].to_vec(), TAP, DropReason::Runt),
            ([&frame(B, A)[..], &[0; 1_500]].concat(), PEERS[0], DropReason::OverMtu),
        ] {
            assert_eq!(fate(&frame, port), Fate::Dropped(reason));
        }
        shared.ports.of(TAP).set_blocked(true);
        assert_eq!(fate(&frame(B, A), TAP), Fate::Dropped(DropReason::Blocked));
        assert_eq!(shared.fdb.len(), 1, "nothing is learned");
    }
}
