//! Files that hold secrets or what this node has learned: for their owner alone, never half written.
//!
//! Reading checks the open file, so that it cannot change between the check and the read, and opens it non-blocking, so that a FIFO
//! does not hang the start. Writing goes to a temporary file of the same directory that is renamed into place: whoever reads meanwhile
//! finds the old content or the new one.
//!
//! What is written belongs to the owner of its directory, whoever writes it: a file that root made with a command must be readable for the
//! service, which has a user of its own. Only new files of random names are handed over, never one that was there: the directory's owner
//! could have put a link to somebody else's file in its place.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
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
    let temporary = write_beside(path, content)?;
    fs::rename(&temporary.0, path)?;
    sync_directory(path)
}

/// Makes a file, mode 0600, whose name must be free; missing directories are made, mode 0700.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if the name is taken, and whatever the kernel says; there is no new file then.
pub(crate) fn create_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = write_beside(path, content)?;
    link_new(&temporary.0, path)?;
    drop(temporary);
    sync_directory(path)
}

/// Opens a file for writing that may have to be made first, empty.
pub(crate) fn open_or_make(path: &Path) -> io::Result<fs::File> {
    let open = || {
        let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        fs::OpenOptions::new().write(true).custom_flags(no_link).open(path)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match create_new(path, b"") {
                // Somebody else was quicker.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => open(),
            }
        }
        opened => opened,
    }
}

/// A file with this content in the same directory, of that directory's owner.
fn write_beside(path: &Path, content: &[u8]) -> io::Result<Temporary> {
    let directory = directory_of(path);
    make_directory(directory)?;
    let temporary = Temporary::new(directory)?;
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary.0)?;
    hand_over(&file, directory)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(temporary)
}

/// Gives a new file to the owner of its directory, which may be a link to the real one.
fn hand_over(file: &fs::File, directory: &Path) -> io::Result<()> {
    let (new, of_directory) = (file.metadata()?, fs::metadata(directory)?);
    let (uid, gid) = (of_directory.uid(), of_directory.gid());
    if new.uid() == uid {
        return Ok(());
    }
    fchown(file, Some(uid), Some(gid)).map_err(|error| {
        let me = rustix::process::geteuid().as_raw();
        io::Error::new(
            error.kind(),
            format!(
                "the directory {} belongs to user {uid}, who could not read a file of user {me}: run this as user {uid} \
                 or as root, or give the directory to user {me} ({error})",
                directory.display()
            ),
        )
    })
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(directory_of(path))?.sync_all()
}

/// Gives the file a second name, which must be free. File systems without hard links rename it instead.
fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match fs::hard_link(from, to) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from)
        }
        done => done,
    }
}

/// The directory that a file is in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes a directory and those above it, mode 0700, unless they exist.
fn make_directory(directory: &Path) -> io::Result<()> {
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

    /// Somebody else; only root can play them.
    const SOMEBODY: u32 = 65_533;

    #[test]
    fn what_root_writes_belongs_to_the_owner_of_the_directory() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: only root can give files away");
        }
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("private");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::chown(&real, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        let state = dir.path().join("state");
        std::os::unix::fs::symlink(&real, &state).unwrap();
        replace(&state.join("replaced"), b"one").unwrap();
        create_new(&state.join("new"), b"two").unwrap();
        drop(open_or_make(&state.join("lock")).unwrap());
        for name in ["replaced", "new", "lock"] {
            let metadata = fs::metadata(real.join(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (SOMEBODY, SOMEBODY), "{name}");
            assert_eq!(metadata.mode() & 0o7777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_file_that_was_there_is_not_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = dir.path().join("foreign");
        fs::write(&foreign, "kept").unwrap();
        let lock = dir.path().join("trust.lock");
        std::os::unix::fs::symlink(&foreign, &lock).unwrap();
        assert!(open_or_make(&lock).is_err(), "no link is followed");
        let taken = create_new(&foreign, b"other").unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&foreign).unwrap(), b"kept");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "a temporary file stayed");
    }

    #[test]
    fn a_fifo_is_refused_and_not_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let error = read(&path, 10, Readers::OwnerAlone).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
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
