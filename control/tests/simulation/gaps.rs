//! Static peers of an incomplete mesh: who knows of a pair without a tunnel says so, once, and when it has come up.

use std::time::Duration;

use ipop_control::{notice::Notice, peer::PeerSpec};

use crate::{plan::Plan, world::World};

/// Of three sites, in any weather: only packets are lost in it.
fn plans() -> impl Iterator<Item = Plan> {
    (0..).map(Plan::new).filter(|plan| plan.sites.len() == 3)
}

/// What the operators were told of missing pairs since the last call, by site.
fn told(world: &mut World) -> Vec<Vec<Notice>> {
    let is_of_mesh = |notice: &Notice| {
        matches!(
            notice,
            Notice::PairMissing { .. }
                | Notice::PairConnected { .. }
                | Notice::BeyondMissing { .. }
                | Notice::BeyondConnected { .. }
        )
    };
    let taken = |site: &mut crate::site::Site| std::mem::take(&mut site.notices);
    world
        .sites
        .iter_mut()
        .map(|site| taken(site).into_iter().filter(is_of_mesh).collect())
        .collect()
}

/// The last two sites are told of each other by nobody.
fn without_last_pair(world: &mut World) -> [Vec<(usize, PeerSpec)>; 2] {
    [1, 2].map(|site: usize| {
        let all = world.sites[site].peers.clone();
        world.sites[site].peers.retain(|(peer, _)| *peer == 0);
        all
    })
}

#[test]
fn a_pair_that_was_never_told_of_each_other_is_named() {
    for plan in plans().take(4) {
        let mut world = World::new(&plan);
        world.network.conditions.loss = plan.rough.loss;
        let all = without_last_pair(&mut world);
        world.run_for(Duration::from_secs(300));
        let first = told(&mut world);
        let seed = plan.seed;
        assert!(matches!(first[0][..], [Notice::PairMissing { .. }]), "{seed}: {first:?}");
        for site in [1, 2] {
            assert!(matches!(first[site][..], [Notice::BeyondMissing { .. }]), "{seed}: {first:?}");
        }
        for (site, all) in [1, 2].into_iter().zip(all) {
            world.stop(site, true);
            world.sites[site].peers = all;
            world.note(Duration::from_secs(1), crate::world::Happening::Start(site));
        }
        world.run_for(Duration::from_secs(600));
        let then = told(&mut world);
        assert!(matches!(then[0][..], [Notice::PairConnected { .. }]), "{seed}: {then:?}");
        assert!(then[1].is_empty() && then[2].is_empty(), "{seed}: {then:?}");
    }
}
