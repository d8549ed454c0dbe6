//! Links: ways to nodes that a controller makes, and what both ends must learn of each other for that.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PathKind, PeerPath};

/// All links, those that the room made included.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Links {
    /// By node id.
    pub(crate) links: Vec<Link>,
}

/// The link to a node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Link {
    /// The node's id.
    pub(crate) peer: String,
    /// Whether a controller made it.
    pub(crate) controlled: bool,
    /// This end's role in ICE.
    pub(crate) controlling: bool,
    /// Whether there is a tunnel.
    pub(crate) connected: bool,
    /// The way that packets go, if one was found.
    pub(crate) path: Option<PeerPath>,
    /// How the search for one stands.
    pub(crate) state: LinkState,
    /// The pairs of candidates.
    pub(crate) pairs: Vec<Pair>,
}

/// How the search for a way stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LinkState {
    /// The other end's description is missing.
    Waiting,
    /// Pairs are being checked.
    Checking,
    /// A way was found.
    Connected,
    /// There was one, and it is gone.
    Lost,
    /// None was found in good time. The search goes on.
    Failed,
}

/// What one end must learn of the other: credentials and candidates of ICE (RFC 8445).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    /// The node id of that end.
    pub(crate) node: String,
    /// User name fragment, 4 to 256 characters.
    pub(crate) ufrag: String,
    /// Password, 22 to 256 characters.
    pub(crate) password: String,
    /// Counts the restarts of that end: of two descriptions the higher one holds.
    pub(crate) generation: u32,
    /// Candidates so far.
    #[serde(default)]
    pub(crate) candidates: Vec<Candidate>,
    /// Whether these are all that are to be expected.
    #[serde(default)]
    pub(crate) gathered: bool,
}

/// An address at which a node may be reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Candidate {
    /// How it came to be known.
    pub(crate) kind: CandidateKind,
    /// IP address and UDP port.
    pub(crate) address: String,
    /// What the address stands for: the base, or the mapped address of a relayed one. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) related: Option<String>,
    /// By RFC 8445, section 5.1.2.1; higher is better.
    pub(crate) priority: u32,
}

/// How a candidate came to be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CandidateKind {
    /// An address of an interface.
    Host,
    /// What a STUN server sees.
    Srflx,
    /// What the peer sees.
    Prflx,
    /// An address of a TURN server.
    Relay,
}

/// A pair of candidates, and what became of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Pair {
    /// The kind of this end's candidate.
    pub(crate) local: CandidateKind,
    /// The other end's address.
    pub(crate) remote_address: String,
    /// Its kind.
    pub(crate) remote: CandidateKind,
    /// What became of it.
    pub(crate) state: PairState,
    /// Whether it carries the traffic.
    pub(crate) selected: bool,
    /// Direct or over a relay.
    pub(crate) kind: PathKind,
    /// Whether the other end checks it too.
    pub(crate) mutual: bool,
    /// By RFC 8445, section 6.1.2.3.
    pub(crate) priority: u64,
    /// Round-trip time of the last check, microseconds.
    pub(crate) rtt_us: Option<u64>,
    /// Checks sent.
    pub(crate) checks_sent: u64,
    /// Checks answered.
    pub(crate) checks_answered: u64,
}

/// What became of a pair (RFC 8445, section 6.1.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PairState {
    /// To be checked.
    Waiting,
    /// A check is under way.
    InProgress,
    /// It was answered.
    Succeeded,
    /// It was not.
    Failed,
}

/// Which link, and what the other end said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateLink {
    /// The node's id.
    pub(crate) peer: String,
    /// What it said of itself, if that is known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Description>,
}

/// More of what the other end said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateLink {
    /// The node's id.
    pub(crate) peer: String,
    /// What it said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Description>,
    /// Candidates besides those of its description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) more: Option<MoreCandidates>,
}

/// Candidates that came later.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoreCandidates {
    /// Of which description.
    pub(crate) generation: u32,
    /// Them.
    pub(crate) candidates: Vec<Candidate>,
}

/// Which link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkParams {
    /// The node's id.
    pub(crate) peer: String,
}

/// This end's description.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct OwnDescription {
    /// For the other end.
    pub(crate) description: Description,
}

/// How a link fares.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LinkStats {
    /// The node's id.
    pub(crate) peer: String,
    /// The pairs of candidates.
    pub(crate) pairs: Vec<Pair>,
    /// The tunnel; `null` while there is none.
    pub(crate) tunnel: Option<super::Peer>,
}

/// The candidates of both ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LinkCandidates {
    /// The node's id.
    pub(crate) peer: String,
    /// This end's.
    pub(crate) local: Vec<Candidate>,
    /// Whether these are all.
    pub(crate) gathered: bool,
    /// The other end's.
    pub(crate) remote: Vec<Candidate>,
}

/// STUN and TURN servers for this node, in place of those before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IceServers {
    /// STUN servers, `HOST[:PORT]`.
    #[serde(default)]
    pub(crate) stun: Vec<String>,
    /// TURN servers over UDP.
    #[serde(default)]
    pub(crate) turn: Vec<TurnServer>,
}

/// A TURN server over UDP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TurnServer {
    /// `HOST[:PORT]`.
    pub(crate) server: String,
    /// The user's name.
    pub(crate) username: String,
    /// The user's password.
    pub(crate) password: String,
}
