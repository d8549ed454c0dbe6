//! Peers that a room names: they come, are reached by their alias, go, and lose their right.

use ipop_datapath::path::alias;

use super::*;

const OLD: SecretId = SecretId([1; 8]);
const NEW: SecretId = SecretId([2; 8]);
/// Above `PEER`: the peer dials.
const HIGHER: NodeId = NodeId([0xff; 32]);

/// By the room alone.
fn in_room() -> Input {
    named_at(Vec::new())
}

/// By the memory of the room.
fn saved() -> Input {
    named_at(vec![LISTENER.parse().unwrap()])
}

fn named_at(last_addresses: Vec<SocketAddr>) -> Input {
    Input::Named(NamedPeer { node: PEER, port: PORT, address: None, last_addresses })
}

fn path(listener: Option<&str>) -> Input {
    let path = match listener {
        Some(address) => PeerPath::Listener(address.parse().unwrap()),
        None => PeerPath::Relayed,
    };
    Input::Path { peer: PEER, path }
}

impl Bench {
    /// A peer of the room that is up over its alias.
    fn up_by_alias() -> (Self, ConnectionId) {
        let mut bench = Self::without_peers(LOCAL, 1);
        bench.input(in_room());
        bench.input(path(None));
        let (connection, lane, remote) = bench.one_dial();
        assert_eq!((lane, remote), (0, alias(PORT)));
        bench.answered(connection, remote, Proved::KeyAlone);
        assert_eq!(bench.activations(), [connection]);
        (bench, connection)
    }

    fn forgotten(&mut self) -> Vec<(NodeId, PortId)> {
        self.take(|action| match action {
            Action::Forgotten { peer, port } => Some((*peer, *port)),
            _ => None,
        })
    }
}

#[test]
fn the_lower_id_dials_the_alias_once_there_is_a_way_and_the_higher_one_waits() {
    let mut bench = Bench::without_peers(LOCAL, 1);
    bench.input(in_room());
    bench.advance_ms(60_000);
    assert_eq!(bench.dials(), []);
    bench.input(path(None));
    assert_eq!(bench.one_dial().2, alias(PORT));
    let mut waiting = Bench::without_peers(HIGHER, 1);
    waiting.input(in_room());
    waiting.input(path(Some(LISTENER)));
    waiting.advance_ms(60_000);
    assert_eq!(waiting.dials(), []);
}

#[test]
fn an_alias_among_saved_addresses_is_not_dialled() {
    let mut bench = Bench::without_peers(LOCAL, 1);
    let last_addresses = vec![alias(PORT), alias(PortId(1)), LISTENER.parse().unwrap()];
    bench.input(named_at(last_addresses));
    assert_eq!(bench.one_dial().2, LISTENER.parse().unwrap());
}

#[test]
fn further_lanes_need_an_address_that_works_without_path_control() {
    for (listener, lanes) in [(None, 0), (Some(LISTENER), 3)] {
        let mut bench = Bench::without_peers(LOCAL, 4);
        bench.input(in_room());
        bench.input(path(listener));
        let (connection, _, remote) = bench.one_dial();
        bench.answered(connection, remote, Proved::KeyAlone);
        bench.advance_ms(3_500);
        let dials = bench.dials();
        assert_eq!(dials.len(), lanes, "{dials:?}");
        assert!(dials.iter().all(|(_, lane, to)| *lane > 0 && *to == LISTENER.parse().unwrap()));
    }
}

/// A peer that is up over its alias and, by one more lane, at its address.
fn up_by_two_lanes() -> (Bench, [ConnectionId; 2]) {
    let mut bench = Bench::without_peers(LOCAL, 2);
    bench.input(in_room());
    bench.input(path(Some(LISTENER)));
    let (first, _, remote) = bench.one_dial();
    bench.answered(first, remote, Proved::KeyAlone);
    let (second, _, remote) = bench.one_dial();
    bench.answered(second, remote, Proved::KeyAlone);
    assert_eq!(bench.activations(), [first, second]);
    (bench, [first, second])
}

#[test]
fn lanes_beside_the_path_are_closed_and_come_back_with_it() {
    let elsewhere = PeerPath::Direct("203.0.113.7:5800".parse().unwrap());
    for away in [PeerPath::Relayed, elsewhere] {
        let (mut bench, [_, second]) = up_by_two_lanes();
        bench.input(Input::Path { peer: PEER, path: away });
        assert_eq!(bench.closes(), [(second, CloseReason::Replaced)]);
        bench.advance_ms(60_000);
        assert_eq!(bench.dials(), []);
        bench.input(path(Some(LISTENER)));
        let (_, lane, remote) = bench.one_dial();
        assert_eq!((lane, remote), (1, LISTENER.parse().unwrap()));
    }
}

#[test]
fn lanes_on_the_path_stay() {
    let (mut bench, _) = up_by_two_lanes();
    let same = PeerPath::Direct(LISTENER.parse().unwrap());
    for path in [same, PeerPath::Down] {
        bench.input(Input::Path { peer: PEER, path });
        bench.advance_ms(5_000);
        assert_eq!(bench.closes(), []);
    }
}

#[test]
fn further_lanes_are_asked_when_nothing_is_heard_on_the_first() {
    let (mut bench, [first, second]) = up_by_two_lanes();
    assert!(!bench.silent(second));
    assert_eq!(bench.probes(), []);
    assert!(bench.silent(first));
    assert_eq!(bench.probes(), [second]);
    assert_eq!(bench.closes(), []);
    bench.end(first, Ended::TimedOut);
    assert!(!bench.notices().iter().any(is_down));
    bench.end(second, Ended::TimedOut);
    assert!(bench.notices().iter().any(is_down));
}

