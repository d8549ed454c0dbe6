//! Port numbers of peers. A node that has had one keeps it while the program runs: workers and the forwarding database know it by that.
//!
//! The exception is a node that never connected: its number returns when nobody names it any more, or a lying server that names one
//! invented node after the other would use them up.

use std::collections::HashMap;

use ipop_datapath::{PortId, node_id::NodeId};

use crate::sessions::MAX_PEERS;

/// Numbers that are given away at most.
pub const MAX_PORTS: usize = MAX_PEERS;

#[derive(Debug)]
pub(super) struct PortNumbers {
    first: u16,
    /// Numbers given so far, returned ones included.
    given: u16,
    returned: Vec<PortId>,
    of_node: HashMap<NodeId, Held>,
}

#[derive(Debug)]
struct Held {
    port: PortId,
    use_: Use,
}

/// Whether frames may have passed the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Never,
    Connected,
}

impl PortNumbers {
    pub(super) fn new(first: u16) -> Self {
        Self { first, given: 0, returned: Vec::new(), of_node: HashMap::new() }
    }

    pub(super) fn of(&self, node: NodeId) -> Option<PortId> {
        self.of_node.get(&node).map(|held| held.port)
    }

    pub(super) fn of_or_new(&mut self, node: NodeId) -> Option<PortId> {
        if let Some(port) = self.of(node) {
            return Some(port);
        }
        let port = match self.returned.pop() {
            Some(port) => port,
            None if usize::from(self.given) < MAX_PORTS => {
                let port = PortId(self.first.checked_add(self.given)?);
                self.given += 1;
                port
            }
            None => return None,
        };
        self.of_node.insert(node, Held { port, use_: Use::Never });
        Some(port)
    }

    /// The node connected: the number is its own for good.
    pub(super) fn connected(&mut self, node: NodeId) {
        if let Some(held) = self.of_node.get_mut(&node) {
            held.use_ = Use::Connected;
        }
    }

    /// Nobody names the node any more.
    pub(super) fn release(&mut self, node: NodeId) {
        if self.of_node.get(&node).is_some_and(|held| held.use_ == Use::Never)
            && let Some(held) = self.of_node.remove(&node)
        {
            self.returned.push(held.port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32) -> NodeId {
        NodeId::of_spki(&number.to_be_bytes())
    }

    #[test]
    fn a_node_that_connected_keeps_its_number_and_others_return_theirs() {
        let mut ports = PortNumbers::new(3);
        assert_eq!(ports.of_or_new(node(0)), Some(PortId(3)));
        assert_eq!(ports.of_or_new(node(1)), Some(PortId(4)));
        ports.connected(node(0));
        ports.release(node(0));
        ports.release(node(1));
        assert_eq!(ports.of(node(0)), Some(PortId(3)));
        assert_eq!(ports.of(node(1)), None);
        assert_eq!(ports.of_or_new(node(2)), Some(PortId(4)));
    }

    #[test]
    fn invented_nodes_do_not_use_them_up() {
        let mut ports = PortNumbers::new(1);
        for number in 0..10 * MAX_PORTS as u32 {
            assert!(ports.of_or_new(node(number)).is_some());
            ports.release(node(number));
        }
        for number in 0..MAX_PORTS as u32 {
            assert!(ports.of_or_new(node(number)).is_some(), "{number}");
        }
        assert_eq!(ports.of_or_new(node(u32::MAX)), None);
        let mut late = PortNumbers::new(u16::MAX);
        assert_eq!(late.of_or_new(node(0)), Some(PortId(u16::MAX)));
        assert_eq!(late.of_or_new(node(1)), None);
    }
}
