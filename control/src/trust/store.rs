//! What the operator decided about single nodes: accepted, waiting, denied. Pure; [`super::StateFile`] keeps it.
//!
//! Under [`super::Policy::FirstSight`] a key is bound to the node's *name* within its account when it is first seen: the same name with
//! another key is refused and reported, and only the operator can resolve it. The list of those who wait is bounded, the oldest gives way:
//! whoever runs the server can invent nodes without end.

use ipop_datapath::node_id::NodeId;
use serde::{Deserialize, Serialize};

use super::{
    NewNodes,
    file::{Versioned, node_text},
};

/// Nodes that may wait at once.
pub const MAX_PENDING: usize = 64;
/// Nodes that are accepted, and that are denied, at most.
pub const MAX_DECIDED: usize = 4_096;
/// The longest name or account that is kept, in bytes.
const MAX_TEXT_LEN: usize = 256;

/// How a node of a room presents itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Its account: a bare JID, which the server vouches for.
    pub account: String,
    /// The name that it gives itself.
    pub name: String,
}

/// A node that was accepted or waits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its key.
    #[serde(with = "node_text")]
    pub node: NodeId,
    /// The account and name that it was seen with; absent if it was accepted by its id alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// When it was accepted, or seen first, seconds since 1970.
    pub since_unix_s: u64,
}

/// A node that was denied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    /// Its key.
    #[serde(with = "node_text")]
    pub node: NodeId,
    /// The name that it had, if it had one here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Since when, seconds since 1970.
    pub since_unix_s: u64,
}

/// All decisions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TrustStore {
    accepted: Vec<Entry>,
    pending: Vec<Entry>,
    denied: Vec<Denied>,
}

impl Versioned for TrustStore {
    const VERSION: u32 = 1;
    const FILE_NAME: &'static str = "trust.toml";
    const CURE: &'static str = "restore it from a backup, or move it away: then every node has to be accepted again, and denied ones denied";
}

/// What a look at a node's presence leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Observed {
    /// Nothing new.
    Known,
    /// It was accepted now.
    Accepted,
    /// It waits, from now on.
    NowPending,
    /// Its name belongs to this node; seen for the first time.
    KeyChanged(NodeId),
}

/// Why a command cannot be carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// No such node.
    #[error(
        "no node is called {0:?} here; `ipop-switch trust list` shows them, and a node id always works"
    )]
    Unknown(String),
    /// Several.
    #[error(
        "{count} nodes are called {name:?}; give the node id, as `ipop-switch trust list` shows it"
    )]
    Ambiguous {
        /// The name.
        name: String,
        /// How many have it.
        count: usize,
    },
    /// The name is taken.
    #[error(
        "its name {name:?} belongs to node {known}; if it is the same host with a new key, run \
         `ipop-switch trust forget {known}` first"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        known: NodeId,
    },
    /// The list is full.
    #[error("{MAX_DECIDED} nodes are there already; forget some that are gone")]
    Full,
}

impl TrustStore {
    /// Nodes that may connect.
    pub fn accepted(&self) -> &[Entry] {
        &self.accepted
    }

    /// Nodes that wait, the oldest first.
    pub fn pending(&self) -> &[Entry] {
        &self.pending
    }

    /// Nodes that may not connect, whatever names them.
    pub fn denied(&self) -> &[Denied] {
        &self.denied
    }

    /// Whether the operator accepted this key.
    pub fn is_accepted(&self, node: NodeId) -> bool {
        self.accepted.iter().any(|entry| entry.node == node)
    }

    /// Whether the operator denied this key.
    pub fn is_denied(&self, node: NodeId) -> bool {
        self.denied.iter().any(|entry| entry.node == node)
    }

    /// The accepted node that has this name in this account.
    pub fn holder_of(&self, claim: &Claim) -> Option<NodeId> {
        let same = |entry: &&Entry| entry.claim.as_ref() == Some(claim);
        self.accepted.iter().find(same).map(|entry| entry.node)
    }

