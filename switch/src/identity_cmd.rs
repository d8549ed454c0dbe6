//! `ipop-switch identity`: the node id, alone on standard output.

use std::{
    io::{self, Write},
    path::Path,
};

use ipop_control::identity::{Identity, IdentityError};

use crate::exit::{ExitCode, Failure};

/// Prints the id of the key in this file, which is made if there is none.
pub(crate) fn print_node_id(path: &Path) -> Result<(), Failure> {
    let identity = load(path)?;
    writeln!(io::stdout(), "{}", identity.node_id())
        .map_err(|error| Failure::io("cannot write to standard output", error))
}

/// The identity, or the failure with the exit code that fits.
pub(crate) fn load(path: &Path) -> Result<Identity, Failure> {
    Identity::load_or_create(path).map_err(failure)
}

/// The same if there is a key; makes none.
pub(crate) fn look(path: &Path) -> Result<Option<Identity>, Failure> {
    Identity::load_if_there(path).map_err(failure)
}

fn failure(error: IdentityError) -> Failure {
    let code = match &error {
        _ if error.is_permission() => ExitCode::Permission,
        IdentityError::Crypto(_) => ExitCode::Failed,
        _ => ExitCode::Usage,
    };
    Failure::new(code, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_wrong_files_from_missing_permission() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.pem");
        std::fs::write(&path, "not a key").unwrap();
        assert_eq!(load(&path).unwrap_err().code, ExitCode::Usage);
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert!(IdentityError::NotCreated { path, cause: denied }.is_permission());
    }
}
