//! This host makes itself known on its segment: its addresses there, at the MAC address that they have now.
//!
//! Others keep in their caches where an address was until then: at another host, or at the bridge's MAC address of before. The
//! kernel corrects them only when it is asked, and asks for a whole while the old place first. So the switch tells everybody
//! when the addresses change, and each peer when its tunnel comes up, since whoever is behind it could not hear that: at once, and twice
//! more in case that it gets lost or the peer forwards it too early.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use ipop_control::host::local_addresses::{self, interfaces};
use ipop_datapath::{
    MacAddr, PortId,
    command::{Audience, Command, ToPort},
    frame::{HostOrRouter, announcement},
    os::interface::Interface,
};

use super::{Switch, devices::OpenTap};

/// Pauses between announcements (RFC 5227 section 1.1 has two with 2 s in between, RFC 4861 section 10 three with 1 s).
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// Addresses that are announced, on each segment.
const MAX_ADDRESSES: usize = 16;

/// An address of this host on the segment of a TAP.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Own {
    tap: PortId,
    mac: MacAddr,
    address: IpAddr,
    role: HostOrRouter,
}

/// What is announced to whom, and when next.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    own: Vec<Own>,
    /// When, and how often that was done; peers are as many as there are ports.
    due: BTreeMap<Audience, (Instant, usize)>,
}

impl Announcements {
    /// These are the addresses now.
    fn set(&mut self, now: Instant, own: Vec<Own>) {
        let is_news = own.iter().any(|own| !self.own.contains(own));
        self.own = own;
        if is_news {
            self.due.insert(Audience::Everybody, (now, 0));
        }
    }

    /// A peer is up.
    pub(super) fn peer_up(&mut self, now: Instant, port: PortId) {
        self.due.insert(Audience::Peer(port), (now, 0));
    }

    /// When [`Self::take_due`] has something.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.values().map(|(at, _)| *at).min()
    }

    /// What is to be sent by now.
    fn take_due(&mut self, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        for (to, (at, done)) in self.due.iter_mut().filter(|(_, (at, _))| *at <= now) {
            commands.extend(self.own.iter().map(|own| {
                Command::Port(
                    own.tap,
                    ToPort::Announce {
                        frame: announcement(own.mac, own.address, own.role),
                        to: *to,
                    },
                )
            }));
            *at = now + PAUSES.get(*done).copied().unwrap_or_default();
            *done += 1;
        }
        self.due.retain(|_, (_, done)| *done <= PAUSES.len());
        commands
    }
}

impl Switch {
    /// Looks at the addresses of this host on the segments of its TAPs.
    pub(super) fn look_at_own_addresses(&mut self, now: Instant) {
        let Ok(addresses) = interfaces() else { return };
        // Nobody may be told of an address that turns out to be another host's (RFC 4862 section 5.4).
        let unproved = unproved(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default());
        let mut looked_at = Vec::new();
        let mut own = Vec::new();
        let open = self.devices.taps.iter().filter(|open| open.closing.is_none());
        for OpenTap { port, tap, .. } in open {
            let name = tap.bridge().unwrap_or_else(|| tap.name.clone());
            if looked_at.contains(&name) {
                continue;
            }
            let Ok((mac, role)) = mac_and_role(&name) else { continue };
            let of_it = announced(&addresses, &unproved, &name);
            own.extend(of_it.map(|address| Own { tap: *port, mac, address, role }));
            looked_at.push(name);
        }
        self.announcements.set(now, own);
    }

    /// Announces what is due.
    pub(super) fn announce_addresses(&mut self, now: Instant) {
        for command in self.announcements.take_due(now) {
            self.command(0, command);
        }
    }
}

/// The addresses of the interface of this name that others are told of.
fn announced(
    addresses: &[local_addresses::Interface],
    unproved: &[(String, IpAddr)],
    name: &str,
) -> impl Iterator<Item = IpAddr> {
    let of_it = addresses.iter().filter(move |found| found.name == name);
    let of_it = of_it.map(|found| found.address);
    of_it
        .filter(move |address| !unproved.contains(&(name.to_owned(), *address)))
        .take(MAX_ADDRESSES)
}

