//! Who gets in while handshakes are under way that never finish.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use ipop_datapath::{
    command::{Command, ToPaths, ToPort},
    memory::PEER,
    path::{Path, Source},
};

use crate::{
    attackers::Attackers,
    siege::{Siege, address, host},
};

/// Packets a second that kept 128 places taken for as long as one liked.
const ATTACK_RATE: u32 = 124;
/// What attackers keep up.
const ATTACKERS: usize = 128;
const IN_TIME: Duration = Duration::from_secs(3);
/// `handshakes.rs`: for everybody; for one party; from where on addresses are proved.
const OPEN_PLACES: usize = 96;
const OF_PARTY: usize = 16;
const RETRY_ABOVE: usize = 16;
const KNOWN_OF_PARTY: usize = 4;
/// The time of a handshake, and a little more.
const HANDSHAKE_TIME: Duration = Duration::from_millis(5_100);

const MEMBER: &str = "10.0.0.7:5800";

/// Begins handshakes without end, from the first so many addresses in turn.
fn attack_from(addresses: usize) -> impl FnMut(&mut Attackers, Instant) {
    let mut begun = 0;
    move |attackers, now| {
        attackers.keep(ATTACKERS);
        attackers.begin(now, SocketAddr::new(host(begun % addresses).ip(), 1_024 + begun as u16));
        begun += 1;
    }
}

/// Handshakes from as many addresses, all at once.
fn crowd(siege: &mut Siege, addresses: impl Iterator<Item = SocketAddr>) {
    for from in addresses {
        siege.attackers.begin(siege.now, from);
    }
}

fn answered(siege: &Siege) -> usize {
    siege.attackers.answered.load(Relaxed)
}

#[test]
fn a_member_gets_in_while_handshakes_are_begun_and_never_finished() {
    for addresses in [1, ATTACKERS] {
        let mut siege = Siege::new(&[address(MEMBER)]);
        siege.attack_rate = ATTACK_RATE;
        let mut attack = attack_from(addresses);
        // All places have been taken, and taken again.
        siege.run(Duration::from_secs(15), &mut attack);
        assert!(answered(&siege) > RETRY_ABOVE, "{} under attack", answered(&siege));
        for dial in 0..5 {
            let took = siege.time_to_connect(0, &mut attack);
            assert!(took < IN_TIME, "dial {dial} beside {addresses} addresses took {took:?}");
            siege.leave(0);
            siege.run(Duration::from_secs(1), &mut attack);
        }
    }
}

#[test]
fn one_party_takes_some_places_and_all_together_not_more_than_there_are() {
    let mut siege = Siege::new(&[]);
    let of_one = |port: usize| SocketAddr::new(host(1).ip(), 2_000 + port as u16);
    crowd(&mut siege, (0..40).map(of_one));
    siege.run_in_peace(Duration::from_millis(200));
    assert_eq!(answered(&siege), OF_PARTY, "of one address");
    let of_one_customer = |number: usize| address(&format!("[2001:db8:0:{number:x}::1]:5800"));
    crowd(&mut siege, (1..40).map(of_one_customer));
    siege.run_in_peace(Duration::from_millis(200));
    assert_eq!(answered(&siege), 2 * OF_PARTY, "of one /56");
    let crowded = siege.io().crowded_initials.get();
    assert!(crowded > 0, "{crowded}");
    crowd(&mut siege, (100..300).map(host));
    siege.run_in_peace(Duration::from_millis(90));
    assert_eq!(answered(&siege), OPEN_PLACES, "of everybody");
    assert_eq!(siege.io().unfinished_handshakes.get(), 0, "nobody had to give way yet");
}

#[test]
fn a_handshake_gives_way_when_it_had_its_turn() {
    let mut siege = Siege::new(&[address(MEMBER)]);
    crowd(&mut siege, (0..OPEN_PLACES).map(host));
    siege.run_in_peace(Duration::from_millis(400));
    assert_eq!((answered(&siege), siege.io().unfinished_handshakes.get()), (OPEN_PLACES, 0));
    siege.dial(0);
    // It has answered the Retry.
    siege.run_in_peace(Duration::from_millis(80));
    assert_eq!(siege.io().unfinished_handshakes.get(), 0);
    assert!(siege.io().crowded_initials.get() > 0);
    siege.run_in_peace(Duration::from_secs(1));
    assert!(siege.is_connected(0));
    assert_eq!(siege.io().unfinished_handshakes.get(), 1, "the oldest");
}

#[test]
fn a_handshake_has_its_time_and_is_forgotten_without_a_word() {
    let mut siege = Siege::new(&[]);
    crowd(&mut siege, (0..10).map(host));
    siege.run_in_peace(HANDSHAKE_TIME - Duration::from_millis(300));
    assert_eq!((answered(&siege), siege.io().unfinished_handshakes.get()), (10, 0));
    siege.run_in_peace(Duration::from_millis(300));
    assert_eq!(siege.io().unfinished_handshakes.get(), 10);
    siege.run_in_peace(Duration::from_millis(100));
    siege.sent.clear();
    siege.run_in_peace(Duration::from_secs(10));
    assert_eq!(siege.sent.len(), 0, "whatever the far ends still send");
}

