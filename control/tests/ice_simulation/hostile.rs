//! Signalling, peers and strangers that mean harm: what works goes on, and nobody is made a weapon.

use std::{net::SocketAddr, time::Duration};

use ipop_control::ice::{Candidate, CandidateKind, IceDescription, IceEvent, Role};

use crate::{
    network::{Datagram, Hairpin, INTERNET, NatKind},
    world::{Attack, PORT, World},
};

const SEEDS: std::ops::Range<u64> = 0..10;

fn connected(seed: u64) -> World {
    let mut world = World::new(seed);
    let kind = NatKind::PortRestricted;
    let lan = world.network.add_nat(kind, Hairpin::No, INTERNET, "203.0.113.1");
    world.add_node(lan, "192.168.1.2");
    world.add_node(INTERNET, "192.0.2.77");
    world.connect(0, 1);
    world.run(Duration::from_secs(10));
    assert!(world.flows(0, 1) && world.is_direct(0, 1), "seed {seed}");
    world
}

fn candidate(address: SocketAddr) -> Candidate {
    Candidate { kind: CandidateKind::Host, address, related: None, priority: u32::MAX >> 1 }
}

/// A member or the server makes a node send checks to whom they like: few, and slowly.
#[test]
fn candidates_that_point_at_third_parties_get_few_packets() {
    let victim: SocketAddr = "192.0.2.200:53".parse().unwrap();
    for victims in [1, 24, 10_000] {
        let mut world = World::new(1);
        world.add_node(INTERNET, "192.0.2.1");
        world.add_node(INTERNET, "192.0.2.2");
        let peer = world.nodes[1].id;
        let (now, ice) = (world.now, &mut world.nodes[0].ice);
        ice.start(now, peer, Role::Controlling);
        let remote = IceDescription {
            ufrag: "ufrag".to_owned(),
            password: "0123456789abcdef012345".to_owned(),
            generation: 0,
        };
        ice.set_remote(now, peer, &remote);
        let candidates: Vec<_> = (0..victims)
            .map(|n: u16| candidate(SocketAddr::new(victim.ip(), victim.port() + n)))
            .collect();
        ice.add_remote_candidates(now, peer, 0, &candidates);
        let sent = |world: &World| -> usize {
            let to_victim = world.to_nobody.iter().filter(|(to, _)| to.ip() == victim.ip());
            to_victim.map(|(_, packets)| packets).sum()
        };
        for _ in 0..100 {
            let before = sent(&world);
            world.run(Duration::from_millis(100));
            // One each 5 milliseconds, and a few at once.
            assert!(sent(&world) - before <= 25);
        }
        let first = sent(&world);
        assert!((5..=24 * 6 + 12).contains(&first), "{victims}: {first} packets in 10 s");
        world.run(Duration::from_secs(300));
        let later = sent(&world) - first;
        assert!(later <= 200, "{victims}: {later} packets in 5 minutes");
        let counters = world.nodes[0].ice.counters();
        assert_eq!(counters.refused_candidates, u64::from(victims.saturating_sub(24)));
    }
}

/// Everything that node 1 ever got, again and again, from an address of the attacker.
#[test]
fn replayed_packets_move_nothing() {
    for seed in SEEDS {
        let mut world = connected(seed);
        let captured = world.captured.clone();
        assert!(captured.len() > 10);
        let before = (world.nodes[1].paths.clone(), world.nodes[1].sources.clone());
        world.network.add_address(INTERNET, "192.0.2.66".parse().unwrap());
        for round in 0..20 {
            for (to_node, datagram) in &captured {
                if *to_node == 1 && datagram.to.port() == PORT {
                    let from = SocketAddr::from(([192, 0, 2, 66], 1_000 + round));
                    world.inject(INTERNET, Datagram { from, ..datagram.clone() });
                }
            }
            world.run(Duration::from_millis(500));
        }
        let node = &world.nodes[1];
        assert_eq!(before.0, node.paths, "seed {seed}");
        let is_attacker = |source: &_| format!("{source:?}").contains("192.0.2.66");
        assert!(!node.sources.keys().any(is_attacker), "seed {seed}: {:?}", node.sources);
        assert!(world.flows(0, 1), "seed {seed}");
        assert!(world.longest_silence(0, 1) < Duration::from_millis(300), "seed {seed}");
    }
}

