//! Which STUN and TURN servers the XMPP server offers, with credentials (XEP-0215).
//!
//! Asked when a session begins, and again before the credentials end. A server that knows none is asked again after an
//! hour. What is named are hosts: whoever uses them resolves them.

use std::time::{Duration, Instant};

use xmpp_parsers::{date::DateTime, jid::BareJid, minidom::Element, ns};

use super::request::{Answer, Ask, Request, Token, printable};

/// Servers taken from one answer.
pub const MAX_SERVICES: usize = 8;
/// Longest host name (RFC 1035), user name (RFC 8489 section 14.3) and password, bytes.
const MAX_HOST_LEN: usize = 253;
const MAX_CREDENTIAL_LEN: usize = 508;
/// Asked again after this, unless credentials end before.
const ASK_AGAIN: Duration = Duration::from_secs(3_600);
/// However short credentials last, or seem to by a wrong clock, the server is asked no more often.
const ASK_AT_MOST: Duration = Duration::from_secs(60);

/// What a server does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceKind {
    /// Tells addresses.
    Stun,
    /// Relays.
    Turn,
}

/// One server over UDP.
#[derive(Clone, PartialEq, Eq)]
pub struct Service {
    /// What it does.
    pub kind: ServiceKind,
    /// Name or numeric address.
    pub host: String,
    /// UDP port.
    pub port: u16,
    /// User name and password.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for Service {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}({}:{})", self.kind, self.host, self.port)
    }
}

/// Asks, and asks again.
#[derive(Debug, Default)]
pub struct Services {
    server: Option<BareJid>,
    last_token: u64,
    asked: Option<Token>,
    ask_at: Option<Instant>,
}

impl Services {
    /// A session of this account begins.
    pub fn online(&mut self, now: Instant, own: &BareJid) {
        self.server = BareJid::new(own.domain().as_str()).ok();
        self.asked = None;
        self.ask_at = Some(now);
    }

    /// The stream is down.
    pub fn offline(&mut self) {
        self.asked = None;
        self.ask_at = None;
    }

    /// The question that is due, if one is.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        if self.ask_at.is_none_or(|at| at > now) {
            return None;
        }
        self.ask_at = Some(now + ASK_AGAIN);
        let to = self.server.clone()?.into();
        self.last_token += 1;
        let token = Token(self.last_token);
        self.asked = Some(token);
        let query = Element::bare("services", ns::EXT_DISCO);
        Some(Request { token, to, ask: Ask::Get(query) })
    }

    /// When there may be a question to ask.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ask_at
    }

    /// The answer: the servers on offer, best first; `None` if it says nothing. `unix_s` is this host's clock.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        unix_s: i64,
        token: Token,
        answer: &Answer,
    ) -> Option<Vec<Service>> {
        if self.asked != Some(token) {
            return None;
        }
        self.asked = None;
        let Ok(Some(answer)) = answer else { return None };
        if !answer.is("services", ns::EXT_DISCO) {
            return None;
        }
        let offered = || answer.children().filter(|child| child.is("service", ns::EXT_DISCO));
        let ends =
            offered().filter_map(|service| service.attr("expires")?.parse::<DateTime>().ok());
        if let Some(first) = ends.map(|end| end.0.timestamp()).min() {
            let lasts = Duration::from_secs(first.saturating_sub(unix_s).max(0) as u64);
            self.ask_at = Some(now + (lasts / 2).clamp(ASK_AT_MOST, ASK_AGAIN));
        }
        Some(offered().filter_map(read).take(MAX_SERVICES).collect())
    }
}

