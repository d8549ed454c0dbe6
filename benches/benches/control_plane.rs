//! What control costs while nothing happens: a message of each kind, and a second, with 10, 100 and 1,000 connected peers.
//!
//! One whole node with its room. Of its peers there is what it talks to: Jingle and ICE; the XMPP server and the workers answer at once.
//! The time of the node alone is measured. No figure should depend on how many peers there are but for what each peer does: in a
//! second the path to each is checked once in a while.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hint::black_box,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ipop_control::{
    ice::{Entropy, Ice, IceConfig, IceDescription, IceEvent, Loopback, Packet, Role, Timing, Via},
    node::{Action, Configured, Input, LinkOrder, Node, NodeConfig, PortSpec},
    rendezvous::{RendezvousConfig, Servers},
    sessions::SessionsConfig,
    trust::{Policy, SavedPeers, TrustStore},
    xmpp::{
        FullJid,
        jingle::{self, Jingle, JingleConfig},
        request::{Ask, Token},
        room::{Entry, RoomConfig, Stream},
        stream::{FromStream, IqToken, Request, Resumed, ToStream},
    },
};
use ipop_datapath::{
    command::{
        Command, ConnectionId, ControlPacket, Direction, Event, FromConnection, ToConnection,
    },
    io::SocketKind,
    node_id::NodeId,
    policy::admission::{Admission, ProofBinding},
    tunnel::hello::{Capabilities, Hello},
};
use xmpp_parsers::{iq::Iq, minidom::Element, presence::Presence, stanza::Stanza};

/// Below every other id: this node begins sessions, nominates pairs and dials.
const LOCAL: NodeId = NodeId([0; 32]);
const ROOM: &str = "net@muc.x";
const PORT: u16 = 5_800;
const SECRET: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43u";
/// After this long nothing is left to be settled.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// So that nothing waits for a later time for long.
const BETWEEN_MESSAGES: Duration = Duration::from_millis(1);
const PEERS: [usize; 3] = [10, 100, 1_000];

struct Peer {
    jid: FullJid,
    id: NodeId,
    ip: IpAddr,
    jingle: Jingle,
    ice: Ice,
    /// What it told of itself last.
    description: Option<IceDescription>,
    wake_at: Option<Instant>,
}

/// A peer's connection.
struct Connection {
    id: ConnectionId,
    peer: usize,
    remote: SocketAddr,
}

/// What happens to one of many.
#[derive(Clone, Copy)]
enum Message {
    /// A connection goes another way.
    Moved,
    /// A peer tells description and candidates again, in-band.
    Signal,
    /// A connection falls silent: the path is checked, and the peer answers.
    PathSilent,
    /// A controller names a node, and takes that back.
    Named,
    /// An occupant of the room has another name.
    Presence,
}

const MESSAGES: [(&str, Message); 5] = [
    ("message", Message::Moved),
    ("signal", Message::Signal),
    ("path", Message::PathSilent),
    ("naming", Message::Named),
    ("presence", Message::Presence),
];

struct World {
    now: Instant,
    node: Node,
    peers: Vec<Peer>,
    by_jid: HashMap<FullJid, usize>,
    wakes: BTreeSet<(Instant, usize)>,
    inbox: VecDeque<Input>,
    /// Questions of peers to this node: whose, and by what name they know it.
    asked: BTreeMap<String, (usize, Token)>,
    connections: Vec<Connection>,
    /// What the node has taken.
    spent: Duration,
}

fn ip(number: usize) -> IpAddr {
    IpAddr::from([10, 0, (number >> 8) as u8, number as u8])
}

fn jid(number: usize) -> FullJid {
    FullJid::new(&format!("u{number}@x/r")).expect("a JID")
}

fn parsed(xml: &str) -> Element {
    xml.parse().expect("XML")
}

fn ice(number: usize) -> IceConfig {
    let (loopback, entropy) = (Loopback::Refused, Entropy::seeded(number as u64));
    IceConfig { listen_port: PORT, loopback, entropy, timing: Timing::default() }
}

fn jingle(number: usize) -> JingleConfig {
    JingleConfig { fingerprint: None, loopback: Loopback::Refused, seed: number as u64 }
}

impl Peer {
    fn new(number: usize, now: Instant) -> Self {
        let id = NodeId::of_spki(&number.to_be_bytes());
        let (own, ip) = (jid(number), ip(number));
        let mut talks = Jingle::new(now, id, jingle(number));
        talks.online(now, own.clone(), Stream::New);
        talks.peer_seen(now, jid(0), LOCAL);
        let mut ice = Ice::new(ice(number), now);
        ice.set_local_addresses(now, &[ip]);
        Self { jid: own, id, ip, jingle: talks, ice, description: None, wake_at: None }
    }

