//! What happens to a world: it comes up, stations talk through its weather, it heals, and then everything must be right.

use std::{collections::BTreeSet, time::Duration};

use ipop_datapath::{MacAddr, TapOffload, counters::drops::DropReason};

use crate::{
    frames::Kind,
    network::Conditions,
    plan::{Plan, Weather},
    rng::Rng,
    segment::{Expected, Station, TapAt},
    site::{Running, Site},
    world::{Happening, World},
};

const BROADCAST: MacAddr = MacAddr([0xff; 6]);
/// IPv6 all nodes.
const MULTICAST: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
const MAX_STATIONS: usize = 12;
const ACTIONS: usize = 250;
/// Longer than any dead peer, back-off, look-up of a name and open circuit breaker together.
const CONVERGES_WITHIN_S: usize = 150;
/// A connection that died unnoticed counts as up until then.
const DEAD_PEER_NOTICED_WITHIN: Duration = Duration::from_secs(12);
/// Longer than anything is on its way.
const QUIET: Duration = Duration::from_secs(2);
/// What has been said is known everywhere after this.
const HEARD_AFTER: Duration = Duration::from_millis(500);
/// A frame of the smallest size in a record.
const MIN_RECORD_LEN: u64 = 7 + 18;
/// What only a faulty switch or a stranger would cause here.
const NEVER_DROPPED_FOR: &[DropReason] = &[
    DropReason::Runt,
    DropReason::Oversized,
    DropReason::OverMtu,
    DropReason::Malformed,
    DropReason::BadOffload,
    DropReason::BadSource,
    DropReason::Reserved,
    DropReason::Storm,
    DropReason::Blocked,
    DropReason::LoopProbe,
    DropReason::OwnPacket,
    DropReason::MailboxFull,
    DropReason::BadRecord,
    DropReason::UnknownRecord,
    DropReason::TapWrite,
    DropReason::TapDown,
];

/// Runs a seed to its end; gives a digest of everything that crossed the network.
pub(crate) fn run(seed: u64) -> u64 {
    let plan = Plan::new(seed);
    let mut world = World::new(&plan);
    world.converge("at first");
    for _ in 0..4 {
        world.station_appears();
    }
    world.run_for(QUIET);
    world.network.conditions = plan.rough;
    world.segment.is_ordered = plan.weather == Weather::Calm && plan.rough.reordering == 0.0;
    for _ in 0..ACTIONS {
        let pause = world.rng.millis(0..150);
        world.run_for(pause);
        world.act(plan.weather);
    }
    world.heal(&plan);
    world.converge("after the network healed");
    world.verify(&plan);
    world.network.trace
}

impl World {
    fn converge(&mut self, when: &str) {
        for _ in 0..CONVERGES_WITHIN_S {
            self.run_for(Duration::from_secs(1));
            if (0..self.sites.len()).all(|site| self.is_converged(site)) {
                return;
            }
        }
        for site in &self.sites {
            let running = running(site);
            println!(
                "site {}: {} connections, {:#?}",
                site.number,
                running.open_connections(),
                running.node.sessions().snapshot(self.now)
            );
        }
        panic!("no full mesh {when}");
    }

    /// One connection a lane with every other site, and none besides.
    fn is_converged(&self, site: usize) -> bool {
        let Site { running: Some(running), workers, peers, .. } = &self.sites[site] else {
            return false;
        };
        let lanes: Vec<usize> = peers
            .iter()
            .map(|(peer, _)| usize::from((*workers).min(self.sites[*peer].workers)))
            .collect();
        running.lanes_up(self.now) == lanes
            && running.open_connections() == lanes.iter().sum::<usize>()
    }

    fn act(&mut self, weather: Weather) {
        let is_rough = weather != Weather::Calm;
        let is_storm = weather == Weather::Storm;
        match self.rng.below(100) {
            0..70 => self.random_frames(weather),
            70..75 if self.segment.stations.len() < MAX_STATIONS => self.station_appears(),
            75..82 => self.station_moves(),
            82..86 if is_rough => self.address_changes(),
            86..88 if is_rough => self.path_mtu_changes(),
            88..93 if is_storm => self.restart(),
            93..99 if is_storm => self.cut(),
            _ => {}
        }
    }

