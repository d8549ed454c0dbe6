//! What is decided by what the checks told: which pair carries the traffic, which ones are kept, what is tried again.

use std::time::{Duration, Instant};

use super::{
    super::{
        Role,
        pair::{Base, Class, Duty, Pair, PairId, PairState},
        timing::CONSENT_EXPIRY,
    },
    Agent, IceState,
};

/// Failed pairs that are tried again at once, and checks for each.
const RETRIED_PAIRS: usize = 6;
const RETRY_TRANSMISSIONS: u32 = 2;
/// The peer uses pairs of an old epoch if it was heard on one within this: two of its rarest checks.
const HEARD_LATELY: Duration = Duration::from_secs(60);
/// Without any pair, because an address went away, for this long: the connection is lost.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

impl Agent {
    /// Chooses, by what is known now.
    pub(super) fn evaluate(&mut self, now: Instant) {
        for epoch in self.epochs.iter_mut().filter(|epoch| !epoch.is_agreed) {
            let mut of_epoch = self.pairs.iter().filter(|pair| pair.epoch == epoch.number);
            epoch.is_agreed = of_epoch.any(Pair::is_mutual);
        }
        let selected = self.selected.filter(|id| self.pair(*id).is_some_and(Pair::is_proved));
        if selected != self.selected {
            // Failed, or its base is gone. In the second case another pair is likely to come up soon.
            let has_failed = self.selected().is_some();
            self.selected = None;
            self.lost_at = Some(if has_failed { now } else { now + ORPHAN_GRACE });
        }
        match self.role {
            Role::Controlling => self.evaluate_controlling(now),
            Role::Controlled => self.evaluate_controlled(now),
        }
        if self.selected.is_some() {
            self.lost_at = None;
            self.state = IceState::Connected;
        }
    }

    fn evaluate_controlling(&mut self, now: Instant) {
        if self.nominating.is_some_and(|id| !self.pair(id).is_some_and(Pair::is_usable)) {
            self.nominating = None;
        }
        let current = self.selected().filter(|pair| pair.is_usable());
        let Some(current) = current else {
            // Nothing works, or what was selected does not: anything usable will do.
            let is_left = |pair: &Pair| pair.is_usable() && self.is_heard(now, pair);
            let answers = self.best(|pair| is_left(pair) && pair.is_answering());
            let best = answers.or_else(|| self.best(is_left));
            let Some(best) = best.or_else(|| self.best(Pair::is_usable)) else { return };
            if self.selected.is_some() || self.lost_at.is_some() {
                self.nominate(now, best);
                self.nominating = None;
                self.select(now, best);
            } else if self.nominating.is_none_or(|id| self.is_better(best, id)) {
                self.nominate(now, best);
            }
            return;
        };
        let is_settling = self.selected_at.is_some_and(|at| now < at + self.timing.settling);
        let (class, epoch) = (current.class(), current.epoch);
        // Where the peer has not been heard it may not listen: nothing says that it knows these credentials.
        let is_forsaken = current.is_mutual() && !self.is_heard(now, current);
        let best = self.best(|pair| pair.is_trusted() && self.is_heard(now, pair));
        let Some(best) = best.and_then(|id| self.pair(id)) else { return };
        let is_upgrade = best.class() > class && (class <= Class::Relayed || is_settling)
            || best.class() >= class && best.epoch > epoch
            || is_forsaken;
        let best = best.id;
        if is_upgrade && self.nominating.is_none_or(|id| self.is_better(best, id)) {
            self.nominate(now, best);
        }
    }

    /// Whether the peer checks the pair too: it does so now and then with each one that it may use.
    fn is_heard(&self, now: Instant, pair: &Pair) -> bool {
        let lately = self.timing.keepalive * 3;
        pair.is_proved() && pair.last_request.is_some_and(|at| now < at + lately)
    }

    fn evaluate_controlled(&mut self, now: Instant) {
        let newest = (self.nomination_epoch, Some(self.nomination));
        let nominated = self.pairs.iter().find(|pair| {
            (pair.epoch, pair.nomination) == newest
                && pair.is_proved()
                && self.selected != Some(pair.id)
        });
        if let Some(id) = nominated.map(|pair| pair.id) {
            self.select(now, id);
        }
    }

