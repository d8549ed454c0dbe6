//! The unit in `docs/ipop-switch.service`, set up as `docs/OPERATIONS.md` says and run as systemd runs it: as a user of its own with one
//! capability, credentials, a filter of system calls, and a file system that is read-only.

use std::{fs, os::unix::fs::MetadataExt};

use ipop_perf::lab::wait_until;

use crate::{
    common::switch_binary,
    guide::{Machine, PASSWORD, Walk, steps},
    world::{SOON, World, run},
};

/// CAP_NET_ADMIN, and nothing else.
const NET_ADMIN: &str = "0000000000001000";

/// Where somebody has a clone of the project, and has built it.
fn clone_and_build(machine: &Machine) {
    let here = |path: &str| format!("/root/{path}");
    machine.write(
        &here("docs/ipop-switch.service"),
        include_str!("../../../docs/ipop-switch.service"),
    );
    machine.write(&here("target/release/ipop-switch"), "");
    fs::copy(switch_binary(), machine.path(&here("target/release/ipop-switch"))).unwrap();
    fs::remove_file(machine.path("/usr/local/bin/ipop-switch")).unwrap();
}

fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.expect(field).split_whitespace().next().unwrap().to_owned()
}

#[test]
fn the_unit_of_the_manual_joins_obeys_root_and_needs_nothing_more() {
    let world = World::new("unit");
    world.servers.prosody.set_password("a", PASSWORD).unwrap();
    let token = world.make_network();
    let (at, far) = (world.machine("host"), world.machine("far"));
    let host = &at.host;
    host.ip(&["link", "add", "br0", "type", "bridge"]).unwrap();
    host.ip(&["link", "set", "br0", "up"]).unwrap();
    host.add_address("br0", "192.168.77.1/24").unwrap();
    let machine = Machine::new(host, &world.home.join("machine"), &[]);
    clone_and_build(&machine);
    let machines = [("host", &machine)];
    let mut walk = Walk::new(&machines);
    walk.typed_into = vec![
        ("/etc/ipop-switch/network.join", token.clone()),
        ("/etc/ipop-switch/xmpp.password", PASSWORD.into()),
    ];
    walk.follow(&steps(include_str!("../../../docs/OPERATIONS.md"), &["## As a service"]));
    for secret in ["network.join", "xmpp.password"] {
        let file = fs::metadata(machine.path("/etc/ipop-switch").join(secret)).unwrap();
        assert_eq!((file.uid(), file.mode() & 0o777), (0, 0o600), "{secret}");
    }
    let (user, pid) = machine.service("ipop-switch", |service| {
        service.process.wait_for_line("in the room as", SOON).unwrap();
        (service.user, service.process.pid())
    });
    assert_eq!(status(pid, "Uid"), user.to_string());
    for set in ["CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), NET_ADMIN, "{set}");
    }
    assert_eq!((status(pid, "NoNewPrivs"), status(pid, "Seccomp")), ("1".into(), "2".into()));
    assert!(host.ip(&["link", "show", "dev", "ipop0"]).unwrap().contains("master br0"));

    let other = world.member(&far.host, 1, "n1", &token);
    other.comes_to_reach(0);
    let node = run(&far.host, &["identity", "--state", &world.state_of("far")]).output;
    let root = |line: &str| {
        let shown = machine.types(line, &[]);
        assert!(shown.success, "{line}: {}", shown.text);
        shown.text
    };
    root(&format!("ipop-switch trust deny {}", node.trim()));
    machine.service("ipop-switch", |service| {
        service.process.wait_for_line("closed the tunnels of peer", SOON).unwrap();
    });
    root("systemctl restart ipop-switch");
    machine.service("ipop-switch", |service| {
        service.process.wait_for_line("in the room as", SOON).unwrap();
    });
    assert!(!other.reaches(0), "it stays denied");
    root(&format!("ipop-switch trust forget {}", node.trim()));
    other.comes_to_reach(0);
    assert_eq!(root("ipop-switch identity").trim().len(), 52);
    for file in fs::read_dir(machine.path("/var/lib/private/ipop-switch")).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().uid(), user, "{:?}", file.file_name());
    }
    root("systemctl reload ipop-switch");
    let verified = root("systemd-analyze verify /etc/systemd/system/ipop-switch.service");
    assert!(!verified.contains("ipop-switch.service"), "{verified}");
    machine.service("ipop-switch", |service| {
        service.process.signal(ipop_perf::lab::Signal::TERM).unwrap();
        service.says("STOPPING=1");
        let exit = service.process.wait(SOON).unwrap();
        assert_eq!(exit.status.code(), Some(0), "{}", service.process.stderr());
    });
    assert!(wait_until(SOON, || !host.has_interface("ipop0")));
    other.stop();
}
