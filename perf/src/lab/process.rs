//! A process in the lab: what it prints, what it costs, and its end.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::{reaper::open_gate, wait_until};

/// How long a process gets between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// What a process has used so far, from `/proc/PID/stat`. All its threads count; children that it ran do not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time in user space, seconds.
    pub user_s: f64,
    /// CPU time in the kernel, seconds.
    pub system_s: f64,
    /// Resident memory now, KiB; 0 once it has ended.
    pub rss_kib: u64,
}

impl Usage {
    /// CPU time, seconds.
    pub fn cpu_s(&self) -> f64 {
        self.user_s + self.system_s
    }

    /// What this process has used.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        Self::parse(&stat).with_context(|| format!("{path} is not as expected"))
    }

    /// Reads proc(5)'s stat: fields 14 and 15 are user and system time in ticks, 24 the resident pages.
    fn parse(stat: &str) -> Option<Self> {
        // Field 2 is the program's name in parentheses, and may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace().skip(11);
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let resident_pages: u64 = fields.nth(8)?.parse().ok()?;
        Some(Self {
            user_s: user as f64 / ticks_per_s,
            system_s: system as f64 / ticks_per_s,
            rss_kib: resident_pages * (rustix::param::page_size() as u64 / 1024),
        })
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Its exit status.
    pub status: ExitStatus,
    /// All that it used.
    pub usage: Usage,
}

/// A running process; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    label: String,
    child: Child,
    exit: Option<Exit>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    pub(super) fn start(mut command: Command, label: &str, dir: &Path) -> Result<Self> {
        let output = |stream: &str| -> Result<(PathBuf, File)> {
            let path = dir.join(format!("{label}.{stream}.log"));
            let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
            Ok((path, file))
        };
        let _gate = open_gate();
        let ((stdout, out_file), (stderr, err_file)) = (output("out")?, output("err")?);
        let child = command
            .stdin(Stdio::null())
            .stdout(out_file)
            .stderr(err_file)
            .spawn()
            .with_context(|| format!("starting {label}"))?;
        Ok(Self { label: label.into(), child, exit: None, stdout, stderr })
    }

    /// Host, number and program, for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed on standard output.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it has printed on standard error.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Waits until it prints a line that contains this text, on either stream, and gives back the line.
    ///
    /// # Errors
    /// When the time is over, or the process ends without having printed it.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for(text, limit, |line| line.contains(text).then(|| line.to_owned()))
    }

    /// Waits until the closure accepts a line of either stream; `what` is for the error's message.
    ///
    /// # Errors
    /// As [`Process::wait_for_line`].
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        accept: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let mut found = None;
        let mut ended = false;
        let _ = wait_until(limit, || {
            // Asked before reading: nothing is printed after the end.
            ended = self.poll().is_ok_and(|exit| exit.is_some());
            found = [self.stdout(), self.stderr()].iter().find_map(|t| t.lines().find_map(&accept));
            found.is_some() || ended
        });
        let why = || {
            let label = &self.label;
            let why = if ended { "has ended" } else { "does not say so in time" };
            anyhow!("waiting for {what:?}: {label} {why}. Its standard error:\n{}", self.stderr())
        };
        found.ok_or_else(why)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_ok_and(|exit| exit.is_none())
    }

    /// What it has used until now, or in all if it has ended.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub fn usage(&mut self) -> Result<Usage> {
        match self.poll()? {
            Some(exit) => Ok(exit.usage),
            None => Usage::of(self.pid()),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.poll()?.is_some() {
            bail!("{} has ended, no signal can reach it", self.label);
        }
        // Not reaped yet, so the pid is still its own.
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("sending {signal:?} to {}", self.label))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after this long.
    pub fn wait(&mut self, limit: Duration) -> Result<Exit> {
        let _ = wait_until(limit, || !matches!(self.poll(), Ok(None)));
        let exit = self.poll()?;
        exit.with_context(|| format!("{} still runs after {limit:?}", self.label))
    }

    /// Ends it with SIGTERM, and with SIGKILL if that does not help within 5 s.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn terminate(&mut self) -> Result<Exit> {
        if self.poll()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        match self.wait(GRACE) {
            Ok(exit) => Ok(exit),
            Err(_) => self.kill(),
        }
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn kill(&mut self) -> Result<Exit> {
        if self.poll()?.is_none() {
            self.signal(Signal::KILL)?;
        }
        self.wait(GRACE)
    }

    /// Its exit, if it has ended. A zombie keeps its times in `/proc` until it is reaped, so they are read in between.
    fn poll(&mut self) -> Result<Option<Exit>> {
        if self.exit.is_some() {
            return Ok(self.exit);
        }
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = waitid(WaitId::Pid(Pid::from_child(&self.child)), look)
            .with_context(|| format!("waiting for {}", self.label))?;
        if ended.is_some() {
            let usage = Usage::of(self.pid())?;
            let status = self.child.wait()?;
            self.exit = Some(Exit { status, usage });
        }
        Ok(self.exit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_program_name() {
        let stat = "77 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 20 0 1 0 1000 4096 256 99";
        let usage = Usage::parse(stat).unwrap();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!((usage.user_s * ticks, usage.system_s * ticks), (150.0, 50.0));
        assert_eq!(usage.rss_kib, 256 * (rustix::param::page_size() as u64 / 1024));
        assert_eq!(Usage::parse("77 (short) S 1"), None);
    }

    #[test]
    fn own_usage_grows() {
        let before = Usage::of(std::process::id()).unwrap();
        let mut sum = 0_u64;
        let burnt = wait_until(Duration::from_secs(5), || {
            sum = (0..5_000_000_u64).fold(sum, |a, b| std::hint::black_box(a ^ b));
            Usage::of(std::process::id()).unwrap().cpu_s() > before.cpu_s() + 0.02
        });
        assert!(burnt && before.rss_kib > 0, "{before:?}");
    }
}