    /// A node is in the room. `now_unix_s` is in seconds since 1970.
    pub fn observe(
        &mut self,
        node: NodeId,
        claim: &Claim,
        new: NewNodes,
        now_unix_s: u64,
    ) -> Observed {
        if self.is_denied(node) {
            return Observed::Known;
        }
        let claim = Claim { account: cut(&claim.account), name: cut(&claim.name) };
        if let Some(known) = self.accepted.iter_mut().find(|entry| entry.node == node) {
            // Accepted by its id alone: now its name is its own.
            let nameless = known.claim.is_none();
            if nameless && self.holder_of(&claim).is_none() {
                self.bind(node, claim);
            }
            return Observed::Known;
        }
        let waits = self.pending.iter().any(|entry| entry.node == node);
        let holder = self.holder_of(&claim);
        if holder.is_none() && new == NewNodes::Accept && self.accepted.len() < MAX_DECIDED {
            self.pending.retain(|entry| entry.node != node);
            self.accepted.push(Entry { node, claim: Some(claim), since_unix_s: now_unix_s });
            return Observed::Accepted;
        }
        if waits {
            return Observed::Known;
        }
        if self.pending.len() == MAX_PENDING {
            self.pending.remove(0);
        }
        self.pending.push(Entry { node, claim: Some(claim), since_unix_s: now_unix_s });
        holder.map_or(Observed::NowPending, Observed::KeyChanged)
    }

    /// Lets a node in: by its id, or by the name of one that waits.
    ///
    /// # Errors
    /// When the name fits none or several, or is another node's.
    pub fn accept(&mut self, node_or_name: &str, now_unix_s: u64) -> Result<NodeId, StoreError> {
        let node = self.find(node_or_name, &[List::Pending])?;
        let claim =
            self.pending.iter().find(|entry| entry.node == node).and_then(|e| e.claim.clone());
        if let Some(claim) = &claim
            && let Some(known) = self.holder_of(claim).filter(|known| *known != node)
        {
            return Err(StoreError::NameTaken { name: claim.name.clone(), known });
        }
        self.pending.retain(|entry| entry.node != node);
        self.denied.retain(|entry| entry.node != node);
        if !self.is_accepted(node) {
            if self.accepted.len() == MAX_DECIDED {
                return Err(StoreError::Full);
            }
            self.accepted.push(Entry { node, claim, since_unix_s: now_unix_s });
        }
        Ok(node)
    }

    /// Keeps a node out, whatever names it: by its id, or by a name that is known here.
    ///
    /// # Errors
    /// When the name fits none or several.
    pub fn deny(&mut self, node_or_name: &str, now_unix_s: u64) -> Result<NodeId, StoreError> {
        let node = self.find(node_or_name, &[List::Pending, List::Accepted])?;
        if self.is_denied(node) {
            return Ok(node);
        }
        if self.denied.len() == MAX_DECIDED {
            return Err(StoreError::Full);
        }
        let known = self.pending.iter().chain(&self.accepted).find(|entry| entry.node == node);
        let name = known.and_then(|entry| Some(entry.claim.as_ref()?.name.clone()));
        self.pending.retain(|entry| entry.node != node);
        self.accepted.retain(|entry| entry.node != node);
        self.denied.push(Denied { node, name, since_unix_s: now_unix_s });
        Ok(node)
    }

    /// Takes back every decision about a node: by its id, or by a name that is known here.
    ///
    /// # Errors
    /// When the name fits none or several, or nothing was decided about the node.
    pub fn forget(&mut self, node_or_name: &str) -> Result<NodeId, StoreError> {
        let lists = [List::Pending, List::Accepted, List::Denied];
        let node = self.find(node_or_name, &lists)?;
        let count = |store: &Self| store.accepted.len() + store.pending.len() + store.denied.len();
        let before = count(self);
        self.accepted.retain(|entry| entry.node != node);
        self.pending.retain(|entry| entry.node != node);
        self.denied.retain(|entry| entry.node != node);
        if count(self) == before {
            return Err(StoreError::Unknown(node_or_name.into()));
        }
        Ok(node)
    }

