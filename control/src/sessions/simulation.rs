//! Two nodes' sessions joined by a toy network: dials get lost, messages take their time, nodes are killed and come
//! back; sources name the peer and forget it, path control finds ways and loses them, secrets are exchanged for others. Whatever
//! happened, once the network heals both must agree on one connection per lane and leave it alone.

use std::{collections::BTreeMap, time::Duration};

use ipop_datapath::{
    command::{Ended, ToConnection, ToPort, ToWorker},
    path::alias,
    policy::admission::{Proved, Unproved},
};
use proptest::prelude::*;

use super::*;
use crate::{peer::PeerSpec, rng::Rng, testing};

const DEAD_PEER_TIME: Duration = Duration::from_secs(10);
/// The longest back-off with its jitter, a lost dial, a dead peer, and some.
const SETTLE: Duration = Duration::from_secs(60);

/// A connection, as its two ends see it; the index is the node.
struct Connection {
    names: [ConnectionId; 2],
    lane: u8,
    open: [bool; 2],
    dialler: usize,
    to_alias: bool,
    /// Secrets that both ends knew when it was made.
    proved: Vec<SecretId>,
}

enum Happening {
    Report(usize, usize, Report),
    Resolved(usize, u64),
    Start(usize),
    Kill(usize),
    Tell(usize, Change),
}

/// What a node is told from outside.
#[derive(Clone, Debug)]
enum Change {
    Named,
    Unnamed,
    Path(bool),
    Secrets(Vec<SecretId>),
}

enum Report {
    Connected,
    Ended(Ended),
}

struct Node {
    sessions: Option<Sessions>,
    /// The peer as configured; `None` if a room names it.
    spec: Option<String>,
    is_named: bool,
    has_path: bool,
    secrets: Vec<SecretId>,
    lanes: u8,
    starts: u64,
    accepted: ConnectionIds,
    active: HashMap<usize, ConnectionId>,
    /// What signals go over, as the sessions have told.
    tunnel: Option<(ConnectionId, SocketAddr)>,
    ups: usize,
    downs: usize,
    commands: usize,
}

struct World {
    now: Instant,
    rng: Rng,
    max_delay_ms: u64,
    loss: f64,
    /// In the ways that path control finds, the listener's address is usable as well.
    plain: bool,
    nodes: [Node; 2],
    connections: Vec<Connection>,
    queue: BTreeMap<(Instant, u64), Happening>,
    queued: u64,
}

/// Where dialled connections seem to come from.
const SOURCE: &str = "10.0.0.9:40000";

fn id(node: usize) -> NodeId {
    NodeId([node as u8 + 1; 32])
}

fn listener(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8 + 1], 5800))
}

