//! A virtual network on an internet of the lab: a real Prosody, a real coturn, a room, and nodes that join it by the token.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    counters,
    lab::{
        Host, Internet, InternetOptions,
        servers::{ProsodyOptions, Servers, XmppServer as _},
        wait_until,
    },
    tunnel::{Node, Program, Running},
};

/// How long two nodes may take to find each other, and to change between paths: far more than they should.
pub(super) const FOUND_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at the counters.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const ROOM: &str = "vmnet";

/// The servers, the internet around them, and the token of the room.
#[derive(Debug)]
pub(super) struct Network {
    // Servers end before the namespaces that they are in.
    pub(super) servers: Servers,
    pub(super) internet: Internet,
    binary: PathBuf,
    token: String,
}

/// The inner address of a node, by its number.
pub(super) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, number as u8 + 1)
}

impl Network {
    /// Servers and a room; accounts for two nodes.
    pub(super) fn start(label: &str, options: InternetOptions) -> Result<Self> {
        let internet = Internet::new(label, options)?;
        let accounts = ProsodyOptions::new().accounts(["admin", "n0", "n1"]);
        let servers = Servers::start(&internet, accounts)?;
        let binary = Program::Switch.find()?;
        let host = &servers.machine.host;
        let secret = internet.lab().dir().join("network.secret");
        fs::write(&secret, host.run(&binary, ["secret", "new"])?)
            .and_then(|()| fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)))
            .with_context(|| format!("writing {}", secret.display()))?;
        let mut line = vec!["room".to_owned(), "create".into(), servers.prosody.room(ROOM)];
        line.extend(account(&servers, "admin")?);
        line.extend(["--network-secret-file".into(), secret.display().to_string()]);
        let token = host.run(&binary, line)?.trim().to_owned();
        Ok(Self { servers, internet, binary, token })
    }

    /// A node with a new key, which has the inner address of its number and its account.
    pub(super) fn node(&self, number: usize, host: &Host) -> Result<Node> {
        let mut node = Node::with_binary(self.internet.lab(), host, Program::Switch, &self.binary)?;
        let mut args = account(&self.servers, &format!("n{number}"))?;
        args.extend(["--join".into(), self.token.clone(), "--name".into(), host.name().into()]);
        args.extend(["--address".into(), format!("{}/24", address(number))]);
        // What a switch says must not cost the figures anything, but explain them.
        args.extend(["--log".into(), "debug".into()]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        node.args(&args);
        Ok(node)
    }

    /// Two nodes on these hosts that have found each other, by a path of this kind.
    pub(super) fn pair(&self, hosts: [&Host; 2], kind: &str) -> Result<[Running; 2]> {
        let [a, b] = hosts;
        let mut both = [self.node(0, a)?.start()?, self.node(1, b)?.start()?];
        both[0].wait_for_answer(address(1).into())?;
        wait_for_path(&mut both, kind)?;
        Ok(both)
    }
}

/// The flags with which an account logs in.
fn account(servers: &Servers, name: &str) -> Result<Vec<String>> {
    let prosody = &servers.prosody;
    let password = prosody.password_file(name)?.display().to_string();
    let (jid, server) = (prosody.jid(name), prosody.address().to_string());
    let ca = prosody.ca_file().display().to_string();
    let flags = [
        ("--xmpp-jid", jid),
        ("--xmpp-password-file", password),
        ("--xmpp-server", server),
        ("--xmpp-ca", ca),
    ];
    Ok(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect())
}

/// What a node says about the path to its only peer.
pub(super) fn path(node: &mut Running) -> Result<Value> {
    Ok(counters::ask(&mut node.process)?["peers"][0]["path"].clone())
}

/// Waits until both nodes have a path of this kind; how long it took.
pub(super) fn wait_for_path(nodes: &mut [Running; 2], kind: &str) -> Result<Duration> {
    let start = Instant::now();
    for node in nodes {
        wait_for_report(node, kind, |report| report["peers"][0]["path"]["kind"] == kind)?;
    }
    Ok(start.elapsed())
}

/// Waits until the counters are as wanted.
pub(super) fn wait_for_report(
    node: &mut Running,
    what: &str,
    accept: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut report = Value::Null;
    let found = wait_until(FOUND_LIMIT, || {
        report = counters::ask(&mut node.process).unwrap_or_default();
        let found = accept(&report);
        if !found {
            thread::sleep(LOOK_EVERY);
        }
        found
    });
    let label = node.process.label();
    ensure!(found, "{label} does not become {what}: {report}\n{}", node.process.stderr());
    Ok(report)
}
