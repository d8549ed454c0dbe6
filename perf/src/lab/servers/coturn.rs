//! Coturn: STUN and TURN with credentials that expire, derived from a secret that it shares with the XMPP server.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{TURN_SECRET, directory, wait_until_ready};
use crate::lab::{Attached, Exit, Lab, Process, stun};

/// How a server is configured: by default port 3478, a hundred relayed ports, STUN for everybody and TURN by
/// credentials that [`Prosody`](super::Prosody) hands out.
#[derive(Clone, Debug)]
pub struct CoturnOptions {
    port: u16,
    users: Users,
    more: Vec<String>,
}

#[derive(Clone, Debug)]
enum Users {
    OfTheXmppServer,
    One { name: String, password: String },
}

impl CoturnOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self { port: 3478, users: Users::OfTheXmppServer, more: Vec::new() }
    }

    /// TURN for this user alone, whose credentials do not expire.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users = Users::One { name: name.into(), password: password.into() };
        self
    }

    /// Another port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// One more line of its configuration, for example `user-quota=1`.
    #[must_use]
    pub fn more(mut self, line: &str) -> Self {
        self.more.push(line.into());
        self
    }

    fn configuration(&self, dir: &Path, at: &Attached) -> String {
        let users = match &self.users {
            Users::OfTheXmppServer => {
                format!("use-auth-secret\nstatic-auth-secret={TURN_SECRET}")
            }
            Users::One { name, password } => format!("lt-cred-mech\nuser={name}:{password}"),
        };
        let lines = [
            format!("listening-port={}", self.port),
            "min-port=40000".into(),
            "max-port=40099".into(),
            "no-tls".into(),
            "no-dtls".into(),
            "no-cli".into(),
            "fingerprint".into(),
            users,
            "realm=example.org".into(),
            "relay-threads=1".into(),
            "log-file=stdout".into(),
            "no-stdout-log".into(),
            "simple-log".into(),
            format!("pidfile={}/turnserver.pid", dir.display()),
            format!("userdb={}/turndb", dir.display()),
        ];
        let addresses = at.addresses().map(|ip| format!("listening-ip={ip}\nrelay-ip={ip}"));
        addresses.chain(lines).chain(self.more.clone()).map(|line| line + "\n").collect()
    }
}

impl Default for CoturnOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A STUN and TURN server. Started again after its end it knows no allocation any more.
#[derive(Debug)]
pub struct Coturn {
    at: Attached,
    dir: PathBuf,
    port: u16,
    process: Process,
}

impl Coturn {
    /// Starts it on a machine, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(lab: &Lab, at: &Attached, options: CoturnOptions) -> Result<Self> {
        let dir = directory(lab, at, "coturn")?;
        fs::write(dir.join("turnserver.conf"), options.configuration(&dir, at))
            .context("configuring coturn")?;
        let process = run(&dir, at, options.port)?;
        Ok(Self { at: at.clone(), dir, port: options.port, process })
    }

    /// Where it listens, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        (self.at.ipv4, self.port).into()
    }

    /// The same over IPv6, if its machine has it.
    pub fn ipv6_address(&self) -> Option<SocketAddr> {
        self.at.ipv6.map(|ip| (ip, self.port).into())
    }

    /// The secret that makes credentials (the `REST API` of TURN servers).
    pub fn secret(&self) -> &'static str {
        TURN_SECRET
    }

    /// The running process, or the one that ended: what it printed, what it costs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it: to clients it vanishes.
    ///
    /// # Errors
    /// When it can't be ended.
    pub fn kill(&mut self) -> Result<Exit> {
        self.process.kill()
    }

    /// Starts it again after its end, and waits until it answers.
    ///
    /// # Errors
    /// When it still runs, or does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "coturn is running");
        self.process = run(&self.dir, &self.at, self.port)?;
        Ok(())
    }
}

fn run(dir: &Path, at: &Attached, port: u16) -> Result<Process> {
    let configuration = dir.join("turnserver.conf");
    let mut process = at.host.spawn("turnserver", ["-c".as_ref(), configuration.as_os_str()])?;
    let server = SocketAddr::from((at.ipv4, port));
    wait_until_ready(&mut process, "STUN", || stun::observed_address(&at.host, server).is_ok())?;
    Ok(process)
}
