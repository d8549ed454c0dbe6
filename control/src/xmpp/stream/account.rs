//! The account and where its server is: what the operator configures.

use std::{fmt, path::PathBuf, str::FromStr};

use xmpp_parsers::jid::BareJid;
use zeroize::Zeroizing;

use crate::network::Pin;

/// The settings of one account.
#[derive(Clone, PartialEq, Debug)]
pub struct Account {
    /// Whose account it is. The server's certificate has to be for its domain.
    pub jid: BareJid,
    /// Its password.
    pub password: Password,
    /// The name of this node's session; the server may choose another, and does if this is empty. Two sessions with
    /// one name throw each other out.
    pub resource: String,
    /// Where the server is, in place of what the domain's SRV records say.
    pub server: Option<ServerAddress>,
    /// Who may vouch for the server.
    pub authorities: Authorities,
    /// By which keys the server is known, if none of those does.
    pub pins: Vec<Pin>,
    /// Whether the password may be shown to the server.
    pub plain: PlainAuth,
    /// Whether a log-in must be bound to the TLS connection.
    pub binding: ChannelBinding,
}

/// A password. It is not printed, and its memory is cleared.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes the text as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Whether SASL PLAIN may be used, which hands the password to the server. Even so it is used only by a server that
/// offers nothing better.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PlainAuth {
    /// Rather not log in.
    #[default]
    Never,
    /// If the server offers no SCRAM. Always inside TLS.
    Allowed,
}

/// When a log-in is bound to the TLS connection that it goes through (SCRAM's channel binding), so that nobody can stand
/// in between, not even with a certificate for the server's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum ChannelBinding {
    /// If the server says by which key that can be done (XEP-0440).
    #[default]
    IfNamed,
    /// Always, since it was done with this account before: what the server says now may come from somebody in between.
    Required,
}

/// Whose signature on the server's certificate counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Authorities {
    /// The authorities that the system trusts.
    #[default]
    System,
    /// The certificates in this PEM file, and no others. A self-signed server certificate is one that can stand here.
    File(PathBuf),
}

/// A server's address, `HOST:PORT`. IPv6 addresses stand in brackets.
///
/// Whether TLS is spoken from the first byte there or asked for by STARTTLS is found out: on port 5222 STARTTLS is
/// tried first, on every other port direct TLS. If what answers does not understand that, the other one is tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerAddress {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port, not 0.
    pub port: u16,
}

/// The text is not a server's address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "XMPP server {text:?} is not HOST:PORT, for example xmpp.example.org:5222 or [2001:db8::7]:5223"
)]
pub struct BadServerAddress {
    text: String,
}

/// The longest name that DNS carries, in bytes.
const MAX_NAME_LEN: usize = 253;

impl FromStr for ServerAddress {
    type Err = BadServerAddress;

    fn from_str(text: &str) -> Result<Self, BadServerAddress> {
        parse_address(text)
            .ok_or_else(|| BadServerAddress { text: text.chars().take(MAX_NAME_LEN).collect() })
    }
}

fn parse_address(text: &str) -> Option<ServerAddress> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port != 0)?;
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok().map(|_| v6)?,
        None => host,
    };
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok() && text.trim().starts_with('[');
    let fits =
        !host.is_empty() && host.len() <= MAX_NAME_LEN && (is_v6 || host.chars().all(is_name));
    fits.then(|| ServerAddress { host: host.to_owned(), port })
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in
            ["xmpp.example.org:5222", "192.0.2.1:443", "[2001:db8::7]:5223", "bücher.example:5222"]
        {
            let address = text.parse::<ServerAddress>().expect(text);
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "host",
            "host:",
            ":5222",
            "host:0",
            "host:65536",
            "2001:db8::7:5222",
            "[x]:1",
            "a b:1",
            "[]:1",
        ] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        assert!(!format!("{:?}", Password::new("sesame")).contains("sesame"));
    }
}
