//! Which way to log in, and the log-in as the stream sees it (RFC 6120 section 6): from what the server offers, the
//! best that this end accepts. A password in plain text is never sent by falling through: it has to be allowed.
//!
//! Channel binding has several kinds, and a server that offers `-PLUS` without saying which (XEP-0440) may know only
//! those that do not exist over TLS 1.3. Such a server gets a log-in without binding, unless the account's log-in was
//! bound before. Then less is never enough, and what is refused is not tried again without: whoever is in between could
//! ask for either.

use std::collections::BTreeSet;

use xmpp_parsers::minidom::Element;

use super::{
    account::{Account, ChannelBinding, PlainAuth},
    failure::Failure,
    scram::{Binding, Exchange},
};

/// The kind of channel binding that this end has (RFC 9266).
const KIND: &str = "tls-exporter";

/// What the server offers, of `<stream:features/>`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Offer {
    /// SASL mechanisms.
    pub(super) mechanisms: BTreeSet<String>,
    /// Kinds of channel binding (XEP-0440), if the server names them.
    pub(super) bindings: Option<BTreeSet<String>>,
}

/// More mechanisms than this nobody has.
const MAX_OFFERS: usize = 64;

impl Offer {
    pub(super) fn of(features: &Element) -> Self {
        let names =
            |list: &Element| list.children().take(MAX_OFFERS).map(|child| child.text()).collect();
        let mechanisms =
            features.get_child("mechanisms", xmpp_parsers::ns::SASL).map(names).unwrap_or_default();
        let bindings =
            features.get_child("sasl-channel-binding", xmpp_parsers::ns::SASL_CB).map(|list| {
                list.children()
                    .take(MAX_OFFERS)
                    .filter_map(|child| child.attr("type"))
                    .map(str::to_owned)
                    .collect()
            });
        Self { mechanisms, bindings }
    }

    fn has(&self, mechanism: &str) -> bool {
        self.mechanisms.contains(mechanism)
    }

    fn has_plus(&self) -> bool {
        SCRAMS.iter().any(|(_, plus)| self.has(plus))
    }

    fn names_binding(&self) -> bool {
        self.bindings.as_ref().is_some_and(|kinds| kinds.contains(KIND))
    }

    fn listed(&self) -> String {
        match self.mechanisms.is_empty() {
            true => "nothing".to_owned(),
            false => super::failure::printable(
                &Vec::from_iter(self.mechanisms.iter().cloned()).join(", "),
            ),
        }
    }
}

/// A log-in under way.
pub(super) struct Authentication {
    mechanism: &'static str,
    exchange: Option<Exchange>,
    initial: Vec<u8>,
}

/// Best first. The name without and with channel binding.
const SCRAMS: [(&str, &str); 3] = [
    ("SCRAM-SHA-512", "SCRAM-SHA-512-PLUS"),
    ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"),
    ("SCRAM-SHA-1", "SCRAM-SHA-1-PLUS"),
];

impl Authentication {
    /// Chooses from `offer`. `exported` is the TLS connection's key for channel binding, where it has one.
    pub(super) fn begin(
        account: &Account,
        offer: &Offer,
        exported: Option<[u8; 32]>,
    ) -> Result<Self, Failure> {
        let user = account.jid.node().map(|node| node.as_str()).ok_or_else(|| {
            Failure::Settings(format!("{} is not an account: expected NAME@DOMAIN", account.jid))
        })?;
        let binding = binding(account, offer, exported)?;
        let names = SCRAMS.map(|(name, plus)| if binding.is_bound() { plus } else { name });
        let choice = names.into_iter().find(|mechanism| offer.has(mechanism));
        match choice {
            Some(mechanism) => Self::scram(mechanism, user, account, binding),
            None if account.plain == PlainAuth::Allowed && offer.has("PLAIN") => {
                Ok(Self::plain(user, account))
            }
            None => Err(Failure::Mechanisms { offered: offer.listed() }),
        }
    }

    fn scram(
        mechanism: &'static str,
        user: &str,
        account: &Account,
        binding: Binding,
    ) -> Result<Self, Failure> {
        let exchange =
            Exchange::new(mechanism, user, &account.password, binding).map_err(|_| {
                Failure::Settings(
                    "the password holds characters that XMPP does not allow".to_owned(),
                )
            })?;
        Ok(Self { mechanism, initial: exchange.first(), exchange: Some(exchange) })
    }

