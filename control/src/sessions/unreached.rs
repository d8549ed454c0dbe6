//! Why a peer is not connected: reasons for programs, with their words for people.

use std::{fmt, net::SocketAddr};

use ipop_datapath::{command::Ended, node_id::NodeId, path::port_of_alias};
use serde::{Serialize, Serializer};

use crate::{
    host::refused_sends::cause,
    notice::{Down, explain},
};

/// The latest failure with a peer.
#[derive(Clone, PartialEq, Debug)]
pub enum LastError {
    /// A lane was lost.
    Lost(Down),
    /// A lane was dialled in vain.
    Unreached(Unreached),
}

/// Why a peer was dialled in vain.
#[derive(Clone, PartialEq, Debug)]
pub enum Unreached {
    /// Its name leads nowhere.
    Unresolved(Unresolved),
    /// None of its addresses was any good: what came of each, in the order in which they were dialled.
    Tried(Vec<Tried>),
}

/// Why a name leads nowhere.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unresolved {
    /// The resolver did not answer.
    #[error("the name could not be resolved in time")]
    Late,
    /// There is no address.
    #[error("the name has no address")]
    NoAddress,
    /// There are only such as stand for paths, which are nobody's to name.
    #[error("the name leads to 100::/64, where no host is")]
    OnlyAliases,
    /// In the words of this host's resolver.
    #[error("{0}")]
    Failed(String),
}

/// What came of a dial to one address.
#[derive(Clone, PartialEq, Debug)]
pub struct Tried {
    /// Which.
    pub remote: SocketAddr,
    /// How the connection ended.
    pub why: Ended,
    /// This node, which the cure may name.
    pub local: NodeId,
    /// Why this host's kernel does not send there, if it refused to.
    pub errno: Option<i32>,
}

impl fmt::Display for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(down) => write!(f, "{down}"),
            Self::Unreached(why) => write!(f, "{why}"),
        }
    }
}

/// In reports it is its text.
impl Serialize for LastError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(why) => write!(f, "{why}"),
            Self::Tried(tried) => {
                let tried: Vec<_> = tried.iter().map(ToString::to_string).collect();
                f.write_str(&tried.join(", "))
            }
        }
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match &self.why {
            Ended::TimedOut => "no answer".into(),
            other => explain(other, self.local),
        };
        let remote = self.remote;
        match (port_of_alias(remote), self.errno.map(cause)) {
            (Some(_), _) => write!(f, "the path that was found: {why}"),
            (None, None) => write!(f, "{remote}: {why}"),
            (None, Some(cause)) => {
                write!(f, "{remote}: {why}, and the kernel does not send there ({cause})")
            }
        }
    }
}
