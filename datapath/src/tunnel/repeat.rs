//! Small frames twice, on paths that lose packets.
//!
//! A TCP receiver that gets superframes acknowledges each but once, and the acknowledgements of a round share a datagram. Where a path loses packets
//! and windows are small, that datagram is often all that the sender will hear: its loss costs a time-out of milliseconds, and the single segment that TCP
//! probes with then another 40 ms of delayed acknowledgement. Packet by packet several acknowledgements would have crossed, and one of them would do. So while
//! the path loses packets the last datagram of a burst, if it is short, is followed by another packet with the same whole frames; the peer ignores those that it
//! has. That serves every other small frame that comes alone as well.

use bytes::Bytes;

use crate::record::whole_frames;

/// Longer datagrams are not repeated: five acknowledgements with their options, or a query. Bytes.
const REPEATED_MAX: usize = 512;
/// The share of packets lost above which a path counts as one that loses packets: below, a time-out now and then costs less than a packet for each burst.
const LOSSY_ABOVE: f64 = 0.000_5;
/// What a second counts for after each further second: the memory is some ten seconds long, since a quiet tunnel sends no more than some packets a second.
const MEMORY: f64 = 0.9;

/// What is repeated of one connection's datagrams.
#[derive(Debug, Default)]
pub(crate) struct Repeater {
    /// Packets of the connection so far.
    sent_total: u64,
    /// Those of them that were lost.
    lost_total: u64,
    /// The same of late.
    sent: f64,
    lost: f64,
    last: Bytes,
}

impl Repeater {
    /// Takes note, once a second, of how many packets were sent so far and how many of them were lost.
    pub(crate) fn observe(&mut self, sent_total: u64, lost_total: u64) {
        let since = |total: u64, before: u64| total.saturating_sub(before) as f64;
        self.sent = self.sent * MEMORY + since(sent_total, self.sent_total);
        self.lost = self.lost * MEMORY + since(lost_total, self.lost_total);
        (self.sent_total, self.lost_total) = (sent_total, lost_total);
    }

    /// Whether the path loses packets.
    #[inline]
    pub(crate) fn is_lossy(&self) -> bool {
        self.lost > self.sent * LOSSY_ABOVE
    }

    /// The last datagram of a burst, which goes out now.
    #[inline]
    pub(crate) fn burst_ends(&mut self, datagram: &Bytes) {
        if datagram.len() <= REPEATED_MAX && self.is_lossy() {
            self.last = datagram.clone();
        }
    }

    /// What is to go out in another packet, when the burst has gone; empty if nothing is.
    #[inline]
    pub(crate) fn take(&mut self) -> Bytes {
        if self.last.is_empty() {
            return Bytes::new();
        }
        whole_frames(&std::mem::take(&mut self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{frame::Offload, record::RecordWriter};

    /// The end of a burst of frames of these lengths.
    fn tail(frame_lens: &[usize]) -> Bytes {
        let (mut writer, mut last) = (RecordWriter::new(), Bytes::new());
        for len in frame_lens {
            writer.push_bytes(1_000, Offload::NONE, 0, &vec![7; *len], &mut |datagram| {
                last = datagram;
            });
        }
        writer.flush(&mut |datagram| last = datagram);
        last
    }

    fn repeated(repeater: &mut Repeater, datagram: &Bytes) -> Bytes {
        repeater.burst_ends(datagram);
        repeater.take()
    }

    #[test]
    fn only_a_path_that_loses_packets_gets_repeats_until_it_is_good_for_a_while() {
        let (mut repeater, datagram) = (Repeater::default(), tail(&[60, 60]));
        assert_eq!(repeated(&mut repeater, &datagram), Bytes::new());
        repeater.observe(10_000, 4);
        assert_eq!(repeated(&mut repeater, &datagram), Bytes::new());
        repeater.observe(20_000, 14);
        assert_eq!(repeated(&mut repeater, &datagram), datagram);
        assert_eq!(repeater.take(), Bytes::new(), "once");
        let mut seconds = 0;
        while !repeated(&mut repeater, &datagram).is_empty() {
            seconds += 1;
            repeater.observe(20_000 + 1_000 * seconds, 14);
        }
        assert!((2..30).contains(&seconds), "{seconds}");
    }

    #[test]
    fn whole_frames_are_repeated_and_only_in_short_datagrams() {
        let mut repeater = Repeater::default();
        repeater.observe(100, 50);
        // The last piece of a long frame is before them.
        let datagram = tail(&[1_200, 60, 70]);
        let frames = repeated(&mut repeater, &datagram);
        assert_eq!(frames, datagram.slice(datagram.len() - 60 - 70 - 2 * 7..));
        assert_eq!(repeated(&mut repeater, &tail(&[1_200])), Bytes::new(), "no whole frame");
        assert_eq!(repeated(&mut repeater, &tail(&[600])), Bytes::new(), "too long");
    }
}
