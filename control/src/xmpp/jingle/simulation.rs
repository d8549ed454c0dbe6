//! Two to eight nodes, each a room and its sessions, on a small model of a chat server that lies for a while (`chat`).
//! Somebody outside the room writes to everybody all the time.
//!
//! Whatever it does, nobody outside gets a word through and what a node remembers stays bounded. When the server is
//! replaced by an honest one, every pair ends with one session on which both ends agree. Time is virtual; a seed is a
//! test case, and a failure names it.

#[allow(dead_code, reason = "other simulations share it")]
#[path = "../../../tests/common/chat.rs"]
mod chat;
#[allow(dead_code, reason = "other simulations share it")]
#[path = "../../../tests/common/rng.rs"]
mod rng;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proptest::{prelude::any, proptest, test_runner::Config as ProptestConfig};
use xmpp_parsers::{iq::Iq, jid::BareJid, minidom::Element, stanza::Stanza};

use self::{
    chat::{Chat, Delivery, Door, Honesty, ROOM},
    rng::Rng,
};
use super::*;
use crate::{
    ice::{CandidateKind, MAX_CANDIDATES},
    xmpp::{
        request::RequestFailure,
        room::{self, Entry, Room, RoomConfig, RoomPassword, StreamEnd},
    },
};

const OUTSIDER: &str = "mallory@x/r";
/// The server is honest from here on.
const LIES_END: Duration = Duration::from_secs(120);
const END: Duration = Duration::from_secs(420);
/// ICE gives up and restarts after this long.
const ICE_PATIENCE: Duration = Duration::from_secs(20);

/// What ICE would know of one peer.
#[derive(Default)]
struct FakeIce {
    local: Option<IceDescription>,
    candidates: Vec<Candidate>,
    remote: Option<IceDescription>,
    remote_candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asker {
    Room(Token),
    Jingle(Token),
}

struct Node {
    jid: FullJid,
    id: NodeId,
    room: Room,
    jingle: Jingle,
    ice: BTreeMap<FullJid, FakeIce>,
    /// Questions that wait for an answer, by the ids of their stanzas.
    questions: BTreeMap<String, (Asker, Instant)>,
    next_id: u64,
}

struct World {
    now: Instant,
    start: Instant,
    rng: Rng,
    nodes: Vec<Node>,
    /// Stanzas on their way to nodes.
    wires: BTreeMap<(Instant, u64), (usize, Element)>,
    sent: u64,
    chat: Chat,
}

fn node(number: usize, now: Instant, seed: u64) -> Node {
    let id = NodeId::of_spki(format!("{seed}/{number}").as_bytes());
    let config = RoomConfig {
        room: BareJid::new(ROOM).expect("a JID"),
        entry: Entry::Password,
        password: Some(RoomPassword("derived".into())),
        name: format!("n{number}"),
        seed: seed ^ number as u64,
    };
    let jingle = JingleConfig { fingerprint: None, loopback: Loopback::Refused, seed: !seed };
    Node {
        jid: chat::user(number),
        id,
        room: Room::new(id, config),
        jingle: Jingle::new(now, id, jingle),
        ice: BTreeMap::new(),
        questions: BTreeMap::new(),
        next_id: 0,
    }
}

impl Node {
    fn new_credentials(&mut self, jid: &FullJid, generation: u32, rng: &mut Rng) {
        let ice = self.ice.entry(jid.clone()).or_default();
        let local = IceDescription {
            ufrag: format!("u{:x}", rng.next()),
            password: format!("{:032x}", rng.next()),
            generation,
        };
        ice.local = Some(local.clone());
        ice.candidates.clear();
        self.jingle.describe(jid, local);
        self.more_candidates(jid, 2, rng);
    }

    fn more_candidates(&mut self, jid: &FullJid, count: usize, rng: &mut Rng) {
        let Some(ice) = self.ice.get_mut(jid) else { return };
        let Some(generation) = ice.local.as_ref().map(|local| local.generation) else { return };
        let address = |random: u64| format!("192.0.2.{}:{}", random % 250 + 1, random % 50_000 + 1);
        let candidates: Vec<Candidate> = (0..count.min(8 - ice.candidates.len()))
            .map(|_| address(rng.next()).parse().expect("an address"))
            .map(|address| Candidate::local(CandidateKind::Host, address, None, 1))
            .collect();
        ice.candidates.extend(&candidates);
        self.jingle.add_candidates(jid, generation, &candidates);
    }

