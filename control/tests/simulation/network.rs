//! The underlay: a link for each ordered pair of sites, that delays, loses, repeats and reorders packets, and may be cut.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{rng::Rng, site::LISTEN_PORT};

/// IPv4 and UDP headers.
const OVERHEAD: usize = 28;
/// A packet occupies its link for this long: 1 Gbit/s and 1,500 bytes.
const SPACING: Duration = Duration::from_micros(12);
/// What waits for a link longer than this is dropped at its tail.
const LONGEST_QUEUE: Duration = Duration::from_millis(100);
/// A reordered packet is overtaken by at most this many, far fewer than reassembly waits for.
const OVERTAKEN_BY: usize = 8;
/// The address of a NAT, and its first port: one for each site behind it.
const NAT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const NAT_PORTS: u16 = 10_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    pub(crate) delay: Duration,
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    pub(crate) reordering: f64,
    /// Bytes of IP packet.
    pub(crate) mtu: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Network {
    pub(crate) conditions: Conditions,
    /// The path MTU has changed: packets that are too large are not only probes.
    pub(crate) mtu_changed: bool,
    /// Ordered pairs between which nothing passes.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Sites that all the others see at one address.
    pub(crate) behind_nat: BTreeSet<usize>,
    /// By ordered pair: bytes of packets that got lost.
    lost_bytes: Vec<Vec<u64>>,
    busy_until: Vec<Vec<Instant>>,
    addresses: Vec<Ipv4Addr>,
    rng: Rng,
    /// A digest of all that was sent, when and by whom.
    pub(crate) trace: u64,
}

impl Network {
    pub(crate) fn new(sites: usize, conditions: Conditions, rng: Rng, now: Instant) -> Self {
        Self {
            conditions,
            mtu_changed: false,
            cut: BTreeSet::new(),
            behind_nat: BTreeSet::new(),
            lost_bytes: vec![vec![0; sites]; sites],
            busy_until: vec![vec![now; sites]; sites],
            addresses: (0..sites).map(|site| address(site, 0)).collect(),
            rng,
            trace: 0,
        }
    }

    pub(crate) fn address_of(&self, site: usize) -> Ipv4Addr {
        self.addresses[site]
    }

    /// The site's host gets another address in place of its old one.
    pub(crate) fn readdress(&mut self, site: usize) {
        let [.., generation, _] = self.addresses[site].octets();
        self.addresses[site] = address(site, generation.wrapping_add(1));
    }

    pub(crate) fn lost_bytes(&self, from: usize, to: usize) -> u64 {
        self.lost_bytes[from][to]
    }

    pub(crate) fn lose(&mut self, packet: &Packet) {
        self.lost_bytes[packet.from][packet.to] += packet.bytes.len() as u64;
    }

    /// Whether the packet may be handed over where it arrives now.
    pub(crate) fn is_at_home(&self, packet: &Packet) -> bool {
        packet.destination.ip() == IpAddr::V4(self.addresses[packet.to])
    }

    /// Sends a packet; `arrive` is told when it arrives, perhaps twice, perhaps never.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        from: usize,
        source: SocketAddr,
        destination: SocketAddr,
        bytes: &[u8],
        mut arrive: impl FnMut(Instant, Packet),
    ) {
        let (to, destination) = self.translated(destination);
        let seen_as = if self.behind_nat.contains(&from) {
            SocketAddr::from((NAT, NAT_PORTS + from as u16))
        } else {
            source
        };
        let packet = Packet { from, to, source: seen_as, destination, bytes: bytes.to_vec() };
        self.digest(from, to, bytes.len());
        let link_queue = self.busy_until[from][to].saturating_duration_since(now);
        let conditions = self.conditions;
        if bytes.len() + OVERHEAD > conditions.mtu {
            // As long as the MTU stays the same, nothing but a probe of path MTU discovery is larger.
            if self.mtu_changed {
                self.lose(&packet);
            }
            return;
        }
        if source.ip() != IpAddr::V4(self.addresses[from])
            || !self.is_at_home(&packet)
            || self.cut.contains(&(from, to))
            || link_queue > LONGEST_QUEUE
            || self.rng.chance(conditions.loss)
        {
            return self.lose(&packet);
        }
        let sent = self.busy_until[from][to].max(now) + SPACING;
        self.busy_until[from][to] = sent;
        let mut at = sent + conditions.delay;
        if self.rng.chance(conditions.reordering) {
            at += SPACING * self.rng.within(1..OVERTAKEN_BY + 1) as u32;
        }
        if self.rng.chance(conditions.duplication) {
            arrive(at + SPACING * self.rng.within(0..OVERTAKEN_BY) as u32, packet.clone());
        }
        arrive(at, packet);
    }

    /// The site that a destination is of, and its address there.
    fn translated(&self, destination: SocketAddr) -> (usize, SocketAddr) {
        if destination.ip() != IpAddr::V4(NAT) {
            return (site_of(destination), destination);
        }
        let site = usize::from(destination.port() - NAT_PORTS);
        (site, (self.addresses[site], LISTEN_PORT).into())
    }

    fn digest(&mut self, from: usize, to: usize, len: usize) {
        for word in [from, to, len] {
            self.trace = (self.trace ^ word as u64).wrapping_mul(0x0100_0000_01b3).rotate_left(7);
        }
    }
}

/// 10.SITE.GENERATION.1
fn address(site: usize, generation: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, site as u8, generation, 1)
}

fn site_of(address: SocketAddr) -> usize {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => usize::from(ip.octets()[1]),
        IpAddr::V6(ip) => panic!("{ip} is no address of this network"),
    }
}
