//! One TURN allocation over UDP for the whole node (RFC 8656), without I/O.
//!
//! The servers are tried in order; the first that allocates is used until it fails. An allocation belongs to the
//! credentials that made it: newer ones serve the next allocation, not the refresh of this one (a server answers 441
//! to that). When a refresh is refused because the server knows nothing of the allocation (437: it was restarted, or
//! our address changed) or does not take the credentials any more, a new allocation is made at once.
//!
//! Of a server that lies nothing is believed: successes must be signed, and so must errors that bear a signature at
//! all (servers leave it out of many). What does not fit is counted and ignored, and the request then times out like
//! any other. A redirection (300, ALTERNATE-SERVER) is not followed: the operator is told where it leads.
//!
//! No CreatePermission is ever sent: a channel binding brings the permission of its address's IP along.

mod answer;
mod channels;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipop_datapath::path::is_of_aliases;

use self::{
    answer::{lifetime, refusal},
    channels::{Binding, Channels},
};
use super::{
    ServerProblem, TurnFault,
    entropy::Entropy,
    servers::TurnServer,
    stun::{Builder, Class, IntegrityKey, Message, Method, TransactionId},
};

/// Asked for; the server may give less.
const LIFETIME_S: u32 = 600;
/// The first repetition of a request, doubled each time, at most `MAX_RTO`.
const INITIAL_RTO: Duration = Duration::from_millis(250);
const MAX_RTO: Duration = Duration::from_secs(1);
/// Requests sent before the server counts as gone: 250 + 500 + 1000 + 1000 ms after the first.
const MAX_TRANSMISSIONS: u32 = 4;
/// Nonces in a row that the server gave and then refused before the server counts as broken.
const MAX_STALE_NONCES: u32 = 4;
/// An allocation is asked about at most this often when pairs fail.
const SUSPICION_INTERVAL: Duration = Duration::from_secs(5);
/// After all servers failed.
const FIRST_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the rest of ICE hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum TurnEvent {
    /// There is an allocation.
    Allocated { relayed: SocketAddr, mapped: Option<SocketAddr> },
    /// It is gone, with all channels.
    Gone,
    /// Packets can be sent to `remote`.
    ChannelBound { remote: SocketAddr },
    /// Not any more, or not at all.
    ChannelGone { remote: SocketAddr },
    /// For the operator.
    Problem(ServerProblem),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Request {
    Allocate,
    Refresh,
    /// Ends an allocation of which the server knows and we do not, because its answer was lost.
    Release,
    Bind(Binding),
}

#[derive(Debug)]
struct Pending {
    request: Request,
    bytes: Vec<u8>,
    /// What it was signed with; `None` if it was not.
    nonce: Option<Vec<u8>>,
    transmissions: u32,
    resend_at: Instant,
}

/// Whether this attempt at an allocation has ended one of before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Release {
    Possible,
    Tried,
}

/// What signs requests to the present server.
#[derive(Debug)]
struct Session {
    realm: String,
    nonce: Vec<u8>,
    key: IntegrityKey,
}

#[derive(Debug)]
enum State {
    /// There is no server.
    Idle,
    Allocating,
    Allocated {
        relayed: SocketAddr,
        expires_at: Instant,
        refresh_at: Instant,
    },
    /// All servers failed.
    Pausing {
        until: Instant,
    },
}

