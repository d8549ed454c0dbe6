//! The checks that leave and the checks that come in.

use std::{net::SocketAddr, time::Instant};

use super::{
    super::{
        Role,
        candidate::{Candidate, CandidateKind, canonical, priority},
        entropy::Entropy,
        pair::{Base, Duty, Pair, PairState},
        stun::{Builder, Class as MessageClass, Message, Method, Nominates, TransactionId},
    },
    Agent, EarlyRequest, MAX_EARLY_REQUESTS, MAX_PAIRS,
    nats::learn_mapping,
};

/// A check that is to leave now.
#[derive(Debug)]
pub(in crate::ice) struct OutgoingCheck {
    pub(in crate::ice) base: Base,
    pub(in crate::ice) remote: SocketAddr,
    pub(in crate::ice) transaction: TransactionId,
    pub(in crate::ice) payload: Vec<u8>,
}

/// What became of a request.
#[derive(Debug)]
pub(in crate::ice) enum RequestOutcome {
    /// To be sent back the way it came.
    Answer(Vec<u8>),
    /// The signature is wrong: no answer.
    BadIntegrity,
    /// An attribute of ICE is missing, or one is there that must be understood.
    Malformed,
    /// Both ends claim one role; the answer says so.
    RoleConflict(Vec<u8>),
}

/// Which checks: those of proved pairs are few by themselves, the others are paced over all peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ice) enum Pacing {
    Free,
    Paced,
}

impl Agent {
    /// When the first check of a proved pair is due.
    pub(in crate::ice) fn free_check_at(&self) -> Option<Instant> {
        self.next_check_at(|pair| pacing_of(pair) == Pacing::Free)
    }

    /// When the first triggered check of an unproved pair is due, and the first one that is not triggered.
    pub(in crate::ice) fn paced_checks_at(&self) -> [Option<Instant>; 2] {
        [true, false].map(|is_triggered| {
            self.next_check_at(|pair| {
                pacing_of(pair) == Pacing::Paced && pair.is_triggered == is_triggered
            })
        })
    }

    fn next_check_at(&self, is_meant: impl Fn(&Pair) -> bool) -> Option<Instant> {
        self.pairs.iter().filter(|pair| is_meant(pair)).filter_map(|pair| pair.next_check).min()
    }

    /// Makes a check that is due: triggered ones first, then in the order of time and priority.
    pub(in crate::ice) fn make_check(
        &mut self,
        now: Instant,
        pacing: Pacing,
        entropy: &mut Entropy,
    ) -> Option<OutgoingCheck> {
        let rank = |pair: &&mut Pair| {
            (!pair.is_triggered, pair.next_check, std::cmp::Reverse(pair.priority))
        };
        let due = |pair: &&mut Pair| pair.is_due(now) && pacing_of(pair) == pacing;
        let selected = self.selected;
        let pair = self.pairs.iter_mut().filter(due).min_by_key(rank)?;
        let Some(epoch) = self.epochs.iter().find(|epoch| epoch.number == pair.epoch) else {
            pair.fail();
            return None;
        };
        let is_chosen = [selected, self.nominating].contains(&Some(pair.id));
        let nomination = pair.nomination.filter(|_| self.role == Role::Controlling && is_chosen);
        let base = self.bases.iter().find(|base| base.base == pair.base);
        let preference = base.map_or(0, |base| base.preference);
        let transaction = entropy.transaction();
        let mut request = Builder::new(MessageClass::Request, Method::Binding, transaction)
            .username(&format!("{}:{}", epoch.remote.ufrag, epoch.local.ufrag))
            .priority(priority(CandidateKind::PeerReflexive, preference))
            .role(self.role.claimed(), self.tie_breaker);
        if let Some(number) = nomination {
            request = request.nomination(number);
        }
        let payload = request.signed(&epoch.remote.key);
        pair.check_sent(now, transaction, nomination, &self.timing);
        self.doubts_servers |= pair.base == Base::Relay && pair.is_proved() && !pair.is_usable();
        let (base, remote) = (pair.base, pair.remote);
        if selected == Some(pair.id) && pair.falls_silent() {
            self.look_around(now);
        }
        self.evaluate(now);
        Some(OutgoingCheck { base, remote, transaction, payload })
    }

    /// The selected pair is silent. What else is left is found out by the time at which traffic has to move; and the
    /// servers may see this node at another address than its peers were told.
    fn look_around(&mut self, now: Instant) {
        let selected = self.selected;
        let others = self.pairs.iter_mut().filter(|pair| Some(pair.id) != selected);
        for pair in others.filter(|pair| pair.is_proved()) {
            pair.doubt(now);
        }
        self.doubts_servers = true;
    }

