//! What the pure core asks of the shell around it.
//!
//! The io_uring worker, the simulator and the tests each implement [`Io`]; the core sees no file descriptor and no clock.

use std::net::SocketAddr;

use ipop_learning::PortId;
use quinn_proto::Transmit;

use crate::{
    counters::drops::Passed,
    frame::{Frame, FrameBytes, VNET_HEADER_LEN},
};

/// A frame that a TAP's kernel side sent.
pub struct TapFrame<'a> {
    /// The TAP.
    pub tap: PortId,
    /// The vnet header that came with it.
    pub vnet: &'a [u8; VNET_HEADER_LEN],
    /// The frame.
    pub bytes: FrameBytes<'a>,
}

/// What a UDP socket of a worker is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketKind {
    /// It is bound to the listening port.
    Listen,
    /// Further lanes dial from it: a port of the kernel's choice. The first worker has none.
    Dial,
    /// The first worker speaks to TURN servers from it, and nothing else.
    Relay,
}

/// A UDP socket of a worker: its place in the worker's [`Sockets`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketId(pub(crate) u8);

/// The UDP sockets of a worker: what each is for, and its UDP port. Whoever opens them makes the table, for the core and for the shell.
#[derive(Clone, Debug)]
pub struct Sockets(Vec<(SocketKind, u16)>);

impl Sockets {
    /// With the listening socket, which every worker has.
    pub fn new(listen: u16) -> Self {
        Self(vec![(SocketKind::Listen, listen)])
    }

    /// With one more.
    #[must_use]
    pub fn with(mut self, kind: SocketKind, port: u16) -> Self {
        self.0.push((kind, port));
        self
    }

    /// The listening socket.
    pub fn listen(&self) -> SocketId {
        SocketId(0)
    }

    /// The first socket of this kind, if there is one.
    pub fn of(&self, kind: SocketKind) -> Option<SocketId> {
        self.at(|(of, _)| *of == kind)
    }

    /// The socket of this UDP port, if there is one.
    pub fn bound_to(&self, port: u16) -> Option<SocketId> {
        self.at(|(_, of)| *of == port)
    }

    /// What a socket of this table is for.
    #[inline]
    pub fn kind(&self, SocketId(place): SocketId) -> SocketKind {
        self.0[usize::from(place)].0
    }

    /// The UDP port of a socket of this table.
    pub fn port(&self, SocketId(place): SocketId) -> u16 {
        self.0[usize::from(place)].1
    }

    /// The UDP ports of all.
    pub fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().map(|(_, port)| *port)
    }

    fn at(&self, is_it: impl Fn(&(SocketKind, u16)) -> bool) -> Option<SocketId> {
        self.0.iter().position(is_it).map(|place| SocketId(place as u8))
    }
}

/// The shell around the core.
pub trait Io {
    /// Writes a frame to a local TAP. `frames` are lost if the kernel refuses it later, which the core is told
    /// ([`Core::not_written`](crate::core::Core::not_written)): several where they were joined, none if it is nobody's.
    ///
    /// # Errors
    /// [`TapWrite`](crate::counters::drops::DropReason::TapWrite): too many frames wait.
    fn write_tap(&mut self, tap: PortId, frame: Frame<'_>, frames: u32) -> Passed;

    /// Has the frames that were written so far on their way before this returns: much else is to be done before the core is left.
    fn start_writes(&mut self) {}

    /// Hands a frame to the worker that carries a lane of a peer.
    ///
    /// # Errors
    /// [`MailboxFull`](crate::counters::drops::DropReason::MailboxFull).
    fn mail(&mut self, worker: u8, port: PortId, frame: Frame<'_>) -> Passed;

    /// An empty buffer for a train of packets; it comes back to the shell with [`Io::send`] or [`Io::return_buffer`].
    fn train_buffer(&mut self) -> Vec<u8>;

    /// Takes back a buffer that was not needed.
    fn return_buffer(&mut self, buffer: Vec<u8>);

    /// Sends `train[..transmit.size]`, cut into packets of `transmit.segment_size`.
    fn send(&mut self, socket: SocketId, transmit: &Transmit, train: Vec<u8>);

    /// Whether the socket takes another train now. If not, the core is called again when it does.
    fn can_send(&self, socket: SocketId) -> bool;

    /// Whether the socket takes another packet of control's now, which may be some more than [`Io::can_send`] allows: they are few and
    /// keep paths alive.
    fn can_send_packet(&self, socket: SocketId) -> bool;

    /// Packets that one send may hold.
    fn max_segments(&self, socket: SocketId) -> usize;

    /// MTU of the interface towards an address, bytes of IP packet.
    fn first_hop_mtu(&self, remote: SocketAddr) -> u16;
}