#[test]
fn from_some_handshakes_on_addresses_are_proved_first() {
    let mut siege = Siege::new(&[address(MEMBER)]);
    // Half a hello each: with post-quantum keys it takes two packets.
    for number in 0..RETRY_ABOVE - 1 {
        siege.attackers.begin_half(siege.now, host(number));
    }
    siege.run_in_peace(Duration::from_millis(50));
    // The last that need not.
    crowd(&mut siege, [host(1_000)].into_iter());
    siege.run_in_peace(Duration::from_millis(100));
    assert_eq!((answered(&siege), retries(&siege, host(1_000))), (1, 0), "halves get no answer");
    crowd(&mut siege, [host(1_001)].into_iter());
    siege.run_in_peace(Duration::from_millis(100));
    assert!(retries(&siege, host(1_001)) > 0);
    assert_eq!(answered(&siege), 2, "it answers the Retry");
    siege.dial(0);
    siege.run_in_peace(Duration::from_millis(300));
    assert!(siege.is_connected(0) && retries(&siege, address(MEMBER)) > 0);
    // Halves are forgotten like the others.
    siege.run_in_peace(HANDSHAKE_TIME);
    assert_eq!(siege.io().unfinished_handshakes.get(), 17);
    siege.leave(0);
    siege.sent.clear();
    assert!(siege.time_to_connect(0, |_, _| {}) < IN_TIME);
    assert_eq!(retries(&siege, address(MEMBER)), 0);
}

#[test]
fn handshakes_that_are_refused_leave_their_places() {
    let mut siege = Siege::new(&[address(MEMBER)]);
    // Its right goes between its certificate and its hello, which come together.
    siege.members.is_fickle.store(true, Relaxed);
    siege.dial(0);
    siege.run_in_peace(Duration::from_secs(5));
    assert!(siege.dials() > 2 * RETRY_ABOVE as u64 && !siege.is_connected(0), "{}", siege.dials());
    siege.members.is_fickle.store(false, Relaxed);
    siege.leave(0);
    siege.run_in_peace(Duration::from_secs(5));
    siege.sent.clear();
    assert!(siege.time_to_connect(0, |_, _| {}) < IN_TIME);
    assert_eq!(retries(&siege, address(MEMBER)), 0);
}

/// Retries that the listener sent there.
fn retries(siege: &Siege, to: SocketAddr) -> usize {
    const LONG_AND_RETRY: u8 = 0xb0;
    let is_retry = |first: u8| first & LONG_AND_RETRY == LONG_AND_RETRY;
    siege.sent.iter().filter(|packet| packet.to == to && is_retry(packet.bytes[0])).count()
}

#[test]
fn known_peers_have_places_that_nobody_else_takes() {
    let known = host(500).ip();
    let members: Vec<_> = (0..5).map(|member| SocketAddr::new(known, 6_000 + member)).collect();
    for is_known in [true, false] {
        let mut siege = Siege::new(&members);
        siege.command(Command::Port(PEER, ToPort::KnowAddresses(vec![known])));
        if !is_known {
            // The peer has moved.
            let addresses = vec![address(MEMBER).ip()];
            siege.command(Command::Port(PEER, ToPort::KnowAddresses(addresses)));
        }
        crowd(&mut siege, (0..OPEN_PLACES).map(host));
        siege.run_in_peace(Duration::from_millis(100));
        assert_eq!(answered(&siege), OPEN_PLACES);
        (0..members.len()).for_each(|member| siege.dial(member));
        siege.run_in_peace(Duration::from_millis(150));
        let connected = (0..members.len()).filter(|member| siege.is_connected(*member)).count();
        // The fifth from there has to wait like everybody else.
        assert_eq!(connected, if is_known { KNOWN_OF_PARTY } else { 0 }, "known: {is_known}");
        assert_eq!(siege.io().unfinished_handshakes.get(), 0);
    }
}

#[test]
fn peers_whose_path_control_chose_have_such_places_too() {
    for has_path in [true, false] {
        let mut siege = Siege::new(&[address(MEMBER)]);
        if has_path {
            let (port, remote) = (PEER, address(MEMBER));
            let path = Some(Path::Direct { remote, local_ip: None });
            siege.command(Command::Path(ToPaths::AddSource {
                source: Source::Direct(remote),
                port,
            }));
            siege.command(Command::Path(ToPaths::Set { port, path }));
        }
        crowd(&mut siege, (0..OPEN_PLACES).map(host));
        siege.run_in_peace(Duration::from_millis(100));
        siege.dial(0);
        siege.run_in_peace(Duration::from_millis(150));
        assert_eq!(siege.is_connected(0), has_path);
        assert_eq!(siege.io().unfinished_handshakes.get(), 0);
    }
}

#[test]
fn who_shares_a_known_address_leaves_others_their_places() {
    let mut siege = Siege::new(&[address(MEMBER)]);
    let (known, member) = (host(500).ip(), address(MEMBER).ip());
    siege.command(Command::Port(PEER, ToPort::KnowAddresses(vec![known, member])));
    crowd(&mut siege, (0..80).map(|port| SocketAddr::new(known, 2_000 + port)));
    siege.run_in_peace(Duration::from_millis(100));
    assert_eq!(answered(&siege), KNOWN_OF_PARTY + OF_PARTY);
    crowd(&mut siege, (0..OPEN_PLACES).map(host));
    siege.run_in_peace(Duration::from_millis(100));
    assert!(siege.time_to_connect(0, |_, _| {}) < Duration::from_millis(200));
}
