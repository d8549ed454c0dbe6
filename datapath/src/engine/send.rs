//! UDP out: one `sendmsg` a train (`UDP_SEGMENT`).
//!
//! The kernel carries sends out while they are submitted, in order. A socket whose buffer is full (EAGAIN) takes nothing more until it is
//! writable; what it refused goes first then, so that trains do not overtake one another.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use io_uring::{opcode, types::Fixed};
use quinn_proto::Transmit;

use super::ring::{Op, Ring};
use crate::{
    counters::IoCounters,
    io::SocketId,
    os::udp::{Control, RawAddress, UdpPort, raw_address, receive_drops},
};

/// Trains that may be on their way through one submission: a megabyte, so that they are still in the cache when the kernel copies them.
const TRAINS_IN_FLIGHT: usize = 16;
/// Packets of control's beyond that.
const CONTROL_PACKETS_IN_FLIGHT: usize = 256;
/// The kernel's limit, `UDP_MAX_SEGMENTS` before Linux 6.9.
const MAX_SEGMENTS: usize = 64;
const TRAIN_BYTES: usize = 65_536;

/// What `sendmsg` reads; boxed, because the kernel keeps pointers until it completes.
struct Slot {
    socket: SocketId,
    destination: SocketAddr,
    train: Vec<u8>,
    len: usize,
    segment_len: Option<usize>,
    source: Option<IpAddr>,
    address: RawAddress,
    control: Control,
    iovec: libc::iovec,
    header: libc::msghdr,
}

/// A packet that the kernel did not send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SendRefused {
    pub(crate) remote: SocketAddr,
    pub(crate) errno: i32,
}

/// One socket's state.
pub(crate) struct Outlet {
    pub(crate) id: SocketId,
    pub(crate) port: UdpPort,
    pub(crate) file: u32,
    blocked: bool,
    /// Refused with EAGAIN, in order.
    waiting: VecDeque<usize>,
    in_flight: usize,
    /// What the kernel has dropped at it, by its own count, as far as that was added to the worker's.
    overflows: u32,
}

impl Outlet {
    pub(crate) fn new(id: SocketId, port: UdpPort, file: u32) -> Self {
        let waiting = VecDeque::new();
        Self { id, port, file, blocked: false, waiting, in_flight: 0, overflows: 0 }
    }
}

/// The sending side of a worker's sockets, and the trains that are on their way.
pub(crate) struct Sender {
    pub(crate) outlets: Vec<Outlet>,
    /// Boxed: the kernel holds pointers into a slot while the vector grows.
    #[expect(clippy::vec_box)]
    slots: Vec<Box<Slot>>,
    free_slots: Vec<usize>,
    /// Last in, first out: the warmest first.
    free_trains: Vec<Vec<u8>>,
}

// SAFETY: the pointers in the slots point into the slots themselves and their trains, which move with them.
unsafe impl Send for Sender {}

impl Sender {
    pub(crate) fn new(outlets: Vec<Outlet>) -> Self {
        Self { outlets, slots: Vec::new(), free_slots: Vec::new(), free_trains: Vec::new() }
    }

    pub(crate) fn train_buffer(&mut self) -> Vec<u8> {
        self.free_trains.pop().unwrap_or_else(|| Vec::with_capacity(TRAIN_BYTES))
    }

    pub(crate) fn return_buffer(&mut self, mut train: Vec<u8>) {
        if self.free_trains.len() < 2 * TRAINS_IN_FLIGHT {
            train.clear();
            self.free_trains.push(train);
        }
    }

    pub(crate) fn can_send(&self, socket: SocketId) -> bool {
        let outlet = &self.outlets[self.index(socket)];
        outlet.id == socket && !outlet.blocked && outlet.in_flight < TRAINS_IN_FLIGHT
    }

    /// Whether a socket takes one more packet of control's, even while it is full.
    pub(crate) fn can_send_packet(&self, socket: SocketId) -> bool {
        let outlet = &self.outlets[self.index(socket)];
        let on_their_way = outlet.in_flight + outlet.waiting.len();
        outlet.id == socket && on_their_way < TRAINS_IN_FLIGHT + CONTROL_PACKETS_IN_FLIGHT
    }

    /// A socket's place; the listening socket's for one that is not there.
    pub(crate) fn index(&self, socket: SocketId) -> usize {
        index_of(&self.outlets, socket)
    }

    pub(crate) fn max_segments(&self, socket: SocketId) -> usize {
        if self.outlets[self.index(socket)].port.gso { MAX_SEGMENTS } else { 1 }
    }

