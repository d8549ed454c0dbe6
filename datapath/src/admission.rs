//! Who may connect: asked by the TLS verifier once the peer's key is known, before any of its frames.

use crate::node_id::NodeId;

/// Decides which nodes may join. Shared by all workers; asked at every handshake, so it must not block.
pub trait Admission: Send + Sync + 'static {
    /// Whether this node may connect, whoever dials.
    fn admits(&self, node: NodeId) -> bool;
}
