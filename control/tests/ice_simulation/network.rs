//! Realms of addresses and the NATs between them. Packets take time, and the Internet loses some.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::rng::Rng;

/// How a NAT chooses the outside port and what it lets in (RFC 4787).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NatKind {
    FullCone,
    AddressRestricted,
    PortRestricted,
    Symmetric,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hairpin {
    Yes,
    No,
}

/// Number of a realm; 0 is the Internet.
pub(crate) type Realm = usize;
pub(crate) const INTERNET: Realm = 0;

#[derive(Debug)]
struct Nat {
    kind: NatKind,
    hairpin: Hairpin,
    inside: Realm,
    outside: Realm,
    address: IpAddr,
    /// Inside address, and the destination if the NAT is symmetric, to outside port.
    mappings: BTreeMap<(SocketAddr, Option<SocketAddr>), u16>,
    /// Outside port to where packets went from it.
    permitted: BTreeMap<u16, BTreeSet<SocketAddr>>,
}

impl Nat {
    fn outbound(&mut self, from: SocketAddr, to: SocketAddr, rng: &mut Rng) -> SocketAddr {
        let destination = (self.kind == NatKind::Symmetric).then_some(to);
        let in_use: BTreeSet<u16> = self.mappings.values().copied().collect();
        let port = *self.mappings.entry((from, destination)).or_insert_with(|| {
            // Ports are kept where possible, as most NATs do, and never by symmetric ones.
            let mut port = from.port();
            while in_use.contains(&port) || destination.is_some() && port == from.port() {
                port = rng.within(1_024..60_000) as u16;
            }
            port
        });
        self.permitted.entry(port).or_default().insert(to);
        SocketAddr::new(self.address, port)
    }

    fn inbound(&self, from: SocketAddr, port: u16) -> Option<SocketAddr> {
        let ((inside, _), _) = self.mappings.iter().find(|(_, mapped)| **mapped == port)?;
        let permitted = self.permitted.get(&port)?;
        let is_permitted = match self.kind {
            NatKind::FullCone => true,
            NatKind::AddressRestricted => permitted.iter().any(|to| to.ip() == from.ip()),
            NatKind::PortRestricted | NatKind::Symmetric => permitted.contains(&from),
        };
        is_permitted.then_some(*inside)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Network {
    nats: Vec<Nat>,
    /// Where each address lives.
    addresses: BTreeMap<IpAddr, BTreeSet<Realm>>,
    pub(crate) loss: f64,
    /// One way between a NAT and the Internet's middle.
    pub(crate) access_delay: Duration,
    rng: Rng,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            nats: Vec::new(),
            addresses: BTreeMap::new(),
            loss: 0.0,
            access_delay: Duration::from_millis(10),
            rng: Rng::new(seed ^ 0x6e61_7473),
        }
    }

    /// A NAT with `address` in `outside`; returns the new realm inside.
    pub(crate) fn add_nat(
        &mut self,
        kind: NatKind,
        hairpin: Hairpin,
        outside: Realm,
        address: &str,
    ) -> Realm {
        let address = address.parse().unwrap();
        let inside = self.nats.len() + 1;
        let (mappings, permitted) = (BTreeMap::new(), BTreeMap::new());
        self.nats.push(Nat { kind, hairpin, inside, outside, address, mappings, permitted });
        self.add_address(outside, address);
        inside
    }

    /// The NAT before this realm gets another address on its outside, and has forgotten everything.
    pub(crate) fn renumber(&mut self, inside: Realm, address: &str) {
        let address = address.parse().unwrap();
        let nat = self.nats.iter_mut().find(|nat| nat.inside == inside).unwrap();
        let (outside, before) = (nat.outside, std::mem::replace(&mut nat.address, address));
        (nat.mappings, nat.permitted) = (BTreeMap::new(), BTreeMap::new());
        self.remove_address(outside, before);
        self.add_address(outside, address);
    }

    pub(crate) fn add_address(&mut self, realm: Realm, address: IpAddr) {
        self.addresses.entry(address).or_default().insert(realm);
    }

    pub(crate) fn remove_address(&mut self, realm: Realm, address: IpAddr) {
        if let Some(realms) = self.addresses.get_mut(&address) {
            realms.remove(&realm);
        }
    }

    /// Where a datagram from `realm` ends up, and after how long; `None` if it is lost on the way.
    pub(crate) fn route(
        &mut self,
        realm: Realm,
        datagram: Datagram,
    ) -> Option<(Realm, Datagram, Duration)> {
        let jitter = Duration::from_micros(self.rng.within(0..200) as u64);
        let (realm, datagram, delay) =
            self.forward(realm, datagram, Duration::from_micros(100) + jitter, 8)?;
        let crossed = delay >= self.access_delay;
        (!crossed || !self.rng.chance(self.loss)).then_some((realm, datagram, delay))
    }

    fn forward(
        &mut self,
        realm: Realm,
        mut datagram: Datagram,
        delay: Duration,
        hops: usize,
    ) -> Option<(Realm, Datagram, Duration)> {
        let hops = hops.checked_sub(1)?;
        let is_here =
            self.addresses.get(&datagram.to.ip()).is_some_and(|realms| realms.contains(&realm));
        if is_here {
            let nat = self
                .nats
                .iter()
                .find(|nat| nat.outside == realm && nat.address == datagram.to.ip());
            let Some(nat) = nat else { return Some((realm, datagram, delay)) };
            datagram.to = nat.inbound(datagram.from, datagram.to.port())?;
            let (inside, delay) = (nat.inside, delay + self.access_delay);
            return self.forward(inside, datagram, delay, hops);
        }
        let nat = self.nats.iter_mut().find(|nat| nat.inside == realm)?;
        let is_hairpin = nat.address == datagram.to.ip();
        datagram.from = nat.outbound(datagram.from, datagram.to, &mut self.rng);
        if is_hairpin {
            (nat.hairpin == Hairpin::Yes).then_some(())?;
            datagram.to = nat.inbound(datagram.from, datagram.to.port())?;
            return self.forward(realm, datagram, delay, hops);
        }
        let (outside, delay) = (nat.outside, delay + self.access_delay);
        self.forward(outside, datagram, delay, hops)
    }
}
