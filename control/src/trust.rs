//! Who may connect.
//!
//! So far only the configured peers. Later sources of trust (a network secret, rooms, a CA) implement the same trait.

use std::collections::HashSet;

use ipop_datapath::{admission::Admission, node_id::NodeId};

/// Admits the nodes of a fixed list, nobody else.
#[derive(Clone, Debug, Default)]
pub struct StaticTrust {
    nodes: HashSet<NodeId>,
}

impl FromIterator<NodeId> for StaticTrust {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        Self { nodes: nodes.into_iter().collect() }
    }
}

impl Admission for StaticTrust {
    fn admits(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_nodes_are_admitted() {
        let listed = NodeId::of_spki(b"listed");
        let trust: StaticTrust = [listed].into_iter().collect();
        assert!(trust.admits(listed));
        assert!(!trust.admits(NodeId::of_spki(b"stranger")));
        assert!(!StaticTrust::default().admits(listed));
    }
}
