//! How fast frames pass each port: the counters as they were at each of the last sixty seconds.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use ipop_datapath::PortId;

use crate::api::types::{Rate, Rates, Traffic};

/// The longest window, in samples of a second each.
const SAMPLES: usize = 60;

/// The counters of each port at times that lie about a second apart, the latest last.
#[derive(Default)]
pub(super) struct RateMeter {
    of_port: HashMap<PortId, VecDeque<(Instant, Traffic)>>,
}

impl RateMeter {
    /// Once a second: the counters of all ports in use. Others are forgotten.
    pub(super) fn sample(&mut self, now: Instant, ports: impl Iterator<Item = (PortId, Traffic)>) {
        let mut before = std::mem::take(&mut self.of_port);
        for (port, traffic) in ports {
            let mut samples = before.remove(&port).unwrap_or_default();
            // The port is another's since.
            if samples.back().is_some_and(|(_, last)| !grew(last, &traffic)) {
                samples.clear();
            }
            samples.push_back((now, traffic));
            if samples.len() > SAMPLES + 1 {
                samples.pop_front();
            }
            self.of_port.insert(port, samples);
        }
    }

    /// The rates of a port up to the latest sample; 0 until there are two.
    pub(super) fn of(&self, port: PortId) -> Rates {
        let Some(samples) = self.of_port.get(&port) else { return Rates::default() };
        let over = |seconds: usize| {
            let first = samples.get(samples.len().saturating_sub(seconds + 1));
            let ends = first.zip(samples.back());
            ends.map_or_else(Rate::default, |(first, last)| rate(first, last))
        };
        Rates { over_1_s: over(1), over_10_s: over(10), over_60_s: over(SAMPLES) }
    }
}

fn grew(before: &Traffic, after: &Traffic) -> bool {
    before.received_frames <= after.received_frames && before.sent_frames <= after.sent_frames
}

fn rate((start, before): &(Instant, Traffic), (end, after): &(Instant, Traffic)) -> Rate {
    let seconds = end.saturating_duration_since(*start).as_secs_f64();
    let per_s = |before: u64, after: u64| {
        if seconds > 0.0 { after.saturating_sub(before) as f64 / seconds } else { 0.0 }
    };
    Rate {
        received_frames_per_s: per_s(before.received_frames, after.received_frames),
        received_bytes_per_s: per_s(before.received_bytes, after.received_bytes),
        sent_frames_per_s: per_s(before.sent_frames, after.sent_frames),
        sent_bytes_per_s: per_s(before.sent_bytes, after.sent_bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sent(frames: u64) -> Traffic {
        Traffic { sent_frames: frames, sent_bytes: 100 * frames, ..Traffic::default() }
    }

    #[test]
    fn each_window_has_its_own_mean() {
        let (mut meter, start, port) = (RateMeter::default(), Instant::now(), PortId(3));
        assert_eq!(meter.of(port), Rates::default());
        // Ten frames a second for 100 s, then 1,000.
        let mut frames = 0;
        for second in 0..=110 {
            meter.sample(start + Duration::from_secs(second), [(port, sent(frames))].into_iter());
            frames += if second < 109 { 10 } else { 1_000 };
        }
        let rates = meter.of(port);
        assert_eq!(rates.over_1_s.sent_frames_per_s, 1_000.0);
        assert_eq!(rates.over_10_s.sent_frames_per_s, (9.0 * 10.0 + 1_000.0) / 10.0);
        assert_eq!(rates.over_60_s.sent_bytes_per_s, 100.0 * (59.0 * 10.0 + 1_000.0) / 60.0);
        assert_eq!(rates.over_60_s.received_frames_per_s, 0.0);
        assert_eq!(meter.of_port[&port].len(), SAMPLES + 1);
    }

    #[test]
    fn a_port_that_goes_is_forgotten_and_one_that_begins_anew_has_no_past() {
        let (mut meter, start, port) = (RateMeter::default(), Instant::now(), PortId(3));
        let at = |second| start + Duration::from_secs(second);
        meter.sample(at(0), [(port, sent(500))].into_iter());
        meter.sample(at(1), [(port, sent(7))].into_iter());
        assert_eq!(meter.of(port), Rates::default(), "the number is another's");
        meter.sample(at(2), [(port, sent(9))].into_iter());
        assert_eq!(meter.of(port).over_60_s.sent_frames_per_s, 2.0);
        meter.sample(at(3), std::iter::empty());
        assert!(meter.of_port.is_empty());
    }
}
