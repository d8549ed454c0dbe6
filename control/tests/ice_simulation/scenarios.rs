//! What must work, through which NATs, and how fast.

use std::time::Duration;

use ipop_control::ice::{IceEvent, IceState, NatMapping, Obstacle, Obstacles, Watch};

use crate::{
    network::{Hairpin, INTERNET, NatKind},
    servers::TurnServer,
    world::World,
};

const SEEDS: std::ops::Range<u64> = 0..10;
const KINDS: [NatKind; 4] =
    [NatKind::FullCone, NatKind::AddressRestricted, NatKind::PortRestricted, NatKind::Symmetric];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two nodes behind a NAT each, already connecting.
fn behind_nats(seed: u64, one: NatKind, other: NatKind) -> World {
    let mut world = World::new(seed);
    let first = world.network.add_nat(one, Hairpin::No, INTERNET, "203.0.113.1");
    let second = world.network.add_nat(other, Hairpin::No, INTERNET, "203.0.113.2");
    world.add_node(first, "192.168.1.2");
    world.add_node(second, "192.168.1.3");
    world.connect(0, 1);
    world
}

fn connects(world: &mut World, limit: Duration, seed: u64) -> Duration {
    world.run_until(limit, |world| world.flows(0, 1)).unwrap_or_else(|| {
        panic!("seed {seed}: no path\n{:#?}\n{:#?}", world.nodes[0].events, world.nodes[1].events)
    })
}

#[test]
fn on_one_lan_it_takes_less_than_300_milliseconds() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        world.signal_delay = Duration::from_millis(5);
        world.add_node(INTERNET, "192.0.2.1");
        world.add_node(INTERNET, "192.0.2.2");
        world.connect(0, 1);
        let took = connects(&mut world, seconds(10), seed);
        assert!(took < Duration::from_millis(100), "seed {seed}: {took:?}");
        assert!(world.is_direct(0, 1), "seed {seed}");
    }
}

#[test]
fn ipv6_without_servers() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        world.turn.clear();
        world.add_node(INTERNET, "2001:db8::1");
        world.add_node(INTERNET, "2001:db8::2");
        world.connect(0, 1);
        let took = connects(&mut world, seconds(10), seed);
        assert!(took < Duration::from_millis(300), "seed {seed}: {took:?}");
        assert!(world.is_direct(0, 1), "seed {seed}");
    }
}

#[test]
fn every_kind_of_nat_against_every_other() {
    for seed in SEEDS {
        for one in KINDS {
            for other in KINDS {
                let mut world = behind_nats(seed, one, other);
                let took = connects(&mut world, seconds(10), seed);
                assert!(
                    took < Duration::from_millis(1_500),
                    "seed {seed}: {one:?} {other:?} {took:?}"
                );
                world.run(seconds(6));
                use NatKind::{PortRestricted, Symmetric};
                let is_hopeless = matches!(
                    (one, other),
                    (Symmetric, Symmetric | PortRestricted) | (PortRestricted, Symmetric)
                );
                assert!(world.flows(0, 1), "seed {seed}: {one:?} {other:?}");
                assert_eq!(world.is_direct(0, 1), !is_hopeless, "seed {seed}: {one:?} {other:?}");
                let expected = if one == Symmetric {
                    NatMapping::EndpointDependent
                } else {
                    NatMapping::EndpointIndependent
                };
                assert_eq!(world.nodes[0].ice.nat_mapping(), expected);
                let why = world.nodes[0].ice.snapshot(world.now, world.nodes[1].id).unwrap().why;
                assert_eq!(why.is_some(), is_hopeless, "{why:?}");
            }
        }
    }
}

#[test]
fn with_a_lossy_internet() {
    for seed in 0..40 {
        let mut world = behind_nats(seed, NatKind::PortRestricted, NatKind::PortRestricted);
        world.network.loss = 0.1;
        world.run(seconds(60));
        let is_direct = world.run_until(seconds(40), |world| world.is_direct(0, 1));
        assert!(is_direct.is_some(), "seed {seed}");
        assert!(world.longest_silence(0, 1) < seconds(3), "seed {seed}");
    }
}

#[test]
fn two_nats_in_a_row() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        let outer =
            world.network.add_nat(NatKind::PortRestricted, Hairpin::No, INTERNET, "203.0.113.1");
        let inner =
            world.network.add_nat(NatKind::AddressRestricted, Hairpin::No, outer, "10.0.0.5");
        let other =
            world.network.add_nat(NatKind::PortRestricted, Hairpin::No, INTERNET, "203.0.113.2");
        world.add_node(inner, "192.168.1.2");
        world.add_node(other, "192.168.1.3");
        world.connect(0, 1);
        connects(&mut world, seconds(5), seed);
        world.run(seconds(3));
        assert!(world.is_direct(0, 1) && world.flows(0, 1), "seed {seed}");
    }
}

