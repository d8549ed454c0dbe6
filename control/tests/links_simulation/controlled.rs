//! Nodes without accounts: the test is the controller that makes their links, and carries descriptions and candidates between them.

use std::net::SocketAddr;

use ipop_control::{
    node::{Input, LinkOrder, LinkRefused},
    notice::Notice,
    paths::{FromLink, ToLink, Tunnel},
    sessions::PeerPath,
    trust::{Loss, Policy, Refusal},
    xmpp::services::{Service, ServiceKind},
};

use crate::{
    OTHER_SECRET, SECRET,
    chat::Door,
    network::{Hairpin, INTERNET, NatKind},
    node::{Meets, secret},
    seconds,
    servers::STUN,
    world::World,
};

/// In which order a controller passes on what a node told at once.
#[derive(Clone, Copy, Debug)]
enum Sequence {
    AsTold,
    LastFirst,
}

fn input(world: &mut World, node: usize, input: Input) {
    let now = world.now;
    world.nodes[node].running.as_mut().unwrap().node.handle(now, input);
    world.work(node);
}

fn order(
    world: &mut World,
    node: usize,
    other: usize,
    order: LinkOrder,
) -> Result<(), LinkRefused> {
    let (now, peer) = (world.now, world.nodes[other].id());
    let done = world.nodes[node].running.as_mut().unwrap().node.order_link(now, peer, order);
    world.work(node);
    done
}

/// Two nodes, each behind a NAT, which know STUN servers and nobody.
fn apart(seed: u64, policies: [Policy; 2]) -> World {
    let mut world = World::new(seed, 2, Door::Password);
    for (node, policy) in policies.iter().enumerate() {
        let outside = format!("203.0.113.{}", node + 1);
        let realm = world.network.add_nat(NatKind::PortRestricted, Hairpin::No, INTERNET, &outside);
        world.add_node(realm, &format!("192.168.{node}.2"), policy);
        world.nodes[node].meets = Meets::ByController;
        world.start(node);
        let stun = STUN.map(|address| {
            let address: SocketAddr = address.parse().unwrap();
            let (host, port) = (address.ip().to_string(), address.port());
            (Service { kind: ServiceKind::Stun, host, port, credentials: None }, address)
        });
        input(&mut world, node, Input::ServersResolved(stun.into()));
    }
    world
}

/// What the other end is to hear.
fn passed_on(told: &FromLink) -> Option<ToLink> {
    match told.clone() {
        FromLink::Description(description) => Some(ToLink::Remote(description)),
        FromLink::Candidates { generation, candidates } => {
            Some(ToLink::RemoteCandidates { generation, candidates })
        }
        _ => None,
    }
}

/// Creates both ends, and passes on what they tell, a tenth of a second later, for this long. All that was told comes back, by node.
fn connect(world: &mut World, sequence: Sequence, tenths: usize) -> [Vec<FromLink>; 2] {
    assert_eq!(order(world, 0, 1, LinkOrder::Create), Ok(()));
    assert_eq!(order(world, 1, 0, LinkOrder::Create), Ok(()));
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..tenths {
        world.run_for(seconds(1) / 10);
        let mut told = std::mem::take(&mut world.told_controller);
        if let Sequence::LastFirst = sequence {
            told.reverse();
        }
        for (node, peer, told) in told {
            assert_eq!(peer, world.nodes[1 - node].id());
            if let Some(what) = passed_on(&told) {
                assert_eq!(order(world, 1 - node, node, LinkOrder::Tell(what)), Ok(()));
            }
            all[node].push(told);
        }
    }
    all
}

#[test]
fn two_nodes_that_a_controller_brings_together_connect_and_part() {
    let policies = [secret(SECRET), Policy::ConfiguredAlone];
    for (seed, policy) in policies.iter().enumerate() {
        for sequence in [Sequence::AsTold, Sequence::LastFirst] {
            let mut world = apart(seed as u64, [policy.clone(), policy.clone()]);
            let told = connect(&mut world, sequence, 100);
            assert_eq!(world.disagreement(&[0, 1]), None, "{sequence:?}");
            assert!(world.is_direct(0, 1));
            for told in told {
                let is_told = |what: fn(&FromLink) -> bool| told.iter().any(what);
                assert!(is_told(|told| matches!(told, FromLink::Gathered { .. })), "{told:?}");
                assert!(is_told(|told| matches!(told, FromLink::Path(PeerPath::Direct(_)))));
                assert!(is_told(|told| matches!(told, FromLink::Tunnel(Tunnel::Up))));
            }
            assert_eq!(order(&mut world, 0, 1, LinkOrder::Remove), Ok(()));
            world.run_for(seconds(1));
            assert!(!world.flows(0, 1), "{sequence:?}");
            assert_eq!((world.path(0, 1), world.peer(0, 1).map(|peer| peer.state)), (None, None));
            let is_removed =
                |notice: &Notice| matches!(notice, Notice::Revoked { why: Loss::LinkRemoved, .. });
            assert_eq!(world.told(0, is_removed), 1);
            // The other end still has its link, and wants a path in vain until it is created here again.
            world.run_for(seconds(60));
            assert!(!world.flows(0, 1) && world.path(1, 0).is_some(), "{sequence:?}");
            world.told_controller.clear();
            connect(&mut world, sequence, 300);
            assert_eq!(world.disagreement(&[0, 1]), None, "{sequence:?}");
        }
    }
}

/// The controller says which nodes there are; who they are they prove themselves.
#[test]
fn who_a_controller_names_has_to_prove_the_secret() {
    let mut world = apart(1, [secret(SECRET), secret(OTHER_SECRET)]);
    connect(&mut world, Sequence::AsTold, 300);
    assert!(world.path(0, 1).is_some_and(|path| path.kind == "direct"), "there is a path");
    assert!(!world.ever_heard(0, 1) && !world.ever_heard(1, 0));
}

#[test]
fn of_a_link_that_was_not_made_nothing_is_taken() {
    let mut world = apart(1, [secret(SECRET), secret(SECRET)]);
    assert_eq!(order(&mut world, 1, 0, LinkOrder::Create), Ok(()));
    world.run_for(seconds(1));
    let told: Vec<ToLink> =
        world.told_controller.drain(..).filter_map(|(.., n)| passed_on(&n)).collect();
    assert!(told.len() > 1, "{told:?}");
    for what in told {
        let told = order(&mut world, 0, 1, LinkOrder::Tell(what));
        assert_eq!(told, Err(LinkRefused::NoLink));
    }
    world.run_for(seconds(10));
    assert_eq!((world.path(0, 1), world.peer(0, 1).map(|peer| peer.state)), (None, None));
    // Whom the operator denied nobody names.
    let (now, denied) = (world.now, world.nodes[1].id());
    world.nodes[0].decide(now, |store| {
        store.deny(&denied.to_string(), 0).unwrap();
    });
    let created = order(&mut world, 0, 1, LinkOrder::Create);
    assert_eq!(created, Err(LinkRefused::NotAdmitted(Refusal::Denied(denied))));
    assert_eq!(world.path(0, 1), None);
}
