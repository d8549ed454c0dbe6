//! When the next check of an unproved pair may be sent, and whose the checks are that were sent.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;

use super::stun::TransactionId;

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
