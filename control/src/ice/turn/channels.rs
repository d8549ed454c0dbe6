//! The channels of one allocation: a number for each address that is reached through the relay.
//!
//! A binding lasts 10 minutes and is renewed every 4, because the permission that comes with it lasts 5 (RFC 8656,
//! sections 9 and 12). Whoever still needs an address says so now and then ([`Channels::want`]); what nobody asked
//! for is not renewed and ends. A number that was bound is not given to another address for 5 more minutes.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipop_datapath::path::channel_data::CHANNELS;

use crate::timed::{Timed, Timer};

const FIRST_NUMBER: u16 = CHANNELS.start;
const NUMBERS: u16 = CHANNELS.end - CHANNELS.start;
const LIFETIME: Duration = Duration::from_secs(600);
const RENEWAL: Duration = Duration::from_secs(240);
const QUARANTINE: Duration = Duration::from_secs(330);
/// How long a wish is remembered. Longer than the rarest check of a pair that is kept alive.
const WISH: Duration = Duration::from_secs(90);
/// How long a refused address is left alone.
const REFUSAL: Duration = Duration::from_secs(120);
/// Requests at once; the others wait for their turn.
const MAX_BINDING: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Waits for its request.
    Queued,
    /// The request is on its way; `true` answers carry on with what was bound before.
    Binding,
    Bound,
    /// The server does not serve this address for now.
    Refused {
        until: Instant,
    },
}

#[derive(Debug)]
struct Channel {
    number: u16,
    state: State,
    wanted_until: Instant,
    /// When the last binding ends, `None` before the first.
    expires_at: Option<Instant>,
    renew_at: Option<Instant>,
}

impl Timer for Channel {
    fn wake_at(&self) -> Option<Instant> {
        match (self.renew_at, self.expires_at) {
            // An unwanted channel is not renewed: its end is what comes next.
            (Some(renew), Some(end)) if renew < self.wanted_until => Some(renew.min(end)),
            (_, end @ Some(_)) => end,
            _ => match self.state {
                State::Refused { .. } => Some(self.wanted_until),
                _ => None,
            },
        }
    }
}

/// A channel to be bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Binding {
    pub(super) remote: SocketAddr,
    pub(super) number: u16,
}

#[derive(Debug, Default)]
pub(super) struct Channels {
    by_remote: Timed<SocketAddr, Channel>,
    by_number: HashMap<u16, SocketAddr>,
    /// Numbers that were bound, by the time at which they may be used again.
    quarantine: VecDeque<(Instant, u16)>,
    queue: VecDeque<SocketAddr>,
    next: u16,
    binding: usize,
}

impl Channels {
    /// Asks for a channel to `remote`, or for its renewal when its time comes. `false` if there is no number left or
    /// the server refused this address.
    pub(super) fn want(&mut self, now: Instant, remote: SocketAddr) -> bool {
        if let Some(channel) = self.by_remote.get_mut(&remote) {
            channel.wanted_until = now + WISH;
            return match channel.state {
                State::Refused { until } if now < until => false,
                State::Refused { .. } => {
                    channel.state = State::Queued;
                    self.queue.push_back(remote);
                    true
                }
                _ => true,
            };
        }
        let Some(number) = self.free_number(now) else { return false };
        let channel = Channel {
            number,
            state: State::Queued,
            wanted_until: now + WISH,
            expires_at: None,
            renew_at: None,
        };
        self.by_remote.insert(remote, channel);
        self.by_number.insert(number, remote);
        self.queue.push_back(remote);
        true
    }

    /// The number of the channel to `remote`, once it is bound.
    pub(super) fn number(&self, now: Instant, remote: SocketAddr) -> Option<u16> {
        let channel = self.by_remote.get(&remote)?;
        channel.expires_at.is_some_and(|at| now < at).then_some(channel.number)
    }

    pub(super) fn remote(&self, number: u16) -> Option<SocketAddr> {
        let remote = *self.by_number.get(&number)?;
        self.by_remote.get(&remote)?.expires_at.map(|_| remote)
    }

    /// The next channel that is to be bound now.
    pub(super) fn next_binding(&mut self) -> Option<Binding> {
        while self.binding < MAX_BINDING {
            let remote = self.queue.pop_front()?;
            let Some(channel) = self.by_remote.get_mut(&remote) else { continue };
            channel.state = State::Binding;
            self.binding += 1;
            return Some(Binding { remote, number: channel.number });
        }
        None
    }

    /// The server bound it. `true` if it is new rather than renewed.
    pub(super) fn bound(&mut self, now: Instant, remote: SocketAddr) -> bool {
        self.binding = self.binding.saturating_sub(1);
        let Some(channel) = self.by_remote.get_mut(&remote) else { return false };
        channel.state = State::Bound;
        channel.renew_at = Some(now + RENEWAL);
        channel.expires_at.replace(now + LIFETIME).is_none()
    }

    /// The server did not bind it. `true` if it was bound until now.
    pub(super) fn refused(&mut self, now: Instant, remote: SocketAddr) -> bool {
        self.binding = self.binding.saturating_sub(1);
        let Some(channel) = self.by_remote.get_mut(&remote) else { return false };
        channel.state = State::Refused { until: now + REFUSAL };
        channel.renew_at = None;
        channel.expires_at.take().is_some()
    }

