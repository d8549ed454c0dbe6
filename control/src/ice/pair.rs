//! One pair of a local base and a remote address, and the checks that prove it.
//!
//! A pair is checked until it answers or has been silent for too long; a proved one is checked now and then. Each
//! check is a transaction of its own, so that an answer tells the round-trip time without doubt.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{candidate::CandidateKind, stun::TransactionId, timing::Timing};

/// From where a pair's packets leave (its base, RFC 8445, section 4). Server-reflexive candidates are no bases: what
/// leaves from the host candidate behind them looks the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Base {
    /// The listening socket, with this source address.
    Host(IpAddr),
    /// The TURN allocation.
    Relay,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PairState {
    /// To be checked; through a relay only once there is a channel.
    Waiting,
    InProgress,
    Succeeded,
    Failed,
}

/// How good a pair is, before priorities are looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Class {
    BothRelayed,
    Relayed,
    Direct,
    /// No NAT in between.
    HostHost,
}

/// What a proved pair is kept for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Duty {
    /// It carries the traffic.
    Selected,
    /// It would carry it if the selected one failed, or has not been decided on yet.
    Backup,
    /// Nothing: it is not checked any more.
    Idle,
}

/// What names a pair for as long as it exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct PairId(pub(super) u64);

#[derive(Clone, Copy, Debug)]
struct Check {
    transaction: TransactionId,
    sent: Instant,
    nomination: Option<u32>,
}

/// Answers to older checks are not waited for.
const MAX_CHECKS_IN_FLIGHT: usize = 8;
/// Unanswered checks of the selected pair, the last one just sent, at which everything else is looked at.
const SILENT_AT: u32 = 2;
/// Unanswered checks of a proved pair, the last one just sent, from which on it is not trusted: 250 + 500 + 500 ms after
/// the first one.
const SUSPECT_AFTER: u32 = 4;
/// Unanswered checks after which a proved pair has failed.
const DEAD_AFTER: u32 = 7;
/// On a pair that there is reason to doubt the first repetition comes after this, or after twice the round-trip time.
const DOUBTFUL_RTO: Duration = Duration::from_millis(50);
/// Answers in a row that a pair needs after trouble before traffic moves to it while another works.
const TRUST_AFTER: u32 = 3;
/// Two checks of a pair are at least this far apart, whatever triggers them.
const MIN_SPACING: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) id: PairId,
    pub(super) base: Base,
    pub(super) remote: SocketAddr,
    pub(super) local_kind: CandidateKind,
    pub(super) remote_kind: CandidateKind,
    /// RFC 8445, section 6.1.2.3.
    pub(super) priority: u64,
    /// The credentials with which it is checked.
    pub(super) epoch: u32,
    pub(super) state: PairState,
    pub(super) duty: Duty,
    /// The number of the nomination that it got last, from either end.
    pub(super) nomination: Option<u32>,
    pub(super) next_check: Option<Instant>,
    /// The peer was heard on it, so it goes before others.
    pub(super) is_triggered: bool,
    /// Something else than a missing answer says that it may be dead.
    is_doubtful: bool,
    pub(super) last_answer: Option<Instant>,
    pub(super) last_request: Option<Instant>,
    pub(super) rtt: Option<Duration>,
    pub(super) checks_sent: u64,
    pub(super) checks_answered: u64,
    checks: VecDeque<Check>,
    last_sent: Option<Instant>,
    unanswered: u32,
    budget: u32,
    answers_in_row: u32,
    was_in_trouble: bool,
}

/// A check was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answered {
    /// The nomination that the check carried.
    pub(super) nomination: Option<u32>,
}

impl Pair {
    pub(super) fn new(
        id: PairId,
        (base, local_kind): (Base, CandidateKind),
        (remote, remote_kind): (SocketAddr, CandidateKind),
        priority: u64,
        epoch: u32,
        timing: &Timing,
    ) -> Self {
        Self {
            id,
            base,
            remote,
            local_kind,
            remote_kind,
            priority,
            epoch,
            state: PairState::Waiting,
            duty: Duty::Backup,
            nomination: None,
            next_check: None,
            is_triggered: false,
            is_doubtful: false,
            last_answer: None,
            last_request: None,
            rtt: None,
            checks_sent: 0,
            checks_answered: 0,
            checks: VecDeque::new(),
            last_sent: None,
            unanswered: 0,
            budget: timing.transmissions,
            answers_in_row: 0,
            was_in_trouble: false,
        }
    }

    pub(super) fn class(&self) -> Class {
        use CandidateKind::{Host, Relayed};
        match (self.base, self.local_kind, self.remote_kind) {
            (Base::Relay, _, Relayed) => Class::BothRelayed,
            (Base::Relay, _, _) | (_, _, Relayed) => Class::Relayed,
            (_, Host, Host) => Class::HostHost,
            _ => Class::Direct,
        }
    }

    pub(super) fn is_relayed(&self) -> bool {
        self.class() <= Class::Relayed
    }

    pub(super) fn is_proved(&self) -> bool {
        self.state == PairState::Succeeded
    }

    /// Proved by both ends: the peer checks it too, so it has the credentials and expects traffic there.
    pub(super) fn is_mutual(&self) -> bool {
        self.is_proved() && self.last_request.is_some()
    }

    /// Proved, and nothing speaks against it now.
    pub(super) fn is_usable(&self) -> bool {
        self.is_proved() && self.unanswered < SUSPECT_AFTER
    }

    /// Proved, and the last check was answered.
    pub(super) fn is_answering(&self) -> bool {
        self.is_proved() && self.unanswered == 0
    }

