//! Accounts, rooms, secrets and where they come from.

use std::{fs, os::unix::fs::PermissionsExt};

use clap::Parser;
use proptest::prelude::*;

use super::{account::PlainPassword, *};
use crate::{
    cli::Cli,
    config::{self, ConfigFile},
    settings::{Configuration, Reload, Settings},
};
use ipop_control::network::{Pin, ServerPins};

const SECRET: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43u";
const OLD_SECRET: &str = "orsxg5a-mfrggzdfmztwq2lknnwg23tp";

/// A directory with private files and a configuration.
struct Host {
    dir: tempfile::TempDir,
    environment: Environment,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap(), environment: Environment::default() };
        host.write("password", "hunter2\n", 0o600);
        host.write("secret", &format!("{SECRET}\n"), 0o600);
        host
    }

    fn write(&self, name: &str, content: &str, mode: u32) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// `DIR` in flags and file stands for the directory.
    fn settings(&self, flags: &str, file: &str) -> Result<Settings, String> {
        let here = self.dir.path().to_str().unwrap();
        let line = format!("ipop-switch --tap ipop0 {}", flags.replace("DIR", here));
        let flags = Cli::try_parse_from(line.split_whitespace()).unwrap().run.values;
        self.write("config.toml", &file.replace("DIR", here), 0o600);
        let path = self.dir.path().join("config.toml");
        let file: Option<ConfigFile> =
            config::read(Some(&path), &path).map_err(|error| error.to_string())?;
        let layers = Layers { flags: &flags, file: file.as_ref(), environment: &self.environment };
        Settings::from_layers(layers).map_err(|error| error.to_string())
    }

    fn refusal(&self, flags: &str, file: &str) -> String {
        self.settings(flags, file).expect_err("it is wrong")
    }
}

const FLAGS: &str = "--xmpp-jid site-a@example.org --xmpp-password-file DIR/password \
                     --room vmnet@muc.example.org --network-secret-file DIR/secret";

fn token(server: Option<&str>) -> String {
    let server = server.map(str::to_owned);
    let secret = SECRET.parse().unwrap();
    JoinToken { room: "vmnet@muc.example.org".into(), secret, server, pins: None }.to_string()
}

#[test]
fn the_file_of_the_manual_and_its_flags_mean_the_same() {
    let host = Host::new();
    let mut by_flags = host.settings(&format!("{FLAGS} --trust secret --name rack7"), "").unwrap();
    let mut by_file = host
        .settings(
            "",
            "name = 'rack7'\n[xmpp]\njid = 'site-a@example.org'\npassword_file = 'DIR/password'\n\
         [network]\nroom = 'vmnet@muc.example.org'\nsecret_file = 'DIR/secret'\ntrust = 'secret'",
        )
        .unwrap();
    // But for where the values come from.
    by_flags.shown = Configuration::default();
    by_file.shown = Configuration::default();
    assert_eq!(by_flags, by_file);
    assert_eq!(by_flags.name.as_deref(), Some("rack7"));
    let network = by_flags.network.unwrap();
    assert_eq!(network.account.jid.as_str(), "site-a@example.org");
    assert_eq!(network.account.password.reveal(), "hunter2");
    assert_eq!(network.account.plain, PlainPassword::Refused);
    let secrets: Secrets = SECRET.parse().unwrap();
    assert_eq!(network.secrets, Some(secrets.clone()));
    assert_eq!(by_flags.policy, Policy::Secret(secrets));
}

