//! The state directory holds this node's key and the operator's decisions. Whoever can write it can put others in their place, so
//! it must be for its owner alone to write.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

use rustix::process::{getegid, getgid};

use crate::host::private_file::{PrivateFileError, Temporary};

/// Refuses a directory that others can write. One that does not exist is as well: it is made with mode 0700.
///
/// Its group may write it if that is root's or this program's own, as where each user has a group of the same name.
///
/// # Errors
/// [`PrivateFileError::Unusable`] with the cure.
pub fn refuse_shared(state: &Path) -> Result<(), PrivateFileError> {
    // What cannot be looked at cannot be read either, which is told there.
    let Ok(metadata) = fs::metadata(state) else { return Ok(()) };
    let unusable = |why: String| Err(PrivateFileError::Unusable { path: state.into(), why });
    if !metadata.is_dir() {
        return unusable("it is not a directory; choose another with --state DIR".into());
    }
    let mode = metadata.mode() & 0o7777;
    let is_own_group = [0, getgid().as_raw(), getegid().as_raw()].contains(&metadata.gid());
    let (who, change) = match mode {
        mode if mode & 0o002 != 0 => ("every user of this host", "o-w"),
        mode if mode & 0o020 != 0 && !is_own_group => ("its group", "g-w"),
        _ => return Ok(()),
    };
    let path = state.display();
    unusable(format!(
        "{who} can write this state directory (mode {mode:04o}), and so put another key in the place of this node's; run \
         `chmod {change} {path}`, or choose another with --state DIR. If someone may have been there, look at what is in it"
    ))
}

/// Whether files can be made in this directory, or the directory itself if it is not there yet. A directory is made for the
/// purpose, and gone when this returns.
///
/// # Errors
/// [`PrivateFileError::NotWritten`].
pub fn try_to_write(directory: &Path) -> Result<(), PrivateFileError> {
    // Of a relative path the last one is empty.
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let attempt = || -> io::Result<()> {
        let trial = Temporary::new(existing)?;
        fs::DirBuilder::new().mode(0o700).create(&trial.0)?;
        fs::remove_dir(&trial.0)
    };
    attempt().map_err(|cause| PrivateFileError::NotWritten { path: directory.into(), cause })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn a_directory_that_others_can_write_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert!(refuse_shared(&state).is_ok(), "it will be made");
        fs::create_dir(&state).unwrap();
        for (mode, cure) in [
            (0o700, None),
            (0o755, None),
            (0o775, None),
            (0o777, Some("chmod o-w")),
            (0o1777, Some("chmod o-w")),
            (0o702, Some("chmod o-w")),
        ] {
            fs::set_permissions(&state, fs::Permissions::from_mode(mode)).unwrap();
            match (refuse_shared(&state).map_err(|error| error.to_string()), cure) {
                (Ok(()), None) => {}
                (Err(error), Some(cure)) => {
                    let cure = format!("`{cure} {}`", state.display());
                    assert!(error.contains(&cure) && error.contains("--state"), "{error}");
                }
                (result, _) => panic!("{mode:o}: {result:?}"),
            }
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(refuse_shared(&file).unwrap_err().to_string().contains("not a directory"));
    }

    #[test]
    fn the_group_of_others_may_not_write_it() {
        let dir = tempfile::tempdir().unwrap();
        const NOBODY_HAS_IT: u32 = 4_999;
        if chown(dir.path(), None, Some(NOBODY_HAS_IT)).is_err() {
            // Only root gives files to other groups.
            return;
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(refuse_shared(dir.path()).is_ok());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let error = refuse_shared(dir.path()).unwrap_err().to_string();
        assert!(error.contains("chmod g-w"), "{error}");
    }
    #[test]
    fn a_trial_leaves_nothing_and_tells_what_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("a/b/c")] {
            try_to_write(&path).unwrap();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for impossible in [file.join("state"), "/proc/none/state".into()] {
            let error = try_to_write(&impossible).unwrap_err().to_string();
            assert!(error.contains(impossible.to_str().unwrap()), "{error}");
        }
    }
}
