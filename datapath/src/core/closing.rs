//! Why this node closes a connection, and what the peer is told of it.

use std::fmt;

use crate::{
    admission::Unproved,
    command::{CloseReason, Ended},
    hello::HelloError,
};

/// Why a connection is closed.
pub(super) enum Closing {
    /// The reason says all.
    Plain(CloseReason),
    /// The peer came by the path of another one.
    PathOfAnother,
    /// The peer's lane is another worker's.
    ForeignLane,
    /// Its hello cannot be read.
    BadHello(HelloError),
    /// What it has proved is not enough.
    NotProved(Unproved),
}

impl Closing {
    /// The close code.
    pub(super) fn reason(&self) -> CloseReason {
        match self {
            Self::Plain(reason) => *reason,
            Self::PathOfAnother => CloseReason::NotAdmitted,
            Self::BadHello(HelloError::Version(_)) => CloseReason::Version,
            Self::ForeignLane | Self::BadHello(_) => CloseReason::BadHello,
            Self::NotProved(_) => CloseReason::NotProved,
        }
    }

    /// What control is told.
    pub(super) fn ended(&self) -> Ended {
        match self {
            Self::NotProved(why) => Ended::Refused((*why).into()),
            other => Ended::Closed(other.reason()),
        }
    }
}

/// The reason phrase (RFC 9000 section 19.19).
impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadHello(error) => return error.fmt(f),
            Self::NotProved(why) => return why.fmt(f),
            Self::PathOfAnother => "another node has this path",
            Self::ForeignLane => "the lane does not belong to the worker that got it",
            Self::Plain(CloseReason::Shutdown) => "the switch shuts down",
            Self::Plain(CloseReason::Replaced) => "a newer connection took over",
            Self::Plain(CloseReason::Duplicate) => "both ends dialled; the other connection stays",
            Self::Plain(CloseReason::Version) => "another version",
            Self::Plain(CloseReason::BadHello) => "malformed hello",
            Self::Plain(CloseReason::NotAdmitted) => "this node is not among the peers",
            Self::Plain(CloseReason::DialledSelf) => "the node dialled itself",
            Self::Plain(CloseReason::NotProved) => "the network's secret was not proved",
        })
    }
}

impl From<CloseReason> for Closing {
    fn from(reason: CloseReason) -> Self {
        Self::Plain(reason)
    }
}
