//! What requests and answers of the API look like: the one place for the server, the commands and the description that others read.
//!
//! Times are seconds, sizes bytes, round-trip times microseconds, and say so in their names. What is not known is `null` or left out. New fields may come
//! within a version of the API; none goes, and none changes its meaning.

mod capture;
mod event;
mod fdb;
mod link;
mod params;
mod peer;
mod port;
mod question;
mod status;
mod trace;
mod why;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use self::{
    capture::CaptureParams,
    event::{Event, EventKind, EventParams, Snapshot, What},
    fdb::{Fdb, FdbCounters, Station},
    link::{
        Candidate, CandidateKind, CreateLink, Description, IceServers, Link, LinkCandidates,
        LinkParams, LinkState, LinkStats, Links, MoreCandidates, OwnDescription, Pair, PairState,
        UpdateLink,
    },
    params::{
        AddPeer, AddPort, AddressParams, EchoParams, FdbParams, LogParams, NoParams, NodeParams,
        PeerParams, PortParams,
    },
    peer::{Connection, Lane, PathKind, Peer, PeerPath, PeerState, Peers, Source},
    port::{Port, PortKind, Ports},
    question::{Ping, Pong, SendMessage, Sent},
    status::{NatMapping, Network, PeerCounts, Status},
    trace::{FarTrace, Trace, TraceParams, TraceStage, TraceVerdict},
    why::{Why, WhyCode},
};

/// What passed a port since the program started, or since the port is another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Traffic {
    /// Frames that came into the switch here.
    pub(crate) received_frames: u64,
    /// Their bytes, from the destination MAC on.
    pub(crate) received_bytes: u64,
    /// Frames that went out here.
    pub(crate) sent_frames: u64,
    /// Their bytes.
    pub(crate) sent_bytes: u64,
}

/// Means over the last while. A window that has not passed yet counts as far as it has.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Rates {
    /// Over the last second.
    pub(crate) over_1_s: Rate,
    /// Over the last ten seconds.
    pub(crate) over_10_s: Rate,
    /// Over the last minute.
    pub(crate) over_60_s: Rate,
}

/// Mean rates.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Rate {
    /// Frames into the switch, a second.
    pub(crate) received_frames_per_s: f64,
    /// Bytes into the switch, a second.
    pub(crate) received_bytes_per_s: f64,
    /// Frames out of it, a second.
    pub(crate) sent_frames_per_s: f64,
    /// Bytes out of it, a second.
    pub(crate) sent_bytes_per_s: f64,
}

/// Frames that were dropped, by reason; reasons that never occurred are left out.
pub(crate) type DropCounts = BTreeMap<String, u64>;

/// Where frames were dropped, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Drops {
    /// One entry a reason that occurred, those with most frames first.
    pub(crate) drops: Vec<Drop>,
    /// What became of all frames.
    pub(crate) ledger: Ledger,
}

/// What became of all frames: `received + copies = sent + dropped + waiting`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Ledger {
    /// Frames that came into the switch, with pieces and records that were dropped before they were one.
    pub(crate) received: u64,
    /// Frames that left as more than one, flooded or in segments: how many more.
    pub(crate) copies: u64,
    /// Frames that went out.
    pub(crate) sent: u64,
    /// Frames that were dropped, for whatever reason.
    pub(crate) dropped: u64,
    /// Frames that wait in the switch now.
    pub(crate) waiting: u64,
    /// Frames of which the switch does not know what became: 0, or the program is at fault.
    pub(crate) difference: i64,
}

/// One reason for which frames were dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Drop {
    /// Its name, which does not change.
    pub(crate) reason: String,
    /// Frames in all.
    pub(crate) frames: u64,
    /// What it means.
    pub(crate) meaning: String,
    /// What to do about it, if something is to be done.
    pub(crate) cure: String,
    /// Frames by port: a local port's name, a peer's name or id. `-` stands for frames that were no port's, or of ports that are gone.
    pub(crate) ports: BTreeMap<String, u64>,
}

/// What the operator decided about single nodes, and who waits for that.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct TrustList {
    /// Nodes that are let in.
    pub(crate) accepted: Vec<TrustEntry>,
    /// Nodes that wait.
    pub(crate) pending: Vec<TrustEntry>,
    /// Nodes that are kept out.
    pub(crate) denied: Vec<TrustEntry>,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct TrustEntry {
    /// Its id.
    pub(crate) node: String,
    /// The name that it gave itself, if it is known.
    pub(crate) name: Option<String>,
    /// The account that it was seen with, if it was.
    pub(crate) account: Option<String>,
}

/// The node that was decided about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Decided {
    /// Its id.
    pub(crate) node: String,
}

/// The configuration in force.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Configuration {
    /// The file that was read, if there is one.
    pub(crate) file: Option<String>,
    /// Every key. Secrets are not shown.
    pub(crate) keys: BTreeMap<String, ConfiguredKey>,
}

/// A key of the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ConfiguredKey {
    /// Its value in words; `null` if it is not set.
    pub(crate) value: Option<String>,
    /// Where the value comes from.
    pub(crate) from: ValueSource,
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ValueSource {
    /// A flag of the command line.
    Flag,
    /// The configuration file.
    File,
    /// Nobody set it.
    Default,
}

/// The configuration was read again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Reloaded {
    /// Keys that changed and take effect only when the switch is started again.
    pub(crate) needs_restart: Vec<String>,
}

/// The level of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Log {
    /// The least severity that is logged: error, warn, info, debug, trace.
    pub(crate) level: String,
}

/// What was said, said back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Echo {
    /// The message.
    pub(crate) message: String,
}

/// What was asked for was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Done {
    /// How many entries it concerned.
    pub(crate) count: u64,
}

/// Why a request failed: the body of every answer whose status is not 200, and `data` of a JSON-RPC error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Problem {
    /// What kind of failure it is.
    pub(crate) code: ProblemCode,
    /// What is wrong and what to do, for people.
    pub(crate) message: String,
    /// The path to the field of the request that is wrong, such as `peers[2].node`, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
}

/// Kinds of failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProblemCode {
    /// The request is no JSON, or no request.
    Malformed,
    /// A field is missing, unknown, of the wrong type or of no use.
    BadParams,
    /// There is no such method or path.
    NoSuchMethod,
    /// The path exists, but not for this HTTP method.
    WrongVerb,
    /// There is no such peer, port, link or entry.
    NotFound,
    /// It may not be done now, or was done already.
    Conflict,
    /// Whoever asks may not do this.
    NotPermitted,
    /// No token, or a wrong one.
    Unauthenticated,
    /// The request is too large.
    TooLarge,
    /// The request took too long to come in.
    TooSlow,
    /// The switch has too much to do; try again.
    Busy,
    /// The operator's configuration or the host does not allow it.
    Refused,
    /// The switch is at fault.
    Internal,
}
