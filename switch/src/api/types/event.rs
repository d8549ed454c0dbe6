//! Events: what changes, as it changes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Candidate, Description, PathKind, Peer, Port, Status};

/// Something changed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Event {
    /// Events are numbered without gaps from the start of the switch.
    pub(crate) number: u64,
    /// When, milliseconds since 1970.
    pub(crate) unix_ms: u64,
    /// For filters.
    pub(crate) kind: EventKind,
    /// One line for people.
    pub(crate) text: String,
    /// What.
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What events are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventKind {
    /// Peers come and go.
    Peer,
    /// Ways to peers change.
    Path,
    /// Links that a controller made.
    Link,
    /// Stations are learned and move.
    Station,
    /// Local ports come, go, and are blocked.
    Port,
    /// Frames are dropped.
    Drop,
    /// Nodes are seen, let in, kept out.
    Trust,
    /// The XMPP stream and the room.
    Network,
    /// Messages of other nodes' controllers.
    Message,
    /// Frames for the controller.
    Frame,
    /// Everything else that the log says.
    Other,
}

/// What changed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum What {
    /// A peer is up.
    PeerUp {
        /// Its node id.
        peer: String,
        /// The name that it gave itself.
        name: String,
    },
    /// A peer is down.
    PeerDown {
        /// Its node id.
        peer: String,
    },
    /// Packets to a peer go another way.
    PathChanged {
        /// Its node id.
        peer: String,
        /// Direct or over a relay.
        path: PathKind,
    },
    /// There is no way to a peer.
    NoPath {
        /// Its node id.
        peer: String,
    },
    /// A link has a description that the other end must learn.
    LinkDescription {
        /// The node that the link is to.
        peer: String,
        /// This end's.
        description: Description,
    },
    /// A link has candidates that the other end must learn too.
    LinkCandidates {
        /// The node that the link is to.
        peer: String,
        /// Of which description.
        generation: u32,
        /// Them.
        candidates: Vec<Candidate>,
    },
    /// A link has all its candidates.
    LinkGathered {
        /// The node that the link is to.
        peer: String,
        /// Of which description.
        generation: u32,
    },
    /// A link has a tunnel, or has lost it.
    LinkTunnel {
        /// The node that the link is to.
        peer: String,
        /// Whether there is one.
        connected: bool,
    },
    /// A station was heard for the first time, or after a long while.
    StationLearned {
        /// Its MAC address.
        mac: String,
        /// The port that leads to it.
        port: String,
    },
    /// A station was heard at another port.
    StationMoved {
        /// Its MAC address.
        mac: String,
        /// The port that led to it.
        from: String,
        /// The port that leads to it.
        to: String,
    },
    /// A station moves to and fro.
    StationFlapping {
        /// Its MAC address.
        mac: String,
    },
    /// A local port was opened.
    PortOpened {
        /// Its name.
        port: String,
    },
    /// A local port was closed.
    PortClosed {
        /// Its name.
        port: String,
    },
    /// A local port was blocked since a loop was seen.
    PortBlocked {
        /// Its name.
        port: String,
    },
    /// A local port forwards again.
    PortUnblocked {
        /// Its name.
        port: String,
    },
    /// More than a hundred frames a second were dropped for one reason.
    Dropping {
        /// Its name.
        reason: String,
        /// How many in the last second.
        frames: u64,
    },
    /// The decisions about nodes are others.
    TrustChanged,
    /// A peer's controller says something.
    Message {
        /// The peer's node id.
        peer: String,
        /// What, in base64.
        data: String,
    },
    /// A frame that the controller asked for.
    Punted {
        /// The port that it came from.
        port: String,
        /// Why: it matches the filter, or it has no destination here.
        reason: String,
        /// Its bytes from the destination MAC on, in hexadecimal.
        frame: String,
    },
    /// A line of the log.
    Told,
}

/// What is the case, before changes are told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Snapshot {
    /// The number of the latest event that is in it.
    pub(crate) number: u64,
    /// The switch as a whole.
    pub(crate) status: Status,
    /// All peers.
    pub(crate) peers: Vec<Peer>,
    /// All local ports.
    pub(crate) ports: Vec<Port>,
}

/// Which events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventParams {
    /// Only these kinds, separated by commas; all if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// Only those after this one, and no snapshot; as the header `Last-Event-ID` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<u64>,
}
