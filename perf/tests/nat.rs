//! The NATs and the router of the lab, probed with plain UDP sockets: what is tested through them can be trusted only
//! after this. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use ipop_perf::lab::{
    Access, Attached, Internet, InternetOptions, Nat, NatKind, NatOptions, Place, Traffic,
    tools::Ping, wait_until,
};

const SOON: Duration = Duration::from_secs(10);
/// For what must not arrive, after something that was sent later has.
const STRAGGLERS: Duration = Duration::from_millis(50);
const PORT: u16 = 5800;

/// A UDP socket in a namespace.
struct Socket {
    socket: UdpSocket,
    address: SocketAddrV4,
}

impl Socket {
    fn bind(at: &Attached, port: u16) -> Self {
        let socket = at.host.enter(|| UdpSocket::bind((at.ipv4, port))).unwrap().unwrap();
        let SocketAddr::V4(address) = socket.local_addr().unwrap() else { panic!("IPv4") };
        Self { socket, address }
    }

    fn send(&self, to: SocketAddrV4, text: &str) {
        self.socket.send_to(text.as_bytes(), to).unwrap();
    }

    fn receive(&self, limit: Duration) -> Option<(String, SocketAddrV4)> {
        let mut packet = [0; 64];
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let (len, from) = self.socket.recv_from(&mut packet).ok()?;
        let SocketAddr::V4(from) = from else { panic!("IPv4") };
        Some((String::from_utf8_lossy(&packet[..len]).into_owned(), from))
    }

    /// Sends to this socket and says from where it came.
    fn seen_by(&self, outside: &Socket) -> SocketAddrV4 {
        self.send(outside.address, "hello");
        let (text, from) = outside.receive(SOON).expect("an outbound packet arrives");
        assert_eq!(text, "hello");
        from
    }

    /// What arrives up to this text, which has been sent, and shortly after; without the text.
    fn received_before(&self, last: &str) -> BTreeSet<String> {
        let mut texts = BTreeSet::new();
        while !texts.contains(last) {
            let (text, _) = self.receive(SOON).unwrap_or_else(|| panic!("{last:?}, {texts:?}"));
            texts.insert(text);
        }
        while let Some((text, _)) = self.receive(STRAGGLERS) {
            texts.insert(text);
        }
        texts.remove(last);
        texts
    }
}

