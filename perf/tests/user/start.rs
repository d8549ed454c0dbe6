//! Starting and ending: twice, without rights, and interrupted at any moment.

use std::{fs, io::Write as _, time::Duration};

use ipop_perf::lab::{Signal, wait_until};
use rustix::fs::{CWD, FileType, Mode, mknodat};

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

#[test]
fn signals_of_the_first_moment_are_answered_when_the_switch_runs() {
    let world = World::new("early");
    let token = world.make_network();
    let a = world.machine("a");
    let mut args = world.account("n0");
    args.extend(["--join".into(), token]);
    let (config, now) = (world.home.join("early.toml"), world.home.join("now.toml"));
    mknodat(CWD, &config, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    args.extend(["--config".into(), config.display().to_string()]);
    let mut node = world.switch(&a.host, 0, &strs(&args));
    // It reads the configuration now, and gets no further before all is written.
    let mut written = fs::File::options().write(true).open(&config).unwrap();
    fs::write(&now, "mtu = 1400\n").unwrap();
    fs::rename(&now, &config).unwrap();
    for signal in [Signal::HUP, Signal::USR1] {
        node.process.signal(signal).unwrap();
    }
    written.write_all(b"mtu = 1400\n").unwrap();
    drop(written);
    node.says("SIGHUP: ");
    node.process.wait_for_line("\"version\":", SOON).unwrap();
    node.joins();
    node.stop();
}
