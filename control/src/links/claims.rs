//! Who in the room says which node it is: occupants come and go, several may say the same, and accounts lose their right.
//!
//! What an occupant says is a claim until a tunnel proves it. Signalling about a node goes to one claimant at a time, and as
//! long as no tunnel comes of it each gets its turn, so that whoever makes a false claim delays the true one and no more. A
//! node has its right as long as any account of the room that has one claims it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;
use xmpp_parsers::jid::FullJid;

use super::{Action, Link, Links};
use crate::{
    notice::Notice,
    peer::NamedBy,
    timed::Timer,
    trust::{Claim, Loss, Naming, NewNodes, Policy, Refusal, Standing},
    xmpp::room::Occupant,
};

/// A claimant whose claim has led to no tunnel for so long gives way to the next one with the same claim.
const CLAIM_PATIENCE: Duration = Duration::from_secs(8);
/// A node that has not connected for so long gives its port to one that finds none.
const PORT_PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked for a port for those that have none.
const PORTS_EVERY: Duration = Duration::from_secs(5);
/// Between two lists of observed nodes: each is a file to be written.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);

/// What is not done at once.
#[derive(Debug)]
pub(super) struct Chores {
    /// Seen in the room, to be told to the operator's list; by node.
    observed: BTreeMap<NodeId, Claim>,
    observe_at: Instant,
    /// Nodes that may connect but find no port, in the order in which they are served.
    portless: VecDeque<NodeId>,
    ports_at: Instant,
}

impl Chores {
    pub(super) fn new(now: Instant) -> Self {
        let (observed, portless) = (BTreeMap::new(), VecDeque::new());
        Self { observed, observe_at: now, portless, ports_at: now }
    }

