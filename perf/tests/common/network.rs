//! A virtual network on the lab's internet, as users make it: accounts on a real Prosody, a room made by `room create`,
//! a real coturn, nodes that join by the token.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ipop_datapath::node_id::NodeId;
use ipop_perf::{
    counters,
    lab::{
        Host, Internet, InternetOptions,
        servers::{ProsodyOptions, Servers, XmppServer as _},
        tools::Ping,
        wait_until,
    },
    tunnel::{Node, Program, Running},
};
use serde_json::Value;

use super::switch_binary;

/// How long finding each other may take, on a machine that is busy with other tests.
pub(crate) const FOUND_WITHIN: Duration = Duration::from_secs(60);

/// A network with its servers, and a token to join it.
pub(crate) struct Network {
    pub(crate) servers: Servers,
    pub(crate) internet: Internet,
    pub(crate) token: String,
    pub(crate) secret_file: PathBuf,
}

impl Network {
    /// For this many nodes, whose accounts are n0, n1 and so on.
    pub(crate) fn new(label: &str, nodes: usize, internet: InternetOptions) -> Self {
        let internet = Internet::new(label, internet).unwrap();
        let accounts: Vec<_> = (0..nodes).map(account_of).collect();
        let options = ProsodyOptions::new().accounts(["admin"]);
        let options = options.accounts(accounts.iter().map(String::as_str));
        let servers = Servers::start(&internet, options).unwrap();
        let (host, switch) = (&servers.machine.host, switch_binary());
        let secret_file = internet.lab().dir().join("network.secret");
        write_secret(&secret_file, &host.run(switch, ["secret", "new"]).unwrap());
        let room = servers.prosody.room("vmnet");
        let mut line = vec!["room".to_owned(), "create".into(), room];
        line.extend(account_flags(&servers, "admin"));
        line.extend(["--network-secret-file".into(), secret_file.display().to_string()]);
        let token = host.run(switch, line).unwrap().trim().to_owned();
        assert!(token.starts_with("ipop1") && !token.contains(char::is_whitespace), "{token}");
        Self { servers, internet, token, secret_file }
    }

    /// A node on this host, with the account of its number, that will join by the token.
    pub(crate) fn member(&self, number: usize, host: &Host) -> Member {
        self.member_by(number, host, self.servers.prosody.address())
    }

    /// The same; it reaches the XMPP server at this address.
    pub(crate) fn member_by(&self, number: usize, host: &Host, server: SocketAddr) -> Member {
        let mut node =
            Node::with_binary(self.internet.lab(), host, Program::Switch, switch_binary()).unwrap();
        let mut args = flags(&self.servers, &account_of(number), server);
        args.extend(["--join".into(), self.token.clone(), "--name".into(), host.name().into()]);
        args.extend(["--log".into(), "debug".into()]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        node.args(&args).address(&format!("{}/24", address(number)));
        Member { number, node, switch: None }
    }
}

fn account_of(number: usize) -> String {
    format!("n{number}")
}

/// The flags with which a node logs in.
pub(crate) fn account_flags(servers: &Servers, name: &str) -> Vec<String> {
    flags(servers, name, servers.prosody.address())
}

fn flags(servers: &Servers, name: &str, server: SocketAddr) -> Vec<String> {
    let prosody = &servers.prosody;
    let password = prosody.password_file(name).unwrap();
    [
        "--xmpp-jid",
        &prosody.jid(name),
        "--xmpp-password-file",
        &password.display().to_string(),
        "--xmpp-server",
        &server.to_string(),
        "--xmpp-ca",
        &prosody.ca_file().display().to_string(),
    ]
    .map(String::from)
    .into()
}

/// Writes a file that only its owner may read.
pub(crate) fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The inner address of the node with this number.
pub(crate) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, number as u8 + 1)
}

/// A node of the network, running or not.
pub(crate) struct Member {
    pub(crate) number: usize,
    pub(crate) node: Node,
    switch: Option<Running>,
}

impl Member {
    /// Starts it.
    pub(crate) fn start(&mut self) {
        self.switch = Some(self.node.start().unwrap_or_else(|error| panic!("{error:#}")));
    }

    pub(crate) fn id(&self) -> NodeId {
        self.node.node_id()
    }

    pub(crate) fn name(&self) -> &str {
        self.node.host().name()
    }

    /// The running program.
    pub(crate) fn switch(&mut self) -> &mut Running {
        self.switch.as_mut().expect("it was started")
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.switch.as_ref().map_or_else(String::new, |switch| switch.process.stderr())
    }

