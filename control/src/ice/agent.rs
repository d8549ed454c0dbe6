//! ICE with one peer (RFC 8445), without I/O: the check list, nomination, consent, and what carries on when paths die.
//!
//! * **Roles are fixed** by the caller. A request that claims our own role is refused (487), and nobody ever swaps.
//! * **Nomination is repeated**: the controlling end nominates the first pair that answers, and a better one later. The
//!   number of the nomination (attribute NOMINATION) makes sure that the newest wins at the controlled end, whatever
//!   is repeated or overtaken on the way. Traffic first moves when the nominating check is answered: then the other
//!   end has proved the pair too. When the selected pair dies it moves at once.
//! * **Epochs**: a pair is checked with the credentials with which it was made. A restart or a new description makes a
//!   new epoch, with new pairs; the selected pair and its back-up of before carry on, with their old credentials,
//!   until the new epoch has a proved pair. So a description that somebody replays can harm nothing that works.
//! * Pairs that answered but are not needed get no more checks; failed pairs are tried again, ever more rarely, while
//!   there is no direct path.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    Role,
    candidate::{Candidate, CandidateKind, priority},
    credentials::Credentials,
    entropy::Entropy,
    pair::{Base, Class, Duty, Pair, PairId, PairState},
    stun::{
        Builder, ClaimedRole, Class as MessageClass, Message, Method, Nominates, TransactionId,
    },
    timing::{CONSENT_EXPIRY, Timing},
};

/// Remote candidates that are taken from one description; more are refused.
pub(super) const MAX_REMOTE_CANDIDATES: usize = 24;
/// Pairs of one peer, those that requests from unknown addresses make included.
const MAX_PAIRS: usize = 72;
/// Of those, through the relay: each needs a channel. Reflexive and relayed remote addresses, then host addresses.
const MAX_RELAY_TARGETS: usize = 4;
const MAX_RELAY_HOST_TARGETS: usize = 2;
/// Requests that came before the peer's description.
const MAX_EARLY_REQUESTS: usize = 8;
/// Failed pairs that are tried again at once, and checks for each.
const RETRIED_PAIRS: usize = 6;
const RETRY_TRANSMISSIONS: u32 = 2;
/// Without any pair, because an address went away, for this long: the connection is lost.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

/// A place from which checks leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LocalBase {
    pub(super) base: Base,
    /// The host address, or the relayed one.
    pub(super) address: SocketAddr,
    /// Its preference among those of its kind.
    pub(super) preference: u16,
}

impl LocalBase {
    fn kind(&self) -> CandidateKind {
        match self.base {
            Base::Host(_) => CandidateKind::Host,
            Base::Relay => CandidateKind::Relayed,
        }
    }
}

/// How an agent stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IceState {
    /// The peer's description has not come yet.
    Waiting,
    /// Looking for a path.
    Checking,
    /// There is a path.
    Connected,
    /// There was one.
    Lost,
    /// None was found in good time. It goes on, more slowly.
    Failed,
}

#[derive(Debug)]
struct Epoch {
    number: u32,
    local: Credentials,
    remote: Credentials,
}

#[derive(Debug)]
struct EarlyRequest {
    base: Base,
    remote: SocketAddr,
    remote_ufrag: String,
    priority: u32,
    nomination: Option<u32>,
}

