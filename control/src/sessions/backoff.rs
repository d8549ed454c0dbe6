//! How long to wait before the next dial: exponential, with jitter, so that nodes that lost one another at the same
//! moment do not meet in step for ever.

use std::time::Duration;

use crate::rng::Rng;

/// The first wait: a lost tunnel is redialled at once, but not by both ends in the same instant.
const FIRST: Duration = Duration::from_millis(50);
/// The second wait; it doubles from here.
const BASE: Duration = Duration::from_millis(250);
/// The longest wait: a peer that comes back is found within this and a handshake.
const CAP: Duration = Duration::from_secs(15);
/// Part of the wait by which it varies, either way.
const JITTER: f64 = 0.25;

/// Counts the failures of one lane.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Starts over after a success that lasted.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure.
    pub(super) fn next(&mut self, rng: &mut Rng) -> Duration {
        let wait = match self.failures {
            0 => FIRST,
            n => BASE.saturating_mul(1 << (n - 1).min(16)).min(CAP),
        };
        self.failures = self.failures.saturating_add(1);
        jittered(wait, rng)
    }

    /// A short wait that is not the consequence of a failure.
    pub(super) fn pause(rng: &mut Rng) -> Duration {
        jittered(BASE, rng)
    }
}

fn jittered(wait: Duration, rng: &mut Rng) -> Duration {
    wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_the_jitter_up_to_the_cap() {
        let mut rng = Rng::new(1);
        let mut backoff = Backoff::default();
        for expected_ms in [50, 250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000] {
            let wait_ms = backoff.next(&mut rng).as_secs_f64() * 1e3;
            let expected_ms = f64::from(expected_ms);
            assert!((wait_ms / expected_ms - 1.0).abs() <= JITTER, "{wait_ms} for {expected_ms}");
        }
        for _ in 0..100 {
            assert!(backoff.next(&mut rng) <= CAP.mul_f64(1.0 + JITTER));
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) < BASE / 2);
    }

    #[test]
    fn jitter_differs_between_seeds_and_repeats_with_one() {
        let waits = |seed| {
            let (mut rng, mut backoff) = (Rng::new(seed), Backoff::default());
            (0..8).map(|_| backoff.next(&mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }
}