/// One `<service/>`, if it can be used.
fn read(element: &Element) -> Option<Service> {
    if element.attr("transport").is_some_and(|transport| !transport.eq_ignore_ascii_case("udp"))
        || element.attr("action") == Some("delete")
    {
        return None;
    }
    let kind = match element.attr("type")? {
        "stun" => ServiceKind::Stun,
        "turn" => ServiceKind::Turn,
        _ => return None,
    };
    let host = printable(element.attr("host")?);
    let is_host = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || host.len() > MAX_HOST_LEN || !host.chars().all(is_host) {
        return None;
    }
    let port = element.attr("port").map_or(Ok(3_478), str::parse).ok().filter(|port| *port != 0)?;
    let credential = |name| element.attr(name).filter(|text| text.len() <= MAX_CREDENTIAL_LEN);
    let credentials = credential("username").zip(credential("password"));
    let credentials = credentials.map(|(name, password)| (name.to_owned(), password.to_owned()));
    (kind == ServiceKind::Stun || credentials.is_some()).then_some(Service {
        kind,
        host,
        port,
        credentials,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Asked at `now`; the answer's servers, and when the next question is due.
    fn answered(xml: &str) -> (Option<Vec<Service>>, Duration) {
        let (now, mut services) = (Instant::now(), Services::default());
        services.online(now, &"a@example.org".parse().unwrap());
        let request = services.poll_request(now).unwrap();
        assert_eq!(request.to.to_string(), "example.org");
        assert_eq!(services.poll_request(now), None);
        let answer = Ok(Some(xml.parse().unwrap()));
        let found = services.handle_answer(now, 1_700_000_000, request.token, &answer);
        (found, services.poll_timeout().unwrap() - now)
    }

    #[test]
    fn what_prosody_says_is_understood() {
        let (found, again) = answered(
            "<services xmlns='urn:xmpp:extdisco:2'>
               <service type='stun' transport='udp' port='3478' host='turn.example.org'/>
               <service type='turn' transport='udp' port='3478' host='192.0.2.7' restricted='1'
                        username='1700001000' password='c2VjcmV0' expires='2023-11-14T22:30:00Z'/>
               <service type='turn' transport='tcp' port='3478' host='192.0.2.7' username='a' password='b'/>
               <service type='turns' transport='tcp' port='5349' host='192.0.2.7'/>
             </services>",
        );
        let found = found.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].kind, &*found[0].host, found[0].port),
            (ServiceKind::Stun, "turn.example.org", 3478)
        );
        assert_eq!(found[1].credentials, Some(("1700001000".into(), "c2VjcmV0".into())));
        assert_eq!(again, Duration::from_secs(500));
        assert!(!format!("{found:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn a_wrong_clock_does_not_make_it_ask_without_end() {
        let of = |expires: &str| {
            answered(&format!(
                "<services xmlns='urn:xmpp:extdisco:2'><service type='turn' host='h' username='u' password='p' expires='{expires}'/></services>"
            ))
            .1
        };
        assert_eq!(of("1999-01-01T00:00:00Z"), ASK_AT_MOST);
        assert_eq!(of("2999-01-01T00:00:00Z"), ASK_AGAIN);
        assert_eq!(of("tomorrow"), ASK_AGAIN);
    }

    #[test]
    fn what_cannot_be_used_is_left() {
        for service in [
            "type='turn' host='h'",
            "type='turn' host='h' username='u'",
            "type='stun' host='a b'",
            "type='stun' host=''",
            "type='stun' host='h' port='0'",
            "type='stun' host='h' port='99999'",
            "type='ftp' host='h'",
            "host='h'",
        ] {
            let xml =
                format!("<services xmlns='urn:xmpp:extdisco:2'><service {service}/></services>");
            assert_eq!(answered(&xml).0, Some(Vec::new()), "{service}");
        }
        let many = "<service type='stun' host='h'/>".repeat(1_000);
        let many = answered(&format!("<services xmlns='urn:xmpp:extdisco:2'>{many}</services>")).0;
        assert_eq!(many.unwrap().len(), MAX_SERVICES);
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let (now, mut services) = (Instant::now(), Services::default());
        let answer = Ok(Some(Element::bare("services", ns::EXT_DISCO)));
        assert_eq!(services.handle_answer(now, 0, Token(1), &answer), None);
        services.online(now, &"a@example.org".parse().unwrap());
        let token = services.poll_request(now).unwrap().token;
        services.offline();
        assert_eq!(services.handle_answer(now, 0, token, &answer), None);
        assert_eq!(services.poll_timeout(), None);
    }

    proptest! {
        #[test]
        fn any_attributes_are_taken_or_left(
            host in "[ -~&&[^'&<]]{0,300}", port in "[0-9a-z-]{0,7}", expires in "[0-9TZ:.+-]{0,30}"
        ) {
            let _ = answered(&format!(
                "<services xmlns='urn:xmpp:extdisco:2'><service type='stun' host='{host}' port='{port}' expires='{expires}'/></services>"
            ));
        }
    }
}
