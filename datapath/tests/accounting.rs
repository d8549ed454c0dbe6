//! Every frame that one switch sends to another is received there or counted as missing, whatever happens to its packets.

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::identity;
use ipop_datapath::{
    Observer, PortId,
    command::{CloseReason, Command, ConnectionId, ToConnection},
    counters::{PortCounters, drops::DropReason},
    frame::{FrameBytes, Offload, VNET_HEADER_LEN, describe},
    memory::{Pair, TAP, TAP_WRITES_MAX, TapWrite, Train},
};

const PEER: PortId = PortId(1);
const FRAMES: u64 = 10;
/// Longer than the interval at which counts are taken.
const TICK: Duration = Duration::from_millis(1_500);

struct Link {
    pair: Pair,
}

impl Link {
    fn new() -> Self {
        Self { pair: Pair::connect([identity(), identity()]) }
    }

    /// Some frames to everybody; their packets, which are not delivered yet.
    fn send(&mut self) -> Vec<Train> {
        for _ in 0..FRAMES {
            self.pair.send(0, &[0; VNET_HEADER_LEN], &[&[0xff; 6][..], &[2; 54]].concat());
        }
        let (now, [sender, _]) = (self.pair.now, &mut self.pair.nodes);
        sender.core.flush(now, &mut sender.io);
        sender.io.trains.drain(..).collect()
    }

    fn deliver(&mut self, trains: &[Train]) {
        let (now, [sender, receiver]) = (self.pair.now, &mut self.pair.nodes);
        trains.iter().for_each(|train| receiver.receive(now, sender.address, train));
        self.pair.exchange();
    }

    fn lose(&mut self) {
        assert!(!self.send().is_empty());
    }

    fn send_and_deliver(&mut self) {
        let trains = self.send();
        self.deliver(&trains);
    }

    /// Frames received and frames missing at the far end.
    fn counts(&self) -> (u64, u64) {
        let [_, receiver] = &self.pair.nodes;
        let count =
            |counter: fn(&PortCounters) -> u64| counter(receiver.core.counters().port(PEER));
        (count(|port| port.received_frames.get()), count(|port| port.missing_frames.get()))
    }
}

#[test]
fn frames_lost_shortly_before_the_end_are_counted() {
    let mut link = Link::new();
    link.lose();
    link.send_and_deliver();
    let [sender, _] = &mut link.pair.nodes;
    let close =
        Command::Connection(ConnectionId(1 << 55), ToConnection::Close(CloseReason::Replaced));
    sender.core.command(link.pair.now, close, &mut sender.io);
    link.pair.exchange();
    // Until the connection is forgotten.
    for _ in 0..20 {
        link.pair.advance(TICK);
    }
    assert_eq!(link.counts(), (FRAMES, FRAMES));
}

/// The sender's socket takes no more, then nothing is heard any more: what was sent arrived, the rest waits for ever.
#[test]
fn frames_that_wait_when_the_connection_ends_are_counted() {
    const FRAMES: u64 = 2_000;
    let mut link = Link::new();
    let frame = [&[0xff; 6][..], &[2; 1_494]].concat();
    for _ in 0..FRAMES {
        link.pair.send(0, &[0; VNET_HEADER_LEN], &frame);
    }
    let (start, [sender, receiver]) = (link.pair.now, &mut link.pair.nodes);
    for _ in 0..100 {
        sender.core.flush(start, &mut sender.io);
    }
    for train in &sender.io.trains {
        receiver.receive(start, sender.address, train);
    }
    for node in [sender, receiver] {
        for second in 1..20 {
            node.core.flush(start + Duration::from_secs(second), &mut node.io);
        }
    }
    let [sender, receiver] = &link.pair.nodes;
    let (sent, received) = (sender.core.counters().port(PEER), receiver.core.counters().port(PEER));
    let (in_flows, in_datagrams) =
        (sent.dropped(DropReason::NoPort), sent.dropped(DropReason::TunnelDown));
    let in_part = received.dropped(DropReason::Incomplete);
    assert_eq!(sent.sent_frames.get() + in_flows, FRAMES);
    assert!((1_000..FRAMES).contains(&in_flows), "{in_flows} waited in the queues of flows");
    assert!((10..200).contains(&in_datagrams), "{in_datagrams} waited in QUIC's queue");
    assert!(in_part <= 1, "{in_part} were sent in part");
    let never_sent = in_flows + in_datagrams;
    assert_eq!(received.received_frames.get() + in_part + never_sent, FRAMES);
}

