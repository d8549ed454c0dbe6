//! The switch as a whole.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{FdbCounters, Why};

/// The switch as a whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Status {
    /// The program's version.
    pub(crate) version: String,
    /// This instance's name.
    pub(crate) instance: String,
    /// This node's id.
    pub(crate) node: String,
    /// This node's name, for people.
    pub(crate) name: String,
    /// What moves frames and packets.
    pub(crate) engine: String,
    /// The UDP address that tunnels come in at.
    pub(crate) listen: String,
    /// For how long the switch runs, seconds.
    pub(crate) uptime_s: f64,
    /// The inner MTU, bytes.
    pub(crate) mtu_bytes: u16,
    /// Threads that carry frames.
    pub(crate) workers: u8,
    /// The XMPP side; `null` without an account.
    pub(crate) network: Option<Network>,
    /// How many peers there are.
    pub(crate) peers: PeerCounts,
    /// Local ports.
    pub(crate) ports: usize,
    /// Stations in the forwarding database.
    pub(crate) stations: usize,
    /// What the forwarding database did.
    pub(crate) fdb: FdbCounters,
    /// The least severity that is logged.
    pub(crate) log_level: String,
    /// What is not well, and what to do about it.
    pub(crate) problems: Vec<Why>,
}

/// How many peers there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct PeerCounts {
    /// In all.
    pub(crate) known: usize,
    /// With a tunnel.
    pub(crate) up: usize,
    /// Of those, over a relay.
    pub(crate) relayed: usize,
}

/// The XMPP side.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Network {
    /// The room.
    pub(crate) room: String,
    /// The full JID of the session, if there was one.
    pub(crate) jid: Option<String>,
    /// Whether there is a stream to the server.
    pub(crate) online: bool,
    /// Whether this node is in the room.
    pub(crate) joined: bool,
    /// Nodes of the room.
    pub(crate) occupants: usize,
    /// The NAT in front of this host.
    pub(crate) nat: NatMapping,
    /// What went wrong last.
    pub(crate) last_error: Option<String>,
}

/// How a NAT maps (RFC 4787, section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NatMapping {
    /// Not known yet.
    Unknown,
    /// The same for every far end, or there is none.
    EndpointIndependent,
    /// Another one for each far end.
    Symmetric,
}
