//! Hosts out of network namespaces.
//!
//! A [`Lab`] owns namespaces ([`Host`]s), the links between them, and a directory for what its processes print. Links
//! are made inside the namespaces, never in the machine's own, so any number of labs run side by side with the same
//! interface names and addresses. When the lab is dropped, or its process dies, a child (`reaper`) kills whoever is
//! in the namespaces and deletes them; with them go their interfaces.
//!
//! For peers that are far from each other there is an [`Internet`]: a router with a stated delay, and behind it machines
//! and [`Nat`]s with more machines. [`servers`] are what such peers meet at.
//!
//! Needs root, and the tools `ip` and `ethtool`; [`tools`] also runs `ping` and `iperf3`, NATs need `nft`.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use ipop_perf::lab::{Lab, LinkOptions, tools};
//! let lab = Lab::new("example")?;
//! let (a, b) = (lab.host("a")?, lab.host("b")?);
//! let link = lab.link(&a, &b, LinkOptions::new().mtu(1280))?;
//! tools::Ping::to(link.b.ipv4).run(&a)?.expect_no_loss()?;
//! # Ok(()) }
//! ```

mod host;
mod internet;
mod nat;
mod network;
mod process;
mod reaper;
pub mod servers;
pub mod stun;
mod terminal;
pub mod tools;

use std::{
    fs, io,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

pub use self::{
    host::{Host, InterfaceCounters, enter_netns},
    internet::{Access, Attached, Internet, InternetOptions, Place, Site, Traffic},
    nat::{Nat, NatKind, NatOptions},
    network::{BridgeSite, Interface, Link, LinkOptions, SiteOptions},
    process::{Exit, Process, Usage},
    reaper::clean,
    terminal::AtTerminal,
};
pub use rustix::process::Signal;

/// Namespaces, links and processes that vanish together.
#[derive(Debug)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    reaper: Arc<Mutex<reaper::Reaper>>,
    links: AtomicU32,
    vms: AtomicU32,
}

impl Lab {
    /// An empty lab. The label (letters and digits) appears in the names of its namespaces.
    ///
    /// # Errors
    /// Without root, or when the reaper can't be started.
    pub fn new(label: &str) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        ensure!(
            rustix::process::geteuid().is_root(),
            "the lab makes network namespaces and TAPs: run this as root (for example with sudo)"
        );
        ensure!(is_plain(label), "a lab's label is made of letters and digits, not {label:?}");
        let name = format!(
            "{}{}-{}-{label}",
            reaper::PREFIX,
            std::process::id(),
            LABS.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(&name);
        let mut reaper = reaper::Reaper::start()?;
        reaper.register_dir(&dir)?;
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let (links, vms) = (AtomicU32::new(0), AtomicU32::new(0));
        Ok(Self { name, dir, reaper: Arc::new(Mutex::new(reaper)), links, vms })
    }

    /// A new host: a network namespace with its loopback up and nothing else.
    ///
    /// # Errors
    /// When the name is taken, or the kernel refuses.
    pub fn host(&self, name: &str) -> Result<Host> {
        ensure!(is_plain(name), "a host's name is made of letters and digits, not {name:?}");
        let netns = format!("{}-{name}", self.name);
        let gate = reaper::open_gate();
        let mut reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        reaper.register_netns(&netns)?;
        reaper.register_dir(&host::netns_files(&netns))?;
        drop(reaper);
        ip(&["netns", "add", &netns])?;
        drop(gate);
        let host = Host::new(name, &netns, &self.dir);
        host.hide_configuration()?;
        host.enter(quiet_ipv6)?.context("setting the IPv6 defaults of a namespace")?;
        host.enter(unpaced_tcp)?.context("setting TCP's congestion control in a namespace")?;
        host.ip_batch(&["link set lo up".into()])?;
        Ok(host)
    }

    /// From now on Ctrl-C (SIGINT, as SIGTERM and SIGHUP) ends the program when everything is removed, and not before:
    /// whoever waits for it finds nothing left.
    ///
    /// # Errors
    /// When the signals can't be watched.
    pub fn end_at_signals(&self) -> Result<()> {
        reaper::finish_at_signals(self.reaper.clone())
    }

    /// The directory for what the lab's processes print; state and keys can go there too. It goes with the lab.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// The last lines that each process printed: what one wants to see when a test fails.
    fn show_output(&self) {
        const LINES: usize = 20;
        let mut files: Vec<_> =
            self.dir.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "log")) {
            let text = fs::read(file).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            if !lines.is_empty() {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                eprintln!("---- {name}, the end of {} lines", lines.len());
                lines[lines.len().saturating_sub(LINES)..].iter().for_each(|l| eprintln!("{l}"));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_output();
        }
        let mut reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = reaper.finish() {
            eprintln!("{error:#}; `ipop-perf clean` removes what is left");
        }
    }
}

/// Asks every 10 ms until the condition holds, at most for this long; whether it held.
#[must_use]
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Makes a host forward what is not for itself, and be silent about better ways.
fn route(host: &Host) -> Result<()> {
    let settings = [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        ("ipv6/conf/all/forwarding", "1"),
        // Where the kernel has it, packets between ports of a bridge would pass the firewall too.
        ("bridge/bridge-nf-call-iptables", "0"),
    ];
    settings.iter().try_for_each(|(key, value)| host.set_sysctl(key, value))
}

/// Runs `ip` in the machine's own namespace.
fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("running `ip` (iproute2)")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {}` failed: {}", args.join(" "), error.trim());
    Ok(())
}

/// Interfaces made from now on use their IPv6 address at once, and send nothing on their own account.
fn quiet_ipv6() -> io::Result<()> {
    for (key, value) in [("accept_dad", "0"), ("dad_transmits", "0"), ("router_solicitations", "0")]
    {
        for scope in ["all", "default"] {
            match fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/{key}"), value) {
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// TCP sockets begin with a congestion control that does not pace, as on most machines, whatever this one prefers. One that begins with BBR is paced for life, even when it
/// changes to another, and a superframe at a time costs every tunnel more.
fn unpaced_tcp() -> io::Result<()> {
    let set = |name| fs::write("/proc/sys/net/ipv4/tcp_congestion_control", name);
    // Namespaces get what the machine allows to all users. Reno is always that.
    set("cubic").or_else(|_| set("reno"))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= 32 && name.chars().all(|c| c.is_ascii_alphanumeric())
}
