//! The account: asked for at a terminal, or configured, right or wrong.

use std::os::unix::process::ExitStatusExt;

use ipop_perf::lab::{Signal, servers::XmppServer as _, wait_until};

use crate::{
    common::switch_binary,
    world::{SOON, World, ending, log_ins, strs},
};

#[test]
fn whoever_sits_at_a_terminal_is_asked_for_account_and_password() {
    let world = World::new("asked");
    let token = world.make_network();
    let (a, b) = (world.machine("a"), world.machine("b"));
    let state = world.home.join("state-typed").display().to_string();
    let mut args = world.server_flags();
    args.extend(
        ["--tap", "ipop0", "--address", "192.168.77.1/24", "--join", &token].map(Into::into),
    );
    args.extend(["--state".into(), state]);
    let mut typed = a.host.spawn_at_terminal(switch_binary(), &strs(&args)).unwrap();
    typed.wait_to_show("XMPP account (NAME@DOMAIN): ", SOON).unwrap();
    assert!(typed.echoes().unwrap());
    typed.types("n0\n").unwrap();
    typed.wait_to_show("has no @", SOON).unwrap();
    typed.types("n0@example.org\n").unwrap();
    typed.wait_to_show("Password of n0@example.org: ", SOON).unwrap();
    assert!(wait_until(SOON, || typed.echoes().is_ok_and(|echoes| !echoes)), "it would be seen");
    let password = world.servers.prosody.password("n0");
    typed.types(&format!("wrong\x15{password}x\x7f\n")).unwrap();
    typed.wait_to_show("in the room", SOON).unwrap();
    assert!(typed.echoes().unwrap());
    assert!(!typed.shown().contains(&password), "{}", typed.shown());
    let other = world.member(&b.host, 1, "n1", &token);
    other.comes_to_reach(0);
    // Reading the configuration again asks nobody, and changes nothing.
    typed.signal(Signal::HUP).unwrap();
    typed.wait_to_show("SIGHUP: 0 peers new", SOON).unwrap();
    assert!(!typed.shown().contains("SIGHUP: another"), "{}", typed.shown());
    typed.types("\x03").unwrap();
    assert_eq!(typed.wait(SOON).unwrap().code(), Some(0), "{}", typed.shown());
    other.stop();
}

#[test]
fn ctrl_c_at_a_question_leaves_the_terminal_as_it_was() {
    let world = World::new("ctrlc");
    let host = &world.servers.machine.host;
    let room = world.room();
    for jid in [None, Some("admin@example.org")] {
        let mut args = vec!["room", "show", &room];
        args.extend(jid.into_iter().flat_map(|jid| ["--xmpp-jid", jid]));
        let mut typed = host.spawn_at_terminal(switch_binary(), &args).unwrap();
        match jid {
            None => typed.wait_to_show("XMPP account", SOON).unwrap(),
            Some(_) => {
                typed.wait_to_show("Password of admin@example.org: ", SOON).unwrap();
                assert!(wait_until(SOON, || typed.echoes().is_ok_and(|echoes| !echoes)));
                typed.types("sesame").unwrap();
            }
        }
        typed.types("\x03").unwrap();
        let status = typed.wait(SOON).unwrap();
        assert_eq!(status.signal(), Some(Signal::INT.as_raw()), "{}", typed.shown());
        assert!(typed.echoes().unwrap() && !typed.shown().contains("sesame"));
    }
}

#[test]
fn what_else_is_wrong_is_said_before_anybody_is_asked() {
    let world = World::new("garbled");
    let host = &world.servers.machine.host;
    let token = world.make_network();
    let cut = &token[..token.len() - 2];
    for (args, word) in [
        (vec!["--tap", "ipop0", "--join", cut], "copy the whole line"),
        (vec!["--join", &token], "--tap"),
        (vec!["--tap", "ipop0", "--join", &token, "--mtu", "9"], "--mtu"),
        (vec!["check", "--join", "hello"], "room create"),
    ] {
        let mut typed = host.spawn_at_terminal(switch_binary(), &args).unwrap();
        let status = typed.wait(SOON).unwrap();
        let shown = typed.shown();
        assert!(matches!(status.code(), Some(1 | 2)), "{status}: {shown}");
        assert!(shown.contains(word) && !shown.contains("XMPP account"), "{shown}");
    }
    // Nobody at a terminal: it says where account and password may stand.
    let asked = world.run(&["--tap", "ipop0", "--join", &token]);
    assert_eq!(asked.code, 2);
    assert!(asked.said.contains("--xmpp-jid") && asked.said.contains("[xmpp]"), "{}", asked.said);
}

#[test]
fn a_wrong_password_ends_the_start_and_is_tried_once() {
    let mut world = World::new("wrongpw");
    let token = world.make_network();
    let a = world.machine("a");
    let before = log_ins(&mut world.servers);
    let password = world.file("wrong", "not the password");
    let mut args = world.server_flags();
    args.extend(
        ["--xmpp-jid", "n0@example.org", "--xmpp-password-file", &password].map(Into::into),
    );
    let room = world.room();
    for command in [vec!["--join", &token], vec!["room", "show", &room]] {
        let mut line: Vec<&str> = command;
        line.extend(strs(&args));
        let ended = match line[0] {
            "room" => world.run(&line),
            _ => ending(world.switch(&a.host, 0, &line).process),
        };
        assert_eq!(ended.code, 2, "{}", ended.said);
        let words = ["n0@example.org", "not-authorized", "check the account's name and password"];
        assert!(words.iter().all(|word| ended.said.contains(word)), "{}", ended.said);
        assert_eq!(ended.said.matches("XMPP:").count(), 1, "{}", ended.said);
    }
    assert!(!a.host.has_interface("ipop0"));
    assert_eq!(log_ins(&mut world.servers) - before, 2);
}

#[test]
fn a_password_that_is_corrected_is_taken_at_sighup() {
    let mut world = World::new("sighuppw");
    let token = world.make_network();
    let a = world.machine("a");
    let password = world.file("password", "not the password");
    let mut args = world.server_flags();
    args.extend(
        ["--xmpp-jid", "n0@example.org", "--xmpp-password-file", &password].map(Into::into),
    );
    // A peer that is reached without the room keeps the switch running.
    let peer = "a".repeat(52);
    args.extend(["--join", &token, "--peer", &peer].map(Into::into));
    let mut node = world.switch(&a.host, 0, &strs(&args));
    node.says("not tried again before the account's settings change (SIGHUP reads them)");
    let before = log_ins(&mut world.servers);
    node.process.signal(Signal::HUP).unwrap();
    node.says("SIGHUP: 0 peers new");
    assert_eq!(log_ins(&mut world.servers), before, "nothing has changed");
    world.file("password", &world.servers.prosody.password("n0"));
    node.process.signal(Signal::HUP).unwrap();
    node.joins();
    node.stop();
}
