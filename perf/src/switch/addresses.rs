//! Learning: RFC 2889's address caching capacity and learning rate, and what learning costs a flow.
//!
//! Three sites: stations are heard behind site 1, then site 0 sends a frame to each. A frame that site 2 sees too was flooded:
//! its station was not known. Each trial begins with switches that know nothing.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::{
    Progress,
    forwarding::{FCS_LEN, Latency, SIZES},
    segment::{Segment, station_of},
};
use crate::stream::{Addresses, Stream, Until};

/// Numbers of stations that are tried; the table's limit is 65,536, of one port 32,768.
const STATIONS: [u32; 6] = [1_024, 8_192, 16_384, 32_768, 49_152, 65_536];
/// Rates at which they are learned, a second.
const RATES_PER_S: [f64; 4] = [5_000.0, 20_000.0, 50_000.0, 100_000.0];
/// Stations of a trial of the learning rate.
const RATE_STATIONS: u32 = 16_384;
/// Frames a second in which neither learning nor forwarding is what is tried.
const CALM_PER_S: f64 = 15_000.0;
/// New stations a second beside a flow.
const CHURN_PER_S: f64 = 5_000.0;
/// The first station of those that are learned.
const FIRST: u32 = 1_000_000;

/// Stations heard, and what came of frames to them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Caching {
    /// How many.
    pub stations: u32,
    /// Heard at this rate, a second.
    pub learned_per_s: f64,
    /// Their frames that arrived at site 0.
    pub heard: u64,
    /// Frames to them that arrived at their site.
    pub delivered: u64,
    /// Frames to them that another site saw: they were not known.
    pub flooded: u64,
}

/// A flow without and with new stations beside it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Churn {
    /// The flow's rate, frames a second.
    pub rate_per_s: f64,
    /// New stations a second.
    pub new_stations_per_s: f64,
    /// Loss of the flow without, with, percent.
    pub lost_percent: [f64; 2],
    /// Latency without, with.
    pub latency: [Option<Latency>; 2],
}

/// Numbers of stations, and rates at which they are learned.
#[derive(Clone, Debug, Serialize)]
pub struct Learning {
    /// Ever more stations, heard calmly.
    pub capacity: Vec<Caching>,
    /// As many stations, heard ever faster.
    pub rate: Vec<Caching>,
}

/// The steps of [`learning`].
pub fn steps(tries: usize) -> usize {
    tries.min(STATIONS.len()) + tries.min(RATES_PER_S.len())
}

/// Tries the first so many numbers of stations and rates.
///
/// # Errors
/// When a trial can't be made.
pub fn learning(workers: u8, tries: usize, progress: &mut Progress<'_>) -> Result<Learning> {
    let mut capacity = Vec::new();
    for stations in STATIONS.into_iter().take(tries) {
        progress.step(&format!("caching {stations} addresses"));
        capacity.push(caching(workers, stations, CALM_PER_S)?);
    }
    let mut rate = Vec::new();
    for rate_per_s in RATES_PER_S.into_iter().take(tries) {
        progress.step(&format!("learning {rate_per_s} addresses a second"));
        rate.push(caching(workers, RATE_STATIONS, rate_per_s)?);
    }
    Ok(Learning { capacity, rate })
}

fn caching(workers: u8, stations: u32, learned_per_s: f64) -> Result<Caching> {
    let segment = Segment::start(3, workers)?;
    let all = Addresses::Stations { first: FIRST, count: stations };
    segment.announce(0, station_of(0), 1, None)?;
    let heard = segment.announce(1, all, stations.into(), Some(learned_per_s))?;
    let stream = Stream {
        number: 0,
        sources: station_of(0),
        destinations: all,
        frame_len: SIZES[0] - FCS_LEN,
        // Slower than storm control: a flooded frame is to be seen.
        rate_per_s: Some(CALM_PER_S),
        until: Until::Frames(stations.into()),
    };
    let (_, seen) = segment.run(&[(0, stream)], &[1, 2])?;
    let (delivered, flooded) = (seen[0][0].received, seen[1][0].received);
    Ok(Caching { stations, learned_per_s, heard, delivered, flooded })
}

/// A flow at this rate from site 0 to site 1, whose stations change all the while.
///
/// # Errors
/// When a trial can't be made.
pub fn churn(segment: &Segment, rate_per_s: f64, trial: Duration) -> Result<Churn> {
    segment.announce(1, station_of(1), 1, None)?;
    segment.announce(0, station_of(0), 1, None)?;
    let flow = Stream {
        number: 0,
        sources: station_of(0),
        destinations: station_of(1),
        frame_len: SIZES[0] - FCS_LEN,
        rate_per_s: Some(rate_per_s),
        until: Until::Elapsed(trial),
    };
    let newcomers = Stream {
        number: 1,
        sources: Addresses::Stations { first: FIRST, count: u32::MAX - FIRST },
        destinations: station_of(0),
        rate_per_s: Some(CHURN_PER_S),
        ..flow
    };
    let mut churn = Churn {
        rate_per_s,
        new_stations_per_s: CHURN_PER_S,
        lost_percent: [0.0; 2],
        latency: [None; 2],
    };
    for (with, streams) in [&[(0, flow)][..], &[(0, flow), (1, newcomers)]].into_iter().enumerate()
    {
        let (sent, seen) = segment.run(streams, &[1])?;
        let (sent, tally) = (sent[0].frames, &seen[0][0]);
        churn.lost_percent[with] =
            100.0 * sent.saturating_sub(tally.received) as f64 / sent.max(1) as f64;
        churn.latency[with] = Latency::of(0.0, &tally.latencies_ns);
    }
    Ok(churn)
}
