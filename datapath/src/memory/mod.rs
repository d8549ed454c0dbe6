//! Surroundings without I/O: what a [`Core`] sends stays in queues until its owner takes it.
//!
//! Simulations, benchmarks and tests of whole cores run on this. Every queue is bounded, and every buffer is used again, so that
//! a measurement sees the core's own costs.
//!
//! [`MemoryIo`] is the surroundings, [`Pair`] two cores that are connected, and [`BarePair`] the same without the core: nothing but
//! `quinn-proto`, as a yardstick.
#![forbid(unsafe_code)]

mod bare;
mod pair;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use ipop_learning::PortId;
use quinn_proto::Transmit;

use crate::{
    core::Core,
    counters::drops::{DropReason, Passed},
    frame::{Description, Frame, FrameBytes},
    io::{Io, SocketId, SocketKind, Sockets},
};

pub use self::{
    bare::{BareCrypto, BarePair},
    pair::{Only, PEER, Pair, TAP, node, node_of, tap},
};

/// Trains that may wait before a socket counts as full, as in the io_uring engine.
const TRAINS_MAX: usize = 16;
/// TAP writes that may wait; more are refused.
pub const TAP_WRITES_MAX: usize = 65_536;
/// Frames for other workers that may wait.
const MAIL_MAX: usize = 4_096;
/// A train is one UDP send.
const TRAIN_LEN: usize = 65_536;
/// What Linux takes in one send, and an Ethernet without jumbo frames, where nothing else is asked for.
const MAX_SEGMENTS: usize = 64;
const FIRST_HOP_MTU: u16 = 1_500;
/// Receive buffers that may be pinned by frames in reassembly before more are allocated.
const RECEIVE_BUFFERS_MAX: usize = 64;

/// Packets of equal length (the last may be shorter) to one address.
#[derive(Debug)]
pub struct Train {
    /// What the socket is for that sends it.
    pub socket: SocketKind,
    /// Where to.
    pub destination: SocketAddr,
    /// The source address that the core asked for.
    pub source_ip: Option<IpAddr>,
    segment_len: usize,
    bytes: Vec<u8>,
}

impl Train {
    /// The packets, in the order of sending.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.segment_len)
    }
}

/// A frame written to a local TAP.
#[derive(Debug)]
pub struct TapWrite {
    /// The TAP.
    pub tap: PortId,
    /// What the frame is.
    pub what: Description,
    /// Its bytes, in order.
    pub pieces: Vec<Bytes>,
}

impl TapWrite {
    /// Length of the frame, bytes.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A frame for the worker that carries a lane of a peer.
#[derive(Debug)]
pub struct Mail {
    /// The worker.
    pub worker: u8,
    /// The peer's port.
    pub port: PortId,
    /// What the frame is.
    pub what: Description,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Mail {
    /// As it is shown to that worker's core.
    pub fn frame(&self) -> Frame<'_> {
        Frame { what: &self.what, bytes: FrameBytes::Whole(&self.bytes) }
    }
}

/// How the surroundings look to the core.
#[derive(Clone, Debug)]
pub struct MemoryIoConfig {
    /// Packets that one train may hold.
    pub max_segments: usize,
    /// MTU of every interface, bytes of IP packet.
    pub first_hop_mtu: u16,
    /// The sockets; the core is given the same table.
    pub sockets: Sockets,
}

impl Default for MemoryIoConfig {
    fn default() -> Self {
        Self {
            max_segments: MAX_SEGMENTS,
            first_hop_mtu: FIRST_HOP_MTU,
            sockets: Sockets::new(5_800),
        }
    }
}

/// Queues in place of devices and sockets.
#[derive(Debug)]
pub struct MemoryIo {
    /// Trains sent, oldest first.
    pub trains: VecDeque<Train>,
    /// Frames written to TAPs, oldest first.
    pub tap_writes: VecDeque<TapWrite>,
    /// Frames for other workers, oldest first.
    pub mail: VecDeque<Mail>,
    config: MemoryIoConfig,
    free_trains: Vec<Vec<u8>>,
    free_pieces: Vec<Vec<Bytes>>,
}

impl MemoryIo {
    /// Nothing sent yet.
    pub fn new(config: MemoryIoConfig) -> Self {
        Self {
            trains: VecDeque::new(),
            tap_writes: VecDeque::new(),
            mail: VecDeque::new(),
            config,
            free_trains: Vec::new(),
            free_pieces: Vec::new(),
        }
    }

    /// The sockets.
    pub fn sockets(&self) -> &Sockets {
        &self.config.sockets
    }

    /// Gives a train's buffer back once its packets are on their way.
    pub fn recycle_train(&mut self, train: Train) {
        self.return_buffer(train.bytes);
    }

