//! docs/examples/tincan.py: requests as the controllers of IPOP and Evio send them make, ask about and remove links of real switches. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    net::UdpSocket,
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use ipop_perf::lab::{Host, Lab, LinkOptions, Process, tools::Ping, wait_until};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind,
    listen, recv, send, socket_with, sockopt,
};
use serde_json::{Value, json};

use self::common::{SOON, Site, TAP, api, inner, switch};

mod common;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/tincan.py");

/// Two hosts on a cable with a switch each, that a controller drives.
fn two_switches(label: &str) -> ([(Site, PathBuf); 2], Lab) {
    let lab = common::lab(label);
    let hosts = ["a", "b"].map(|name| lab.host(name).unwrap());
    lab.link(&hosts[0], &hosts[1], LinkOptions::new()).unwrap();
    let mut number = 0;
    let sites = hosts.map(|host| {
        let socket = lab.dir().join(format!("{}.sock", host.name()));
        let mut node = switch(&lab, &host);
        node.args(&["--controller", "external", "--api", socket.to_str().unwrap()]);
        node.address(&format!("{}/24", inner(number)));
        number += 1;
        let site = Site::start(node);
        api::wait_for(&socket);
        (site, socket)
    });
    (sites, lab)
}

/// A controller of a kind: sends requests, and reads answers and what it did not ask.
trait Controller {
    fn say(&self, message: &Value);
    /// The next message; none within the time.
    fn hear(&self) -> Option<Value>;
    fn request(&self, transaction: u32, request: &Value) -> Value;
    fn host(&self) -> &Host;
    fn told(&self) -> String;

    /// Asks, and gives back whether it was done and the message. What came unasked meanwhile is added to the list.
    fn ask(&self, unasked: &mut Vec<Value>, request: Value) -> (bool, Value) {
        let transaction = 1000 + unasked.len() as u32;
        self.say(&self.request(transaction, &request));
        loop {
            let message = self.hear();
            let message =
                message.unwrap_or_else(|| panic!("{request}: no answer\n{}", self.told()));
            if message["ControlType"].as_str().unwrap().ends_with("Response") {
                assert_eq!(message["TransactionId"], transaction);
                assert_eq!(message["Request"], request);
                let response = &message["Response"];
                return (response["Success"].as_bool().unwrap(), response["Message"].clone());
            }
            unasked.push(message["Request"].clone());
        }
    }

    /// The same, and it must be done.
    fn done(&self, unasked: &mut Vec<Value>, request: Value) -> Value {
        let (is_done, message) = self.ask(unasked, request.clone());
        assert!(is_done, "{request}: {message}\n{}", self.told());
        message
    }

    /// Waits until it is told this unasked.
    fn expect(&self, unasked: &mut Vec<Value>, what: &Value) {
        let until = Instant::now() + SOON;
        while !unasked.contains(what) {
            assert!(Instant::now() < until, "{what} is not among {unasked:?}\n{}", self.told());
            unasked.extend(self.hear().map(|message| message["Request"].clone()));
        }
    }
}

/// IPOP's: UDP, and everything within one key.
struct Ipop {
    socket: UdpSocket,
    host: Host,
    program: Process,
}

impl Ipop {
    fn start((site, api): &(Site, PathBuf)) -> Self {
        let host = site.host().clone();
        host.ip(&["link", "set", "lo", "up"]).unwrap();
        let line = [EXAMPLE, "--udp", "127.0.0.1:5805", "--socket", api.to_str().unwrap()];
        let mut program = host.spawn("python3", line).unwrap();
        program.wait_for_line("listening", SOON).unwrap();
        let socket = host.enter(|| UdpSocket::bind("127.0.0.1:5801")).unwrap().unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, host, program }
    }
}

impl Controller for Ipop {
    fn say(&self, message: &Value) {
        self.socket.send_to(message.to_string().as_bytes(), "127.0.0.1:5805").unwrap();
    }

    fn hear(&self) -> Option<Value> {
        let mut packet = vec![0; 65_535];
        let len = self.socket.recv(&mut packet).ok()?;
        let mut message: Value = serde_json::from_slice(&packet[..len]).unwrap();
        let mut message = message["IPOP"].take();
        assert_eq!(message["ProtocolVersion"], 5);
        let is_named = message["ControlType"].as_str().unwrap().starts_with("Tincan");
        assert!(is_named, "{message}");
        Some(message.take())
    }

