//! Time and everything that happens in it: packets, stanzas, log-ins, frames of stations. Whether two nodes are
//! connected is asked of the frames, not of the nodes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_control::{
    node::Input,
    notice::Notice,
    paths::{FromLink, LinkReport},
    sessions::{PeerSnapshot, PeerState},
    trust::{Policy, SavedPeers, TrustStore},
    xmpp::services::Service,
};
use ipop_datapath::node_id::NodeId;
use xmpp_parsers::{minidom::Element, stanza::Stanza};

use crate::{
    chat::{self, Chat, Delivery, Door},
    identity::identity,
    network::{Datagram, INTERNET, Network, Realm},
    node::{Effect, Meets, Node, UNIX_S},
    rng::Rng,
    servers::{PASSWORD, STUN, TurnServer, USER, binding_answer},
};

/// Between two frames of each station.
const FRAME_INTERVAL: Duration = Duration::from_millis(50);
const ETHERTYPE: [u8; 2] = [0x88, 0xb6];
/// UDP payload on an Ethernet without jumbo frames.
const MAX_PAYLOAD: usize = 1_472;
/// From a node to the XMPP server.
const UPLINK: Duration = Duration::from_millis(20);
const RESOLUTION: Duration = Duration::from_millis(5);
/// Happenings in a row without the clock moving, above which something spins.
const MAX_AT_ONCE: usize = 2_000;
pub(crate) const TURN: &str = "198.51.100.9:3478";

enum Happening {
    Arrival(Realm, Datagram),
    /// To the server, of this session of a user.
    ToServer(usize, u32, Box<Stanza>),
    FromServer(usize, u32, Element),
    LogIn(usize),
    Resolved(usize, u32, Vec<Service>),
    Frames,
}

/// When frames of one node came to another.
#[derive(Clone, Copy, Debug)]
struct Heard {
    last: Instant,
    longest_silence: Duration,
}

/// What a STUN server says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StunServers {
    Honest,
    /// Another port each time.
    Lie,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) begin: Instant,
    pub(crate) rng: Rng,
    pub(crate) network: Network,
    pub(crate) chat: Chat,
    pub(crate) nodes: Vec<Node>,
    pub(crate) turn: TurnServer,
    /// What links told the controller: at which node, to which other one.
    pub(crate) told_controller: Vec<(usize, NodeId, FromLink)>,
    pub(crate) stun: StunServers,
    /// Nobody logs in while it is down.
    pub(crate) is_chat_up: bool,
    /// Packets that left nodes for addresses at which there is nobody.
    pub(crate) to_nobody: BTreeMap<IpAddr, usize>,
    heard: BTreeMap<(usize, usize), Heard>,
    agenda: BTreeMap<(Instant, u64), Happening>,
    noted: u64,
    /// A digest of all that was sent, when and by whom.
    pub(crate) trace: u64,
}

impl World {
    /// With as many users of the XMPP server as that, of whom the first ones are to be nodes.
    pub(crate) fn new(seed: u64, users: usize, door: Door) -> Self {
        let (now, mut rng) = (Instant::now(), Rng::new(seed));
        let mut network = Network::new(seed);
        for server in STUN.into_iter().chain([TURN]) {
            network.add_address(INTERNET, server.parse::<SocketAddr>().unwrap().ip());
        }
        let users = (0..users).map(chat::user).collect();
        let mut chat = Chat::new(users, door, Rng::new(rng.next()));
        chat.services = Some(services(USER, PASSWORD, None));
        let mut world = Self {
            now,
            begin: now,
            rng,
            network,
            chat,
            nodes: Vec::new(),
            turn: TurnServer::new(now, TURN),
            told_controller: Vec::new(),
            stun: StunServers::Honest,
            is_chat_up: true,
            to_nobody: BTreeMap::new(),
            heard: BTreeMap::new(),
            agenda: BTreeMap::new(),
            noted: 0,
            trace: 0,
        };
        world.note(Duration::ZERO, Happening::Frames);
        world
    }

