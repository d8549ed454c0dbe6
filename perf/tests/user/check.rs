//! `ipop-switch check` names the step that fails, and the cure: each step fails once, against the real servers.

use ipop_perf::lab::{
    Access, Attached, Host, NatKind, NatOptions, Place,
    servers::{Coturn, CoturnOptions, Dns, DnsRecords},
};

use crate::world::{Ending, World, run, without};

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) status: String,
    pub(crate) found: String,
    pub(crate) cure: String,
}

/// The rows of a step; most have one.
pub(crate) fn rows(ending: &Ending, what: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut is_wanted = false;
    for line in ending.output.lines() {
        let (status, rest) = line.split_at_checked(10).unwrap_or((line, ""));
        if let (Some(cure), "") = (rest.trim().strip_prefix("-> "), status.trim()) {
            if let Some(row) = rows.last_mut().filter(|_| is_wanted) {
                row.cure = cure.into();
            }
            continue;
        }
        let found = rest.strip_prefix(what).filter(|found| found.starts_with("  "));
        is_wanted = found.is_some();
        let (status, cure) = (status.trim().to_owned(), String::new());
        rows.extend(found.map(|found| Row { status, found: found.trim().into(), cure }));
    }
    rows
}

/// What is said of this step.
#[track_caller]
pub(crate) fn row(ending: &Ending, what: &str) -> Row {
    let mut rows = rows(ending, what);
    assert_eq!(rows.len(), 1, "{what}:\n{}", ending.output);
    rows.remove(0)
}

/// The steps before the one that fails are well, and those after it are not tried. Nor is what the XMPP server would have
/// named.
#[track_caller]
fn expect_failure(ending: &Ending, what: &str, found: &str, cure: &str) {
    const STEPS: [&str; 5] = ["XMPP DNS", "XMPP server", "XMPP TLS", "XMPP log-in", "room"];
    let failing = STEPS.iter().position(|step| *step == what).unwrap();
    for (number, step) in STEPS.iter().enumerate() {
        let statuses: Vec<_> = rows(ending, step).into_iter().map(|row| row.status).collect();
        let expected: &[&str] = match number.cmp(&failing) {
            std::cmp::Ordering::Less => &["ok"],
            std::cmp::Ordering::Equal => &["failed"],
            std::cmp::Ordering::Greater => &["not tried"],
        };
        assert_eq!(statuses, expected, "{step}:\n{}", ending.output);
    }
    if what != "room" {
        for what in ["STUN", "TURN", "NAT"] {
            assert_eq!(row(ending, what).status, "not tried", "{}", ending.output);
        }
    }
    let row = row(ending, what);
    assert!(row.found.contains(found), "{found:?}: {row:?}");
    assert!(row.cure.contains(cure), "{cure:?}: {row:?}");
    assert_eq!(ending.code, 1, "{}", ending.said);
    assert!(ending.said.contains("see `missing` and `failed`"), "{}", ending.said);
}

pub(crate) fn check<S: AsRef<str>>(at: &Host, args: &[S]) -> Ending {
    let args = args.iter().map(AsRef::as_ref).collect::<Vec<_>>();
    run(at, &[&["check"], &args[..]].concat())
}

/// A world with a name server for its domain, and what the members of its network are told.
fn network(label: &str) -> (World, Dns, Vec<String>) {
    let world = World::new(label);
    let server = &world.servers.machine;
    let records = DnsRecords::new()
        .address("xmpp.example.org", server.ipv4)
        .service("_xmpp-client._tcp.example.org", "xmpp.example.org", 5222, 0)
        .service("_xmpp-client._tcp.elsewhere.example", "gone.example", 5222, 0);
    let dns = Dns::start(world.internet.lab(), server, &records).unwrap();
    server.host.set_name_server(dns.address()).unwrap();
    let [mut admin, mut args] = ["admin", "n0"].map(|name| world.account(name));
    for flags in [&mut admin, &mut args] {
        without(flags, "--xmpp-server");
    }
    args.extend(["--join".into(), world.make_network_by(&admin)]);
    (world, dns, args)
}

