//! STUN and TURN among QUIC.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipop_datapath::{
    command::{Command, ControlPacket, Event, ToPaths},
    io::SocketKind,
    memory::TAP,
    path::{Source, channel_data},
};

use crate::net::{CHANNELS, Net, Way, server};

const EVERYBODY: [u8; 6] = [0xff; 6];

/// A binding request (RFC 8489) that differs from others by its transaction id.
pub(crate) fn stun(number: u8) -> Vec<u8> {
    let mut message = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    message.extend_from_slice(&[number; 12]);
    message
}

fn wrapped(mut content: Vec<u8>, channel: u16) -> Vec<u8> {
    let len = content.len();
    channel_data::wrap(&mut content, len, channel);
    content
}

fn drain(net: &mut Net, node: usize) -> Vec<Event> {
    net.nodes[node].core.drain_events().collect()
}

/// One frame's packet, as the peer sent it.
fn quic(net: &mut Net, way: Way) -> Vec<u8> {
    net.send(0, EVERYBODY, 1_000);
    let (now, [sender, _]) = (net.now, &mut net.nodes);
    sender.core.flush(now, &mut sender.io);
    let train = sender.io.trains.pop_front().expect("a packet");
    assert!(sender.io.trains.is_empty());
    let packet = train.packets().next().unwrap().to_vec();
    match way {
        Way::Direct => packet,
        Way::Relay => {
            let (_, content) = channel_data::parse(&packet).unwrap();
            wrapped(packet[content].to_vec(), CHANNELS[1])
        }
    }
}

#[test]
fn stun_in_the_middle_of_a_buffer_goes_to_control_and_the_rest_to_quic() {
    let mut net = Net::connected(Way::Direct);
    let [first, second] = [(); 2].map(|()| quic(&mut net, Way::Direct));
    let (now, from) = (net.now, net.nodes[0].address);
    let packets: [&[u8]; 4] = [&first, &stun(7), &second, &stun(8)];
    net.nodes[1].receive_packets(now, SocketKind::Listen, from, &packets);
    net.exchange();
    assert_eq!(net.take_frames(1), 2);
    let told: Vec<_> = net.events[1]
        .iter()
        .filter_map(|event| match event {
            Event::Packet(ControlPacket { socket, local_ip, remote, payload }) => {
                Some((*socket, *local_ip, *remote, payload.clone()))
            }
            _ => None,
        })
        .collect();
    let local_ip = Some(IpAddr::from([10, 0, 0, 2]));
    let expected = [stun(7), stun(8)].map(|payload| (SocketKind::Listen, local_ip, from, payload));
    assert_eq!(told, expected);
    assert_eq!(net.io(1).received_control_packets.get(), 2);
}

#[test]
fn a_relays_buffer_holds_several_peers_and_packets_for_control() {
    let mut net = Net::connected(Way::Relay);
    let [first, second] = [(); 2].map(|()| quic(&mut net, Way::Relay));
    let unknown = wrapped(vec![0x40; 50], 0x4abc);
    let mut padded = wrapped(stun(3), CHANNELS[1]);
    padded.extend_from_slice(&[0; 3]);
    let packets: [&[u8]; 5] = [&first, &padded, &unknown, &stun(4), &second];
    let now = net.now;
    net.nodes[1].receive_packets(now, SocketKind::Relay, server(), &packets);
    net.exchange();
    assert_eq!(net.take_frames(1), 2);
    let from_server = |payload: Vec<u8>| {
        Event::Packet(ControlPacket {
            socket: SocketKind::Relay,
            local_ip: Some([10, 0, 0, 2].into()),
            remote: server(),
            payload,
        })
    };
    for event in [
        Event::ChannelPacket { channel: CHANNELS[1], payload: stun(3) },
        from_server(unknown),
        from_server(stun(4)),
    ] {
        assert!(net.events[1].contains(&event), "{event:?}");
    }
}

