//! What the operator is told. Each notice is one line of the log: here are the facts, in `text` the words.

mod text;

use std::{net::SocketAddr, time::Duration};

use ipop_datapath::{
    PortId,
    command::{Direction, Ended, Lane},
    node_id::NodeId,
    path::Path,
    tunnel::hello::Hello,
};
use xmpp_parsers::jid::FullJid;

pub use self::text::explain;
use crate::{
    ice::{CandidateKind, Obstacles, ServerProblem},
    node::PortSpec,
    paths::Way,
    sessions::{ShortId, Unreached},
    trust::{Claim, Loss, Refusal},
    xmpp::{room::Problem, services::Service, stream::Failure},
};

/// A peer, as every line names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Who {
    /// Its node id.
    pub node: NodeId,
    /// The name that it gave itself, if it ever connected.
    pub name: Option<String>,
}

/// Why a connection of a peer is gone.
#[derive(Clone, PartialEq, Debug)]
pub enum Down {
    /// It ended.
    Ended {
        /// How.
        why: Ended,
        /// This node, which the cure may name.
        local: NodeId,
    },
    /// It went straight to an address that path control has left.
    BesidePath,
}

/// What a connection asked that it may not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trespass {
    /// It comes from this node.
    Itself,
    /// This node is not among the peers.
    Unknown(NodeId),
    /// There are not so many lanes here.
    NoSuchLane {
        /// What it wants.
        lane: u8,
        /// What this node serves.
        lanes: u8,
    },
    /// Somebody else answers than was dialled.
    AnotherNode,
    /// It answers for one lane, another one was dialled.
    AnotherLane {
        /// The former.
        lane: u8,
        /// The latter.
        dialled: usize,
    },
}

/// Whether there was a path that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pathless {
    /// There was.
    Lost,
    /// None was found so far.
    NotYet,
}

