//! Which frames are meant: a small part of the language of `tcpdump` (pcap-filter(7)), looked at in a worker before a frame is copied.
//!
//! [`parse`] makes a [`Filter`] of text, or says where the text is wrong and what was expected there. A frame is judged by its head alone: its headers, with up
//! to two VLAN tags, as the switch itself reads them ([`Headers`]).

mod parse;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipop_datapath::{
    MacAddr,
    frame::{Headers, IpHeaders, IpVersion, Transport},
};

#[cfg(feature = "testing")]
pub(crate) use self::parse::{FilterError, MAX_LEN};

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Which frames are meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Filter {
    /// Those of which this is true.
    Is(Primary),
    /// Those that are not meant by it.
    Not(Box<Filter>),
    /// Those that both mean.
    And(Box<Filter>, Box<Filter>),
    /// Those that one of them means.
    Or(Box<Filter>, Box<Filter>),
}

/// Something that is true of a frame, or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Primary {
    /// It comes from this station or goes to it.
    Mac(End, MacAddr),
    /// What follows its tags is this.
    Ether(u16),
    /// It is IP or ARP, and an address of it is in this network.
    Host(End, Network),
    /// It is TCP or UDP, and a port of it is this one.
    Port(End, u16),
    /// It is IP and carries this.
    Protocol(Protocol),
    /// It goes to everybody.
    Broadcast,
    /// It goes to a group, of which everybody is one.
    Multicast,
}

/// Which of a frame's two ends is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// One of them, whichever.
    Either,
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// What IP carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
}

/// Addresses that begin alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Network {
    address: IpAddr,
    prefix_len: u8,
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let different = u32::from(own) ^ u32::from(other);
                different.checked_shr(32 - u32::from(self.prefix_len)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let different = u128::from(own) ^ u128::from(other);
                different.checked_shr(128 - u32::from(self.prefix_len)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What a filter is asked of: a frame's head, read once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    bytes: &'a [u8],
    /// None of a runt.
    headers: Option<Headers>,
}

impl<'a> Head<'a> {
    /// Of these first bytes.
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, headers: Headers::parse(bytes) }
    }

    /// Source and destination of IP, or sender and target of ARP (RFC 826).
    fn addresses(&self, headers: &Headers) -> Option<[IpAddr; 2]> {
        let payload = self.bytes.get(usize::from(headers.l2_len)..)?;
        let v4 = |at: usize| {
            let octets: &[u8; 4] = payload.get(at..)?.first_chunk()?;
            Some(IpAddr::V4(Ipv4Addr::from(*octets)))
        };
        let v6 = |at: usize| {
            let octets: &[u8; 16] = payload.get(at..)?.first_chunk()?;
            Some(IpAddr::V6(Ipv6Addr::from(*octets)))
        };
        match headers.ip {
            Some(IpHeaders { version: IpVersion::V4, .. }) => Some([v4(12)?, v4(16)?]),
            Some(IpHeaders { version: IpVersion::V6, .. }) => Some([v6(8)?, v6(24)?]),
            // Of IPv4 over Ethernet.
            None if headers.ethertype == ETHERTYPE_ARP && payload.get(2..6)? == [8, 0, 6, 4] => {
                Some([v4(14)?, v4(24)?])
            }
            None => None,
        }
    }

    fn ports(&self, headers: &Headers) -> Option<[u16; 2]> {
        let ip = headers.ip?;
        if ip.transport == Transport::Other {
            return None;
        }
        let ports: &[u8; 4] = self.bytes.get(usize::from(ip.l4_start)..)?.first_chunk()?;
        let [a, b, c, d] = *ports;
        Some([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
    }
}

impl Filter {
    /// Whether a frame is meant.
    pub(crate) fn matches(&self, head: &Head<'_>) -> bool {
        match self {
            Self::Is(primary) => {
                head.headers.as_ref().is_some_and(|headers| primary.is_true(headers, head))
            }
            Self::Not(filter) => !filter.matches(head),
            Self::And(one, other) => one.matches(head) && other.matches(head),
            Self::Or(one, other) => one.matches(head) || other.matches(head),
        }
    }
}

impl Primary {
    fn is_true(self, headers: &Headers, head: &Head<'_>) -> bool {
        match self {
            Self::Mac(end, mac) => {
                end.any(Some([headers.source, headers.destination]), |it| it == mac)
            }
            Self::Ether(ethertype) => headers.ethertype == ethertype,
            Self::Host(end, network) => end.any(head.addresses(headers), |it| network.contains(it)),
            Self::Port(end, port) => end.any(head.ports(headers), |it| it == port),
            Self::Protocol(protocol) => {
                headers.ip.is_some_and(|ip| protocol.numbers().contains(&ip.protocol))
            }
            Self::Broadcast => headers.destination == MacAddr([0xff; 6]),
            Self::Multicast => headers.destination.is_group(),
        }
    }
}

impl Protocol {
    const fn numbers(self) -> &'static [u8] {
        match self {
            Self::Tcp => &[TCP],
            Self::Udp => &[UDP],
            Self::Icmp => &[ICMP, ICMPV6],
        }
    }
}

impl End {
    /// Whether it is so at an end that is looked at.
    fn any<T: Copy>(self, ends: Option<[T; 2]>, is_so: impl Fn(T) -> bool) -> bool {
        let Some([source, destination]) = ends else { return false };
        match self {
            Self::Either => is_so(source) || is_so(destination),
            Self::Source => is_so(source),
            Self::Destination => is_so(destination),
        }
    }
}

/// As it can be parsed again, with no more parentheses than it takes.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(primary) => primary.fmt(f),
            Self::Not(filter) => write!(f, "not {}", Within(filter, 2)),
            Self::And(one, other) => write!(f, "{} and {}", Within(one, 1), Within(other, 2)),
            Self::Or(one, other) => write!(f, "{} or {}", Within(one, 0), Within(other, 1)),
        }
    }
}

/// A filter where nothing binds less than this.
struct Within<'a>(&'a Filter, u8);

impl fmt::Display for Within<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(filter, least) = self;
        let binds = match filter {
            Filter::Or(..) => 0,
            Filter::And(..) => 1,
            Filter::Is(_) | Filter::Not(_) => 2,
        };
        if binds < *least { write!(f, "({filter})") } else { filter.fmt(f) }
    }
}

impl fmt::Display for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(end, mac) => write!(f, "{end}mac {mac}"),
            Self::Ether(ethertype) => write!(f, "ether {ethertype:#06x}"),
            Self::Host(end, Network { address, prefix_len }) => {
                write!(f, "{end}host {address}/{prefix_len}")
            }
            Self::Port(end, port) => write!(f, "{end}port {port}"),
            Self::Protocol(Protocol::Tcp) => f.write_str("tcp"),
            Self::Protocol(Protocol::Udp) => f.write_str("udp"),
            Self::Protocol(Protocol::Icmp) => f.write_str("icmp"),
            Self::Broadcast => f.write_str("broadcast"),
            Self::Multicast => f.write_str("multicast"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Either => "",
            Self::Source => "src ",
            Self::Destination => "dst ",
        })
    }
}

#[cfg(test)]
mod tests;