impl World {
    fn new(plan: &Plan) -> Self {
        let node = |own: usize| {
            let peer = id(1 - own);
            let address = listener(1 - own);
            let spec = match plan.addresses[own] {
                Address::None => Some(format!("{peer}")),
                Address::Literal => Some(format!("{peer}@{address}")),
                Address::Name => Some(format!("{peer}@peer.example:5800")),
                Address::Room => None,
            };
            Node {
                sessions: None,
                spec,
                is_named: true,
                has_path: true,
                secrets: plan.secrets.clone(),
                lanes: plan.lanes[own],
                starts: 0,
                accepted: ConnectionIds::new(Direction::Accepted),
                active: HashMap::new(),
                tunnel: None,
                ups: 0,
                downs: 0,
                commands: 0,
            }
        };
        let mut world = Self {
            now: Instant::now(),
            rng: Rng::new(plan.seed),
            max_delay_ms: plan.max_delay_ms,
            loss: plan.loss,
            plain: plan.plain,
            nodes: [node(0), node(1)],
            connections: Vec::new(),
            queue: BTreeMap::new(),
            queued: 0,
        };
        world.schedule(Duration::ZERO, Happening::Start(0));
        world.schedule(Duration::from_millis(plan.lag_ms), Happening::Start(1));
        for (node, at_ms, down_ms) in &plan.kills {
            world.schedule(Duration::from_millis(*at_ms), Happening::Kill(*node));
            world.schedule(Duration::from_millis(at_ms + down_ms), Happening::Start(*node));
        }
        for (node, at_ms, change) in &plan.changes {
            let change = Happening::Tell(*node, change.clone());
            world.schedule(Duration::from_millis(*at_ms), change);
        }
        world
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), happening);
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(1 + self.rng.next() % self.max_delay_ms)
    }

    fn lost(&mut self) -> bool {
        self.rng.fraction() < self.loss
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timeouts = self.nodes.iter().filter_map(|node| node.sessions.as_ref());
            let timeout = timeouts.filter_map(Sessions::poll_timeout).min();
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let Some(at) = timeout.into_iter().chain(next).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= self.now) {
                if let Some((_, happening)) = self.queue.pop_first() {
                    self.happen(happening);
                }
            }
            for node in 0..2 {
                if let Some(sessions) = &mut self.nodes[node].sessions {
                    sessions.handle_timeout(self.now);
                }
                self.carry_out(node);
            }
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start(node) => self.start(node),
            Happening::Kill(node) => self.kill(node),
            Happening::Resolved(node, starts) => {
                if self.nodes[node].starts == starts {
                    let result = Ok(vec![listener(1 - node)]);
                    self.input(node, Input::Resolved { peer: id(1 - node), result });
                }
            }
            Happening::Report(node, connection, report) => self.report(node, connection, report),
            Happening::Tell(node, change) => self.tell(node, change),
        }
    }

    fn start(&mut self, own: usize) {
        let node = &mut self.nodes[own];
        if node.sessions.is_some() {
            return;
        }
        node.starts += 1;
        node.accepted = ConnectionIds::new(Direction::Accepted);
        node.active.clear();
        node.tunnel = None;
        let (lanes, seed) = (node.lanes, self.rng.next());
        let config = SessionsConfig { inner_mtu: 1_500, lanes, seed };
        let mut sessions = Sessions::new(id(own), config, self.now).unwrap();
        if let Some(spec) = &node.spec {
            let PeerSpec { node, address } = spec.parse().unwrap();
            let named = NamedPeer { node, port: PORT, address, last_addresses: Vec::new() };
            sessions.handle(self.now, Input::Named(named));
        }
        node.sessions = Some(sessions);
        self.carry_out(own);
        let node = &self.nodes[own];
        let changes = [
            if node.is_named { Change::Named } else { Change::Unnamed },
            Change::Path(node.has_path),
            Change::Secrets(node.secrets.clone()),
        ];
        changes.into_iter().for_each(|change| self.tell(own, change));
    }

    fn tell(&mut self, own: usize, change: Change) {
        let node = &mut self.nodes[own];
        let peer = id(1 - own);
        match &change {
            Change::Named => node.is_named = true,
            Change::Unnamed => node.is_named = false,
            Change::Path(found) => node.has_path = *found,
            Change::Secrets(secrets) => node.secrets = secrets.clone(),
        }
        if node.spec.is_some() && !matches!(change, Change::Secrets(_)) {
            return;
        }
        let path = match self.plain {
            true => PeerPath::Listener(listener(1 - own)),
            false => PeerPath::Relayed,
        };
        let named = matches!(change, Change::Named);
        self.input(
            own,
            match change {
                Change::Named => {
                    let (address, last_addresses) = (None, Vec::new());
                    Input::Named(NamedPeer { node: peer, port: PORT, address, last_addresses })
                }
                Change::Unnamed => Input::Unnamed { peer },
                Change::Path(true) => Input::Path { peer, path },
                Change::Path(false) => Input::Path { peer, path: PeerPath::Down },
                Change::Secrets(secrets) => Input::Secrets(secrets),
            },
        );
        // A peer that is named again has the way that was found before.
        if named && self.nodes[own].has_path {
            self.input(own, Input::Path { peer, path });
        }
    }

    /// Without a word to anybody. What the far end sends later is answered with a reset, or by nobody.
    fn kill(&mut self, node: usize) {
        self.nodes[node].sessions = None;
        for index in 0..self.connections.len() {
            if std::mem::take(&mut self.connections[index].open[node]) {
                let (after, why) = if self.rng.next().is_multiple_of(2) {
                    (self.delay() * 5, Ended::Reset)
                } else {
                    (DEAD_PEER_TIME, Ended::TimedOut)
                };
                self.schedule(after, Happening::Report(1 - node, index, Report::Ended(why)));
            }
        }
    }

    fn report(&mut self, node: usize, index: usize, report: Report) {
        let connection = &mut self.connections[index];
        let name = connection.names[node];
        if !connection.open[node] {
            return;
        }
        let event = match report {
            Report::Ended(why) => {
                connection.open[node] = false;
                Event::Connection(name, FromConnection::Ended(why))
            }
            Report::Connected => {
                let far = &self.nodes[1 - node];
                let mut instance = [node as u8; 16];
                instance[..8].copy_from_slice(&far.starts.to_le_bytes());
                let (direction, remote) = if connection.dialler == node {
                    (Direction::Dialled, listener(1 - node))
                } else {
                    (Direction::Accepted, SOURCE.parse().unwrap())
                };
                let remote = if connection.to_alias { alias(PORT) } else { remote };
                let (lanes, lane) = (far.lanes, connection.lane);
                let hello = Hello { lanes, lane, instance, ..testing::hello() };
                let peer = id(1 - node);
                Event::Connection(
                    name,
                    FromConnection::Connected {
                        peer,
                        direction,
                        remote,
                        local_ip: None,
                        hello,
                        proved: if connection.proved.is_empty() {
                            Proved::KeyAlone
                        } else {
                            Proved::Secrets(connection.proved.clone())
                        },
                    },
                )
            }
        };
        self.input(node, Input::Event(event));
    }

    fn input(&mut self, node: usize, input: Input) {
        if let Some(sessions) = &mut self.nodes[node].sessions {
            sessions.handle(self.now, input);
        }
        self.carry_out(node);
    }

    fn carry_out(&mut self, node: usize) {
        while let Some(action) = self.nodes[node].sessions.as_mut().and_then(Sessions::poll_action)
        {
            match action {
                Action::Resolve { .. } => {
                    let after = self.delay();
                    let starts = self.nodes[node].starts;
                    self.schedule(after, Happening::Resolved(node, starts));
                }
                Action::Command { worker, command } => {
                    self.nodes[node].commands += 1;
                    self.command(node, worker, &command);
                }
                Action::Notice(Notice::PeerUp { .. }) => self.nodes[node].ups += 1,
                Action::Notice(Notice::PeerDown { .. }) => self.nodes[node].downs += 1,
                Action::Tunnel { news: TunnelNews::Up { connection, remote }, .. } => {
                    self.nodes[node].tunnel = Some((connection, remote));
                }
                Action::Tunnel { news: TunnelNews::Ended { .. }, .. } => {
                    self.nodes[node].tunnel = None;
                }
                Action::Tunnel { .. }
                | Action::PeerUp { .. }
                | Action::Notice(_)
                | Action::Forgotten { .. } => {}
            }
        }
        let Node { sessions: Some(sessions), tunnel, .. } = &self.nodes[node] else { return };
        let told = tunnel.map(|(connection, remote)| TunnelNews::Up { connection, remote });
        assert_eq!(told, sessions.tunnel(id(1 - node)));
    }

    fn command(&mut self, node: usize, worker: usize, command: &Command) {
        match *command {
            Command::Connection(connection, ToConnection::Dial { lane, remote, .. }) => {
                let to_alias = remote == alias(PORT);
                assert!(
                    to_alias || remote == listener(1 - node) || remote == SOURCE.parse().unwrap()
                );
                if to_alias {
                    assert_eq!((node, lane.0), (0, 0), "the lower id dials lane 0");
                }
                self.dial(node, connection, lane.0, to_alias);
            }
            Command::Connection(connection, ToConnection::Activate(_)) => {
                self.nodes[node].active.insert(worker, connection);
            }
            Command::Connection(connection, ToConnection::Close(reason)) => {
                self.close(node, connection, reason);
            }
            Command::Connection(_, ToConnection::Probe)
            | Command::Port(_, ToPort::KnowAddresses(_))
            | Command::Worker(ToWorker::Shutdown) => {}
            Command::Path(_)
            | Command::Packet(_)
            | Command::Worker(ToWorker::AnswerStrangers(_))
            | Command::Port(_, ToPort::Announce { .. })
            | Command::Connection(_, ToConnection::Signal(_))
            | Command::Query(..) => panic!("sessions ask for no {command:?}"),
        }
    }

    fn dial(&mut self, node: usize, name: ConnectionId, lane: u8, to_alias: bool) {
        let index = self.connections.len();
        let far = 1 - node;
        let way = !to_alias || self.nodes.iter().all(|node| node.has_path);
        let reached = self.nodes[far].sessions.is_some() && !self.lost() && way;
        let known = |id: &SecretId| self.nodes[far].secrets.contains(id);
        let proved: Vec<SecretId> =
            self.nodes[node].secrets.iter().copied().filter(known).collect();
        let fits = !proved.is_empty() || self.nodes.iter().all(|node| node.secrets.is_empty());
        let (mut names, mut open) = ([name; 2], [true; 2]);
        open[far] = reached;
        if reached {
            names[far] = self.nodes[far].accepted.next(lane);
        }
        self.connections.push(Connection { names, lane, open, dialler: node, to_alias, proved });
        if reached && !fits {
            // Both ends see it in the other's hello; the one that accepted it never told its sessions of it.
            self.connections[index].open[far] = false;
            let ended = Report::Ended(Ended::Refused(Unproved::Different.into()));
            let after = self.delay();
            self.schedule(after, Happening::Report(node, index, ended));
        } else if reached {
            for end in 0..2 {
                let after = self.delay() + self.delay();
                self.schedule(after, Happening::Report(end, index, Report::Connected));
            }
        } else {
            let ended = Report::Ended(Ended::TimedOut);
            self.schedule(DEAD_PEER_TIME, Happening::Report(node, index, ended));
        }
    }

    fn close(&mut self, node: usize, name: ConnectionId, reason: CloseReason) {
        let mine =
            |connection: &Connection| connection.open[node] && connection.names[node] == name;
        let Some(index) = self.connections.iter().position(mine) else { return };
        self.connections[index].open[node] = false;
        let (after, why) = if self.lost() {
            (DEAD_PEER_TIME, Ended::TimedOut)
        } else {
            let code = reason as u64;
            (self.delay(), Ended::ByPeer { code, phrase: String::new() })
        };
        self.schedule(after, Happening::Report(1 - node, index, Report::Ended(why)));
    }

    /// Exactly one connection a lane is open, and both nodes send on it.
    fn check_agreement(&self) {
        let by_way = self.nodes[0].spec.is_none() && !self.plain;
        let lanes = if by_way { 1 } else { self.nodes[0].lanes.min(self.nodes[1].lanes) };
        let open: Vec<_> = self
            .connections
            .iter()
            .filter(|connection| connection.open != [false; 2])
            .map(|connection| (connection.lane, connection.open, connection.names, connection))
            .collect();
        assert_eq!(
            open.len(),
            usize::from(lanes),
            "{:?}",
            open.iter().map(|o| (o.0, o.1, o.2)).collect::<Vec<_>>()
        );
        for (lane, open, names, connection) in open {
            let now = &self.nodes[0].secrets;
            let good = |id: &SecretId| now.contains(id);
            assert!(now.is_empty() || connection.proved.iter().any(good), "lane {lane}");
            assert_eq!(open, [true; 2], "lane {lane}");
            for (node, name) in self.nodes.iter().zip(names) {
                assert_eq!(node.active.get(&usize::from(lane)), Some(&name), "lane {lane}");
            }
        }
        for node in &self.nodes {
            let sessions = node.sessions.as_ref().unwrap();
            assert_eq!(sessions.snapshot(self.now)[0].lanes.len(), usize::from(lanes));
            assert_eq!(sessions.ctx.owners.len(), usize::from(lanes), "names leak");
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Address {
    None,
    Literal,
    Name,
    /// Not configured: a room names it, path control finds a way.
    Room,
}

#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    addresses: [Address; 2],
    lanes: [u8; 2],
    max_delay_ms: u64,
    loss: f64,
    /// How much later the second node starts.
    lag_ms: u64,
    /// Node, when, for how long.
    kills: Vec<(usize, u64, u64)>,
    plain: bool,
    /// Valid at both at the start.
    secrets: Vec<SecretId>,
    /// Node, when, what.
    changes: Vec<(usize, u64, Change)>,
}

const PORT: PortId = PortId(3);
const OLD: SecretId = SecretId([1; 8]);
const NEW: SecretId = SecretId([2; 8]);

fn plans(loss: f64, max_kills: usize) -> impl Strategy<Value = Plan> {
    use Address::{Literal, Name, None};
    let addresses = prop::sample::select(vec![
        [Literal, Literal],
        [Literal, None],
        [None, Literal],
        [Name, Name],
        [None, Name],
    ]);
    let kills = prop::collection::vec((0..2usize, 100..40_000u64, 0..15_000u64), 0..=max_kills);
    let lag_ms = prop_oneof![0..300u64, 0..8_000u64];
    (any::<u64>(), addresses, [1..=4u8, 1..=4u8], 1..200u64, 0.0..=loss, lag_ms, kills).prop_map(
        |(seed, addresses, lanes, max_delay_ms, loss, lag_ms, kills)| Plan {
            seed,
            addresses,
            lanes,
            max_delay_ms,
            loss,
            lag_ms,
            kills,
            plain: true,
            secrets: Vec::new(),
            changes: Vec::new(),
        },
    )
}

/// A room's peers: named and forgotten, with ways that come and go.
fn room_plans() -> impl Strategy<Value = Plan> {
    let change = prop_oneof![
        Just(Change::Named),
        Just(Change::Unnamed),
        any::<bool>().prop_map(Change::Path),
    ];
    let changes = prop::collection::vec((0..2usize, 100..50_000u64, change), 0..12);
    (plans(0.6, 2), changes, any::<bool>()).prop_map(|(plan, changes, plain)| Plan {
        addresses: [Address::Room; 2],
        plain,
        changes,
        ..plan
    })
}

/// An old secret is exchanged for a new one, in the order that the operator's guide says; each node is told at its own time.
fn rotations() -> impl Strategy<Value = Plan> {
    let at = || [100..5_000u64, 100..5_000u64];
    (plans(0.3, 1), at(), at(), any::<bool>()).prop_map(|(plan, first, second, room)| {
        let mut changes = Vec::new();
        for node in 0..2 {
            changes.push((node, 10_000 + first[node], Change::Secrets(vec![NEW, OLD])));
            changes.push((node, 20_000 + second[node], Change::Secrets(vec![NEW])));
        }
        let addresses = if room { [Address::Room; 2] } else { plan.addresses };
        Plan { secrets: vec![OLD], changes, addresses, ..plan }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn after_any_trouble_both_agree_on_one_connection_per_lane(plan in plans(0.6, 4)) {
        let mut world = World::new(&plan);
        world.run_for(Duration::from_secs(60));
        world.loss = 0.0;
        world.run_for(SETTLE);
        world.check_agreement();
        let commands = [0, 1].map(|node: usize| world.nodes[node].commands);
        world.run_for(Duration::from_secs(120));
        world.check_agreement();
        let later = [0, 1].map(|node: usize| world.nodes[node].commands);
        prop_assert_eq!(commands, later, "a settled pair is left alone");
    }

    #[test]
    fn peers_of_a_room_come_and_go(plan in room_plans()) {
        let mut world = World::new(&plan);
        world.run_for(Duration::from_secs(60));
        world.loss = 0.0;
        for node in 0..2 {
            world.tell(node, Change::Path(true));
            world.tell(node, Change::Named);
        }
        world.run_for(SETTLE);
        world.check_agreement();
        for node in 0..2 {
            world.tell(node, Change::Path(false));
            world.tell(node, Change::Unnamed);
        }
        world.run_for(SETTLE);
        world.check_agreement();
        world.input(0, Input::Revoked { peer: id(1), why: Loss::Removed });
        world.run_for(SETTLE);
        for node in &world.nodes {
            let sessions = node.sessions.as_ref().unwrap();
            prop_assert!(sessions.snapshot(world.now).is_empty() && sessions.ctx.owners.is_empty());
            prop_assert_eq!(sessions.poll_timeout(), None);
        }
        prop_assert!(world.connections.iter().all(|connection| connection.open == [false; 2]));
    }

    #[test]
    fn an_old_secret_is_exchanged_for_a_new_one(plan in rotations()) {
        let mut world = World::new(&plan);
        world.run_for(Duration::from_secs(60));
        world.loss = 0.0;
        world.run_for(SETTLE);
        world.check_agreement();
        let commands = [0, 1].map(|node: usize| world.nodes[node].commands);
        world.run_for(Duration::from_secs(120));
        let later = [0, 1].map(|node: usize| world.nodes[node].commands);
        prop_assert_eq!(commands, later, "a settled pair is left alone");
    }

    #[test]
    fn without_trouble_the_peer_comes_up_once_and_stays(plan in plans(0.0, 0)) {
        let mut world = World::new(&plan);
        world.run_for(SETTLE);
        world.check_agreement();
        for node in &world.nodes {
            prop_assert_eq!((node.ups, node.downs), (1, 0));
        }
    }
}
