//! The switch as a whole.

use ipop_control::rendezvous::NetworkReport;

use super::super::{Connections, ENGINE, Switch};
use crate::api::types::{
    FdbCounters, NatMapping, Network, NoParams, PathKind, PeerCounts, PeerState, Problem, Status,
    Why, WhyCode,
};

impl Switch {
    /// `status.get`
    pub(crate) fn show_status(
        &self,
        connections: &Connections,
        NoParams {}: NoParams,
    ) -> Result<Status, Problem> {
        let peers = self.all_peers(connections);
        let network = self.network_report();
        let up = |peer: &&crate::api::types::Peer| peer.state == PeerState::Up;
        let is_relayed = |peer: &&crate::api::types::Peer| {
            peer.path.as_ref().is_some_and(|path| path.kind == PathKind::Relayed)
        };
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            instance: self.settings.api.instance.clone(),
            node: self.facts.node.to_string(),
            name: self.facts.name.clone(),
            engine: ENGINE.into(),
            listen: self.devices.listen_address().to_string(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            mtu_bytes: self.settings.mtu,
            workers: self.facts.lanes,
            peers: PeerCounts {
                known: peers.len(),
                up: peers.iter().filter(up).count(),
                relayed: peers.iter().filter(up).filter(is_relayed).count(),
            },
            ports: self.devices.taps.len(),
            stations: self.shared.fdb.len(),
            fdb: self.fdb_counters(),
            log_level: crate::log::level().to_string(),
            problems: self.problems(network.as_ref()),
            network: network.map(Into::into),
        })
    }

    fn fdb_counters(&self) -> FdbCounters {
        let counters = self.shared.fdb.counters();
        FdbCounters {
            learned: counters.learned,
            moved: counters.moved,
            evicted: counters.evicted,
            refused: counters.refused,
            aged: counters.aged,
            flushed: counters.flushed,
        }
    }

    /// What is not well with the switch itself; each peer has a `why` of its own.
    fn problems(&self, network: Option<&NetworkReport>) -> Vec<Why> {
        let mut problems = Vec::new();
        if let Some(network) = network {
            let said = network.last_error.as_ref();
            let because = said.map_or(String::new(), |why| format!(": {why}"));
            if !network.is_online() {
                problems.push(Why::of(
                    WhyCode::XmppOffline,
                    format!("there is no stream to the XMPP server{because}"),
                ));
            } else if !network.joined {
                let text = format!("this node is not in {}{because}", network.room);
                problems.push(Why::of(WhyCode::RoomNotJoined, text));
            }
        }
        for open in &self.devices.taps {
            if self.shared.ports.of(open.port).is_blocked() {
                let text = format!("TAP {} is blocked: a loop was seen", open.tap.name);
                problems.push(Why::of(WhyCode::Loop, text));
            }
        }
        let overflows = self.kernel.overflows();
        if overflows > 0 {
            let text = format!("the kernel had no room for a neighbour, {overflows} times");
            problems.push(Why::of(WhyCode::NeighbourTableFull, text));
        }
        problems
    }
}

impl From<NetworkReport> for Network {
    fn from(report: NetworkReport) -> Self {
        Self {
            online: report.is_online(),
            nat: match report.nat {
                "endpoint_independent" => NatMapping::EndpointIndependent,
                "symmetric" => NatMapping::Symmetric,
                _ => NatMapping::Unknown,
            },
            room: report.room,
            jid: report.jid,
            joined: report.joined,
            occupants: report.occupants,
            last_error: report.last_error,
        }
    }
}
