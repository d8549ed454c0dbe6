//! Merging, defaults and refusals.

use clap::Parser;
use ipop_datapath::node_id::NodeId;

use super::*;
use crate::{cli::Cli, config::BeyondFlags};

const PEER_A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const PEER_B: &str = "baaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn flags(line: &str) -> Values {
    let line = ["ipop-switch"].into_iter().chain(line.split_whitespace());
    Cli::try_parse_from(line).unwrap().run.values
}

fn merged(line: &str, file: Option<Values>) -> Result<Settings, String> {
    let beyond_flags = BeyondFlags::default();
    let file = file.map(|values| ConfigFile { path: "/etc/x.toml".into(), values, beyond_flags });
    let environment = &Environment::default();
    let layers = Layers { flags: &flags(line), file: file.as_ref(), environment };
    Settings::from_layers(layers).map_err(|error| error.to_string())
}

fn text(value: &str) -> Option<String> {
    Some(value.into())
}

#[test]
fn defaults() {
    let settings = merged("--tap ipop0", None).unwrap();
    let expected = Settings {
        taps: vec!["ipop0".parse().unwrap()],
        bridge: None,
        address: None,
        listen: Listen::Any { port: 5800 },
        peers: vec![],
        state: "/var/lib/ipop-switch".into(),
        identity: "/var/lib/ipop-switch/identity.pem".into(),
        mtu: 1_500,
        workers: Workers::Auto,
        congestion: Congestion::Tunnel,
        offload: Offload::Auto,
        busy_poll: BusyPoll(Duration::ZERO),
        log: LogLevel::Info,
        name: None,
        network: None,
        policy: Policy::ConfiguredAlone,
        ice: Ice::default(),
        api: settings.api.clone(),
        log_format: LogFormat::Text,
        controller: Controller::Room,
        shown: settings.shown.clone(),
    };
    assert_eq!(settings, expected);
    assert_eq!(settings.api.socket(), Some("/run/ipop-switch/ipop-switch.sock".into()));
    assert!(settings.api.is_default_socket() && settings.api.tcp.is_none());
}

#[test]
fn every_flag_is_understood() {
    let line = format!(
        "--tap ipop0 --address fd00::1/64 --listen 10.0.0.1:0 --peer {PEER_A}@hostB --peer {PEER_B} \
         --state /s --identity /k.pem --mtu 9000 --workers 2 --congestion cubic --offload off --busy-poll 50 --log debug"
    );
    let settings = merged(&line, None).unwrap();
    assert_eq!(settings.address.unwrap().to_string(), "fd00::1/64");
    assert_eq!(settings.listen, Listen::At("10.0.0.1:0".parse().unwrap()));
    assert_eq!(settings.peers[0].to_string(), format!("{PEER_A}@hostB:5800"));
    assert_eq!(settings.peers.len(), 2);
    assert_eq!((settings.state, settings.identity), ("/s".into(), "/k.pem".into()));
    assert_eq!((settings.mtu, settings.workers), (9_000, "2".parse().unwrap()));
    assert_eq!(settings.congestion, Congestion::Cubic);
    assert_eq!((settings.offload, settings.log), (Offload::Off, LogLevel::Debug));
    assert_eq!(settings.busy_poll, BusyPoll(Duration::from_micros(50)));
}

#[test]
fn flags_win_and_their_lists_replace_the_files() {
    let file = Values {
        tap: Some(vec!["file0".into(), "file1".into()]),
        bridge: text("br0"),
        peer: Some(vec![PEER_A.into()]),
        mtu: text("9000"),
        ..Values::default()
    };
    let settings = merged("--mtu 1400", Some(file.clone())).unwrap();
    assert_eq!((settings.taps.len(), settings.peers.len(), settings.mtu), (2, 1, 1_400));
    let settings = merged(&format!("--tap flag0 --peer {PEER_B}"), Some(file)).unwrap();
    assert_eq!(settings.taps, ["flag0".parse().unwrap()]);
    assert_eq!(settings.bridge.unwrap().as_str(), "br0");
    assert_eq!(settings.peers[0].to_string(), PEER_B);
    assert_eq!(settings.mtu, 9_000);
}

#[test]
fn taps_and_ports_are_one_list_of_which_flags_replace_the_files() {
    let taps = |line: &str, file: &Values| {
        let taps = merged(line, Some(file.clone())).unwrap().taps;
        taps.iter().map(|tap| tap.as_str().to_owned()).collect::<Vec<_>>()
    };
    let named = |names: &[&str]| Some(names.iter().copied().map(str::to_owned).collect());
    let both = Values { tap: named(&["b"]), port: named(&["tap:a"]), ..Values::default() };
    assert_eq!(taps("", &both), ["b", "a"]);
    assert_eq!(taps("--port tap:c --tap d", &both), ["d", "c"]);
    assert_eq!(taps("--tap c", &both), ["c"]);
    assert_eq!(taps("--port tap:c", &both), ["c"]);
    let many = |count: usize| {
        let names = (0..count).map(|number| format!("tap:a{number}")).collect();
        merged("", Some(Values { port: Some(names), ..Values::default() }))
    };
    assert_eq!(many(64).unwrap().taps.len(), 64);
    let error = many(65).unwrap_err();
    assert!(error.contains("port in /etc/x.toml: there are more than 64"), "{error}");
    let later = Values { port: named(&["vhost-user:x"]), ..Values::default() };
    let error = merged("", Some(later)).unwrap_err();
    assert!(error.contains("port in /etc/x.toml: this version has no ports of"), "{error}");
}

