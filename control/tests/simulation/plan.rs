//! What a seed stands for: how many sites of which kind, on which network, and how rough the ride is.

use std::time::Duration;

use ipop_datapath::{TapOffload, memory::MemoryIoConfig};

use crate::{network::Conditions, rng::Rng};

/// How much goes wrong while stations talk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weather {
    /// Packets are delayed, repeated and overtake one another a little; none is lost, nothing restarts.
    Calm,
    /// Packets are lost as well, stations move, hosts get other addresses, the path MTU changes.
    Rough,
    /// In addition links are cut and switches restart.
    Storm,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) weather: Weather,
    pub(crate) sites: Vec<SitePlan>,
    /// Whether one site knows where to dial the other; of each pair at least one does.
    pub(crate) dials: Vec<Vec<bool>>,
    pub(crate) rough: Conditions,
}

#[derive(Debug)]
pub(crate) struct SitePlan {
    pub(crate) workers: u8,
    pub(crate) taps: Vec<TapOffload>,
    pub(crate) io: MemoryIoConfig,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let weather = rng.pick(&[Weather::Calm, Weather::Rough, Weather::Storm, Weather::Storm]);
        let count = rng.pick(&[2, 2, 3, 3, 4, 5, 8]);
        let mtu = rng.pick(&[1_280, 1_500, 1_500, 9_000]);
        let site = |rng: &mut Rng| SitePlan {
            workers: rng.within(1..3) as u8,
            taps: (0..rng.pick(&[1, 1, 2])).map(|_| tap(rng)).collect(),
            io: MemoryIoConfig {
                max_segments: rng.pick(&[64, 64, 1]),
                first_hop_mtu: mtu.max(1_500),
                ..MemoryIoConfig::default()
            },
        };
        let sites = (0..count).map(|_| site(&mut rng)).collect();
        let mut dials = vec![vec![true; count]; count];
        for (one, other) in (0..count).flat_map(|one| (0..one).map(move |other| (one, other))) {
            match rng.below(3) {
                0 => dials[one][other] = false,
                1 => dials[other][one] = false,
                _ => {}
            }
        }
        let rough = Conditions {
            delay: Duration::from_micros(rng.pick(&[50, 1_000, 10_000, 60_000])),
            loss: if weather == Weather::Calm { 0.0 } else { rng.pick(&[0.001, 0.01, 0.05, 0.15]) },
            duplication: rng.pick(&[0.0, 0.01]),
            reordering: rng.pick(&[0.0, 0.05]),
            mtu: usize::from(mtu),
        };
        Self { seed, weather, sites, dials, rough }
    }

    /// The network at its best.
    pub(crate) fn calm_conditions(&self) -> Conditions {
        Conditions { loss: 0.0, ..self.rough }
    }
}

fn tap(rng: &mut Rng) -> TapOffload {
    if rng.chance(0.8) { TapOffload::Full } else { TapOffload::None }
}
