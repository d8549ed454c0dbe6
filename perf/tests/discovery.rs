//! Peers find each other over a real Prosody and connect through NATs, with a real coturn: the switch as users run it.
#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;

use ipop_perf::{
    counters,
    lab::{Access, InternetOptions, NatKind, NatOptions, servers::XmppServer as _, wait_until},
    tunnel::{Node, Program},
};

use self::common::{
    network::{
        FOUND_WITHIN, Member, Network, Way, account_flags, address, expect_ways, write_secret,
    },
    switch_binary,
};

/// A network, and a running node behind each of these NATs.
fn network_of<const N: usize>(label: &str, nats: [Option<NatKind>; N]) -> (Network, Vec<Member>) {
    let network = Network::new(label, N, InternetOptions::new());
    let members = nats.into_iter().enumerate().map(|(number, nat)| {
        let access = nat.map_or(Access::Direct, |kind| Access::Nat(NatOptions::new(kind)));
        let site = network.internet.site(&format!("s{number}"), access).unwrap();
        let mut member = network.member(number, site.host());
        member.start();
        member
    });
    let members = members.collect();
    (network, members)
}

#[test]
fn two_hosts_of_one_network_find_each_other() {
    let (_network, mut members) = network_of("disclan", [None, None]);
    expect_ways(&mut members, |_, _| Way::HostToHost);
    for member in &mut members {
        let report = member.report();
        assert_eq!(report["network"]["xmpp"], "online");
        assert_eq!(report["network"]["joined"], true);
    }
}

#[test]
fn two_port_restricted_nats_are_crossed() {
    let (_network, mut members) = network_of("discport", [Some(NatKind::PortRestricted); 2]);
    expect_ways(&mut members, |_, _| Way::Direct);
}

#[test]
fn two_symmetric_nats_are_relayed_and_the_counters_say_why() {
    let (_network, mut members) = network_of("discsym", [Some(NatKind::Symmetric); 2]);
    expect_ways(&mut members, |_, _| Way::Relayed);
}

#[test]
fn three_hosts_live_on_without_the_server_and_a_returning_one_is_found_again() {
    let (mut network, mut nodes) = network_of("discserver", [None; 3]);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        nodes[from].expect_reached(to);
    }
    network.servers.prosody.kill().unwrap();
    let offline = wait_until(FOUND_WITHIN, || nodes[0].report()["network"]["xmpp"] == "offline");
    assert!(offline, "{}", nodes[0].log());
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        assert!(nodes[from].pings(to), "{}", nodes[from].log());
    }
    network.servers.prosody.start_again().unwrap();
    let online = wait_until(FOUND_WITHIN, || nodes[0].report()["network"]["joined"] == true);
    assert!(online, "{}", nodes[0].log());
    assert!(nodes[0].pings(1));
}

#[test]
fn who_has_another_secret_gets_nothing() {
    let (network, members) = network_of("discsecret", [None]);
    let site = network.internet.site("other", Access::Direct).unwrap();
    let (lab, host) = (network.internet.lab(), site.host());
    let mut node = Node::with_binary(lab, host, Program::Switch, switch_binary()).unwrap();
    let other = lab.dir().join("other.secret");
    write_secret(&other, &host.run(switch_binary(), ["secret", "new"]).unwrap());
    assert_ne!(fs::read(&other).unwrap(), fs::read(&network.secret_file).unwrap());
    network.servers.prosody.add_account("other").unwrap();
    let mut args = account_flags(&network.servers, "other");
    let room = network.servers.prosody.room("vmnet");
    args.extend(["--room".into(), room, "--network-secret-file".into()]);
    args.push(other.display().to_string());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut stranger = node.address(&format!("{}/24", address(1))).args(&args).start().unwrap();
    stranger.process.wait_for_line("room:", FOUND_WITHIN).unwrap();
    assert!(!members[0].pings(1));
    assert_eq!(counters::ask(&mut stranger.process).unwrap()["network"]["joined"], false);
}
