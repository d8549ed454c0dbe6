//! What is compared: each tunnel that users would otherwise pick, how it is found, its settings, and how it is started.
//!
//! Every contender joins the same two hosts over the same underlay, with the best settings of its own that still protect
//! what crosses (see [`Contender::settings`]); the start of each is one function under `tunnels/`.

use std::{
    env, fmt, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::tunnels;
use crate::lab::{Host, Interface, Lab, Process, tools::Ping, wait_until};

/// How long a tunnel may take to come up. fastd whose first handshake comes too early, or is lost, tries again after 15 to 20 s.
const UP_LIMIT: Duration = Duration::from_secs(60);

/// A way to connect two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// The underlay itself.
    Veth,
    /// The kernel's VXLAN, in the clear.
    Vxlan,
    /// This program, one worker.
    Switch,
    /// This program, two workers.
    Switch2,
    /// This program, one worker, busy polling.
    SwitchPoll,
    /// The obvious implementation.
    Obvious,
    /// vpncloud.
    Vpncloud,
    /// fastd.
    Fastd,
    /// fastd without encryption.
    FastdNull,
    /// tinc 1.0.
    Tinc,
    /// n2n.
    N2n,
    /// OpenVPN with a TAP.
    Openvpn,
    /// wireguard-go.
    WireguardGo,
    /// quincy.
    Quincy,
}

/// What a contender carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Frames.
    Ethernet,
    /// IP packets.
    Ip,
}

/// Whether what crosses the underlay can be read there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Secrecy {
    /// Encrypted and authenticated.
    Encrypted,
    /// In the clear.
    Clear,
}

/// The two hosts, and what all contenders are told.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The lab that they are in.
    pub lab: &'a Lab,
    /// The host that dials.
    pub a: &'a Host,
    /// The host that is dialled.
    pub b: &'a Host,
    /// The underlay's interface of `a`.
    pub underlay_a: &'a Interface,
    /// The underlay's interface of `b`.
    pub underlay_b: &'a Interface,
    /// MTU of the overlay.
    pub inner_mtu: u16,
}

/// A contender that is up; dropping it ends it.
#[derive(Debug)]
pub struct Tunnel {
    /// Its programs, in no order; none for what the kernel does.
    pub processes: Vec<Process>,
    /// The interfaces through which `a` and `b` reach it.
    pub interfaces: [String; 2],
    /// The address of `b` on it.
    pub address_b: Ipv4Addr,
    kernel: Option<tunnels::kernel::Link>,
}

/// Addresses on the overlay.
pub const ADDRESS_A: Ipv4Addr = Ipv4Addr::new(192, 168, 99, 1);
/// See [`ADDRESS_A`].
pub const ADDRESS_B: Ipv4Addr = Ipv4Addr::new(192, 168, 99, 2);

