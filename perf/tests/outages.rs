//! What breaks is survived: a direct path that is cut under load, an XMPP server that restarts, a node that moves. The same
//! runs as `ipop-perf discovery` makes, with limits that hold on a machine that is busy with other tests.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use ipop_perf::discovery::{Figures, Part, Plan, failures::Move};

/// Twice each: both nodes, or both ways to end the server.
fn measured(part: Part) -> Figures {
    let plan = Plan { parts: vec![part], runs: 2, idle: Duration::ZERO };
    plan.measure(Figures::default(), &mut |line| eprintln!("{line}")).unwrap()
}

#[test]
fn the_relay_takes_over_from_a_cut_path_under_saturating_traffic() {
    for cut in measured(Part::Cut).cut {
        assert!(cut.silence_s < 8.0, "{cut:?}");
        assert!(cut.direct_mbit_per_s > 0.0 && cut.relayed_mbit_per_s > 0.0, "{cut:?}");
    }
}

#[test]
fn a_restart_of_the_server_loses_no_frame() {
    for restart in measured(Part::Server).server {
        assert!(restart.sent > 1_000 && restart.lost == 0, "{restart:?}");
    }
}

fn expect_back(moves: &[Move]) {
    for moved in moves {
        assert!(moved.silence_s < 5.0, "{moved:?}");
    }
}

#[test]
fn a_changed_address_is_survived_when_the_peer_is_reachable() {
    expect_back(&measured(Part::Move).moved);
}

#[test]
fn a_changed_address_is_survived_when_only_a_relay_is_there() {
    expect_back(&measured(Part::MoveRelayed).moved_relayed);
}
