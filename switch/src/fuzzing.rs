//! The bodies of the fuzz targets: what must hold for any bytes at all.
//!
//! As in `ipop_control::fuzzing`: `switch/fuzz` has a wrapper for each, and `tests/replay_corpora.rs` replays the committed corpora on
//! stable Rust.

use std::path::Path;

use serde_json::Value;

use crate::{
    api::rpc,
    capture::filter::{Filter, FilterError, Head, MAX_LEN},
    cli::Values,
    config::{self, ConfigFile},
    settings::{Environment, Layers, MAX_MTU, MIN_MTU, Settings},
};

/// One fuzz target.
pub struct Target {
    /// Of the corpus directory, the wrapper and the function.
    pub name: &'static str,
    /// What to run on an input.
    pub body: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "capture_filter", body: capture_filter },
    Target { name: "configuration", body: configuration },
    Target { name: "json_rpc", body: json_rpc },
];

/// Stands in for what must not be told.
const PASSWORD: &str = "correct horse battery staple";

/// A configuration file: settings that are sound, or a refusal that names the file; neither shows a password.
///
/// # Panics
/// When that does not hold.
pub fn configuration(bytes: &[u8]) {
    let (Ok(text), path) = (std::str::from_utf8(bytes), Path::new("/etc/fuzzed.toml")) else {
        return;
    };
    let mut file = match config::parse(path, text) {
        Ok(file) => file,
        Err(error) => return assert!(error.to_string().contains("/etc/fuzzed.toml")),
    };
    without_files(&mut file);
    let environment = Environment::default();
    let flags = Values::default();
    let layers = Layers { flags: &flags, file: Some(&file), environment: &environment };
    let told = match Settings::from_layers(layers) {
        Ok(settings) => {
            assert!(!settings.taps.is_empty());
            assert!((MIN_MTU..=MAX_MTU).contains(&settings.mtu));
            format!("{settings:?}")
        }
        Err(error) => error.to_string(),
    };
    assert!(!told.is_empty() && !told.contains(PASSWORD), "{told}");
}

/// A filter, and behind the first line end a frame that it is asked about: a filter that is read again as it was, or an error within the text.
///
/// # Panics
/// When that does not hold.
pub fn capture_filter(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (filter, frame) = bytes.split_at(end);
    let Ok(text) = std::str::from_utf8(filter) else { return };
    let filter: Filter = match text.parse() {
        Ok(filter) => filter,
        Err(FilterError { column, .. }) => {
            return assert!((1..=text.chars().count() + 1).contains(&column), "{text}");
        }
    };
    let head = Head::of(frame.get(1..).unwrap_or_default());
    let opposite = Filter::Not(Box::new(filter.clone()));
    assert_ne!(filter.matches(&head), opposite.matches(&head));
    let again = filter.to_string();
    // `arp` is written as the longer `ether 0x0806`.
    if again.chars().count() <= MAX_LEN {
        assert_eq!(again.parse(), Ok(filter), "{again}");
    }
}

/// A body for JSON-RPC: each answer is a result or an error, never one that puts the blame on the switch.
///
/// # Panics
/// When that does not hold.
pub fn json_rpc(bytes: &[u8]) {
    let Some(answer) = rpc::answer_without_control(bytes) else { return };
    let answer: Value = serde_json::from_str(answer.get()).expect("an answer is JSON");
    let answers = match answer {
        Value::Array(answers) => answers,
        answer => vec![answer],
    };
    assert!((1..=100).contains(&answers.len()));
    for answer in answers {
        assert_eq!(answer["jsonrpc"], "2.0", "{answer}");
        assert!(answer.get("id").is_some(), "{answer}");
        let (result, error) = (answer.get("result"), answer.get("error"));
        assert!(result.is_some() != error.is_some(), "{answer}");
        assert!(error.is_none_or(|error| error["data"]["code"] != "internal"), "{answer}");
    }
}

