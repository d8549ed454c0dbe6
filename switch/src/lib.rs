//! ipop-switch: an Ethernet switch whose ports are TAP devices and QUIC tunnels.
//!
//! The program is [`main`]; that it is a library too lets fuzz targets reach what reads foreign text.
#![forbid(unsafe_code)]

mod api;
mod capture;
mod check;
mod cli;
mod config;
mod exit;
#[cfg(feature = "testing")]
pub mod fuzzing;
mod identity_cmd;
mod log;
mod operate;
mod prompt;
mod room_cmd;
mod run;
mod secret_cmd;
mod settings;
mod trust_cmd;

use std::{
    io::{self, Write},
    path::Path,
    process,
};

use clap::Parser;
use ipop_control::host::state_directory;

use crate::{
    cli::{Cli, Command, IdentityArgs, RoomCommand, RunArgs, TrustArgs, Values},
    config::ConfigFile,
    exit::{ExitCode, Failure},
    settings::{Asked, Environment, Layers, Settings, SettingsError},
};

/// The whole program.
pub fn main() -> process::ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => run(cli.run),
        Some(Command::Run(args)) => run(*args),
        Some(Command::Identity(args)) => identity(args),
        Some(Command::Check(args)) => check(&args),
        Some(Command::Secret(command)) => secret_cmd::run(command),
        Some(Command::Trust(args)) => trust(args),
        Some(Command::Room(command)) => room(&command),
        Some(Command::Operate(command)) => operate::run(&command),
    };
    match result {
        Ok(()) => process::ExitCode::SUCCESS,
        Err(failure) => {
            // Nothing is left to do if standard error is closed.
            let _ = writeln!(io::stderr(), "ipop-switch: {failure}");
            process::ExitCode::from(failure.code as u8)
        }
    }
}

fn run(args: RunArgs) -> Result<(), Failure> {
    let early = run::EarlySignals::watch()?;
    let mut environment = Environment::of_process();
    let file = read_config(args.config.as_deref())?;
    let layers = Layers { flags: &args.values, file: file.as_ref(), environment: &environment };
    environment.asked = asked(layers, |layers| {
        Settings::from_layers(layers).map_err(usage)?;
        check::net_admin()
    })?;
    let settings = read_settings(&args, &environment)?;
    refuse_shared(&settings.state)?;
    log::start(settings.log, settings.log_format);
    run::run(settings, early, Box::new(move || read_settings(&args, &environment)))
}

/// Everything that the switch is told; SIGHUP asks again.
fn read_settings(args: &RunArgs, environment: &Environment) -> Result<Settings, Failure> {
    let file = read_config(args.config.as_deref())?;
    let layers = Layers { flags: &args.values, file: file.as_ref(), environment };
    Settings::from_layers(layers).map_err(usage)
}

/// Account and password where they stand nowhere: whoever sits at a terminal is asked, but not before everything else is
/// right.
fn asked(
    layers: Layers<'_>,
    judge: impl FnOnce(Layers<'_>) -> Result<(), Failure>,
) -> Result<Asked, Failure> {
    let Some(missing) = layers.missing_of_account().map_err(usage)? else {
        return Ok(Asked::default());
    };
    let environment = Environment { asked: Asked::placeholder(), ..layers.environment.clone() };
    judge(Layers { environment: &environment, ..layers })?;
    prompt::ask(&missing)
}

fn usage(error: SettingsError) -> Failure {
    Failure::new(ExitCode::Usage, error)
}

/// A configuration that cannot be read is one of the things that are found out.
fn check(args: &RunArgs) -> Result<(), Failure> {
    let mut environment = Environment::of_process();
    let settings = read_config(args.config.as_deref()).and_then(|file| {
        let flags = &args.values;
        let layers = Layers { flags, file: file.as_ref(), environment: &environment };
        environment.asked =
            asked(layers, |layers| Settings::perhaps_tapless(layers).map(drop).map_err(usage))?;
        let layers = Layers { flags, file: file.as_ref(), environment: &environment };
        Settings::perhaps_tapless(layers).map_err(usage)
    });
    check::print(settings)
}

fn room(command: &RoomCommand) -> Result<(), Failure> {
    let file = read_config(room_cmd::at(command).config.as_deref())?;
    let flags = room_cmd::flags(command)?;
    let mut environment = Environment::of_process();
    let layers = Layers { flags: &flags, file: file.as_ref(), environment: &environment };
    environment.asked = asked(layers, |layers| layers.room_settings().map(drop).map_err(usage))?;
    room_cmd::run(command, Layers { flags: &flags, file: file.as_ref(), environment: &environment })
}

fn trust(args: TrustArgs) -> Result<(), Failure> {
    let file = read_config(args.config.as_deref())?;
    let flags = Values { state: args.state, ..Values::default() };
    let environment = Environment::of_process();
    let layers = Layers { flags: &flags, file: file.as_ref(), environment: &environment };
    let state = layers.state();
    refuse_shared(&state)?;
    trust_cmd::run(&args.command, &state)
}

fn identity(args: IdentityArgs) -> Result<(), Failure> {
    let file = read_config(args.config.as_deref())?;
    let environment = Environment::of_process();
    let flags = Values { identity: args.identity, state: args.state, ..Values::default() };
    let layers = Layers { flags: &flags, file: file.as_ref(), environment: &environment };
    let (identity, state) = (layers.identity(), layers.state());
    if identity.starts_with(&state) {
        refuse_shared(&state)?;
    }
    identity_cmd::print_node_id(&identity)
}

/// A state directory that others can write is not used.
fn refuse_shared(state: &Path) -> Result<(), Failure> {
    state_directory::refuse_shared(state).map_err(trust_cmd::of_file)
}

fn read_config(named: Option<&Path>) -> Result<Option<ConfigFile>, Failure> {
    config::read(named, Path::new(config::DEFAULT_PATH)).map_err(|error| {
        let code = match &error {
            config::FileError::Unreadable { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                ExitCode::Permission
            }
            _ => ExitCode::Usage,
        };
        Failure::new(code, error)
    })
}