    fn best(&self, eligible: impl Fn(&Pair) -> bool) -> Option<PairId> {
        let pairs = self.pairs.iter().filter(|pair| eligible(pair));
        pairs.max_by_key(|pair| rank(pair)).map(|pair| pair.id)
    }

    fn is_better(&self, one: PairId, other: PairId) -> bool {
        match (self.pair(one), self.pair(other)) {
            (Some(one), Some(other)) => one.class() > other.class(),
            (one, _) => one.is_some(),
        }
    }

    fn nominate(&mut self, now: Instant, id: PairId) {
        self.nomination = self.nomination.wrapping_add(1);
        let number = self.nomination;
        self.nominating = Some(id);
        if let Some(pair) = self.pair_mut(id) {
            pair.nomination = Some(number);
            pair.check_soon(now);
        }
    }

    pub(super) fn select(&mut self, now: Instant, id: PairId) {
        if self.selected == Some(id) {
            return;
        }
        let before = self.selected.replace(id);
        self.selected_at = Some(now);
        let consent = self.consent_interval();
        let is_controlling = self.role == Role::Controlling;
        for pair in &mut self.pairs {
            if pair.id == id {
                pair.duty = Duty::Selected;
                let latest = now + consent;
                if is_controlling && pair.next_check.is_none_or(|at| at > latest) {
                    pair.next_check = Some(latest);
                }
            } else if Some(pair.id) == before {
                pair.duty = Duty::Backup;
            }
        }
        self.retry_pause = self.timing.first_retry;
        self.settle_retries(now);
    }

    /// The best proved pair besides the selected one; one that shares the least with it.
    pub(super) fn backup(&self) -> Option<PairId> {
        let selected = self.selected();
        let is_relayed = selected.is_some_and(Pair::is_relayed);
        self.pairs
            .iter()
            .filter(|pair| pair.is_usable() && Some(pair.id) != self.selected)
            .max_by_key(|pair| (pair.is_mutual(), pair.is_relayed() != is_relayed, rank(pair)))
            .map(|pair| pair.id)
    }

    /// Plans when failed pairs are tried again.
    pub(super) fn settle_retries(&mut self, now: Instant) {
        let is_wanted = self.selected().is_none_or(Pair::is_relayed);
        self.retry_at = is_wanted.then(|| now + self.retry_pause);
    }

    pub(in crate::ice) fn handle_timeout(&mut self, now: Instant) {
        let mut any_failed = false;
        for pair in &mut self.pairs {
            let is_stale =
                pair.is_proved() && pair.last_answer.is_some_and(|at| at + CONSENT_EXPIRY <= now);
            if pair.is_exhausted(now) || is_stale {
                pair.fail();
                any_failed = true;
            }
        }
        if any_failed {
            self.evaluate(now);
        }
        self.watch_requests(now);
        self.prune(now);
        if self.lost_at.is_some_and(|at| at <= now) {
            self.lost_at = None;
            self.state = IceState::Lost;
            self.retry_pause = self.timing.first_retry / 3;
            self.settle_retries(now);
        }
        let is_trying = self.pairs.iter().any(Pair::is_being_tried);
        let has_given_up = now >= self.since + self.timing.give_up && !is_trying;
        if self.state == IceState::Checking && self.selected.is_none() && has_given_up {
            self.state = IceState::Failed;
        }
        if self.retry_at.is_none() && self.selected.is_none() && !self.pairs.is_empty() {
            self.settle_retries(now);
        }
        self.retry(now, is_trying);
    }

    /// The controlled end checks the selected pair rarely, and at once when the other end's checks stay away.
    fn watch_requests(&mut self, now: Instant) {
        let limit = self.consent_interval() * 2;
        let is_controlled = self.role == Role::Controlled;
        if let Some(pair) = self.selected.and_then(|id| self.pair_mut(id)) {
            let heard = pair.last_request.max(pair.last_answer);
            let is_silent = heard.is_some_and(|at| at + limit <= now);
            if is_controlled && is_silent && pair.is_quiet() {
                pair.check_soon(now);
            }
        }
    }