    pub(crate) fn send(
        &mut self,
        ring: &mut Ring,
        socket: SocketId,
        transmit: &Transmit,
        train: Vec<u8>,
    ) {
        let v6 = self.outlets[self.index(socket)].port.local.is_ipv6();
        let (address, address_len) = raw_address(transmit.destination, v6);
        let index = self.slot();
        let slot = &mut self.slots[index];
        slot.socket = socket;
        slot.destination = transmit.destination;
        slot.train = train;
        slot.len = transmit.size.min(slot.train.len());
        slot.segment_len = transmit.segment_size.filter(|size| *size < transmit.size);
        slot.address = address;
        slot.source = transmit.src_ip;
        slot.control.clear();
        if let Some(source) = slot.source {
            slot.control.put_source(source, v6);
        }
        if let Some(segment_len) = slot.segment_len {
            slot.control.put_segment_len(segment_len as u16);
        }
        slot.prepare(address_len);
        self.submit(ring, index);
    }

    /// Adds what the kernel has dropped at the sockets since the last call.
    pub(crate) fn count_overflows(&mut self, counters: &IoCounters) {
        for outlet in &mut self.outlets {
            if let Some(overflows) = receive_drops(&outlet.port.fd) {
                let since = overflows.wrapping_sub(outlet.overflows);
                outlet.overflows = overflows;
                counters.receive_overflows.add(u64::from(since));
            }
        }
    }

    /// A send has completed. If the kernel refused it for good, tells what.
    pub(crate) fn completed(
        &mut self,
        ring: &mut Ring,
        index: u32,
        result: i32,
        counters: &IoCounters,
    ) -> Option<SendRefused> {
        let index = index as usize;
        let slot = &self.slots[index];
        let (socket, segmented) = (slot.socket, slot.segment_len.is_some());
        let at = self.index(socket);
        let outlet = &mut self.outlets[at];
        outlet.in_flight -= 1;
        let mut refused = None;
        match -result {
            ..=0 => {}
            libc::EAGAIN => {
                counters.send_blocked.add(1);
                outlet.waiting.push_back(index);
                self.block(ring, socket);
                return None;
            }
            // A segment is larger than the interface takes (the path MTU was found on another route): one by one, the small ones
            // pass, and QUIC learns of the large ones by their loss.
            libc::EINVAL | libc::EMSGSIZE if segmented => {
                self.send_singly(ring, index);
                return None;
            }
            // The device cannot segment: never ask it again.
            libc::EIO if segmented => {
                if std::mem::replace(&mut outlet.port.gso, false) {
                    tracing::warn!(
                        "the network device refuses UDP segmentation offload: slower without"
                    );
                }
                self.send_singly(ring, index);
                return None;
            }
            libc::EMSGSIZE => counters.send_too_large.add(1),
            errno => {
                count_refused(counters, errno);
                refused = Some(SendRefused { remote: slot.destination, errno });
            }
        }
        self.release(index);
        refused
    }

    /// The socket is writable again.
    pub(crate) fn writable(&mut self, ring: &mut Ring, index: u32) {
        let outlet = &mut self.outlets[index as usize];
        outlet.blocked = false;
        let waiting = std::mem::take(&mut outlet.waiting);
        for index in waiting {
            self.submit(ring, index);
        }
    }

    fn block(&mut self, ring: &mut Ring, socket: SocketId) {
        let index = self.index(socket);
        let outlet = &mut self.outlets[index];
        if std::mem::replace(&mut outlet.blocked, true) {
            return;
        }
        let entry = opcode::PollAdd::new(Fixed(outlet.file), libc::POLLOUT as u32)
            .build()
            .user_data(Op::Writable.user_data(index as u32));
        // SAFETY: a poll points to nothing.
        unsafe { ring.push(&entry) };
    }

    fn submit(&mut self, ring: &mut Ring, index: usize) {
        let slot = &self.slots[index];
        let at = index_of(&self.outlets, slot.socket);
        let outlet = &mut self.outlets[at];
        outlet.in_flight += 1;
        let entry = opcode::SendMsg::new(Fixed(outlet.file), &raw const slot.header)
            .flags(libc::MSG_DONTWAIT as u32)
            .build()
            .user_data(Op::Send.user_data(index as u32));
        // SAFETY: the slot is boxed, and neither it nor its train is touched until its completion was read.
        unsafe { ring.push(&entry) };
    }

    /// Sends a train that the kernel refused packet by packet.
    fn send_singly(&mut self, ring: &mut Ring, index: usize) {
        let slot = &self.slots[index];
        let segment_len = slot.segment_len.unwrap_or(slot.len).max(1);
        let (socket, len) = (slot.socket, slot.len);
        let v6 = self.outlets[self.index(socket)].port.local.is_ipv6();
        for start in (0..len).step_by(segment_len) {
            let single = self.slot();
            let mut train = self.train_buffer();
            let [from, to] = self.two_slots(index, single);
            train.extend_from_slice(&from.train[start..len.min(start + segment_len)]);
            to.socket = socket;
            to.destination = from.destination;
            to.len = train.len();
            to.train = train;
            to.segment_len = None;
            to.address = from.address;
            to.source = from.source;
            to.control.clear();
            if let Some(source) = to.source {
                to.control.put_source(source, v6);
            }
            to.prepare(from.header.msg_namelen);
            self.submit(ring, single);
        }
        self.release(index);
    }