    /// What it says inside the tunnel, as docs/WIRE.md has it.
    fn told_in_band(&self) -> Vec<u8> {
        let IceDescription { ufrag, password, generation } =
            self.description.as_ref().expect("it described itself");
        let address = SocketAddr::new(self.ip, PORT);
        let message = format!(
            "{{\"ice\":{{\"ufrag\":\"{ufrag}\",\"pwd\":\"{password}\",\"generation\":{generation},\
             \"candidates\":[{{\"kind\":\"host\",\"address\":\"{address}\",\"priority\":2130706431}}]}}}}"
        );
        message.into_bytes()
    }

    fn heard(&mut self, now: Instant, event: jingle::Event) {
        match event {
            jingle::Event::Describe { .. } if self.ice.role(LOCAL).is_some() => {
                self.ice.restart(now, LOCAL);
            }
            jingle::Event::Describe { .. } => self.ice.start(now, LOCAL, Role::Controlled),
            jingle::Event::Remote { ice, .. } => {
                self.ice.set_remote(now, LOCAL, &ice);
            }
            jingle::Event::RemoteCandidates { generation, candidates, .. } => {
                self.ice.add_remote_candidates(now, LOCAL, generation, &candidates);
            }
        }
    }

    fn found(&mut self, event: IceEvent) {
        match event {
            IceEvent::LocalDescription { description, .. } => {
                self.description = Some(description.clone());
                self.jingle.describe(&jid(0), description);
            }
            IceEvent::LocalCandidates { generation, candidates, .. } => {
                self.jingle.add_candidates(&jid(0), generation, &candidates);
            }
            _ => {}
        }
    }
}

impl World {
    /// Everybody is connected, and all is quiet.
    fn new(count: usize) -> Self {
        let now = Instant::now();
        let policy = Policy::Secret(SECRET.parse().expect("a secret"));
        let config = NodeConfig {
            local: LOCAL,
            sessions: SessionsConfig { inner_mtu: 1_500, lanes: 1, seed: 1 },
            configured: Configured {
                ports: vec![PortSpec::Tap("ipop0".into())],
                peers: Vec::new(),
                policy,
            },
            decisions: TrustStore::default(),
            ice: ice(0),
            rendezvous: Some(RendezvousConfig {
                room: RoomConfig {
                    room: ROOM.parse().expect("a JID"),
                    entry: Entry::Password,
                    password: None,
                    name: "rack0".into(),
                    seed: 1,
                },
                jingle: jingle(0),
                servers: Servers::Configured,
                saved: SavedPeers::default(),
                unix_s: 1_700_000_000,
            }),
        };
        let peers: Vec<Peer> = (1..=count).map(|number| Peer::new(number, now)).collect();
        let mut world = Self {
            now,
            node: Node::new(config, now).expect("a sound configuration"),
            by_jid: peers.iter().enumerate().map(|(at, peer)| (peer.jid.clone(), at)).collect(),
            peers,
            wakes: BTreeSet::new(),
            inbox: VecDeque::new(),
            asked: BTreeMap::new(),
            connections: Vec::new(),
            spent: Duration::ZERO,
        };
        let online = FromStream::Online { jid: jid(0), resumed: Resumed::No };
        world.inbox.extend([
            Input::LocalAddresses([ip(0)].into()),
            Input::OfferedAddresses(vec![ip(0)]),
            Input::Stream(online),
        ]);
        while world.connections.len() < count {
            world.run(Duration::from_secs(1));
        }
        world.run(SETTLED_AFTER);
        world
    }

    /// What of this kind happens in turn `turn`: to one of a few, however many there are.
    fn inputs(&self, message: Message, turn: usize) -> Vec<Input> {
        let Connection { id, peer, remote } = &self.connections[turn % PEERS[0]];
        let of_connection = |what| vec![Input::Worker(Event::Connection(*id, what))];
        let peer = &self.peers[*peer];
        match message {
            Message::Moved => of_connection(FromConnection::Moved { remote: *remote }),
            Message::Signal => {
                let message = peer.told_in_band();
                of_connection(FromConnection::Signal { peer: peer.id, message })
            }
            Message::PathSilent => {
                of_connection(FromConnection::Silent { rtt: Duration::from_millis(1) })
            }
            // It is no input ([`Self::name_a_stranger`]).
            Message::Named => Vec::new(),
            Message::Presence => {
                let presence = Presence::try_from(shown(peer, &format!("rack{turn}")));
                let stanza = Box::new(presence.expect("a presence").into());
                vec![Input::Stream(FromStream::Stanza(stanza))]
            }
        }
    }

