//! Why a peer is down, or relayed: what the node knows of it, as one of the codes.

use ipop_control::{
    ice::{Obstacle, ServerProblem, TurnFault},
    notice::Down,
    paths::LinkReport,
    sessions::{self, LastError, PeerSnapshot, Unreached},
};
use ipop_datapath::command::{CloseReason, Ended, Failure, Refusal};
use rustix::io::Errno;

use super::super::Switch;
use crate::api::types::{PathKind, PeerPath, Why, WhyCode};

impl Switch {
    /// Nothing for a peer that is up, and reached directly.
    pub(super) fn why(
        &self,
        session: &PeerSnapshot,
        link: Option<&LinkReport>,
        path: Option<&PeerPath>,
    ) -> Option<Why> {
        let is_up = session.state == sessions::PeerState::Up;
        let obstacles = link.and_then(|link| link.why.as_ref());
        if is_up {
            let is_relayed = path.is_some_and(|path| path.kind == PathKind::Relayed);
            let obstacles = obstacles.filter(|_| is_relayed)?;
            let code = of_relayed(&obstacles.0);
            return Some(Why::of(code, format!("it is relayed: {obstacles}")));
        }
        if let Some(error) = &session.last_error {
            let code = of_error(error);
            if code != WhyCode::NoPath && code != WhyCode::Other {
                return Some(Why::of(code, error.to_string()));
            }
        }
        if let Some(obstacles) = obstacles {
            let is_in_room = self.network_report().is_some_and(|network| network.joined);
            let code = of_pathless(&obstacles.0, is_in_room);
            return Some(Why::of(code, obstacles.to_string()));
        }
        Some(match &session.last_error {
            Some(error) => Why::of(of_error(error), error.to_string()),
            None if session.state == sessions::PeerState::Awaited => {
                Why::of(WhyCode::MustDial, "it has no address here, and has not dialled yet")
            }
            None => Why::of(WhyCode::Searching, "it is being dialled"),
        })
    }
}

/// Why there is a relay and no direct path.
fn of_relayed(obstacles: &[Obstacle]) -> WhyCode {
    cause(obstacles).unwrap_or(WhyCode::Relayed)
}

/// Why there is no path at all.
fn of_pathless(obstacles: &[Obstacle], is_in_room: bool) -> WhyCode {
    if obstacles.contains(&Obstacle::PeerSilent) {
        return if is_in_room { WhyCode::NotInRoom } else { WhyCode::Searching };
    }
    cause(obstacles).unwrap_or(WhyCode::NoPath)
}

/// The obstacle that there is something to be done about.
fn cause(obstacles: &[Obstacle]) -> Option<WhyCode> {
    let has = |obstacle: &Obstacle| obstacles.contains(obstacle);
    if has(&Obstacle::NoCommonFamily) {
        return Some(WhyCode::NoCommonAddressFamily);
    }
    if has(&Obstacle::SymmetricHere) && has(&Obstacle::SymmetricThere) {
        return Some(WhyCode::SymmetricNats);
    }
    obstacles.iter().find_map(|obstacle| match obstacle {
        Obstacle::KernelRefuses { errno, .. } => Some(of_errno(*errno)),
        Obstacle::NoRelay(ServerProblem::Turn { why, .. }) => match why {
            TurnFault::CredentialsExpired | TurnFault::CredentialsRefused(_) => {
                Some(WhyCode::CredentialsExpired)
            }
            TurnFault::Silent => Some(WhyCode::UdpBlocked),
            _ => None,
        },
        _ => None,
    })
}

fn of_errno(errno: i32) -> WhyCode {
    if errno == Errno::NOBUFS.raw_os_error() {
        WhyCode::NeighbourTableFull
    } else {
        WhyCode::Unreachable
    }
}

fn of_error(error: &LastError) -> WhyCode {
    match error {
        LastError::Lost(Down::Ended { why, .. }) => of_end(why),
        LastError::Lost(Down::BesidePath) => WhyCode::Searching,
        LastError::Unreached(Unreached::Unresolved(_)) => WhyCode::NameNotResolved,
        LastError::Unreached(Unreached::Tried(tried)) => {
            let code =
                |tried: &sessions::Tried| tried.errno.map_or_else(|| of_end(&tried.why), of_errno);
            // The address that answered says most.
            let mut codes = tried.iter().map(code);
            codes.find(|code| *code != WhyCode::NoAnswer).unwrap_or(WhyCode::NoAnswer)
        }
    }
}

