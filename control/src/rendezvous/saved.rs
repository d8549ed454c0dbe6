//! Peers known from before: named at the start, remembered when they are reached, forgotten when their right ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;

use super::Clock;
use crate::{
    peer::NamedBy,
    trust::{
        Claim, Naming, SavedPeer, SavedPeers, Trust,
        saved::{DEFAULT_KEEP_S, Seen},
    },
};

/// How often the time of last sight of connected peers is renewed, and expired rights are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Between two savings: each is a file to be written, and paths may change as fast as a peer likes.
const SAVE_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Memory {
    saved: SavedPeers,
    room: String,
    trust: Arc<Trust>,
    clock: Clock,
    next_look: Instant,
    /// Whether there is something to be saved, and when it may be.
    changed: Changed,
    save_at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Changed {
    No,
    Yes,
}

impl Memory {
    /// Names the saved peers whose right still lasts.
    pub(super) fn new(saved: SavedPeers, room: String, trust: Arc<Trust>, clock: Clock) -> Self {
        for peer in saved.of_room(&room, DEFAULT_KEEP_S, clock.unix_s) {
            let (claim, addresses) = (peer.claim.clone(), peer.addresses.clone());
            trust.name(peer.node, Naming::Saved { claim, addresses });
        }
        let (next_look, save_at) = (clock.at + LOOK_EVERY, clock.at);
        Self { saved, room, trust, clock, next_look, changed: Changed::No, save_at }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        match self.changed {
            Changed::No => self.next_look,
            Changed::Yes => self.next_look.min(self.save_at),
        }
    }

    /// The room's name.
    pub(super) fn room(&self) -> &str {
        &self.room
    }

    /// Whether the node was connected before, by right of this room.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.saved.get(node, &self.room).is_some()
    }

    /// Account and name that the node had when it was connected last.
    pub(super) fn claim_of(&self, node: NodeId) -> Option<Claim> {
        self.saved.get(node, &self.room).and_then(|peer| peer.claim.clone())
    }

    /// Saved nodes of accounts for which this holds.
    pub(super) fn nodes_of(&self, account: impl Fn(&str) -> bool) -> Vec<NodeId> {
        let is_of =
            |peer: &&SavedPeer| peer.claim.as_ref().is_some_and(|claim| account(&claim.account));
        let of_room = self.saved.of_room(&self.room, u64::MAX, 0);
        of_room.filter(is_of).map(|peer| peer.node).collect()
    }

    /// A peer is connected, perhaps at this address.
    pub(super) fn see(
        &mut self,
        now: Instant,
        node: NodeId,
        claim: &Claim,
        address: Option<std::net::SocketAddr>,
    ) {
        let seen = Seen { node, claim: Some(claim), room: &self.room, address };
        if self.saved.seen(&seen, self.clock.unix_s(now)) {
            self.changed = Changed::Yes;
        }
        let (claim, addresses) = (Some(claim.clone()), address.into_iter().collect());
        self.trust.name(node, Naming::Saved { claim, addresses });
    }

    pub(super) fn is_look_due(&self, now: Instant) -> bool {
        self.next_look <= now
    }

    /// After those who are connected have been seen: whose right has ended is named no longer.
    pub(super) fn expire(&mut self, now: Instant) {
        self.next_look = now + LOOK_EVERY;
        for node in self.saved.expire(DEFAULT_KEEP_S, self.clock.unix_s(now)) {
            self.trust.unname(node, NamedBy::Saved);
        }
        self.changed = Changed::Yes;
    }

    /// What is to be saved, as far as it is time.
    pub(super) fn due(&mut self, now: Instant) -> Option<SavedPeers> {
        if self.changed == Changed::No || self.save_at > now {
            return None;
        }
        self.save_at = now + SAVE_EVERY;
        Some(self.take_all())
    }

    pub(super) fn take_all(&mut self) -> SavedPeers {
        self.changed = Changed::No;
        self.saved.clone()
    }

    /// The room took a node's right back.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.trust.unname(node, NamedBy::Saved);
        if self.saved.revoke(node, &self.room) {
            // At the next opportunity: a right that was taken back must not return with a restart.
            self.changed = Changed::Yes;
        }
    }
}