    fn all_taps(&self) -> BTreeSet<TapAt> {
        let taps = self.sites.iter().flat_map(|site| {
            (0..site.taps.len() as u16).map(|tap| TapAt { site: site.number, tap })
        });
        taps.collect()
    }

    fn random_tap(&mut self) -> TapAt {
        let taps: Vec<TapAt> = self.all_taps().into_iter().collect();
        self.rng.pick(&taps)
    }

    pub(crate) fn station_appears(&mut self) {
        let at = self.random_tap();
        self.station_appears_at(at);
    }

    pub(crate) fn station_appears_at(&mut self, at: TapAt) {
        let number = self.segment.stations.len() as u8;
        let mac = MacAddr([2, 0, 0, 0, 0, number + 1]);
        self.segment.stations.push(Station { mac, at, known_from: self.now + HEARD_AFTER });
        self.announce(usize::from(number));
    }

    fn station_moves(&mut self) {
        let station = self.rng.below(self.segment.stations.len());
        let at = self.random_tap();
        let (known_from, recent) = (self.now + HEARD_AFTER, self.now - HEARD_AFTER);
        self.segment.plug(station, at, known_from, recent);
        self.announce(station);
        // What it said at its old place may arrive after this and lead the switches astray; so hosts say it again.
        self.note(HEARD_AFTER / 2, Happening::Announcement(station));
    }

    /// As a host does that comes up: a broadcast, from which the switches learn.
    pub(crate) fn announce(&mut self, station: usize) {
        self.say(station, Kind::Plain(60), BROADCAST, Expected::BestEffort);
    }

    fn say(&mut self, station: usize, kind: Kind, to: MacAddr, expected: Expected) {
        if self.segment.is_full() {
            return;
        }
        let at = self.segment.stations[station].at;
        let frame = self.segment.send(self.now, station, kind, to, expected);
        self.frame_from_tap(at, &frame);
        self.sites[at.site].wake_at = Some(self.now);
    }

    fn random_frames(&mut self, weather: Weather) {
        let station = self.rng.below(self.segment.stations.len());
        let to = match self.rng.below(10) {
            0 => BROADCAST,
            1 => MULTICAST,
            _ => {
                let other = self.rng.below(self.segment.stations.len());
                self.segment.stations[other].mac
            }
        };
        let kind = self.random_kind(station, to);
        let frames = if self.rng.chance(0.2) { self.rng.within(2..30) } else { 1 };
        for _ in 0..frames {
            let expected = match weather {
                Weather::Calm => self.expected(station, to),
                Weather::Rough | Weather::Storm => Expected::BestEffort,
            };
            self.say(station, kind, to, expected);
        }
    }

    /// Where a frame must arrive if nothing goes wrong.
    fn expected(&self, from: usize, to: MacAddr) -> Expected {
        let Station { at: origin, .. } = self.segment.stations[from];
        if to.is_group() {
            let taps = self.all_taps().into_iter().filter(|tap| *tap != origin);
            return Expected::Exactly(taps.collect());
        }
        let stations = &self.segment.stations;
        let found = stations.iter().find(|station| station.mac == to).expect("a station");
        if found.known_from > self.now {
            return Expected::BestEffort;
        }
        // The switch does not send a frame back to where it came from.
        Expected::Exactly([found.at].into_iter().filter(|tap| *tap != origin).collect())
    }

