//! `ipop-switch secret new`: a new network secret, alone on standard output.

use std::io::{self, Write};

use ipop_control::network::Secret;
use rustix::fs::{FileType, Mode, fchmod, fstat};

use crate::{
    cli::SecretCommand,
    exit::{ExitCode, Failure},
};

/// Runs the command.
pub(crate) fn run(command: SecretCommand) -> Result<(), Failure> {
    match command {
        SecretCommand::New => {
            let secret =
                Secret::generate().map_err(|error| Failure::new(ExitCode::Failed, error))?;
            close_to_others();
            writeln!(io::stdout(), "{}", secret.reveal())
                .map_err(|error| Failure::io("cannot write to standard output", error))
        }
    }
}

/// A shell that redirects to a new file makes it readable for everybody, and the switch would refuse it. Where the mode cannot be changed, as in a
/// file of someone else, the user is told.
fn close_to_others() {
    let output = io::stdout();
    let Ok(status) = fstat(&output) else { return };
    let is_file = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
    if is_file && fchmod(&output, Mode::RUSR | Mode::WUSR).is_err() {
        let _ = writeln!(
            io::stderr(),
            "the file may be open to other users: run `chmod 600` on it, or the switch refuses it"
        );
    }
}
