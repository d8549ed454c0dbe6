//! Why there is no stream, by fault, in words that tell the operator what to do.

use super::{account::ServerAddress, xml::XmlFault};
use crate::network::Pin;

/// Why the stream was lost, could not be opened, or is refused.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Failure {
    /// The settings are wrong on this side.
    #[error("XMPP: {0}")]
    Settings(String),
    /// The server's name leads nowhere.
    #[error(
        "XMPP: {host} has no address ({why}); check the name and this host's DNS, or give the server's address"
    )]
    Lookup {
        /// The name.
        host: String,
        /// What the resolver said.
        why: String,
    },
    /// DNS says that the domain offers no XMPP to clients.
    #[error(
        "XMPP: {domain} offers no XMPP service to clients (its SRV records say so); check the account's domain"
    )]
    NotOffered {
        /// The account's domain.
        domain: String,
    },
    /// No TCP connection.
    #[error(
        "XMPP: cannot connect to {server} ({why}); check that the server runs and no firewall is in between"
    )]
    Connect {
        /// Where.
        server: ServerAddress,
        /// What the system said.
        why: String,
    },
    /// TLS failed for another reason than the certificate.
    #[error("XMPP: no TLS with {server} ({why})")]
    Tls {
        /// Where.
        server: ServerAddress,
        /// What is wrong.
        why: String,
    },
    /// The server showed a certificate that does not prove who it is. Its password is not sent.
    #[error("XMPP: the certificate of {server} {fault}")]
    Certificate {
        /// Where.
        server: ServerAddress,
        /// What is wrong with it.
        fault: Certificate,
    },
    /// The server does not encrypt.
    #[error(
        "XMPP: {server} offers no encryption (STARTTLS); it is not used without, enable TLS on the server"
    )]
    NoTls {
        /// Where.
        server: ServerAddress,
    },
    /// What came is not the XML of a stream.
    #[error("XMPP: the server {0}; the stream is dropped")]
    Xml(#[from] XmlFault),
    /// The server broke the protocol.
    #[error("XMPP: the server {0}; the stream is dropped")]
    Protocol(&'static str),
    /// The server said why it ends the stream (RFC 6120 section 4.9.3).
    #[error("XMPP: the server ended the stream: {condition}{}{}", parenthesised(.text), cure(.condition))]
    Stream {
        /// The condition, for example `system-shutdown`.
        condition: String,
        /// The server's explanation, or empty.
        text: String,
        /// Of `see-other-host`: where to go.
        elsewhere: Option<ServerAddress>,
    },
    /// The server does not know the account or the password is wrong.
    #[error(
        "XMPP: the server refused account {jid}: {condition}{}; check the account's name and password{}",
        parenthesised(.text), binding(.mechanism)
    )]
    Credentials {
        /// The account.
        jid: String,
        /// How it was tried.
        mechanism: &'static str,
        /// The SASL condition, for example `not-authorized`.
        condition: String,
        /// The server's explanation, or empty.
        text: String,
    },
    /// The server cannot check the password just now.
    #[error("XMPP: the server could not check the password just now ({condition}{})", parenthesised(.text))]
    Authentication {
        /// The SASL condition, for example `temporary-auth-failure`.
        condition: String,
        /// The server's explanation, or empty.
        text: String,
    },
    /// No way to log in that both ends accept.
    #[error(
        "XMPP: the server offers no acceptable way to log in (it offers: {offered}); SCRAM is needed, or PLAIN if the \
         settings allow it"
    )]
    Mechanisms {
        /// What it offers.
        offered: String,
    },
    /// A log-in of this account was bound to TLS before, and now that is not offered.
    #[error(
        "XMPP: log-ins of {jid} were bound to their TLS connection before, and what answers now does not offer that: \
         somebody may be in between, so nothing is sent; if the server was replaced by one that cannot, delete \
         bound-accounts.toml in the state directory and start again"
    )]
    Unbound {
        /// The account.
        jid: String,
    },
    /// The server did not prove that it knows the password (or its SCRAM is broken).
    #[error(
        "XMPP: the server failed to authenticate itself ({0}); somebody may be impersonating it"
    )]
    Impersonation(String),
    /// The resource was refused.
    #[error("XMPP: the server would not bind the resource: {0}")]
    Bind(String),
    /// The connection's address is not this host's any more.
    #[error(
        "XMPP: this host's address changed, so the connection to the server is of no use any more"
    )]
    Moved,
    /// The server ended the stream or the connection without a reason.
    #[error("XMPP: the server closed the connection")]
    Closed,
    /// The connection broke.
    #[error("XMPP: the connection broke: {0}")]
    Broken(String),
    /// No answer in time.
    #[error("XMPP: the server did not answer for {waited_s} s while {doing}")]
    Silent {
        /// What was going on.
        doing: &'static str,
        /// How long it was waited for.
        waited_s: u64,
    },
}

