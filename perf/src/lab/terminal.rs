//! A program that somebody runs at a terminal of the lab: what is shown there, and what is typed.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};

use super::{Host, reaper::open_gate, wait_until};

/// A running program, and the terminal it is at; dropping it kills the program.
#[derive(Debug)]
pub struct AtTerminal {
    child: Child,
    keyboard: File,
    /// Kept open as long as the program runs, so that one can see in which state it leaves the terminal.
    terminal: Option<OwnedFd>,
    echoed: bool,
    screen: Option<JoinHandle<()>>,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Host {
    /// Starts a program at a terminal of its own.
    ///
    /// # Errors
    /// When there are no terminals, or `setsid` can't be started.
    pub fn spawn_at_terminal(&self, program: &Path, args: &[&str]) -> Result<AtTerminal> {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&keyboard)?;
        unlockpt(&keyboard)?;
        let name = ptsname(&keyboard, Vec::new())?;
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal =
            rustix::fs::open(path, flags, Mode::empty()).context("opening a terminal")?;
        let end = || terminal.try_clone().context("duplicating a terminal");
        let _gate = open_gate();
        let child = Command::new("ip")
            .args(["netns", "exec", self.netns(), "setsid", "--ctty"])
            .arg(program)
            .args(args)
            .stdin(end()?)
            .stdout(end()?)
            .stderr(end()?)
            .spawn()
            .context("starting a program at a terminal")?;
        let keyboard = File::from(keyboard);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, to) = (keyboard.try_clone()?, shown.clone());
        // Ends with the terminal.
        let screen = thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(len @ 1..) = screen.read(&mut bytes) {
                let mut shown = to.lock().unwrap_or_else(PoisonError::into_inner);
                shown.extend_from_slice(&bytes[..len]);
            }
        });
        let (terminal, screen) = (Some(terminal), Some(screen));
        Ok(AtTerminal { child, keyboard, terminal, echoed: true, screen, shown })
    }
}

impl AtTerminal {
    /// What the terminal has shown so far.
    pub fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Waits until it has shown this.
    ///
    /// # Errors
    /// When the time is over.
    pub fn wait_to_show(&self, text: &str, limit: Duration) -> Result<()> {
        let found = wait_until(limit, || self.shown().contains(text));
        ensure!(found, "the terminal never shows {text:?}:\n{}", self.shown());
        Ok(())
    }

    /// Types this; `\n` is the enter key, `\x03` is Ctrl-C.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn types(&mut self, text: &str) -> Result<()> {
        self.keyboard.write_all(text.as_bytes()).context("typing")
    }

    /// Whether the terminal shows what is typed; once the program has ended, how it left it.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn echoes(&self) -> Result<bool> {
        let Some(terminal) = &self.terminal else { return Ok(self.echoed) };
        let modes = tcgetattr(terminal.as_fd())?.local_modes;
        Ok(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the program is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("sending a signal")
    }

    /// Whether the program has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end. All that it has said is shown then.
    ///
    /// # Errors
    /// When it still runs.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut ended = None;
        let _ = wait_until(limit, || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        });
        if ended.is_some() {
            self.echoed = self.echoes()?;
            self.terminal = None;
            // It has read all when nobody has the terminal open any more.
            self.screen.take().map(JoinHandle::join);
        }
        ended.with_context(|| format!("it still runs after {limit:?}:\n{}", self.shown()))
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