/// A check that is to leave now.
#[derive(Debug)]
pub(super) struct OutgoingCheck {
    pub(super) base: Base,
    pub(super) remote: SocketAddr,
    pub(super) transaction: TransactionId,
    pub(super) payload: Vec<u8>,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum RequestOutcome {
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
pub(super) enum Pacing {
    Free,
    Paced,
}

#[derive(Debug)]
pub(super) struct Agent {
    role: Role,
    tie_breaker: u64,
    timing: Timing,
    local: Credentials,
    local_generation: u32,
    remote: Option<(Credentials, u32)>,
    /// Descriptions of older generations are refused.
    oldest_generation: u32,
    epochs: Vec<Epoch>,
    epochs_made: u32,
    bases: Vec<LocalBase>,
    reflexive: Vec<SocketAddr>,
    remote_candidates: Vec<Candidate>,
    pairs: Vec<Pair>,
    pairs_made: u64,
    selected: Option<PairId>,
    /// Nominated by this end, not answered yet.
    nominating: Option<PairId>,
    /// The newest nomination made or seen, and the epoch in which it was seen: a newer epoch always wins.
    nomination: u32,
    nomination_epoch: u32,
    early: VecDeque<EarlyRequest>,
    state: IceState,
    /// When the present search began.
    since: Instant,
    /// When the selected pair was selected.
    selected_at: Option<Instant>,
    lost_at: Option<Instant>,
    retry_at: Option<Instant>,
    retry_pause: Duration,
    wanted_channels: Vec<SocketAddr>,
    /// A pair through the relay has failed that worked before.
    doubts_relay: bool,
}

impl Agent {
    pub(super) fn new(
        now: Instant,
        role: Role,
        timing: Timing,
        tie_breaker: u64,
        local: Credentials,
    ) -> Self {
        Self {
            role,
            tie_breaker,
            timing,
            local,
            local_generation: 0,
            remote: None,
            oldest_generation: 0,
            epochs: Vec::new(),
            epochs_made: 0,
            bases: Vec::new(),
            reflexive: Vec::new(),
            remote_candidates: Vec::new(),
            pairs: Vec::new(),
            pairs_made: 0,
            selected: None,
            nominating: None,
            nomination: 0,
            nomination_epoch: 0,
            early: VecDeque::new(),
            state: IceState::Waiting,
            since: now,
            selected_at: None,
            lost_at: None,
            retry_at: None,
            retry_pause: timing.first_retry,
            wanted_channels: Vec::new(),
            doubts_relay: false,
        }
    }

    pub(super) fn state(&self) -> IceState {
        self.state
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn local(&self) -> (&Credentials, u32) {
        (&self.local, self.local_generation)
    }

    pub(super) fn remote_candidates(&self) -> &[Candidate] {
        &self.remote_candidates
    }

    pub(super) fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    pub(super) fn selected(&self) -> Option<&Pair> {
        self.selected.and_then(|id| self.pair(id))
    }

    /// All local ufrags under which requests are taken.
    pub(super) fn local_ufrags(&self) -> impl Iterator<Item = &str> {
        let carried = self.epochs.iter().map(|epoch| epoch.local.ufrag.as_str());
        carried.chain([self.local.ufrag.as_str()])
    }

    /// Addresses to which the relay needs a channel.
    pub(super) fn take_wanted_channels(&mut self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.wanted_channels)
    }

    /// Whether some pair goes through the relay to `remote`.
    pub(super) fn relays_to(&self, remote: SocketAddr) -> bool {
        self.pairs.iter().any(|pair| pair.base == Base::Relay && pair.remote == remote)
    }

    /// Whether the relay should be asked if it still serves this node.
    pub(super) fn take_relay_doubt(&mut self) -> bool {
        std::mem::take(&mut self.doubts_relay)
    }

    /// New credentials of this end. The peer may have started anew, so it may count its generations from 0 again.
    pub(super) fn restart(&mut self, now: Instant, local: Credentials) {
        self.oldest_generation = 0;
        self.local = local;
        self.local_generation += 1;
        self.since = now;
        self.begin_epoch(now);
    }

    /// The credentials of the other end. `false` if they are older than those known.
    pub(super) fn set_remote(
        &mut self,
        now: Instant,
        remote: Credentials,
        generation: u32,
    ) -> bool {
        if generation < self.oldest_generation {
            return false;
        }
        self.oldest_generation = generation;
        if let Some((known, known_generation)) = &mut self.remote {
            if known.ufrag == remote.ufrag && known.password == remote.password {
                *known_generation = generation;
                return true;
            }
            self.remote_candidates.clear();
        }
        self.remote = Some((remote, generation));
        self.since = now;
        self.begin_epoch(now);
        true
    }

    pub(super) fn remote_generation(&self) -> Option<u32> {
        self.remote.as_ref().map(|(_, generation)| *generation)
    }

    /// Takes a candidate of the peer, whose address has been checked. `false` if there are too many.
    pub(super) fn add_remote_candidate(&mut self, now: Instant, candidate: Candidate) -> bool {
        let same = |known: &Candidate| known.address == candidate.address;
        if self.remote_candidates.iter().any(same) {
            return true;
        }
        if self.remote_candidates.len() >= MAX_REMOTE_CANDIDATES {
            return false;
        }
        self.remote_candidates.push(candidate);
        self.search_again(now);
        self.form_pairs(now);
        true
    }

    /// Takes what this host has now. Pairs of bases that are gone go.
    pub(super) fn set_bases(
        &mut self,
        now: Instant,
        bases: Vec<LocalBase>,
        reflexive: Vec<SocketAddr>,
    ) {
        self.reflexive = reflexive;
        if self.bases == bases {
            return;
        }
        let added = bases.iter().any(|base| !self.bases.contains(base));
        let gone: Vec<_> =
            self.bases.iter().filter(|old| !bases.contains(old)).map(|old| old.base).collect();
        self.bases = bases;
        self.pairs.retain(|pair| !gone.contains(&pair.base));
        if added {
            self.search_again(now);
        }
        if !gone.is_empty() || added {
            // The peer may have to learn a new way: every proved pair is looked at now.
            for pair in self.pairs.iter_mut().filter(|pair| pair.is_proved()) {
                pair.check_soon(now);
            }
        }
        self.form_pairs(now);
        self.evaluate(now);
    }

    /// The relay can now send to `remote`.
    pub(super) fn channel_bound(&mut self, now: Instant, remote: SocketAddr) {
        for pair in self.pairs.iter_mut().filter(|pair| pair.base == Base::Relay) {
            let has_waited = pair.state == PairState::Waiting && pair.next_check.is_none();
            if pair.remote == remote && has_waited {
                pair.check_soon(now);
            }
        }
    }

    /// The relay cannot send to `remote` any more.
    pub(super) fn channel_gone(&mut self, now: Instant, remote: SocketAddr) {
        for pair in self.pairs.iter_mut().filter(|pair| pair.base == Base::Relay) {
            if pair.remote == remote {
                pair.fail();
            }
        }
        self.evaluate(now);
    }

    /// Somebody has reason to think that the selected path is dead: it is checked at once.
    pub(super) fn suspect(&mut self, now: Instant) {
        if let Some(pair) = self.selected.and_then(|id| self.pair_mut(id)) {
            pair.check_soon(now);
        }
    }

    fn pair(&self, id: PairId) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.id == id)
    }