#[test]
fn floods_of_strangers_are_cut_and_leave_peers_their_part() {
    let mut net = Net::connected(Way::Direct);
    let (now, peer) = (net.now, net.nodes[0].address);
    let stranger: SocketAddr = "10.0.0.66:1".parse().unwrap();
    let flood = stun(1);
    for _ in 0..100 {
        let packets = [&flood[..]; 50];
        net.nodes[1].receive_packets(now, SocketKind::Listen, stranger, &packets);
    }
    let told = drain(&mut net, 1).len() as u64;
    assert_eq!(told, 1_000);
    assert_eq!(net.io(1).dropped_control_packets.get(), 5_000 - told);
    net.nodes[1].receive_packets(now, SocketKind::Listen, peer, &[&stun(2)]);
    net.nodes[1].receive_packets(now, SocketKind::Relay, server(), &[&stun(3)]);
    assert_eq!(drain(&mut net, 1).len(), 2);
    // 100 more in a tenth of a second.
    let now = now + Duration::from_millis(100);
    for _ in 0..10 {
        net.nodes[1].receive_packets(now, SocketKind::Listen, stranger, &[&flood[..]; 50]);
    }
    assert!((99..=100).contains(&drain(&mut net, 1).len()));
    // A message that no path's MTU takes.
    let mut giant = stun(4);
    giant.resize(20 + 4_000, 0);
    giant[2..4].copy_from_slice(&4_000_u16.to_be_bytes());
    net.nodes[1].receive_packets(now, SocketKind::Listen, peer, &[&giant]);
    assert_eq!(drain(&mut net, 1), []);
}

#[test]
fn a_peer_that_floods_leaves_other_peers_their_part() {
    let mut net = Net::connected(Way::Direct);
    let (now, peer) = (net.now, net.nodes[0].address);
    // These nodes have no port for a third one; the TAP's does as well.
    let other: SocketAddr = "10.0.0.67:1".parse().unwrap();
    net.command(1, Command::Path(ToPaths::AddSource { source: Source::Direct(other), port: TAP }));
    let flood = stun(1);
    for _ in 0..100 {
        let packets = [&flood[..]; 50];
        net.nodes[1].receive_packets(now, SocketKind::Listen, peer, &packets);
    }
    assert_eq!(drain(&mut net, 1).len(), 200);
    let later = now + Duration::from_secs(1);
    for _ in 0..10 {
        net.nodes[1].receive_packets(later, SocketKind::Listen, peer, &[&flood[..]; 50]);
    }
    assert_eq!(drain(&mut net, 1).len(), 50, "in a second");
    let now = later;
    for from in [other, "10.0.0.66:1".parse().unwrap()] {
        net.nodes[1].receive_packets(now, SocketKind::Listen, from, &[&stun(2)]);
        assert_eq!(drain(&mut net, 1).len(), 1, "{from}");
    }
    // Its own tunnel does not suffer from it.
    net.send(0, EVERYBODY, 1_000);
    net.exchange();
    assert_eq!(net.take_frames(1), 1);
}

#[test]
fn noise_at_either_socket_is_survived() {
    let mut net = Net::connected(Way::Relay);
    let (now, from) = (net.now, net.nodes[0].address);
    for first in 0..=u8::MAX {
        for len in [0, 1, 4, 5, 20, 29, 1_200] {
            let mut packet = vec![first; len];
            if let Some(byte) = packet.get_mut(3) {
                *byte = len as u8;
            }
            for socket in [SocketKind::Listen, SocketKind::Relay] {
                net.nodes[1].receive_packets(now, socket, from, &[&packet]);
            }
        }
    }
    net.exchange();
    net.send(0, EVERYBODY, 1_000);
    net.exchange();
    assert_eq!(net.take_frames(1), 1, "the tunnel lives");
}

#[test]
fn control_sends_from_the_socket_and_address_that_it_names() {
    let mut net = Net::strangers();
    for (socket, local_ip, remote) in [
        (SocketKind::Listen, Some(IpAddr::from([10, 0, 0, 1])), "10.0.0.77:9"),
        (SocketKind::Relay, None, "10.0.9.9:3478"),
    ] {
        let remote = remote.parse().unwrap();
        net.command(
            0,
            Command::Packet(ControlPacket { socket, local_ip, remote, payload: stun(5) }),
        );
        let train = net.nodes[0].io.trains.pop_front().unwrap();
        assert_eq!((train.socket, train.source_ip, train.destination), (socket, local_ip, remote));
        assert_eq!(train.packets().collect::<Vec<_>>(), [&stun(5)[..]]);
    }
    for payload in [vec![], vec![0; 5_000]] {
        let remote = server();
        net.command(
            0,
            Command::Packet(ControlPacket {
                socket: SocketKind::Relay,
                local_ip: None,
                remote,
                payload,
            }),
        );
    }
    assert!(net.nodes[0].io.trains.is_empty());
    assert_eq!(net.io(0).sent_control_packets.get(), 2);
    assert_eq!(net.io(0).dropped_control_packets.get(), 2);
}
