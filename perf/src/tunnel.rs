//! Tunnel programs run in the lab: `ipop-switch` and `ipop-obvious`, by the command line that users type.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! # use ipop_perf::{lab::{Lab, LinkOptions, tools::Ping}, tunnel::{Node, Program}};
//! let lab = Lab::new("example")?;
//! let (a, b) = (lab.host("a")?, lab.host("b")?);
//! let link = lab.link(&a, &b, LinkOptions::new())?;
//! let (mut at_a, mut at_b) =
//!     (Node::new(&lab, &a, Program::Switch)?, Node::new(&lab, &b, Program::Switch)?);
//! at_a.dial(at_b.node_id(), link.b.ipv4).address("192.168.0.1/24");
//! at_b.admit(at_a.node_id()).address("192.168.0.2/24");
//! let tunnel = (at_a.start()?, at_b.start()?);
//! tunnel.0.wait_for_answer("192.168.0.2".parse()?)?;
//! # drop(tunnel); Ok(()) }
//! ```

use std::{
    env, fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ipop_datapath::node_id::NodeId;

use crate::lab::{Host, Lab, Process, tools::Ping, wait_until};

/// The port that nodes listen on.
pub const PORT: u16 = 5800;
/// How long a tunnel may take to come up.
pub const UP_LIMIT: Duration = Duration::from_secs(15);

/// A program that can be one end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// `ipop-switch`.
    Switch,
    /// `ipop-obvious`.
    Obvious,
}

impl Program {
    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Switch => "ipop-switch",
            Self::Obvious => "ipop-obvious",
        }
    }

    /// Where it is: the environment's `IPOP_SWITCH` or `IPOP_OBVIOUS` if set, else beside the running program, or
    /// one directory up, where the programs are when a test runs.
    ///
    /// # Errors
    /// When it is in none of these places.
    pub fn find(self) -> Result<PathBuf> {
        let variable = self.name().to_uppercase().replace('-', "_");
        if let Some(path) = env::var_os(&variable) {
            return self.at(PathBuf::from(path));
        }
        let own = env::current_exe().context("finding the running program")?;
        let near: Vec<PathBuf> =
            own.ancestors().skip(1).take(2).map(|d| d.join(self.name())).collect();
        let found = near.iter().find(|path| path.is_file()).cloned();
        found.with_context(|| {
            let name = self.name();
            format!(
                "{name} is not beside {}: build the workspace, or set {variable}",
                own.display()
            )
        })
    }

    /// The absolute path of the program at this place.
    ///
    /// # Errors
    /// When there is no file.
    pub fn at(self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        let shown = path.display();
        path.canonicalize().with_context(|| format!("{} is not at {shown}: build it", self.name()))
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One end of a tunnel, to be started.
#[derive(Debug)]
pub struct Node {
    host: Host,
    program: Program,
    binary: PathBuf,
    state: PathBuf,
    node_id: NodeId,
    tap: String,
    mtu: u16,
    listen: SocketAddr,
    bridge: Option<String>,
    addresses: Vec<String>,
    peers: Vec<String>,
    extra: Vec<String>,
}

impl Node {
    /// A node on this host, with a key of its own; by default with a TAP `ipop0` and an inner MTU of 1400.
    ///
    /// # Errors
    /// When the program is not there, or does not print its node id.
    pub fn new(lab: &Lab, host: &Host, program: Program) -> Result<Self> {
        Self::with_binary(lab, host, program, &program.find()?)
    }

    /// The same with the program from this file.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub fn with_binary(lab: &Lab, host: &Host, program: Program, binary: &Path) -> Result<Self> {
        static NODES: AtomicU32 = AtomicU32::new(0);
        let number = NODES.fetch_add(1, Ordering::Relaxed);
        let state = lab.dir().join(format!("state-{}-{number}", host.name()));
        std::fs::create_dir(&state).with_context(|| format!("making {}", state.display()))?;
        let identity = state.join("identity.pem");
        let printed =
            host.run(binary, ["identity".as_ref(), "--identity".as_ref(), identity.as_os_str()])?;
        let node_id = printed.trim().parse().with_context(|| format!("{program} identity"))?;
        Ok(Self {
            host: host.clone(),
            program,
            binary: binary.into(),
            state,
            node_id,
            tap: "ipop0".into(),
            mtu: 1400,
            listen: SocketAddr::from(([0; 4], PORT)),
            bridge: None,
            addresses: Vec::new(),
            peers: Vec::new(),
            extra: Vec::new(),
        })
    }

    /// Its node id.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its state directory, which holds `identity.pem`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Dials this peer at [`PORT`] of the address.
    pub fn dial(&mut self, peer: NodeId, address: impl Into<IpAddr>) -> &mut Self {
        self.peers.push(format!("{peer}@{}", SocketAddr::new(address.into(), PORT)));
        self
    }

    /// Lets this peer connect.
    pub fn admit(&mut self, peer: NodeId) -> &mut Self {
        self.peers.push(peer.to_string());
        self
    }

    /// Another TAP.
    pub fn tap(&mut self, name: &str) -> &mut Self {
        self.tap = name.into();
        self
    }

    /// Another inner MTU.
    pub fn mtu(&mut self, mtu: u16) -> &mut Self {
        self.mtu = mtu;
        self
    }

    /// Another place to listen at, in place of port [`PORT`] of every IPv4 address.
    pub fn listen(&mut self, listen: SocketAddr) -> &mut Self {
        self.listen = listen;
        self
    }

    /// Puts the TAP into this bridge of the host.
    pub fn bridge(&mut self, bridge: &str) -> &mut Self {
        self.bridge = Some(bridge.into());
        self
    }

    /// Gives the TAP this address, for example `192.168.0.1/24`, once it is there.
    pub fn address(&mut self, cidr: &str) -> &mut Self {
        self.addresses.push(cidr.into());
        self
    }

    /// Runs this file in place of the program: a script that prepares something and then becomes the program.
    pub fn run_as(&mut self, script: &Path) -> &mut Self {
        self.binary = script.into();
        self
    }

    /// What [`Node::start`] runs.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// More of the program's own options.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.extra.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// The arguments that [`Node::start`] passes.
    pub fn command_line(&self) -> Vec<String> {
        let mut line: Vec<String> = vec!["--tap".into(), self.tap.clone()];
        for peer in &self.peers {
            line.extend(["--peer".into(), peer.clone()]);
        }
        line.extend([
            "--mtu".into(),
            self.mtu.to_string(),
            "--listen".into(),
            self.listen.to_string(),
        ]);
        match self.program {
            Program::Switch => {
                line.extend(["--state".into(), self.state.display().to_string()]);
                line.extend(self.bridge.iter().flat_map(|name| ["--bridge".into(), name.clone()]));
            }
            Program::Obvious => {
                let identity = self.state.join("identity.pem");
                line.extend(["--identity".into(), identity.display().to_string()]);
            }
        }
        line.extend(self.extra.iter().cloned());
        line
    }

    /// Starts it, and waits until its TAP is there.
    ///
    /// # Errors
    /// When it ends at once, or makes no TAP.
    pub fn start(&self) -> Result<Running> {
        self.wait_for_predecessor()?;
        let mut process = self.host.spawn(&self.binary, self.command_line())?;
        let is_up =
            || self.host.ip(&["link", "show", "up", "dev", &self.tap]).is_ok_and(|l| !l.is_empty());
        let ready = wait_until(UP_LIMIT, || is_up() || !process.is_running());
        let why =
            || format!("{} does not bring {} up:\n{}", process.label(), self.tap, process.stderr());
        ensure!(ready && is_up(), why());
        if let (Some(bridge), Program::Obvious) = (&self.bridge, self.program) {
            self.host.ip(&["link", "set", "dev", &self.tap, "master", bridge])?;
        }
        for address in &self.addresses {
            self.host.add_address(&self.tap, address)?;
        }
        Ok(Running { process, host: self.host.clone(), tap: self.tap.clone() })
    }
}

