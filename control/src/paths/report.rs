//! What operators see of the way to each peer.

use std::{net::SocketAddr, time::Instant};

use ipop_datapath::{node_id::NodeId, path::Path};
use serde::Serialize;

use super::Paths;
use crate::ice::{CandidateKind, IceCounters, NatMapping, Obstacles};

/// The way to one peer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LinkReport {
    /// `direct`, `relayed` or `none`.
    pub kind: &'static str,
    /// Where packets go: the peer's address, or the relay's.
    pub remote: Option<String>,
    /// Kinds of both ends' candidates, such as `srflx to host`.
    pub candidates: Option<String>,
    /// Why it is relayed, or not there.
    pub why: Option<Obstacles>,
    /// Round-trip time by the checks, microseconds.
    pub rtt_us: Option<u64>,
    /// The account that the node is in the room with, if it is or was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// Which way packets to a peer go, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Straight to this address.
    Direct(SocketAddr),
    /// By the relay at this address, this end's or the peer's.
    Relayed(SocketAddr),
}

impl Way {
    fn of(path: Path, remote_kind: CandidateKind) -> Self {
        match path {
            Path::Direct { remote, .. } if remote_kind == CandidateKind::Relayed => {
                Self::Relayed(remote)
            }
            Path::Direct { remote, .. } => Self::Direct(remote),
            Path::Relay { server, .. } => Self::Relayed(server),
        }
    }
}

impl Paths {
    /// Which way packets to a peer go now, if there is one.
    pub(crate) fn way_to(&self, now: Instant, node: NodeId) -> Option<Way> {
        let selected = self.ice.snapshot(now, node)?.selected?;
        Some(Way::of(selected.path, selected.remote))
    }

    /// The way to a peer now; none for a node without a link.
    pub(crate) fn report_of(&self, now: Instant, node: NodeId) -> Option<LinkReport> {
        self.links.get(&node)?;
        let snapshot = self.ice.snapshot(now, node);
        let selected = snapshot.as_ref().and_then(|snapshot| snapshot.selected);
        let (kind, remote) = match selected.map(|pair| Way::of(pair.path, pair.remote)) {
            Some(Way::Direct(remote)) => ("direct", Some(remote.to_string())),
            Some(Way::Relayed(relay)) => ("relayed", Some(relay.to_string())),
            None => ("none", None),
        };
        Some(LinkReport {
            kind,
            remote,
            candidates: selected.map(|pair| format!("{} to {}", pair.local, pair.remote)),
            why: snapshot.and_then(|snapshot| snapshot.why),
            rtt_us: selected.and_then(|pair| pair.rtt).map(|rtt| rtt.as_micros() as u64),
            account: None,
        })
    }

    /// What is known of the NAT in front of this host.
    pub(crate) fn nat(&self) -> &'static str {
        match self.ice.nat_mapping() {
            NatMapping::Unknown => "unknown",
            NatMapping::EndpointIndependent => "endpoint_independent",
            NatMapping::EndpointDependent => "symmetric",
        }
    }

    /// What was not believed, or was too much; by reason.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        refused(self.malformed_signals, self.ice.counters())
    }
}

pub(crate) fn refused(
    malformed_signals: u64,
    ice: IceCounters,
) -> impl Iterator<Item = (&'static str, u64)> {
    [("signal_malformed", malformed_signals)].into_iter().chain(ice.entries())
}
