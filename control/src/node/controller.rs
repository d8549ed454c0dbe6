//! A controller: a program beside this one that says to which nodes there are links, and carries what two ends must learn from one to the
//! other by ways of its own, without an account.
//!
//! Trust treats a node that it names as one of the configuration: the operator may deny it, and where there is a secret it has to prove it.
//! A description is taken for a link that the controller has made, and for no other one.

use std::time::Instant;

use ipop_datapath::node_id::NodeId;

use super::{Action, Node};
use crate::{
    paths::{FromLink, ToLink},
    peer::NamedBy,
    trust::{Loss, Naming, Refusal, Standing},
};

/// What a controller wants of the link to a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkOrder {
    /// There is to be one, and this end's description is to be told; of one that is there, a fresh description.
    Create,
    /// What the other end said.
    Tell(ToLink),
    /// There is to be none.
    Remove,
}

/// Why an order is not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkRefused {
    /// The controller has made no such link, or the node lost its right since.
    #[error("there is no such link: create it first")]
    NoLink,
    /// The node may not connect.
    #[error("the node {0}")]
    NotAdmitted(Refusal),
}

impl Node {
    /// Does what a controller wants of the link to a node.
    ///
    /// # Errors
    /// Why it is not done.
    pub fn order_link(
        &mut self,
        now: Instant,
        peer: NodeId,
        order: LinkOrder,
    ) -> Result<(), LinkRefused> {
        let done = match order {
            LinkOrder::Create => self.create_link(now, peer),
            LinkOrder::Tell(what) if self.has_controlled_link(peer) => {
                self.paths.handle(now, peer, what);
                Ok(())
            }
            LinkOrder::Remove if self.is_controlled(peer) => {
                self.remove_link(now, peer);
                Ok(())
            }
            LinkOrder::Tell(_) | LinkOrder::Remove => Err(LinkRefused::NoLink),
        };
        self.follow_trust(now);
        done
    }

    fn create_link(&mut self, now: Instant, peer: NodeId) -> Result<(), LinkRefused> {
        if let Standing::Refused(why) = self.trust.name(peer, Naming::Controller) {
            self.trust.unname(peer, NamedBy::Controller);
            return Err(LinkRefused::NotAdmitted(why));
        }
        self.follow_trust(now);
        self.paths.handle(now, peer, ToLink::Describe);
        Ok(())
    }

    /// The node loses the right that the controller gave it, and with its last right its link. The link also ends if nobody is left who
    /// signals with the node.
    fn remove_link(&mut self, now: Instant, peer: NodeId) {
        self.trust.withdraw(peer, NamedBy::Controller, Loss::LinkRemoved);
        self.follow_trust(now);
        let left = self.trust.sources(peer);
        if !left.is_empty() && !left.into_iter().any(NamedBy::signals) {
            self.paths.stop(now, peer);
        }
    }

    fn has_controlled_link(&self, peer: NodeId) -> bool {
        self.is_controlled(peer) && self.paths.has_link(peer)
    }

    /// A link tells something: a controller that made it hears it.
    pub(super) fn tell_controller(&mut self, peer: NodeId, what: FromLink) {
        if self.is_controlled(peer) {
            self.actions.push_back(Action::Controller { peer, what });
        }
    }
}
