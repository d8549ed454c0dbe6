//! How often and how long ICE tries. The defaults notice a dead path in time for a switch-over within 5 seconds. While a
//! connection watches over the path, checks cost it about 10 bytes a second, both ends and ways together.

use std::time::Duration;

/// Intervals and limits. [`Timing::default`] is what the program uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Between two checks of unproved pairs, over all peers (Ta of RFC 8445, section 14.2).
    pub pace: Duration,
    /// First repetition of a check; doubled for each further one.
    pub initial_rto: Duration,
    /// Longest wait for an answer.
    pub max_rto: Duration,
    /// Checks of a pair before it counts as failed.
    pub transmissions: u32,
    /// Between two checks of the selected pair by the controlling end while nothing else watches over it (RFC 7675 asks for
    /// 5 s or less).
    pub consent: Duration,
    /// Between two checks that only keep consent, which lasts for 30 s, and the mappings of NATs: of the selected pair by the
    /// controlled end, which also sees the checks of the other end, and by both while a connection watches over it; of the
    /// back-up pair.
    pub keepalive: Duration,
    /// How long better pairs of the same sort may still replace the selected one, and all pairs are kept.
    pub settling: Duration,
    /// Without any path for this long the attempt counts as failed (but goes on).
    pub give_up: Duration,
    /// Failed pairs are tried again after this, doubled each time up to `longest_retry`.
    pub first_retry: Duration,
    /// See `first_retry`.
    pub longest_retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pace: Duration::from_millis(5),
            initial_rto: Duration::from_millis(250),
            max_rto: Duration::from_secs(1),
            transmissions: 5,
            consent: Duration::from_secs(2),
            keepalive: Duration::from_secs(20),
            settling: Duration::from_secs(4),
            give_up: Duration::from_secs(10),
            first_retry: Duration::from_secs(3),
            longest_retry: Duration::from_secs(30),
        }
    }
}

/// Without an answer for this long nothing may be sent on a pair any more (RFC 7675, section 5.1).
pub(super) const CONSENT_EXPIRY: Duration = Duration::from_secs(30);
