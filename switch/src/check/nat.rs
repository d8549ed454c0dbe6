//! The servers that help through NATs, and the NAT: a Binding to each STUN server, an Allocate to each TURN server, and
//! what the answers say of this host's place. From sockets of their own: the switch may run meanwhile.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_control::{
    host::local_addresses::local_addresses,
    ice::{Allocation, Entropy, NatMapping, Probe, TurnServer},
    xmpp::services::{Service, ServiceKind},
};
use ipop_datapath::io::SocketKind;
use tokio::{
    net::{UdpSocket, lookup_host},
    sync::mpsc,
    time::{sleep_until, timeout},
};

use super::Row;
use crate::settings::{Ice, ServerAddress};

const STUN: &str = "STUN";
const TURN: &str = "TURN";
const NAT: &str = "NAT";
/// For a name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// For all servers together: their own time-outs come first.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest packet that is looked at, bytes: STUN stays far below.
const PACKET_LEN: usize = 1_500;

/// Servers by name, before they are resolved.
#[derive(Default)]
struct Named {
    stun: Vec<(String, u16)>,
    turn: Vec<(String, u16, String, String)>,
}

/// STUN, TURN, NAT. What is configured stands in place of what the XMPP server names, which is not known if it was not
/// reached.
pub(super) async fn rows(services: Option<&[Service]>, ice: &Ice) -> Vec<Row> {
    let named = named(services.unwrap_or_default(), ice);
    let is_known = |kind_is_configured: bool| kind_is_configured || services.is_some();
    let unknown = |what| Row::not_tried(what, "needs the XMPP server, which names the servers");
    let mut rows = Vec::new();
    let mut stun = Vec::new();
    for (host, port) in &named.stun {
        match resolve(host, *port).await {
            Ok(addresses) => stun.extend(addresses),
            Err(why) => rows.push(unresolved(STUN, host, &why)),
        }
    }
    let mut turn = Vec::new();
    for (host, port, username, password) in named.turn {
        match resolve(&host, port).await {
            Ok(addresses) => turn.extend(addresses.into_iter().map(|address| TurnServer {
                address,
                username: username.clone(),
                password: password.clone(),
                expires: None,
            })),
            Err(why) => rows.push(unresolved(TURN, &host, &why)),
        }
    }
    let probe = match run(Probe::new(Instant::now(), Entropy::System, &stun, &turn)).await {
        Ok(probe) => probe,
        Err(error) => {
            let cure = "allow UDP sockets";
            rows.push(Row::limited(STUN, format!("cannot open a UDP socket: {error}"), cure));
            return rows;
        }
    };
    let (has_stun, has_turn) = (is_known(!ice.stun.is_empty()), is_known(!ice.turn.is_empty()));
    rows.extend(if has_stun { stun_rows(&probe) } else { vec![unknown(STUN)] });
    rows.extend(if has_turn { turn_rows(&probe) } else { vec![unknown(TURN)] });
    if !has_stun {
        rows.push(Row::not_tried(NAT, "needs a STUN server"));
        return rows;
    }
    let own = local_addresses().unwrap_or_default();
    rows.push(nat_row(probe.nat_mapping(), &probe.mappings().collect::<Vec<_>>(), &own));
    rows
}

fn named(services: &[Service], ice: &Ice) -> Named {
    let mut named = Named::default();
    for service in services {
        let (host, port) = (service.host.clone(), service.port);
        match (service.kind, &service.credentials) {
            (ServiceKind::Stun, _) => named.stun.push((host, port)),
            (ServiceKind::Turn, Some((username, password))) => {
                named.turn.push((host, port, username.clone(), password.clone()));
            }
            (ServiceKind::Turn, None) => {}
        }
    }
    let address = |server: &ServerAddress| (server.host(), server.0.port);
    if !ice.stun.is_empty() {
        named.stun = ice.stun.iter().map(address).collect();
    }
    if !ice.turn.is_empty() {
        let servers = ice.turn.iter().map(|turn| {
            let (host, port) = address(&turn.server);
            (host, port, turn.username.clone(), turn.password.reveal().to_owned())
        });
        named.turn = servers.collect();
    }
    named
}

/// One address of each family that this host can send to.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = timeout(LOOKUP_TIMEOUT, lookup_host((host, port))).await;
    let found: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found.filter(has_route).collect(),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no answer from DNS".into()),
    };
    let first = |is_v4: bool| found.iter().copied().find(|address| address.is_ipv4() == is_v4);
    let addresses: Vec<_> = [first(true), first(false)].into_iter().flatten().collect();
    if addresses.is_empty() {
        Err("no address that this host has a route to".into())
    } else {
        Ok(addresses)
    }
}

