//! Whether everybody reaches everybody. Nothing is forwarded from one peer to another, so two nodes without a tunnel lose each
//! other's frames without a word; here it is noticed, for an operator who gave A's address to B and to C, and neither to the
//! other.
//!
//! Peers tell each other inside their tunnels whom they reach (`wire`): when a tunnel comes up, when that changes, and now and
//! then. A pair is missing when two peers are connected to this node and say that they are not to each other, or when a peer
//! reaches a node that this one does not. It is told once, when it has been missing for a while, and again only after it was
//! there in between.
//!
//! What a peer says is believed for nothing but a line of the log. It can make up nodes, so few of those are told of each
//! peer, and lines have a rate. A node that knows no such messages is taken at its neighbours' word.

#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipop_datapath::{
    command::ConnectionId,
    node_id::NodeId,
    policy::bucket::Bucket,
    tunnel::hello::{Capabilities, Hello},
};
use serde::Serialize;

use self::wire::Reader;
pub use self::wire::ShortId;
#[cfg(feature = "testing")]
pub use self::wire::fuzz;
#[cfg(test)]
pub(crate) use self::wire::seeds;
use crate::{
    notice::Notice,
    timed::{Timed, Timer},
};

/// What changes within this is told, and looked at, together.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// A peer is told no more often: a list is up to 8 KiB, and everybody tells everybody.
const TELL_EVERY: Duration = Duration::from_secs(20);
/// And no more rarely, in case that a message was dropped.
const TELL_AGAIN: Duration = Duration::from_secs(300);
/// Pairs are looked at when something changed, but no more often: with 1,024 peers they are half a million.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A pair that is missing for less long may be about to connect, or its ends may not have told yet: longer than
/// [`TELL_EVERY`], and than most dials take.
const SETTLES_WITHIN: Duration = Duration::from_secs(45);
/// Missing pairs that are remembered: of two peers, of this node and one that peers told of.
const MAX_BETWEEN: usize = 256;
const MAX_BEYOND: usize = 64;
/// Of the latter, those that one peer may tell of.
const MAX_BEYOND_OF_ONE: usize = 8;
/// Lines at once, and the pause for each further one.
const LINES_AT_ONCE: u32 = 16;
const LINE_EVERY: Duration = Duration::from_secs(60);

/// What is known of whom the peers reach.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct MeshReport {
    /// Pairs of nodes that are not connected to each other, as far as peers tell and it is remembered.
    pub missing_pairs: usize,
    /// Peers' messages that make no sense.
    pub refused_messages: u64,
}

/// Something is to be done.
#[derive(Debug)]
pub(super) enum Step {
    Tell(ConnectionId, Vec<u8>),
    Notice(Notice),
}

/// A pair of nodes that are not connected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Pair {
    /// Both are peers of this node; the lower id comes first.
    Between(NodeId, NodeId),
    /// This node and one that is none of its peers.
    Beyond(ShortId),
}

#[derive(Debug)]
struct Missing {
    since: Instant,
    is_told: bool,
    /// Of a pair beyond: who reaches the node.
    via: NodeId,
}

/// A peer that is up.
#[derive(Debug)]
struct Neighbour {
    /// For people.
    name: String,
    connection: ConnectionId,
    /// Whether it knows such messages: only then it is told, and heard.
    listens: bool,
    /// Whom it reaches, if it ever told; ascending.
    reaches: Option<Vec<ShortId>>,
    reader: Reader,
    /// When it is told next.
    tell_at: Option<Instant>,
    told_at: Option<Instant>,
}

impl Neighbour {
    fn new(connection: ConnectionId) -> Self {
        Self {
            name: String::new(),
            connection,
            listens: false,
            reaches: None,
            reader: Reader::default(),
            tell_at: None,
            told_at: None,
        }
    }

    /// Whether it reaches this node, if it says so.
    fn reaches(&self, node: impl Into<ShortId>) -> Option<bool> {
        Some(self.reaches.as_ref()?.binary_search(&node.into()).is_ok())
    }
}

impl Timer for Neighbour {
    fn wake_at(&self) -> Option<Instant> {
        self.tell_at
    }
}

/// Whom each peer reaches by its own word, and the pairs that lack a tunnel.
#[derive(Debug)]
pub(super) struct Mesh {
    local: NodeId,
    neighbours: Timed<NodeId, Neighbour>,
    missing: BTreeMap<Pair, Missing>,
    looked_at: Instant,
    look_at: Option<Instant>,
    lines: Bucket,
    refused: u64,
}

