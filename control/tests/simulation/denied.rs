//! A site whose operator denies configured peers, at the start and while the switch runs: they get no frame in or out, and those that may
//! connect lose none and are counted under their own port.

use std::{collections::BTreeSet, time::Duration};

use ipop_control::trust::TrustStore;

use crate::{
    plan::{Plan, Weather},
    segment::TapAt,
    site::Site,
    world::World,
};

/// Longer than a closed tunnel is on its way, a peer is dialled again and a station is heard.
const SETTLED_AFTER_S: usize = 40;

/// Three sites on a network that loses nothing for good. The first one decides.
fn world(plan: &Plan) -> World {
    let mut world = World::new(plan);
    for site in &mut world.sites {
        site.secrets = None;
    }
    world
}

fn plans() -> impl Iterator<Item = Plan> {
    (0..).map(Plan::new).filter(|plan| plan.sites.len() == 3 && plan.weather == Weather::Calm)
}

impl World {
    fn talk(&mut self) {
        for _ in 0..SETTLED_AFTER_S {
            (0..self.segment.stations.len()).for_each(|station| self.announce(station));
            self.run_for(Duration::from_secs(1));
        }
    }

    /// Frames that the first site has had from another one, and that the other one says it sent.
    fn passed(&self, other: usize) -> [u64; 2] {
        let [near, far] = [0, other].map(|site| &self.sites[site]);
        let count = |of: &Site, at: usize, received| {
            let running = of.running.as_ref().expect("it runs");
            running.count(of.port_of(at), |port| match received {
                Way::In => port.received_frames.get(),
                Way::Out => port.sent_frames.get(),
            })
        };
        [count(near, other, Way::In), count(far, 0, Way::Out)]
    }

    /// These peers of the first site are up, and what they send arrives and is counted as theirs; the others are not known.
    fn expect_peers(&mut self, wanted: &[usize]) {
        self.talk();
        let running = self.sites[0].running.as_ref().expect("it runs");
        let known: BTreeSet<String> =
            running.node.sessions().snapshot(self.now).into_iter().map(|peer| peer.node).collect();
        let named = wanted.iter().map(|site| self.sites[0].peer(*site).node.to_string());
        assert_eq!(known, named.collect::<BTreeSet<_>>());
        let before: Vec<_> = wanted.iter().map(|site| self.passed(*site)).collect();
        self.talk();
        for (site, before) in wanted.iter().zip(before) {
            let after = self.passed(*site);
            assert!(!self.sites[0].snapshot_of(*site).lanes.is_empty(), "site {site} is not up");
            let [received, sent] = [0, 1].map(|way| after[way] - before[way]);
            assert!(sent > 0 && received == sent, "site {site} sent {sent}, {received} came");
        }
    }
}

#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

#[test]
fn who_is_denied_takes_nothing_from_the_others() {
    for plan in plans().take(3) {
        let mut world = world(&plan);
        let nodes = [1, 2].map(|site| world.sites[0].peer(site).node.to_string());
        let deny = |node: &String| {
            let node = node.clone();
            move |store: &mut TrustStore| drop(store.deny(&node, 5))
        };
        let accept = |node: &String| {
            let node = node.clone();
            move |store: &mut TrustStore| drop(store.accept(&node, 5))
        };
        // Each site has a station, whatever the plan.
        for site in 0..3 {
            world.station_appears_at(TapAt { site, tap: 0 });
        }
        world.decide(0, deny(&nodes[0]));
        world.expect_peers(&[2]);
        world.decide(0, accept(&nodes[0]));
        world.expect_peers(&[1, 2]);
        world.decide(0, deny(&nodes[1]));
        world.expect_peers(&[1]);
        world.decide(0, accept(&nodes[1]));
        world.decide(0, deny(&nodes[0]));
        world.expect_peers(&[2]);
        world.decide(0, accept(&nodes[0]));
        world.expect_peers(&[1, 2]);
    }
}