    fn pair_mut(&mut self, id: PairId) -> Option<&mut Pair> {
        self.pairs.iter_mut().find(|pair| pair.id == id)
    }

    fn begin_epoch(&mut self, now: Instant) {
        let Some((remote, _)) = &self.remote else { return };
        self.epochs_made += 1;
        let number = self.epochs_made;
        self.epochs.push(Epoch { number, local: self.local.clone(), remote: remote.clone() });
        let backup = self.backup();
        let carried = [self.selected, backup];
        self.pairs.retain(|pair| pair.is_proved() && carried.contains(&Some(pair.id)));
        self.nominating = None;
        self.drop_unused_epochs();
        self.search_again(now);
        if self.state == IceState::Waiting {
            self.state = IceState::Checking;
        }
        self.form_pairs(now);
        for early in std::mem::take(&mut self.early) {
            if self.remote.as_ref().is_some_and(|(remote, _)| remote.ufrag == early.remote_ufrag) {
                self.heard(now, number, &early);
            }
        }
        self.evaluate(now);
    }

    fn drop_unused_epochs(&mut self) {
        let newest = self.epochs_made;
        let pairs = &self.pairs;
        self.epochs.retain(|epoch| {
            epoch.number == newest || pairs.iter().any(|pair| pair.epoch == epoch.number)
        });
    }

    fn search_again(&mut self, now: Instant) {
        self.retry_pause = self.timing.first_retry;
        self.retry_at = self.retry_at.map(|_| now + self.retry_pause);
        if self.state == IceState::Failed {
            self.state = IceState::Checking;
            self.since = now;
        }
    }

    /// Makes the pairs of the newest epoch that are missing.
    fn form_pairs(&mut self, now: Instant) {
        let Some(epoch) = self.epochs.last().map(|epoch| epoch.number) else { return };
        let mut wanted: Vec<(LocalBase, Candidate)> = Vec::new();
        for base in &self.bases {
            let remotes = match base.base {
                Base::Host(_) => self.remote_candidates.clone(),
                Base::Relay => relay_targets(&self.remote_candidates),
            };
            let fits = |remote: &Candidate| can_pair(base, remote.address);
            wanted.extend(remotes.into_iter().filter(fits).map(|remote| (*base, remote)));
        }
        wanted.sort_by_key(|(base, remote)| std::cmp::Reverse(self.pair_priority(base, remote)));
        let mut position = 0;
        for (base, remote) in wanted {
            let priority = self.pair_priority(&base, &remote);
            let known = self.pairs.iter_mut().find(|pair| {
                pair.epoch == epoch && pair.base == base.base && pair.remote == remote.address
            });
            if let Some(pair) = known {
                // What was learned from a check is now known by its name.
                pair.remote_kind = remote.kind;
                pair.priority = priority;
                continue;
            }
            if self.pairs.len() >= MAX_PAIRS - MAX_EARLY_REQUESTS {
                break;
            }
            // Spread by rank, so that the first pairs of all peers come before the second of any.
            let due = now + self.timing.pace * position;
            position += 1;
            self.add_pair(due, base, (remote.address, remote.kind), priority, epoch);
        }
    }

