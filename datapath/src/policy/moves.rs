//! Stations that are heard on another port than before, gathered until control is told: an address that two machines have
//! moves with every frame of theirs.

use ipop_learning::{MacAddr, PortId};

/// Stations that are told at once; moves of more in the same second are told of no one.
const MAX_STATIONS: usize = 64;

/// What one station did since control was told last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StationMoves {
    /// Its address.
    pub mac: MacAddr,
    /// Where it was before the last move.
    pub from: PortId,
    /// Where it is since.
    pub to: PortId,
    /// How often it moved.
    pub count: u32,
}

/// The moves that one worker saw.
#[derive(Debug, Default)]
pub(crate) struct Moves(Vec<StationMoves>);

impl Moves {
    /// Notes a move.
    #[cold]
    pub(crate) fn note(&mut self, mac: MacAddr, from: PortId, to: PortId) {
        if let Some(station) = self.0.iter_mut().find(|station| station.mac == mac) {
            (station.from, station.to) = (from, to);
            station.count = station.count.saturating_add(1);
        } else if self.0.len() < MAX_STATIONS {
            self.0.push(StationMoves { mac, from, to, count: 1 });
        }
    }

    /// Those since the last call, if any.
    pub(crate) fn take(&mut self) -> Option<Vec<StationMoves>> {
        (!self.0.is_empty()).then(|| std::mem::take(&mut self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_counted_by_station_and_their_number_is_bounded() {
        let mut moves = Moves::default();
        assert_eq!(moves.take(), None);
        let mac = |number: u8| MacAddr([2, 0, 0, 0, 0, number]);
        for _ in 0..5 {
            moves.note(mac(0), PortId(1), PortId(2));
            moves.note(mac(0), PortId(2), PortId(1));
        }
        (1..=255).for_each(|number| moves.note(mac(number), PortId(1), PortId(2)));
        let told = moves.take().expect("moves");
        assert_eq!(told.len(), MAX_STATIONS);
        let first = StationMoves { mac: mac(0), from: PortId(2), to: PortId(1), count: 10 };
        assert_eq!(told[0], first);
        assert_eq!(moves.take(), None);
    }
}
