//! Who may connect: asked by the TLS verifier once the peer's key is known, and again when its hello was read, before any of its frames.

use ipop_learning::PortId;

use crate::{command::Direction, node_id::NodeId};

/// Bytes of one proof: an HMAC-SHA-256.
pub const PROOF_LEN: usize = 32;
/// Most proofs that a hello carries: one for each secret that is valid while secrets are exchanged for others.
pub const MAX_PROOFS: usize = 4;
/// Label of the TLS exporter (RFC 8446 section 7.5) that binds proofs to their connection; its context is empty.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-ipop-switch proof 1";

/// A proof that its sender knows a network's secret.
pub type Proof = [u8; PROOF_LEN];

/// Names a secret without telling anything of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SecretId(pub [u8; 8]);

/// What a peer has proved, apart from its key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Proved {
    /// Nothing more is asked of it.
    #[default]
    KeyAlone,
    /// That it knows these secrets, at least one.
    Secrets(Vec<SecretId>),
}

/// The connection that a proof is made for. Proofs of another connection, role or node do not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProofBinding {
    /// Who dialled.
    pub dialler: NodeId,
    /// Who was dialled.
    pub listener: NodeId,
    /// What both ends export from their TLS session; nobody else knows it.
    pub exported: [u8; 32],
}

impl ProofBinding {
    /// The binding of a connection between these nodes, as `local` sees it.
    pub fn new(local: NodeId, peer: NodeId, direction: Direction, exported: [u8; 32]) -> Self {
        let (dialler, listener) = match direction {
            Direction::Dialled => (local, peer),
            Direction::Accepted => (peer, local),
        };
        Self { dialler, listener, exported }
    }
}

/// Whether a node may connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may, and its frames go through this port. A node's port never changes while it may connect.
    Admitted(PortId),
    /// It may not; the text tells the operator why, and what to do if it should.
    Refused(String),
}

/// Why what a peer has proved is not enough. Told at both ends, so it reads the same from each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unproved {
    /// Only one end proves anything, and so asks for proofs.
    #[error(
        "only one of the two nodes has a network secret: give both the same --network-secret-file"
    )]
    OneWithout,
    /// Both do.
    #[error(
        "the two nodes have different network secrets: give both the same --network-secret-file"
    )]
    Different,
    /// There is nothing to bind proofs to.
    #[error("the TLS session has no exporter")]
    NoExporter,
}

/// Decides which nodes may join. Shared by all workers; asked at every handshake, so it must not block.
pub trait Admission: Send + Sync + 'static {
    /// Whether this node may connect, whoever dials. Its key is proven or, when asked for a node that is being dialled, demanded.
    fn verdict(&self, node: NodeId) -> Verdict;

    /// What `prover`, this node, shows of the secrets that it knows, at most [`MAX_PROOFS`]. Who sends proofs asks for them too.
    fn proofs(&self, prover: NodeId, binding: &ProofBinding) -> Vec<Proof>;

    /// Whether what `prover`, the peer, has shown is enough.
    ///
    /// # Errors
    /// Why it is not.
    fn verify(
        &self,
        prover: NodeId,
        binding: &ProofBinding,
        proofs: &[Proof],
    ) -> Result<Proved, Unproved>;
}