    fn restart(&mut self, jid: &FullJid, rng: &mut Rng) {
        let known = self.ice.get(jid).and_then(|ice| ice.local.as_ref());
        let generation = known.map_or(0, |local| local.generation + 1);
        self.new_credentials(jid, generation, rng);
    }

    fn heard(&mut self, event: Event, rng: &mut Rng) {
        let (Event::Describe { jid, .. }
        | Event::Remote { jid, .. }
        | Event::RemoteCandidates { jid, .. }) = &event;
        assert_ne!(jid.as_str(), OUTSIDER, "{event:?}");
        let jid = jid.clone();
        match event {
            Event::Describe { .. } => {
                if let Some(ice) = self.ice.get_mut(&jid) {
                    (ice.remote, ice.remote_candidates) = (None, Vec::new());
                }
                self.restart(&jid, rng);
            }
            Event::Remote { ice, .. } => {
                let known = self.ice.entry(jid).or_default();
                known.remote = Some(ice);
                known.remote_candidates.clear();
            }
            Event::RemoteCandidates { generation, candidates, .. } => {
                let known = self.ice.entry(jid).or_default();
                let of = known.remote.as_ref().map(|remote| remote.generation);
                assert_eq!(of, Some(generation));
                known.remote_candidates.extend(candidates);
                assert!(known.remote_candidates.len() <= MAX_CANDIDATES);
            }
        }
    }
}

impl World {
    fn new(seed: u64, nodes: usize) -> Self {
        let now = Instant::now();
        let users = (0..nodes).map(chat::user).collect();
        let mut chat = Chat::new(users, Door::Password, Rng::new(!seed));
        chat.honesty = Honesty::Lies;
        Self {
            now,
            start: now,
            rng: Rng::new(seed),
            nodes: (0..nodes).map(|number| node(number, now, seed)).collect(),
            wires: BTreeMap::new(),
            sent: 0,
            chat,
        }
    }

    fn lies(&self) -> bool {
        self.now < self.start + LIES_END
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.lies() && self.rng.next().is_multiple_of(one_in)
    }

    /// From a node to the server, and what comes of it.
    fn serve(&mut self, from: usize, stanza: Stanza) {
        self.chat.serve(from, stanza);
        self.post();
    }

    fn post(&mut self) {
        for Delivery { to, stanza, after } in std::mem::take(&mut self.chat.outbox) {
            self.sent += 1;
            self.wires.insert((self.now + after, self.sent), (to, stanza));
        }
    }

    /// Somebody who is not in the room writes what would be right if he were a node that is.
    fn outsider_writes(&mut self) {
        let count = self.nodes.len();
        let to = self.rng.next() as usize % count;
        let claimed = self.nodes[(to + 1) % count].id;
        let stanza = if self.rng.next().is_multiple_of(3) {
            let nudge = String::from(&Nudge { node: claimed }.to_element());
            format!(
                "<message xmlns='jabber:client' from='{OUTSIDER}' type='headline'>{nudge}</message>"
            )
        } else {
            let ice = IceDescription {
                ufrag: "mallory".into(),
                password: "m".repeat(22),
                generation: u32::MAX,
            };
            let address = "203.0.113.9:1".parse().expect("an address");
            let candidates = vec![Candidate::local(CandidateKind::Host, address, None, 9)];
            let offer =
                codec::Offer { step: codec::Step::Initiate, node: claimed, ice, candidates };
            let own = codec::Side::Initiator;
            let sender = codec::Sender { side: own, fingerprint: None, jid: OUTSIDER };
            let sid = codec::Sid::from_random(self.rng.next());
            let offer = String::from(&codec::write_offer(&sid, &offer, sender, 0));
            format!("<iq xmlns='jabber:client' from='{OUTSIDER}' id='m' type='set'>{offer}</iq>")
        };
        self.chat.forge(to, chat::parsed(&stanza));
        self.post();
    }

    fn node_receives(&mut self, to: usize, element: Element) {
        let now = self.now;
        let Some(stanza) = chat::stanza(element) else { return };
        match stanza {
            Stanza::Presence(presence) => self.nodes[to].room.handle_presence(now, &presence),
            Stanza::Message(message) => {
                if self.nodes[to].jingle.handle_message(now, &message) == Taken::No {
                    self.nodes[to].room.handle_message(now, &message);
                }
            }
            Stanza::Iq(iq @ (Iq::Get { .. } | Iq::Set { .. })) => {
                let _ = self.nodes[to].jingle.handle_iq(now, &iq);
            }
            Stanza::Iq(iq) => {
                let asker = self.nodes[to].questions.remove(iq.id());
                let answer = match iq {
                    Iq::Result { payload, .. } => Ok(payload),
                    Iq::Error { error, .. } => Err(RequestFailure::Refused(Box::new(error))),
                    Iq::Get { .. } | Iq::Set { .. } => return,
                };
                if let Some((asker, _)) = asker {
                    self.answered(to, asker, answer);
                }
            }
        }
        self.run_node(to);
    }

