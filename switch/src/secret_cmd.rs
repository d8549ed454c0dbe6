//! `ipop-switch secret new`: a new network secret, alone on standard output.

use std::io::{self, IsTerminal, Write};

use ipop_control::network::Secret;

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
            if !io::stdout().is_terminal() {
                // Redirection makes the file readable for everybody, unless the user's mask says otherwise; the switch refuses it then.
                let _ = writeln!(
                    io::stderr(),
                    "keep it for the owner alone: `chmod 600 FILE`, then --network-secret-file FILE on every host"
                );
            }
            writeln!(io::stdout(), "{}", secret.reveal())
                .map_err(|error| Failure::io("cannot write to standard output", error))
        }
    }
}
