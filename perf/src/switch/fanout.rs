//! One to many, many to one, and what must not pass at all.

use std::time::Duration;

use anyhow::Result;
use ipop_learning::MacAddr;
use serde::Serialize;

use super::{
    forwarding::{FCS_LEN, SIZES},
    segment::{Segment, station_of},
};
use crate::{
    counters,
    stream::{Addresses, Stream, Until, station},
};

/// Broadcast frames a second: below storm control's 20,000, and above.
const BROADCASTS_PER_S: [f64; 2] = [15_000.0, 60_000.0];
/// Frames of each kind that must not pass.
const FORBIDDEN_FRAMES: u64 = 20;

/// Broadcast frames to several peers.
#[derive(Clone, Debug, Serialize)]
pub struct Broadcast {
    /// Peers.
    pub peers: usize,
    /// Offered, frames a second.
    pub offered_per_s: f64,
    /// Received at each, frames a second.
    pub received_per_s: Vec<f64>,
}

/// Several senders to one receiver.
#[derive(Clone, Debug, Serialize)]
pub struct ManyToOne {
    /// Frames sent a second, by sender.
    pub sent_per_s: Vec<f64>,
    /// Received from each, frames a second.
    pub received_per_s: Vec<f64>,
    /// Jain's index of the latter: 1 is even, 1 over the number of senders is one alone.
    pub fairness: f64,
}

/// Frames that a bridge keeps to itself.
#[derive(Clone, Debug, Serialize)]
pub struct Forbidden {
    /// What is wrong with them, or special.
    pub kind: &'static str,
    /// Sent.
    pub sent: u64,
    /// That arrived at another site; should be none.
    pub forwarded: u64,
    /// Counted as dropped, for this reason.
    pub dropped: u64,
    /// The reason by which they should be counted.
    pub reason: &'static str,
}

/// Broadcasts from site 0 to all others.
///
/// # Errors
/// When a trial can't be made.
pub fn broadcast(segment: &Segment, trial: Duration) -> Result<Vec<Broadcast>> {
    let peers = segment.ports.len() - 1;
    let others: Vec<usize> = (1..=peers).collect();
    let of_rate = |offered_per_s| {
        let stream = Stream {
            number: 0,
            sources: station_of(0),
            destinations: Addresses::Only(MacAddr::BROADCAST),
            frame_len: SIZES[0] - FCS_LEN,
            rate_per_s: Some(offered_per_s),
            until: Until::Elapsed(trial),
        };
        let (sent, seen) = segment.run(&[(0, stream)], &others)?;
        let per_s = |frames: u64| frames as f64 / sent[0].elapsed.as_secs_f64();
        let received_per_s = seen.iter().map(|tallies| per_s(tallies[0].received)).collect();
        Ok(Broadcast { peers, offered_per_s: per_s(sent[0].frames), received_per_s })
    };
    BROADCASTS_PER_S.into_iter().map(of_rate).collect()
}

/// All others to site 0, each as fast as it goes.
///
/// # Errors
/// When a trial can't be made.
pub fn many_to_one(segment: &Segment, trial: Duration) -> Result<ManyToOne> {
    segment.announce(0, station_of(0), 1, None)?;
    let senders = segment.ports.len() - 1;
    let stream = |site: usize| {
        let stream = Stream {
            number: site as u32 - 1,
            sources: station_of(site),
            destinations: station_of(0),
            frame_len: 1_518 - FCS_LEN,
            rate_per_s: None,
            until: Until::Elapsed(trial),
        };
        (site, stream)
    };
    let streams: Vec<_> = (1..=senders).map(stream).collect();
    let (sent, seen) = segment.run(&streams, &[0])?;
    let seconds = trial.as_secs_f64();
    let received_per_s: Vec<f64> =
        seen[0].iter().map(|tally| tally.received as f64 / seconds).collect();
    Ok(ManyToOne {
        sent_per_s: sent.iter().map(|sent| sent.frames as f64 / seconds).collect(),
        fairness: jain(&received_per_s),
        received_per_s,
    })
}

/// Frames of each kind from site 0, received at site 1.
///
/// # Errors
/// When a trial can't be made, or site 0's switch does not tell what it dropped.
pub fn forbidden(segment: &mut Segment) -> Result<Vec<Forbidden>> {
    const GROUP: MacAddr = MacAddr([0x03, 0, 0, 0, 0, 1]);
    const ZERO: MacAddr = MacAddr([0; 6]);
    // Behind site 0 itself: its switch hears of it, and has nowhere to forward to.
    let neighbour = station(500);
    segment.announce(0, Addresses::Only(neighbour), 1, None)?;
    segment.announce(1, station_of(1), 1, None)?;
    let own = station(0);
    let reserved = (0..16).map(|last| MacAddr([0x01, 0x80, 0xc2, 0, 0, last]));
    let mut kinds: Vec<_> =
        reserved.map(|to| ("to a reserved group address", own, to, "reserved")).collect();
    kinds.extend([
        ("from a group address", GROUP, station(1), "bad_source"),
        ("from the address zero", ZERO, station(1), "bad_source"),
        ("to a station on the port that they came from", own, neighbour, "same_port"),
    ]);
    let mut results: Vec<Forbidden> = Vec::new();
    for (kind, source, destination, reason) in kinds {
        let before = dropped(segment, reason)?;
        let stream = Stream {
            number: 0,
            sources: Addresses::Only(source),
            destinations: Addresses::Only(destination),
            frame_len: SIZES[0] - FCS_LEN,
            rate_per_s: Some(10_000.0),
            until: Until::Frames(FORBIDDEN_FRAMES),
        };
        let (sent, seen) = segment.run(&[(0, stream)], &[1])?;
        let (sent, forwarded) = (sent[0].frames, seen[0][0].received);
        let dropped = dropped(segment, reason)? - before;
        match results.last_mut().filter(|last| last.kind == kind) {
            Some(last) => {
                last.sent += sent;
                last.forwarded += forwarded;
                last.dropped += dropped;
            }
            None => results.push(Forbidden { kind, sent, forwarded, dropped, reason }),
        }
    }
    Ok(results)
}

/// By site 0's switch, for this reason.
fn dropped(segment: &mut Segment, reason: &str) -> Result<u64> {
    let report = counters::ask(&mut segment.switches[0].process)?;
    let drops = counters::ports(&report).flat_map(counters::drops);
    Ok(drops.filter(|(of, _)| *of == reason).map(|(_, count)| count).sum())
}

/// Raj Jain's fairness index.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|x| x * x).sum::<f64>());
    if squares == 0.0 { 0.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_between_one_and_one_of_all() {
        assert_eq!(jain(&[5.0, 5.0, 5.0]), 1.0);
        assert_eq!(jain(&[0.0, 0.0, 7.0, 0.0]), 0.25);
        assert_eq!(jain(&[]), 0.0);
    }
}