    /// Takes a response to a check. `false` if it is not the answer to anything, or not signed right.
    pub(in crate::ice) fn handle_response(
        &mut self,
        now: Instant,
        (base, remote): (Option<Base>, SocketAddr),
        message: &Message<'_>,
    ) -> bool {
        let consent = self.consent_interval();
        let Some(pair) = self.pairs.iter_mut().find(|pair| pair.waits_for(message.transaction))
        else {
            return false;
        };
        let epoch = self.epochs.iter().find(|epoch| epoch.number == pair.epoch);
        let is_signed = epoch.is_some_and(|epoch| message.is_signed_with(&epoch.remote.key));
        // RFC 8445, section 7.2.5.2.1: an answer that takes another way than the question proves nothing.
        let is_symmetric = pair.remote == remote && base.is_none_or(|base| base == pair.base);
        if !is_signed || !is_symmetric || message.class != MessageClass::Success {
            return false;
        }
        let Some(mapped) = message.mapped.map(canonical) else { return false };
        // Spread over 80 to 120 percent (RFC 7675, section 5.1), by the transaction, which is random.
        let spread = u32::from(message.transaction.0[0]) * 40 / 255 + 80;
        let interval = match (pair.duty, self.role) {
            _ if pair.is_recovering() => self.timing.max_rto,
            (Duty::Selected, Role::Controlling) => consent,
            _ => self.timing.keepalive,
        };
        let interval = interval * spread / 100;
        let was_proved = pair.is_proved();
        let Some(answered) = pair.answered(now, message.transaction, interval) else {
            return false;
        };
        if let Base::Host(ip) = pair.base {
            let is_known = self.reflexive.iter().any(|known| known.mapped == mapped);
            pair.local_kind = match mapped.ip() == ip {
                true => CandidateKind::Host,
                false if is_known => CandidateKind::ServerReflexive,
                false => CandidateKind::PeerReflexive,
            };
            self.nat_mapping = learn_mapping(self.nat_mapping, pair, mapped, &self.reflexive);
        } else {
            self.wanted_channels.push(pair.remote);
        }
        let id = pair.id;
        if self.nominating == Some(id) {
            if answered.nomination.is_some() {
                self.nominating = None;
                self.select(now, id);
            } else {
                // The answer to an older check; the nominating one is still to leave.
                pair.check_soon(now);
            }
        }
        if !was_proved {
            self.settle_retries(now);
        }
        self.evaluate(now);
        true
    }

    /// Takes a request that bears one of our ufrags.
    pub(in crate::ice) fn handle_request(
        &mut self,
        now: Instant,
        base: Base,
        remote: SocketAddr,
        message: &Message<'_>,
    ) -> RequestOutcome {
        let Some((ufrag, remote_ufrag)) = message.username.and_then(|name| name.split_once(':'))
        else {
            return RequestOutcome::Malformed;
        };
        let epochs = self.epochs.iter().rev();
        let carried = epochs.map(|epoch| &epoch.local).find(|local| local.ufrag == ufrag);
        let local = carried.unwrap_or(&self.local);
        if local.ufrag != ufrag || !message.is_signed_with(&local.key) {
            return RequestOutcome::BadIntegrity;
        }
        let answer = |class| Builder::new(class, Method::Binding, message.transaction);
        let (Some(priority), Some(role), None) =
            (message.priority, message.role, message.unknown_required)
        else {
            return RequestOutcome::Malformed;
        };
        if role == self.role.claimed() {
            let error = answer(MessageClass::Error).error(487, "Role Conflict").signed(&local.key);
            return RequestOutcome::RoleConflict(error);
        }
        let answer = answer(MessageClass::Success).mapped(remote).signed(&local.key);
        let nomination = (message.nominates == Nominates::Yes && self.role == Role::Controlled)
            .then(|| message.nomination.unwrap_or(self.nomination + 1));
        let remote_ufrag = remote_ufrag.to_owned();
        let early = EarlyRequest { base, remote, remote_ufrag, priority, nomination };
        let epoch =
            self.epochs.iter().rev().find(|epoch| {
                epoch.local.ufrag == ufrag && epoch.remote.ufrag == early.remote_ufrag
            });
        match epoch.map(|epoch| epoch.number) {
            Some(epoch) => self.heard(now, epoch, &early),
            None if self.early.len() < MAX_EARLY_REQUESTS => self.early.push_back(early),
            None => {}
        }
        RequestOutcome::Answer(answer)
    }

    /// An authentic request came along this way.
    pub(super) fn heard(&mut self, now: Instant, epoch: u32, request: &EarlyRequest) {
        let known = self.pairs.iter().position(|pair| {
            pair.epoch == epoch && pair.base == request.base && pair.remote == request.remote
        });
        let Some(at) = known.or_else(|| self.add_peer_reflexive(now, epoch, request)) else {
            return;
        };
        let timing = self.timing;
        let pair = &mut self.pairs[at];
        pair.last_request = Some(now);
        if pair.base == Base::Relay {
            self.wanted_channels.push(pair.remote);
        }
        // Through the relay the check has to wait for its channel.
        if pair.base != Base::Relay || pair.state != PairState::Waiting {
            pair.trigger(now, &timing);
        }
        let newest = (self.nomination_epoch, self.nomination);
        if let Some(number) = request.nomination.filter(|number| (epoch, *number) >= newest) {
            pair.nomination = Some(number);
            (self.nomination_epoch, self.nomination) = (epoch, number);
        }
        self.evaluate(now);
    }

    fn add_peer_reflexive(
        &mut self,
        now: Instant,
        epoch: u32,
        request: &EarlyRequest,
    ) -> Option<usize> {
        let base = *self.bases.iter().find(|base| base.base == request.base)?;
        if self.pairs.len() >= MAX_PAIRS {
            let spare = self.pairs.iter().position(|pair| pair.state == PairState::Failed)?;
            self.pairs.swap_remove(spare);
        }
        // Its pair may have given way to others: then the address is known by its name, or a relay would pass for the peer itself.
        let candidates = self.epochs.iter().filter(|of| of.number == epoch);
        let mut named = candidates.flat_map(|epoch| &epoch.candidates);
        let named = named.find(|candidate| candidate.address == request.remote).copied();
        let remote = named.unwrap_or(Candidate {
            kind: CandidateKind::PeerReflexive,
            address: request.remote,
            related: None,
            priority: request.priority,
        });
        let priority = self.pair_priority(&base, &remote);
        self.add_pair(now, base, (remote.address, remote.kind), priority, epoch);
        // An address that nobody told us of: the peer may have moved, and then the path of before is dead.
        self.suspect(now, None);
        Some(self.pairs.len() - 1)
    }
}

fn pacing_of(pair: &Pair) -> Pacing {
    if pair.is_proved() { Pacing::Free } else { Pacing::Paced }
}
