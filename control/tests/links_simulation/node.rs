//! A host with the whole program but for its kernel, its files and the XML of its stream.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_control::{
    ice::{Entropy, IceConfig, Loopback, Timing},
    network::Secrets,
    node::{self, Action, Configured, Input, NodeConfig, PortSpec},
    notice::{Level, Notice},
    paths::FromLink,
    peer::PeerSpec,
    rendezvous::{RendezvousConfig, Servers, entry_by},
    sessions::SessionsConfig,
    trust::{Policy, SavedPeers, Standing, TrustStore},
    xmpp::{
        FullJid,
        jingle::JingleConfig,
        room::{RoomConfig, RoomPassword},
        services::Service,
        stream::{Failure, FromStream, IqError, IqToken, Question, Request, Resumed, ToStream},
    },
};
use ipop_datapath::{
    LocalPort, PortId, TapOffload,
    command::Command,
    core::{
        Core, CoreConfig,
        shared::{NodeFacts, Shared},
    },
    frame::{FrameBytes, VNET_HEADER_LEN},
    io::{SocketKind, Sockets, TapFrame},
    memory::{MemoryIo, MemoryIoConfig, ReceiveBuffers},
    node_id::NodeId,
    quic::{Congestion, TlsIdentity},
};
use ipop_learning::{MacTable, MacTableConfig};
use xmpp_parsers::{iq::Iq, jid::BareJid, minidom::Element, stanza::Stanza};

use crate::{
    chat::{ROOM, stanza},
    identity::random_bytes,
    network::{Datagram, Realm},
    rng::Rng,
};

pub(crate) const LISTEN_PORT: u16 = 5_800;
const RELAY_PORT: u16 = 40_000;
const TAP: PortId = PortId(0);
/// The clock of every host at the start of a world.
pub(crate) const UNIX_S: u64 = 1_700_000_000;
/// Rounds with nothing new coming in, above which a node spins.
const MAX_ROUNDS: usize = 2_000;

/// How a node finds others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meets {
    InTheRoom,
    /// It has no account.
    ByController,
}

/// What stays when the program restarts.
pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) identity: Arc<TlsIdentity>,
    pub(crate) jid: FullJid,
    pub(crate) policy: Policy,
    /// Peers of its configuration.
    pub(crate) configured: Vec<NodeId>,
    pub(crate) meets: Meets,
    pub(crate) realm: Realm,
    pub(crate) address: IpAddr,
    /// What its state directory holds.
    pub(crate) saved: SavedPeers,
    pub(crate) trusted: TrustStore,
    pub(crate) running: Option<Running>,
    pub(crate) starts: u32,
    /// How often it logged in.
    pub(crate) session: u32,
    /// What its clock showed when the world began.
    pub(crate) clock_s: u64,
    /// Nothing is to be done before this.
    pub(crate) wake_at: Option<Instant>,
}

/// The program while it runs.
pub(crate) struct Running {
    pub(crate) node: node::Node,
    pub(crate) is_online: bool,
    core: Core,
    io: MemoryIo,
    buffers: ReceiveBuffers,
    /// Questions to the server that wait for an answer, by the ids of their stanzas.
    questions: BTreeMap<String, (IqToken, Instant)>,
    asked: u64,
    /// What the operator was told, apart from details.
    pub(crate) told: Vec<Notice>,
    pub(crate) files_written: u64,
    number: usize,
    begin: Instant,
}

/// What a node does to the world.
pub(crate) enum Effect {
    Datagram(Datagram),
    /// To the XMPP server.
    Stanza(Box<Stanza>),
    /// Names of servers are to be resolved.
    Resolve(Vec<Service>),
    /// To the controller, of the link to that node.
    Controller(NodeId, FromLink),
    /// A frame for the stations behind the TAP.
    Frame(Vec<u8>),
}

pub(crate) fn secret(lines: &str) -> Policy {
    Policy::Secret(lines.parse::<Secrets>().expect("sound secrets"))
}

impl Node {
    pub(crate) fn id(&self) -> NodeId {
        self.identity.node
    }