    /// Once settled, checks only the selected pair and one back-up, and drops the epochs of before.
    fn prune(&mut self, now: Instant) {
        let settled = self.selected_at.is_some_and(|at| at + self.timing.settling <= now);
        if !settled || self.selected.is_none() {
            return;
        }
        let newest = self.newest();
        let is_new = |pair: &Pair| pair.epoch == newest && pair.is_usable();
        let is_agreed = self.epochs.last().is_some_and(|epoch| epoch.is_agreed);
        if self.epochs.len() > 1 && is_agreed && self.pairs.iter().any(is_new) {
            let selected_is_new = self.selected().is_some_and(is_new);
            let selected = self.selected.filter(|_| !selected_is_new);
            let lately = |pair: &Pair| pair.last_request.is_some_and(|at| now < at + HEARD_LATELY);
            let heard = self.last_heard(|pair| pair.epoch != newest && lately(pair));
            self.pairs
                .retain(|pair| pair.epoch == newest || [selected, heard].contains(&Some(pair.id)));
            self.drop_unused_epochs();
        }
        let keepalive = self.timing.keepalive;
        let role = self.role;
        // The controlled end keeps what the controlling one keeps, or each end's choice would wake the other's.
        let backup = self.backup().filter(|_| role == Role::Controlling);
        for pair in self.pairs.iter_mut().filter(|pair| pair.is_proved()) {
            let is_kept = role == Role::Controlled
                && pair.last_request.is_some_and(|at| now < at + keepalive * 3 / 2);
            if Some(pair.id) == self.selected {
                continue;
            }
            if Some(pair.id) == backup || is_kept {
                pair.duty = Duty::Backup;
                if pair.next_check.is_none() {
                    pair.next_check = Some(now + keepalive);
                }
            } else {
                pair.duty = Duty::Idle;
                pair.next_check = None;
            }
        }
    }

    fn retry(&mut self, now: Instant, is_trying: bool) {
        if self.retry_at.is_none_or(|at| at > now) {
            return;
        }
        self.retry_pause = (self.retry_pause * 2).min(self.timing.longest_retry);
        self.settle_retries(now);
        if is_trying {
            return;
        }
        let needs_direct = self.selected.is_some();
        let tried = [Some(self.newest()), self.agreed().map(|epoch| epoch.number)];
        let mut failed: Vec<_> = self
            .pairs
            .iter_mut()
            .filter(|pair| pair.state == PairState::Failed && tried.contains(&Some(pair.epoch)))
            .filter(|pair| !needs_direct || !pair.is_relayed())
            .collect();
        failed.sort_by_key(|pair| {
            (std::cmp::Reverse(pair.last_answer), std::cmp::Reverse(pair.priority))
        });
        for pair in failed.into_iter().take(RETRIED_PAIRS) {
            pair.revive(RETRY_TRANSMISSIONS);
            if pair.base == Base::Relay {
                self.wanted_channels.push(pair.remote);
            }
            pair.check_soon(now);
        }
    }

    /// When [`Agent::handle_timeout`] has something to do besides checks.
    pub(in crate::ice) fn poll_timeout(&self) -> Option<Instant> {
        // While pairs are being tried their checks wake the agent.
        let is_trying = self.pairs.iter().any(Pair::is_being_tried);
        let is_searching = self.state == IceState::Checking && self.selected.is_none();
        let give_up = (is_searching && !is_trying).then_some(self.since + self.timing.give_up);
        let consent = self
            .pairs
            .iter()
            .filter(|pair| pair.is_proved())
            .filter_map(|pair| pair.last_answer.map(|at| at + CONSENT_EXPIRY))
            .min();
        let is_watched = |pair: &&Pair| self.role == Role::Controlled && pair.is_quiet();
        let silence = self.selected().filter(is_watched).and_then(|pair| {
            let heard = pair.last_request.max(pair.last_answer)?;
            Some(heard + self.consent_interval() * 2)
        });
        [give_up, self.lost_at, self.retry_at, consent, silence].into_iter().flatten().min()
    }
}

/// What makes one usable pair better than another.
fn rank(pair: &Pair) -> (Class, u32, u64) {
    (pair.class(), pair.epoch, pair.priority)
}
