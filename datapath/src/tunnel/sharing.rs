//! Whether a flow that fills a tunnel has it to itself.
//!
//! Long rounds of work cost the least per byte, and so does keeping as much in flight as there is; but whatever comes in between waits for all of it. With one flow
//! alone nobody waits. While short frames of other flows come too (pings, queries, keystrokes), rounds are short and little is in flight,
//! which costs about a fifth more CPU time per byte. Several flows that fill the tunnel wait for one another by turns anyway.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::tunnel::queue::KEEP_FROM;

/// Frames longer than that, bytes, are not sparse: they fill the tunnel too.
const SPARSE_MAX: usize = 2_048;
/// For how long a flow counts after its last frame; one of long frames for up to twice as long.
const MEMORY: Duration = Duration::from_secs(2);
/// Flows that fill the tunnel and are told apart; a short frame of one of them is none of another flow.
const BULK_FLOWS: usize = 8;
/// So many short frames without a longer break are a flow; fewer are a connection's handshake, ARP, what a host says of its multicast groups.
const SPARSE_FRAMES: u32 = 16;

/// Whether one tunnel is shared by flows now, from the frames that went through it of late.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    /// The flows of long frames: of late, and of the time before.
    bulk: [VecDeque<u32>; 2],
    turned_at: Option<Instant>,
    /// When the last short frame of another flow was seen, and how many without a long break.
    sparse: Option<(Instant, u32)>,
    /// One came since the last look.
    saw_sparse: bool,
}

impl Sharing {
    /// A frame of this length and flow comes.
    #[inline]
    pub(crate) fn note(&mut self, frame_len: usize, flow: u32) {
        if frame_len >= KEEP_FROM {
            let flows = &mut self.bulk[0];
            if !flows.contains(&flow) {
                flows.truncate(BULK_FLOWS - 1);
                flows.push_front(flow);
            }
        } else if frame_len <= SPARSE_MAX && !self.saw_sparse && self.has_bulk() {
            self.saw_sparse = !self.bulk.iter().any(|flows| flows.contains(&flow));
        }
    }

    /// Whether others want to get past a flow that fills the tunnel.
    pub(crate) fn is_shared(&mut self, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < MEMORY;
        if self.turned_at.filter(is_recent).is_none() {
            self.turned_at = Some(now);
            self.bulk.swap(0, 1);
            self.bulk[0].clear();
        }
        self.sparse = self.sparse.filter(|(last, _)| is_recent(last));
        if std::mem::take(&mut self.saw_sparse) {
            let seen = self.sparse.map_or(0, |(_, seen)| seen);
            self.sparse = Some((now, seen.saturating_add(1)));
        }
        self.has_bulk() && self.sparse.is_some_and(|(_, seen)| seen >= SPARSE_FRAMES)
    }

    #[inline]
    fn has_bulk(&self) -> bool {
        self.bulk.iter().any(|flows| !flows.is_empty())
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
            sharing.note(LONG, 1);
            sharing.note(SHORT, 1);
            assert!(!sharing.is_shared(now));
        }
    }

    #[test]
    fn flows_that_fill_the_tunnel_together_share_it_with_no_sparse_one() {
        let (now, mut sharing) = (Instant::now(), Sharing::default());
        for turn in 0..100 {
            sharing.note(LONG, turn % 4);
            sharing.note(SHORT, (turn + 1) % 4);
            // The first frame of a flow may be a short one.
            assert!(!sharing.is_shared(now), "{turn}");
        }
        for turn in 0..SPARSE_FRAMES {
            sharing.note(LONG, turn % 4);
            sharing.note(SHORT, 4);
            assert_eq!(sharing.is_shared(now), turn >= SPARSE_FRAMES - 4, "{turn}");
        }
    }

    #[test]
    fn a_flow_of_short_frames_beside_a_long_one_is_noticed_and_forgotten() {
        let (start, mut sharing) = (Instant::now(), Sharing::default());
        for tenth in 0..100 {
            let now = start + Duration::from_millis(100) * tenth;
            sharing.note(LONG, 1);
            if tenth < 40 {
                sharing.note(SHORT, 2);
            }
            assert_eq!(sharing.is_shared(now), (15..59).contains(&tenth), "{tenth}");
        }
    }

    #[test]
    fn a_few_short_frames_are_no_flow() {
        let (start, mut sharing) = (Instant::now(), Sharing::default());
        for second in 0..100 {
            sharing.note(LONG, 1);
            if second % 20 < u64::from(SPARSE_FRAMES) - 1 {
                sharing.note(SHORT, 2);
            }
            assert!(!sharing.is_shared(start + Duration::from_secs(second)));
        }
    }

    #[test]
    fn flows_that_fill_nothing_share_nothing() {
        let (start, mut sharing) = (Instant::now(), Sharing::default());
        sharing.note(SHORT, 2);
        for _ in 0..SPARSE_FRAMES {
            assert!(!sharing.is_shared(start));
            sharing.note(LONG, 1);
            sharing.note(SHORT, 2);
        }
        assert!(sharing.is_shared(start));
        // The long flow has ended.
        assert!(!sharing.is_shared(start + MEMORY));
        let later = start + 2 * MEMORY;
        assert!(!sharing.is_shared(later));
        sharing.note(SHORT, 2);
        assert!(!sharing.is_shared(later));
    }
}
