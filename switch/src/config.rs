//! The configuration file: TOML. Each flag of `run` is a key, without its dashes or, for the network's, in the tables `[xmpp]` and
//! `[network]`; a few more keys have no flag.

mod forms;

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::cli::{AccountValues, NetworkValues, Values};

/// Read when no other file is named, if it exists.
pub(crate) const DEFAULT_PATH: &str = "/etc/ipop-switch/config.toml";

/// More than this is no configuration file.
const MAX_LEN: u64 = 1 << 20;
/// Of a key that is not ours, characters.
const MAX_SHOWN_KEY: usize = 40;

/// A configuration file that was read.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    pub(crate) values: Values,
    pub(crate) beyond_flags: BeyondFlags,
}

/// What only the file can say; written under the names of the keys.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub(crate) struct BeyondFlags {
    /// The account's password itself.
    #[serde(rename = "xmpp.password")]
    pub(crate) xmpp_password: Option<String>,
    /// Whether the password may be sent as it is.
    #[serde(rename = "xmpp.allow_plain")]
    pub(crate) allow_plain: Option<bool>,
    /// Node ids that may connect with trust = "pinned".
    #[serde(rename = "network.pinned")]
    pub(crate) pinned: Option<Vec<String>>,
    /// With trust = "tofu": wait or accept.
    #[serde(rename = "network.new_nodes")]
    pub(crate) new_nodes: Option<String>,
    #[serde(rename = "ice.stun")]
    pub(crate) stun: Option<Vec<String>>,
    #[serde(rename = "ice.turn")]
    pub(crate) turn: Option<Vec<TurnEntry>>,
    #[serde(rename = "ice.ignore_interfaces")]
    pub(crate) ignore_interfaces: Option<Vec<String>>,
    /// Group that may do everything through the API.
    pub(crate) api_group: Option<String>,
    /// Group that may look through the API.
    pub(crate) api_group_read: Option<String>,
    /// Whether peers have metrics of their own.
    pub(crate) metrics_peers: Option<bool>,
}

/// A TURN server as configured.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TurnEntry {
    /// `HOST[:PORT]`.
    pub(crate) server: String,
    pub(crate) username: String,
    #[serde(skip_serializing)]
    pub(crate) password: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
}

/// The key that stands for a flag of `run`.
pub(crate) fn key_of_flag(flag: &str) -> &str {
    match flag {
        "busy-poll" => "busy_poll",
        "api-listen" => "api_listen",
        "api-token-file" => "api_token_file",
        "log-format" => "log_format",
        "xmpp-jid" => "xmpp.jid",
        "xmpp-password-file" => "xmpp.password_file",
        "xmpp-server" => "xmpp.server",
        "xmpp-ca" => "xmpp.ca",
        "xmpp-pin" => "xmpp.pin",
        "room" => "network.room",
        "network-secret-file" => "network.secret_file",
        "trust" => "network.trust",
        "join" => "network.join",
        other => other,
    }
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
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(source) => return Err(FileError::Unreadable { path: path.into(), source }),
    };
    let file = parse(path, &text)?;
    if file.holds_secrets() {
        refuse_exposed(path)?;
    }
    Ok(Some(file))
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = fs::File::open(path)?.take(MAX_LEN + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_LEN {
        return Err(io::Error::other(format!(
            "it is longer than {MAX_LEN} bytes, so it is no configuration file"
        )));
    }
    Ok(text)
}

/// What a file with this text says.
pub(crate) fn parse(path: &Path, text: &str) -> Result<ConfigFile, FileError> {
    match toml::from_str::<Keys>(text) {
        Ok(keys) => Ok(keys.into_file(path.into())),
        Err(error) => Err(FileError::Invalid { path: path.into(), why: explain(text, &error) }),
    }
}

/// What is wrong, and in which line, of which no more than the key is shown: what stands behind it may be a secret.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or(text);
    let number = before.matches('\n').count();
    let line = text.split('\n').nth(number).unwrap_or_default();
    let key = line.split_once('=').map_or("", |(key, _)| key.trim());
    let key: String = key.chars().take(MAX_SHOWN_KEY).collect();
    // A date is a table with a strange key to the library.
    let is_about_a_key = ["unknown field `", "missing field", "duplicate key"]
        .into_iter()
        .any(|start| error.message().strip_prefix(start).is_some_and(|key| !key.starts_with('$')));
    if let Some((key, form)) = forms::at(before, line).filter(|_| !is_about_a_key) {
        return format!("line {}, {key}: expected {form}", number + 1);
    }
    let is_secret = ["password", "join"].into_iter().any(|word| line.contains(word));
    let why = if is_secret { "there is no value of the right kind" } else { error.message() };
    match (key.as_str(), number + 1) {
        ("", line) => format!("line {line}: {why}"),
        (key, line) => format!("line {line}, {key}: {why}"),
    }
}

