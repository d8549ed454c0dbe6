//! Hosts whose way out is less simple: behind two NATs, behind one NAT together, with addresses that others have too.

use ipop_perf::lab::{InternetOptions, NatKind, NatOptions, Place};

use crate::common::network::{Member, Network, Way, expect_ways};

/// Every host listens on port 5800, also the two behind each of these NATs, and the two that have one private address.
#[test]
fn nats_in_a_row_and_hosts_behind_one_nat() {
    use NatKind::{AddressRestricted, FullCone, PortRestricted};
    let network = Network::new("homes", 10, InternetOptions::new());
    let internet = &network.internet;
    let nat = |name: &str, options, place| internet.nat(name, options, place).unwrap();
    let at_router = Place::Internet;
    // Two homes behind one carrier, whose NAT lets its clients reach each other as RFC 6888 demands. Both homes use the
    // same private addresses.
    let carrier = nat("carrier", NatOptions::new(FullCone).hairpin(), at_router);
    let home = |kind| NatOptions::new(kind).lan(100);
    let behind_carrier = Place::Behind(&carrier);
    let home_a = nat("homeA", home(PortRestricted), behind_carrier);
    let home_b = nat("homeB", home(AddressRestricted), behind_carrier);
    // One behind a carrier that does not.
    let strict = nat("strict", NatOptions::new(PortRestricted), at_router);
    let home_c = nat("homeC", home(FullCone), Place::Behind(&strict));
    let home_d = nat("homeD", home(PortRestricted), Place::Behind(&strict));
    let office = nat("office", NatOptions::new(PortRestricted), at_router);
    let guests = NatOptions::new(PortRestricted).isolated_clients();
    let with_hairpin = nat("guests", guests.hairpin(), at_router);
    let without_hairpin = nat("isolated", guests, at_router);
    let places = [
        ("carrierA", &home_a),
        ("carrierB", &home_b),
        ("strictC", &home_c),
        ("strictD", &home_d),
        ("office0", &office),
        ("office1", &office),
        ("guest0", &with_hairpin),
        ("guest1", &with_hairpin),
        ("isolated0", &without_hairpin),
        ("isolated1", &without_hairpin),
    ];
    let start = |(number, (name, nat))| {
        let machine = internet.machine(name, Place::Behind(nat)).unwrap();
        let mut member = network.member(number, &machine.host);
        member.node.args(&["--workers", "1"]);
        member.start();
        member
    };
    let mut members: Vec<Member> = places.into_iter().enumerate().map(start).collect();
    expect_ways(&mut members, |a, b| match (a.min(b), a.max(b)) {
        // Known to each other only by the address that their carrier does not turn around.
        (2, 3) => Way::Relayed,
        // The NAT does not turn around, and need not.
        (4, 5) => Way::HostToHost,
        (8, 9) => Way::Relayed,
        _ => Way::Direct,
    });
}
