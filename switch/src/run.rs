//! The switch itself.

use crate::{
    exit::{ExitCode, Failure},
    identity_cmd,
    settings::Settings,
};

/// Runs until it is told to stop.
pub(crate) fn run(settings: Settings) -> Result<(), Failure> {
    let identity = identity_cmd::load(&settings.identity)?;
    tracing::debug!(node = %identity.node_id(), ?settings, "settings");
    Err(Failure::new(ExitCode::Failed, anyhow::anyhow!("the datapath is not wired in yet")))
}
