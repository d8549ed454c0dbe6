//! The switch itself.

use crate::{
    exit::{ExitCode, Failure},
    identity_cmd,
    settings::Settings,
};

/// Runs until it is told to stop.
pub(crate) fn run(settings: Settings) -> Result<(), Failure> {
    tracing::debug!(?settings);
    let Settings { identity, .. } = settings;
    let identity = identity_cmd::load(&identity)?;
    tracing::info!(node = %identity.node_id());
    Err(Failure::new(ExitCode::Failed, anyhow::anyhow!("the datapath is not wired in yet")))
}
