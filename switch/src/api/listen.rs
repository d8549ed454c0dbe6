//! The Unix socket that the API is at.
//!
//! The file of a switch that was killed stays behind and is taken over; that of one that runs is not. A lock tells the two apart, which the kernel lets go of
//! with its process.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{RUNTIME_DIRECTORY, rights::Groups};
use crate::exit::{ExitCode, Failure};

/// For root, the switch's user and the group of the socket.
const MODE: u32 = 0o660;
/// With two groups the socket is for everybody, and whoever connects is asked for a group.
const MODE_OF_TWO_GROUPS: u32 = 0o666;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// A switch that runs has it.
    #[error(
        "another switch serves its API at {path}; give this one a name of its own (--instance NAME), another socket (--api PATH) or none (--api off)",
        path = .0.display()
    )]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{path} is there and no socket; remove it, or choose another path (--api PATH)", path = .0.display())]
    NoSocket(PathBuf),
    /// The kernel says no.
    #[error("cannot {action} {path}: {cause}", path = path.display())]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Self {
        let code = match &error {
            SocketError::Taken(_) => ExitCode::Taken,
            SocketError::NoSocket(_) => ExitCode::Usage,
            SocketError::Kernel { cause, .. } => ExitCode::of(cause.kind()),
        };
        Self::new(code, error)
    }
}

/// A socket that is listened on. Its file goes with it.
#[derive(Debug)]
pub(super) struct UnixSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Held while this lives. The file of the lock stays: who removed it could not know whether another one just locked it.
    _lock: File,
}

impl UnixSocket {
    /// Listens at this path, in the place of a switch that has ended. The directory of our own is made if it is not there.
    ///
    /// # Errors
    /// When the path is another one's, or the kernel says no.
    pub(super) fn open(path: &Path, groups: &Groups) -> Result<Self, SocketError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |cause| SocketError::Kernel { action, path, cause }
        };
        let directory = Path::new(RUNTIME_DIRECTORY);
        if path.parent() == Some(directory) {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
            made.map_err(failed("make", directory))?;
        }
        let lock_path = lock_of(path);
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed("open", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(SocketError::Taken(path.into())),
            Err(error) => return Err(failed("lock", &lock_path)(error.into())),
        }
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(SocketError::NoSocket(path.into()));
            }
            Ok(_) => fs::remove_file(path).map_err(failed("remove", path))?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed("listen at", path))?;
        let socket = Self { listener, path: path.into(), _lock: lock };
        socket.restrict(groups).map_err(failed("set who may use", path))?;
        socket.listener.set_nonblocking(true).map_err(failed("listen at", path))?;
        Ok(socket)
    }

    /// The program's umask may have closed it, never opened it: until here it is for its owner alone or for the owner's group.
    fn restrict(&self, groups: &Groups) -> io::Result<()> {
        let group = groups.change.as_ref().or(groups.read.as_ref());
        if let Some((_, gid)) = group {
            chown(&self.path, None, Some(*gid))?;
        }
        let both = groups.change.is_some() && groups.read.is_some();
        let mode = if both { MODE_OF_TWO_GROUPS } else { MODE };
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn lock_of(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::MetadataExt, net::UnixStream};

    use super::*;

    fn open(path: &Path) -> Result<UnixSocket, SocketError> {
        UnixSocket::open(path, &Groups::default())
    }

    #[test]
    fn a_dead_switchs_socket_is_taken_over_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open(&dir.path().join("no/a.sock")), Err(SocketError::Kernel { .. })));
        let path = dir.path().join("a.sock");
        let socket = open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        assert!(matches!(open(&path), Err(SocketError::Taken(_))));
        assert!(UnixStream::connect(&path).is_ok(), "the living one still has it");
        drop(socket);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(UnixStream::connect(&path).is_err() && path.exists(), "left behind");
        let again = open(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(again);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        fs::write(&path, "somebody's").unwrap();
        assert!(matches!(open(&path), Err(SocketError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
    }

    #[test]
    fn the_socket_is_the_groups() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let gid = rustix::process::getegid().as_raw();
        let group = Some(("own".to_owned(), gid));
        for (groups, mode) in [
            (Groups { change: group.clone(), read: None }, 0o660),
            (Groups { change: None, read: group.clone() }, 0o660),
            (Groups { change: group.clone(), read: group }, 0o666),
        ] {
            let socket = UnixSocket::open(&path, &groups).unwrap();
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (mode, gid));
            drop(socket);
        }
    }
}