impl Contender {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 14] = [
        Self::Veth,
        Self::Vxlan,
        Self::Switch,
        Self::Switch2,
        Self::SwitchPoll,
        Self::Obvious,
        Self::Vpncloud,
        Self::Fastd,
        Self::FastdNull,
        Self::Tinc,
        Self::N2n,
        Self::Openvpn,
        Self::WireguardGo,
        Self::Quincy,
    ];

    /// As it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth (no tunnel)",
            Self::Vxlan => "kernel VXLAN",
            Self::Switch => "ipop-switch",
            Self::Switch2 => "ipop-switch, 2 workers",
            Self::SwitchPoll => "ipop-switch, busy polling",
            Self::Obvious => "obvious implementation",
            Self::Vpncloud => "vpncloud",
            Self::Fastd => "fastd",
            Self::FastdNull => "fastd null",
            Self::Tinc => "tinc",
            Self::N2n => "n2n",
            Self::Openvpn => "OpenVPN",
            Self::WireguardGo => "wireguard-go",
            Self::Quincy => "quincy",
        }
    }

    /// Whether it is a program of this project.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Switch | Self::Switch2 | Self::SwitchPoll | Self::Obvious)
    }

    /// What it carries.
    pub fn layer(self) -> Layer {
        match self {
            Self::WireguardGo | Self::Quincy => Layer::Ip,
            _ => Layer::Ethernet,
        }
    }

    /// Whether it encrypts.
    pub fn secrecy(self) -> Secrecy {
        match self {
            Self::Veth | Self::Vxlan | Self::FastdNull => Secrecy::Clear,
            _ => Secrecy::Encrypted,
        }
    }

    /// The settings that it runs with, for the report.
    pub fn settings(self) -> &'static str {
        match self {
            Self::Veth => "the underlay itself, at its own MTU",
            Self::Vxlan => "unicast remote, port 4789, UDP checksums as the kernel sets them",
            Self::Switch => "--workers 1, all else by default",
            Self::Switch2 => "--workers 2, all else by default",
            Self::SwitchPoll => "--workers 1 --busy-poll 20000, all else by default",
            Self::Obvious => "one frame a datagram, stock quinn",
            Self::Vpncloud => "type tap, mode switch, AES-128-GCM (its fastest here)",
            Self::Fastd => "mode tap, method aes128-gcm",
            Self::FastdNull => "mode tap, method null: no encryption, no authentication",
            Self::Tinc => "mode switch, AES-128-CBC, SHA-1, 2048-bit RSA",
            Self::N2n => "version 1 of Debian: Twofish; the supernode runs beside a",
            Self::Openvpn => "dev tap, UDP, AES-128-GCM, system's socket buffers, fast-io",
            Self::WireguardGo => "as Debian has it: ChaCha20-Poly1305; IP only",
            Self::Quincy => "built with its offload feature; QUIC on stock quinn; IP only",
        }
    }

    /// How to get it.
    pub fn source(self) -> &'static str {
        match self {
            Self::Veth | Self::Vxlan => "the kernel",
            Self::Switch | Self::Switch2 | Self::SwitchPoll | Self::Obvious => "this project",
            Self::Fastd | Self::FastdNull => "apt-get install fastd",
            Self::Tinc => "apt-get install tinc",
            Self::N2n => "apt-get install n2n",
            Self::Openvpn => "apt-get install openvpn",
            Self::WireguardGo => "apt-get install wireguard-go wireguard-tools",
            Self::Vpncloud | Self::Quincy => "perf/install-peers",
        }
    }

    /// The programs that it consists of.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Veth | Self::Vxlan => &["ip"],
            Self::Switch | Self::Switch2 | Self::SwitchPoll => &["ipop-switch"],
            Self::Obvious => &["ipop-obvious"],
            Self::Vpncloud => &["vpncloud"],
            Self::Fastd | Self::FastdNull => &["fastd"],
            Self::Tinc => &["tincd"],
            Self::N2n => &["edge", "supernode"],
            Self::Openvpn => &["openvpn"],
            Self::WireguardGo => &["wireguard-go", "wg"],
            Self::Quincy => &["quincy-server", "quincy-client"],
        }
    }

    /// What is missing to run it, if anything.
    pub fn missing(self) -> Option<&'static str> {
        self.programs().iter().copied().find(|program| find(program).is_err())
    }

    /// The version that its program tells.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn version(self, host: &Host) -> Result<String> {
        let program = find(self.programs()[0])?;
        let printed = match self {
            Self::Veth | Self::Vxlan => return Ok("Linux".into()),
            Self::N2n => return Ok(n2n_version(&program)),
            Self::Quincy => return Ok(cargo_version(&program).unwrap_or_default()),
            Self::WireguardGo | Self::Tinc | Self::Openvpn => first_line(&program, "--version"),
            _ => host.run(&program, ["--version"]).unwrap_or_default(),
        };
        Ok(printed.lines().next().unwrap_or_default().trim().into())
    }

    /// Starts it, and waits until packets of the overlay's MTU cross.
    ///
    /// # Errors
    /// When a program is missing, or nothing crosses within a minute.
    pub fn start(self, site: &Site<'_>) -> Result<Tunnel> {
        let mut tunnel = match self {
            Self::Veth => tunnels::kernel::veth(site),
            Self::Vxlan => tunnels::kernel::vxlan(site),
            Self::Switch => tunnels::own::switch(site, &["--workers", "1"]),
            Self::Switch2 => tunnels::own::switch(site, &["--workers", "2"]),
            Self::SwitchPoll => {
                tunnels::own::switch(site, &["--workers", "1", "--busy-poll", "20000"])
            }
            Self::Obvious => tunnels::own::obvious(site),
            Self::Vpncloud => tunnels::vpncloud::start(site),
            Self::Fastd => tunnels::fastd::start(site, "aes128-gcm"),
            Self::FastdNull => tunnels::fastd::start(site, "null"),
            Self::Tinc => tunnels::tinc::start(site),
            Self::N2n => tunnels::n2n::start(site),
            Self::Openvpn => tunnels::openvpn::start(site),
            Self::WireguardGo => tunnels::wireguard::start(site),
            Self::Quincy => tunnels::quincy::start(site),
        }
        .with_context(|| format!("starting {}", self.name()))?;
        let largest = u32::from(site.inner_mtu) - 28;
        let ping = Ping::to(tunnel.address_b).unfragmented(largest);
        let answers = || ping.run(site.a).is_ok_and(|report| report.received > 0);
        let up = wait_until(UP_LIMIT, answers);
        ensure!(up, "nothing crosses {}:\n{}", self.name(), tunnel.last_words());
        Ok(tunnel)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Tunnel {
    /// A tunnel made by programs.
    pub(super) fn of_programs(processes: Vec<Process>, interfaces: [String; 2]) -> Self {
        Self { processes, interfaces, address_b: ADDRESS_B, kernel: None }
    }

    /// A tunnel made by the kernel.
    pub(super) fn of_kernel(link: tunnels::kernel::Link, address_b: Ipv4Addr) -> Self {
        let interfaces = link.interfaces.clone();
        Self { processes: Vec::new(), interfaces, address_b, kernel: Some(link) }
    }

    /// CPU seconds that its programs have used so far.
    ///
    /// # Errors
    /// When one has ended.
    pub fn cpu_s(&mut self) -> Result<f64> {
        self.processes.iter_mut().map(|process| Ok(process.usage()?.cpu_s())).sum()
    }

    /// Resident memory of its programs together, KiB.
    ///
    /// # Errors
    /// When one has ended.
    pub fn rss_kib(&mut self) -> Result<u64> {
        self.processes.iter_mut().map(|process| Ok(process.usage()?.rss_kib)).sum()
    }

    /// Whether the kernel alone does the work, so that nobody's CPU time can be read.
    pub fn is_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a program can't be waited for.
    pub fn stop(mut self) -> Result<()> {
        for process in &mut self.processes {
            process.terminate()?;
        }
        Ok(())
    }

    fn last_words(&mut self) -> String {
        let said = |process: &Process| {
            format!("{}:\n{}{}", process.label(), process.stdout(), process.stderr())
        };
        self.processes.iter().map(said).collect()
    }
}

/// The program's file: beside this one, in `target/peers/bin`, where `IPOP_PEERS` points, or in the system's path.
///
/// # Errors
/// When it is in none of these.
pub fn find(program: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("finding the running program")?;
    let beside = own.ancestors().skip(1).take(2).map(Path::to_owned);
    let peers = own.ancestors().filter(|dir| dir.ends_with("target")).map(|d| d.join("peers/bin"));
    let given = env::var_os("IPOP_PEERS").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let system = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    beside
        .chain(given)
        .chain(peers)
        .chain(system)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("{program} is not installed"))
}

/// Some print their version and fail; some print it on standard error.
fn first_line(program: &Path, argument: &str) -> String {
    let Ok(output) = std::process::Command::new(program).arg(argument).output() else {
        return String::new();
    };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().into()
}

/// What `cargo install` noted of a program that does not tell its version.
fn cargo_version(program: &Path) -> Option<String> {
    let name = program.file_name()?.to_str()?;
    let notes = fs::read_to_string(program.parent()?.parent()?.join(".crates.toml")).ok()?;
    let start = format!("\"{name} ");
    let version = notes.lines().find_map(|line| line.strip_prefix(&start)?.split(' ').next())?;
    Some(format!("{name} {version}"))
}

fn n2n_version(program: &Path) -> String {
    first_line(program, "-h").split(" for ").next().unwrap_or_default().replace("Welcome to ", "")
}
