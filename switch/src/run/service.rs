//! What the service manager is told (sd_notify(3)): that the switch runs, that it reads its configuration again, that it ends.
//!
//! Each message is a datagram to the socket that `$NOTIFY_SOCKET` names, a path or, after an `@`, an abstract name. Without it nobody
//! listens. A manager that takes no message is not waited for: it has timeouts of its own.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use rustix::time::{ClockId, clock_gettime};

/// Whoever started the switch and wants to know how it fares.
pub(super) struct ServiceManager(Option<Listener>);

struct Listener {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl ServiceManager {
    /// That of this process.
    pub(super) fn of_process() -> Self {
        Self::at(std::env::var_os("NOTIFY_SOCKET").as_deref())
    }

    fn at(name: Option<&OsStr>) -> Self {
        let listener = name.filter(|name| !name.is_empty()).and_then(|name| {
            Listener::at(name)
                .inspect_err(|error| {
                    tracing::warn!(
                        "the service manager at {} is not told: {error}",
                        name.display()
                    );
                })
                .ok()
        });
        Self(listener)
    }

    /// The TAPs are up, the workers run. After [`Self::reloading`]: what was read is in force.
    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The configuration is read again.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now_us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
    }

    /// The tunnels are closed.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, message: &str) {
        let Some(listener) = &self.0 else { return };
        let sent = listener.socket.send_to_addr(message.as_bytes(), &listener.address);
        if let Err(error) = sent {
            tracing::warn!("the service manager is not told {message}: {error}");
        }
    }
}

impl Listener {
    fn at(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(by: &UnixDatagram) -> String {
        let mut message = [0; 100];
        let len = by.recv(&mut message).unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    }

    fn is_told(socket: &UnixDatagram, name: &OsStr) {
        let manager = ServiceManager::at(Some(name));
        manager.ready();
        assert_eq!(heard(socket), "READY=1");
        manager.reloading();
        let message = heard(socket);
        let since_boot_us = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(since_boot_us.parse::<u64>().unwrap() > 0);
        manager.stopping();
        assert_eq!(heard(socket), "STOPPING=1");
    }

    #[test]
    fn a_manager_at_a_path_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        is_told(&UnixDatagram::bind(&path).unwrap(), path.as_os_str());
    }

    #[test]
    fn a_manager_with_an_abstract_name_is_told() {
        let name = format!("ipop-switch-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        is_told(&socket, OsStr::new(&format!("@{name}")));
    }

    #[test]
    fn without_a_manager_or_with_one_that_does_not_listen_nothing_happens() {
        let absent = OsStr::new("/nonexistent/notify");
        for name in [None, Some(OsStr::new("")), Some(absent), Some(OsStr::new("x\0y"))] {
            ServiceManager::at(name).ready();
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _never_read = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(Some(path.as_os_str()));
        (0..10_000).for_each(|_| manager.ready());
    }
}
