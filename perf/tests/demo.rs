//! `make demo` from its first line to its last, and what Ctrl-C leaves of it. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// A demo that runs, as from a shell: in a process group of its own, which Ctrl-C reaches as a whole.
fn start() -> Child {
    Command::new(env!("CARGO_BIN_EXE_ipop-perf"))
        .arg("demo")
        .arg("--switch-binary")
        .arg(common::switch_binary())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// In the names of all that the lab of this process makes.
fn mark_of(pid: u32) -> String {
    format!("ipoplab-{pid}-")
}

/// The command lines of the processes in this process's lab.
fn processes_of(pid: u32) -> Vec<String> {
    let (mark, mut found) = (mark_of(pid), Vec::new());
    for process in fs::read_dir("/proc").unwrap().flatten() {
        // One that ends meanwhile is none that was left.
        let read = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
        let shown = [read("cmdline"), read("environ")].concat();
        if shown.windows(mark.len()).any(|part| part == mark.as_bytes()) {
            found.push(String::from_utf8_lossy(&read("cmdline")).replace('\0', " "));
        }
    }
    found
}

/// What the lab of this process has left: namespaces, files, processes.
fn left_by(pid: u32) -> Vec<String> {
    let mark = mark_of(pid);
    let mut left = Vec::new();
    let temporary = std::env::temp_dir();
    for dir in [Path::new("/run/netns"), Path::new("/etc/netns"), &temporary] {
        let names = dir.read_dir().into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        left.extend(names.filter(|name| name.starts_with(&mark)));
    }
    left.extend(processes_of(pid));
    left
}

#[test]
fn three_hosts_find_each_other_and_outlive_the_server() {
    let demo = start();
    let pid = demo.id();
    let output = demo.wait_with_output().unwrap();
    assert_eq!(left_by(pid), Vec::<String>::new());
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{shown}");
    // In this order: what users type, and that it works.
    let mut rest = shown.as_str();
    for text in [
        "behind a NAT",
        "1 sent, 0 answered",
        "admin$ ipop-switch secret new > network.secret",
        "admin$ ipop-switch room create vmnet@muc.example.org",
        "\nipop1",
        "--join $TOKEN",
        "All reach all",
        "hostB: INFO",
        "hostB# ipop-switch status",
        "hostC up",
        "pong from hostC via direct",
        "hostB# ipop-switch trace",
        "goes out at hostC",
        "at hostC",
        "goes out at ipop0",
        "5 sent, 5 answered",
        "-M do -s 1472",
        "# iperf3",
        "Mbit/s",
        "server# kill -KILL",
        "50 sent, 50 answered",
        "hostA: WARN XMPP:",
        "# iperf3",
        "Mbit/s",
        "SIGINT: closing the tunnels",
        "Done.",
    ] {
        let at = rest.find(text);
        rest =
            &rest[at.unwrap_or_else(|| panic!("{text:?} is not shown, or not here:\n{shown}"))..];
    }
    let (_, paths) = shown.split_once("== Through the NATs").unwrap();
    assert!(!paths.contains("relayed"), "{shown}");
}

/// Runs until the demo shows this, then presses Ctrl-C.
fn interrupt_at(text: &str) {
    let mut demo = start();
    let pid = demo.id();
    let lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut shown = Vec::new();
    for line in lines {
        shown.push(line.unwrap());
        if shown.last().is_some_and(|line| line.contains(text)) {
            kill_process_group(Pid::from_child(&demo), Signal::INT).unwrap();
            break;
        }
    }
    let status = demo.wait().unwrap();
    // Whoever waits for it finds nothing left at once.
    assert_eq!(left_by(pid), Vec::<String>::new(), "at {text:?}");
    let shown = shown.join("\n");
    assert_eq!((status.code(), status.signal()), (Some(130), None), "at {text:?}:\n{shown}");
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    for text in ["Three hosts", "room create", "hostC# ipop-switch", "iperf3 -c", "kill -KILL"] {
        interrupt_at(text);
    }
}

#[test]
fn ctrl_c_while_the_servers_start_leaves_nothing_behind() {
    for server in ["turnserver", "prosody", "dnsmasq"] {
        let mut demo = start();
        let pid = demo.id();
        while !processes_of(pid).iter().any(|process| process.contains(server)) {
            assert_eq!(demo.try_wait().unwrap(), None, "{server} was not seen");
        }
        kill_process_group(Pid::from_child(&demo), Signal::INT).unwrap();
        let output = demo.wait_with_output().unwrap();
        assert_eq!(left_by(pid), Vec::<String>::new(), "at {server}");
        assert_eq!(output.status.code(), Some(130), "at {server}: {}", output.status);
    }
}