fn internet(label: &str, options: InternetOptions) -> Internet {
    Internet::new(label, options).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Two machines outside with two sockets on the first: what tells the kinds apart.
struct Outside {
    known: Socket,
    other_port: Socket,
    other_address: Socket,
}

impl Outside {
    fn new(internet: &Internet) -> Self {
        let machine = |name| internet.machine(name, Place::Internet).unwrap();
        let (first, second) = (machine("outside1"), machine("outside2"));
        Self {
            known: Socket::bind(&first, 3478),
            other_port: Socket::bind(&first, 3479),
            other_address: Socket::bind(&second, 3478),
        }
    }

    /// Who gets in to a socket that has sent to `known` alone and appears as `mapped`.
    fn admitted(&self, inside: &Socket, mapped: SocketAddrV4) -> BTreeSet<String> {
        self.other_address.send(mapped, "other address");
        self.other_port.send(mapped, "other port");
        self.known.send(mapped, "known");
        inside.received_before("known")
    }
}

/// Whether a socket appears as the same to everybody, who else gets in, and how its NAT's outside answers ICMP.
fn probe(label: &str, access: Access) -> (bool, BTreeSet<String>) {
    let internet = internet(label, InternetOptions::new());
    let outside = Outside::new(&internet);
    let site = internet.site("inside", access).unwrap();
    let inside = Socket::bind(&site.machine, PORT);
    let mapped = inside.seen_by(&outside.known);
    assert_eq!(*mapped.ip(), site.public_ipv4());
    let admitted = outside.admitted(&inside, mapped);
    // Only now: these would have admitted the others.
    let others = [&outside.other_port, &outside.other_address].map(|o| inside.seen_by(o));
    assert_eq!(inside.seen_by(&outside.known), mapped, "the same flow keeps its mapping");
    assert!(others.iter().all(|other| *other.ip() == site.public_ipv4()));
    let independent = others.iter().all(|other| *other == mapped);
    assert!(independent || others.iter().all(|other| *other != mapped), "{others:?} {mapped}");
    let ping = Ping::to(site.public_ipv4()).run(internet.router()).unwrap();
    assert_eq!(ping.received, 0, "the outside of a NAT is silent");
    (independent, admitted)
}

fn texts<const N: usize>(of: [&str; N]) -> BTreeSet<String> {
    of.into_iter().map(String::from).collect()
}

#[test]
fn full_cone() {
    let found = probe("fullcone", Access::Nat(NatOptions::new(NatKind::FullCone)));
    assert_eq!(found, (true, texts(["other address", "other port"])));
}

#[test]
fn address_restricted() {
    let found = probe("address", Access::Nat(NatOptions::new(NatKind::AddressRestricted)));
    assert_eq!(found, (true, texts(["other port"])));
}

#[test]
fn port_restricted() {
    let found = probe("port", Access::Nat(NatOptions::new(NatKind::PortRestricted)));
    assert_eq!(found, (true, texts([])));
}

#[test]
fn symmetric() {
    let found = probe("symmetric", Access::Nat(NatOptions::new(NatKind::Symmetric)));
    assert_eq!(found, (false, texts([])));
}

#[test]
fn of_two_nats_the_stricter_one_counts() {
    let both = |outer, inner| Access::DoubleNat {
        outer: NatOptions::new(outer),
        inner: NatOptions::new(inner),
    };
    use NatKind::{AddressRestricted, FullCone, PortRestricted, Symmetric};
    let found = probe("double1", both(AddressRestricted, FullCone));
    assert_eq!(found, (true, texts(["other port"])));
    let found = probe("double2", both(FullCone, PortRestricted));
    assert_eq!(found, (true, texts([])));
    let found = probe("double3", both(PortRestricted, Symmetric));
    assert_eq!(found, (false, texts([])));
}

/// Two machines behind one NAT that talk from the same port, and what they appear as.
struct Neighbours {
    internet: Internet,
    nat: Nat,
    outside: Outside,
    sockets: [Socket; 2],
    mapped: [SocketAddrV4; 2],
}

fn neighbours(label: &str, options: NatOptions) -> Neighbours {
    let internet = internet(label, InternetOptions::new());
    let outside = Outside::new(&internet);
    let nat = internet.nat("nat", options, Place::Internet).unwrap();
    let sockets = ["a", "b"]
        .map(|name| Socket::bind(&internet.machine(name, Place::Behind(&nat)).unwrap(), PORT));
    let mapped = sockets.each_ref().map(|socket| socket.seen_by(&outside.known));
    Neighbours { internet, nat, outside, sockets, mapped }
}

#[test]
fn two_machines_on_the_same_port_are_told_apart() {
    for kind in NatKind::ALL {
        let Neighbours { internet, outside, sockets, mapped, .. } =
            neighbours("sameport", NatOptions::new(kind));
        assert_ne!(mapped[0], mapped[1], "{kind:?}");
        // Also when they talk to different ones: conntrack alone would give both the same port here.
        let apart =
            [sockets[0].seen_by(&outside.other_port), sockets[1].seen_by(&outside.other_address)];
        assert_ne!(apart[0], apart[1], "{kind:?}");
        outside.known.send(mapped[0], "to a");
        outside.known.send(mapped[1], "to b");
        assert_eq!(sockets[0].received_before("to a"), texts([]), "{kind:?}");
        assert_eq!(sockets[1].received_before("to b"), texts([]), "{kind:?}");
        drop(internet);
    }
}

#[test]
fn clients_reach_each_other_unless_they_are_isolated() {
    let together = neighbours("together", NatOptions::new(NatKind::PortRestricted));
    let [a, b] = &together.sockets;
    a.send(b.address, "directly");
    assert_eq!(b.receive(SOON).unwrap(), ("directly".into(), a.address));
    let isolated =
        neighbours("isolated", NatOptions::new(NatKind::PortRestricted).isolated_clients());
    let [a, b] = &isolated.sockets;
    a.send(b.address, "directly");
    isolated.outside.known.send(isolated.mapped[1], "from outside");
    assert_eq!(b.received_before("from outside"), texts([]));
    drop((together.internet, isolated.internet));
}

#[test]
fn hairpin() {
    for kind in [NatKind::FullCone, NatKind::AddressRestricted, NatKind::PortRestricted] {
        let pair = neighbours("hairpin", NatOptions::new(kind).hairpin().isolated_clients());
        let [a, b] = &pair.sockets;
        let [mapped_a, mapped_b] = pair.mapped;
        a.send(mapped_b, "a first");
        pair.outside.known.send(mapped_b, "from outside");
        let early = b.received_before("from outside");
        let expected = if kind == NatKind::FullCone { texts(["a first"]) } else { texts([]) };
        assert_eq!(early, expected, "{kind:?}: filtered like anybody from outside");
        b.send(mapped_a, "b to a");
        assert_eq!(a.receive(SOON).unwrap(), ("b to a".into(), mapped_b), "{kind:?}");
        a.send(mapped_b, "a to b");
        assert_eq!(b.receive(SOON).unwrap(), ("a to b".into(), mapped_a), "{kind:?}");
        assert_eq!(a.seen_by(&pair.outside.other_address), mapped_a, "{kind:?}");
    }
}

#[test]
fn no_hairpin_unless_asked_for() {
    let pair = neighbours("nohairpin", NatOptions::new(NatKind::FullCone));
    let [a, b] = &pair.sockets;
    b.send(pair.mapped[0], "opens");
    a.send(pair.mapped[1], "a to b");
    pair.outside.known.send(pair.mapped[1], "from outside");
    assert_eq!(b.received_before("from outside"), texts([]));
    // Nor an error: a connected socket would be told of one.
    let connected = a.socket.try_clone().unwrap();
    connected.connect(pair.mapped[1]).unwrap();
    connected.send(b"once more").unwrap();
    assert!(a.receive(STRAGGLERS).is_none());
    connected.send(b"and no error from the last one").unwrap();
}

/// Whoever comes first is dropped, and that must not harm the flow that the answer opens.
#[test]
fn simultaneous_open() {
    let internet = internet("open", InternetOptions::new());
    let server = Socket::bind(&internet.machine("server", Place::Internet).unwrap(), 3478);
    let kinds = [NatKind::PortRestricted, NatKind::PortRestricted, NatKind::AddressRestricted];
    let sockets: Vec<_> = kinds
        .iter()
        .zip(["a", "b", "c"])
        .map(|(&kind, name)| {
            let site = internet.site(name, Access::Nat(NatOptions::new(kind))).unwrap();
            Socket::bind(&site.machine, PORT)
        })
        .collect();
    let mapped: Vec<_> = sockets.iter().map(|socket| socket.seen_by(&server)).collect();
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        // From the second's view this comes out of nowhere; more than once, as checks do.
        for _ in 0..3 {
            sockets[a].send(mapped[b], "too early");
        }
        server.send(mapped[b], "server");
        assert_eq!(sockets[b].received_before("server"), texts([]));
        sockets[b].send(mapped[a], "answer");
        assert_eq!(sockets[a].receive(SOON).unwrap(), ("answer".into(), mapped[b]));
        sockets[a].send(mapped[b], "now");
        assert_eq!(sockets[b].receive(SOON).unwrap(), ("now".into(), mapped[a]));
    }
}

