//! What somebody who has got in can make the node hold and do.

use std::time::Duration;

use bytes::Bytes;
use ipop_datapath::{
    command::{Audience, Command, Ended, Event, FromConnection, ToPort},
    counters::drops::DropReason,
    frame::{Gso, Offload},
    memory::{PEER, TAP},
    policy::admission::Verdict,
};
use quinn_proto::{Dir, VarInt};

use crate::scene::{OTHER_PEER, Scene, broadcast};

#[test]
fn two_streams_of_4_kib_are_all_that_the_node_holds() {
    let mut scene = Scene::new();
    let stranger = scene.dial();
    let streams = [(); 3].map(|()| scene.open(stranger));
    assert_eq!(streams.map(|stream| stream.is_some()), [true, true, false]);
    assert!(scene.connection(stranger).streams().open(Dir::Bi).is_none());
    // Nothing is read of the second one before the hello is there.
    let much = [0x5a; 100_000];
    let [Some(first), Some(second), _] = streams else { unreachable!() };
    assert_eq!(scene.write(stranger, second, &much), 4_096);
    assert_eq!(scene.write(stranger, first, &much), 4_096);
    scene.settle();
    assert_eq!(scene.write(stranger, second, &much), 0, "and no more of it later");
}

#[test]
fn frames_to_flood_are_limited_for_each_port() {
    const FRAMES: usize = 30_000;
    const AT_ONCE: usize = 1_000;
    let mut scene = Scene::new();
    let stranger = scene.admitted();
    let begun = scene.now;
    for _ in 0..FRAMES / AT_ONCE {
        scene.send_frames(stranger, &vec![broadcast(); AT_ONCE]);
        scene.settle_for(Duration::from_millis(5));
    }
    scene.settle_for(Duration::from_millis(50));
    let passed = scene.take_frames();
    let allowed = 10_000 + 20 * (scene.now - begun).as_millis() as u64;
    assert!((10_000..=allowed).contains(&passed), "{passed} of at most {allowed}");
    assert_eq!(scene.port(PEER).dropped(DropReason::Storm), FRAMES as u64 - passed);

    // Others are not to suffer from it.
    scene.gate.set(Verdict::Admitted(OTHER_PEER));
    let other = scene.admitted();
    scene.send_frames(other, &[broadcast()]);
    scene.settle();
    assert_eq!(scene.take_frames(), 1);
    assert_eq!(scene.port(TAP).dropped(DropReason::Storm), 0);
}

fn frame(destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    frame.resize(60, 0x5a);
    frame
}

#[test]
fn a_frame_from_a_tunnel_never_goes_to_a_tunnel() {
    const STATION: [u8; 6] = [2, 0, 0, 0, 7, 7];
    let mut scene = Scene::new();
    let one = scene.admitted();
    scene.gate.set(Verdict::Admitted(OTHER_PEER));
    let other = scene.admitted();
    scene.send_frames(other, &[frame([0xff; 6], STATION)]);
    scene.settle();
    assert_eq!((scene.take_frames(), scene.received(one)), (1, 0));
    // To a station that is known to be behind the other, and to everybody.
    scene.send_frames(one, &[frame(STATION, [2, 0, 0, 0, 9, 9])]);
    scene.settle();
    assert_eq!((scene.take_frames(), scene.received(other)), (0, 0));
    assert_eq!(scene.port(PEER).dropped(DropReason::SplitHorizon), 1);
    scene.send_frames(one, &[broadcast()]);
    scene.settle();
    assert_eq!((scene.take_frames(), scene.received(other)), (1, 0));
}

#[test]
fn what_one_peer_is_told_of_this_host_goes_to_no_other() {
    let mut scene = Scene::new();
    let one = scene.admitted();
    scene.gate.set(Verdict::Admitted(OTHER_PEER));
    let other = scene.admitted();
    for (to, heard) in [
        (Audience::Everybody, (1, 1)),
        (Audience::Peer(PEER), (1, 0)),
        (Audience::Peer(OTHER_PEER), (0, 1)),
    ] {
        scene.command(Command::Port(TAP, ToPort::Announce { frame: broadcast(), to }));
        scene.settle();
        assert_eq!((scene.received(one), scene.received(other)), heard, "{to:?}");
        assert_eq!(scene.take_frames(), 0, "this host knows");
    }
}

#[test]
fn frames_that_no_bridge_forwards_are_dropped() {
    let (everybody, honest) = ([0xff; 6], [2, 0, 0, 0, 9, 9]);
    let mut scene = Scene::new();
    let stranger = scene.admitted();
    for (frame, reason) in [
        (frame([1, 0x80, 0xc2, 0, 0, 0], honest), DropReason::Reserved),
        (frame([1, 0x80, 0xc2, 0, 0, 0x0e], honest), DropReason::Reserved),
        (frame(everybody, [3, 0, 0, 0, 9, 9]), DropReason::BadSource),
        (frame(everybody, [0; 6]), DropReason::BadSource),
        (frame(everybody, honest)[..13].to_vec(), DropReason::Runt),
    ] {
        let before = scene.port(PEER).dropped(reason);
        scene.send_frames(stranger, &[frame]);
        scene.settle();
        assert_eq!(scene.port(PEER).dropped(reason), before + 1, "{reason:?}");
        assert_eq!(scene.take_frames(), 0, "{reason:?}");
    }
}

#[test]
fn offloads_that_do_not_fit_their_frame_reach_no_kernel() {
    let mut scene = Scene::new();
    let stranger = scene.admitted();
    let csum = Offload { needs_csum: true, csum_start: 58, csum_offset: 16, ..Offload::NONE };
    let superframe = Offload { gso: Gso::Tcp4 { ecn: false }, gso_size: 1, ..csum };
    for offload in [csum, superframe, Offload { csum_start: 60_000, ..csum }] {
        let before = scene.port(PEER).dropped(DropReason::BadOffload);
        scene.send_offloaded(stranger, offload, &[broadcast()]);
        scene.settle();
        assert_eq!(scene.port(PEER).dropped(DropReason::BadOffload), before + 1, "{offload:?}");
    }
    assert_eq!(scene.take_frames(), 0);
}

#[test]
fn what_a_peer_says_when_it_leaves_is_short_and_printable() {
    let mut scene = Scene::new();
    let stranger = scene.admitted();
    let (now, phrase) = (scene.now, b"bye\x1b[2J\n".repeat(30));
    scene.connection(stranger).close(now, VarInt::from_u32(0), Bytes::from(phrase));
    scene.settle();
    let said = scene.events.iter().find_map(|event| match event {
        Event::Connection(_, FromConnection::Ended(Ended::ByPeer { phrase, .. })) => Some(phrase),
        _ => None,
    });
    let said = said.unwrap();
    assert!(said.starts_with("bye?[2J?bye?[2J?") && said.chars().count() == 200, "{said:?}");
}

#[test]
fn refused_nodes_are_reported_five_at_once_and_then_one_a_second() {
    let mut scene = Scene::new();
    scene.gate.refuse();
    let begun = scene.now;
    for _ in 0..15 {
        scene.dial();
    }
    let elapsed_s = (scene.now - begun).as_secs() as usize;
    assert_eq!(elapsed_s, 3);
    assert!((5..=5 + elapsed_s).contains(&scene.rejections().len()), "{:?}", scene.rejections());
}
