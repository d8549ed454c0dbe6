//! Prosody: an XMPP server with rooms, configured as an operator would for one's own domain.
//!
//! Accounts and rooms are files below its directory, so they outlive a restart, also a kill.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{
    Authority, Coturn, TURN_SECRET, Validity, XmppServer, directory, password_of, wait_for_port,
};
use crate::lab::{Attached, Exit, Lab, Process};

/// The port for plain connections that are upgraded with STARTTLS.
const PORT: u16 = 5222;

/// How a server is configured: by default the domain `example.org`, every TLS version that Prosody offers by itself, SCRAM,
/// stream management, no limits, and no accounts.
#[derive(Clone, Debug)]
pub struct ProsodyOptions {
    domain: String,
    accounts: Vec<(String, String)>,
    mechanisms: Mechanisms,
    limits: Limits,
    stream_management: StreamManagement,
    tls: TlsVersions,
    direct_tls_port: u16,
    certificate_names: Option<Vec<String>>,
    validity: Validity,
    turn: Option<SocketAddr>,
    turn_ipv6: Option<SocketAddr>,
    turn_ttl_s: u32,
    more: String,
    hosts: Option<String>,
}

/// Which versions of TLS a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersions {
    /// What it offers when it is not told: 1.2 and 1.3.
    Default,
    /// 1.2 alone.
    Only1_2,
    /// 1.3 alone.
    Only1_3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mechanisms {
    All,
    PlainOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limits {
    None,
    AsDebian,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamManagement {
    Off,
    On { hibernation_s: u32 },
}

impl ProsodyOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            domain: "example.org".into(),
            accounts: Vec::new(),
            mechanisms: Mechanisms::All,
            limits: Limits::None,
            stream_management: StreamManagement::On { hibernation_s: 60 },
            tls: TlsVersions::Default,
            direct_tls_port: 5223,
            certificate_names: None,
            validity: Validity::Long,
            turn: None,
            turn_ipv6: None,
            turn_ttl_s: 3600,
            more: String::new(),
            hosts: None,
        }
    }

    /// Another domain.
    #[must_use]
    pub fn domain(mut self, domain: &str) -> Self {
        self.domain = domain.into();
        self
    }

    /// Accounts `NAME@domain`, whose passwords [`XmppServer::password`] knows.
    #[must_use]
    pub fn accounts<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.accounts.extend(names.into_iter().map(|name| (name.into(), password_of(name))));
        self
    }

    /// The limits that Debian configures: what a client sends is read at 10 kB/s.
    #[must_use]
    pub fn limits_as_debian(mut self) -> Self {
        self.limits = Limits::AsDebian;
        self
    }

    /// No SCRAM: passwords cross as they are, inside TLS.
    #[must_use]
    pub fn plain_only(mut self) -> Self {
        self.mechanisms = Mechanisms::PlainOnly;
        self
    }

    /// No stream management (XEP-0198).
    #[must_use]
    pub fn without_stream_management(mut self) -> Self {
        self.stream_management = StreamManagement::Off;
        self
    }

    /// A session whose connection is gone can be resumed for so long, instead of a minute.
    #[must_use]
    pub fn hibernation_s(mut self, seconds: u32) -> Self {
        self.stream_management = StreamManagement::On { hibernation_s: seconds };
        self
    }

    /// Only these versions.
    #[must_use]
    pub fn tls(mut self, versions: TlsVersions) -> Self {
        self.tls = versions;
        self
    }

    /// The port for direct TLS (XEP-0368), by default 5223.
    #[must_use]
    pub fn direct_tls_port(mut self, port: u16) -> Self {
        self.direct_tls_port = port;
        self
    }

    /// A certificate for other names than the domain and its rooms' service, valid or not.
    #[must_use]
    pub fn certificate<'a>(
        mut self,
        names: impl IntoIterator<Item = &'a str>,
        validity: Validity,
    ) -> Self {
        self.certificate_names = Some(names.into_iter().map(str::to_owned).collect());
        self.validity = validity;
        self
    }

    /// Tells clients of this server, with credentials (XEP-0215).
    #[must_use]
    pub fn turn(mut self, coturn: &Coturn) -> Self {
        (self.turn, self.turn_ipv6) = (Some(coturn.address()), coturn.ipv6_address());
        self
    }

    /// These credentials are valid for so long.
    #[must_use]
    pub fn turn_ttl_s(mut self, seconds: u32) -> Self {
        self.turn_ttl_s = seconds;
        self
    }

    /// More lines for the global section of its configuration, in Lua.
    #[must_use]
    pub fn more(mut self, lines: &str) -> Self {
        self.more += lines;
        self.more.push('\n');
        self
    }

    /// These sections, in Lua, in place of those for the domain and its rooms' service.
    #[must_use]
    pub fn hosts(mut self, sections: &str) -> Self {
        self.hosts = Some(sections.into());
        self
    }

    /// The configuration file. `dir` holds everything that the server reads and writes.
    fn configuration(&self, dir: &Path, at: &Attached) -> Result<String> {
        let dir = dir.display();
        let Self { domain, direct_tls_port, turn_ttl_s, more, .. } = self;
        let mut modules =
            vec!["roster", "saslauth", "tls", "disco", "ping", "pep", "blocklist", "posix"];
        modules.extend(["version", "time"]);
        let mut options = String::new();
        if let StreamManagement::On { hibernation_s } = self.stream_management {
            modules.push("smacks");
            writeln!(options, "smacks_hibernation_time = {hibernation_s}")?;
        }
        if self.limits == Limits::AsDebian {
            modules.push("limits");
            options += "limits = { c2s = { rate = \"10kb/s\" }; s2sin = { rate = \"30kb/s\" } }\n";
        }
        if let Some(turn) = self.turn {
            modules.push("turn_external");
            let (host, port) = (turn.ip(), turn.port());
            writeln!(options, "turn_external_secret = \"{TURN_SECRET}\"")?;
            writeln!(options, "turn_external_host = \"{host}\"; turn_external_port = {port}")?;
            writeln!(options, "turn_external_ttl = {turn_ttl_s}; turn_external_tcp = true")?;
        }
        if let Some(turn) = self.turn_ipv6 {
            // The module above knows of one address alone; this is what it is made with.
            modules.push("external_services");
            let at = format!("host = \"{}\"; port = {}", turn.ip(), turn.port());
            let secret = format!("secret = \"{TURN_SECRET}\"; ttl = {turn_ttl_s}");
            writeln!(options, "external_services = {{")?;
            writeln!(options, "{{ type = \"stun\"; transport = \"udp\"; {at} }};")?;
            writeln!(options, "{{ type = \"turn\"; transport = \"udp\"; {at}; {secret} }}; }}")?;
        }
        if self.mechanisms == Mechanisms::PlainOnly {
            let others = "\"SCRAM-SHA-1\"; \"SCRAM-SHA-1-PLUS\"; \"SCRAM-SHA-256\"; \"SCRAM-SHA-256-PLUS\"; \"DIGEST-MD5\"";
            writeln!(options, "disable_sasl_mechanisms = {{ {others} }}")?;
        }
        let protocol = match self.tls {
            TlsVersions::Default => "",
            TlsVersions::Only1_2 => "protocol = \"tlsv1_2\";",
            TlsVersions::Only1_3 => "protocol = \"tlsv1_3\";",
        };
        let modules = modules.join("\"; \"");
        let hosts = self.hosts.clone().unwrap_or_else(|| {
            format!("VirtualHost \"{domain}\"\nComponent \"muc.{domain}\" \"muc\"\n")
        });
        let interfaces: Vec<_> = at.addresses().map(|ip| ip.to_string()).collect();
        let interfaces = interfaces.join("\"; \"");
        Ok(format!(
            "daemonize = false; run_as_root = true
data_path = \"{dir}/data\"; certificates = \"{dir}/certs\"; pidfile = \"{dir}/prosody.pid\"
log = {{ info = \"*console\" }}
interfaces = {{ \"{interfaces}\" }}
c2s_ports = {{ {PORT} }}; c2s_direct_tls_ports = {{ {direct_tls_port} }}
s2s_ports = {{}}; s2s_direct_tls_ports = {{}}; http_ports = {{}}; https_ports = {{}}
modules_enabled = {{ \"{modules}\" }}
modules_disabled = {{ \"s2s\"; \"offline\" }}
c2s_require_encryption = true; authentication = \"internal_plain\"; storage = \"internal\"
ssl = {{ key = \"{dir}/certs/server.key\"; certificate = \"{dir}/certs/server.crt\"; {protocol} }}
{options}{more}{hosts}
"
        ))
    }
}

impl Default for ProsodyOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// An XMPP server. After [`Prosody::stop`] or [`Prosody::kill`] it can be started again, with all that it has stored.
#[derive(Debug)]
pub struct Prosody {
    at: Attached,
    dir: PathBuf,
    domain: String,
    direct_tls_port: u16,
    process: Process,
}

impl Prosody {
    /// Starts it on a machine, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(lab: &Lab, at: &Attached, options: ProsodyOptions) -> Result<Self> {
        let dir = directory(lab, at, "prosody")?;
        for name in ["data", "certs"] {
            fs::create_dir(dir.join(name)).with_context(|| format!("making {name} for Prosody"))?;
        }
        let domain = &options.domain;
        let names = options.certificate_names.clone();
        let names = names.unwrap_or_else(|| vec![domain.clone(), format!("muc.{domain}")]);
        let authority = Authority::new()?;
        let issued = authority.issue(&names, options.validity)?;
        fs::write(dir.join("ca.crt"), authority.certificate_pem())?;
        fs::write(dir.join("certs/server.crt"), issued.certificate_pem)?;
        fs::write(dir.join("certs/server.key"), issued.key_pem)?;
        fs::write(dir.join("prosody.cfg.lua"), options.configuration(&dir, at)?)?;
        for (name, password) in &options.accounts {
            write_account(&dir, domain, name, password)?;
        }
        let process = run(&dir, at, options.direct_tls_port)?;
        Ok(Self {
            at: at.clone(),
            dir,
            domain: options.domain,
            direct_tls_port: options.direct_tls_port,
            process,
        })
    }

    /// The same over IPv6, if its machine has it.
    pub fn ipv6_address(&self) -> Option<SocketAddr> {
        self.at.ipv6.map(|ip| (ip, PORT).into())
    }

    /// The address for direct TLS.
    pub fn direct_tls_address(&self) -> SocketAddr {
        (self.at.ipv4, self.direct_tls_port).into()
    }

    /// Makes an account, also while the server runs.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn add_account(&self, account: &str) -> Result<()> {
        self.set_password(account, &password_of(account))
    }

    /// Gives an account another password than [`XmppServer::password`] says.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn set_password(&self, account: &str, password: &str) -> Result<()> {
        write_account(&self.dir, &self.domain, account, password)
    }

    /// The running process, or the one that ended: what it printed, what it costs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it as an operator does: clients are told.
    ///
    /// # Errors
    /// When it can't be ended.
    pub fn stop(&mut self) -> Result<Exit> {
        self.process.terminate()
    }

    /// Ends it as a crash does: clients see their connections reset.
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
        ensure!(!self.process.is_running(), "Prosody is running");
        self.process = run(&self.dir, &self.at, self.direct_tls_port)?;
        Ok(())
    }
}

impl XmppServer for Prosody {
    fn domain(&self) -> &str {
        &self.domain
    }

    fn rooms(&self) -> String {
        format!("muc.{}", self.domain)
    }

    fn address(&self) -> SocketAddr {
        (self.at.ipv4, PORT).into()
    }

    fn directory(&self) -> &Path {
        &self.dir
    }
}

fn run(dir: &Path, at: &Attached, direct_tls_port: u16) -> Result<Process> {
    let configuration = dir.join("prosody.cfg.lua");
    let args = ["-F".as_ref(), "--config".as_ref(), configuration.as_os_str()];
    let mut process = at.host.spawn("prosody", args)?;
    // It opens them in any order, and serves none before all are open.
    for port in [PORT, direct_tls_port] {
        wait_for_port(&mut process, at, port)?;
    }
    Ok(process)
}

/// The file in which Prosody's `internal` storage keeps an account.
fn write_account(dir: &Path, domain: &str, account: &str, password: &str) -> Result<()> {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || " -_.".contains(c));
    ensure!(plain(account) && plain(password), "account {account:?}: only letters and digits");
    let escaped = |text: &str| text.replace('.', "%2e").replace('-', "%2d").replace('_', "%5f");
    let accounts = dir.join("data").join(escaped(domain)).join("accounts");
    let path = accounts.join(format!("{}.dat", escaped(account)));
    fs::create_dir_all(&accounts)
        .and_then(|()| {
            fs::write(&path, format!("return {{ [\"password\"] = \"{password}\"; }};\n"))
        })
        .with_context(|| format!("writing {}", path.display()))
}