#[derive(Debug)]
pub(super) struct Turn {
    servers: Vec<TurnServer>,
    /// The server of the allocation or of the attempt at one, with the credentials that count for it.
    server: Option<TurnServer>,
    /// Its place in the list.
    position: usize,
    state: State,
    session: Option<Session>,
    stale_nonces: u32,
    release: Release,
    pause: Duration,
    suspected_at: Option<Instant>,
    pending: HashMap<TransactionId, Pending>,
    channels: Channels,
    last_problem: Option<ServerProblem>,
    transmits: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<TurnEvent>,
    ignored: u64,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self {
            servers: Vec::new(),
            server: None,
            position: 0,
            state: State::Idle,
            session: None,
            stale_nonces: 0,
            release: Release::Possible,
            pause: FIRST_PAUSE,
            suspected_at: None,
            pending: HashMap::new(),
            channels: Channels::default(),
            last_problem: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            ignored: 0,
        }
    }

    /// Takes other servers or credentials. An allocation that stands stays.
    pub(super) fn set_servers(
        &mut self,
        now: Instant,
        servers: Vec<TurnServer>,
        entropy: &mut Entropy,
    ) {
        if self.servers == servers {
            return;
        }
        self.servers = servers;
        self.pause = FIRST_PAUSE;
        if !matches!(self.state, State::Allocated { .. }) {
            self.start(now, 0, entropy);
        }
    }

    /// The address of this node may be another now, so the server may not know it any more: asks at once. These are the
    /// servers that can be reached from there.
    pub(super) fn address_changed(
        &mut self,
        now: Instant,
        servers: Vec<TurnServer>,
        entropy: &mut Entropy,
    ) {
        self.servers = servers;
        let used = self.server();
        let is_reachable = self.servers.iter().any(|server| Some(server.address) == used);
        match self.state {
            State::Allocated { .. } if is_reachable => self.send(now, Request::Refresh, entropy),
            _ => self.start(now, 0, entropy),
        }
    }

    /// Ways may have opened or closed: what waits for an answer or for a better time is sent now.
    pub(super) fn network_changed(&mut self, now: Instant, entropy: &mut Entropy) {
        for pending in self.pending.values_mut() {
            (pending.transmissions, pending.resend_at) = (1, now);
        }
        match self.state {
            State::Pausing { .. } => self.start(now, 0, entropy),
            _ => self.suspect(now, entropy),
        }
    }

    /// Tells the server that the allocation is not needed any more. Nobody waits for the answer.
    pub(super) fn release(&mut self, now: Instant, entropy: &mut Entropy) {
        if self.relayed().is_some() {
            self.send(now, Request::Release, entropy);
            self.pending.clear();
            self.state = State::Idle;
        }
    }

    /// Something that goes through the relay failed: asks whether the allocation still stands, once in a while.
    pub(super) fn suspect(&mut self, now: Instant, entropy: &mut Entropy) {
        let is_asking = self.pending.values().any(|pending| pending.request == Request::Refresh);
        let is_fresh = self.suspected_at.is_some_and(|at| now < at + SUSPICION_INTERVAL);
        if self.relayed().is_some() && !is_asking && !is_fresh {
            self.suspected_at = Some(now);
            self.send(now, Request::Refresh, entropy);
        }
    }

    /// The server in use, if it has allocated.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        match (&self.state, &self.server) {
            (State::Allocated { .. }, Some(server)) => Some(server.address),
            _ => None,
        }
    }

    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        match self.state {
            State::Allocated { relayed, .. } => Some(relayed),
            _ => None,
        }
    }

    /// Whether it is not known yet whether there will be an allocation.
    pub(super) fn is_allocating(&self) -> bool {
        matches!(self.state, State::Allocating)
    }

    pub(super) fn has_servers(&self) -> bool {
        !self.servers.is_empty() || self.server.is_some()
    }

    pub(super) fn last_problem(&self) -> Option<&ServerProblem> {
        self.last_problem.as_ref()
    }

    /// Asks for a channel to `remote`; [`TurnEvent::ChannelBound`] tells when it is there.
    pub(super) fn want_channel(&mut self, now: Instant, remote: SocketAddr, entropy: &mut Entropy) {
        if self.relayed().is_some() {
            self.channels.want(now, remote);
            self.bind_queued(now, entropy);
        }
    }

    pub(super) fn channel(&self, now: Instant, remote: SocketAddr) -> Option<u16> {
        self.channels.number(now, remote)
    }

    pub(super) fn remote_of(&self, channel: u16) -> Option<SocketAddr> {
        self.channels.remote(channel)
    }

    pub(super) fn bound_channels(&self) -> usize {
        self.channels.bound_count()
    }

    /// Packets that were not believed.
    pub(super) fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Takes a message that came to the relay socket. Gives back what a peer sent through the relay, if that is what
    /// it carries (a Data indication: the address has a permission but no channel).
    pub(super) fn handle_message<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        message: &Message<'a>,
        entropy: &mut Entropy,
    ) -> Option<(SocketAddr, &'a [u8])> {
        let is_server = self.server.as_ref().is_some_and(|server| server.address == from);
        if is_server && message.class == Class::Indication {
            let peer = message.peer.filter(|_| message.method == Method::Data);
            if let (Some(peer), Some(payload), Some(_)) = (peer, message.payload, self.relayed()) {
                return Some((peer, payload));
            }
        }
        let known = self.pending.get(&message.transaction).filter(|_| is_server);
        match known {
            Some(pending) if self.is_believable(pending, message) => {
                if let Some(pending) = self.pending.remove(&message.transaction) {
                    self.handle_response(now, &pending, message, entropy);
                }
            }
            _ => self.ignored += 1,
        }
        None
    }

    /// Whether this can be the answer to that request.
    fn is_believable(&self, pending: &Pending, message: &Message<'_>) -> bool {
        let method = match pending.request {
            Request::Allocate => Method::Allocate,
            Request::Refresh | Request::Release => Method::Refresh,
            Request::Bind(_) => Method::ChannelBind,
        };
        let right_key =
            self.session.as_ref().is_some_and(|session| message.is_signed_with(&session.key));
        message.method == method
            && match message.class {
                Class::Success => pending.nonce.is_some() && right_key,
                // Some servers sign the answer even to what was not signed; there is no key to check that with.
                Class::Error => right_key || !message.has_integrity() || pending.nonce.is_none(),
                _ => false,
            }
    }

    fn handle_response(
        &mut self,
        now: Instant,
        pending: &Pending,
        message: &Message<'_>,
        entropy: &mut Entropy,
    ) {
        if message.class == Class::Success {
            self.stale_nonces = 0;
            match pending.request {
                Request::Allocate => self.allocated(now, message, entropy),
                Request::Refresh => self.refreshed(now, message),
                Request::Release => self.send(now, Request::Allocate, entropy),
                Request::Bind(binding) => {
                    if self.channels.bound(now, binding.remote) {
                        self.events.push_back(TurnEvent::ChannelBound { remote: binding.remote });
                    }
                }
            }
            self.bind_queued(now, entropy);
            return;
        }
        match message.error_code.unwrap_or(500) {
            401 if pending.nonce.is_none() => {
                self.authenticate(now, pending.request, message, entropy);
            }
            // Requests that were on their way together are refused together: the first answer brought a newer nonce than theirs.
            438 if self.has_newer_nonce(pending) => self.send(now, pending.request, entropy),
            438 => self.authenticate(now, pending.request, message, entropy),
            code => self.refused(now, pending.request, code, message.alternate, entropy),
        }
    }

    fn has_newer_nonce(&self, pending: &Pending) -> bool {
        let newest = self.session.as_ref().map(|session| &session.nonce);
        pending.nonce.is_some() && pending.nonce.as_ref() != newest
    }

    /// 401 to the first request, or 438: the challenge to answer.
    fn authenticate(
        &mut self,
        now: Instant,
        request: Request,
        message: &Message<'_>,
        entropy: &mut Entropy,
    ) {
        self.stale_nonces += 1;
        let realm = message
            .realm
            .map(str::to_owned)
            .or_else(|| self.session.as_ref().map(|session| session.realm.clone()));
        let (Some(realm), Some(nonce), Some(server)) = (realm, message.nonce, &self.server) else {
            self.failed(now, TurnFault::NoChallenge, entropy);
            return;
        };
        if self.stale_nonces > MAX_STALE_NONCES {
            self.failed(now, TurnFault::NoncesRefused, entropy);
            return;
        }
        let key = IntegrityKey::long_term(&server.username, &realm, &server.password);
        self.session = Some(Session { realm, nonce: nonce.to_vec(), key });
        self.send(now, request, entropy);
    }

    fn allocated(&mut self, now: Instant, message: &Message<'_>, entropy: &mut Entropy) {
        let usable = message.relayed.filter(|relayed| !is_of_aliases(relayed.ip()));
        let Some(relayed) = usable.map(super::candidate::canonical) else {
            self.failed(now, TurnFault::BadAllocation, entropy);
            return;
        };
        let (expires_at, refresh_at) = lifetime(now, message);
        self.state = State::Allocated { relayed, expires_at, refresh_at };
        self.pause = FIRST_PAUSE;
        self.last_problem = None;
        self.events.push_back(TurnEvent::Allocated { relayed, mapped: message.mapped });
    }

    fn refreshed(&mut self, now: Instant, message: &Message<'_>) {
        if let State::Allocated { expires_at, refresh_at, .. } = &mut self.state {
            (*expires_at, *refresh_at) = lifetime(now, message);
        }
    }

    fn refused(
        &mut self,
        now: Instant,
        request: Request,
        code: u16,
        alternate: Option<SocketAddr>,
        entropy: &mut Entropy,
    ) {
        match (request, code) {
            // The allocation is unknown or not ours any more.
            (Request::Refresh | Request::Bind(_), 401 | 437 | 441) => {
                let position = self.position;
                self.start(now, position, entropy);
            }
            (Request::Bind(binding), _) => {
                self.channels.refused(now, binding.remote);
                self.events.push_back(TurnEvent::ChannelGone { remote: binding.remote });
                if code == 486 || code == 508 {
                    self.problem(TurnFault::NoChannel(code));
                }
                self.bind_queued(now, entropy);
            }
            // Any other answer to a refresh: the allocation may live on, so it is asked again in time.
            (Request::Refresh, _) => {
                if let State::Allocated { expires_at, refresh_at, .. } = &mut self.state {
                    *refresh_at = now + expires_at.saturating_duration_since(now) / 2 + MAX_RTO;
                }
            }
            (Request::Allocate, 437) if self.release == Release::Possible => {
                self.release = Release::Tried;
                self.send(now, Request::Release, entropy);
            }
            (Request::Release, _) => self.send(now, Request::Allocate, entropy),
            (Request::Allocate, _) => self.failed(now, refusal(code, alternate), entropy),
        }
    }

    /// The present server is no use: on to the next, or a pause if it was the last.
    fn failed(&mut self, now: Instant, why: TurnFault, entropy: &mut Entropy) {
        self.problem(why);
        let next = self.position + 1;
        if next < self.servers.len() {
            self.start(now, next, entropy);
        } else {
            self.drop_allocation(now);
            self.state = State::Pausing { until: now + self.pause };
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn problem(&mut self, why: TurnFault) {
        let Some(server) = &self.server else { return };
        let problem = ServerProblem::Turn { server: server.address, why };
        if self.last_problem.as_ref() != Some(&problem) {
            self.last_problem = Some(problem.clone());
            self.events.push_back(TurnEvent::Problem(problem));
        }
    }

    /// Tries for an allocation from the server at `position`, from scratch.
    fn start(&mut self, now: Instant, position: usize, entropy: &mut Entropy) {
        self.drop_allocation(now);
        self.position = position;
        self.stale_nonces = 0;
        self.release = Release::Possible;
        let Some(server) = self.servers.get(position) else {
            self.server = None;
            self.state = State::Idle;
            return;
        };
        let is_expired = server.expires.is_some_and(|at| at <= now);
        self.server = Some(server.clone());
        self.state = State::Allocating;
        if is_expired {
            self.failed(now, TurnFault::CredentialsExpired, entropy);
        } else {
            self.send(now, Request::Allocate, entropy);
        }
    }

    fn drop_allocation(&mut self, now: Instant) {
        if self.relayed().is_some() {
            self.events.push_back(TurnEvent::Gone);
        }
        self.session = None;
        self.pending.clear();
        self.channels.forget_all(now);
        self.state = State::Idle;
    }

    fn bind_queued(&mut self, now: Instant, entropy: &mut Entropy) {
        while let Some(binding) = self.channels.next_binding() {
            self.send(now, Request::Bind(binding), entropy);
        }
    }

    fn send(&mut self, now: Instant, request: Request, entropy: &mut Entropy) {
        let Some(server) = &self.server else { return };
        let transaction = entropy.transaction();
        let builder = |method| Builder::new(Class::Request, method, transaction);
        let builder = match request {
            Request::Allocate => {
                let allocate = builder(Method::Allocate).udp_transport().lifetime_s(LIFETIME_S);
                if server.address.is_ipv6() { allocate.ipv6_allocation() } else { allocate }
            }
            Request::Refresh => builder(Method::Refresh).lifetime_s(LIFETIME_S),
            Request::Release => builder(Method::Refresh).lifetime_s(0),
            Request::Bind(Binding { remote, number }) => {
                builder(Method::ChannelBind).channel_number(number).peer(remote)
            }
        };
        let (bytes, nonce) = match &self.session {
            Some(session) => {
                let bytes = builder
                    .username(&server.username)
                    .realm(&session.realm)
                    .nonce(&session.nonce)
                    .signed(&session.key);
                (bytes, Some(session.nonce.clone()))
            }
            None => (builder.unsigned(), None),
        };
        self.transmits.push_back((server.address, bytes.clone()));
        let resend_at = now + INITIAL_RTO;
        let pending = Pending { request, bytes, nonce, transmissions: 1, resend_at };
        self.pending.insert(transaction, pending);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, entropy: &mut Entropy) {
        for remote in self.channels.handle_timeout(now) {
            self.events.push_back(TurnEvent::ChannelGone { remote });
        }
        self.bind_queued(now, entropy);
        self.repeat_requests(now, entropy);
        match self.state {
            State::Pausing { until } if until <= now => self.start(now, 0, entropy),
            State::Allocated { expires_at, .. } if expires_at <= now => {
                let position = self.position;
                self.start(now, position, entropy);
            }
            State::Allocated { refresh_at, .. } if refresh_at <= now => {
                if let State::Allocated { expires_at, refresh_at, .. } = &mut self.state {
                    *refresh_at = *expires_at;
                }
                self.send(now, Request::Refresh, entropy);
            }
            _ => {}
        }
    }

    fn repeat_requests(&mut self, now: Instant, entropy: &mut Entropy) {
        let due: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.resend_at <= now)
            .map(|(transaction, _)| *transaction)
            .collect();
        for transaction in due {
            let (Some(pending), Some(server)) = (self.pending.get_mut(&transaction), &self.server)
            else {
                continue;
            };
            if pending.transmissions < MAX_TRANSMISSIONS {
                let rto = (INITIAL_RTO * 2_u32.pow(pending.transmissions)).min(MAX_RTO);
                pending.transmissions += 1;
                pending.resend_at = now + rto;
                self.transmits.push_back((server.address, pending.bytes.clone()));
                continue;
            }
            // Whatever was asked: a server that does not answer is gone.
            self.failed(now, TurnFault::Silent, entropy);
            return;
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let state = match self.state {
            State::Pausing { until } => Some(until),
            State::Allocated { expires_at, refresh_at, .. } => Some(refresh_at.min(expires_at)),
            State::Idle | State::Allocating => None,
        };
        let pending = self.pending.values().map(|pending| pending.resend_at).min();
        [state, pending, self.channels.poll_timeout()].into_iter().flatten().min()
    }

    pub(super) fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<TurnEvent> {
        self.events.pop_front()
    }
}