    /// A node of the next user, which is not started yet.
    pub(crate) fn add_node(&mut self, realm: Realm, address: &str, policy: &Policy) -> usize {
        let number = self.nodes.len();
        let address: IpAddr = address.parse().unwrap();
        self.network.add_address(realm, address);
        self.nodes.push(Node {
            number,
            identity: Arc::new(identity(&mut self.rng)),
            jid: chat::user(number),
            policy: policy.clone(),
            configured: Vec::new(),
            meets: Meets::InTheRoom,
            realm,
            address,
            saved: SavedPeers::default(),
            trusted: TrustStore::default(),
            running: None,
            starts: 0,
            session: 0,
            clock_s: UNIX_S,
            wake_at: None,
        });
        number
    }

    pub(crate) fn start(&mut self, node: usize) {
        let (now, begin) = (self.now, self.begin);
        self.nodes[node].start(now, begin, &mut self.rng);
        self.work(node);
        let after = self.rng.millis(20..200);
        self.note(after, Happening::LogIn(node));
    }

    /// The program is killed; the server notices at once.
    pub(crate) fn kill(&mut self, node: usize) {
        (self.nodes[node].running, self.nodes[node].wake_at) = (None, None);
        self.nodes[node].session += 1;
        if self.is_chat_up {
            self.chat.log_out(node);
            self.post();
        }
        self.forget_frames_of(node);
    }

    /// The program ends as it should: its peers hear so.
    pub(crate) fn stop(&mut self, node: usize) {
        let now = self.now;
        if let Some(running) = &mut self.nodes[node].running {
            running.node.handle(now, Input::ShutDown);
            self.work(node);
        }
        self.kill(node);
    }

    /// How often the operator of a running node was told this.
    pub(crate) fn told(&self, node: usize, what: impl Fn(&Notice) -> bool) -> usize {
        let running = self.nodes[node].running.as_ref().unwrap();
        running.told.iter().filter(|notice| what(notice)).count()
    }

    /// The server loses all streams, and everything that it knew.
    pub(crate) fn chat_dies(&mut self) {
        self.is_chat_up = false;
        self.chat.restart();
        let delivery = |_: &(Instant, u64), happening: &mut Happening| {
            matches!(happening, Happening::FromServer(..) | Happening::ToServer(..))
        };
        self.agenda.extract_if(.., delivery).for_each(drop);
        for node in 0..self.nodes.len() {
            self.cut_stream(node);
        }
    }

    pub(crate) fn chat_returns(&mut self) {
        self.is_chat_up = true;
        for node in 0..self.nodes.len() {
            let after = self.rng.millis(200..3_000);
            self.note(after, Happening::LogIn(node));
        }
    }

    /// One stream is lost; the server knows it, and the node comes again.
    pub(crate) fn cut_stream(&mut self, node: usize) {
        self.nodes[node].session += 1;
        if let Some(running) = &mut self.nodes[node].running {
            running.offline(self.now);
            self.work(node);
        }
        if self.is_chat_up {
            self.chat.log_out(node);
            self.post();
            let after = self.rng.millis(100..2_000);
            self.note(after, Happening::LogIn(node));
        }
    }

    pub(crate) fn move_node(&mut self, node: usize, realm: Realm, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        let moved = &mut self.nodes[node];
        self.network.remove_address(moved.realm, moved.address);
        self.network.add_address(realm, address);
        (moved.realm, moved.address) = (realm, address);
        if let Some(running) = &mut moved.running {
            running.readdressed(self.now, address);
        }
        self.work(node);
    }

    /// These are the configured peers of a node from now on, and may connect.
    pub(crate) fn configure(&mut self, node: usize, peers: &[NodeId]) {
        self.nodes[node].configure(self.now, peers);
        self.work(node);
    }

