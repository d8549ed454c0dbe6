//! ICE with one peer (RFC 8445), without I/O: the check list, nomination, consent, and what carries on when paths die.
//!
//! * **Roles are fixed** by the caller. A request that claims our own role is refused (487), and nobody ever swaps.
//! * **Nomination is repeated**: the controlling end nominates the first pair that answers, and a better one later. The
//!   number of the nomination (attribute NOMINATION) makes sure that the newest wins at the controlled end, whatever
//!   is repeated or overtaken on the way. Traffic first moves when the nominating check is answered: then the other
//!   end has proved the pair too. When the selected pair dies it moves at once.
//! * **Epochs**: a pair is checked with the credentials with which it was made. A restart or a new description makes a
//!   new epoch, with new pairs. An epoch is *agreed* once a check of each end was answered by the other, so that both
//!   are known to have its credentials; until the newest one is, the last agreed one carries on, with the selected pair,
//!   its back-up, and new pairs when addresses change; and an older one stays for as long as the peer uses it. So a
//!   description that somebody keeps back, replays or makes up can harm nothing that works.
//! * Pairs that answered but are not needed get no more checks; failed pairs are tried again, ever more rarely, while
//!   there is no direct path.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

mod checks;
mod decisions;
mod nats;
mod pairing;

pub(super) use self::checks::{Pacing, RequestOutcome};
use self::pairing::{can_pair, relay_targets};
use super::{
    Role,
    candidate::{Candidate, CandidateKind, priority},
    credentials::Credentials,
    pair::{Base, Pair, PairId, PairState},
    servers::{Mapping, NatMapping},
    stun::ClaimedRole,
    timing::Timing,
};

/// Candidates that are taken from one description; more are refused: each costs checks.
pub const MAX_CANDIDATES: usize = 24;
/// Pairs of one peer, those that requests from unknown addresses make included.
const MAX_PAIRS: usize = 72;
/// Pairs of the last agreed epoch, beside those of a newer one.
const MAX_AGREED_PAIRS: usize = 36;
/// Requests that came before the peer's description.
const MAX_EARLY_REQUESTS: usize = 8;

/// How a description of the peer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ice) enum Word {
    /// By way of a server, which may keep it back, repeat it or make it up: the highest generation holds.
    Passed,
    /// From the peer itself, inside the tunnel, in order.
    Own,
}

/// A place from which checks leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ice) struct LocalBase {
    pub(in crate::ice) base: Base,
    /// The host address, or the relayed one.
    pub(in crate::ice) address: SocketAddr,
    /// Its preference among those of its kind.
    pub(in crate::ice) preference: u16,
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

/// By what it is noticed first that the selected path has died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watch {
    /// By missing answers to checks, which are made often.
    Checks,
    /// By a connection over it, whose silence [`Ice::suspect`](super::Ice::suspect) is told of; checks are made to keep
    /// consent alone.
    Traffic,
}

#[derive(Debug)]
struct Epoch {
    number: u32,
    local: Credentials,
    remote: Credentials,
    /// What came with the remote credentials.
    candidates: Vec<Candidate>,
    /// When each of these was told last.
    told_at: Vec<Instant>,
    /// Both ends have proved a pair of it.
    is_agreed: bool,
}

#[derive(Debug)]
struct EarlyRequest {
    base: Base,
    remote: SocketAddr,
    remote_ufrag: String,
    priority: u32,
    nomination: Option<u32>,
}

#[derive(Debug)]
pub(in crate::ice) struct Agent {
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
    reflexive: Vec<Mapping>,
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
    watch: Watch,
    /// When the present search began.
    since: Instant,
    /// When the selected pair was selected.
    selected_at: Option<Instant>,
    lost_at: Option<Instant>,
    retry_at: Option<Instant>,
    retry_pause: Duration,
    wanted_channels: Vec<SocketAddr>,
    /// Pairs are silent that worked before.
    doubts_servers: bool,
    /// What the peer's answers tell of the NAT in front of this host.
    nat_mapping: NatMapping,
}

