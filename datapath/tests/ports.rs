//! Local ports that come and go while frames pass.

mod common;
#[path = "common/superframe.rs"]
mod superframe;

use std::{sync::Arc, time::Instant};

use common::identity;
use ipop_datapath::{
    LocalPort, MacAddr, PortId, VlanId,
    command::{Command, ConnectionId, Event, FromConnection, Lane, ToConnection},
    core::shared::Shared,
    counters::drops::DropReason,
    frame::{FrameBytes, VNET_HEADER_LEN},
    io::TapFrame,
    memory::{MemoryIoConfig, Node, Only, TAP, node, node_of, tap},
    node_id::NodeId,
    port::MAX_PORTS,
    tunnel::hello::Capabilities,
};
use superframe::tcp_superframe;

/// The highest number that there is, which no table has made room for.
const OTHER: PortId = PortId(MAX_PORTS as u16 - 1);
const EVERYBODY: MacAddr = MacAddr([0xff; 6]);

fn station(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, number])
}

/// A node of one TAP and no peer.
struct Site {
    node: Node,
    shared: Arc<Shared>,
    now: Instant,
}

impl Site {
    fn new() -> Self {
        let now = Instant::now();
        let admission = Arc::new(Only(NodeId([9; 32])));
        let (node, shared) = node_of(identity(), admission, 1, MemoryIoConfig::default(), now);
        Self { node, shared, now }
    }

    /// As control opens a port.
    fn open(&mut self) {
        self.shared.ports.open(OTHER);
        self.node.core.open_port(LocalPort { port: OTHER, ..tap(2) });
    }

    /// A station sends a frame: to which ports it went.
    fn send(&mut self, at: PortId, from: MacAddr, to: MacAddr) -> Vec<PortId> {
        let frame = [&to.0[..], &from.0, &[0x88, 0xb6], &[0; 46]].concat();
        let frame =
            TapFrame { tap: at, vnet: &[0; VNET_HEADER_LEN], bytes: FrameBytes::Whole(&frame) };
        self.node.core.outbound(self.now, frame, &mut self.node.io);
        self.node.io.tap_writes.drain(..).map(|write| write.tap).collect()
    }

    fn dropped(&self, port: PortId, reason: DropReason) -> u64 {
        self.node.core.counters().port(port).dropped(reason)
    }

    fn knows(&self, station: MacAddr) -> Option<PortId> {
        self.shared.fdb.look_up(VlanId::UNTAGGED, station, 0)
    }
}

#[test]
fn a_port_that_comes_is_flooded_to_learned_and_sent_to() {
    let mut site = Site::new();
    assert_eq!(site.send(TAP, station(1), EVERYBODY), []);
    site.open();
    assert_eq!(site.send(TAP, station(1), EVERYBODY), [OTHER]);
    assert_eq!(site.send(OTHER, station(2), station(1)), [TAP]);
    assert_eq!(site.send(TAP, station(1), station(2)), [OTHER]);
    assert_eq!(site.knows(station(2)), Some(OTHER));
    site.node.core.flush(site.now, &mut site.node.io);
    let probed: Vec<PortId> = site.node.io.tap_writes.drain(..).map(|write| write.tap).collect();
    assert_eq!(probed, [TAP, OTHER], "each local port is looked at for loops");
}

#[test]
fn of_a_port_that_was_opened_elsewhere_only_frames_are_dropped_and_counted() {
    let mut site = Site::new();
    site.shared.ports.open(OTHER);
    site.shared.fdb.learn(VlanId::UNTAGGED, station(2), OTHER, 0);
    assert_eq!(site.send(TAP, station(1), station(2)), []);
    assert_eq!(site.dropped(TAP, DropReason::TapDown), 1);
}