#[test]
fn a_token_gives_server_room_and_secret() {
    let host = Host::new();
    let account = "--xmpp-jid a@example.org --xmpp-password-file DIR/password";
    let join = format!("{account} --join {}", token(Some("xmpp.example.org:443")));
    let network = host.settings(&join, "").unwrap().network.unwrap();
    assert_eq!(network.room.as_str(), "vmnet@muc.example.org");
    assert_eq!(network.account.server.unwrap().to_string(), "xmpp.example.org:443");
    // The secret file holds what came after the token was made.
    host.write("newer", &format!("{OLD_SECRET}\n"), 0o600);
    let both = host.settings(&format!("{join} --network-secret-file DIR/newer"), "").unwrap();
    let secrets = both.network.unwrap().secrets.unwrap();
    assert_eq!(secrets.first().reveal(), OLD_SECRET);
    assert_eq!(secrets.iter().count(), 2);
    let elsewhere = format!("{join} --room other@muc.example.org");
    assert!(host.refusal(&elsewhere, "").contains("leave one out"));
    let torn = host.refusal(&join[..join.len() - 3], "");
    assert!(torn.contains("--join") && torn.contains("copy the whole line"), "{torn}");
    assert!(!torn.contains(SECRET) && !torn.contains("ipop1m"), "{torn}");
}

#[test]
fn the_password_comes_from_flag_environment_file_or_credentials() {
    let mut host = Host::new();
    host.write("other", "of-file", 0o600);
    host.write("credentials/xmpp.password", "of-systemd\n", 0o440);
    let room = "--xmpp-jid a@example.org --room r@muc.example.org --trust tofu";
    let file = "[xmpp]\npassword_file = 'DIR/other'";
    let password = |host: &Host, flags: &str, file: &str| {
        let settings = host.settings(&format!("{room} {flags}"), file)?;
        Ok::<_, String>(settings.network.unwrap().account.password.reveal().to_owned())
    };
    let none = password(&host, "", "").unwrap_err();
    assert!(none.contains("--xmpp-password-file") && none.contains("LoadCredential"), "{none}");
    host.environment.credentials_directory = Some(host.dir.path().join("credentials"));
    assert_eq!(password(&host, "", "").as_deref(), Ok("of-systemd"));
    assert_eq!(password(&host, "", "[xmpp]\npassword = 'inline'").as_deref(), Ok("inline"));
    assert_eq!(password(&host, "", file).as_deref(), Ok("of-file"));
    host.environment.xmpp_password = Some("of-environment".into());
    assert_eq!(password(&host, "", file).as_deref(), Ok("of-environment"));
    let flag = "--xmpp-password-file DIR/password";
    assert_eq!(password(&host, flag, file).as_deref(), Ok("hunter2"));
}

#[test]
fn secrets_come_from_credentials_too_and_exposed_files_are_refused() {
    let mut host = Host::new();
    host.write("credentials/network.secret", SECRET, 0o440);
    host.environment.credentials_directory = Some(host.dir.path().join("credentials"));
    assert!(matches!(host.settings("", "").unwrap().policy, Policy::Secret(_)));
    for (name, flags) in [("secret", "--network-secret-file DIR/secret"), ("password", FLAGS)] {
        host.write(name, "mfrggzdfmztwq2lknnwg23tpobyxe43u", 0o644);
        let error = host.refusal(flags, "");
        assert!(error.contains("chmod 600") && error.contains(name), "{error}");
        host.write(name, "mfrggzdfmztwq2lknnwg23tpobyxe43u", 0o600);
    }
    host.write("secret", "hunter2", 0o600);
    let short = host.refusal("--network-secret-file DIR/secret", "");
    assert!(short.contains("secret") && short.contains("128 bits"), "{short}");
    assert!(!short.contains("hunter2"), "{short}");
}

#[test]
fn a_token_comes_from_a_credential_too() {
    let mut host = Host::new();
    host.write("credentials/network.join", &format!("{}\n", token(None)), 0o400);
    host.write("credentials/xmpp.password", "of-systemd\n", 0o400);
    host.environment.credentials_directory = Some(host.dir.path().join("credentials"));
    let file = "[xmpp]\njid = 'a@example.org'";
    let network = host.settings("", file).unwrap().network.unwrap();
    assert_eq!(network.room.as_str(), "vmnet@muc.example.org");
    assert_eq!(network.secrets.unwrap().first().reveal(), SECRET);
    assert!(host.refusal("", "").contains("--xmpp-jid"), "a token without an account");
    // A newer secret beside it.
    host.write("credentials/network.secret", OLD_SECRET, 0o400);
    let secrets = host.settings("", file).unwrap().network.unwrap().secrets.unwrap();
    assert_eq!((secrets.first().reveal(), secrets.iter().count()), (OLD_SECRET, 2));
    // A flag goes before it.
    let room = "room2@muc.example.org".to_owned();
    let other = JoinToken { room, secret: SECRET.parse().unwrap(), server: None, pins: None };
    let network = host.settings(&format!("--join {other}"), file).unwrap().network.unwrap();
    assert_eq!(network.room.as_str(), "room2@muc.example.org");
    host.write("credentials/network.join", "ipop1torn", 0o400);
    let torn = host.refusal("", file);
    assert!(torn.contains("network.join") && torn.contains("copy the whole line"), "{torn}");
}

