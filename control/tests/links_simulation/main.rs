//! Whole nodes that find each other: room, Jingle, ICE, trust, sessions and the worker's core with real QUIC, on a
//! simulated network with NATs, with STUN and TURN servers and an XMPP server that may lie, omit, repeat, delay, restart.
//!
//! Time is virtual and all that is random follows from a seed, but for the bytes of some keys, on which nothing depends.
//! A failure names its seed, and `SIMULATION_SEED=n cargo test -p ipop-control --test links_simulation` runs it again;
//! `SIMULATION_SEEDS=a..b` runs many; `SIMULATION_LOG=1` shows what the operators are told.
//!
//! * `plan`: worlds by a seed, in which everything may go wrong.
//! * `servers_that_harm`, `members_that_harm`: one harm each.
//! * `controlled`: nodes without accounts, and a controller.
//! * `names`: what the configuration and the operator change while it runs.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

#[allow(dead_code, reason = "other simulations share it")]
#[path = "../common/chat.rs"]
mod chat;
mod controlled;
#[path = "../common/identity.rs"]
mod identity;
mod members_that_harm;
mod names;
#[allow(dead_code, reason = "other simulations share it")]
#[path = "../ice_simulation/network.rs"]
mod network;
mod node;
mod plan;
#[allow(dead_code, reason = "other simulations share it")]
#[path = "../common/rng.rs"]
mod rng;
#[allow(dead_code, reason = "other simulations share it")]
#[path = "../ice_simulation/servers.rs"]
mod servers;
mod servers_that_harm;
mod world;

use std::time::Duration;

use ipop_control::{
    notice::Notice,
    trust::{NewNodes, Policy},
};

use crate::{
    chat::Door,
    network::{Hairpin, INTERNET, NatKind},
    node::secret,
    world::World,
};

/// What members prove.
pub(crate) const SECRET: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43u";
/// What others may know.
pub(crate) const OTHER_SECRET: &str = "other-mfrggzdfmztwq2lknnwg23tpob";

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Nodes that are started and connected, each behind a NAT of its own that lets everything through but unasked packets.
pub(crate) fn connected(seed: u64, nodes: usize, users: usize, door: Door) -> World {
    let mut world = World::new(seed, users, door);
    let policy = match door {
        Door::Password => secret(SECRET),
        Door::Members => Policy::FirstSight(NewNodes::Accept),
    };
    for node in 0..nodes {
        let outside = format!("203.0.113.{}", node + 1);
        let kind = NatKind::PortRestricted;
        let realm = world.network.add_nat(kind, Hairpin::No, INTERNET, &outside);
        world.add_node(realm, &format!("192.168.{node}.2"), &policy);
        world.start(node);
    }
    let all: Vec<usize> = (0..nodes).collect();
    let took = world.run_until(seconds(20), |world| {
        world.all_agree(&all) && (1..nodes).all(|node| world.is_direct(0, node))
    });
    assert!(took.is_some(), "seed {seed}: {:?}", world.disagreement(&all));
    world.run_for(seconds(5));
    world.forget_silences();
    world
}

#[test]
fn two_nodes_behind_nats_of_every_kind() {
    use NatKind::{AddressRestricted, FullCone, PortRestricted, Symmetric};
    let kinds = [FullCone, AddressRestricted, PortRestricted, Symmetric];
    for (index, (one, other)) in
        kinds.iter().flat_map(|one| kinds.iter().map(move |other| (*one, *other))).enumerate()
    {
        let mut world = World::new(index as u64, 2, Door::Password);
        for (node, kind) in [one, other].into_iter().enumerate() {
            let outside = format!("203.0.113.{}", node + 1);
            let realm = world.network.add_nat(kind, Hairpin::No, INTERNET, &outside);
            world.add_node(realm, &format!("192.168.{node}.2"), &secret(SECRET));
            world.start(node);
        }
        let took = world.run_until(seconds(10), |world| world.flows(0, 1));
        assert!(took.is_some_and(|took| took < seconds(4)), "{one:?} {other:?}: {took:?}");
        world.run_for(seconds(10));
        assert_eq!(world.disagreement(&[0, 1]), None, "{one:?} {other:?}");
        let is_hopeless = matches!(
            (one, other),
            (Symmetric, Symmetric | PortRestricted) | (PortRestricted, Symmetric)
        );
        assert_eq!(world.is_direct(0, 1), !is_hopeless, "{one:?} {other:?}");
        assert!(world.silence(0, 1) < seconds(1), "{one:?} {other:?}: {:?}", world.silence(0, 1));
    }
}

#[test]
fn the_path_of_a_peer_that_said_goodbye_is_no_news() {
    let told_of_paths = |end: fn(&mut World, usize)| {
        let mut world = connected(7, 2, 2, Door::Password);
        let told = |world: &World| {
            world.told(0, |notice| matches!(notice, Notice::Path { .. } | Notice::NoPath { .. }))
        };
        let before = told(&world);
        end(&mut world, 1);
        world.run_for(seconds(60));
        told(&world) - before
    };
    assert_eq!(told_of_paths(World::stop), 0);
    assert!(told_of_paths(World::kill) > 0, "of one that fell silent it is");
}

#[test]
fn who_comes_up_over_a_path_is_told_with_the_way_that_it_takes() {
    let world = connected(7, 2, 2, Door::Password);
    let told = &world.nodes[0].running.as_ref().unwrap().told;
    let up = told.iter().find(|notice| matches!(notice, Notice::PeerUp { .. })).unwrap();
    let (up, ways) = (up.to_string(), ["direct UDP to 203.0.113.2:", "UDP relayed by "]);
    assert!(ways.iter().any(|way| up.contains(way)), "{up}");
}

#[test]
fn a_seed_is_always_the_same_run() {
    let run = || {
        let mut world = connected(3, 3, 3, Door::Password);
        world.run_for(seconds(20));
        world.trace
    };
    assert_eq!(run(), run());
}
