//! What a link tells, and what it keeps of what it is told.

use super::*;
use crate::testing;

const LOCAL: NodeId = NodeId([1; 32]);
const PEER: NodeId = NodeId([2; 32]);

fn started() -> (Paths, Instant) {
    let now = Instant::now();
    let mut paths = Paths::new(LOCAL, testing::ice(1), now);
    paths.set_local_addresses(now, &["192.0.2.1".parse().unwrap()]);
    paths.start(now, PEER, PortId(1));
    (paths, now)
}

fn told(paths: &mut Paths) -> Vec<FromLink> {
    std::iter::from_fn(|| paths.poll_event()).map(|(_, what)| what).collect()
}

fn candidates(count: u16) -> Vec<Candidate> {
    let address = |udp_port| ([192, 0, 2, 2], 1 + udp_port).into();
    (0..count).map(|n| Candidate::local(CandidateKind::Host, address(n), None, 1)).collect()
}

#[test]
fn a_description_is_told_to_who_asks_and_another_one_to_who_asks_again() {
    let (mut paths, now) = started();
    assert_eq!(told(&mut paths), []);
    let mut ask = || {
        paths.handle(now, PEER, ToLink::Describe);
        match &told(&mut paths)[..] {
            [
                FromLink::Description(description),
                FromLink::Candidates { generation, candidates },
                FromLink::Gathered { .. },
            ] => {
                assert_eq!((*generation, candidates.len()), (description.generation, 1));
                description.clone()
            }
            other => panic!("{other:?}"),
        }
    };
    let (first, second) = (ask(), ask());
    assert!(second.generation > first.generation && second.ufrag != first.ufrag);
}

#[test]
fn of_candidates_that_overtake_their_description_those_of_the_latest_are_kept_and_24_of_them() {
    let (mut paths, now) = started();
    let mut kept_after = |generation, count| {
        let candidates = candidates(count);
        paths.handle(now, PEER, ToLink::RemoteCandidates { generation, candidates });
        let early = paths.links.get(&PEER).unwrap().early.as_ref().unwrap();
        (early.0, early.1.len())
    };
    assert_eq!(kept_after(3, 5), (3, 5));
    assert_eq!(kept_after(7, 10), (7, 10));
    assert_eq!(kept_after(5, 10), (7, 10));
    assert_eq!(kept_after(7, 10), (7, 20));
    assert_eq!(kept_after(7, 10), (7, MAX_CANDIDATES));
}

/// The packets that this end sends now.
fn packets(paths: &mut Paths) -> Vec<ControlPacket> {
    let actions = std::iter::from_fn(|| paths.poll_action());
    let packet = |action| match action {
        Action::Worker { command: Command::Packet(packet), .. } => Some(packet),
        _ => None,
    };
    actions.filter_map(packet).collect()
}

/// Two ends that have found the path between them, of which the first is at hand.
fn connected() -> (Paths, Instant) {
    let (ids, begin) = ([LOCAL, PEER], Instant::now());
    let mut now = begin;
    let ips: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
    let mut ends = [0, 1].map(|end| {
        let mut paths = Paths::new(ids[end], testing::ice(end as u64), now);
        paths.set_local_addresses(now, &[ips[end]]);
        paths.start(now, ids[1 - end], PortId(1));
        paths.handle(now, ids[1 - end], ToLink::Describe);
        paths
    });
    let mut has_path = [false; 2];
    while has_path != [true; 2] {
        assert!(now < begin + Duration::from_secs(10), "no path is found");
        for end in [0, 1] {
            ends[end].handle_timeout(now);
            for what in told(&mut ends[end]) {
                let passed_on = match what {
                    FromLink::Description(description) => ToLink::Remote(description),
                    FromLink::Candidates { generation, candidates } => {
                        ToLink::RemoteCandidates { generation, candidates }
                    }
                    FromLink::Path(path) => {
                        has_path[end] = path != PeerPath::Down;
                        continue;
                    }
                    _ => continue,
                };
                ends[1 - end].handle(now, ids[end], passed_on);
            }
            for packet in packets(&mut ends[end]) {
                let remote = SocketAddr::new(ips[end], packet.remote.port());
                let local_ip = Some(packet.remote.ip());
                let socket = SocketKind::Listen;
                ends[1 - end]
                    .handle_packet(now, &ControlPacket { socket, local_ip, remote, ..packet });
            }
        }
        now += Duration::from_millis(1);
    }
    // Until the checks that were on their way are over.
    now += Duration::from_millis(100);
    let [paths, _] = ends;
    (paths, now)
}

#[test]
fn a_path_is_checked_at_once_when_the_tunnel_over_it_is_silent_or_ends() {
    let (connection, alias) = (ConnectionId(7), ipop_datapath::path::alias(PortId(1)));
    let up = TunnelNews::Up { connection, remote: alias };
    for news in [
        TunnelNews::Silent { rtt: Duration::from_millis(1) },
        TunnelNews::Ended { has_left: false },
    ] {
        let (mut paths, now) = connected();
        paths.handle_tunnel(now, PEER, up);
        paths.handle_timeout(now);
        packets(&mut paths);
        paths.handle_tunnel(now, PEER, news);
        paths.handle_timeout(now);
        assert_eq!(packets(&mut paths).len(), 1, "{news:?}");
    }
}

#[test]
fn what_is_said_inside_a_tunnel_ends_with_it_and_who_comes_back_has_not_left() {
    let (mut paths, now) = connected();
    let (connection, remote) = (ConnectionId(7), "192.0.2.2:5800".parse().unwrap());
    let said_after = |paths: &mut Paths, address: &str| {
        paths.set_local_addresses(now, &[address.parse().unwrap()]);
        let is_signal = |action: &Action| {
            let Action::Worker { command, .. } = action else { return false };
            matches!(command, Command::Connection(_, ToConnection::Signal(_)))
        };
        std::iter::from_fn(|| paths.poll_action()).filter(is_signal).count()
    };
    let has_left = |paths: &Paths| paths.links.get(&PEER).unwrap().has_left;
    paths.handle_tunnel(now, PEER, TunnelNews::Up { connection, remote });
    assert!(said_after(&mut paths, "192.0.2.3") > 0);
    paths.handle_tunnel(now, PEER, TunnelNews::Ended { has_left: true });
    assert_eq!((said_after(&mut paths, "192.0.2.4"), has_left(&paths)), (0, true));
    paths.handle_tunnel(now, PEER, TunnelNews::Up { connection, remote });
    assert!(!has_left(&paths));
}