impl Node {
    /// The TAP of a program that was killed vanishes a moment after it, and must not be taken for the new one's.
    fn wait_for_predecessor(&self) -> Result<()> {
        let is_open = || {
            let shown = self.host.ip(&["link", "show", "dev", &self.tap]);
            shown.is_ok_and(|link| link.contains("LOWER_UP"))
        };
        let (host, tap) = (self.host.name(), &self.tap);
        ensure!(wait_until(UP_LIMIT, || !is_open()), "host {host}: {tap} is still in use");
        Ok(())
    }
}

/// A running end of a tunnel; dropping it kills the program.
#[derive(Debug)]
pub struct Running {
    /// The program's process.
    pub process: Process,
    /// Where it runs.
    pub host: Host,
    /// Its TAP.
    pub tap: String,
}

impl Running {
    /// Waits until this address answers pings from the host: the tunnel carries frames.
    ///
    /// # Errors
    /// When it does not within 15 s.
    pub fn wait_for_answer(&self, address: IpAddr) -> Result<()> {
        self.wait_for_ping(&Ping::to(address))
    }

    /// The same with a ping of one's own, for example a large one.
    ///
    /// # Errors
    /// When it is not answered within 15 s.
    pub fn wait_for_ping(&self, ping: &Ping) -> Result<()> {
        let answers = || ping.run(&self.host).is_ok_and(|report| report.received > 0);
        let label = self.process.label();
        ensure!(
            wait_until(UP_LIMIT, answers),
            "through {label} nothing answers {ping:?}:\n{}",
            self.process.stderr()
        );
        Ok(())
    }
}