    fn bind(&mut self, node: NodeId, claim: Claim) {
        if let Some(entry) = self.accepted.iter_mut().find(|entry| entry.node == node) {
            entry.claim = Some(claim);
        }
    }

    fn find(&self, node_or_name: &str, lists: &[List]) -> Result<NodeId, StoreError> {
        if let Ok(node) = node_or_name.parse() {
            return Ok(node);
        }
        let mut found: Vec<NodeId> = Vec::new();
        for list in lists {
            found.extend(self.named(*list, node_or_name));
        }
        found.dedup();
        match found[..] {
            [] => Err(StoreError::Unknown(node_or_name.into())),
            [node] => Ok(node),
            _ => Err(StoreError::Ambiguous { name: node_or_name.into(), count: found.len() }),
        }
    }

    fn named(&self, list: List, name: &str) -> Vec<NodeId> {
        let of_entries = |entries: &[Entry]| {
            let named = |entry: &&Entry| entry.claim.as_ref().is_some_and(|c| c.name == name);
            entries.iter().filter(named).map(|entry| entry.node).collect()
        };
        match list {
            List::Accepted => of_entries(&self.accepted),
            List::Pending => of_entries(&self.pending),
            List::Denied => {
                let named = |entry: &&Denied| entry.name.as_deref() == Some(name);
                self.denied.iter().filter(named).map(|entry| entry.node).collect()
            }
        }
    }
}

#[derive(Clone, Copy)]
enum List {
    Accepted,
    Pending,
    Denied,
}