    fn plain(user: &str, account: &Account) -> Self {
        let initial = format!("\0{user}\0{}", account.password.as_str()).into_bytes();
        Self { mechanism: "PLAIN", exchange: None, initial }
    }

    /// Whether it is bound to the TLS connection.
    pub(super) fn is_bound(&self) -> bool {
        self.exchange.as_ref().is_some_and(Exchange::is_bound)
    }

    /// SASL's name of the way chosen.
    pub(super) fn mechanism(&self) -> &'static str {
        self.mechanism
    }

    /// The first message.
    pub(super) fn initial(&self) -> &[u8] {
        &self.initial
    }

    /// Answers a challenge.
    pub(super) fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, Failure> {
        let Some(exchange) = &mut self.exchange else {
            return Err(Failure::Protocol("challenges a PLAIN log-in"));
        };
        // RFC 6120 section 6.3.10 lets a server put its last message into a challenge that wants an empty answer.
        if challenge.starts_with(b"v=") {
            return exchange.verify(challenge).map(|()| Vec::new()).map_err(impersonation);
        }
        exchange.answer(challenge).map_err(impersonation)
    }

    /// Checks what came with the server's success.
    pub(super) fn success(&mut self, last: &[u8]) -> Result<(), Failure> {
        match &mut self.exchange {
            Some(exchange) if exchange.is_verified() => Ok(()),
            Some(exchange) => exchange.verify(last).map_err(impersonation),
            None => Ok(()),
        }
    }
}

/// What the log-in is bound to, and what the server is told about that.
fn binding(
    account: &Account,
    offer: &Offer,
    exported: Option<[u8; 32]>,
) -> Result<Binding, Failure> {
    let is_required = account.binding == ChannelBinding::Required;
    match exported {
        Some(key) if offer.has_plus() && (is_required || offer.names_binding()) => {
            Ok(Binding::TlsExporter(key))
        }
        _ if is_required => Err(Failure::Unbound { jid: account.jid.to_string() }),
        Some(_) if !offer.has_plus() => Ok(Binding::NotOffered),
        // To say that the server offers none would be false, and it would take that for somebody in between.
        _ => Ok(Binding::Unable),
    }
}

impl Drop for Authentication {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.initial);
    }
}

