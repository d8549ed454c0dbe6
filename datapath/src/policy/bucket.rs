//! A token bucket, for limits in both directions: what somebody may make this node do, and what this node sends.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ipop_learning::PortId;

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

/// A bucket for each port that took something of late.
#[derive(Debug)]
pub(crate) struct PortBuckets {
    full: Bucket,
    taken_from: HashMap<PortId, Bucket>,
}

impl PortBuckets {
    /// A full one for every port.
    pub(crate) fn new(now: Instant, per_s: u32, size: u32) -> Self {
        Self { full: Bucket::new(now, per_s, size), taken_from: HashMap::new() }
    }

    /// Takes one of a port's if it is there.
    pub(crate) fn take(&mut self, now: Instant, port: PortId) -> bool {
        self.taken_from.entry(port).or_insert_with(|| self.full.clone()).take(now, 1)
    }

    /// Forgets those that are full again, which are like any other port's: those of ports that have gone among them.
    pub(crate) fn forget_full(&mut self, now: Instant) {
        self.taken_from.retain(|_, bucket| bucket.full_at > now);
    }

    /// How many are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.taken_from.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_bucket_for_as_long_as_it_is_not_full() {
        let start = Instant::now();
        let mut buckets = PortBuckets::new(start, 10, 2);
        let [busy, other] = [PortId(900), PortId(3)];
        assert_eq!((0..5).filter(|_| buckets.take(start, busy)).count(), 2);
        assert!(buckets.take(start, other));
        let soon = start + Duration::from_millis(150);
        buckets.forget_full(soon);
        assert_eq!(buckets.taken_from.keys().collect::<Vec<_>>(), [&busy]);
        assert_eq!((0..5).filter(|_| buckets.take(soon, busy)).count(), 1, "not full in between");
        buckets.forget_full(soon + Duration::from_secs(1));
        assert!(buckets.taken_from.is_empty());
    }

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
