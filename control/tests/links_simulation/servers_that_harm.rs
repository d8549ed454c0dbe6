//! Servers that mean harm, are wrong, or are away: XMPP, STUN, TURN; and clocks that are wrong.

use std::time::Duration;

use ipop_control::notice::Notice;
use ipop_datapath::node_id::NodeId;

use crate::{
    SECRET,
    chat::{Chat, Door, parsed},
    connected,
    network::{Hairpin, INTERNET, NatKind},
    node::{UNIX_S, secret},
    seconds,
    servers::{PASSWORD, USER},
    world::{StunServers, World, services},
};

const NODES: [usize; 2] = [0, 1];

/// Node 0 on the Internet, node 1 behind a NAT that keeps strangers out; connected.
fn reachable_and_not(seed: u64) -> World {
    let mut world = World::new(seed, 2, Door::Password);
    let kind = NatKind::PortRestricted;
    let realm = world.network.add_nat(kind, Hairpin::No, INTERNET, "203.0.113.1");
    world.add_node(INTERNET, "192.0.2.1", &secret(SECRET));
    world.add_node(realm, "192.168.1.2", &secret(SECRET));
    NODES.into_iter().for_each(|node| world.start(node));
    world.run_for(seconds(20));
    assert_eq!(world.disagreement(&NODES), None, "seed {seed}");
    world.forget_silences();
    world
}

#[test]
fn without_the_server_tunnels_stay_and_nodes_may_move() {
    for seed in 0..6 {
        let mover = seed as usize % 2;
        let mut world = reachable_and_not(seed);
        world.chat_dies();
        world.run_for(seconds(120));
        assert!(world.silence(0, 1).as_millis() < 300, "seed {seed}: {:?}", world.silence(0, 1));
        let elsewhere =
            world.network.add_nat(NatKind::Symmetric, Hairpin::No, INTERNET, "203.0.113.50");
        match mover {
            0 => world.move_node(0, INTERNET, "192.0.2.99"),
            _ => world.move_node(1, elsewhere, "10.9.9.9"),
        }
        world.run_for(seconds(20));
        assert_eq!(world.disagreement(&NODES), None, "seed {seed}, {mover} moved");
        let silence = world.silence(0, 1);
        assert!(silence < seconds(5), "seed {seed}, {mover} moved: {silence:?}");
    }
}

#[test]
fn without_the_server_a_program_that_starts_anew_finds_its_peers() {
    for seed in 0..6 {
        let anew = seed as usize % 2;
        let mut world = reachable_and_not(seed);
        // Until it is in the state directory.
        world.run_for(seconds(5));
        world.chat_dies();
        world.kill(anew);
        world.run_for(seconds(3));
        world.start(anew);
        let took = world.run_until(seconds(60), |world| world.flows(0, 1));
        assert!(took.is_some(), "seed {seed}, {anew}: {:?}", world.disagreement(&NODES));
    }
}

/// Nothing but the memory of the room names the peer, and the sessions hear of it again as soon as the operator lets it in.
#[test]
fn without_the_server_a_peer_that_was_denied_is_let_in_again() {
    for seed in 0..4 {
        let mut world = reachable_and_not(seed);
        // Until it is in the state directory.
        world.run_for(seconds(5));
        world.chat_dies();
        let peer = world.nodes[1].id().to_string();
        let decide = |world: &mut World, decision: Decision| {
            let now = world.now;
            world.nodes[0].decide(now, |store| {
                let decided = match decision {
                    Decision::Deny => store.deny(&peer, UNIX_S),
                    Decision::Forget => store.forget(&peer),
                };
                decided.unwrap();
            });
            world.work(0);
        };
        world.kill(0);
        decide(&mut world, Decision::Deny);
        world.start(0);
        for round in ["at the start", "while it runs"] {
            world.run_for(seconds(20));
            assert!(!world.flows(0, 1), "seed {seed}, denied {round}");
            decide(&mut world, Decision::Forget);
            let took = world.run_until(seconds(60), |world| world.flows(0, 1));
            assert!(took.is_some(), "seed {seed}, let in again: {round}");
            decide(&mut world, Decision::Deny);
        }
    }
}

#[derive(Clone, Copy)]
enum Decision {
    Deny,
    Forget,
}

