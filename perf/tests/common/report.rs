//! The counters that `ipop-switch` prints at SIGUSR1, and waiting for what they should say.

use std::{fmt, thread, time::Duration, time::Instant};

use ipop_perf::lab::{Process, Signal, wait_until};
use serde_json::Value;

use super::SOON;

/// One report.
pub(crate) struct Report(Value);

/// A TAP or a peer in a report: the counters of its port.
#[derive(Clone, Copy)]
pub(crate) struct Port<'a>(&'a Value);

impl Report {
    /// Sends the signal and reads the line that answers it.
    pub(crate) fn ask(process: &mut Process) -> Self {
        let lines = |text: &str| text.matches('\n').count();
        let before = lines(&process.stdout());
        process.signal(Signal::USR1).unwrap_or_else(|error| panic!("{error:#}"));
        let answered = wait_until(SOON, || lines(&process.stdout()) > before);
        assert!(answered, "{} answers no SIGUSR1:\n{}", process.label(), process.stderr());
        let text = process.stdout();
        let line = text.lines().nth(before).expect("a line more than before");
        Self(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// The peers, in the order of the command line.
    pub(crate) fn peers(&self) -> impl Iterator<Item = Port<'_>> {
        self.array("peers")
    }

    /// The peer of this number.
    pub(crate) fn peer(&self, number: usize) -> Port<'_> {
        self.peers().nth(number).unwrap_or_else(|| panic!("no peer {number}: {self}"))
    }

    /// The TAP of this number.
    pub(crate) fn tap(&self, number: usize) -> Port<'_> {
        let tap = self.array("taps").nth(number);
        tap.unwrap_or_else(|| panic!("no TAP {number}: {self}"))
    }

    /// Frames that are known not to have arrived where they were meant to: dropped by the switch or by the kernel at its TAP, or lost on the way to it.
    pub(crate) fn lost_frames(&self) -> u64 {
        let of = |port: Port<'_>| {
            port.drops() + port.count("missing_frames") + port.count("kernel_tx_dropped")
        };
        self.array("taps").chain(self.peers()).map(of).sum()
    }

    /// The whole of it.
    pub(crate) fn json(&self) -> &Value {
        &self.0
    }

    fn array(&self, key: &str) -> impl Iterator<Item = Port<'_>> {
        self.0[key].as_array().into_iter().flatten().map(Port)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<'a> Port<'a> {
    /// A counter; one that this kind of port lacks is zero.
    pub(crate) fn count(self, counter: &str) -> u64 {
        self.0[counter].as_u64().unwrap_or(0)
    }

    /// Frames dropped, for whatever reason.
    pub(crate) fn drops(self) -> u64 {
        let drops = self.0["drops"].as_object().into_iter().flatten();
        drops.filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// Frames dropped for this reason.
    pub(crate) fn drops_of(self, reason: &str) -> u64 {
        self.0["drops"][reason].as_u64().unwrap_or(0)
    }

    /// Whether a peer is up.
    pub(crate) fn is_up(self) -> bool {
        self.0["state"] == "up"
    }

    /// The lanes of a peer that are up.
    pub(crate) fn lanes(self) -> usize {
        self.0["lanes"].as_array().map_or(0, Vec::len)
    }

    /// The same port in each worker.
    pub(crate) fn workers(self) -> impl Iterator<Item = Port<'a>> {
        self.0["workers"].as_array().into_iter().flatten().map(Port)
    }

    /// The whole of it.
    pub(crate) fn json(self) -> &'a Value {
        self.0
    }
}

/// Asks again until the answer is good; when it never is, fails with the last one.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if Instant::now() >= deadline => panic!("waiting for {what}: {last}"),
            Err(_) => thread::sleep(Duration::from_millis(250)),
        }
    }
}
