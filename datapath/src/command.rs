//! What the control plane asks of the workers, and what they tell it.
//!
//! Control decides who a peer is, which connection carries which lane and when to dial; workers own the connections.
//! Both directions are bounded queues of these values.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipop_learning::PortId;
use quinn_proto::{ConnectError, ConnectionError, TransportErrorCode};

use crate::{
    counters::ledger::Ledger,
    io::SocketKind,
    node_id::NodeId,
    path::{Path, Source},
    policy::{
        admission::{Proved, Unproved},
        moves::StationMoves,
    },
    tunnel::hello::Hello,
};

/// Names a connection for the life of the program; [`ConnectionIds`] makes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// The number of the worker stands from this bit on.
    const WORKER_SHIFT: u32 = 56;
    /// Set in the names of connections that this node dials.
    const DIALLED: u64 = 1 << 55;

    /// The worker that owns the connection.
    pub const fn worker(self) -> usize {
        (self.0 >> Self::WORKER_SHIFT) as usize
    }
}

/// Makes the names of connections of one direction: control has one for those that it has dialled, each worker one for those that it accepts.
#[derive(Debug)]
pub struct ConnectionIds {
    direction: Direction,
    next: u64,
}

impl ConnectionIds {
    /// Of connections opened this way.
    pub const fn new(direction: Direction) -> Self {
        Self { direction, next: 0 }
    }

    /// A new name for a connection of this worker.
    pub fn next(&mut self, worker: u8) -> ConnectionId {
        let direction = match self.direction {
            Direction::Dialled => ConnectionId::DIALLED,
            Direction::Accepted => 0,
        };
        let number = self.next;
        self.next = (number + 1) & (ConnectionId::DIALLED - 1);
        ConnectionId(u64::from(worker) << ConnectionId::WORKER_SHIFT | direction | number)
    }
}

/// The number of a lane: worker `lane` on each end carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Lane(pub u8);

/// More lanes than this are never used between two nodes.
pub const MAX_LANES: usize = 16;

/// Which end opened a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// This node dialled.
    Dialled,
    /// The peer dialled.
    Accepted,
}

/// Why a connection is closed, as told to the far end (`docs/WIRE.md`, close codes); its text is the reason phrase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[repr(u8)]
pub enum CloseReason {
    /// The program ends.
    #[error("the switch shuts down")]
    Shutdown = 0,
    /// A newer connection of the same node took over.
    #[error("a newer connection took over")]
    Replaced = 1,
    /// Both ends dialled at once.
    #[error("both ends dialled; the other connection stays")]
    Duplicate = 2,
    /// The peer speaks another version.
    #[error("another version")]
    Version = 3,
    /// The peer's hello is malformed.
    #[error("malformed hello")]
    BadHello = 4,
    /// The peer may not join.
    #[error("this node is not among the peers")]
    NotAdmitted = 5,
    /// The node dialled itself.
    #[error("the node dialled itself")]
    DialledSelf = 6,
    /// The peer has not shown that it knows the network's secret, or asks for a secret that this node lacks.
    #[error("the network's secret was not proved")]
    NotProved = 7,
}

impl CloseReason {
    const ALL: [Self; 8] = [
        Self::Shutdown,
        Self::Replaced,
        Self::Duplicate,
        Self::Version,
        Self::BadHello,
        Self::NotAdmitted,
        Self::DialledSelf,
        Self::NotProved,
    ];

    /// The reason that a close code stands for, if this version knows it.
    pub fn of_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u64 == code)
    }
}

/// The longest signalling message, bytes.
pub const MAX_SIGNAL_LEN: usize = 4_096;

/// What becomes of QUIC Initials from addresses that are no peer's [`Source`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Strangers {
    /// They are looked at: some peers are configured, and may come from anywhere.
    #[default]
    Answered,
    /// They are dropped without a reply.
    Ignored,
}

/// From control to a worker, by what it is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// A connection, or what is to become one; to the worker that owns it.
    Connection(ConnectionId, ToConnection),
    /// The ways to peers whose paths control chooses; to the first worker.
    Path(ToPaths),
    /// A port.
    Port(PortId, ToPort),
    /// The network: send this STUN or TURN packet.
    Packet(ControlPacket),
    /// The worker itself.
    Worker(ToWorker),
    /// Something is to be told; the answer, [`Event::Answer`], carries the same token.
    Query(Token, Query),
}

