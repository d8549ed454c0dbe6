//! What the pure core asks of the shell around it.
//!
//! The io_uring worker, the simulator and the tests each implement [`Io`]; the core sees no file descriptor and no clock.

use std::net::SocketAddr;

use ipop_learning::PortId;
use quinn_proto::Transmit;

use crate::{
    drops::Passed,
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

/// A UDP socket of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u8);

impl SocketId {
    /// The socket bound to the listening port.
    pub const LISTEN: Self = Self(0);
    /// What further lanes dial from: a port of the kernel's choice. The first worker has none.
    pub const DIAL: Self = Self(1);
    /// What the first worker speaks to TURN servers from, and nothing else.
    pub const RELAY: Self = Self(2);
}

/// The shell around the core.
pub trait Io {
    /// Writes a frame to a local TAP. `frames` are lost if the kernel refuses it later, which the core is told
    /// ([`Core::not_written`](crate::core::Core::not_written)): several where they were joined, none if it is nobody's.
    ///
    /// # Errors
    /// [`TapWrite`](crate::drops::DropReason::TapWrite): too many frames wait.
    fn write_tap(&mut self, tap: PortId, frame: Frame<'_>, frames: u32) -> Passed;

    /// Has the frames that were written so far on their way before this returns: much else is to be done before the core is left.
    fn start_writes(&mut self) {}

    /// Hands a frame to the worker that carries a lane of a peer.
    ///
    /// # Errors
    /// [`MailboxFull`](crate::drops::DropReason::MailboxFull).
    fn mail(&mut self, worker: u8, port: PortId, frame: Frame<'_>) -> Passed;

    /// An empty buffer for a train of packets; it comes back to the shell with [`Io::send`] or [`Io::return_buffer`].
    fn train_buffer(&mut self) -> Vec<u8>;

    /// Takes back a buffer that was not needed.
    fn return_buffer(&mut self, buffer: Vec<u8>);

    /// Sends `train[..transmit.size]`, cut into packets of `transmit.segment_size`.
    fn send(&mut self, socket: SocketId, transmit: &Transmit, train: Vec<u8>);

    /// Whether the socket takes another train now; `false` if there is no such socket. If not, the core is called again when it does.
    fn can_send(&self, socket: SocketId) -> bool;

    /// Whether there is such a socket here.
    fn has_socket(&self, socket: SocketId) -> bool;

    /// Whether the socket takes another packet of control's now, which may be some more than [`Io::can_send`] allows: they are few and
    /// keep paths alive. `false` if there is no such socket.
    fn can_send_packet(&self, socket: SocketId) -> bool;

    /// Packets that one send may hold.
    fn max_segments(&self, socket: SocketId) -> usize;

    /// MTU of the interface towards an address, bytes of IP packet.
    fn first_hop_mtu(&self, remote: SocketAddr) -> u16;

    /// The socket to dial from.
    fn dial_socket(&self) -> SocketId;

    /// The UDP port of a socket.
    fn local_port(&self, socket: SocketId) -> u16;
}
