//! The smallest STUN client (RFC 8489): what address does a server see?

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::Host;

const BINDING_REQUEST: [u8; 2] = [0, 1];
const BINDING_SUCCESS: [u8; 2] = [1, 1];
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const HEADER_LEN: usize = 20;
/// How long an answer is waited for: a request may be lost, so callers ask again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks a server from a new socket of the host.
///
/// # Errors
/// When it does not answer within a second, or with an error.
pub fn observed_address(host: &Host, server: SocketAddr) -> Result<SocketAddr> {
    let socket = host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    observed_address_of(&socket, server)
}

/// Asks a server from this socket.
///
/// # Errors
/// When it does not answer within a second, or with an error.
pub fn observed_address_of(socket: &UdpSocket, server: SocketAddr) -> Result<SocketAddr> {
    let transaction: [u8; 12] = *b"lab's probe.";
    let request = [&BINDING_REQUEST[..], &[0, 0], &MAGIC_COOKIE, &transaction].concat();
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(&request, server).context("sending a STUN request")?;
    let mut answer = [0; 1500];
    let (len, from) = socket.recv_from(&mut answer).context("waiting for a STUN answer")?;
    ensure!(from == server, "an answer from {from}, not from {server}");
    mapped_address(&answer[..len], &transaction).context("not an answer to a binding request")
}

/// The XOR-MAPPED-ADDRESS of a success response.
fn mapped_address(message: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let (header, mut attributes) = message.split_at_checked(HEADER_LEN)?;
    let expected = header.starts_with(&BINDING_SUCCESS)
        && header[4..8] == MAGIC_COOKIE
        && header[8..] == *transaction;
    if !expected {
        return None;
    }
    loop {
        let (head, rest) = attributes.split_at_checked(4)?;
        let (kind, len) = (u16::from_be_bytes([head[0], head[1]]), [head[2], head[3]]);
        let len = usize::from(u16::from_be_bytes(len));
        if kind == XOR_MAPPED_ADDRESS {
            return xored_ipv4(rest.get(..len)?);
        }
        attributes = rest.get(len.next_multiple_of(4)..)?;
    }
}

/// Section 14.2, for IPv4: both parts are combined with the magic cookie.
fn xored_ipv4(value: &[u8]) -> Option<SocketAddr> {
    let &[0, 1, p0, p1, a, b, c, d] = value else { return None };
    let [m0, m1, m2, m3] = MAGIC_COOKIE;
    let ip = Ipv4Addr::new(a ^ m0, b ^ m1, c ^ m2, d ^ m3);
    Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be_bytes([p0 ^ m0, p1 ^ m1])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769, section 2.2, without its attributes for integrity.
    #[test]
    fn the_rfcs_sample_response() {
        let transaction: [u8; 12] =
            [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        let software = b"\x80\x22\x00\x0btest vector\x20";
        let address = [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let head = [&[1, 1, 0, 28][..], &MAGIC_COOKIE, &transaction].concat();
        let message = [&head[..], software, &address].concat();
        let expected = "192.0.2.1:32853".parse().unwrap();
        assert_eq!(mapped_address(&message, &transaction), Some(expected));
        for len in 0..message.len() {
            assert_eq!(mapped_address(&message[..len], &transaction), None, "{len}");
        }
        assert_eq!(mapped_address(&message, &[0; 12]), None);
    }
}
