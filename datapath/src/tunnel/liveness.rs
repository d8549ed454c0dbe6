//! Whether the far end of a connection still answers: silence is told long before the connection is given up, so that
//! another path can be looked for meanwhile.
//!
//! Looked at now and then while the connection is busy; when it is not, QUIC's probe timer makes it busy as long as
//! something waits for an acknowledgement. The first look notices that something waits, a later one that nothing has come
//! since.
//!
//! **When a peer is dead.** QUIC doubles the time between its probes, so that few of them are sent in the seconds that matter. So
//! a silent peer is asked besides at an even pace, [`PROBES`] times, and is dead when none of that was answered. On a path
//! that loses 30 % of its packets each way, question and answer both arrive 49 times of 100, so that a living peer leaves 25
//! questions unanswered once in 2 x 10^7 silences: with a keep-alive every 2 s, half of which begin a silence, once in about
//! three years, and QUIC's own probes are not counted. A peer that is stopped for 2 s answers in time. Whoever was stopped
//! itself has not asked meanwhile, and so does not believe the peer dead when it goes on.

use std::time::{Duration, Instant};

use quinn_proto::Connection;

/// Silence for less than this, or than two round trips, is nothing: far more than an acknowledgement is held back.
const SILENCE: Duration = Duration::from_millis(250);

/// A silent peer is asked this often, so many times: 2.5 s, and [`SILENCE`] before it and after it, are 3 s.
const PROBE_EVERY: Duration = Duration::from_millis(100);
const PROBES: u64 = 25;

/// Between two looks: what QUIC counts is copied for each.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(crate) struct Liveness {
    looked_at: Option<Instant>,
    /// What had come and gone at the last look that saw a new acknowledgement.
    acknowledgements: u64,
    sent: u64,
    pings: u64,
    /// That something sent after that waits.
    silence: Option<Silence>,
}

/// Something waits for an acknowledgement.
#[derive(Debug)]
struct Silence {
    /// When that was first seen, and when it was told last.
    since: Instant,
    told_at: Instant,
    /// Less than this is no silence.
    patience: Duration,
    /// When the peer is asked next.
    ask_at: Instant,
    /// Questions that were sent, as of the last look.
    asked: u64,
}

impl Silence {
    /// When the peer is dead if it goes on, unless the network does not take the questions.
    fn ends_at(&self) -> Instant {
        self.since + 2 * self.patience + PROBE_EVERY * PROBES as u32
    }
}

/// What QUIC counts of a connection, as far as it matters here.
#[derive(Clone, Copy, Debug)]
struct Counts {
    acknowledgements: u64,
    /// What is acknowledged, apart from the handshake.
    sent: u64,
    /// Questions of [`Liveness::must_ask`], and keep-alives.
    pings: u64,
    rtt: Duration,
}

impl Counts {
    fn of(connection: &Connection) -> Self {
        let stats = connection.stats();
        let sent = &stats.frame_tx;
        Self {
            acknowledgements: stats.frame_rx.acks,
            // QUIC's own probes are of the last two kinds.
            sent: sent.datagram + sent.stream + sent.ping + sent.immediate_ack,
            pings: sent.ping,
            rtt: stats.path.rtt,
        }
    }
}

impl Liveness {
    /// The round-trip time of before, if it is to be told that nothing is heard: after a while, and again after as long.
    pub(crate) fn look(&mut self, now: Instant, connection: &Connection) -> Option<Duration> {
        let is_due = self.poll_timeout().is_some_and(|at| at <= now);
        if !is_due && self.looked_at.is_some_and(|at| now < at + LOOK_EVERY) {
            return None;
        }
        self.looked_at = Some(now);
        let counts = Counts::of(connection);
        self.follow(now, counts).then_some(counts.rtt)
    }

