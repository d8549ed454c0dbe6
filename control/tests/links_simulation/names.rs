//! Nodes that several sources name: the configuration comes and goes, the room stays, the operator decides.

use ipop_control::{notice::Notice, peer::NamedBy, trust::Loss};
use ipop_datapath::node_id::NodeId;

use crate::{chat::Door, connected, node::UNIX_S, seconds, world::World};

fn id(world: &World, node: usize) -> NodeId {
    world.nodes[node].id()
}

/// What names node 1 at node 0.
fn sources(world: &World) -> Vec<NamedBy> {
    let running = world.nodes[0].running.as_ref().unwrap();
    running.node.trust().sources(id(world, 1))
}

#[test]
fn a_peer_that_is_no_longer_configured_stays_by_right_of_the_room() {
    for (seed, door) in [(1, Door::Password), (2, Door::Members)] {
        let mut world = connected(seed, 2, 2, door);
        let peer = id(&world, 1);
        world.configure(0, &[peer]);
        world.run_for(seconds(10));
        world.configure(0, &[]);
        world.run_for(seconds(60));
        assert!(world.silence(0, 1).as_millis() < 300, "seed {seed}: {:?}", world.silence(0, 1));
        assert_eq!(world.disagreement(&[0, 1]), None, "seed {seed}");
        assert_eq!(
            world.told(0, |notice| matches!(
                notice,
                Notice::Revoked { why: Loss::NotConfigured, .. }
            )),
            0,
            "seed {seed}"
        );
    }
}

/// What named it before it was denied names it after.
#[test]
fn a_peer_that_is_accepted_again_is_known_by_all_that_name_it() {
    for (seed, door) in [(3, Door::Password), (4, Door::Members)] {
        let mut world = connected(seed, 2, 2, door);
        let peer = id(&world, 1);
        world.configure(0, &[peer]);
        world.run_for(seconds(10));
        let before = sources(&world);
        assert_eq!(before.len(), 3, "seed {seed}: {before:?}");
        let peer = peer.to_string();
        let now = world.now;
        world.nodes[0].decide(now, |store| drop(store.deny(&peer, UNIX_S)));
        world.work(0);
        assert!(world.peer(0, 1).is_none(), "seed {seed}");
        world.run_for(seconds(10));
        assert!(!world.flows(0, 1), "seed {seed}");
        let now = world.now;
        world.nodes[0].decide(now, |store| drop(store.accept(&peer, UNIX_S)));
        world.work(0);
        let took = world.run_until(seconds(60), |world| world.all_agree(&[0, 1]));
        assert!(took.is_some(), "seed {seed}: {:?}", world.disagreement(&[0, 1]));
        assert_eq!(sources(&world), before, "seed {seed}");
        // The configuration alone may go again.
        world.configure(0, &[]);
        world.forget_silences();
        world.run_for(seconds(20));
        assert!(world.silence(0, 1).as_millis() < 300, "seed {seed}: {:?}", world.silence(0, 1));
    }
}
