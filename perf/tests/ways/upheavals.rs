//! What changes under a running tunnel: NATs that forget, that get another address, hosts that move. Both nodes are
//! behind NATs, so neither is found again by simply being where it was, and the connection lives through it all.

use std::thread;

use ipop_perf::lab::{Attached, InternetOptions, Nat, NatKind, NatOptions, Place};

use crate::common::network::{Member, Network, Way, expect_ways};

struct Pair {
    network: Network,
    nats: [Nat; 2],
    machines: [Attached; 2],
    members: [Member; 2],
}

impl Pair {
    /// Two nodes behind port-restricted NATs, directly connected.
    fn connected(label: &str) -> Self {
        let network = Network::new(label, 2, InternetOptions::new());
        let internet = &network.internet;
        let nat = NatOptions::new(NatKind::PortRestricted);
        let nats = ["nat0", "nat1"].map(|name| internet.nat(name, nat, Place::Internet).unwrap());
        let machines = [0, 1].map(|number: usize| {
            internet.machine(&format!("u{number}"), Place::Behind(&nats[number])).unwrap()
        });
        let mut members = [0, 1].map(|number| network.member(number, &machines[number].host));
        members.iter_mut().for_each(Member::start);
        expect_ways(&mut members, |_, _| Way::Direct);
        Self { network, nats, machines, members }
    }

    fn connections(&mut self) -> [u64; 2] {
        let ids = [self.members[1].id(), self.members[0].id()];
        [0, 1].map(|end| {
            let peer = self.members[end].peer(ids[end]);
            peer["lanes"][0]["connection"].as_u64().unwrap_or_else(|| panic!("{peer}"))
        })
    }

    /// Something happens; the tunnel is back in this way, on the connection of before.
    fn survives(&mut self, way: Way, happens: impl FnOnce(&Self)) {
        let before = self.connections();
        happens(self);
        // Both have something to say: an end that has not learns only from its next keep-alive that its NAT is
        // another, and the other end does not wait for that long.
        let [one, other] = &self.members;
        thread::scope(|scope| {
            scope.spawn(|| other.expect_reached(0));
            one.expect_reached(1);
        });
        expect_ways(&mut self.members, |_, _| way);
        assert_eq!(self.connections(), before);
    }
}

#[test]
fn nats_that_forget_and_that_get_another_address() {
    let mut pair = Pair::connected("renumbered");
    for number in [0, 1] {
        pair.survives(Way::Direct, |pair| pair.nats[number].restart().unwrap());
        pair.survives(Way::Direct, |pair| {
            pair.network.internet.move_nat(&pair.nats[number], Place::Internet).unwrap();
        });
    }
}

#[test]
fn hosts_that_move() {
    let mut pair = Pair::connected("moved");
    let nat = |pair: &Pair, name, kind| {
        pair.network.internet.nat(name, NatOptions::new(kind), Place::Internet).unwrap()
    };
    let hotel = nat(&pair, "hotel", NatKind::Symmetric);
    let cafe = nat(&pair, "cafe", NatKind::AddressRestricted);
    for (number, nat, way) in [(0, &hotel, Way::Relayed), (1, &cafe, Way::Direct)] {
        pair.survives(way, |pair| {
            let machine = &pair.machines[number];
            pair.network.internet.detach(machine).unwrap();
            pair.network.internet.attach(&machine.host, Place::Behind(nat)).unwrap();
        });
    }
}
