//! `docs/SERVERS.md`, followed as it stands: a network comes about, and two hosts behind symmetric NATs, which were given a join token and
//! an account each, meet over the TURN server with the credentials that the XMPP server hands out.

use ipop_perf::lab::{
    Access, Internet, InternetOptions, NatKind, NatOptions, Place,
    servers::{Dns, DnsRecords},
    tools::Ping,
    wait_until,
};

use crate::{
    guide::{Machine, Walk, steps},
    world::SOON,
};

/// The addresses that the page gives to its two hosts.
const HOST_B: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 9, 0, 2);

#[test]
fn with_the_prosody_of_the_manual_a_token_is_all_that_hosts_need() {
    let internet = Internet::new("manual", InternetOptions::new()).unwrap();
    let server = internet.machine("server", Place::Internet).unwrap();
    let records = DnsRecords::new()
        .address("turn.example.org", server.ipv4)
        .address("xmpp.example.org", server.ipv4)
        .service("_xmpp-client._tcp.example.org", "xmpp.example.org", 5222, 0);
    let dns = Dns::start(internet.lab(), &server, &records).unwrap();
    let sites = ["a", "b"].map(|name| {
        let site = internet.site(name, Access::Nat(NatOptions::new(NatKind::Symmetric)));
        site.unwrap()
    });
    let machine = |host: &ipop_perf::lab::Host, of_packages: &[&str]| {
        host.set_name_server(dns.address()).unwrap();
        let dir = internet.lab().dir().join(format!("machine-{}", host.name()));
        Machine::new(host, &dir, of_packages)
    };
    let at_server = machine(&server.host, &["prosody", "turn"]);
    let [a, b] = [&sites[0], &sites[1]].map(|site| machine(site.host(), &[]));
    let machines = [("server", &at_server), ("admin", &at_server), ("hostA", &a), ("hostB", &b)];
    let mut walk = Walk::new(&machines);
    let page = include_str!("../../../docs/SERVERS.md");
    walk.follow(&steps(
        page,
        &["## A small coturn", "## A small Prosody", "## Accounts", "## Rooms"],
    ));
    let [of_a, of_b] = &walk.switches[..] else { panic!("{} switches", walk.switches.len()) };
    let ping = || Ping::to(HOST_B).run(&a.host).is_ok_and(|report| report.received > 0);
    assert!(wait_until(SOON, ping), "{}\n{}", of_a.shown(), of_b.shown());
    assert!(of_a.shown().contains("relay"), "{}", of_a.shown());
    walk.follow(&steps(page, &["## The server's certificate"]));
}
