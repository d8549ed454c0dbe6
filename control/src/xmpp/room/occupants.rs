//! Who is in the room, by nick and by real JID, and what of it has been told.
//!
//! A join lists everybody again. Entries carry the number of the join that last showed them, so that what stayed is not
//! told twice and what went while nobody listened is noticed when the list is complete.

use std::collections::{BTreeMap, BTreeSet};

use ipop_datapath::node_id::NodeId;
use xmpp_parsers::jid::{BareJid, FullJid};

use super::{card::Card, wire::Affiliation};

/// More occupants than this are ignored: a switch has no more peers.
pub const MAX_OCCUPANTS: usize = 1_024;

/// Somebody in the room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Occupant {
    /// The real address, by the room.
    pub jid: FullJid,
    /// The account's relation to the room.
    pub affiliation: Affiliation,
    /// What the occupant says of itself.
    pub card: Card,
}

#[derive(Debug)]
struct Entry {
    occupant: Occupant,
    join: u64,
    told: bool,
}

/// What an entry changed.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum OccupantChange {
    /// Nothing that others need to know.
    None,
    /// Somebody new, or the same one as somebody else: `gone` was told and is no more.
    New { gone: Option<Occupant> },
    /// Not taken: the table is full.
    Full,
    /// Not taken: this JID is here under another nick.
    JidTwice,
}

#[derive(Debug, Default)]
pub(super) struct Occupants {
    by_nick: BTreeMap<String, Entry>,
    nicks: BTreeMap<FullJid, String>,
    of_node: BTreeMap<NodeId, BTreeSet<String>>,
    untold: BTreeSet<String>,
}

impl Occupants {
    /// Takes in what a presence shows during or after the given join.
    pub(super) fn put(&mut self, nick: &str, occupant: Occupant, join: u64) -> OccupantChange {
        if let Some(other) = self.nicks.get(&occupant.jid).filter(|other| *other != nick).cloned() {
            if self.by_nick.get(&other).is_some_and(|entry| entry.join == join) {
                return OccupantChange::JidTwice;
            }
            // It changed its nick while nobody here listened. The JID is what counts, so this is the same entry.
            if let Some(entry) = self.take(&other) {
                self.take(nick);
                self.insert(nick, entry);
            }
        }
        if let Some(entry) = self.by_nick.get_mut(nick) {
            entry.join = join;
            if entry.occupant.jid == occupant.jid && entry.occupant.card == occupant.card {
                entry.occupant.affiliation = occupant.affiliation;
                return OccupantChange::None;
            }
        } else if self.by_nick.len() >= MAX_OCCUPANTS {
            return OccupantChange::Full;
        }
        let gone = self.remove(nick);
        self.insert(nick, Entry { occupant, join, told: false });
        OccupantChange::New { gone }
    }

    /// Removes a nick; returns its occupant if it had been told.
    pub(super) fn remove(&mut self, nick: &str) -> Option<Occupant> {
        let entry = self.take(nick)?;
        entry.told.then_some(entry.occupant)
    }

    fn insert(&mut self, nick: &str, entry: Entry) {
        let Occupant { jid, card, .. } = &entry.occupant;
        self.nicks.insert(jid.clone(), nick.to_owned());
        self.of_node.entry(card.node).or_default().insert(nick.to_owned());
        if !entry.told {
            self.untold.insert(nick.to_owned());
        }
        self.by_nick.insert(nick.to_owned(), entry);
    }

    fn take(&mut self, nick: &str) -> Option<Entry> {
        let entry = self.by_nick.remove(nick)?;
        let Occupant { jid, card, .. } = &entry.occupant;
        self.nicks.remove(jid);
        self.untold.remove(nick);
        if let Some(nicks) = self.of_node.get_mut(&card.node) {
            nicks.remove(nick);
            if nicks.is_empty() {
                self.of_node.remove(&card.node);
            }
        }
        Some(entry)
    }

