//! The reference model: one Ethernet segment, slow and obvious.
//!
//! It remembers every frame that was sent, by whom and where, and every part of it that arrived, and where. A frame never
//! comes back to the TAP that it came from, never twice to another, and always as it was sent. If the network is calm
//! and the stations are where they were heard last, then it is known where the frame must arrive, and nowhere else may it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::{Discriminant, discriminant},
    ops::Range,
    time::Instant,
};

use ipop_datapath::{MacAddr, frame::Offload, policy::loop_probe::LoopProbe};

use crate::frames::{Frame, Kind, MAX_FRAMES, identify};

/// A TAP of a site.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct TapAt {
    pub(crate) site: usize,
    pub(crate) tap: u16,
}

/// Something with a MAC address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Station {
    pub(crate) mac: MacAddr,
    pub(crate) at: TapAt,
    /// From then on all who could hear it have heard it here.
    pub(crate) known_from: Instant,
}

/// Where a frame must arrive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    /// At each of these, whole, and nowhere else.
    Exactly(BTreeSet<TapAt>),
    /// Wherever the trouble of the moment lets it; but not where it came from.
    BestEffort,
}

struct Sent {
    frame: Frame,
    kind: Kind,
    from: TapAt,
    at: Instant,
    expected: Expected,
    /// Disjoint parts.
    arrived: BTreeMap<TapAt, Vec<Range<usize>>>,
}

/// All frames of one kind that a station sends to one destination from one place keep their order.
type Flow = (TapAt, MacAddr, MacAddr, Discriminant<Kind>);

#[derive(Default)]
pub(crate) struct Segment {
    pub(crate) stations: Vec<Station>,
    sent: Vec<Sent>,
    /// The latest frame of a flow at a TAP.
    latest: BTreeMap<TapAt, Vec<(Flow, u32)>>,
    /// Whether frames of a flow must arrive in their order.
    pub(crate) is_ordered: bool,
    pub(crate) deliveries: u64,
}

impl Segment {
    pub(crate) fn is_full(&self) -> bool {
        self.sent.len() as u32 == MAX_FRAMES
    }

    /// A station is plugged in elsewhere: what was sent to it since `recent` may find it at either place, or not at all.
    pub(crate) fn plug(&mut self, station: usize, at: TapAt, known_from: Instant, recent: Instant) {
        let station = &mut self.stations[station];
        (station.at, station.known_from) = (at, known_from);
        for sent in self.sent.iter_mut().rev().take_while(|sent| sent.at >= recent) {
            if sent.frame.bytes[..6] == station.mac.0 {
                sent.expected = Expected::BestEffort;
            }
        }
    }

    /// A station sends.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        station: usize,
        kind: Kind,
        destination: MacAddr,
        expected: Expected,
    ) -> Frame {
        let Station { mac, at, .. } = self.stations[station];
        let frame = Frame::new(self.sent.len() as u32, kind, destination, mac);
        let arrived = BTreeMap::new();
        self.sent.push(Sent { frame: frame.clone(), kind, from: at, at: now, expected, arrived });
        frame
    }

    /// A switch wrote a frame to a TAP.
    pub(crate) fn deliver(&mut self, tap: TapAt, offload: Offload, bytes: &[u8]) {
        if LoopProbe::is_probe(bytes) {
            return;
        }
        self.deliveries += 1;
        let (number, _) = identify(bytes);
        let sent = self.sent.get_mut(number as usize);
        let sent = sent.unwrap_or_else(|| panic!("{tap:?}: frame {number} was never sent"));
        let context =
            || format!("frame {number} ({:?} from {:?}) at {tap:?}", sent.kind, sent.from);
        assert_ne!(tap, sent.from, "{} came back", context());
        if let Expected::Exactly(taps) = &sent.expected {
            assert!(taps.contains(&tap), "{} is for {taps:?}", context());
        }
        let parts = sent.frame.arrived(offload, bytes);
        let before = sent.arrived.get(&tap).map_or(&[][..], Vec::as_slice);
        for part in &parts {
            let twice = before.iter().find(|old| old.start < part.end && part.start < old.end);
            assert!(twice.is_none(), "{}: {part:?} came twice, see {twice:?}", context());
        }
        sent.arrived.entry(tap).or_default().extend(parts);
        if self.is_ordered {
            self.check_order(tap, number);
        }
    }

    fn check_order(&mut self, tap: TapAt, number: u32) {
        let flow_of = |sent: &Sent| {
            let mac = |at: usize| {
                let mut mac = [0; 6];
                mac.copy_from_slice(&sent.frame.bytes[at..at + 6]);
                MacAddr(mac)
            };
            (sent.from, mac(6), mac(0), discriminant(&sent.kind))
        };
        let flow = flow_of(&self.sent[number as usize]);
        let latest = self.latest.entry(tap).or_default();
        match latest.iter_mut().find(|(other, _)| *other == flow) {
            Some((_, before)) => {
                assert!(*before <= number, "{tap:?}: frame {number} came after {before}");
                *before = number;
            }
            None => latest.push((flow, number)),
        }
    }

    /// The first frame that did not arrive where it had to: where it came from and where it is missing, and what to tell.
    pub(crate) fn missing(&self) -> Option<(TapAt, TapAt, String)> {
        let missing = |number: usize, sent: &Sent, tap: TapAt| {
            let parts = sent.arrived.get(&tap).into_iter().flatten();
            let arrived: usize = parts.map(ExactSizeIterator::len).sum();
            let whole = sent.frame.extent().len();
            let what = format!(
                "frame {number} ({:?} from {:?}) at {tap:?}: {arrived} of {whole} bytes arrived",
                sent.kind, sent.from
            );
            (arrived != whole).then_some((sent.from, tap, what))
        };
        self.sent.iter().enumerate().find_map(|(number, sent)| match &sent.expected {
            Expected::Exactly(taps) => taps.iter().find_map(|tap| missing(number, sent, *tap)),
            Expected::BestEffort => None,
        })
    }
}