/// Replaces a flag's value.
fn with(args: &[String], flag: &str, value: &str) -> Vec<String> {
    let mut args = args.to_vec();
    let at = args.iter().position(|arg| arg == flag).unwrap();
    args[at + 1] = value.into();
    args
}

#[test]
fn every_step_to_the_network_is_shown() {
    let (world, dns, args) = network("checkok");
    let nat = NatOptions::new(NatKind::PortRestricted);
    let site = world.internet.site("s", Access::Nat(nat)).unwrap();
    site.host().set_name_server(dns.address()).unwrap();
    let checked = check(site.host(), &args);
    assert_eq!(checked.code, 0, "{}{}", checked.output, checked.said);
    for (what, found) in [
        ("XMPP DNS", "xmpp.example.org:5222 (STARTTLS)".to_owned()),
        ("XMPP server", "xmpp.example.org:5222 answers".into()),
        ("XMPP TLS", "certificate valid for example.org".into()),
        ("XMPP log-in", "n0@example.org".into()),
        (
            "room",
            "hidden, with a password, open, non-anonymous, persistent; nodes inside: 0".into(),
        ),
        ("STUN", format!("sees {}", site.public_ipv4())),
        ("TURN", format!("relays at {}", world.servers.machine.ipv4)),
    ] {
        let row = row(&checked, what);
        assert_eq!(row.status, "ok", "{row:?}");
        assert!(row.found.contains(&found), "{row:?}");
    }
    // One STUN server cannot tell what kind of NAT it is.
    let nat = row(&checked, "NAT");
    assert!(nat.status == "limited" && nat.cure.contains("two servers"), "{nat:?}");
}

#[test]
fn the_step_that_fails_is_named_with_its_cure() {
    let (mut world, dns, args) = network("checkfails");
    let client = world.machine("client");
    let host = &client.host;
    host.set_name_server(dns.address()).unwrap();

    let typo = check(host, &with(&args, "--xmpp-jid", "n0@exmaple.org"));
    expect_failure(&typo, "XMPP DNS", "exmaple.org has no address", "--xmpp-server HOST:PORT");
    let gone = check(host, &with(&args, "--xmpp-jid", "n0@elsewhere.example"));
    expect_failure(&gone, "XMPP DNS", "gone.example has no address", "DNS");

    let mut untrusted = args.clone();
    without(&mut untrusted, "--xmpp-ca");
    without(&mut untrusted, "--join");
    untrusted.extend(world.room_without_token());
    let untrusted = check(host, &untrusted);
    expect_failure(&untrusted, "XMPP TLS", "not signed by an authority", "--xmpp-ca FILE");
    let absent = check(host, &with(&args, "--xmpp-ca", "/none/ca.pem"));
    expect_failure(&absent, "XMPP TLS", "/none/ca.pem", "--xmpp-ca");

    let password = world.file("wrong", "not the password");
    let wrong = check(host, &with(&args, "--xmpp-password-file", &password));
    expect_failure(&wrong, "XMPP log-in", "n0@example.org: not-authorized", "the password");
    let nobody = check(host, &with(&args, "--xmpp-jid", "nobody@example.org"));
    expect_failure(&nobody, "XMPP log-in", "nobody@example.org", "prosodyctl adduser");

    let mut elsewhere = args.clone();
    without(&mut elsewhere, "--join");
    let secret = world.home.join("network.secret").display().to_string();
    elsewhere.extend(["--room", "typo@muc.example.org"].map(String::from));
    elsewhere.extend(["--network-secret-file".into(), secret]);
    let no_room = check(host, &elsewhere);
    let cure = "ipop-switch room create typo@muc.example.org";
    expect_failure(&no_room, "room", "typo@muc.example.org does not exist", cure);
    let other = world.file("other.secret", &world.run(&["secret", "new"]).output);
    let room = world.room();
    let other = with(&elsewhere, "--network-secret-file", &other);
    let password = check(host, &with(&other, "--room", &room));
    expect_failure(&password, "room", "another password", "room show");
    let mut members = with(&elsewhere, "--room", &room);
    members.extend(["--trust".into(), "tofu".into()]);
    let open = check(host, &members);
    expect_failure(&open, "room", "it is open (must be members-only)", "--reconfigure");

    world.servers.prosody.kill().unwrap();
    let down = check(host, &args);
    expect_failure(&down, "XMPP server", "refused", "start the server");
}

