//! What lies between trust and sessions, driven by hand: peers that are denied, accepted, configured and no longer configured while it runs.

use std::time::Duration;

use ipop_datapath::{
    MacAddr, PortId,
    command::{
        Audience, CloseReason, ConnectionId, Direction, Ended, FromConnection, ToConnection,
        ToPort, ToWorker,
    },
    frame::HostOrRouter,
    policy::admission::{Admission, Proved, Verdict},
    tunnel::hello::{Capabilities, Hello},
};

use super::*;
use crate::{
    ice::{Candidate, CandidateKind, IceDescription},
    paths::{ToLink, Tunnel},
    peer::PeerSpec,
    questions::{ANSWER_WITHIN, NotAsked, Question},
    testing,
    trust::{Loss, Refusal, Standing},
};

const LOCAL: NodeId = NodeId([5; 32]);
const ONE: NodeId = NodeId([8; 32]);
const OTHER: NodeId = NodeId([9; 32]);
const FIRST_PORT: u16 = 2;
const LISTENERS: [&str; 2] = ["10.0.0.8:5800", "10.0.0.9:5800"];
const SECRET: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43u";

struct Bench {
    node: Node,
    now: Instant,
    actions: Vec<Action>,
}

fn spec(number: usize) -> PeerSpec {
    format!("{}@{}", [ONE, OTHER][number], LISTENERS[number]).parse().unwrap()
}

/// Beside local ports that take the numbers below [`FIRST_PORT`].
fn configured(peers: &[PeerSpec], policy: Policy) -> Configured {
    let ports = (0..FIRST_PORT).map(|number| PortSpec::Tap(format!("ipop{number}")));
    Configured { ports: ports.collect(), peers: peers.to_vec(), policy }
}

fn denying(nodes: &[NodeId]) -> TrustStore {
    let mut store = TrustStore::default();
    for node in nodes {
        store.deny(&node.to_string(), 5).unwrap();
    }
    store
}

impl Bench {
    /// Both peers are configured.
    fn new(decisions: TrustStore) -> Self {
        let now = Instant::now();
        let config = NodeConfig {
            local: LOCAL,
            sessions: SessionsConfig { inner_mtu: 1_500, lanes: 1, seed: 1 },
            decisions,
            configured: configured(&[spec(0), spec(1)], Policy::ConfiguredAlone),
            ice: testing::ice(1),
            rendezvous: None,
        };
        let mut bench = Self { node: Node::new(config, now).unwrap(), now, actions: Vec::new() };
        bench.collect();
        bench
    }

    fn collect(&mut self) {
        self.actions.extend(std::iter::from_fn(|| self.node.poll_action(self.now)));
    }

    fn input(&mut self, input: Input) {
        self.node.handle(self.now, input);
        self.collect();
    }

