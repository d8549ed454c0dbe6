//! Port numbers of peers. A node has its number until the sessions have forgotten it: workers and the forwarding database know it by that.
//!
//! Who runs the server, or knows the secret, can invent one node after the other. So nodes that nothing but the room names and that have
//! never connected may hold only so many numbers; they give way to others of their kind (`crate::links`), and never keep out a configured
//! peer or one that is known from before. A number that was returned is given again as late as possible.

use std::collections::{HashMap, VecDeque};

use ipop_datapath::{PortId, node_id::NodeId};

use crate::sessions::MAX_PEERS;

/// Numbers that are given away at most.
pub const MAX_PORTS: usize = MAX_PEERS;
/// Of those, to nodes that have never connected and that nothing but the room names.
pub const MAX_UNPROVED: usize = MAX_PORTS * 3 / 4;

#[derive(Debug)]
pub(super) struct PortNumbers {
    first: u16,
    /// Numbers given so far, returned ones included.
    given: u16,
    /// Returned, the first one to be given again first.
    returned: VecDeque<PortId>,
    of_node: HashMap<NodeId, Held>,
}

#[derive(Debug)]
struct Held {
    port: PortId,
    repute: Repute,
}

/// What is known of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Repute {
    /// The room names it.
    Unproved,
    /// It is configured, known from before, or has connected.
    Known,
}

impl PortNumbers {
    pub(super) fn new(first: u16) -> Self {
        Self { first, given: 0, returned: VecDeque::new(), of_node: HashMap::new() }
    }

    pub(super) fn of(&self, node: NodeId) -> Option<PortId> {
        self.of_node.get(&node).map(|held| held.port)
    }

    /// The number of a node, which is new if it has none; none if they are used up.
    pub(super) fn of_or_new(&mut self, node: NodeId, repute: Repute) -> Option<PortId> {
        if let Some(held) = self.of_node.get_mut(&node) {
            held.repute = held.repute.max(repute);
            return Some(held.port);
        }
        if repute == Repute::Unproved && self.unproved() >= MAX_UNPROVED {
            return None;
        }
        let port = if usize::from(self.given) < MAX_PORTS {
            self.first.checked_add(self.given).map(PortId)
        } else {
            None
        };
        let port = match port {
            Some(port) => {
                self.given += 1;
                port
            }
            None => self.returned.pop_front()?,
        };
        self.of_node.insert(node, Held { port, repute });
        Some(port)
    }

    /// The node connected.
    pub(super) fn connected(&mut self, node: NodeId) {
        if let Some(held) = self.of_node.get_mut(&node) {
            held.repute = Repute::Known;
        }
    }

    /// Nothing here knows the node by its number any more. Whether it had one.
    pub(super) fn release(&mut self, node: NodeId) -> bool {
        let held = self.of_node.remove(&node);
        self.returned.extend(held.as_ref().map(|held| held.port));
        held.is_some()
    }

    fn unproved(&self) -> usize {
        self.of_node.values().filter(|held| held.repute == Repute::Unproved).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32) -> NodeId {
        NodeId::of_spki(&number.to_be_bytes())
    }

    #[test]
    fn a_number_is_given_again_after_all_others() {
        let mut ports = PortNumbers::new(3);
        assert_eq!(ports.of_or_new(node(0), Repute::Unproved), Some(PortId(3)));
        assert_eq!(ports.of_or_new(node(1), Repute::Unproved), Some(PortId(4)));
        ports.connected(node(0));
        ports.release(node(0));
        ports.release(node(1));
        assert_eq!((ports.of(node(0)), ports.of(node(1))), (None, None));
        for number in 2..MAX_PORTS as u32 {
            let port = PortId(number as u16 + 3);
            assert_eq!(ports.of_or_new(node(number), Repute::Known), Some(port));
        }
        assert_eq!(ports.of_or_new(node(0), Repute::Known), Some(PortId(3)));
        assert_eq!(ports.of_or_new(node(1), Repute::Known), Some(PortId(4)));
        assert_eq!(ports.of_or_new(node(u32::MAX), Repute::Known), None);
        let mut late = PortNumbers::new(u16::MAX);
        assert_eq!(late.of_or_new(node(0), Repute::Known), Some(PortId(u16::MAX)));
        assert_eq!(late.of_or_new(node(1), Repute::Known), None);
    }

    #[test]
    fn invented_nodes_do_not_use_them_up() {
        let mut ports = PortNumbers::new(1);
        for number in 0..10 * MAX_PORTS as u32 {
            assert!(ports.of_or_new(node(number), Repute::Unproved).is_some());
            ports.release(node(number));
        }
        let given = |ports: &mut PortNumbers, from: u32, repute| {
            (from..from + MAX_PORTS as u32).filter_map(|n| ports.of_or_new(node(n), repute)).count()
        };
        assert_eq!(given(&mut ports, 0, Repute::Unproved), MAX_UNPROVED);
        // One of them connects, and so makes room for another one.
        ports.connected(node(7));
        assert_eq!(given(&mut ports, 5_000, Repute::Unproved), 1);
        assert_eq!(given(&mut ports, 10_000, Repute::Known), MAX_PORTS - MAX_UNPROVED - 1);
    }
}