/// What a connection is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToConnection {
    /// Come about.
    Dial {
        /// Who must answer.
        peer: NodeId,
        /// Lane that it is for.
        lane: Lane,
        /// Where.
        remote: SocketAddr,
    },
    /// Send this port's frames from now on, in place of any other of the lane.
    /// (Frames are received on every admitted connection of the port.)
    Activate(PortId),
    /// Close in-band with this reason.
    Close(CloseReason),
    /// Have the peer heard from: nothing may be heard of it, or the socket's local address have changed, and then the peer validates the path (RFC 9000 section 9).
    Probe,
    /// Send a message, of at most [`MAX_SIGNAL_LEN`], to the peer's control plane, in order and reliably as long as the connection lives.
    /// Peers that do not know such messages never see it; it is counted.
    Signal(Vec<u8>),
}

/// How packets to and from peers go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToPaths {
    /// Packets to [`alias`](crate::path::alias)`(port)` go this way from now on; without a path they are dropped, counted.
    /// What comes from the sources of before is still welcome, until they are removed.
    Set {
        /// The peer's port.
        port: PortId,
        /// The way, validated by ICE.
        path: Option<Path>,
    },
    /// What comes from here is the peer's. To be sent before the answer that lets the peer dial, or its first packet is a stranger's.
    AddSource {
        /// Where, validated by ICE.
        source: Source,
        /// The peer's port.
        port: PortId,
    },
    /// What comes from here is nobody's in particular.
    RemoveSource(Source),
}

/// What is to be done for a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToPort {
    /// Its peer may dial from these addresses, of which at most 32 count, and no longer from those of before: places for its handshakes are kept.
    /// (Peers whose path control chose are known by it.)
    KnowAddresses(Vec<IpAddr>),
    /// Switch a frame as if the TAP's kernel side had sent it: this host makes itself known on its segment.
    Announce {
        /// The frame.
        frame: Vec<u8>,
        /// Who gets it.
        to: Audience,
    },
}

/// What a worker is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToWorker {
    /// Look at Initials of strangers or not; at first they are looked at. (Those of lane *i* reach worker *i*, and only the first
    /// worker knows sources.)
    AnswerStrangers(Strangers),
    /// Close every connection with [`CloseReason::Shutdown`], flush, end.
    Shutdown,
}

/// Names a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(pub u64);

/// What control may ask a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query {
    /// The connections that have not ended, and how they are.
    Connections,
}

/// The answer to a [`Query`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To [`Query::Connections`].
    Connections {
        /// Those that have not ended.
        connections: Vec<(ConnectionId, ConnectionStats)>,
        /// What became of the worker's frames.
        ledger: Ledger,
    },
}

/// How a connection is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionStats {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Path MTU, bytes of UDP payload.
    pub path_mtu_bytes: u16,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets declared lost.
    pub lost_packets: u64,
    /// Black holes of path MTU found.
    pub black_holes: u64,
    /// Waiting in the tunnel's queue, bytes.
    pub queued_bytes: u64,
    /// Whether the circuit breaker is open.
    pub breaker_open: bool,
}

/// A STUN or TURN packet, in or out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlPacket {
    /// The socket, by what it is for.
    pub socket: SocketKind,
    /// The local address, IPv4 as such, not mapped. Out: the kernel chooses if it is `None`. In: `None` if the kernel did not tell.
    pub local_ip: Option<IpAddr>,
    /// The far end.
    pub remote: SocketAddr,
    /// UDP payload.
    pub payload: Vec<u8>,
}

/// Who gets an announcement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Audience {
    /// Whoever gets a frame to its destination.
    Everybody,
    /// One peer, by its port.
    Peer(PortId),
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Ended {
    /// This node closed it.
    Closed(CloseReason),
    /// The peer closed it: code and phrase.
    ByPeer {
        /// Application close code.
        code: u64,
        /// Reason phrase, printable, at most 200 characters.
        phrase: String,
    },
    /// The peer restarted: it no longer knows the connection (stateless reset).
    Reset,
    /// Nothing was heard for the dead-peer time.
    TimedOut,
    /// One end would not have the other.
    Refused(Refusal),
    /// Anything else.
    Failed(Failure),
}

/// Why one end would not have the other. The text tells the operator what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The peer's TLS refused this node, with this alert.
    #[error("the peer refused this node ({0}): is this node's id among its --peer options?")]
    ByPeer(TransportErrorCode),
    /// This node's TLS refused the peer: wrong key, wrong key type, wrong ALPN, or [`Verdict::Refused`](crate::policy::admission::Verdict::Refused). TLS passes
    /// on nothing but text.
    #[error("{0}")]
    ByTls(String),
    /// What the peer has proved is not enough.
    #[error(transparent)]
    NotProved(#[from] Unproved),
}

