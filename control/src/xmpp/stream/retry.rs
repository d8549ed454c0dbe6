//! When to try again: soon at first, then ever more rarely, and never in step with the other nodes of a server that
//! restarts.

use std::time::Duration;

use crate::rng::Rng;

use super::failure::Failure;

/// A server that restarts is back within a second.
const FIRST: Duration = Duration::from_millis(300);
/// Part of a wait by which it varies, either way.
const JITTER: f64 = 0.4;
/// A session that lasts this long was a success, and its end is a first failure again.
pub(super) const LASTING: Duration = Duration::from_secs(30);
/// Whoever was thrown out by another session of the same name comes back no sooner, or the two would throw each other
/// out without end.
const AFTER_CONFLICT: Duration = Duration::from_secs(20);

/// Counts failures in a row.
#[derive(Debug)]
pub(super) struct Retry {
    failures: u32,
    cap: Duration,
    random: Rng,
}

impl Retry {
    pub(super) fn new(cap: Duration, seed: u64) -> Self {
        Self { failures: 0, cap, random: Rng::new(seed) }
    }

    /// Starts over.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after `failure`.
    pub(super) fn after(&mut self, failure: &Failure) -> Duration {
        if *failure == Failure::Moved {
            return Duration::ZERO;
        }
        let doubled = FIRST.saturating_mul(1 << self.failures.min(16)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        let is_conflict =
            matches!(failure, Failure::Stream { condition, .. } if condition == "conflict");
        let wait = if is_conflict { doubled.max(AFTER_CONFLICT.min(self.cap)) } else { doubled };
        wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * self.random.fraction())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: Duration = Duration::from_secs(60);

    #[test]
    fn waits_double_up_to_the_cap() {
        let mut retry = Retry::new(CAP, 7);
        for expected_ms in [300, 600, 1_200, 2_400, 4_800, 9_600, 19_200, 38_400, 60_000, 60_000] {
            let ratio = retry.after(&Failure::Closed).as_secs_f64() * 1e3 / f64::from(expected_ms);
            assert!((ratio - 1.0).abs() <= JITTER, "{ratio} of {expected_ms} ms");
        }
        retry.reset();
        assert!(retry.after(&Failure::Closed) < FIRST * 2);
    }

    #[test]
    fn a_conflict_waits_long_at_once() {
        let conflict =
            Failure::Stream { condition: "conflict".into(), text: String::new(), elsewhere: None };
        assert!(Retry::new(CAP, 1).after(&conflict) > Duration::from_secs(10));
    }
}
