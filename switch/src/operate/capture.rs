//! `capture`: frames as they pass, into a file or a pipe, until it is ended.

use std::io::{self, IsTerminal, Write};

use anyhow::anyhow;
use serde::Serialize;

use super::{Screen, capture_file::CaptureFile, json};
use crate::{
    api::{Client, Received, types::CaptureParams},
    capture::pcapng::Blocks,
    cli::CaptureArgs,
    exit::{ExitCode, Failure},
};

/// What `PORT` stands for every port.
const ALL: &str = "all";
/// What `-w` stands for standard output.
const STANDARD_OUTPUT: &str = "-";

/// What came of it.
#[derive(Serialize)]
struct Captured {
    frames: u64,
    missed: u64,
}

pub(super) fn run(client: &Client, screen: Screen, args: &CaptureArgs) -> Result<(), Failure> {
    let is_to_output = args.write == STANDARD_OUTPUT;
    if is_to_output && io::stdout().is_terminal() {
        let text = "standard output is a terminal: name a file (-w FILE), or have a program read it, as `ipop-switch capture all | wireshark -k -i -` does";
        return Err(Failure::new(ExitCode::Usage, anyhow!(text)));
    }
    let params = CaptureParams {
        port: Some(args.port.clone()).filter(|port| port != ALL),
        filter: args.filter.clone(),
        snap: args.snap,
        count: args.count,
    };
    let path = format!("/v1/capture?{}", query(&params)?);
    let (mut file, mut blocks) = (None, Blocks::default());
    let received = client.receive(&path, |bytes| {
        // The file is not touched before the switch has said yes.
        let file = match &mut file {
            Some(file) => file,
            None => file.insert(open(args, is_to_output)?),
        };
        file.write(blocks.take(bytes).map_err(|error| Failure::new(ExitCode::Failed, error))?)
    });
    if let Some(file) = file {
        file.finish()?;
        let Blocks { frames, missed, .. } = blocks;
        tell(screen, &Captured { frames, missed }, is_to_output)?;
    }
    match received? {
        Received::All | Received::Interrupted => Ok(()),
        Received::CutOff => Err(Failure::new(
            ExitCode::Failed,
            anyhow!("the switch ended, and the capture with it"),
        )),
    }
}

fn open(args: &CaptureArgs, is_to_output: bool) -> Result<CaptureFile, Failure> {
    if is_to_output { CaptureFile::output() } else { CaptureFile::create(args.write.as_ref()) }
}

fn query(params: &CaptureParams) -> Result<String, Failure> {
    serde_urlencoded::to_string(params).map_err(|error| Failure::new(ExitCode::Failed, error))
}

/// Standard output may be the capture itself.
fn tell(screen: Screen, captured: &Captured, is_to_output: bool) -> Result<(), Failure> {
    let Captured { frames, missed } = captured;
    let text = format!("{frames} frames captured, {missed} copies left out\n");
    if !is_to_output {
        return screen.show(captured, || text);
    }
    let text = if screen.json { json(captured)? } else { text };
    // Nothing is left to do if standard error is closed.
    let _ = io::stderr().write_all(text.as_bytes());
    Ok(())
}
