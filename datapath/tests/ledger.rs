//! The ledger adds up after every step, whatever becomes of frames: they go to one port or to many, in segments or joined, arrive in parts, twice or not at
//! all, find no place, or wait.

mod common;
#[path = "common/superframe.rs"]
mod superframe;

use std::{sync::Arc, time::Duration};

use common::identity;
use ipop_datapath::{
    LocalPort, PortId,
    counters::{PortCounters, drops::DropReason, ledger::Ledger},
    frame::{FrameBytes, VNET_HEADER_LEN},
    io::{SocketKind, TapFrame},
    memory::{MemoryIoConfig, Node, Only, Pair, TAP, TAP_WRITES_MAX, Train, node_of, tap},
    node_id::NodeId,
};
use superframe::tcp_superframe;

const PEER: PortId = PortId(1);
const PLAIN: [u8; VNET_HEADER_LEN] = [0; VNET_HEADER_LEN];
const EVERYBODY: [u8; 6] = [0xff; 6];
const STEPS: u32 = 3_000;

fn station(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, number]
}

fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    [&to[..], &from, &[0x88, 0xb6], &[0; 46]].concat()
}

fn adds_up(node: &Node, when: &str) -> Ledger {
    let ledger = node.core.ledger();
    assert_eq!(ledger.difference(), 0, "{when}: {ledger:?}");
    ledger
}

#[test]
fn of_frames_that_are_flooded_refused_or_at_ports_that_go() {
    let now = std::time::Instant::now();
    let admission = Arc::new(Only(NodeId([9; 32])));
    let (mut node, shared) = node_of(identity(), admission, 1, MemoryIoConfig::default(), now);
    let [second, third] = [PortId(7), PortId(8)];
    let open = |node: &mut Node, port| {
        shared.ports.open(port);
        node.core.open_port(LocalPort { port, ..tap(2) });
    };
    let send = |node: &mut Node, at: PortId, bytes: &[u8]| {
        let frame = TapFrame { tap: at, vnet: &PLAIN, bytes: FrameBytes::Whole(bytes) };
        node.core.outbound(now, frame, &mut node.io);
        node.io.tap_writes.clear();
        adds_up(node, "after a frame")
    };
    send(&mut node, TAP, &frame(EVERYBODY, station(1)));
    open(&mut node, second);
    open(&mut node, third);
    assert_eq!(send(&mut node, TAP, &frame(EVERYBODY, station(1))).copies, 1);
    let ledger = send(&mut node, third, &frame(station(1), station(3)));
    assert_eq!((ledger.received, ledger.copies, ledger.sent, ledger.dropped), (3, 1, 3, 1));
    for bytes in [
        &frame(EVERYBODY, EVERYBODY)[..],
        &frame(station(1), station(4)),
        &frame([1, 0x80, 0xc2, 0, 0, 0], station(1)),
        &[0; 9],
    ] {
        send(&mut node, TAP, bytes);
    }
    let blocked = shared.ports.of(second);
    blocked.set_blocked(true);
    send(&mut node, TAP, &frame(EVERYBODY, station(1)));
    send(&mut node, second, &frame(EVERYBODY, station(2)));
    blocked.set_blocked(false);
    for _ in 0..10_100 {
        send(&mut node, TAP, &frame(EVERYBODY, station(1)));
    }
    shared.ports.close(third);
    send(&mut node, TAP, &frame(station(3), station(1)));
    node.core.close_port(third);
    shared.ports.free(third);
    open(&mut node, third);
    let ledger = send(&mut node, third, &frame(EVERYBODY, station(5)));
    let counters = node.core.counters();
    assert_eq!(counters.port(third).received_frames.get(), 1, "it counts from nothing");
    assert!(ledger.copies >= 10_000 && ledger.received > 10_100, "{ledger:?}");
    let seen: Vec<DropReason> = DropReason::ALL
        .iter()
        .filter(|reason| counters.ports().any(|port| port.dropped(**reason) > 0))
        .copied()
        .collect();
    use DropReason::{BadSource, Blocked, NoPort, Reserved, Runt, SamePort, Storm, TapDown};
    assert_eq!(seen, [Runt, BadSource, Reserved, SamePort, NoPort, Storm, Blocked, TapDown]);
}

/// Two nodes on a network that loses, repeats and reorders.
struct Rough {
    pair: Pair,
    chance: u32,
    under_way: Vec<Vec<u8>>,
}

impl Rough {
    fn new() -> Self {
        let pair = Pair::connect([identity(), identity()]);
        Self { pair, chance: 1, under_way: Vec::new() }
    }