    /// Gives an occupant another nick.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if from == to || self.by_nick.contains_key(to) {
            return;
        }
        if let Some(entry) = self.take(from) {
            self.insert(to, entry);
        }
    }

    /// Removes everybody that `which` picks; returns those that had been told.
    pub(super) fn remove_if(&mut self, which: impl Fn(&Occupant, u64) -> bool) -> Vec<Occupant> {
        let nicks: Vec<String> = self
            .by_nick
            .iter()
            .filter(|(_, entry)| which(&entry.occupant, entry.join))
            .map(|(nick, _)| nick.clone())
            .collect();
        nicks.iter().filter_map(|nick| self.remove(nick)).collect()
    }

    /// Those that were not told yet; they are now.
    pub(super) fn tell(&mut self) -> Vec<Occupant> {
        let tell = |nick: String| {
            let entry = self.by_nick.get_mut(&nick)?;
            entry.told = true;
            Some(entry.occupant.clone())
        };
        std::mem::take(&mut self.untold).into_iter().filter_map(tell).collect()
    }

    pub(super) fn jid_of(&self, nick: &str) -> Option<BareJid> {
        self.by_nick.get(nick).map(|entry| entry.occupant.jid.to_bare())
    }

    pub(super) fn told(&self) -> impl Iterator<Item = &Occupant> {
        self.by_nick.values().filter(|entry| entry.told).map(|entry| &entry.occupant)
    }

    /// Another occupant that says it has this occupant's node id.
    pub(super) fn twin(&self, occupant: &Occupant) -> Option<&Occupant> {
        let nicks = self.of_node.get(&occupant.card.node)?;
        let claimants = nicks.iter().filter_map(|nick| self.by_nick.get(nick));
        claimants.map(|entry| &entry.occupant).find(|other| other.jid != occupant.jid)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_nick.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupant(jid: &str, key: &str) -> Occupant {
        Occupant {
            jid: FullJid::new(jid).expect("a JID"),
            affiliation: Affiliation::Member,
            card: Card {
                node: NodeId::of_spki(key.as_bytes()),
                name: key.into(),
                version: String::new(),
                capabilities: Vec::new(),
            },
        }
    }

    #[test]
    fn a_second_join_tells_only_what_changed() {
        let mut occupants = Occupants::default();
        for name in ["a", "b", "c"] {
            let new = occupants.put(name, occupant(&format!("{name}@x/r"), name), 1);
            assert_eq!(new, OccupantChange::New { gone: None });
        }
        assert_eq!(occupants.tell().len(), 3);
        // In the second join a stayed, b took another nick, c is another node now, and d is new.
        assert_eq!(occupants.put("a", occupant("a@x/r", "a"), 2), OccupantChange::None);
        assert_eq!(occupants.put("b2", occupant("b@x/r", "b"), 2), OccupantChange::None);
        let gone = occupants.put("c", occupant("c@x/r", "other"), 2);
        assert_eq!(gone, OccupantChange::New { gone: Some(occupant("c@x/r", "c")) });
        occupants.put("d", occupant("d@x/r", "d"), 2);
        assert!(occupants.remove_if(|_, join| join != 2).is_empty());
        let told: Vec<String> = occupants.tell().into_iter().map(|o| o.card.name).collect();
        assert_eq!(told, ["other", "d"]);
        assert!(occupants.tell().is_empty());
        occupants.put("e", occupant("e2@x/r", "e"), 2);
        occupants.remove("e");
        let twin = |key: &str| occupants.twin(&occupant("e@x/r", key)).map(|twin| &twin.card.name);
        assert_eq!((twin("other"), twin("c")), (Some(&"other".to_owned()), None));
        assert_eq!(occupants.remove_if(|_, join| join != 3).len(), 4);
        let indexed = [occupants.nicks.len(), occupants.of_node.len(), occupants.untold.len()];
        assert_eq!((occupants.len(), indexed), (0, [0; 3]));
    }

    #[test]
    fn full_and_doubled() {
        let mut occupants = Occupants::default();
        for number in 0..MAX_OCCUPANTS {
            occupants.put(&number.to_string(), occupant(&format!("{number}@x/r"), "k"), 1);
        }
        assert_eq!(occupants.put("one more", occupant("more@x/r", "k"), 1), OccupantChange::Full);
        assert_eq!(occupants.put("7", occupant("8@x/r", "k"), 1), OccupantChange::JidTwice);
        assert_eq!(occupants.len(), MAX_OCCUPANTS);
    }
}
