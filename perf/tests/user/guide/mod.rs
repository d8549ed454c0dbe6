//! Follows a document to the letter, as somebody would who sits at the machines that it names.
//!
//! In the fenced blocks of a section, a block whose first line is a comment with the path of a file is that file; in the others a line with
//! a prompt (`server# command`, `admin$ command`) is typed at the terminal of the machine of that name. Lines between are what the program
//! shows, and what is answered there (`XMPP account (NAME@DOMAIN): a@example.org`). `TOKEN` in a command stands for the join token
//! that was printed before. `systemctl` does what the unit says: see [`service`].
//!
//! Each [`Machine`] has the directories that documents change for itself, as they are after the installation of the packages.

mod filter;
pub(crate) mod service;

use std::{
    cell::RefCell,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use ipop_perf::lab::{AtTerminal, Host};

use self::service::Service;
use crate::{common::switch_binary, world::SOON};

/// A question is one when nothing more is shown for so long.
const QUIET: Duration = Duration::from_millis(300);
/// What a machine has for itself; the packages' parts of `/var` besides.
const OWN: [&str; 6] = ["/etc", "/run", "/root", "/usr/local/bin", "/var/lib", "/var/log"];
/// Every account's.
pub(crate) const PASSWORD: &str = "correct horse 7";

/// What a document says to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Write this file.
    File { path: String, content: String },
    /// Type this at a machine. `answers` are questions, and what the document answers.
    Command { machine: String, line: String, answers: Vec<(String, String)> },
}

/// The steps in the sections with these headings, in their order.
pub(crate) fn steps(document: &str, headings: &[&str]) -> Vec<Step> {
    headings.iter().flat_map(|heading| steps_of(section(document, heading))).collect()
}

/// What stands below a heading, up to the next one of its level.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("\n{heading}\n")).expect(heading);
    let level = heading.split(' ').next().expect(heading);
    let mut inside = false;
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.starts_with("```") {
            inside = !inside;
        }
        let marks = line.split(' ').next().unwrap_or_default();
        if !inside && marks.starts_with('#') && marks.len() <= level.len() {
            break;
        }
        end += line.len();
    }
    &rest[..end]
}

fn steps_of(section: &str) -> Vec<Step> {
    let blocks = section.split("\n```").skip(1).step_by(2);
    blocks.flat_map(|block| steps_of_block(block.split_once('\n').expect("a block").1)).collect()
}

fn steps_of_block(block: &str) -> Vec<Step> {
    let first = block.lines().next().unwrap_or_default();
    let comment = first.trim_start_matches(['#', '-']).trim();
    if first.starts_with(['#', '-']) && comment.starts_with('/') && !comment.contains(' ') {
        let content = format!("{block}\n");
        return vec![Step::File { path: comment.into(), content }];
    }
    let mut steps = Vec::new();
    for line in block.lines() {
        if let Some((machine, command)) = typed(line) {
            let (machine, line) = (machine.into(), command.into());
            steps.push(Step::Command { machine, line, answers: Vec::new() });
        } else if let Some(Step::Command { answers, .. }) = steps.last_mut()
            && let Some((question, answer)) = line.split_once(": ")
        {
            answers.push((question.into(), answer.split("  #").next().unwrap_or("").trim().into()));
        }
    }
    steps
}

/// `machine# command` or `machine$ command`.
fn typed(line: &str) -> Option<(&str, &str)> {
    let end = line.find(['#', '$'])?;
    let (machine, rest) = (&line[..end], line[end + 1..].strip_prefix(' ')?);
    let is_name = !machine.is_empty() && machine.chars().all(char::is_alphanumeric);
    is_name.then_some((machine, rest))
}

/// A machine with directories of its own.
pub(crate) struct Machine {
    pub(crate) host: Host,
    /// Holds its directories.
    root: PathBuf,
    services: RefCell<Vec<Service>>,
}

/// What a command did.
pub(crate) struct Shown {
    pub(crate) success: bool,
    pub(crate) text: String,
}

