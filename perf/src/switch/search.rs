//! The searches of RFC 2544 and RFC 9004, on anything that can be given a load.
//!
//! A machine that is shared loses frames for reasons of its own now and then. So a trial that failed is repeated, and fails
//! only if it does so again (binary search with loss verification: RFC 9004, section 5, after ETSI GS NFV-TST 009).

use std::time::Duration;

use anyhow::Result;

use crate::stream::Until;

/// Trials at a load before it counts as too much.
const ATTEMPTS: u32 = 3;
/// A search ends when its bounds are so close, as a share of the ceiling.
const RESOLUTION: f64 = 1.0 / 64.0;

/// What is offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Length of each frame without its FCS, bytes.
    pub frame_len: usize,
    /// Frames a second; none is as fast as it goes.
    pub rate_per_s: Option<f64>,
    /// When it ends.
    pub until: Until,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Frames sent.
    pub sent: u64,
    /// For how long.
    pub elapsed: Duration,
    /// Frames that arrived, each once.
    pub received: u64,
    /// Frames that arrived again.
    pub duplicates: u64,
    /// Frames that a later one had overtaken.
    pub overtaken: u64,
    /// A sample of the times on the way, ns.
    pub latencies_ns: Vec<u64>,
}

impl Outcome {
    /// Frames lost, percent.
    pub fn lost_percent(&self) -> f64 {
        100.0 * self.sent.saturating_sub(self.received) as f64 / self.sent.max(1) as f64
    }

    /// Frames sent a second.
    pub fn sent_per_s(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Frames received a second, while they were sent.
    pub fn received_per_s(&self) -> f64 {
        self.received as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// What is measured.
pub trait Device {
    /// Offers it a load.
    ///
    /// # Errors
    /// When the trial can't be made.
    fn trial(&mut self, load: &Load) -> Result<Outcome>;
}

/// The highest rate, frames a second, at which no more than this share is lost (RFC 2544, section 26.1). The rate is the one
/// at which frames were really sent.
///
/// # Errors
/// As [`Device::trial`].
pub fn throughput(
    device: &mut impl Device,
    frame_len: usize,
    trial: Duration,
    tolerated_percent: f64,
    ceiling_per_s: f64,
) -> Result<f64> {
    let mut reached = 0.0_f64;
    largest(ceiling_per_s, |rate| {
        let load = Load { frame_len, rate_per_s: Some(rate), until: Until::Elapsed(trial) };
        let outcome = device.trial(&load)?;
        let passed = outcome.lost_percent() <= tolerated_percent;
        if passed {
            reached = reached.max(outcome.sent_per_s().min(rate));
        }
        Ok(passed)
    })?;
    Ok(reached)
}

/// The longest burst, frames, of which none is lost (RFC 9004).
///
/// # Errors
/// As [`Device::trial`].
pub fn longest_burst(device: &mut impl Device, frame_len: usize, ceiling: u64) -> Result<u64> {
    let longest = largest(ceiling as f64, |frames| {
        let until = Until::Frames((frames as u64).max(1));
        let outcome = device.trial(&Load { frame_len, rate_per_s: None, until })?;
        Ok(outcome.received == outcome.sent)
    })?;
    Ok(longest as u64)
}

/// The share that is lost, percent, at tenths of a rate from the top down, until twice in a row nothing is lost (RFC 2544,
/// section 26.3): rates that were really sent, and losses.
///
/// # Errors
/// As [`Device::trial`].
pub fn loss_curve(
    device: &mut impl Device,
    frame_len: usize,
    trial: Duration,
    top_per_s: f64,
) -> Result<Vec<(f64, f64)>> {
    let mut curve = Vec::new();
    let mut lossless = 0;
    for tenths in (1..=10).rev() {
        let rate_per_s = Some(top_per_s * f64::from(tenths) / 10.0);
        let load = Load { frame_len, rate_per_s, until: Until::Elapsed(trial) };
        let outcome = device.trial(&load)?;
        curve.push((outcome.sent_per_s(), outcome.lost_percent()));
        lossless = if outcome.received == outcome.sent { lossless + 1 } else { 0 };
        if lossless == 2 {
            break;
        }
    }
    Ok(curve)
}

/// The largest value up to the ceiling that passes, to a resolution; 0 if none does.
fn largest(ceiling: f64, mut passes: impl FnMut(f64) -> Result<bool>) -> Result<f64> {
    let mut verified = |value: f64| {
        for _ in 0..ATTEMPTS {
            if passes(value)? {
                return Ok(true);
            }
        }
        anyhow::Ok(false)
    };
    if verified(ceiling)? {
        return Ok(ceiling);
    }
    let (mut low, mut high) = (0.0, ceiling);
    while high - low > ceiling * RESOLUTION {
        let middle = f64::midpoint(low, high);
        if verified(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forwards so many frames a second and loses the rest; holds so many of a burst. Every `hiccup`th trial loses a frame.
    struct Fake {
        capacity_per_s: f64,
        queue: u64,
        hiccup: u64,
        trials: u64,
    }

    impl Device for Fake {
        fn trial(&mut self, load: &Load) -> Result<Outcome> {
            self.trials += 1;
            let elapsed = Duration::from_secs(1);
            let (sent, room) = match (load.until, load.rate_per_s) {
                (Until::Frames(count), _) => (count, self.queue),
                (Until::Elapsed(_), rate) => {
                    (rate.unwrap_or(f64::INFINITY).min(1e6) as u64, self.capacity_per_s as u64)
                }
            };
            let lost = u64::from(self.trials.is_multiple_of(self.hiccup));
            let received = sent.min(room) - lost;
            Ok(Outcome { sent, elapsed, received, ..Outcome::default() })
        }
    }

    fn fake(hiccup: u64) -> Fake {
        Fake { capacity_per_s: 100_000.0, queue: 1_000, hiccup, trials: 0 }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn throughput_is_found_though_trials_fail_by_chance() {
        for hiccup in [u64::MAX, 3, 2] {
            let found = throughput(&mut fake(hiccup), 60, SECOND, 0.0, 300_000.0).unwrap();
            assert!((95_000.0..=100_000.0).contains(&found), "{found} with hiccup {hiccup}");
        }
        let all = throughput(&mut fake(u64::MAX), 60, SECOND, 0.0, 50_000.0).unwrap();
        assert_eq!(all, 50_000.0);
        let none = throughput(&mut fake(1), 60, SECOND, 0.0, 300_000.0).unwrap();
        assert_eq!(none, 0.0);
        // A quarter may be lost: 133,333 offered.
        let tolerant = throughput(&mut fake(u64::MAX), 60, SECOND, 25.0, 300_000.0).unwrap();
        assert!((128_000.0..=133_400.0).contains(&tolerant), "{tolerant}");
    }

    #[test]
    fn the_longest_burst_is_what_the_queue_holds() {
        let found = longest_burst(&mut fake(u64::MAX), 60, 10_000).unwrap();
        assert!((840..=1_000).contains(&found), "{found}");
    }

    #[test]
    fn a_loss_curve_ends_after_two_lossless_rates() {
        let curve = loss_curve(&mut fake(u64::MAX), 60, SECOND, 200_000.0).unwrap();
        let lost: Vec<f64> = curve.iter().map(|(_, lost)| lost.round()).collect();
        assert_eq!(lost, [50.0, 44.0, 38.0, 29.0, 17.0, 0.0, 0.0]);
        assert_eq!(curve[5].0, 100_000.0);
    }
}
