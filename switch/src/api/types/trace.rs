//! What would become of a frame.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceParams {
    /// The sender's MAC address.
    pub(crate) source: String,
    /// The receiver's MAC address.
    pub(crate) destination: String,
    /// The port that it comes in at, a local port's name or a peer's; where the sender was heard last if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<String>,
    /// The whole frame in hexadecimal, from the destination MAC on; a short one of no protocol if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frame: Option<String>,
}

/// A frame's way, through both ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Trace {
    /// What happens to it here, in order.
    pub(crate) stages: Vec<TraceStage>,
    /// What becomes of it here.
    pub(crate) verdict: TraceVerdict,
    /// What the peer says would become of it there, if it goes to one peer alone.
    pub(crate) far: Option<FarTrace>,
}

/// A stage of a frame's way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct TraceStage {
    /// Its name: `in`, `check`, `learn`, `look_up`, `flood`.
    pub(crate) stage: String,
    /// What happens there, for people.
    pub(crate) text: String,
}

/// What becomes of a frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub(crate) enum TraceVerdict {
    /// It goes out.
    Out {
        /// At these ports.
        ports: Vec<String>,
    },
    /// It is dropped.
    Dropped {
        /// The reason's name.
        reason: String,
        /// What that means.
        meaning: String,
        /// What to do.
        cure: String,
    },
}

/// What a peer says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct FarTrace {
    /// Its name, or else its node id.
    pub(crate) peer: String,
    /// What would become of the frame there; `null` if it did not answer.
    pub(crate) verdict: Option<TraceVerdict>,
    /// Why it did not answer.
    pub(crate) problem: Option<String>,
}