/// What nobody asked for is dropped without a word: an ICMP error would end the far side's attempt.
#[test]
fn the_outside_gives_no_errors() {
    let internet = internet("silent", InternetOptions::new());
    let site = internet.site("a", Access::Nat(NatOptions::new(NatKind::PortRestricted))).unwrap();
    let outside = internet.machine("outside", Place::Internet).unwrap();
    let socket = Socket::bind(&outside, 0);
    for port in [PORT, 20_000, 9] {
        socket.socket.connect((site.public_ipv4(), port)).unwrap();
        socket.socket.send(b"anybody?").unwrap();
        assert!(socket.receive(STRAGGLERS).is_none());
        socket.socket.send(b"an error would be reported here").unwrap();
    }
}

#[test]
fn mappings_expire_unless_they_are_used() {
    let options = NatOptions::new(NatKind::FullCone).mapping_timeout_s(2);
    let pair = neighbours("expiry", options);
    let [used, unused] = &pair.sockets;
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert_eq!(used.seen_by(&pair.outside.known), pair.mapped[0]);
        std::thread::sleep(Duration::from_millis(200));
    }
    pair.outside.known.send(pair.mapped[1], "expired");
    let renewed = unused.seen_by(&pair.outside.known);
    assert_ne!(renewed, pair.mapped[1]);
    pair.outside.known.send(renewed, "renewed");
    assert_eq!(unused.received_before("renewed"), texts([]));
}