#[test]
fn a_token_longer_than_any_is_refused_wherever_it_stands() {
    let mut host = Host::new();
    host.environment.credentials_directory = Some(host.dir.path().join("credentials"));
    let account = "--xmpp-jid a@example.org --xmpp-password-file DIR/password";
    let long = format!("ipop1{}", "mfrgg".repeat(500));
    host.write("credentials/network.join", &long, 0o400);
    for (flags, file) in [
        (format!("{account} --join {long}"), String::new()),
        (account.into(), format!("[network]\njoin = '{long}'")),
        (account.into(), String::new()),
    ] {
        let error = host.refusal(&flags, &file);
        assert!(
            error.contains("longer than 2048 characters") && !error.contains("mfrgg"),
            "{error}"
        );
    }
    // What is no token is not read to its end.
    host.write("credentials/network.join", &long.repeat(10), 0o400);
    let error = host.refusal(account, "");
    assert!(error.contains("longer than 4096 bytes") && !error.contains("mfrgg"), "{error}");
}

#[test]
fn pins_come_from_the_token_for_its_domain_alone_or_are_configured() {
    let host = Host::new();
    let pin = Pin([7; 32]);
    let pins = Some(ServerPins { domain: "example.org".into(), pins: vec![pin] });
    let room = "vmnet@muc.example.org".to_owned();
    let secret = SECRET.parse().unwrap();
    let join = format!("--join {}", JoinToken { room, secret, server: None, pins });
    let pins = |account: &str, more: &str| {
        let flags = format!("{join} --xmpp-jid {account} --xmpp-password-file DIR/password");
        let network = host.settings(&format!("{flags} {more}"), "").unwrap().network;
        network.unwrap().account.pins
    };
    assert_eq!(pins("a@example.org", ""), [pin]);
    assert_eq!(pins("a@EXAMPLE.org", ""), [pin]);
    assert!(pins("a@example.net", "").is_empty(), "it says nothing of other servers");
    let own = format!("--xmpp-pin {} --xmpp-pin {}", Pin([1; 32]), Pin([2; 32]));
    assert_eq!(pins("a@example.net", &own), [Pin([1; 32]), Pin([2; 32])]);
    let account = "--xmpp-jid a@b --xmpp-password-file DIR/password --room r@b --trust tofu";
    let by_file = host.settings(account, &format!("[xmpp]\npin = '{pin}'")).unwrap();
    assert_eq!(by_file.network.unwrap().account.pins, [pin]);
    let many = host.refusal(&format!("{account} {own} --xmpp-pin {pin}"), "");
    assert!(many.contains("--xmpp-pin: 3 pins are more than 2"), "{many}");
    let bad = host.refusal(account, "[xmpp]\npin = 'abc'");
    assert!(bad.contains("xmpp.pin in") && bad.contains("openssl"), "{bad}");
}

