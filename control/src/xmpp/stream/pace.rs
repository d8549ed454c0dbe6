//! How much the server may send in a second. What exceeds it stays in the socket, and TCP holds the server back.

use std::time::{Duration, Instant};

/// A token bucket that is asked after the fact: it may go into debt by one helping, and then has to be waited for.
#[derive(Debug)]
pub(super) struct Bucket {
    per_s: f64,
    capacity: f64,
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    pub(super) fn new(per_s: u32, burst_s: u32, now: Instant) -> Self {
        let per_s = f64::from(per_s.max(1));
        let capacity = per_s * f64::from(burst_s.max(1));
        Self { per_s, capacity, tokens: capacity, filled_at: now }
    }

    /// Takes `count` tokens.
    pub(super) fn take(&mut self, now: Instant, count: usize) {
        self.fill(now);
        self.tokens -= count as f64;
    }

    /// When the debt is paid, if there is one.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        (self.tokens < 0.0)
            .then(|| self.filled_at + Duration::from_secs_f64(-self.tokens / self.per_s))
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.per_s).min(self.capacity);
        self.filled_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, 3, start);
        bucket.take(start, 300);
        assert_eq!(bucket.ready_at(), None);
        bucket.take(start, 50);
        assert_eq!(bucket.ready_at(), Some(start + Duration::from_millis(500)));
        bucket.take(start + Duration::from_secs(1), 0);
        assert_eq!(bucket.ready_at(), None);
    }

    #[test]
    fn an_idle_bucket_does_not_fill_beyond_its_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 1, start);
        let later = start + Duration::from_secs(1_000);
        bucket.take(later, 20);
        assert_eq!(bucket.ready_at(), Some(later + Duration::from_secs(1)));
    }
}