    /// A controller's order, which is done.
    fn order_link(&mut self, peer: NodeId, order: LinkOrder) {
        assert_eq!(self.node.order_link(self.now, peer, order), Ok(()));
        self.collect();
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(at) = self.node.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    fn commands<T>(&mut self, pick: impl Fn(&Command) -> Option<T>) -> Vec<T> {
        let picked = |action: &Action| match action {
            Action::Worker { command, .. } => pick(command),
            _ => None,
        };
        let all = self.actions.iter().filter_map(picked).collect();
        self.actions.retain(|action| picked(action).is_none());
        all
    }

    fn dials(&mut self) -> Vec<(NodeId, ConnectionId)> {
        self.commands(|command| match command {
            Command::Connection(connection, ToConnection::Dial { peer, .. }) => {
                Some((*peer, *connection))
            }
            _ => None,
        })
    }

    fn closes(&mut self) -> Vec<(ConnectionId, CloseReason)> {
        self.commands(|command| match command {
            Command::Connection(connection, ToConnection::Close(reason)) => {
                Some((*connection, *reason))
            }
            _ => None,
        })
    }

    fn activations(&mut self) -> Vec<(ConnectionId, PortId)> {
        self.commands(|command| match command {
            Command::Connection(connection, ToConnection::Activate(port)) => {
                Some((*connection, *port))
            }
            _ => None,
        })
    }

    /// How often the operator was told this.
    fn told(&self, what: impl Fn(&Notice) -> bool) -> usize {
        let is_told = |action: &&Action| matches!(action, Action::Notice(notice) if what(notice));
        self.actions.iter().filter(is_told).count()
    }

    /// The peer's only dial is answered: at which port it is up.
    fn answered(&mut self, peer: NodeId) -> (ConnectionId, PortId) {
        let dials = self.dials();
        let [(dialled, connection)] = dials[..] else { panic!("{dials:?}") };
        assert_eq!(dialled, peer);
        self.connected(peer, connection);
        let up = self.activations();
        let [.., (activated, port)] = up[..] else { panic!("it is not taken") };
        assert_eq!(activated, connection);
        assert_eq!(self.node.trust().verdict(peer), Verdict::Admitted(port), "as workers see it");
        (connection, port)
    }

    fn connected(&mut self, peer: NodeId, connection: ConnectionId) {
        self.connected_as("rack9", peer, connection);
    }

    fn connected_as(&mut self, name: &str, peer: NodeId, connection: ConnectionId) {
        self.greeted(Hello { name: name.into(), ..testing::hello() }, peer, connection);
    }

    fn greeted(&mut self, hello: Hello, peer: NodeId, connection: ConnectionId) {
        let hello = Hello { instance: peer.0[..16].try_into().unwrap(), ..hello };
        self.input(Input::Worker(Event::Connection(
            connection,
            FromConnection::Connected {
                peer,
                direction: Direction::Dialled,
                remote: LISTENERS[usize::from(peer == OTHER)].parse().unwrap(),
                local_ip: None,
                hello,
                proved: Proved::KeyAlone,
            },
        )));
    }

    /// These peers are configured from now on; what the operator hears of that.
    fn configure(&mut self, peers: &[PeerSpec]) -> String {
        self.reconfigure(peers, Policy::ConfiguredAlone)
    }

    fn reconfigure(&mut self, peers: &[PeerSpec], policy: Policy) -> String {
        self.actions
            .retain(|action| !matches!(action, Action::Notice(Notice::Reconfigured { .. })));
        self.input(Input::Configured(configured(peers, policy)));
        let told = self.actions.iter().filter_map(|action| match action {
            Action::Notice(notice @ Notice::Reconfigured { .. }) => Some(notice.to_string()),
            _ => None,
        });
        told.collect()
    }

    fn known(&self) -> Vec<String> {
        let peers = self.node.sessions().snapshot(self.now);
        peers.into_iter().map(|peer| peer.node).collect()
    }
}

#[test]
fn a_denied_peer_beside_another_one_is_told_of_and_takes_nothing_from_it() {
    let mut bench = Bench::new(denying(&[ONE]));
    let is_denied = Notice::NotAdmitted { peer: ONE, why: Refusal::Denied(ONE) };
    assert_eq!(bench.told(|notice| *notice == is_denied), 1);
    let (_, port) = bench.answered(OTHER);
    assert_eq!((port, bench.known()), (PortId(FIRST_PORT), vec![OTHER.to_string()]));
    // Another configuration of it changes nothing, and says so again.
    let is_changed = "SIGHUP: 1 peers new or changed, 0 no longer configured";
    assert_eq!(bench.configure(&[PeerSpec { address: None, ..spec(0) }, spec(1)]), is_changed);
    assert_eq!(bench.configure(&[spec(0), spec(1)]), is_changed);
    assert_eq!((bench.dials(), bench.told(|notice| *notice == is_denied)), (vec![], 3));
    // Accepted while the node runs it is dialled where the configuration says, and has a port of its own.
    bench.input(Input::Decisions(TrustStore::default()));
    let (_, port) = bench.answered(ONE);
    assert_eq!(port, PortId(FIRST_PORT + 1));
    assert_eq!(bench.closes(), []);
}

#[test]
fn a_peer_that_is_denied_while_it_is_up_is_closed_and_its_port_is_free() {
    let mut bench = Bench::new(TrustStore::default());
    let [(_, first), (_, second)] = bench.dials()[..] else { panic!("both are dialled") };
    bench.connected(ONE, first);
    bench.connected(OTHER, second);
    bench.input(Input::Decisions(denying(&[ONE])));
    assert_eq!(bench.closes(), [(first, CloseReason::NotAdmitted)]);
    let denied = Loss::Refused(Refusal::Denied(ONE));
    assert_eq!(
        bench.told(|notice| matches!(notice, Notice::Revoked { why, .. } if *why == denied)),
        1
    );
    assert_eq!(bench.known(), [OTHER.to_string()]);
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.dials(), []);
    // Its number went back and is the last one to be given again.
    bench.input(Input::Decisions(TrustStore::default()));
    let (_, port) = bench.answered(ONE);
    assert_eq!(port, PortId(FIRST_PORT + 2));
}