    /// Gives a written frame's vector back.
    pub fn recycle_tap_write(&mut self, write: TapWrite) {
        let mut pieces = write.pieces;
        pieces.clear();
        self.free_pieces.push(pieces);
    }
}

impl Io for MemoryIo {
    fn write_tap(&mut self, tap: PortId, frame: Frame<'_>, _frames: u32) -> Passed {
        if self.tap_writes.len() == TAP_WRITES_MAX {
            return Err(DropReason::TapWrite);
        }
        let mut pieces = self.free_pieces.pop().unwrap_or_default();
        match frame.bytes {
            FrameBytes::Whole(bytes) => pieces.push(Bytes::copy_from_slice(bytes)),
            FrameBytes::Shared(bytes) => pieces.push(bytes.clone()),
            FrameBytes::Pieces(from) => pieces.append(from),
        }
        self.tap_writes.push_back(TapWrite { tap, what: *frame.what, pieces });
        Ok(())
    }

    fn mail(&mut self, worker: u8, port: PortId, frame: Frame<'_>) -> Passed {
        if self.mail.len() == MAIL_MAX {
            return Err(DropReason::MailboxFull);
        }
        let mut bytes = Vec::with_capacity(frame.what.total_len());
        frame.bytes.put(0..frame.what.total_len(), &mut bytes);
        self.mail.push_back(Mail { worker, port, what: *frame.what, bytes });
        Ok(())
    }

    fn train_buffer(&mut self) -> Vec<u8> {
        self.free_trains.pop().unwrap_or_else(|| Vec::with_capacity(TRAIN_LEN))
    }

    fn return_buffer(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.free_trains.push(buffer);
    }

    fn send(&mut self, socket: SocketId, transmit: &Transmit, mut train: Vec<u8>) {
        train.truncate(transmit.size);
        self.trains.push_back(Train {
            socket: self.config.sockets.kind(socket),
            destination: transmit.destination,
            source_ip: transmit.src_ip,
            segment_len: transmit.segment_size.unwrap_or(transmit.size).max(1),
            bytes: train,
        });
    }

    fn can_send(&self, _: SocketId) -> bool {
        self.trains.len() < TRAINS_MAX
    }

    fn can_send_packet(&self, _: SocketId) -> bool {
        self.trains.len() < 2 * TRAINS_MAX
    }

    fn max_segments(&self, _: SocketId) -> usize {
        self.config.max_segments
    }

    fn first_hop_mtu(&self, _: SocketAddr) -> u16 {
        self.config.first_hop_mtu
    }
}

/// Buffers that packets are received into, used again once no frame holds a slice of them.
#[derive(Debug, Default)]
pub struct ReceiveBuffers {
    buffers: VecDeque<BytesMut>,
}

impl ReceiveBuffers {
    /// The packets of a train as slices of one buffer, as a kernel with GRO gives them.
    ///
    /// The result is to be cut with `split_to`; it is as long as `packets` together.
    pub fn fill<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) -> BytesMut {
        let mut buffer = self.free_buffer();
        packets.for_each(|packet| buffer.extend_from_slice(packet));
        let received = buffer.split();
        if self.buffers.len() < RECEIVE_BUFFERS_MAX {
            self.buffers.push_back(buffer);
        }
        received
    }

    fn free_buffer(&mut self) -> BytesMut {
        let free = self.buffers.iter_mut().position(|buffer| {
            buffer.clear();
            buffer.try_reclaim(TRAIN_LEN)
        });
        free.and_then(|index| self.buffers.remove(index))
            .unwrap_or_else(|| BytesMut::with_capacity(TRAIN_LEN))
    }
}

/// A core, its surroundings and its address, to be joined with others.
pub struct Node {
    /// The core.
    pub core: Core,
    /// What it sent.
    pub io: MemoryIo,
    /// Where the others reach its listening socket.
    pub address: SocketAddr,
    /// What it receives into.
    pub buffers: ReceiveBuffers,
}

impl Node {
    /// A core at an address.
    pub fn new(core: Core, io: MemoryIo, address: SocketAddr) -> Self {
        Self { core, io, address, buffers: ReceiveBuffers::default() }
    }

    /// Shows the core a train that `from` sent.
    pub fn receive(&mut self, now: Instant, from: SocketAddr, train: &Train) {
        let sockets = &self.io.config.sockets;
        let socket = sockets.bound_to(train.destination.port()).unwrap_or(sockets.listen());
        let received = self.buffers.fill(train.packets());
        let lens = train.packets().map(<[u8]>::len);
        self.receive_buffer(now, socket, from, Some(train.destination.ip()), received, lens);
    }

    /// Shows the core packets that came in one buffer, of whatever lengths, at a socket for this.
    ///
    /// # Panics
    /// If there is no such socket.
    pub fn receive_packets(
        &mut self,
        now: Instant,
        socket: SocketKind,
        from: SocketAddr,
        packets: &[&[u8]],
    ) {
        let socket = self.io.config.sockets.of(socket).expect("there is such a socket");
        let received = self.buffers.fill(packets.iter().copied());
        let lens = packets.iter().map(|packet| packet.len());
        self.receive_buffer(now, socket, from, Some(self.address.ip()), received, lens);
    }

    fn receive_buffer(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        local_ip: Option<IpAddr>,
        mut received: BytesMut,
        lens: impl Iterator<Item = usize>,
    ) {
        for len in lens {
            let packet = received.split_to(len);
            self.core.packet(now, socket, from, local_ip, packet, &mut self.io);
        }
        self.core.end_of_train(now, &mut self.io);
    }
}