    /// Proved, and just silent for longer than the loss of a packet explains.
    pub(super) fn falls_silent(&self) -> bool {
        self.is_proved() && self.unanswered == SILENT_AT
    }

    /// Usable, and not only since a moment ago after it had failed.
    pub(super) fn is_trusted(&self) -> bool {
        self.is_usable() && (!self.was_in_trouble || self.answers_in_row >= TRUST_AFTER)
    }

    /// Whether more answers are needed before it is trusted again, and should come soon.
    pub(super) fn is_recovering(&self) -> bool {
        self.was_in_trouble && self.answers_in_row + 1 < TRUST_AFTER
    }

    /// Whether no check waits for its answer, and none is about to leave.
    pub(super) fn is_quiet(&self) -> bool {
        self.unanswered == 0 && !self.is_triggered
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_check.is_some_and(|at| at <= now)
    }

    /// Whether its first checks are still going on.
    pub(super) fn is_being_tried(&self) -> bool {
        match self.state {
            PairState::InProgress => true,
            PairState::Waiting => self.next_check.is_some(),
            PairState::Succeeded | PairState::Failed => false,
        }
    }

    /// Whether all that could be sent was sent and the last wait is over.
    pub(super) fn is_exhausted(&self, now: Instant) -> bool {
        self.is_due(now)
            && match self.state {
                PairState::Succeeded => self.unanswered >= DEAD_AFTER,
                PairState::InProgress => self.unanswered >= self.budget,
                PairState::Waiting | PairState::Failed => false,
            }
    }

    /// Plans a check for now, or as soon as the last one is not too fresh.
    pub(super) fn check_soon(&mut self, now: Instant) {
        let earliest = self.last_sent.map_or(now, |sent| now.max(sent + MIN_SPACING));
        self.next_check = Some(self.next_check.map_or(earliest, |at| at.min(earliest)));
    }

    /// There is reason to think that it is dead: it is checked at once, and answers are not waited for as long as usual.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.is_doubtful = true;
        self.check_soon(now);
    }

    /// The peer was heard on it, so a check may pass now that did not before (a triggered check, RFC 8445, 7.3.1.4).
    pub(super) fn trigger(&mut self, now: Instant, timing: &Timing) {
        match self.state {
            PairState::Succeeded if self.unanswered == 0 => return,
            PairState::Succeeded | PairState::InProgress => {}
            PairState::Waiting | PairState::Failed => self.revive(timing.transmissions),
        }
        self.is_triggered = true;
        self.check_soon(now);
    }

    /// Allows `budget` more checks to a pair that is not proved.
    pub(super) fn revive(&mut self, budget: u32) {
        self.state = PairState::Waiting;
        self.unanswered = 0;
        self.budget = budget;
    }

    pub(super) fn fail(&mut self) {
        self.was_in_trouble |= self.is_proved();
        self.state = PairState::Failed;
        self.is_doubtful = false;
        self.next_check = None;
        self.answers_in_row = 0;
        self.nomination = None;
        self.checks.clear();
    }

    /// A check leaves now.
    pub(super) fn check_sent(
        &mut self,
        now: Instant,
        transaction: TransactionId,
        nomination: Option<u32>,
        timing: &Timing,
    ) {
        if self.state == PairState::Waiting {
            self.state = PairState::InProgress;
        }
        self.is_triggered = false;
        self.last_sent = Some(now);
        self.unanswered += 1;
        self.checks_sent += 1;
        if self.is_proved() && self.unanswered >= SUSPECT_AFTER {
            self.was_in_trouble = true;
            self.answers_in_row = 0;
        }
        self.checks.push_back(Check { transaction, sent: now, nomination });
        if self.checks.len() > MAX_CHECKS_IN_FLIGHT {
            self.checks.pop_front();
        }
        self.next_check = Some(now + self.wait_for_answer(timing));
    }

    fn wait_for_answer(&self, timing: &Timing) -> Duration {
        if !self.is_proved() {
            let doubled = timing.initial_rto * 2_u32.pow(self.unanswered.saturating_sub(1).min(8));
            return doubled.min(timing.max_rto);
        }
        // On a proved pair the loss of one packet is likelier than its end, so the repetitions come faster.
        let (initial, longest) = match self.unanswered < SUSPECT_AFTER {
            true if self.is_doubtful => (DOUBTFUL_RTO.min(timing.initial_rto), timing.max_rto / 2),
            true => (timing.initial_rto, timing.max_rto / 2),
            false => (timing.initial_rto, timing.max_rto),
        };
        let floor = self.rtt.map_or(initial, |rtt| initial.max(2 * rtt));
        let doubled = initial * 2_u32.pow(self.unanswered.saturating_sub(1).min(8));
        doubled.min(longest).max(floor.min(timing.max_rto))
    }

    /// Takes the answer to one of its checks, or `None` if that is not one it waits for.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        transaction: TransactionId,
        interval: Duration,
    ) -> Option<Answered> {
        let at = self.checks.iter().position(|check| check.transaction == transaction)?;
        let check = self.checks[at];
        // Older ones may still be on their way, but say nothing new.
        self.checks.drain(..=at);
        let sample = now.saturating_duration_since(check.sent);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (3 * rtt + sample) / 4));
        self.last_answer = Some(now);
        self.checks_answered += 1;
        self.unanswered = 0;
        self.is_doubtful = false;
        self.answers_in_row += 1;
        self.state = PairState::Succeeded;
        self.next_check = Some(now + interval);
        Some(Answered { nomination: check.nomination })
    }

    pub(super) fn waits_for(&self, transaction: TransactionId) -> bool {
        self.checks.iter().any(|check| check.transaction == transaction)
    }
}
