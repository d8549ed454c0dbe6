//! One node's sessions, driven by hand.

mod addresses;
mod lanes;
mod membership;
mod names;

use std::time::Duration;

use ipop_datapath::{
    command::{Ended, Failure, ToConnection, ToWorker},
    policy::admission::Proved,
};

use super::*;
use crate::{peer::PeerSpec, testing};

const LOCAL: NodeId = NodeId([5; 32]);
/// Above `LOCAL`: simultaneous dials are decided here.
const PEER: NodeId = NodeId([9; 32]);
/// The one that trust gave it.
const PORT: PortId = PortId(16);
const LISTENER: &str = "10.0.0.9:5800";
const SOURCE: &str = "10.0.0.9:40000";

struct Bench {
    sessions: Sessions,
    now: Instant,
    actions: Vec<Action>,
    accepted: ConnectionIds,
}

impl Bench {
    fn new(lanes: u8, peer: &str) -> Self {
        let mut bench = Self::without_peers(LOCAL, lanes);
        let PeerSpec { node, address } = format!("{PEER}{peer}").parse().unwrap();
        let last_addresses = Vec::new();
        bench.input(Input::Named(NamedPeer { node, port: PORT, address, last_addresses }));
        bench
    }

    fn without_peers(local: NodeId, lanes: u8) -> Self {
        let config = SessionsConfig { inner_mtu: 1_500, lanes, seed: 1 };
        let now = Instant::now();
        let sessions = Sessions::new(local, config, now).unwrap();
        let accepted = ConnectionIds::new(Direction::Accepted);
        Self { sessions, now, actions: Vec::new(), accepted }
    }

    fn dialling_one_lane() -> Self {
        Self::new(1, &format!("@{LISTENER}"))
    }

    fn collect(&mut self) {
        self.actions.extend(std::iter::from_fn(|| self.sessions.poll_action()));
    }

