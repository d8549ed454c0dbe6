//! What the operator was told lately of searches for paths. A path is looked for all the time, and each search that fails is the same news.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;

use crate::{ice::Obstacles, notice::Pathless, sessions::MAX_PEERS};

/// That a peer has no path was told so long ago that it is told again.
const PATHLESS_EVERY: Duration = Duration::from_secs(300);
/// Different reasons that are told of one peer within that time.
const MAX_PATHLESS_TOLD: usize = 3;

/// Of all peers, those included whose links have ended meanwhile: who comes and goes is told of no more often.
#[derive(Debug, Default)]
pub(super) struct Searches {
    of_peer: HashMap<NodeId, Searched>,
}

#[derive(Debug, Default)]
struct Searched {
    told: VecDeque<(Instant, Pathless, Obstacles)>,
    left_out: u64,
}

impl Searches {
    /// Whether it is to be told that one failed, and how many were left out before.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        peer: NodeId,
        was: Pathless,
        why: &Obstacles,
    ) -> Option<u64> {
        if self.of_peer.len() >= MAX_PEERS && !self.of_peer.contains_key(&peer) {
            let counts = |(at, ..): &(Instant, _, _)| *at + PATHLESS_EVERY > now;
            self.of_peer.retain(|_, searched| searched.told.back().is_some_and(counts));
            if self.of_peer.len() >= MAX_PEERS {
                return None;
            }
        }
        self.of_peer.entry(peer).or_default().failed(now, was, why)
    }
}

impl Searched {
    fn failed(&mut self, now: Instant, was: Pathless, why: &Obstacles) -> Option<u64> {
        while self.told.front().is_some_and(|(at, ..)| *at + PATHLESS_EVERY <= now) {
            self.told.pop_front();
        }
        let is_told = self.told.iter().any(|(_, then, told)| (*then, told) == (was, why));
        if self.told.len() >= MAX_PATHLESS_TOLD || is_told {
            self.left_out += 1;
            return None;
        }
        self.told.push_back((now, was, why.clone()));
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ice::Obstacle;

    fn refused_by_kernel(errno: i32) -> Obstacles {
        let address = "192.0.2.1:5800".parse().unwrap();
        Obstacles(vec![Obstacle::KernelRefuses { address, errno }])
    }

    #[test]
    fn that_there_is_no_path_is_told_now_and_then() {
        let (mut searches, start) = (Searches::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let peer = NodeId([1; 32]);
        let mut failed =
            |now, why: i32| searches.failed(now, peer, Pathless::NotYet, &refused_by_kernel(why));
        assert_eq!(failed(start, 101), Some(0));
        assert!((1..300).all(|second| failed(at(second), 101).is_none()));
        assert_eq!(failed(at(300), 101), Some(299));
        // Reasons that somebody makes up are not told without end either.
        let told = (0..600).filter(|n| failed(at(300 + *n as u64), *n).is_some()).count();
        assert_eq!(told, 2 + MAX_PATHLESS_TOLD);
    }

    #[test]
    fn of_as_many_peers_as_may_be_it_is_known_what_was_told() {
        let (mut searches, start) = (Searches::default(), Instant::now());
        let mut failed = |now, number: usize| {
            let peer = NodeId::of_spki(&number.to_be_bytes());
            searches.failed(now, peer, Pathless::NotYet, &refused_by_kernel(101)).is_some()
        };
        assert!((0..MAX_PEERS).all(|number| failed(start, number)));
        assert!(!failed(start, MAX_PEERS), "one more");
        assert!(failed(start + PATHLESS_EVERY, MAX_PEERS));
    }
}