/// Something that the operator should know.
#[derive(Clone, PartialEq, Debug)]
pub enum Notice {
    /// The first lane of a peer is up.
    PeerUp {
        /// Who.
        peer: Who,
        /// Its port.
        port: PortId,
        /// Its address.
        remote: SocketAddr,
        /// Which way that leads, if the address stands for a path.
        way: Option<Way>,
        /// Who dialled.
        direction: Direction,
        /// What it said of itself.
        hello: Box<Hello>,
    },
    /// The last lane of a peer is gone.
    PeerDown {
        /// Who.
        peer: Who,
        /// Why.
        why: Down,
        /// How long it was up.
        up: Duration,
    },
    /// A peer that was up came back as a new instance.
    PeerRestarted {
        /// Who.
        peer: Who,
        /// Its address now.
        remote: SocketAddr,
    },
    /// One more lane of a peer is up.
    LaneUp {
        /// Whose.
        peer: Who,
        /// Which.
        lane: Lane,
        /// The address.
        remote: SocketAddr,
    },
    /// A lane is gone, others live.
    LaneDown {
        /// Whose.
        peer: Who,
        /// Which.
        lane: Lane,
        /// Why.
        why: Down,
    },
    /// A lane goes another way now.
    LaneMoved {
        /// Whose.
        peer: Who,
        /// Which.
        lane: Lane,
        /// The address before.
        from: SocketAddr,
        /// The address now.
        to: SocketAddr,
    },
    /// No address of the peer answered. Repeated only when the reason changes, and every five minutes.
    DialFailed {
        /// Who.
        peer: Who,
        /// Which lane.
        lane: Lane,
        /// Why.
        why: Unreached,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// A connection was closed for what it asked.
    Refused {
        /// Who asked.
        peer: NodeId,
        /// From where.
        remote: SocketAddr,
        /// Why.
        why: Trespass,
    },
    /// A peer lost its right to be connected while it was up.
    Revoked {
        /// Who.
        peer: Who,
        /// Why.
        why: Loss,
    },
    /// The peer's inner MTU is another.
    MtuMismatch {
        /// Who.
        peer: Who,
        /// This node's, bytes.
        ours: u16,
        /// The peer's, bytes.
        theirs: u16,
    },
    /// Two programs use one key.
    DuplicateNode {
        /// Their node id.
        peer: Who,
        /// The latest address of one of them.
        remote: SocketAddr,
    },
    /// Two peers are not connected to each other, as they say.
    PairMissing {
        /// Which.
        pair: [NodeId; 2],
        /// The names that they gave, perhaps empty.
        names: [String; 2],
    },
    /// They are now.
    PairConnected {
        /// Which.
        pair: [NodeId; 2],
    },
    /// A peer reaches a node that this one does not.
    BeyondMissing {
        /// That node, as far as the peer tells.
        node: ShortId,
        /// The peer.
        via: NodeId,
        /// The peer's name, perhaps empty.
        name: String,
    },
    /// That node is a peer that is up now.
    BeyondConnected {
        /// Which.
        node: ShortId,
    },
    /// The configuration was read again.
    Reconfigured {
        /// Peers that are new or have another address.
        added: usize,
        /// Peers that it no longer names.
        removed: usize,
        /// Whether policy or secrets are others.
        has_other_policy: bool,
    },
    /// A local port finds no number.
    PortLeftOut {
        /// Which.
        spec: PortSpec,
    },
    /// A configured peer may not connect.
    NotAdmitted {
        /// Which.
        peer: NodeId,
        /// Why.
        why: Refusal,
    },
    /// Nothing names a peer any more, and it is not connected.
    Forgotten {
        /// Which.
        peer: NodeId,
    },
    /// An occupant of the room shows this node's id.
    OwnId {
        /// Who.
        jid: FullJid,
    },
    /// Several occupants say that they are one node.
    Contested {
        /// Which.
        node: NodeId,
    },
    /// A node of the room waits for the operator.
    Waits {
        /// Which.
        node: NodeId,
        /// As whom it is there.
        claim: Claim,
    },
    /// A node of the room may not connect.
    Barred {
        /// Which.
        node: NodeId,
        /// As whom it is there.
        claim: Claim,
        /// Why.
        why: Refusal,
    },
    /// The stream to the XMPP server is there.
    Online {
        /// The own JID.
        jid: FullJid,
    },
    /// It is lost for a reason that was not told since it was there.
    Offline {
        /// Why.
        why: Failure,
    },
    /// It could not be brought back, for a reason that was told.
    StillOffline {
        /// Why.
        why: Failure,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The stream does not come back by itself.
    AccountRefused {
        /// Why.
        why: Failure,
    },
    /// The XMPP server offers STUN and TURN servers.
    Offered(Vec<Service>),
    /// This node is in the room.
    Joined {
        /// As whom.
        nick: String,
    },
    /// An account lost its right to be in the room.
    AccountRemoved {
        /// Which.
        account: String,
    },
    /// Something is wrong with the room.
    Room(Problem),
    /// Something is wrong with a STUN or TURN server.
    Server(ServerProblem),
    /// A peer's signal makes no sense.
    BadSignal {
        /// Whose.
        peer: NodeId,
    },
    /// Packets to a peer take another path from now on.
    Path {
        /// Whom.
        peer: Who,
        /// Which.
        path: Path,
        /// What this end's candidate is.
        local: CandidateKind,
        /// What the peer's is.
        remote: CandidateKind,
        /// Whether the peer has said goodbye: then it is no news.
        has_left: bool,
    },
    /// There is no path to a peer.
    NoPath {
        /// Whom.
        peer: Who,
        /// Whether there was one.
        was: Pathless,
        /// Why.
        why: Obstacles,
        /// Lines like this one that were left out before.
        left_out: u64,
        /// Whether the peer has said goodbye: then it is no news.
        has_left: bool,
    },
    /// More was to be told of the room and its nodes than anybody reads.
    LeftOut {
        /// So many lines.
        lines: u64,
    },
}

/// How much a notice matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// For those who look closely.
    Debug,
    /// Good to know.
    Info,
    /// Something should be done.
    Warning,
}

impl Notice {
    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            Self::Forgotten { .. }
            | Self::StillOffline { .. }
            | Self::Offered(_)
            | Self::BadSignal { .. }
            | Self::Path { has_left: true, .. }
            | Self::NoPath { has_left: true, .. } => Level::Debug,
            Self::PeerUp { .. }
            | Self::PeerRestarted { .. }
            | Self::LaneUp { .. }
            | Self::LaneMoved { .. }
            | Self::PairConnected { .. }
            | Self::BeyondConnected { .. }
            | Self::Reconfigured { .. }
            | Self::Online { .. }
            | Self::Joined { .. }
            | Self::Path { .. } => Level::Info,
            Self::PeerDown { .. }
            | Self::LaneDown { .. }
            | Self::DialFailed { .. }
            | Self::Refused { .. }
            | Self::Revoked { .. }
            | Self::MtuMismatch { .. }
            | Self::DuplicateNode { .. }
            | Self::PairMissing { .. }
            | Self::BeyondMissing { .. }
            | Self::PortLeftOut { .. }
            | Self::NotAdmitted { .. }
            | Self::OwnId { .. }
            | Self::Contested { .. }
            | Self::Waits { .. }
            | Self::Barred { .. }
            | Self::Offline { .. }
            | Self::AccountRefused { .. }
            | Self::AccountRemoved { .. }
            | Self::Room(_)
            | Self::Server(_)
            | Self::NoPath { .. }
            | Self::LeftOut { .. } => Level::Warning,
        }
    }
}