    fn two_slots(&mut self, a: usize, b: usize) -> [&mut Slot; 2] {
        let slots = self.slots.get_disjoint_mut([a, b]);
        slots.expect("a fresh slot is not the one in use").map(|slot| &mut **slot)
    }

    fn slot(&mut self) -> usize {
        self.free_slots.pop().unwrap_or_else(|| {
            // SAFETY: all-zero is valid for these C structures (integers and null pointers).
            let (address, iovec, header) = unsafe { std::mem::zeroed() };
            self.slots.push(Box::new(Slot {
                socket: SocketId::LISTEN,
                destination: SocketAddr::from(([0; 4], 0)),
                train: Vec::new(),
                len: 0,
                segment_len: None,
                source: None,
                address,
                control: Control::new(),
                iovec,
                header,
            }));
            self.slots.len() - 1
        })
    }

    fn release(&mut self, index: usize) {
        let train = std::mem::take(&mut self.slots[index].train);
        self.return_buffer(train);
        self.free_slots.push(index);
    }
}

fn count_refused(counters: &IoCounters, errno: i32) {
    counters.send_errors.add(1);
    match errno {
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN => {
            counters.send_unreachable.add(1);
        }
        libc::ENOBUFS | libc::ENOMEM => counters.send_no_room.add(1),
        _ => {}
    }
}

fn index_of(outlets: &[Outlet], socket: SocketId) -> usize {
    outlets.iter().position(|outlet| outlet.id == socket).unwrap_or(0)
}

impl Slot {
    /// Points the header at the rest of the slot.
    fn prepare(&mut self, address_len: u32) {
        self.iovec = libc::iovec { iov_base: self.train.as_mut_ptr().cast(), iov_len: self.len };
        self.header.msg_name = (&raw mut self.address).cast();
        self.header.msg_namelen = address_len;
        self.header.msg_iov = &raw mut self.iovec;
        self.header.msg_iovlen = 1;
        self.header.msg_control = match self.control.len {
            0 => std::ptr::null_mut(),
            _ => self.control.as_mut_ptr().cast(),
        };
        self.header.msg_controllen = self.control.len as _;
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::os::udp;

    /// Of one socket on the loopback.
    fn sender() -> Sender {
        let port = udp::ephemeral("127.0.0.1:0".parse().unwrap()).unwrap();
        Sender::new(vec![Outlet::new(SocketId::LISTEN, port, 0)])
    }

    #[test]
    fn what_the_kernel_refuses_is_counted_by_reason_and_told() {
        // Nothing is submitted: the test says how each send ends.
        let (mut ring, mut sender, counters) =
            (Ring::new().unwrap(), sender(), IoCounters::default());
        let remote = "192.0.2.1:5800".parse().unwrap();
        let mut ends = |result: i32| {
            let (destination, size) = (remote, 100);
            let transmit =
                Transmit { destination, ecn: None, size, segment_size: None, src_ip: None };
            sender.send(&mut ring, SocketId::LISTEN, &transmit, vec![0; size]);
            sender.completed(&mut ring, 0, result, &counters)
        };
        let counts = || {
            [
                counters.send_errors.get(),
                counters.send_unreachable.get(),
                counters.send_no_room.get(),
                counters.send_too_large.get(),
            ]
        };
        assert_eq!((ends(100), counts()), (None, [0; 4]));
        for (errno, counted) in [
            (libc::EHOSTUNREACH, [1, 1, 0, 0]),
            (libc::ENETUNREACH, [2, 2, 0, 0]),
            (libc::EHOSTDOWN, [3, 3, 0, 0]),
            (libc::ENETDOWN, [4, 4, 0, 0]),
            (libc::ENOBUFS, [5, 4, 1, 0]),
            (libc::ENOMEM, [6, 4, 2, 0]),
            (libc::EPERM, [7, 4, 2, 0]),
        ] {
            assert_eq!(ends(-errno), Some(SendRefused { remote, errno }));
            assert_eq!(counts(), counted, "{errno}");
        }
        // The path MTU is QUIC's business.
        assert_eq!((ends(-libc::EMSGSIZE), counts()), (None, [7, 4, 2, 1]));
    }

    #[test]
    fn what_a_full_socket_drops_is_counted_once() {
        let (mut sender, counters) = (sender(), IoCounters::default());
        let (local, buffer_len) = {
            let port = &sender.outlets[0].port;
            (port.local, port.receive_buffer)
        };
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        let fill = || {
            // Each packet costs the buffer more than its bytes.
            (0..buffer_len / 1_000).for_each(|_| drop(from.send_to(&[0x40; 1_000], local)));
        };
        let mut counted = [0; 4];
        for (number, counted) in counted.iter_mut().enumerate() {
            if number % 2 == 0 {
                fill();
            }
            sender.count_overflows(&counters);
            *counted = counters.receive_overflows.get();
        }
        let dropped = u64::from(receive_drops(&sender.outlets[0].port.fd).unwrap());
        assert!(counted[0] > 0, "{counted:?}");
        assert_eq!(counted, [counted[0], counted[0], dropped, dropped]);
    }
}