/// A candidate of somebody who is not the peer, but sees the checks.
#[test]
fn a_forged_or_detoured_answer_proves_nothing() {
    let attacker: SocketAddr = "192.0.2.66:5800".parse().unwrap();
    let other: SocketAddr = "192.0.2.2:5800".parse().unwrap();
    for attack in [Attack::Answer, Attack::PassOnTo(other)] {
        let mut world = World::new(1);
        world.add_node(INTERNET, "192.0.2.1");
        world.add_node(INTERNET, "192.0.2.2");
        world.network.add_address(INTERNET, attacker.ip());
        world.attacker = Some((attacker, attack));
        world.connect(0, 1);
        world.run(Duration::from_millis(65));
        let (now, peer) = (world.now, world.nodes[1].id);
        world.nodes[0].ice.add_remote_candidates(now, peer, 0, &[candidate(attacker)]);
        world.run(Duration::from_secs(10));
        assert!(world.flows(0, 1), "{attack:?}");
        assert!(world.nodes[0].ice.counters().bad_response > 0, "{attack:?}");
        let sources: Vec<_> = world.nodes[0].sources.keys().collect();
        assert!(!format!("{sources:?}").contains("192.0.2.66"), "{attack:?}: {sources:?}");
    }
}

#[test]
fn strangers_get_no_answer() {
    let mut world = connected(1);
    let request = world
        .captured
        .iter()
        .find(|(to, datagram)| *to == 1 && datagram.payload[..2] == [0, 1])
        .map(|(_, datagram)| datagram.clone())
        .unwrap();
    let stranger: SocketAddr = "192.0.2.66:7".parse().unwrap();
    let before = world.nodes[1].ice.counters();
    for at in 20..request.payload.len() - 8 {
        let mut payload = request.payload.clone();
        payload[at] ^= 0x55;
        // Without the FINGERPRINT, so that the damage reaches the signature.
        payload.truncate(payload.len() - 8);
        let length = (payload.len() - 20) as u16;
        payload[2..4].copy_from_slice(&length.to_be_bytes());
        world.inject(INTERNET, Datagram { from: stranger, to: request.to, payload });
    }
    world.run(Duration::from_secs(3));
    assert_eq!(world.to_nobody.get(&stranger), None);
    let after = world.nodes[1].ice.counters();
    assert!(after.bad_integrity > before.bad_integrity);
    assert!(after.unknown_ufrag > before.unknown_ufrag);
    assert!(after.unreadable > before.unreadable);
}

/// Aliases of paths are addresses of 100::/64: a packet that claims to come from there is answered by nobody, and makes no pair.
#[test]
fn a_request_from_the_discard_only_prefix_is_refused() {
    let mut world = World::new(1);
    for address in ["2001:db8::1", "2001:db8::2"] {
        world.add_node(INTERNET, address);
    }
    world.connect(0, 1);
    world.run(Duration::from_secs(5));
    assert!(world.flows(0, 1));
    let is_request =
        |(to, datagram): &&(usize, Datagram)| *to == 1 && datagram.payload[..2] == [0, 1];
    let (_, request) = world.captured.iter().find(is_request).cloned().unwrap();
    for from in ["[100::7]:1", "[100::1:2:3:4]:5800"] {
        let from: SocketAddr = from.parse().unwrap();
        let before = world.nodes[1].ice.counters().refused_candidates;
        world.inject(INTERNET, Datagram { from, ..request.clone() });
        world.run(Duration::from_secs(3));
        assert_eq!(world.to_nobody.get(&from), None);
        assert_eq!(world.nodes[1].ice.counters().refused_candidates, before + 1);
    }
}

