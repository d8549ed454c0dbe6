//! Who may connect: asked by the TLS verifier once the peer's key is known, before any of its frames.

use ipop_learning::PortId;

use crate::node_id::NodeId;

/// Decides which nodes may join. Shared by all workers; asked at every handshake, so it must not block.
pub trait Admission: Send + Sync + 'static {
    /// The port of this node, `None` if it may not join, whoever dials. A node's port never changes while the program runs.
    fn port_of(&self, node: NodeId) -> Option<PortId>;
}