impl Machine {
    /// `dir` is empty or not there; of the packages it has what stands below `/var`, by these names.
    pub(crate) fn new(host: &Host, dir: &Path, of_packages: &[&str]) -> Self {
        let root = dir.to_owned();
        for own in OWN {
            fs::create_dir_all(root.join(&own[1..])).unwrap();
        }
        copy(Path::new("/etc/."), &root.join("etc"));
        for package in of_packages {
            for parent in ["var/lib", "var/log"] {
                let original = Path::new("/").join(parent).join(package);
                if original.is_dir() {
                    copy(&original, &root.join(parent));
                }
            }
        }
        fs::copy(switch_binary(), root.join("usr/local/bin/ipop-switch")).unwrap();
        let binds = OWN.map(|own| format!("mount --bind {}{own} {own}\n", root.display()));
        // What `ip netns exec` put into /etc goes with it. The device is open to everybody, as udev makes it. Two programs may be begun at once.
        let script = format!(
            "#!/bin/sh\nset -e\nfor file in resolv.conf nsswitch.conf; do\n\
             cp /etc/$file {root}/etc/$file.$$\nmv -f {root}/etc/$file.$$ {root}/etc/$file\ndone\n\
             test -e {root}/tun || mknod -m 666 {root}/tun c 10 200 || test -e {root}/tun\nmount --bind {root}/tun /dev/net/tun\n\
             {}cd /root\nexport HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nexec \"$@\"\n",
            binds.concat(),
            root = root.display(),
        );
        let machine = Self { host: host.clone(), root, services: RefCell::default() };
        fs::write(machine.enter(), script).unwrap();
        fs::set_permissions(machine.enter(), fs::Permissions::from_mode(0o755)).unwrap();
        machine
    }

    /// The script that runs a program among the machine's own directories.
    fn enter(&self) -> PathBuf {
        self.root.join("enter")
    }

    /// Where a file of the machine's own directories is really.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Writes a file as an editor does, for everybody to read.
    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Types a command at a terminal, and answers what it asks: what stands in `answers`, a password, else the enter key alone.
    #[track_caller]
    pub(crate) fn types(&self, line: &str, answers: &[(String, String)]) -> Shown {
        if let Some(words) = line.strip_prefix("systemctl ") {
            self.systemctl(words);
            return Shown { success: true, text: String::new() };
        }
        let mut terminal = self.terminal(line);
        answer(&mut terminal, answers, |_| false);
        let status = terminal.wait(SOON).unwrap_or_else(|error| panic!("{line}: {error:#}"));
        Shown { success: status.success(), text: terminal.shown() }
    }

    /// Types a command that takes a text until its end.
    #[track_caller]
    fn types_into(&self, line: &str, text: &str) {
        let mut terminal = self.terminal(line);
        terminal.types(&format!("{text}\n\x04")).unwrap();
        let status = terminal.wait(SOON).unwrap_or_else(|error| panic!("{line}: {error:#}"));
        assert!(status.success(), "{line}:\n{}", terminal.shown());
    }

    /// The same with a command that goes on: gives it back when it has shown this.
    #[track_caller]
    pub(crate) fn starts(
        &self,
        line: &str,
        answers: &[(String, String)],
        until: &str,
    ) -> AtTerminal {
        let mut terminal = self.terminal(line);
        answer(&mut terminal, answers, |shown| shown.contains(until));
        assert!(terminal.shown().contains(until), "{line}:\n{}", terminal.shown());
        terminal
    }

    fn terminal(&self, line: &str) -> AtTerminal {
        let enter = self.enter();
        let args = ["--mount", enter.to_str().unwrap(), "sh", "-c", line];
        self.host.spawn_at_terminal(Path::new("unshare"), &args).unwrap()
    }

    fn systemctl(&self, words: &str) {
        let mut words = words.split(' ').filter(|word| *word != "--now");
        let (verb, unit) = (words.next().unwrap(), words.next());
        let mut services = self.services.borrow_mut();
        match (verb, unit) {
            ("daemon-reload", None) => {}
            ("start" | "restart" | "enable", Some(unit)) => {
                // The old one ends before the new one starts.
                services.retain_mut(|service| service.name() != unit || service.stop());
                services.push(Service::start(self, unit));
            }
            ("reload", Some(unit)) => {
                let service = services.iter_mut().find(|service| service.name() == unit);
                service.expect(unit).reload();
            }
            _ => panic!("systemctl {verb} is not known here"),
        }
    }

    /// A service that `systemctl` started.
    pub(crate) fn service<T>(&self, name: &str, look: impl FnOnce(&mut Service) -> T) -> T {
        let mut services = self.services.borrow_mut();
        look(services.iter_mut().find(|service| service.name() == name).expect(name))
    }
}