impl ConfigFile {
    /// Whether a password or a join token stands in the file itself.
    fn holds_secrets(&self) -> bool {
        let turn = self.beyond_flags.turn.iter().flatten();
        self.beyond_flags.xmpp_password.is_some()
            || self.values.network.join.is_some()
            || turn.into_iter().any(|server| server.password.is_some())
    }
}

/// A file with secrets in it must not be for everybody. Its group may read it, as distributions set it up for services.
fn refuse_exposed(path: &Path) -> Result<(), FileError> {
    let metadata =
        fs::metadata(path).map_err(|source| FileError::Unreadable { path: path.into(), source })?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o007 == 0 {
        return Ok(());
    }
    let why = format!(
        "it holds a password or a join token and is open to other users (mode {mode:04o}); run `chmod 600 {}`, or put \
         the password into a file of its own (password_file)",
        path.display()
    );
    Err(FileError::Invalid { path: path.into(), why })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    tap: Option<OneOrMany>,
    port: Option<Vec<PortEntry>>,
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
    busy_poll: Option<i64>,
    instance: Option<String>,
    api: Option<PathBuf>,
    controller: Option<String>,
    api_listen: Option<String>,
    api_token_file: Option<PathBuf>,
    api_group: Option<String>,
    api_group_read: Option<String>,
    metrics_peers: Option<bool>,
    log_format: Option<String>,
    log: Option<String>,
    name: Option<String>,
    xmpp: Option<XmppKeys>,
    network: Option<NetworkKeys>,
    ice: Option<IceKeys>,
}

/// A local port.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortEntry {
    kind: String,
    name: String,
}

