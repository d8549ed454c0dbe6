//! What the control plane asks of the workers, and what they tell it.
//!
//! Control decides who a peer is, which connection carries which lane and when to dial; workers own the connections.
//! Both directions are bounded queues of these values.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipop_learning::PortId;

use crate::{
    admission::Proved,
    hello::Hello,
    io::SocketId,
    moves::StationMoves,
    node_id::NodeId,
    path::{Path, Source},
};

/// Names a connection for the life of the program. Bits 56 and up hold the worker; bit 55 is set in the names that control gives to dials.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// The number of the worker stands from this bit on.
    pub const WORKER_SHIFT: u32 = 56;

    /// The worker that owns the connection.
    pub const fn worker(self) -> usize {
        (self.0 >> Self::WORKER_SHIFT) as usize
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

/// Why a connection is closed, as told to the far end (`docs/WIRE.md`, close codes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CloseReason {
    /// The program ends.
    Shutdown = 0,
    /// A newer connection of the same node took over.
    Replaced = 1,
    /// Both ends dialled at once; the other connection stays.
    Duplicate = 2,
    /// The peer speaks another version.
    Version = 3,
    /// The peer's hello is malformed.
    BadHello = 4,
    /// The peer may not join.
    NotAdmitted = 5,
    /// The node dialled itself.
    DialledSelf = 6,
    /// The peer has not shown that it knows the network's secret, or asks for a secret that this node lacks.
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

/// From control to the worker that the lane belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Open a connection.
    Dial {
        /// Name of the new connection.
        connection: ConnectionId,
        /// Who must answer.
        peer: NodeId,
        /// Lane that it is for.
        lane: Lane,
        /// Where.
        remote: SocketAddr,
    },
    /// Send this port's frames over this connection from now on, in place of any other of the lane.
    /// (Frames are received on every admitted connection of the port.)
    Activate {
        /// The connection.
        connection: ConnectionId,
        /// The peer's port.
        port: PortId,
    },
    /// Close in-band with this reason.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// Told to the peer.
        reason: CloseReason,
    },
    /// Have the peer heard from: nothing may be heard of it, or the socket's local address have changed, and then the peer validates the path (RFC 9000 section 9).
    Probe {
        /// The connection.
        connection: ConnectionId,
    },
    /// To the first worker. Packets to [`alias`](crate::path::alias)`(port)` go this way from now on; without a path they are dropped, counted.
    /// What comes from the sources of before is still welcome, until they are removed.
    SetPath {
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
    RemoveSource {
        /// Where.
        source: Source,
    },
    /// Send a STUN or TURN packet of control's.
    SendPacket {
        /// From this socket.
        socket: SocketId,
        /// From this local address; the kernel chooses if it is `None`.
        local_ip: Option<IpAddr>,
        /// To this address.
        remote: SocketAddr,
        /// UDP payload.
        payload: Vec<u8>,
    },
    /// Whether this worker looks at Initials of strangers; at first it does. (Those of lane *i* reach worker *i*, and only the first
    /// worker knows sources.)
    AnswerStrangers(Strangers),
    /// The peer may dial from these addresses, and no longer from those of before: places for its handshakes are kept. (Peers whose path control chose are known by it.)
    KnowAddresses {
        /// The peer's port.
        port: PortId,
        /// At most 32 count.
        addresses: Vec<IpAddr>,
    },
    /// Send a message to the peer's control plane, in order and reliably as long as the connection lives. Peers that do not
    /// know such messages never see it; it is counted.
    Signal {
        /// A connection that is up.
        connection: ConnectionId,
        /// At most [`MAX_SIGNAL_LEN`].
        message: Vec<u8>,
    },
    /// Switch a frame as if a TAP's kernel side had sent it: this host makes itself known on its segment.
    Announce {
        /// The TAP.
        tap: PortId,
        /// The frame.
        frame: Vec<u8>,
        /// Who gets it.
        to: Audience,
    },
    /// Close every connection with [`CloseReason::Shutdown`], flush, end the worker.
    Shutdown,
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
#[derive(Clone, PartialEq, Eq, Debug)]
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
    /// TLS refused: wrong key, wrong key type, wrong ALPN. The text tells the operator what to do.
    Refused(String),
    /// Any other QUIC error.
    Failed(String),
}

/// From a worker to control.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The handshake is done, the peer's key is known and admitted, its hello was read, its proofs were verified.
    Connected {
        /// The connection; for an accepted one its name is new.
        connection: ConnectionId,
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
    /// A packet for control: STUN at the listening socket; at the relay socket all but ChannelData of the channels that are a peer's [`Source`].
    /// Only so many a second are told; the rest is dropped, counted.
    Packet {
        /// Where it came in.
        socket: SocketId,
        /// The local address that it was sent to, if the kernel told; IPv4 as such, not mapped.
        local_ip: Option<IpAddr>,
        /// Its sender.
        remote: SocketAddr,
        /// UDP payload.
        payload: Vec<u8>,
    },
    /// STUN of a peer over a relay's channel. Bounded like [`Event::Packet`].
    ChannelPacket {
        /// The channel.
        channel: u16,
        /// What the ChannelData holds.
        payload: Vec<u8>,
    },
    /// A message of the peer's control plane.
    Signal {
        /// The connection that it came over.
        connection: ConnectionId,
        /// Whose key answered there.
        peer: NodeId,
        /// At most [`MAX_SIGNAL_LEN`], not empty.
        message: Vec<u8>,
    },
    /// Nothing is heard over a connection, though something waits for an answer: its path may be dead. Told again while it
    /// lasts.
    Silent {
        /// The connection.
        connection: ConnectionId,
        /// The round-trip time until then.
        rtt: Duration,
    },
    /// The peer was seen, validated, at another address.
    Moved {
        /// The connection.
        connection: ConnectionId,
        /// Its new address.
        remote: SocketAddr,
    },
    /// The connection is gone.
    Ended {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        why: Ended,
    },
    /// A node that connected was refused in the handshake. At most one a second is told.
    Rejected {
        /// Its address.
        remote: SocketAddr,
        /// Why, and what to do if it should get in.
        why: String,
    },
    /// The kernel refused to send a packet. At most one a second is told.
    SendRefused {
        /// Where it was to go.
        remote: SocketAddr,
        /// The kernel's number of the reason.
        errno: i32,
    },
    /// A loop probe came in on a TAP: the segment behind it is reached twice, and the TAP is blocked.
    LoopSeen {
        /// The TAP's port.
        port: PortId,
        /// Whose probe it was; this node's own, or a connected peer's.
        origin: NodeId,
    },
    /// A loop through this TAP is broken elsewhere: another TAP is blocked for it. Told when it is noticed.
    LoopElsewhere {
        /// The TAP's port.
        port: PortId,
    },
    /// No probe was seen for a while: the port forwards again.
    LoopCleared {
        /// The TAP's port.
        port: PortId,
    },
    /// Stations were heard on another port than before. Told once a second at most by each worker.
    StationsMoved(Vec<StationMoves>),
    /// A TAP was deleted while in use.
    TapGone {
        /// The TAP's port.
        port: PortId,
    },
    /// The worker cannot go on; the text names the system call and what to do.
    WorkerFailed {
        /// Explanation for the operator.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dense_and_each_stands_for_its_reason() {
        let codes: Vec<u64> =
            (0..100).map_while(CloseReason::of_code).map(|reason| reason as u64).collect();
        assert_eq!(codes, Vec::from_iter(0..=CloseReason::NotProved as u64));
        assert_eq!(CloseReason::of_code(u64::MAX), None);
    }
}