fn impersonation(fault: super::scram::ScramFault) -> Failure {
    Failure::Impersonation(fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::stream::{
        account::{Authorities, Password},
        scram::tests::Server,
    };

    fn account(plain: PlainAuth) -> Account {
        Account {
            jid: "alice@example.org".parse().unwrap(),
            password: Password::new("sesame"),
            resource: "node".into(),
            server: None,
            authorities: Authorities::System,
            pins: Vec::new(),
            plain,
            binding: ChannelBinding::IfNamed,
        }
    }

    fn bound_before() -> Account {
        Account { binding: ChannelBinding::Required, ..account(PlainAuth::Allowed) }
    }

    fn offer(mechanisms: &[&str], bindings: Option<&[&str]>) -> Offer {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Offer { mechanisms: owned(mechanisms), bindings: bindings.map(owned) }
    }

    fn chosen(offer: &Offer, exported: Option<[u8; 32]>) -> (&'static str, String) {
        let begun = Authentication::begin(&account(PlainAuth::Never), offer, exported).unwrap();
        let initial = String::from_utf8(begun.initial().to_vec()).unwrap();
        (begun.mechanism(), initial.split(',').next().unwrap().to_owned())
    }

    #[test]
    fn the_best_offer_is_taken() {
        let key = Some([1; 32]);
        let exporter = Some(["tls-exporter", "tls-server-end-point"].as_slice());
        let both = ["SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "PLAIN"];
        assert_eq!(
            chosen(&offer(&both, exporter), key),
            ("SCRAM-SHA-1-PLUS", "p=tls-exporter".into())
        );
        assert_eq!(
            chosen(&offer(&both, Some(&["tls-unique"])), key),
            ("SCRAM-SHA-256", "n".into())
        );
        assert_eq!(chosen(&offer(&both, exporter), None), ("SCRAM-SHA-256", "n".into()));
        assert_eq!(
            chosen(&offer(&["SCRAM-SHA-1", "PLAIN"], None), key),
            ("SCRAM-SHA-1", "y".into())
        );
        assert_eq!(
            chosen(&offer(&["SCRAM-SHA-1", "PLAIN"], None), None),
            ("SCRAM-SHA-1", "n".into())
        );
    }

    /// ejabberd 23.01 offers SCRAM-SHA-1-PLUS and means `tls-unique`, which TLS 1.3 does not have.
    #[test]
    fn a_server_that_names_no_kind_of_binding_gets_none_and_is_not_told_that_it_offers_none() {
        let key = Some([1; 32]);
        let ejabberd = offer(&["PLAIN", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1"], None);
        assert_eq!(chosen(&ejabberd, key), ("SCRAM-SHA-1", "n".into()));
        assert_eq!(chosen(&ejabberd, None), ("SCRAM-SHA-1", "n".into()));
    }

    #[test]
    fn an_account_that_was_bound_before_is_bound_or_not_logged_in() {
        let key = Some([1; 32]);
        let both = ["SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "PLAIN"];
        for kinds in [None, Some(["tls-unique"].as_slice()), Some(["tls-exporter"].as_slice())] {
            let begun = Authentication::begin(&bound_before(), &offer(&both, kinds), key).unwrap();
            assert_eq!(begun.mechanism(), "SCRAM-SHA-1-PLUS");
            assert!(begun.is_bound() && begun.initial().starts_with(b"p=tls-exporter,"));
        }
        let without = ["SCRAM-SHA-1", "PLAIN"];
        let exporter = Some(["tls-exporter"].as_slice());
        for (offer, exported) in [
            (offer(&without, None), key),
            (offer(&without, exporter), key),
            (offer(&["PLAIN"], None), key),
            // Over TLS 1.2.
            (offer(&both, exporter), None),
        ] {
            let refused = Authentication::begin(&bound_before(), &offer, exported).err().unwrap();
            assert!(matches!(&refused, Failure::Unbound { jid } if jid == "alice@example.org"));
            assert!(!refused.is_final(), "whoever was in between may be gone later");
        }
    }

    #[test]
    fn plain_is_taken_only_if_allowed_and_nothing_else_is_offered() {
        let plain_only = offer(&["PLAIN", "X-OAUTH2"], None);
        let refused =
            Authentication::begin(&account(PlainAuth::Never), &plain_only, None).err().unwrap();
        assert!(refused.is_final() && refused.to_string().contains("PLAIN, X-OAUTH2"), "{refused}");
        let allowed =
            Authentication::begin(&account(PlainAuth::Allowed), &plain_only, None).unwrap();
        assert_eq!(
            (allowed.mechanism(), allowed.initial()),
            ("PLAIN", b"\0alice\0sesame".as_slice())
        );
        let better = offer(&["PLAIN", "SCRAM-SHA-1"], None);
        let begun = Authentication::begin(&account(PlainAuth::Allowed), &better, None).unwrap();
        assert_eq!(begun.mechanism(), "SCRAM-SHA-1");
    }

    #[test]
    fn success_without_proof_is_refused() {
        let scram = offer(&["SCRAM-SHA-256"], None);
        let mut begun = Authentication::begin(&account(PlainAuth::Never), &scram, None).unwrap();
        assert!(matches!(begun.success(b""), Err(Failure::Impersonation(_))));
        assert!(matches!(begun.challenge(b"v=AAAA"), Err(Failure::Impersonation(_))));
    }

    #[test]
    fn a_server_may_prove_itself_by_a_challenge_before_its_success() {
        let scram = offer(&["SCRAM-SHA-256"], None);
        let mut begun = Authentication::begin(&account(PlainAuth::Never), &scram, None).unwrap();
        assert!(!begun.is_bound());
        let initial = String::from_utf8(begun.initial().to_vec()).unwrap();
        let (_, bare) = initial.split_once(",,").unwrap();
        let server = Server::new("SCRAM-SHA-256");
        let challenge = server.challenge(bare.split_once(",r=").unwrap().1);
        let answer = String::from_utf8(begun.challenge(challenge.as_bytes()).unwrap()).unwrap();
        let (without_proof, _) = answer.split_once(",p=").unwrap();
        let signed = format!("{bare},{challenge},{without_proof}");
        let (_, signature) = server.proof_and_signature("sesame", &signed);
        let last = format!("v={signature}");
        assert!(begun.challenge(last.as_bytes()).unwrap().is_empty());
        assert!(begun.success(b"").is_ok());
    }

    #[test]
    fn offers_are_read_from_features() {
        let features: Element = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'>\
            <mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>\
            <sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-exporter'/></sasl-channel-binding>\
            </stream:features>"
            .parse()
            .unwrap();
        assert_eq!(Offer::of(&features), offer(&["PLAIN"], Some(&["tls-exporter"])));
    }
}
