//! Messages between the control planes.

use std::time::Duration;

use ipop_datapath::command::{
    Command, ConnectionId, Event, FromConnection, MAX_SIGNAL_LEN, ToConnection,
};

use crate::net::{Net, Way};

fn signal(net: &mut Net, node: usize, message: &[u8]) {
    let connection = net.connections[node].unwrap();
    net.command(node, Command::Connection(connection, ToConnection::Signal(message.to_vec())));
}

/// Messages that this node was told, which must all be the other's.
fn told(net: &Net, node: usize) -> Vec<Vec<u8>> {
    let told = net.events[node].iter().filter_map(|event| match event {
        Event::Connection(connection, FromConnection::Signal { peer, message }) => {
            assert_eq!(Some(*connection), net.connections[node]);
            assert_eq!(*peer, net.ids[1 - node]);
            Some(message.clone())
        }
        _ => None,
    });
    told.collect()
}

#[test]
fn messages_cross_both_ways_in_order() {
    let mut net = Net::connected(Way::Relay);
    let messages: Vec<Vec<u8>> =
        (0..15).map(|number| vec![number; MAX_SIGNAL_LEN - usize::from(number) * 270]).collect();
    for message in &messages {
        signal(&mut net, 0, message);
        signal(&mut net, 1, message);
    }
    net.settle(Duration::from_secs(1));
    assert_eq!(told(&net, 0), messages);
    assert_eq!(told(&net, 1), messages);
    assert_eq!(net.io(0).dropped_signals.get(), 0);
}

#[test]
fn messages_survive_a_path_that_loses_everything_for_a_while() {
    let mut net = Net::connected(Way::Direct);
    net.cut.push(Way::Direct);
    signal(&mut net, 0, b"new candidates");
    net.settle(Duration::from_secs(2));
    assert_eq!(told(&net, 1).len(), 0);
    net.set_path(0, Some(Way::Relay));
    net.set_path(1, Some(Way::Relay));
    net.settle(Duration::from_secs(3));
    assert_eq!(told(&net, 1), [b"new candidates"]);
}

#[test]
fn what_cannot_be_sent_is_counted() {
    let mut net = Net::connected(Way::Direct);
    for message in [vec![], vec![0; MAX_SIGNAL_LEN + 1]] {
        signal(&mut net, 0, &message);
    }
    let connection = ConnectionId(77);
    net.command(0, Command::Connection(connection, ToConnection::Signal(vec![1])));
    // More than may wait.
    for _ in 0..100 {
        signal(&mut net, 0, &[7; MAX_SIGNAL_LEN]);
    }
    net.settle(Duration::from_secs(2));
    assert_eq!(told(&net, 1).len(), 15);
    assert_eq!(net.io(0).dropped_signals.get(), 3 + 85);
}

#[test]
fn a_flood_is_cut_at_the_receiver() {
    let mut net = Net::connected(Way::Direct);
    for _ in 0..400 {
        signal(&mut net, 0, b"!");
        net.advance(Duration::from_micros(100));
    }
    net.settle(Duration::from_millis(1_200));
    let (told, dropped) = (told(&net, 1).len() as u64, net.io(1).dropped_signals.get());
    assert_eq!(told + dropped, 400);
    assert!((100..130).contains(&told), "{told} told");
}