    fn input(&mut self, input: Input) {
        self.sessions.handle(self.now, input);
        self.collect();
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(at) = self.sessions.poll_timeout().filter(|at| *at <= end) {
            assert!(at > self.now || self.now == end, "the time-out at {at:?} was not handled");
            self.now = self.now.max(at);
            self.sessions.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    fn advance_ms(&mut self, by_ms: u64) {
        self.advance(Duration::from_millis(by_ms));
    }

    /// Over which connections signals went, one after the other.
    fn tunnels(&mut self) -> Vec<Option<ConnectionId>> {
        self.take(|action| match action {
            Action::Tunnel { news: TunnelNews::Up { connection, .. }, .. } => {
                Some(Some(*connection))
            }
            Action::Tunnel { news: TunnelNews::Ended { .. }, .. } => Some(None),
            _ => None,
        })
    }

    /// Nothing comes back over a connection. Whether that is told of the tunnel.
    fn silent(&mut self, connection: ConnectionId) -> bool {
        let rtt = Duration::from_millis(1);
        self.input(Input::Event(Event::Connection(connection, FromConnection::Silent { rtt })));
        let told = |action: &Action| match action {
            Action::Tunnel { news: TunnelNews::Silent { rtt }, .. } => Some(*rtt),
            _ => None,
        };
        self.take(told) == [rtt]
    }

    fn take<T>(&mut self, pick: impl Fn(&Action) -> Option<T>) -> Vec<T> {
        let picked = self.actions.iter().filter_map(&pick).collect();
        self.actions.retain(|action| pick(action).is_none());
        picked
    }

    fn dials(&mut self) -> Vec<(ConnectionId, u8, SocketAddr)> {
        self.take(|action| match action {
            Action::Command {
                worker,
                command: Command::Connection(connection, ToConnection::Dial { peer, lane, remote }),
            } => {
                assert_eq!((*worker, *peer), (usize::from(lane.0), PEER));
                Some((*connection, lane.0, *remote))
            }
            _ => None,
        })
    }

    fn one_dial(&mut self) -> (ConnectionId, u8, SocketAddr) {
        let dials = self.dials();
        assert_eq!(dials.len(), 1, "{dials:?}");
        dials[0]
    }

    fn closes(&mut self) -> Vec<(ConnectionId, CloseReason)> {
        self.take(|action| match action {
            Action::Command {
                command: Command::Connection(connection, ToConnection::Close(reason)),
                ..
            } => Some((*connection, *reason)),
            _ => None,
        })
    }

    fn activations(&mut self) -> Vec<ConnectionId> {
        self.take(|action| match action {
            Action::Command {
                command: Command::Connection(connection, ToConnection::Activate(port)),
                ..
            } => {
                assert_eq!(*port, PORT);
                Some(*connection)
            }
            _ => None,
        })
    }

    fn notices(&mut self) -> Vec<Notice> {
        self.take(|action| match action {
            Action::Notice(notice) => Some(notice.clone()),
            _ => None,
        })
    }

    fn connected(&mut self, connection: ConnectionId, direction: Direction, hello: Hello) {
        let remote = match direction {
            Direction::Dialled => LISTENER,
            Direction::Accepted => SOURCE,
        };
        let event = Event::Connection(
            connection,
            FromConnection::Connected {
                peer: PEER,
                direction,
                remote: remote.parse().unwrap(),
                local_ip: Some("10.0.0.5".parse().unwrap()),
                hello,
                proved: Proved::KeyAlone,
            },
        );
        self.input(Input::Event(event));
    }

    fn accept(&mut self, hello: Hello) -> ConnectionId {
        let connection = self.accepted.next(hello.lane);
        self.connected(connection, Direction::Accepted, hello);
        connection
    }

    fn answered(&mut self, connection: ConnectionId, remote: SocketAddr, proved: Proved) {
        let lane = connection.worker() as u8;
        self.input(Input::Event(Event::Connection(
            connection,
            FromConnection::Connected {
                peer: PEER,
                direction: Direction::Dialled,
                remote,
                local_ip: None,
                hello: hello(lane),
                proved,
            },
        )));
    }

    fn dial_succeeds(&mut self) -> ConnectionId {
        let (connection, lane, _) = self.one_dial();
        self.connected(connection, Direction::Dialled, hello(lane));
        connection
    }

    fn end(&mut self, connection: ConnectionId, why: Ended) {
        self.input(Input::Event(Event::Connection(connection, FromConnection::Ended(why))));
    }

    fn probes(&mut self) -> Vec<ConnectionId> {
        self.take(|action| match action {
            Action::Command {
                command: Command::Connection(connection, ToConnection::Probe),
                ..
            } => Some(*connection),
            _ => None,
        })
    }

    fn resolve_asked(&mut self) -> bool {
        let asked = self.take(|action| match action {
            Action::Resolve { peer, address } => Some((*peer, address.clone())),
            _ => None,
        });
        assert!(asked.len() <= 1, "{asked:?}");
        asked.iter().all(|(peer, _)| *peer == PEER) && !asked.is_empty()
    }

    fn resolve(&mut self, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.input(Input::Resolved { peer: PEER, result: Ok(addresses) });
    }

    fn local_addresses(&mut self, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.input(Input::LocalAddresses(addresses));
    }
}

fn hello(lane: u8) -> Hello {
    Hello { lanes: 4, lane, ..testing::hello() }
}

fn by_peer(reason: CloseReason) -> Ended {
    Ended::ByPeer { code: reason as u64, phrase: String::new() }
}

fn is_up(notice: &Notice) -> bool {
    matches!(notice, Notice::PeerUp { .. })
}

fn is_down(notice: &Notice) -> bool {
    matches!(notice, Notice::PeerDown { .. })
}

#[test]
fn a_number_of_lanes_that_cannot_be_right_is_refused() {
    let refused = |lanes| {
        let config = SessionsConfig { inner_mtu: 1_500, lanes, seed: 1 };
        Sessions::new(LOCAL, config, Instant::now()).err()
    };
    assert_eq!([1, 16].map(refused), [None, None]);
    assert_eq!([0, 17].map(refused), [Some(BadLanes(0)), Some(BadLanes(17))]);
}

#[test]
fn a_peer_with_an_address_is_dialled_at_once_and_ever_more_slowly() {
    let mut bench = Bench::dialling_one_lane();
    let mut waits = Vec::new();
    for _ in 0..12 {
        let (connection, lane, remote) = bench.one_dial();
        assert_eq!((lane, remote), (0, LISTENER.parse().unwrap()));
        bench.end(connection, Ended::TimedOut);
        let at = bench.sessions.poll_timeout().unwrap();
        waits.push(at - bench.now);
        bench.advance(at - bench.now);
    }
    assert!(waits[0] < Duration::from_millis(100), "{waits:?}");
    assert!(waits[4] > waits[2] && waits[11] > Duration::from_secs(11), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(19)), "{waits:?}");
    let notices = bench.notices();
    assert_eq!(notices.len(), 1, "an unchanged failure is told once: {notices:?}");
    assert!(notices[0].to_string().contains("10.0.0.9:5800: no answer"), "{}", notices[0]);
}

#[test]
fn who_is_up_is_told_with_the_name_that_it_gave() {
    let mut bench = Bench::dialling_one_lane();
    assert_eq!(bench.sessions.up().count(), 0);
    let connection = bench.dial_succeeds();
    let up: Vec<_> = bench.sessions.up().collect();
    assert_eq!(up, [Who { node: PEER, name: Some("rack9".into()) }]);
    bench.end(connection, Ended::TimedOut);
    assert_eq!(bench.sessions.up().count(), 0);
}

#[test]
fn what_the_kernel_does_not_send_is_why_nobody_answers() {
    const ENETUNREACH: i32 = 101;
    let mut bench = Bench::dialling_one_lane();
    let refused = |remote: &str| {
        Input::Event(Event::Worker(FromWorker::SendRefused {
            remote: remote.parse().unwrap(),
            errno: ENETUNREACH,
        }))
    };
    bench.input(refused("10.0.0.8:5800"));
    let (connection, ..) = bench.one_dial();
    bench.end(connection, Ended::TimedOut);
    let of_another = bench.notices()[0].to_string();
    assert!(!of_another.contains("the kernel"), "{of_another}");
    bench.advance_ms(300);
    let (connection, ..) = bench.one_dial();
    bench.input(refused("[::ffff:10.0.0.9]:5800"));
    bench.end(connection, Ended::TimedOut);
    let told = bench.notices()[0].to_string();
    assert!(
        told.contains("10.0.0.9:5800: no answer, and the kernel does not send there"),
        "{told}"
    );
    assert!(told.contains("ip route get"), "{told}");
}

#[test]
fn a_peer_without_an_address_is_waited_for_and_not_redialled() {
    let mut bench = Bench::new(1, "");
    bench.advance_ms(60_000);
    assert_eq!(bench.dials(), []);
    assert_eq!(bench.sessions.snapshot(bench.now)[0].state, PeerState::Awaited);
    let connection = bench.accept(hello(0));
    assert_eq!(bench.activations(), [connection]);
    assert!(bench.notices().iter().any(is_up));
    bench.end(connection, Ended::TimedOut);
    assert!(bench.notices().iter().any(is_down));
    bench.advance_ms(60_000);
    assert_eq!(bench.dials(), []);
}

#[test]
fn a_dial_that_is_not_answered_is_given_up() {
    let mut bench = Bench::dialling_one_lane();
    let (connection, ..) = bench.one_dial();
    bench.advance_ms(4_900);
    assert_eq!(bench.closes(), [(connection, CloseReason::Replaced)]);
    let (second, ..) = bench.one_dial();
    // The answer crosses the close.
    bench.connected(connection, Direction::Dialled, hello(0));
    assert_eq!(bench.closes(), [(connection, CloseReason::Replaced)]);
    assert_eq!(bench.activations(), []);
    bench.connected(second, Direction::Dialled, hello(0));
    assert_eq!(bench.activations(), [second]);
}

#[test]
fn a_resolver_that_does_not_answer_is_asked_again() {
    let mut bench = Bench::new(1, "@hostB:5800");
    assert!(bench.resolve_asked());
    bench.advance_ms(61_000);
    assert!(bench.resolve_asked());
}

#[test]
fn a_duplicate_close_is_no_failure() {
    let mut bench = Bench::dialling_one_lane();
    for _ in 0..10 {
        let (connection, ..) = bench.one_dial();
        bench.end(connection, by_peer(CloseReason::Duplicate));
        let wait = bench.sessions.poll_timeout().unwrap() - bench.now;
        assert!(wait < Duration::from_millis(320), "{wait:?}");
        bench.advance(wait);
    }
    assert_eq!(bench.notices(), []);
}

#[test]
fn a_restarted_peer_replaces_its_old_connections_on_all_lanes_at_once() {
    let mut bench = Bench::new(2, "");
    let old = [bench.accept(hello(0)), bench.accept(hello(1))];
    bench.notices();
    let new = bench.accept(Hello { instance: [2; 16], ..hello(0) });
    let replaced = old.map(|connection| (connection, CloseReason::Replaced));
    assert_eq!(bench.closes(), replaced);
    assert_eq!(bench.activations().last(), Some(&new));
    let notices = bench.notices();
    assert!(matches!(notices[..], [Notice::PeerRestarted { .. }, Notice::PeerUp { .. }]));
}

#[test]
fn a_reset_is_followed_by_a_dial_at_once() {
    let mut bench = Bench::dialling_one_lane();
    let connection = bench.dial_succeeds();
    bench.advance_ms(20_000);
    bench.end(connection, Ended::Reset);
    bench.advance_ms(70);
    bench.one_dial();
}

#[test]
fn two_programs_with_one_key_are_noticed_and_a_restart_is_not_taken_for_them() {
    let mut bench = Bench::new(1, "");
    for instance in 0..12 {
        bench.accept(Hello { instance: [instance; 16], ..hello(0) });
        bench.advance_ms(1_000);
    }
    let duplicate = |notice: &Notice| matches!(notice, Notice::DuplicateNode { .. });
    assert!(!bench.notices().iter().any(duplicate));
    for turn in 0..6 {
        bench.accept(Hello { instance: [100 + turn % 2; 16], ..hello(0) });
        bench.advance_ms(1_000);
    }
    assert_eq!(bench.notices().iter().filter(|notice| duplicate(notice)).count(), 1);
}

#[test]
fn another_inner_mtu_is_warned_of_once() {
    let mut bench = Bench::new(2, "");
    bench.accept(Hello { inner_mtu: 1_400, ..hello(0) });
    bench.accept(Hello { inner_mtu: 1_400, ..hello(1) });
    let notices = bench.notices();
    let warnings: Vec<_> =
        notices.iter().filter(|notice| matches!(notice, Notice::MtuMismatch { .. })).collect();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].to_string().contains("--mtu"));
}

