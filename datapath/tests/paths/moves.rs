//! Paths that change under traffic, and packets from where they should not come.

use std::time::Duration;

use ipop_datapath::{
    command::{
        CloseReason, Command, ControlPacket, Ended, Event, FromConnection, Strangers, ToPaths,
        ToWorker,
    },
    counters::drops::DropReason,
    io::SocketKind,
    memory::{PEER, TAP},
    path::{Path, Source, alias},
};

use crate::net::{CHANNELS, DIALLED, Net, RELAY_PORT, Way, server};

const EVERYBODY: [u8; 6] = [0xff; 6];
const FRAMES: u64 = 400;
const FRAME_LEN: usize = 1_514;
/// Some seconds of these are more than may be in flight and queued.
const JUMBO_LEN: usize = 9_014;

fn burst(net: &mut Net, node: usize) {
    for _ in 0..FRAMES {
        net.send(node, EVERYBODY, FRAME_LEN);
    }
}

fn assert_no_loss(net: &mut Net, bursts: u64) {
    for node in 0..2 {
        assert_eq!(net.take_frames(node), bursts * FRAMES, "frames out at node {node}");
        assert_eq!(net.peer(node).missing_frames.get(), 0, "node {node}");
        assert_eq!(net.io(node).oversized_datagrams.get(), 0, "node {node}");
    }
}

#[test]
fn frames_cross_a_relay_in_trains_that_its_path_takes() {
    let mut net = Net::connected(Way::Relay);
    let before = net.io(0).sent_trains.get();
    burst(&mut net, 0);
    burst(&mut net, 1);
    net.exchange();
    assert_no_loss(&mut net, 1);
    assert_eq!(net.direct_packets, 0);
    let trains = net.io(0).sent_trains.get() - before;
    assert!(trains < FRAMES / 10, "{trains} trains for {FRAMES} frames");
}

#[test]
fn what_is_queued_when_the_path_changes_is_not_lost() {
    for (from, to) in [(Way::Relay, Way::Direct), (Way::Direct, Way::Relay)] {
        let mut net = Net::connected(from);
        // The frames wait in the tunnel's queue while control moves both ends.
        for node in 0..2 {
            burst(&mut net, node);
            net.set_path(node, Some(to));
            burst(&mut net, node);
        }
        let (direct, relayed) = (net.direct_packets, net.relayed_packets);
        net.exchange();
        net.settle(Duration::from_secs(2));
        let carried = (net.direct_packets - direct, net.relayed_packets - relayed);
        assert!(if to == Way::Direct { carried.0 } else { carried.1 } >= FRAMES, "{carried:?}");
        assert_no_loss(&mut net, 2);
        assert_eq!(net.io(0).path_changes.get(), 1);
        assert!(
            net.events
                .iter()
                .flatten()
                .all(|event| !matches!(event, Event::Connection(_, FromConnection::Moved { .. })))
        );
        net.settle(Duration::from_secs(3));
        net.take_frames(0);
        burst(&mut net, 1);
        net.exchange();
        assert_eq!(net.take_frames(0), FRAMES, "afterwards");
    }
}

#[test]
fn datagrams_that_cannot_go_before_the_path_changes_are_lost_and_counted() {
    let mut net = Net::connected(Way::Relay);
    for _ in 0..6 {
        burst(&mut net, 0);
    }
    net.fill_path(0);
    net.set_path(0, Some(Way::Direct));
    net.settle(Duration::from_secs(2));
    let oversized = net.io(0).oversized_datagrams.get();
    let missing = 6 * FRAMES - net.take_frames(1);
    // A frame fills a little more than a datagram.
    assert!((1..FRAMES).contains(&missing), "{missing}: those that were not cut yet are not");
    assert!((80..=105).contains(&(missing * 100 / oversized)), "{missing} of {oversized}");
}

#[test]
fn a_path_that_takes_smaller_packets_works_at_once() {
    let mut net = Net::connected(Way::Direct);
    net.relayed_len_max = 1_300;
    for node in 0..2 {
        net.set_path(node, Some(Way::Relay));
        burst(&mut net, node);
    }
    net.settle(Duration::from_secs(5));
    burst(&mut net, 0);
    burst(&mut net, 1);
    net.exchange();
    assert_no_loss(&mut net, 2);
}

