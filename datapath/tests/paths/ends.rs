//! Connections that end: what they still hold is dropped.

use std::time::Duration;

use ipop_datapath::{
    MacAddr, VlanId,
    command::{CloseReason, Command, ToConnection},
    counters::drops::DropReason,
    memory::{PEER, Train},
};

use crate::net::{Net, Way};

const EVERYBODY: [u8; 6] = [0xff; 6];
const STATION: [u8; 6] = [2, 0, 0, 0, 1, 0];

/// Trains of a frame that takes some packets, and of one behind it.
fn frames(net: &mut Net) -> Vec<Train> {
    net.send(0, EVERYBODY, 9_014);
    net.send(0, EVERYBODY, 100);
    let (now, [sender, _]) = (net.now, &mut net.nodes);
    sender.core.flush(now, &mut sender.io);
    sender.io.trains.drain(..).collect()
}

#[test]
fn frames_that_wait_when_a_connection_is_closed_are_dropped_and_teach_nothing() {
    let mut net = Net::connected(Way::Direct);
    let trains = frames(&mut net);
    let packets: Vec<&[u8]> = trains.iter().flat_map(Train::packets).collect();
    assert!(packets.len() > 5);
    let (now, from) = (net.now, net.nodes[0].address);
    // All but the second packet come, so the frame behind waits.
    let came: Vec<&[u8]> = [&packets[..1], &packets[2..4], &packets[packets.len() - 1..]].concat();
    net.nodes[1].receive_packets(now, ipop_datapath::io::SocketKind::Listen, from, &came);
    assert_eq!(net.take_frames(1), 0);
    let connection = net.connections[1].expect("a connection");
    net.shared[1].fdb.flush_port(PEER);
    net.command(1, Command::Connection(connection, ToConnection::Close(CloseReason::NotAdmitted)));
    net.settle(Duration::from_secs(10));
    assert_eq!(net.take_frames(1), 0, "it lost its right");
    let station = net.shared[1].fdb.look_up(VlanId::UNTAGGED, MacAddr(STATION), 0);
    assert_eq!(station, None);
    assert_eq!(net.peer(1).dropped(DropReason::NotAdmitted), 1, "the frame behind");
    assert_eq!(net.nodes[1].core.ledger().difference(), 0);
    assert_eq!(net.peer(1).dropped(DropReason::Incomplete), 1, "the one in part");
}
