//! A site among others that does not prove the network's secret: with another secret, without one, or with a program that claims to know
//! it and believes everybody. No frame passes either way, it is said why, and the others are one segment without it.
//!
//! And many honest sites that look like one stranger's many attempts, since they start together behind one NAT.

use std::time::Duration;

use ipop_control::network::Secrets;
use ipop_datapath::{TapOffload, memory::MemoryIoConfig};

use crate::{
    network::Conditions,
    plan::{Plan, SitePlan, Weather},
    site::{Honesty, Running, Site},
    world::{Happening, World},
};

const SECRET: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43u";
const OTHER_SECRET: &str = "other-mfrggzdfmztwq2lknnwg23tpob";
const ROUNDS: usize = 60;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stranger {
    OtherSecret,
    NoSecret,
    Liar,
}

fn secrets(lines: &str) -> Option<Secrets> {
    Some(lines.parse().expect("sound secrets"))
}

/// Of at least three sites, in every weather that loses nothing for good.
fn plans() -> impl Iterator<Item = Plan> {
    (0..).map(Plan::new).filter(|plan| plan.sites.len() == 3 && plan.weather != Weather::Storm)
}

fn running(site: &Site) -> &Running {
    site.running.as_ref().expect("it runs")
}

/// Lets everybody talk for a minute.
fn talk(world: &mut World) {
    for _ in 0..6 {
        world.station_appears();
    }
    for _ in 0..ROUNDS {
        (0..6).for_each(|station| world.announce(station));
        world.run_for(Duration::from_secs(1));
    }
}

/// Frames that came in from another site's port, and that went out to it.
fn passed(site: &Site, other: usize) -> (u64, u64) {
    let (running, port) = (running(site), site.port_of(other));
    let received = running.count(port, |port| port.received_frames.get());
    (received, running.count(port, |port| port.sent_frames.get()))
}

/// Returns the frames that the stranger sent all the same.
fn check(plan: &Plan, stranger: Stranger) -> u64 {
    let mut world = World::new(plan);
    for site in &mut world.sites {
        site.secrets = secrets(SECRET);
    }
    match stranger {
        Stranger::OtherSecret => world.sites[0].secrets = secrets(OTHER_SECRET),
        Stranger::NoSecret => world.sites[0].secrets = None,
        Stranger::Liar => world.sites[0].honesty = Honesty::Liar,
    }
    talk(&mut world);
    let error_of = |site: &Site, other: usize| {
        site.snapshot_of(other).last_error.map(|why| why.to_string()).unwrap_or_default()
    };
    let (alone, members) = world.sites.split_first().expect("three sites");
    let mut sent = 0;
    for member in members {
        assert_eq!(passed(member, 0), (0, 0), "{stranger:?} at site {}", member.number);
        assert_eq!(passed(alone, member.number).0, 0, "{stranger:?}: received");
        let errors = [error_of(member, 0), error_of(alone, member.number)];
        let told = errors.iter().any(|error| error.contains("--network-secret-file"));
        assert!(told, "{stranger:?}: {errors:?}");
        sent += passed(alone, member.number).1;
        let other = members.iter().find(|other| other.number != member.number);
        assert!(is_up(member, other.expect("another member").number), "{stranger:?}");
    }
    sent
}

fn is_up(site: &Site, other: usize) -> bool {
    !site.snapshot_of(other).lanes.is_empty()
}

#[test]
fn who_does_not_prove_the_secret_gets_no_frame_through() {
    let mut sent_by_liars = 0;
    for plan in plans().take(3) {
        for stranger in [Stranger::OtherSecret, Stranger::NoSecret] {
            assert_eq!(check(&plan, stranger), 0, "{stranger:?} knows that it is not welcome");
        }
        // It sends as soon as it has the other's hello; what the other says to its own may still be on the way.
        sent_by_liars += check(&plan, Stranger::Liar);
    }
    assert!(sent_by_liars > 0, "no liar ever came to send");
}

#[test]
fn members_with_an_old_and_a_new_secret_are_one_network() {
    for plan in plans().take(3) {
        let mut world = World::new(&plan);
        let both = format!("{OTHER_SECRET}\n{SECRET}");
        let of_site = [secrets(SECRET), secrets(&both), secrets(&both)];
        for (site, secrets) in world.sites.iter_mut().zip(of_site) {
            site.secrets = secrets;
        }
        talk(&mut world);
        for site in &world.sites {
            for (other, _) in &site.peers {
                assert!(is_up(site, *other), "{} and {other}", site.number);
            }
        }
    }
}

/// The first site is dialled by all the others, and dials none.
fn star(sites: usize, delay: Duration) -> Plan {
    let site =
        || SitePlan { workers: 1, taps: vec![TapOffload::Full], io: MemoryIoConfig::default() };
    let mut dials = vec![vec![true; sites]; sites];
    dials[0].fill(false);
    let rough = Conditions { delay, loss: 0.0, duplication: 0.0, reordering: 0.0, mtu: 1_500 };
    let sites = (0..sites).map(|_| site()).collect();
    Plan { seed: 1, weather: Weather::Calm, sites, dials, rough }
}

#[test]
fn many_that_start_together_behind_one_nat_all_get_in() {
    const CROWD: usize = 64;
    for delay in [1, 20, 80].map(Duration::from_millis) {
        let mut world = World::new(&star(1 + CROWD, delay));
        world.network.behind_nat.extend(1..=CROWD);
        for site in &mut world.sites[1..] {
            site.peers.retain(|(other, _)| *other == 0);
        }
        for site in 0..=CROWD {
            world.note(Duration::ZERO, Happening::Start(site));
        }
        world.run_for(Duration::from_secs(10));
        let hub = &world.sites[0];
        for site in 1..=CROWD {
            assert!(is_up(hub, site) && is_up(&world.sites[site], 0), "{site}");
        }
        let io = &running(hub).shared.counters[0].io;
        assert!(delay.as_millis() == 1 || io.crowded_initials.get() > 0, "they were a crowd");
        assert_eq!(io.unfinished_handshakes.get(), 0, "and none was sent away, {delay:?}");
    }
}
