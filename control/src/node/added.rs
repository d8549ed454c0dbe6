//! Peers and local ports that come and go while the switch runs, beside those of the configuration: reading that again leaves them alone.

use std::time::Instant;

use ipop_datapath::node_id::NodeId;

use super::{Node, PortRefused, PortSpec};
use crate::{
    peer::{NamedBy, PeerSpec},
    trust::{Loss, Naming, Refusal, Standing},
};

/// The node was not added: the configuration or the network names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotAdded(pub Vec<NamedBy>);

impl Node {
    /// Names a peer as the configuration would; one that was added before may have another address now.
    ///
    /// # Errors
    /// When it may not connect: it is not added then.
    pub fn add_peer(&mut self, now: Instant, peer: PeerSpec) -> Result<(), Refusal> {
        let PeerSpec { node, address } = peer;
        let standing = self.trust.name(node, Naming::Added(address));
        if let Standing::Refused(_) = standing {
            self.trust.unname(node, NamedBy::Added);
        }
        self.follow_trust(now);
        match standing {
            Standing::Refused(why) => Err(why),
            Standing::Admitted(_) | Standing::Pending => Ok(()),
        }
    }

    /// Takes that back: unless something else names the node, its tunnels are closed.
    ///
    /// # Errors
    /// When it was not added; what names it instead.
    pub fn take_peer_back(&mut self, now: Instant, node: NodeId) -> Result<(), NotAdded> {
        let sources = self.trust.sources(node);
        if !sources.contains(&NamedBy::Added) {
            return Err(NotAdded(sources));
        }
        self.trust.withdraw(node, NamedBy::Added, Loss::TakenBack);
        self.follow_trust(now);
        Ok(())
    }

    /// Has a local port opened ([`super::PortOrder::Open`]).
    ///
    /// # Errors
    /// When there is one, or there are too many.
    pub fn add_port(&mut self, spec: PortSpec) -> Result<(), PortRefused> {
        self.local_ports.add(spec)
    }

    /// Has a local port closed, whoever wanted it. One of the configuration comes back when that is read again.
    ///
    /// # Errors
    /// When there is none, or no other one.
    pub fn remove_port(&mut self, spec: &PortSpec) -> Result<(), PortRefused> {
        self.local_ports.remove(spec)
    }
}