#[test]
fn a_peer_that_is_no_longer_configured_is_closed_and_may_come_back() {
    let mut bench = Bench::new(denying(&[OTHER]));
    let (connection, _) = bench.answered(ONE);
    // Whom something else names is no peer of the configuration.
    let linked = NodeId([7; 32]);
    bench.order_link(linked, LinkOrder::Create);
    let told = bench.configure(&[spec(1)]);
    bench.order_link(linked, LinkOrder::Remove);
    assert_eq!(told, "SIGHUP: 0 peers new or changed, 1 no longer configured");
    assert_eq!(bench.closes(), [(connection, CloseReason::NotAdmitted)]);
    let is_lost =
        |notice: &Notice| matches!(notice, Notice::Revoked { why: Loss::NotConfigured, .. });
    assert_eq!(bench.told(is_lost), 1);
    assert!(matches!(bench.node.trust().verdict(ONE), Verdict::Refused(_)));
    assert_eq!(bench.node.trust().standing(ONE), Standing::Refused(Refusal::Unnamed(ONE)));
    // Neither decisions nor another policy bring it back, until it is configured again.
    bench.input(Input::Decisions(denying(&[ONE, OTHER])));
    bench.input(Input::Decisions(denying(&[OTHER])));
    assert_eq!((bench.known(), bench.dials()), (vec![], vec![]));
    bench.configure(&[spec(0), spec(1)]);
    bench.answered(ONE);
}

#[test]
fn a_peer_that_was_added_stays_when_the_configuration_is_read_until_it_is_taken_back() {
    const LATER: NodeId = NodeId([7; 32]);
    let mut bench = Bench::new(denying(&[OTHER]));
    let later = |address| -> PeerSpec { format!("{LATER}@{address}").parse().unwrap() };
    bench.dials();
    let add = |bench: &mut Bench, spec| {
        let added = bench.node.add_peer(bench.now, spec);
        bench.collect();
        added
    };
    assert_eq!(add(&mut bench, later("10.0.0.7:5800")), Ok(()));
    let (connection, _) = bench.answered(LATER);
    // Configured and no longer, and named by a controller and no longer.
    bench.configure(&[spec(0), spec(1), later("10.0.0.77:5800")]);
    bench.configure(&[spec(0), spec(1)]);
    bench.order_link(LATER, LinkOrder::Create);
    bench.order_link(LATER, LinkOrder::Remove);
    assert_eq!(bench.node.trust().sources(LATER), [NamedBy::Added]);
    assert_eq!(bench.closes(), []);
    let now = bench.now;
    assert_eq!(bench.node.take_peer_back(now, LATER), Ok(()));
    bench.collect();
    assert_eq!(bench.closes(), [(connection, CloseReason::NotAdmitted)]);
    assert_eq!(bench.node.take_peer_back(now, LATER), Err(NotAdded(vec![])));
    // Nor are those of the configuration its business, nor denied ones, nor this node.
    let configured = Err(NotAdded(vec![NamedBy::Configured]));
    assert_eq!(bench.node.take_peer_back(now, ONE), configured);
    assert_eq!(add(&mut bench, spec(1)), Err(Refusal::Denied(OTHER)));
    assert_eq!(bench.node.trust().sources(OTHER), [NamedBy::Configured]);
    let itself = PeerSpec { node: LOCAL, address: None };
    assert_eq!(add(&mut bench, itself), Err(Refusal::Itself));
}

