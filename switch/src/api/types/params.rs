//! What requests carry.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PortKind;

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParams {}

/// Which peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerParams {
    /// Its node id, the start of it if that is enough to tell it from all others, or its name.
    pub(crate) peer: String,
}

/// A peer that is to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddPeer {
    /// Its node id.
    pub(crate) node: String,
    /// Where to dial it, as `HOST[:PORT]`; without one it may connect and is not dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
}

/// A local port that is to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddPort {
    /// What it is.
    pub(crate) kind: PortKind,
    /// Its name.
    pub(crate) name: String,
}

/// Which local port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PortParams {
    /// Its name.
    pub(crate) name: String,
}

/// An address for a local port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddressParams {
    /// The port's name.
    pub(crate) name: String,
    /// As `ADDRESS/PREFIX`; it takes the place of the one that the switch gave the port before.
    pub(crate) address: String,
}

/// Which node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeParams {
    /// Its node id, or the name of one that is on the list of trust.
    pub(crate) node: String,
}

/// Which entries of the forwarding database.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FdbParams {
    /// A station's MAC address; every one if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    /// A port: a local port's name, a peer's name or id; every one if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<String>,
}

/// The level of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogParams {
    /// error, warn, info, debug or trace.
    pub(crate) level: String,
}

/// Something to say back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EchoParams {
    /// Anything.
    pub(crate) message: String,
}
