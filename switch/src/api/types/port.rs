//! Local ports.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{DropCounts, Rates, Traffic};

/// All local ports.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Ports {
    /// By number.
    pub(crate) ports: Vec<Port>,
}

/// One local port.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Port {
    /// Its name.
    pub(crate) name: String,
    /// Its number in the switch.
    pub(crate) port: u16,
    /// What it is.
    pub(crate) kind: PortKind,
    /// Its MAC address.
    pub(crate) mac: String,
    /// The inner MTU, bytes.
    pub(crate) mtu_bytes: u16,
    /// Queues.
    pub(crate) queues: usize,
    /// Whether it was there before the switch, and will be left as it was found.
    pub(crate) attached: bool,
    /// Whether it is blocked since a loop was seen.
    pub(crate) blocked: bool,
    /// Whether it is being closed.
    pub(crate) closing: bool,
    /// Stations behind it.
    pub(crate) stations: usize,
    /// What passed.
    pub(crate) traffic: Traffic,
    /// How fast.
    pub(crate) rates: Rates,
    /// Frames dropped that came from it or were for it.
    pub(crate) drops: DropCounts,
    /// Frames that the kernel dropped because the switch did not read them in time.
    pub(crate) kernel_tx_dropped: Option<u64>,
}

/// Kinds of local ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PortKind {
    /// A TAP device.
    Tap,
}
