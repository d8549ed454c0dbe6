//! When the next check of an unproved pair may be sent, and whose the checks are that were sent.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;

use super::stun::TransactionId;
use crate::timed::Timed;

/// Paced checks that may leave at once after a pause.
const BURST: u32 = 4;
/// Transactions of checks are forgotten after this: nobody waits for later answers.
const TRANSACTION_LIFETIME: Duration = Duration::from_secs(8);

/// One pace for the checks of all peers.
#[derive(Debug)]
pub(super) struct Pacer {
    pace: Duration,
    /// When the checks sent so far are paid for.
    paid_at: Instant,
}

impl Pacer {
    pub(super) fn new(pace: Duration, now: Instant) -> Self {
        Self { pace, paid_at: now }
    }

    pub(super) fn ready_at(&self) -> Instant {
        self.paid_at.checked_sub(self.pace * BURST).unwrap_or(self.paid_at)
    }

    /// A check is sent.
    pub(super) fn take(&mut self, now: Instant) {
        self.paid_at = self.paid_at.max(now) + self.pace;
    }
}

/// Whose checks of unproved pairs wait for the pacer, since when: the first triggered one of each peer, and the first other one.
#[derive(Debug, Default)]
pub(super) struct PacedChecks([Timed<NodeId, Instant>; 2]);

impl PacedChecks {
    pub(super) fn set(&mut self, peer: NodeId, at: [Option<Instant>; 2]) {
        for (queue, at) in self.0.iter_mut().zip(at) {
            match at {
                Some(at) => queue.insert(peer, at),
                None => drop(queue.remove(&peer)),
            }
        }
    }

    /// Whose check goes first of those that are due: triggered ones go before others.
    pub(super) fn first_due(&mut self, now: Instant) -> Option<NodeId> {
        self.0.iter_mut().find_map(|queue| queue.first_due(now))
    }

    /// When the first is due.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.0.iter().filter_map(Timed::next_wake).min()
    }
}

/// Checks that were sent, and to whom.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    peers: HashMap<TransactionId, NodeId>,
    by_age: VecDeque<(Instant, TransactionId)>,
}

impl Transactions {
    pub(super) fn insert(&mut self, now: Instant, transaction: TransactionId, peer: NodeId) {
        self.peers.insert(transaction, peer);
        self.by_age.push_back((now + TRANSACTION_LIFETIME, transaction));
    }

    pub(super) fn peer_of(&self, transaction: TransactionId) -> Option<NodeId> {
        self.peers.get(&transaction).copied()
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while self.by_age.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, transaction)) = self.by_age.pop_front() {
                self.peers.remove(&transaction);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggered_checks_go_first_and_then_those_due_first() {
        let start = Instant::now();
        let at = |ms| Some(start + Duration::from_millis(ms));
        let [one, two, three] = [1, 2, 3].map(|byte| NodeId([byte; 32]));
        let mut checks = PacedChecks::default();
        checks.set(one, [None, at(1)]);
        checks.set(two, [at(5), at(2)]);
        checks.set(three, [None, at(0)]);
        assert_eq!(checks.next_wake(), at(0));
        let first_due =
            |checks: &mut PacedChecks, ms| checks.first_due(start + Duration::from_millis(ms));
        assert_eq!(first_due(&mut checks, 4), Some(three));
        assert_eq!(first_due(&mut checks, 5), Some(two), "though others are due for longer");
        checks.set(two, [None, at(2)]);
        checks.set(three, [None, None]);
        assert_eq!((first_due(&mut checks, 5), first_due(&mut checks, 0)), (Some(one), None));
        checks.set(one, [None, None]);
        assert_eq!((checks.next_wake(), first_due(&mut checks, 5)), (at(2), Some(two)));
        checks.set(two, [None, None]);
        assert_eq!((checks.next_wake(), first_due(&mut checks, 5)), (None, None));
    }
}
