//! What a scrape of Prometheus takes.

use std::collections::BTreeMap;

use ipop_datapath::counters::drops::DropReason;

use super::super::{Connections, Switch};
use crate::api::{
    Scrape,
    types::{Ledger, NoParams, Problem, Traffic},
};

impl Switch {
    /// `GET /metrics`
    pub(crate) fn scrape(&self, connections: &Connections) -> Result<Scrape, Problem> {
        let ledger = Ledger::from(&connections.ledger);
        Ok(Scrape {
            status: self.show_status(connections, NoParams {})?,
            peers: self.all_peers(connections),
            ports: self.show_ports(NoParams {})?.ports,
            traffic: self.traffic_in_all(),
            drops: DropReason::ALL
                .iter()
                .map(|reason| (reason.name(), self.dropped(*reason)))
                .collect(),
            waiting: ledger.waiting,
            difference: ledger.difference,
            refused: self.refused(),
            neighbour_overflows: self.kernel.overflows(),
            peers_named: self.settings.api.metrics_peers,
        })
    }

    fn traffic_in_all(&self) -> Traffic {
        let mut traffic = Traffic::default();
        for port in self.shared.counters.iter().flat_map(|worker| worker.ports()) {
            traffic += port;
        }
        traffic
    }

    /// By every reason, those that never occurred too.
    fn refused(&self) -> BTreeMap<&'static str, u64> {
        let Some(network) = self.network_report() else { return BTreeMap::new() };
        let never = ipop_control::node::refused_reasons().map(|reason| (reason, 0));
        never.chain(network.refused).collect()
    }
}
