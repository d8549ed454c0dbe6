//! Numbered frames between stations, and what became of them: lost, doubled, overtaken, late.
//!
//! The measuring ends are packet sockets on the switches' TAPs. Each frame carries the number of its stream, its own number
//! and the time at which it was built, so a receiver needs nothing but the frames: RFC 2544 asks for as much in section 20.
//! The sender keeps a rate by sending whatever is due each time that it wakes, so at high rates frames come in small bursts.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use ipop_learning::MacAddr;
use rustix::{
    io::Errno,
    net::RecvFlags,
    time::{ClockId, clock_gettime},
};

use crate::{
    batch::{self, BATCH, PacketSocket},
    lab::Host,
};

/// The first EtherType that IEEE 802 leaves to local experiments.
pub const ETHER_TYPE: u16 = 0x88b5;
/// Ethernet's smallest frame without its FCS.
pub const FRAME_LEN_MIN: usize = 60;
/// The largest frame that is sent, without its FCS.
pub const FRAME_LEN_MAX: usize = 9_014;
/// Numbers of a stream that are kept apart; a stream that is longer ends here.
pub const FRAMES_MAX: u64 = 1 << 24;
/// Latencies kept of each stream.
const LATENCIES_MAX: usize = 1 << 16;
/// A sender that has nothing due sleeps so long.
const NAP: Duration = Duration::from_micros(50);

const STREAM_AT: usize = 14;
const NUMBER_AT: usize = 18;
const SENT_AT: usize = 26;
const HEADER_LEN: usize = 34;

/// Addresses that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Always this one.
    Only(MacAddr),
    /// So many stations, from this number on.
    Stations {
        /// The first one's number.
        first: u32,
        /// How many.
        count: u32,
    },
}

/// The address of a station: locally administered, and no two numbers alike.
pub fn station(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([0x02, 0x50, a, b, c, d])
}

impl Addresses {
    /// The station of this number alone.
    pub fn station(number: u32) -> Self {
        Self::Only(station(number))
    }

    fn of_frame(self, number: u64) -> MacAddr {
        match self {
            Self::Only(address) => address,
            Self::Stations { first, count } => {
                station(first + (number % u64::from(count.max(1))) as u32)
            }
        }
    }
}

/// When a stream ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Until {
    /// After so many frames.
    Frames(u64),
    /// After so long.
    Elapsed(Duration),
}

/// What a station sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stream {
    /// Its number, from 0; each of a trial has its own.
    pub number: u32,
    /// From whom.
    pub sources: Addresses,
    /// To whom.
    pub destinations: Addresses,
    /// Length of each frame without its FCS, bytes.
    pub frame_len: usize,
    /// Frames a second; none is as fast as it goes.
    pub rate_per_s: Option<f64>,
    /// When it ends.
    pub until: Until,
}

/// What a stream's sender did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    /// Frames that the kernel took.
    pub frames: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// What a receiver saw of one stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Frames that arrived, each number once.
    pub received: u64,
    /// Frames that arrived again.
    pub duplicates: u64,
    /// Frames that one with a higher number had overtaken.
    pub overtaken: u64,
    /// From building to receiving, in ns, of the first 65,536 frames of every 2^n, n so that they suffice.
    pub latencies_ns: Vec<u64>,
    seen: Vec<u64>,
    next: u64,
    stride: u64,
}

/// A switch's TAP, as its station sees it.
#[derive(Debug)]
pub struct Port {
    socket: PacketSocket,
}

impl Port {
    /// The one of this name on this host.
    ///
    /// # Errors
    /// When there is none.
    pub fn at(host: &Host, interface: &str) -> Result<Self> {
        let socket = host.enter(|| PacketSocket::bind(interface, ETHER_TYPE))?;
        let socket =
            socket.with_context(|| format!("a packet socket on {interface} of {}", host.name()))?;
        Ok(Self { socket })
    }

