//! Storm control: a token bucket per port for what would be flooded.

use std::time::Instant;

/// Flooded frames (broadcast, multicast, unknown destination) a second that one port may send into the switch: 100 times what a busy
/// segment of some hundred hosts makes, and a tenth of what one core carries.
pub(crate) const STORM_RATE_FRAMES: u32 = 20_000;
/// Frames at once, half a second's worth.
pub(crate) const STORM_BURST_FRAMES: u32 = 10_000;

/// A token bucket (RFC 2697, one rate, one colour), in frames.
#[derive(Debug, Clone)]
pub(crate) struct TokenBucket {
    rate: u32,
    burst: u32,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// Full at `now`; `rate` in frames a second.
    pub(crate) fn new(rate: u32, burst: u32, now: Instant) -> Self {
        Self { rate, burst, tokens: f64::from(burst), filled: now }
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if now > self.filled {
            let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
            self.tokens = (self.tokens + elapsed * f64::from(self.rate)).min(f64::from(self.burst));
            self.filled = now;
        }
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn burst_then_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(100, 10, start);
        assert_eq!((0..50).filter(|_| bucket.take(start)).count(), 10);
        let later = start + Duration::from_millis(50);
        assert_eq!((0..50).filter(|_| bucket.take(later)).count(), 5);
        let idle = start + Duration::from_secs(30);
        let mut never_used = TokenBucket::new(100, 10, start);
        assert_eq!((0..50).filter(|_| never_used.take(idle)).count(), 10);
        let much_later = start + Duration::from_secs(60);
        assert_eq!((0..50).filter(|_| bucket.take(much_later)).count(), 10);
    }
}
