//! What the room makes this node write and name, without a room: occupants and connections are told by the test.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipop_datapath::{
    command::{ConnectionId, Direction, Event, FromConnection, ToConnection},
    policy::admission::{Admission, ProofBinding, Proved},
};

use super::*;
use crate::{
    ice::{Candidate, MAX_CANDIDATES},
    node::{Configured, Input, Node, NodeConfig, PortSpec},
    paths::{Signal, read_signal},
    sessions::SessionsConfig,
    testing::{hello, ice},
    trust::{
        MAX_UNPROVED, NewNodes, Policy, TrustStore,
        saved::{DEFAULT_KEEP_S, Seen},
    },
    xmpp::room::{Affiliation, Card, Entry, Occupant},
};

const LOCAL: NodeId = NodeId([1; 32]);
const ROOM: &str = "net@muc.x";
const UNIX_S: u64 = 1_700_000_000;
/// Between two happenings, each of which is something to be written.
const STEP: Duration = Duration::from_millis(10);

struct Bench {
    node: Node,
    now: Instant,
    /// What was written: lists of those observed, and of those saved.
    observed: Vec<Vec<NodeId>>,
    saved: Vec<SavedPeers>,
    dialled: Vec<(NodeId, SocketAddr)>,
    /// What was said inside tunnels.
    said: Vec<Signal>,
}

fn node(number: u32) -> NodeId {
    NodeId::of_spki(&number.to_be_bytes())
}

fn secret() -> Policy {
    Policy::Secret("mfrggzdfmztwq2lknnwg23tpobyxe43u".parse().unwrap())
}

fn card(node: NodeId) -> Card {
    let (name, version) = ("rack7".into(), "1".into());
    Card { node, name, version, capabilities: Vec::new() }
}

impl Bench {
    fn new(policy: Policy, saved: SavedPeers, store: TrustStore) -> Self {
        let now = Instant::now();
        let (ice, seed) = (ice(1), 1);
        let config = RendezvousConfig {
            room: RoomConfig {
                room: ROOM.parse().unwrap(),
                entry: Entry::Password,
                password: None,
                name: "rack1".into(),
                seed,
            },
            jingle: JingleConfig { fingerprint: None, loopback: ice.loopback, seed },
            servers: Servers::Configured,
            saved,
            unix_s: UNIX_S,
        };
        let config = NodeConfig {
            local: LOCAL,
            sessions: SessionsConfig { inner_mtu: 1_500, lanes: 1, seed },
            configured: Configured {
                ports: vec![PortSpec::Tap("ipop0".into())],
                peers: Vec::new(),
                policy,
            },
            decisions: store,
            ice,
            rendezvous: Some(config),
        };
        let node = Node::new(config, now).unwrap();
        let (observed, saved, dialled, said) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut bench = Self { node, now, observed, saved, dialled, said };
        bench.collect();
        bench
    }

    fn collect(&mut self) {
        while let Some(action) = self.node.poll_action(self.now) {
            match action {
                Action::Observe { seen, .. } => {
                    self.observed.push(seen.into_iter().map(|(node, _)| node).collect());
                }
                Action::Save(saved) => self.saved.push(saved),
                Action::Worker { command: Command::Connection(_, what), .. } => match what {
                    ToConnection::Signal(message) => self.said.extend(read_signal(&message)),
                    ToConnection::Dial { peer, remote, .. } => self.dialled.push((peer, remote)),
                    _ => {}
                },
                _ => {}
            }
        }
    }

