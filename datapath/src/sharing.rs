//! Whether a flow that fills a tunnel has it to itself.
//!
//! Long rounds of work cost the least per byte, and so does keeping as much in flight as there is; but whatever comes in between waits for all of it. With one flow
//! alone nobody waits. As soon as short frames of other flows come too (a ping, a query, keystrokes), rounds are short and little is in flight,
//! which costs about a fifth more CPU time per byte.

use std::time::{Duration, Instant};

use crate::queue::KEEP_FROM;

/// Frames longer than that, bytes, are not sparse: they fill the tunnel too.
const SPARSE_MAX: usize = 2_048;
/// For how long a flow counts after its last frame: pings come once a second.
const MEMORY: Duration = Duration::from_secs(2);
/// Short frames that came over less than this are no flow: the handshake of a connection, an ARP reply.
const SUSTAINED: Duration = Duration::from_millis(100);

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    /// The flow of the last long frame.
    bulk: Option<u32>,
    bulk_at: Option<Instant>,
    /// From when to when short frames of other flows came, without a long break.
    sparse: Option<(Instant, Instant)>,
    /// What came since the last look.
    saw_bulk: bool,
    saw_sparse: bool,
}

impl Sharing {
    /// A frame of this length comes; `hash` gives its flow.
    #[inline]
    pub(crate) fn note(&mut self, frame_len: usize, hash: impl FnOnce() -> u32) {
        if frame_len >= KEEP_FROM {
            self.bulk = Some(hash());
            self.saw_bulk = true;
        } else if frame_len <= SPARSE_MAX && !self.saw_sparse && self.bulk.is_some() {
            self.saw_sparse = self.bulk != Some(hash());
        }
    }

    /// Whether others want to get past a flow that fills the tunnel.
    pub(crate) fn is_shared(&mut self, now: Instant) -> bool {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < MEMORY;
        if std::mem::take(&mut self.saw_bulk) {
            self.bulk_at = Some(now);
        }
        if !self.bulk_at.is_some_and(is_recent) {
            self.bulk = None;
        }
        self.sparse = self.sparse.filter(|(_, last)| is_recent(*last));
        if std::mem::take(&mut self.saw_sparse) {
            self.sparse = Some((self.sparse.map_or(now, |(first, _)| first), now));
        }
        let is_sustained =
            |(first, last): (Instant, Instant)| last.duration_since(first) >= SUSTAINED;
        self.bulk.is_some() && self.sparse.is_some_and(is_sustained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = 60_000;
    const SHORT: usize = 98;

    #[test]
    fn a_flow_alone_shares_with_nobody_whatever_the_length_of_its_frames() {
        let (now, mut sharing) = (Instant::now(), Sharing::default());
        for _ in 0..10 {
            sharing.note(LONG, || 1);
            sharing.note(SHORT, || 1);
            assert!(!sharing.is_shared(now));
        }
    }

    #[test]
    fn a_ping_a_second_beside_a_long_flow_is_enough() {
        let (start, mut sharing) = (Instant::now(), Sharing::default());
        for tenth in 0..100 {
            let now = start + Duration::from_millis(100) * tenth;
            sharing.note(LONG, || 1);
            if tenth % 10 == 5 && tenth < 50 {
                sharing.note(SHORT, || 2);
            }
            assert_eq!(sharing.is_shared(now), (15..65).contains(&tenth), "{tenth}");
        }
    }

    #[test]
    fn flows_that_fill_nothing_share_nothing() {
        let (start, mut sharing) = (Instant::now(), Sharing::default());
        sharing.note(SHORT, || unreachable!("not asked for"));
        assert!(!sharing.is_shared(start));
        sharing.note(LONG, || 1);
        sharing.note(SHORT, || 2);
        assert!(!sharing.is_shared(start));
        sharing.note(SHORT, || 2);
        assert!(sharing.is_shared(start + SUSTAINED));
        // The long flow has ended.
        let later = start + 2 * MEMORY;
        assert!(!sharing.is_shared(later));
        sharing.note(SHORT, || unreachable!("not asked for"));
        assert!(!sharing.is_shared(later));
    }
}
