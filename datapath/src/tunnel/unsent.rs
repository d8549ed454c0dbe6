//! Which frames wait in QUIC's send queue.
//!
//! `quinn-proto` says how many bytes wait, not what. The queue is first in, first out, so what was handed over last is what waits: the
//! lengths of the last datagrams, added up, tell how many of them those bytes are, and the first record of a datagram tells which
//! frame begins there. When the connection ends, the frames of which nothing was sent are counted; those that were sent in part
//! are the receiver's to count.
//!
//! Datagrams that QUIC drops from its queue because the path MTU shrank leave a gap in the numbers that the receiver sees. If the
//! connection ends while others still wait that were queued before them, a few frames may be counted at both ends.

use std::collections::VecDeque;

use crate::{quic::transport::SEND_QUEUE_BYTES, record::Sequence};

/// Below this many datagrams those that were sent are not sorted out.
const SORT_OUT_FROM: usize = 4_096;

/// A datagram as it was handed to QUIC.
#[derive(Clone, Copy, Debug)]
struct HandedOver {
    /// The first frame that begins in it, or after it.
    first_begun: Sequence,
    /// What it takes of QUIC's queue, bytes.
    cost: u32,
}

/// The last datagrams that were handed to QUIC: all that wait in its queue, and some that were sent.
#[derive(Debug)]
pub(crate) struct Unsent {
    /// The latest is at the back. Bounded: what QUIC's queue holds, doubled, or a few thousand.
    handed_over: VecDeque<HandedOver>,
    /// Room in QUIC's queue, bytes, when nothing waits.
    room_when_empty: usize,
    sort_out_at: usize,
}

impl Unsent {
    /// Nothing waits, and QUIC's queue has room for one datagram of so many bytes.
    pub(crate) fn new(room_when_empty: usize) -> Self {
        Self { handed_over: VecDeque::new(), room_when_empty, sort_out_at: SORT_OUT_FROM }
    }

    /// Notes a datagram that was put into QUIC's queue when that had `room` bytes left.
    #[inline]
    pub(crate) fn push(&mut self, first_begun: Sequence, len: usize, room: usize) {
        if self.handed_over.len() >= self.sort_out_at {
            let sent = self.sent(room);
            self.handed_over.drain(..sent);
            self.sort_out_at = SORT_OUT_FROM.max(2 * self.handed_over.len());
        }
        // QUIC keeps as much free for the next datagram's bookkeeping as it takes for one that waits.
        let overhead = SEND_QUEUE_BYTES - self.room_when_empty;
        self.handed_over.push_back(HandedOver { first_begun, cost: (overhead + len) as u32 });
    }

    /// Frames before `next` of which nothing was sent, when QUIC's queue has `room` bytes left. Forgets them.
    pub(crate) fn take_frames(&mut self, next: Sequence, room: usize) -> u64 {
        let sent = self.sent(room);
        let first = self.handed_over.get(sent).map(|datagram| datagram.first_begun);
        self.handed_over.clear();
        first.map_or(0, |first| u64::try_from(next.distance_from(first)).unwrap_or(0))
    }

    /// How many of the datagrams, from the front, are no longer in QUIC's queue.
    fn sent(&self, room: usize) -> usize {
        let mut rest = self.room_when_empty.saturating_sub(room);
        let waits = |datagram: &&HandedOver| match rest.checked_sub(datagram.cost as usize) {
            Some(less) => {
                rest = less;
                true
            }
            None => false,
        };
        self.handed_over.len() - self.handed_over.iter().rev().take_while(waits).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frame::Offload,
        record::{RecordWriter, first_begun},
    };
    use bytes::Bytes;

    const DATAGRAM_LEN: usize = 1_000;
    const OVERHEAD: usize = 32;
    const ROOM_WHEN_EMPTY: usize = SEND_QUEUE_BYTES - OVERHEAD;

    /// The room that these leave.
    fn room_beside(waiting: &[Bytes]) -> usize {
        let queued: usize = waiting.iter().map(|datagram| OVERHEAD + datagram.len()).sum();
        ROOM_WHEN_EMPTY - queued
    }

    /// The datagrams that frames of these lengths make, and the number of the frame after them.
    fn datagrams(frame_lens: &[usize]) -> (Vec<Bytes>, Sequence) {
        let mut writer = RecordWriter::new();
        let mut datagrams = Vec::new();
        for len in frame_lens {
            writer.push_bytes(DATAGRAM_LEN, Offload::NONE, 0, &vec![7; *len], &mut |datagram| {
                datagrams.push(datagram);
            });
        }
        writer.flush(&mut |datagram| datagrams.push(datagram));
        (datagrams, writer.next_frame())
    }

    /// What is counted when all but the first `sent` datagrams wait.
    fn frames_lost(frame_lens: &[usize], sent: usize) -> u64 {
        let (datagrams, next) = datagrams(frame_lens);
        let mut unsent = Unsent::new(ROOM_WHEN_EMPTY);
        for (at, datagram) in datagrams.iter().enumerate() {
            unsent.push(first_begun(datagram), datagram.len(), room_beside(&datagrams[..at]));
        }
        unsent.take_frames(next, room_beside(&datagrams[sent..]))
    }

    #[test]
    fn frames_count_unless_a_piece_of_them_was_sent() {
        // Frames 0 and 1 share the first datagram with the beginning of 2, which ends in the third together with 3.
        let lens = [300, 300, 1_800, 60];
        assert_eq!(datagrams(&lens).0.len(), 3);
        assert_eq!([0, 1, 2, 3].map(|sent| frames_lost(&lens, sent)), [4, 1, 1, 0]);
    }

    #[test]
    fn a_frame_that_begins_in_a_datagram_of_its_own_counts() {
        let lens = [950, 950, 950];
        assert_eq!(datagrams(&lens).0.len(), 3);
        assert_eq!([0, 1, 2, 3].map(|sent| frames_lost(&lens, sent)), [3, 2, 1, 0]);
    }

    #[test]
    fn what_was_sent_is_forgotten() {
        let datagrams = vec![Bytes::from_static(&[1; DATAGRAM_LEN]); 3];
        let mut unsent = Unsent::new(ROOM_WHEN_EMPTY);
        for _ in 0..10 * SORT_OUT_FROM {
            unsent.push(Sequence(0), datagrams[0].len(), room_beside(&datagrams[..1]));
        }
        assert!(unsent.handed_over.len() <= SORT_OUT_FROM);
        assert_eq!(unsent.sent(room_beside(&datagrams)), unsent.handed_over.len() - 3);
    }
}
