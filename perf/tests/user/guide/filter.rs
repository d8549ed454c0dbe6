//! A unit's `SystemCallFilter=` as the kernel takes it: the groups of system calls as this machine's systemd knows them, their numbers as
//! the C library's headers do.
//!
//! systemd installs the filter in the process that becomes the service, after it gave up its rights. Here [`under_the_filter`] does, a test of
//! this very program that is run as the service's user and then becomes the service.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    os::unix::process::CommandExt,
    process::Command,
};

/// How [`under_the_filter`] is told.
const FILTER: &str = "IPOP_TEST_FILTER";
const LINE: &str = "IPOP_TEST_LINE";

/// The words with which this program, at this path, becomes a service under the filter in a file.
pub(super) fn command(helper: &str, filter: &str, line: &str) -> Vec<String> {
    let words = [helper, "--ignored", "--exact", "guide::filter::under_the_filter", "--nocapture"];
    let variables = [format!("{FILTER}={filter}"), format!("{LINE}={line}")];
    let words = words.map(String::from);
    ["env".to_owned()].into_iter().chain(variables).chain(words).collect()
}

/// What is allowed, as the lines of a unit say.
pub(super) fn allowed(lines: &[&str]) -> BTreeSet<String> {
    assert!(lines.iter().any(|line| !line.starts_with('~')), "what is not named is not allowed");
    // What systemd always adds.
    let mut allowed = members("@default");
    for line in lines {
        let (is_refusal, names) = match line.strip_prefix('~') {
            Some(names) => (true, names),
            None => (false, *line),
        };
        for name in names.split(' ').flat_map(members) {
            match is_refusal {
                true => allowed.remove(&name),
                false => allowed.insert(name),
            };
        }
    }
    allowed
}

/// The system calls of a group, or the one of that name.
fn members(name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return [name.to_owned()].into();
    }
    let output = Command::new("systemd-analyze").args(["syscall-filter", name]).output();
    let output = output.expect("systemd-analyze, of Debian's package systemd");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.lines().skip(1).map(str::trim).filter(|word| !word.starts_with('#'));
    words.filter(|word| !word.is_empty()).flat_map(members).collect()
}

/// A program for the kernel: these pass, every other one ends the process. Eight bytes an instruction.
pub(super) fn program(allowed: &BTreeSet<String>) -> Vec<u8> {
    let numbers = numbers();
    let load_number = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let mut program = instruction(load_number, 0, 0).to_vec();
    // Names that this machine does not have are of other machines.
    for number in allowed.iter().filter_map(|name| numbers.get(name)) {
        program.extend(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, *number));
        program.extend(instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    }
    let ends = libc::SECCOMP_RET_KILL_PROCESS;
    program.extend(instruction(libc::BPF_RET | libc::BPF_K, 0, ends));
    program
}

/// `else_skips` is how many instructions a comparison that fails passes over.
fn instruction(code: u32, else_skips: u8, value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&(code as u16).to_ne_bytes());
    bytes[3] = else_skips;
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    bytes
}

fn numbers() -> BTreeMap<String, u32> {
    let output = Command::new("cc")
        .args(["-dM", "-E", "-include", "sys/syscall.h", "-x", "c", "/dev/null"])
        .output()
        .expect("a C compiler");
    let text = String::from_utf8(output.stdout).unwrap();
    let defined = text.lines().filter_map(|line| line.strip_prefix("#define __NR_"));
    let numbers = defined.filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    });
    numbers.collect()
}

#[test]
#[ignore = "becomes another program, for other tests"]
fn under_the_filter() {
    let (Some(path), Ok(line)) = (env::var_os(FILTER), env::var(LINE)) else { return };
    let program = fs::read(path).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("exec {line}")]).env_remove(FILTER).env_remove(LINE);
    install(&program).unwrap();
    panic!("{line}: {}", command.exec());
}

fn install(program: &[u8]) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = program
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&[a, b, jt, jf, k @ ..]| libc::sock_filter {
            code: u16::from_ne_bytes([a, b]),
            jt,
            jf,
            k: u32::from_ne_bytes(k),
        })
        .collect();
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the program and its filter, which live for the call.
    let done =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
