//! What a measurement ran on, and what disturbed it.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use serde::Serialize;

/// The machine, for the record.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// Logical processors.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The version of `iperf3`.
    pub iperf3: String,
}

impl Machine {
    /// This machine.
    ///
    /// # Errors
    /// When `/proc` can't be read, or `iperf3` is missing.
    pub fn this() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let model =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("reading the kernel's release")?;
        let iperf3 = Command::new("iperf3").arg("--version").output().context("running iperf3")?;
        let iperf3 = String::from_utf8_lossy(&iperf3.stdout);
        Ok(Self {
            cpu: model.map_or("unknown", |(_, model)| model).into(),
            cpus: std::thread::available_parallelism()?.get(),
            kernel: kernel.trim().into(),
            iperf3: iperf3.lines().next().unwrap_or_default().into(),
        })
    }
}

/// The processors' time so far, in ticks, from `/proc/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    total: u64,
    steal: u64,
}

impl CpuTime {
    /// Now.
    ///
    /// # Errors
    /// When `/proc/stat` can't be read.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        Self::parse(&stat).context("/proc/stat is not as expected")
    }

    /// The share of the time since then that other guests of the hypervisor took, in percent.
    pub fn steal_percent_since(self, before: Self) -> f64 {
        let total = self.total.saturating_sub(before.total).max(1);
        self.steal.saturating_sub(before.steal) as f64 * 100.0 / total as f64
    }

    /// user, nice, system, idle, iowait, irq, softirq, steal; guest time after them is part of user's.
    fn parse(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().take(8);
        let ticks = fields.map(|field| field.parse().ok()).collect::<Option<Vec<u64>>>()?;
        Some(Self { total: ticks.iter().sum(), steal: *ticks.get(7)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_read() {
        let at = |text| CpuTime::parse(text).unwrap();
        let before = at("cpu  100 0 100 700 0 0 0 100 50 0\ncpu0 1 2 3\n");
        let after = at("cpu  150 0 150 750 0 0 0 150 99 0\n");
        assert_eq!(after.steal_percent_since(before), 25.0);
        assert_eq!(CpuTime::parse("cpu  1 2 3"), None);
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::this().unwrap();
        assert!(machine.cpus > 0 && machine.kernel.contains('.'), "{machine:?}");
    }
}