/// Both listen on port 5800 behind one NAT.
#[test]
fn two_hosts_behind_one_nat() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        let lan =
            world.network.add_nat(NatKind::PortRestricted, Hairpin::No, INTERNET, "203.0.113.1");
        world.add_node(lan, "192.168.1.2");
        world.add_node(lan, "192.168.1.3");
        world.connect(0, 1);
        let took = connects(&mut world, seconds(5), seed);
        assert!(took < Duration::from_millis(300), "seed {seed}: {took:?}");
        assert!(world.is_direct(0, 1), "seed {seed}");
    }
}

#[test]
fn hairpin_when_hosts_are_hidden() {
    for (hairpin, is_direct) in [(Hairpin::Yes, true), (Hairpin::No, false)] {
        for seed in SEEDS {
            let mut world = World::new(seed);
            let lan =
                world.network.add_nat(NatKind::PortRestricted, hairpin, INTERNET, "203.0.113.1");
            for address in ["192.168.1.2", "192.168.1.3"] {
                let node = world.add_node(lan, address);
                world.hide_host_candidates(node);
            }
            // The direct way inside the LAN exists for whoever is told of it, so nobody is.
            world.connect(0, 1);
            connects(&mut world, seconds(5), seed);
            world.run(seconds(3));
            assert!(world.flows(0, 1), "seed {seed}");
            assert_eq!(world.is_direct(0, 1), is_direct, "seed {seed} {hairpin:?}");
        }
    }
}

#[test]
fn a_relayed_path_becomes_direct_when_the_way_opens() {
    for seed in SEEDS {
        let mut world = behind_nats(seed, NatKind::PortRestricted, NatKind::PortRestricted);
        world.is_direct_cut = true;
        connects(&mut world, seconds(10), seed);
        world.run(seconds(30));
        assert!(!world.is_direct(0, 1) && world.flows(0, 1), "seed {seed}");
        world.is_direct_cut = false;
        let took = world.run_until(seconds(70), |world| world.is_direct(0, 1));
        assert!(took.is_some(), "seed {seed}");
        world.run(seconds(2));
        assert!(world.flows(0, 1), "seed {seed}");
        assert!(world.longest_silence(0, 1) < Duration::from_millis(200), "seed {seed}");
    }
}

#[test]
fn a_cut_direct_path_falls_back_on_the_relay_within_5_seconds() {
    for seed in 0..30 {
        let mut world = behind_nats(seed, NatKind::PortRestricted, NatKind::FullCone);
        connects(&mut world, seconds(10), seed);
        // Long enough that only the back-up is left, and at no round moment.
        world.run(seconds(100) + Duration::from_millis(137 * seed));
        assert!(world.is_direct(0, 1), "seed {seed}");
        world.is_direct_cut = true;
        world.run(seconds(6));
        assert!(world.flows(0, 1) && !world.is_direct(0, 1), "seed {seed}");
        let silence = world.longest_silence(0, 1);
        assert!(silence < seconds(5), "seed {seed}: {silence:?}");
        world.is_direct_cut = false;
        let back = world.run_until(seconds(40), |world| world.is_direct(0, 1));
        assert!(back.is_some(), "seed {seed}: not direct again");
        world.run(seconds(30));
        assert!(world.flows(0, 1) && world.is_direct(0, 1), "seed {seed}");
    }
}

#[test]
fn a_suspicion_makes_the_switch_faster() {
    let mut world = behind_nats(1, NatKind::PortRestricted, NatKind::FullCone);
    connects(&mut world, seconds(10), 1);
    world.run(seconds(20));
    world.is_direct_cut = true;
    let (now, peer) = (world.now, world.nodes[1].id);
    world.nodes[0].ice.suspect(now, peer, None);
    world.run(Duration::from_millis(2_000));
    assert!(world.flows(0, 1) && !world.is_direct(0, 1));
}

