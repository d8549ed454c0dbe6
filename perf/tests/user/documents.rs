//! The servers as `docs/SERVERS.md` configures them, started as they stand there: a network comes about, and two hosts
//! behind symmetric NATs meet over the TURN server with the credentials that the XMPP server hands out.

use ipop_perf::lab::{
    Access, Internet, InternetOptions, NatKind, NatOptions, Place,
    servers::{Coturn, CoturnOptions, Dns, DnsRecords, Prosody, ProsodyOptions, Servers},
    wait_until,
};

use crate::world::{SOON, World};

/// The only block of this language on the page.
fn block(language: &str) -> String {
    let page = include_str!("../../../docs/SERVERS.md");
    let blocks: Vec<_> = page.split(&format!("\n```{language}\n")).skip(1).collect();
    let [rest] = blocks[..] else { panic!("{} blocks of {language}", blocks.len()) };
    rest.split("\n```").next().unwrap().to_owned()
}

#[test]
fn a_network_comes_about_with_the_servers_of_the_manual() {
    let internet = Internet::new("manual", InternetOptions::new()).unwrap();
    let machine = internet.machine("server", Place::Internet).unwrap();
    let records = DnsRecords::new()
        .address("turn.example.org", machine.ipv4)
        .address("xmpp.example.org", machine.ipv4)
        .service("_xmpp-client._tcp.example.org", "xmpp.example.org", 5222, 0);
    let dns = Dns::start(internet.lab(), &machine, &records).unwrap();
    machine.host.set_name_server(dns.address()).unwrap();
    let mut options = CoturnOptions::new();
    for line in block("ini").lines() {
        options = options.more(line);
    }
    let mut coturn = Coturn::start(internet.lab(), &machine, options).unwrap();
    let said = coturn.process().stdout() + &coturn.process().stderr();
    assert!(
        !said.contains("ERROR") && !said.to_lowercase().contains("bad configuration"),
        "{said}"
    );
    let options = ProsodyOptions::new().hosts(&block("lua"));
    let options = options.accounts(["admin", "n0", "n1", "n2", "n3"]);
    let prosody = Prosody::start(internet.lab(), &machine, options).unwrap();
    let world = World::of(internet, Servers { machine, prosody, coturn });

    let token = world.make_network();
    let sites = ["a", "b"].map(|name| {
        let site = world.internet.site(name, Access::Nat(NatOptions::new(NatKind::Symmetric)));
        let site = site.unwrap();
        site.host().set_name_server(dns.address()).unwrap();
        site
    });
    let mut first = world.member(sites[0].host(), 0, "n0", &token);
    let second = world.member(sites[1].host(), 1, "n1", &token);
    first.comes_to_reach(1);
    let relayed = wait_until(SOON, || first.counters()["peers"][0]["path"]["kind"] == "relayed");
    assert!(relayed, "{}", first.log());
    first.stop();
    second.stop();
}
