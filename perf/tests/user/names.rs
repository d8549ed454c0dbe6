//! Two nodes that say that they are the same, in one way or another.

use std::{fs, path::Path};

use ipop_perf::lab::wait_until;

use crate::world::{SOON, World, strs};

#[test]
fn two_nodes_of_one_name_are_both_in_the_room() {
    let world = World::new("samename");
    let token = world.make_network();
    let (a, b) = (world.machine("a"), world.machine("b"));
    let mut first = world.member(&a.host, 0, "n0", &token);
    first.joins();
    let mut args = world.account("n1");
    args.extend(["--join".into(), token]);
    let mut second = world.switch_named(&b.host, 1, "a", &strs(&args));
    let said = second.says("the nick a is in use");
    assert!(said.contains("this node is a-"), "{said}");
    second.comes_to_reach(0);
    first.stop();
    second.stop();
}

#[test]
fn a_cloned_host_is_explained_at_both_ends() {
    let world = World::new("cloned");
    let token = world.make_network();
    let (a, b) = (world.machine("a"), world.machine("b"));
    let mut first = world.member(&a.host, 0, "n0", &token);
    first.joins();
    let state = |name: &str| world.home.join(format!("state-{name}"));
    fs::create_dir(state("b")).unwrap();
    copy(&state("a").join("identity.pem"), &state("b").join("identity.pem"));
    // The same key and the same account: the same resource.
    let mut second = world.member(&b.host, 1, "n0", &token);
    for node in [&mut first, &mut second] {
        let explained = wait_until(SOON, || {
            let log = node.log();
            log.contains("conflict")
                && (log.contains("copy of this node") || log.contains("cloned"))
        });
        assert!(explained, "{}", node.log());
    }
    // They do not throw each other out many times a second.
    let conflicts = first.count("conflict") + second.count("conflict");
    assert!(conflicts <= 6, "{}\n{}", first.log(), second.log());
    first.stop();
    second.stop();
}

#[test]
fn one_key_with_two_accounts_is_explained_too() {
    let world = World::new("samekey");
    let token = world.make_network();
    let (a, b) = (world.machine("a"), world.machine("b"));
    let mut first = world.member(&a.host, 0, "n0", &token);
    first.joins();
    let state = |name: &str| world.home.join(format!("state-{name}"));
    fs::create_dir(state("b")).unwrap();
    copy(&state("a").join("identity.pem"), &state("b").join("identity.pem"));
    let mut second = world.member(&b.host, 1, "n1", &token);
    for node in [&mut first, &mut second] {
        let said = node.says("says that it is this node");
        assert!(said.contains("delete its copied state directory"), "{said}");
    }
    first.stop();
    second.stop();
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
}
