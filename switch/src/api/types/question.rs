//! What is asked of peers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PeerPath;

/// Which peer is pinged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ping {
    /// Its node id, the start of it, or its name.
    pub(crate) peer: String,
    /// Bytes that go with it, at most 4,090.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size_bytes: Option<u16>,
}

/// A peer has answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Pong {
    /// Its node id.
    pub(crate) node: String,
    /// Its name.
    pub(crate) name: Option<String>,
    /// Time from control plane to control plane and back, microseconds.
    pub(crate) rtt_us: u64,
    /// The way that the ping took.
    pub(crate) path: Option<PeerPath>,
}

/// A message for a peer's controller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendMessage {
    /// The peer's node id, the start of it, or its name.
    pub(crate) peer: String,
    /// At most 4,090 bytes, in base64 (RFC 4648, section 4).
    pub(crate) data: String,
}

/// The peer has the message, and put it down as an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Sent {
    /// Time until that was known, microseconds.
    pub(crate) rtt_us: u64,
}