#[test]
fn a_restarted_nat_has_forgotten_everything() {
    for kind in NatKind::ALL {
        let pair = neighbours("restart", NatOptions::new(kind));
        let [a, b] = &pair.sockets;
        pair.nat.restart().unwrap();
        pair.outside.known.send(pair.mapped[0], "forgotten");
        // The other way round: ports are counted up from the first again.
        let renewed = [b, a].map(|socket| socket.seen_by(&pair.outside.known));
        assert_ne!(renewed[1], pair.mapped[0], "{kind:?}");
        pair.outside.known.send(renewed[1], "renewed");
        assert_eq!(a.received_before("renewed"), texts([]), "{kind:?}");
    }
}

#[test]
fn tcp_and_ping_pass_from_the_inside() {
    let internet = internet("tcp", InternetOptions::new());
    let outside = internet.machine("outside", Place::Internet).unwrap();
    let listener = outside.host.enter(|| TcpListener::bind((outside.ipv4, 80))).unwrap().unwrap();
    for (kind, name) in NatKind::ALL.into_iter().zip(["a", "b", "c", "d"]) {
        let site = internet.site(name, Access::Nat(NatOptions::new(kind))).unwrap();
        Ping::to(outside.ipv4).run(site.host()).unwrap().expect_no_loss().unwrap();
        let mut stream =
            site.host().enter(|| TcpStream::connect((outside.ipv4, 80))).unwrap().unwrap();
        let (mut accepted, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), site.public_ipv4());
        accepted.write_all(b"welcome").unwrap();
        let mut text = [0; 7];
        stream.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"welcome");
    }
}

#[test]
fn the_stated_delay_is_the_whole_delay() {
    let one_way = Duration::from_millis(20);
    let internet = internet("far", InternetOptions::new().one_way_delay(one_way).ipv6());
    let server = internet.machine("server", Place::Internet).unwrap();
    let home = Access::Nat(NatOptions::new(NatKind::PortRestricted));
    let site = internet.site("a", home).unwrap();
    let least = |ping: Ping, of: &Attached| {
        let report = ping.count(3).run(&of.host).unwrap().expect_no_loss().unwrap();
        report.rtts_ms.iter().copied().fold(f64::MAX, f64::min)
    };
    let rtt_ms = least(Ping::to(server.ipv4), &site.machine);
    assert!((40.0..60.0).contains(&rtt_ms), "{rtt_ms}");
    let other = internet.machine("other", Place::Internet).unwrap();
    let rtt_ms = least(Ping::to(server.ipv6.unwrap()), &other);
    assert!((40.0..60.0).contains(&rtt_ms), "{rtt_ms}");
    // Behind the NAT there is no delay.
    let rtt_ms = least(Ping::to(site.nats[0].gateway()), &site.machine);
    assert!(rtt_ms < 20.0, "{rtt_ms}");
    internet.impair(&server, |both| both.loss = 1.0).unwrap();
    assert_eq!(Ping::to(server.ipv4).run(&site.machine.host).unwrap().received, 0);
    assert!(internet.impair(&site.machine, |_| ()).is_err(), "this one is not a wire");
}

