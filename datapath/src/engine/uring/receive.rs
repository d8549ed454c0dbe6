//! UDP in: multishot `recvmsg` into buffers that the kernel picks from a ring.
//!
//! Each buffer is one allocation, filled by the kernel with a train (`UDP_GRO`), cut into packets without copying, decrypted in place, and
//! provided again when the last slice of it is gone. Few buffers, so that they stay in the cache.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    mem::size_of,
    net::{IpAddr, SocketAddr},
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use bytes::BytesMut;
use io_uring::{
    opcode,
    types::{BufRingEntry, RecvMsgOut},
};

use super::{
    ring::{Op, Ring},
    socket_file,
};
use crate::{
    io::SocketId,
    os::{
        OsError,
        udp::{CONTROL_LEN, RawAddress, parse_address, parse_control},
    },
};

/// Buffers provided: half a megabyte, a quarter of a common L2 cache. With twice as many the receiving end takes a tenth more CPU time. A power of
/// two, and enough for the three batches that pieces of a frame may wait.
const BUFFERS: u16 = 8;
const GROUP: u16 = 0;
/// What the kernel puts in front of the packet: `io_uring_recvmsg_out`, name, control.
const PREFIX_LEN: usize = 16 + size_of::<RawAddress>() + CONTROL_LEN;
/// A train is at most 64 KiB.
const BUFFER_LEN: usize = PREFIX_LEN + 65_536;
const PAGE: usize = 4_096;

/// A train of packets from one sender.
pub(crate) struct Train {
    pub(crate) remote: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
    /// Length of each packet but the last.
    pub(crate) segment_len: usize,
    pub(crate) packets: BytesMut,
}

/// The receiving side of a worker's sockets, and the buffers that it lends to the kernel.
pub(crate) struct Receiver {
    /// Shared with the kernel: `BUFFERS` entries on a page of their own.
    ring: NonNull<BufRingEntry>,
    tail: u16,
    /// By buffer id.
    buffers: Vec<BytesMut>,
    /// Taken by the kernel, not yet provided again.
    returning: Vec<u16>,
    /// The template of every receive: only its lengths matter.
    header: Box<libc::msghdr>,
}

impl Train {
    /// Cuts the train into its packets, all at once: a reference count that is touched right after a packet was decrypted waits until
    /// all that was written of it has left the processor's store buffer.
    pub(crate) fn cut(mut self, packets: &mut Vec<BytesMut>) {
        while self.packets.len() > self.segment_len {
            packets.push(self.packets.split_to(self.segment_len));
        }
        if !self.packets.is_empty() {
            packets.push(self.packets);
        }
    }
}

fn ring_layout() -> Layout {
    let bytes = usize::from(BUFFERS) * size_of::<BufRingEntry>();
    Layout::from_size_align(bytes.next_multiple_of(PAGE), PAGE).expect("a small constant")
}

impl Receiver {
    /// Registers the buffers with the ring.
    pub(crate) fn new(ring: &Ring) -> Result<Self, OsError> {
        // SAFETY: the layout is not empty.
        let entries = unsafe { alloc_zeroed(ring_layout()) };
        let Some(entries) = NonNull::new(entries.cast::<BufRingEntry>()) else {
            handle_alloc_error(ring_layout());
        };
        // SAFETY: all-zero is a valid `msghdr`.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_namelen = size_of::<RawAddress>() as u32;
        header.msg_controllen = CONTROL_LEN as _;
        let mut receiver = Self {
            ring: entries,
            tail: 0,
            buffers: (0..BUFFERS).map(|_| BytesMut::with_capacity(BUFFER_LEN)).collect(),
            returning: Vec::with_capacity(usize::from(BUFFERS)),
            header,
        };
        // SAFETY: the entries live as long as the receiver, which the worker drops after its ring.
        unsafe {
            ring.uring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                BUFFERS,
                GROUP,
                0,
            )
        }
        .map_err(|error| {
            OsError::new("cannot provide receive buffers to io_uring", error)
                .hint("Linux 6.1 or later is needed")
        })?;
        for id in 0..BUFFERS {
            receiver.provide(id);
        }
        Ok(receiver)
    }

    /// Arms a multishot receive on a socket.
    pub(crate) fn arm(&self, ring: &mut Ring, socket: SocketId) {
        let entry = opcode::RecvMsgMulti::new(socket_file(socket), &raw const *self.header, GROUP)
            .build()
            .user_data(Op::Receive.user_data(u32::from(socket.0)));
        // SAFETY: the header is boxed and lives as long as the receiver, which outlives the ring's use of it.
        unsafe { ring.push(&entry) };
    }

    /// Takes a received train out of its buffer; `None` if the kernel cut it short.
    pub(crate) fn take(&mut self, id: u16, len: usize) -> Option<Train> {
        self.returning.push(id);
        let buffer = &mut self.buffers[usize::from(id)];
        let len = len.min(BUFFER_LEN);
        // SAFETY: the kernel has written the first `len` bytes, and the capacity is at least BUFFER_LEN.
        unsafe { buffer.set_len(len) };
        let message = RecvMsgOut::parse(buffer, &self.header).ok()?;
        if message.is_payload_truncated() || message.is_control_data_truncated() {
            return None;
        }
        let remote = parse_address(message.name_data())?;
        let control = parse_control(message.control_data());
        let packets_len = message.payload_data().len();
        let mut packets = buffer.split_off(PREFIX_LEN);
        packets.truncate(packets_len);
        let segment_len = match control.segment_len {
            0 => packets_len.max(1),
            segment_len => segment_len,
        };
        Some(Train { remote, local_ip: control.local_ip, segment_len, packets })
    }

    /// Provides again every buffer that nobody holds a slice of any more. A buffer that is still held when half of them are gone is
    /// replaced, so that a straggler does not starve the socket.
    pub(crate) fn return_buffers(&mut self) {
        let starving = self.returning.len() > usize::from(BUFFERS / 2);
        let mut index = 0;
        while index < self.returning.len() {
            let id = self.returning[index];
            let buffer = &mut self.buffers[usize::from(id)];
            buffer.clear();
            if !buffer.try_reclaim(BUFFER_LEN) {
                if !starving {
                    index += 1;
                    continue;
                }
                *buffer = BytesMut::with_capacity(BUFFER_LEN);
            }
            self.returning.swap_remove(index);
            self.provide(id);
        }
    }

    fn provide(&mut self, id: u16) {
        let buffer = &mut self.buffers[usize::from(id)];
        let slot = usize::from(self.tail % BUFFERS);
        // SAFETY: `slot` is below BUFFERS, and the kernel reads the entry only after the tail has passed it.
        let entry = unsafe { &mut *self.ring.as_ptr().add(slot) };
        entry.set_addr(buffer.as_mut_ptr() as u64);
        entry.set_len(BUFFER_LEN as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry's reserved field, aligned for u16, and is shared with the kernel only.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; the ring that knew it is closed already.
        unsafe { dealloc(self.ring.as_ptr().cast(), ring_layout()) };
    }
}