    /// When it is to be looked at again, at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let silence = self.silence.as_ref()?;
        Some(if silence.asked < PROBES { silence.ask_at } else { silence.ends_at() })
    }

    /// Whether the peer is to be asked now whether it is there; after a look.
    pub(crate) fn must_ask(&mut self, now: Instant) -> bool {
        let Some(silence) = self.silence.as_mut().filter(|silence| silence.ask_at <= now) else {
            return false;
        };
        silence.ask_at = now + PROBE_EVERY;
        true
    }

    /// Whether the peer is dead, as of the last look.
    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        let is_over = |silence: &Silence| silence.asked >= PROBES && silence.ends_at() <= now;
        self.silence.as_ref().is_some_and(is_over)
    }

    /// Since when nothing has been heard though something waits, as of the last look.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.silence.as_ref().map(|silence| silence.since)
    }

    /// What was sent went another way than what is sent from now on.
    pub(crate) fn path_changed(&mut self) {
        // What waits will be noticed at the next look.
        self.silence = None;
        self.looked_at = None;
    }

    fn follow(&mut self, now: Instant, counts: Counts) -> bool {
        if counts.acknowledgements != self.acknowledgements {
            self.acknowledgements = counts.acknowledgements;
            self.sent = counts.sent;
            self.silence = None;
        }
        if counts.sent == self.sent {
            return false;
        }
        let patience = SILENCE.max(2 * counts.rtt);
        let silence = self.silence.get_or_insert_with(|| {
            self.pings = counts.pings;
            let ask_at = now + patience;
            Silence { since: now, told_at: now, patience, ask_at, asked: 0 }
        });
        silence.asked = counts.pings - self.pings;
        let is_news = now.saturating_duration_since(silence.told_at) >= silence.patience;
        if is_news {
            silence.told_at = now;
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

    fn counts(acknowledgements: u64, sent: u64, pings: u64) -> Counts {
        Counts { acknowledgements, sent, pings, rtt: RTT }
    }

    #[test]
    fn silence_is_told_and_told_again() {
        let (start, mut liveness) = (Instant::now(), Liveness::default());
        // A probe timer that doubles, from 12 ms on.
        let told: Vec<u64> = [12, 36, 84, 180, 372, 756, 1_524]
            .into_iter()
            .zip(1..)
            .filter(|(ms, sent)| liveness.follow(at(start, *ms), counts(7, *sent, 0)))
            .map(|(ms, _)| ms)
            .collect();
        assert_eq!(told, [372, 756, 1_524]);
    }

    #[test]
    fn nothing_is_told_while_answers_come_or_nothing_waits() {
        let (start, mut liveness) = (Instant::now(), Liveness::default());
        for second in 0..100 {
            let now = at(start, second * 1_000);
            assert!(!liveness.follow(now, counts(second, 3 * second, 0)));
            let later = now + Duration::from_millis(10);
            assert!(!liveness.follow(later, counts(second, 3 * second + 1, 0)));
        }
        for second in 100..200 {
            assert!(!liveness.follow(at(start, second * 1_000), counts(100, 300, 0)));
        }
        assert!(liveness.poll_timeout().is_none());
    }

    #[test]
    fn what_has_just_been_sent_is_not_late() {
        let (start, mut liveness) = (Instant::now(), Liveness::default());
        assert!(!liveness.follow(start, counts(1, 1, 0)));
        // A minute of receiving alone, then one frame the other way.
        assert!(!liveness.follow(at(start, 60_000), counts(1, 2, 0)));
        assert!(!liveness.follow(at(start, 60_010), counts(2, 2, 0)));
        let slow = |sent| Counts { rtt: Duration::from_millis(600), ..counts(2, sent, 0) };
        assert!(!liveness.follow(at(start, 70_000), slow(3)));
        assert!(!liveness.follow(at(start, 71_000), slow(4)));
        assert!(liveness.follow(at(start, 71_200), slow(5)));
    }

    /// Looks whenever it is to be looked, and says when the peer is dead; the network takes as many questions as it is told.
    fn dies_after(
        start: Instant,
        rtt: Duration,
        mut takes: impl FnMut(u64) -> bool,
    ) -> Option<Duration> {
        let mut liveness = Liveness::default();
        let (mut now, mut pings) = (start, 0);
        liveness.follow(now, Counts { rtt, ..counts(0, 1, 0) });
        while !liveness.is_dead(now) {
            now = liveness.poll_timeout()?;
            liveness.follow(now, Counts { rtt, ..counts(0, 1 + pings, pings) });
            if liveness.must_ask(now) && takes(pings) {
                pings += 1;
            }
            if now > start + Duration::from_secs(60) {
                return None;
            }
        }
        assert!(pings >= PROBES);
        Some(now - start)
    }

    #[test]
    fn a_peer_that_answers_no_question_is_dead_after_three_seconds() {
        let start = Instant::now();
        assert_eq!(dies_after(start, RTT, |_| true), Some(Duration::from_secs(3)));
        let slow = dies_after(start, Duration::from_millis(600), |_| true).unwrap();
        assert_eq!(slow, Duration::from_millis(2 * 1_200 + 2_500));
    }

    #[test]
    fn questions_that_were_not_sent_say_nothing() {
        let start = Instant::now();
        // The window is full: QUIC's own time-out will end it.
        assert_eq!(dies_after(start, RTT, |pings| pings < PROBES - 1), None);
        // This host slept: nobody was asked meanwhile.
        let mut liveness = Liveness::default();
        liveness.follow(start, counts(0, 1, 0));
        let woken = at(start, 10_000);
        liveness.follow(woken, counts(0, 2, 1));
        assert!(!liveness.is_dead(woken) && liveness.must_ask(woken) && !liveness.must_ask(woken));
    }

    #[test]
    fn an_answer_or_another_path_begins_anew() {
        let (start, mut liveness) = (Instant::now(), Liveness::default());
        let almost = at(start, 2_990);
        liveness.follow(start, counts(0, 1, 0));
        liveness.follow(almost, counts(0, 30, PROBES));
        assert!(liveness.is_dead(at(start, 3_000)));
        liveness.follow(almost, counts(1, 30, PROBES));
        assert!(!liveness.is_dead(at(start, 3_000)));
        liveness.follow(almost, counts(1, 31, PROBES));
        liveness.path_changed();
        assert!(!liveness.is_dead(at(start, 60_000)));
    }
}