impl PortEntry {
    /// As `--port` has it.
    fn as_flag(&self) -> String {
        format!("{}:{}", self.kind, self.name)
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct XmppKeys {
    jid: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
    server: Option<String>,
    ca: Option<PathBuf>,
    pin: Option<OneOrMany>,
    allow_plain: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct NetworkKeys {
    room: Option<String>,
    secret_file: Option<PathBuf>,
    trust: Option<String>,
    join: Option<String>,
    pinned: Option<OneOrMany>,
    new_nodes: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct IceKeys {
    stun: Option<OneOrMany>,
    turn: Option<Vec<TurnEntry>>,
    ignore_interfaces: Option<OneOrMany>,
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

impl Keys {
    fn into_file(self, path: PathBuf) -> ConfigFile {
        let keys = self;
        let (xmpp, network, ice) = (
            keys.xmpp.unwrap_or_default(),
            keys.network.unwrap_or_default(),
            keys.ice.unwrap_or_default(),
        );
        let beyond_flags = BeyondFlags {
            xmpp_password: xmpp.password,
            allow_plain: xmpp.allow_plain,
            pinned: network.pinned.map(Into::into),
            new_nodes: network.new_nodes,
            stun: ice.stun.map(Into::into),
            turn: ice.turn,
            ignore_interfaces: ice.ignore_interfaces.map(Into::into),
            api_group: keys.api_group,
            api_group_read: keys.api_group_read,
            metrics_peers: keys.metrics_peers,
        };
        let account = AccountValues {
            xmpp_jid: xmpp.jid,
            xmpp_password_file: xmpp.password_file,
            xmpp_server: xmpp.server,
            xmpp_ca: xmpp.ca,
            xmpp_pin: xmpp.pin.map(Into::into),
            network_secret_file: network.secret_file,
            trust: network.trust,
        };
        let network =
            NetworkValues { name: keys.name, account, room: network.room, join: network.join };
        let values = Values {
            tap: keys.tap.map(Into::into),
            port: keys.port.map(|ports| ports.iter().map(PortEntry::as_flag).collect()),
            bridge: keys.bridge,
            address: keys.address,
            listen: keys.listen,
            peer: keys.peer.map(Into::into),
            state: keys.state,
            identity: keys.identity,
            network,
            mtu: keys.mtu.map(|mtu| mtu.to_string()),
            workers: keys.workers.map(Into::into),
            congestion: keys.congestion,
            offload: keys.offload,
            busy_poll: keys.busy_poll.map(|busy_poll_us| busy_poll_us.to_string()),
            instance: keys.instance,
            api: keys.api,
            controller: keys.controller,
            api_listen: keys.api_listen,
            api_token_file: keys.api_token_file,
            log_format: keys.log_format,
            log: keys.log,
        };
        ConfigFile { path, values, beyond_flags }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::CommandFactory;

    use super::*;

    fn read_text(text: &str) -> Result<Values, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
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
            let flag: &'static str = flag.to_owned().leak();
            let text = match key_of_flag(flag) {
                key @ ("mtu" | "busy_poll") => format!("{key} = 1400"),
                "port" => "[[port]]\nkind = 'x'\nname = 'x'".into(),
                key => format!("{key} = \"x\""),
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
            ("tap = 5", ["line 1, tap: ", "a name or a list of names, like tap = \"ipop0\""]),
            ("[xmpp]\njdi = 'x'", ["jdi", "unknown field"]),
            ("[network]\ntrsut = 'x'", ["trsut", "unknown field"]),
            ("[ice]\nstunn = 'x'", ["stunn", "unknown field"]),
            ("[[ice.turn]]\nserver = 'x'\nuser = 'x'", ["user", "unknown field"]),
            ("[[port]]\nkind = 'tap'\npath = 'x'", ["path", "unknown field"]),
            ("[[port]]\nkind = 'tap'", ["missing field", "name"]),
            ("port = 'tap:ipop0'", ["line 1, port: ", "the line [[port]]"]),
            ("workers = []", ["workers", "a number or \"auto\""]),
            ("mtu = '1500'", ["line 1, mtu: ", "without quotes, like mtu = 1500"]),
            ("tap = ", ["line 1, tap: ", "a name"]),
            ("\nlisten = in:5800", ["line 2, listen: ", "like listen = \"[::]:5800\""]),
            ("[ice]\nturn = ['x']", ["line 2, ice.turn: ", "username = "]),
            ("[ice]\nturn = [{ server = 5 }]", ["line 2, ice.turn.server: ", "HOST[:PORT]"]),
            ("[[ice.turn]]\nserver = 'x'\nusername = 5", ["line 3, ice.turn.username: ", "a name"]),
            ("[ice]\nturn = [\n  { server = 'x',\n    user", ["line 4, ice.turn.server: ", "HOST"]),
            ("xmpp = 'a@x'", ["line 1, xmpp: ", "the line [xmpp]"]),
            ("xmpp = { jid = inf }", ["line 1, xmpp.jid: ", "like jid = \"site-a@example.org\""]),
            ("[network]\npinned = [\n  5,\n]", ["line 2, network.pinned: ", "node ids"]),
            ("[tap]\nname = 'x'", ["line 1, tap: ", "a name"]),
            ("[xmpp]\nallow_plain = 'yes'", ["line 2, xmpp.allow_plain: ", "true or false"]),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.contains("config.toml"), "{error}");
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    /// Nothing that a user reads should name a type of this program.
    #[test]
    fn every_key_has_a_form_of_its_own() {
        for header in ["", "[[port]]", "[xmpp]", "[network]", "[ice]", "[[ice.turn]]"] {
            let (text, table) = (format!("{header}\n"), header.trim_matches(['[', ']']));
            let error = read_text(&format!("{text}nonsense = 1")).unwrap_err();
            let (_, keys) = error.split_once("expected ").unwrap();
            let keys: Vec<_> = keys.split('`').skip(1).step_by(2).collect();
            assert!(keys.len() >= 2, "{error}");
            for key in keys {
                // A date is what no key takes.
                let error = read_text(&format!("{text}{key} = 1979-05-27")).unwrap_err();
                let name = format!("{table}.{key}: expected ").trim_start_matches('.').to_owned();
                assert!(error.contains(&name), "{error}");
                assert!(!error.contains("struct") && !error.contains("i64"), "{error}");
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_told_without_it() {
        for text in [
            "[xmpp]\npassword = hunter2x",
            "[xmpp]\npassword = 'hunter2x",
            "[xmpp]\npassword = ['hunter2x']",
            "[xmpp]\npassword = 'a'\npassword = 'hunter2x'",
            "[network]\njoin = ipop1hunter2x",
            "[network]\njoin = 'a' 'hunter2x'",
            "[[ice.turn]]\nserver = 'x'\nusername = 'u'\npassword = hunter2x",
            "xmpp = { jid = 'a@x', password = hunter2x }",
            "[xmpp]\npasswrd = 'hunter2x'",
        ] {
            let error = read_text(text).unwrap_err();
            assert!(!error.contains("hunter2x"), "{error}");
            assert!(error.contains("line "), "{error}");
        }
    }

    #[test]
    fn what_is_no_configuration_file_is_refused() {
        let error = read(Some(Path::new("/dev/zero")), Path::new("/none")).unwrap_err().to_string();
        assert!(error.contains("longer than"), "{error}");
        let error = read(Some(Path::new("/")), Path::new("/none")).unwrap_err().to_string();
        assert!(error.contains("cannot read the configuration file /"), "{error}");
    }

    #[test]
    fn a_file_with_secrets_in_it_must_not_be_open_to_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let turn = "[[ice.turn]]\nserver = 'turn.example.org'\nusername = 'u'\npassword = 'p'";
        for (text, mode, good) in [
            ("[xmpp]\npassword = 'x'", 0o644, false),
            ("[xmpp]\npassword = 'x'", 0o640, true),
            ("[network]\njoin = 'x'", 0o604, false),
            (turn, 0o644, false),
            ("[xmpp]\npassword_file = '/x'", 0o644, true),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let result = read(Some(&path), &path);
            assert_eq!(result.is_ok(), good, "{text} {mode:o}: {result:?}");
            if let Err(error) = result {
                assert!(error.to_string().contains("chmod 600"), "{error}");
            }
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