    /// A controller names a node that nobody knows, and takes that back.
    fn name_a_stranger(&mut self) {
        let (start, stranger) = (Instant::now(), NodeId::of_spki(b"a stranger"));
        for order in [LinkOrder::Create, LinkOrder::Remove] {
            self.node.order_link(self.now, stranger, order).expect("nobody denied it");
        }
        self.spent += start.elapsed();
    }

    /// Time passes that is not measured.
    fn pause(&mut self, time: Duration) {
        let spent = self.spent;
        self.run(time);
        self.spent = spent;
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.work();
        loop {
            let of_peers = self.wakes.first().map(|(at, _)| *at);
            let next = self.node.poll_timeout().into_iter().chain(of_peers).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            // A simulated microsecond for what is due now.
            self.now = at.max(self.now + Duration::from_micros(1));
            while let Some((_, peer)) =
                self.wakes.first().filter(|(at, _)| *at <= self.now).copied()
            {
                let now = self.now;
                self.peers[peer].jingle.handle_timeout(now);
                self.peers[peer].ice.handle_timeout(now);
                self.follow(peer);
            }
            self.work();
        }
        self.now = end;
    }

    /// As the program's loop: one message, then what is due.
    fn work(&mut self) {
        loop {
            let input = self.inbox.pop_front();
            let is_last = self.inbox.is_empty();
            let start = Instant::now();
            if let Some(input) = input {
                self.node.handle(self.now, input);
            }
            self.node.handle_timeout(self.now);
            let actions: Vec<Action> =
                std::iter::from_fn(|| self.node.poll_action(self.now)).collect();
            black_box(self.node.poll_timeout());
            self.spent += start.elapsed();
            let is_quiet = actions.is_empty();
            actions.into_iter().for_each(|action| self.carry_out(action));
            if is_last && is_quiet && self.inbox.is_empty() {
                return;
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Stream(ToStream::Send(stanza)) => self.send(*stanza),
            Action::Stream(ToStream::Iq(question)) => {
                let payload = match question.request {
                    Request::Get(payload) | Request::Set(payload) => payload,
                };
                let to = question.to.and_then(|to| to.try_as_full().ok().cloned());
                let Some(peer) = to.and_then(|to| self.by_jid.get(&to).copied()) else {
                    return self.answer(question.token, Some(about_the_room()));
                };
                let (from, id) = (Some(jid(0).into()), question.token.0.to_string());
                let iq = Iq::Set { from, to: None, id, payload };
                let now = self.now;
                let _ = self.peers[peer].jingle.handle_iq(now, &iq);
                self.follow(peer);
            }
            Action::Worker { command, .. } => self.command(command),
            _ => {}
        }
    }

    fn answer(&mut self, token: IqToken, payload: Option<Element>) {
        let answer = FromStream::IqAnswer { token, result: Ok(payload) };
        self.inbox.push_back(Input::Stream(answer));
    }

    fn send(&mut self, stanza: Stanza) {
        match stanza {
            Stanza::Presence(_) => {
                let others = (0..self.peers.len()).map(|peer| shown(&self.peers[peer], "rack"));
                let own = parsed(&format!(
                    "<presence xmlns='jabber:client' from='{ROOM}/rack0'><x xmlns='http://jabber.org/protocol/muc#user'>\
                     <status code='110'/><item affiliation='none' role='participant' jid='{}'/></x></presence>",
                    jid(0)
                ));
                let told: Vec<Element> = others.chain([own]).collect();
                for presence in told {
                    let presence = Presence::try_from(presence).expect("a presence");
                    let stanza = FromStream::Stanza(Box::new(presence.into()));
                    self.inbox.push_back(Input::Stream(stanza));
                }
            }
            Stanza::Iq(Iq::Result { id, payload, .. }) => {
                if let Some((peer, token)) = self.asked.remove(&id) {
                    let now = self.now;
                    self.peers[peer].jingle.handle_answer(now, token, &Ok(payload));
                    self.follow(peer);
                }
            }
            _ => {}
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Packet(ControlPacket { remote, payload, .. }) => {
                let IpAddr::V4(ip) = remote.ip() else { return };
                let [_, _, high, low] = ip.octets();
                let peer = usize::from(u16::from_be_bytes([high, low])) - 1;
                let remote = SocketAddr::new(self::ip(0), PORT);
                let via = Via::Listen { local_ip: Some(self.peers[peer].ip), remote };
                self.peers[peer].ice.handle_packet(self.now, Packet { via, payload: &payload });
                self.follow(peer);
            }
            Command::Connection(id, ToConnection::Dial { peer, lane, remote }) => {
                let number = self.peers.iter().position(|known| known.id == peer);
                let number = number.expect("one of them");
                self.connections.push(Connection { id, peer: number, remote });
                let binding = ProofBinding::new(LOCAL, peer, Direction::Dialled, [7; 32]);
                let trust = self.node.trust();
                let proofs = trust.proofs(peer, &binding);
                let proved = trust.verify(peer, &binding, &proofs).expect("the room's secret");
                let connected = FromConnection::Connected {
                    peer,
                    direction: Direction::Dialled,
                    remote,
                    local_ip: None,
                    hello: hello(lane.0),
                    proved,
                };
                self.inbox.push_back(Input::Worker(Event::Connection(id, connected)));
            }
            _ => {}
        }
    }

    /// Brings what a peer has to say to the node.
    fn follow(&mut self, number: usize) {
        let (now, peer) = (self.now, &mut self.peers[number]);
        loop {
            if let Some(action) = peer.jingle.poll_action(now) {
                match action {
                    jingle::Action::Event(event) => peer.heard(now, event),
                    jingle::Action::Reply(iq) => {
                        if let Iq::Result { id, .. } = *iq {
                            let token = IqToken(id.parse().expect("a number"));
                            let answer = FromStream::IqAnswer { token, result: Ok(None) };
                            self.inbox.push_back(Input::Stream(answer));
                        }
                    }
                    jingle::Action::Request(request) => {
                        let Ask::Set(payload) = request.ask else { continue };
                        let (from, id) = (
                            Some(peer.jid.clone().into()),
                            format!("{number}/{}", request.token.0),
                        );
                        self.asked.insert(id.clone(), (number, request.token));
                        let iq = Iq::Set { from, to: None, id, payload };
                        let stanza = FromStream::Stanza(Box::new(iq.into()));
                        self.inbox.push_back(Input::Stream(stanza));
                    }
                    jingle::Action::Message(_) => {}
                }
            } else if let Some(transmit) = peer.ice.poll_transmit() {
                self.inbox.push_back(Input::Worker(Event::Packet(ControlPacket {
                    socket: SocketKind::Listen,
                    local_ip: Some(ip(0)),
                    remote: SocketAddr::new(peer.ip, PORT),
                    payload: transmit.payload,
                })));
            } else if let Some(event) = peer.ice.poll_event() {
                peer.found(event);
            } else {
                break;
            }
        }
        if let Some(at) = peer.wake_at.take() {
            self.wakes.remove(&(at, number));
        }
        let wakes = [peer.jingle.poll_timeout(), peer.ice.poll_timeout()];
        // Nothing is due twice at one instant.
        peer.wake_at =
            wakes.into_iter().flatten().min().map(|at| at.max(now + Duration::from_micros(1)));
        self.wakes.extend(peer.wake_at.map(|at| (at, number)));
    }
}

fn about_the_room() -> Element {
    parsed(
        "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='muc_hidden'/>\
         <feature var='muc_passwordprotected'/><feature var='muc_nonanonymous'/></query>",
    )
}

fn shown(peer: &Peer, name: &str) -> Element {
    let Peer { id, jid, .. } = peer;
    parsed(&format!(
        "<presence xmlns='jabber:client' from='{ROOM}/{id}'><node xmlns='urn:ipop-switch:1' id='{id}' name='{name}' version='1'/>\
         <x xmlns='http://jabber.org/protocol/muc#user'><item affiliation='none' role='participant' jid='{jid}'/></x></presence>"
    ))
}

fn hello(lane: u8) -> Hello {
    Hello {
        capabilities: Capabilities::ALL,
        max_frame_len: 65_549,
        inner_mtu: 1_500,
        lanes: 1,
        lane,
        name: "rack".into(),
        instance: [1; 16],
        probe_token: None,
        agent: String::new(),
        proofs: Vec::new(),
    }
}

fn control_plane(c: &mut Criterion) {
    let mut group = c.benchmark_group("control_plane");
    // As a test it shows that it runs, for which a few peers do: the more there are, the longer they take to meet.
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let counts = if is_measured { &PEERS[..] } else { &PEERS[..1] };
    for &count in counts {
        let mut world = World::new(count);
        for (name, message) in MESSAGES {
            let mut turn = 0;
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter_custom(|times| {
                    world.spent = Duration::ZERO;
                    for _ in 0..times {
                        turn += 1;
                        let inputs = world.inputs(message, turn);
                        world.inbox.extend(inputs);
                        if matches!(message, Message::Named) {
                            world.name_a_stranger();
                        }
                        world.work();
                        world.pause(BETWEEN_MESSAGES);
                    }
                    world.spent
                });
            });
        }
        group.bench_function(BenchmarkId::new("second", count), |b| {
            b.iter_custom(|times| {
                world.spent = Duration::ZERO;
                (0..times).for_each(|_| world.run(Duration::from_secs(1)));
                world.spent
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3));
    targets = control_plane
}
criterion_main!(benches);
