//! The room: made, looked at, given to accounts and taken from them, by the real commands; and what nodes say of one that
//! is not as it must be.

use ipop_perf::lab::wait_until;

use crate::world::{SOON, World, run, set_mode, strs};

#[test]
fn a_room_is_made_shown_kept_and_reconfigured_by_its_owner_alone() {
    let world = World::new("roomcmd");
    let token = world.make_network();
    let secret = world.home.join("network.secret").display().to_string();
    let with_secret = ["--network-secret-file", secret.as_str()];
    // The same again is no error, and prints the same token.
    let again = world.room_command("admin", "create", &with_secret);
    assert_eq!((again.code, again.output.trim()), (0, token.as_str()), "{}", again.said);
    assert!(again.said.contains("was there already"), "{}", again.said);
    let shown = world.room_command("admin", "show", &with_secret);
    assert_eq!(shown.code, 0, "{}", shown.said);
    let configuration = "hidden, with a password, open, non-anonymous, persistent";
    assert!(shown.output.contains(configuration), "{}", shown.output);
    assert!(shown.output.contains("owner    admin@example.org"), "{}", shown.output);

    // Another secret is another network, unless it is meant.
    let other = world.file("other.secret", &world.run(&["secret", "new"]).output);
    let with_other = ["--network-secret-file", other.as_str()];
    let refused = world.room_command("admin", "create", &with_other);
    assert_eq!(refused.code, 4, "{}", refused.said);
    assert!(refused.said.contains("another network secret"), "{}", refused.said);
    assert!(refused.said.contains("--reconfigure"), "{}", refused.said);
    let hidden = world.room_command("admin", "show", &with_other);
    assert!(hidden.said.contains("another password"), "{}", hidden.said);
    let meant = [&["--reconfigure"], &with_other[..]].concat();
    let changed = world.room_command("admin", "create", &meant);
    assert_eq!(changed.code, 0, "{}", changed.said);
    assert_ne!(changed.output.trim(), token);

    // Who does not own it changes nothing.
    for meant in [&with_other[..], &meant] {
        let taken = world.room_command("n0", "create", meant);
        assert_eq!(taken.code, 4, "{}", taken.said);
        assert!(taken.said.contains("n0@example.org does not own it"), "{}", taken.said);
    }
    for word in ["add", "remove"] {
        let denied = world.room_command("n0", word, &["n1@example.org"]);
        assert_eq!(denied.code, 3, "{}", denied.said);
        assert!(denied.said.contains("only its owners and admins may"), "{}", denied.said);
    }
}

#[test]
fn commands_that_cannot_work_say_what_would() {
    let world = World::new("roomwrong");
    world.make_network();
    let host = &world.servers.machine.host;
    let room = |address: &str, word: &str, more: &[&str]| {
        let mut args = vec!["room".to_owned(), word.into(), address.into()];
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        args.extend(world.account("admin"));
        run(host, &args)
    };
    let nowhere = room("typo@muc.example.org", "show", &[]);
    assert_eq!(nowhere.code, 2, "{}", nowhere.said);
    assert!(nowhere.said.contains("room create typo@muc.example.org"), "{}", nowhere.said);
    let secret = world.home.join("network.secret").display().to_string();
    let no_service = room("net@example.org", "create", &["--network-secret-file", &secret]);
    assert_eq!(no_service.code, 2, "{}", no_service.said);
    assert!(no_service.said.contains("muc.example.org"), "{}", no_service.said);
    for (address, more, word) in [
        ("muc.example.org", vec![], "NAME@DOMAIN"),
        ("net@muc.example.org", vec!["--network-secret-file", "/none"], "/none"),
    ] {
        let refused = room(address, "create", &more);
        assert_eq!(refused.code, 2, "{}", refused.said);
        assert!(refused.said.contains(word), "{}", refused.said);
    }
    // Without a secret nor another mode of trust nobody could be told from anybody.
    let undecided = room("net@muc.example.org", "create", &[]);
    assert_eq!(undecided.code, 2, "{}", undecided.said);
    assert!(undecided.said.contains("secret new"), "{}", undecided.said);
    let short = world.file("short", "secret\n");
    let refused = room("net@muc.example.org", "create", &["--network-secret-file", &short]);
    assert_eq!(refused.code, 2, "{}", refused.said);
    assert!(refused.said.contains("at least 22 are needed"), "{}", refused.said);
    set_mode(&secret, 0o644);
    let exposed = room("net@muc.example.org", "create", &["--network-secret-file", &secret]);
    assert_eq!(exposed.code, 2, "{}", exposed.said);
    assert!(exposed.said.contains(&format!("chmod 600 {secret}")), "{}", exposed.said);
}

