//! Peers find each other over a real Prosody and connect through NATs, with a real coturn: the switch as users run it.
#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::Duration,
};

use ipop_perf::{
    lab::{
        Access, Internet, InternetOptions, NatKind, NatOptions, Site,
        servers::{ProsodyOptions, Servers},
        tools::Ping,
        wait_until,
    },
    tunnel::{Node, Program, Running},
};
use serde_json::Value;

use common::Report;

/// How long finding each other may take, on a machine that is busy with other tests.
const FOUND_WITHIN: Duration = Duration::from_secs(40);

/// A network with its servers, and a token to join it.
struct Network {
    servers: Servers,
    internet: Internet,
    token: String,
    secret_file: PathBuf,
}

impl Network {
    /// With accounts n0 to n3, and the room made by `room create`.
    fn new(label: &str) -> Self {
        let internet = Internet::new(label, InternetOptions::new()).unwrap();
        let accounts = ProsodyOptions::new().accounts(["admin", "n0", "n1", "n2", "n3"]);
        let servers = Servers::start(&internet, accounts).unwrap();
        let (host, switch) = (&servers.machine.host, Program::Switch.find().unwrap());
        let secret_file = internet.lab().dir().join("network.secret");
        fs::write(&secret_file, host.run(&switch, ["secret", "new"]).unwrap()).unwrap();
        fs::set_permissions(&secret_file, fs::Permissions::from_mode(0o600)).unwrap();
        let room = servers.prosody.room("vmnet");
        let mut line = vec!["room".to_owned(), "create".into(), room];
        line.extend(account(&servers, "admin"));
        line.extend(["--network-secret-file".into(), secret_file.display().to_string()]);
        let token = host.run(&switch, line).unwrap().trim().to_owned();
        assert!(token.starts_with("ipop1") && !token.contains(char::is_whitespace), "{token}");
        Self { servers, internet, token, secret_file }
    }

    fn site(&self, number: usize, nat: Option<NatKind>) -> Site {
        let access = nat.map_or(Access::Direct, |kind| Access::Nat(NatOptions::new(kind)));
        self.internet.site(&format!("s{number}"), access).unwrap()
    }

    /// A node at the site, with the account of its number, that joins by the token.
    fn join(&self, number: usize, site: &Site) -> Running {
        let mut node = Node::new(self.internet.lab(), site.host(), Program::Switch).unwrap();
        let name = format!("node{number}");
        let mut args = account(&self.servers, &format!("n{number}"));
        args.extend(["--join".into(), self.token.clone(), "--name".into(), name]);
        args.extend(["--log".into(), "debug".into()]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        node.address(&format!("{}/24", address(number))).args(&args).start().unwrap()
    }
}

fn account(servers: &Servers, name: &str) -> Vec<String> {
    let prosody = &servers.prosody;
    let password = prosody.password_file(name).unwrap();
    [
        "--xmpp-jid",
        &prosody.jid(name),
        "--xmpp-password-file",
        &password.display().to_string(),
        "--xmpp-server",
        &prosody.address().to_string(),
        "--xmpp-ca",
        &prosody.ca_file().display().to_string(),
    ]
    .map(String::from)
    .into()
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, number as u8 + 1)
}

fn pings(from: &Running, to: usize) -> bool {
    let ping = Ping::to(IpAddr::from(address(to)));
    ping.run(&from.host).is_ok_and(|report| report.received > 0)
}

fn expect_reached(from: &Running, to: usize) {
    let reached = wait_until(FOUND_WITHIN, || pings(from, to));
    assert!(reached, "node {to} is not reached:\n{}", from.process.stderr());
}

/// The path of the only peer, as the counters tell it.
fn path(node: &mut Running) -> Value {
    Report::ask(&mut node.process).json()["peers"][0]["path"].clone()
}

fn becomes(node: &mut Running, kind: &str) -> bool {
    wait_until(FOUND_WITHIN, || path(node)["kind"] == kind)
}

