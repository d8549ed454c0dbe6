//! Files that hold secrets or what this node has learned: for their owner alone, never half written.
//!
//! Reading checks the open file, so that it cannot change between the check and the read, and opens it non-blocking, so that a FIFO
//! does not hang the start. Writing goes to a temporary file of the same directory that is renamed into place: whoever reads meanwhile
//! finds the old content or the new one.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::rand::SecureRandom;
use data_encoding::HEXLOWER;

/// Who besides the owner may be able to read a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readers {
    /// Nobody.
    OwnerAlone,
    /// The group: systemd shows the access list of a credential as its group's permission.
    GroupToo,
}

/// Why a private file cannot be used. Each message names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// Others than the owner can read or write it.
    #[error(
        "{path} is open to other users (mode {mode:04o}); run `chmod 600 {path}`, and if someone may have read it, \
         replace what is in it", path = path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not there, or cannot be read.
    #[error("cannot read {path}: {cause}; {owner}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Who runs and who owns the file.
        owner: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// Its content is of no use.
    #[error("{path}: {why}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// It could not be written.
    #[error(
        "cannot write {path}: {cause}; user {uid} must be able to write the directory", path = path.display(),
        uid = rustix::process::geteuid().as_raw()
    )]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
}

impl PrivateFileError {
    /// Whether the kernel refused for lack of permission.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Unreadable { cause, .. } | Self::NotWritten { cause, .. } => {
                cause.kind() == io::ErrorKind::PermissionDenied
            }
            Self::Exposed { .. } | Self::Unusable { .. } => false,
        }
    }

    /// Whether there is no such file.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Unreadable { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
    }
}

/// The whole file, at most `max_len` bytes.
///
/// # Errors
/// When it is absent, unreadable, open to others than `readers`, no regular file, or longer.
pub fn read(path: &Path, max_len: u64, readers: Readers) -> Result<Vec<u8>, PrivateFileError> {
    let failed = |cause| unreadable(path, cause);
    let non_blocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file =
        fs::OpenOptions::new().read(true).custom_flags(non_blocking).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let unusable = |why: &str| PrivateFileError::Unusable { path: path.into(), why: why.into() };
    if !metadata.is_file() {
        return Err(unusable("it is not a regular file"));
    }
    let mode = metadata.mode() & 0o7777;
    let open = match readers {
        Readers::OwnerAlone => 0o077,
        Readers::GroupToo => 0o037,
    };
    if mode & open != 0 {
        return Err(PrivateFileError::Exposed { path: path.into(), mode });
    }
    let mut content = Vec::new();
    file.take(max_len.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > max_len {
        return Err(unusable(&format!("it is longer than {max_len} bytes")));
    }
    Ok(content)
}

/// The same as text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_text(path: &Path, max_len: u64, readers: Readers) -> Result<String, PrivateFileError> {
    String::from_utf8(read(path, max_len, readers)?).map_err(|_| PrivateFileError::Unusable {
        path: path.into(),
        why: "it is not text in UTF-8".into(),
    })
}

/// Writes or replaces a file, mode 0600; missing directories are made, mode 0700.
///
/// # Errors
/// [`PrivateFileError::NotWritten`]; the old content is then still there.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), PrivateFileError> {
    write_and_rename(path, content)
        .map_err(|cause| PrivateFileError::NotWritten { path: path.into(), cause })
}

fn write_and_rename(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = directory_of(path);
    make_directory(directory)?;
    let temporary = Temporary::new(directory)?;
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary.0)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary.0, path)?;
    fs::File::open(directory)?.sync_all()
}

/// The directory that a file is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes a directory and those above it, mode 0700, unless they exist.
pub(crate) fn make_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// The name of a temporary file, which is removed whatever happens. After a rename there is nothing left to remove.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Temporary {
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let mut bytes = [0; 12];
        aws_lc_rs::rand::SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| io::Error::other("no random numbers"))?;
        Ok(Self(directory.join(format!(".new-{}", HEXLOWER.encode(&bytes)))))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn unreadable(path: &Path, cause: io::Error) -> PrivateFileError {
    let me = rustix::process::geteuid().as_raw();
    let owner = match fs::metadata(path) {
        Ok(metadata) => format!(
            "this program runs as user {me}, the file belongs to user {} with mode {:04o}",
            metadata.uid(),
            metadata.mode() & 0o7777
        ),
        Err(_) => format!(
            "this program runs as user {me}, who needs search permission (x) on every directory above it"
        ),
    };
    PrivateFileError::Unreadable { path: path.into(), owner, cause }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/state.toml");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path, 3, Readers::OwnerAlone).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let names = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(names.count(), 1, "a temporary file stayed");
        assert!(matches!(
            read(&path, 2, Readers::OwnerAlone),
            Err(PrivateFileError::Unusable { .. })
        ));
    }

    #[test]
    fn files_that_others_can_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "x").unwrap();
        for (mode, owner_alone, group_too) in [
            (0o600, true, true),
            (0o440, false, true),
            (0o604, false, false),
            (0o620, false, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for (readers, good) in
                [(Readers::OwnerAlone, owner_alone), (Readers::GroupToo, group_too)]
            {
                let result = read(&path, 10, readers);
                assert_eq!(result.is_ok(), good, "{mode:o} {readers:?}");
                if let Err(error) = result {
                    assert!(error.to_string().contains("chmod 600"), "{error}");
                }
            }
        }
        let absent = read(&dir.path().join("none"), 10, Readers::OwnerAlone).unwrap_err();
        assert!(absent.is_absent() && absent.to_string().contains("none"), "{absent}");
        let directory = read(dir.path(), 10, Readers::OwnerAlone).unwrap_err();
        assert!(directory.to_string().contains("not a regular file"), "{directory}");
    }
}
