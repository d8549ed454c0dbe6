//! The obvious implementation: an Ethernet bridge over QUIC as one writes it on stock `quinn`, tokio and `tun-tap`.
//!
//! It is the independent far end of the interoperability tests, and the yardstick of the measurements: one whole frame
//! in each QUIC datagram, no offloads at the TAP, a thread that reads the TAP, a task per peer that writes to it. It is
//! written and tuned as a sensible engineer would: large buffers, path MTU discovery, GSO where `quinn` does it.
//!
//! What it does not do: **a frame longer than the path's datagrams is dropped** (an inner MTU of 1400 needs an underlay
//! of 1500 over IPv4); **it answers strangers**, since stock `quinn` has no place to check the keyed Initial id of those
//! who dial (its own dialling does key it); no offloads, one lane, no VLANs, no limits on broadcast.
//!
//! * [`identity`]: the key file.
//! * [`records`]: the record stream.
//! * `tls`: QUIC's configuration.
//! * `bridge`: MAC table, TAP, counters.
//! * `session`: dialling, being dialled, hellos, and each peer's receiving task.

mod bridge;
pub mod identity;
pub mod records;
mod session;
mod tls;

use std::{
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    str::FromStr,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, ensure};
use ipop_datapath::node_id::NodeId;
use rustix::net::sockopt;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use self::{bridge::Bridge, identity::Identity, session::Node, tls::Configs};

/// As large as an ordinary `rmem_max` allows, when it was raised at all.
const SOCKET_BUFFER_LEN: usize = 4 << 20;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The TAP to make.
    pub tap: String,
    /// Its MTU.
    pub mtu: u16,
    /// The key file.
    pub identity: PathBuf,
    /// Where to listen, and dial from.
    pub listen: SocketAddr,
    /// Who may connect, and whom to dial.
    pub peers: Vec<Peer>,
}

/// A peer: `NODEID` or `NODEID@HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its node id.
    pub node_id: NodeId,
    /// Where to dial it, if it is dialled.
    pub address: Option<String>,
}

impl FromStr for Peer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (node_id, address) = match text.split_once('@') {
            Some((node_id, address)) => (node_id, Some(address.to_owned())),
            None => (text, None),
        };
        Ok(Self { node_id: node_id.parse()?, address })
    }
}

/// Bridges until SIGINT or SIGTERM.
///
/// # Errors
/// When the key, the TAP or the socket can't be had.
pub async fn run(options: Options) -> Result<()> {
    let identity = Identity::load_or_create(&options.identity)?;
    let configs = Configs::new(&identity)?;
    let (tap, mtu) = (options.tap.as_str(), options.mtu);
    let bridge = Arc::new(Bridge::new(tap, mtu)?);
    set_up(tap, mtu, identity.node_id)?;

    let nodes = options.peers.iter().map(|peer| peer.node_id).collect();
    let endpoint = quinn::Endpoint::new(
        Configs::endpoint(&identity)?,
        Some(configs.server(nodes)?),
        socket(options.listen)?,
        Arc::new(quinn::TokioRuntime),
    )?;
    let node = Arc::new(Node::new(identity.node_id, mtu, endpoint.clone(), bridge.clone())?);
    for peer in options.peers {
        if let Some(address) = peer.address {
            let client = configs.client(peer.node_id)?;
            tokio::spawn(node.clone().keep_dialling(peer.node_id, address, client));
        }
    }
    tokio::spawn(node.accept());
    let (reader, (failed, tap_failed)) = (bridge.clone(), oneshot::channel());
    // It blocks in read(2) until the process ends, or the TAP does.
    let read = move || failed.send(reader.read_tap());
    thread::Builder::new().name("tap".into()).spawn(read)?;
    tracing::info!(node = %identity.node_id, tap, mtu, listen = %endpoint.local_addr()?, "running");

    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let result = tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        error = tap_failed => Err(error?).with_context(|| format!("reading the TAP {}", options.tap)),
    };
    endpoint.close(session::CLOSE_SHUTDOWN, b"shutdown");
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), endpoint.wait_idle()).await;
    tracing::info!(counters = ?bridge.counters(), "ended");
    result
}

/// The MAC comes from the node id: neighbours that remember it are right after a restart too.
fn set_up(tap: &str, mtu: u16, NodeId([a, b, c, d, e, ..]): NodeId) -> Result<()> {
    let mtu = mtu.to_string();
    let mac = format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}");
    let output = Command::new("ip")
        .args(["link", "set", "dev", tap, "address", &mac, "mtu", &mtu, "up"])
        .output()
        .context("running `ip` (iproute2)")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "bringing {tap} up: {}", error.trim());
    Ok(())
}

fn socket(listen: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("listening on {listen}"))?;
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_LEN)?;
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_LEN)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read() {
        let node_id = NodeId([5; 32]);
        let plain = Peer { node_id, address: None };
        assert_eq!(node_id.to_string().parse::<Peer>().unwrap(), plain);
        let dialled = format!("{node_id}@[::1]:5800").parse::<Peer>().unwrap();
        assert_eq!(dialled.address.as_deref(), Some("[::1]:5800"));
        assert!("abc@host:1".parse::<Peer>().is_err());
    }
}