    /// Starts the program.
    pub(crate) fn start(&mut self, now: Instant, begin: Instant, rng: &mut Rng) {
        let facts = Arc::new(NodeFacts {
            node: self.id(),
            instance: random_bytes(rng),
            probe_token: random_bytes(rng),
            name: format!("n{}", self.number),
            inner_mtu: 1_500,
            lanes: 1,
        });
        let fdb = MacTable::new(MacTableConfig::default());
        let mac = ipop_datapath::MacAddr([2, 0xff, 0, 0, 0, self.number as u8]);
        let tap = LocalPort { port: PortId(0), takes: TapOffload::Full, mac };
        let shared = Arc::new(Shared::new(fdb, &[tap], 1, now));
        let seed_of_core = Some(random_bytes(rng));
        let config = NodeConfig {
            local: self.id(),
            sessions: SessionsConfig { inner_mtu: 1_500, lanes: 1, seed: rng.next() },
            decisions: self.trusted.clone(),
            configured: self.configured(),
            rendezvous: (self.meets == Meets::InTheRoom)
                .then(|| self.rendezvous(self.clock_s + (now - begin).as_secs(), rng)),
            ice: IceConfig {
                listen_port: LISTEN_PORT,
                loopback: Loopback::Refused,
                entropy: Entropy::seeded(rng.next()),
                timing: Timing::default(),
            },
        };
        let mut node = node::Node::new(config, now).expect("a sound configuration");
        node.handle(now, Input::LocalAddresses([self.address].into()));
        node.handle(now, Input::OfferedAddresses(vec![self.address]));
        let sockets = Sockets::new(LISTEN_PORT).with(SocketKind::Relay, RELAY_PORT);
        let core = CoreConfig {
            worker: 0,
            facts,
            shared,
            identity: self.identity.clone(),
            admission: node.trust().clone(),
            congestion: Congestion::Tunnel,
            sockets: sockets.clone(),
            udp_ports: vec![LISTEN_PORT],
            rng_seed: seed_of_core,
        };
        let io = MemoryIoConfig { sockets, ..MemoryIoConfig::default() };
        let mut core = Core::new(core, now).expect("the identity is sound");
        core.open_port(tap);
        self.starts += 1;
        self.running = Some(Running {
            node,
            is_online: false,
            core,
            io: MemoryIo::new(io),
            buffers: ReceiveBuffers::default(),
            questions: BTreeMap::new(),
            asked: 0,
            told: Vec::new(),
            files_written: 0,
            number: self.number,
            begin,
        });
    }

    fn configured(&self) -> Configured {
        let peers = self.configured.iter().map(|node| PeerSpec { node: *node, address: None });
        let ports = vec![PortSpec::Tap("ipop0".into())];
        Configured { ports, peers: peers.collect(), policy: self.policy.clone() }
    }

    /// The configuration is another, and the running program reads it again: its peers may connect.
    pub(crate) fn configure(&mut self, now: Instant, peers: &[NodeId]) {
        self.configured = peers.to_vec();
        let (configured, running) = (self.configured(), self.running.as_mut());
        let node = &mut running.expect("it runs").node;
        node.handle(now, Input::Configured(configured));
        for peer in peers {
            let standing = node.trust().standing(*peer);
            assert!(matches!(standing, Standing::Admitted(_)), "{standing:?}");
        }
    }

    /// The operator decides something about nodes, which a running program obeys.
    pub(crate) fn decide(&mut self, now: Instant, decide: impl FnOnce(&mut TrustStore)) {
        decide(&mut self.trusted);
        if let Some(running) = &mut self.running {
            running.node.handle(now, Input::Decisions(self.trusted.clone()));
        }
    }

    fn rendezvous(&self, unix_s: u64, rng: &mut Rng) -> RendezvousConfig {
        let password = match &self.policy {
            Policy::Secret(secrets) => Some(secrets.first().room_password().to_owned()),
            _ => None,
        };
        RendezvousConfig {
            room: RoomConfig {
                room: BareJid::new(ROOM).expect("a JID"),
                entry: entry_by(&self.policy),
                password: password.map(RoomPassword),
                name: format!("n{}", self.number),
                seed: rng.next(),
            },
            jingle: JingleConfig {
                fingerprint: Some(random_bytes(rng)),
                loopback: Loopback::Refused,
                seed: rng.next(),
            },
            servers: Servers::Offered,
            saved: self.saved.clone(),
            unix_s,
        }
    }

    /// When something is to be done at the latest.
    fn next_timeout(&self) -> Option<Instant> {
        let running = self.running.as_ref()?;
        let questions = running.questions.values().map(|(_, until)| *until).min();
        let timers = running.node.poll_timeout().into_iter().chain(questions);
        timers.chain([running.core.poll_timeout()]).min()
    }

