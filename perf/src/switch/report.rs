//! A benchmark as a folder: `figures.json`, `report.md`, `charts/*.svg`.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;

use super::{
    Benchmark,
    addresses::Caching,
    forwarding::{Latency, TOLERATED_PERCENT},
};
use crate::{
    chart::{self, Curve},
    folder,
};

impl Benchmark {
    /// Writes the folder's files.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        folder::write(folder, self, &self.markdown(), &self.charts())
    }

    /// The report.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# The switch, measured as a switch\n\n");
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{}, {} worker{} at each site, on {} processors of {}, Linux {}; senders and receivers share them. Trials of {} s. \
             Other guests took {:.1} % of the processors meanwhile.\n",
            self.version,
            self.workers,
            if self.workers == 1 { "" } else { "s" },
            machine.cpus,
            machine.cpu,
            machine.kernel,
            self.trial_s,
            self.steal_percent,
        );
        self.forwarding(&mut text);
        self.addresses(&mut text);
        self.fanout(&mut text);
        text
    }

    fn forwarding(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "## From site to site\n\nThousand frames a second; frame sizes with FCS. Latency at 10, 50 and 90 % of the rate at which at most \
             {TOLERATED_PERCENT} % is lost, p50 / p99, us; from the sender's building the frame to the receiver's having read it.\n\n\
             | bytes | no loss | at most {TOLERATED_PERCENT} % lost | Mbit/s then | received of a flood | latency at 10 % | 50 % | 90 % | longest burst | overtaken | twice |\n\
             | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        );
        for size in &self.sizes {
            let latencies: Vec<String> = size.latencies.iter().map(Latency::cell).collect();
            let _ = writeln!(
                text,
                "| {} | {:.1} | {:.1} | {:.0} | {:.1} | {} | {} | {} | {} |",
                size.frame_bytes,
                size.lossless_per_s / 1e3,
                size.tolerant_per_s / 1e3,
                size.tolerant_per_s * size.frame_bytes as f64 * 8.0 / 1e6,
                size.overloaded_per_s / 1e3,
                latencies.join(" | "),
                size.burst_frames,
                size.overtaken,
                size.duplicates,
            );
        }
        let recovery = &self.recovery;
        let _ = writeln!(
            text,
            "\nRecovery: after {:.0} thousand frames a second had been offered, the last loss at {:.0} thousand was {:.1} ms after the change.\n",
            recovery.overload_per_s / 1e3,
            recovery.then_per_s / 1e3,
            recovery.recovered_ms,
        );
    }

    fn addresses(&self, text: &mut String) {
        text.push_str(
            "## Addresses\n\nStations are heard behind one site, then another sends a frame to each; flooded are those that a third site saw.\n\n\
             | stations | heard at, 1/s | heard | delivered | flooded |\n| ---: | ---: | ---: | ---: | ---: |\n",
        );
        for caching in self.learning.capacity.iter().chain(&self.learning.rate) {
            let Caching { stations, learned_per_s, heard, delivered, flooded } = caching;
            let _ = writeln!(
                text,
                "| {stations} | {learned_per_s:.0} | {heard} | {delivered} | {flooded} |"
            );
        }
        let churn = &self.churn;
        let cell = |with: usize| churn.latency[with].as_ref().map_or("-".into(), Latency::cell);
        let _ = writeln!(
            text,
            "\nA flow of {:.0} thousand frames a second lost {:.3} % (latency {} us), and {:.3} % ({} us) while {:.0} new stations a second were heard.\n",
            churn.rate_per_s / 1e3,
            churn.lost_percent[0],
            cell(0),
            churn.lost_percent[1],
            cell(1),
            churn.new_stations_per_s,
        );
    }

    fn fanout(&self, text: &mut String) {
        text.push_str("## One to many, many to one\n\n| broadcast to | offered, 1/s | received at each, 1/s |\n| ---: | ---: | --- |\n");
        for broadcast in &self.broadcasts {
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} |",
                broadcast.peers,
                broadcast.offered_per_s,
                rounded(&broadcast.received_per_s)
            );
        }
        let many = &self.many_to_one;
        let _ = writeln!(
            text,
            "\nFrom {} sites to one, frames of 1518 bytes, each as fast as it goes: {} sent, {} received a second; Jain's index {:.3}.\n",
            many.sent_per_s.len(),
            rounded(&many.sent_per_s),
            rounded(&many.received_per_s),
            many.fairness,
        );
        text.push_str("| frames that must not pass | sent | forwarded | counted as dropped |\n| --- | ---: | ---: | --- |\n");
        for kind in &self.forbidden {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} (`{}`) |",
                kind.kind, kind.sent, kind.forwarded, kind.dropped, kind.reason
            );
        }
    }

    fn charts(&self) -> Vec<(String, String)> {
        let curve = |label: &str, points: Vec<(f64, f64)>| Curve { label: label.into(), points };
        let of_size = |what: fn(&super::OfSize) -> f64| {
            self.sizes.iter().map(|s| (s.frame_bytes as f64, what(s) / 1e3)).collect()
        };
        let throughput = [
            curve("no loss", of_size(|size| size.lossless_per_s)),
            curve("at most 0.1 % lost", of_size(|size| size.tolerant_per_s)),
        ];
        let losses: Vec<Curve> = self
            .sizes
            .iter()
            .map(|size| {
                let points = size.loss_curve.iter().rev().map(|(rate, lost)| (rate / 1e3, *lost));
                curve(&format!("{} bytes", size.frame_bytes), points.collect())
            })
            .collect();
        vec![
            (
                "throughput".into(),
                chart::curves("Thousand frames a second by frame size", "bytes", &throughput),
            ),
            (
                "loss".into(),
                chart::curves("Loss, percent, by rate offered", "thousand a second", &losses),
            ),
        ]
    }
}

impl Latency {
    fn cell(&self) -> String {
        format!("{:.0} / {:.0}", self.p50_us, self.p99_us)
    }
}

fn rounded(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(", ")
}
