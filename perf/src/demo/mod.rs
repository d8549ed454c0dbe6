//! `ipop-perf demo`: three hosts that know nothing of each other but a token become one Ethernet segment, step by step,
//! in about a minute.
//!
//! A real Prosody and a real coturn stand on the internet, and so does hostA; hostB and hostC are behind a NAT each, and
//! behind them, on a bridge, a virtual machine each. The hosts find each other in the room, get through the NATs, and
//! traffic goes on when the XMPP server is killed. Everything runs in namespaces, and vanishes at the end or at Ctrl-C.

mod shell;

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::shell::{Shell, Switch};
use crate::lab::{
    Access, Attached, BridgeSite, Host, Interface, Internet, InternetOptions, NatKind, NatOptions,
    Place, Site, SiteOptions,
    servers::{Dns, DnsRecords, ProsodyOptions, Servers, XmppServer as _},
    tools::{Iperf3, Ping},
    wait_until,
};

/// How long finding each other may take on a machine that is busy with other things; it takes a second or two.
const FOUND_LIMIT: Duration = Duration::from_secs(30);
/// The room's name at the server of the lab.
const ROOM: &str = "vmnet@muc.example.org";
/// The address of hostA itself on the segment. The machines have 10.255.0.1 and 10.255.0.2.
const ADDRESS_OF_A: [u8; 4] = [10, 255, 0, 9];

/// Runs the demo with the program from this file.
///
/// # Errors
/// When any step fails; the error says which.
pub fn run(binary: &Path) -> Result<()> {
    let mut world = World::make()?;
    let programs = world.programs(binary)?;
    world.introduce();

    title("Before: the two machines do not reach each other");
    let ends = world.machines.clone();
    show_ping(&ends[0].0, &Ping::to(ends[1].1.ipv4))?;

    let token = make_network(&world, &programs)?;
    let hosts = ["hostA", "hostB", "hostC"];
    let shells: Vec<Shell> = hosts
        .iter()
        .zip([&world.host_a.host, world.nated[0].host(), world.nated[1].host()])
        .map(|(name, host)| world.shell(name, host, '#', &programs, &token))
        .collect::<Result<_>>()?;
    let mut switches = join(&world, &shells)?;
    ask(&world, &mut switches)?;
    segment(&world)?;
    throughput(&world, &mut switches)?;
    without_server(&mut world, &mut switches)?;

    title("Ctrl-C at each host, and what the programs said");
    for switch in &mut switches {
        switch.interrupt()?;
        switch.show_log();
    }
    drop(switches);
    drop(world);
    println!("\nDone. The namespaces, and all in them, are gone.");
    Ok(())
}

/// What is there before anybody has typed anything.
struct World {
    // Servers end before the internet that they are on.
    servers: Servers,
    _dns: Dns,
    admin: Attached,
    host_a: Attached,
    /// hostB and hostC.
    nated: Vec<Site>,
    /// The machines behind them.
    machines: Vec<(Host, Interface)>,
    internet: Internet,
}

impl World {
    fn make() -> Result<Self> {
        let internet = Internet::new("demo", InternetOptions::new())?;
        internet.lab().end_at_signals()?;
        let accounts = ProsodyOptions::new().accounts(["admin", "hosta", "hostb", "hostc"]);
        let servers = Servers::start(&internet, accounts)?;
        let records = DnsRecords::new()
            .address("xmpp.example.org", servers.machine.ipv4)
            .service("_xmpp-client._tcp.example.org", "xmpp.example.org", 5222, 1)
            .service("_xmpps-client._tcp.example.org", "xmpp.example.org", 5223, 0);
        let dns = Dns::start(internet.lab(), &servers.machine, &records)?;
        let admin = internet.machine("admin", Place::Internet)?;
        let host_a = internet.machine("hostA", Place::Internet)?;
        let (mut nated, mut machines) = (Vec::new(), Vec::new());
        for name in ["hostB", "hostC"] {
            let nat = NatOptions::new(NatKind::PortRestricted);
            let site = internet.site(name, Access::Nat(nat))?;
            let BridgeSite { vms, .. } =
                internet.lab().bridge_site(site.host(), "lan", SiteOptions::new(1))?;
            machines.extend(vms);
            nated.push(site);
        }
        for host in [&admin.host, &host_a.host, nated[0].host(), nated[1].host()] {
            host.set_name_server(dns.address())?;
        }
        Ok(Self { servers, _dns: dns, admin, host_a, nated, machines, internet })
    }

    /// A directory with the program under its name.
    fn programs(&self, binary: &Path) -> Result<PathBuf> {
        let directory = self.internet.lab().dir().join("bin");
        fs::create_dir(&directory)
            .and_then(|()| symlink(binary, directory.join("ipop-switch")))
            .with_context(|| format!("for {}", directory.display()))?;
        Ok(directory)
    }