/// A server that says falsely that an account lost its right can cut that one off, and nobody else, for as long as it says so.
#[test]
fn a_false_revocation_ends_what_came_of_the_room_and_is_explained() {
    for (seed, door) in [(1, Door::Password), (2, Door::Members), (3, Door::Password)] {
        let mut world = connected(seed, 3, 3, door);
        // Node 2 is a peer of node 1 by configuration too.
        for (at, of) in [(1, 2), (2, 1)] {
            let id = world.nodes[of].id();
            world.configure(at, &[id]);
        }
        world.run_for(seconds(3));
        for _ in 0..10 {
            for victim in [1, 2] {
                let others = (0..3).filter(|other| *other != victim);
                for (to, was_inside) in others.flat_map(|to| [(to, true), (to, false)]) {
                    let removed = world.chat.removed(victim, to, was_inside);
                    world.chat.forge(to, removed);
                }
            }
            world.post();
            world.run_for(seconds(2));
        }
        assert!(!world.flows(0, 1) && !world.flows(0, 2), "seed {seed}");
        assert_eq!(world.disagreement(&[1, 2]), None, "seed {seed}: they are configured");
        assert!(world.silence(1, 2).as_millis() < 300, "seed {seed}: {:?}", world.silence(1, 2));
        assert!(
            world.told(0, |notice| matches!(notice, Notice::AccountRemoved { .. })) > 0,
            "seed {seed}"
        );
        // Nothing of it lasts: when they are shown again all is as before.
        world.chat_dies();
        world.chat_returns();
        let took = world.run_until(seconds(40), |world| world.all_agree(&[0, 1, 2]));
        assert!(took.is_some(), "seed {seed}: {:?}", world.disagreement(&[0, 1, 2]));
    }
}

/// A crowd that does not exist: what is there goes on, who is configured finds room, and who is real gets in soon.
#[test]
fn forged_members_do_not_keep_real_ones_out() {
    for door in [Door::Password, Door::Members] {
        let mut world = connected(5, 2, 4, door);
        for number in 0..1_000_u32 {
            let (nick, jid) = (format!("g{number}"), format!("g{number}@x/r"));
            let id = NodeId::of_spki(&number.to_be_bytes()).to_string();
            world.chat.forge(0, Chat::shown_as(&nick, &jid, &id, &nick));
        }
        world.post();
        world.run_for(seconds(10));
        let policy = world.nodes[0].policy.clone();
        world.add_node(INTERNET, "192.0.2.3", &policy);
        world.start(2);
        world.configure(0, &[NodeId::of_spki(b"configured")]);
        let all = [0, 1, 2];
        let flow = |world: &World| NODES.iter().all(|node| world.flows(*node, 2));
        let took = world.run_until(seconds(180), flow);
        assert!(took.is_some(), "{door:?}: {:?}", world.disagreement(&all));
        assert!(world.silence(0, 1).as_millis() < 300, "{door:?}: {:?}", world.silence(0, 1));
        let running = world.nodes[0].running.as_ref().unwrap();
        assert!(running.told.len() < 700, "{door:?}: {}", running.told.len());
        assert!(running.files_written < 100, "{door:?}: {}", running.files_written);
    }
}

/// In the name of the peer, who never wrote it: sessions, ends of sessions, other credentials, older ones.
#[test]
fn what_the_server_writes_in_a_peers_name_harms_no_tunnel() {
    for seed in 0..4 {
        let mut world = connected(seed, 2, 2, Door::Password);
        for turn in 0..600_u32 {
            for (to, as_) in [(0, 1), (1, 0)] {
                let (id, from) = (world.nodes[as_].id(), world.nodes[as_].jid.clone());
                let generation = [0, turn, u32::MAX][turn as usize % 3];
                let jingle = match turn % 5 {
                    0 => {
                        format!("action='session-terminate' sid='f{turn}'><reason><gone/></reason>")
                    }
                    _ => format!(
                        "action='{}' sid='f{}'><content creator='initiator' name='link'>\
                         <description xmlns='urn:ipop-switch:jingle:1' node='{id}' generation='{generation}'/>\
                         <transport xmlns='urn:xmpp:jingle:transports:ice-udp:1' ufrag='false{turn}' pwd='{turn:022}'>\
                         <fingerprint xmlns='urn:xmpp:jingle:apps:dtls:0' hash='sha-256' setup='active'>00:11</fingerprint>\
                         <candidate component='1' foundation='1' generation='0' id='c' ip='192.0.2.200' port='5800' \
                         priority='2113937151' protocol='udp' type='host'/></transport></content>",
                        ["session-initiate", "transport-info", "session-accept"][turn as usize % 3],
                        turn / 4,
                    ),
                };
                let forged = format!(
                    "<iq xmlns='jabber:client' type='set' id='f{turn}' from='{from}'>\
                     <jingle xmlns='urn:xmpp:jingle:1' {jingle}</jingle></iq>"
                );
                let nudge = format!(
                    "<message xmlns='jabber:client' type='headline' from='{from}'>\
                     <nudge xmlns='urn:ipop-switch:jingle:1' node='{id}'/></message>"
                );
                world.chat.forge(to, parsed(&forged));
                world.chat.forge(to, parsed(&nudge));
            }
            world.post();
            world.run_for(Duration::from_millis(200));
        }
        world.run_for(seconds(30));
        assert_eq!(world.disagreement(&NODES), None, "seed {seed}");
        let silence = world.silence(0, 1);
        assert!(silence.as_millis() < 300, "seed {seed}: {silence:?}");
        // And what was made up is not in the way when something changes.
        world.chat_dies();
        world.move_node(0, INTERNET, "192.0.2.99");
        world.run_for(seconds(30));
        assert_eq!(world.disagreement(&NODES), None, "seed {seed}");
    }
}

