//! Who in the room says which node it is: occupants come and go, several may say the same, and accounts lose their right.
//!
//! What an occupant says is a claim until a tunnel proves it. Signalling about a node goes to one claimant at a time, and as
//! long as no tunnel comes of it each gets its turn, so that whoever makes a false claim delays the true one and no more. A
//! node has its right as long as any account of the room that has one claims it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;
use xmpp_parsers::jid::FullJid;

use super::{Action, Rendezvous};
use crate::{
    notice::Notice,
    paths::Tunnel,
    peer::NamedBy,
    sessions::PeerPath,
    timed::Timer,
    trust::{Claim, Loss, Naming, NewNodes, Policy, Refusal, Standing},
    xmpp::room::Occupant,
};

/// A claimant whose claim has led to no tunnel for so long gives way to the next one with the same claim.
const CLAIM_PATIENCE: Duration = Duration::from_secs(8);
/// A node that has not connected for so long gives its port to one that finds none.
const PORT_PATIENCE: Duration = Duration::from_secs(60);

/// A node that the room names, or did.
#[derive(Debug)]
pub(super) struct Claimed {
    /// Of the present claimant, or of the last one if none is in the room.
    pub(super) claim: Claim,
    /// Occupants that say that they are it.
    pub(super) claims: BTreeMap<FullJid, Claim>,
    /// The one that signalling goes to, and since when.
    pub(super) current: Option<(FullJid, Instant)>,
    /// Since when it has a port.
    pub(super) admitted_at: Option<Instant>,
    /// What its link tells.
    pub(super) tunnel: Tunnel,
    pub(super) path: PeerPath,
    /// Without a path: when signalling begins anew, and the pause after that.
    pub(super) renewal: Option<(Instant, Duration)>,
}

impl Timer for Claimed {
    fn wake_at(&self) -> Option<Instant> {
        self.turn_ends().into_iter().chain(self.renew_at()).min()
    }
}

impl Claimed {
    fn new(claim: Claim) -> Self {
        Self {
            claim,
            claims: BTreeMap::new(),
            current: None,
            admitted_at: None,
            tunnel: Tunnel::Never,
            path: PeerPath::Down,
            renewal: None,
        }
    }

    /// Its link has ended; who claims to be it is still there.
    pub(super) fn begin_anew(&mut self) {
        let (claims, current) = (std::mem::take(&mut self.claims), self.current.take());
        *self = Self { claims, current, ..Self::new(self.claim.clone()) };
    }

    pub(super) fn is_connected(&self) -> bool {
        self.tunnel == Tunnel::Up
    }

    /// When signalling begins anew, if there is somebody to signal with.
    fn renew_at(&self) -> Option<Instant> {
        self.renewal.filter(|_| self.current.is_some()).map(|(at, _)| at)
    }

    /// When the present claimant gives way, if there is another one.
    fn turn_ends(&self) -> Option<Instant> {
        let waits = self.admitted_at.is_some() && !self.is_connected() && self.claims.len() > 1;
        let (_, since) = self.current.as_ref().filter(|_| waits)?;
        Some(*since + CLAIM_PATIENCE)
    }

    fn give_turn(&mut self, now: Instant, jid: &FullJid) {
        if let Some(claim) = self.claims.get(jid) {
            self.claim = claim.clone();
            self.current = Some((jid.clone(), now));
        }
    }

    /// The claimant after the present one: of the next account, so that an account with many sessions is no more likely.
    fn next_claimant(&self) -> Option<FullJid> {
        let Some((current, _)) = &self.current else { return self.claims.keys().next().cloned() };
        let account = current.to_bare();
        let others = |jid: &&FullJid| jid.to_bare() != account;
        let after = self.claims.keys().filter(others).find(|jid| *jid > current);
        let own = self.claims.keys().find(|jid| *jid != current);
        after.or_else(|| self.claims.keys().find(others)).or(own).cloned()
    }
}

impl Rendezvous {
    pub(super) fn occupant(&mut self, now: Instant, occupant: Occupant) {
        let (jid, node) = (occupant.jid, occupant.card.node);
        if node == self.trust.local() {
            return self.tell(Notice::OwnId { jid });
        }
        let claim = Claim { account: jid.to_bare().to_string(), name: occupant.card.name };
        self.by_jid.insert(jid.clone(), node);
        self.observed.insert(node, claim.clone());
        let known = self.memory.claim_of(node);
        let claimed = self.claimed.get_or_insert_with(node, || Claimed::new(claim.clone()));
        claimed.claims.insert(jid.clone(), claim.clone());
        // Who it was when it was connected is likelier to be it than somebody else.
        let is_known = known.is_some_and(|known| known.account == claim.account);
        if claimed.current.is_none() || is_known && !claimed.is_connected() {
            claimed.give_turn(now, &jid);
        }
        if claimed.claims.len() == 2 {
            self.tell(Notice::Contested { node });
        }
        self.judge(now, node);
    }

    pub(super) fn occupant_gone(&mut self, now: Instant, jid: &FullJid) {
        self.jingle.peer_gone(jid);
        let Some(node) = self.by_jid.remove(jid) else { return };
        self.claim_gone(now, node, jid);
        let nobody_is_left = |claimed: &&Claimed| claimed.claims.is_empty();
        let Some(claimed) = self.claimed.get(&node).filter(nobody_is_left) else { return };
        let is_admitted = claimed.admitted_at.is_some();
        self.trust.unname(node, NamedBy::Room);
        if !is_admitted {
            self.close(node);
        }
    }

