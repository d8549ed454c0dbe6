//! Whose packets come from where, as far as it was proved.

use std::collections::{BTreeSet, HashMap};

use ipop_datapath::node_id::NodeId;

use super::Source;

#[derive(Debug, Default)]
pub(super) struct Sources {
    owners: HashMap<Source, NodeId>,
    /// Peers that proved a source which belongs to another one.
    contesting: BTreeSet<NodeId>,
}

impl Sources {
    /// A peer proved a source; whether it is the peer's. One address is one socket, so it is one node's. Who proved it first keeps it for
    /// as long as it answers.
    pub(super) fn prove(&mut self, peer: NodeId, source: Source) -> bool {
        let owner = *self.owners.entry(source).or_insert(peer);
        if owner != peer {
            self.contesting.insert(peer);
            return false;
        }
        true
    }

    /// A source is nobody's any more. Those who wanted one that was another's get another chance.
    pub(super) fn release(&mut self, source: Source) -> BTreeSet<NodeId> {
        self.owners.remove(&source);
        std::mem::take(&mut self.contesting)
    }

    /// A peer is forgotten.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.contesting.remove(&peer);
    }
}