/// A STUN server that sees another address each time it is asked: peers are always told the newest ones.
#[test]
fn a_stun_server_that_lies_does_not_wear_signalling_out() {
    let mut world = connected(4, 2, 2, Door::Password);
    world.stun = StunServers::Lie;
    world.run_for(seconds(700));
    assert_eq!(world.disagreement(&NODES), None);
    assert!(world.silence(0, 1).as_millis() < 300, "{:?}", world.silence(0, 1));
    world.stun = StunServers::Honest;
    world.run_for(seconds(60));
    // What it says now is what counts, also without the server: a NAT gets another address.
    world.chat_dies();
    world.run_for(seconds(5));
    let realm =
        world.network.add_nat(NatKind::PortRestricted, Hairpin::No, INTERNET, "203.0.113.77");
    world.move_node(0, realm, "10.1.1.1");
    world.run_for(seconds(40));
    assert_eq!(world.disagreement(&NODES), None);
    assert!(world.is_direct(0, 1), "{:?}", world.path(0, 1));
}

/// Two symmetric NATs, so that the relay alone connects; its credentials end, and new ones come.
#[test]
fn credentials_of_the_relay_that_end_are_explained_and_replaced() {
    let mut world = World::new(6, 2, Door::Password);
    let until = |world: &World, s: u64| UNIX_S + (world.now - world.begin).as_secs() + s;
    world.chat.services = Some(services(USER, PASSWORD, Some(until(&world, 240))));
    for node in NODES {
        let outside = format!("203.0.113.{}", node + 1);
        let realm = world.network.add_nat(NatKind::Symmetric, Hairpin::No, INTERNET, &outside);
        world.add_node(realm, &format!("192.168.{node}.2"), &secret(SECRET));
        world.start(node);
    }
    world.run_for(seconds(20));
    assert_eq!(world.disagreement(&NODES), None);
    // The server does not take them any more and has forgotten the allocations; nobody has been told others yet.
    world.turn.restart_with("later", "other");
    world.run_for(seconds(30));
    assert!(!world.flows(0, 1));
    assert!(world.told(0, |notice| matches!(notice, Notice::Server(why) if why.to_string().contains("refuses the credentials"))) > 0, "{:?}", world.disagreement(&NODES));
    world.chat.services = Some(services("later", "other", Some(until(&world, 600))));
    let took = world.run_until(seconds(150), |world| world.all_agree(&NODES));
    assert!(took.is_some(), "{:?}", world.disagreement(&NODES));
}

/// Nothing here believes a clock but the memory of peers, and that errs on the side of keeping.
#[test]
fn a_wrong_clock_keeps_nobody_out() {
    for (seed, clock) in [(1, 0), (2, 4_000_000_000), (3, UNIX_S - 3_600)] {
        let mut world = reachable_and_not(seed);
        world.run_for(seconds(5));
        world.kill(1);
        world.nodes[1].clock_s = clock;
        world.run_for(seconds(3));
        world.chat.services = Some(services(USER, PASSWORD, Some(UNIX_S + 300)));
        world.start(1);
        let took = world.run_until(seconds(60), |world| world.all_agree(&NODES));
        assert!(took.is_some(), "{clock}: {:?}", world.disagreement(&NODES));
        // It asks for servers no more often than it should, and writes no files because of it.
        world.run_for(seconds(120));
        let running = world.nodes[1].running.as_ref().unwrap();
        assert!(running.files_written < 20, "{clock}: {}", running.files_written);
    }
}

/// What is omitted is not made up for, but nobody waits in vain for ever: the next word sets it right.
#[test]
fn an_occupant_that_is_hidden_for_a_while_is_found_when_it_is_shown() {
    let mut world = World::new(7, 2, Door::Password);
    for (node, address) in ["192.0.2.1", "192.0.2.2"].iter().enumerate() {
        world.add_node(INTERNET, address, &secret(SECRET));
        world.start(node);
    }
    // Everybody is alone in the room.
    world.chat.hides = true;
    world.run_for(seconds(60));
    assert!(!world.ever_heard(0, 1));
    world.chat.hides = false;
    for node in NODES {
        world.cut_stream(node);
    }
    let took = world.run_until(seconds(30), |world| world.all_agree(&NODES));
    assert!(took.is_some(), "{:?}", world.disagreement(&NODES));
}
