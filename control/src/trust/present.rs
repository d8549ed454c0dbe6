//! Peers that are up now, for `ipop-switch trust list`: the running switch writes them to the state directory.
//!
//! They hold only while it runs, which a lock tells that it keeps for as long as it lives, however it ends.

use ipop_datapath::node_id::NodeId;
use serde::{Deserialize, Serialize};

use super::file::{Versioned, node_text};
use crate::peer::NamedBy;

/// A peer that is up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresentPeer {
    /// Its key.
    #[serde(with = "node_text")]
    pub node: NodeId,
    /// The name that it gave itself.
    pub name: String,
    /// What names it.
    pub sources: Vec<NamedBy>,
}

/// All of them, in the order of their ports.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PresentPeers {
    /// Them.
    pub peer: Vec<PresentPeer>,
}

impl Versioned for PresentPeers {
    const VERSION: u32 = 1;
    const FILE_NAME: &'static str = "present-peers.toml";
    const CURE: &'static str = "delete it: the running switch writes it anew";
}
