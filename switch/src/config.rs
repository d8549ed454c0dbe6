//! The configuration file: TOML, each key a flag of `run` without its dashes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::cli::Values;

/// Read when no other file is named, if it exists.
pub(crate) const DEFAULT_PATH: &str = "/etc/ipop-switch/config.toml";

/// A configuration file that was read.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    pub(crate) values: Values,
}

/// The file cannot be used.
#[derive(Debug)]
pub(crate) enum FileError {
    Unreadable { path: PathBuf, source: io::Error },
    Invalid { path: PathBuf, why: String },
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(f, "cannot read the configuration file {}: {source}", path.display())
            }
            Self::Invalid { path, why } => {
                write!(f, "the configuration file {} is wrong: {why}", path.display())
            }
        }
    }
}

impl std::error::Error for FileError {}

/// Reads the named file, or `default` if it exists.
pub(crate) fn read(named: Option<&Path>, default: &Path) -> Result<Option<ConfigFile>, FileError> {
    let path = named.unwrap_or(default);
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(source) => return Err(FileError::Unreadable { path: path.into(), source }),
    };
    let keys: Keys = toml::from_str(&text).map_err(|error| FileError::Invalid {
        path: path.into(),
        why: error.to_string().trim_end().into(),
    })?;
    Ok(Some(ConfigFile { path: path.into(), values: keys.into() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    tap: Option<OneOrMany>,
    bridge: Option<String>,
    address: Option<String>,
    listen: Option<String>,
    peer: Option<OneOrMany>,
    state: Option<PathBuf>,
    identity: Option<PathBuf>,
    mtu: Option<i64>,
    workers: Option<WordOrNumber>,
    congestion: Option<String>,
    offload: Option<String>,
    #[serde(rename = "busy-poll")]
    busy_poll: Option<i64>,
    log: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number or \"auto\"")]
enum WordOrNumber {
    Word(String),
    Number(i64),
}

impl From<OneOrMany> for Vec<String> {
    fn from(entry: OneOrMany) -> Self {
        match entry {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

impl From<WordOrNumber> for String {
    fn from(entry: WordOrNumber) -> Self {
        match entry {
            WordOrNumber::Word(word) => word,
            WordOrNumber::Number(number) => number.to_string(),
        }
    }
}

impl From<Keys> for Values {
    fn from(keys: Keys) -> Self {
        Self {
            tap: keys.tap.map(Into::into),
            bridge: keys.bridge,
            address: keys.address,
            listen: keys.listen,
            peer: keys.peer.map(Into::into),
            state: keys.state,
            identity: keys.identity,
            mtu: keys.mtu.map(|mtu| mtu.to_string()),
            workers: keys.workers.map(Into::into),
            congestion: keys.congestion,
            offload: keys.offload,
            busy_poll: keys.busy_poll.map(|busy_poll_us| busy_poll_us.to_string()),
            log: keys.log,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn read_text(text: &str) -> Result<Values, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, text).unwrap();
        let file = read(Some(&path), Path::new("/none")).map_err(|error| error.to_string())?;
        Ok(file.unwrap().values)
    }

    #[test]
    fn every_flag_has_a_key() {
        let command = crate::cli::Cli::command();
        for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
            if ["config", "help", "version"].contains(&flag) {
                continue;
            }
            let text = match flag {
                "mtu" | "busy-poll" => format!("{flag} = 1400"),
                _ => format!("{flag} = \"x\""),
            };
            let values = read_text(&text).unwrap();
            assert_ne!(values, Values::default(), "{flag}");
        }
    }

    #[test]
    fn tap_and_peer_are_a_string_or_a_list_and_workers_a_word_or_a_number() {
        assert_eq!(read_text("tap = 'a'").unwrap().tap, Some(vec!["a".into()]));
        let values = read_text("tap = ['a', 'b']\npeer = []\nworkers = 2\nmtu = 9000").unwrap();
        assert_eq!(values.tap, Some(vec!["a".into(), "b".into()]));
        assert_eq!(values.peer, Some(vec![]));
        assert_eq!(values.workers, Some("2".into()));
        assert_eq!(values.mtu, Some("9000".into()));
        assert_eq!(read_text("workers = 'auto'").unwrap().workers, Some("auto".into()));
    }

    #[test]
    fn errors_name_the_file_the_key_and_what_was_expected() {
        for (text, words) in [
            ("tpa = 'x'", ["tpa", "unknown field"]),
            ("config = 'x'", ["config", "unknown field"]),
            ("tap = 5", ["tap", "a string or a list of strings"]),
            ("workers = []", ["workers", "a number or \"auto\""]),
            ("mtu = '1500'", ["mtu", "invalid type"]),
            ("tap = ", ["tap", "line 1"]),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.contains("config.toml"), "{error}");
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn only_the_default_file_may_be_absent() {
        let absent = Path::new("/none/config.toml");
        assert_eq!(read(None, absent).unwrap(), None);
        let error = read(Some(absent), absent).unwrap_err().to_string();
        assert!(error.contains("/none/config.toml"), "{error}");
    }
}