/// What went wrong with a connection.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Failure {
    /// The peer's alias was dialled while it has no path.
    #[error("there is no path to the peer now")]
    NoPath,
    /// TLS does not take what it is to dial with.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// QUIC does not dial.
    #[error(transparent)]
    Dial(#[from] ConnectError),
    /// An error of QUIC's.
    #[error(transparent)]
    Quic(ConnectionError),
    /// QUIC has forgotten it.
    #[error("the connection ended")]
    Forgotten,
}

/// From a worker to control, by what it is about.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A connection. That of a [`FromConnection::Connected`] which the far end dialled is new.
    Connection(ConnectionId, FromConnection),
    /// A port.
    Port(PortId, FromPort),
    /// A packet for control: STUN at the listening socket; at the relay socket all but ChannelData of the channels that are a peer's [`Source`].
    /// Only so many a second are told; the rest is dropped, counted.
    Packet(ControlPacket),
    /// STUN of a peer over a relay's channel. Bounded like [`Event::Packet`].
    ChannelPacket {
        /// The channel.
        channel: u16,
        /// What the ChannelData holds.
        payload: Vec<u8>,
    },
    /// The worker itself.
    Worker(FromWorker),
    /// The answer to the query of this token.
    Answer(Token, Answer),
}

/// What happened to a connection.
#[derive(Clone, PartialEq, Debug)]
pub enum FromConnection {
    /// The handshake is done, the peer's key is known and admitted, its hello was read, its proofs were verified.
    Connected {
        /// Whose key answered.
        peer: NodeId,
        /// Who dialled.
        direction: Direction,
        /// The peer's address now; its alias if control chooses its path.
        remote: SocketAddr,
        /// The local address that the peer reached, if the kernel told.
        local_ip: Option<IpAddr>,
        /// What the peer said of itself; its `lane` field is the lane of this connection.
        hello: Hello,
        /// What it proved apart from its key.
        proved: Proved,
    },
    /// A message of the peer's control plane.
    Signal {
        /// Whose key answered.
        peer: NodeId,
        /// At most [`MAX_SIGNAL_LEN`], not empty.
        message: Vec<u8>,
    },
    /// Nothing is heard, though something waits for an answer: the path may be dead. Told again while it lasts.
    Silent {
        /// The round-trip time until then.
        rtt: Duration,
    },
    /// The peer was seen, validated, at another address.
    Moved {
        /// Its new address.
        remote: SocketAddr,
    },
    /// It is gone.
    Ended(Ended),
}

/// What happened at a TAP's port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromPort {
    /// A loop probe came in: the segment behind the TAP is reached twice, and the TAP is blocked.
    LoopSeen {
        /// Whose probe it was; this node's own, or a connected peer's.
        origin: NodeId,
    },
    /// A loop through this TAP is broken elsewhere: another TAP is blocked for it. Told when it is noticed.
    LoopElsewhere,
    /// No probe was seen for a while: the port forwards again.
    LoopCleared,
    /// A worker has let go of the port, which was to be closed.
    Closed {
        /// Its number.
        worker: u8,
    },
    /// The TAP was deleted while in use.
    Gone,
}

/// What a worker noticed that is no single connection's or port's.
#[derive(Clone, PartialEq, Debug)]
pub enum FromWorker {
    /// A node that connected was refused in the handshake. At most one a second is told.
    Rejected {
        /// Its address.
        remote: SocketAddr,
        /// Why.
        why: Refusal,
    },
    /// The kernel refused to send a packet. At most one a second is told.
    SendRefused {
        /// Where it was to go.
        remote: SocketAddr,
        /// The kernel's number of the reason.
        errno: i32,
    },
    /// Stations were heard on another port than before. Told once a second at most by each worker.
    StationsMoved(Vec<StationMoves>),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_dense_and_each_stands_for_its_reason() {
        let codes: Vec<u64> =
            (0..100).map_while(CloseReason::of_code).map(|reason| reason as u64).collect();
        assert_eq!(codes, Vec::from_iter(0..=CloseReason::NotProved as u64));
        assert_eq!(CloseReason::of_code(u64::MAX), None);
    }

    #[test]
    fn names_tell_the_worker_and_never_meet() {
        let mut dialled = ConnectionIds::new(Direction::Dialled);
        let mut accepted = ConnectionIds::new(Direction::Accepted);
        let names: Vec<_> = (0..4).flat_map(|_| [dialled.next(3), accepted.next(3)]).collect();
        assert!(names.iter().all(|name| name.worker() == 3));
        assert_eq!(BTreeSet::from_iter(&names).len(), names.len());
        accepted.next = ConnectionId::DIALLED - 1;
        accepted.next(3);
        assert_ne!(accepted.next(3), names[0], "the number begins anew");
    }
}
