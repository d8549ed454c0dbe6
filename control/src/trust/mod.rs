//! Who may connect.
//!
//! Two questions, and both must be answered with yes. Is the node *named* by a source: the configuration, the room, the peers known from
//! before? And does the [`Policy`] accept it? Nodes of the configuration are accepted by every policy, denied ones by none. With a
//! [`Policy::Secret`] each connection must besides prove the secret, whoever named the peer; that is asked when its hello was read,
//! before any frame passes.
//!
//! [`Trust`] is shared: the control thread names and revokes, the workers ask at each handshake. [`store`] is what the operator decided
//! about single nodes, [`saved`] the peers known from before, [`present`] those that are up; all are kept in the state directory.

mod file;
mod ports;
pub mod present;
pub mod saved;
pub mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ipop_datapath::{
    PortId,
    admission::{Admission, Proof, ProofBinding, Proved, Verdict},
    node_id::NodeId,
};

use self::ports::{PortNumbers, Repute};
pub use self::{
    file::{Patience, Stamp, StateFile, Versioned, format_state, parse_state},
    ports::{MAX_PORTS, MAX_UNPROVED},
    present::{PresentPeer, PresentPeers},
    saved::{SavedPeer, SavedPeers},
    store::{Claim, TrustStore},
};
use crate::{
    network::Secrets,
    peer::{PeerSource, PeerSpec},
    sessions::NamedPeer,
};

/// What decides about nodes that the room, or the memory of a room, names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// There is no network: only configured peers.
    #[default]
    ConfiguredAlone,
    /// Whoever proves one of these secrets; configured peers must prove one too.
    Secret(Secrets),
    /// Nodes that are listed here or that the operator accepted.
    Pinned(BTreeSet<NodeId>),
    /// Nodes that the operator accepted, each known by its name and account.
    FirstSight(NewNodes),
}

/// What becomes of a node that is seen for the first time under [`Policy::FirstSight`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NewNodes {
    /// It waits until the operator accepts it.
    #[default]
    Wait,
    /// It is accepted, unless its name is known with another key.
    Accept,
}

/// What the policy says of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It may connect, through this port.
    Admitted(PortId),
    /// The operator has to accept it first.
    Pending,
    /// It may not.
    Refused(Refusal),
}

/// Whom another policy concerns.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Nodes that may connect now.
    pub gained: Vec<NodeId>,
    /// Nodes that may connect now as soon as there is a port for them.
    pub portless: Vec<NodeId>,
    /// Nodes that may no longer, and why: their tunnels are to be closed.
    pub lost: Vec<(NodeId, Standing)>,
}

/// Why a node may not connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Nothing names it.
    #[error("is not among this node's peers: add --peer {0} to let it in")]
    Unnamed(NodeId),
    /// The operator denied it.
    #[error("is denied on this node: `ipop-switch trust forget {0}` takes that back")]
    Denied(NodeId),
    /// It is not listed.
    #[error("is not pinned on this node: `ipop-switch trust accept {0}` lets it in")]
    NotPinned(NodeId),
    /// Its name is known with another key.
    #[error(
        "uses the name of node {known}: if it is the same host with a new key, run `ipop-switch trust forget {known}`, \
         then `ipop-switch trust accept {node}`"
    )]
    KeyChanged {
        /// The newcomer.
        node: NodeId,
        /// Who has the name.
        known: NodeId,
    },
    /// All port numbers are given away.
    #[error(
        "finds no room: {MAX_PORTS} peers are here, or {MAX_UNPROVED} that never connected; the latter give way after a while"
    )]
    NoPort,
    /// It is this node.
    #[error("is this node itself")]
    Itself,
}

/// Who may connect now. See the head of this file.
#[derive(Debug)]
pub struct Trust {
    local: NodeId,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    policy: Policy,
    store: TrustStore,
    named: HashMap<NodeId, Named>,
    ports: PortNumbers,
}