    /// Lets the program work until it waits for something.
    pub(crate) fn work(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(mut running) = self.running.take() else {
            self.wake_at = None;
            return;
        };
        running.expire_questions(now);
        running.node.handle_timeout(now);
        let mut rounds = 0;
        while self.round(now, &mut running, effects) {
            rounds += 1;
            assert!(rounds < MAX_ROUNDS, "node {} spins", self.number);
        }
        self.running = Some(running);
        self.wake_at = self.next_timeout();
    }

    /// One round; whether another is needed at once.
    fn round(&mut self, now: Instant, running: &mut Running, effects: &mut Vec<Effect>) -> bool {
        let mut any = false;
        while let Some(action) = running.node.poll_action(now) {
            any = true;
            self.carry_out(now, running, action, effects);
        }
        running.core.flush(now, &mut running.io);
        let events: Vec<_> = running.core.drain_events().collect();
        for event in events {
            any = true;
            running.node.handle(now, Input::Worker(event));
        }
        any |= running.take_output(self.address, effects);
        any || running.core.has_backlog(&running.io)
    }

    fn carry_out(
        &mut self,
        now: Instant,
        running: &mut Running,
        action: Action,
        effects: &mut Vec<Effect>,
    ) {
        match action {
            Action::Stream(what) => running.tell_stream(now, what, effects),
            Action::Worker { command, .. } => running.command(now, command),
            Action::ResolvePeer { .. } => panic!("no names are configured"),
            Action::ResolveServers(offer) => effects.push(Effect::Resolve(offer)),
            Action::Observe { seen, new } => {
                running.files_written += 1;
                for (node, claim) in seen {
                    self.trusted.observe(node, &claim, new, UNIX_S);
                }
                running.node.handle(now, Input::Decisions(self.trusted.clone()));
            }
            Action::Save(saved) => {
                running.files_written += 1;
                self.saved = saved;
            }
            Action::Port { .. } => panic!("its ports stay"),
            Action::Answered(_) | Action::Message { .. } | Action::Trace { .. } => {
                panic!("nobody asks: {action:?}")
            }
            Action::Controller { peer, what } => effects.push(Effect::Controller(peer, what)),
            Action::Notice(notice) if notice.level() > Level::Debug => running.tell(now, notice),
            Action::Notice(_) => {}
            Action::GiveUp(why) => panic!("the simulated account is right, but: {why}"),
        }
    }
}

impl Running {
    fn tell(&mut self, now: Instant, notice: Notice) {
        if std::env::var_os("SIMULATION_LOG").is_some() {
            println!("{:>9.3?} node {}: {notice}", now - self.begin, self.number);
        }
        self.told.push(notice);
    }

    fn command(&mut self, now: Instant, command: Command) {
        self.core.command(now, command, &mut self.io);
    }

    fn tell_stream(&mut self, now: Instant, what: ToStream, effects: &mut Vec<Effect>) {
        match what {
            ToStream::Send(stanza) if self.is_online => effects.push(Effect::Stanza(stanza)),
            ToStream::Iq(question) => self.ask(now, *question, effects),
            ToStream::Send(_)
            | ToStream::NetworkChanged
            | ToStream::UseAccount(_)
            | ToStream::Shutdown => {}
        }
    }

    fn ask(&mut self, now: Instant, question: Question, effects: &mut Vec<Effect>) {
        let Question { to, request, token, timeout } = question;
        if !self.is_online || self.questions.len() >= 256 {
            let result = Err(if self.is_online { IqError::TooMany } else { IqError::Disconnected });
            return self.stream_tells(now, FromStream::IqAnswer { token, result });
        }
        self.asked += 1;
        let id = format!("q{}", self.asked);
        self.questions.insert(id.clone(), (token, now + timeout));
        let iq = match request {
            Request::Get(payload) => Iq::Get { from: None, to, id, payload },
            Request::Set(payload) => Iq::Set { from: None, to, id, payload },
        };
        effects.push(Effect::Stanza(Box::new(iq.into())));
    }

    fn expire_questions(&mut self, now: Instant) {
        let is_late = |_: &String, (_, until): &mut (IqToken, Instant)| *until <= now;
        let late: Vec<_> = self.questions.extract_if(.., is_late).collect();
        for (_, (token, _)) in late {
            let result = Err(IqError::Timeout);
            self.stream_tells(now, FromStream::IqAnswer { token, result });
        }
    }

