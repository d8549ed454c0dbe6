//! `wait`: until so many peers are up, for scripts.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::Screen;
use crate::{
    api::{
        Client, ClientError,
        types::{PeerCounts, Status},
    },
    exit::{ExitCode, Failure},
};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(100);

/// A switch that is not there yet is waited for too.
pub(super) fn for_peers(
    client: &Client,
    screen: Screen,
    wanted: usize,
    timeout_s: f64,
) -> Result<(), Failure> {
    let patience = Duration::try_from_secs_f64(timeout_s).map_err(|_| {
        Failure::new(
            ExitCode::Usage,
            anyhow::anyhow!("--timeout {timeout_s} is no number of seconds"),
        )
    })?;
    let start = Instant::now();
    loop {
        let status = client.get::<Status>("/v1/status");
        let seen = match status {
            Ok(Status { peers, .. }) if peers.up >= wanted => {
                let after = start.elapsed().as_secs_f64();
                return screen
                    .show(&peers, || format!("{} peers up after {after:.1} s\n", peers.up));
            }
            Ok(Status { peers: PeerCounts { known, up, .. }, .. }) => {
                format!("{up} of {known} peers are up, not {wanted}; `ipop-switch status` says why")
            }
            Err(error @ (ClientError::NotRunning { .. } | ClientError::NoAnswer { .. })) => {
                error.to_string()
            }
            Err(error) => return Err(error.into()),
        };
        if start.elapsed() >= patience {
            let text = format!("after {timeout_s} s {seen}");
            return Err(Failure::new(ExitCode::Failed, anyhow::anyhow!(text)));
        }
        thread::sleep(EVERY);
    }
}