    /// Superframes come only out of TAPs with offloads, and kernels send none to a group.
    fn random_kind(&mut self, station: usize, to: MacAddr) -> Kind {
        let has_offloads = self.has_offloads(station);
        let rng: &mut Rng = &mut self.rng;
        if !has_offloads || to.is_group() || rng.chance(0.5) {
            return Kind::Plain(match rng.below(4) {
                0 => rng.within(18..61),
                1 => rng.within(60..1_515),
                2 => 1_514,
                _ => rng.within(1_515..9_015),
            });
        }
        match rng.below(3) {
            0 => Kind::PartialChecksum(rng.within(1..1_449)),
            1 => Kind::TcpSuperframe(rng.within(1_449..65_000)),
            _ => Kind::UdpSuperframe(rng.within(1_208..40_000)),
        }
    }

    fn address_changes(&mut self) {
        let site = self.rng.below(self.sites.len());
        self.network.readdress(site);
        let after = self.rng.millis(0..1_000);
        self.note(after, Happening::Addresses(site));
    }

    fn path_mtu_changes(&mut self) {
        self.network.mtu_changed = true;
        self.network.conditions.mtu = self.rng.pick(&[1_280, 1_400, 1_500]);
    }

    fn restart(&mut self) {
        let site = self.rng.below(self.sites.len());
        let says_goodbye = self.rng.chance(0.5);
        self.stop(site, says_goodbye);
        let after = self.rng.millis(0..8_000);
        self.note(after, Happening::Start(site));
    }

    /// Between two sites, in one direction or both, or around one site.
    fn cut(&mut self) {
        let one = self.rng.below(self.sites.len());
        let other = (one + self.rng.within(1..self.sites.len())) % self.sites.len();
        let pairs = match self.rng.below(3) {
            0 => vec![(one, other)],
            1 => vec![(one, other), (other, one)],
            _ => {
                let others = (0..self.sites.len()).filter(|other| *other != one);
                others.flat_map(|other| [(one, other), (other, one)]).collect()
            }
        };
        self.network.cut.extend(pairs.iter().copied());
        let after = self.rng.millis(300..15_000);
        self.note(after, Happening::Heal(pairs));
    }

    fn heal(&mut self, plan: &Plan) {
        // The path MTU stays as small as it has become.
        let mtu = self.network.conditions.mtu;
        self.network.conditions = Conditions { mtu, ..plan.calm_conditions() };
        self.network.cut.clear();
        for site in 0..self.sites.len() {
            self.note(Duration::ZERO, Happening::Start(site));
        }
        self.run_for(DEAD_PEER_NOTICED_WITHIN);
        if self.network.mtu_changed {
            self.fill_every_path();
        }
    }

    /// Full packets on every flow's way, so that QUIC notices where the path MTU has shrunk.
    fn fill_every_path(&mut self) {
        const ROUNDS: usize = 25;
        for _ in 0..ROUNDS {
            for from in 0..self.segment.stations.len() {
                for to in 0..self.segment.stations.len() {
                    let to = self.segment.stations[to].mac;
                    let kinds = [
                        Kind::Plain(1_514),
                        Kind::PartialChecksum(1_448),
                        Kind::UdpSuperframe(2_400),
                    ];
                    let usable = if self.has_offloads(from) { &kinds[..] } else { &kinds[..1] };
                    for kind in usable {
                        self.say(from, *kind, to, Expected::BestEffort);
                    }
                }
            }
            self.run_for(Duration::from_millis(400));
        }
    }

    fn has_offloads(&self, station: usize) -> bool {
        let at = self.segment.stations[station].at;
        self.sites[at.site].taps[usize::from(at.tap)] == TapOffload::Full
    }