    /// Below `bound`, by a fixed seed (Numerical Recipes' generator).
    fn pick(&mut self, bound: u32) -> u32 {
        self.chance = self.chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.chance >> 16) % bound
    }

    fn send(&mut self) {
        match self.pick(10) {
            0 => self.pair.send(0, &PLAIN, &frame(EVERYBODY, station(1))),
            1 => self.pair.send(0, &PLAIN, &frame(station(9), EVERYBODY)),
            2 => {
                let (vnet, superframe) = tcp_superframe(40, 1_348);
                self.pair.send(0, &vnet, &superframe);
            }
            3 => self.pair.send(
                0,
                &PLAIN,
                &[&frame(EVERYBODY, station(1))[..], &[3; 1_400]].concat(),
            ),
            _ => {
                let (vnet, superframe) = tcp_superframe(3, 1_000);
                self.pair.send(0, &vnet, &superframe);
            }
        }
    }

    /// What one node has to say comes to the other, or does not, in any order.
    fn carry(&mut self, loss_percent: u32) {
        let now = self.pair.now;
        for from in 0..2 {
            let node = &mut self.pair.nodes[from];
            node.core.flush(now, &mut node.io);
            let trains: Vec<Train> = node.io.trains.drain(..).collect();
            for packet in trains.iter().flat_map(Train::packets) {
                if self.pick(100) >= loss_percent {
                    self.under_way.push(packet.to_owned());
                }
            }
            while !self.under_way.is_empty() {
                let index = self.pick(4.min(self.under_way.len() as u32)) as usize;
                let packet = self.under_way.remove(index);
                let [a, b] = &mut self.pair.nodes;
                let (sender, receiver) = if from == 0 { (a, b) } else { (b, a) };
                receiver.receive_packets(now, SocketKind::Listen, sender.address, &[&packet]);
            }
        }
    }

    fn look(&mut self, when: &str) -> [Ledger; 2] {
        [0, 1].map(|node| adds_up(&self.pair.nodes[node], when))
    }

    fn count(&self, node: usize, counter: fn(&PortCounters) -> u64) -> u64 {
        self.pair.nodes[node].core.counters().ports().map(counter).sum()
    }
}

#[test]
fn on_a_path_that_loses_repeats_and_reorders() {
    let mut rough = Rough::new();
    let mut most_waiting = 0;
    for step in 0..STEPS {
        rough.send();
        if rough.pick(4) == 0 {
            let loss_percent = if step % 500 < 250 { 5 } else { 0 };
            rough.carry(loss_percent);
            rough.pair.now += Duration::from_millis(20);
        }
        let [sender, _] = rough.look("on the way");
        most_waiting = most_waiting.max(sender.waiting);
        if step % 100 == 0 {
            rough.pair.take_frames(1, |_, _| {});
        }
        if step == STEPS / 2 {
            // The kernel takes no superframes any more, and not all that it is given.
            let core = &mut rough.pair.nodes[1].core;
            while !core.superframe_refused(TAP) {}
            core.not_written(TAP, DropReason::TapWrite, 3);
        }
    }
    assert!(most_waiting > 0);
    for (counted, node, counter) in [
        (
            "segmented for the path",
            0,
            (|port| port.segmented_frames.get()) as fn(&PortCounters) -> u64,
        ),
        ("segmented for the TAP", 1, |port| port.segmented_frames.get()),
        ("salvaged", 1, |port| port.salvaged_frames.get()),
        ("missing", 1, |port| port.missing_frames.get()),
        ("dropped before", 1, |port| port.dropped_before.get()),
        ("dropped after", 1, |port| port.dropped_after.get()),
    ] {
        assert!(rough.count(node, counter) > 0, "nothing was {counted}");
    }
}

#[test]
fn when_queues_are_full_and_the_tunnel_ends() {
    let mut rough = Rough::new();
    let [_, receiver] = &mut rough.pair.nodes;
    let what = ipop_datapath::frame::describe(ipop_datapath::frame::Offload::NONE, &[0; 14], 14);
    let what = what.expect("as long as a header");
    receiver.io.tap_writes.resize_with(TAP_WRITES_MAX, || ipop_datapath::memory::TapWrite {
        tap: TAP,
        what,
        pieces: Vec::new(),
    });
    rough.send();
    rough.carry(0);
    rough.look("nothing can be written");
    for _ in 0..400 {
        let (vnet, superframe) = tcp_superframe(40, 1_348);
        rough.pair.send(0, &vnet, &superframe);
    }
    let [sender, _] = rough.look("too much waits");
    assert!(sender.waiting > 10 && sender.dropped > 10, "{sender:?}");
    let start = rough.pair.now;
    let node = &mut rough.pair.nodes[0];
    node.core.flush(start, &mut node.io);
    for second in 1..20 {
        for node in &mut rough.pair.nodes {
            node.core.flush(start + Duration::from_secs(second), &mut node.io);
        }
        rough.look("while it ends");
    }
    let [sender, _] = rough.look("when nothing is left");
    assert_eq!(sender.waiting, 0);
    let dropped = |node: usize, port, reason| {
        rough.pair.nodes[node].core.counters().port(port).dropped(reason)
    };
    for (node, port, reason) in [
        (0, PEER, DropReason::TunnelQueueFull),
        (0, PEER, DropReason::TunnelDown),
        (0, PEER, DropReason::NoPort),
        (1, TAP, DropReason::TapWrite),
    ] {
        assert!(dropped(node, port, reason) > 0, "{reason:?}");
    }
}