#[test]
fn the_state_directory_comes_from_flag_file_systemd_or_default() {
    let (none, flag) = (Values::default(), flags("--state /flag"));
    let values = Values { state: Some("/file".into()), ..Values::default() };
    let file = ConfigFile { path: "/x".into(), values, beyond_flags: BeyondFlags::default() };
    let identity = |flags, file, state_directory: Option<&str>| {
        let state_directory = state_directory.map(str::to_owned);
        let environment = &Environment { state_directory, ..Environment::default() };
        Layers { flags, file, environment }.identity().display().to_string()
    };
    assert_eq!(identity(&flag, Some(&file), Some("/systemd")), "/flag/identity.pem");
    assert_eq!(identity(&none, Some(&file), Some("/systemd")), "/file/identity.pem");
    assert_eq!(identity(&none, None, Some("/systemd:/other")), "/systemd/identity.pem");
    assert_eq!(identity(&none, None, Some("")), "/var/lib/ipop-switch/identity.pem");
}

#[test]
fn wrong_flags_are_named_and_explained() {
    for (line, words) in [
        ("", ["no TAP", "--tap NAME"]),
        ("--tap toolongforaninterface", ["--tap: ", "1 to 15 characters"]),
        ("--tap a/b", ["--tap: ", "\"a/b\""]),
        ("--tap tap%d", ["--tap: ", "tap%d"]),
        ("--tap a --tap a", ["--tap: ", "a is named twice"]),
        ("--tap a --port tap:a", ["--port: ", "a is named twice"]),
        ("--port tap:a/b", ["--port: ", "\"a/b\""]),
        ("--port ipop0", ["--port: ", "like tap:ipop0"]),
        ("--port vhost-user:/run/vm1.sock", ["--port: ", "no ports of kind vhost-user yet"]),
        ("--port tpa:ipop0", ["--port: ", "\"tpa\" is no kind of port; the kinds are: tap"]),
        ("--tap a --bridge ..", ["--bridge: ", "interface"]),
        ("--tap a --address 10.0.0.1", ["--address: ", "10.9.0.1/24"]),
        ("--tap a --address 10.0.0.1/33", ["--address: ", "10.0.0.1/33"]),
        ("--tap a --address 224.0.0.1/24", ["--address: ", "224.0.0.1"]),
        ("--tap a --tap b --address 10.0.0.1/24", ["--address: ", "several TAPs"]),
        ("--tap a --bridge br0 --address 10.0.0.1/24", ["--address: ", "dev br0"]),
        ("--tap a --listen 5800", ["--listen: ", "ADDR:PORT"]),
        ("--tap a --listen ::1:5800", ["--listen: ", "[::]:5800"]),
        ("--tap a --peer abc@hostB:5800", ["--peer: ", "52 characters"]),
        ("--tap a --mtu 575", ["--mtu: ", "576 to 65521"]),
        ("--tap a --mtu 65522", ["--mtu: ", "576 to 65521"]),
        ("--tap a --mtu big", ["--mtu: ", "\"big\""]),
        ("--tap a --workers 0", ["--workers: ", "1 to 16"]),
        ("--tap a --workers 17", ["--workers: ", "auto"]),
        ("--tap a --congestion bbr", ["--congestion: ", "tunnel, cubic"]),
        ("--tap a --busy-poll 1000001", ["--busy-poll: ", "0 to 1000000"]),
        ("--tap a --busy-poll 5ms", ["--busy-poll: ", "\"5ms\""]),
        ("--tap a --offload on", ["--offload: ", "auto, off"]),
        ("--tap a --log loud", ["--log: ", "error, warn, info, debug, trace"]),
    ] {
        let error = merged(line, None).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{line}: {error}");
    }
    let twice = format!("--tap a --peer {PEER_A} --peer {PEER_A}@hostB");
    assert!(merged(&twice, None).unwrap_err().contains("given twice"));
}

#[test]
fn more_peers_than_the_sessions_take_are_refused() {
    let peers = |count: u32| {
        let ids = (0..count).map(|number| NodeId::of_spki(&number.to_be_bytes()).to_string());
        merged("--tap a", Some(Values { peer: Some(ids.collect()), ..Values::default() }))
    };
    assert_eq!(peers(1_024).unwrap().peers.len(), 1_024);
    let error = peers(1_025).unwrap_err();
    let told = "peer in /etc/x.toml: 1025 peers are more than this program supports (1024)";
    assert_eq!(error, told);
}

#[test]
fn wrong_keys_are_named_with_their_file() {
    let file = Values { mtu: text("99"), ..Values::default() };
    let error = merged("--tap a", Some(file)).unwrap_err();
    assert!(error.starts_with("mtu in /etc/x.toml: \"99\""), "{error}");
}