#[test]
fn a_room_needs_an_account_and_a_way_to_trust() {
    let host = Host::new();
    let account = "--xmpp-jid a@example.org --xmpp-password-file DIR/password";
    let room = "--room r@muc.example.org";
    assert!(host.refusal(room, "[network]\ntrust = 'tofu'").contains("--xmpp-jid"));
    assert!(host.refusal(account, "").contains("--room"));
    assert!(host.refusal(&format!("{account} {room}"), "").contains("ipop-switch secret new"));
    assert!(host.refusal("--trust secret", "").contains("--network-secret-file"));
    assert!(host.refusal("--trust ca", "").contains("secret, pinned, tofu"));
    for jid in ["a", "@example.org", "a@", "a@b/c", "a b@c", "a@b@c", "a@b c"] {
        let error = host.settings("", &format!("[xmpp]\njid = '{jid}'")).expect_err(jid);
        assert!(error.contains("xmpp.jid in") && error.contains("NAME@DOMAIN"), "{error}");
        assert!(error.ends_with("like site-a@example.org"), "an account looks so: {error}");
        let error = host.settings("", &format!("[network]\nroom = '{jid}'")).expect_err(jid);
        assert!(error.ends_with("like vmnet@muc.example.org"), "a room looks so: {error}");
    }
    let long = "x".repeat(65);
    assert!(host.refusal(&format!("--name {long}"), "").contains("64 bytes"));
}

#[test]
fn pins_and_first_sight_are_configured_in_the_file() {
    let host = Host::new();
    let node = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let pinned = format!("[network]\ntrust = 'pinned'\npinned = '{node}'");
    let policy = host.settings("", &pinned).unwrap().policy;
    assert_eq!(policy, Policy::Pinned([node.parse().unwrap()].into()));
    let bad = host.refusal("--trust pinned", "[network]\npinned = ['abc']");
    assert!(bad.contains("pinned in") && bad.contains("52 characters"), "{bad}");
    for (word, new) in [("wait", NewNodes::Wait), ("accept", NewNodes::Accept)] {
        let tofu = format!("[network]\ntrust = 'tofu'\nnew_nodes = '{word}'");
        assert_eq!(host.settings("", &tofu).unwrap().policy, Policy::FirstSight(new));
    }
    assert!(host.refusal("--trust tofu", "[network]\nnew_nodes = 'x'").contains("wait, accept"));
}

#[test]
fn servers_that_help_through_nats() {
    let host = Host::new();
    host.write("turn-password", "t2\n", 0o600);
    let file = "[ice]\nstun = ['stun:stun.example.org', '192.0.2.1:19302', '[2001:db8::1]']\nignore_interfaces = 'docker*'\n\
                turn = [{ server = 'turn.example.org', username = 'u', password = 't1' },\n\
                { server = 'turn:192.0.2.2:3479', username = 'v', password_file = 'DIR/turn-password' }]";
    let ice = host.settings("", file).unwrap().ice;
    let stun: Vec<String> = ice.stun.iter().map(ToString::to_string).collect();
    assert_eq!(stun, ["stun.example.org:3478", "192.0.2.1:19302", "[2001:db8::1]:3478"]);
    let turn: Vec<_> = ice
        .turn
        .iter()
        .map(|turn| (turn.server.to_string(), &*turn.username, turn.password.reveal()))
        .collect();
    let expected = [("turn.example.org:3478", "u", "t1"), ("192.0.2.2:3479", "v", "t2")];
    assert_eq!(turn, expected.map(|(server, user, word)| (server.to_owned(), user, word)));
    assert_eq!(ice.ignore_interfaces, ["docker*"]);
    let neither = "[[ice.turn]]\nserver = 'x'\nusername = 'u'";
    assert!(host.refusal("", neither).contains("password_file"));
    let many = format!("[ice]\nstun = {:?}", vec!["stun.example.org"; 9]);
    assert!(host.refusal("", &many).contains("more than 8"));
}

#[test]
fn a_server_of_the_account_has_a_port() {
    let host = Host::new();
    let error = host.refusal(&format!("{FLAGS} --xmpp-server xmpp.example.org"), "");
    assert!(error.contains("--xmpp-server") && error.contains("HOST:PORT"), "{error}");
    let flags = format!("{FLAGS} --xmpp-server [2001:db8::1]:5223 --xmpp-ca DIR/ca.pem");
    let account =
        host.settings(&flags, "[xmpp]\nallow_plain = true").unwrap().network.unwrap().account;
    assert_eq!(account.server.unwrap().to_string(), "[2001:db8::1]:5223");
    assert_eq!(account.ca, Some(host.dir.path().join("ca.pem")));
    assert_eq!(account.plain, PlainPassword::Allowed);
}

