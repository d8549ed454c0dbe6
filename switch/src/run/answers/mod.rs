//! What the control thread answers to the API: everything the switch knows, in the API's types.
//!
//! Counters and the forwarding database are read where the workers keep them; nothing here waits for a worker.

mod captures;
mod drops;
mod events;
mod fdb;
mod ledger;
mod links;
mod metrics;
mod orders;
mod peers;
mod ports;
mod questions;
mod status;
mod trace;
mod why;

use std::ops::AddAssign;

use ipop_datapath::{
    PortId,
    counters::{PortCounters, drops::DropReason},
};

pub(crate) use self::captures::PortNames;
pub(super) use self::{events::Before, questions::Asked};
use super::Switch;
use crate::api::types::{DropCounts, Problem, Traffic};

impl AddAssign<&PortCounters> for Traffic {
    fn add_assign(&mut self, counters: &PortCounters) {
        self.received_frames += counters.received_frames.get();
        self.received_bytes += counters.received_bytes.get();
        self.sent_frames += counters.sent_frames.get();
        self.sent_bytes += counters.sent_bytes.get();
    }
}

impl Switch {
    /// What passed a port, in all workers.
    pub(in crate::run) fn traffic_of(&self, port: PortId) -> Traffic {
        let mut traffic = Traffic::default();
        for worker in &self.shared.counters {
            traffic += worker.port(port);
        }
        traffic
    }

    /// Frames dropped at a port, in all workers.
    fn dropped_at(&self, port: PortId) -> DropCounts {
        let of = |reason: DropReason| {
            let workers = self.shared.counters.iter();
            workers.map(|worker| worker.port(port).dropped(reason)).sum::<u64>()
        };
        let counted = DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), of(*reason)));
        counted.filter(|(_, frames)| *frames > 0).collect()
    }

    /// A port as people call it: a local port's name, a peer's name or else its id. `None` for a number that is nobody's.
    fn name_of_port(&self, port: PortId) -> Option<String> {
        if let Some(tap) = self.devices.tap(port) {
            return Some(tap.name.clone());
        }
        let who = self.node.sessions().who_has(port)?;
        Some(who.name.unwrap_or_else(|| who.node.to_string()))
    }

    /// The port that people call so: a local port's name, or what names a peer.
    fn port_named(&self, name: &str) -> Result<PortId, Problem> {
        let tap = self.devices.taps.iter().find(|open| open.tap.name == name);
        if let Some(tap) = tap {
            return Ok(tap.port);
        }
        let peer = self.peer_named(name).map_err(|problem| match problem.code {
            crate::api::types::ProblemCode::NotFound => Problem::not_found(format!(
                "no port and no peer is called {name:?}; ports.list and peers.list show them"
            )),
            _ => problem,
        })?;
        Ok(PortId(peer.port))
    }
}