    fn add_pair(
        &mut self,
        due: Instant,
        base: LocalBase,
        remote: (SocketAddr, CandidateKind),
        priority: u64,
        epoch: u32,
    ) -> PairId {
        self.pairs_made += 1;
        let id = PairId(self.pairs_made);
        let local = (base.base, base.kind());
        let mut pair = Pair::new(id, local, remote, priority, epoch, &self.timing);
        match base.base {
            Base::Host(_) => pair.next_check = Some(due),
            Base::Relay => self.wanted_channels.push(remote.0),
        }
        self.pairs.push(pair);
        id
    }

    /// RFC 8445, section 6.1.2.3.
    fn pair_priority(&self, base: &LocalBase, remote: &Candidate) -> u64 {
        let local = u64::from(priority(base.kind(), base.preference));
        let remote = u64::from(remote.priority);
        let (controlling, controlled) = match self.role {
            Role::Controlling => (local, remote),
            Role::Controlled => (remote, local),
        };
        let tie = u64::from(controlling > controlled);
        (controlling.min(controlled) << 32) + 2 * controlling.max(controlled) + tie
    }
}

/// Checks and their answers.
impl Agent {
    /// When a check of this sort is due next, and whether it goes before others.
    pub(super) fn next_check(&self, pacing: Pacing) -> Option<(Instant, Triggered)> {
        let pairs = self.pairs.iter().filter(|pair| pacing_of(pair) == pacing);
        let rank = |pair: &Pair| {
            let triggered = if pair.is_triggered { Triggered::Yes } else { Triggered::No };
            pair.next_check.map(|at| (at, triggered))
        };
        pairs.filter_map(rank).min_by_key(|(at, triggered)| (*triggered, *at))
    }

    /// The earliest moment at which any check of this sort is due.
    pub(super) fn next_check_at(&self, pacing: Pacing) -> Option<Instant> {
        let pairs = self.pairs.iter().filter(|pair| pacing_of(pair) == pacing);
        pairs.filter_map(|pair| pair.next_check).min()
    }

    /// Makes a check that is due: triggered ones first, then in the order of time and priority.
    pub(super) fn make_check(
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
        self.doubts_relay |= pair.base == Base::Relay && pair.is_proved() && !pair.is_usable();
        let (base, remote) = (pair.base, pair.remote);
        self.evaluate(now);
        Some(OutgoingCheck { base, remote, transaction, payload })
    }

