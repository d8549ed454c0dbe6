//! The XML of Jingle: XEP-0166, XEP-0176 and XEP-0320, with a description of our own.
//!
//! The types of xmpp-parsers keep ufrag and password of a transport to themselves and refuse a whole session for one
//! candidate that is not an address (RFC 8839 allows names). Here everything is text; `codec` says what of it makes sense.

use xmpp_parsers::ns;
use xso::{AsXml, FromXml};

/// Namespace of the description, and of the nudge.
pub const APPLICATION: &str = "urn:ipop-switch:jingle:1";
/// Errors of XEP-0166 section 10.
pub(super) const ERRORS: &str = "urn:xmpp:jingle:errors:1";

/// `<jingle/>`
#[derive(FromXml, AsXml, Clone, PartialEq, Debug)]
#[xml(namespace = ns::JINGLE, name = "jingle")]
pub(super) struct Jingle {
    #[xml(attribute)]
    pub(super) action: String,
    #[xml(attribute)]
    pub(super) sid: String,
    #[xml(attribute(default))]
    pub(super) initiator: Option<String>,
    #[xml(attribute(default))]
    pub(super) responder: Option<String>,
    #[xml(child(n = ..))]
    pub(super) contents: Vec<Content>,
}

/// `<content/>`
#[derive(FromXml, AsXml, Clone, PartialEq, Debug)]
#[xml(namespace = ns::JINGLE, name = "content")]
pub(super) struct Content {
    #[xml(attribute)]
    pub(super) creator: String,
    #[xml(attribute)]
    pub(super) name: String,
    #[xml(child(default))]
    pub(super) description: Option<Description>,
    #[xml(child(default))]
    pub(super) transport: Option<Transport>,
}

/// Who sends this, and the generation of its ICE credentials.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug)]
#[xml(namespace = APPLICATION, name = "description")]
pub(super) struct Description {
    #[xml(attribute)]
    pub(super) node: String,
    #[xml(attribute)]
    pub(super) generation: String,
}

/// `<transport xmlns='urn:xmpp:jingle:transports:ice-udp:1'/>`
#[derive(FromXml, AsXml, Clone, PartialEq, Debug)]
#[xml(namespace = ns::JINGLE_ICE_UDP, name = "transport")]
pub(super) struct Transport {
    #[xml(attribute(default))]
    pub(super) ufrag: Option<String>,
    #[xml(attribute(default))]
    pub(super) pwd: Option<String>,
    #[xml(child(default))]
    pub(super) fingerprint: Option<Fingerprint>,
    #[xml(child(n = ..))]
    pub(super) candidates: Vec<Candidate>,
}

/// `<fingerprint/>`, for others: what counts is the node id.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug)]
#[xml(namespace = ns::JINGLE_DTLS, name = "fingerprint")]
pub(super) struct Fingerprint {
    #[xml(attribute(default))]
    pub(super) hash: String,
    #[xml(attribute(default))]
    pub(super) setup: Option<String>,
    #[xml(text)]
    pub(super) value: String,
}

/// `<candidate/>`
#[derive(FromXml, AsXml, Clone, PartialEq, Debug, Default)]
#[xml(namespace = ns::JINGLE_ICE_UDP, name = "candidate")]
pub(super) struct Candidate {
    #[xml(attribute(default))]
    pub(super) component: String,
    #[xml(attribute(default))]
    pub(super) foundation: String,
    #[xml(attribute(default))]
    pub(super) generation: String,
    #[xml(attribute(default))]
    pub(super) id: String,
    #[xml(attribute(default))]
    pub(super) ip: String,
    #[xml(attribute(default))]
    pub(super) port: String,
    #[xml(attribute(default))]
    pub(super) priority: String,
    #[xml(attribute(default))]
    pub(super) protocol: String,
    #[xml(attribute(default, name = "rel-addr"))]
    pub(super) rel_addr: Option<String>,
    #[xml(attribute(default, name = "rel-port"))]
    pub(super) rel_port: Option<String>,
    #[xml(attribute(default, name = "type"))]
    pub(super) type_: String,
}

/// The higher node, which has no session, asks the lower one to initiate.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug)]
#[xml(namespace = APPLICATION, name = "nudge")]
pub(super) struct Nudge {
    #[xml(attribute)]
    pub(super) node: String,
}
