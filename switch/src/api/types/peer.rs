//! Peers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{DropCounts, Rates, Traffic, Why};

/// All peers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Peers {
    /// By their ports.
    pub(crate) peers: Vec<Peer>,
}

/// One peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Peer {
    /// Its node id.
    pub(crate) node: String,
    /// The name that it gave itself, if it ever connected.
    pub(crate) name: Option<String>,
    /// Program and version that it runs, if it ever connected.
    pub(crate) agent: Option<String>,
    /// What is going on.
    pub(crate) state: PeerState,
    /// For how long it is up, or not up, seconds.
    pub(crate) since_s: f64,
    /// What names it.
    pub(crate) sources: Vec<Source>,
    /// The number of its port in the switch.
    pub(crate) port: u16,
    /// The configured address, if any.
    pub(crate) address: Option<String>,
    /// The account that it is in the room with, if it is or was there.
    pub(crate) account: Option<String>,
    /// The way to it, while it is up or one is known.
    pub(crate) path: Option<PeerPath>,
    /// Lanes that are up.
    pub(crate) lanes: Vec<Lane>,
    /// Stations behind it.
    pub(crate) stations: usize,
    /// What passed.
    pub(crate) traffic: Traffic,
    /// How fast.
    pub(crate) rates: Rates,
    /// Frames dropped that came from it or were for it.
    pub(crate) drops: DropCounts,
    /// Why it is down, or relayed; `null` if it is up and direct.
    pub(crate) why: Option<Why>,
    /// Time to the next dial, seconds.
    pub(crate) retry_in_s: Option<f64>,
}

/// What is going on with a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PeerState {
    /// At least one lane is up.
    Up,
    /// A dial is under way.
    Dialling,
    /// The next dial waits for its time.
    BackingOff,
    /// It has no address here: it must dial, or a path to it must be found.
    Awaited,
}

/// Who names a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// `--peer` or the configuration.
    Configured,
    /// A controller.
    Controller,
    /// The room.
    Room,
    /// It is known from before.
    Saved,
    /// `peers.add`.
    Added,
}

/// The way to a peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct PeerPath {
    /// Direct or over a relay.
    pub(crate) kind: PathKind,
    /// Where packets go: the peer's address, or the relay's.
    pub(crate) remote: Option<String>,
    /// Kinds of both ends' ICE candidates, such as `srflx to host`; `null` for peers that are dialled at an address.
    pub(crate) candidates: Option<String>,
    /// Round-trip time, microseconds.
    pub(crate) rtt_us: Option<u64>,
    /// Packets of the lanes that are up and that were declared lost, percent.
    pub(crate) loss_percent: Option<f64>,
    /// The least path MTU of the lanes that are up, bytes of UDP payload.
    pub(crate) mtu_bytes: Option<u16>,
}

/// Kinds of ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PathKind {
    /// From this host to the peer's.
    Direct,
    /// Over a TURN server.
    Relayed,
    /// None yet.
    None,
}

/// A lane that is up.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Lane {
    /// Its number.
    pub(crate) lane: u8,
    /// Whether this node dialled.
    pub(crate) dialled: bool,
    /// For how long this connection carries it, seconds.
    pub(crate) up_s: f64,
    /// The peer's address; `null` where ICE finds the path.
    pub(crate) remote: Option<String>,
    /// The local address, if it is known.
    pub(crate) local: Option<String>,
    /// How the connection is; `null` if its worker has not answered in time.
    pub(crate) connection: Option<Connection>,
}

/// How a connection is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Connection {
    /// Smoothed round-trip time, microseconds.
    pub(crate) rtt_us: u64,
    /// Packets sent.
    pub(crate) sent_packets: u64,
    /// Packets declared lost.
    pub(crate) lost_packets: u64,
    /// Path MTU, bytes of UDP payload.
    pub(crate) mtu_bytes: u16,
    /// Waiting in the tunnel's queue, bytes.
    pub(crate) queued_bytes: u64,
    /// Whether the circuit breaker is open.
    pub(crate) breaker_open: bool,
}