    /// Something was done to a node: it reacts.
    pub(crate) fn work(&mut self, node: usize) {
        let mut effects = Vec::new();
        self.nodes[node].work(self.now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Datagram(datagram) => self.send(self.nodes[node].realm, datagram),
                Effect::Stanza(stanza) => {
                    let session = self.nodes[node].session;
                    self.note(UPLINK, Happening::ToServer(node, session, stanza));
                }
                Effect::Resolve(offer) => {
                    let starts = self.nodes[node].starts;
                    self.note(RESOLUTION, Happening::Resolved(node, starts, offer));
                }
                Effect::Controller(peer, what) => self.told_controller.push((node, peer, what)),
                Effect::Frame(frame) => self.hear(node, &frame),
            }
        }
    }

    /// What the server has to say goes on its way.
    pub(crate) fn post(&mut self) {
        for Delivery { to, stanza, after } in std::mem::take(&mut self.chat.outbox) {
            if let Some(node) = self.nodes.get(to) {
                let session = node.session;
                self.note(after, Happening::FromServer(to, session, stanza));
            }
        }
    }

    /// A user that is no node, or its node's user, says something.
    pub(crate) fn say(&mut self, user: usize, stanza: Element) {
        if let Some(stanza) = chat::stanza(stanza) {
            self.chat.serve(user, stanza);
            self.post();
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until `done`, looked at after each turn, or for `limit`; says after how long it was done.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let (begin, end) = (self.now, self.now + limit);
        let mut at_once = 0;
        loop {
            if done(self) {
                return Some(self.now - begin);
            }
            let noted = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let timers = self.nodes.iter().filter_map(|node| node.wake_at);
            let Some(at) = timers.chain(noted).min().filter(|at| *at <= end) else { break };
            at_once = if at > self.now { 0 } else { at_once + 1 };
            assert!(at_once < MAX_AT_ONCE, "something spins: {}", self.overdue());
            // A simulated microsecond for a timer that is not in the future.
            self.now = at.max(self.now + Duration::from_micros(u64::from(at_once > 0)));
            while let Some(entry) =
                self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now)
            {
                let happening = entry.remove();
                self.happen(happening);
            }
            for node in 0..self.nodes.len() {
                if self.nodes[node].wake_at.is_some_and(|at| at <= self.now) {
                    self.work(node);
                }
            }
        }
        self.now = end;
        None
    }

    /// Whose timers are not in the future.
    fn overdue(&self) -> String {
        let overdue = |node: &Node| {
            let running = node.running.as_ref()?;
            let is_due = running.node.poll_timeout().is_some_and(|at| at <= self.now);
            is_due.then(|| format!("node {}; ", node.number))
        };
        self.nodes.iter().filter_map(overdue).collect()
    }

    fn note(&mut self, after: Duration, happening: Happening) {
        self.noted += 1;
        self.agenda.insert((self.now + after, self.noted), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(realm, datagram) => self.arrive(realm, &datagram),
            Happening::ToServer(user, session, stanza) => {
                if self.is_chat_up && self.nodes[user].session == session {
                    self.chat.serve(user, *stanza);
                    self.post();
                }
            }
            Happening::FromServer(user, session, stanza) => {
                let node = &mut self.nodes[user];
                let running = node.running.as_mut().filter(|_| node.session == session);
                if let Some(running) = running.filter(|running| running.is_online) {
                    running.stanza(self.now, stanza);
                    self.work(user);
                }
            }
            Happening::LogIn(node) => self.log_in(node),
            Happening::Resolved(node, starts, offer) => {
                let node_ = &mut self.nodes[node];
                if let Some(running) = node_.running.as_mut().filter(|_| node_.starts == starts) {
                    running.resolved(self.now, &offer);
                    self.work(node);
                }
            }
            Happening::Frames => {
                self.note(FRAME_INTERVAL, Happening::Frames);
                for node in 0..self.nodes.len() {
                    if let Some(running) = &mut self.nodes[node].running {
                        running.frame(self.now, &frame(node));
                        self.work(node);
                    }
                }
            }
        }
    }

    fn log_in(&mut self, node: usize) {
        let (now, jid) = (self.now, self.nodes[node].jid.clone());
        let node_ = &mut self.nodes[node];
        let has_account = self.is_chat_up && node_.meets == Meets::InTheRoom;
        let running = node_.running.as_mut().filter(|_| has_account);
        if let Some(running) = running.filter(|running| !running.is_online) {
            node_.session += 1;
            running.online(now, jid);
            self.work(node);
        }
    }

    /// A datagram leaves a host.
    pub(crate) fn send(&mut self, realm: Realm, datagram: Datagram) {
        let elapsed = (self.now - self.begin).as_nanos() as u64;
        for word in [elapsed, datagram.payload.len() as u64, datagram.to.port().into()] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(7);
        }
        if datagram.payload.len() > MAX_PAYLOAD {
            return;
        }
        match self.network.route(realm, datagram.clone()) {
            Some((realm, datagram, delay)) => {
                self.note(delay, Happening::Arrival(realm, datagram));
            }
            None => *self.to_nobody.entry(datagram.to.ip()).or_default() += 1,
        }
    }

    fn arrive(&mut self, realm: Realm, datagram: &Datagram) {
        if realm == INTERNET && STUN.iter().any(|stun| stun.parse() == Ok(datagram.to)) {
            let mut seen = datagram.clone();
            if self.stun == StunServers::Lie {
                seen.from.set_port(self.rng.within(1_024..65_536) as u16);
            }
            if let Some(answer) = binding_answer(&seen) {
                self.send(INTERNET, Datagram { to: datagram.from, ..answer });
            }
            return;
        }
        if realm == INTERNET && datagram.to.ip() == self.turn.address.ip() {
            for answer in self.turn.receive(self.now, datagram) {
                self.send(INTERNET, answer);
            }
            return;
        }
        let at = self
            .nodes
            .iter()
            .position(|node| node.realm == realm && node.address == datagram.to.ip());
        let running = at.and_then(|at| Some((at, self.nodes[at].running.as_mut()?)));
        match running {
            Some((at, running)) => {
                running.datagram(self.now, datagram);
                self.work(at);
            }
            None => *self.to_nobody.entry(datagram.to.ip()).or_default() += 1,
        }
    }

    fn hear(&mut self, at: usize, frame: &[u8]) {
        if frame.get(12..14) != Some(&ETHERTYPE) {
            return;
        }
        let from = usize::from(frame[14]);
        assert_ne!(from, at, "a frame came back to where it was sent");
        let now = self.now;
        let first = Heard { last: now, longest_silence: Duration::ZERO };
        let heard = self.heard.entry((from, at)).or_insert(first);
        heard.longest_silence = heard.longest_silence.max(now - heard.last);
        heard.last = now;
    }

    /// Silences of before do not count any more.
    pub(crate) fn forget_silences(&mut self) {
        for heard in self.heard.values_mut() {
            heard.longest_silence = Duration::ZERO;
        }
    }

    fn forget_frames_of(&mut self, node: usize) {
        self.heard.retain(|(from, to), _| *from != node && *to != node);
    }

    /// Whether a frame of one ever came to the other.
    pub(crate) fn ever_heard(&self, from: usize, to: usize) -> bool {
        self.heard.contains_key(&(from, to))
    }

    /// Whether frames went both ways lately.
    pub(crate) fn flows(&self, one: usize, other: usize) -> bool {
        [(one, other), (other, one)].iter().all(|way| {
            self.heard
                .get(way)
                .is_some_and(|heard| self.now - heard.last < Duration::from_millis(300))
        })
    }

    /// The longest silence in either direction, the present one included.
    pub(crate) fn silence(&self, one: usize, other: usize) -> Duration {
        let of = |way: (usize, usize)| {
            self.heard
                .get(&way)
                .map_or(Duration::MAX, |heard| heard.longest_silence.max(self.now - heard.last))
        };
        of((one, other)).max(of((other, one)))
    }

    /// Whether every two of these nodes are connected, and both ends see it alike.
    pub(crate) fn all_agree(&self, nodes: &[usize]) -> bool {
        pairs(nodes).all(|(one, other)| self.agree(one, other))
    }

    fn agree(&self, one: usize, other: usize) -> bool {
        self.flows(one, other)
            && agree(
                &[self.peer(one, other), self.peer(other, one)],
                &[self.path(one, other), self.path(other, one)],
            )
    }

    /// The first two of these nodes that are not connected, or of which one sees it otherwise, and what they see.
    pub(crate) fn disagreement(&self, nodes: &[usize]) -> Option<String> {
        let (one, other) = pairs(nodes).find(|(one, other)| !self.agree(*one, *other))?;
        let ends = [self.peer(one, other), self.peer(other, one)];
        let paths = [self.path(one, other), self.path(other, one)];
        let told =
            [one, other].map(|node| self.nodes[node].running.as_ref().map(|r| r.told.clone()));
        let flows = self.flows(one, other);
        Some(format!("{one} and {other}: frames {flows}, {ends:#?}, {paths:#?}, {told:#?}"))
    }

    /// What one node's sessions know of another.
    pub(crate) fn peer(&self, at: usize, of: usize) -> Option<PeerSnapshot> {
        let (running, id) = (self.nodes[at].running.as_ref()?, self.nodes[of].id().to_string());
        running.node.sessions().snapshot(self.now).into_iter().find(|peer| peer.node == id)
    }

    pub(crate) fn path(&self, at: usize, of: usize) -> Option<LinkReport> {
        self.nodes[at].running.as_ref()?.node.link_report(self.now, self.nodes[of].id())
    }

    pub(crate) fn is_direct(&self, one: usize, other: usize) -> bool {
        [self.path(one, other), self.path(other, one)]
            .iter()
            .all(|path| path.as_ref().is_some_and(|path| path.kind == "direct"))
    }
}

