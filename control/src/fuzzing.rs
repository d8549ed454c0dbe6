//! Bodies of the fuzz targets: what must hold for any bytes at all.
//!
//! They are ordinary functions, so that `control/fuzz` needs only a wrapper for each and `tests/replay_corpora.rs` replays the committed
//! corpora on stable Rust. A body panics when a promise is broken, and only then. A new target: its body, an entry in [`TARGETS`], a
//! wrapper in `fuzz/fuzz_targets`, a `[[bin]]` in `fuzz/Cargo.toml`, seeds in `fuzz/corpus/<name>`.

use ipop_datapath::policy::admission::MAX_PROOFS;

pub use crate::{
    ice::fuzzing::{ice_candidates, stun_packets, turn_answers},
    paths::signal_message,
    sessions::reached_lists,
    xmpp::fuzzing::{external_services, jingle_payload, room_configuration, room_presence},
};
use crate::{
    network::{Secrets, token},
    trust::{SavedPeers, TrustStore, Versioned, format_state, parse_state},
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
    Target { name: "external_services", body: external_services },
    Target { name: "ice_candidates", body: ice_candidates },
    Target { name: "jingle_payload", body: jingle_payload },
    Target { name: "join_token", body: join_token },
    Target { name: "questions", body: crate::questions::fuzz },
    Target { name: "reached_lists", body: reached_lists },
    Target { name: "room_configuration", body: room_configuration },
    Target { name: "room_presence", body: room_presence },
    Target { name: "secret_file", body: secret_file },
    Target { name: "signal_message", body: signal_message },
    Target { name: "state_file", body: state_file },
    Target { name: "stun_packets", body: stun_packets },
    Target { name: "turn_answers", body: turn_answers },
];

/// A join token as text, and the fields behind its checksum.
///
/// # Panics
/// When one is accepted that does not round-trip.
pub fn join_token(bytes: &[u8]) {
    token::fuzz(bytes);
}

/// The content of a secret file: 1 to 4 secrets that stand in it, or a refusal that shows none of it.
///
/// # Panics
/// When that does not hold.
pub fn secret_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(secrets) = text.parse::<Secrets>() {
        assert!((1..=MAX_PROOFS).contains(&secrets.iter().count()));
        for secret in secrets.iter() {
            assert!(text.contains(secret.reveal()));
            assert!(!format!("{secret:?}").contains(secret.reveal()));
        }
    }
}

/// The files of the state directory: what is read is written and read back the same.
///
/// # Panics
/// When that does not hold.
pub fn state_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    round_trip::<TrustStore>(text);
    round_trip::<SavedPeers>(text);
}

fn round_trip<T: Versioned + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(content) = parse_state::<T>(text) {
        let written = format_state(&content).expect("what was read can be written");
        assert_eq!(parse_state::<T>(&written), Ok(content));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use ipop_datapath::node_id::NodeId;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        network::{JoinToken, Pin, ServerPins},
        trust::{Claim, NewNodes, saved::Seen},
    };

    const SECRET: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43u";

    fn tokens() -> Vec<Vec<u8>> {
        let token = JoinToken {
            room: "vmnet@muc.example.org".into(),
            secret: SECRET.parse().unwrap(),
            server: Some("xmpp.example.org:443".into()),
            pins: None,
        };
        let sound = token.to_string();
        let pins = vec![Pin([7; 32]), Pin([9; 32])];
        let pins = Some(ServerPins { domain: "example.org".into(), pins });
        let pinned = JoinToken { pins, ..token.clone() }.to_string();
        let bare = JoinToken { server: None, ..token }.to_string();
        let fields = [&[1, 3][..], b"a@b", &[77, 1, 0], &[2, 32], SECRET.as_bytes()].concat();
        let (head, tail) = sound.split_at(30);
        let broken = format!("{head}\r\n{tail}");
        let cut = head.to_owned();
        let texts = [sound, bare, broken, cut].map(String::into_bytes);
        texts.into_iter().chain([fields, pinned.into_bytes()]).collect()
    }

    fn secret_files() -> Vec<Vec<u8>> {
        let five = (0..5).map(|n| format!("{n}{SECRET}\n")).collect::<String>();
        [
            format!("{SECRET}\n"),
            format!("# new\n  new-{SECRET}\r\n\n# old\n{SECRET}"),
            format!("\u{feff}{SECRET}"),
            format!("{SECRET} {SECRET}\n"),
            "hunter2\n".into(),
            five,
        ]
        .map(String::into_bytes)
        .into()
    }

    fn state_files() -> Vec<Vec<u8>> {
        let claim = Claim { account: "a@x".into(), name: "rack7".into() };
        let mut store = TrustStore::default();
        store.observe(NodeId([1; 32]), &claim, NewNodes::Accept, 5);
        store.observe(NodeId([2; 32]), &claim, NewNodes::Accept, 6);
        store.deny(&NodeId([3; 32]).to_string(), 7).unwrap();
        let mut peers = SavedPeers::default();
        let address = Some("[2001:db8::1]:5800".parse().unwrap());
        let (node, room) = (NodeId([1; 32]), "vmnet@muc.example.org");
        peers.seen(&Seen { node, claim: Some(&claim), room, address }, 8);
        let texts = [format_state(&store).unwrap(), format_state(&peers).unwrap()];
        let cut = texts[0][..texts[0].len() / 2].to_owned();
        let older = texts[1].replace("version = 1", "version = 0");
        texts
            .into_iter()
            .chain([cut, older, "version = 1".into()])
            .map(String::into_bytes)
            .collect()
    }

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        match target {
            "join_token" => tokens(),
            "questions" => crate::questions::seeds(),
            "reached_lists" => crate::sessions::reached_seeds(),
            "secret_file" => secret_files(),
            "signal_message" => crate::paths::signal_seeds(),
            "state_file" => state_files(),
            "ice_candidates" | "stun_packets" | "turn_answers" => {
                crate::ice::fuzzing::seeds(target)
            }
            _ => crate::xmpp::fuzzing::seeds(target),
        }
    }

    #[test]
    #[ignore = "writes the seed corpora"]
    fn write_seed_corpora() {
        for target in TARGETS {
            let corpus =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
            fs::create_dir_all(&corpus).unwrap();
            for (index, seed) in seeds(target.name).iter().enumerate() {
                fs::write(corpus.join(format!("seed-{index:02}")), seed).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn seeds_with_a_few_bytes_changed(
            target in 0..TARGETS.len(),
            seed in any::<prop::sample::Index>(),
            changes in prop::collection::vec((0..400_usize, 0x20..0x7f_u8), 0..4),
        ) {
            let seeds = seeds(TARGETS[target].name);
            let mut bytes = seed.get(&seeds).clone();
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            (TARGETS[target].body)(&bytes);
        }
    }
}