#[test]
fn a_reload_says_what_changes_and_what_does_not() {
    let host = Host::new();
    let (a, b) = ("a".repeat(52), format!("b{}", "a".repeat(51)));
    let old = host.settings(FLAGS, &format!("peer = ['{a}@h:1', '{b}']\nmtu = 1400")).unwrap();
    assert_eq!(Reload::between(&old, &old), Reload::default());
    host.write("secret", &format!("{OLD_SECRET}\n{SECRET}\n"), 0o600);
    let new = format!("peer = ['{a}@h:2']\nmtu = 1500\nbusy_poll = 50");
    let new = host.settings(FLAGS, &new).unwrap();
    let Reload { account, needs_restart } = Reload::between(&old, &new);
    assert_eq!(needs_restart, ["mtu", "busy_poll"], "a new secret needs none");
    assert_eq!(account, None);
    // A password that was corrected is one to log in with; another account is another node.
    host.write("password", "corrected", 0o600);
    let corrected = host.settings(FLAGS, "").unwrap();
    let reload = Reload::between(&new, &corrected);
    assert_eq!(reload.account.unwrap().password.reveal(), "corrected");
    let other = host.settings(&FLAGS.replace("site-a", "site-b"), "").unwrap();
    let reload = Reload::between(&corrected, &other);
    assert_eq!((reload.account, reload.needs_restart), (None, vec!["account or room"]));
}

#[test]
fn what_stands_nowhere_is_asked_for_and_nothing_else() {
    let mut host = Host::new();
    let join = format!("--join {}", token(None));
    let missing = |host: &Host, flags: &str| {
        let line = flags.replace("DIR", host.dir.path().to_str().unwrap());
        let line = format!("ipop-switch --tap ipop0 {line}");
        let flags = Cli::try_parse_from(line.split_whitespace()).unwrap().run.values;
        Layers { flags: &flags, file: None, environment: &host.environment }.missing_of_account()
    };
    let jid: BareJid = "a@example.org".parse().unwrap();
    let known = format!("{join} --xmpp-jid a@example.org");
    let with_password = format!("{known} --xmpp-password-file DIR/password");
    for (flags, expected) in [
        ("", None),
        (&*join, Some(Missing { jid: None, password: true })),
        (&*known, Some(Missing { jid: Some(jid.clone()), password: true })),
        (&*with_password, None),
    ] {
        assert_eq!(missing(&host, flags), Ok(expected), "{flags}");
    }
    // Without a terminal nobody can be asked, and it is said where the answers may stand.
    let refusal = host.refusal(&join, "");
    for word in ["--xmpp-jid", "--xmpp-password-file", "[xmpp]", "terminal"] {
        assert!(refusal.contains(word), "{refusal}");
    }
    host.environment.asked = Asked { jid: Some(jid), password: Some("typed".parse().unwrap()) };
    let account = host.settings(&join, "").unwrap().network.unwrap().account;
    assert_eq!((account.jid.as_str(), account.password.reveal()), ("a@example.org", "typed"));
    // What is configured goes before what was typed.
    let account = host.settings(&with_password, "").unwrap().network.unwrap().account;
    assert_eq!(account.password.reveal(), "hunter2");
}

proptest! {
    #[test]
    fn any_jid_is_refused_or_kept(text in "\\PC{0,40}") {
        if let Ok(jid) = text.parse::<BareJid>() {
            prop_assert_eq!(jid.as_str(), &text);
            prop_assert_eq!(text.matches('@').count(), 1);
        }
    }

    #[test]
    fn any_server_is_refused_or_round_trips(text in "\\PC{0,40}") {
        if let Ok(server) = text.parse::<ServerAddress>() {
            prop_assert_eq!(server.to_string().parse(), Ok(server));
        }
    }
}
