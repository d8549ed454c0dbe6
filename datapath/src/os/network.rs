//! Word from the kernel when links, addresses or routes of this network namespace change: the multicast groups of
//! rtnetlink(7). What exactly changed is left to whoever looks then; here is told only what is worth a look.

use std::os::fd::OwnedFd;

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
        socket_with,
    },
};

use super::{
    OsError,
    netlink::{Message, messages},
};

/// Groups of links, addresses and routes of both families.
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE;
/// What the kernel tells at once fits: the description of one link takes about 1.5 KiB.
const BUFFER_LEN: usize = 32 << 10;
/// Where `struct rtmsg`, which follows the header, has the type of the route.
const ROUTE_TYPE_AT: usize = 7;

/// What may have changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    /// Routes, so packets may leave by another interface.
    Routes,
    /// Links or addresses, and perhaps routes.
    Addresses,
}

/// Hears of changes from when it is opened.
#[derive(Debug)]
pub struct NetworkChanges {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl NetworkChanges {
    /// Of the calling thread's network namespace. Takes no privilege.
    ///
    /// # Errors
    /// When the kernel refuses the socket: a sandbox without AF_NETLINK, for example.
    pub fn open() -> Result<Self, OsError> {
        let open = || {
            // `None`: NETLINK_ROUTE.
            let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
            let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS as u32))?;
            Ok(socket)
        };
        let refused = |error: Errno| {
            OsError::new("cannot watch links, addresses and routes", error)
                .hint("a sandbox must let AF_NETLINK sockets through")
        };
        Ok(Self { socket: open().map_err(refused)?, buffer: vec![0; BUFFER_LEN] })
    }

    /// Waits for changes; of those that are already told, the one that matters most.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn wait(&mut self) -> Result<Change, OsError> {
        let mut change = None;
        loop {
            // Once something is known, only what waits already is taken along.
            let flags = if change.is_none() { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
            match recv(&self.socket, &mut self.buffer[..], flags) {
                Ok((len, _)) => change = change.max(of_messages(&self.buffer[..len])),
                // More changed than the socket's buffer holds.
                Err(Errno::NOBUFS) => change = Some(Change::Addresses),
                Err(Errno::INTR) => {}
                Err(error) => match change {
                    Some(change) if error == Errno::WOULDBLOCK => return Ok(change),
                    _ => return Err(OsError::new("cannot hear of changes of the network", error)),
                },
            }
        }
    }
}

/// What these messages tell, if it is worth a look.
fn of_messages(bytes: &[u8]) -> Option<Change> {
    messages(bytes).filter_map(of_message).max()
}

fn of_message(message: Message<'_>) -> Option<Change> {
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            Some(Change::Addresses)
        }
        // Routes to own, broadcast and multicast addresses come and go with the addresses themselves.
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let kind = message.body.get(ROUTE_TYPE_AT).copied();
            (kind == Some(libc::RTN_UNICAST)).then_some(Change::Routes)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::netlink::HEADER_LEN;

    fn message(kind: u16, route_type: u8) -> Vec<u8> {
        let len = HEADER_LEN + 12;
        let mut bytes = (len as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.resize(len, 0);
        bytes[HEADER_LEN + ROUTE_TYPE_AT] = route_type;
        bytes
    }

    #[test]
    fn of_several_changes_the_one_that_matters_most_counts() {
        let route = message(libc::RTM_NEWROUTE, libc::RTN_UNICAST);
        let address = message(libc::RTM_DELADDR, 0);
        let local = message(libc::RTM_DELROUTE, libc::RTN_LOCAL);
        assert_eq!(of_messages(&route), Some(Change::Routes));
        assert_eq!(of_messages(&local), None);
        assert_eq!(of_messages(&[&local[..], &route].concat()), Some(Change::Routes));
        assert_eq!(of_messages(&[address, route].concat()), Some(Change::Addresses));
    }

    #[test]
    fn messages_cut_short_end_the_list() {
        let route = message(libc::RTM_NEWROUTE, libc::RTN_UNICAST);
        for len in 0..route.len() {
            assert_eq!(of_messages(&route[..len]), None, "{len}");
        }
        assert_eq!(of_messages(&[0; 64]), None);
        let mut long = message(libc::RTM_NEWADDR, 0);
        long[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(of_messages(&long), None);
    }

    #[test]
    fn anybody_may_listen() {
        NetworkChanges::open().unwrap();
    }
}
