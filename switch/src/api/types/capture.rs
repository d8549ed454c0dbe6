//! Captures of frames.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which frames, and how much of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptureParams {
    /// Only what comes in, goes out or is dropped here: a local port's name, a peer's name or id; everywhere if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<String>,
    /// Only what this filter means; everything if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
    /// At most so many bytes of each frame, 14 at least; whole frames if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snap: Option<u32>,
    /// The capture ends after so many; it goes on until the caller goes if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
}
