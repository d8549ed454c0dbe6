//! Stations that are heard at two places in turn: two machines with one address, or a segment that is connected twice. Frames for
//! such a station go to whichever place it was heard at last, so many get lost.
//!
//! A station that moves does so once, or a few times; one that moves on and on is told, at most once a minute.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use ipop_datapath::{MacAddr, PortId, StationMoves};

use super::Switch;
use crate::api::types::{EventKind, What};

/// So many moves within [`WINDOW`] are no move any more.
const MOVES_MIN: u32 = 5;
/// And how long it is until the same station is told again.
const WINDOW: Duration = Duration::from_secs(60);
/// Stations that are watched; the one that has not moved for longest gives way.
const STATIONS_MAX: usize = 256;
/// Stations that are told within [`WINDOW`]: a peer can make up as many as it likes.
const TOLD_MAX: usize = 10;

/// What stations did lately.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    stations: BTreeMap<MacAddr, Station>,
    /// When the latest lines were written, at most [`TOLD_MAX`].
    told_at: VecDeque<Instant>,
}

#[derive(Debug)]
struct Station {
    /// Since when its moves are counted.
    since: Instant,
    moves: u32,
    moved_at: Instant,
    told_at: Option<Instant>,
}

/// A station that is at two places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Flap {
    mac: MacAddr,
    places: [PortId; 2],
    moves: u32,
    over: Duration,
}

impl Flaps {
    /// Notes what a worker saw of a station; gives what is to be told.
    fn note(&mut self, now: Instant, seen: &StationMoves) -> Option<Flap> {
        let is_lately = |at: &Instant| now < *at + WINDOW;
        self.told_at.retain(is_lately);
        self.make_room(seen.mac);
        let new = Station { since: now, moves: 0, moved_at: now, told_at: None };
        let station = self.stations.entry(seen.mac).or_insert(new);
        station.moved_at = now;
        let is_over = now >= station.since + WINDOW && station.moves < MOVES_MIN;
        if is_over {
            (station.since, station.moves) = (now, 0);
        }
        station.moves = station.moves.saturating_add(seen.count);
        let too_many = self.told_at.len() >= TOLD_MAX;
        if station.moves < MOVES_MIN || too_many || station.told_at.as_ref().is_some_and(is_lately)
        {
            return None;
        }
        self.told_at.push_back(now);
        let (moves, over) = (station.moves, now - station.since);
        (station.since, station.moves, station.told_at) = (now, 0, Some(now));
        Some(Flap { mac: seen.mac, places: [seen.from, seen.to], moves, over })
    }

    fn make_room(&mut self, mac: MacAddr) {
        if self.stations.len() >= STATIONS_MAX && !self.stations.contains_key(&mac) {
            let stalest = self.stations.iter().min_by_key(|(_, station)| station.moved_at);
            if let Some(stalest) = stalest.map(|(mac, _)| *mac) {
                self.stations.remove(&stalest);
            }
        }
    }
}

impl Switch {
    /// Workers saw stations move.
    pub(super) fn stations_moved(&mut self, now: Instant, moved: &[StationMoves]) {
        for seen in moved {
            let Some(Flap { mac, places, moves, over }) = self.flaps.note(now, seen) else {
                continue;
            };
            let [one, other] = places.map(|port| self.place(now, port));
            tracing::warn!(
                "address {mac} is heard at two places, {one} and {other}: it moved {moves} times in {} s, and \
                 frames for it get lost. If two machines have this address (is one a clone?), give one another; \
                 if both places are connected some other way, take that away",
                over.as_secs().max(1),
            );
            let text = format!("address {mac} moved {moves} times between {one} and {other}");
            let what = What::StationFlapping { mac: mac.to_string() };
            self.tell_event(EventKind::Station, text, what);
        }
    }

    /// A port, as people know it.
    fn place(&self, now: Instant, port: PortId) -> String {
        if let Some(tap) = self.devices.tap(port) {
            return format!("TAP {}", tap.name);
        }
        let peer = self.node.sessions().snapshot(now).into_iter().find(|peer| peer.port == port.0);
        match peer {
            Some(peer) => format!("peer {} ({})", peer.node, peer.name.unwrap_or_default()),
            None => format!("port {}", port.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(number: u16, count: u32) -> StationMoves {
        let [a, b] = number.to_be_bytes();
        StationMoves { mac: MacAddr([2, 0, 0, 0, a, b]), from: PortId(0), to: PortId(3), count }
    }

    fn at(start: Instant, s: u64) -> Instant {
        start + Duration::from_secs(s)
    }

    #[test]
    fn who_moves_on_and_on_is_told_once_a_minute() {
        let (start, mut flaps) = (Instant::now(), Flaps::default());
        let told: Vec<(u64, u32, u64)> = (0..200)
            .filter_map(|s| {
                let flap = flaps.note(at(start, s), &seen(1, 3))?;
                assert_eq!((flap.mac, flap.places), (seen(1, 0).mac, [PortId(0), PortId(3)]));
                Some((s, flap.moves, flap.over.as_secs()))
            })
            .collect();
        assert_eq!(told, [(1, 6, 1), (61, 180, 60), (121, 180, 60), (181, 180, 60)]);
    }

    #[test]
    fn moves_that_are_few_or_far_apart_are_not_told() {
        let (start, mut flaps) = (Instant::now(), Flaps::default());
        for s in (0..10_000).step_by(16) {
            assert_eq!(flaps.note(at(start, s), &seen(1, 1)), None, "{s}");
        }
        assert_eq!(flaps.note(at(start, 20_000), &seen(1, 4)), None);
        assert_eq!(flaps.note(at(start, 20_100), &seen(1, 4)), None);
    }

    #[test]
    fn stations_and_lines_are_bounded() {
        let (start, mut flaps) = (Instant::now(), Flaps::default());
        let told = (0..10_000).filter(|number| {
            let now = start + Duration::from_millis((*number).into());
            flaps.note(now, &seen(*number, 100)).is_some()
        });
        assert_eq!(told.count(), TOLD_MAX);
        assert_eq!(flaps.stations.len(), STATIONS_MAX);
    }
}