    /// The allocation is gone, and all channels with it. Their numbers rest: what still arrives through them must not be
    /// taken for another peer's, whichever server sends it.
    pub(super) fn forget_all(&mut self, now: Instant) {
        let numbers = self.by_remote.values().map(|channel| (now + QUARANTINE, channel.number));
        self.quarantine.extend(numbers);
        self.by_remote = Timed::default();
        self.by_number.clear();
        self.queue.clear();
        self.binding = 0;
    }

    /// Queues renewals that are due, forgets what ended, and returns the addresses of bound channels that ended.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<SocketAddr> {
        while self.quarantine.front().is_some_and(|(until, _)| *until <= now) {
            self.quarantine.pop_front();
        }
        let mut ended = Vec::new();
        let mut forgotten = Vec::new();
        for remote in self.by_remote.due(now) {
            let Some(channel) = self.by_remote.get_mut(&remote) else { continue };
            let wanted = now < channel.wanted_until;
            if wanted && channel.renew_at.is_some_and(|at| at <= now) {
                channel.renew_at = None;
                channel.state = State::Queued;
                self.queue.push_back(remote);
            }
            if channel.expires_at.is_some_and(|at| at <= now) {
                channel.expires_at = None;
                ended.push(remote);
            }
            let is_idle = !matches!(channel.state, State::Queued | State::Binding);
            if is_idle && !wanted && channel.expires_at.is_none() {
                forgotten.push(remote);
            }
        }
        for remote in forgotten {
            if let Some(channel) = self.by_remote.remove(&remote) {
                self.by_number.remove(&channel.number);
                self.quarantine.push_back((now + QUARANTINE, channel.number));
            }
        }
        ended
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.by_remote.next_wake()
    }

    /// How many addresses have a bound channel.
    pub(super) fn bound_count(&self) -> usize {
        self.by_remote.values().filter(|channel| channel.expires_at.is_some()).count()
    }

    fn free_number(&mut self, now: Instant) -> Option<u16> {
        // Numbers are given in turn, so a number is met again only after all others: by then its quarantine is over,
        // unless thousands were used within minutes.
        for _ in 0..NUMBERS {
            let number = FIRST_NUMBER + self.next;
            self.next = (self.next + 1) % NUMBERS;
            let resting = self.quarantine.iter().any(|(until, n)| *n == number && now < *until);
            if !self.by_number.contains_key(&number) && !resting {
                return Some(number);
            }
            if self.by_number.len() + self.quarantine.len() >= usize::from(NUMBERS) {
                return None;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number + 1))
    }

    #[test]
    fn a_channel_is_renewed_as_long_as_it_is_wanted() {
        let start = Instant::now();
        let mut channels = Channels::default();
        assert!(channels.want(start, remote(1)));
        let binding = channels.next_binding().unwrap();
        assert_eq!(binding, Binding { remote: remote(1), number: FIRST_NUMBER });
        assert_eq!(channels.number(start, remote(1)), None, "not bound yet");
        assert!(channels.bound(start, remote(1)));
        assert_eq!(channels.number(start, remote(1)), Some(FIRST_NUMBER));
        assert_eq!(channels.remote(FIRST_NUMBER), Some(remote(1)));

        let later = start + RENEWAL;
        channels.want(later, remote(1));
        assert!(channels.handle_timeout(later).is_empty());
        assert_eq!(channels.next_binding(), Some(binding));
        assert!(!channels.bound(later, remote(1)), "renewed, not new");

        let end = later + LIFETIME;
        assert_eq!(channels.handle_timeout(end), [remote(1)]);
        assert_eq!(channels.number(end, remote(1)), None);
        assert_eq!(channels.remote(FIRST_NUMBER), None);
    }

    #[test]
    fn a_number_rests_before_it_is_used_again() {
        let start = Instant::now();
        let mut channels = Channels::default();
        for number in 0..NUMBERS {
            assert!(channels.want(start, remote(number)));
        }
        assert!(!channels.want(start, remote(NUMBERS)), "all are taken");
        while let Some(binding) = channels.next_binding() {
            channels.bound(start, binding.remote);
        }
        let end = start + LIFETIME;
        assert_eq!(channels.handle_timeout(end).len(), usize::from(NUMBERS));
        assert!(!channels.want(end, remote(0)), "all rest");
        let rested = end + QUARANTINE;
        channels.handle_timeout(rested);
        assert!(channels.want(rested, remote(0)));
    }

    #[test]
    fn numbers_of_an_allocation_that_is_gone_rest_too() {
        let start = Instant::now();
        let mut channels = Channels::default();
        channels.want(start, remote(1));
        channels.next_binding().unwrap();
        channels.bound(start, remote(1));
        channels.forget_all(start);
        assert_eq!(channels.remote(FIRST_NUMBER), None);
        for number in 0..NUMBERS - 1 {
            assert!(channels.want(start, remote(number)), "{number}");
        }
        assert!(!channels.want(start, remote(NUMBERS)), "one rests");
    }

    #[test]
    fn a_refused_address_is_left_alone_for_a_while() {
        let start = Instant::now();
        let mut channels = Channels::default();
        channels.want(start, remote(1));
        channels.next_binding().unwrap();
        assert!(!channels.refused(start, remote(1)));
        assert!(!channels.want(start, remote(1)));
        assert_eq!(channels.next_binding(), None);
        assert!(channels.want(start + REFUSAL, remote(1)));
        assert!(channels.next_binding().is_some());
    }
}
