//! STUN servers of a few lines, and a TURN server by another hand (`turn-server-proto`), so that client and server do
//! not share a misreading of the standard.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use turn_server_proto::{
    api::{TurnServerApi, TurnServerPollRet},
    server::TurnServer as Protocol,
    stun::{agent::Transmit, types::TransportType},
    types::prelude::DelayedTransmitBuild,
};

use crate::network::Datagram;

pub(crate) const STUN: [&str; 2] = ["198.51.100.7:3478", "198.51.100.8:3478"];
pub(crate) const USER: &str = "user";
pub(crate) const PASSWORD: &str = "pass";

/// The answer to a Binding request, by RFC 8489 with no attribute but XOR-MAPPED-ADDRESS of IPv4.
pub(crate) fn binding_answer(request: &Datagram) -> Option<Datagram> {
    let payload = &request.payload;
    let IpAddr::V4(ip) = request.from.ip() else { return None };
    if payload.len() < 20 || payload[..2] != [0, 1] {
        return None;
    }
    let mut answer = vec![1, 1, 0, 12];
    answer.extend_from_slice(&payload[4..20]);
    answer.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
    answer.extend_from_slice(&(request.from.port() ^ 0x2112).to_be_bytes());
    answer.extend_from_slice(&(u32::from(ip) ^ 0x2112_a442).to_be_bytes());
    Some(Datagram { from: request.to, to: request.from, payload: answer })
}

#[derive(Debug)]
pub(crate) struct TurnServer {
    protocol: Protocol,
    start: Instant,
    pub(crate) address: SocketAddr,
    pub(crate) is_alive: bool,
    next_port: u16,
}

impl TurnServer {
    pub(crate) fn new(start: Instant, address: &str) -> Self {
        let address = address.parse().unwrap();
        let mut protocol = Protocol::new(TransportType::Udp, address, "realm".to_owned());
        protocol.add_user(USER.to_owned(), PASSWORD.to_owned());
        Self { protocol, start, address, is_alive: true, next_port: 50_000 }
    }

    /// Forgets all allocations, as a restart would.
    pub(crate) fn restart(&mut self) {
        let next_port = self.next_port;
        *self = Self::new(self.start, &self.address.to_string());
        self.next_port = next_port;
    }

    /// Forgets all allocations, and takes other credentials than before.
    pub(crate) fn restart_with(&mut self, user: &str, password: &str) {
        self.protocol = Protocol::new(TransportType::Udp, self.address, "realm".to_owned());
        self.protocol.add_user(user.to_owned(), password.to_owned());
    }

    /// Everything to its address, to its own port and to relayed ones.
    pub(crate) fn receive(&mut self, now: Instant, datagram: &Datagram) -> Vec<Datagram> {
        if !self.is_alive {
            return Vec::new();
        }
        let time = self.time(now);
        let Datagram { from, to, payload } = datagram.clone();
        let transmit = Transmit::new(payload, TransportType::Udp, from, to);
        let mut sent = Vec::new();
        if let Some(answer) = self.protocol.recv(transmit, time) {
            let payload = answer.data.build();
            sent.push(Datagram { from: answer.from, to: answer.to, payload });
        }
        self.allocate(now);
        while let Some(transmit) = self.protocol.poll_transmit(time) {
            let Transmit { data, from, to, .. } = transmit;
            sent.push(Datagram { from, to, payload: data });
        }
        sent
    }

    fn allocate(&mut self, now: Instant) {
        let time = self.time(now);
        while let TurnServerPollRet::AllocateSocket {
            transport,
            listen_addr,
            client_addr,
            allocation_transport,
            family,
        } = self.protocol.poll(time)
        {
            self.next_port += 1;
            let relayed = Ok(SocketAddr::new(self.address.ip(), self.next_port));
            self.protocol.allocated_socket(
                transport,
                listen_addr,
                client_addr,
                allocation_transport,
                family,
                relayed,
                time,
            );
        }
    }

    fn time(&self, now: Instant) -> turn_server_proto::types::Instant {
        let nanos = now.duration_since(self.start).as_nanos();
        turn_server_proto::types::Instant::from_nanos(i64::try_from(nanos).unwrap())
    }
}