#[test]
fn ends_may_move_at_different_times() {
    let mut net = Net::connected(Way::Relay);
    net.set_path(0, Some(Way::Direct));
    burst(&mut net, 0);
    burst(&mut net, 1);
    net.settle(Duration::from_secs(10));
    net.set_path(1, Some(Way::Direct));
    burst(&mut net, 0);
    burst(&mut net, 1);
    net.settle(Duration::from_secs(10));
    assert_no_loss(&mut net, 2);
}

#[test]
fn a_path_that_died_under_saturating_traffic_is_left() {
    let mut net = Net::connected(Way::Direct);
    net.cut.push(Way::Direct);
    for _ in 0..600 {
        for node in 0..2 {
            for _ in 0..60 {
                net.send(node, EVERYBODY, JUMBO_LEN);
            }
        }
        net.advance(Duration::from_millis(5));
    }
    for node in 0..2 {
        net.set_path(node, Some(Way::Relay));
    }
    net.settle(Duration::from_millis(500));
    for node in 0..2 {
        net.take_frames(node);
        burst(&mut net, node);
    }
    net.settle(Duration::from_millis(500));
    for node in 0..2 {
        assert_eq!(net.take_frames(node), FRAMES, "frames out at node {node}");
    }
    assert!(
        net.events
            .iter()
            .flatten()
            .all(|event| !matches!(event, Event::Connection(_, FromConnection::Ended(_))))
    );
}

#[test]
fn packets_of_a_peer_from_elsewhere_are_dropped_and_the_path_stays() {
    let mut net = Net::connected(Way::Direct);
    burst(&mut net, 0);
    let (now, [sender, receiver]) = (net.now, &mut net.nodes);
    sender.core.flush(now, &mut sender.io);
    let trains: Vec<_> = sender.io.trains.drain(..).collect();
    assert!(!trains.is_empty());
    // Someone repeats what the peer sent, from another address; then a station behind the same NAT does.
    for from in ["10.0.0.66:5800", "10.0.0.1:5801"] {
        trains.iter().for_each(|train| receiver.receive(now, from.parse().unwrap(), train));
    }
    let packets: u64 = trains.iter().map(|train| train.packets().count() as u64).sum();
    assert_eq!(net.io(1).unmapped_packets.get(), 2 * packets);
    assert_eq!(net.take_frames(1), 0);
    // And from the address that stands for the peer, which nobody has.
    let aliases = [alias(PEER), "[100::1]:5800".parse().unwrap()];
    for from in aliases {
        trains.iter().for_each(|train| net.nodes[1].receive(now, from, train));
    }
    assert_eq!(net.io(1).strangers.get(), 2 * packets);
    assert_eq!(net.take_frames(1), 0);
    net.nodes[1].receive_packets(now, SocketKind::Listen, aliases[0], &[&crate::packets::stun(1)]);
    assert_eq!(net.io(1).received_control_packets.get(), 0);
    // The same from the source that was validated.
    let [sender, receiver] = &mut net.nodes;
    trains.iter().for_each(|train| receiver.receive(now, sender.address, train));
    net.exchange();
    assert_eq!(net.take_frames(1), FRAMES);
    assert!(
        net.events[1]
            .iter()
            .all(|event| !matches!(event, Event::Connection(_, FromConnection::Moved { .. })))
    );

    let source = Source::Direct(net.nodes[0].address);
    net.command(1, Command::Path(ToPaths::RemoveSource(source)));
    burst(&mut net, 0);
    net.exchange();
    assert_eq!(net.take_frames(1), 0, "the source was taken away");
}

#[test]
fn strangers_are_answered_or_ignored_as_control_says() {
    for strangers in [Strangers::Answered, Strangers::Ignored] {
        let mut net = Net::strangers();
        net.command(1, Command::Worker(ToWorker::AnswerStrangers(strangers)));
        let remote = net.nodes[1].address;
        net.dial(remote);
        net.settle(Duration::from_secs(3));
        let connected = net.events[1]
            .iter()
            .any(|event| matches!(event, Event::Connection(_, FromConnection::Connected { .. })));
        assert_eq!(connected, strangers == Strangers::Answered);
        let ignored = net.io(1).ignored_initials.get();
        assert_eq!(ignored > 0, strangers == Strangers::Ignored, "{ignored} ignored");
        if strangers == Strangers::Ignored {
            assert_eq!(net.io(1).sent_packets.get(), 0, "silence");
        }
    }
}

