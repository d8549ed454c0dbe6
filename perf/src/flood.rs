//! UDP datagrams at a rate, or as many as the kernel takes, and how many of them arrive.
//!
//! `iperf3` asks for one system call a datagram, and is itself the bottleneck with small ones; here both ends can move 64 with
//! each ([`crate::batch`]). All of it goes without segmentation offload, so that each frame on the way is a real one.
//! What the receiver's own socket dropped is told apart from what did not reach it.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipop_datapath::os::udp::receive_drops;
use rustix::net::sockopt;

use crate::{batch, lab::Host};

/// UDP payload of the smallest Ethernet frame: 64 bytes with its FCS, which is not on the TAP.
pub const SMALLEST_PAYLOAD: usize = 64 - 4 - 14 - 20 - 8;
const PORT: u16 = 9_999;
/// After the sender has ended, what is under way has so long to arrive.
const LINGER: Duration = Duration::from_millis(300);
/// A sender that has nothing due sleeps so long.
const NAP: Duration = Duration::from_micros(50);
/// Some tenths of a second of a fast flood, bytes: what waits for a receiver that is to lose nothing.
pub const AMPLE_BUFFER_BYTES: usize = 64 << 20;
/// Sent when the flood is over: the last frames that were lost show by the numbers of these.
const STRAGGLERS: u64 = 32;
const STRAGGLER_INTERVAL: Duration = Duration::from_millis(2);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flood {
    /// UDP payload of each datagram, bytes.
    pub payload_len: usize,
    /// Datagrams a second; none is as fast as it goes.
    pub rate_per_s: Option<f64>,
    /// Datagrams that are sent with one system call, at most [`batch::BATCH`].
    pub together: usize,
    /// For how long.
    pub length: Duration,
    /// What may wait for the receiver, bytes; none is the kernel's default.
    pub receive_buffer_bytes: Option<usize>,
}

/// What a flood measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloodReport {
    /// Datagrams that the sender's kernel took.
    pub sent: u64,
    /// Datagrams that arrived.
    pub received: u64,
    /// Datagrams that reached the receiver's socket when that was full.
    pub unread: u64,
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

impl Flood {
    /// The smallest frames, as fast as it goes.
    pub fn of_smallest(length: Duration) -> Self {
        Self {
            payload_len: SMALLEST_PAYLOAD,
            rate_per_s: None,
            together: batch::BATCH,
            length,
            receive_buffer_bytes: None,
        }
    }

    /// Floods `to`, an address of `receiver`, from `sender`.
    ///
    /// # Errors
    /// When a socket is refused, or nothing at all arrives.
    pub fn run(&self, sender: &Host, receiver: &Host, to: Ipv4Addr) -> Result<FloodReport> {
        let target = SocketAddr::from((to, PORT));
        let (incoming, outgoing) = (
            receiver.enter(|| UdpSocket::bind(target))?.context("a socket to receive with")?,
            sender.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?.context("a socket")?,
        );
        if let Some(bytes) = self.receive_buffer_bytes {
            let asked = sockopt::set_socket_recv_buffer_size_force(&incoming, bytes);
            asked.context("asking for a large receive buffer")?;
        }
        incoming.set_read_timeout(Some(Duration::from_millis(50)))?;
        outgoing.connect(target).context("connecting a UDP socket")?;
        let done = AtomicBool::new(false);
        let (sent, received) = thread::scope(|scope| {
            let receiving = scope.spawn(|| receive(&incoming, &done));
            let sent = self.send(&outgoing);
            thread::sleep(LINGER);
            done.store(true, Ordering::Release);
            (sent, receiving.join())
        });
        let received = received.map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        let (sent, elapsed) = sent?;
        let unread = receive_drops(&incoming).map_or(0, u64::from);
        let report = FloodReport { sent, received, unread, elapsed };
        ensure!(report.received > 0, "of {} datagrams none arrived", report.sent);
        Ok(report)
    }

    fn send(&self, socket: &UdpSocket) -> Result<(u64, Duration)> {
        let payload = vec![0; self.payload_len];
        let messages = [IoSlice::new(&payload); batch::BATCH];
        let together = self.together.clamp(1, batch::BATCH);
        let send = |count: usize| batch::send(socket, &messages[..count]).context("sending");
        let (start, mut sent) = (Instant::now(), 0);
        let elapsed = loop {
            let elapsed = start.elapsed();
            if elapsed >= self.length {
                break elapsed;
            }
            let due = self.rate_per_s.map_or(together as u64, |rate| {
                ((elapsed.as_secs_f64() * rate) as u64 + 1).saturating_sub(sent)
            });
            match due.min(together as u64) {
                0 => thread::sleep(NAP),
                count => sent += send(count as usize)? as u64,
            }
        };
        for _ in 0..STRAGGLERS {
            thread::sleep(STRAGGLER_INTERVAL);
            sent += send(1)? as u64;
        }
        Ok((sent, elapsed))
    }
}

fn receive(socket: &UdpSocket, done: &AtomicBool) -> Result<u64> {
    let mut room = [[0; 64]; batch::BATCH];
    let mut buffers = room.each_mut().map(|buffer| IoSliceMut::new(buffer));
    let mut lens = [0; batch::BATCH];
    let mut received = 0;
    loop {
        let was_done = done.load(Ordering::Acquire);
        let count = batch::receive(socket, &mut buffers, &mut lens);
        let count = count.context("receiving datagrams")?;
        if count == 0 && was_done {
            return Ok(received);
        }
        received += count as u64;
    }
}