    /// Throws away what came while nobody received.
    fn drain(&self) -> Result<()> {
        let mut frame = [0; HEADER_LEN];
        loop {
            match rustix::net::recv(&self.socket, &mut frame, RecvFlags::DONTWAIT) {
                Ok(_) => {}
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(error) => return Err(error).context("draining a packet socket"),
            }
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends all the streams at once, each from its port, and receives at all `receivers`; what was sent of each stream, and
/// what each receiver saw of each.
///
/// # Errors
/// When the kernel refuses a frame.
pub fn run(
    streams: &[(&Port, Stream)],
    receivers: &[&Port],
) -> Result<(Vec<Sent>, Vec<Vec<Tally>>)> {
    let numbers = streams.iter().map(|(_, stream)| stream.number);
    receiving(receivers, numbers.max(), || {
        thread::scope(|scope| {
            let sending: Vec<_> =
                streams.iter().map(|(port, stream)| scope.spawn(|| send(port, stream))).collect();
            sending.into_iter().map(|thread| joined(thread.join())).collect()
        })
    })
}

/// Sends streams from one port, one after the other without a pause, and receives at another.
///
/// # Errors
/// When the kernel refuses a frame.
pub fn run_in_turn(from: &Port, streams: &[Stream], to: &Port) -> Result<(Vec<Sent>, Vec<Tally>)> {
    let numbers = streams.iter().map(|stream| stream.number);
    let (sent, mut seen) = receiving(&[to], numbers.max(), || {
        streams.iter().map(|stream| send(from, stream)).collect()
    })?;
    Ok((sent, seen.pop().unwrap_or_default()))
}

/// Receives at all ports until all has been sent, and a little longer.
fn receiving(
    receivers: &[&Port],
    number_max: Option<u32>,
    send: impl FnOnce() -> Result<Vec<Sent>>,
) -> Result<(Vec<Sent>, Vec<Vec<Tally>>)> {
    receivers.iter().try_for_each(|port| port.drain())?;
    let done = AtomicBool::new(false);
    let tallies = number_max.map_or(0, |number| number as usize + 1);
    thread::scope(|scope| {
        let receiving: Vec<_> =
            receivers.iter().map(|port| scope.spawn(|| receive(port, tallies, &done))).collect();
        let sent = send();
        done.store(true, Ordering::Release);
        let seen = receiving.into_iter().map(|thread| joined(thread.join()));
        let seen = seen.collect::<Result<_>>()?;
        Ok((sent?, seen))
    })
}

fn joined<T>(thread: thread::Result<Result<T>>) -> Result<T> {
    thread.map_err(|_| anyhow!("a measuring thread panicked"))?
}

fn send(port: &Port, stream: &Stream) -> Result<Sent> {
    let len = stream.frame_len.clamp(FRAME_LEN_MIN, FRAME_LEN_MAX);
    let mut frames = vec![vec![0; len]; BATCH];
    let start = Instant::now();
    let mut sent = 0;
    loop {
        let elapsed = start.elapsed();
        let (frames_left, over) = match stream.until {
            Until::Frames(count) => (count.min(FRAMES_MAX) - sent, false),
            Until::Elapsed(limit) => (FRAMES_MAX - sent, elapsed >= limit),
        };
        if over || frames_left == 0 {
            return Ok(Sent { frames: sent, elapsed });
        }
        let due = stream.rate_per_s.map_or(BATCH as u64, |rate| {
            ((elapsed.as_secs_f64() * rate) as u64 + 1).saturating_sub(sent)
        });
        let count = due.min(BATCH as u64).min(frames_left) as usize;
        if count == 0 {
            thread::sleep(NAP);
            continue;
        }
        let built_ns = now_ns();
        for (frame, number) in frames.iter_mut().zip(sent..).take(count) {
            build(stream, number, built_ns, frame);
        }
        let mut slices = [IoSlice::new(&[]); BATCH];
        for (slice, frame) in slices.iter_mut().zip(&frames) {
            *slice = IoSlice::new(frame);
        }
        let taken = batch::send(&port.socket, &slices[..count]).context("sending frames")?;
        sent += taken as u64;
    }
}

/// Makes a frame of at least [`FRAME_LEN_MIN`] bytes.
pub(crate) fn build(stream: &Stream, number: u64, built_ns: u64, frame: &mut [u8]) {
    frame[..6].copy_from_slice(&stream.destinations.of_frame(number).0);
    frame[6..12].copy_from_slice(&stream.sources.of_frame(number).0);
    frame[12..STREAM_AT].copy_from_slice(&ETHER_TYPE.to_be_bytes());
    frame[STREAM_AT..NUMBER_AT].copy_from_slice(&stream.number.to_be_bytes());
    frame[NUMBER_AT..SENT_AT].copy_from_slice(&number.to_be_bytes());
    frame[SENT_AT..HEADER_LEN].copy_from_slice(&built_ns.to_be_bytes());
}

/// Until the senders are done and nothing has arrived for the socket's time-out.
fn receive(port: &Port, streams: usize, done: &AtomicBool) -> Result<Vec<Tally>> {
    let mut tallies = vec![Tally::default(); streams];
    let mut room = [[0; HEADER_LEN]; BATCH];
    let mut buffers = room.each_mut().map(|buffer| IoSliceMut::new(buffer));
    let mut lens = [0; BATCH];
    loop {
        let was_done = done.load(Ordering::Acquire);
        let count = batch::receive(&port.socket, &mut buffers, &mut lens);
        let count = count.context("receiving frames")?;
        if count == 0 && was_done {
            return Ok(tallies);
        }
        let now_ns = now_ns();
        for (frame, len) in buffers.iter().zip(lens).take(count) {
            if let Some((stream, number, built_ns)) = parse(&frame[..len.min(HEADER_LEN)])
                && let Some(tally) = tallies.get_mut(stream as usize)
            {
                tally.count(number, now_ns.saturating_sub(built_ns));
            }
        }
    }
}

/// Stream, number and time.
pub(crate) fn parse(frame: &[u8]) -> Option<(u32, u64, u64)> {
    let header: &[u8; HEADER_LEN] = frame.first_chunk()?;
    let number = |at| header[at..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let stream = u32::from_be_bytes(*header[STREAM_AT..].first_chunk()?);
    Some((stream, number(NUMBER_AT)?, number(SENT_AT)?))
}

impl Tally {
    /// Counts a frame.
    pub fn count(&mut self, number: u64, latency_ns: u64) {
        if number >= FRAMES_MAX {
            return;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.duplicates += 1;
            return;
        }
        self.seen[word] |= bit;
        self.overtaken += u64::from(number < self.next);
        self.next = self.next.max(number + 1);
        self.keep(latency_ns);
        self.received += 1;
    }

    /// The highest number below `sent` that did not arrive.
    pub fn last_missing(&self, sent: u64) -> Option<u64> {
        let arrived = |number: u64| {
            let word = self.seen.get((number / 64) as usize).copied().unwrap_or(0);
            word & 1 << (number % 64) != 0
        };
        (0..sent.min(FRAMES_MAX)).rev().find(|number| !arrived(*number))
    }

    /// Every `stride`th; when there are too many, half of them go and the stride doubles.
    fn keep(&mut self, latency_ns: u64) {
        self.stride = self.stride.max(1);
        if !self.received.is_multiple_of(self.stride) {
            return;
        }
        if self.latencies_ns.len() == LATENCIES_MAX {
            let mut at = 0;
            self.latencies_ns.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.stride *= 2;
        }
        self.latencies_ns.push(latency_ns);
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(numbers: &[u64]) -> Tally {
        let mut tally = Tally::default();
        numbers.iter().for_each(|number| tally.count(*number, 7));
        tally
    }

    #[test]
    fn loss_duplication_and_reordering_are_told_apart() {
        let seen = tally(&[0, 1, 3, 2, 3, 5, u64::MAX]);
        assert_eq!((seen.received, seen.duplicates, seen.overtaken), (5, 1, 1));
        assert_eq!(seen.last_missing(6), Some(4));
        assert_eq!(seen.last_missing(200), Some(199));
        assert_eq!(seen.last_missing(4), None);
    }

    #[test]
    fn latencies_are_a_bounded_sample_of_the_whole_stream() {
        let mut seen = Tally::default();
        (0..1_000_000).for_each(|number| seen.count(number, number));
        assert!((LATENCIES_MAX / 2..=LATENCIES_MAX).contains(&seen.latencies_ns.len()));
        let last = seen.latencies_ns.last().unwrap();
        assert!(*last > 950_000 && seen.latencies_ns.is_sorted(), "{last}");
    }

    #[test]
    fn frames_are_read_as_they_were_built() {
        let stream = Stream {
            number: 3,
            sources: Addresses::Stations { first: 100, count: 10 },
            destinations: Addresses::Only(MacAddr::BROADCAST),
            frame_len: FRAME_LEN_MIN,
            rate_per_s: None,
            until: Until::Frames(1),
        };
        let mut frame = [0; FRAME_LEN_MIN];
        build(&stream, 25, 42, &mut frame);
        assert_eq!(parse(&frame), Some((3, 25, 42)));
        assert_eq!((&frame[..6], &frame[6..12]), (&[0xff; 6][..], &station(105).0[..]));
        assert_eq!(parse(&frame[..HEADER_LEN - 1]), None);
    }
}
