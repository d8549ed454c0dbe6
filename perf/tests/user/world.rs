//! A network with its servers, and users who type.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use ipop_perf::{
    counters,
    lab::{
        Attached, Host, Internet, InternetOptions, Place, Process, Signal,
        servers::{ProsodyOptions, Servers, XmppServer},
        tools::Ping,
        wait_until,
    },
};
use serde_json::Value;

use crate::common::switch_binary;

/// How long anything may take that takes a second or two on a quiet machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Servers of a world: where they are, and the one for XMPP.
pub(crate) trait Provider {
    fn machine(&self) -> &Attached;
    fn xmpp(&self) -> &dyn XmppServer;
}

impl Provider for Servers {
    fn machine(&self) -> &Attached {
        &self.machine
    }

    fn xmpp(&self) -> &dyn XmppServer {
        &self.prosody
    }
}

/// The servers, and a machine of the network's administrator beside them.
pub(crate) struct World<S = Servers> {
    pub(crate) servers: S,
    pub(crate) internet: Internet,
    /// Holds files that users keep.
    pub(crate) home: PathBuf,
}

/// How a command ended.
pub(crate) struct Ending {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) said: String,
}

impl World {
    /// With the accounts `admin` and `n0` to `n3`.
    pub(crate) fn new(label: &str) -> Self {
        let internet = Internet::new(label, InternetOptions::new())
            .unwrap_or_else(|error| panic!("{error:#}"));
        let options = ProsodyOptions::new().accounts(["admin", "n0", "n1", "n2", "n3"]);
        let servers = Servers::start(&internet, options).unwrap_or_else(|e| panic!("{e:#}"));
        Self::of(internet, servers)
    }
}

impl<S: Provider> World<S> {
    /// With these servers.
    pub(crate) fn of(internet: Internet, servers: S) -> Self {
        switch_binary();
        let home = internet.lab().dir().join("home");
        fs::create_dir(&home).unwrap();
        Self { servers, internet, home }
    }

    pub(crate) fn room(&self) -> String {
        self.servers.xmpp().room("vmnet")
    }

    /// A machine at the router.
    pub(crate) fn machine(&self, name: &str) -> Attached {
        self.internet.machine(name, Place::Internet).unwrap()
    }

    /// A file for its owner alone.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.home.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    /// Where the server is and who vouches for it.
    pub(crate) fn server_flags(&self) -> Vec<String> {
        let server = self.servers.xmpp();
        let (address, ca) = (server.address().to_string(), server.ca_file());
        ["--xmpp-server", &address, "--xmpp-ca", &ca.display().to_string()].map(String::from).into()
    }

    /// The account of this name, its password and its server.
    pub(crate) fn account(&self, name: &str) -> Vec<String> {
        let server = self.servers.xmpp();
        let password = server.password_file(name).unwrap().display().to_string();
        let mut flags = self.server_flags();
        let jid = server.jid(name);
        flags.extend(["--xmpp-jid", &jid, "--xmpp-password-file", &password].map(String::from));
        flags
    }

    /// Runs a command of the program to its end, on the servers' machine.
    pub(crate) fn run<A: AsRef<str>>(&self, args: &[A]) -> Ending {
        run(&self.servers.machine().host, args)
    }

    /// `room WORD ROOM ...` by this account.
    pub(crate) fn room_command(&self, account: &str, word: &str, more: &[&str]) -> Ending {
        let (room, account) = (self.room(), self.account(account));
        self.run(&[&["room", word, &room], more, &strs(&account)[..]].concat())
    }

    /// Makes the room, with a new secret in the file `network.secret`; the token, which names the server.
    pub(crate) fn make_network(&self) -> String {
        self.make_network_by(&self.account("admin"))
    }

    /// The same with this account.
    pub(crate) fn make_network_by(&self, account: &[String]) -> String {
        let secret = self.run(&["secret", "new"]);
        let file = self.file("network.secret", &secret.output);
        let (room, with_secret) = (self.room(), ["--network-secret-file", file.as_str()]);
        let made =
            self.run(&[&["room", "create", &room], &with_secret[..], &strs(account)].concat());
        assert_eq!(made.code, 0, "{}", made.said);
        let token = made.output.trim().to_owned();
        assert!(token.starts_with("ipop1") && !token.contains(char::is_whitespace), "{token}");
        token
    }

    /// Starts a switch there, with a state directory and a name after its machine, and what else it is told.
    pub(crate) fn switch(&self, at: &Host, number: u8, args: &[&str]) -> Node {
        self.switch_named(at, number, at.name(), args)
    }

