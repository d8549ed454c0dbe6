//! The servers of the lab answer as real clients expect: Prosody a log-in by hand, coturn its own test client, dnsmasq
//! the resolver. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use ipop_perf::lab::{
    Access, Attached, Internet, InternetOptions, NatKind, NatOptions, Place,
    servers::{
        Coturn, CoturnOptions, Dns, DnsRecords, Prosody, ProsodyOptions, Servers, TlsVersions,
        Validity, XmppServer as _,
    },
    stun,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

const SOON: Duration = Duration::from_secs(20);

/// A server machine and a client machine, both at the router.
fn two_machines(label: &str) -> (Internet, Attached, Attached) {
    let internet =
        Internet::new(label, InternetOptions::new()).unwrap_or_else(|error| panic!("{error:#}"));
    let machine = |name| internet.machine(name, Place::Internet).unwrap();
    let (server, client) = (machine("server"), machine("client"));
    (internet, server, client)
}

fn prosody(internet: &Internet, at: &Attached, options: ProsodyOptions) -> Prosody {
    Prosody::start(internet.lab(), at, options).unwrap_or_else(|error| panic!("{error:#}"))
}

/// An XMPP stream, by hand.
struct Stream<S> {
    stream: S,
    domain: String,
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

impl<S: Read + Write> Stream<S> {
    fn open(stream: S, prosody: &Prosody) -> Self {
        let mut stream = Self { stream, domain: prosody.domain().into() };
        stream.restart();
        stream
    }

    fn restart(&mut self) {
        let domain = &self.domain;
        let header = format!(
            "<stream:stream to='{domain}' version='1.0' xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams'>"
        );
        self.send(&header);
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// Reads up to this text.
    fn read_to(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.contains(end) {
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(len) if len > 0 => text += &String::from_utf8_lossy(&bytes[..len]),
                ended => panic!("{ended:?} while waiting for {end}, after {text}"),
            }
        }
        text
    }

