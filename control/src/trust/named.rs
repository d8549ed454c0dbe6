//! Who names a node, and what it says of it: the only list of that.

use std::{collections::BTreeSet, net::SocketAddr};

use super::store::Claim;
use crate::peer::{NamedBy, PeerAddress};

/// What a source says of a node that it names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Naming {
    /// The configuration: where it listens, if that is known.
    Configured(Option<PeerAddress>),
    /// The room: what the node says of itself there.
    Room(Claim),
    /// The memory of the room.
    Saved {
        /// What it said of itself there, if that was written down.
        claim: Option<Claim>,
        /// Where it listened when it was connected last, best first.
        addresses: Vec<SocketAddr>,
    },
    /// A controller.
    Controller,
    /// Whoever added it while the switch runs: where it listens, if that is known.
    Added(Option<PeerAddress>),
}

/// A node that something names.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) sources: BTreeSet<NamedBy>,
    pub(super) claim: Option<Claim>,
    /// By the configuration.
    pub(super) configured_address: Option<PeerAddress>,
    added_address: Option<PeerAddress>,
    pub(super) last_addresses: Vec<SocketAddr>,
}

impl Named {
    pub(super) fn add(&mut self, naming: Naming) {
        let (source, claim) = match naming {
            Naming::Configured(address) => {
                self.configured_address = address;
                (NamedBy::Configured, None)
            }
            Naming::Room(claim) => (NamedBy::Room, Some(claim)),
            Naming::Saved { claim, addresses } => {
                self.last_addresses = addresses;
                (NamedBy::Saved, claim)
            }
            Naming::Controller => (NamedBy::Controller, None),
            Naming::Added(address) => {
                self.added_address = address;
                (NamedBy::Added, None)
            }
        };
        self.sources.insert(source);
        self.claim = claim.or(self.claim.take());
    }

    /// What the source knew of addresses goes with it.
    pub(super) fn remove(&mut self, source: NamedBy) {
        self.sources.remove(&source);
        match source {
            NamedBy::Configured => self.configured_address = None,
            NamedBy::Added => self.added_address = None,
            NamedBy::Saved => self.last_addresses.clear(),
            NamedBy::Room | NamedBy::Controller => {}
        }
    }

    /// Where it listens: what was said last while the switch runs counts for more than the configuration.
    pub(super) fn address(&self) -> Option<&PeerAddress> {
        self.added_address.as_ref().or(self.configured_address.as_ref())
    }

    /// Whether something beside the room names it.
    pub(super) fn is_known(&self) -> bool {
        self.sources.iter().any(|source| *source != NamedBy::Room)
    }
}
