//! How the program ends: exit codes that a script can use, and errors that carry one.

use std::{fmt, io};

/// The exit codes. `--help` lists them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum ExitCode {
    /// It failed while running.
    Failed = 1,
    /// The command line or the configuration is wrong. (clap uses the same number.)
    Usage = 2,
    /// A permission is missing.
    Permission = 3,
    /// Something is taken: the UDP port, the TAP.
    Taken = 4,
}

impl ExitCode {
    /// That of what the kernel said.
    pub(crate) fn of(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::PermissionDenied => Self::Permission,
            io::ErrorKind::AddrInUse | io::ErrorKind::ResourceBusy => Self::Taken,
            _ => Self::Failed,
        }
    }
}

/// What `--help` says of them.
pub(crate) const HELP: &str = "\
Exit codes:
  0  ended as asked (SIGINT, SIGTERM), or the command succeeded
  1  failed while running; `check`: the switch would not run here as it is told
  2  the command line or the configuration is wrong
  3  a permission is missing (CAP_NET_ADMIN, a file, a right in the room)
  4  a resource is taken (the UDP port, the TAP, the name of the room)";

/// An error that ends the program.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: ExitCode,
    pub(crate) error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    /// What was being done, and what the kernel said to it, which chooses the code.
    pub(crate) fn io(doing: &'static str, error: io::Error) -> Self {
        let code = ExitCode::of(error.kind());
        Self { code, error: anyhow::Error::new(error).context(doing) }
    }
}

/// Errors without a code of their own are failures at run time.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(ExitCode::Failed, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_code() {
        use ExitCode::{Failed, Permission, Taken, Usage};
        for code in [Failed, Usage, Permission, Taken] {
            assert!(HELP.contains(&format!("\n  {}  ", code as u8)), "{code:?}");
        }
    }

    #[test]
    fn the_kernels_answer_chooses_the_code() {
        for (kind, code) in [
            (io::ErrorKind::PermissionDenied, ExitCode::Permission),
            (io::ErrorKind::AddrInUse, ExitCode::Taken),
            (io::ErrorKind::ResourceBusy, ExitCode::Taken),
            (io::ErrorKind::NotFound, ExitCode::Failed),
        ] {
            let failure = Failure::io("cannot bind", kind.into());
            assert_eq!(failure.code, code);
            assert!(failure.to_string().starts_with("cannot bind: "), "{failure}");
        }
    }
}
