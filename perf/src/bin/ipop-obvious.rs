//! `ipop-obvious`: see [`ipop_perf::obvious`].

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use ipop_perf::obvious::{self, Options, Peer, identity::Identity};

/// An Ethernet bridge over QUIC, the obvious way: the yardstick that ipop-switch is measured against.
#[derive(Debug, Parser)]
#[command(name = "ipop-obvious", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Subcommands>,
    #[command(flatten)]
    run: Option<Run>,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Prints this node's id; makes the key if there is none.
    Identity {
        /// The key, PKCS#8 PEM.
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The TAP to make.
    #[arg(long, value_name = "NAME")]
    tap: String,
    /// The TAP's MTU.
    #[arg(long, default_value_t = 1400, value_parser = clap::value_parser!(u16).range(576..=1400))]
    mtu: u16,
    /// The key, PKCS#8 PEM; made if absent.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// Where to listen, and dial from.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:5800")]
    listen: SocketAddr,
    /// Who may connect, and with an address, whom to dial.
    #[arg(long = "peer", value_name = "NODEID[@HOST:PORT]", required = true)]
    peers: Vec<Peer>,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let cli = Cli::parse();
    if let Some(Subcommands::Identity { identity }) = cli.command {
        println!("{}", Identity::load_or_create(&identity)?.node_id);
        return Ok(());
    }
    let Run { tap, mtu, identity, listen, peers } = cli.run.context("nothing to do: see --help")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(obvious::run(Options { tap, mtu, identity, listen, peers }));
    // The thread that reads the TAP is in read(2); the process ends without it.
    runtime.shutdown_background();
    result
}
