//! Worlds by a seed: two to four nodes anywhere, one stranger who is in the room but does not know the secret, and a
//! server that lies, restarts and takes rights away for two minutes. Then it is honest, or an honest one takes over.
//!
//! While the server lies, connections that are there stay (but for those that it ends by taking a right away, which it
//! can). Afterwards all nodes are connected with one another, both ends see it alike, and the stranger with none.

use std::{env, ops::Range};

use ipop_control::{
    notice::Notice,
    trust::{Loss, NewNodes, Policy},
};

use crate::{
    OTHER_SECRET, SECRET,
    chat::{Chat, Door, Honesty},
    network::{Hairpin, INTERNET, NatKind, Realm},
    node::secret,
    rng::Rng,
    seconds,
    world::{World, pairs},
};

const SEEDS: Range<u64> = 0..10;
const LIES: u64 = 120;
/// Far more than what was delayed and is tried again needs.
const PEACE: u64 = 180;

#[derive(Debug)]
struct Plan {
    seed: u64,
    nodes: usize,
    door: Door,
    places: Vec<Place>,
    /// Whether the server takes rights away too, which ends connections.
    revokes: bool,
    loss: f64,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Internet,
    Nat(NatKind),
    /// Behind the NAT of the node before, if it has one.
    Neighbour,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x706c_616e);
        let nodes = rng.pick(&[2, 3, 3, 4]);
        use NatKind::{AddressRestricted, FullCone, PortRestricted, Symmetric};
        let places = (0..nodes + 1).map(|_| match rng.below(4) {
            0 => Place::Internet,
            1 => Place::Neighbour,
            _ => Place::Nat(rng.pick(&[FullCone, AddressRestricted, PortRestricted, Symmetric])),
        });
        Self {
            seed,
            nodes,
            places: places.collect(),
            door: if seed % 3 == 2 { Door::Members } else { Door::Password },
            revokes: seed % 4 == 3,
            loss: rng.pick(&[0.0, 0.0, 0.02]),
        }
    }

    fn world(&self) -> World {
        let mut world = World::new(self.seed, self.nodes + 1, self.door);
        world.network.loss = self.loss;
        let (policy, stranger) = match self.door {
            Door::Password => (secret(SECRET), secret(OTHER_SECRET)),
            Door::Members => {
                (Policy::FirstSight(NewNodes::Accept), Policy::FirstSight(NewNodes::Accept))
            }
        };
        let mut realm: Realm = INTERNET;
        for (node, place) in self.places.iter().enumerate() {
            realm = match *place {
                Place::Internet => INTERNET,
                Place::Neighbour => realm,
                Place::Nat(kind) => {
                    let outside = format!("203.0.113.{}", node + 1);
                    world.network.add_nat(kind, Hairpin::No, INTERNET, &outside)
                }
            };
            let address = match realm {
                INTERNET => format!("192.0.2.{}", node + 1),
                _ => format!("192.168.{realm}.{}", node + 1),
            };
            world.add_node(realm, &address, if node < self.nodes { &policy } else { &stranger });
        }
        if self.door == Door::Members {
            // In such a network the room is what keeps strangers out.
            world.chat.ban(self.nodes);
        }
        world
    }
}

/// What an operator is told in all that time is not more than somebody reads.
const MAX_TOLD: usize = 400;

