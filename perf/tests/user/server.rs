//! The XMPP server: absent, unknown, unproved.

use ipop_perf::lab::{servers::Dns, servers::DnsRecords, wait_until};

use crate::world::{Node, SOON, World, log_ins, strs, without};

/// Attempts that fail for the reason that was told already are mentioned for those who look closely only.
#[track_caller]
fn fails_quietly(node: &mut Node) {
    let again = wait_until(SOON, || node.count("; next try in") >= 3);
    assert!(again, "{}", node.log());
    assert_eq!(node.count("WARN"), 1, "{}", node.log());
}

#[test]
fn a_server_that_is_down_at_the_start_is_waited_for_and_mentioned_once() {
    let mut world = World::new("down");
    let token = world.make_network();
    let (a, b) = (world.machine("a"), world.machine("b"));
    world.servers.prosody.kill().unwrap();
    let mut args = world.account("n0");
    args.extend(["--join", &token, "--log", "debug"].map(Into::into));
    let mut node = world.switch(&a.host, 0, &strs(&args));
    let said = node.says("it is tried again until it works");
    assert!(said.contains("cannot connect to"), "{said}");
    assert!(said.contains("check that the server runs"), "{said}");
    // Several attempts later nothing more was said.
    fails_quietly(&mut node);
    let last_error = |node: &mut Node| node.counters()["network"]["last_error"].to_string();
    assert!(last_error(&mut node).contains("cannot connect"));
    world.servers.prosody.start_again().unwrap();
    node.joins();
    let other = world.member(&b.host, 1, "n1", &token);
    other.comes_to_reach(0);
    // When it goes again, that is news again.
    world.servers.prosody.kill().unwrap();
    let told =
        |node: &Node| node.count("WARN") == 3 && node.log().matches("until it works").count() == 3;
    assert!(wait_until(SOON, || told(&node)), "{}", node.log());
    assert!(node.reaches(1));
    node.stop();
    other.stop();
}

#[test]
fn a_domain_that_does_not_exist_is_said_once() {
    let world = World::new("nodomain");
    let (server, a) = (&world.servers.machine, world.machine("a"));
    let records = DnsRecords::new().address("example.org", server.ipv4);
    let dns = Dns::start(world.internet.lab(), server, &records).unwrap();
    for host in [&server.host, &a.host] {
        host.set_name_server(dns.address()).unwrap();
    }
    let mut admin = world.account("admin");
    without(&mut admin, "--xmpp-server");
    let token = world.make_network_by(&admin);
    let password = world.file("password", "any");
    let account = ["--xmpp-jid", "n0@exmaple.org", "--xmpp-password-file", &password];
    let args = [&["--join", &token, "--log", "debug"], &account[..]].concat();
    let mut node = world.switch(&a.host, 0, &args);
    let said = node.says("exmaple.org has no address");
    assert!(said.contains("check the name and this host's DNS"), "{said}");
    fails_quietly(&mut node);
    node.stop();
}

#[test]
fn a_certificate_of_nobody_who_is_known_names_the_flag_and_gets_no_password() {
    let mut world = World::new("unknownca");
    world.make_network();
    let a = world.machine("a");
    let mut args = world.account("n0");
    without(&mut args, "--xmpp-ca");
    args.extend(world.room_without_token());
    args.extend(["--log", "debug"].map(Into::into));
    let before = log_ins(&mut world.servers);
    let mut node = world.switch(&a.host, 0, &strs(&args));
    let said = node.says("is not signed by an authority that is trusted here");
    assert!(said.contains("--xmpp-ca FILE"), "{said}");
    fails_quietly(&mut node);
    // One connection for each attempt, and one may be under way.
    let attempts = log_ins(&mut world.servers) - before;
    let failures = node.count("until it works") + node.count("; next try in");
    assert!(attempts <= failures + 1, "{attempts} connections, {failures} attempts");
    node.stop();
}