/// Every two of these nodes, once.
pub(crate) fn pairs(nodes: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    nodes
        .iter()
        .flat_map(|one| nodes.iter().map(move |other| (*one, *other)))
        .filter(|(one, other)| one < other)
}

/// One lane at each end, dialled by one and accepted by the other, over a path that both call the same.
fn agree(ends: &[Option<PeerSnapshot>; 2], paths: &[Option<LinkReport>; 2]) -> bool {
    let ([Some(one), Some(other)], [Some(way), Some(back)]) = (ends, paths) else { return false };
    let [lane] = &one.lanes[..] else { return false };
    let [other_lane] = &other.lanes[..] else { return false };
    let are_up = one.state == PeerState::Up && other.state == PeerState::Up;
    are_up && lane.direction != other_lane.direction && way.kind == back.kind && way.kind != "none"
}

fn frame(node: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, node as u8]);
    frame.extend_from_slice(&ETHERTYPE);
    frame.push(node as u8);
    frame.resize(60, 0);
    frame
}

/// What the XMPP server says of STUN and TURN servers; until when its credentials are good, seconds since 1970.
pub(crate) fn services(user: &str, password: &str, until_s: Option<u64>) -> Element {
    let host = |address: &str| address.split(':').next().unwrap().to_owned();
    let stun: String = STUN
        .iter()
        .map(|stun| format!("<service type='stun' host='{}' port='3478'/>", host(stun)))
        .collect();
    let until = until_s.map(|until_s| {
        let (minutes, s) = ((until_s - UNIX_S) / 60, (until_s - UNIX_S) % 60);
        // UNIX_S is 22:13:20.
        let (minutes, s) = (13 + minutes + (s + 20) / 60, (s + 20) % 60);
        format!("expires='2023-11-14T{}:{:02}:{s:02}Z'", 22 + minutes / 60, minutes % 60)
    });
    let turn = format!(
        "<service type='turn' host='{}' port='3478' username='{user}' password='{password}' {}/>",
        host(TURN),
        until.unwrap_or_default()
    );
    chat::parsed(&format!("<services xmlns='urn:xmpp:extdisco:2'>{stun}{turn}</services>"))
}
