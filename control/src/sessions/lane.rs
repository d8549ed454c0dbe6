//! One lane of one peer: the connection that carries it, those about to be closed, and which of two connections stays.
//!
//! Two ends can see the same two connections in another order, so one of them decides and the other follows: the
//! dialler when it dialled both, else the lower node id. The end that decides closes the loser after [`LINGER`]; the
//! other keeps it for [`FOLLOWER_LINGER`], and falls back on it should the decision turn out to be the opposite of its
//! own. Frames are received on both connections all the while, so a takeover loses none.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipop_datapath::{
    command::{CloseReason, ConnectionId, Direction},
    node_id::NodeId,
    policy::admission::Proved,
};

use super::{backoff::Backoff, dialling::Attempt};

/// How long the end that decides keeps the losing connection, so that frames in flight arrive.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// How long the other end keeps it: more than the linger and the largest round trip that we care for.
pub(super) const FOLLOWER_LINGER: Duration = Duration::from_secs(4);
/// Connections in opposite directions less than this apart come from simultaneous dials.
pub(super) const SIMULTANEOUS: Duration = Duration::from_secs(5);
/// A connection that stayed this long clears the back-off.
pub(super) const STABLE: Duration = Duration::from_secs(10);
/// Losing connections kept per lane; beyond it the oldest is closed at once.
pub(super) const MAX_RETIRING: usize = 4;

/// An established connection.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) connection: ConnectionId,
    pub(super) direction: Direction,
    pub(super) dialled_at: DialledAt,
    pub(super) remote: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) instance: [u8; 16],
    pub(super) since: Instant,
    /// Where to dial the peer in order to take over from this connection; empty when it is fine.
    pub(super) move_to: Vec<SocketAddr>,
    pub(super) proved: Proved,
    /// It has proved no secret that is still valid, and is closed then unless another takes over.
    pub(super) unproved_until: Option<Instant>,
}

/// What is known of the address that a connection was dialled to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DialledAt {
    /// The peer's listening port: any lane may be dialled there.
    Listener,
    /// The port that the peer dialled this very lane from.
    PeersSource,
    /// The alias of a peer whose path control chooses: for lane 0 alone.
    Alias,
}

/// A connection that lost and will be closed.
#[derive(Debug)]
pub(super) struct Retiring {
    pub(super) established: Established,
    pub(super) close_at: Instant,
    pub(super) reason: CloseReason,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) active: Option<Established>,
    pub(super) retiring: Vec<Retiring>,
    pub(super) attempt: Option<Attempt>,
    pub(super) backoff: Backoff,
    /// When the back-off is cleared unless a failure comes first.
    pub(super) stable_at: Option<Instant>,
    /// The next dial waits until then.
    pub(super) not_before: Option<Instant>,
    /// Since when the lane lacks a connection.
    pub(super) missing_since: Option<Instant>,
}

impl Lane {
    pub(super) fn established_mut(&mut self, connection: ConnectionId) -> Option<&mut Established> {
        let retiring = self.retiring.iter_mut().map(|retiring| &mut retiring.established);
        self.active
            .iter_mut()
            .chain(retiring)
            .find(|established| established.connection == connection)
    }

    /// Takes the links that are not of this instance out of the lane.
    pub(super) fn take_other_instances(&mut self, instance: [u8; 16]) -> Vec<Established> {
        let mut taken: Vec<Established> = self
            .active
            .take_if(|established| established.instance != instance)
            .into_iter()
            .collect();
        let old = |retiring: &mut Retiring| retiring.established.instance != instance;
        taken.extend(self.retiring.extract_if(.., old).map(|retiring| retiring.established));
        taken
    }
}

/// Which of two connections of one lane stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Survivor {
    /// The existing one; the new one is closed with this reason.
    Existing(CloseReason),
    /// The new one; the existing one is closed with this reason.
    New(CloseReason),
}

/// Decides between two connections of the same instance of the peer.
pub(super) fn arbitrate(
    local: NodeId,
    peer: NodeId,
    existing: &Established,
    new: &Established,
) -> Survivor {
    let age = new.since.saturating_duration_since(existing.since);
    if existing.direction == new.direction || age >= SIMULTANEOUS {
        return Survivor::New(CloseReason::Replaced);
    }
    let lower_ids_direction = if local < peer { Direction::Dialled } else { Direction::Accepted };
    if existing.direction == lower_ids_direction {
        Survivor::Existing(CloseReason::Duplicate)
    } else {
        Survivor::New(CloseReason::Duplicate)
    }
}

/// How long this end keeps the loser of two connections with these directions.
pub(super) fn linger(local: NodeId, peer: NodeId, one: Direction, other: Direction) -> Duration {
    let decides = if one == other { one == Direction::Dialled } else { local < peer };
    if decides { LINGER } else { FOLLOWER_LINGER }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn established(direction: Direction, since: Instant) -> Established {
        Established {
            connection: ConnectionId(0),
            direction,
            dialled_at: DialledAt::Listener,
            remote: "10.0.0.2:5800".parse().unwrap(),
            local_ip: None,
            instance: [0; 16],
            since,
            move_to: Vec::new(),
            proved: Proved::KeyAlone,
            unproved_until: None,
        }
    }

    #[test]
    fn both_ends_of_simultaneous_dials_keep_the_lower_ids() {
        let (low, high) = (NodeId([1; 32]), NodeId([2; 32]));
        let start = Instant::now();
        let soon = start + SIMULTANEOUS / 2;
        let dialled_then_accepted =
            (established(Direction::Dialled, start), established(Direction::Accepted, soon));
        let (existing, new) = &dialled_then_accepted;
        let keep = Survivor::Existing(CloseReason::Duplicate);
        let take = Survivor::New(CloseReason::Duplicate);
        assert_eq!(arbitrate(low, high, existing, new), keep);
        assert_eq!(arbitrate(high, low, existing, new), take);
        let (existing, new) =
            (established(Direction::Accepted, start), established(Direction::Dialled, soon));
        assert_eq!(arbitrate(low, high, &existing, &new), take);
        assert_eq!(arbitrate(high, low, &existing, &new), keep);
    }

    #[test]
    fn otherwise_the_newer_one_takes_over() {
        let (low, high) = (NodeId([1; 32]), NodeId([2; 32]));
        let start = Instant::now();
        let take = Survivor::New(CloseReason::Replaced);
        let existing = established(Direction::Dialled, start);
        let later = established(Direction::Accepted, start + SIMULTANEOUS);
        assert_eq!(arbitrate(low, high, &existing, &later), take);
        let again = established(Direction::Dialled, start + LINGER);
        assert_eq!(arbitrate(low, high, &existing, &again), take);
    }

    #[test]
    fn exactly_one_end_decides() {
        use Direction::{Accepted, Dialled};
        let (low, high) = (NodeId([1; 32]), NodeId([2; 32]));
        for (here, there) in [
            ([Dialled, Dialled], [Accepted, Accepted]),
            ([Dialled, Accepted], [Accepted, Dialled]),
            ([Accepted, Accepted], [Dialled, Dialled]),
        ] {
            let mut lingers =
                [linger(low, high, here[0], here[1]), linger(high, low, there[0], there[1])];
            lingers.sort();
            assert_eq!(lingers, [LINGER, FOLLOWER_LINGER]);
        }
    }
}