fn of_end(end: &Ended) -> WhyCode {
    match end {
        Ended::Closed(reason) => of_close(Some(*reason), WhyCode::Denied),
        Ended::ByPeer { code, .. } => of_close(CloseReason::of_code(*code), WhyCode::RefusedByPeer),
        Ended::Reset => WhyCode::Searching,
        Ended::TimedOut => WhyCode::NoAnswer,
        Ended::Refused(Refusal::ByPeer(_)) => WhyCode::RefusedByPeer,
        Ended::Refused(Refusal::NotProved(_)) => WhyCode::SecretNotProved,
        Ended::Failed(Failure::NoPath) => WhyCode::NoPath,
        Ended::Refused(_) | Ended::Failed(_) => WhyCode::Other,
    }
}

fn of_close(reason: Option<CloseReason>, not_admitted: WhyCode) -> WhyCode {
    match reason {
        Some(CloseReason::Shutdown) => WhyCode::PeerShutDown,
        Some(CloseReason::Version | CloseReason::BadHello) => WhyCode::OtherVersion,
        Some(CloseReason::NotAdmitted) => not_admitted,
        Some(CloseReason::NotProved) => WhyCode::SecretNotProved,
        Some(CloseReason::DialledSelf) => WhyCode::OwnAddress,
        Some(CloseReason::Replaced | CloseReason::Duplicate) => WhyCode::Searching,
        None => WhyCode::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_obstacle_that_can_be_mended_is_the_reason() {
        let turn = |why| {
            Obstacle::NoRelay(ServerProblem::Turn { server: ([192, 0, 2, 1], 3478).into(), why })
        };
        let refused = |errno: Errno| Obstacle::KernelRefuses {
            address: ([192, 0, 2, 1], 5800).into(),
            errno: errno.raw_os_error(),
        };
        let both = vec![Obstacle::SymmetricHere, Obstacle::SymmetricThere];
        for (obstacles, code) in [
            (vec![Obstacle::PeerSilent], WhyCode::NotInRoom),
            (vec![Obstacle::NoCommonFamily], WhyCode::NoCommonAddressFamily),
            ([both.clone(), vec![Obstacle::NoTurnServer]].concat(), WhyCode::SymmetricNats),
            (vec![Obstacle::SymmetricHere, Obstacle::NoTurnServer], WhyCode::NoPath),
            (vec![turn(TurnFault::CredentialsExpired)], WhyCode::CredentialsExpired),
            (vec![turn(TurnFault::CredentialsRefused(401))], WhyCode::CredentialsExpired),
            (vec![turn(TurnFault::Silent)], WhyCode::UdpBlocked),
            (vec![turn(TurnFault::NoCapacity)], WhyCode::NoPath),
            (vec![refused(Errno::NOBUFS)], WhyCode::NeighbourTableFull),
            (vec![refused(Errno::NETUNREACH)], WhyCode::Unreachable),
        ] {
            assert_eq!(of_pathless(&obstacles, true), code, "{obstacles:?}");
        }
        assert_eq!(of_pathless(&[Obstacle::PeerSilent], false), WhyCode::Searching);
        assert_eq!(of_relayed(&both), WhyCode::SymmetricNats);
        assert_eq!(of_relayed(&[]), WhyCode::Relayed);
    }

    #[test]
    fn how_a_connection_ended_is_the_reason() {
        let by_peer =
            |reason: CloseReason| Ended::ByPeer { code: reason as u64, phrase: String::new() };
        for (end, code) in [
            (by_peer(CloseReason::NotAdmitted), WhyCode::RefusedByPeer),
            (Ended::Closed(CloseReason::NotAdmitted), WhyCode::Denied),
            (by_peer(CloseReason::NotProved), WhyCode::SecretNotProved),
            (by_peer(CloseReason::Version), WhyCode::OtherVersion),
            (by_peer(CloseReason::Shutdown), WhyCode::PeerShutDown),
            (by_peer(CloseReason::DialledSelf), WhyCode::OwnAddress),
            (Ended::TimedOut, WhyCode::NoAnswer),
            (Ended::Failed(Failure::NoPath), WhyCode::NoPath),
            (Ended::ByPeer { code: 4_711, phrase: "x".into() }, WhyCode::Other),
        ] {
            assert_eq!(of_end(&end), code, "{end:?}");
        }
    }
}
