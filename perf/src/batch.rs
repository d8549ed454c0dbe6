//! Many datagrams or frames with one system call: sockets that move 64 at a time, and packet sockets for whole frames.
//!
//! With `sendmmsg` and `recvmmsg` the measuring end costs less than what it measures. A packet socket on a TAP stands where a
//! station's network card would: what it sends is what the switch reads from the TAP, what it receives is what the switch
//! wrote. These calls, and the two that make a packet socket, are this module's `unsafe`.

use std::{
    ffi::CString,
    io::{self, IoSlice, IoSliceMut},
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use rustix::net::sockopt;

/// Messages for each system call.
pub const BATCH: usize = 64;
/// What may wait in a packet socket: about 10,000 frames with the kernel's own share, so that a receiver that is not
/// scheduled for some milliseconds loses none.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
/// How long a receiver waits for a frame before it looks around.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(50);

/// Whole frames of one EtherType at one interface.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// At this interface of the calling thread's namespace.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when there is no such interface.
    pub fn bind(interface: &str, ether_type: u16) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: the name is a C string that outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // Protocol 0: nothing arrives before the socket is bound to its interface.
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above made this descriptor, and nothing else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER_BYTES)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(RECEIVE_TIMEOUT))?;
        // SAFETY: zeros are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ether_type.to_be();
        address.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the address is a sockaddr_ll of the length given, and the kernel copies it.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd })
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sends the first 64 of these, or fewer; how many the kernel took. A full queue takes none.
///
/// # Errors
/// When the kernel refuses the first one for another reason.
pub fn send(socket: impl AsFd, messages: &[IoSlice<'_>]) -> io::Result<usize> {
    let messages = &messages[..messages.len().min(BATCH)];
    let mut headers = headers();
    for (header, message) in headers.iter_mut().zip(messages) {
        // An IoSlice is an iovec by its documentation; sendmmsg only reads through the pointer.
        header.msg_hdr.msg_iov = (&raw const *message).cast_mut().cast();
        header.msg_hdr.msg_iovlen = 1;
    }
    let (fd, count) = (socket.as_fd().as_raw_fd(), messages.len() as u32);
    // SAFETY: `count` headers point at one iovec each in `messages`, whose slices outlive the call; nothing is written but the headers' lengths.
    let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count, 0) };
    count_or_none(sent)
}

/// Waits for a first message and takes up to 64 that are there, one for each buffer; how many, with their lengths in `lens`.
/// None after the socket's time-out.
///
/// # Errors
/// When the kernel refuses.
pub fn receive(
    socket: impl AsFd,
    buffers: &mut [IoSliceMut<'_>],
    lens: &mut [usize; BATCH],
) -> io::Result<usize> {
    let count = buffers.len().min(BATCH);
    let mut headers = headers();
    for (header, buffer) in headers.iter_mut().zip(&mut *buffers) {
        // An IoSliceMut is an iovec by its documentation.
        header.msg_hdr.msg_iov = (&raw mut *buffer).cast();
        header.msg_hdr.msg_iovlen = 1;
    }
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `count` headers point at one iovec each in `buffers`, whose slices are exclusively borrowed until after the call; there is no time-out to point at.
    let received = unsafe {
        libc::recvmmsg(
            fd,
            headers.as_mut_ptr(),
            count as u32,
            libc::MSG_WAITFORONE,
            std::ptr::null_mut(),
        )
    };
    let received = count_or_none(received)?;
    for (len, header) in lens.iter_mut().zip(&headers[..received]) {
        *len = header.msg_len as usize;
    }
    Ok(received)
}

fn headers() -> [libc::mmsghdr; BATCH] {
    // SAFETY: zeros are valid headers: null pointers with lengths of zero.
    unsafe { mem::zeroed() }
}

/// Full queues, time-outs and refusals that the far end's ICMP reports are part of a measurement.
fn count_or_none(result: libc::c_int) -> io::Result<usize> {
    if let Ok(count) = usize::try_from(result) {
        return Ok(count);
    }
    let transient = [libc::ENOBUFS, libc::EAGAIN, libc::EINTR, libc::ECONNREFUSED];
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(code) if transient.contains(&code) => Ok(0),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_is_sent_arrives_with_its_lengths() {
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        to.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        from.connect(to.local_addr().unwrap()).unwrap();
        let sent = send(&from, &[IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"three")]);
        assert_eq!(sent.unwrap(), 3);
        let mut room = [[0; 8]; 4];
        let mut buffers: Vec<_> = room.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let mut lens = [0; BATCH];
        assert_eq!(receive(&to, &mut buffers, &mut lens).unwrap(), 3);
        assert_eq!(lens[..3], [3, 0, 5]);
        assert_eq!((&buffers[0][..3], &buffers[2][..5]), (&b"one"[..], &b"three"[..]));
        assert_eq!(receive(&to, &mut buffers, &mut lens).unwrap(), 0, "nothing is left");
    }
}
