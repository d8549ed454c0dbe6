//! Who may connect.
//!
//! Two questions, and both must be answered with yes. Is the node *named* by a source: the configuration, a controller, whoever adds it while the switch runs, the room, the peers
//! known from before? And does the [`Policy`] accept it? Nodes of the configuration, of a controller or added while the switch runs are accepted by every policy, denied ones by none. With a
//! [`Policy::Secret`] each connection must besides prove the secret, whoever named the peer; that is asked when its hello was read,
//! before any frame passes.
//!
//! [`Trust`] is shared: the control thread names and revokes, the workers ask at each handshake. It keeps the one list of who names whom, and
//! `Trust::poll_change` brings what changes in it to those who act on it ([`crate::node`]). [`store`] is what the operator decided
//! about single nodes, [`saved`] the peers known from before, [`present`] those that are up; all are kept in the state directory.

mod file;
mod named;
mod ports;
pub mod present;
pub mod saved;
pub mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ipop_datapath::{
    PortId,
    node_id::NodeId,
    policy::admission::{Admission, Proof, ProofBinding, Proved, SecretId, Unproved, Verdict},
};

pub use self::{
    file::{Patience, Stamp, StateFile, Versioned, format_state, parse_state},
    named::Naming,
    ports::MAX_UNPROVED,
    present::{PresentPeer, PresentPeers},
    saved::{SavedPeer, SavedPeers},
    store::{Claim, TrustStore},
};
use self::{
    named::Named,
    ports::{PortNumbers, Repute},
};
use crate::{
    network::Secrets,
    peer::{NamedBy, PeerAddress},
    sessions::{MAX_PEERS, NamedPeer},
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

impl Policy {
    /// The names of the secrets of which tunnels must have proved one; none if no secret is asked for.
    pub fn secret_ids(&self) -> Vec<SecretId> {
        match self {
            Self::Secret(secrets) => secrets.ids(),
            _ => Vec::new(),
        }
    }
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

/// Something is new about a node: who names it, what they say of it, or whether it may connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodeChange {
    /// Which node.
    pub(crate) node: NodeId,
    /// Why it lost its right, if it did: its tunnels are to be closed.
    pub(crate) lost: Option<Loss>,
    /// How it is named now, if it may connect.
    pub(crate) named: Option<NamedPeer>,
}

/// Why a node lost its right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Loss {
    /// It may not connect any more.
    #[error("it {0}")]
    Refused(Refusal),
    /// The operator has to accept it first.
    #[error("it waits to be accepted")]
    Pending,
    /// The configuration does not name it any more.
    #[error("it is no longer configured")]
    NotConfigured,
    /// The controller that named it does so no longer.
    #[error("the controller removed its link")]
    LinkRemoved,
    /// Whoever added it while the switch runs took it back.
    #[error("it was taken back by who added it")]
    TakenBack,
    /// The room took its account's right.
    #[error("its account was removed from the room")]
    Removed,
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
        "finds no room: {MAX_PEERS} peers are here, or {MAX_UNPROVED} that never connected; the latter give way after a while"
    )]
    NoPort,
    /// It is this node.
    #[error("is this node itself")]
    Itself,
}

/// Who may connect now: who names whom, what the operator decided, the secrets, the ports.
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
    /// Those of them that may connect and that something beside the room names.
    known: HashSet<NodeId>,
    ports: PortNumbers,
    /// Nodes of which something is new, and why they lost their right, if they did.
    changed: VecDeque<(NodeId, Option<Loss>)>,
}

impl Trust {
    /// Nobody is named yet. Ports are numbered from 0 in the order in which local ones are opened and nodes are named.
    pub fn new(local: NodeId, policy: Policy, store: TrustStore) -> Self {
        let (named, known, ports, changed) = Default::default();
        let state = State { policy, store, named, known, ports, changed };
        Self { local, state: RwLock::new(state) }
    }

    /// This node.
    pub fn local(&self) -> NodeId {
        self.local
    }

    /// A source names a node, again or for the first time.
    pub fn name(&self, node: NodeId, naming: Naming) -> Standing {
        if node == self.local {
            return Standing::Refused(Refusal::Itself);
        }
        let mut state = self.write();
        state.named.entry(node).or_default().add(naming);
        state.follow(node);
        state.changed.push_back((node, None));
        state.standing(node)
    }

    /// A source no longer names a node. Once none does, it may not connect any more; what is connected is not the business of this. Its port
    /// stays its own until `Self::forgotten`.
    pub fn unname(&self, node: NodeId, source: NamedBy) {
        self.write().unname(node, source);
    }

    /// A source takes the right back that it gave to a node. If no other one gives it one, its tunnels are to be closed.
    pub fn withdraw(&self, node: NodeId, source: NamedBy, why: Loss) {
        let mut state = self.write();
        state.unname(node, source);
        if state.judge(node).is_err() {
            state.changed.push_back((node, Some(why)));
        }
    }

    /// The next node of which something is new, as it is now.
    pub(crate) fn poll_change(&self) -> Option<NodeChange> {
        if self.read().changed.is_empty() {
            return None;
        }
        let mut state = self.write();
        let (node, lost) = state.changed.pop_front()?;
        Some(NodeChange { node, lost, named: state.named_peer(node) })
    }