/// What a file names is not read here, and its passwords are one that can be looked for.
fn without_files(file: &mut ConfigFile) {
    let account = &mut file.values.network.account;
    account.xmpp_password_file = None;
    account.network_secret_file = None;
    let password = || Some(PASSWORD.to_owned());
    if file.beyond_flags.xmpp_password.is_some() {
        file.beyond_flags.xmpp_password = password();
    }
    for server in file.beyond_flags.turn.iter_mut().flatten() {
        server.password_file = None;
        server.password = server.password.take().and_then(|_| password());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    const SEEDS: [&str; 4] = [
        "tap = 'ipop0'\n",
        "tap = ['a', 'b']\nbridge = 'br0'\nlisten = '[::1]:5800'\npeer = \
         ['aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@host:1', 'baaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa']\n\
         state = '/s'\nidentity = '/k.pem'\nmtu = 9000\nworkers = 'auto'\ncongestion = 'cubic'\noffload = 'off'\nbusy_poll = 50\nlog = 'debug'\n",
        "tap = 'ipop0'\naddress = '10.0.0.1/24'\nname = 'rack7'\n[xmpp]\njid = 'site-a@example.org'\npassword = 'x'\nserver = \
         'example.org:443'\nca = '/ca.pem'\nallow_plain = false\n[network]\nroom = 'vmnet@muc.example.org'\ntrust = 'tofu'\nnew_nodes = 'accept'\n\
         [ice]\nstun = 'stun.example.org'\nignore_interfaces = ['docker*', 'br0']\n[[ice.turn]]\nserver = 'turn:192.0.2.7:3479'\nusername = 'u'\npassword = 'p'\n",
        "tap = 'ipop0'\n[xmpp]\njid = 'a@x'\npassword = 'x'\n[network]\ntrust = 'pinned'\nroom = 'r@x'\npinned = \
         ['aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa']\n",
    ];

    const FILTERS: [&str; 6] = [
        "arp or udp and port 53",
        "not (src mac 02:00:00:00:00:01 or dst host 10.0.0.0/8)",
        "host fd00::/64 and not icmp",
        "ether 0x88cc or broadcast or multicast",
        "((tcp) and src port 22",
        "not not ip and ip6 or dst mac ff:ff:ff:ff:ff:ff",
    ];
    const REQUESTS: [&str; 6] = [
        r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":{"message":"a"}}"#,
        r#"[{"jsonrpc":"2.0","method":"log.set","params":{"level":"debug"}},{"jsonrpc":"2.0","id":"x","method":"peers.get","params":{"peer":"rack7"}},7]"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"links.update","params":{"peer":"p","description":{"node":"p","ufrag":"abcd","password":"0123456789abcdefghijkl","generation":0,"candidates":[{"kind":"host","address":"192.0.2.1:5800","priority":1}],"gathered":true}}}"#,
        r#"{"jsonrpc":"2.0","id":1.5,"method":"no.such","params":[1,2]}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"ice.servers","params":{"stun":["a"],"turn":[{"server":"b:1","username":"u","password":"p"}]}}"#,
        "[]",
    ];
    /// UDP over IPv4 from 10.0.0.1:53 to 10.0.1.2:4000, behind a VLAN tag.
    const FRAME: &[u8] = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x81\0\0\x05\x08\0\x45\0\0\x1c\0\0\0\0\x40\x11\0\0\x0a\0\0\x01\x0a\0\x01\x02\0\x35\x0f\xa0\0\x08\0\0";

    #[test]
    #[ignore = "writes the seed corpora"]
    fn write_seed_corpora() {
        let write = |name: &str, seeds: &[Vec<u8>]| {
            let corpus =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            fs::create_dir_all(&corpus).unwrap();
            for (index, seed) in seeds.iter().enumerate() {
                fs::write(corpus.join(format!("seed-{index:02}")), seed).unwrap();
            }
        };
        write("configuration", &SEEDS.map(|seed| seed.as_bytes().to_vec()));
        write("json_rpc", &REQUESTS.map(|seed| seed.as_bytes().to_vec()));
        write("capture_filter", &FILTERS.map(|seed| [seed.as_bytes(), b"\n", FRAME].concat()));
    }

    proptest! {
        #[test]
        fn seeds_with_a_few_bytes_changed(
            seed in 0..SEEDS.len(),
            changes in prop::collection::vec((0..600_usize, 0x20..0x7f_u8), 0..4),
            cut in 0..900_usize,
        ) {
            let mut bytes = SEEDS[seed].as_bytes().to_vec();
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            super::configuration(&bytes);
        }
    }
}
