//! As many small UDP datagrams as the kernel takes, and how many of them arrive.
//!
//! `iperf3` asks for one system call a datagram, and is itself the bottleneck with small ones; here both ends move 64 with
//! each ([`crate::batch`]), without segmentation offload, so that each frame on the way is a real one.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{batch, lab::Host};

/// UDP payload of the smallest Ethernet frame: 64 bytes with its FCS, which is not on the TAP.
pub const SMALLEST_PAYLOAD: usize = 64 - 4 - 14 - 20 - 8;
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
    let messages = [IoSlice::new(&[0; SMALLEST_PAYLOAD]); batch::BATCH];
    let mut sent = 0;
    while Instant::now() < until {
        sent += batch::send(socket, &messages).context("sending datagrams")? as u64;
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, done: &AtomicBool) -> Result<u64> {
    let mut room = [[0; 64]; batch::BATCH];
    let mut buffers = room.each_mut().map(|buffer| IoSliceMut::new(buffer));
    let mut lens = [0; batch::BATCH];
    let mut received = 0;
    while !done.load(Ordering::Acquire) {
        let count = batch::receive(socket, &mut buffers, &mut lens);
        received += count.context("receiving datagrams")? as u64;
    }
    Ok(received)
}