    fn stream_tells(&mut self, now: Instant, event: FromStream) {
        self.node.handle(now, Input::Stream(event));
    }

    /// The stream logged in.
    pub(crate) fn online(&mut self, now: Instant, jid: FullJid) {
        self.is_online = true;
        self.stream_tells(now, FromStream::Online { jid, resumed: Resumed::No });
    }

    /// The stream is lost.
    pub(crate) fn offline(&mut self, now: Instant) {
        if !std::mem::take(&mut self.is_online) {
            return;
        }
        for (_, (token, _)) in std::mem::take(&mut self.questions) {
            let result = Err(IqError::Disconnected);
            self.stream_tells(now, FromStream::IqAnswer { token, result });
        }
        let (why, retry_in) = (Failure::Closed, Duration::from_secs(1));
        self.stream_tells(now, FromStream::Offline { why, retry_in });
    }

    /// A stanza comes from the server.
    pub(crate) fn stanza(&mut self, now: Instant, element: Element) {
        let event = match stanza(element) {
            Some(Stanza::Iq(iq @ (Iq::Result { .. } | Iq::Error { .. }))) => {
                let Some((token, _)) = self.questions.remove(iq.id()) else { return };
                let result = match iq {
                    Iq::Error { error, .. } => Err(IqError::Stanza(Box::new(error))),
                    Iq::Result { payload, .. } => Ok(payload),
                    Iq::Get { .. } | Iq::Set { .. } => return,
                };
                FromStream::IqAnswer { token, result }
            }
            Some(stanza) => FromStream::Stanza(Box::new(stanza)),
            None => return,
        };
        self.stream_tells(now, event);
    }

    /// Servers whose names were numbers.
    pub(crate) fn resolved(&mut self, now: Instant, offer: &[Service]) {
        let found = offer.iter().filter_map(|service| {
            let ip: IpAddr = service.host.parse().ok()?;
            Some((service.clone(), SocketAddr::new(ip, service.port)))
        });
        self.node.handle(now, Input::ServersResolved(found.collect()));
    }

    pub(crate) fn readdressed(&mut self, now: Instant, address: IpAddr) {
        self.node.handle(now, Input::RoutesChanged);
        self.node.handle(now, Input::OfferedAddresses(vec![address]));
        self.node.handle(now, Input::LocalAddresses([address].into()));
    }

    pub(crate) fn datagram(&mut self, now: Instant, datagram: &Datagram) {
        let Some(socket) = self.io.sockets().bound_to(datagram.to.port()) else { return };
        let bytes = self.buffers.fill(std::iter::once(&datagram.payload[..]));
        let local_ip = Some(datagram.to.ip());
        self.core.packet(now, socket, datagram.from, local_ip, bytes, &mut self.io);
        self.core.end_of_train(now, &mut self.io);
    }

    /// A station behind the TAP speaks.
    pub(crate) fn frame(&mut self, now: Instant, frame: &[u8]) {
        let (vnet, bytes) = (&[0; VNET_HEADER_LEN], FrameBytes::Whole(frame));
        self.core.outbound(now, TapFrame { tap: TAP, vnet, bytes }, &mut self.io);
    }

    fn take_output(&mut self, address: IpAddr, effects: &mut Vec<Effect>) -> bool {
        let mut any = false;
        while let Some(train) = self.io.trains.pop_front() {
            any = true;
            let port = if train.socket == SocketKind::Relay { RELAY_PORT } else { LISTEN_PORT };
            // A source address that the host has no more is refused by the kernel.
            if train.source_ip.is_none_or(|ip| ip.to_canonical() == address) {
                for packet in train.packets() {
                    effects.push(Effect::Datagram(Datagram {
                        from: SocketAddr::new(address, port),
                        to: SocketAddr::new(
                            train.destination.ip().to_canonical(),
                            train.destination.port(),
                        ),
                        payload: packet.to_vec(),
                    }));
                }
            }
            self.io.recycle_train(train);
        }
        while let Some(write) = self.io.tap_writes.pop_front() {
            any = true;
            effects.push(Effect::Frame(write.pieces.concat()));
            self.io.recycle_tap_write(write);
        }
        any
    }
}
