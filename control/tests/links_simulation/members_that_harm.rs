//! Members of the room, and people outside of it, that mean harm: what works goes on, what should come about does, and
//! what they cost is bounded.

use ipop_datapath::node_id::NodeId;

use crate::{
    SECRET,
    chat::{Door, ROOM, parsed},
    connected,
    network::INTERNET,
    node::secret,
    seconds,
    world::World,
};

/// The user that is no node.
const MALLORY: usize = 2;
const NODES: [usize; 2] = [0, 1];

/// Mallory is in the room, by this node's id.
fn enters_as(world: &mut World, node: NodeId) {
    let card = format!("<node xmlns='urn:ipop-switch:1' id='{node}' name='m' version='1'/>");
    world.say(
        MALLORY,
        parsed(&format!("<presence xmlns='jabber:client' to='{ROOM}/m'>{card}</presence>")),
    );
}

/// A session-initiate or another offer, with candidates at these addresses.
fn offers(
    world: &mut World,
    to: usize,
    node: NodeId,
    turn: u32,
    action: &str,
    candidates: &[String],
) {
    let to = world.nodes[to].jid.clone();
    let candidates: String = candidates
        .iter()
        .enumerate()
        .map(|(id, ip)| {
            format!(
                "<candidate component='1' foundation='1' generation='0' id='c{id}' ip='{ip}' port='5800' \
                 priority='2113937151' protocol='udp' type='host'/>"
            )
        })
        .collect();
    let offer = format!(
        "<iq xmlns='jabber:client' type='set' id='m{turn}' to='{to}'>\
         <jingle xmlns='urn:xmpp:jingle:1' action='{action}' sid='m{turn}'><content creator='initiator' name='link'>\
         <description xmlns='urn:ipop-switch:jingle:1' node='{node}' generation='{turn}'/>\
         <transport xmlns='urn:xmpp:jingle:transports:ice-udp:1' ufrag='mallory{turn}' pwd='{turn:022}'>{candidates}</transport>\
         </content></jingle></iq>"
    );
    world.say(MALLORY, parsed(&offer));
}

fn nudges(world: &mut World, to: usize, node: NodeId) {
    let to = world.nodes[to].jid.clone();
    let nudge = format!("<nudge xmlns='urn:ipop-switch:jingle:1' node='{node}'/>");
    let message =
        format!("<message xmlns='jabber:client' type='headline' to='{to}'>{nudge}</message>");
    world.say(MALLORY, parsed(&message));
}

/// What she says was first. She goes on about it as long as the test lasts.
#[test]
fn somebody_with_anothers_node_id_delays_it_and_no_more() {
    // With both orders of the node ids.
    for seed in 0..6 {
        let mut world = World::new(seed, 3, Door::Password);
        for (node, address) in ["192.0.2.1", "192.0.2.2"].iter().enumerate() {
            world.add_node(INTERNET, address, &secret(SECRET));
            assert_eq!(world.nodes[node].number, node);
        }
        world.start(0);
        world.run_for(seconds(2));
        let id = world.nodes[1].id();
        enters_as(&mut world, id);
        let mut turn = 0;
        let mut go_on = |world: &mut World, time: u64| {
            for _ in 0..time {
                turn += 1;
                offers(world, 0, id, turn, "session-initiate", &["192.0.2.200".into()]);
                nudges(world, 0, id);
                world.run_for(seconds(1));
            }
        };
        go_on(&mut world, 20);
        world.start(1);
        let mut took = 0;
        while !world.all_agree(&NODES) {
            go_on(&mut world, 1);
            took += 1;
            assert!(took < 40, "seed {seed}: {:?}", world.disagreement(&NODES));
        }
        // Now that it is connected she changes nothing, and her removal takes nothing from it.
        world.run_for(seconds(5));
        world.forget_silences();
        go_on(&mut world, 30);
        world.chat.ban(MALLORY);
        world.post();
        world.run_for(seconds(20));
        assert_eq!(world.disagreement(&NODES), None, "seed {seed}");
        let silence = world.silence(0, 1);
        assert!(silence.as_millis() < 300, "seed {seed}: {silence:?}");
    }
}

/// She gets in after it: whoever is connected keeps being it.
#[test]
fn a_node_that_is_connected_is_not_displaced_by_another_claim() {
    for seed in 0..4 {
        let mut world = connected(seed, 2, 3, Door::Password);
        for id in [0, 1].map(|node| world.nodes[node].id()) {
            enters_as(&mut world, id);
            for turn in 0..20 {
                for to in NODES {
                    offers(&mut world, to, id, turn, "session-initiate", &["192.0.2.200".into()]);
                    nudges(&mut world, to, id);
                }
                world.run_for(seconds(1));
            }
        }
        assert_eq!(world.disagreement(&NODES), None, "seed {seed}");
        assert!(world.silence(0, 1).as_millis() < 300, "seed {seed}: {:?}", world.silence(0, 1));
        assert_eq!(world.to_nobody.get(&"192.0.2.200".parse().unwrap()), None, "seed {seed}");
    }
}