/// What is wrong with a server's certificate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Certificate {
    /// Nobody who is trusted signed it.
    #[error(
        "is not signed by an authority that is trusted here; if the server has an authority of its own, give that one's \
         certificate with --xmpp-ca FILE (ca in [xmpp]), or, if it vouches for itself and {key} is its key (compare it on \
         the server), --xmpp-pin {key} (pin in [xmpp])"
    )]
    UnknownAuthority {
        /// The key that the server showed.
        key: Pin,
    },
    /// Nobody who is trusted signed it, and its key is another than the pinned ones.
    #[error(
        "is not signed by an authority that is trusted here, and its key {key} is none of those that the join token or pin in \
         [xmpp] names: somebody may be impersonating the server; if it has a new key (compare it on the server), take a new \
         join token, or give --xmpp-pin {key}"
    )]
    NotPinned {
        /// The key that the server showed.
        key: Pin,
    },
    /// It is for another name.
    #[error(
        "is not valid for {domain}, the account's domain; the server needs a certificate with that name"
    )]
    OtherName {
        /// The name that it should be for.
        domain: String,
    },
    /// It is outside its dates.
    #[error("has expired or is not valid yet; check this host's clock, and renew the certificate")]
    Dates,
    /// Something else.
    #[error("is not acceptable: {0}")]
    Other(String),
}

impl Failure {
    /// Whether trying again with the same settings is pointless, or harmful: servers lock accounts after some wrong
    /// passwords.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Settings(_)
                | Self::Credentials { .. }
                | Self::Mechanisms { .. }
                | Self::Impersonation(_)
        )
    }

    /// Whether the operator's settings are to blame, or the account at the server.
    pub fn is_of_settings(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Credentials { .. } | Self::Mechanisms { .. })
    }

    /// Whether another address of the same domain may do better.
    pub(super) fn is_local_to_address(&self) -> bool {
        !self.is_final() && !matches!(self, Self::Authentication { .. } | Self::Bind(_))
    }
}

/// What an operator may see of a foreign text: bounded, without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn parenthesised(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// What else may be wrong with a log-in that was bound to TLS.
fn binding(mechanism: &str) -> &'static str {
    match mechanism.ends_with("-PLUS") {
        true => {
            ". The log-in was bound to TLS: if name and password are right, somebody ends TLS between here and the server"
        }
        false => "",
    }
}

fn cure(condition: &str) -> &'static str {
    match condition {
        "conflict" => {
            "; another program logged in with the same account and resource: if it is a copy of this node (a cloned \
             image, one configuration for two nodes), give each an account or a resource of its own"
        }
        "policy-violation" => {
            "; the server's limits are too tight for this use, or something sends too much"
        }
        "host-unknown" | "host-gone" => {
            "; this server does not serve the account's domain, check both"
        }
        "see-other-host" => "; it names another server that does not answer either",
        "resource-constraint" => "; the server is overloaded or has reached its limit of sessions",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_cut_and_cleaned() {
        assert_eq!(printable("a\u{1b}[31mb\n"), "a[31mb");
        assert_eq!(printable(&"x".repeat(1_000)).len(), 200);
    }

    #[test]
    fn a_conflict_explains_itself() {
        let failure =
            Failure::Stream { condition: "conflict".into(), text: String::new(), elsewhere: None };
        assert!(failure.to_string().contains("cloned"), "{failure}");
        assert!(!failure.is_final());
    }
}
