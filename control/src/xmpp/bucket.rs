//! A token bucket, for limits in both directions: what a sender may make this node do, and what this node sends.

use std::time::{Duration, Instant};

/// Fills at a constant rate up to its size.
#[derive(Clone, Debug)]
pub struct Bucket {
    per_s: f64,
    size: f64,
    level: f64,
    filled_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(now: Instant, per_s: u32, size: u32) -> Self {
        Self {
            per_s: f64::from(per_s),
            size: f64::from(size),
            level: f64::from(size),
            filled_at: now,
        }
    }

    /// Takes `amount` if it is there.
    pub fn take(&mut self, now: Instant, amount: u32) -> bool {
        self.fill(now);
        if self.level < f64::from(amount) {
            return false;
        }
        self.level -= f64::from(amount);
        true
    }

    /// Takes `amount` in any case; what is missing is made up for before [`Self::ready_at`].
    pub fn draw(&mut self, now: Instant, amount: u32) {
        self.fill(now);
        self.level = (self.level - f64::from(amount)).max(-self.size);
    }

    /// When the bucket is, or was, not in debt.
    pub fn ready_at(&self) -> Instant {
        let missing = (-self.level).max(0.0);
        self.filled_at + Duration::from_secs_f64(missing / self.per_s)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.level = (self.level + passed * self.per_s).min(self.size);
        self.filled_at = self.filled_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, 10, 5);
        assert_eq!((0..100).filter(|_| bucket.take(start, 1)).count(), 5);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| bucket.take(later, 1)).count(), 5, "never above its size");
        assert!(bucket.take(later + Duration::from_millis(101), 1));
    }

    #[test]
    fn debt_is_paid_before_it_is_ready_again_and_is_bounded() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, 100, 50);
        bucket.draw(start, 150);
        assert_eq!(bucket.ready_at(), start + Duration::from_millis(500));
        bucket.draw(start, 1_000_000);
        assert_eq!(bucket.ready_at(), start + Duration::from_millis(500));
    }
}