/// A connection watches over the path: checks only keep consent, and its word suffices for a switch-over.
#[test]
fn traffic_that_watches_saves_checks_and_makes_the_switch_faster() {
    for seed in SEEDS {
        let mut world = behind_nats(seed, NatKind::PortRestricted, NatKind::FullCone);
        connects(&mut world, seconds(10), seed);
        let peers = [1, 0].map(|peer| world.nodes[peer].id);
        for (node, peer) in peers.into_iter().enumerate() {
            let now = world.now;
            world.nodes[node].ice.set_watch(now, peer, Watch::Traffic);
        }
        world.run(seconds(30));
        let checks = |world: &World| world.nodes.iter().map(|n| n.ice.checks_sent()).sum();
        let before: u64 = checks(&world);
        world.run(seconds(200));
        assert!(world.flows(0, 1) && world.is_direct(0, 1), "seed {seed}");
        // Two ends, the path and its back-up, each 16 to 24 s.
        let made = checks(&world) - before;
        assert!((32..=52).contains(&made), "seed {seed}: {made} checks");
        world.is_direct_cut = true;
        world.run(Duration::from_millis(400));
        for (node, peer) in peers.into_iter().enumerate() {
            let (now, rtt) = (world.now, Some(Duration::from_millis(40)));
            world.nodes[node].ice.suspect(now, peer, rtt);
        }
        world.run(Duration::from_millis(800));
        assert!(world.flows(0, 1) && !world.is_direct(0, 1), "seed {seed}");
    }
}

/// Whoever moves, controlling or not; the peer can be reached directly.
#[test]
fn a_changed_address_is_survived_without_signalling() {
    for seed in SEEDS {
        for mover in [0, 1] {
            let mut world = World::new(seed);
            let public = if mover == 0 { 1 } else { 0 };
            for node in 0..2 {
                if node == public {
                    world.add_node(INTERNET, "192.0.2.77");
                } else {
                    let kind = NatKind::PortRestricted;
                    let lan = world.network.add_nat(kind, Hairpin::No, INTERNET, "203.0.113.1");
                    world.add_node(lan, "192.168.1.2");
                }
            }
            let elsewhere =
                world.network.add_nat(NatKind::Symmetric, Hairpin::No, INTERNET, "203.0.113.50");
            world.connect(0, 1);
            connects(&mut world, seconds(5), seed);
            world.run(seconds(25) + Duration::from_millis(171 * seed));
            world.is_signalling = false;
            world.move_node(mover, elsewhere, "10.9.9.9");
            world.run(seconds(4));
            let silence = world.longest_silence(0, 1);
            assert!(
                world.flows(0, 1),
                "seed {seed}, {mover} moved\n{:#?}\n{:#?}",
                world.nodes[0].events,
                world.nodes[1].events
            );
            assert!(silence < seconds(1), "seed {seed}, {mover} moved: {silence:?}");
        }
    }
}

/// The provider gives a NAT another address: its host sees no change of its own, and the allocation is lost with the old
/// address.
#[test]
fn a_nat_that_gets_another_address_is_survived() {
    for seed in SEEDS {
        for whose in [0, 1] {
            for is_signalling in [true, false] {
                let mut world = behind_nats(seed, NatKind::PortRestricted, NatKind::PortRestricted);
                connects(&mut world, seconds(5), seed);
                world.run(seconds(25) + Duration::from_millis(171 * seed));
                assert!(world.is_direct(0, 1), "seed {seed}");
                world.is_signalling = is_signalling;
                let inside = world.nodes[whose].realm;
                world.network.renumber(inside, "203.0.113.99");
                world.run(seconds(7));
                assert!(world.flows(0, 1), "seed {seed}, {whose}, {is_signalling}");
                let silence = world.longest_silence(0, 1);
                assert!(silence < seconds(5), "seed {seed}, {whose}: {silence:?}");
                assert_eq!(world.is_direct(0, 1), is_signalling, "seed {seed}, {whose}");
            }
        }
    }
}

/// A description holds so many candidates and no more, so in time another one has to tell what holds now.
#[test]
fn whoever_moves_often_is_described_anew() {
    let mut world = behind_nats(5, NatKind::PortRestricted, NatKind::FullCone);
    connects(&mut world, seconds(5), 5);
    for number in 1..=30 {
        let outside = format!("203.0.113.{}", 50 + number);
        let lan = world.network.add_nat(NatKind::PortRestricted, Hairpin::No, INTERNET, &outside);
        world.move_node(0, lan, &format!("10.9.9.{number}"));
        world.run(seconds(7));
        assert!(world.flows(0, 1), "move {number}");
    }
    world.run(seconds(20));
    assert!(world.is_direct(0, 1));
    let mut told: Vec<usize> = Vec::new();
    let mut last = Vec::new();
    for (_, event) in &world.nodes[0].events {
        match event {
            IceEvent::LocalDescription { .. } => {
                told.push(0);
                last.clear();
            }
            IceEvent::LocalCandidates { candidates, .. } => {
                *told.last_mut().unwrap() += candidates.len();
                last.extend_from_slice(candidates);
            }
            _ => {}
        }
    }
    assert!(told.len() > 2 && told.iter().all(|count| *count <= 24), "{told:?}");
    let current = world.nodes[0].ice.local_candidates();
    assert!(current.iter().all(|candidate| last.contains(candidate)), "{current:?} {last:?}");
}

