//! Frames that were dropped.

use std::collections::BTreeMap;

use ipop_datapath::{PortId, counters::drops::DropReason};

use super::super::{Connections, Switch};
use crate::api::types::{Drop, Drops, NoParams, Problem};

/// Frames that were no port's, or those of ports that are gone.
const NOBODY: &str = "-";

impl Switch {
    /// `drops.get`
    pub(crate) fn show_drops(
        &self,
        connections: &Connections,
        NoParams {}: NoParams,
    ) -> Result<Drops, Problem> {
        let ports: Vec<(PortId, String)> = self.ports_in_use().collect();
        let drop = |reason: &DropReason| self.drop_of(*reason, &ports);
        let mut drops: Vec<Drop> = DropReason::ALL.iter().map(drop).collect();
        drops.retain(|drop| drop.frames > 0);
        drops.sort_by_key(|drop| std::cmp::Reverse(drop.frames));
        Ok(Drops { drops, ledger: (&connections.ledger).into() })
    }

    fn drop_of(&self, reason: DropReason, ports: &[(PortId, String)]) -> Drop {
        let workers = &self.shared.counters;
        let at = |port| workers.iter().map(|worker| worker.port(port).dropped(reason)).sum::<u64>();
        let frames = self.dropped(reason);
        let mut by_port: BTreeMap<String, u64> = BTreeMap::new();
        for (port, name) in ports {
            *by_port.entry(name.clone()).or_default() += at(*port);
        }
        let of_ports: u64 = by_port.values().sum();
        by_port.insert(NOBODY.into(), frames.saturating_sub(of_ports));
        by_port.retain(|_, frames| *frames > 0);
        Drop {
            reason: reason.name().into(),
            frames,
            meaning: reason.meaning().into(),
            cure: reason.cure().into(),
            ports: by_port,
        }
    }

    /// Every port that is somebody's, and what it is called.
    pub(in crate::run) fn ports_in_use(&self) -> impl Iterator<Item = (PortId, String)> {
        let taps = self.devices.taps.iter().map(|open| (open.port, open.tap.name.clone()));
        let peers = self.node.sessions().all();
        taps.chain(
            peers.map(|(port, who)| (port, who.name.unwrap_or_else(|| who.node.to_string()))),
        )
    }
}
