//! Files of the state directory: TOML with a version, mode 0600, replaced as a whole.
//!
//! The running switch and the commands (`trust accept`) both write them. Whoever changes a file holds the lock beside it from reading to
//! writing, so no change is lost; whoever only reads needs none, since a file is never half written. The switch compares the file's
//! [`Stamp`] once a second and reads it again when it differs.

use std::{
    fs, io,
    marker::PhantomData,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Serialize, de::DeserializeOwned};

use crate::host::private_file::{self, PrivateFileError, Readers};

/// More than this is no state file of ours: bounds of the content keep it far smaller.
const MAX_LEN: u64 = 4 << 20;

/// The content of a state file.
pub trait Versioned: Serialize + DeserializeOwned + Default {
    /// The version that this program reads and writes.
    const VERSION: u32;
    /// Its name in the state directory.
    const FILE_NAME: &'static str;
    /// What an operator does when it is corrupted.
    const CURE: &'static str;
}

/// A state file that may not exist yet.
#[derive(Clone, Debug)]
pub struct StateFile<T> {
    path: PathBuf,
    content: PhantomData<fn() -> T>,
}

/// Tells one content of a file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    inode: u64,
    len: u64,
    modified_s: i64,
    modified_ns: i64,
}

/// Whether to wait for someone else who changes the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// A command can.
    Wait,
    /// The switch tries again later: [`io::ErrorKind::WouldBlock`].
    GiveUp,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Envelope<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(serde::Deserialize)]
struct VersionAlone {
    version: u32,
}

/// The content of a state file that has this text.
///
/// # Errors
/// What is wrong with it.
pub fn parse_state<T: Versioned>(text: &str) -> Result<T, String> {
    let corrupted = |error: toml::de::Error| error.to_string().trim_end().to_owned();
    let VersionAlone { version } = toml::from_str(text).map_err(corrupted)?;
    if version != T::VERSION {
        let reads = T::VERSION;
        return Err(format!("it is of version {version}, and this program reads version {reads}"));
    }
    let envelope: Envelope<T> = toml::from_str(text).map_err(corrupted)?;
    Ok(envelope.content)
}

/// The text of a state file with this content.
///
/// # Errors
/// When it cannot be written as TOML.
pub fn format_state<T: Versioned>(content: &T) -> Result<String, toml::ser::Error> {
    toml::to_string(&Envelope { version: T::VERSION, content })
}

impl<T: Versioned> StateFile<T> {
    /// The file of this state directory.
    pub fn in_directory(state: &Path) -> Self {
        Self { path: state.join(T::FILE_NAME), content: PhantomData }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its content; the default if there is no file.
    ///
    /// # Errors
    /// When it cannot be read or makes no sense; the message names the file and the cure.
    pub fn load(&self) -> Result<T, PrivateFileError> {
        let text = match private_file::read_text(&self.path, MAX_LEN, Readers::OwnerAlone) {
            Ok(text) => text,
            Err(error) if error.is_absent() => return Ok(T::default()),
            Err(error) => return Err(error),
        };
        parse_state(&text).map_err(|why| PrivateFileError::Unusable {
            path: self.path.clone(),
            why: format!("{why}; {}", T::CURE),
        })
    }

    /// Replaces the content.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, content: &T) -> Result<(), PrivateFileError> {
        let failed = |cause| PrivateFileError::NotWritten { path: self.path.clone(), cause };
        let text = format_state(content).map_err(|error| failed(io::Error::other(error)))?;
        private_file::replace(&self.path, text.as_bytes())
    }

    /// Reads, changes and writes the file while nobody else does. What `change` returns says whether there is anything to write.
    ///
    /// # Errors
    /// As [`Self::load`] and [`Self::store`], and whatever `change` fails with.
    pub fn update<R, E: From<PrivateFileError>>(
        &self,
        patience: Patience,
        change: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<R, E>
    where
        T: PartialEq + Clone,
    {
        let _lock = self.lock(patience)?;
        let before = self.load()?;
        let mut content = before.clone();
        let result = change(&mut content)?;
        if content != before {
            self.store(&content)?;
        }
        Ok(result)
    }

    /// Tells whether the file changed since another stamp; `None` if there is none.
    pub fn stamp(&self) -> Option<Stamp> {
        let metadata = fs::metadata(&self.path).ok()?;
        Some(Stamp {
            inode: metadata.ino(),
            len: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        })
    }

    /// Says for as long as what is given back lives that the file holds: [`Self::is_held`].
    ///
    /// # Errors
    /// When somebody else says so, or the directory cannot be written.
    pub fn hold(&self) -> Result<fs::File, PrivateFileError> {
        self.lock(Patience::GiveUp)
    }

    /// Whether a program that runs holds it. Makes no file: who asks may be another user than the program's.
    pub fn is_held(&self) -> bool {
        let Ok(lock) = fs::File::open(self.path.with_extension("lock")) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// The lock is a file of its own: the state file itself is replaced, and its lock would go with the old one.
    fn lock(&self, patience: Patience) -> Result<fs::File, PrivateFileError> {
        let path = self.path.with_extension("lock");
        let failed = |cause: io::Error| PrivateFileError::NotWritten { path: path.clone(), cause };
        let file = private_file::open_or_make(&path).map_err(failed)?;
        let operation = match patience {
            Patience::Wait => FlockOperation::LockExclusive,
            Patience::GiveUp => FlockOperation::NonBlockingLockExclusive,
        };
        flock(&file, operation).map_err(|error| failed(error.into()))?;
        Ok(file)
    }
}

/// Node ids as text.
pub(super) mod node_text {
    use ipop_datapath::node_id::NodeId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(node: &NodeId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(node)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<NodeId, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
