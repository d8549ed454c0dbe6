//! The body of the fuzz target: what must hold for any bytes at all.
//!
//! As in `ipop_control::fuzzing`: `switch/fuzz` has a wrapper for it, and `tests/replay_corpora.rs` replays the committed corpus on
//! stable Rust.

use std::path::Path;

use crate::{
    cli::Values,
    config::{self, ConfigFile},
    settings::{Environment, Layers, MAX_MTU, MIN_MTU, Settings},
};

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

    #[test]
    #[ignore = "writes the seed corpus"]
    fn write_seed_corpus() {
        let corpus =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/configuration");
        fs::create_dir_all(&corpus).unwrap();
        for (index, seed) in SEEDS.iter().enumerate() {
            fs::write(corpus.join(format!("seed-{index:02}")), seed).unwrap();
        }
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