#[test]
fn the_address_that_was_added_counts_for_more_than_the_configured_one() {
    let mut bench = Bench::new(denying(&[OTHER]));
    bench.configure(&[]);
    let elsewhere: PeerSpec = format!("{ONE}@10.0.0.77:5800").parse().unwrap();
    let (trust, now) = (bench.node.trust().clone(), bench.now);
    let address = |bench: &mut Bench| {
        bench.collect();
        let snapshot = bench.node.sessions().snapshot(now);
        let one = snapshot.into_iter().find(|peer| peer.node == ONE.to_string());
        one.and_then(|peer| peer.address)
    };
    bench.node.add_peer(now, elsewhere).unwrap();
    bench.configure(&[spec(0)]);
    assert_eq!(trust.sources(ONE), [NamedBy::Configured, NamedBy::Added]);
    assert_eq!(address(&mut bench).as_deref(), Some("10.0.0.77:5800"));
    bench.node.take_peer_back(now, ONE).unwrap();
    assert_eq!(address(&mut bench).as_deref(), Some(LISTENERS[0]));
}

#[test]
fn a_peer_with_another_address_is_dialled_there_once_it_is_down() {
    let mut bench = Bench::new(denying(&[OTHER]));
    let (connection, _) = bench.answered(ONE);
    let elsewhere: PeerSpec = format!("{ONE}@10.0.0.77:5800").parse().unwrap();
    bench.configure(&[elsewhere.clone(), spec(1)]);
    // The operator's other decisions do not bring the old address back.
    bench.input(Input::Decisions(denying(&[ONE])));
    assert_eq!(bench.closes(), [(connection, CloseReason::NotAdmitted)]);
    bench.input(Input::Decisions(TrustStore::default()));
    let remotes = bench.commands(|command| match command {
        Command::Connection(_, ToConnection::Dial { peer, remote, .. }) if *peer == ONE => {
            Some(*remote)
        }
        _ => None,
    });
    assert_eq!(remotes, [elsewhere.address.unwrap().literal().unwrap()]);
}

#[test]
fn another_policy_asks_those_that_are_up_for_the_secret() {
    let mut bench = Bench::new(denying(&[OTHER]));
    let (connection, _) = bench.answered(ONE);
    let policy = Policy::Secret(SECRET.parse().unwrap());
    let told = bench.reconfigure(&[spec(0), spec(1)], policy.clone());
    assert!(told.ends_with("0 no longer configured, another trust policy or secret"), "{told}");
    let dials = bench.dials();
    assert_eq!(dials.len(), 1, "to prove it on another connection: {dials:?}");
    bench.input(Input::Worker(Event::Connection(
        dials[0].1,
        FromConnection::Ended(Ended::TimedOut),
    )));
    bench.advance(Duration::from_secs(11));
    assert!(bench.closes().contains(&(connection, CloseReason::NotProved)));
    // The same once more is no news, and closes nothing.
    let told = bench.reconfigure(&[spec(0), spec(1)], policy);
    assert_eq!(told, "SIGHUP: 0 peers new or changed, 0 no longer configured");
}

#[test]
fn who_shuts_down_tells_every_worker_and_dials_nobody() {
    let mut bench = Bench::new(TrustStore::default());
    bench.dials();
    bench.input(Input::ShutDown);
    let ends = bench
        .commands(|command| matches!(command, Command::Worker(ToWorker::Shutdown)).then_some(()));
    assert_eq!(ends.len(), 1);
    bench.advance(Duration::from_secs(60));
    assert_eq!((bench.dials(), bench.node.poll_timeout()), (vec![], None));
}