    fn introduce(&self) {
        let server = self.servers.machine.ipv4;
        println!("Three hosts on an internet that knows nothing of one another's networks:\n");
        println!("  server  {server:<13} Prosody (XMPP), coturn (STUN, TURN), a name server");
        println!("  hostA   {:<13}", self.host_a.ipv4);
        for (site, (machine, end)) in self.nated.iter().zip(&self.machines) {
            println!(
                "  {}   {:<13} behind a NAT, {} (port-restricted); on its bridge `lan`: {}, {}",
                site.host().name(),
                site.machine.ipv4,
                site.public_ipv4(),
                machine.name(),
                end.ipv4
            );
        }
        println!("\nEach host has an account, NAME@example.org, and its password in a file.");
    }

    /// A shell of whoever has the account `name`, in lower case.
    fn shell(
        &self,
        name: &str,
        host: &Host,
        prompt: char,
        programs: &Path,
        token: &str,
    ) -> Result<Shell> {
        let prosody = &self.servers.prosody;
        let mut shell = Shell::new(self.internet.lab(), host, prompt, programs)?;
        shell.put("password", &prosody.password(&name.to_lowercase()))?;
        // The lab's authority takes the place of those that the system knows.
        shell.set("SSL_CERT_FILE", &prosody.ca_file().display().to_string());
        shell.set("TOKEN", token);
        // The hosts share their file system, so each has a socket of its own.
        let socket = self.internet.lab().dir().join(format!("{name}.sock"));
        shell.set("API", &socket.display().to_string());
        Ok(shell)
    }
}

/// What its administrator does, once; gives the token.
fn make_network(world: &World, programs: &Path) -> Result<String> {
    title("The network: a secret, and a room at the XMPP server. Once, by its administrator");
    let admin = world.shell("admin", &world.admin.host, '$', programs, "")?;
    admin.run("ipop-switch secret new > network.secret")?;
    let token = admin.run(&format!(
        "ipop-switch room create {ROOM} --network-secret-file network.secret \\\n      \
         --xmpp-jid admin@example.org --xmpp-password-file password"
    ))?;
    Ok(token.trim().to_owned())
}

/// On each host one line; waits until each reaches each.
fn join<'a>(world: &World, shells: &'a [Shell]) -> Result<Vec<Switch<'a>>> {
    title("Joining: the same on each host, which is told of no other. TOKEN is what was printed");
    let [a, b, c, d] = ADDRESS_OF_A;
    let own = format!("--address {a}.{b}.{c}.{d}/16");
    let started = Instant::now();
    let mut switches = Vec::new();
    for (shell, local) in shells.iter().zip([own.as_str(), "--bridge lan", "--bridge lan"]) {
        let name = shell.host().name();
        let account = name.to_lowercase();
        switches.push(Switch::start(
            shell,
            &format!(
                "ipop-switch --tap ipop0 {local} --name {name} --join $TOKEN --api $API \\\n      \
                 --xmpp-jid {account}@example.org --xmpp-password-file password"
            ),
        )?);
    }
    let [(first, _), (second, end)] = &world.machines[..] else {
        anyhow::bail!("a site without a machine")
    };
    let answers =
        |from: &Host, to: IpAddr| Ping::to(to).run(from).is_ok_and(|report| report.received > 0);
    let of_a = IpAddr::from(ADDRESS_OF_A);
    let all = || answers(first, end.ipv4.into()) && answers(first, of_a) && answers(second, of_a);
    let found = wait_until(FOUND_LIMIT, all);
    if !found {
        switches.iter_mut().for_each(Switch::show_log);
    }
    ensure!(found, "the hosts do not find each other");
    let took_s = started.elapsed().as_secs_f64();
    // On a busy machine the relay may answer first: it serves until a direct path does.
    let direct = wait_until(FOUND_LIMIT, || switches.iter_mut().all(Switch::is_direct));
    ensure!(direct, "there are NATs that let no direct path through");
    println!("\nAll reach all {took_s:.1} s after the first was started. What hostB says:\n");
    switches[1].show_log();
    switches.iter_mut().for_each(Switch::pass_over_log);
    Ok(switches)
}