/// What peers see tells the same as a second STUN server would.
#[test]
fn a_symmetric_nat_is_recognised_with_a_single_server() {
    use NatKind::{PortRestricted, Symmetric};
    for seed in SEEDS {
        for (one, other) in [(Symmetric, PortRestricted), (Symmetric, Symmetric)] {
            let mut world = behind_nats(seed, one, other);
            for node in 0..2 {
                world.set_stun_servers(node, 1);
            }
            world.run(seconds(10));
            assert!(!world.is_direct(0, 1) && world.flows(0, 1), "seed {seed}");
            let why = |node: usize| {
                let (ice, peer) = (&world.nodes[node].ice, world.nodes[1 - node].id);
                ice.snapshot(world.now, peer).unwrap().why.unwrap().to_string()
            };
            let (here, there) = ("the NAT here is symmetric", "the peer's NAT is symmetric");
            assert!(why(0).contains(here) && why(1).contains(there), "{}; {}", why(0), why(1));
            let both = other == Symmetric;
            assert_eq!(why(1).contains(here), both, "{}", why(1));
            assert_eq!(why(0).contains(there), both, "{}", why(0));
        }
    }
}

/// Both behind NATs: the one that moved cannot be heard directly, but through its new allocation and the old relay.
#[test]
fn a_changed_address_behind_nats_is_survived_through_the_relay() {
    for seed in SEEDS {
        for mover in [0, 1] {
            let mut world = behind_nats(seed, NatKind::PortRestricted, NatKind::PortRestricted);
            let elsewhere = world.network.add_nat(
                NatKind::PortRestricted,
                Hairpin::No,
                INTERNET,
                "203.0.113.50",
            );
            connects(&mut world, seconds(5), seed);
            world.run(seconds(25) + Duration::from_millis(171 * seed));
            world.is_signalling = false;
            world.move_node(mover, elsewhere, "10.9.9.9");
            world.run(seconds(4));
            let silence = world.longest_silence(0, 1);
            assert!(
                world.flows(0, 1),
                "seed {seed}, {mover} moved\n{:#?}\n{:#?}",
                world.nodes[0].events,
                world.nodes[1].events
            );
            assert!(silence < seconds(3), "seed {seed}, {mover} moved: {silence:?}");
        }
    }
}

/// Only the relay is there, and signals take longer than a move may: what the peer was told of before must not keep the
/// relay from what it was told last.
#[test]
fn move_after_move_is_survived_through_the_relay() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        world.add_node(INTERNET, "192.0.2.1");
        world.add_node(INTERNET, "192.0.2.2");
        world.is_direct_cut = true;
        world.connect(0, 1);
        connects(&mut world, seconds(10), seed);
        world.run(seconds(25) + Duration::from_millis(171 * seed));
        world.signal_delay = seconds(4);
        for step in 0..12 {
            world.move_node(step % 2, INTERNET, &format!("192.0.2.{}", 10 + step));
            world.run(seconds(9));
            assert!(world.flows(0, 1), "seed {seed}, move {step}");
            let silence = world.longest_silence(0, 1);
            assert!(silence < seconds(3), "seed {seed}, move {step}: {silence:?}");
        }
    }
}

#[test]
fn a_restarted_relay_is_used_again() {
    for seed in SEEDS {
        let mut world = behind_nats(seed, NatKind::Symmetric, NatKind::Symmetric);
        connects(&mut world, seconds(10), seed);
        world.run(seconds(10));
        world.turn[0].restart();
        let took = world.run_until(seconds(600), |world| !world.flows(0, 1));
        assert!(took.is_some());
        let took = world.run_until(seconds(600), |world| world.flows(0, 1));
        assert!(took.is_some(), "seed {seed}: {:#?}", world.nodes[0].events);
    }
}