#[test]
fn who_is_up_is_present_with_what_names_it() {
    use NamedBy::{Configured, Controller};
    let mut bench = Bench::new(denying(&[OTHER]));
    assert_eq!(bench.node.take_present(), Some(PresentPeers::default()));
    // Asked again while nothing has changed, it says nothing.
    assert_eq!(bench.node.take_present(), None);
    let present = |name: &str, sources: &[NamedBy]| {
        let peer = vec![PresentPeer { node: ONE, name: name.into(), sources: sources.into() }];
        Some(PresentPeers { peer })
    };
    let (connection, _) = bench.answered(ONE);
    assert_eq!(bench.node.take_present(), present("rack9", &[Configured]));
    bench.advance(Duration::from_secs(1));
    assert_eq!(bench.node.take_present(), None);
    bench.order_link(ONE, LinkOrder::Create);
    assert_eq!(bench.node.take_present(), present("rack9", &[Configured, Controller]));
    bench.connected_as("rack10", ONE, connection);
    assert_eq!(bench.node.take_present(), present("rack10", &[Configured, Controller]));
    bench.input(Input::Worker(Event::Connection(
        connection,
        FromConnection::Ended(Ended::TimedOut),
    )));
    assert_eq!(bench.node.take_present(), Some(PresentPeers::default()));
    assert_eq!(bench.node.take_present(), None);
}

#[test]
fn a_link_that_begins_while_a_tunnel_is_up_is_told_of_it() {
    let mut bench = Bench::new(denying(&[OTHER]));
    let (connection, _) = bench.answered(ONE);
    let heard = |bench: &Bench, tunnel| {
        let told = FromLink::Tunnel(tunnel);
        let is_it =
            |action: &&Action| matches!(action, Action::Controller { what, .. } if *what == told);
        bench.actions.iter().filter(is_it).count()
    };
    bench.order_link(ONE, LinkOrder::Create);
    assert_eq!((heard(&bench, Tunnel::Up), heard(&bench, Tunnel::Ended)), (1, 0));
    let ended = FromConnection::Ended(Ended::TimedOut);
    bench.input(Input::Worker(Event::Connection(connection, ended)));
    assert_eq!((heard(&bench, Tunnel::Up), heard(&bench, Tunnel::Ended)), (1, 1));
}

#[test]
fn this_hosts_addresses_are_told_to_everybody_and_to_each_peer_that_comes_up() {
    let mut bench = Bench::new(denying(&[OTHER]));
    let told = |bench: &mut Bench| {
        bench.advance(Duration::from_secs(60));
        bench.commands(|command| match command {
            Command::Port(tap, ToPort::Announce { to, .. }) => Some((*tap, *to)),
            _ => None,
        })
    };
    let (tap, mac) = (PortId(1), MacAddr([2, 0, 0, 0, 0, 1]));
    let (address, role) = ([10, 9, 0, 1].into(), HostOrRouter::Host);
    bench.input(Input::OwnAddresses(vec![OwnAddress { tap, mac, address, role }]));
    let (_, peer) = bench.answered(ONE);
    // Each of both is told three times, in turn.
    let both = [(tap, Audience::Everybody), (tap, Audience::Peer(peer))];
    assert_eq!(told(&mut bench), both.repeat(3));
    assert_eq!(told(&mut bench), []);
}

/// What the kernel does not send explains why there is no path, and why a dial fails.
#[test]
fn a_refused_send_is_told_by_paths_and_by_sessions() {
    let mut bench = Bench::new(denying(&[OTHER]));
    let remote: SocketAddr = LISTENERS[0].parse().unwrap();
    bench.input(Input::OfferedAddresses(vec!["10.0.0.5".parse().unwrap()]));
    bench.order_link(ONE, LinkOrder::Create);
    let (ufrag, password) = ("ufrag".to_owned(), "0123456789abcdef012345".to_owned());
    let candidate = Candidate::local(CandidateKind::Host, remote, None, 1);
    for told in [
        ToLink::Remote(IceDescription { ufrag, password, generation: 1 }),
        ToLink::RemoteCandidates { generation: 1, candidates: vec![candidate] },
    ] {
        bench.order_link(ONE, LinkOrder::Tell(told));
    }
    let errno = rustix::io::Errno::HOSTUNREACH.raw_os_error();
    let refused = FromWorker::SendRefused { remote, errno };
    bench.input(Input::Worker(Event::Worker(refused)));
    let dials = bench.dials();
    let failed = FromConnection::Ended(Ended::TimedOut);
    bench.input(Input::Worker(Event::Connection(dials[0].1, failed)));
    bench.advance(Duration::from_secs(60));
    let says = |why: &str| why.contains("ip route get");
    let is_dial = |notice: &Notice| matches!(notice, Notice::DialFailed { why, .. } if says(&why.to_string()));
    let is_path =
        |notice: &Notice| matches!(notice, Notice::NoPath { why, .. } if says(&why.to_string()));
    assert_eq!((bench.told(is_dial) > 0, bench.told(is_path) > 0), (true, true));
}