#[test]
fn whoever_is_removed_loses_its_tunnels_and_the_others_keep_theirs() {
    let world = World::new("revoked");
    let token = world.make_network();
    let names = ["a", "b", "c"];
    let machines = names.map(|name| world.machine(name));
    let mut nodes: Vec<_> = (0..3)
        .map(|n| world.member(&machines[n].host, n as u8, &format!("n{n}"), &token))
        .collect();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        nodes[from].comes_to_reach(to as u8);
    }
    let secret = world.home.join("network.secret").display().to_string();
    let shown = world.room_command("admin", "show", &["--network-secret-file", &secret]);
    for (name, account) in names.iter().zip(["n0", "n1", "n2"]) {
        let line = shown.output.lines().find(|line| line.contains(&format!(" {name} {account}@")));
        assert!(line.is_some_and(|line| line.starts_with("node ")), "{}", shown.output);
    }
    let removed = world.room_command("admin", "remove", &["n2@example.org"]);
    assert_eq!(removed.code, 0, "{}", removed.said);
    assert!(removed.output.contains("n2@example.org is banned"), "{}", removed.output);
    assert!(removed.said.contains("exchange the secret"), "{}", removed.said);
    for node in &mut nodes[..2] {
        node.says("n2@example.org was removed from the room");
        let gone = wait_until(SOON, || node.state_of("c").is_none_or(|state| state != "up"));
        assert!(gone, "{}", node.log());
    }
    assert!(!nodes[0].reaches(2) && !nodes[1].reaches(2));
    assert!(nodes[0].reaches(1));
    assert_eq!(nodes[0].count(") down"), 0, "{}", nodes[0].log());
    let said = nodes[2].says("banned from room");
    let cure = format!("ipop-switch room add {} n2@example.org", world.room());
    assert!(said.contains(&cure), "{said}");
    // The ban is lifted, and it is one of them again.
    let added = world.room_command("admin", "add", &["n2@example.org"]);
    assert_eq!(
        (added.code, added.output.trim()),
        (0, "n2@example.org is a member of vmnet@muc.example.org")
    );
    nodes.pop().unwrap().stop();
    let back = world.member(&machines[2].host, 2, "n2", &token);
    back.comes_to_reach(0);
    back.stop();
    nodes.into_iter().for_each(|node| drop(node.stop()));
}

#[test]
fn a_room_that_does_not_exist_is_not_made_by_joining() {
    let world = World::new("noroom");
    let a = world.machine("a");
    let secret = world.file("secret", &world.run(&["secret", "new"]).output);
    let room = world.room();
    let mut args = world.account("n0");
    args.extend(["--room", &room, "--network-secret-file", &secret].map(Into::into));
    let mut node = world.switch(&a.host, 0, &strs(&args));
    let said = node.says("does not exist");
    assert!(said.contains(&format!("ipop-switch room create {room}")), "{said}");
    node.stop();
    let shown = world.room_command("admin", "show", &[]);
    assert_eq!(shown.code, 2, "nor did it come about by trying: {}", shown.said);
}

#[test]
fn a_room_that_is_not_what_the_mode_needs_is_refused_by_name() {
    let world = World::new("wrongroom");
    let a = world.machine("a");
    let made = world.room_command("admin", "create", &["--trust", "tofu"]);
    assert_eq!((made.code, made.output.as_str()), (0, ""), "{}", made.said);
    assert!(made.said.contains("room add"), "{}", made.said);
    let room = world.room();
    let secret = world.file("secret", &world.run(&["secret", "new"]).output);
    let added = world.room_command("admin", "add", &["n0@example.org"]);
    assert_eq!(added.code, 0, "{}", added.said);
    let mut args = world.account("n0");
    args.extend(["--room", &room, "--network-secret-file", &secret].map(Into::into));
    let mut node = world.switch(&a.host, 0, &strs(&args));
    let said = node.says("is not what this mode of trust needs");
    assert!(said.contains("it has no password") && said.contains("--reconfigure"), "{said}");
    assert_eq!(node.counters()["network"]["joined"], false);
    node.stop();
}

#[test]
fn whoever_is_not_a_member_is_told_who_adds_it() {
    let world = World::new("nomember");
    let a = world.machine("a");
    assert_eq!(world.room_command("admin", "create", &["--trust", "tofu"]).code, 0);
    let room = world.room();
    let mut args = world.account("n0");
    args.extend(["--room", &room, "--trust", "tofu"].map(Into::into));
    let mut node = world.switch(&a.host, 0, &strs(&args));
    let said = node.says("not a member");
    assert!(said.contains(&format!("room add {room} n0@example.org")), "{said}");
    node.stop();
}

#[test]
fn a_token_stands_for_the_room_and_whoever_may_see_nothing_is_told_by_the_exit_code() {
    let world = World::new("roomjoin");
    let token = world.make_network();
    let by = |account: &str, words: &[&str]| {
        world.run(&[&["room"], words, &strs(&world.account(account))[..]].concat())
    };
    let shown = by("n0", &["show", "--join", &token]);
    assert_eq!(shown.code, 0, "{}", shown.said);
    assert!(shown.output.starts_with(&format!("room     {} ", world.room())), "{}", shown.output);
    // Without the secret it may not look inside, and the lists are for admins.
    let blind = world.room_command("n0", "show", &[]);
    assert_eq!(blind.code, 3, "{}{}", blind.output, blind.said);
    assert!(
        blind.output.starts_with("room ") && blind.said.contains("--join TOKEN"),
        "{}",
        blind.said
    );
    let added = by("admin", &["add", "--join", &token, "n0@example.org"]);
    assert_eq!(added.code, 0, "{}", added.said);
    assert!(added.output.contains("n0@example.org is a member of"), "{}", added.output);
    let nowhere = by("admin", &["add", "n0@example.org"]);
    assert_eq!(nowhere.code, 2, "{}", nowhere.said);
    assert!(nowhere.said.contains("--join TOKEN"), "{}", nowhere.said);
}