    /// One claimant less. If signalling went to it, it goes to another one.
    fn claim_gone(&mut self, now: Instant, node: NodeId, jid: &FullJid) {
        let Some(claimed) = self.claimed.get_mut(&node) else { return };
        claimed.claims.remove(jid);
        if claimed.claims.is_empty() {
            self.observed.remove(&node);
            self.portless.remove(node);
        }
        if claimed.current.as_ref().is_some_and(|(current, _)| current == jid) {
            claimed.current = None;
            if let Some(next) = claimed.next_claimant() {
                self.turn_to(now, node, &next);
            }
        }
    }

    /// Signalling about a node goes to this claimant from now on, and begins anew.
    fn turn_to(&mut self, now: Instant, node: NodeId, jid: &FullJid) {
        let Some(claimed) = self.claimed.get_mut(&node) else { return };
        claimed.give_turn(now, jid);
        self.jingle.tell_again(jid);
    }

    /// The present claimant gives way, if its time is over.
    pub(super) fn end_turn(&mut self, now: Instant, node: NodeId) {
        let is_over = |claimed: &&Claimed| claimed.turn_ends().is_some_and(|at| at <= now);
        let claimed = self.claimed.get(&node).filter(is_over);
        if let Some(next) = claimed.and_then(Claimed::next_claimant) {
            self.turn_to(now, node, &next);
        }
    }

    /// Whether signalling about a node goes to this occupant.
    pub(super) fn is_current(&self, jid: &FullJid, node: NodeId) -> bool {
        let current = self.claimed.get(&node).and_then(|claimed| claimed.current.as_ref());
        current.is_some_and(|(current, _)| current == jid)
    }

    /// Asks trust about a node that the room names, and does what follows.
    pub(super) fn judge(&mut self, now: Instant, node: NodeId) {
        let Some(claimed) = self.claimed.get_mut(&node) else { return };
        let claim = claimed.claim.clone();
        let standing = self.trust.name(node, Naming::Room(claim.clone()));
        if standing == Standing::Refused(Refusal::NoPort) {
            self.portless.push(node);
        } else {
            self.portless.remove(node);
        }
        match standing {
            Standing::Admitted(_) => {
                claimed.admitted_at.get_or_insert(now);
                for jid in claimed.claims.keys() {
                    self.jingle.peer_seen(now, jid.clone(), node);
                }
            }
            Standing::Pending => {
                // Where everybody new is accepted it is, as soon as the operator's list has taken note of it.
                if self.trust.policy() != Policy::FirstSight(NewNodes::Accept) {
                    self.tell(Notice::Waits { node, claim });
                }
            }
            Standing::Refused(why) => self.tell(Notice::Barred { node, claim, why }),
        }
    }

    /// Accounts lost their right: nodes that no other account claims lose theirs, unless something else names them.
    pub(super) fn revoke(&mut self, now: Instant, lost: impl Fn(&str) -> bool) {
        let mut nodes = BTreeSet::new();
        let mut claims = Vec::new();
        for (node, claimed) in self.claimed.iter() {
            let of_lost = claimed.claims.iter().filter(|(_, claim)| lost(&claim.account));
            let before = claims.len();
            claims.extend(of_lost.map(|(jid, _)| (*node, jid.clone())));
            if claims.len() - before == claimed.claims.len() && lost(&claimed.claim.account) {
                nodes.insert(*node);
            }
        }
        for (node, jid) in claims {
            self.jingle.peer_gone(&jid);
            self.by_jid.remove(&jid);
            self.claim_gone(now, node, &jid);
        }
        let has_claimant = |node: &NodeId| {
            self.claimed.get(node).is_some_and(|claimed| !claimed.claims.is_empty())
        };
        nodes.extend(self.memory.nodes_of(&lost).into_iter().filter(|node| !has_claimant(node)));
        for node in nodes {
            self.memory.forget(node);
            self.trust.withdraw(node, NamedBy::Room, Loss::Removed);
            if !self.is_admitted(node) {
                self.close(node);
            }
        }
    }

    /// Tells the operator's list who was seen, but not for each one by itself.
    pub(super) fn pump_observed(&mut self, now: Instant) {
        let Some(seen) = self.observed.due(now) else { return };
        // Only first-sight trust keeps a list of those who were seen.
        if let Policy::FirstSight(new) = self.trust.policy() {
            self.actions.push_back(Action::Observe { seen, new });
        }
    }

    /// Ports that are free go to those who wait for one. A node that has connected counts no longer among those that only the room names: its place among them is
    /// free.
    pub(super) fn hand_out_ports(&mut self, now: Instant) {
        for _ in 0..self.portless.len() {
            let first = self.portless.first().filter(|_| self.trust.has_port_for_room());
            let Some(next) = first else { return };
            self.judge(now, next);
        }
    }

    /// Nodes without a port get those of nodes that never connected, which wait for another turn in their place.
    pub(super) fn make_room(&mut self, now: Instant) {
        let gives_way = |(node, claimed): (&NodeId, &Claimed)| {
            let admitted_at = claimed.admitted_at.filter(|at| *at + PORT_PATIENCE <= now)?;
            let is_known = claimed.tunnel != Tunnel::Never || self.memory.knows(*node);
            (!is_known).then_some((admitted_at, *node))
        };
        let mut idle: Vec<(Instant, NodeId)> = self.claimed.iter().filter_map(gives_way).collect();
        idle.sort_unstable();
        for (_, node) in idle.into_iter().take(self.portless.len()) {
            self.trust.unname(node, NamedBy::Room);
            self.portless.push(node);
        }
    }
}
