//! Port numbers: the one allocator of them, for local ports and peers alike. A node has its number until the sessions have forgotten it: workers and the forwarding database know it by that.
//!
//! Who runs the server, or knows the secret, can invent one node after the other. So nodes that nothing but the room names and that have
//! never connected may hold only so many numbers; they give way to others of their kind (`crate::rendezvous`, claims), and never keep out a configured
//! peer or one that is known from before. A number that was returned is given again as late as possible.

use std::collections::{HashMap, HashSet, VecDeque};

use ipop_datapath::{PortId, node_id::NodeId, port::MAX_LOCAL_PORTS};

use crate::sessions::MAX_PEERS;

/// Numbers of nodes that have never connected and that nothing but the room names.
pub const MAX_UNPROVED: usize = MAX_PEERS * 3 / 4;

#[derive(Debug, Default)]
pub(super) struct PortNumbers {
    /// Every number from this one on is new.
    next: u16,
    /// Local ports that have a number.
    local: usize,
    /// Returned, the first one to be given again first.
    returned: VecDeque<PortId>,
    of_node: HashMap<NodeId, PortId>,
    /// Those of them of which nothing more is known than that the room names them.
    unproved: HashSet<NodeId>,
}

/// What is known of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Repute {
    /// The room names it.
    Unproved,
    /// It is configured, known from before, or has connected.
    Known,
}

impl PortNumbers {
    /// A number for another local port; none if there are as many as may be.
    pub(super) fn open_local(&mut self) -> Option<PortId> {
        let port = if self.local < MAX_LOCAL_PORTS { self.unused()? } else { return None };
        self.local += 1;
        Some(port)
    }

    /// No worker knows the local port by its number any more.
    pub(super) fn release_local(&mut self, port: PortId) {
        self.local -= 1;
        self.returned.push_back(port);
    }

    /// A number that nobody has: a new one while there are some, then the one that was returned first.
    fn unused(&mut self) -> Option<PortId> {
        if usize::from(self.next) >= ipop_datapath::port::MAX_PORTS {
            return self.returned.pop_front();
        }
        self.next += 1;
        Some(PortId(self.next - 1))
    }

    pub(super) fn of(&self, node: NodeId) -> Option<PortId> {
        self.of_node.get(&node).copied()
    }

    /// The number of a node, which is new if it has none; none if they are used up.
    pub(super) fn of_or_new(&mut self, node: NodeId, repute: Repute) -> Option<PortId> {
        if repute == Repute::Known {
            self.unproved.remove(&node);
        }
        if let Some(port) = self.of(node) {
            return Some(port);
        }
        let port = if self.is_left(repute) { self.unused()? } else { return None };
        self.of_node.insert(node, port);
        if repute == Repute::Unproved {
            self.unproved.insert(node);
        }
        Some(port)
    }

    /// Whether a node of that repute, which has none yet, may have a number.
    pub(super) fn is_left(&self, repute: Repute) -> bool {
        let are_kept = repute == Repute::Unproved && self.unproved.len() >= MAX_UNPROVED;
        !are_kept && self.of_node.len() < MAX_PEERS
    }

    /// The node connected.
    pub(super) fn connected(&mut self, node: NodeId) {
        self.unproved.remove(&node);
    }

    /// Nothing here knows the node by its number any more. Whether it had one.
    pub(super) fn release(&mut self, node: NodeId) -> bool {
        let port = self.of_node.remove(&node);
        self.returned.extend(port);
        self.unproved.remove(&node);
        port.is_some()
    }
}

#[cfg(test)]
mod tests {
    use ipop_datapath::port::MAX_PORTS as ALL;

    use super::*;

    fn node(number: u32) -> NodeId {
        NodeId::of_spki(&number.to_be_bytes())
    }

    fn numbers(local: usize) -> PortNumbers {
        let mut ports = PortNumbers::default();
        assert!((0..local).all(|number| ports.open_local() == Some(PortId(number as u16))));
        ports
    }

    #[test]
    fn a_number_is_given_again_after_all_others() {
        let mut ports = numbers(3);
        assert_eq!(ports.of_or_new(node(0), Repute::Unproved), Some(PortId(3)));
        assert_eq!(ports.of_or_new(node(1), Repute::Unproved), Some(PortId(4)));
        ports.connected(node(0));
        ports.release(node(0));
        ports.release(node(1));
        assert_eq!((ports.of(node(0)), ports.of(node(1))), (None, None));
        let fresh = (5..ALL as u16).map(PortId);
        for (number, port) in (2..).zip(fresh) {
            assert_eq!(ports.of_or_new(node(number), Repute::Known), Some(port));
            ports.release(node(number));
        }
        assert_eq!(ports.of_or_new(node(0), Repute::Known), Some(PortId(3)));
        assert_eq!(ports.of_or_new(node(1), Repute::Known), Some(PortId(4)));
        assert_eq!(ports.open_local(), Some(PortId(5)));
    }

    #[test]
    fn local_ports_and_peers_have_numbers_of_one_list_and_bounds_of_their_own() {
        let mut ports = numbers(2);
        assert_eq!(ports.of_or_new(node(0), Repute::Known), Some(PortId(2)));
        assert_eq!(ports.open_local(), Some(PortId(3)));
        assert_eq!(ports.of_or_new(node(1), Repute::Known), Some(PortId(4)));
        let local: Vec<PortId> = std::iter::from_fn(|| ports.open_local()).collect();
        assert_eq!(local.len(), MAX_LOCAL_PORTS - 3);
        let peers = (2..).map_while(|number| ports.of_or_new(node(number), Repute::Known));
        assert_eq!(
            peers.count(),
            MAX_PEERS - 2,
            "and none of them waits for a local port's number"
        );
        // All numbers are given; each kind gets what its own kind gives back.
        ports.release_local(PortId(0));
        assert_eq!(ports.of_or_new(node(u32::MAX), Repute::Known), None);
        assert_eq!((ports.open_local(), ports.open_local()), (Some(PortId(0)), None));
    }

    #[test]
    fn invented_nodes_do_not_use_them_up() {
        let mut ports = numbers(1);
        for number in 0..10 * MAX_PEERS as u32 {
            assert!(ports.of_or_new(node(number), Repute::Unproved).is_some());
            ports.release(node(number));
        }
        let given = |ports: &mut PortNumbers, from: u32, repute| {
            (from..from + MAX_PEERS as u32).filter_map(|n| ports.of_or_new(node(n), repute)).count()
        };
        assert_eq!(given(&mut ports, 0, Repute::Unproved), MAX_UNPROVED);
        // One of them connects, one is configured, and so they make room for others.
        ports.connected(node(7));
        ports.of_or_new(node(8), Repute::Known);
        assert_eq!(given(&mut ports, 5_000, Repute::Unproved), 2);
        assert_eq!(given(&mut ports, 10_000, Repute::Known), MAX_PEERS - MAX_UNPROVED - 2);
    }
}