#[test]
fn without_a_path_packets_are_counted_and_the_same_path_goes_on() {
    let mut net = Net::connected(Way::Direct);
    net.set_path(0, None);
    burst(&mut net, 0);
    net.exchange();
    assert_eq!(net.take_frames(1), 0);
    assert!(net.io(0).pathless_packets.get() >= FRAMES);
    net.set_path(0, Some(Way::Direct));
    net.settle(Duration::from_secs(1));
    burst(&mut net, 0);
    net.exchange();
    assert_eq!(net.take_frames(1), FRAMES);
    assert_eq!(net.io(0).path_changes.get(), 0, "it is the path of before");
}

#[test]
fn an_alias_without_a_path_or_of_another_peer_is_not_dialled_for_long() {
    let mut net = Net::strangers();
    net.dial(alias(PEER));
    net.exchange();
    assert!(matches!(
        &net.events[0][..],
        [Event::Connection(DIALLED, FromConnection::Ended(Ended::Failed(_)))]
    ));

    // The path of one peer leads to another: nothing is believed but the key.
    let mut net = Net::strangers();
    let path = Some(net.path(0, Way::Direct));
    let (other, source) = (TAP, Source::Direct(net.nodes[1].address));
    net.command(0, Command::Path(ToPaths::Set { port: other, path }));
    net.command(0, Command::Path(ToPaths::AddSource { source, port: other }));
    net.dial(alias(other));
    net.settle(Duration::from_secs(1));
    let ended = Ended::Closed(CloseReason::NotAdmitted);
    assert!(net.events[0].contains(&Event::Connection(DIALLED, FromConnection::Ended(ended))));
}

#[test]
fn a_configured_peer_and_an_alias_share_an_address() {
    let mut net = Net::strangers();
    let remote = net.nodes[1].address;
    net.dial(remote);
    net.settle(Duration::from_millis(200));
    net.activate();
    for node in 0..2 {
        net.add_sources(node);
    }
    // The connection that knows the address stays as it is.
    burst(&mut net, 0);
    burst(&mut net, 1);
    net.settle(Duration::from_secs(1));
    assert_no_loss(&mut net, 1);
    assert!(
        net.events
            .iter()
            .flatten()
            .all(|event| !matches!(event, Event::Connection(_, FromConnection::Moved { .. })))
    );
    assert_eq!(net.io(0).unmapped_packets.get() + net.io(1).unmapped_packets.get(), 0);
}

#[test]
fn own_packets_are_known_by_their_real_addresses() {
    let mut net = Net::connected(Way::Relay);
    let own = |source_port: u16, remote: std::net::SocketAddr| {
        let std::net::IpAddr::V4(to) = remote.ip() else { panic!("IPv4") };
        let udp = [source_port.to_be_bytes(), remote.port().to_be_bytes(), [0, 12], [0, 0]];
        let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1];
        ip.extend_from_slice(&to.octets());
        [&[0xff; 6][..], &[2, 0, 0, 0, 1, 0], &[8, 0], &ip, udp.as_flattened(), &[0; 4]].concat()
    };
    let dropped = |net: &Net| net.nodes[0].core.counters().port(TAP).dropped(DropReason::OwnPacket);
    let (relay, direct) = (own(RELAY_PORT, server()), own(5_800, net.nodes[1].address));
    net.send_frame(0, &relay);
    assert_eq!(dropped(&net), 1);
    net.send_frame(0, &direct);
    assert_eq!(dropped(&net), 1, "no path yet");
    net.set_path(0, Some(Way::Direct));
    net.send_frame(0, &direct);
    assert_eq!(dropped(&net), 2);
    net.send_frame(0, &relay);
    assert_eq!(dropped(&net), 2, "no path any more");
}

#[test]
fn a_node_without_relay_socket_does_not_take_a_relayed_path() {
    let mut pair = ipop_datapath::memory::Pair::connect([
        crate::common::identity(),
        crate::common::identity(),
    ]);
    let (now, [node, _]) = (pair.now, &mut pair.nodes);
    let path = Some(Path::Relay { server: server(), channel: CHANNELS[0] });
    node.core.command(now, Command::Path(ToPaths::Set { port: PEER, path }), &mut node.io);
    let packet = Command::Packet(ControlPacket {
        socket: SocketKind::Relay,
        local_ip: None,
        remote: server(),
        payload: vec![0; 20],
    });
    node.core.command(now, packet, &mut node.io);
    assert!(node.io.trains.is_empty());
    assert_eq!(node.core.counters().io.dropped_control_packets.get(), 1);
}
