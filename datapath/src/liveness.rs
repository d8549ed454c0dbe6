//! Whether the far end of a connection still answers: silence is told long before QUIC gives the connection up, so that
//! another path can be looked for meanwhile.
//!
//! Looked at now and then while the connection is busy; when it is not, QUIC's probe timer makes it busy as long as
//! something waits for an acknowledgement. The first look notices that something waits, a later one that nothing has come
//! since.

use std::time::{Duration, Instant};

use quinn_proto::Connection;

/// Silence for less than this, or than two round trips, is nothing: far more than an acknowledgement is held back.
const SILENCE: Duration = Duration::from_millis(250);

/// Between two looks: what QUIC counts is copied for each.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(crate) struct Liveness {
    looked_at: Option<Instant>,
    /// Acknowledgements that had come at the last look that saw a new one, and what had been sent by then.
    acknowledgements: u64,
    sent: u64,
    /// When it was first seen that something sent after that waits, and when that was told last.
    waits_since: Option<Instant>,
    told_at: Option<Instant>,
}

impl Liveness {
    /// Since when nothing has been heard though something waits, as of the last look.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.waits_since
    }

    /// The round-trip time of before, if it is to be told that nothing is heard: after a while, again after as long, and
    /// whenever the caller has to know.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        must_know: bool,
        connection: &Connection,
    ) -> Option<Duration> {
        if !must_know && self.looked_at.is_some_and(|at| now < at + LOOK_EVERY) {
            return None;
        }
        self.looked_at = Some(now);
        let stats = connection.stats();
        let sent = &stats.frame_tx;
        // What is acknowledged, apart from the handshake. QUIC's probes are the last two.
        let sent = sent.datagram + sent.stream + sent.ping + sent.immediate_ack;
        let rtt = stats.path.rtt;
        let is_news = self.follow(now, stats.frame_rx.acks, sent, rtt);
        (is_news || must_know && self.waits_since.is_some()).then_some(rtt)
    }

    fn follow(&mut self, now: Instant, acknowledgements: u64, sent: u64, rtt: Duration) -> bool {
        if acknowledgements != self.acknowledgements {
            (self.acknowledgements, self.sent) = (acknowledgements, sent);
            (self.waits_since, self.told_at) = (None, None);
        }
        if sent == self.sent {
            return false;
        }
        let since = *self.waits_since.get_or_insert(now);
        let told_at = self.told_at.unwrap_or(since);
        let is_news = now.saturating_duration_since(told_at) >= SILENCE.max(2 * rtt);
        if is_news {
            self.told_at = Some(now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(1);

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn silence_is_told_and_told_again() {
        let (start, mut liveness) = (Instant::now(), Liveness::default());
        // A probe timer that doubles, from 12 ms on.
        let told: Vec<u64> = [12, 36, 84, 180, 372, 756, 1_524]
            .into_iter()
            .zip(1..)
            .filter(|(ms, sent)| liveness.follow(at(start, *ms), 7, *sent, RTT))
            .map(|(ms, _)| ms)
            .collect();
        assert_eq!(told, [372, 756, 1_524]);
    }

    #[test]
    fn nothing_is_told_while_answers_come_or_nothing_waits() {
        let (start, mut liveness) = (Instant::now(), Liveness::default());
        for second in 0..100 {
            assert!(!liveness.follow(at(start, second * 1_000), second, 3 * second, RTT));
            assert!(!liveness.follow(at(start, second * 1_000 + 10), second, 3 * second + 1, RTT));
        }
        for second in 100..200 {
            assert!(!liveness.follow(at(start, second * 1_000), 100, 300, RTT));
        }
    }

    #[test]
    fn what_has_just_been_sent_is_not_late() {
        let (start, mut liveness) = (Instant::now(), Liveness::default());
        assert!(!liveness.follow(start, 1, 1, RTT));
        // A minute of receiving alone, then one frame the other way.
        assert!(!liveness.follow(at(start, 60_000), 1, 2, RTT));
        assert!(!liveness.follow(at(start, 60_010), 2, 2, RTT));
        let slow = Duration::from_millis(600);
        assert!(!liveness.follow(at(start, 70_000), 2, 3, slow));
        assert!(!liveness.follow(at(start, 71_000), 2, 4, slow));
        assert!(liveness.follow(at(start, 71_200), 2, 5, slow));
    }
}
