//! Peers that were connected before: found again without the server. Pure; [`super::StateFile`] keeps it.
//!
//! The right to connect that a node had by its room lasts for a bounded time since it was last seen, and ends at once when the room takes
//! it back.

use std::net::SocketAddr;

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
    peer: Vec<SavedPeer>,
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
        let index = self.peer.iter().position(|peer| peer.node == seen.node);
        let index = index.unwrap_or_else(|| self.insert(seen, now_unix_s));
        let peer = &mut self.peer[index];
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
        let before = self.peer.len();
        self.peer.retain(|peer| peer.node != node || peer.room != room);
        self.peer.len() != before
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
        self.peer.iter().filter(lasts)
    }

    /// Forgets those whose right has ended; returns them.
    pub fn expire(&mut self, keep_s: u64, now_unix_s: u64) -> Vec<NodeId> {
        let ended =
            |peer: &mut SavedPeer| now_unix_s.saturating_sub(peer.last_seen_unix_s) >= keep_s;
        self.peer.extract_if(.., ended).map(|peer| peer.node).collect()
    }

    /// A place for a new peer; the one not seen for longest gives way.
    fn insert(&mut self, seen: &Seen<'_>, now_unix_s: u64) -> usize {
        if self.peer.len() >= MAX_PEERS {
            let oldest = self.peer.iter().enumerate().min_by_key(|(_, peer)| peer.last_seen_unix_s);
            if let Some((index, _)) = oldest {
                self.peer.remove(index);
            }
        }
        self.peer.push(SavedPeer {
            node: seen.node,
            claim: None,
            room: String::new(),
            last_seen_unix_s: now_unix_s,
            addresses: Vec::new(),
        });
        self.peer.len() - 1
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
        let ports: Vec<u16> = peers.peer[0].addresses.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [3, 1, 2]);
    }

    #[test]
    fn a_right_lasts_a_while_and_ends_with_revocation() {
        let mut peers = SavedPeers::default();
        peers.seen(&seen(1, None), 100);
        peers.seen(&seen(2, None), 200);
        assert_eq!(nodes(&peers, 150, 210), [node(1), node(2)]);
        assert_eq!(nodes(&peers, 150, 250), [node(2)]);
        assert_eq!(nodes(&peers, 150, 50), [node(1), node(2)], "the clock went back");
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
        let ports: Vec<u16> = peers.peer[0].addresses.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [15, 19, 18, 17, 16, 14, 13, 12]);
        for number in 1..=MAX_PEERS as u32 {
            peers.seen(&seen(number, None), 100 + u64::from(number));
        }
        let left = nodes(&peers, DEFAULT_KEEP_S, 200);
        assert_eq!((left.len(), left[0]), (MAX_PEERS, node(1)));
    }
}
