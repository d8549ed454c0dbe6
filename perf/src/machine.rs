//! What a measurement ran on, and what disturbed it.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The machine, for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    idle: u64,
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
        self.percent_since(before, self.steal.saturating_sub(before.steal) as f64)
    }

    /// The share of the time since then that was spent on anything but these CPU seconds, in percent: other programs,
    /// and what the kernel does on nobody's account.
    pub fn others_percent_since(self, before: Self, own_s: f64) -> f64 {
        let spare = |at: Self| at.idle + at.steal;
        let busy = self.total.saturating_sub(before.total) as f64
            - spare(self).saturating_sub(spare(before)) as f64;
        let own = own_s * rustix::param::clock_ticks_per_second() as f64;
        self.percent_since(before, (busy - own).max(0.0))
    }

    fn percent_since(self, before: Self, ticks: f64) -> f64 {
        ticks * 100.0 / self.total.saturating_sub(before.total).max(1) as f64
    }

    /// user, nice, system, idle, iowait, irq, softirq, steal; guest time after them is part of user's.
    fn parse(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().take(8);
        let ticks = fields.map(|field| field.parse().ok()).collect::<Option<Vec<u64>>>()?;
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Self { total: ticks.iter().sum(), idle, steal: *ticks.get(7)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_and_others_are_read() {
        let at = |text| CpuTime::parse(text).unwrap();
        let before = at("cpu  100 0 100 700 0 0 0 100 50 0\ncpu0 1 2 3\n");
        let after = at("cpu  150 0 150 750 0 0 0 150 99 0\n");
        assert_eq!(after.steal_percent_since(before), 25.0);
        // 100 of the 200 ticks were busy; half of these were our own.
        let own_s = 50.0 / rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(after.others_percent_since(before, own_s), 25.0);
        assert_eq!(after.others_percent_since(before, 1e9), 0.0);
        assert_eq!(CpuTime::parse("cpu  1 2 3"), None);
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::this().unwrap();
        assert!(machine.cpus > 0 && machine.kernel.contains('.'), "{machine:?}");
    }
}
