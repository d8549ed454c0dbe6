//! From a relay to a direct path; TURN servers that refuse, and none at all.

use std::{net::SocketAddr, time::Duration};

use ipop_perf::lab::{
    Access, InternetOptions, NatKind, NatOptions, Place, Site, Traffic,
    servers::{Coturn, CoturnOptions},
    tools::Ping,
    wait_until,
};
use serde_json::Value;

use crate::common::network::{
    FOUND_WITHIN, Member, Network, Way, address, expect_ways, write_secret,
};

/// A node behind a NAT of this kind, with this in its configuration file.
fn member(network: &Network, number: usize, kind: NatKind, ice: &str) -> (Site, Member) {
    let name = format!("r{number}");
    let site = network.internet.site(&name, Access::Nat(NatOptions::new(kind))).unwrap();
    let mut member = network.member(number, site.host());
    let file = network.internet.lab().dir().join(format!("{name}.toml"));
    write_secret(&file, ice);
    member.node.args(&["--config", file.to_str().unwrap()]);
    (site, member)
}

fn connection(peer: &Value) -> Value {
    let connection = peer["lanes"][0]["connection"].clone();
    assert!(connection.is_string() || connection.is_number(), "{peer}");
    connection
}

/// Nothing is lost on the way from the relay to the direct path, and the connection stays the same all the while, also
/// when the direct path is cut again.
#[test]
fn from_a_relay_to_a_direct_path_and_back() {
    let network = Network::new("upgrade", 2, InternetOptions::new());
    let [(site_a, a), (site_b, b)] =
        [0, 1].map(|number| member(&network, number, NatKind::PortRestricted, ""));
    let (at_a, at_b) = (site_a.public_ipv4(), site_b.public_ipv4());
    network.internet.cut(at_a, at_b, Traffic::Udp).unwrap();
    let mut members = [a, b];
    members.iter_mut().for_each(Member::start);
    expect_ways(&mut members, |_, _| Way::Relayed);
    let ids = [members[1].id(), members[0].id()];
    let mut peers = || [0, 1].map(|end| members[end].peer(ids[end]));
    let connections = peers().map(|peer| connection(&peer));

    let ping = Ping::to(address(1)).interval(Duration::from_millis(10));
    let pinging = ping.start(site_a.host()).unwrap();
    // By then the direct pairs have failed, and are tried again only now and then.
    assert!(wait_until(FOUND_WITHIN, || pinging.answers() > 500));
    network.internet.heal(at_a, at_b, Traffic::Udp).unwrap();
    expect_ways(&mut members, |_, _| Way::Direct);
    let report = pinging.stop().unwrap();
    assert!(report.received + 1 >= report.sent, "{report:?}");

    network.internet.cut(at_a, at_b, Traffic::Udp).unwrap();
    expect_ways(&mut members, |_, _| Way::Relayed);
    let mut peers = || [0, 1].map(|end| members[end].peer(ids[end]));
    assert_eq!(peers().map(|peer| connection(&peer)), connections);
}

/// Where a direct path is possible no relay is needed. Where it is not, each end says what is missing.
#[test]
fn without_a_relay_or_with_one_that_refuses() {
    use NatKind::{PortRestricted, Symmetric};
    let network = Network::new("refusals", 6, InternetOptions::new());
    let internet = &network.internet;
    let turn = |server: SocketAddr, user: &str, password: &str| {
        format!(
            "[[ice.turn]]\nserver = \"{server}\"\nusername = \"{user}\"\npassword = \"{password}\"\n"
        )
    };
    // A server with room for one allocation.
    let machine = internet.machine("small", Place::Internet).unwrap();
    let options = CoturnOptions::new().user("node", "of the lab").more("total-quota=1");
    let small = Coturn::start(internet.lab(), &machine, options).unwrap();
    let stun_only = format!("[ice]\nstun = [\"{}\"]\n", network.servers.coturn.address());
    let wrong = turn(network.servers.coturn.address(), "nobody", "wrong");
    let full = turn(small.address(), "node", "of the lab");
    let kinds =
        [Symmetric, Symmetric, PortRestricted, PortRestricted, PortRestricted, PortRestricted];
    let configurations = [&stun_only, &stun_only, &wrong, &wrong, &full, &full];
    let nodes = kinds.into_iter().zip(configurations).enumerate();
    let nodes = nodes.map(|(number, (kind, ice))| member(&network, number, kind, ice));
    let (_sites, mut members): (Vec<_>, Vec<_>) = nodes.unzip();
    members.iter_mut().for_each(Member::start);

    expect_ways(&mut members[2..], |_, _| Way::Direct);
    expect_ways(&mut members[..4], |a, b| if a.min(b) < 2 { Way::None } else { Way::Direct });
    let ids: Vec<_> = members.iter().map(Member::id).collect();
    let why = |member: &mut Member, id| {
        let why = member.peer(id)["path"]["why"].as_str().map(str::to_owned);
        why.unwrap_or_else(|| panic!("{}", member.log()))
    };
    for (member, id) in [(0, ids[1]), (1, ids[0]), (0, ids[2])] {
        let why = why(&mut members[member], id);
        assert!(why.contains("no TURN server is known"), "{why}");
    }
    let why = why(&mut members[2], ids[0]);
    assert!(why.contains("refuses the credentials"), "{why}");
    for member in &mut members[2..4] {
        let switch = member.switch();
        switch.process.wait_for_line("refuses the credentials", FOUND_WITHIN).unwrap();
    }
    let refused = members[4..].iter().filter(|member| member.log().contains("error 486")).count();
    assert_eq!(refused, 1, "{}\n{}", members[4].log(), members[5].log());
}