    /// Takes a response to a check. `false` if it is not the answer to anything, or not signed right.
    pub(super) fn handle_response(
        &mut self,
        now: Instant,
        (base, remote): (Option<Base>, SocketAddr),
        message: &Message<'_>,
    ) -> bool {
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
        let Some(mapped) = message.mapped.map(super::candidate::canonical) else { return false };
        // Spread over 80 to 120 percent (RFC 7675, section 5.1), by the transaction, which is random.
        let spread = u32::from(message.transaction.0[0]) * 40 / 255 + 80;
        let interval = match (pair.duty, self.role) {
            _ if pair.is_recovering() => self.timing.max_rto,
            (Duty::Selected, Role::Controlling) => self.timing.consent,
            _ => self.timing.keepalive,
        };
        let interval = interval * spread / 100;
        let was_proved = pair.is_proved();
        let Some(answered) = pair.answered(now, message.transaction, interval) else {
            return false;
        };
        if let Base::Host(ip) = pair.base {
            pair.local_kind = if mapped.ip() == ip {
                CandidateKind::Host
            } else if self.reflexive.contains(&mapped) {
                CandidateKind::ServerReflexive
            } else {
                CandidateKind::PeerReflexive
            };
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
    pub(super) fn handle_request(
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
    fn heard(&mut self, now: Instant, epoch: u32, request: &EarlyRequest) {
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
        let remote = Candidate {
            kind: CandidateKind::PeerReflexive,
            address: request.remote,
            related: None,
            priority: request.priority,
        };
        let priority = self.pair_priority(&base, &remote);
        self.add_pair(now, base, (remote.address, remote.kind), priority, epoch);
        // An address that nobody told us of: the peer may have moved, and then the path of before is dead.
        self.suspect(now);
        Some(self.pairs.len() - 1)
    }
}

/// Decisions.
impl Agent {
    /// Chooses, by what is known now.
    fn evaluate(&mut self, now: Instant) {
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
            let Some(best) = self.best(Pair::is_usable) else { return };
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
        let Some(best) = self.best(Pair::is_trusted).and_then(|id| self.pair(id)) else { return };
        let is_upgrade = best.class() > class && (class <= Class::Relayed || is_settling)
            || best.class() >= class && best.epoch > epoch;
        let best = best.id;
        if is_upgrade && self.nominating.is_none_or(|id| self.is_better(best, id)) {
            self.nominate(now, best);
        }
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

    fn select(&mut self, now: Instant, id: PairId) {
        if self.selected == Some(id) {
            return;
        }
        let before = self.selected.replace(id);
        self.selected_at = Some(now);
        let consent = self.timing.consent;
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
    fn backup(&self) -> Option<PairId> {
        let selected = self.selected();
        let is_relayed = selected.is_some_and(Pair::is_relayed);
        self.pairs
            .iter()
            .filter(|pair| pair.is_usable() && Some(pair.id) != self.selected)
            .max_by_key(|pair| (pair.is_relayed() != is_relayed, rank(pair)))
            .map(|pair| pair.id)
    }

    /// Plans when failed pairs are tried again.
    fn settle_retries(&mut self, now: Instant) {
        let is_wanted = self.selected().is_none_or(Pair::is_relayed);
        self.retry_at = is_wanted.then(|| now + self.retry_pause);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
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
        let limit = self.timing.consent * 2;
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
        let newest = self.epochs_made;
        let is_new = |pair: &Pair| pair.epoch == newest && pair.is_usable();
        if self.epochs.len() > 1 && self.pairs.iter().any(is_new) {
            let selected = self.selected;
            let selected_is_new = self.selected().is_some_and(is_new);
            self.pairs.retain(|pair| {
                pair.epoch == newest || !selected_is_new && selected == Some(pair.id)
            });
            self.drop_unused_epochs();
        }
        let backup = self.backup();
        let keepalive = self.timing.keepalive;
        let is_controlled = self.role == Role::Controlled;
        for pair in self.pairs.iter_mut().filter(|pair| pair.is_proved()) {
            // The controlled end keeps what the controlling one keeps.
            let is_kept =
                is_controlled && pair.last_request.is_some_and(|at| now < at + keepalive * 5 / 2);
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
        let newest = self.epochs_made;
        let mut failed: Vec<_> = self
            .pairs
            .iter_mut()
            .filter(|pair| pair.state == PairState::Failed && pair.epoch == newest)
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
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
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
            Some(heard + self.timing.consent * 2)
        });
        [give_up, self.lost_at, self.retry_at, consent, silence].into_iter().flatten().min()
    }
}

/// Whether a check goes before others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Triggered {
    Yes,
    No,
}

fn pacing_of(pair: &Pair) -> Pacing {
    if pair.is_proved() { Pacing::Free } else { Pacing::Paced }
}

/// What makes one usable pair better than another.
fn rank(pair: &Pair) -> (Class, u32, u64) {
    (pair.class(), pair.epoch, pair.priority)
}

/// Families must match, and an address of the loopback network reaches only its like.
fn can_pair(base: &LocalBase, remote: SocketAddr) -> bool {
    let is_loopback = |ip: IpAddr| ip.is_loopback();
    base.address.is_ipv4() == remote.is_ipv4()
        && (base.base == Base::Relay || is_loopback(base.address.ip()) == is_loopback(remote.ip()))
}

/// To which addresses of the peer the relay shall send: one for each IP, since the permission is for the IP, and the
/// surest first.
fn relay_targets(candidates: &[Candidate]) -> Vec<Candidate> {
    let mut targets: Vec<Candidate> = Vec::new();
    let mut sorted = candidates.to_vec();
    sorted.sort_by_key(|candidate| (candidate.kind, std::cmp::Reverse(candidate.priority)));
    for candidate in sorted {
        let is_host = candidate.kind == CandidateKind::Host;
        let limit = if is_host { MAX_RELAY_HOST_TARGETS } else { MAX_RELAY_TARGETS };
        let same_sort = |target: &&Candidate| (target.kind == CandidateKind::Host) == is_host;
        let is_known = targets
            .iter()
            .any(|t| t.address.ip() == candidate.address.ip() && t.kind == candidate.kind);
        if !is_known && targets.iter().filter(same_sort).count() < limit {
            targets.push(candidate);
        }
    }
    targets
}

impl Role {
    pub(super) fn claimed(self) -> ClaimedRole {
        match self {
            Self::Controlling => ClaimedRole::Controlling,
            Self::Controlled => ClaimedRole::Controlled,
        }
    }
}