fn mac_and_role(name: &str) -> Result<(MacAddr, HostOrRouter), ipop_datapath::os::OsError> {
    let interface = Interface::named(name)?;
    let role = if interface.is_ipv6_router() { HostOrRouter::Router } else { HostOrRouter::Host };
    Ok((interface.mac()?, role))
}

/// The IPv6 addresses that are being looked for elsewhere, or were found there, by interface; of `/proc/net/if_inet6`.
fn unproved(table: &str) -> Vec<(String, IpAddr)> {
    const TENTATIVE: u32 = 0x40;
    const FAILED: u32 = 0x08;
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let name = fields.next()?.to_owned();
        let is_unproved = flags & (TENTATIVE | FAILED) != 0;
        is_unproved.then_some((name, Ipv6Addr::from_bits(address).into()))
    };
    table.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(mac: u8) -> Own {
        Own {
            tap: PortId(0),
            mac: MacAddr([2, 0, 0, 0, 0, mac]),
            address: [10, 9, 0, 1].into(),
            role: HostOrRouter::Host,
        }
    }

    /// When something is sent until nothing is due any more, and to how many.
    fn sent(announcements: &mut Announcements, start: Instant) -> Vec<(Duration, Vec<Audience>)> {
        let mut sent = Vec::new();
        while let Some(at) = announcements.due() {
            let to = announcements.take_due(at).into_iter().map(|command| match command {
                Command::Port(_, ToPort::Announce { to, .. }) => to,
                other => panic!("{other:?}"),
            });
            sent.push((at - start, to.collect()));
        }
        sent
    }

    #[test]
    fn what_is_new_is_told_to_everybody_three_times_and_then_never() {
        let (start, mut announcements) = (Instant::now(), Announcements::default());
        announcements.set(start, vec![own(1)]);
        let everybody = || vec![Audience::Everybody];
        let thrice = [0, 1, 3].map(|s| (Duration::from_secs(s), everybody()));
        assert_eq!(sent(&mut announcements, start), thrice);
        announcements.set(start, vec![own(1)]);
        announcements.set(start, vec![]);
        assert_eq!(announcements.due(), None, "nothing is new");
        announcements.set(start, vec![own(2)]);
        assert_eq!(sent(&mut announcements, start), thrice, "another MAC address");
    }

    #[test]
    fn each_peer_is_told_when_it_comes_up() {
        let (start, mut announcements) = (Instant::now(), Announcements::default());
        announcements.set(start, vec![own(1)]);
        sent(&mut announcements, start);
        announcements.peer_up(start, PortId(7));
        announcements.peer_up(start + Duration::from_millis(500), PortId(7));
        announcements.peer_up(start + Duration::from_millis(500), PortId(8));
        let both = || vec![Audience::Peer(PortId(7)), Audience::Peer(PortId(8))];
        let thrice = [500, 1_500, 3_500].map(|ms| (Duration::from_millis(ms), both()));
        assert_eq!(sent(&mut announcements, start), thrice);
    }

    #[test]
    fn addresses_that_may_be_another_hosts_are_told_from_those_that_are_own() {
        let line = |last: u8, flags: &str| {
            format!("fd0000000000000000000000000000{last:02x} 07 40 00 {flags}    ipop0\n")
        };
        let lines = [line(1, "80"), line(2, "c0"), line(3, "48"), line(4, "88")];
        let table = lines.concat() + "nonsense\n\n";
        let expected = ["fd00::2", "fd00::3", "fd00::4"];
        let expected = expected.map(|ip| ("ipop0".into(), ip.parse().unwrap()));
        assert_eq!(unproved(&table), expected);
    }
    #[test]
    fn of_an_interface_sixteen_addresses_are_announced_and_none_that_may_be_another_hosts() {
        let ip = |last: u8| IpAddr::from([10, 9, 0, last]);
        let at =
            |name: &str, last| local_addresses::Interface { name: name.into(), address: ip(last) };
        let addresses: Vec<_> = (0..40).flat_map(|n| [at("eth0", n), at("ipop0", n)]).collect();
        let unproved = [("eth0".into(), ip(0)), ("ipop0".into(), ip(1))];
        let told: Vec<IpAddr> = announced(&addresses, &unproved, "ipop0").collect();
        let expected: Vec<IpAddr> = [0].into_iter().chain(2..17).map(ip).collect();
        assert_eq!(told, expected);
    }
}
