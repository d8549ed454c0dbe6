//! A token bucket, for limits in both directions: what somebody may make this node do, and what this node sends.

use std::time::{Duration, Instant};

/// Fills at a constant rate up to its size (RFC 2697, one rate, one colour).
#[derive(Debug, Clone)]
pub struct Bucket {
    /// What one token takes to come.
    pause: Duration,
    size: u32,
    /// When it is full again, if nothing more is taken.
    full_at: Instant,
}

impl Bucket {
    /// A full bucket of `size` tokens, into which `per_s` come in a second; neither may be 0.
    pub fn new(now: Instant, per_s: u32, size: u32) -> Self {
        Self::every(now, Duration::from_secs(1) / per_s, size)
    }

    /// A full bucket of `size` tokens, into which one comes after each pause.
    pub fn every(now: Instant, pause: Duration, size: u32) -> Self {
        Self { pause, size, full_at: now }
    }

    /// Takes `amount` if it is there.
    pub fn take(&mut self, now: Instant, amount: u32) -> bool {
        let full_at = self.full_at.max(now) + self.pause * amount;
        let allowed = full_at <= now + self.pause * self.size;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }

    /// Takes `amount` in any case. A debt is made up for before [`Self::ready_at`]; it is as large as the bucket at most.
    pub fn draw(&mut self, now: Instant, amount: u32) {
        let (debt, full) = (self.pause * amount.min(2 * self.size), self.full_at.max(now));
        self.full_at = (full + debt).min(now + self.pause * self.size * 2);
    }

    /// When there is, or was, so much in the bucket; with 0, when it is not in debt.
    pub fn ready_at(&self, amount: u32) -> Instant {
        let rest = self.pause * self.size.saturating_sub(amount);
        self.full_at.checked_sub(rest).unwrap_or(self.full_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, 100, 10);
        assert_eq!((0..50).filter(|_| bucket.take(start, 1)).count(), 10);
        assert_eq!(bucket.ready_at(1), start + Duration::from_millis(10));
        let later = start + Duration::from_millis(50);
        assert_eq!((0..50).filter(|_| bucket.take(later, 1)).count(), 5);
        let idle = start + Duration::from_secs(30);
        let mut never_used = Bucket::new(start, 100, 10);
        assert_eq!(
            (0..50).filter(|_| never_used.take(idle, 1)).count(),
            10,
            "never above its size"
        );
        assert_eq!((0..50).filter(|_| bucket.take(idle, 3)).count(), 3);
        let mut rare = Bucket::every(start, Duration::from_secs(60), 1);
        assert!(rare.take(start, 1) && !rare.take(start + Duration::from_secs(59), 1));
        assert!(rare.take(start + Duration::from_secs(60), 1));
    }

    #[test]
    fn debt_is_paid_before_it_is_ready_again_and_is_bounded() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, 100, 50);
        bucket.draw(start, 50);
        assert_eq!(bucket.ready_at(0), start);
        bucket.draw(start, 50);
        assert_eq!(bucket.ready_at(0), start + Duration::from_millis(500));
        bucket.draw(start, u32::MAX);
        assert_eq!(bucket.ready_at(0), start + Duration::from_millis(500));
        let mut full = Bucket::new(start, 100, 50);
        full.draw(start, u32::MAX);
        assert_eq!(full.ready_at(0), start + Duration::from_millis(500), "at one draw too");
    }
}