/// Sessions, each with candidates at somebody else's address, as fast as she can.
#[test]
fn a_flood_of_sessions_is_a_trickle_of_checks() {
    let victim = "192.0.2.200".parse().unwrap();
    // One id below and one above those of the nodes, so that both roles are met.
    for id in [NodeId([0; 32]), NodeId([0xff; 32])] {
        let mut world = connected(1, 2, 3, Door::Password);
        enters_as(&mut world, id);
        let targets: Vec<String> = vec!["192.0.2.200".into(); 24];
        world.run_for(seconds(1));
        let told = world.nodes[0].running.as_ref().unwrap().told.len();
        for turn in 0..3_000 {
            let action =
                ["session-initiate", "session-accept", "transport-info"][turn as usize % 3];
            for to in NODES {
                offers(&mut world, to, id, turn, action, &targets);
                nudges(&mut world, to, id);
            }
            world.run_for(std::time::Duration::from_millis(10));
        }
        assert_eq!(world.disagreement(&NODES), None);
        assert!(world.silence(0, 1).as_millis() < 300, "{:?}", world.silence(0, 1));
        let running = world.nodes[0].running.as_ref().unwrap();
        assert!(running.told.len() - told < 20, "{:#?}", running.told);
        let sent = world.to_nobody.get(&victim).copied().unwrap_or_default();
        // Of each of the two nodes: a session a second at most, and five checks of one address.
        assert!(sent <= 2 * 30 * 6, "{sent} packets in 30 s");
    }
}

/// Presence that changes all the time, questions, messages.
#[test]
fn a_flood_of_stanzas_costs_little() {
    for door in [Door::Password, Door::Members] {
        let mut world = connected(2, 2, 3, door);
        let before = world.nodes.iter().map(|node| node.running.as_ref().unwrap());
        let before: Vec<_> = before.map(|node| (node.told.len(), node.files_written)).collect();
        for turn in 0..2_000_u32 {
            enters_as(&mut world, NodeId::of_spki(&turn.to_be_bytes()));
            for to in NODES.map(|node| world.nodes[node].jid.clone()) {
                for stanza in [
                    format!(
                        "<iq xmlns='jabber:client' type='get' id='p{turn}' to='{to}'><ping xmlns='urn:xmpp:ping'/></iq>"
                    ),
                    format!(
                        "<iq xmlns='jabber:client' type='set' id='s{turn}' to='{to}'><odd xmlns='urn:x'/></iq>"
                    ),
                    format!(
                        "<message xmlns='jabber:client' to='{to}'><body>hello</body></message>"
                    ),
                    format!(
                        "<message xmlns='jabber:client' type='groupchat' to='{ROOM}'><body>all</body></message>"
                    ),
                ] {
                    world.say(MALLORY, parsed(&stanza));
                }
            }
            world.run_for(std::time::Duration::from_millis(20));
        }
        world.run_for(seconds(10));
        assert_eq!(world.disagreement(&NODES), None, "{door:?}");
        assert!(world.silence(0, 1).as_millis() < 300, "{door:?}: {:?}", world.silence(0, 1));
        for (node, (told, files)) in world.nodes.iter().zip(before) {
            let running = node.running.as_ref().unwrap();
            assert!(running.told.len() - told < 400, "{door:?}: {:#?}", running.told);
            assert!(running.files_written - files < 100, "{door:?}: {}", running.files_written);
            // Only the last of them is there, and those that may still come back.
            assert!(running.node.sessions().snapshot(world.now).len() <= 3, "{door:?}");
        }
    }
}

/// Somebody with an account, but not in the room, writes what would be right if he were the peer.
#[test]
fn whoever_is_not_in_the_room_is_not_heard() {
    let mut world = connected(3, 2, 3, Door::Password);
    for turn in 0..200 {
        for (to, as_) in [(0, 1), (1, 0)] {
            let id = world.nodes[as_].id();
            offers(&mut world, to, id, turn, "session-initiate", &["192.0.2.200".into()]);
            nudges(&mut world, to, id);
        }
        world.run_for(std::time::Duration::from_millis(100));
    }
    assert_eq!(world.disagreement(&NODES), None);
    assert!(world.silence(0, 1).as_millis() < 300);
    assert_eq!(world.to_nobody.get(&"192.0.2.200".parse().unwrap()), None);
    let report = world.nodes[0].running.as_ref().unwrap().node.network_report().unwrap();
    let strangers = report.refused.get("jingle_strangers").copied();
    assert!(strangers.is_some_and(|strangers| strangers >= 200), "{strangers:?}");
}