    fn answered(&mut self, node: usize, asker: Asker, answer: Answer) {
        let now = self.now;
        match asker {
            Asker::Room(token) => self.nodes[node].room.handle_answer(now, token, answer),
            Asker::Jingle(token) => self.nodes[node].jingle.handle_answer(now, token, &answer),
        }
    }

    fn ask(&mut self, node: usize, asker: Asker, request: Request) {
        let asking = &mut self.nodes[node];
        asking.next_id += 1;
        let id = format!("q{}", asking.next_id);
        asking.questions.insert(id.clone(), (asker, self.now + ANSWER_TIMEOUT));
        assert!(asking.questions.len() < 200, "questions pile up");
        let (from, to) = (None, Some(request.to));
        let iq = match request.ask {
            Ask::Get(payload) => Iq::Get { from, to, id, payload },
            Ask::Set(payload) => Iq::Set { from, to, id, payload },
        };
        self.serve(node, iq.into());
    }

    /// Lets a node do what it wants to.
    fn run_node(&mut self, number: usize) {
        let now = self.now;
        let room_due = |node: &Node| node.room.poll_timeout().is_some_and(|at| at <= now);
        if room_due(&self.nodes[number]) {
            self.nodes[number].room.handle_timeout(now);
        }
        while let Some(action) = self.nodes[number].room.poll_action() {
            match action {
                room::Action::Presence(presence) => self.serve(number, (*presence).into()),
                room::Action::Request(request) => {
                    self.ask(number, Asker::Room(request.token), request);
                }
                room::Action::Event(room::Event::Occupant(occupant)) => {
                    assert_ne!(occupant.jid.as_str(), OUTSIDER);
                    self.nodes[number].jingle.peer_seen(now, occupant.jid, occupant.card.node);
                }
                room::Action::Event(room::Event::OccupantGone(jid)) => {
                    self.nodes[number].jingle.peer_gone(&jid);
                }
                room::Action::Event(_) => {}
            }
        }
        if self.nodes[number].jingle.poll_timeout().is_some_and(|at| at <= now) {
            self.nodes[number].jingle.handle_timeout(now);
        }
        while let Some(action) = self.nodes[number].jingle.poll_action(now) {
            match action {
                Action::Request(request) => self.ask(number, Asker::Jingle(request.token), request),
                Action::Reply(iq) => self.serve(number, (*iq).into()),
                Action::Message(message) => self.serve(number, (*message).into()),
                Action::Event(event) => self.nodes[number].heard(event, &mut self.rng),
            }
        }
        let node = &self.nodes[number];
        assert!(node.jingle.peers.len() < self.nodes.len(), "peers pile up");
        assert!(node.jingle.asked.len() < 200, "tokens pile up");
    }

    /// The next moment at which something happens, not later than `until`.
    fn next_moment(&self, until: Instant) -> Instant {
        let wire = self.wires.keys().next().map(|(at, _)| *at);
        let timers = self.nodes.iter().flat_map(|node| {
            let question = node.questions.values().map(|(_, at)| *at).min();
            [node.room.poll_timeout(), node.jingle.poll_timeout(), question]
        });
        let next = timers.chain([wire]).flatten().min().unwrap_or(until);
        // A timer of the past must not stop the clock.
        next.max(self.now + Duration::from_millis(1)).min(until)
    }

    fn run_until(&mut self, until: Instant) {
        while self.now < until {
            self.now = self.next_moment(until);
            while let Some(entry) =
                self.wires.first_entry().filter(|entry| entry.key().0 <= self.now)
            {
                let (to, stanza) = entry.remove();
                self.node_receives(to, stanza);
            }
            for number in 0..self.nodes.len() {
                let now = self.now;
                let late = |(_, at): &(Asker, Instant)| *at <= now;
                while let Some(id) = self.nodes[number]
                    .questions
                    .iter()
                    .find_map(|(id, question)| late(question).then(|| id.clone()))
                {
                    if let Some((asker, _)) = self.nodes[number].questions.remove(&id) {
                        self.answered(number, asker, Err(RequestFailure::TimedOut));
                    }
                }
                self.run_node(number);
            }
        }
    }