    /// With the network at its best and all stations known, every frame arrives where it must and nowhere else.
    fn verify(&mut self, plan: &Plan) {
        for station in 0..self.segment.stations.len() {
            self.announce(station);
        }
        self.run_for(QUIET);
        self.segment.is_ordered = plan.rough.reordering == 0.0;
        for round in 0..3 {
            for from in 0..self.segment.stations.len() {
                for to in 0..self.segment.stations.len() {
                    let to = self.segment.stations[to].mac;
                    let kind =
                        if round == 0 { Kind::Plain(98) } else { self.random_kind(from, to) };
                    let expected = self.expected(from, to);
                    self.say(from, kind, to, expected);
                    self.run_for(Duration::from_millis(2));
                }
                let expected = self.expected(from, BROADCAST);
                self.say(from, Kind::Plain(60), BROADCAST, expected);
            }
        }
        self.run_for(QUIET);
        assert!(!self.segment.is_full() && self.segment.deliveries > 0);
        if let Some((from, to, what)) = self.segment.missing() {
            let [from, to] = [from, to].map(|tap| &self.sites[tap.site]);
            panic!("{what}; {}", self.describe_link(from, to));
        }
        assert!((0..self.sites.len()).all(|site| self.is_converged(site)), "the mesh stays");
        self.check_counters();
    }

    fn check_counters(&self) {
        for site in &self.sites {
            let running = running(site);
            for reason in NEVER_DROPPED_FOR {
                assert_eq!(running.dropped(*reason), 0, "site {}: {reason:?}", site.number);
            }
            let stations = self.segment.stations.len();
            assert!(running.shared.fdb.len() <= stations, "only stations are learned");
            for (peer, _) in &site.peers {
                let peer = &self.sites[*peer];
                if site.starts == 1 && peer.starts == 1 {
                    self.check_ledger(site, peer);
                }
            }
        }
    }

    /// What one switch sent to another and what the other made of it agree but for what the network lost.
    fn check_ledger(&self, from: &Site, to: &Site) {
        let sent = running(from).count(from.port_of(to.number), |port| port.sent_frames.get());
        let (receiver, port) = (running(to), to.port_of(from.number));
        let count = |reason| receiver.count(port, |port| port.dropped(reason));
        let received = receiver.count(port, |port| port.received_frames.get());
        let runs = receiver.count(port, |port| port.salvaged_runs.get());
        let gone = receiver.count(port, |port| port.missing_frames.get())
            + count(DropReason::Incomplete)
            + count(DropReason::ReassemblyFull)
            + running(from)
                .count(from.port_of(to.number), |port| port.dropped(DropReason::TunnelDown));
        // Several runs are one frame, which is counted when nothing more can come of it.
        let salvaged = receiver.count(port, |port| port.salvaged_frames.get());
        let at_least = received - runs + salvaged.max(u64::from(runs > 0)) + gone;
        let at_most = received + gone;
        let lost_bytes = self.network.lost_bytes(from.number, to.number);
        // The last frames of a connection leave no gap when they get lost, since nothing follows them.
        let unseen = lost_bytes / MIN_RECORD_LEN + receiver.dropped(DropReason::NotAdmitted);
        let context = format!(
            "{} to {}: {sent} sent, {received} received with {runs} runs, {gone} gone, {lost_bytes} bytes lost",
            from.number, to.number
        );
        assert!(at_least <= sent, "more is accounted for than was sent: {context}");
        assert!(sent <= at_most + unseen, "frames are not accounted for: {context}");
    }
}

impl World {
    /// For people who look for a failure's cause.
    fn describe_link(&self, from: &Site, to: &Site) -> String {
        if from.number == to.number {
            return "within one site".into();
        }
        let (sender, receiver, port) = (running(from), running(to), to.port_of(from.number));
        let sent = sender.count(from.port_of(to.number), |port| port.sent_frames.get());
        let received = receiver.count(port, |port| port.received_frames.get());
        let missing = receiver.count(port, |port| port.missing_frames.get());
        let drops = DropReason::ALL.iter().filter_map(|reason| {
            let frames = receiver.count(port, |port| port.dropped(*reason));
            (frames > 0).then(|| format!("{} {frames}", reason.name()))
        });
        let drops: Vec<String> = drops.collect();
        format!(
            "{sent} sent, {received} received, {missing} missing, dropped: {drops:?}, {} bytes lost, path MTU {}",
            self.network.lost_bytes(from.number, to.number),
            self.network.conditions.mtu,
        )
    }
}

fn running(site: &Site) -> &Running {
    site.running.as_ref().expect("every site runs in the end")
}