    /// Nodes that the sessions know.
    fn known(&self) -> usize {
        self.node.sessions().snapshot(self.now).len()
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.collect();
        while let Some(at) = self.node.poll_timeout().filter(|at| *at <= end) {
            // A simulated microsecond for what is due now.
            self.now = at.max(self.now + Duration::from_micros(1));
            self.node.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    fn enters(&mut self, number: u32) {
        let jid = FullJid::new(&format!("u{number}@x/r")).unwrap();
        let card = card(node(number));
        let affiliation = Affiliation::Member;
        let rendezvous = self.node.rendezvous.as_mut().unwrap();
        rendezvous.occupant(self.now, Occupant { jid, affiliation, card });
        self.collect();
    }

    fn connects(&mut self, number: u32) {
        let event = Event::Connection(
            ConnectionId(u64::from(number)),
            FromConnection::Connected {
                peer: node(number),
                direction: Direction::Accepted,
                remote: "192.0.2.7:5800".parse().unwrap(),
                local_ip: None,
                hello: hello(),
                proved: Proved::Secrets(secret().secret_ids()),
            },
        );
        self.input(Input::Worker(event));
    }

    fn input(&mut self, input: Input) {
        self.node.handle(self.now, input);
        self.collect();
    }
}

/// 5 s of newcomers.
const NEWCOMERS: u32 = 500;

#[test]
fn who_is_seen_in_the_room_is_written_down_once_a_second() {
    let policy = Policy::FirstSight(NewNodes::Wait);
    let mut bench = Bench::new(policy, SavedPeers::default(), TrustStore::default());
    for number in 0..NEWCOMERS {
        bench.enters(number);
        bench.run(STEP);
    }
    bench.run(Duration::from_secs(2));
    assert!((5..=7).contains(&bench.observed.len()), "{} writes", bench.observed.len());
    let seen: BTreeSet<NodeId> = bench.observed.iter().flatten().copied().collect();
    assert_eq!(seen, (0..NEWCOMERS).map(node).collect(), "nobody is left out");
}

#[test]
fn who_connects_is_written_down_once_in_two_seconds() {
    let mut bench = Bench::new(secret(), SavedPeers::default(), TrustStore::default());
    for number in 0..NEWCOMERS {
        bench.enters(number);
        bench.connects(number);
        bench.run(STEP);
    }
    bench.run(Duration::from_secs(3));
    assert!((3..=5).contains(&bench.saved.len()), "{} writes", bench.saved.len());
    let last = bench.saved.last().unwrap().of_room(ROOM, DEFAULT_KEEP_S, UNIX_S);
    assert_eq!(last.count(), NEWCOMERS as usize, "nobody is left out");
}

#[test]
fn a_saved_peer_that_the_operator_lets_in_again_is_named_with_its_addresses() {
    let address = "192.0.2.9:5800".parse().unwrap();
    let mut saved = SavedPeers::default();
    for (number, seen_unix_s) in [(1, UNIX_S), (2, UNIX_S - DEFAULT_KEEP_S)] {
        let (node, address) = (node(number), Some(address));
        saved.seen(&Seen { node, claim: None, room: ROOM, address }, seen_unix_s);
    }
    let mut denied = TrustStore::default();
    for number in [1, 2] {
        denied.deny(&node(number).to_string(), UNIX_S).unwrap();
    }
    let mut bench = Bench::new(secret(), saved, denied);
    assert_eq!((bench.known(), bench.dialled.len()), (0, 0));
    bench.input(Input::Decisions(TrustStore::default()));
    // The right of the other one has ended.
    assert_eq!((bench.known(), &bench.dialled[..]), (1, &[(node(1), address)][..]));
}

/// A peer takes 24 candidates of a description, those included that are gone. A host that moves on and on describes itself anew before that.
#[test]
fn a_host_that_moves_often_is_told_of_wherever_it_is() {
    let mut bench = Bench::new(secret(), SavedPeers::default(), TrustStore::default());
    bench.enters(1);
    bench.connects(1);
    let mut of_generation: BTreeMap<u32, BTreeSet<SocketAddr>> = BTreeMap::new();
    for number in 1..=60 {
        let address = IpAddr::from([198, 51, 100, number]);
        bench.input(Input::OfferedAddresses(vec![address]));
        bench.run(Duration::from_secs(1));
        let said = bench.said.last().unwrap();
        let is_new = |candidate: &Candidate| candidate.address.ip() == address;
        assert!(said.candidates.iter().any(is_new), "{address} in {:?}", said.candidates);
        for said in bench.said.drain(..) {
            let told = of_generation.entry(said.description.generation).or_default();
            told.extend(said.candidates.iter().map(|candidate| candidate.address));
        }
    }
    assert!(of_generation.len() > 1, "{of_generation:?}");
    let most = of_generation.values().map(BTreeSet::len).max();
    assert!(most <= Some(MAX_CANDIDATES), "{most:?}");
}

#[test]
fn a_room_of_a_thousand_gets_in_once_the_first_have_connected() {
    let mut bench = Bench::new(secret(), SavedPeers::default(), TrustStore::default());
    (1..=1_000).for_each(|number| bench.enters(number));
    bench.run(STEP);
    assert_eq!(bench.known(), MAX_UNPROVED);
    for number in 1..=500 {
        let binding = ProofBinding::new(LOCAL, node(number), Direction::Accepted, [7; 32]);
        let trust = bench.node.trust();
        let proofs = trust.proofs(node(number), &binding);
        trust.verify(node(number), &binding, &proofs).expect("the secret");
        bench.connects(number);
    }
    bench.run(Duration::from_secs(5));
    assert_eq!(bench.known(), 1_000);
}
