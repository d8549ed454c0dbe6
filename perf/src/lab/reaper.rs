//! Cleaning up, whatever happens to the lab's process.
//!
//! A shell script (`reaper.sh`) runs as a child in a process group of its own and reads from a pipe what there is to
//! remove. The pipe's other end closes when the lab is dropped, and by the kernel's hand when its process ends by a
//! panic, Ctrl-C or SIGKILL. So there is one way of cleaning up, and every run exercises it.

use std::{
    fs,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{self, Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    thread,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::host::netns_files;

/// The names of namespaces and directories start so, followed by the pid of their owner and a dash.
pub(super) const PREFIX: &str = "ipoplab-";

/// Held for writing when everything is to go.
static GATE: RwLock<()> = RwLock::new(());

/// To be held while anything is made that has to be removed again. Nobody comes through any more once a signal ends the
/// program: what is made meanwhile would stay. Never held twice by one thread.
pub(super) fn open_gate() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

/// The child that cleans up, and our end of the pipe.
#[derive(Debug)]
pub(super) struct Reaper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Reaper {
    pub(super) fn start() -> Result<Self> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", include_str!("reaper.sh"), "ipoplab-reaper"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .context("starting /bin/sh, which cleans up after the lab")?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// To be told before the namespace is made: in between the process may die.
    pub(super) fn register_netns(&mut self, name: &str) -> Result<()> {
        self.tell(&format!("netns {name}\n"))
    }

    pub(super) fn register_dir(&mut self, path: &Path) -> Result<()> {
        self.tell(&format!("dir {}\n", path.display()))
    }

    /// Cleans up now, and waits for it.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.pipe = None;
        let status = self.child.wait().context("waiting for the lab's reaper")?;
        ensure!(status.success(), "the lab's reaper could not remove everything: {status}");
        Ok(())
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let pipe = self.pipe.as_mut().context("the lab is closed")?;
        pipe.write_all(line.as_bytes()).context("writing to the lab's reaper")
    }
}

/// Watches the signals that end a program, and ends it as a shell would see it when everything is removed.
pub(super) fn finish_at_signals(reaper: Arc<Mutex<Reaper>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut hangup] =
        [signal(kinds[0])?, signal(kinds[1])?, signal(kinds[2])?];
    drop(entered);
    let run = move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => kinds[0],
                _ = terminate.recv() => kinds[1],
                _ = hangup.recv() => kinds[2],
            }
        });
        // What fails from now on, since it is being removed, is nobody's concern: the rest of the program gets no word in.
        let (_stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
        let _ = writeln!(stderr, "\nInterrupted: removing what the lab made");
        let _closed = GATE.write().unwrap_or_else(PoisonError::into_inner);
        let mut reaper = reaper.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is just on its way into a namespace is not seen there yet.
        kill_children(reaper.child.id());
        let finished = reaper.finish();
        if let Err(error) = finished {
            let _ = writeln!(stderr, "{error:#}; `ipop-perf clean` removes what is left");
        }
        process::exit(128 + number.as_raw_value());
    };
    thread::Builder::new().name("signals".into()).spawn(run).context("starting a thread")?;
    Ok(())
}

/// Kills what this program has started, apart from one.
fn kill_children(spared: u32) {
    let own = process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The program's name, in parentheses, may hold anything; state and parent follow.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        let pid =
            entry.file_name().to_string_lossy().parse::<u32>().ok().filter(|pid| *pid != spared);
        let pid = pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let (true, Some(pid)) = (parent == Some(own.as_str()), pid) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Removes what labs of dead processes left, and says what it was.
///
/// # Errors
/// When something was found that could not be removed.
pub fn clean() -> Result<Vec<String>> {
    let mut reaper = Reaper::start()?;
    let mut found = Vec::new();
    for name in names_of_dead_owners(Path::new("/run/netns"))? {
        reaper.register_netns(&name)?;
        found.push(name);
    }
    for dir in [std::env::temp_dir(), netns_files("")] {
        for name in names_of_dead_owners(&dir)? {
            reaper.register_dir(&dir.join(&name))?;
            found.push(dir.join(name).display().to_string());
        }
    }
    reaper.finish()?;
    Ok(found)
}

fn names_of_dead_owners(dir: &Path) -> Result<Vec<String>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in dir.read_dir().with_context(|| format!("listing {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            names.push(name);
        }
    }
    Ok(names)
}

fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner("ipoplab-4711-0-demo-a"), Some(4711));
        assert_eq!(owner("ipoplab-x-0"), None);
        assert_eq!(owner("ipoplab-4711"), None);
        assert_eq!(owner("other-4711-0"), None);
    }
}
