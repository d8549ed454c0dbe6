//! Every kind of NAT against every other.

use ipop_perf::lab::{InternetOptions, NatKind, NatOptions, Place};

use crate::common::network::{Member, Network, Way, expect_ways};

/// Two hosts behind NATs of each kind and a public one. By the order of their node ids, which decides who nominates and
/// dials, each kind is in both roles towards each other one.
#[test]
fn every_kind_of_nat_against_every_other_and_a_public_host() {
    use NatKind::{PortRestricted, Symmetric};
    let kinds = NatKind::ALL.map(Some);
    let kinds: Vec<Option<NatKind>> = kinds.into_iter().chain([None]).chain(kinds).collect();
    let network = Network::new("matrix", kinds.len(), InternetOptions::new());
    let internet = &network.internet;
    let hosts = (0..kinds.len()).map(|n| internet.lab().host(&format!("m{n}")).unwrap());
    let mut members: Vec<_> = hosts.enumerate().map(|(n, host)| network.member(n, &host)).collect();
    members.sort_by_key(|member| member.id());
    for (member, kind) in members.iter_mut().zip(&kinds) {
        let host = member.node.host();
        println!("{}: {kind:?}", member.name());
        match kind {
            Some(kind) => {
                let name = format!("{}nat", host.name());
                let nat = internet.nat(&name, NatOptions::new(*kind), Place::Internet).unwrap();
                internet.attach(host, Place::Behind(&nat)).unwrap();
            }
            None => drop(internet.attach(host, Place::Internet).unwrap()),
        }
        member.node.args(&["--workers", "1"]);
        member.start();
    }
    let way = |a: usize, b: usize| match (kinds[a], kinds[b]) {
        (Some(Symmetric), Some(Symmetric | PortRestricted))
        | (Some(PortRestricted), Some(Symmetric)) => Way::Relayed,
        _ => Way::Direct,
    };
    expect_ways(&mut members, way);
    // Both ends know which NAT it is that leaves them no other way.
    let ids: Vec<_> = members.iter().map(Member::id).collect();
    for (a, member) in members.iter_mut().enumerate() {
        for b in (0..kinds.len()).filter(|&b| b != a && way(a, b) == Way::Relayed) {
            let culprit =
                if kinds[a] == Some(Symmetric) { "the NAT here" } else { "the peer's NAT" };
            let text = format!("{culprit} is symmetric");
            member.wait_for_peer(ids[b], &text, |peer| {
                peer["path"]["why"].as_str().is_some_and(|why| why.contains(&text))
            });
        }
        if kinds[a] == Some(Symmetric) {
            assert_eq!(member.report()["network"]["nat"], "symmetric");
        }
    }
}