impl Mesh {
    pub(super) fn new(local: NodeId, now: Instant) -> Self {
        Self {
            local,
            neighbours: Timed::default(),
            missing: BTreeMap::new(),
            looked_at: now,
            look_at: None,
            lines: Bucket::every(now, LINE_EVERY, LINES_AT_ONCE),
            refused: 0,
        }
    }

    /// A peer has come up, has another connection, or is gone.
    pub(super) fn tunnel_changed(
        &mut self,
        now: Instant,
        node: NodeId,
        tunnel: Option<(&Hello, ConnectionId)>,
    ) {
        let Some((hello, connection)) = tunnel else {
            self.neighbours.remove(&node);
            if self.neighbours.is_empty() {
                // Nobody tells anything any more.
                self.missing.retain(|_, missing| missing.is_told);
                self.look_at = None;
                return;
            }
            return self.reach_changed(now);
        };
        let is_new = !self.neighbours.contains_key(&node);
        let neighbour = self.neighbours.get_or_insert_with(node, || Neighbour::new(connection));
        neighbour.name.clone_from(&hello.name);
        let needed = Capabilities::SIGNALLING | Capabilities::REACHED;
        neighbour.listens = hello.capabilities.has(needed);
        neighbour.connection = connection;
        // What was on its way over another connection may be lost.
        neighbour.reader = Reader::default();
        neighbour.tell_at = neighbour.listens.then_some(now + TELL_AFTER);
        if is_new {
            self.reach_changed(now);
        }
    }

    /// This node reaches other peers than before: it tells them.
    fn reach_changed(&mut self, now: Instant) {
        for neighbour in self.neighbours.values_mut().filter(|neighbour| neighbour.listens) {
            let earliest = neighbour.told_at.map_or(now, |at| at + TELL_EVERY);
            let at = earliest.max(now + TELL_AFTER);
            neighbour.tell_at = Some(neighbour.tell_at.map_or(at, |planned| planned.min(at)));
        }
        self.look_soon(now);
    }