impl Agent {
    pub(in crate::ice) fn new(
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
            pairs: Vec::new(),
            pairs_made: 0,
            selected: None,
            nominating: None,
            nomination: 0,
            nomination_epoch: 0,
            early: VecDeque::new(),
            state: IceState::Waiting,
            watch: Watch::Checks,
            since: now,
            selected_at: None,
            lost_at: None,
            retry_at: None,
            retry_pause: timing.first_retry,
            wanted_channels: Vec::new(),
            doubts_servers: false,
            nat_mapping: NatMapping::Unknown,
        }
    }

    pub(in crate::ice) fn state(&self) -> IceState {
        self.state
    }

    pub(in crate::ice) fn role(&self) -> Role {
        self.role
    }

    pub(in crate::ice) fn local(&self) -> (&Credentials, u32) {
        (&self.local, self.local_generation)
    }

    /// Those of the newest description.
    pub(in crate::ice) fn remote_candidates(&self) -> &[Candidate] {
        self.epochs.last().map_or(&[], |epoch| &epoch.candidates)
    }

    pub(in crate::ice) fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    pub(in crate::ice) fn selected(&self) -> Option<&Pair> {
        self.selected.and_then(|id| self.pair(id))
    }

    /// All local ufrags under which requests are taken.
    pub(in crate::ice) fn local_ufrags(&self) -> impl Iterator<Item = &str> {
        let carried = self.epochs.iter().map(|epoch| epoch.local.ufrag.as_str());
        carried.chain([self.local.ufrag.as_str()])
    }

    /// Addresses to which the relay needs a channel.
    pub(in crate::ice) fn take_wanted_channels(&mut self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.wanted_channels)
    }

    /// Whether some pair goes through the relay to `remote`.
    pub(in crate::ice) fn relays_to(&self, remote: SocketAddr) -> bool {
        self.pairs.iter().any(|pair| pair.base == Base::Relay && pair.remote == remote)
    }

    /// Whether the servers should be asked if they still know this node as before.
    pub(in crate::ice) fn take_server_doubt(&mut self) -> bool {
        std::mem::take(&mut self.doubts_servers)
    }

    /// New credentials of this end. The peer may have started anew, so it may count its generations from 0 again.
    pub(in crate::ice) fn restart(&mut self, now: Instant, local: Credentials) {
        self.oldest_generation = 0;
        self.local = local;
        self.local_generation += 1;
        self.since = now;
        self.begin_epoch(now);
    }

    /// The credentials of the other end. `false` if they are older than those known.
    pub(in crate::ice) fn set_remote(
        &mut self,
        now: Instant,
        remote: Credentials,
        generation: u32,
        word: Word,
    ) -> bool {
        if word == Word::Passed && generation < self.oldest_generation {
            return false;
        }
        self.oldest_generation = generation;
        if let Some((known, known_generation)) = &mut self.remote
            && known.is_same(&remote)
        {
            *known_generation = generation;
            return true;
        }
        self.remote = Some((remote, generation));
        self.since = now;
        if !self.return_to_agreed(now) {
            self.begin_epoch(now);
        }
        true
    }

    /// If what holds now is what the last agreed epoch has: what came after it was never the peer's word.
    fn return_to_agreed(&mut self, now: Instant) -> bool {
        let Some((remote, _)) = &self.remote else { return false };
        let holds =
            |epoch: &&Epoch| epoch.local.is_same(&self.local) && epoch.remote.is_same(remote);
        let Some(number) = self.agreed().filter(holds).map(|epoch| epoch.number) else {
            return false;
        };
        self.epochs.retain(|epoch| epoch.number <= number);
        self.pairs.retain(|pair| pair.epoch <= number);
        self.search_again(now);
        self.form_pairs(now);
        self.evaluate(now);
        true
    }

    /// The last epoch of which both ends have the credentials.
    fn agreed(&self) -> Option<&Epoch> {
        self.epochs.iter().rev().find(|epoch| epoch.is_agreed)
    }

    fn newest(&self) -> u32 {
        self.epochs.last().map_or(0, |epoch| epoch.number)
    }

    pub(in crate::ice) fn remote_generation(&self) -> Option<u32> {
        self.remote.as_ref().map(|(_, generation)| *generation)
    }

    /// Takes a candidate of the peer, whose address has been checked. `false` if there are too many.
    pub(in crate::ice) fn add_remote_candidate(
        &mut self,
        now: Instant,
        candidate: Candidate,
    ) -> bool {
        let Some(Epoch { candidates, told_at, .. }) = self.epochs.last_mut() else { return false };
        match candidates.iter().position(|known| known.address == candidate.address) {
            Some(known) => told_at[known] = now,
            None if candidates.len() >= MAX_CANDIDATES => return false,
            None => {
                candidates.push(candidate);
                told_at.push(now);
                self.search_again(now);
            }
        }
        self.form_pairs(now);
        true
    }

    /// Takes what this host has now. Pairs of bases that are gone go.
    pub(in crate::ice) fn set_bases(
        &mut self,
        now: Instant,
        bases: Vec<LocalBase>,
        reflexive: Vec<Mapping>,
    ) {
        if self.reflexive != reflexive {
            self.nat_mapping = NatMapping::Unknown;
        }
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
    pub(in crate::ice) fn channel_bound(&mut self, now: Instant, remote: SocketAddr) {
        for pair in self.pairs.iter_mut().filter(|pair| pair.base == Base::Relay) {
            let has_waited = pair.state == PairState::Waiting && pair.next_check.is_none();
            if pair.remote == remote && has_waited {
                pair.check_soon(now);
            }
        }
    }

    /// The relay cannot send to `remote` any more.
    pub(in crate::ice) fn channel_gone(&mut self, now: Instant, remote: SocketAddr) {
        for pair in self.pairs.iter_mut().filter(|pair| pair.base == Base::Relay) {
            if pair.remote == remote {
                pair.fail();
            }
        }
        self.evaluate(now);
    }

    /// Somebody has reason to think that the selected path is dead: it is checked at once. The round-trip time, if it was
    /// measured lately.
    pub(in crate::ice) fn suspect(&mut self, now: Instant, rtt: Option<Duration>) {
        if let Some(pair) = self.selected.and_then(|id| self.pair_mut(id)) {
            pair.rtt = rtt.or(pair.rtt);
            pair.doubt(now);
        }
    }

    /// Who watches the selected path now. Whoever ceases to may have had a reason.
    pub(in crate::ice) fn set_watch(&mut self, now: Instant, watch: Watch) {
        let before = std::mem::replace(&mut self.watch, watch);
        if before == Watch::Traffic && watch == Watch::Checks {
            self.suspect(now, None);
        }
    }

    fn consent_interval(&self) -> Duration {
        match self.watch {
            Watch::Checks => self.timing.consent,
            Watch::Traffic => self.timing.keepalive,
        }
    }

    /// Ways may have opened or closed: pairs are checked at once, failed ones tried again if they are wanted.
    pub(in crate::ice) fn network_changed(&mut self, now: Instant) {
        for pair in self.pairs.iter_mut().filter(|pair| pair.is_proved() || pair.is_being_tried()) {
            pair.check_soon(now);
        }
        self.suspect(now, None);
        self.search_again(now);
        self.retry_at = self.retry_at.map(|_| now);
    }

    fn pair(&self, id: PairId) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.id == id)
    }

    fn pair_mut(&mut self, id: PairId) -> Option<&mut Pair> {
        self.pairs.iter_mut().find(|pair| pair.id == id)
    }

    fn begin_epoch(&mut self, now: Instant) {
        let Some((remote, _)) = &self.remote else { return };
        let (local, remote) = (self.local.clone(), remote.clone());
        let before = self.epochs.last().filter(|epoch| epoch.remote.is_same(&remote));
        let candidates = before.map(|epoch| epoch.candidates.clone()).unwrap_or_default();
        let told_at = before.map(|epoch| epoch.told_at.clone()).unwrap_or_default();
        self.epochs_made += 1;
        let number = self.epochs_made;
        let is_agreed = false;
        self.epochs.push(Epoch { number, local, remote, candidates, told_at, is_agreed });
        self.drop_pairs_of_before();
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

    /// A new epoch begins: of those before it stays what carries the traffic, or is about to, and what the peer uses.
    fn drop_pairs_of_before(&mut self) {
        let agreed = self.agreed().map(|epoch| epoch.number);
        let heard_of_agreed = self.last_heard(|pair| Some(pair.epoch) == agreed);
        let carried = [self.selected, self.backup(), self.last_heard(|_| true), heard_of_agreed];
        self.pairs.retain(|pair| {
            pair.is_proved() && carried.contains(&Some(pair.id))
                || Some(pair.epoch) == agreed && pair.is_being_tried()
        });
    }

    /// The pair on which the peer was heard last.
    fn last_heard(&self, which: impl Fn(&Pair) -> bool) -> Option<PairId> {
        let heard = self.pairs.iter().filter(|pair| pair.is_mutual() && which(pair));
        heard.max_by_key(|pair| pair.last_request).map(|pair| pair.id)
    }

    fn drop_unused_epochs(&mut self) {
        let needed = [Some(self.newest()), self.agreed().map(|epoch| epoch.number)];
        let pairs = &self.pairs;
        self.epochs.retain(|epoch| {
            needed.contains(&Some(epoch.number))
                || pairs.iter().any(|pair| pair.epoch == epoch.number)
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

    /// Makes the pairs that are missing, of the newest epoch and of the last agreed one.
    fn form_pairs(&mut self, now: Instant) {
        let newest = self.newest();
        let agreed = self.agreed().map(|epoch| epoch.number).filter(|number| *number != newest);
        if let Some(agreed) = agreed {
            self.form_pairs_of(now, agreed, MAX_AGREED_PAIRS);
        }
        self.form_pairs_of(now, newest, MAX_PAIRS - MAX_EARLY_REQUESTS);
    }

    /// Makes the missing pairs of one epoch, as long as there are fewer than `limit` in all.
    fn form_pairs_of(&mut self, now: Instant, number: u32, limit: usize) {
        let Some(epoch) = self.epochs.iter().find(|epoch| epoch.number == number) else { return };
        let mut wanted: Vec<(LocalBase, Candidate)> = Vec::new();
        for base in &self.bases {
            let remotes = match base.base {
                Base::Host(_) => epoch.candidates.clone(),
                Base::Relay => relay_targets(epoch),
            };
            let fits = |remote: &Candidate| can_pair(base, remote.address);
            wanted.extend(remotes.into_iter().filter(fits).map(|remote| (*base, remote)));
        }
        wanted.sort_by_key(|(base, remote)| std::cmp::Reverse(self.pair_priority(base, remote)));
        let mut position = 0;
        for (base, remote) in wanted {
            let priority = self.pair_priority(&base, &remote);
            let known = self.pairs.iter_mut().find(|pair| {
                pair.epoch == number && pair.base == base.base && pair.remote == remote.address
            });
            if let Some(pair) = known {
                // What was learned from a check is now known by its name.
                pair.remote_kind = remote.kind;
                pair.priority = priority;
                continue;
            }
            if self.pairs.len() >= limit {
                break;
            }
            // Spread by rank, so that the first pairs of all peers come before the second of any.
            let due = now + self.timing.pace * position;
            position += 1;
            self.add_pair(due, base, (remote.address, remote.kind), priority, number);
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

impl Role {
    pub(in crate::ice) fn claimed(self) -> ClaimedRole {
        match self {
            Self::Controlling => ClaimedRole::Controlling,
            Self::Controlled => ClaimedRole::Controlled,
        }
    }
}
