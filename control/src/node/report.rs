//! What operators see of the network and of the way to each peer.

use std::time::Instant;

use ipop_datapath::node_id::NodeId;

use super::Node;
use crate::{
    ice::{IceCounters, Search},
    paths::{self, LinkReport},
    peer::NamedBy,
    rendezvous::{self, NetworkReport},
    xmpp::{jingle::JingleCounters, room::RoomCounters},
};

impl Node {
    /// The network now; none without an account.
    pub fn network_report(&self) -> Option<NetworkReport> {
        let mut report = self.rendezvous.as_ref()?.report();
        report.nat = self.paths.nat();
        report
            .refused
            .extend(self.paths.refused().chain(own(self.lines.left_out(), self.refused_questions)));
        report.refused.retain(|_, count| *count > 0);
        Some(report)
    }

    /// The link to a node, as whoever drives it sees it; none for a node without one.
    pub fn search(&self, node: NodeId) -> Option<Search> {
        self.paths.search(node)
    }

    /// All nodes that there are links to.
    pub fn links(&self) -> impl Iterator<Item = NodeId> {
        self.paths.nodes()
    }

    /// Whether a controller names the node.
    pub fn is_controlled(&self, node: NodeId) -> bool {
        self.trust.sources(node).contains(&NamedBy::Controller)
    }

    /// The way to a peer now; none for one that nobody signals with.
    pub fn link_report(&self, now: Instant, node: NodeId) -> Option<LinkReport> {
        let account = self.rendezvous.as_ref().and_then(|rendezvous| rendezvous.account_of(node));
        let report = self.paths.report_of(now, node)?;
        Some(LinkReport { account: account.map(str::to_owned), ..report })
    }
}

fn own(left_out_lines: u64, refused_questions: u64) -> [(&'static str, u64); 2] {
    [("log_lines", left_out_lines), ("questions", refused_questions)]
}

/// The reasons that [`NetworkReport::refused`] can have.
pub fn refused_reasons() -> impl Iterator<Item = &'static str> {
    let of_rendezvous = rendezvous::refused(RoomCounters::default(), JingleCounters::default());
    let of_paths = paths::refused(0, IceCounters::default());
    own(0, 0).into_iter().chain(of_rendezvous).chain(of_paths).map(|(name, _)| name)
}