    /// A peer's message that is not ICE's.
    pub(super) fn signalled(&mut self, now: Instant, node: NodeId, message: &[u8]) {
        let Some(neighbour) = self.neighbours.get_mut(&node) else { return };
        if !neighbour.listens {
            self.refused += 1;
            return;
        }
        match neighbour.reader.push(message) {
            Ok(None) => {}
            Ok(Some(list)) if neighbour.reaches.as_ref() == Some(&list) => {}
            Ok(Some(list)) => {
                neighbour.reaches = Some(list);
                self.look_soon(now);
            }
            Err(wire::BadPart) => self.refused += 1,
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.neighbours.next_wake().into_iter().chain(self.look_at).min()
    }

    /// Tells peers, and looks for pairs that are missing.
    pub(super) fn handle_timeout(&mut self, now: Instant, mut step: impl FnMut(Step)) {
        let due = self.neighbours.due(now);
        if !due.is_empty() {
            // In the order of the ids, which is that of their beginnings.
            let reached: Vec<ShortId> = self.neighbours.keys().map(|node| (*node).into()).collect();
            let messages = wire::write(&reached);
            for node in due {
                let Some(neighbour) = self.neighbours.get_mut(&node) else { continue };
                neighbour.told_at = Some(now);
                neighbour.tell_at = Some(now + TELL_AGAIN);
                let connection = neighbour.connection;
                messages.iter().for_each(|part| step(Step::Tell(connection, part.clone())));
            }
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.looked_at = now;
            self.look_at = None;
            self.look(now, step);
        }
    }

    pub(super) fn report(&self) -> MeshReport {
        let is_present = |(pair, _): &(&Pair, &Missing)| self.is_missing(**pair);
        let missing_pairs = self.missing.iter().filter(is_present).count();
        MeshReport { missing_pairs, refused_messages: self.refused }
    }

    fn look_soon(&mut self, now: Instant) {
        let at = (now + TELL_AFTER).max(self.looked_at + LOOK_EVERY);
        self.look_at = Some(self.look_at.map_or(at, |planned| planned.min(at)));
    }

    fn look(&mut self, now: Instant, mut step: impl FnMut(Step)) {
        self.clear_connected(&mut step);
        let found = self.find_missing();
        // What is not told yet must have been missing all the while; the others were told for good.
        self.missing.retain(|pair, missing| missing.is_told || found.contains_key(pair));
        for (pair, via) in found {
            let is_new = !self.missing.contains_key(&pair);
            if !is_new || self.make_room(pair) {
                let new = Missing { since: now, is_told: false, via };
                self.missing.entry(pair).or_insert(new).via = via;
            }
        }
        let mut next = None;
        let untold = self.missing.iter_mut().filter(|(_, missing)| !missing.is_told);
        for (pair, missing) in untold {
            let settled_at = missing.since + SETTLES_WITHIN;
            if settled_at <= now && self.lines.take(now, 1) {
                missing.is_told = true;
                step(Step::Notice(notice(&self.neighbours, *pair, missing.via)));
            } else {
                let at = settled_at.max(self.lines.ready_at(1));
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
            }
        }
        if let Some(at) = next {
            self.look_at = Some(at.max(now + LOOK_EVERY));
        }
    }

    /// Pairs that were missing and are connected now.
    fn clear_connected(&mut self, step: &mut impl FnMut(Step)) {
        let neighbours = &self.neighbours;
        let connected = |pair: &Pair| match pair {
            Pair::Between(one, other) => {
                neighbours.get(one).is_some_and(|end| end.reaches(*other) == Some(true))
                    || neighbours.get(other).is_some_and(|end| end.reaches(*one) == Some(true))
            }
            Pair::Beyond(node) => is_peer(neighbours, *node),
        };
        for (pair, missing) in self.missing.extract_if(.., |pair, _| connected(pair)) {
            if missing.is_told {
                step(Step::Notice(match pair {
                    Pair::Between(one, other) => Notice::PairConnected { pair: [one, other] },
                    Pair::Beyond(node) => Notice::BeyondConnected { node },
                }));
            }
        }
    }

    /// All pairs that are missing now, as many as are remembered, and who told.
    fn find_missing(&self) -> BTreeMap<Pair, NodeId> {
        let mut found = BTreeMap::new();
        let (mut between, mut beyond) = (0, 0);
        for (node, neighbour) in self.neighbours.iter() {
            for (other, _) in self.neighbours.range(node..).skip(1) {
                let pair = Pair::Between(*node, *other);
                if between < MAX_BETWEEN && self.is_missing(pair) {
                    between += 1;
                    found.insert(pair, *node);
                }
            }
            let strangers = neighbour.reaches.iter().flatten().filter(|id| self.is_stranger(**id));
            for id in strangers.take(MAX_BEYOND_OF_ONE) {
                let pair = Pair::Beyond(*id);
                if beyond < MAX_BEYOND && !found.contains_key(&pair) {
                    beyond += 1;
                    found.insert(pair, *node);
                }
            }
        }
        found
    }

    fn is_missing(&self, pair: Pair) -> bool {
        match pair {
            Pair::Between(one, other) => {
                let end = |node: NodeId, other: NodeId| {
                    self.neighbours.get(&node).map(|end| end.reaches(other))
                };
                match (end(one, other), end(other, one)) {
                    (Some(one), Some(other)) => {
                        let is_told = one.is_some() || other.is_some();
                        is_told && one != Some(true) && other != Some(true)
                    }
                    _ => false,
                }
            }
            Pair::Beyond(node) => {
                let tells = |end: &Neighbour| end.reaches(node) == Some(true);
                self.is_stranger(node) && self.neighbours.values().any(tells)
            }
        }
    }

    /// Neither a peer that is up nor this node.
    fn is_stranger(&self, node: ShortId) -> bool {
        node != ShortId::from(self.local) && !is_peer(&self.neighbours, node)
    }

    /// Whether one more pair may be remembered. What was told and is not missing now gives way.
    fn make_room(&mut self, pair: Pair) -> bool {
        let is_of_kind =
            |other: &Pair| matches!(other, Pair::Beyond(_)) == matches!(pair, Pair::Beyond(_));
        let limit = if matches!(pair, Pair::Beyond(_)) { MAX_BEYOND } else { MAX_BETWEEN };
        if self.missing.keys().filter(|other| is_of_kind(other)).count() < limit {
            return true;
        }
        let of_kind = self.missing.keys().filter(|other| is_of_kind(other));
        let gone = of_kind.copied().find(|other| !self.is_missing(*other));
        gone.is_some_and(|gone| self.missing.remove(&gone).is_some())
    }
}

/// Whether the id of a peer that is up begins so.
fn is_peer(neighbours: &BTreeMap<NodeId, Neighbour>, node: ShortId) -> bool {
    let first = neighbours.range(node.lowest()..).next();
    first.is_some_and(|(peer, _)| ShortId::from(*peer) == node)
}

fn notice(neighbours: &BTreeMap<NodeId, Neighbour>, pair: Pair, via: NodeId) -> Notice {
    let name = |node: NodeId| neighbours.get(&node).map(|end| end.name.clone()).unwrap_or_default();
    match pair {
        Pair::Between(one, other) => {
            Notice::PairMissing { pair: [one, other], names: [name(one), name(other)] }
        }
        Pair::Beyond(node) => Notice::BeyondMissing { node, via, name: name(via) },
    }
}