    fn queue_for_port(&mut self, node: NodeId) {
        if !self.portless.contains(&node) {
            self.portless.push_back(node);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let observe = (!self.observed.is_empty()).then_some(self.observe_at);
        let ports = (!self.portless.is_empty()).then_some(self.ports_at);
        [observe, ports].into_iter().flatten().min()
    }
}

impl Timer for Link {
    fn wake_at(&self) -> Option<Instant> {
        [self.turn_ends(), self.renew_at(), self.reassert_at].into_iter().flatten().min()
    }
}

impl Link {
    /// When the present claimant gives way, if there is another one.
    fn turn_ends(&self) -> Option<Instant> {
        let waits = self.port.is_some() && self.connection.is_none() && self.claims.len() > 1;
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

impl Links {
    pub(super) fn occupant(&mut self, now: Instant, occupant: Occupant) {
        let (jid, node) = (occupant.jid, occupant.card.node);
        if node == self.local {
            return self.tell(now, Notice::OwnId { jid });
        }
        let claim = Claim { account: jid.to_bare().to_string(), name: occupant.card.name };
        self.by_jid.insert(jid.clone(), node);
        self.chores.observed.insert(node, claim.clone());
        let known = self.memory.claim_of(node);
        let link = self.links.get_or_insert_with(node, || Link::new(claim.clone(), now));
        link.claims.insert(jid.clone(), claim.clone());
        // Who it was when it was connected is likelier to be it than somebody else.
        let is_known = known.is_some_and(|known| known.account == claim.account);
        if link.current.is_none() || is_known && link.connection.is_none() {
            link.give_turn(now, &jid);
        }
        if link.claims.len() == 2 {
            self.tell(now, Notice::Contested { node });
        }
        self.judge(now, node);
    }

    pub(super) fn occupant_gone(&mut self, now: Instant, jid: &FullJid) {
        self.jingle.peer_gone(jid);
        let Some(node) = self.by_jid.remove(jid) else { return };
        self.claim_gone(now, node, jid);
        let Some(link) = self.links.get(&node).filter(|link| link.claims.is_empty()) else {
            return;
        };
        let is_admitted = link.port.is_some();
        self.trust.unname(node, NamedBy::Room);
        if !is_admitted {
            self.drop_link(now, node);
        }
    }

    /// One claimant less. If signalling went to it, it goes to another one.
    fn claim_gone(&mut self, now: Instant, node: NodeId, jid: &FullJid) {
        let Some(link) = self.links.get_mut(&node) else { return };
        link.claims.remove(jid);
        if link.claims.is_empty() {
            self.chores.observed.remove(&node);
            self.chores.portless.retain(|waiting| *waiting != node);
        }
        if link.current.as_ref().is_some_and(|(current, _)| current == jid) {
            link.current = None;
            if let Some(next) = link.next_claimant() {
                self.turn_to(now, node, &next);
            }
        }
    }

    /// Signalling about a node goes to this claimant from now on, and begins anew.
    fn turn_to(&mut self, now: Instant, node: NodeId, jid: &FullJid) {
        let Some(link) = self.links.get_mut(&node) else { return };
        link.give_turn(now, jid);
        self.jingle.tell_again(jid);
    }

    /// Whether signalling about a node goes to this occupant.
    pub(super) fn is_current(&self, jid: &FullJid, node: NodeId) -> bool {
        let current = self.links.get(&node).and_then(|link| link.current.as_ref());
        current.is_some_and(|(current, _)| current == jid)
    }

    /// Asks trust about a node that the room names, and does what follows.
    pub(super) fn judge(&mut self, now: Instant, node: NodeId) {
        let Some(link) = self.links.get(&node) else { return };
        let claim = link.claim.clone();
        let standing = self.trust.name(node, Naming::Room(claim.clone()));
        if standing == Standing::Refused(Refusal::NoPort) {
            self.chores.queue_for_port(node);
        } else {
            self.chores.portless.retain(|waiting| *waiting != node);
        }
        match standing {
            Standing::Admitted(port) => {
                let Some(link) = self.links.get_mut(&node) else { return };
                if link.port.replace(port).is_none() {
                    link.waits_since = now;
                }
                for jid in link.claims.keys() {
                    self.jingle.peer_seen(now, jid.clone(), node);
                }
                self.start_ice(now, node);
            }
            Standing::Pending => {
                // Where everybody new is accepted it is, as soon as the operator's list has taken note of it.
                if self.trust.policy() != Policy::FirstSight(NewNodes::Accept) {
                    self.tell(now, Notice::Waits { node, claim });
                }
            }
            Standing::Refused(why) => self.tell(now, Notice::Barred { node, claim, why }),
        }
    }

    /// Accounts lost their right: nodes that no other account claims lose theirs, unless something else names them.
    pub(super) fn revoke(&mut self, now: Instant, lost: impl Fn(&str) -> bool) {
        let mut nodes = BTreeSet::new();
        let mut claims = Vec::new();
        for (node, link) in self.links.iter() {
            let of_lost = link.claims.iter().filter(|(_, claim)| lost(&claim.account));
            let before = claims.len();
            claims.extend(of_lost.map(|(jid, _)| (*node, jid.clone())));
            if claims.len() - before == link.claims.len() && lost(&link.claim.account) {
                nodes.insert(*node);
            }
        }
        for (node, jid) in claims {
            self.jingle.peer_gone(&jid);
            self.by_jid.remove(&jid);
            self.claim_gone(now, node, &jid);
        }
        let has_claimant =
            |node: &NodeId| self.links.get(node).is_some_and(|link| !link.claims.is_empty());
        nodes.extend(self.memory.nodes_of(&lost).into_iter().filter(|node| !has_claimant(node)));
        for node in nodes {
            self.forget_saved(node);
            self.trust.withdraw(node, NamedBy::Room, Loss::Removed);
            if !matches!(self.trust.standing(node), Standing::Admitted(_)) {
                self.drop_link(now, node);
            }
        }
    }

    /// When [`Self::do_chores`] wants to be called.
    pub(super) fn chores_at(&self) -> Option<Instant> {
        self.links.next_wake().into_iter().chain(self.chores.poll_timeout()).min()
    }

    pub(super) fn do_chores(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for node in self.links.due(now) {
            self.renew(now, node);
            // Where the server passed something on that the peer did not repeat inside the tunnel, the latter counts again.
            if self.links.get(&node).is_some_and(|link| is_due(link.reassert_at)) {
                self.reassert(now, node);
            }
            let link = self.links.get(&node).filter(|link| is_due(link.turn_ends()));
            if let Some(next) = link.and_then(Link::next_claimant) {
                self.turn_to(now, node, &next);
            }
        }
        if !self.chores.portless.is_empty() && self.chores.ports_at <= now {
            self.chores.ports_at = now + PORTS_EVERY;
            self.make_room(now);
        }
    }

    /// Tells the operator's list who was seen, but not for each one by itself.
    pub(super) fn pump_observed(&mut self, now: Instant) {
        if self.chores.observed.is_empty() || self.chores.observe_at > now {
            return;
        }
        self.chores.observe_at = now + OBSERVE_EVERY;
        let seen = std::mem::take(&mut self.chores.observed).into_iter().collect();
        // Only first-sight trust keeps a list of those who were seen.
        if let Policy::FirstSight(new) = self.trust.policy() {
            self.actions.push_back(Action::Observe { seen, new });
        }
    }

    /// Nodes without a port get those of nodes that never connected, which wait for another turn in their place.
    fn make_room(&mut self, now: Instant) {
        let gives_way = |link: &Link| {
            link.port.is_some() && !link.was_connected && link.waits_since + PORT_PATIENCE <= now
        };
        let mut idle: Vec<(Instant, NodeId)> = self
            .links
            .iter()
            .filter(|(node, link)| gives_way(link) && !self.memory.knows(**node))
            .map(|(node, link)| (link.waits_since, *node))
            .collect();
        idle.sort_unstable();
        for (_, node) in idle.into_iter().take(self.chores.portless.len()) {
            self.trust.unname(node, NamedBy::Room);
            self.chores.queue_for_port(node);
        }
    }

    /// The sessions forgot a node that nothing names or that lost its right, and that has no connection.
    pub fn forgotten(&mut self, now: Instant, node: NodeId) {
        if matches!(self.trust.standing(node), Standing::Admitted(_)) {
            return;
        }
        match self.links.get(&node) {
            Some(link) if link.claims.is_empty() => self.drop_link(now, node),
            _ => self.close_link(now, node),
        }
        if let Some(next) = self.chores.portless.front().copied() {
            self.judge(now, next);
        }
    }
}