#[test]
fn a_vanished_relay_harms_no_direct_path_and_is_replaced() {
    for seed in SEEDS {
        let mut world = behind_nats(seed, NatKind::PortRestricted, NatKind::PortRestricted);
        connects(&mut world, seconds(10), seed);
        world.run(seconds(20));
        world.turn[0].is_alive = false;
        world.run(seconds(700));
        assert!(world.is_direct(0, 1) && world.flows(0, 1), "seed {seed}");
        assert!(world.longest_silence(0, 1) < Duration::from_millis(200), "seed {seed}");
        let is_told = |(_, event): &(_, IceEvent)| matches!(event, IceEvent::Server(problem) if problem.to_string().contains("no answer"));
        assert!(world.nodes[0].events.iter().any(is_told), "seed {seed}");
        world.turn[0].is_alive = true;
        world.turn[0].restart();
        world.run(seconds(90));
        world.is_direct_cut = true;
        world.run(seconds(6));
        assert!(world.flows(0, 1), "seed {seed}: the relay serves again");
    }
}

#[test]
fn a_server_of_a_family_that_the_host_lacks_is_not_waited_for() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        world.turn.insert(0, TurnServer::new(world.start, "[2001:db8::9]:3478"));
        for (nat, address) in [("203.0.113.1", "192.168.1.2"), ("203.0.113.2", "192.168.1.3")] {
            let lan = world.network.add_nat(NatKind::Symmetric, Hairpin::No, INTERNET, nat);
            world.add_node(lan, address);
        }
        world.connect(0, 1);
        let took = connects(&mut world, seconds(10), seed);
        assert!(took < Duration::from_millis(1_500), "seed {seed}: {took:?}");
        let is_problem = |(_, event): &(_, IceEvent)| matches!(event, IceEvent::Server(_));
        assert!(!world.nodes[0].events.iter().any(is_problem), "seed {seed}");
    }
}

#[test]
fn wrong_turn_credentials_are_explained_and_right_ones_cure() {
    let mut world = World::new(3);
    for (nat, address) in [("203.0.113.1", "192.168.1.2"), ("203.0.113.2", "192.168.1.3")] {
        let lan = world.network.add_nat(NatKind::Symmetric, Hairpin::No, INTERNET, nat);
        let node = world.add_node(lan, address);
        world.set_servers(node, "wrong");
    }
    world.connect(0, 1);
    world.run(seconds(30));
    assert!(!world.flows(0, 1));
    let failed = world.nodes[0].events.iter().find_map(|(_, event)| match event {
        IceEvent::Failed { why, .. } => Some(why.to_string()),
        _ => None,
    });
    let why = failed.unwrap();
    assert!(why.contains("refuses the credentials") && why.contains("symmetric"), "{why}");
    let state = world.nodes[0].ice.snapshot(world.now, world.nodes[1].id).unwrap().state;
    assert_eq!(state, IceState::Failed);
    for node in 0..2 {
        world.set_servers(node, crate::servers::PASSWORD);
    }
    connects(&mut world, seconds(5), 3);
}

#[test]
fn an_idle_tunnel_costs_less_than_100_bytes_a_second_each_way() {
    let mut world = behind_nats(1, NatKind::PortRestricted, NatKind::PortRestricted);
    world.run(seconds(60));
    world.stun_bytes = 0;
    world.run(seconds(600));
    let each_way = world.stun_bytes / 600 / 2;
    assert!(each_way < 100, "{each_way} bytes a second, keep-alives of the servers included");
}

#[test]
fn an_address_to_which_the_kernel_does_not_send_is_named_until_routes_change() {
    const ENETUNREACH: i32 = 101;
    let mut world = World::new(1);
    world.add_node(INTERNET, "192.0.2.1");
    world.add_node(INTERNET, "192.0.2.2");
    world.is_direct_cut = true;
    world.connect(0, 1);
    world.run(Duration::from_secs(20));
    let (now, peer) = (world.now, world.nodes[1].id);
    let ice = &mut world.nodes[0].ice;
    ice.send_refused("192.0.2.2:5800".parse().unwrap(), ENETUNREACH);
    let why = ice.snapshot(now, peer).unwrap().why.unwrap().to_string();
    assert!(why.contains("the kernel does not send to 192.0.2.2:5800 (Network is"), "{why}");
    ice.network_changed(now);
    let why = ice.snapshot(now, peer).unwrap().why.unwrap().to_string();
    assert!(!why.contains("the kernel"), "{why}");
}

#[test]
fn a_peer_of_which_nothing_came_is_told_as_silent_and_nothing_else() {
    let mut world = World::new(1);
    world.add_node(INTERNET, "192.0.2.1");
    world.add_node(INTERNET, "192.0.2.2");
    world.is_signalling = false;
    world.connect(0, 1);
    world.run(seconds(1));
    let why = world.nodes[0].ice.snapshot(world.now, world.nodes[1].id).unwrap().why;
    assert_eq!(why, Some(Obstacles(vec![Obstacle::PeerSilent])));
}