    fn log_in(&mut self, number: usize) {
        let (now, jid) = (self.now, self.nodes[number].jid.clone());
        let node = &mut self.nodes[number];
        node.questions.clear();
        node.room.online(now, jid.clone(), Stream::New);
        node.jingle.online(now, jid, Stream::New);
        self.run_node(number);
    }

    /// Another server takes over: it knows nobody.
    fn server_restarts(&mut self) {
        self.wires.clear();
        self.chat.restart();
        self.chat.honesty = Honesty::Honest;
        for node in &mut self.nodes {
            node.room.offline(self.now, StreamEnd::Lost);
            node.jingle.offline();
        }
        for number in 0..self.nodes.len() {
            self.log_in(number);
        }
    }

    /// What this end and the other one know of each other, if they agree.
    fn agree(&self, a: usize, b: usize) -> bool {
        let known = |here: usize, there: usize| {
            let node = &self.nodes[here];
            let agreement = node.jingle.peers.get(&self.nodes[there].jid)?.agreement()?;
            let ice = node.ice.get(&self.nodes[there].jid)?;
            Some((agreement, ice))
        };
        let (Some((at_a, ice_a)), Some((at_b, ice_b))) = (known(a, b), known(b, a)) else {
            return false;
        };
        let same = |one: &FakeIce, other: &FakeIce| {
            one.remote == other.local && one.remote_candidates == other.candidates
        };
        at_a.0 == at_b.0
            && at_a.1 == at_b.2
            && at_a.2 == at_b.1
            && same(ice_a, ice_b)
            && same(ice_b, ice_a)
    }

    /// ICE restarts where it found nothing, and finds more candidates or another network now and then elsewhere.
    fn ice_moves(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let jid = self.nodes[b].jid.clone();
                if a == b || !self.nodes[a].ice.contains_key(&jid) {
                    continue;
                }
                let changes = self.chance(5);
                if changes || !self.agree(a, b) {
                    self.nodes[a].restart(&jid, &mut self.rng);
                } else if self.chance(3) {
                    self.nodes[a].more_candidates(&jid, 1, &mut self.rng);
                }
            }
            self.run_node(a);
        }
    }
}

fn simulate(seed: u64, nodes: usize) {
    let mut world = World::new(seed, nodes);
    for number in 0..nodes {
        world.log_in(number);
        let pause = Duration::from_millis(world.rng.next() % 2_000);
        world.run_until(world.now + pause);
    }
    while world.lies() {
        world.run_until(world.now + ICE_PATIENCE / 4);
        world.outsider_writes();
        world.ice_moves();
        if world.rng.next().is_multiple_of(8) {
            let who = world.rng.next() as usize % nodes;
            world.nodes[who].room.offline(world.now, StreamEnd::Lost);
            world.nodes[who].jingle.offline();
            world.chat.log_out(who);
            world.post();
            world.log_in(who);
        }
    }
    world.server_restarts();
    while world.now < world.start + END {
        world.run_until(world.now + ICE_PATIENCE);
        world.outsider_writes();
        world.ice_moves();
    }
    for a in 0..nodes {
        for b in 0..a {
            assert!(
                world.agree(a, b),
                "seed {seed}: {a} and {b} of {nodes} do not agree: {:#?} {:#?}",
                world.nodes[a].jingle.peers.get(&world.nodes[b].jid),
                world.nodes[b].jingle.peers.get(&world.nodes[a].jid),
            );
        }
    }
    let refused: u64 = world.nodes.iter().map(|node| node.jingle.counters().strangers).sum();
    assert!(refused > 0, "seed {seed}: nobody heard the outsider");
}

#[test]
fn an_honest_server_needs_one_session_for_each_pair() {
    let mut world = World::new(1, 4);
    world.start = world.now - LIES_END;
    world.chat.honesty = Honesty::Honest;
    for number in 0..4 {
        world.log_in(number);
        world.run_until(world.now + Duration::from_millis(100));
    }
    world.run_until(world.now + Duration::from_secs(1));
    for a in 0..4 {
        for b in 0..a {
            assert!(world.agree(a, b), "{a} and {b}");
        }
        let described =
            world.nodes[a].ice.values().map(|ice| ice.local.as_ref().map(|local| local.generation));
        assert!(
            described.into_iter().all(|generation| generation == Some(0)),
            "more than one session"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn pairs_agree_when_the_server_has_stopped_lying(seed in any::<u64>(), nodes in 2..=8_usize) {
        simulate(seed, nodes);
    }
}
