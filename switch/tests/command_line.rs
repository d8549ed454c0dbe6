//! What scripts rely on: standard output and exit codes of the real program. Needs no privileges.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    process::{Command, Output, Stdio},
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::{Pid, Signal, kill_process},
};

fn ipop_switch(state: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ipop-switch"))
        .args(args)
        .env("STATE_DIRECTORY", state)
        .output()
        .expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn identity_prints_the_node_id_alone_and_the_same_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = ipop_switch(dir.path(), &["identity"]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let text = String::from_utf8(first.stdout.clone()).unwrap();
    let id = text.strip_suffix('\n').unwrap();
    assert_eq!(id.len(), 52);
    assert!(id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')), "{id}");
    let file = dir.path().join("identity.pem");
    let again =
        ipop_switch(Path::new("/none"), &["identity", "--identity", file.to_str().unwrap()]);
    assert_eq!(again.stdout, first.stdout);
}

#[test]
fn an_exposed_key_ends_with_2_and_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    ipop_switch(dir.path(), &["identity"]);
    let file = dir.path().join("identity.pem");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = ipop_switch(dir.path(), &["identity"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(stderr(&output).contains("chmod 600"), "{}", stderr(&output));
}

#[test]
fn usage_errors_end_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    fs::write(&config, "tap = 'ipop0'\npeeer = 'x'\n").unwrap();
    for (args, words) in [
        (vec!["--tpa", "x"], "--tpa"),
        (vec!["--tap", "a/b"], "--tap"),
        (vec!["run", "--tap", "a", "--peer", "abc@hostB"], "52 characters"),
        (vec!["--config", config.to_str().unwrap()], "peeer"),
        (vec!["--config", "/none/c.toml"], "/none/c.toml"),
    ] {
        let output = ipop_switch(dir.path(), &args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn version_help_and_check_answer_on_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let version = ipop_switch(dir.path(), &["--version"]);
    assert_eq!(version.stdout, format!("ipop-switch {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    assert_eq!(ipop_switch(dir.path(), &["--help"]).status.code(), Some(0));
    let check = ipop_switch(dir.path(), &["check"]);
    let table = String::from_utf8(check.stdout).unwrap();
    assert!(table.contains("io_uring") && table.contains("CAP_NET_ADMIN"), "{table}");
    let missing = table.lines().any(|line| line.starts_with("missing"));
    assert_eq!(check.status.code() == Some(0), !missing, "{table}");
}

#[test]
fn a_new_secret_goes_to_a_private_file_that_the_switch_takes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("network.secret");
    let file = fs::File::create(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_ipop-switch"))
        .args(["secret", "new"])
        .stdout(file)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Everything but the room is well, so the secret was taken.
    let args = ["--tap", "a", "--network-secret-file", path.to_str().unwrap(), "--xmpp-jid", "a@b"];
    let output = ipop_switch(dir.path(), &args);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--room"), "{}", stderr(&output));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let exposed = stderr(&ipop_switch(dir.path(), &args));
    assert!(exposed.contains("chmod 600"), "{exposed}");
}

#[test]
fn trust_decisions_are_made_in_the_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let node = "a".repeat(52);
    let trust = |words: &[&str]| ipop_switch(dir.path(), &[&["trust"], words].concat());
    assert_eq!(trust(&["list"]).stdout, b"");
    assert_eq!(trust(&["deny", &node]).status.code(), Some(0));
    let listed = String::from_utf8(trust(&["list"]).stdout).unwrap();
    assert_eq!(listed, format!("denied   {node}\n"));
    let unknown = trust(&["accept", "rack7"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("rack7"), "{}", stderr(&unknown));
    assert_eq!(trust(&["forget", &node]).status.code(), Some(0));
    assert_eq!(trust(&["list"]).stdout, b"");
    fs::write(dir.path().join("trust.toml"), "version = 1\n[[accepted]]\n").unwrap();
    let corrupted = trust(&["list"]);
    assert_eq!(corrupted.status.code(), Some(2));
    assert!(stderr(&corrupted).contains("trust.toml"), "{}", stderr(&corrupted));
}

/// Whoever can write it could put another key and other decisions there.
#[test]
fn a_state_directory_that_everybody_can_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let node = "a".repeat(52);
    let commands: [&[&str]; 4] = [
        &["identity"],
        &["trust", "list"],
        &["trust", "deny", &node],
        &["run", "--tap", "ipopno0"],
    ];
    for args in commands {
        let output = ipop_switch(&state, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        let cure = format!("`chmod o-w {}`", state.display());
        assert!(stderr(&output).contains(&cure), "{args:?}: {}", stderr(&output));
    }
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "nothing was written");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(ipop_switch(&state, &["identity"]).status.code(), Some(0));
}

#[test]
fn signals_that_ask_for_something_do_not_end_a_switch_that_starts() {
    let dir = tempfile::tempdir().unwrap();
    // Opened for writing when the program opens it for reading, and then it waits.
    let config = dir.path().join("config.toml");
    mknodat(CWD, &config, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let started = Command::new(env!("CARGO_BIN_EXE_ipop-switch"))
        .args(["run", "--config", config.to_str().unwrap()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut written = fs::File::options().write(true).open(&config).unwrap();
    for signal in [Signal::HUP, Signal::USR1, Signal::HUP] {
        kill_process(Pid::from_child(&started), signal).unwrap();
    }
    written.write_all(b"tap = 'ipop0'\npeeer = 'x'\n").unwrap();
    drop(written);
    let output = started.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}: {}", output.status, stderr(&output));
    assert!(stderr(&output).contains("peeer"), "{}", stderr(&output));
}

#[test]
fn a_switch_without_its_tap_is_never_said_to_be_ready() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    // There is a loopback everywhere, and it is no TAP.
    let output = Command::new(env!("CARGO_BIN_EXE_ipop-switch"))
        .args(["run", "--tap", "lo", "--listen", "127.0.0.1:0"])
        .env("STATE_DIRECTORY", dir.path())
        .env("NOTIFY_SOCKET", &path)
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("TAP"), "{}", stderr(&output));
    let told = manager.recv(&mut [0; 100]).map_err(|error| error.kind());
    assert_eq!(told, Err(ErrorKind::WouldBlock), "{}", stderr(&output));
}
