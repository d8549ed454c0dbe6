//! ejabberd: an XMPP server with rooms, with the configuration that Debian's package brings and what `docs/SERVERS.md`
//! says to change in it.
//!
//! It runs without the Erlang port mapper: its node listens at a port that is told to whoever wants to control it, on its
//! machine's loopback. So the one process is all that there is, and any number run side by side. Accounts and rooms are
//! files below its directory and outlive a restart.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{Authority, READY_LIMIT, Validity, XmppServer, directory, password_of, wait_for_port};
use crate::lab::{Attached, Exit, Lab, Process};

/// The port for plain connections that are upgraded with STARTTLS.
const PORT: u16 = 5222;
/// Where the node is controlled; its machine is its own.
const CONTROL_PORT: u16 = 5210;
/// What Debian's package makes `/etc/ejabberd/ejabberd.yml` of, for the domain `localhost`.
const DEBIANS_CONFIGURATION: &str = "/usr/share/ejabberd/ejabberd.yml.example";
/// Says where Debian keeps the program's code, which depends on the processor.
const DEBIANS_CONTROL_PROGRAM: &str = "/usr/sbin/ejabberdctl";
/// What the node prints when its accounts are there.
const READY: &str = "ready for clients";
/// How long it may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How a server is configured: as Debian does it, for the domain `example.org` and without accounts.
#[derive(Clone, Debug)]
pub struct EjabberdOptions {
    domain: String,
    accounts: Vec<String>,
    changes: Vec<(String, String)>,
}

impl EjabberdOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self { domain: "example.org".into(), accounts: Vec::new(), changes: Vec::new() }
    }

    /// Accounts `NAME@domain`, whose passwords [`XmppServer::password`] knows.
    #[must_use]
    pub fn accounts<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.accounts.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// This text of Debian's configuration is replaced.
    #[must_use]
    pub fn change(mut self, text: &str, by: &str) -> Self {
        self.changes.push((text.into(), by.into()));
        self
    }

    fn configuration(&self, dir: &Path) -> Result<String> {
        let mut text = fs::read_to_string(DEBIANS_CONFIGURATION)
            .with_context(|| format!("reading {DEBIANS_CONFIGURATION} (package ejabberd)"))?;
        let certificate = dir.join("server.pem").display().to_string();
        let own = [
            ("  - localhost\n", format!("  - {}\n", self.domain)),
            ("/etc/ejabberd/ejabberd.pem", certificate),
        ];
        let own = own.map(|(text, by)| (text.to_owned(), by));
        for (old, new) in own.iter().chain(&self.changes) {
            ensure!(text.contains(old), "{DEBIANS_CONFIGURATION} has no {old:?}");
            text = text.replacen(old, new, 1);
        }
        Ok(text)
    }

    /// What the node does when it is up, in Erlang. Accounts that are there already stay.
    fn first_words(&self) -> Result<String> {
        let mut words = String::new();
        for account in &self.accounts {
            let (password, domain) = (password_of(account), &self.domain);
            let is_plain = account.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            ensure!(is_plain, "account {account:?}: only letters and digits");
            write!(
                words,
                "ejabberd_auth:try_register(<<\"{account}\">>, <<\"{domain}\">>, <<\"{password}\">>), "
            )?;
        }
        Ok(words + &format!("io:format(\"{READY}~n\")."))
    }
}

impl Default for EjabberdOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// An XMPP server. After [`Ejabberd::stop`] or [`Ejabberd::kill`] it can be started again, with all that it has stored.
#[derive(Debug)]
pub struct Ejabberd {
    at: Attached,
    dir: PathBuf,
    options: EjabberdOptions,
    process: Process,
}

