//! The command line of `ipop-perf`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipop_perf::{
    compare::{contender::Contender, scenario::Scenario},
    discovery::Part,
    tunnel::Program,
};

/// Measurements of ipop-switch, and its demo, in network namespaces of this machine. Needs root.
#[derive(Debug, Parser)]
#[command(version)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// One TCP flow through ipop-switch and through the obvious implementation, in turn; medians and their ratio.
    Tcp(TcpArgs),
    /// The same work for ipop-switch, the kernel's VXLAN and other tunnels, in turn: figures, tables and charts in a folder.
    Compare(CompareArgs),
    /// One ipop-switch to another, measured as RFC 2544, RFC 2889 and RFC 9004 measure a switch.
    Switch(SwitchArgs),
    /// UDP at the best rate that passes without loss, and at more than that: what gets through, and where the rest is lost.
    Overload(OverloadArgs),
    /// Two switches under traffic, churn, loss, cuts and kills: slopes of memory and descriptors, every frame accounted for.
    Soak(SoakArgs),
    /// Nodes that find each other over a real Prosody and coturn: how fast, how sure, and what an idle network costs.
    Discovery(DiscoveryArgs),
    /// What it costs to look at a switch that works: latency of its API, and what a flow loses.
    Operate(OperateArgs),
    /// Puts the report of a run into a document.
    Document(DocumentArgs),
    /// Three hosts find each other over XMPP, get through NATs and outlive the server, shown step by step.
    Demo(DemoArgs),
    /// An Ethernet wire between two TAPs that loses, delays and reorders; until Ctrl-C.
    Wire(WireArgs),
    /// Removes what runs that were killed left behind, if anything.
    Clean,
}

#[derive(Debug, Args)]
pub(super) struct Binaries {
    /// The program ipop-switch [default: beside this program].
    #[arg(long, value_name = "FILE")]
    pub(super) switch_binary: Option<PathBuf>,
    /// The program ipop-obvious [default: beside this program].
    #[arg(long, value_name = "FILE")]
    pub(super) obvious_binary: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct TcpArgs {
    #[command(flatten)]
    pub(super) binaries: Binaries,
    /// Which programs, in the order of their turns.
    #[arg(long, value_delimiter = ',', default_value = "switch,obvious")]
    pub(super) programs: Vec<Program>,
    /// Runs of each program.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) runs: u32,
    /// Length of a run.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(super) seconds: u32,
    /// Inner MTU; above 1400 the obvious implementation can't follow.
    #[arg(long, default_value_t = 1400, value_parser = clap::value_parser!(u16).range(576..))]
    pub(super) mtu: u16,
    /// TCP's congestion control inside the tunnel: cubic, bbr, or what else this kernel has.
    #[arg(long, default_value = "cubic")]
    pub(super) congestion: String,
    /// Write all runs to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Which contenders [default: all that are installed].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(super) peers: Vec<Contender>,
    /// Under which conditions [default: all]: base, inner-1500, underlay-9000, no-offloads, wire, wire-20ms, wire-0.1-percent and so on.
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = scenario)]
    pub(super) scenarios: Vec<Scenario>,
    /// Rounds under each condition [default: 5; with --quick 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: Option<u32>,
    /// Length of each measurement [default: 5; with --quick 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(super) seconds: Option<u32>,
    /// A look, not a measurement: the base point only, one round, one second each.
    #[arg(long)]
    pub(super) quick: bool,
    /// TCP's congestion control inside the tunnels.
    #[arg(long, default_value = "cubic")]
    pub(super) congestion: String,
    /// The folder for figures, report and charts.
    #[arg(long, value_name = "DIR", default_value = "perf-compare")]
    pub(super) out: PathBuf,
    /// Add to the rounds that the folder holds already, rather than replace them.
    #[arg(long)]
    pub(super) add: bool,
}

