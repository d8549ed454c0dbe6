//! Peers known from before: named at the start, remembered when they are reached, forgotten when their right ends.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;

use super::{Action, Links};
use crate::{
    peer::PeerSource,
    sessions::{Input, NamedPeer},
    trust::{
        Claim, SavedPeers, Standing,
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
    /// Those that are named to trust now.
    named: BTreeSet<NodeId>,
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
        let (named, changed) = (BTreeSet::new(), Changed::No);
        Self { saved, room, next_look: now + LOOK_EVERY, named, changed, save_at: now }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        match self.changed {
            Changed::No => self.next_look,
            Changed::Yes => self.next_look.min(self.save_at),
        }
    }

    pub(super) fn names_anybody(&self) -> bool {
        !self.named.is_empty()
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
        self.name_those_saved(now, |_| true);
    }

    /// Names a peer again, if it is a saved one whose right still lasts: the operator let it in.
    pub(super) fn name_saved_again(&mut self, now: Instant, node: NodeId) {
        self.name_those_saved(now, |saved| saved == node);
    }

    fn name_those_saved(&mut self, now: Instant, which: impl Fn(NodeId) -> bool) {
        let unix_s = self.unix_s(now);
        let lasting = self.memory.saved.of_room(&self.memory.room, DEFAULT_KEEP_S, unix_s);
        let saved: Vec<_> = lasting.filter(|peer| which(peer.node)).cloned().collect();
        for peer in saved {
            let node = peer.node;
            let standing = self.trust.name(node, PeerSource::Saved, peer.claim);
            if let Standing::Admitted(port) = standing {
                self.memory.named.insert(node);
                let (source, last_addresses) = (PeerSource::Saved, peer.addresses);
                let named = NamedPeer { node, port, source, address: None, last_addresses };
                self.actions.push_back(Action::Sessions(Input::Named(named)));
            }
        }
        self.follow_strangers();
    }

    /// A peer of the room is connected, or is reached another way.
    pub(super) fn remember(&mut self, now: Instant, node: NodeId) {
        let unix_s = self.unix_s(now);
        let Some(link) = self.links.get(&node).filter(|link| link.connection.is_some()) else {
            return;
        };
        let before = self.memory.saved.clone();
        let seen =
            Seen { node, claim: Some(&link.claim), room: &self.memory.room, address: link.address };
        self.memory.saved.seen(&seen, unix_s);
        if self.memory.saved != before {
            self.memory.changed = Changed::Yes;
        }
        let claim = Some(link.claim.clone());
        let last_addresses: Vec<_> = link.address.into_iter().collect();
        if let Standing::Admitted(port) = self.trust.name(node, PeerSource::Saved, claim) {
            let source = PeerSource::Saved;
            let named = NamedPeer { node, port, source, address: None, last_addresses };
            self.actions.push_back(Action::Sessions(Input::Named(named)));
            self.memory.named.insert(node);
            self.follow_strangers();
        }
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
                self.unname_saved(node);
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
        let room = self.memory.room.clone();
        if self.memory.saved.revoke(node, &room) {
            self.unname_saved(node);
            // At the next opportunity: a right that was taken back must not return with a restart.
            self.memory.changed = Changed::Yes;
        }
    }

    fn unname_saved(&mut self, node: NodeId) {
        self.trust.unname(node, PeerSource::Saved);
        self.memory.named.remove(&node);
        self.follow_strangers();
        let source = PeerSource::Saved;
        self.actions.push_back(Action::Sessions(Input::Unnamed { peer: node, source }));
    }
}

impl Links {
    /// The room's name.
    pub(super) fn memory_room(&self) -> &str {
        &self.memory.room
    }
}
