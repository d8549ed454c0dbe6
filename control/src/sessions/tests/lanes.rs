//! The connections of each lane: who dials which, and which of several stays.

use super::*;

#[test]
fn the_dialler_opens_the_lanes_that_both_ends_serve() {
    let mut bench = Bench::new(3, &format!("@{LISTENER}"));
    let first = bench.dial_succeeds();
    let dials = bench.dials();
    assert_eq!(dials.iter().map(|dial| dial.1).collect::<Vec<_>>(), [1, 2]);
    for (connection, lane, _) in &dials {
        bench.connected(*connection, Direction::Dialled, hello(*lane));
    }
    assert_eq!(bench.activations(), [first, dials[0].0, dials[1].0]);
    assert_eq!(bench.sessions.snapshot(bench.now)[0].lanes.len(), 3);

    bench.notices();
    bench.end(first, Ended::TimedOut);
    assert!(matches!(bench.notices()[..], [Notice::LaneDown { .. }]));
    bench.advance_ms(100);
    let again = bench.dial_succeeds();
    assert_eq!(bench.activations(), [again]);
}

#[test]
fn the_end_that_accepted_leaves_the_lanes_to_the_dialler_for_a_while() {
    let mut bench = Bench::new(2, &format!("@{LISTENER}"));
    let (ours, ..) = bench.one_dial();
    bench.accept(hello(0));
    bench.end(ours, by_peer(CloseReason::Duplicate));
    bench.advance_ms(2_900);
    assert_eq!(bench.dials(), []);
    bench.advance_ms(200);
    assert_eq!(bench.one_dial().1, 1);
}

#[test]
fn simultaneous_dials_end_in_the_lower_ids_connection() {
    let mut bench = Bench::dialling_one_lane();
    let theirs = bench.accept(hello(0));
    bench.advance_ms(300);
    let ours = bench.dial_succeeds();
    assert_eq!(bench.activations(), [theirs, ours]);
    bench.advance_ms(900);
    assert_eq!(bench.closes(), []);
    bench.advance_ms(200);
    assert_eq!(bench.closes(), [(theirs, CloseReason::Duplicate)]);
    bench.advance_ms(60_000);
    assert_eq!(bench.dials(), []);
    let notices = bench.notices();
    assert_eq!(notices.iter().filter(|notice| is_up(notice)).count(), 1);
    assert!(!notices.iter().any(is_down));
    assert_eq!(bench.tunnels(), [Some(theirs), Some(ours)]);
}

#[test]
fn the_loser_takes_over_again_when_the_winner_dies_first() {
    let mut bench = Bench::dialling_one_lane();
    let ours = bench.dial_succeeds();
    let theirs = bench.accept(hello(0));
    assert_eq!(bench.activations(), [ours]);
    bench.end(ours, Ended::Failed(Failure::NoPath));
    assert_eq!(bench.activations(), [theirs]);
    bench.advance_ms(30_000);
    assert_eq!((bench.closes(), bench.dials()), (vec![], vec![]));
    assert!(!bench.notices().iter().any(is_down));
    assert_eq!(bench.tunnels(), [Some(ours), Some(theirs)]);
}

/// What was refused, or lost against another, is nothing that signals went over: its end is no news.
#[test]
fn the_end_of_a_connection_that_lost_is_not_the_tunnels() {
    let mut bench = Bench::dialling_one_lane();
    let ours = bench.dial_succeeds();
    let theirs = bench.accept(hello(0));
    assert!(!bench.silent(theirs));
    bench.end(theirs, Ended::TimedOut);
    assert_eq!(bench.tunnels(), [Some(ours)]);
    bench.end(ours, by_peer(CloseReason::Shutdown));
    assert_eq!(bench.tunnels(), [None]);
}

/// Only of the last end, and not if this end closed it.
#[test]
fn who_said_goodbye_and_came_back_has_not_left() {
    let mut bench = Bench::dialling_one_lane();
    let has_left = |bench: &mut Bench| {
        bench.take(|action| match action {
            Action::Tunnel { news: TunnelNews::Ended { has_left }, .. } => Some(*has_left),
            _ => None,
        })
    };
    let first = bench.dial_succeeds();
    bench.end(first, by_peer(CloseReason::Shutdown));
    assert_eq!(has_left(&mut bench), [true]);
    bench.accept(hello(0));
    bench.input(Input::Revoked { peer: PEER, why: Loss::NotConfigured });
    assert_eq!(has_left(&mut bench), [false]);
}

/// Each connection of a peer that dials again and again wins over the one before.
#[test]
fn of_connections_that_lost_four_are_kept_for_each_lane() {
    let mut bench = Bench::new(2, "");
    for lane in [0, 1] {
        let dialled: Vec<_> = (0..20).map(|_| bench.accept(hello(lane))).collect();
        let (closed, kept) = dialled.split_at(15);
        let oldest_first: Vec<_> = closed.iter().map(|id| (*id, CloseReason::Replaced)).collect();
        assert_eq!(bench.closes(), oldest_first);
        // The latest one that lost takes over again, and so on until none is left.
        assert_eq!(bench.activations(), dialled);
        for (dead, next) in kept.iter().rev().zip(kept.iter().rev().skip(1)) {
            bench.end(*dead, Ended::TimedOut);
            assert_eq!(bench.activations(), [*next]);
        }
        assert_eq!(bench.closes(), []);
    }
}
