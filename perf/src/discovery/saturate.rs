//! TCP both ways between two hosts, as fast as it goes, until it is stopped; and how long nothing came.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::lab::Host;

const CHUNK_LEN: usize = 128 << 10;
/// Reads closer together than this count as one.
const RESOLUTION: Duration = Duration::from_millis(5);

/// One direction.
#[derive(Debug)]
pub(super) struct Flow {
    sender: JoinHandle<()>,
    receiver: JoinHandle<Received>,
    ends: [TcpStream; 2],
}

/// What came.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// Bytes.
    pub(super) bytes: u64,
    /// Moments at which something came, and how much had come by then.
    times: Vec<(Instant, u64)>,
}

impl Flow {
    /// From one host to this address of another.
    pub(super) fn start(from: &Host, to: (&Host, Ipv4Addr)) -> Result<Self> {
        let listener = to.0.enter(|| TcpListener::bind((to.1, 0)))?.context("a TCP port")?;
        let address: SocketAddr = listener.local_addr()?;
        let sending = from.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)));
        let sending = sending?.with_context(|| format!("connecting to {address}"))?;
        let (receiving, _) = listener.accept()?;
        let ends = [sending.try_clone()?, receiving.try_clone()?];
        let sender = thread::Builder::new().name("flow".into()).spawn(move || send(sending))?;
        let receiver =
            thread::Builder::new().name("flow".into()).spawn(move || receive(receiving))?;
        Ok(Self { sender, receiver, ends })
    }

    /// Ends it.
    pub(super) fn stop(self) -> Result<Received> {
        // One that is cut off does not hear the other; it is enough that each end knows.
        self.ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        let panicked = |_| anyhow!("a measuring thread panicked");
        self.sender.join().map_err(panicked)?;
        self.receiver.join().map_err(panicked)
    }
}

fn send(mut stream: TcpStream) {
    let chunk = vec![0x5a; CHUNK_LEN];
    while stream.write_all(&chunk).is_ok() {}
}

fn receive(mut stream: TcpStream) -> Received {
    let mut chunk = vec![0; CHUNK_LEN];
    let mut received = Received::default();
    while let Ok(len @ 1..) = stream.read(&mut chunk) {
        received.bytes += len as u64;
        let now = Instant::now();
        match received.times.last_mut() {
            Some((at, bytes)) if now.duration_since(*at) < RESOLUTION => *bytes = received.bytes,
            _ => received.times.push((now, received.bytes)),
        }
    }
    received
}

impl Received {
    /// The longest time without a byte of which some part lies between these two moments.
    pub(super) fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in self.times.iter().map(|(at, _)| *at).filter(|at| *at < to).chain([to]) {
            if at > from {
                longest = longest.max(at.duration_since(last));
            }
            last = at;
        }
        longest
    }

    /// What came between these two moments, Mbit/s.
    pub(super) fn mbit_per_s(&self, from: Instant, to: Instant) -> f64 {
        let by = |moment: Instant| {
            let before = self.times.iter().take_while(|(at, _)| *at <= moment);
            before.last().map_or(0, |(_, bytes)| *bytes)
        };
        let seconds = to.saturating_duration_since(from).as_secs_f64();
        (by(to) - by(from)) as f64 * 8.0 / 1e6 / seconds.max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_and_rates_are_those_between_two_moments() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let times =
            vec![(ms(0), 10), (ms(100), 20), (ms(1_100), 1_000_020), (ms(1_200), 1_000_030)];
        let received = Received { bytes: 1_000_030, times };
        assert_eq!(received.longest_silence(ms(200), ms(1_300)), Duration::from_millis(1_000));
        assert_eq!(received.longest_silence(ms(1_110), ms(1_190)), Duration::from_millis(90));
        assert_eq!(received.mbit_per_s(ms(100), ms(1_100)), 8.0);
    }
}