    /// The same with another name.
    pub(crate) fn switch_named(&self, at: &Host, number: u8, name: &str, args: &[&str]) -> Node {
        let state = self.state_of(at.name());
        let address = format!("{}/24", inner(number));
        let mut line = vec!["--tap", "ipop0", "--state", &state, "--address", &address];
        line.extend(["--name", name]);
        line.extend(args);
        let process = at.spawn(switch_binary(), line).unwrap();
        Node { host: at.clone(), process }
    }

    /// Room and secret of the network, without what a token says of the server.
    pub(crate) fn room_without_token(&self) -> [String; 4] {
        let secret = self.home.join("network.secret").display().to_string();
        ["--room".into(), self.room(), "--network-secret-file".into(), secret]
    }

    /// The state directory of the switch on the machine of this name.
    pub(crate) fn state_of(&self, machine: &str) -> String {
        self.home.join(format!("state-{machine}")).display().to_string()
    }

    /// Starts a switch that joins by the token with this account.
    pub(crate) fn member(&self, at: &Host, number: u8, account: &str, token: &str) -> Node {
        let mut args = self.account(account);
        args.extend(["--join".into(), token.into()]);
        self.switch(at, number, &strs(&args))
    }
}

/// Runs a command of the program to its end.
pub(crate) fn run<S: AsRef<str>>(at: &Host, args: &[S]) -> Ending {
    let process = at.spawn(switch_binary(), args.iter().map(AsRef::as_ref)).unwrap();
    ending(process)
}

/// Waits for the end.
pub(crate) fn ending(mut process: Process) -> Ending {
    let exit = process.wait(SOON).unwrap_or_else(|e| panic!("{e:#}:\n{}", process.stderr()));
    let (output, said) = (process.stdout(), process.stderr());
    let code = exit.status.code().unwrap_or_else(|| panic!("{}: {said}", exit.status));
    Ending { code, output, said }
}

pub(crate) fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// The address of a node on the segment.
pub(crate) fn inner(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, number + 1)
}

/// A switch that runs.
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) process: Process,
}

impl Node {
    /// Waits for a line of the log with this text.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) -> String {
        self.process.wait_for_line(text, SOON).unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub(crate) fn log(&self) -> String {
        self.process.stderr()
    }

    /// Lines of the log with this text.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    pub(crate) fn counters(&mut self) -> Value {
        counters::ask(&mut self.process).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Waits until it is in the room.
    #[track_caller]
    pub(crate) fn joins(&mut self) {
        self.says("in the room as");
        assert_eq!(self.counters()["network"]["joined"], true, "{}", self.log());
    }

    /// The state of its peer with this name, if it has one.
    pub(crate) fn state_of(&mut self, name: &str) -> Option<String> {
        let report = self.counters();
        let peers = report["peers"].as_array()?;
        let peer = peers.iter().find(|peer| peer["name"] == name)?;
        Some(peer["state"].as_str()?.to_owned())
    }

    pub(crate) fn reaches(&self, number: u8) -> bool {
        let ping = Ping::to(IpAddr::from(inner(number)));
        ping.run(&self.host).is_ok_and(|report| report.received > 0)
    }

    /// Waits until a ping is answered.
    #[track_caller]
    pub(crate) fn comes_to_reach(&self, number: u8) {
        assert!(wait_until(SOON, || self.reaches(number)), "{}", self.log());
    }

    /// Ends it as an operator does, which must work whatever state it is in.
    #[track_caller]
    pub(crate) fn stop(mut self) -> String {
        self.process.signal(Signal::TERM).unwrap();
        let exit = self.process.wait(SOON).unwrap_or_else(|error| panic!("{error:#}"));
        let log = self.log();
        assert_eq!(exit.status.code(), Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        // The ring lets go of its files a moment after the program's end.
        let is_gone = wait_until(SOON, || !self.host.has_interface("ipop0"));
        assert!(is_gone, "the TAP stays behind");
        log
    }
}

/// Takes a flag and its value away.
pub(crate) fn without(args: &mut Vec<String>, flag: &str) {
    let at = args.iter().position(|arg| arg == flag).unwrap();
    args.drain(at..at + 2);
}

/// How often somebody began to log in, as Prosody logs it.
pub(crate) fn log_ins(servers: &mut Servers) -> usize {
    let printed = servers.prosody.process().stdout();
    printed.lines().filter(|line| line.contains("Client connected")).count()
}

/// Where a file of the lab is, for its owner to change its mode.
pub(crate) fn set_mode(path: &str, mode: u32) {
    fs::set_permissions(Path::new(path), fs::Permissions::from_mode(mode)).unwrap();
}
