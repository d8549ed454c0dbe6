//! Peers that were connected before: found again without the server. Pure; [`super::StateFile`] keeps it.
//!
//! The right to connect that a node had by its room lasts for a bounded time since it was last seen, and ends at once when the room takes
//! it back.

use std::{collections::BTreeMap, net::SocketAddr};

use ipop_datapath::node_id::NodeId;
use serde::{Deserialize, Serialize};

use super::{
    file::{Versioned, node_text},
    store::{Claim, cut},
};
use crate::sessions::MAX_PEERS;

/// How long a right lasts without the node being seen, unless told otherwise: 7 days, in seconds.
pub const DEFAULT_KEEP_S: u64 = 7 * 24 * 3_600;
/// Addresses kept of each peer.
pub const MAX_ADDRESSES: usize = 8;

/// One peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPeer {
    /// Its key.
    #[serde(with = "node_text")]
    pub node: NodeId,
    /// Account and name that it had in the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// The room that its right comes from.
    pub room: String,
    /// When it was connected last, seconds since 1970.
    pub last_seen_unix_s: u64,
    /// Addresses at which it was reached, the latest first, at most [`MAX_ADDRESSES`].
    #[serde(default)]
    pub addresses: Vec<SocketAddr>,
}

/// All of them, at most [`MAX_PEERS`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedPeers {
    #[serde(with = "list")]
    peer: BTreeMap<NodeId, SavedPeer>,
}

/// In the file they are a list, in the order of their ids.
mod list {
    use std::collections::BTreeMap;

    use ipop_datapath::node_id::NodeId;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::SavedPeer;

    type Peers = BTreeMap<NodeId, SavedPeer>;

    pub(super) fn serialize<S: Serializer>(peers: &Peers, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(peers.values())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Peers, D::Error> {
        let peers = Vec::<SavedPeer>::deserialize(from)?;
        Ok(peers.into_iter().map(|peer| (peer.node, peer)).collect())
    }
}

impl Versioned for SavedPeers {
    const VERSION: u32 = 1;
    const FILE_NAME: &'static str = "saved-peers.toml";
    const CURE: &'static str = "delete it: the peers are found again through the room";
}

/// A peer is connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen<'a> {
    /// Which.
    pub node: NodeId,
    /// Account and name, if they are known.
    pub claim: Option<&'a Claim>,
    /// The room that its right comes from.
    pub room: &'a str,
    /// Where it is reached, unless that is through a relay.
    pub address: Option<SocketAddr>,
}

impl SavedPeers {
    /// Notes that a peer is connected; whether that is anything new. `now_unix_s` is in seconds since 1970.
    pub fn seen(&mut self, seen: &Seen<'_>, now_unix_s: u64) -> bool {
        if !self.peer.contains_key(&seen.node) {
            self.make_room();
        }
        let peer = self.peer.entry(seen.node).or_insert_with(|| SavedPeer {
            node: seen.node,
            claim: None,
            room: String::new(),
            last_seen_unix_s: now_unix_s,
            addresses: Vec::new(),
        });
        let before = peer.clone();
        peer.last_seen_unix_s = now_unix_s;
        peer.room = cut(seen.room);
        if let Some(claim) = seen.claim {
            peer.claim = Some(Claim { account: cut(&claim.account), name: cut(&claim.name) });
        }
        if let Some(address) = seen.address
            && peer.addresses.first() != Some(&address)
        {
            peer.addresses.retain(|known| *known != address);
            peer.addresses.insert(0, address);
            peer.addresses.truncate(MAX_ADDRESSES);
        }
        *peer != before
    }

    /// The room took the node's right back. Returns whether it was known by right of that room.
    pub fn revoke(&mut self, node: NodeId, room: &str) -> bool {
        let is_of_room = self.get(node, room).is_some();
        if is_of_room {
            self.peer.remove(&node);
        }
        is_of_room
    }

