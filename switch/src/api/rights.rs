//! Who may do what.
//!
//! Root and the switch's own user may do everything. Others by their groups, as they were when they connected (`SO_PEERCRED`, `SO_PEERGROUPS`): those of
//! `api_group` may change things too, those of `api_group_read` may look, but not at traffic. Whoever is in neither gets an answer that names them.
//! Over TCP whoever has the token may do everything.

use std::{fmt, os::fd::AsFd};

use ipop_datapath::os::peer_groups::peer_groups;
use rustix::net::sockopt::socket_peercred;

use super::types::{Problem, ProblemCode};

/// What a method takes, or somebody has. Each right includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Right {
    /// To see what there is, but neither traffic nor secrets.
    Read,
    /// To change things, and to see traffic.
    Change,
}

/// The groups that may use the socket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Groups {
    /// Name and number of the group that may do everything.
    pub(crate) change: Option<(String, u32)>,
    /// Name and number of the group that may look.
    pub(crate) read: Option<(String, u32)>,
}

/// Whoever sends a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Caller {
    /// What it may do.
    right: Right,
    /// Who it is, for the log.
    who: Who,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Process { uid: u32, pid: i32 },
    TokenHolder,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.who {
            Who::Process { uid, pid } => write!(f, "user {uid} (process {pid})"),
            Who::TokenHolder => f.write_str("the holder of the API's token"),
        }
    }
}

impl Caller {
    /// Whoever connected to the Unix socket.
    ///
    /// # Errors
    /// When it may do nothing; the text names the groups that may.
    pub(super) fn of_socket(socket: impl AsFd, groups: &Groups) -> Result<Self, Problem> {
        let unknown = |error: &dyn fmt::Display| Problem::new(ProblemCode::Internal, error);
        let peer = socket_peercred(&socket).map_err(|error| unknown(&error))?;
        let mut gids = peer_groups(&socket).map_err(|error| unknown(&error))?;
        gids.push(peer.gid.as_raw());
        let uid = peer.uid.as_raw();
        let own = rustix::process::geteuid().as_raw();
        let who = Who::Process { uid, pid: peer.pid.as_raw_pid() };
        let right = if uid == 0 || uid == own { Some(Right::Change) } else { groups.right(&gids) };
        match right {
            Some(right) => Ok(Self { right, who }),
            None => Err(Problem::new(ProblemCode::NotPermitted, groups.who_may(uid))),
        }
    }

    /// Whoever came over TCP with the token.
    pub(super) fn token_holder() -> Self {
        Self { right: Right::Change, who: Who::TokenHolder }
    }

    /// Some process.
    #[cfg(test)]
    pub(super) fn for_test(right: Right) -> Self {
        Self { right, who: Who::Process { uid: 5, pid: 6 } }
    }

    /// What it may do.
    pub(super) const fn right(&self) -> Right {
        self.right
    }

    /// Says no if the right is too small.
    pub(super) fn needs(&self, right: Right, groups: &Groups) -> Result<(), Problem> {
        if self.right >= right {
            return Ok(());
        }
        let message = match &groups.change {
            Some((name, _)) => format!("{self} may look, but not do this: that takes group {name}"),
            None => format!(
                "{self} may look, but not do this: that takes root, or the group that api_group names"
            ),
        };
        Err(Problem::new(ProblemCode::NotPermitted, message))
    }
}

impl Groups {
    fn right(&self, gids: &[u32]) -> Option<Right> {
        let is_in = |group: &Option<(String, u32)>| {
            group.as_ref().is_some_and(|(_, gid)| gids.contains(gid))
        };
        if is_in(&self.change) {
            return Some(Right::Change);
        }
        is_in(&self.read).then_some(Right::Read)
    }

    fn who_may(&self, uid: u32) -> String {
        let names: Vec<&str> = [&self.change, &self.read]
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        match names.as_slice() {
            [] => format!("user {uid} may not use this switch: run it as root, or set api_group"),
            names => format!(
                "user {uid} may not use this switch: that takes group {}",
                names.join(" or ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn groups() -> Groups {
        Groups { change: Some(("ops".into(), 7)), read: Some(("watch".into(), 8)) }
    }

    #[test]
    fn a_group_gives_its_right_and_no_other() {
        let groups = groups();
        assert_eq!(groups.right(&[1, 7]), Some(Right::Change));
        assert_eq!(groups.right(&[8, 7]), Some(Right::Change));
        assert_eq!(groups.right(&[8]), Some(Right::Read));
        assert_eq!(groups.right(&[1, 2]), None);
        assert_eq!(Groups::default().right(&[0, 7, 8]), None);
        assert!(groups.who_may(5).contains("ops or watch"));
        assert!(Groups::default().who_may(5).contains("api_group"));
    }

    #[test]
    fn who_may_look_may_not_change() {
        assert_eq!(Caller::for_test(Right::Read).needs(Right::Read, &groups()), Ok(()));
        assert_eq!(Caller::for_test(Right::Change).needs(Right::Read, &groups()), Ok(()));
        assert_eq!(Caller::for_test(Right::Change).needs(Right::Change, &groups()), Ok(()));
        let problem = Caller::for_test(Right::Read).needs(Right::Change, &groups()).unwrap_err();
        assert_eq!(problem.code, ProblemCode::NotPermitted);
        assert!(problem.message.contains("user 5") && problem.message.contains("ops"), "{problem}");
    }

    #[test]
    fn the_switchs_own_user_may_do_everything() {
        let (one, _other) = UnixStream::pair().unwrap();
        let caller = Caller::of_socket(&one, &Groups::default()).unwrap();
        assert_eq!(caller.needs(Right::Change, &Groups::default()), Ok(()));
        assert!(caller.to_string().contains(&std::process::id().to_string()), "{caller}");
    }
}