/// Somebody who follows a document at several machines.
pub(crate) struct Walk<'a> {
    /// By the names in the document. Files are those of the first.
    machines: &'a [(&'a str, &'a Machine)],
    /// What is typed into a file (`cat > FILE`), by the file's path.
    pub(crate) typed_into: Vec<(&'a str, String)>,
    /// The join token that was printed last.
    pub(crate) token: String,
    /// The switches that run.
    pub(crate) switches: Vec<AtTerminal>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(machines: &'a [(&'a str, &'a Machine)]) -> Self {
        let (typed_into, token, switches) = (Vec::new(), String::new(), Vec::new());
        Self { machines, typed_into, token, switches }
    }

    /// Each command must succeed, and each switch join.
    #[track_caller]
    pub(crate) fn follow(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::File { path, content } => self.machines[0].1.write(path, content),
                Step::Command { machine, line, answers } => self.types(machine, line, answers),
            }
        }
    }

    #[track_caller]
    fn types(&mut self, machine: &str, line: &str, answers: &[(String, String)]) {
        println!("{machine}# {line}");
        let named = self.machines.iter().find(|(name, _)| *name == machine);
        let (_, machine) = named.unwrap_or_else(|| panic!("there is no machine {machine}"));
        let line = line.replace("TOKEN", &self.token);
        if line.contains("--tap ") {
            self.switches.push(machine.starts(&line, answers, "in the room as"));
            return;
        }
        if let Some((_, path)) = line.split_once("cat > ") {
            let (_, text) =
                self.typed_into.iter().find(|(name, _)| path.starts_with(name)).unwrap();
            machine.types_into(&line, text);
            return;
        }
        let shown = machine.types(&line, answers);
        assert!(shown.success, "{line}:\n{}", shown.text);
        let mut lines = shown.text.lines().map(str::trim);
        if let Some(token) = lines.find(|line| line.starts_with("ipop1") && !line.contains(' ')) {
            self.token = token.into();
        }
    }
}

/// Answers questions until the program ends or the closure is content with what it has shown.
fn answer(terminal: &mut AtTerminal, answers: &[(String, String)], content: impl Fn(&str) -> bool) {
    let (mut seen, mut since) = (String::new(), Instant::now());
    let (mut answered, deadline) = (0, Instant::now() + SOON);
    while terminal.is_running() && Instant::now() < deadline {
        let shown = terminal.shown();
        if content(&shown) {
            return;
        }
        if shown != seen {
            (seen, since) = (shown, Instant::now());
        } else if since.elapsed() > QUIET
            && let Some(question) = question(&seen[answered..])
        {
            let known = answers.iter().find(|(asked, _)| question.contains(asked));
            let is_password = question.to_lowercase().contains("password");
            let text = known.map_or(if is_password { PASSWORD } else { "" }, |(_, text)| text);
            answered = seen.len();
            terminal.types(&format!("{text}\n")).unwrap();
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The last line, if it waits for an answer. Terminals' escape sequences do not count.
fn question(shown: &str) -> Option<String> {
    let last = shown.rsplit('\n').next()?;
    let mut parts = last.split('\x1b');
    let mut plain = parts.next()?.to_owned();
    plain.extend(parts.map(|part| part.split_once('m').map_or("", |(_, rest)| rest)));
    plain.trim_end().ends_with(':').then_some(plain)
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success(), "copying {}", from.display());
}

#[test]
fn a_document_is_read_step_by_step() {
    let document = "# T\n\n## A\n\nWords.\n\n```lua\n-- /etc/a.lua\nx = 1 -- y\n```\n\n### B\n\n```\nhost# do it   # because\n\
        Question (X): answer\nPassword:\nadmin$ other\n```\n## C\n```\nhost# no\n```\n";
    let command = |machine: &str, line: &str, answers: &[(&str, &str)]| Step::Command {
        machine: machine.into(),
        line: line.into(),
        answers: answers.iter().map(|(q, a)| ((*q).to_owned(), (*a).to_owned())).collect(),
    };
    let expected = [
        Step::File { path: "/etc/a.lua".into(), content: "-- /etc/a.lua\nx = 1 -- y\n".into() },
        command("host", "do it   # because", &[("Question (X)", "answer")]),
        command("admin", "other", &[]),
    ];
    assert_eq!(steps(document, &["## A"]), expected);
    assert_eq!(question("a\r\nRetype: \x1b[08m").as_deref(), Some("Retype: "));
    assert_eq!(question("Key size (2048): ").as_deref(), Some("Key size (2048): "));
    assert_eq!(question("done:\r\n"), None);
}