    fn request(&self, transaction: u32, request: &Value) -> Value {
        json!({ "IPOP": {
            "ProtocolVersion": 5, "TransactionId": transaction, "ControlType": "TincanRequest", "Request": request,
        }})
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn told(&self) -> String {
        self.program.stderr()
    }
}

/// Evio's: it listens in the abstract namespace, and starts the program for a tunnel.
struct Evio {
    connection: OwnedFd,
    host: Host,
    program: Process,
}

impl Evio {
    fn start((site, api): &(Site, PathBuf)) -> Self {
        let host = site.host().clone();
        let listener = host.enter(|| {
            let flags = SocketFlags::CLOEXEC;
            let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
            bind(&fd, &SocketAddrUnix::new_abstract_name(b"evio").unwrap()).unwrap();
            listen(&fd, 1).unwrap();
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(SOON)).unwrap();
            fd
        });
        let line = [EXAMPLE, "-s", "evio", "-t", "tunnel", "-l", "{}", "--socket"];
        let line = line.into_iter().chain([api.to_str().unwrap()]);
        let program = host.spawn("python3", line).unwrap();
        let connection = accept(listener.unwrap()).unwrap();
        sockopt::set_socket_timeout(&connection, sockopt::Timeout::Recv, Some(SOON)).unwrap();
        let evio = Self { connection, host, program };
        let registration = evio.hear().unwrap();
        let expected = json!({ "Command": "RegisterDataplane", "SessionId": evio.program.pid() });
        assert_eq!(registration["Request"], expected);
        evio
    }
}

impl Controller for Evio {
    fn say(&self, message: &Value) {
        let text = message.to_string();
        for packet in [&(text.len() as u16).to_ne_bytes()[..], text.as_bytes()] {
            send(&self.connection, packet, SendFlags::empty()).unwrap();
        }
    }

    fn hear(&self) -> Option<Value> {
        let mut packet = vec![0; 65_535];
        let (len, _) = recv(&self.connection, &mut packet[..2], RecvFlags::empty()).ok()?;
        assert_eq!(len, 2, "{}", self.told());
        let declared = u16::from_ne_bytes([packet[0], packet[1]]);
        let (len, _) = recv(&self.connection, &mut packet[..], RecvFlags::empty()).ok()?;
        assert_eq!(len, usize::from(declared));
        let message: Value = serde_json::from_slice(&packet[..len]).unwrap();
        assert_eq!(message["ProtocolVersion"], 7);
        Some(message)
    }