/// A switch that cannot get out of its NAT still runs, so this costs no exit code.
#[test]
fn stun_and_turn_that_fail_are_named_and_cost_paths_not_the_start() {
    let (mut world, dns, args) = network("checkturn");
    let client = world.machine("client");
    client.host.set_name_server(dns.address()).unwrap();
    world.servers.coturn.kill().unwrap();
    let silent = check(&client.host, &args);
    assert_eq!(silent.code, 0, "{}", silent.said);
    for what in ["STUN", "TURN"] {
        let row = row(&silent, what);
        assert_eq!(row.status, "limited", "{row:?}");
        assert!(row.cure.contains("start it"), "{row:?}");
    }
    let nat = row(&silent, "NAT");
    assert!(nat.found.contains("no STUN server answered"), "{nat:?}");
}

#[test]
fn a_turn_server_that_refuses_the_credentials_is_named() {
    let world = World::new("checksecret");
    let mut args = world.account("n0");
    args.extend(["--join".into(), world.make_network()]);
    let turn = format!(
        "[ice]\nturn = [{{ server = \"{}\", username = \"n0\", password = \"wrong\" }}]\n",
        world.servers.coturn.address()
    );
    args.extend(["--config".into(), world.file("turn.toml", &turn)]);
    let checked = check(&world.machine("client").host, &args);
    assert_eq!(checked.code, 0, "{}", checked.said);
    assert_eq!(row(&checked, "STUN").status, "ok");
    let turn = row(&checked, "TURN");
    assert_eq!(turn.status, "limited", "{turn:?}");
    assert!(turn.found.contains("401"), "{turn:?}");
    assert!(turn.cure.contains("secret"), "{turn:?}");
}

#[test]
fn without_helpers_and_behind_a_symmetric_nat_it_says_what_that_means() {
    let world = World::new("checknat");
    let token = world.make_network();
    let second = world.machine("second");
    let other = Coturn::start(world.internet.lab(), &second, CoturnOptions::new()).unwrap();
    let config = |at: &Attached, servers: &str| {
        world.file(&format!("{}.toml", at.host.name()), &format!("[ice]\nstun = [{servers}]\n"))
    };
    let both = format!("\"{}\", \"{}\"", world.servers.coturn.address(), other.address());
    for (name, kind, status, word) in [
        ("sym", NatKind::Symmetric, "limited", "is symmetric"),
        ("cone", NatKind::FullCone, "ok", "the same port"),
    ] {
        let site = world.internet.site(name, Access::Nat(NatOptions::new(kind))).unwrap();
        let mut args = world.account("n0");
        args.extend(["--join".into(), token.clone(), "--config".into()]);
        args.push(config(&site.machine, &both));
        let checked = check(site.host(), &args);
        assert_eq!(rows(&checked, "STUN").len(), 2, "{}", checked.output);
        let nat = row(&checked, "NAT");
        assert_eq!(nat.status, status, "{nat:?}");
        assert!(nat.found.contains(word), "{nat:?}");
        assert!(nat.found.contains(&site.public_ipv4().to_string()), "{nat:?}");
    }
    let none = world.internet.machine("none", Place::Internet).unwrap();
    let mut args = world.account("n0");
    args.extend(["--join".into(), token, "--config".into(), config(&none, &both)]);
    let checked = check(&none.host, &args);
    assert!(row(&checked, "NAT").found.contains("none"), "{}", checked.output);
}