#[test]
fn a_way_that_is_lost_closes_nothing_and_stops_the_dialling() {
    let (mut bench, connection) = Bench::up_by_alias();
    bench.input(Input::Path { peer: PEER, path: PeerPath::Down });
    bench.advance_ms(60_000);
    assert_eq!(bench.closes(), []);
    bench.end(connection, Ended::TimedOut);
    bench.advance_ms(60_000);
    assert_eq!(bench.dials(), []);
    bench.input(path(None));
    assert_eq!(bench.one_dial().2, alias(PORT), "at once");
}

#[test]
fn a_peer_that_nothing_names_stays_until_it_is_down() {
    let (mut bench, connection) = Bench::up_by_alias();
    bench.input(saved());
    bench.input(Input::Unnamed { peer: PEER });
    bench.advance_ms(60_000);
    assert_eq!((bench.closes(), bench.forgotten()), (vec![], vec![]));
    bench.end(connection, Ended::TimedOut);
    assert_eq!(bench.forgotten(), [(PEER, PORT)]);
    assert!(bench.sessions.snapshot(bench.now).is_empty());
    assert_eq!(bench.sessions.poll_timeout(), None);
    bench.accept(hello(0));
    let closes = bench.closes();
    assert!(matches!(closes[..], [(_, CloseReason::NotAdmitted)]), "{closes:?}");
}

#[test]
fn a_revoked_peer_is_closed_whatever_names_it() {
    let (mut bench, connection) = Bench::up_by_alias();
    bench.input(saved());
    let why = Loss::Removed;
    bench.notices();
    bench.input(Input::Revoked { peer: PEER, why });
    assert_eq!(bench.closes(), [(connection, CloseReason::NotAdmitted)]);
    let peer = Who { node: PEER, name: Some("rack9".into()) };
    assert_eq!(bench.notices(), [Notice::Revoked { peer, why }]);
    assert_eq!(bench.forgotten(), [(PEER, PORT)]);
}

#[test]
fn a_peer_known_from_before_is_dialled_where_it_was_until_there_is_a_way() {
    let mut bench = Bench::without_peers(HIGHER, 1);
    bench.input(saved());
    assert_eq!(bench.one_dial().2, LISTENER.parse().unwrap(), "by the higher id too");
    bench.input(path(None));
    bench.advance_ms(60_000);
    assert_eq!(bench.dials(), [], "the peer dials the alias");
}

#[test]
fn a_peer_found_where_it_was_goes_over_to_its_alias() {
    let mut bench = Bench::without_peers(LOCAL, 1);
    bench.input(saved());
    let (first, _, remote) = bench.one_dial();
    bench.answered(first, remote, Proved::KeyAlone);
    bench.advance_ms(10_000);
    bench.input(path(None));
    let (second, _, remote) = bench.one_dial();
    assert_eq!(remote, alias(PORT));
    bench.answered(second, remote, Proved::KeyAlone);
    bench.advance_ms(60_000);
    assert_eq!(bench.closes(), [(first, CloseReason::Replaced)]);
    assert_eq!(bench.dials(), []);
    assert!(!bench.notices().iter().any(is_down));
}

#[test]
fn a_lane_takes_over_that_proves_the_new_secret_or_it_is_closed() {
    for takes_over in [true, false] {
        let mut bench = Bench::without_peers(LOCAL, 1);
        bench.input(Input::Secrets(vec![OLD]));
        bench.input(in_room());
        bench.input(path(None));
        let (first, _, remote) = bench.one_dial();
        bench.answered(first, remote, Proved::Secrets(vec![OLD]));
        bench.input(Input::Secrets(vec![NEW, OLD]));
        bench.advance_ms(30_000);
        assert_eq!((bench.dials(), bench.closes()), (vec![], vec![]), "it is still valid");
        bench.input(Input::Secrets(vec![NEW]));
        let (second, _, remote) = bench.one_dial();
        assert_eq!(remote, alias(PORT));
        if takes_over {
            bench.answered(second, remote, Proved::Secrets(vec![NEW]));
            bench.advance_ms(30_000);
            assert_eq!(bench.closes(), [(first, CloseReason::Replaced)]);
        } else {
            bench.advance_ms(11_000);
            let closes = bench.closes();
            assert!(closes.contains(&(first, CloseReason::NotProved)), "{closes:?}");
            assert!(bench.notices().iter().any(is_down));
        }
    }
}

#[test]
fn what_cannot_be_is_ignored() {
    let mut bench = Bench::without_peers(LOCAL, 1);
    let nobody = NodeId([7; 32]);
    for input in [
        Input::Unnamed { peer: nobody },
        Input::Revoked { peer: nobody, why: Loss::Pending },
        Input::Path { peer: nobody, path: PeerPath::Relayed },
    ] {
        bench.input(input);
    }
    let named = |node, port| {
        let (address, last_addresses) = (None, Vec::new());
        Input::Named(NamedPeer { node, port, address, last_addresses })
    };
    bench.input(named(LOCAL, PORT));
    assert!(bench.sessions.snapshot(bench.now).is_empty());
    bench.input(named(PEER, PORT));
    bench.input(named(nobody, PORT));
    assert_eq!(bench.sessions.snapshot(bench.now).len(), 1, "the port is taken");
}