/// The running switches say how each peer is reached, and where a frame would go.
fn ask(world: &World, switches: &mut [Switch<'_>]) -> Result<()> {
    title("Through the NATs: what the running switch on hostB says");
    let [_, (_, end)] = &world.machines[..] else { anyhow::bail!("a site without a machine") };
    let at_b = switches[1].shell;
    at_b.run("ipop-switch status --socket $API")?;
    at_b.run("ipop-switch ping hostC -c 2 --socket $API")?;
    let known = at_b.ask("ipop-switch fdb show --json --socket $API")?;
    let stations: Value = serde_json::from_str(&known).context("reading the stations")?;
    let of = |port: &str| {
        let mut all = stations["stations"].as_array().into_iter().flatten();
        let station = all.find(|station| station["port"] == port)?;
        station["mac"].as_str().map(str::to_owned)
    };
    let (near, far) = (of("ipop0"), of("hostC"));
    let (near, far) = near.zip(far).with_context(|| format!("{} is not known", end.ipv4))?;
    at_b.run(&format!("ipop-switch trace {near} {far} --socket $API"))?;
    for switch in switches {
        ensure!(switch.is_direct(), "a path of {} is not direct", switch.shell.host().name());
    }
    Ok(())
}

/// It is one segment, for frames of every size.
fn segment(world: &World) -> Result<()> {
    title("One Ethernet segment");
    let [(first, _), (_, end)] = &world.machines[..] else {
        anyhow::bail!("a site without a machine")
    };
    show_ping(first, &Ping::to(end.ipv4).count(5))?;
    show_ping(first, &Ping::to(end.ipv6).count(2))?;
    show_ping(first, &Ping::to(IpAddr::from(ADDRESS_OF_A)).count(2))?;
    let largest = Ping::to(end.ipv4).unfragmented(1500 - 28);
    // The largest frames may have to wait until path MTU discovery has seen that they fit.
    let fits =
        wait_until(FOUND_LIMIT, || largest.run(first).is_ok_and(|report| report.received > 0));
    ensure!(fits, "a packet of 1500 bytes does not cross");
    show_ping(first, &largest)
}

/// One TCP flow between the machines behind the NATs, and who carried it.
fn throughput(world: &World, switches: &mut [Switch<'_>]) -> Result<()> {
    title("One TCP flow, from behind the one NAT to behind the other");
    let server = &world.servers.machine;
    let at_server = || -> Result<u64> {
        let counters = server.host.counters(&server.interface)?;
        Ok(counters.rx_bytes + counters.tx_bytes)
    };
    let before = at_server()?;
    flow(world, 5)?;
    let carried = at_server()? - before;
    println!(
        "The server's machine carried {} kB meanwhile: frames do not pass through it.",
        carried / 1000
    );
    for switch in switches {
        let usage = switch.process.usage()?;
        println!(
            "{}: ipop-switch used {:.1} s of CPU so far, {} MiB",
            switch.shell.host().name(),
            usage.cpu_s(),
            usage.rss_kib / 1024
        );
    }
    Ok(())
}

fn flow(world: &World, seconds: u32) -> Result<()> {
    let [(first, _), (second, end)] = &world.machines[..] else {
        anyhow::bail!("a site without a machine")
    };
    println!("{}# iperf3 -c {} -t {seconds}", first.name(), end.ipv4);
    let flow = Iperf3::to(end.ipv4).seconds(seconds).run(first, second)?;
    println!("{:.0} Mbit/s, {} retransmissions", flow.received_bits_per_s / 1e6, flow.retransmits);
    Ok(())
}

/// The XMPP server dies in the middle of a ping, and nothing happens.
fn without_server(world: &mut World, switches: &mut [Switch<'_>]) -> Result<()> {
    title("The XMPP server is killed, while a ping runs");
    let [(first, _), (_, end)] = &world.machines[..] else {
        anyhow::bail!("a site without a machine")
    };
    let ping = Ping::to(end.ipv4).count(50).interval(Duration::from_millis(100));
    println!("{}# {ping} &", first.name());
    let prosody = &mut world.servers.prosody;
    let report = std::thread::scope(|scope| -> Result<_> {
        let running = scope.spawn(|| ping.run(first));
        std::thread::sleep(Duration::from_secs(1));
        println!("server# kill -KILL {}", prosody.process().pid());
        prosody.kill()?;
        running.join().map_err(|_| anyhow::anyhow!("the ping did not end"))?
    })?;
    println!("{} sent, {} answered", report.sent, report.received);
    ensure!(report.received == report.sent, "the tunnels did not outlive the server");
    for switch in switches.iter_mut() {
        switch.wait_for("tried again")?;
        switch.show_log();
    }
    flow(world, 3)
}

fn title(text: &str) {
    println!("\n== {text}\n");
}

fn show_ping(host: &Host, ping: &Ping) -> Result<()> {
    let report = ping.run(host)?;
    let rtt = report.median_rtt_ms().map_or(String::new(), |rtt| format!(", median {rtt:.2} ms"));
    println!("{}# {ping}\n{} sent, {} answered{rtt}", host.name(), report.sent, report.received);
    Ok(())
}
