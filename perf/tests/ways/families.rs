//! IPv6 alone, and both families.

use std::net::{Ipv6Addr, SocketAddr};

use ipop_perf::{
    lab::{InternetOptions, NatKind, NatOptions, Place, Traffic, servers::XmppServer as _},
    tunnel::PORT,
};
use serde_json::Value;

use crate::common::network::{Member, Network, Way, expect_ways};

#[test]
fn ipv6_alone_and_both_families() {
    let network = Network::new("families", 6, InternetOptions::new().ipv6());
    let internet = &network.internet;
    let nat = NatOptions::new(NatKind::PortRestricted);
    let nat = internet.nat("nat", nat, Place::Internet).unwrap();
    let names = ["six0", "six1", "six2", "both0", "both1", "four"];
    let machines = names.map(|name| {
        let place = if name == "four" { Place::Behind(&nat) } else { Place::Internet };
        internet.machine(name, place).unwrap()
    });
    let ipv6 = machines.each_ref().map(|machine| machine.ipv6);
    // These two are left with a relay.
    internet.cut(ipv6[0].unwrap(), ipv6[2].unwrap(), Traffic::Udp).unwrap();
    let mut members: Vec<Member> = machines
        .iter()
        .enumerate()
        .map(|(number, machine)| {
            let prosody = &network.servers.prosody;
            let server = if machine.host.name().starts_with("six") {
                machine.give_up_ipv4().unwrap();
                prosody.ipv6_address().unwrap()
            } else {
                prosody.address()
            };
            let mut member = network.member_by(number, &machine.host, server);
            member.node.listen((Ipv6Addr::UNSPECIFIED, PORT).into()).args(&["--workers", "1"]);
            member.start();
            member
        })
        .collect();
    expect_ways(&mut members, |a, b| match (a.min(b), a.max(b)) {
        (0, 2) => Way::Relayed,
        (0..3, 5) => Way::None,
        (3, 4) | (1, 2) | (0, 1) | (0..3, 3..5) => Way::HostToHost,
        _ => Way::Direct,
    });

    // Of two families one is taken; when it fails, the other takes over.
    let ids = [members[3].id(), members[4].id()];
    let remote = |peer: &Value| {
        let address: Option<SocketAddr> = peer["path"]["remote"].as_str()?.parse().ok();
        address.map(|address| address.is_ipv6())
    };
    let before = members[3].peer(ids[1]);
    let by_ipv6 = remote(&before).unwrap_or_else(|| panic!("{before}"));
    let addresses = [3, 4].map(|number| &machines[number]);
    let [a, b] = addresses.map(|at| at.addresses().find(|ip| ip.is_ipv6() == by_ipv6).unwrap());
    internet.cut(a, b, Traffic::Udp).unwrap();
    for (end, other) in [(3, 1), (4, 0)] {
        members[end].wait_for_peer(ids[other], "path by the other family", |peer| {
            Way::HostToHost.is_that_of(peer) && remote(peer) == Some(!by_ipv6)
        });
    }
    members[3].expect_reached(4);
    let after = members[3].peer(ids[1]);
    assert_eq!(after["lanes"][0]["connection"], before["lanes"][0]["connection"]);
    let four = members[5].id();
    let why = members[0].peer(four)["path"]["why"].to_string();
    assert!(why.contains("one end has only IPv4"), "{why}");
}
