//! As many small UDP datagrams as the kernel takes, and how many of them arrive.
//!
//! `iperf3` asks for one system call a datagram, and is itself the bottleneck with small ones; here both ends move 64 with
//! each (`sendmmsg`, `recvmmsg`), without segmentation offload, so that each frame on the way is a real one.

use std::{
    io, mem,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::lab::Host;

/// UDP payload of the smallest Ethernet frame: 64 bytes with its FCS, which is not on the TAP.
pub const SMALLEST_PAYLOAD: usize = 64 - 4 - 14 - 20 - 8;
/// Datagrams for each system call.
const BATCH: usize = 64;
const PORT: u16 = 9_999;
/// After the sender has ended, what is under way has so long to arrive.
const LINGER: Duration = Duration::from_millis(300);

/// What a flood measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloodReport {
    /// Datagrams that the sender's kernel took.
    pub sent: u64,
    /// Datagrams that arrived.
    pub received: u64,
    /// How long the sender sent.
    pub elapsed: Duration,
}

impl FloodReport {
    /// Datagrams received each second.
    pub fn received_per_s(&self) -> f64 {
        self.received as f64 / self.elapsed.as_secs_f64()
    }

    /// Datagrams that did not arrive, percent.
    pub fn lost_percent(&self) -> f64 {
        100.0 * self.sent.saturating_sub(self.received) as f64 / self.sent.max(1) as f64
    }
}

/// Floods `to`, an address of `receiver`, from `sender` for so long.
///
/// # Errors
/// When a socket is refused, or nothing at all arrives.
pub fn flood(sender: &Host, receiver: &Host, to: Ipv4Addr, seconds: f64) -> Result<FloodReport> {
    let target = SocketAddr::from((to, PORT));
    let (incoming, outgoing) = (
        receiver.enter(|| UdpSocket::bind(target))?.context("a socket to receive with")?,
        sender.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?.context("a socket")?,
    );
    incoming.set_read_timeout(Some(Duration::from_millis(50)))?;
    outgoing.connect(target).context("connecting a UDP socket")?;
    let done = AtomicBool::new(false);
    let (sent, elapsed, received) = thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&incoming, &done));
        let start = Instant::now();
        let sent = send(&outgoing, start + Duration::from_secs_f64(seconds));
        let elapsed = start.elapsed();
        thread::sleep(LINGER);
        done.store(true, Ordering::Release);
        (sent, elapsed, receiving.join())
    });
    let received = received.map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    let report = FloodReport { sent: sent?, received, elapsed };
    ensure!(report.received > 0, "of {} small datagrams none arrived", report.sent);
    Ok(report)
}

fn send(socket: &UdpSocket, until: Instant) -> Result<u64> {
    let payload = [0_u8; SMALLEST_PAYLOAD];
    let mut part =
        libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let mut messages = messages(std::slice::from_mut(&mut part), 0);
    let mut sent = 0;
    while Instant::now() < until {
        // SAFETY: the headers point at `part`, which points at `payload`; both outlive the call, and sendmmsg only reads the payload.
        let count =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
        match u64::try_from(count) {
            Ok(count) => sent += count,
            Err(_) => ignore_full(io::Error::last_os_error()).context("sending datagrams")?,
        }
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, done: &AtomicBool) -> Result<u64> {
    let mut buffers = [[0_u8; 64]; BATCH];
    let mut parts: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
        .collect();
    let mut messages = messages(&mut parts, 1);
    let mut received = 0;
    while !done.load(Ordering::Acquire) {
        // SAFETY: each header points at an iovec of its own in `parts`, each of these at a buffer of its own; all outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        match u64::try_from(count) {
            Ok(count) => received += count,
            Err(_) => ignore_full(io::Error::last_os_error()).context("receiving datagrams")?,
        }
    }
    Ok(received)
}

/// A batch of headers, the nth with the part number `n * stride`.
fn messages(parts: &mut [libc::iovec], stride: usize) -> Vec<libc::mmsghdr> {
    let header = |n: usize| {
        // SAFETY: zeros are a valid msghdr: null pointers with lengths of zero.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_iov = &raw mut parts[n * stride];
        message.msg_hdr.msg_iovlen = 1;
        message
    };
    (0..BATCH).map(header).collect()
}

/// A full queue and a time-out are part of a flood.
fn ignore_full(error: io::Error) -> io::Result<()> {
    let transient = [libc::ENOBUFS, libc::EAGAIN, libc::EINTR, libc::ECONNREFUSED];
    match error.raw_os_error() {
        Some(code) if transient.contains(&code) => Ok(()),
        _ => Err(error),
    }
}
