//! What becomes an event of the API, and what is the case before.

use std::{
    collections::HashMap,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ipop_control::{ice::CandidateKind, notice::Notice};
use ipop_datapath::{PortId, counters::drops::DropReason};
use ipop_learning::MacAddr;

use super::super::{Connections, Switch};
use crate::api::types::{EventKind, NoParams, PathKind, Problem, Snapshot, What};

/// So many frames that a second drops for one reason are an event.
const DROPS_PER_S: u64 = 100;

/// What was there a second ago, while somebody listens.
#[derive(Default)]
pub(in crate::run) struct Before {
    stations: Option<HashMap<MacAddr, PortId>>,
    drops: Option<HashMap<DropReason, u64>>,
}

impl Switch {
    /// The first event of a listener.
    pub(crate) fn show_snapshot(&self, connections: &Connections) -> Result<Snapshot, Problem> {
        Ok(Snapshot {
            number: self.events.latest(),
            status: self.show_status(connections, NoParams {})?,
            peers: self.all_peers(connections),
            ports: self.show_ports(NoParams {})?.ports,
        })
    }

    /// Tells whoever listens.
    pub(in crate::run) fn tell_event(&self, kind: EventKind, text: String, what: What) {
        if self.api.is_some() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let unix_ms = now.map_or(0, |since| since.as_millis() as u64);
            self.events.tell(unix_ms, kind, text, what);
        }
    }

    /// What the operator is told is an event too.
    pub(in crate::run) fn tell_notice(&self, notice: &Notice, text: String) {
        let (kind, what) = match notice {
            Notice::PeerUp { peer, hello, .. } => {
                let name = hello.name.clone();
                (EventKind::Peer, What::PeerUp { peer: peer.node.to_string(), name })
            }
            Notice::PeerDown { peer, .. } | Notice::Revoked { peer, .. } => {
                (EventKind::Peer, What::PeerDown { peer: peer.node.to_string() })
            }
            Notice::Path { peer, local, remote, .. } => {
                let is_relayed = [local, remote].contains(&&CandidateKind::Relayed);
                let path = if is_relayed { PathKind::Relayed } else { PathKind::Direct };
                (EventKind::Path, What::PathChanged { peer: peer.node.to_string(), path })
            }
            Notice::NoPath { peer, .. } => {
                (EventKind::Path, What::NoPath { peer: peer.node.to_string() })
            }
            Notice::NotAdmitted { .. }
            | Notice::Contested { .. }
            | Notice::Waits { .. }
            | Notice::Barred { .. } => (EventKind::Trust, What::Told),
            Notice::Online { .. }
            | Notice::Offline { .. }
            | Notice::StillOffline { .. }
            | Notice::AccountRefused { .. }
            | Notice::Offered(_)
            | Notice::Joined { .. }
            | Notice::AccountRemoved { .. }
            | Notice::Room(_)
            | Notice::Server(_) => (EventKind::Network, What::Told),
            _ => (EventKind::Other, What::Told),
        };
        self.tell_event(kind, text, what);
    }

    /// Once a second, while somebody listens: stations that are new or moved, and what was dropped.
    pub(in crate::run) fn tell_changes(&mut self, now: Instant) {
        if !self.events.has_listeners() {
            self.before = Before::default();
            return;
        }
        let mut stations = HashMap::new();
        self.shared.fdb.for_each(self.shared.now_s(now), |entry| {
            stations.insert(entry.mac, entry.port);
        });
        if let Some(before) = &self.before.stations {
            self.tell_stations(before, &stations);
        }
        let drops: HashMap<DropReason, u64> =
            DropReason::ALL.iter().map(|reason| (*reason, self.dropped(*reason))).collect();
        for (reason, before) in self.before.drops.iter().flatten() {
            let frames = drops[reason].saturating_sub(*before);
            if frames > DROPS_PER_S {
                let reason = reason.name();
                let text = format!("{frames} frames dropped in a second: {reason}");
                let what = What::Dropping { reason: reason.into(), frames };
                self.tell_event(EventKind::Drop, text, what);
            }
        }
        self.before = Before { stations: Some(stations), drops: Some(drops) };
    }

    fn tell_stations(&self, before: &HashMap<MacAddr, PortId>, after: &HashMap<MacAddr, PortId>) {
        let name = |port: PortId| self.name_of_port(port).unwrap_or_else(|| "?".into());
        for (mac, port) in after {
            let (station, to) = (mac.to_string(), name(*port));
            match before.get(mac) {
                Some(from) if from == port => {}
                Some(from) => {
                    let from = name(*from);
                    let text = format!("station {mac} moved from {from} to {to}");
                    let what = What::StationMoved { mac: station, from, to };
                    self.tell_event(EventKind::Station, text, what);
                }
                None => {
                    let text = format!("station {mac} is behind {to}");
                    let what = What::StationLearned { mac: station, port: to };
                    self.tell_event(EventKind::Station, text, what);
                }
            }
        }
    }

    /// Frames dropped for a reason since the start.
    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        let workers = self.shared.counters.iter();
        let of = |worker: &ipop_datapath::counters::WorkerCounters| {
            worker.io.dropped(reason) + worker.ports().map(|port| port.dropped(reason)).sum::<u64>()
        };
        workers.map(|worker| of(worker)).sum()
    }
}