#[test]
fn a_listener_that_lost_its_address_dials_back_and_takes_over_without_a_gap() {
    let mut bench = Bench::new(1, "");
    bench.local_addresses(&["10.0.0.5"]);
    let old = bench.accept(hello(0));
    bench.advance_ms(20_000);
    bench.local_addresses(&["10.0.0.5", "10.0.0.6"]);
    assert_eq!(bench.dials(), []);
    bench.local_addresses(&["10.0.0.6"]);
    let (new, _, remote) = bench.one_dial();
    assert_eq!(remote, SOURCE.parse().unwrap());
    bench.activations();
    bench.connected(new, Direction::Dialled, hello(0));
    assert_eq!(bench.activations(), [new]);
    bench.advance_ms(999);
    assert_eq!(bench.closes(), []);
    bench.advance_ms(1);
    assert_eq!(bench.closes(), [(old, CloseReason::Replaced)]);
    assert!(!bench.notices().iter().any(is_down));
}

#[test]
fn a_takeover_that_fails_is_tried_again_and_dropped_when_the_address_returns() {
    let mut bench = Bench::new(1, "");
    bench.accept(hello(0));
    bench.advance_ms(20_000);
    bench.local_addresses(&["10.0.0.6"]);
    let (connection, ..) = bench.one_dial();
    bench.end(connection, Ended::Failed(Failure::NoPath));
    bench.advance_ms(100);
    let (connection, ..) = bench.one_dial();
    bench.local_addresses(&["10.0.0.5"]);
    bench.end(connection, Ended::Failed(Failure::NoPath));
    bench.advance_ms(60_000);
    assert_eq!(bench.dials(), []);
}