/// A node that something names.
#[derive(Debug, Default)]
struct Named {
    sources: BTreeSet<PeerSource>,
    claim: Option<Claim>,
}

impl Trust {
    /// Nobody is named yet; ports are numbered from `first_port` in the order in which nodes are named.
    pub fn new(local: NodeId, first_port: u16, policy: Policy) -> Self {
        let ports = PortNumbers::new(first_port);
        let store = TrustStore::default();
        let state = State { policy, store, named: HashMap::new(), ports };
        Self { local, state: RwLock::new(state) }
    }

    /// A source names a node. `claim` is what it says of itself, if it comes from a room.
    pub fn name(&self, node: NodeId, source: PeerSource, claim: Option<Claim>) -> Standing {
        if node == self.local {
            return Standing::Refused(Refusal::Itself);
        }
        let mut state = self.write();
        let named = state.named.entry(node).or_default();
        named.sources.insert(source);
        if claim.is_some() {
            named.claim = claim;
        }
        state.standing(node)
    }

    /// The configuration names a peer: what the sessions are to be told of it, if it may connect.
    ///
    /// # Errors
    /// What holds for it if it may not.
    pub fn name_configured(&self, peer: &PeerSpec) -> Result<NamedPeer, Standing> {
        let (node, source) = (peer.node, PeerSource::Configured);
        match self.name(node, source, None) {
            Standing::Admitted(port) => {
                let (address, last_addresses) = (peer.address.clone(), Vec::new());
                Ok(NamedPeer { node, port, source, address, last_addresses })
            }
            otherwise => Err(otherwise),
        }
    }

    /// A source no longer names a node. Once none does, it may not connect any more; what is connected is not the business of this. Its port
    /// stays its own until [`Self::forgotten`].
    pub fn unname(&self, node: NodeId, source: PeerSource) {
        let mut state = self.write();
        if let Some(named) = state.named.get_mut(&node) {
            named.sources.remove(&source);
            if named.sources.is_empty() {
                state.named.remove(&node);
            }
        }
    }

    /// The sessions have forgotten a node: unless it may connect again by now, its port can be another one's.
    pub fn forgotten(&self, node: NodeId) {
        let mut state = self.write();
        if state.judge(node).is_err() {
            state.ports.release(node);
        }
    }

    /// What holds for a node now.
    pub fn standing(&self, node: NodeId) -> Standing {
        self.write().standing(node)
    }

    /// Puts another policy and other decisions of the operator into force, and says for whom that changes something.
    pub fn apply(&self, policy: Policy, store: TrustStore) -> Changes {
        let mut state = self.write();
        let mut nodes: Vec<NodeId> = state.named.keys().copied().collect();
        nodes.sort_unstable();
        let before: Vec<Standing> = nodes.iter().map(|node| state.standing(*node)).collect();
        (state.policy, state.store) = (policy, store);
        let mut changes = Changes::default();
        for (node, before) in nodes.into_iter().zip(before) {
            match (before, state.standing(node)) {
                (Standing::Admitted(_), Standing::Admitted(_)) => {}
                (_, Standing::Admitted(_)) => changes.gained.push(node),
                (Standing::Admitted(_), now) => changes.lost.push((node, now)),
                (_, Standing::Refused(Refusal::NoPort)) => changes.portless.push(node),
                _ => {}
            }
        }
        changes
    }

