//! What the configuration says of peers and local ports, at the start and whenever it is read again. What is new in it, and what is gone, follows from the
//! list that trust keeps.

use std::time::Instant;

use ipop_datapath::node_id::NodeId;

use super::{Action, Node, PortSpec};
use crate::{
    notice::Notice,
    peer::{NamedBy, PeerSpec},
    sessions,
    trust::{Loss, Naming, Policy, Standing},
};

/// What is configured: all of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Configured {
    /// Local ports. Those of the start are numbered in this order.
    pub ports: Vec<PortSpec>,
    /// Peers, in the order in which they are named. No node stands there twice.
    pub peers: Vec<PeerSpec>,
    /// Who may connect, with its secrets and pins.
    pub policy: Policy,
}

/// How that differs from what is in force.
#[derive(Debug)]
pub(super) struct Difference {
    /// Peers that are new, or have another address.
    added: Vec<PeerSpec>,
    removed: Vec<NodeId>,
    policy: Option<Policy>,
}

impl Node {
    /// The configuration was read again: the operator is told what it changes.
    pub(super) fn reconfigure(&mut self, now: Instant, configured: Configured) {
        let Configured { ports, peers, policy } = configured;
        let difference = self.difference(peers, policy);
        let Difference { added, removed, policy } = &difference;
        let (added, removed) = (added.len(), removed.len());
        let notice = Notice::Reconfigured { added, removed, has_other_policy: policy.is_some() };
        self.actions.push_back(Action::Notice(notice));
        self.configure(now, difference);
        self.local_ports.want(ports);
    }

    pub(super) fn difference(&self, peers: Vec<PeerSpec>, policy: Policy) -> Difference {
        let mut before = self.trust.configured();
        let is_new = |peer: &PeerSpec| before.remove(&peer.node).as_ref() != Some(&peer.address);
        let added = peers.into_iter().filter(is_new).collect();
        let removed = before.into_keys().collect();
        let policy = (policy != self.trust.policy()).then_some(policy);
        Difference { added, removed, policy }
    }

    pub(super) fn configure(&mut self, now: Instant, difference: Difference) {
        let Difference { added, removed, policy } = difference;
        if let Some(policy) = policy {
            let secrets = policy.secret_ids();
            let gained = self.trust.set_policy(policy);
            self.admit(now, &gained);
            self.follow_trust(now);
            self.sessions.handle(now, sessions::Input::Secrets(secrets));
        }
        for node in removed {
            self.trust.withdraw(node, NamedBy::Configured, Loss::NotConfigured);
        }
        added.into_iter().for_each(|peer| self.name_configured(peer));
    }

    /// The configuration names a peer. If it may not connect it is told why.
    fn name_configured(&mut self, PeerSpec { node, address }: PeerSpec) {
        if let Standing::Refused(why) = self.trust.name(node, Naming::Configured(address)) {
            self.actions.push_back(Action::Notice(Notice::NotAdmitted { peer: node, why }));
        }
    }
}