#[test]
fn a_dialler_that_lost_its_address_probes_once_per_loss() {
    let mut bench = Bench::dialling_one_lane();
    let connection = bench.dial_succeeds();
    bench.local_addresses(&["10.0.0.5"]);
    assert_eq!(bench.probes(), []);
    bench.local_addresses(&["10.0.0.6"]);
    assert_eq!(bench.probes(), [connection]);
    bench.local_addresses(&["10.0.0.6"]);
    assert_eq!(bench.probes(), []);
    bench.local_addresses(&["10.0.0.7"]);
    assert_eq!(bench.probes(), [connection]);
    assert_eq!(bench.dials(), []);
}

#[test]
fn a_peer_whose_name_leads_elsewhere_is_followed_on_every_lane() {
    let mut bench = Bench::new(2, "@hostB:5800");
    assert!(bench.resolve_asked());
    bench.resolve(&[LISTENER]);
    let first = bench.dial_succeeds();
    let second = bench.dial_succeeds();
    bench.advance_ms(29_900);
    assert!(!bench.resolve_asked());
    bench.advance_ms(200);
    assert!(bench.resolve_asked());
    bench.resolve(&["10.0.0.1:5800", LISTENER]);
    assert_eq!(bench.dials(), []);

    bench.advance_ms(30_000);
    assert!(bench.resolve_asked());
    bench.resolve(&["10.0.7.7:5800"]);
    let dials = bench.dials();
    assert_eq!(dials.len(), 2);
    for (connection, lane, remote) in dials {
        assert_eq!((remote, lane), ("10.0.7.7:5800".parse().unwrap(), connection.worker() as u8));
        bench.answered(connection, remote, Proved::KeyAlone);
    }
    bench.advance_ms(1_000);
    let replaced = [first, second].map(|connection| (connection, CloseReason::Replaced));
    assert_eq!(bench.closes(), replaced);
    assert_eq!(bench.dials(), []);
}