    /// A node, if it is known by right of this room.
    pub fn get(&self, node: NodeId, room: &str) -> Option<&SavedPeer> {
        self.peer.get(&node).filter(|peer| peer.room == room)
    }

    /// Those of this room whose right still lasts. A clock that went back keeps everybody.
    pub fn of_room(
        &self,
        room: &str,
        keep_s: u64,
        now_unix_s: u64,
    ) -> impl Iterator<Item = &SavedPeer> {
        let lasts = move |peer: &&SavedPeer| {
            now_unix_s.saturating_sub(peer.last_seen_unix_s) < keep_s && peer.room == room
        };
        self.peer.values().filter(lasts)
    }

    /// Forgets those whose right has ended; returns them.
    pub fn expire(&mut self, keep_s: u64, now_unix_s: u64) -> Vec<NodeId> {
        let ended = |_: &NodeId, peer: &mut SavedPeer| {
            now_unix_s.saturating_sub(peer.last_seen_unix_s) >= keep_s
        };
        self.peer.extract_if(.., ended).map(|(node, _)| node).collect()
    }

    /// For a new peer: the one not seen for longest gives way.
    fn make_room(&mut self) {
        if self.peer.len() >= MAX_PEERS {
            let oldest = self.peer.values().min_by_key(|peer| peer.last_seen_unix_s);
            if let Some(oldest) = oldest.map(|peer| peer.node) {
                self.peer.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: &str = "vmnet@muc.example.org";

    fn node(number: u32) -> NodeId {
        NodeId::of_spki(&number.to_be_bytes())
    }

    fn seen(number: u32, address: Option<u16>) -> Seen<'static> {
        let address = address.map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        Seen { node: node(number), claim: None, room: ROOM, address }
    }

    fn nodes(peers: &SavedPeers, keep_s: u64, now_s: u64) -> Vec<NodeId> {
        peers.of_room(ROOM, keep_s, now_s).map(|peer| peer.node).collect()
    }

    #[test]
    fn the_address_seen_last_comes_first_and_each_is_kept_once() {
        let mut peers = SavedPeers::default();
        for port in [1, 2, 1, 3, 3] {
            peers.seen(&seen(1, Some(port)), 100);
        }
        let ports: Vec<u16> =
            peers.get(node(1), ROOM).unwrap().addresses.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [3, 1, 2]);
    }

    #[test]
    fn a_right_lasts_a_while_and_ends_with_revocation() {
        let mut peers = SavedPeers::default();
        peers.seen(&seen(1, None), 100);
        peers.seen(&seen(2, None), 200);
        let mut both = [node(1), node(2)];
        both.sort_unstable();
        assert_eq!(nodes(&peers, 150, 210), both);
        assert_eq!(nodes(&peers, 150, 250), [node(2)]);
        assert_eq!(nodes(&peers, 150, 50), both, "the clock went back");
        assert_eq!(peers.expire(150, 250), [node(1)]);
        assert!(!peers.revoke(node(2), "other@muc.example.org"));
        assert!(peers.revoke(node(2), ROOM));
        assert_eq!(nodes(&peers, 150, 210), []);
    }

    #[test]
    fn the_latest_addresses_are_kept_and_the_peers_seen_last() {
        let mut peers = SavedPeers::default();
        for port in (1..20).chain([15]) {
            peers.seen(&seen(0, Some(port)), 100);
        }
        let ports: Vec<u16> =
            peers.get(node(0), ROOM).unwrap().addresses.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [15, 19, 18, 17, 16, 14, 13, 12]);
        for number in (1..=MAX_PEERS as u32).chain([MAX_PEERS as u32]) {
            peers.seen(&seen(number, None), 100 + u64::from(number));
        }
        let left = nodes(&peers, DEFAULT_KEEP_S, 200);
        assert_eq!((left.len(), peers.get(node(0), ROOM)), (MAX_PEERS, None));
    }
}
