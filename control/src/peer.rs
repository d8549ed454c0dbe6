//! How a peer is written: `NODEID[@HOST:PORT]`.
//!
//! The host is a name, an IPv4 address, or an IPv6 address in brackets. A peer without an address may connect but is not
//! dialled.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use ipop_datapath::{node_id::NodeId, path::is_of_aliases};

/// The UDP port that a switch listens on unless told otherwise, and that is dialled if none is given.
pub const DEFAULT_PORT: u16 = 5800;

/// What names a peer. A node may have several.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum NamedBy {
    /// The configuration: `--peer`.
    Configured,
    /// It is in the network's room.
    Room,
    /// It was connected before, by right of the room.
    Saved,
    /// A controller made a link to it.
    Controller,
    /// It was added while the switch runs, and goes with that.
    Added,
}

impl NamedBy {
    /// Whether it speaks for the operator: no policy asks more.
    pub fn is_operators(self) -> bool {
        matches!(self, Self::Configured | Self::Controller | Self::Added)
    }

    /// Whether it also passes on what two nodes need to find paths to each other.
    pub fn signals(self) -> bool {
        matches!(self, Self::Room | Self::Controller)
    }
}

/// One configured peer.
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct PeerSpec {
    /// Whose key must answer.
    pub node: NodeId,
    /// Where to dial it.
    pub address: Option<PeerAddress>,
}

/// Where a peer listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PeerAddress {
    /// Name or address.
    pub host: Host,
    /// UDP port, not 0.
    pub port: u16,
}

/// The host part of an address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// To be resolved at every dial. An IPv6 address with a zone (`fe80::1%eth0`) counts as a name.
    Name(String),
    /// An address as it is.
    Ip(IpAddr),
}

/// The text is not a peer; the message repeats it and says what is expected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("peer {text:?}: {why} (expected NODEID[@HOST:PORT], for example {EXAMPLE})")]
pub struct BadPeer {
    text: String,
    why: String,
}

const EXAMPLE: &str = "mfrggzdf...@hostB.example:5800 or mfrggzdf...@[2001:db8::7]:5800";

/// The longest name that DNS carries, in bytes.
const MAX_NAME_LEN: usize = 253;

impl PeerAddress {
    /// The address to dial, if no name has to be resolved first.
    pub fn literal(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl FromStr for PeerSpec {
    type Err = BadPeer;

    fn from_str(text: &str) -> Result<Self, BadPeer> {
        let bad = |why: String| BadPeer { text: text.chars().take(400).collect(), why };
        let (node, address) = match text.split_once('@') {
            Some((node, address)) => (node, Some(address)),
            None => (text, None),
        };
        let node = node.parse::<NodeId>().map_err(|error| bad(error.to_string()))?;
        let address = address.map(str::parse).transpose().map_err(bad)?;
        Ok(Self { node, address })
    }
}

impl TryFrom<String> for PeerSpec {
    type Error = BadPeer;

    fn try_from(text: String) -> Result<Self, BadPeer> {
        text.parse()
    }
}

impl FromStr for PeerAddress {
    type Err = String;

    /// `HOST[:PORT]`; the port is [`DEFAULT_PORT`] if there is none.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = split_port(text)?;
        let port = match port {
            None => DEFAULT_PORT,
            Some(digits) => digits
                .parse::<u16>()
                .ok()
                .filter(|port| *port != 0 && digits.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or_else(|| format!("{digits:?} is not a port (1 to 65535)"))?,
        };
        Ok(Self { host, port })
    }
}

/// The host, and the text after its colon.
fn split_port(text: &str) -> Result<(Host, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) =
            rest.split_once(']').ok_or("a ] is missing after the IPv6 address")?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err(format!("{after:?} stands after the ]")),
        };
        return Ok((ipv6(inside)?, port));
    }
    if text.matches(':').count() > 1 {
        return Err("an IPv6 address stands in brackets, like [2001:db8::7]:5800".into());
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    Ok((name_or_ipv4(host)?, port))
}

