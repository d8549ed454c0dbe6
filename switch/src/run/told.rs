//! Lines of the log about what may happen with each packet, or with each dial of a stranger: it is told at first, and then every few minutes how
//! often it has happened since.

use std::time::{Duration, Instant};

/// How long nothing is said of what was told.
pub(super) const QUIET: Duration = Duration::from_secs(300);

/// What was told, and how often it has happened since.
#[derive(Default)]
pub(super) struct Told {
    pub(super) at: Option<Instant>,
    since: u64,
}

impl Told {
    /// Notes that it happened so many times; how many have not been told, if it is time to tell.
    pub(super) fn note(&mut self, now: Instant, times: u64) -> Option<u64> {
        self.since += times;
        if self.at.is_some_and(|at| now < at + QUIET) {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}