fn run(plan: &Plan) {
    let mut world = plan.world();
    let nodes: Vec<usize> = (0..plan.nodes).collect();
    world.chat.honesty = Honesty::Lies;
    for node in 0..=plan.nodes {
        let pause = world.rng.millis(0..3_000);
        world.run_for(pause);
        world.start(node);
    }
    for _ in 0..LIES / 4 {
        let before: Vec<_> = live(&world, &nodes);
        let revocations = [0, 1, 2, 3].map(|node| revocations(&world, node));
        world.forget_silences();
        mischief(&mut world, plan);
        world.run_for(seconds(4));
        for (one, other) in before {
            let revoked = [one, other].map(|node| self::revocations(&world, node));
            let silence = world.silence(one, other);
            assert!(
                silence < seconds(1) || revoked != [revocations[one], revocations[other]],
                "seed {}: {one} and {other} were silent for {silence:?}: {:?}",
                plan.seed,
                world.disagreement(&[one, other]),
            );
        }
    }
    for node in 0..plan.nodes {
        world.chat.pardon(node);
    }
    world.chat.honesty = Honesty::Honest;
    if plan.seed.is_multiple_of(2) {
        world.chat_dies();
        world.chat_returns();
    } else {
        // The same server: whoever was left out is shown when it comes in again.
        (0..plan.nodes).for_each(|node| world.cut_stream(node));
    }
    world.run_for(seconds(PEACE));
    assert_eq!(world.disagreement(&nodes), None, "seed {}: {plan:#?}", plan.seed);
    for node in nodes {
        let stranger = plan.nodes;
        assert!(!world.ever_heard(stranger, node), "seed {}: the stranger is heard", plan.seed);
        assert!(!world.ever_heard(node, stranger), "seed {}: the stranger hears", plan.seed);
        let told = &world.nodes[node].running.as_ref().unwrap().told;
        assert!(told.len() < MAX_TOLD, "seed {}: {} lines: {told:#?}", plan.seed, told.len());
    }
}

/// How often a node was told that somebody's right was taken. Old stanzas that say so are repeated too.
fn revocations(world: &World, node: usize) -> usize {
    let running = world.nodes.get(node).and_then(|node| node.running.as_ref());
    let told = running.into_iter().flat_map(|running| &running.told);
    told.filter(|notice| matches!(notice, Notice::Revoked { why: Loss::Removed, .. })).count()
}

/// Pairs that are connected.
fn live(world: &World, nodes: &[usize]) -> Vec<(usize, usize)> {
    pairs(nodes)
        .filter(|(one, other)| world.all_agree(&[*one, *other]))
        .filter(|(one, other)| world.silence(*one, *other) < seconds(1))
        .collect()
}

/// What the server does besides lying about what it passes on.
fn mischief(world: &mut World, plan: &Plan) {
    let victim = world.rng.below(plan.nodes);
    match world.rng.below(8) {
        0 => world.cut_stream(victim),
        1 => {
            world.chat_dies();
            world.chat_returns();
        }
        2 => {
            // Somebody who does not exist, with the id of somebody who does.
            let claimed = world.nodes[world.rng.below(plan.nodes)].id().to_string();
            let number = world.rng.below(1_000);
            let jid = format!("ghost{number}@x/r");
            let ghost = Chat::shown_as(&format!("ghost{number}"), &jid, &claimed, "ghost");
            world.chat.forge(victim, ghost);
            world.post();
        }
        3 => {
            for number in 0..50 {
                let id = ipop_datapath::node_id::NodeId::of_spki(&[number]).to_string();
                let jid = format!("crowd{number}@x/r");
                let ghost = Chat::shown_as(&format!("crowd{number}"), &jid, &id, "crowd");
                world.chat.forge(victim, ghost);
            }
            world.post();
        }
        4 if plan.revokes => {
            world.chat.ban(victim);
            world.post();
            world.chat.pardon(victim);
        }
        _ => {}
    }
}

#[test]
fn whatever_the_server_does_connections_stay_and_afterwards_all_are_there() {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let seeds = match (env::var("SIMULATION_SEED"), env::var("SIMULATION_SEEDS")) {
        (Ok(seed), _) => number(&seed)..number(&seed) + 1,
        (_, Ok(range)) => {
            let (from, to) = range.split_once("..").expect("a range like 100..200");
            number(from)..number(to)
        }
        _ => SEEDS,
    };
    for seed in seeds {
        println!("SIMULATION_SEED={seed}");
        run(&Plan::new(seed));
    }
}
