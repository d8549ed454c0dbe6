//! When a peer is given up: soon after it has died, and not because it was stopped for a while or its path loses packets.

mod common;

use std::time::{Duration, Instant};

use common::identity;
use ipop_datapath::{
    command::{Ended, Event, FromConnection},
    frame::VNET_HEADER_LEN,
    memory::{Node, Pair, Train},
};

/// Time passes in steps of at least this.
const STEP: Duration = Duration::from_millis(1);

/// A pair whose network may lose packets, and whose second node may be stopped.
struct World {
    pair: Pair,
    loss_percent: u64,
    second: Second,
    random: u64,
    /// Trains that wait for the second node.
    held: Vec<Train>,
    /// By node.
    ended: [Option<(Duration, Ended)>; 2],
    started: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    Runs,
    /// What comes waits for it.
    Stopped,
    /// What comes is lost.
    Dead,
}

impl World {
    fn new() -> Self {
        let pair = Pair::connect([identity(), identity()]);
        let started = pair.now;
        let second = Second::Runs;
        let (held, ended) = (Vec::new(), [None, None]);
        Self { pair, loss_percent: 0, second, random: 7, held, ended, started }
    }

    fn is_lost(&mut self) -> bool {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 100 < self.loss_percent
    }

    fn send_frame(&mut self, node: usize) {
        let mut frame = [[0xff; 6], [2, 0, 0, 0, 1, node as u8]].concat();
        frame.resize(100, 0x5a);
        self.pair.send(node, &[0; VNET_HEADER_LEN], &frame);
    }

    /// Lets time pass from one thing that is due to the next.
    fn run(&mut self, time: Duration) {
        let end = self.pair.now + time;
        while self.pair.now < end {
            while self.carry(0) | self.carry(1) {}
            let running = &self.pair.nodes[..if self.second == Second::Runs { 2 } else { 1 }];
            let due = running.iter().map(|node| node.core.poll_timeout()).min().unwrap_or(end);
            self.pair.now = due.max(self.pair.now + STEP).min(end);
        }
        self.pair.take_frames(0, |_, _| {});
        self.pair.take_frames(1, |_, _| {});
    }

    fn carry(&mut self, from: usize) -> bool {
        if from == 1 && self.second != Second::Runs {
            return false;
        }
        let now = self.pair.now;
        let node = &mut self.pair.nodes[from];
        node.core.flush(now, &mut node.io);
        for event in node.core.drain_events() {
            if let Event::Connection(_, FromConnection::Ended(why)) = event {
                self.ended[from] = Some((now - self.started, why));
            }
        }
        let mut trains: Vec<_> = self.pair.nodes[from].io.trains.drain(..).collect();
        if from == 0 {
            self.held.append(&mut trains);
            if self.second == Second::Stopped {
                return false;
            }
            trains = std::mem::take(&mut self.held);
        }
        for train in &trains {
            let kept: Vec<Vec<u8>> =
                train.packets().filter(|_| !self.is_lost()).map(<[u8]>::to_vec).collect();
            let kept: Vec<&[u8]> = kept.iter().map(Vec::as_slice).collect();
            if from == 0 && self.second == Second::Dead || kept.is_empty() {
                continue;
            }
            let [a, b] = &mut self.pair.nodes;
            let (sender, receiver): (&Node, &mut Node) = if from == 0 { (a, b) } else { (b, a) };
            receiver.receive_packets(now, train.socket, sender.address, &kept);
        }
        !trains.is_empty()
    }

    /// When the first node gave the second up, since then.
    fn given_up_after(&self, since: Duration) -> Option<Duration> {
        let (at, why) = self.ended[0].as_ref()?;
        assert_eq!(*why, Ended::TimedOut);
        Some(*at - since)
    }
}

#[test]
fn a_dead_peer_is_given_up_three_seconds_after_a_frame_for_it() {
    let mut world = World::new();
    world.second = Second::Dead;
    world.send_frame(0);
    world.run(Duration::from_secs(10));
    let after = world.given_up_after(Duration::ZERO).expect("given up");
    assert!(
        after > Duration::from_millis(2_900) && after < Duration::from_millis(3_300),
        "{after:?}"
    );
}

#[test]
fn a_dead_peer_that_nobody_wants_is_given_up_three_seconds_after_a_keep_alive() {
    let mut world = World::new();
    world.run(Duration::from_secs(60));
    world.second = Second::Dead;
    world.run(Duration::from_secs(10));
    let after = world.given_up_after(Duration::from_secs(60)).expect("given up");
    assert!(after < Duration::from_millis(5_800), "{after:?}");
}

#[test]
fn a_peer_that_is_stopped_for_two_seconds_stays() {
    let mut world = World::new();
    for _ in 0..20 {
        world.send_frame(0);
        world.second = Second::Stopped;
        world.run(Duration::from_secs(2));
        world.second = Second::Runs;
        world.run(Duration::from_millis(3_700));
    }
    assert_eq!(world.ended, [None, None]);
}

#[test]
fn a_path_that_loses_thirty_percent_each_way_drops_no_tunnel() {
    let mut world = World::new();
    world.loss_percent = 30;
    world.run(Duration::from_secs(20 * 60));
    assert_eq!(world.ended, [None, None], "idle");
    for _ in 0..20 * 60 {
        world.send_frame(0);
        world.run(Duration::from_secs(1));
    }
    assert_eq!(world.ended, [None, None], "with a frame a second");
}
