//! Where a domain's XMPP server is (RFC 6120 section 3.2, RFC 2782, XEP-0368).
//!
//! The records for direct TLS and for STARTTLS are one list, tried by priority and, within one, in an order drawn by
//! weight. A domain without records is its own server, on the usual ports. A configured address stands in place of all
//! that.

use std::time::Duration;

use hickory_resolver::{
    TokioResolver,
    proto::rr::{RData, rdata::SRV},
};

use crate::rng::Rng;

use super::{
    account::{Account, ServerAddress},
    failure::Failure,
};

/// When TLS begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// With the first byte (XEP-0368).
    Direct,
    /// When the server agrees (RFC 6120 section 5).
    StartTls,
}

/// One thing to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Where.
    pub server: ServerAddress,
    /// How TLS begins there, most likely.
    pub mode: Mode,
}

/// One SRV record.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Service {
    priority: u16,
    weight: u16,
    endpoint: Endpoint,
}

/// Endpoints tried in one round, and records looked at.
const MAX_ENDPOINTS: usize = 16;
/// For one question to one resolver.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);
const STARTTLS_PORT: u16 = 5222;
const DIRECT_TLS_PORT: u16 = 5223;
/// Where firewalls let nothing else through; there, ALPN tells XMPP from the web.
const HTTPS_PORT: u16 = 443;

/// What to try, in this order, for `account`. Asks DNS only if no address is configured.
pub(super) async fn endpoints(
    account: &Account,
    random: &mut Rng,
) -> Result<Vec<Endpoint>, Failure> {
    match &account.server {
        Some(server) => Ok(configured(server)),
        None => {
            let domain = account.jid.domain().as_str();
            // Read anew each time: the resolvers change with the network.
            let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
                builder.options_mut().timeout = DNS_TIMEOUT;
                builder.build()
            });
            match resolver {
                Ok(resolver) => discovered(domain, &resolver, random).await,
                Err(_) => Ok(fallback(domain)),
            }
        }
    }
}

/// Both ways, the likelier one first.
fn configured(server: &ServerAddress) -> Vec<Endpoint> {
    let modes = match server.port {
        STARTTLS_PORT => [Mode::StartTls, Mode::Direct],
        _ => [Mode::Direct, Mode::StartTls],
    };
    modes.into_iter().map(|mode| Endpoint { server: server.clone(), mode }).collect()
}

/// For a domain that has no records.
fn fallback(domain: &str) -> Vec<Endpoint> {
    let host = domain.trim_start_matches('[').trim_end_matches(']');
    [(STARTTLS_PORT, Mode::StartTls), (DIRECT_TLS_PORT, Mode::Direct), (HTTPS_PORT, Mode::Direct)]
        .into_iter()
        .map(|(port, mode)| Endpoint {
            server: ServerAddress { host: host.to_owned(), port },
            mode,
        })
        .collect()
}

async fn discovered(
    domain: &str,
    resolver: &TokioResolver,
    random: &mut Rng,
) -> Result<Vec<Endpoint>, Failure> {
    let (direct, starttls) = tokio::join!(
        services(resolver, "_xmpps-client._tcp", domain, Mode::Direct),
        services(resolver, "_xmpp-client._tcp", domain, Mode::StartTls),
    );
    let is_refused = |answer: &Option<Vec<Service>>| answer.as_ref().is_some_and(Vec::is_empty);
    if is_refused(&starttls) && (is_refused(&direct) || direct.is_none()) {
        return Err(Failure::NotOffered { domain: domain.to_owned() });
    }
    let services: Vec<Service> = direct.into_iter().chain(starttls).flatten().collect();
    match services.is_empty() {
        true => Ok(fallback(domain)),
        false => Ok(ordered(services, random)),
    }
}

/// The records of one kind: none at all, or those that offer something. A target of `.` offers nothing.
async fn services(
    resolver: &TokioResolver,
    kind: &str,
    domain: &str,
    mode: Mode,
) -> Option<Vec<Service>> {
    let lookup = resolver.srv_lookup(format!("{kind}.{domain}.")).await.ok()?;
    let records = lookup.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(service(srv, mode)),
        _ => None,
    });
    let records: Vec<Option<Service>> = records.take(MAX_ENDPOINTS).collect();
    (!records.is_empty()).then(|| records.into_iter().flatten().collect())
}

fn service(srv: &SRV, mode: Mode) -> Option<Service> {
    let host = srv.target.to_utf8();
    let host = host.trim_end_matches('.');
    let is_offered = !host.is_empty() && srv.port != 0;
    is_offered.then(|| Service {
        priority: srv.priority,
        weight: srv.weight,
        endpoint: Endpoint {
            server: ServerAddress { host: host.to_owned(), port: srv.port },
            mode,
        },
    })
}

/// RFC 2782: the lowest priority first; within one, each next by chance in proportion to its weight.
fn ordered(mut services: Vec<Service>, random: &mut Rng) -> Vec<Endpoint> {
    services.sort_by_key(|service| (service.priority, service.weight));
    let mut endpoints = Vec::with_capacity(services.len());
    while let Some(first) = services.first() {
        let priority = first.priority;
        let rivals = services.partition_point(|service| service.priority == priority);
        let total: f64 = services[..rivals].iter().map(|service| f64::from(service.weight)).sum();
        let mut point = random.fraction() * total;
        let reaches = |service: &Service| {
            point -= f64::from(service.weight);
            point < 0.0
        };
        let index = services[..rivals].iter().position(reaches).unwrap_or(0);
        endpoints.push(services.remove(index).endpoint);
    }
    endpoints.truncate(MAX_ENDPOINTS);
    endpoints
}

#[cfg(test)]
#[path = "srv/tests.rs"]
mod tests;