/// Two nodes behind these NATs reach each other, by a path of this kind.
fn two_nodes(label: &str, nats: [Option<NatKind>; 2], kind: &str) {
    let network = Network::new(label);
    let sites = [network.site(0, nats[0]), network.site(1, nats[1])];
    let mut nodes = [network.join(0, &sites[0]), network.join(1, &sites[1])];
    expect_reached(&nodes[0], 1);
    expect_reached(&nodes[1], 0);
    for node in &mut nodes {
        assert!(becomes(node, kind), "{}\n{}", path(node), node.process.stderr());
        let report = Report::ask(&mut node.process);
        assert_eq!(report.json()["network"]["xmpp"], "online");
        assert_eq!(report.json()["network"]["joined"], true);
    }
}

#[test]
fn two_hosts_of_one_network_find_each_other() {
    two_nodes("disclan", [None, None], "direct");
}

#[test]
fn two_port_restricted_nats_are_crossed() {
    let nat = Some(NatKind::PortRestricted);
    two_nodes("discport", [nat, nat], "direct");
}

#[test]
fn two_symmetric_nats_are_relayed_and_the_counters_say_why() {
    let network = Network::new("discsym");
    let nat = Some(NatKind::Symmetric);
    let sites = [network.site(0, nat), network.site(1, nat)];
    let mut nodes = [network.join(0, &sites[0]), network.join(1, &sites[1])];
    expect_reached(&nodes[0], 1);
    for node in &mut nodes {
        let path = path(node);
        assert_eq!(path["kind"], "relayed", "{path}");
        assert!(path["why"].as_str().is_some_and(|why| !why.is_empty()), "{path}");
    }
}

#[test]
fn three_hosts_live_on_without_the_server_and_a_returning_one_is_found_again() {
    let mut network = Network::new("discserver");
    let sites = [network.site(0, None), network.site(1, None), network.site(2, None)];
    let mut nodes: Vec<Running> = (0..3).map(|n| network.join(n, &sites[n])).collect();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        expect_reached(&nodes[from], to);
    }
    network.servers.prosody.kill().unwrap();
    let offline = |node: &mut Running| {
        wait_until(FOUND_WITHIN, || {
            Report::ask(&mut node.process).json()["network"]["xmpp"] == "offline"
        })
    };
    assert!(offline(&mut nodes[0]), "{}", nodes[0].process.stderr());
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        assert!(pings(&nodes[from], to), "{}", nodes[from].process.stderr());
    }
    network.servers.prosody.start_again().unwrap();
    let online = wait_until(FOUND_WITHIN, || {
        Report::ask(&mut nodes[0].process).json()["network"]["joined"] == true
    });
    assert!(online, "{}", nodes[0].process.stderr());
    assert!(pings(&nodes[0], 1));
}

#[test]
fn who_has_another_secret_gets_nothing() {
    let network = Network::new("discsecret");
    let sites = [network.site(0, None), network.site(1, None)];
    let honest = network.join(0, &sites[0]);
    let mut node = Node::new(network.internet.lab(), sites[1].host(), Program::Switch).unwrap();
    let other = network.internet.lab().dir().join("other.secret");
    let switch = Program::Switch.find().unwrap();
    fs::write(&other, sites[1].host().run(&switch, ["secret", "new"]).unwrap()).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    assert_ne!(fs::read(&other).unwrap(), fs::read(&network.secret_file).unwrap());
    let mut args = account(&network.servers, "n1");
    let room = network.servers.prosody.room("vmnet");
    args.extend(["--room".into(), room, "--network-secret-file".into()]);
    args.push(other.display().to_string());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut stranger = node.address(&format!("{}/24", address(1))).args(&args).start().unwrap();
    stranger.process.wait_for_line("room:", FOUND_WITHIN).unwrap();
    assert!(!pings(&honest, 1));
    assert_eq!(Report::ask(&mut stranger.process).json()["network"]["joined"], false);
}
