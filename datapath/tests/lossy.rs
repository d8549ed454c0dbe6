//! What changes on a path that loses packets.

mod common;
#[path = "common/superframe.rs"]
mod superframe;

use std::time::Duration;

use common::identity;
use ipop_datapath::{
    PortId,
    frame::{Gso, VNET_HEADER_LEN},
    memory::{Pair, Train},
};
use superframe::{HEADERS_LEN, tcp_superframe};

/// With its headers and the record's a segment fills a packet nearly.
const SEGMENT_LEN: usize = 1_348;

/// Its trains, which are not delivered yet.
fn send(pair: &mut Pair, (vnet, frame): &([u8; VNET_HEADER_LEN], Vec<u8>)) -> Vec<Train> {
    pair.send(0, vnet, frame);
    let (now, [sender, _]) = (pair.now, &mut pair.nodes);
    sender.core.flush(now, &mut sender.io);
    sender.io.trains.drain(..).collect()
}

/// The lengths of the frames that come of it at the far end, and whether they are superframes.
fn carry(pair: &mut Pair, superframe: &([u8; VNET_HEADER_LEN], Vec<u8>)) -> Vec<(usize, bool)> {
    pair.take_frames(1, |_, _| {});
    let trains = send(pair, superframe);
    let (now, [sender, receiver]) = (pair.now, &mut pair.nodes);
    trains.iter().for_each(|train| receiver.receive(now, sender.address, train));
    pair.exchange();
    let mut frames = Vec::new();
    pair.take_frames(1, |offload, len| frames.push((len, offload.gso != Gso::None)));
    frames
}

#[test]
fn superframes_of_small_windows_go_segment_by_segment() {
    let mut pair = Pair::connect([identity(), identity()]);
    let few = tcp_superframe(3, SEGMENT_LEN as u16);
    let many = tcp_superframe(9, SEGMENT_LEN as u16);
    let too_long = tcp_superframe(3, 1_448);
    for superframe in [&few, &many, &too_long] {
        assert_eq!(carry(&mut pair, superframe), [(superframe.1.len(), true)]);
    }
    // Lost, and found to be lost when something later is acknowledged.
    assert!(!send(&mut pair, &few).is_empty());
    carry(&mut pair, &many);
    for _ in 0..4 {
        pair.advance(Duration::from_secs(1));
    }
    assert_eq!(carry(&mut pair, &few), [(HEADERS_LEN + SEGMENT_LEN, false); 3]);
    for superframe in [&many, &too_long] {
        assert_eq!(carry(&mut pair, superframe), [(superframe.1.len(), true)]);
    }
    let counters = pair.nodes[0].core.counters().port(PortId(1));
    assert_eq!((counters.segmented_frames.get(), counters.segments.get()), (1, 3));
    // Each in a packet of its own.
    let trains = send(&mut pair, &few);
    assert_eq!(trains.iter().flat_map(Train::packets).count(), 3);
}
