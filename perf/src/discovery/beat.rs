//! Numbered frames both ways at a steady pace, for as long as one likes: each that is lost is known, and how long none came.

use std::{
    io::{IoSlice, IoSliceMut},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    batch::{self, BATCH},
    stream::{self, Addresses, FRAME_LEN_MIN, Port, Stream, Until},
};

/// From one frame to the next.
const EVERY: Duration = Duration::from_millis(2);
/// What is under way when the last frame was sent has so long to arrive.
const LINGER: Duration = Duration::from_millis(500);

/// Runs until it is stopped.
#[derive(Debug)]
pub(super) struct Beat {
    done: [Arc<AtomicBool>; 2],
    senders: Vec<JoinHandle<Result<u64>>>,
    receivers: Vec<JoinHandle<Result<Vec<Arrival>>>>,
}

/// A frame came.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    number: u64,
    at: Instant,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Heard {
    /// Frames sent.
    pub(super) sent: u64,
    arrivals: Vec<Arrival>,
}

impl Beat {
    /// Between the stations behind two ports.
    pub(super) fn start(ports: [Port; 2]) -> Result<Self> {
        let done = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let mut beat = Self { done, senders: Vec::new(), receivers: Vec::new() };
        for (port, own) in ports.map(Arc::new).into_iter().zip(0..) {
            let (peer, sending) = (1 - own, port.clone());
            let stream = Stream {
                number: own,
                sources: Addresses::station(own),
                destinations: Addresses::station(peer),
                frame_len: FRAME_LEN_MIN,
                rate_per_s: None,
                until: Until::Frames(0),
            };
            let [no_more, gone] = beat.done.each_ref().map(Arc::clone);
            let sender = thread::Builder::new().name(format!("beat-{own}"));
            beat.senders.push(sender.spawn(move || send(&sending, &stream, &no_more))?);
            let receiver = thread::Builder::new().name(format!("heard-{own}"));
            beat.receivers.push(receiver.spawn(move || receive(&port, peer, &gone))?);
        }
        Ok(beat)
    }

    /// Ends it: what was heard from the first station, and from the second.
    pub(super) fn stop(mut self) -> Result<[Heard; 2]> {
        let [no_more, gone] = &self.done;
        no_more.store(true, Ordering::Release);
        let sent = self.senders.drain(..).map(joined).collect::<Result<Vec<_>>>()?;
        thread::sleep(LINGER);
        gone.store(true, Ordering::Release);
        let arrivals = self.receivers.drain(..).map(joined).collect::<Result<Vec<_>>>()?;
        let ([from_first, from_second], [at_first, at_second]): ([u64; 2], [Vec<Arrival>; 2]) =
            match (sent.try_into(), arrivals.try_into()) {
                (Ok(sent), Ok(arrivals)) => (sent, arrivals),
                _ => bail!("not all threads of a beat were there"),
            };
        Ok([
            Heard { sent: from_first, arrivals: at_second },
            Heard { sent: from_second, arrivals: at_first },
        ])
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.done.iter().for_each(|done| done.store(true, Ordering::Release));
    }
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a measuring thread panicked"))?
}

fn send(port: &Port, stream: &Stream, done: &AtomicBool) -> Result<u64> {
    let mut frame = [0; FRAME_LEN_MIN];
    let start = Instant::now();
    let mut number = 0;
    while !done.load(Ordering::Acquire) {
        stream::build(stream, number, 0, &mut frame);
        // A frame that the kernel does not take now is late, and none is left out.
        number += batch::send(port, &[IoSlice::new(&frame)]).context("sending frames")? as u64;
        let due = start + EVERY * number as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(number)
}

fn receive(port: &Port, from: u32, done: &AtomicBool) -> Result<Vec<Arrival>> {
    let mut arrivals = Vec::new();
    let mut room = [[0; FRAME_LEN_MIN]; BATCH];
    let mut buffers = room.each_mut().map(|buffer| IoSliceMut::new(buffer));
    let mut lens = [0; BATCH];
    while !done.load(Ordering::Acquire) {
        let count = batch::receive(port, &mut buffers, &mut lens).context("receiving frames")?;
        let at = Instant::now();
        for (frame, len) in buffers.iter().zip(lens).take(count) {
            if let Some((stream, number, _)) = stream::parse(&frame[..len.min(FRAME_LEN_MIN)])
                && stream == from
            {
                arrivals.push(Arrival { number, at });
            }
        }
    }
    Ok(arrivals)
}

impl Heard {
    /// Frames that never came.
    pub(super) fn lost(&self) -> u64 {
        let mut numbers: Vec<_> = self.arrivals.iter().map(|arrival| arrival.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        self.sent - numbers.len() as u64
    }

    /// The longest time without a frame of which some part lies between these two moments.
    pub(super) fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let times = self.arrivals.iter().map(|arrival| arrival.at);
        let before = times.clone().filter(|at| *at <= from).max().unwrap_or(from);
        let between = times.filter(|at| *at > from && *at < to);
        let mut last = before;
        let mut longest = Duration::ZERO;
        for at in between.chain([to]) {
            longest = longest.max(at.saturating_duration_since(last));
            last = at;
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_and_losses_are_seen() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let times = [(0, 0), (1, 10), (2, 20), (5, 500), (4, 510), (4, 511), (6, 900)];
        let arrivals = times.map(|(number, at)| Arrival { number, at: ms(at) }).to_vec();
        let heard = Heard { sent: 8, arrivals };
        assert_eq!(heard.lost(), 2);
        assert_eq!(heard.longest_silence(ms(15), ms(600)), Duration::from_millis(480));
        assert_eq!(heard.longest_silence(ms(505), ms(800)), Duration::from_millis(289));
        let silent = Heard { sent: 8, arrivals: Vec::new() };
        assert_eq!(silent.longest_silence(ms(100), ms(400)), Duration::from_millis(300));
    }
}