/// The server replays an old description, or makes one up, after every connection is there.
#[test]
fn false_descriptions_harm_no_path_that_works() {
    for seed in SEEDS {
        let mut world = connected(seed);
        for generation in [0, 0, 5, 1_000, u32::MAX] {
            for node in 0..2 {
                let peer = world.nodes[1 - node].id;
                let remote = IceDescription {
                    ufrag: format!("false{generation}"),
                    password: "0123456789abcdef012345".to_owned(),
                    generation,
                };
                let now = world.now;
                world.nodes[node].ice.set_remote(now, peer, &remote);
            }
            world.run(Duration::from_secs(20));
        }
        assert!(world.flows(0, 1), "seed {seed}");
        let silence = world.longest_silence(0, 1);
        assert!(silence < Duration::from_millis(200), "seed {seed}: {silence:?}");
        let lost = |(_, event): &(_, IceEvent)| matches!(event, IceEvent::Lost { .. });
        assert!(!world.nodes.iter().any(|node| node.events.iter().any(lost)), "seed {seed}");
    }
}

/// A restart of which the server tells nobody, or something else: the other end goes on with what it has.
#[test]
fn a_restart_that_the_other_end_never_hears_of_loses_nothing() {
    for seed in SEEDS {
        for side in [0, 1] {
            let mut world = connected(seed);
            world.is_signalling = false;
            for generation in 0..20 {
                let (now, peer) = (world.now, world.nodes[1 - side].id);
                world.nodes[side].ice.restart(now, peer);
                world.drain(side);
                if generation % 2 == 0 {
                    let own = world.nodes[side].id;
                    let remote = IceDescription {
                        ufrag: format!("false{generation}"),
                        password: "0123456789abcdef012345".to_owned(),
                        generation: 1_000 + generation,
                    };
                    world.nodes[1 - side].ice.set_remote(now, own, &remote);
                }
                world.run(Duration::from_millis(1_700 * u64::from(generation % 5)));
            }
            world.run(Duration::from_secs(40));
            assert!(world.flows(0, 1) && world.is_direct(0, 1), "seed {seed} {side}");
            let silence = world.longest_silence(0, 1);
            assert!(silence < Duration::from_millis(200), "seed {seed} {side}: {silence:?}");
        }
    }
}

/// What the server made up must not be in the way when an address changes, even if it keeps making things up.
#[test]
fn a_changed_address_is_survived_after_false_descriptions() {
    for seed in SEEDS {
        for (mover, again) in [(0, false), (0, true), (1, false), (1, true)] {
            let mut world = connected(seed);
            world.run(Duration::from_secs(20) + Duration::from_millis(171 * seed));
            world.is_signalling = false;
            let elsewhere =
                world.network.add_nat(NatKind::Symmetric, Hairpin::No, INTERNET, "203.0.113.50");
            // Node 1 can be reached from everywhere: wherever it goes it stays so.
            let (realm, address) =
                if mover == 0 { (elsewhere, "10.9.9.9") } else { (INTERNET, "192.0.2.99") };
            for turn in 0..30 {
                for node in 0..2 {
                    let (now, peer) = (world.now, world.nodes[1 - node].id);
                    let remote = IceDescription {
                        ufrag: format!("false{turn}"),
                        password: "0123456789abcdef012345".to_owned(),
                        generation: 1_000 + turn,
                    };
                    if turn < 10 || again {
                        world.nodes[node].ice.set_remote(now, peer, &remote);
                        world.drain(node);
                    }
                }
                if turn == 10 {
                    world.move_node(mover, realm, address);
                }
                world.run(Duration::from_millis(200));
            }
            let silence = world.longest_silence(0, 1);
            let who = format!("seed {seed}, {mover} moved, {again}");
            assert!(world.flows(0, 1), "{who}\n{:#?}", world.nodes[mover].events);
            assert!(silence < Duration::from_secs(3), "{who}: {silence:?}");
        }
    }
}