#[test]
fn frames_to_and_from_a_port_that_goes_are_dropped_and_counted_and_teach_nothing() {
    let mut site = Site::new();
    site.open();
    site.send(OTHER, station(2), EVERYBODY);
    site.shared.ports.close(OTHER);
    assert_eq!(site.send(TAP, station(1), station(2)), [], "to where it was");
    assert_eq!(site.dropped(TAP, DropReason::TapDown), 1);
    assert_eq!(site.send(OTHER, station(3), station(1)), [], "one that was read before");
    assert_eq!(site.dropped(OTHER, DropReason::TapDown), 1);
    assert_eq!(site.knows(station(3)), None);
    site.node.core.close_port(OTHER);
    assert_eq!(site.send(TAP, station(1), EVERYBODY), []);
    let drops = &site.node.core.counters().port(OTHER).drops;
    assert_eq!(drops.of(DropReason::TapDown), 1, "nobody floods to it any more");
    // When no worker has it any more, as control does.
    site.shared.fdb.flush_port(OTHER);
    site.shared.ports.free(OTHER);
    assert_eq!(site.knows(station(2)), None);
    assert_eq!(site.dropped(TAP, DropReason::NoPort), 1);
    site.send(TAP, station(1), station(2));
    assert_eq!(site.dropped(TAP, DropReason::NoPort), 2);
}

#[test]
fn a_number_that_is_given_again_counts_from_nothing_and_is_not_blocked() {
    let mut site = Site::new();
    site.open();
    site.send(OTHER, station(2), EVERYBODY);
    site.shared.ports.of(OTHER).set_blocked(true);
    site.send(OTHER, station(2), EVERYBODY);
    let counted = |site: &Site| {
        let counters = site.node.core.counters().port(OTHER);
        (counters.received_frames.get(), counters.dropped(DropReason::Blocked))
    };
    assert_eq!(counted(&site), (2, 1));
    site.shared.ports.close(OTHER);
    site.node.core.close_port(OTHER);
    site.shared.fdb.flush_port(OTHER);
    site.shared.ports.free(OTHER);
    site.open();
    assert_eq!(counted(&site), (0, 0));
    assert_eq!(site.send(OTHER, station(2), EVERYBODY), [TAP]);
}

#[test]
fn each_tap_loses_its_offloads_after_its_own_refused_superframes() {
    let mut site = Site::new();
    site.open();
    // What goes to one TAP comes from the other one.
    let whole = |site: &mut Site, to: PortId| {
        let (vnet, frame) = tcp_superframe(3, 1_000);
        let tap = if to == TAP { OTHER } else { TAP };
        let from = TapFrame { tap, vnet: &vnet, bytes: FrameBytes::Whole(&frame) };
        site.node.core.outbound(site.now, from, &mut site.node.io);
        site.node.io.tap_writes.drain(..).filter(|write| write.tap == to).count() == 1
    };
    for _ in 0..15 {
        for tap in [TAP, OTHER] {
            assert!(!site.node.core.superframe_refused(tap));
        }
    }
    assert!(whole(&mut site, TAP) && whole(&mut site, OTHER));
    assert!(site.node.core.superframe_refused(OTHER));
    assert!(whole(&mut site, TAP) && !whole(&mut site, OTHER));
    assert!(site.node.core.superframe_refused(TAP));
    assert!(!whole(&mut site, TAP));
}

#[test]
fn what_the_kernel_refuses_is_not_promised_to_who_comes_later() {
    let (now, [dialler, listener]) = (Instant::now(), [identity(), identity()]);
    let (from, to) = (dialler.node, listener.node);
    let mut nodes = [
        node(dialler, to, 1, MemoryIoConfig::default(), now),
        node(listener, from, 2, MemoryIoConfig::default(), now),
    ];
    let dial = ToConnection::Dial { peer: to, lane: Lane(0), remote: nodes[1].address };
    let [from, to] = &mut nodes;
    for _ in 0..16 {
        from.core.superframe_refused(TAP);
    }
    from.core.command(now, Command::Connection(ConnectionId(1 << 55), dial), &mut from.io);
    let mut promised = [None, None];
    for _ in 0..20 {
        from.core.flush(now, &mut from.io);
        from.io.trains.drain(..).for_each(|train| to.receive(now, from.address, &train));
        to.core.flush(now, &mut to.io);
        to.io.trains.drain(..).for_each(|train| from.receive(now, to.address, &train));
        for (end, promised) in [&mut *from, &mut *to].into_iter().zip(&mut promised) {
            for event in end.core.drain_events() {
                if let Event::Connection(_, FromConnection::Connected { hello, .. }) = event {
                    *promised = Some(hello.capabilities.has(Capabilities::TSO4));
                }
            }
        }
    }
    assert_eq!(promised, [Some(true), Some(false)], "as the other end says");
}