    /// SASL PLAIN; whether the server accepts it.
    fn log_in(&mut self, account: &str, password: &str) -> bool {
        self.read_to("</stream:features>");
        let message = base64(format!("\0{account}\0{password}").as_bytes());
        self.send(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{message}</auth>"
        ));
        self.read_to("xmpp-sasl").contains("<success")
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| {
        let bits = (0..3).fold(0, |bits, n| bits << 8 | usize::from(*three.get(n).unwrap_or(&0)));
        let letter = |n: usize| match n <= three.len() {
            true => char::from(LETTERS[bits >> (18 - 6 * n) & 63]),
            false => '=',
        };
        [0, 1, 2, 3].map(letter)
    };
    bytes.chunks(3).flat_map(group).collect()
}

fn connect(from: &Attached, to: SocketAddr) -> TcpStream {
    let stream = from.host.enter(|| TcpStream::connect_timeout(&to, SOON)).unwrap().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// A handshake of TLS 1.3 that trusts nobody but the server's authority.
fn try_tls(mut stream: TcpStream, prosody: &Prosody) -> Result<Tls, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(prosody.ca_file()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(prosody.domain().to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

fn direct_tls(from: &Attached, prosody: &Prosody) -> Stream<Tls> {
    let tls = try_tls(connect(from, prosody.direct_tls_address()), prosody).unwrap();
    Stream::open(tls, prosody)
}

fn start_tls(from: &Attached, prosody: &Prosody) -> Stream<Tls> {
    let mut plain = Stream::open(connect(from, prosody.address()), prosody);
    let features = plain.read_to("</stream:features>");
    assert!(features.contains("<starttls") && !features.contains("mechanism"), "{features}");
    plain.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert!(plain.read_to("/>").contains("<proceed"));
    Stream::open(try_tls(plain.stream, prosody).unwrap(), prosody)
}

#[test]
fn prosody_lets_accounts_in_and_nobody_else() {
    let (internet, server, client) = two_machines("login");
    let prosody = prosody(&internet, &server, ProsodyOptions::new().accounts(["alice"]));
    let password = prosody.password("alice");
    let mut stream = start_tls(&client, &prosody);
    assert!(stream.log_in("alice", &password));
    stream.restart();
    let features = stream.read_to("</stream:features>");
    assert!(features.contains("xmpp-bind") && features.contains("urn:xmpp:sm:3"), "{features}");
    stream.send("<iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
    assert!(stream.read_to("</iq>").contains("<jid>alice@example.org/"));
    let query = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    stream.send(&format!("<iq type='get' id='2' to='muc.example.org'>{query}</iq>"));
    let rooms = stream.read_to("</iq>");
    assert!(rooms.contains("http://jabber.org/protocol/muc"), "{rooms}");
    assert_eq!(prosody.room("net"), "net@muc.example.org");

    assert!(direct_tls(&client, &prosody).log_in("alice", &password));
    assert!(!direct_tls(&client, &prosody).log_in("alice", "wrong"));
    assert!(!direct_tls(&client, &prosody).log_in("bob.b-1", &prosody.password("bob.b-1")));
    prosody.add_account("bob.b-1").unwrap();
    assert!(direct_tls(&client, &prosody).log_in("bob.b-1", &prosody.password("bob.b-1")));
    let file = prosody.password_file("alice").unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), password);
}

#[test]
fn prosody_stops_dies_and_comes_back() {
    let (internet, server, client) = two_machines("restart");
    let mut prosody = prosody(&internet, &server, ProsodyOptions::new().accounts(["alice"]));
    let password = prosody.password("alice");
    for end in [Prosody::stop, Prosody::kill] {
        let mut stream = direct_tls(&client, &prosody);
        assert!(stream.log_in("alice", &password));
        assert!(prosody.start_again().is_err(), "it runs");
        end(&mut prosody).unwrap();
        let address = prosody.address();
        let refused = client.host.enter(|| TcpStream::connect_timeout(&address, SOON)).unwrap();
        assert!(refused.is_err());
        prosody.start_again().unwrap();
        assert!(direct_tls(&client, &prosody).log_in("alice", &password));
    }
    assert!(prosody.process().stdout().contains("Client connected"));
}

#[test]
fn prosodys_options() {
    let (internet, server, client) = two_machines("options");
    let mechanisms = |options: ProsodyOptions| {
        let mut prosody = prosody(&internet, &server, options);
        let tls = try_tls(connect(&client, prosody.direct_tls_address()), &prosody);
        let features = tls.map(|tls| Stream::open(tls, &prosody).read_to("</stream:features>"));
        prosody.kill().unwrap();
        features.map(|features| {
            let names = features.split("<mechanism>").skip(1).map(|rest| rest.split('<').next());
            names.flatten().map(str::to_owned).collect::<Vec<_>>()
        })
    };
    let names = mechanisms(ProsodyOptions::new()).unwrap();
    assert!(names.contains(&"SCRAM-SHA-1".to_owned()), "{names:?}");
    let names = mechanisms(ProsodyOptions::new().plain_only().limits_as_debian()).unwrap();
    assert_eq!(names, ["PLAIN"]);
    let options = ProsodyOptions::new().tls(TlsVersions::Only1_3).direct_tls_port(443);
    assert!(mechanisms(options.without_stream_management()).is_ok());
    let refused = mechanisms(ProsodyOptions::new().tls(TlsVersions::Only1_2)).unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
}

#[test]
fn certificates_that_must_be_refused() {
    let (internet, server, client) = two_machines("certificates");
    let error = |options: ProsodyOptions| {
        let mut prosody = prosody(&internet, &server, options);
        let stream = connect(&client, prosody.direct_tls_address());
        let error = try_tls(stream, &prosody).err().unwrap().to_string();
        prosody.kill().unwrap();
        error
    };
    let other = ProsodyOptions::new().certificate(["example.net"], Validity::Long);
    let message = error(other);
    assert!(message.contains("not valid for name"), "{message}");
    let expired = ProsodyOptions::new().certificate(["example.org"], Validity::Expired);
    let message = error(expired);
    assert!(message.contains("expired"), "{message}");
}

#[test]
fn coturn_relays_to_those_with_credentials() {
    let (internet, server, client) = two_machines("coturn");
    let mut coturn = Coturn::start(internet.lab(), &server, CoturnOptions::new())
        .unwrap_or_else(|error| panic!("{error:#}"));
    let address = server.ipv4.to_string();
    // Two allocations of its own exchange five packets through the server.
    let relay = |secret: &str| {
        let args = ["-y", "-c", "-n", "5", "-W", secret, "-u", "node", &address];
        let mut process = client.host.spawn("turnutils_uclient", args).unwrap();
        process.wait(SOON).unwrap();
        process.stdout() + &process.stderr()
    };
    let printed = relay(coturn.secret());
    assert!(printed.contains("tot_send_msgs=10, tot_recv_msgs=10"), "{printed}");
    let printed = relay("another secret");
    assert!(printed.contains("Cannot complete Allocation"), "{printed}");

    coturn.kill().unwrap();
    assert!(stun::observed_address(&client.host, coturn.address()).is_err());
    coturn.start_again().unwrap();
    let seen = stun::observed_address(&client.host, coturn.address()).unwrap();
    assert_eq!(seen.ip(), client.ipv4);
}

#[test]
fn servers_are_reached_from_behind_a_nat() {
    let delay = Duration::from_millis(5);
    let internet = Internet::new("servers", InternetOptions::new().one_way_delay(delay))
        .unwrap_or_else(|error| panic!("{error:#}"));
    let servers = Servers::start(&internet, ProsodyOptions::new().accounts(["alice"]))
        .unwrap_or_else(|error| panic!("{error:#}"));
    let access = Access::Nat(NatOptions::new(NatKind::Symmetric));
    let site = internet.site("a", access).unwrap();
    let seen = stun::observed_address(site.host(), servers.coturn.address()).unwrap();
    assert_eq!(seen.ip(), site.public_ipv4());

    let password = servers.prosody.password("alice");
    let mut stream = direct_tls(&site.machine, &servers.prosody);
    assert!(stream.log_in("alice", &password));
    stream.restart();
    stream.read_to("</stream:features>");
    stream.send("<iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
    stream.read_to("</iq>");
    let query = "<services xmlns='urn:xmpp:extdisco:2'/>";
    stream.send(&format!("<iq type='get' id='2' to='example.org'>{query}</iq>"));
    let services = stream.read_to("</iq>");
    let host = format!("host='{}'", servers.machine.ipv4);
    for part in ["type='stun'", "type='turn'", "password='", "port='3478'", &host] {
        assert!(services.contains(part), "{part}: {services}");
    }
}

#[test]
fn services_are_found_in_the_dns() {
    let (internet, server, client) = two_machines("dns");
    let records = DnsRecords::new()
        .address("xmpp.example.org", server.ipv4)
        .service("_xmpp-client._tcp.example.org", "xmpp.example.org", 5222, 10)
        .service("_xmpps-client._tcp.example.org", "xmpp.example.org", 5223, 5);
    let mut dns =
        Dns::start(internet.lab(), &server, &records).unwrap_or_else(|error| panic!("{error:#}"));
    client.host.set_name_server(dns.address()).unwrap();
    let found = client.host.run("getent", ["ahostsv4", "xmpp.example.org"]).unwrap();
    assert!(found.starts_with(&server.ipv4.to_string()), "{found}");
    assert!(client.host.run("getent", ["ahostsv4", "nobody.example.org"]).is_err());
    assert!(dns.process().stderr().contains("xmpp.example.org"));
    let srv = query_srv(&client, dns.address().into(), "_xmpps-client._tcp.example.org");
    assert_eq!(srv, [0, 5, 0, 0, (5223 >> 8) as u8, (5223 & 0xff) as u8]);
}

/// Priority, weight and port of the first answer, as they are on the wire (RFC 2782).
fn query_srv(from: &Attached, server: std::net::IpAddr, name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| {
        std::iter::once(label.len() as u8).chain(label.bytes()).collect::<Vec<_>>()
    });
    let question: Vec<u8> = labels.chain([0, 0, 33, 0, 1]).collect();
    let header = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let query = [&header[..], &question].concat();
    let socket = from.host.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.send_to(&query, (server, 53)).unwrap();
    let mut answer = [0; 512];
    let len = socket.recv(&mut answer).unwrap();
    assert!(answer[7] > 0, "no answer: {:?}", &answer[..len]);
    // The record's name is a pointer of 2 bytes; then type, class, TTL and length.
    let start = query.len() + 2 + 10;
    answer[start..start + 6].to_vec()
}
