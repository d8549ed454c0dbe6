//! Somebody at a shell of the demo. What is shown is what is run, by a real shell, in a directory of theirs; what
//! programs print is shown as they print it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    counters,
    lab::{Host, Lab, Process},
};

/// For anything that is typed and ends by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shell on a host.
pub(super) struct Shell {
    host: Host,
    directory: PathBuf,
    /// `$` or `#`.
    prompt: char,
    environment: Vec<String>,
}

impl Shell {
    /// In a new directory of the lab; the programs that a user has are found in `programs`.
    pub(super) fn new(lab: &Lab, host: &Host, prompt: char, programs: &Path) -> Result<Self> {
        let directory = lab.dir().join(format!("home-{}", host.name()));
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let environment = vec![
            format!("PATH={}:{path}:/usr/sbin:/sbin", programs.display()),
            // Where systemd would have it be: the hosts share their file system, not their keys.
            format!("STATE_DIRECTORY={}/state", directory.display()),
        ];
        Ok(Self { host: host.clone(), directory, prompt, environment })
    }

    /// Where it is.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Sets a variable.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.environment.push(format!("{name}={value}"));
    }

    /// A file that others gave this user, or that stood in a mail; for its owner alone.
    pub(super) fn put(&self, name: &str, content: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.join(name);
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Shows the line, and starts it.
    pub(super) fn start(&self, line: &str) -> Result<Process> {
        println!("{}{} {line}", self.host.name(), self.prompt);
        self.start_unseen(line)
    }

    /// Shows the line, runs it, shows what it prints.
    pub(super) fn run(&self, line: &str) -> Result<String> {
        let mut process = self.start(line)?;
        let exit = process.wait(PATIENCE)?;
        let (output, said) = (process.stdout(), process.stderr());
        print!("{output}{said}");
        ensure!(exit.status.success(), "{}: {line}: {}", self.host.name(), exit.status);
        Ok(output)
    }

    /// Runs a line that nobody is shown, and gives what it prints.
    pub(super) fn ask(&self, line: &str) -> Result<String> {
        let mut process = self.start_unseen(line)?;
        let exit = process.wait(PATIENCE)?;
        ensure!(exit.status.success(), "{line}: {}", process.stderr());
        Ok(process.stdout())
    }

    fn start_unseen(&self, line: &str) -> Result<Process> {
        let mut args = vec!["-C".to_owned(), self.directory.display().to_string()];
        args.extend(self.environment.iter().cloned());
        // What is started becomes the process, so that signals reach it.
        args.extend(["sh".into(), "-c".into(), format!("exec {line}")]);
        self.host.spawn("env", args)
    }
}

/// A switch that was started at a shell.
pub(super) struct Switch<'a> {
    /// Where.
    pub(super) shell: &'a Shell,
    /// The program's process.
    pub(super) process: Process,
    /// How much of its log was shown.
    shown_lines: usize,
}

impl<'a> Switch<'a> {
    /// Shows the line, and starts it.
    pub(super) fn start(shell: &'a Shell, line: &str) -> Result<Self> {
        Ok(Self { shell, process: shell.start(line)?, shown_lines: 0 })
    }

    /// Whether it reaches all its peers without the relay. Shows nothing.
    pub(super) fn is_direct(&mut self) -> bool {
        let peers = |report: Value| report["peers"].as_array().cloned();
        let peers = counters::ask(&mut self.process).ok().and_then(peers);
        peers.is_some_and(|peers| peers.iter().all(|peer| peer["path"]["kind"] == "direct"))
    }

    /// Shows what it has logged since the last time.
    pub(super) fn show_log(&mut self) {
        let log = self.process.stderr();
        for line in log.lines().skip(self.shown_lines) {
            // The time of day is the reader's own.
            let line = line.split_once("Z ").map_or(line, |(_, line)| line.trim_start());
            println!("{}: {line}", self.shell.host.name());
        }
        self.shown_lines = log.lines().count();
    }

    /// What it has logged so far is not shown.
    pub(super) fn pass_over_log(&mut self) {
        self.shown_lines = self.process.stderr().lines().count();
    }

    /// Waits until it has logged a line with this text.
    pub(super) fn wait_for(&mut self, text: &str) -> Result<()> {
        self.process.wait_for_line(text, PATIENCE).map(drop)
    }

    /// Ends it by Ctrl-C.
    pub(super) fn interrupt(&mut self) -> Result<()> {
        self.process.signal(Signal::INT)?;
        let exit = self.process.wait(PATIENCE)?;
        if !exit.status.success() {
            bail!("{} ended badly: {}", self.shell.host.name(), exit.status);
        }
        Ok(())
    }
}
