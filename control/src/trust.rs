//! Who may connect.
//!
//! So far only the configured peers. Later sources of trust (a network secret, rooms, a CA) implement the same trait.

use std::collections::HashMap;

use ipop_datapath::{PortId, admission::Admission, node_id::NodeId};

/// Admits the nodes of a fixed list, nobody else.
#[derive(Clone, Debug, Default)]
pub struct StaticTrust {
    ports: HashMap<NodeId, PortId>,
}

impl StaticTrust {
    /// Numbers the nodes' ports from `first_port`, in their order, as [`crate::sessions::SessionsConfig`] does.
    pub fn new(first_port: u16, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Self { ports: nodes.into_iter().zip((first_port..).map(PortId)).collect() }
    }
}

impl Admission for StaticTrust {
    fn port_of(&self, node: NodeId) -> Option<PortId> {
        self.ports.get(&node).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_nodes_are_admitted() {
        let (first, second) = (NodeId::of_spki(b"first"), NodeId::of_spki(b"second"));
        let trust = StaticTrust::new(3, [first, second]);
        assert_eq!(trust.port_of(first), Some(PortId(3)));
        assert_eq!(trust.port_of(second), Some(PortId(4)));
        assert_eq!(trust.port_of(NodeId::of_spki(b"stranger")), None);
    }
}
