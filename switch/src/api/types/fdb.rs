//! The forwarding database.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The forwarding database (IEEE 802.1Q clause 8.8).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Fdb {
    /// By port and address.
    pub(crate) stations: Vec<Station>,
}

/// A station.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Station {
    /// The port that leads to it: a local port's name, a peer's name or id.
    pub(crate) port: String,
    /// The number of that port.
    pub(crate) port_number: u16,
    /// Its MAC address.
    pub(crate) mac: String,
    /// Its VLAN; always `null` for now.
    pub(crate) vlan: Option<u16>,
    /// Seconds since it was last heard.
    pub(crate) age_s: u32,
}

/// What the forwarding database did since the program started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct FdbCounters {
    /// Stations stored.
    pub(crate) learned: u64,
    /// Stations that moved from one port to another.
    pub(crate) moved: u64,
    /// Stations that gave way to others.
    pub(crate) evicted: u64,
    /// Stations not stored for want of room.
    pub(crate) refused: u64,
    /// Stations forgotten since they were not heard for long.
    pub(crate) aged: u64,
    /// Stations forgotten since their port went, or by command.
    pub(crate) flushed: u64,
}