    /// The sessions have forgotten a node: unless it may connect again by now, its port can be another one's. Whether it had one.
    pub(crate) fn forgotten(&self, node: NodeId) -> bool {
        let mut state = self.write();
        state.judge(node).is_err() && state.ports.release(node)
    }

    /// Whether a node that only the room names, and that has no port, can have one.
    pub(crate) fn has_port_for_room(&self) -> bool {
        self.read().ports.is_left(Repute::Unproved)
    }

    /// A number for another local port; none if there are as many as may be.
    pub fn open_local_port(&self) -> Option<PortId> {
        self.write().ports.open_local()
    }

    /// A local port is gone, and no worker knows it by its number any more.
    pub fn release_local_port(&self, port: PortId) {
        self.write().ports.release_local(port);
    }

    /// What names a node.
    pub fn sources(&self, node: NodeId) -> Vec<NamedBy> {
        let state = self.read();
        let named = state.named.get(&node);
        named.map(|named| named.sources.iter().copied().collect()).unwrap_or_default()
    }

    /// Peers of the configuration, and where it says that they listen.
    pub(crate) fn configured(&self) -> BTreeMap<NodeId, Option<PeerAddress>> {
        let state = self.read();
        let named = state.named.iter();
        let configured = named.filter(|(_, named)| named.sources.contains(&NamedBy::Configured));
        configured.map(|(node, named)| (*node, named.configured_address.clone())).collect()
    }

    /// Whether some node may connect that something beside the room names: it may come from anywhere.
    pub(crate) fn knows_anybody(&self) -> bool {
        !self.read().known.is_empty()
    }

    /// What holds for a node now.
    pub fn standing(&self, node: NodeId) -> Standing {
        self.write().standing(node)
    }

    /// Puts another policy into force. Who may connect now, if need be as soon as there is a port.
    pub fn set_policy(&self, policy: Policy) -> Vec<NodeId> {
        self.change(|state| state.policy = policy)
    }

    /// Puts other decisions of the operator into force. Who may connect now, if need be as soon as there is a port.
    pub fn decide(&self, store: TrustStore) -> Vec<NodeId> {
        self.change(|state| state.store = store)
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> Vec<NodeId> {
        let mut state = self.write();
        let mut nodes: Vec<NodeId> = state.named.keys().copied().collect();
        nodes.sort_unstable();
        let before: Vec<Standing> = nodes.iter().map(|node| state.standing(*node)).collect();
        change(&mut state);
        let mut gained = Vec::new();
        for (node, before) in nodes.into_iter().zip(before) {
            state.follow(node);
            let was_admitted = matches!(before, Standing::Admitted(_));
            let lost = match state.standing(node) {
                Standing::Admitted(_) if was_admitted => continue,
                Standing::Admitted(_) | Standing::Refused(Refusal::NoPort) => {
                    gained.push(node);
                    None
                }
                _ if !was_admitted => continue,
                Standing::Pending => Some(Loss::Pending),
                Standing::Refused(why) => Some(Loss::Refused(why)),
            };
            state.changed.push_back((node, lost));
        }
        gained
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

    fn unname(&mut self, node: NodeId, source: NamedBy) {
        let Some(named) = self.named.get_mut(&node) else { return };
        named.remove(source);
        if named.sources.is_empty() {
            self.named.remove(&node);
        }
        self.follow(node);
        self.changed.push_back((node, None));
    }

    /// A node is named otherwise, or judged otherwise.
    fn follow(&mut self, node: NodeId) {
        if self.repute(node) == Repute::Known && self.judge(node).is_ok() {
            self.known.insert(node);
        } else {
            self.known.remove(&node);
        }
    }

    fn repute(&self, node: NodeId) -> Repute {
        let is_known = self.named.get(&node).is_some_and(Named::is_known);
        if is_known { Repute::Known } else { Repute::Unproved }
    }

    /// A node that may connect, as it is named now.
    fn named_peer(&self, node: NodeId) -> Option<NamedPeer> {
        self.judge(node).ok()?;
        let (port, named) = self.ports.of(node).zip(self.named.get(&node))?;
        let (address, last_addresses) = (named.address().cloned(), named.last_addresses.clone());
        Some(NamedPeer { node, port, address, last_addresses })
    }

    fn judge(&self, node: NodeId) -> Result<(), Unfit> {
        if self.store.is_denied(node) {
            return Err(Unfit::Refused(Refusal::Denied(node)));
        }
        let Some(named) = self.named.get(&node) else {
            return Err(Unfit::Refused(Refusal::Unnamed(node)));
        };
        if named.sources.iter().any(|source| source.is_operators()) {
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
    ) -> Result<Proved, Unproved> {
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
    ) -> Result<Proved, Unproved> {
        let Policy::Secret(secrets) = &self.read().policy else {
            // Who proves a secret asks for one, and would drop every frame of this node.
            return proofs.is_empty().then_some(Proved::KeyAlone).ok_or(Unproved::OneWithout);
        };
        if proofs.is_empty() {
            return Err(Unproved::OneWithout);
        }
        let proved = secrets.iter().filter(|secret| secret.is_proved_by(prover, binding, proofs));
        let proved: Vec<_> = proved.map(|secret| secret.id()).collect();
        if proved.is_empty() { Err(Unproved::Different) } else { Ok(Proved::Secrets(proved)) }
    }
}
