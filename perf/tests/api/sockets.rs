//! Where the API listens, and what becomes of a socket that is there.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use ipop_perf::lab::wait_until;
use serde_json::json;

use super::{
    Alone, api,
    common::{SOON, network::write_secret, switch},
    path,
};

#[test]
fn the_socket_of_a_switch_that_was_killed_is_taken_over() {
    let mut alone = Alone::start("stale", &[]);
    alone.site.switch.process.kill().unwrap();
    assert!(alone.socket.exists(), "it could not clean up");
    alone.site.switch = alone.site.node.start().unwrap();
    api::wait_for(&alone.socket);
    api::call(&alone.socket, "status.get", json!({})).unwrap();
    alone.site.stop();
    assert!(!alone.socket.exists());
}

#[test]
fn the_socket_of_a_switch_that_runs_is_not_taken() {
    let alone = Alone::start("second", &[]);
    let mut second = switch(&alone.lab, alone.site.host());
    second.tap("ipop1").listen("0.0.0.0:5801".parse().unwrap());
    second.args(&["--api", path(&alone.socket)]);
    let mut refused = alone.site.host().spawn(second.binary(), second.command_line()).unwrap();
    let exit = refused.wait(SOON).unwrap();
    assert_eq!(exit.status.code(), Some(4), "{}", refused.stderr());
    assert!(refused.stderr().contains(path(&alone.socket)), "{}", refused.stderr());
    api::call(&alone.socket, "status.get", json!({})).unwrap();
    // Nor that of an instance.
    let name = format!("test-{}", std::process::id());
    let mut first = switch(&alone.lab, alone.site.host());
    first.tap("ipop2").listen("0.0.0.0:5802".parse().unwrap()).args(&["--instance", &name]);
    let running = first.start().unwrap();
    let mut line = second.command_line();
    line.truncate(line.len() - 2);
    line.extend(["--instance".into(), name]);
    assert!(wait_until(SOON, || running.process.stderr().contains("API at")));
    let mut refused = alone.site.host().spawn(second.binary(), line).unwrap();
    let exit = refused.wait(SOON).unwrap();
    assert_eq!(exit.status.code(), Some(4), "{}", refused.stderr());
}

#[test]
fn over_tcp_the_token_and_a_name_of_this_host_are_needed() {
    let token = std::env::temp_dir().join(format!("api-token-{}", std::process::id()));
    write_secret(&token, "a-token-of-enough-letters\n");
    // The loopback must be up before the switch listens there.
    let script = token.with_extension("sh");
    let program = super::common::switch_binary().display().to_string();
    fs::write(&script, format!("#!/bin/sh\nip link set lo up\nexec {program} \"$@\"\n")).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let lab = super::common::lab("tcp");
    let mut node = switch(&lab, &lab.host("a").unwrap());
    let socket = lab.dir().join("a.sock");
    node.run_as(&script).args(&["--api", path(&socket), "--api-listen", "127.0.0.1:5801"]);
    node.args(&["--api-token-file", path(&token)]);
    let running = node.start().unwrap();
    api::wait_for(&socket);
    fs::remove_file(&token).unwrap();
    fs::remove_file(&script).unwrap();
    let status = |headers: &[&str]| {
        let mut line = vec!["-s", "-o", "/dev/null", "-w", "%{http_code}"];
        line.extend(headers.iter().flat_map(|header| ["-H", header]));
        line.push("http://127.0.0.1:5801/v1/status");
        running.host.run("curl", line).unwrap()
    };
    let bearer = "Authorization: Bearer a-token-of-enough-letters";
    assert_eq!(status(&[bearer]), "200");
    assert_eq!(status(&[bearer, "Host: localhost:5801"]), "200");
    assert_eq!(status(&[]), "401");
    assert_eq!(status(&["Authorization: Bearer another-token-of-letters"]), "401");
    assert_eq!(status(&[bearer, "Host: evil.example"]), "403", "as a page rebound by DNS has it");
}
