//! Peers known from before: named at the start, remembered when they are reached, forgotten when their right ends.

use std::time::{Duration, Instant};

use ipop_datapath::node_id::NodeId;

use super::{Action, Links};
use crate::{
    peer::NamedBy,
    trust::{
        Claim, Naming, SavedPeers,
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
    pub(super) fn new(saved: SavedPeers, room: String, now: Instant) -> Self {
        Self { saved, room, next_look: now + LOOK_EVERY, changed: Changed::No, save_at: now }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        match self.changed {
            Changed::No => self.next_look,
            Changed::Yes => self.next_look.min(self.save_at),
        }
    }

    /// Whether the node was connected before, by right of this room.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.saved.of_room(&self.room, u64::MAX, 0).any(|peer| peer.node == node)
    }

    /// Account and name that the node had when it was connected last.
    pub(super) fn claim_of(&self, node: NodeId) -> Option<Claim> {
        let mut all = self.saved.of_room(&self.room, u64::MAX, 0);
        all.find(|peer| peer.node == node).and_then(|peer| peer.claim.clone())
    }

    /// Saved nodes of accounts for which this holds.
    pub(super) fn nodes_of(&self, account: impl Fn(&str) -> bool) -> Vec<NodeId> {
        let all = self.saved.of_room(&self.room, u64::MAX, 0);
        let of =
            all.filter(|peer| peer.claim.as_ref().is_some_and(|claim| account(&claim.account)));
        of.map(|peer| peer.node).collect()
    }
}

impl Links {
    /// Names the saved peers whose right still lasts.
    pub(super) fn name_saved(&mut self, now: Instant) {
        let unix_s = self.unix_s(now);
        for peer in self.memory.saved.of_room(&self.memory.room, DEFAULT_KEEP_S, unix_s) {
            let (claim, addresses) = (peer.claim.clone(), peer.addresses.clone());
            self.trust.name(peer.node, Naming::Saved { claim, addresses });
        }
    }

    /// A peer of the room is connected, or is reached another way.
    pub(super) fn remember(&mut self, now: Instant, node: NodeId) {
        let unix_s = self.unix_s(now);
        let Some(link) = self.links.get(&node).filter(|link| link.connection.is_some()) else {
            return;
        };
        let seen =
            Seen { node, claim: Some(&link.claim), room: &self.memory.room, address: link.address };
        if self.memory.saved.seen(&seen, unix_s) {
            self.memory.changed = Changed::Yes;
        }
        let claim = Some(link.claim.clone());
        let addresses = link.address.into_iter().collect();
        self.trust.name(node, Naming::Saved { claim, addresses });
    }

    pub(super) fn remember_all(&mut self, now: Instant) {
        for node in self.links.keys().copied().collect::<Vec<_>>() {
            self.remember(now, node);
        }
    }

    /// Renews, expires and saves, as far as it is time.
    pub(super) fn look_after_memory(&mut self, now: Instant) {
        if self.memory.next_look <= now {
            self.memory.next_look = now + LOOK_EVERY;
            self.remember_all(now);
            let unix_s = self.unix_s(now);
            for node in self.memory.saved.expire(DEFAULT_KEEP_S, unix_s) {
                self.trust.unname(node, NamedBy::Saved);
            }
            self.memory.changed = Changed::Yes;
        }
        if self.memory.changed == Changed::Yes && self.memory.save_at <= now {
            self.memory.save_at = now + SAVE_EVERY;
            self.save();
        }
    }

    pub(super) fn save(&mut self) {
        self.memory.changed = Changed::No;
        self.actions.push_back(Action::Save(self.memory.saved.clone()));
    }

    /// The room took a node's right back.
    pub(super) fn forget_saved(&mut self, node: NodeId) {
        self.trust.unname(node, NamedBy::Saved);
        let room = self.memory.room.clone();
        if self.memory.saved.revoke(node, &room) {
            // At the next opportunity: a right that was taken back must not return with a restart.
            self.memory.changed = Changed::Yes;
        }
    }
}

impl Links {
    /// The room's name.
    pub(super) fn memory_room(&self) -> &str {
        &self.memory.room
    }
}
