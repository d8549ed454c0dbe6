//! From one site to another: RFC 2544's throughput, latency, loss curve and recovery, RFC 9004's bursts.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::{
    Progress,
    search::{Device, Load, longest_burst, loss_curve, throughput},
    segment::{Segment, station_of},
};
use crate::{
    compare::measure::quantile,
    stream::{Stream, Until},
};

/// Frame sizes with FCS: those of RFC 2544, section 9.1, and a jumbo frame.
pub const SIZES: [usize; 8] = [64, 128, 256, 512, 1_024, 1_280, 1_518, 9_018];
/// The FCS, which is not on a TAP.
pub const FCS_LEN: usize = 4;
/// What counts as lossless beside no loss at all, percent.
pub const TOLERATED_PERCENT: f64 = 0.1;
/// Shares of the throughput at which latency is measured.
const LATENCY_SHARES: [f64; 3] = [0.1, 0.5, 0.9];
/// The longest burst that is tried.
const BURST_MAX: u64 = 1 << 15;

/// What was measured with frames of one size.
#[derive(Clone, Debug, Serialize)]
pub struct OfSize {
    /// With FCS, bytes.
    pub frame_bytes: usize,
    /// Received at the highest rate that the sender can offer, frames a second.
    pub overloaded_per_s: f64,
    /// The highest rate without loss.
    pub lossless_per_s: f64,
    /// The highest rate with at most 0.1 % of loss.
    pub tolerant_per_s: f64,
    /// At shares of the latter.
    pub latencies: Vec<Latency>,
    /// The longest burst without loss, frames.
    pub burst_frames: u64,
    /// Rates offered, and losses in percent.
    pub loss_curve: Vec<(f64, f64)>,
    /// Frames that a later one had overtaken, of all trials.
    pub overtaken: u64,
    /// Frames that arrived twice, of all trials.
    pub duplicates: u64,
}

/// Times on the way, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// At this share of the throughput.
    pub share: f64,
    /// Median.
    pub p50_us: f64,
    /// The slowest of a hundred.
    pub p99_us: f64,
    /// The slowest.
    pub most_us: f64,
}

/// After an overload.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Recovery {
    /// Offered first, frames a second.
    pub overload_per_s: f64,
    /// Offered then.
    pub then_per_s: f64,
    /// Until the last frame was lost at the second rate, milliseconds; 0 if none was.
    pub recovered_ms: f64,
}

/// A device that adds up what must not happen.
struct Watched<'a> {
    segment: &'a mut Segment,
    overtaken: u64,
    duplicates: u64,
}

impl Device for Watched<'_> {
    fn trial(&mut self, load: &Load) -> Result<super::search::Outcome> {
        let outcome = self.segment.trial(load)?;
        self.overtaken += outcome.overtaken;
        self.duplicates += outcome.duplicates;
        Ok(outcome)
    }
}

/// Measures with frames of this size, FCS included.
///
/// # Errors
/// When a trial can't be made.
pub fn of_size(
    segment: &mut Segment,
    frame_bytes: usize,
    trial: Duration,
    progress: &mut Progress<'_>,
) -> Result<OfSize> {
    let frame_len = frame_bytes - FCS_LEN;
    let mut device = Watched { segment, overtaken: 0, duplicates: 0 };
    let until = Until::Elapsed(trial);
    progress.step(&format!("throughput, {frame_bytes} bytes"));
    let flood = device.trial(&Load { frame_len, rate_per_s: None, until })?;
    // What is received of a flood is less than what a calmer sender gets through.
    let ceiling = flood.sent_per_s().min(2.0 * flood.received_per_s());
    let tolerant_per_s = throughput(&mut device, frame_len, trial, TOLERATED_PERCENT, ceiling)?;
    let lossless_per_s = throughput(&mut device, frame_len, trial, 0.0, tolerant_per_s)?;
    progress.step(&format!("latency, {frame_bytes} bytes"));
    let mut latencies = Vec::new();
    for share in LATENCY_SHARES {
        let rate_per_s = Some(share * tolerant_per_s);
        let outcome = device.trial(&Load { frame_len, rate_per_s, until })?;
        latencies.extend(Latency::of(share, &outcome.latencies_ns));
    }
    progress.step(&format!("bursts and loss, {frame_bytes} bytes"));
    let burst_frames = longest_burst(&mut device, frame_len, BURST_MAX)?;
    let loss_curve = loss_curve(&mut device, frame_len, trial, flood.sent_per_s())?;
    Ok(OfSize {
        frame_bytes,
        overloaded_per_s: flood.received_per_s(),
        lossless_per_s,
        tolerant_per_s,
        latencies,
        burst_frames,
        loss_curve,
        overtaken: device.overtaken,
        duplicates: device.duplicates,
    })
}

/// Overload, and then a rate that the switch carries (RFC 2544, section 26.5).
///
/// # Errors
/// When a trial can't be made.
pub fn recovery(segment: &mut Segment, throughput_per_s: f64, trial: Duration) -> Result<Recovery> {
    let until = Until::Elapsed(trial);
    let frame_len = SIZES[0] - FCS_LEN;
    let overload = segment.trial(&Load { frame_len, rate_per_s: None, until })?;
    let then_per_s = throughput_per_s / 2.0;
    let load = |number, rate_per_s| Stream {
        number,
        sources: station_of(0),
        destinations: station_of(1),
        frame_len,
        rate_per_s,
        until,
    };
    // The second sender starts as the first one ends: both are run by one call, which waits between them for nothing.
    let (sent, seen) = segment.run_in_turn(0, &[load(0, None), load(1, Some(then_per_s))], 1)?;
    let last_lost = seen[1].last_missing(sent[1].frames);
    let recovered_s = last_lost.map_or(0.0, |number| (number + 1) as f64 / then_per_s.max(1.0));
    Ok(Recovery {
        overload_per_s: overload.sent_per_s(),
        then_per_s,
        recovered_ms: recovered_s * 1e3,
    })
}

impl Latency {
    /// None without samples.
    pub(super) fn of(share: f64, latencies_ns: &[u64]) -> Option<Self> {
        let us: Vec<f64> = latencies_ns.iter().map(|ns| *ns as f64 / 1e3).collect();
        let (p50_us, p99_us) = (quantile(&us, 0.5)?, quantile(&us, 0.99)?);
        Some(Self { share, p50_us, p99_us, most_us: quantile(&us, 1.0)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_in_microseconds() {
        let ns: Vec<u64> = (1..=100).map(|us| us * 1_000).collect();
        let latency = Latency::of(0.5, &ns).unwrap();
        assert_eq!((latency.p50_us, latency.p99_us, latency.most_us), (50.0, 99.0, 100.0));
        assert!(Latency::of(0.5, &[]).is_none());
    }
}