#[test]
fn strangers_this_node_itself_and_lanes_that_are_not_served_are_refused() {
    let mut bench = Bench::new(1, "");
    let connected = |peer, connection, lane| {
        Input::Event(Event::Connection(
            ConnectionId(connection),
            FromConnection::Connected {
                peer,
                direction: Direction::Accepted,
                remote: SOURCE.parse().unwrap(),
                local_ip: None,
                hello: hello(lane),
                proved: Proved::KeyAlone,
            },
        ))
    };
    bench.input(connected(NodeId([7; 32]), 1, 0));
    bench.input(connected(LOCAL, 2, 0));
    bench.input(connected(PEER, 3, 1));
    let reasons: Vec<_> = bench.closes().into_iter().map(|(_, reason)| reason).collect();
    let expected = [CloseReason::NotAdmitted, CloseReason::DialledSelf, CloseReason::BadHello];
    assert_eq!(reasons, expected);
    assert_eq!(bench.notices().len(), 3);
    assert_eq!(bench.activations(), []);
}

#[test]
fn refusals_tell_the_cure() {
    let mut bench = Bench::dialling_one_lane();
    let (connection, ..) = bench.one_dial();
    bench.end(connection, by_peer(CloseReason::NotAdmitted));
    let text = bench.notices()[0].to_string();
    assert!(text.contains(&format!("--peer {LOCAL}")), "{text}");
    let snapshot = &bench.sessions.snapshot(bench.now)[0];
    assert_eq!(snapshot.state, PeerState::BackingOff);
    assert!(snapshot.last_error.as_ref().unwrap().to_string().contains("does not admit"));
}

#[test]
fn shutting_down_ends_every_worker_and_all_dialling() {
    let mut bench = Bench::new(3, &format!("@{LISTENER}"));
    let (connection, ..) = bench.one_dial();
    bench.sessions.shut_down();
    bench.sessions.shut_down();
    bench.collect();
    let workers = bench.take(|action| match action {
        Action::Command { worker, command: Command::Worker(ToWorker::Shutdown) } => Some(*worker),
        _ => None,
    });
    assert_eq!(workers, [0, 1, 2]);
    bench.end(connection, Ended::Closed(CloseReason::Shutdown));
    assert_eq!(bench.sessions.poll_timeout(), None);
    assert_eq!(bench.dials(), []);
}

#[test]
fn a_roaming_peer_is_followed() {
    let mut bench = Bench::new(1, "");
    let connection = bench.accept(hello(0));
    let remote = "192.0.2.7:1234".parse().unwrap();
    bench.input(Input::Event(Event::Connection(connection, FromConnection::Moved { remote })));
    assert_eq!(
        bench.sessions.snapshot(bench.now)[0].lanes[0].remote.as_deref(),
        Some("192.0.2.7:1234")
    );
    let moved = bench.notices().pop().unwrap();
    assert!(matches!(moved, Notice::LaneMoved { to, .. } if to == remote));
}
