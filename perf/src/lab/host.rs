//! A host of the lab: one network namespace, and what runs in it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{process::Process, reaper::open_gate};

/// How long [`Host::run`] lets a command run.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// A host: clones name the same one.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    netns: String,
    dir: PathBuf,
    interfaces: AtomicU32,
    processes: AtomicU32,
}

/// What the kernel counted at an interface: its own side, so a TAP's `tx` is what the program at its fd reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct InterfaceCounters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received (a superframe is one).
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that the device dropped at receiving.
    pub rx_dropped: u64,
    /// Packets that the device dropped at sending: at a TAP, its ring was full.
    pub tx_dropped: u64,
}

/// Runs this closure in a thread that is in a namespace, named as `ip netns` does.
///
/// # Errors
/// When the namespace can't be entered.
///
/// # Panics
/// When the closure does.
pub fn enter_netns<T: Send>(netns: &str, closure: impl FnOnce() -> T + Send) -> Result<T> {
    let path = Path::new("/run/netns").join(netns);
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let inside = || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("entering the namespace {netns}"))?;
        Ok(closure())
    };
    thread::scope(|scope| match scope.spawn(inside).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Where `ip netns exec` looks for files that take the place of those in `/etc`.
pub(super) fn netns_files(netns: &str) -> PathBuf {
    Path::new("/etc/netns").join(netns)
}

impl Host {
    pub(super) fn new(name: &str, netns: &str, dir: &Path) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            netns: netns.into(),
            dir: dir.into(),
            interfaces: AtomicU32::new(0),
            processes: AtomicU32::new(0),
        }))
    }

    /// The name that it was made with.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its namespace, as `ip netns` knows it.
    pub fn netns(&self) -> &str {
        &self.0.netns
    }

    /// Starts a program in the namespace, with its own `/sys`; its output goes to files of the lab.
    ///
    /// # Errors
    /// When `ip netns exec` can't be started. A program that does not exist shows as one that exits at once.
    pub fn spawn<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<Path>,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Process> {
        let program = program.as_ref();
        let base = program.file_name().unwrap_or_default().to_string_lossy();
        let number = self.0.processes.fetch_add(1, Ordering::Relaxed);
        let label = format!("{}-{number}-{base}", self.name());
        // `ip netns exec` ends in exec(2): the pid is the program's own.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.netns()]).arg(program).args(args);
        Process::start(command, &label, &self.0.dir)
    }

    /// Runs a program to its end, at most a minute, and gives back its standard output.
    ///
    /// # Errors
    /// When it fails; the error carries what it printed on standard error.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<Path>,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let mut process = self.spawn(program, args)?;
        let exit = process.wait(RUN_LIMIT)?;
        if !exit.status.success() {
            bail!("{} failed ({}): {}", process.label(), exit.status, process.stderr().trim());
        }
        Ok(process.stdout())
    }

    /// Runs this closure in a thread that is in the namespace: sockets and TAPs that it opens belong to the host.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    ///
    /// # Panics
    /// When the closure does.
    pub fn enter<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T> {
        enter_netns(self.netns(), closure)
    }

    /// Whether there is an interface of this name.
    pub fn has_interface(&self, interface: &str) -> bool {
        self.ip(&["link", "show", "dev", interface]).is_ok()
    }

    /// Gives an interface an address, for example `192.0.2.1/24`.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn add_address(&self, interface: &str, cidr: &str) -> Result<()> {
        let mut args = vec!["address", "add", cidr, "dev", interface];
        if cidr.contains(':') {
            args.push("nodad");
        }
        self.ip(&args).map(drop)
    }

    /// Sets an interface's MTU.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> Result<()> {
        self.ip(&["link", "set", "dev", interface, "mtu", &mtu.to_string()]).map(drop)
    }

    /// Turns off every offload that would let a superframe or an unfinished checksum through.
    ///
    /// # Errors
    /// When `ethtool` refuses.
    pub fn without_offloads(&self, interface: &str) -> Result<()> {
        let off = ["tx", "rx", "sg", "tso", "gso", "gro", "tx-udp-segmentation"];
        let args = ["-K", interface].into_iter().chain(off.into_iter().flat_map(|f| [f, "off"]));
        self.run("ethtool", args).map(drop)
    }

    /// The kernel's counters of an interface.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn counters(&self, interface: &str) -> Result<InterfaceCounters> {
        let text = self.ip(&["-json", "-stats", "link", "show", "dev", interface])?;
        let json: serde_json::Value = serde_json::from_str(&text).context("reading `ip -json`")?;
        let stats = &json[0]["stats64"];
        let count = |side: &str, what: &str| {
            stats[side][what].as_u64().ok_or_else(|| anyhow!("`ip -json` lacks {side} {what}"))
        };
        Ok(InterfaceCounters {
            rx_bytes: count("rx", "bytes")?,
            tx_bytes: count("tx", "bytes")?,
            rx_packets: count("rx", "packets")?,
            tx_packets: count("tx", "packets")?,
            rx_dropped: count("rx", "dropped")?,
            tx_dropped: count("tx", "dropped")?,
        })
    }

    /// Sets a variable below `/proc/sys/net`, in the namespace. One that this kernel does not have is left out.
    ///
    /// # Errors
    /// When the kernel refuses the value.
    pub(super) fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        match self.enter(|| fs::write(Path::new("/proc/sys/net").join(key), value))? {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.with_context(|| format!("setting net/{key} to {value}")),
        }
    }

    /// Loads nftables rules, given in the language of nft(8).
    ///
    /// # Errors
    /// When `nft` refuses them.
    pub fn load_firewall(&self, rules: &str) -> Result<()> {
        let number = self.0.processes.fetch_add(1, Ordering::Relaxed);
        let path = self.0.dir.join(format!("{}-{number}.nft", self.name()));
        fs::write(&path, rules).with_context(|| format!("writing {}", path.display()))?;
        self.run("nft", ["-f".as_ref(), path.as_os_str()]).map(drop)
    }

    /// Programs started from now on ask this name server. (`ip netns exec` shows them the files of a directory that is
    /// named after the namespace in the place of those in `/etc`.)
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn set_name_server(&self, address: Ipv4Addr) -> Result<()> {
        let dir = netns_files(self.netns());
        let _gate = open_gate();
        fs::create_dir_all(&dir)
            .and_then(|()| fs::write(dir.join("resolv.conf"), format!("nameserver {address}\n")))
            .and_then(|()| fs::write(dir.join("nsswitch.conf"), "hosts: files dns\n"))
            .with_context(|| format!("writing {}", dir.display()))
    }

    /// Programs started here do not see a configuration that this machine has for a switch of its own.
    pub(super) fn hide_configuration(&self) -> Result<()> {
        const NAME: &str = "ipop-switch";
        if !Path::new("/etc").join(NAME).is_dir() {
            return Ok(());
        }
        let dir = netns_files(self.netns()).join(NAME);
        let _gate = open_gate();
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))
    }

    /// Runs `ip` on the namespace and gives back what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        let _gate = open_gate();
        let output = Command::new("ip")
            .args(["-netns", self.netns()])
            .args(args)
            .output()
            .context("running `ip` (iproute2)")?;
        let error = String::from_utf8_lossy(&output.stderr);
        let (name, command) = (self.name(), args.join(" "));
        ensure!(output.status.success(), "host {name}: `ip {command}` failed: {}", error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Several `ip` commands by one process.
    pub(super) fn ip_batch(&self, lines: &[String]) -> Result<()> {
        let _gate = open_gate();
        let mut child = Command::new("ip")
            .args(["-netns", self.netns(), "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("running `ip` (iproute2)")?;
        let mut input = child.stdin.take().context("`ip` has no standard input")?;
        // A failing `ip` stops reading; its status tells more than the broken pipe.
        let _ = input.write_all((lines.join("\n") + "\n").as_bytes());
        drop(input);
        let output = child.wait_with_output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        let (name, lines) = (self.name(), lines.join("; "));
        ensure!(output.status.success(), "host {name}: `ip {lines}` failed: {}", error.trim());
        Ok(())
    }

    /// The name of the next link's interface: eth0, eth1, and so on.
    pub(super) fn next_interface(&self) -> String {
        format!("eth{}", self.0.interfaces.fetch_add(1, Ordering::Relaxed))
    }
}