fn ipv6(text: &str) -> Result<Host, String> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let ip: Ipv6Addr =
        address.parse().map_err(|_| format!("{address:?} is not an IPv6 address"))?;
    if is_of_aliases(ip.into()) {
        return Err(format!(
            "{address} is of 100::/64, which no host has: packets there are discarded"
        ));
    }
    match zone {
        None => Ok(Host::Ip(IpAddr::V6(ip))),
        Some(zone) if is_interface_name(zone) => Ok(Host::Name(text.into())),
        Some(zone) => Err(format!("{zone:?} is not the name of an interface")),
    }
}

fn name_or_ipv4(text: &str) -> Result<Host, String> {
    if text.is_empty() {
        return Err("the host is missing after the @".into());
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(IpAddr::V4(ip)));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(format!("{text:?} is not an IPv4 address"));
    }
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let relative = text.strip_suffix('.').unwrap_or(text);
    if relative.len() > MAX_NAME_LEN || !relative.split('.').all(label_fits) {
        return Err(format!("{text:?} is not a host name"));
    }
    Ok(Host::Name(text.into()))
}

fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '/' | '%' | ':'))
}

impl fmt::Display for PeerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Some(address) => write!(f, "{}@{address}", self.node),
            None => self.node.fmt(f),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) if !name.contains(':') => write!(f, "{name}:{}", self.port),
            Host::Name(zoned) => write!(f, "[{zoned}]:{}", self.port),
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> NodeId {
        NodeId::of_spki(b"any key")
    }

    #[test]
    fn every_form_is_read_and_written_back() {
        for (text, canonical) in [
            ("hostB:5800", "hostB:5800"),
            ("hostB", "hostB:5800"),
            ("host-b.example.:1", "host-b.example.:1"),
            ("10.0.0.7", "10.0.0.7:5800"),
            ("10.0.0.7:65535", "10.0.0.7:65535"),
            ("[2001:db8::7]:5801", "[2001:db8::7]:5801"),
            ("[::1]", "[::1]:5800"),
            ("[fe80::1%eth0]:5800", "[fe80::1%eth0]:5800"),
        ] {
            let spec: PeerSpec = format!("{}@{text}", id()).parse().unwrap();
            assert_eq!(spec.to_string(), format!("{}@{canonical}", id()));
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
        let passive: PeerSpec = id().to_string().parse().unwrap();
        assert_eq!(passive, PeerSpec { node: id(), address: None });
        assert_eq!(passive.to_string(), id().to_string());
    }

    #[test]
    fn only_literals_need_no_resolution() {
        let literal = |text: &str| text.parse::<PeerAddress>().unwrap().literal();
        assert_eq!(literal("10.0.0.7:9"), Some("10.0.0.7:9".parse().unwrap()));
        assert_eq!(literal("[::1]:9"), Some("[::1]:9".parse().unwrap()));
        assert_eq!(literal("hostB:9"), None);
        assert_eq!(literal("[fe80::1%eth0]:9"), None);
    }

    #[test]
    fn errors_repeat_the_argument_and_show_the_form() {
        for bad in [
            "@",
            "@:5800",
            "@hostB:",
            "@hostB:0",
            "@hostB:+5",
            "@hostB:65536",
            "@::1",
            "@2001:db8::7:5800",
            "@[::1",
            "@[::1]5800",
            "@[hostB]:5800",
            "@[fe80::1%]:5800",
            "@[100::7]:1",
            "@[100::7%eth0]:5800",
            "@300.0.0.1:5800",
            "@10.0.0:5800",
            "@host b:5800",
            "@a..b:5800",
            "@user@hostB:5800",
            "hostB",
        ] {
            let text = format!("{}{bad}", id());
            let error = text.parse::<PeerSpec>().unwrap_err().to_string();
            assert!(error.contains(&text) && error.contains("NODEID[@HOST:PORT]"), "{error}");
        }
        let typo = "abc@hostB:5800".parse::<PeerSpec>().unwrap_err().to_string();
        assert!(typo.contains("52 characters") && typo.contains("has 3"), "{typo}");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_round_trips(text in "\\PC{0,40}", with_id in any::<bool>()) {
            let text = if with_id { format!("{}@{text}", id()) } else { text };
            if let Ok(spec) = text.parse::<PeerSpec>() {
                prop_assert_eq!(spec.to_string().parse::<PeerSpec>(), Ok(spec));
            }
        }
    }
}
