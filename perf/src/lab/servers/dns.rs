//! A name server for the names that one gives it: dnsmasq, which asks nobody else.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context, Result};

use super::{directory, wait_for_port};
use crate::lab::{Attached, Lab, Process};

/// Names, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub struct DnsRecords(String);

impl DnsRecords {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// An address.
    #[must_use]
    pub fn address(mut self, name: &str, address: Ipv4Addr) -> Self {
        self.0 += &format!("host-record={name},{address}\n");
        self
    }

    /// A service (RFC 2782), for example `_xmpp-client._tcp.example.org`; the lowest priority is tried first.
    #[must_use]
    pub fn service(mut self, service: &str, target: &str, port: u16, priority: u16) -> Self {
        self.0 += &format!("srv-host={service},{target},{port},{priority},0\n");
        self
    }
}

/// A running name server.
#[derive(Debug)]
pub struct Dns {
    at: Attached,
    process: Process,
}

impl Dns {
    /// Starts it on a machine, and waits until it answers. Others ask it after [`Host::set_name_server`].
    ///
    /// [`Host::set_name_server`]: crate::lab::Host::set_name_server
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start(lab: &Lab, at: &Attached, records: &DnsRecords) -> Result<Self> {
        let dir = directory(lab, at, "dns")?;
        let path = dir.join("dnsmasq.conf");
        let own = format!(
            "keep-in-foreground\nuser=root\nno-resolv\nno-hosts\nbind-interfaces\nlisten-address={}\nlog-queries\n\
            log-facility=-\npid-file={}/dnsmasq.pid\n",
            at.ipv4,
            dir.display()
        );
        fs::write(&path, own + &records.0).context("configuring dnsmasq")?;
        let mut process = at.host.spawn("dnsmasq", ["-C".as_ref(), path.as_os_str()])?;
        wait_for_port(&mut process, at, 53)?;
        Ok(Self { at: at.clone(), process })
    }

    /// Its address, for [`Host::set_name_server`](crate::lab::Host::set_name_server).
    pub fn address(&self) -> Ipv4Addr {
        self.at.ipv4
    }

    /// The process: it prints every question.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
