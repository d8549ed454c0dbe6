//! Commands that ask a running switch, over its API: each prints for people, or with `--json` what the API answered.

mod capture;
mod capture_file;
mod drops;
mod fdb;
mod format;
mod peers;
mod ping;
mod ports;
mod status;
mod table;
mod trace;
mod wait;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use hyper::Method;
use serde::Serialize;

use crate::{
    api::{
        Client, ClientError, socket_of,
        types::{LogParams, NoParams, Problem, ProblemCode, Reloaded, TraceParams},
    },
    cli::{Operate, SwitchArgs},
    config,
    exit::{ExitCode, Failure},
    settings::{ApiSettings, LogLevel},
};

/// Runs a command on the switch that it names.
pub(crate) fn run(command: &Operate) -> Result<(), Failure> {
    let switch = command.switch();
    let client = Client::new(&socket(switch)?)
        .map_err(|error| Failure::io("cannot ask the switch", error))?;
    let screen = Screen { json: switch.json };
    match command {
        Operate::Status { .. } => status::show(&client, screen),
        Operate::Peers { peer, .. } => peers::show(&client, screen, peer.as_deref()),
        Operate::Ports { command, .. } => ports::run(&client, screen, command.as_ref()),
        Operate::Fdb(command) => fdb::run(&client, screen, command),
        Operate::Drops { watch: false, .. } => drops::show(&client, screen),
        Operate::Drops { watch: true, .. } => drops::watch(&client, screen),
        Operate::Capture(args) => capture::run(&client, screen, args),
        Operate::Wait { peers, timeout, .. } => wait::for_peers(&client, screen, *peers, *timeout),
        Operate::Ping { peer, count, size, until_direct, .. } => {
            let until = if *until_direct { ping::Until::Direct } else { ping::Until::Counted };
            let manner = ping::Manner { peer, count: *count, size_bytes: *size, until };
            ping::run(&client, screen, &manner)
        }
        Operate::Trace { source, destination, port, frame, .. } => {
            let params = TraceParams {
                source: source.clone(),
                destination: destination.clone(),
                port: port.clone(),
                frame: frame.clone(),
            };
            trace::run(&client, screen, &params)
        }
        Operate::Reload { .. } => reload(&client, screen),
        Operate::Log { level, .. } => log(&client, screen, *level),
    }
}

/// Where the switch is asked: what the flags say, else what the configuration says if it can be read, else the one switch of the host.
fn socket(switch: &SwitchArgs) -> Result<PathBuf, Failure> {
    if let Some(path) = &switch.socket {
        return Ok(path.clone());
    }
    if let Some(instance) = &switch.instance {
        return Ok(socket_of(instance));
    }
    // It may be root's alone, as where it holds a password.
    let file = config::read(None, config::DEFAULT_PATH.as_ref()).ok().flatten();
    Ok(ApiSettings::socket_by(file.as_ref()))
}

fn reload(client: &Client, screen: Screen) -> Result<(), Failure> {
    let Reloaded { needs_restart } =
        client.send(Method::POST, "/v1/config/reload", &NoParams {})?;
    let mut text = String::from("the configuration was read again\n");
    for key in &needs_restart {
        text += &format!("another {key} takes effect when the switch is started again\n");
    }
    screen.show(&Reloaded { needs_restart }, || text)
}

fn log(client: &Client, screen: Screen, level: LogLevel) -> Result<(), Failure> {
    let params = LogParams { level: level.to_string() };
    let log: crate::api::types::Log = client.send(Method::PUT, "/v1/log", &params)?;
    let text = format!("the log's level is {} until the switch is started again\n", log.level);
    screen.show(&log, || text)
}

/// Standard output.
#[derive(Clone, Copy)]
struct Screen {
    json: bool,
}

impl Screen {
    /// Prints what was answered, for programs or for people.
    fn show(self, answer: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = if self.json { json(answer)? } else { text() };
        io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Failure::io("cannot write to standard output", error))
    }

    /// Prints a line, which is this for programs.
    fn line(self, json: &str, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let line = if self.json { json.to_owned() } else { text() };
        io::stdout()
            .write_all((line + "\n").as_bytes())
            .map_err(|error| Failure::io("cannot write to standard output", error))
    }

    /// Whether somebody sees colours, and wants to (no-color.org).
    fn has_colours(self) -> bool {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        io::stdout().is_terminal() && !unwanted
    }
}

/// As one line.
fn json_line(answer: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(answer).map_err(|error| Failure::new(ExitCode::Failed, error))
}

fn json(answer: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(answer);
    Ok(text.map_err(|error| Failure::new(ExitCode::Failed, error))? + "\n")
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NotPermitted { .. } => ExitCode::Permission,
            ClientError::Refused(Problem { code, .. }) => match code {
                ProblemCode::NotPermitted | ProblemCode::Unauthenticated => ExitCode::Permission,
                ProblemCode::BadParams | ProblemCode::NotFound => ExitCode::Usage,
                _ => ExitCode::Failed,
            },
            ClientError::NotRunning { .. } | ClientError::NoAnswer { .. } => ExitCode::Failed,
        };
        Self::new(code, error)
    }
}
