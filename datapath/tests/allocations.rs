//! Whole cores allocate nothing per frame in steady state beyond what `quinn-proto` itself does.
//!
//! Two cores joined in memory carry bursts of frames; two bare connections carry as many datagrams of the same sizes.
//! A file of its own, since the counting allocator serves the whole process.

mod common;
#[path = "common/counting.rs"]
mod counting;
#[path = "common/superframe.rs"]
mod superframe;

use std::time::Duration;

use bytes::Bytes;
use common::identity;
use counting::allocations;
use ipop_datapath::{
    frame::VNET_HEADER_LEN,
    memory::{BarePair, Pair},
};
use superframe::{RECEIVER, SENDER, tcp_superframe};

const WARM_UP_BURSTS: usize = 300;
const BURSTS: usize = 200;
/// Between bursts, so that delayed ACKs and timers have their turn in both measurements alike.
const PAUSE: Duration = Duration::from_millis(2);

/// What one burst consists of.
struct Burst {
    vnet: [u8; VNET_HEADER_LEN],
    frame: Vec<u8>,
    frames: usize,
}

impl Burst {
    fn carry(&self, pair: &mut Pair) {
        for _ in 0..self.frames {
            pair.send(0, &self.vnet, &self.frame);
        }
        pair.exchange();
        let mut arrived = 0;
        pair.take_frames(1, |_, len| arrived += usize::from(len == self.frame.len()));
        assert_eq!(arrived, self.frames);
        pair.advance(PAUSE);
        pair.take_frames(0, |_, _| {});
        pair.take_frames(1, |_, _| {});
    }
}

fn measured(mut burst: impl FnMut()) -> u64 {
    (0..WARM_UP_BURSTS).for_each(|_| burst());
    let before = allocations();
    (0..BURSTS).for_each(|_| burst());
    allocations() - before
}

/// As many datagrams, as large, as a burst of this many frame bytes fills.
fn bare_allocations(pair: &mut BarePair, burst_len: usize) -> u64 {
    let datagram = Bytes::from(vec![0x5a; pair.max_datagram_len()]);
    measured(|| {
        let mut rest = burst_len;
        while rest > 0 {
            let len = rest.min(datagram.len());
            pair.send(datagram.slice(..len));
            rest -= len;
        }
        assert_eq!(pair.exchange(), burst_len);
        pair.advance(PAUSE);
    })
}

fn check(burst: &Burst) {
    let mut pair = Pair::connect([identity(), identity()]);
    // Unknown destinations are flooded, and storm control limits that.
    pair.send(1, &[0; VNET_HEADER_LEN], &[&SENDER[..], &RECEIVER, &[0; 48]].concat());
    pair.exchange();
    pair.take_frames(0, |_, _| {});
    let mut bare = BarePair::connect(&[identity(), identity()]);
    let ours = measured(|| burst.carry(&mut pair));
    let theirs = bare_allocations(&mut bare, burst.frames * burst.frame.len());
    println!(
        "{} frames of {} bytes a burst, {BURSTS} bursts: {ours} allocations, bare {theirs}",
        burst.frames,
        burst.frame.len()
    );
    assert!(theirs > 0, "the counter counts");
    // Record headers are 1 % of more datagrams, and each second brings a loop probe and its bookkeeping: far less than one a burst.
    assert!(ours <= theirs + BURSTS as u64 / 4, "{ours} allocations, {theirs} without the core");
}

#[test]
fn frames_of_a_full_mtu_cost_no_allocation_of_our_own() {
    let (_, superframe) = tcp_superframe(45, 1_448);
    let frame = superframe[..1_514].to_vec();
    check(&Burst { vnet: [0; VNET_HEADER_LEN], frame, frames: 100 });
}

#[test]
fn superframes_cost_no_allocation_of_our_own() {
    let (vnet, frame) = tcp_superframe(45, 1_448);
    check(&Burst { vnet, frame, frames: 4 });
}