    fn request(&self, transaction: u32, request: &Value) -> Value {
        json!({ "ProtocolVersion": 7, "TransactionId": transaction, "ControlType": "Request", "Request": request })
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn told(&self) -> String {
        self.program.stderr()
    }
}

/// Makes the tunnel at both ends and the link between them, in the order of Evio's LinkManager, and gives back what was told unasked.
fn connect(a: &impl Controller, b: &impl Controller, ids: &Value) -> [Vec<Value>; 2] {
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    let with = |more: Value| merged(ids, &more);
    let create = with(json!({ "Command": "CreateTunnel", "NodeId": "aa", "TapName": TAP,
        "StunServers": [], "TurnServers": [], "IgnoredNetInterfaces": [TAP], "Type": "" }));
    let own = a.done(&mut at_a, create);
    assert_eq!(own["TapName"], TAP);
    assert_eq!(own["MAC"].as_str().unwrap().len(), 12, "{own}");
    let link = |peer: Value| {
        with(json!({ "Command": "CreateLink", "LinkId": "link", "NodeId": "aa", "TapName": TAP,
            "StunServers": [], "TurnServers": [], "IgnoredNetInterfaces": [],
            "PeerInfo": peer }))
    };
    // The other end makes its tunnel at the first request for a link, which has no candidates.
    let peer = json!({ "UID": "aa", "MAC": own["MAC"], "CAS": null, "FPR": own["FPR"] });
    let far = b.done(&mut at_b, link(peer));
    let peer = json!({ "UID": "bb", "MAC": far["MAC"], "CAS": far["CAS"], "FPR": far["FPR"] });
    let near = a.done(&mut at_a, link(peer));
    assert_eq!(near["FPR"], own["FPR"]);
    let peer = json!({ "UID": "aa", "MAC": near["MAC"], "CAS": near["CAS"], "FPR": near["FPR"] });
    b.done(&mut at_b, link(peer));
    [at_a, at_b]
}

fn merged(a: &Value, b: &Value) -> Value {
    let fields = [a, b].into_iter().flat_map(|object| object.as_object().unwrap().clone());
    Value::Object(fields.collect())
}

fn reaches(from: &impl Controller, to: usize) -> bool {
    Ping::to(inner(to)).run(from.host()).is_ok_and(|report| report.received > 0)
}

/// What is told of a link.
fn check_stats(link: &Value) {
    assert_eq!(link["Status"], "ONLINE", "{link}");
    assert!(["controlling", "controlled"].contains(&link["IceRole"].as_str().unwrap()), "{link}");
    let pairs = link["Stats"].as_array().unwrap();
    let best = pairs.iter().find(|pair| pair["best_conn"] == true);
    let best = best.unwrap_or_else(|| panic!("no pair is used: {link}"));
    assert_eq!(best["writable"], true, "{best}");
    for counter in ["sent_total_bytes", "recv_total_packets", "recv_ping_responses"] {
        assert!(best[counter].as_u64().unwrap() > 0, "{counter}: {best}");
    }
    for candidate in ["local_candidate", "remote_candidate"] {
        let fields: Vec<_> = best[candidate].as_str().unwrap().split(':').collect();
        assert!(fields.len() >= 10 && fields[7] == "host", "{best}");
    }
}

#[test]
fn a_controller_of_ipop_is_answered_as_by_tincan() {
    let (sites, _lab) = two_switches("ipop5");
    let [a, b] = sites.each_ref().map(Ipop::start);
    let mut none = Vec::new();
    for end in [&a, &b] {
        let answers = json!({ "Command": "CreateCtrlRespLink", "AddressFamily": "af_inet",
            "Protocol": "proto_datagram", "IP": "127.0.0.1", "Port": 5801 });
        end.done(&mut none, answers);
        let echo = json!({ "Command": "Echo", "InterfaceName": TAP, "Message": "ECHO TEST" });
        assert_eq!(end.done(&mut none, echo), "ECHO TEST");
        end.done(&mut none, json!({ "Command": "ConfigureLogging", "Level": "DEBUG", "Device": "All",
            "Directory": "./logs/", "Filename": "tincan_log", "MaxArchives": 10, "MaxFileSize": 1048576,
            "ConsoleLevel": "DEBUG" }));
    }
    let status = api::call(&sites[0].1, "status.get", json!({})).unwrap();
    assert_eq!(status["log_level"], "debug");
    let ids = json!({ "OverlayId": "overlay", "TunnelId": "tunnel" });
    let [mut at_a, mut at_b] = connect(&a, &b, &ids);
    let up = merged(
        &ids,
        &json!({ "Command": "LinkStateChange", "LinkId": "link", "Data": "LINK_STATE_UP" }),
    );
    a.expect(&mut at_a, &up);
    b.expect(&mut at_b, &up);
    assert!(wait_until(SOON, || reaches(&a, 1)));
    let info =
        json!({ "Command": "QueryOverlayInfo", "OverlayId": "overlay", "TunnelId": "tunnel" });
    let info = a.done(&mut at_a, info);
    assert_eq!(info["LinkIds"], json!(["link"]));
    let candidates =
        json!({ "Command": "QueryCandidateAddressSet", "OverlayId": "", "LinkId": "link" });
    let candidates = a.done(&mut at_a, candidates)["CAS"].clone();
    let description: Value = serde_json::from_str(candidates.as_str().unwrap()).unwrap();
    assert_eq!(description["node"], info["FPR"]);
    let stats = json!({ "Command": "QueryLinkStats", "TunnelIds": ["tunnel", "unknown"] });
    check_stats(&a.done(&mut at_a, stats)["tunnel"]["link"]);
    let message = json!({ "Command": "SendIcc", "OverlayId": "overlay", "TunnelId": "tunnel", "LinkId": "link", "Data": "grüße" });
    a.done(&mut at_a, message);
    b.expect(
        &mut at_b,
        &merged(&ids, &json!({ "Command": "ICC", "LinkId": "link", "Data": "grüße" })),
    );
    for (command, words) in [
        ("InjectFrame", "no counterpart"),
        ("UpdateMap", "no counterpart"),
        ("SetIgnoredNetInterfaces", "no counterpart"),
    ] {
        let (is_done, text) =
            a.ask(&mut at_a, json!({ "Command": command, "OverlayId": "overlay", "Data": "ff" }));
        assert!(!is_done && text.as_str().unwrap().contains(words), "{text}");
    }
    a.done(&mut at_a, json!({ "Command": "RemoveLink", "OverlayId": "overlay", "LinkId": "link" }));
    let down = merged(
        &ids,
        &json!({ "Command": "LinkStateChange", "LinkId": "link", "Data": "LINK_STATE_DOWN" }),
    );
    b.expect(&mut at_b, &down);
    assert_eq!(api::call(&sites[0].1, "links.list", json!({})).unwrap()["links"], json!([]));
    b.done(
        &mut at_b,
        json!({ "Command": "RemoveOverlay", "OverlayId": "overlay", "TunnelId": "tunnel" }),
    );
    assert_eq!(api::call(&sites[1].1, "links.list", json!({})).unwrap()["links"], json!([]));
    let (is_done, text) =
        b.ask(&mut at_b, json!({ "Command": "QueryOverlayInfo", "TunnelId": "tunnel" }));
    assert!(!is_done && text.as_str().unwrap().contains("no tunnel"), "{text}");
}

#[test]
fn a_controller_of_evio_is_answered_as_by_tincan() {
    let (sites, _lab) = two_switches("evio7");
    let [a, mut b] = sites.each_ref().map(Evio::start);
    let ids = json!({ "TunnelId": "tunnel" });
    let [mut at_a, mut at_b] = connect(&a, &b, &ids);
    let connected = merged(&ids, &json!({ "Command": "LinkConnected", "LinkId": "link" }));
    a.expect(&mut at_a, &connected);
    b.expect(&mut at_b, &connected);
    assert!(wait_until(SOON, || reaches(&a, 1)));
    let echo = json!({ "Command": "Echo", "Message": "tunnel" });
    assert_eq!(a.done(&mut at_a, echo), "tunnel");
    let stats = a.done(&mut at_a, json!({ "Command": "QueryLinkStats", "TunnelId": "tunnel" }));
    assert_eq!((&stats["TunnelId"], &stats["LinkId"]), (&json!("tunnel"), &json!("link")));
    check_stats(&stats);
    a.done(&mut at_a, json!({ "Command": "QueryCandidateAddressSet", "TunnelId": "tunnel" }));
    // A TAP that is not there is made, and goes with its tunnel.
    let taps = || {
        let mut ports = api::call(&sites[0].1, "ports.list", json!({})).unwrap();
        let ports: Vec<Value> = serde_json::from_value(ports["ports"].take()).unwrap();
        ports.iter().map(|port| port["name"].clone()).collect::<Vec<_>>()
    };
    let second = json!({ "Command": "CreateTunnel", "TunnelId": "second", "TapName": "ipop7" });
    assert_eq!(a.done(&mut at_a, second)["MAC"].as_str().unwrap().len(), 12);
    assert_eq!(taps(), [TAP, "ipop7"]);
    a.done(&mut at_a, json!({ "Command": "RemoveTunnel", "TunnelId": "second" }));
    assert!(wait_until(SOON, || taps() == [TAP]), "{:?}", taps());
    // With what makes no sense nothing ends.
    a.say(&json!({ "Request": 5 }));
    a.say(&json!([]));
    let (is_done, text) =
        a.ask(&mut at_a, json!({ "Command": "CreateLink", "TunnelId": "tunnel" }));
    assert!(!is_done && text.as_str().unwrap().contains("no sense"), "{text}");
    let link = json!({ "Command": "CreateLink", "TunnelId": "tunnel", "LinkId": "other",
        "PeerInfo": { "UID": "cc", "MAC": "", "CAS": "", "FPR": "sha-256 AA:BB" } });
    let (is_done, text) = a.ask(&mut at_a, link);
    assert!(!is_done && text.as_str().unwrap().contains("sha-256"), "{text}");
    // A tunnel ends with its process.
    b.program.terminate().unwrap();
    a.expect(&mut at_a, &merged(&ids, &json!({ "Command": "LinkDisconnected", "LinkId": "link" })));
    let listed = || api::call(&sites[1].1, "links.list", json!({})).unwrap()["links"].clone();
    assert!(wait_until(Duration::from_secs(5), || listed() == json!([])), "{}", b.told());
}
