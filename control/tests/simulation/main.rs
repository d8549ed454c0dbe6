//! Whole switches in a simulated world, against a slow and obvious model of what an Ethernet segment is.
//!
//! Two to eight switches, each with its node and its workers' cores as in the program, on a network that delays, repeats,
//! reorders and loses packets, has small and changing MTUs, and falls apart; stations that appear, move, and send frames of every kind;
//! switches that restart, hosts that get other addresses. Time is virtual, and all that is random follows from a seed but for the bytes of
//! keys and connection ids, on which nothing depends. So a seed is a test case: a failure names it, and
//! `SIMULATION_SEED=n cargo test -p ipop-control --test simulation` runs it again; `SIMULATION_SEEDS=a..b` runs many;
//! `SIMULATION_LOG=1` shows what the operators are told.
//!
//! What must hold is in `segment` (frames), `scenario` (convergence, counters) and `world` (nothing spins, nothing grows); `strangers` has
//! worlds in which one site does not know the network's secret, and one in which many come from one address; `gaps` such in which
//! two sites do not know of each other, `denied` worlds in which a site's operator denies peers that are configured, `ports` such in which
//! local ports come and go while peers do.

mod denied;
mod frames;
mod gaps;
#[path = "../common/identity.rs"]
mod identity;
mod network;
mod plan;
mod ports;
#[path = "../common/rng.rs"]
mod rng;
mod scenario;
mod segment;
mod site;
mod strangers;
mod world;

use std::{env, ops::Range, panic};

/// Enough to meet every weather and size of network, few enough for every day.
const SEEDS: Range<u64> = 0..24;

fn seeds() -> Range<u64> {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    if let Ok(seed) = env::var("SIMULATION_SEED") {
        let seed = number(&seed);
        return seed..seed + 1;
    }
    match env::var("SIMULATION_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("a range like 100..200");
            number(from)..number(to)
        }
        Err(_) => SEEDS,
    }
}

fn run(seed: u64) -> u64 {
    panic::catch_unwind(|| scenario::run(seed)).unwrap_or_else(|failure| {
        eprintln!("SIMULATION_SEED={seed} fails; its plan: {:#?}", plan::Plan::new(seed));
        panic::resume_unwind(failure)
    })
}

#[test]
fn switches_are_one_ethernet_segment() {
    for seed in seeds() {
        run(seed);
    }
}

#[test]
fn a_seed_is_always_the_same_run() {
    // With restarts, partitions and several peers.
    let seed = 5;
    assert_eq!(run(seed), run(seed));
}
