//! Starting and ending: twice, without rights, and interrupted at any moment.

use std::time::Duration;

use ipop_perf::lab::{Signal, wait_until};

use crate::world::{SOON, World, ending, strs};

#[test]
fn a_second_one_on_the_same_host_says_that_there_is_a_first() {
    let world = World::new("twice");
    let token = world.make_network();
    let a = world.machine("a");
    let mut first = world.member(&a.host, 0, "n0", &token);
    first.joins();
    let second = ending(world.member(&a.host, 0, "n0", &token).process);
    assert_eq!(second.code, 4, "{}", second.said);
    assert!(second.said.contains("5800") && second.said.contains("--listen"), "{}", second.said);
    assert!(first.counters()["network"]["joined"] == true, "the first is not disturbed");
    assert_eq!(first.count("WARN"), 0, "{}", first.log());
    first.stop();
}

#[test]
fn without_rights_nobody_is_asked_for_a_password() {
    let world = World::new("norights");
    let token = world.make_network();
    let host = &world.servers.machine.host;
    let binary = crate::common::switch_binary().display().to_string();
    // As root, without the one right that is needed.
    let mut args = vec!["--bounding-set=-net_admin", &binary, "--tap", "ipop0", "--join", &token];
    let state = world.home.join("state-none").display().to_string();
    args.extend(["--state", &state]);
    let mut typed = host.spawn_at_terminal("setpriv".as_ref(), &args).unwrap();
    let status = typed.wait(SOON).unwrap();
    assert_eq!(status.code(), Some(3), "{}", typed.shown());
    assert!(typed.shown().contains("CAP_NET_ADMIN"), "{}", typed.shown());
    assert!(!typed.shown().contains("XMPP account"), "{}", typed.shown());
}

#[test]
fn an_interruption_at_any_moment_of_the_start_leaves_nothing() {
    let world = World::new("interrupted");
    let token = world.make_network();
    let a = world.machine("a");
    let args = {
        let mut args = world.account("n0");
        args.extend(["--join".into(), token]);
        args
    };
    for ms in [0, 3, 6, 10, 15, 20, 30, 50, 80, 130, 200, 400] {
        let mut node = world.switch(&a.host, 0, &strs(&args));
        std::thread::sleep(Duration::from_millis(ms));
        node.process.signal(Signal::INT).unwrap();
        let exit = node.process.wait(SOON).unwrap_or_else(|error| panic!("{ms} ms: {error:#}"));
        let log = node.log();
        // Before it watches for signals it dies of one, and has touched nothing.
        let is_well =
            exit.status.code() == Some(0) || (exit.status.code().is_none() && log.is_empty());
        assert!(is_well, "{ms} ms: {}: {log}", exit.status);
        assert!(!log.contains("panicked"), "{log}");
        let gone = wait_until(SOON, || !a.host.has_interface("ipop0"));
        assert!(gone, "{ms} ms: the TAP stays behind: {log}");
    }
    let mut node = world.switch(&a.host, 0, &strs(&args));
    node.joins();
    node.stop();
}