/// What strangers call themselves ends up in a file and on terminals.
pub(super) fn cut(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(MAX_TEXT_LEN)];
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32) -> NodeId {
        NodeId::of_spki(&number.to_be_bytes())
    }

    fn claim(account: &str, name: &str) -> Claim {
        Claim { account: account.into(), name: name.into() }
    }

    #[test]
    fn a_new_node_waits_until_it_is_accepted() {
        let mut store = TrustStore::default();
        let rack7 = claim("a@x", "rack7");
        assert_eq!(store.observe(node(1), &rack7, NewNodes::Wait, 5), Observed::NowPending);
        assert_eq!(store.observe(node(1), &rack7, NewNodes::Wait, 6), Observed::Known);
        assert!(!store.is_accepted(node(1)));
        assert_eq!(store.accept("rack7", 7), Ok(node(1)));
        assert!(store.is_accepted(node(1)) && store.pending().is_empty());
        assert_eq!(store.observe(node(1), &rack7, NewNodes::Wait, 8), Observed::Known);
        assert_eq!(store.accept("rack7", 7), Err(StoreError::Unknown("rack7".into())));
    }

    #[test]
    fn whatever_was_decided_is_listed_and_can_be_taken_back() {
        let listed = |store: &TrustStore| {
            [store.pending().len(), store.accepted().len(), store.denied().len()]
        };
        let mut store = TrustStore::default();
        let rack7 = claim("a@x", "rack7");
        store.observe(node(1), &rack7, NewNodes::Wait, 5);
        assert_eq!((listed(&store), store.forget("rack7")), ([1, 0, 0], Ok(node(1))));
        store.observe(node(1), &rack7, NewNodes::Accept, 5);
        assert_eq!((listed(&store), store.forget("rack7")), ([0, 1, 0], Ok(node(1))));
        store.deny(&node(1).to_string(), 5).unwrap();
        assert_eq!((listed(&store), store.forget(&node(1).to_string())), ([0, 0, 1], Ok(node(1))));
        assert_eq!(listed(&store), [0; 3]);
    }

    #[test]
    fn another_key_under_a_known_name_is_not_accepted_by_itself_or_by_mistake() {
        let mut store = TrustStore::default();
        let rack7 = claim("a@x", "rack7");
        assert_eq!(store.observe(node(1), &rack7, NewNodes::Accept, 5), Observed::Accepted);
        let changed = Observed::KeyChanged(node(1));
        assert_eq!(store.observe(node(2), &rack7, NewNodes::Accept, 6), changed);
        assert!(!store.is_accepted(node(2)));
        let error = store.accept("rack7", 7).unwrap_err();
        assert_eq!(error, StoreError::NameTaken { name: "rack7".into(), known: node(1) });
        assert!(error.to_string().contains(&format!("trust forget {}", node(1))));
        assert_eq!(store.forget(&node(1).to_string()), Ok(node(1)));
        assert_eq!(store.accept("rack7", 8), Ok(node(2)));
        // The same name in another account is another node.
        let elsewhere = claim("b@x", "rack7");
        assert_eq!(store.observe(node(3), &elsewhere, NewNodes::Accept, 9), Observed::Accepted);
        assert!(matches!(store.deny("rack7", 9), Err(StoreError::Ambiguous { count: 2, .. })));
    }

    #[test]
    fn a_denied_node_stays_out_until_it_is_forgotten_or_accepted() {
        let mut store = TrustStore::default();
        let rack7 = claim("a@x", "rack7");
        store.observe(node(1), &rack7, NewNodes::Accept, 5);
        assert_eq!(store.deny("rack7", 6), Ok(node(1)));
        assert!(store.is_denied(node(1)) && !store.is_accepted(node(1)));
        assert_eq!(store.observe(node(1), &rack7, NewNodes::Accept, 7), Observed::Known);
        assert!(store.pending().is_empty());
        assert_eq!(store.forget("rack7"), Ok(node(1)));
        assert!(store.forget("rack7").is_err());
        let by_id = node(9).to_string();
        assert_eq!(store.deny(&by_id, 8), Ok(node(9)));
        assert_eq!(store.accept(&by_id, 9), Ok(node(9)));
        assert!(!store.is_denied(node(9)) && store.is_accepted(node(9)));
    }

    #[test]
    fn a_node_accepted_by_its_id_gets_its_name_when_it_is_seen() {
        let mut store = TrustStore::default();
        store.accept(&node(1).to_string(), 5).unwrap();
        let rack7 = claim("a@x", "rack7");
        store.observe(node(1), &rack7, NewNodes::Wait, 6);
        assert_eq!(store.holder_of(&rack7), Some(node(1)));
        store.observe(node(1), &claim("a@x", "rack8"), NewNodes::Wait, 6);
        assert_eq!(store.holder_of(&rack7), Some(node(1)), "the name is bound once");
    }

    #[test]
    fn decisions_are_bounded_and_a_new_one_says_so() {
        let mut store = TrustStore::default();
        let decided = MAX_DECIDED as u32;
        for number in 0..decided {
            store.accept(&node(number).to_string(), 5).unwrap();
        }
        let another = node(decided);
        assert_eq!(store.accept(&another.to_string(), 6), Err(StoreError::Full));
        let observed = store.observe(another, &claim("a@x", "rack7"), NewNodes::Accept, 7);
        assert_eq!(observed, Observed::NowPending, "nobody is accepted by itself any more");
        for number in 0..decided {
            store.deny(&node(number).to_string(), 8).unwrap();
        }
        assert_eq!(store.deny(&another.to_string(), 9), Err(StoreError::Full));
        assert_eq!(store.accept(&another.to_string(), 10), Ok(another), "those lists are two");
    }

    #[test]
    fn those_who_wait_are_bounded_and_their_texts_too() {
        let mut store = TrustStore::default();
        for number in 0..1_000 {
            let claim = claim(&"é\n".repeat(300), &number.to_string());
            store.observe(node(number), &claim, NewNodes::Wait, 5);
        }
        assert_eq!(store.pending().len(), MAX_PENDING);
        let newest = &store.pending()[MAX_PENDING - 1];
        assert_eq!(newest.node, node(999));
        let account = &newest.claim.as_ref().unwrap().account;
        assert!(account.len() <= MAX_TEXT_LEN && !account.contains('\n'));
    }
}