/// Of two changes at once the sessions hear the outcome alone, and nobody keeps a port of which they never heard.
#[test]
fn who_is_named_for_a_moment_leaves_nothing_behind() {
    let mut bench = Bench::new(denying(&[ONE, OTHER]));
    let stranger = NodeId([7; 32]);
    let peers = vec![spec(0), spec(1), PeerSpec { node: stranger, address: None }];
    let there_and_gone = configured(&peers, Policy::ConfiguredAlone);
    bench.node.reconfigure(bench.now, there_and_gone);
    bench.node.trust().unname(stranger, NamedBy::Configured);
    bench.collect();
    assert!(bench.known().is_empty());
    bench.input(Input::Decisions(TrustStore::default()));
    assert_eq!(bench.known(), [ONE.to_string(), OTHER.to_string()]);
    let ports = bench.node.sessions().snapshot(bench.now).into_iter().map(|peer| peer.port);
    assert_eq!(ports.collect::<Vec<_>>(), [FIRST_PORT + 1, FIRST_PORT + 2]);
    bench.configure(&peers);
    let port = bench.node.trust().standing(stranger);
    assert_eq!(port, Standing::Admitted(PortId(FIRST_PORT + 3)), "its number was given back");
}

#[test]
fn a_peer_that_is_up_and_knows_questions_is_asked_and_answers_and_no_other() {
    let ping = Question::Ping { len: 0 };
    let mut bench = Bench::new(TrustStore::default());
    bench.advance(Duration::ZERO);
    assert_eq!(bench.node.ask(bench.now, ONE, &ping), Err(NotAsked::Down));
    let bits = Capabilities::SIGNALLING | Capabilities::QUESTIONS;
    let knowing = Hello { capabilities: Capabilities(bits), ..testing::hello() };
    for (peer, connection) in bench.dials() {
        let hello = if peer == ONE { knowing.clone() } else { testing::hello() };
        bench.greeted(hello, peer, connection);
    }
    assert_eq!(bench.node.ask(bench.now, OTHER, &ping), Err(NotAsked::OtherVersion));
    bench.actions.clear();
    let token = bench.node.ask(bench.now, ONE, &ping).unwrap();
    bench.collect();
    let said = |bench: &mut Bench| {
        let mut said = bench.commands(|command| match command {
            Command::Connection(connection, ToConnection::Signal(message)) => {
                Some((*connection, message.clone()))
            }
            _ => None,
        });
        assert_eq!(said.len(), 1);
        said.remove(0)
    };
    let heard = |bench: &mut Bench, (connection, message): (ConnectionId, Vec<u8>)| {
        let signal = FromConnection::Signal { peer: ONE, message };
        bench.input(Input::Worker(Event::Connection(connection, signal)));
    };
    // What it is asked itself it answers: here with its own question, as if the peer had put it.
    let asked = said(&mut bench);
    heard(&mut bench, asked);
    let pong = said(&mut bench);
    heard(&mut bench, pong);
    let ended = |bench: &Bench, is_end: &dyn Fn(&Answered) -> bool| {
        let is_it = |action: &Action| matches!(action, Action::Answered(end) if is_end(end));
        bench.actions.iter().any(is_it)
    };
    assert!(ended(&bench, &|end| end.token == token && end.answer.is_some()));
    let late = bench.node.ask(bench.now, ONE, &ping).unwrap();
    bench.advance(ANSWER_WITHIN);
    assert!(ended(&bench, &|end| end.token == late && end.answer.is_none()), "nobody answered");
}
