//! `ping`: whether a peer answers through its tunnel, how fast, and which way.

use std::{thread, time::Duration};

use hyper::Method;

use super::{Screen, format::rtt, json_line, peers::in_path, status::way};
use crate::{
    api::{
        Client, ClientError,
        types::{PathKind, Ping, Pong, ProblemCode},
    },
    exit::{ExitCode, Failure},
};

/// Between two pings.
const EVERY: Duration = Duration::from_secs(1);

/// How one pings.
pub(super) struct Manner<'a> {
    pub(super) peer: &'a str,
    /// So many times.
    pub(super) count: u64,
    pub(super) size_bytes: Option<u16>,
    pub(super) until: Until,
}

/// When it has been enough.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// After the count.
    Counted,
    /// After the count, or when the path is direct.
    Direct,
}

pub(super) fn run(client: &Client, screen: Screen, manner: &Manner<'_>) -> Result<(), Failure> {
    let params = Ping { peer: manner.peer.into(), size_bytes: manner.size_bytes };
    let path = format!("/v1/peers/{}/ping", in_path(manner.peer));
    let (mut answered, mut is_direct) = (0, false);
    for number in 0..manner.count {
        if number > 0 {
            thread::sleep(EVERY);
        }
        match client.send::<Pong>(Method::POST, &path, &params) {
            Ok(pong) => {
                answered += 1;
                is_direct = pong.path.as_ref().is_some_and(|path| path.kind == PathKind::Direct);
                screen.line(&json_line(&pong)?, || text(&pong))?;
            }
            // What may be otherwise the next time.
            Err(ClientError::Refused(problem))
                if matches!(problem.code, ProblemCode::Busy | ProblemCode::Conflict) =>
            {
                screen.line(&json_line(&problem)?, || format!("no pong: {problem}"))?;
            }
            Err(error) => return Err(error.into()),
        }
        if is_direct && manner.until == Until::Direct {
            return Ok(());
        }
    }
    if answered == 0 {
        let error = anyhow::anyhow!("{} gave no answer", manner.peer);
        return Err(Failure::new(ExitCode::Failed, error));
    }
    if manner.until == Until::Direct {
        let error = anyhow::anyhow!("the path to {} is not direct", manner.peer);
        return Err(Failure::new(ExitCode::Failed, error));
    }
    Ok(())
}

fn text(pong: &Pong) -> String {
    let name = pong.name.as_deref().unwrap_or(&pong.node);
    let via = pong.path.as_ref().map(|path| format!(" via{}", way(path))).unwrap_or_default();
    format!("pong from {name}{via} in {}", rtt(pong.rtt_us))
}