#[derive(Debug, Args)]
pub(super) struct SwitchArgs {
    /// Frame sizes in bytes, FCS included [default: 64, 128, 256, 512, 1024, 1280, 1518 and 9018; with --quick 64].
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = clap::value_parser!(u16).range(64..=9018))]
    pub(super) sizes: Vec<u16>,
    /// Length of each trial [default: 2; with --quick 0.2].
    #[arg(long)]
    pub(super) seconds: Option<f64>,
    /// Workers of each switch.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) workers: u8,
    /// A look, not a measurement.
    #[arg(long)]
    pub(super) quick: bool,
    /// The folder for figures, report and charts.
    #[arg(long, value_name = "DIR", default_value = "perf-switch")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct OverloadArgs {
    /// The program ipop-switch, or several that take turns [default: beside this program].
    #[arg(long, value_delimiter = ',', value_name = "FILE")]
    pub(super) switch_binary: Vec<PathBuf>,
    /// UDP payload of each datagram, bytes.
    #[arg(long, default_value_t = 1350, value_parser = clap::value_parser!(u16).range(1..=1472))]
    pub(super) payload: u16,
    /// The overload, Mbit/s of UDP payload; as fast as the sender can is measured too.
    #[arg(long, default_value_t = 843.0)]
    pub(super) mbit: f64,
    /// Length of each trial, seconds [default: 2; with --quick 0.5].
    #[arg(long)]
    pub(super) seconds: Option<f64>,
    /// Rounds of each program [default: 5; with --quick 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: Option<u32>,
    /// A look, not a measurement.
    #[arg(long)]
    pub(super) quick: bool,
    /// More options of each switch, in one word.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(super) args: String,
    /// The folder for figures and report.
    #[arg(long, value_name = "DIR", default_value = "perf-overload")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct OperateArgs {
    /// The program ipop-switch [default: beside this program].
    #[arg(long, value_name = "FILE")]
    pub(super) switch_binary: Option<PathBuf>,
    /// Requests of each kind [default: 500; with --quick 50].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) requests: Option<u32>,
    /// Pairs of flows [default: 5; with --quick 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: Option<u32>,
    /// Length of a flow [default: 5; with --quick 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(super) seconds: Option<u32>,
    /// A look, not a measurement.
    #[arg(long)]
    pub(super) quick: bool,
    /// The folder for figures and report.
    #[arg(long, value_name = "DIR", default_value = "perf-operate")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct SoakArgs {
    /// How long.
    #[arg(long, default_value_t = 60.0)]
    pub(super) minutes: f64,
    /// Workers of each switch.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) workers: u8,
    /// Packets lost on the wire in each direction, percent.
    #[arg(long, default_value_t = 0.1, value_name = "PERCENT")]
    pub(super) loss: f64,
    /// Delay in each direction, milliseconds.
    #[arg(long, default_value_t = 2.0, value_name = "MS")]
    pub(super) delay: f64,
    /// What decides which packets are lost.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// The folder for figures, report and charts.
    #[arg(long, value_name = "DIR", default_value = "perf-soak")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct DiscoveryArgs {
    /// Which parts [default: all]; the folder keeps what it has of the others.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(super) parts: Vec<Part>,
    /// How often each part is measured [default: 10; with --quick 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) runs: Option<u32>,
    /// How long an idle network is watched, seconds [default: 60; with --quick 10].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(super) idle: Option<u64>,
    /// A look, not a measurement.
    #[arg(long)]
    pub(super) quick: bool,
    /// The folder for figures and report.
    #[arg(long, value_name = "DIR", default_value = "perf-discovery")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct DocumentArgs {
    /// The folder of the run.
    pub(super) folder: PathBuf,
    /// The document.
    #[arg(long, value_name = "FILE", default_value = "docs/BENCHMARKS.md")]
    pub(super) into: PathBuf,
    /// Between its lines `<!-- begin NAME -->` and `<!-- end NAME -->`.
    #[arg(long, value_name = "NAME")]
    pub(super) between: String,
}

fn scenario(name: &str) -> Result<Scenario, String> {
    Scenario::named(name).ok_or_else(|| {
        let known: Vec<&str> = Scenario::ALL.iter().map(|scenario| scenario.name).collect();
        format!("there is {}", known.join(", "))
    })
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// The program ipop-switch [default: beside this program].
    #[arg(long, value_name = "FILE")]
    pub(super) switch_binary: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct WireArgs {
    /// The TAP to make at one end, in another namespace if one is given.
    #[arg(long, value_name = "NAME[@NETNS]")]
    pub(super) a: String,
    /// The TAP at the other end.
    #[arg(long, value_name = "NAME[@NETNS]")]
    pub(super) b: String,
    /// What decides which frames are hit.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Frames lost, percent.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    pub(super) loss: f64,
    /// Frames that arrive twice, percent.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    pub(super) duplication: f64,
    /// Frames that others overtake, percent.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    pub(super) reordering: f64,
    /// Delay in each direction, milliseconds.
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    pub(super) delay: f64,
    /// Up to so much more delay, milliseconds.
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    pub(super) jitter: f64,
    /// Larger frames vanish; bytes of payload.
    #[arg(long)]
    pub(super) mtu: Option<u32>,
    /// The line's rate, Mbit/s.
    #[arg(long, value_name = "MBIT")]
    pub(super) rate: Option<u64>,
    /// Capture what arrives in this file.
    #[arg(long, value_name = "FILE")]
    pub(super) pcap: Option<PathBuf>,
}
