//! A measurement as a folder: `figures.json`, `report.md`.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;

use super::Operate;
use crate::folder;

impl Operate {
    /// Writes the folder's files.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        folder::write(folder, self, &self.markdown(), &[])
    }

    /// The report.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Operation\n\n");
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{} processors of {}, Linux {}; both switches, a TCP flow between them and whoever asks share them. {}. {} requests of each kind, \
             a connection each; flows of {} s.\n",
            machine.cpus, machine.cpu, machine.kernel, self.version, self.requests, self.seconds,
        );
        text.push_str("| asked | the switches are | p50, ms | p99, ms | longest, ms |\n| --- | --- | ---: | ---: | ---: |\n");
        for latency in &self.latencies {
            let state = if latency.saturated { "busy with a TCP flow" } else { "idle" };
            let _ = writeln!(
                text,
                "| `{}` | {state} | {:.2} | {:.2} | {:.2} |",
                latency.path, latency.p50_ms, latency.p99_ms, latency.max_ms
            );
        }
        let _ = writeln!(
            text,
            "\n* `ipop-switch status` takes {:.1} ms from its start to its end.\n\
             * While both switches are asked for status, peers, drops and metrics each second, {:.3} of the throughput is left (the middle of {} pairs).\n\
             * A switch takes {:.1} MB without an API and {:.1} MB with one that was asked.",
            self.status_ms,
            self.polled_share(),
            self.rounds.len(),
            self.rss_kib[0] as f64 / 1e3,
            self.rss_kib[1] as f64 / 1e3,
        );
        text.push_str("\n| alone, Mbit/s | polled, Mbit/s |\n| ---: | ---: |\n");
        for round in &self.rounds {
            let _ = writeln!(
                text,
                "| {:.0} | {:.0} |",
                round.alone_mbit_per_s, round.polled_mbit_per_s
            );
        }
        text
    }
}
