//! UDP out: one `sendmsg` a train (`UDP_SEGMENT`).
//!
//! The kernel carries sends out while they are submitted, in order. A socket whose buffer is full (EAGAIN) takes nothing more until it is
//! writable; what it refused goes first then, so that trains do not overtake one another.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use io_uring::opcode;
use quinn_proto::Transmit;

use super::{
    ring::{Op, Ring},
    socket_file,
};
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

/// What is sent, but for the bytes.
#[derive(Clone, Copy)]
struct Packets {
    socket: SocketId,
    destination: SocketAddr,
    /// The address to send from; the kernel chooses if it is `None`.
    source: Option<IpAddr>,
    /// Length of each packet but the last, if there are several.
    segment_len: Option<usize>,
}

/// What `sendmsg` reads; boxed, because the kernel keeps pointers until it completes.
struct Slot {
    packets: Packets,
    train: Vec<u8>,
    len: usize,
    address: RawAddress,
    control: Control,
    iovec: libc::iovec,
    header: libc::msghdr,
}

/// One socket's state.
pub(crate) struct Outlet {
    pub(crate) port: UdpPort,
    blocked: bool,
    /// Refused with EAGAIN, in order.
    waiting: VecDeque<usize>,
    in_flight: usize,
    /// What the kernel has dropped at it, by its own count, as far as that was added to the worker's.
    overflows: u32,
}

impl Outlet {
    pub(crate) fn new(port: UdpPort) -> Self {
        Self { port, blocked: false, waiting: VecDeque::new(), in_flight: 0, overflows: 0 }
    }

    fn block(&mut self, ring: &mut Ring, socket: SocketId) {
        if std::mem::replace(&mut self.blocked, true) {
            return;
        }
        let entry = opcode::PollAdd::new(socket_file(socket), libc::POLLOUT as u32)
            .build()
            .user_data(Op::Writable.user_data(u32::from(socket.0)));
        // SAFETY: a poll points to nothing.
        unsafe { ring.push(&entry) };
    }
}

/// The sending side of a worker's sockets, and the trains that are on their way.
pub(crate) struct Sender {
    /// In the order of the worker's table of sockets.
    pub(crate) outlets: Vec<Outlet>,
    /// Boxed: the kernel holds pointers into a slot while the vector grows.
    #[expect(clippy::vec_box)]
    slots: Vec<Box<Slot>>,
    free_slots: Vec<usize>,
    /// Last in, first out: the warmest first.
    free_trains: Vec<Vec<u8>>,
}

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
        let outlet = self.outlet(socket);
        !outlet.blocked && outlet.in_flight < TRAINS_IN_FLIGHT
    }

    /// Whether a socket takes one more packet of control's, even while it is full.
    pub(crate) fn can_send_packet(&self, socket: SocketId) -> bool {
        let outlet = self.outlet(socket);
        let on_their_way = outlet.in_flight + outlet.waiting.len();
        on_their_way < TRAINS_IN_FLIGHT + CONTROL_PACKETS_IN_FLIGHT
    }

    pub(crate) fn max_segments(&self, socket: SocketId) -> usize {
        if self.outlet(socket).port.gso { MAX_SEGMENTS } else { 1 }
    }

    fn outlet(&self, SocketId(place): SocketId) -> &Outlet {
        &self.outlets[usize::from(place)]
    }

    pub(crate) fn send(
        &mut self,
        ring: &mut Ring,
        socket: SocketId,
        transmit: &Transmit,
        train: Vec<u8>,
    ) {
        let packets = Packets {
            socket,
            destination: transmit.destination,
            source: transmit.src_ip,
            segment_len: transmit.segment_size.filter(|size| *size < transmit.size),
        };
        self.start(ring, packets, train, transmit.size);
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

    /// A send has completed. If the kernel refused it for good, tells where it was to go, and the kernel's reason.
    pub(crate) fn completed(
        &mut self,
        ring: &mut Ring,
        index: u32,
        result: i32,
        counters: &IoCounters,
    ) -> Option<(SocketAddr, i32)> {
        let index = index as usize;
        let Packets { socket, destination, segment_len, .. } = self.slots[index].packets;
        let segmented = segment_len.is_some();
        let outlet = &mut self.outlets[usize::from(socket.0)];
        outlet.in_flight -= 1;
        let mut refused = None;
        match -result {
            ..=0 => {}
            libc::EAGAIN => {
                counters.send_blocked.add(1);
                outlet.waiting.push_back(index);
                outlet.block(ring, socket);
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
                refused = Some((destination, errno));
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

    fn submit(&mut self, ring: &mut Ring, index: usize) {
        let slot = &self.slots[index];
        let outlet = &mut self.outlets[usize::from(slot.packets.socket.0)];
        outlet.in_flight += 1;
        let entry = opcode::SendMsg::new(socket_file(slot.packets.socket), &raw const slot.header)
            .flags(libc::MSG_DONTWAIT as u32)
            .build()
            .user_data(Op::Send.user_data(index as u32));
        // SAFETY: the slot is boxed, and neither it nor its train is touched until its completion was read.
        unsafe { ring.push(&entry) };
    }

    /// Sends the first `len` bytes of a train.
    fn start(&mut self, ring: &mut Ring, packets: Packets, train: Vec<u8>, len: usize) {
        let v6 = self.outlet(packets.socket).port.local.is_ipv6();
        let (address, address_len) = raw_address(packets.destination, v6);
        let index = self.free_slots.pop().unwrap_or(self.slots.len());
        if index == self.slots.len() {
            // SAFETY: all-zero is valid for these C structures (integers and null pointers).
            let (iovec, header) = unsafe { std::mem::zeroed() };
            let (train, len, control) = (Vec::new(), 0, Control::new());
            let slot = Slot { packets, train, len, address, control, iovec, header };
            self.slots.push(Box::new(slot));
        }
        let slot = &mut self.slots[index];
        slot.len = len.min(train.len());
        (slot.packets, slot.train, slot.address) = (packets, train, address);
        slot.control.clear();
        if let Some(source) = packets.source {
            slot.control.put_source(source, v6);
        }
        if let Some(segment_len) = packets.segment_len {
            slot.control.put_segment_len(segment_len as u16);
        }
        slot.prepare(address_len);
        self.submit(ring, index);
    }

    /// Sends a train that the kernel refused packet by packet.
    fn send_singly(&mut self, ring: &mut Ring, index: usize) {
        let (packets, len) = (self.slots[index].packets, self.slots[index].len);
        let segment_len = packets.segment_len.unwrap_or(len).max(1);
        let single = Packets { segment_len: None, ..packets };
        for start in (0..len).step_by(segment_len) {
            let mut train = self.train_buffer();
            train.extend_from_slice(&self.slots[index].train[start..len.min(start + segment_len)]);
            let len = train.len();
            self.start(ring, single, train, len);
        }
        self.release(index);
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
        Sender::new(vec![Outlet::new(port)])
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
            sender.send(&mut ring, SocketId(0), &transmit, vec![0; size]);
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
            assert_eq!(ends(-errno), Some((remote, errno)));
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