/// Each restart is a new name to be found by; those of before are forgotten.
#[test]
fn restarts_without_end_cost_no_memory() {
    let mut world = connected(1);
    for _ in 0..500 {
        for side in 0..2 {
            let (now, peer) = (world.now, world.nodes[1 - side].id);
            world.nodes[side].ice.restart(now, peer);
            world.drain(side);
        }
        world.run(Duration::from_millis(200));
        assert!(
            world.nodes.iter().all(|node| node.ice.names() <= 6),
            "{}",
            world.nodes[0].ice.names()
        );
    }
    world.run(Duration::from_secs(10));
    assert!(world.flows(0, 1) && world.is_direct(0, 1));
    assert!(world.longest_silence(0, 1) < Duration::from_millis(200));
}

#[test]
fn a_restart_of_either_or_both_sides_loses_nothing() {
    for seed in SEEDS {
        for sides in [&[0][..], &[1], &[0, 1]] {
            let mut world = connected(seed);
            for side in sides {
                let (now, peer) = (world.now, world.nodes[1 - *side].id);
                world.nodes[*side].ice.restart(now, peer);
                world.drain(*side);
            }
            let before = world.nodes[1].ice.checks_sent();
            world.run(Duration::from_secs(40));
            assert!(world.flows(0, 1) && world.is_direct(0, 1), "seed {seed} {sides:?}");
            let silence = world.longest_silence(0, 1);
            assert!(silence < Duration::from_millis(200), "seed {seed} {sides:?}: {silence:?}");
            assert!(world.nodes[1].ice.checks_sent() > before);
        }
    }
}

/// A program that starts anew knows nothing of before; its peer does not know that yet.
#[test]
fn a_peer_whose_program_starts_anew_is_found_again() {
    for seed in SEEDS {
        for anew in [0, 1] {
            let mut world = connected(seed);
            // So that the generation of the new program, 0, is older than the last one known.
            let (now, peer) = (world.now, world.nodes[1 - anew].id);
            world.nodes[anew].ice.restart(now, peer);
            world.drain(anew);
            world.run(Duration::from_secs(1));
            world.replace_node(anew);
            let (now, peer) = (world.now, world.nodes[1 - anew].id);
            let role = if anew == 0 { Role::Controlling } else { Role::Controlled };
            world.nodes[anew].ice.start(now, peer, role);
            world.drain(anew);
            // The other end says again who it is, as it does to whoever asks.
            let own = world.nodes[anew].id;
            world.nodes[1 - anew].ice.restart(now, own);
            world.drain(1 - anew);
            let took = world.run_until(Duration::from_secs(3), |world| world.flows(0, 1));
            assert!(took.is_some(), "seed {seed} {anew}: {:#?}", world.nodes[1 - anew].events);
            world.run(Duration::from_secs(20));
            assert!(world.flows(0, 1) && world.is_direct(0, 1), "seed {seed} {anew}");
        }
    }
}

#[test]
fn two_that_claim_one_role_do_not_connect_and_do_not_flood() {
    let mut world = World::new(1);
    world.add_node(INTERNET, "192.0.2.1");
    world.add_node(INTERNET, "192.0.2.2");
    for node in 0..2 {
        let (now, peer) = (world.now, world.nodes[1 - node].id);
        world.nodes[node].ice.start(now, peer, Role::Controlling);
        world.drain(node);
    }
    world.run(Duration::from_secs(60));
    let counters = world.nodes[0].ice.counters();
    assert!(counters.role_conflicts > 0);
    let checks_sent = world.nodes[0].ice.checks_sent();
    assert!(checks_sent < 300, "{checks_sent}");
    assert!(world.nodes[0].paths.is_empty());
}

/// One node and many others on one network, all at once.
#[test]
fn sixty_peers_at_once() {
    let mut world = World::new(1);
    for node in 0..61 {
        world.add_node(INTERNET, &format!("192.0.2.{}", node + 1));
    }
    for peer in 1..61 {
        world.connect(0, peer);
    }
    let all = |world: &World| (1..61).all(|peer| world.flows(0, peer));
    let took = world.run_until(Duration::from_secs(5), all);
    assert!(took.is_some_and(|took| took < Duration::from_secs(2)), "{took:?}");
    world.run(Duration::from_secs(30));
    assert!((1..61).all(|peer| world.flows(0, peer) && world.is_direct(0, peer)));
}