    /// All that it counts now.
    pub(crate) fn report(&mut self) -> Value {
        counters::ask(&mut self.switch().process).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// What it says about this peer now; null if it does not know it.
    pub(crate) fn peer(&mut self, id: NodeId) -> Value {
        peer_of(&self.report(), id)
    }

    /// Waits until what it says about a peer is as it should be, and gives that back.
    pub(crate) fn wait_for_peer(
        &mut self,
        id: NodeId,
        what: &str,
        accept: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut peer = Value::Null;
        let found = wait_until(FOUND_WITHIN, || {
            peer = self.peer(id);
            accept(&peer)
        });
        assert!(found, "{}: no {what}: {peer}\n{}", self.name(), self.log());
        peer
    }

    /// Whether the node with this number answers a ping.
    pub(crate) fn pings(&self, to: usize) -> bool {
        let ping = Ping::to(IpAddr::from(address(to)));
        ping.run(self.node.host()).is_ok_and(|report| report.received > 0)
    }

    /// Waits until the node with this number answers pings.
    pub(crate) fn expect_reached(&self, to: usize) {
        let reached = wait_until(FOUND_WITHIN, || self.pings(to));
        assert!(reached, "{} does not reach node {to}:\n{}", self.name(), self.log());
    }
}

/// What a report says about this peer; null if nothing.
fn peer_of(report: &Value, id: NodeId) -> Value {
    let id = id.to_string();
    let peers = report["peers"].as_array().into_iter().flatten();
    peers.into_iter().find(|peer| peer["node"] == *id).cloned().unwrap_or_default()
}

/// How two nodes should be connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Direct,
    /// Directly, and without a NAT in between.
    HostToHost,
    Relayed,
    /// Not at all.
    None,
}

impl Way {
    /// Whether this is what a node says about a peer.
    pub(crate) fn is_that_of(self, peer: &Value) -> bool {
        let path = &peer["path"];
        let is_explained = path["why"].as_str().is_some_and(|why| !why.is_empty());
        let (kind, is_up) = (path["kind"].as_str(), peer["state"] == "up");
        match self {
            Self::Direct => is_up && kind == Some("direct") && !is_explained,
            Self::HostToHost => {
                Self::Direct.is_that_of(peer) && path["candidates"] == "host to host"
            }
            Self::Relayed => is_up && kind == Some("relayed") && is_explained,
            Self::None => !is_up && kind == Some("none") && is_explained,
        }
    }
}

/// Waits until every two of these nodes are connected as they should be, by what each says, and until pings cross
/// where there is a way.
pub(crate) fn expect_ways(members: &mut [Member], way: impl Fn(usize, usize) -> Way) {
    let mut wrong = Vec::new();
    let settled = wait_until(FOUND_WITHIN, || {
        wrong = wrong_ways(members, &way);
        wrong.is_empty()
    });
    let log = |member: &Member| format!("== {}\n{}", member.name(), member.log());
    let logs = || members.iter().map(log).collect::<Vec<_>>().join("\n");
    assert!(settled, "{}\n{}", wrong.join("\n"), logs());
    let members: &[Member] = members;
    let way = &way;
    let unanswered: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = pairs(members.len())
            .filter(|&(a, b)| way(a, b) != Way::None)
            .map(|(a, b)| {
                let (from, to) = (&members[a], &members[b]);
                scope.spawn(move || {
                    let answered = wait_until(FOUND_WITHIN, || from.pings(to.number));
                    (!answered).then(|| format!("{} does not reach {}", from.name(), to.name()))
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(unanswered.is_empty(), "{unanswered:?}");
}

/// What each node says that is not as it should be.
fn wrong_ways(members: &mut [Member], way: impl Fn(usize, usize) -> Way) -> Vec<String> {
    let ids: Vec<_> = members.iter().map(|m| (m.id(), m.name().to_owned())).collect();
    let mut wrong = Vec::new();
    for (a, member) in members.iter_mut().enumerate() {
        let report = member.report();
        for (b, (id, name)) in ids.iter().enumerate().filter(|(b, _)| *b != a) {
            let (peer, expected) = (peer_of(&report, *id), way(a, b));
            if !expected.is_that_of(&peer) {
                let (state, path) = (&peer["state"], &peer["path"]);
                wrong.push(format!(
                    "{} to {name} should be {expected:?}: {state} {path}",
                    member.name()
                ));
            }
        }
    }
    wrong
}

/// Every two of so many, the lower number first.
pub(crate) fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
}