/// Connecting a UDP socket sends nothing, and asks the routing table.
fn has_route(address: &SocketAddr) -> bool {
    let socket = std::net::UdpSocket::bind(any(*address));
    socket.is_ok_and(|socket| socket.connect(address).is_ok())
}

fn any(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn unresolved(what: &'static str, host: &str, why: &str) -> Row {
    let cure = "correct the name, in [ice] or at the XMPP server, or this host's DNS";
    Row::limited(what, format!("{host}: {why}"), cure)
}

/// One socket for each kind and family that is asked for.
struct Sockets {
    open: Vec<(SocketKind, Arc<UdpSocket>)>,
    received: mpsc::Sender<(SocketKind, SocketAddr, Vec<u8>)>,
}

impl Sockets {
    async fn send(
        &mut self,
        kind: SocketKind,
        remote: SocketAddr,
        payload: &[u8],
    ) -> io::Result<()> {
        let is_v4 = |socket: &UdpSocket| socket.local_addr().is_ok_and(|local| local.is_ipv4());
        let fits = |(open, socket): &&(SocketKind, Arc<UdpSocket>)| {
            *open == kind && is_v4(socket) == remote.is_ipv4()
        };
        let socket = match self.open.iter().find(fits) {
            Some((_, socket)) => Arc::clone(socket),
            None => {
                let socket = Arc::new(UdpSocket::bind(any(remote)).await?);
                tokio::spawn(receive(kind, Arc::clone(&socket), self.received.clone()));
                self.open.push((kind, Arc::clone(&socket)));
                socket
            }
        };
        // A packet that the kernel does not take is as good as lost, and repeated.
        let _ = socket.send_to(payload, remote).await;
        Ok(())
    }
}

/// Ends when nobody wants packets any more, with the next one or the runtime.
async fn receive(
    kind: SocketKind,
    socket: Arc<UdpSocket>,
    received: mpsc::Sender<(SocketKind, SocketAddr, Vec<u8>)>,
) {
    let mut packet = [0; PACKET_LEN];
    loop {
        // ICMP's answers to earlier packets are reported here; the socket goes on.
        let Ok((len, remote)) = socket.recv_from(&mut packet).await else { continue };
        if received.send((kind, remote, packet[..len].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Asks until each server has answered or been given up.
async fn run(mut probe: Probe) -> io::Result<Probe> {
    let (received, mut packets) = mpsc::channel(64);
    let mut sockets = Sockets { open: Vec::new(), received };
    let deadline = Instant::now() + PROBE_TIMEOUT;
    loop {
        while let Some(transmit) = probe.poll_transmit() {
            sockets.send(transmit.socket, transmit.remote, &transmit.payload).await?;
        }
        if probe.is_done() || Instant::now() >= deadline {
            return Ok(probe);
        }
        let until = probe.poll_timeout().map_or(deadline, |at| at.min(deadline));
        tokio::select! {
            Some((kind, remote, payload)) = packets.recv() => {
                probe.handle_packet(Instant::now(), kind, None, remote, &payload);
            }
            () = sleep_until(until.into()) => probe.handle_timeout(Instant::now()),
        }
    }
}

fn stun_rows(probe: &Probe) -> Vec<Row> {
    let rows: Vec<Row> = probe
        .mappings()
        .map(|(server, mapped)| match mapped {
            Some(mapped) => Row::ok(STUN, format!("{server} sees {mapped}")),
            None => Row::limited(
                STUN,
                format!("{server} does not answer"),
                "let UDP out to it, start it, or name another in stun of [ice]",
            ),
        })
        .collect();
    if rows.is_empty() {
        let cure =
            "name one in stun of [ice], or have the XMPP server name one (Prosody: turn_external)";
        return vec![Row::limited(
            STUN,
            "no server is known; hosts behind NATs are not found",
            cure,
        )];
    }
    rows
}

fn turn_rows(probe: &Probe) -> Vec<Row> {
    let rows: Vec<Row> = probe
        .allocations()
        .map(|(server, allocation)| match allocation {
            Allocation::Relays(relayed) => Row::ok(TURN, format!("{server} relays at {relayed}")),
            Allocation::Refused(why) => {
                // No answer is one of the reasons.
                let cure = "start it, let UDP out to it, or correct its secret or turn of [ice]";
                Row::limited(TURN, why.to_string(), cure)
            }
            Allocation::Asked => Row::limited(
                TURN,
                format!("{server} does not answer"),
                "let UDP out to it, or start it",
            ),
        })
        .collect();
    if rows.is_empty() {
        let found =
            "no server is known; peers that cannot reach each other directly are not connected";
        let cure =
            "name one in turn of [ice], or have the XMPP server name one (Prosody: turn_external)";
        return vec![Row::limited(TURN, found, cure)];
    }
    rows
}

fn nat_row(
    mapping: NatMapping,
    mappings: &[(SocketAddr, Option<SocketAddr>)],
    own: &BTreeSet<IpAddr>,
) -> Row {
    let seen: Vec<SocketAddr> = mappings.iter().filter_map(|(_, mapped)| *mapped).collect();
    let mut outside = seen.iter().filter(|mapped| !own.contains(&mapped.ip()));
    match (mapping, outside.next()) {
        _ if seen.is_empty() => Row::limited(
            NAT,
            "unknown: no STUN server answered",
            "with STUN it is known, and direct paths come about",
        ),
        (_, None) => Row::ok(NAT, "none: servers see this host's own address"),
        (NatMapping::EndpointIndependent, Some(mapped)) => Row::ok(
            NAT,
            format!(
                "{} in front; it shows all peers the same port: direct paths are possible",
                mapped.ip()
            ),
        ),
        (NatMapping::EndpointDependent, Some(mapped)) => Row::limited(
            NAT,
            format!("{} in front is symmetric: it shows each peer another port", mapped.ip()),
            "peers behind such a NAT too are reached by a TURN server alone; forward the UDP port of --listen to this \
             host if the NAT is yours",
        ),
        (NatMapping::Unknown, Some(mapped)) => Row::limited(
            NAT,
            format!(
                "{} in front; whether it is symmetric takes two STUN servers to tell",
                mapped.ip()
            ),
            "name two servers with different addresses in stun of [ice]",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_nat_is_told_from_what_servers_see() {
        let own: BTreeSet<IpAddr> = [at("192.0.2.5:1").ip()].into();
        let row = |mapping, seen: &[&str]| {
            let seen: Vec<_> =
                seen.iter().map(|seen| (at("198.51.100.1:3478"), Some(at(seen)))).collect();
            nat_row(mapping, &seen, &own)
        };
        let none = row(NatMapping::EndpointIndependent, &["192.0.2.5:4000", "192.0.2.5:4000"]);
        assert_eq!(none.status, Status::Ok);
        assert!(none.found.starts_with("none"), "{none:?}");
        let nat = ["203.0.113.9:4000"];
        for (mapping, status, word) in [
            (NatMapping::EndpointIndependent, Status::Ok, "same port"),
            (NatMapping::EndpointDependent, Status::Limited, "symmetric"),
            (NatMapping::Unknown, Status::Limited, "two STUN servers"),
        ] {
            let row = row(mapping, &nat);
            assert_eq!(row.status, status);
            assert!(row.found.contains(word) && row.found.contains("203.0.113.9"), "{row:?}");
        }
        let silent = nat_row(NatMapping::Unknown, &[(at("198.51.100.1:3478"), None)], &own);
        assert!(silent.found.contains("no STUN server answered"), "{silent:?}");
    }

    #[tokio::test]
    async fn servers_that_are_missing_or_silent_cost_paths_not_the_start() {
        for (services, status) in [(Some(&[][..]), Status::Limited), (None, Status::NotTried)] {
            let rows = rows(services, &Ice::default()).await;
            let whats: Vec<_> = rows.iter().map(|row| row.what).collect();
            assert_eq!(whats, [STUN, TURN, NAT]);
            assert!(rows.iter().all(|row| row.status == status), "{rows:?}");
        }
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let silent = nobody.local_addr().unwrap();
        let server = TurnServer {
            address: silent,
            username: "u".into(),
            password: "p".into(),
            expires: None,
        };
        let probe =
            run(Probe::new(Instant::now(), Entropy::System, &[silent], &[server])).await.unwrap();
        assert!(probe.is_done());
        assert!(stun_rows(&probe)[0].found.contains("does not answer"));
        assert!(turn_rows(&probe)[0].found.contains("no answer"), "{:?}", turn_rows(&probe));
    }
}
