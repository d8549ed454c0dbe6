//! What is not done at once: the operator's list of those who were seen, and nodes that wait for a port.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;

use crate::trust::Claim;

/// How often is looked for a port for those that have none.
const PORTS_EVERY: Duration = Duration::from_secs(5);
/// Between two lists of observed nodes: each is a file to be written.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);

/// Nodes that were seen in the room, to be told to the operator's list.
#[derive(Debug)]
pub(super) struct SeenNodes {
    seen: BTreeMap<NodeId, Claim>,
    next_at: Instant,
}

impl SeenNodes {
    pub(super) fn new(now: Instant) -> Self {
        Self { seen: BTreeMap::new(), next_at: now }
    }

    pub(super) fn insert(&mut self, node: NodeId, claim: Claim) {
        self.seen.insert(node, claim);
    }

    pub(super) fn remove(&mut self, node: &NodeId) {
        self.seen.remove(node);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (!self.seen.is_empty()).then_some(self.next_at)
    }

    /// Those that are to be told now.
    pub(super) fn due(&mut self, now: Instant) -> Option<Vec<(NodeId, Claim)>> {
        self.poll_timeout().filter(|at| *at <= now)?;
        self.next_at = now + OBSERVE_EVERY;
        Some(std::mem::take(&mut self.seen).into_iter().collect())
    }
}

/// Nodes that may connect but find no port, in the order in which they are served.
#[derive(Debug)]
pub(super) struct Portless {
    nodes: VecDeque<NodeId>,
    next_at: Instant,
}

impl Portless {
    pub(super) fn new(now: Instant) -> Self {
        Self { nodes: VecDeque::new(), next_at: now }
    }

    pub(super) fn push(&mut self, node: NodeId) {
        if !self.nodes.contains(&node) {
            self.nodes.push_back(node);
        }
    }

    pub(super) fn remove(&mut self, node: NodeId) {
        self.nodes.retain(|waiting| *waiting != node);
    }

    pub(super) fn first(&self) -> Option<NodeId> {
        self.nodes.front().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (!self.nodes.is_empty()).then_some(self.next_at)
    }

    /// Whether it is to be looked for ports now; not again before a while.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.poll_timeout().is_some_and(|at| at <= now);
        if is_due {
            self.next_at = now + PORTS_EVERY;
        }
        is_due
    }
}