impl Ejabberd {
    /// Starts it on a machine, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(lab: &Lab, at: &Attached, options: EjabberdOptions) -> Result<Self> {
        let dir = directory(lab, at, "ejabberd")?;
        for name in ["spool", "logs"] {
            fs::create_dir(dir.join(name))
                .with_context(|| format!("making {name} for ejabberd"))?;
        }
        let authority = Authority::new()?;
        let issued = authority.issue(std::slice::from_ref(&options.domain), Validity::Long)?;
        fs::write(dir.join("ca.crt"), authority.certificate_pem())?;
        fs::write(dir.join("server.pem"), issued.key_pem + &issued.certificate_pem)?;
        fs::write(dir.join("ejabberd.yml"), options.configuration(&dir)?)?;
        let process = run(&dir, at, &options)?;
        Ok(Self { at: at.clone(), dir, options, process })
    }

    /// Runs a command of `ejabberdctl`, and gives back what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn control(&self, command: &[&str]) -> Result<String> {
        let node = ["-sname", "control@localhost", "-hidden", "-noinput", "-dist_listen", "false"];
        let end = ["-s", "ejabberd_ctl", "-extra", "ejabberd@localhost"];
        let args = erl(&self.dir)?.into_iter().chain(node.into_iter().chain(end).map(String::from));
        self.at.host.run("env", args.chain(command.iter().map(|word| (*word).to_owned())))
    }

    /// The running process, or the one that ended: what it printed, what it costs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it as an operator does: clients are told.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<Exit> {
        self.control(&["stop"])?;
        self.process.wait(END_LIMIT)
    }

    /// Ends it as a crash does: clients see their connections reset.
    ///
    /// # Errors
    /// When it can't be ended.
    pub fn kill(&mut self) -> Result<Exit> {
        self.process.kill()
    }

    /// Starts it again after its end, and waits until it answers.
    ///
    /// # Errors
    /// When it still runs, or does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "ejabberd is running");
        self.process = run(&self.dir, &self.at, &self.options)?;
        Ok(())
    }
}

impl XmppServer for Ejabberd {
    fn domain(&self) -> &str {
        &self.options.domain
    }

    fn rooms(&self) -> String {
        format!("conference.{}", self.options.domain)
    }

    fn address(&self) -> SocketAddr {
        (self.at.ipv4, PORT).into()
    }

    fn directory(&self) -> &Path {
        &self.dir
    }
}

fn run(dir: &Path, at: &Attached, options: &EjabberdOptions) -> Result<Process> {
    let spool = format!("\"{}\"", dir.join("spool").display());
    let words = options.first_words()?;
    let loopback = ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"];
    let node = ["-sname", "ejabberd@localhost", "-noinput", "-mnesia", "dir", &spool];
    let start = ["-ejabberd", "log_rotate_count", "0", "-s", "ejabberd", "-eval", &words];
    let args = loopback.into_iter().chain(node).chain(start).map(String::from);
    let mut process = at.host.spawn("env", erl(dir)?.into_iter().chain(args))?;
    process.wait_for_line(READY, READY_LIMIT).context("starting ejabberd")?;
    wait_for_port(&mut process, at, PORT)?;
    Ok(process)
}

/// What env(1) is told to run an Erlang node that knows ejabberd's code and where its node is controlled.
fn erl(dir: &Path) -> Result<Vec<String>> {
    let program = fs::read_to_string(DEBIANS_CONTROL_PROGRAM)
        .with_context(|| format!("reading {DEBIANS_CONTROL_PROGRAM} (package ejabberd)"))?;
    let code = program.lines().find_map(|line| line.strip_prefix("ERL_LIBS="));
    let code =
        code.context("ejabberdctl does not say where its code is")?.trim_matches(['\'', '"']);
    let dir = dir.display();
    let variables = [
        format!("ERL_LIBS={code}"),
        format!("HOME={dir}/spool"),
        format!("EJABBERD_CONFIG_PATH={dir}/ejabberd.yml"),
        format!("EJABBERD_LOG_PATH={dir}/logs/ejabberd.log"),
        format!("ERL_CRASH_DUMP={dir}/logs/crash.dump"),
        format!("ERL_DIST_PORT={CONTROL_PORT}"),
    ];
    let port = CONTROL_PORT.to_string();
    let program = ["erl", "-erl_epmd_port", &port, "-start_epmd", "false"].map(String::from);
    Ok(variables.into_iter().chain(program).collect())
}