#[test]
fn the_router_cuts_what_it_is_told_to() {
    let internet = internet("cuts", InternetOptions::new());
    let relay = Socket::bind(&internet.machine("relay", Place::Internet).unwrap(), 3478);
    let site = |name| internet.site(name, Access::Nat(NatOptions::new(NatKind::FullCone))).unwrap();
    let sites = [site("a"), site("b")];
    let [a, b] = sites.each_ref().map(|site| Socket::bind(&site.machine, PORT));
    let [mapped_a, mapped_b] = [&a, &b].map(|socket| socket.seen_by(&relay));
    let [at_a, at_b] = sites.each_ref().map(|site| site.public_ipv4());

    internet.cut(at_a, at_b, Traffic::Udp).unwrap();
    for (from, to, address) in [(&a, &b, mapped_b), (&b, &a, mapped_a)] {
        from.send(address, "cut");
        relay.send(address, "relay");
        assert_eq!(to.received_before("relay"), texts([]));
        assert_eq!(from.seen_by(&relay), if address == mapped_b { mapped_a } else { mapped_b });
    }
    internet.heal(at_a, at_b, Traffic::Udp).unwrap();
    assert!(internet.heal(at_a, at_b, Traffic::Udp).is_err(), "healed already");
    a.send(mapped_b, "healed");
    assert_eq!(b.receive(SOON).unwrap(), ("healed".into(), mapped_a));

    let (there, ping) = (relay.address.ip(), Ping::to(*relay.address.ip()));
    internet.cut(*there, at_a, Traffic::All).unwrap();
    assert_eq!(ping.run(sites[0].host()).unwrap().received, 0);
    ping.run(sites[1].host()).unwrap().expect_no_loss().unwrap();
}

#[test]
fn a_machine_moves() {
    for options in
        [InternetOptions::new(), InternetOptions::new().one_way_delay(Duration::from_millis(2))]
    {
        let internet = internet("moves", options);
        let server = internet.machine("server", Place::Internet).unwrap();
        let nat = NatOptions::new(NatKind::PortRestricted);
        let nat = internet.nat("nat", nat, Place::Internet).unwrap();
        let first = internet.machine("a", Place::Internet).unwrap();
        let ping = Ping::to(server.ipv4);
        ping.run(&first.host).unwrap().expect_no_loss().unwrap();
        internet.detach(&first).unwrap();
        assert!(!first.host.has_interface(&first.interface));
        let second = internet.attach(&first.host, Place::Behind(&nat)).unwrap();
        assert_ne!(first.ipv4, second.ipv4);
        ping.run(&first.host).unwrap().expect_no_loss().unwrap();
        internet.detach(&second).unwrap();
        let third = internet.attach(&first.host, Place::Internet).unwrap();
        let works = || ping.run(&third.host).unwrap().received > 0;
        assert!(wait_until(SOON, works));
        assert_ne!(first.ipv4, third.ipv4);
    }
}

#[test]
fn a_nat_gets_another_address() {
    let pair = neighbours("renumber", NatOptions::new(NatKind::PortRestricted));
    let before = pair.nat.wan().ipv4;
    pair.internet.move_nat(&pair.nat, Place::Internet).unwrap();
    let after = pair.nat.wan().ipv4;
    assert_ne!(before, after);
    for socket in &pair.sockets {
        assert_eq!(*socket.seen_by(&pair.outside.known).ip(), after);
    }
    // Now it is a client's of another one.
    let carrier = NatOptions::new(NatKind::FullCone);
    let carrier = pair.internet.nat("carrier", carrier, Place::Internet).unwrap();
    pair.internet.move_nat(&pair.nat, Place::Behind(&carrier)).unwrap();
    let seen = pair.sockets[0].seen_by(&pair.outside.known);
    assert_eq!(*seen.ip(), carrier.wan().ipv4);
    pair.outside.known.send(seen, "answer");
    assert_eq!(pair.sockets[0].received_before("answer"), texts([]));
}

#[test]
fn addresses_are_predictable() {
    let internet = internet("addresses", InternetOptions::new().ipv6());
    let server = internet.machine("server", Place::Internet).unwrap();
    assert_eq!(server.ipv4, Ipv4Addr::new(198, 18, 1, 2));
    assert_eq!(server.ipv6, Some("2001:db8:1::2".parse().unwrap()));
    let nat = NatOptions::new(NatKind::FullCone);
    let access = Access::DoubleNat { outer: nat, inner: nat.lan(77) };
    let site = internet.site("a", access).unwrap();
    assert_eq!(site.public_ipv4(), Ipv4Addr::new(198, 18, 2, 2));
    assert_eq!(site.nats[0].gateway(), Ipv4Addr::new(192, 168, 1, 1));
    assert_eq!(site.nats[1].wan().ipv4, Ipv4Addr::new(192, 168, 1, 2));
    assert_eq!(site.machine.ipv4, Ipv4Addr::new(192, 168, 77, 2));
    assert_eq!(site.machine.ipv6, None);
}