#[test]
fn frames_that_come_late_do_not_make_later_losses_count_twice() {
    let mut link = Link::new();
    let late = link.send();
    link.send_and_deliver();
    link.pair.advance(TICK);
    assert_eq!(link.counts(), (FRAMES, FRAMES), "missing so far");
    link.deliver(&late);
    link.pair.advance(TICK);
    link.lose();
    link.send_and_deliver();
    link.pair.advance(TICK);
    assert_eq!(link.counts(), (3 * FRAMES, FRAMES), "of four bursts");
}

#[test]
fn frames_that_a_tap_takes_no_more_are_dropped_there() {
    let mut link = Link::new();
    let [_, receiver] = &mut link.pair.nodes;
    let what = describe(Offload::NONE, &[0; 14], 14).unwrap();
    let waiting = || TapWrite { tap: TAP, what, pieces: Vec::new() };
    receiver.io.tap_writes.resize_with(TAP_WRITES_MAX, waiting);
    let log = Log::default();
    receiver.core.observe(Some(Box::new(log.clone())));
    let trains = link.send();
    let (now, [sender, receiver]) = (link.pair.now, &mut link.pair.nodes);
    trains.iter().for_each(|train| receiver.receive(now, sender.address, train));
    let tap = receiver.core.counters().port(TAP);
    assert_eq!((tap.sent_frames.get(), tap.dropped(DropReason::TapWrite)), (FRAMES, FRAMES));
    assert_eq!(log.count(Seen::Dropped(Some(TAP), DropReason::TapWrite)), FRAMES);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    In(PortId),
    Out(PortId),
    Dropped(Option<PortId>, DropReason),
}

/// What became of frames, each with the last byte of its source.
#[derive(Clone, Default, Debug)]
struct Log(Arc<Mutex<Vec<(u8, Seen)>>>);

impl Log {
    /// How often that was seen.
    fn count(&self, what: Seen) -> u64 {
        let seen = self.0.lock().expect("no panic beside it");
        seen.iter().filter(|(_, seen)| *seen == what).count() as u64
    }

    fn note(&self, head: &[u8], seen: Seen) {
        self.0.lock().expect("no panic beside it").push((head[11], seen));
    }
}

impl Observer for Log {
    fn came_in(&self, port: PortId, frame: &FrameBytes<'_>, _: Offload) {
        self.note(frame.head(), Seen::In(port));
    }

    fn goes_out(&self, port: PortId, frame: &FrameBytes<'_>, _: Offload) {
        self.note(frame.head(), Seen::Out(port));
    }

    fn dropped(&self, port: Option<PortId>, reason: DropReason, frame: &FrameBytes<'_>) {
        self.note(frame.head(), Seen::Dropped(port, reason));
    }
}

#[test]
fn an_observer_sees_each_frame_come_in_and_go_out_or_be_dropped() {
    let mut link = Link::new();
    let logs = [Log::default(), Log::default()];
    for (node, log) in link.pair.nodes.iter_mut().zip(&logs) {
        node.core.observe(Some(Box::new(log.clone())));
    }
    let group = [0xff; 6];
    for (destination, source) in [(group, [2, 0, 0, 0, 0, 1]), (group, [3, 0, 0, 0, 0, 2])] {
        let frame = [&destination[..], &source, &[0; 48]].concat();
        link.pair.send(0, &[0; VNET_HEADER_LEN], &frame);
        link.pair.exchange();
    }
    let seen = logs.map(|log| log.0.lock().unwrap().clone());
    let bad_source = Seen::Dropped(Some(TAP), DropReason::BadSource);
    let near = [(1, Seen::In(TAP)), (1, Seen::Out(PEER)), (2, Seen::In(TAP)), (2, bad_source)];
    assert_eq!(seen[0], near);
    assert_eq!(seen[1], [(1, Seen::In(PEER)), (1, Seen::Out(TAP))]);
}

/// More comes than may wait, then nothing is heard any more.
#[test]
fn an_observer_sees_what_a_tunnel_takes_no_more_and_what_waits_when_it_ends() {
    let mut link = Link::new();
    let (log, start) = (Log::default(), link.pair.now);
    link.pair.nodes[0].core.observe(Some(Box::new(log.clone())));
    let frame = [&[0xff; 6][..], &[2; 1_494]].concat();
    for _ in 0..4_000 {
        link.pair.send(0, &[0; VNET_HEADER_LEN], &frame);
    }
    let [sender, _] = &mut link.pair.nodes;
    for second in 0..20 {
        sender.core.flush(start + Duration::from_secs(second), &mut sender.io);
    }
    let port = sender.core.counters().port(PEER);
    for reason in [DropReason::TunnelQueueFull, DropReason::NoPort] {
        let dropped = port.dropped(reason);
        assert!(dropped > 500, "{reason:?}: {dropped}");
        assert_eq!(log.count(Seen::Dropped(Some(PEER), reason)), dropped, "{reason:?}");
    }
}