    /// The policy in force.
    pub fn policy(&self) -> Policy {
        self.read().policy.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A node that may connect gets its port, if it has none yet.
    fn standing(&mut self, node: NodeId) -> Standing {
        match self.judge(node) {
            Ok(()) => match self.ports.of_or_new(node, self.repute(node)) {
                Some(port) => Standing::Admitted(port),
                None => Standing::Refused(Refusal::NoPort),
            },
            Err(Unfit::Pending) => Standing::Pending,
            Err(Unfit::Refused(why)) => Standing::Refused(why),
        }
    }

    fn repute(&self, node: NodeId) -> Repute {
        let known = |source: &PeerSource| *source != PeerSource::Room;
        let sources = self.named.get(&node).map(|named| &named.sources);
        if sources.is_some_and(|sources| sources.iter().any(known)) {
            Repute::Known
        } else {
            Repute::Unproved
        }
    }

    fn judge(&self, node: NodeId) -> Result<(), Unfit> {
        if self.store.is_denied(node) {
            return Err(Unfit::Refused(Refusal::Denied(node)));
        }
        let Some(named) = self.named.get(&node) else {
            return Err(Unfit::Refused(Refusal::Unnamed(node)));
        };
        if named.sources.contains(&PeerSource::Configured) {
            return Ok(());
        }
        match &self.policy {
            Policy::ConfiguredAlone => Err(Unfit::Refused(Refusal::Unnamed(node))),
            Policy::Secret(_) => Ok(()),
            Policy::Pinned(pinned) if pinned.contains(&node) || self.store.is_accepted(node) => {
                Ok(())
            }
            Policy::Pinned(_) => Err(Unfit::Refused(Refusal::NotPinned(node))),
            Policy::FirstSight(_) => self.judge_first_sight(node, named.claim.as_ref()),
        }
    }

    fn judge_first_sight(&self, node: NodeId, claim: Option<&Claim>) -> Result<(), Unfit> {
        if self.store.is_accepted(node) {
            return Ok(());
        }
        match claim.and_then(|claim| self.store.holder_of(claim)) {
            Some(known) => Err(Unfit::Refused(Refusal::KeyChanged { node, known })),
            None => Err(Unfit::Pending),
        }
    }
}

enum Unfit {
    Pending,
    Refused(Refusal),
}

impl Admission for Trust {
    fn verdict(&self, node: NodeId) -> Verdict {
        let state = self.read();
        let why = match state.judge(node) {
            Ok(()) => match state.ports.of(node) {
                Some(port) => return Verdict::Admitted(port),
                None => Refusal::NoPort.to_string(),
            },
            Err(Unfit::Pending) => {
                format!("waits to be accepted: `ipop-switch trust accept {node}` lets it in")
            }
            Err(Unfit::Refused(why)) => why.to_string(),
        };
        Verdict::Refused(format!("node {node} {why}"))
    }

    fn proofs(&self, prover: NodeId, binding: &ProofBinding) -> Vec<Proof> {
        match &self.read().policy {
            Policy::Secret(secrets) => {
                secrets.iter().map(|secret| secret.prove(prover, binding)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn verify(
        &self,
        prover: NodeId,
        binding: &ProofBinding,
        proofs: &[Proof],
    ) -> Result<Proved, String> {
        let proved = self.check(prover, binding, proofs)?;
        self.write().ports.connected(prover);
        Ok(proved)
    }
}

impl Trust {
    fn check(
        &self,
        prover: NodeId,
        binding: &ProofBinding,
        proofs: &[Proof],
    ) -> Result<Proved, String> {
        let Policy::Secret(secrets) = &self.read().policy else {
            // Who proves a secret asks for one, and would drop every frame of this node.
            return if proofs.is_empty() { Ok(Proved::KeyAlone) } else { Err(ONE_WITHOUT.into()) };
        };
        if proofs.is_empty() {
            return Err(ONE_WITHOUT.into());
        }
        let proved = secrets.iter().filter(|secret| secret.is_proved_by(prover, binding, proofs));
        let proved: Vec<_> = proved.map(|secret| secret.id()).collect();
        if proved.is_empty() { Err(DIFFERENT.into()) } else { Ok(Proved::Secrets(proved)) }
    }
}

/// Told at both ends, so it reads the same from each.
const ONE_WITHOUT: &str =
    "only one of the two nodes has a network secret: give both the same --network-secret-file";
const DIFFERENT: &str =
    "the two nodes have different network secrets: give both the same --network-secret-file";
