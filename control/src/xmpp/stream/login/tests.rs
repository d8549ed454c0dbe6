use proptest::prelude::*;

use super::*;
use crate::xmpp::stream::{Authorities, ChannelBinding, Password, PlainAuth};

const FIRST: &str = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'>\
    <mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>";
const SUCCESS: &str = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>";
const SECOND: &str = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'>\
    <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/><sm xmlns='urn:xmpp:sm:3'/></stream:features>";
const BOUND: &str = "<iq xmlns='jabber:client' type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
    <jid>alice@example.org/other</jid></bind></iq>";

fn account() -> Account {
    Account {
        jid: "alice@example.org".parse().unwrap(),
        password: Password::new("sesame"),
        resource: "node".into(),
        server: None,
        authorities: Authorities::System,
        pins: Vec::new(),
        plain: PlainAuth::Allowed,
        binding: ChannelBinding::IfNamed,
    }
}

fn resumption() -> Option<Resumption> {
    Some(Resumption { id: "old".into(), received: 17 })
}

/// Feeds one element after the other. What was written after the last, and what came of it.
fn feed(resumption: Option<Resumption>, elements: &[&str]) -> (String, Result<Progress, Failure>) {
    let account = account();
    let mut login = Login::new(&account, None, resumption);
    let mut last = (String::new(), Ok(Progress::More));
    for element in elements {
        assert!(last.1.is_ok(), "before {element}: {:?}", last.1);
        let mut out = Vec::new();
        let progress = login.element(element.parse().unwrap(), &mut out);
        last = (String::from_utf8(out).unwrap(), progress);
    }
    last
}

#[test]
fn binding_and_stream_management_are_asked_for_together() {
    let (out, progress) = feed(None, &[FIRST, SUCCESS, SECOND]);
    assert!(matches!(progress, Ok(Progress::More)));
    assert!(out.contains("<resource>node</resource>") && out.contains("<enable"), "{out}");
    let (_, progress) = feed(None, &[FIRST, SUCCESS, SECOND, BOUND]);
    let expected =
        Session::New { jid: "alice@example.org/other".parse().unwrap(), management: true };
    assert!(matches!(progress, Ok(Progress::Done(session)) if session == expected));
}

#[test]
fn a_session_is_resumed_or_else_a_new_one_bound() {
    let (out, _) = feed(resumption(), &[FIRST, SUCCESS, SECOND]);
    assert!(
        out.contains("<resume") && out.contains("previd='old'") && out.contains("h='17'"),
        "{out}"
    );
    assert!(!out.contains("<bind"), "{out}");
    let resumed = "<resumed xmlns='urn:xmpp:sm:3' h='3' previd='old'/>";
    let (_, progress) = feed(resumption(), &[FIRST, SUCCESS, SECOND, resumed]);
    assert!(matches!(progress, Ok(Progress::Done(Session::Resumed { received: 3 }))));
    let failed = "<failed xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>";
    let (out, _) = feed(resumption(), &[FIRST, SUCCESS, SECOND, failed]);
    assert!(out.contains("<bind"), "{out}");
}

#[test]
fn failures_are_told_apart() {
    let refusal = |condition: &str| {
        let element = format!(
            "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><{condition}/><text>because</text></failure>"
        );
        feed(None, &[FIRST, &element]).1.unwrap_err()
    };
    for condition in ["not-authorized", "account-disabled", "something-new"] {
        let failure = refusal(condition);
        assert!(failure.is_final() && failure.to_string().contains(condition), "{failure}");
    }
    assert!(!refusal("temporary-auth-failure").is_final());
    let conflict = "<iq xmlns='jabber:client' type='error' id='bind'><error type='cancel'>\
        <conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>";
    let (_, bound) = feed(None, &[FIRST, SUCCESS, SECOND, conflict]);
    assert!(matches!(bound, Err(Failure::Bind(condition)) if condition == "conflict"));
}

#[test]
fn steps_cannot_be_skipped() {
    for elements in [
        &[SUCCESS][..],
        &[BOUND],
        &[FIRST, SECOND],
        &[FIRST, BOUND],
        &[FIRST, SUCCESS, BOUND],
        &[FIRST, SUCCESS, SECOND, SUCCESS],
    ] {
        assert!(matches!(feed(None, elements).1, Err(Failure::Protocol(_))), "{elements:?}");
    }
}

#[test]
fn stream_errors_say_where_else_to_go() {
    let failure = |host: &str| {
        let element = format!(
            "<stream:error xmlns:stream='http://etherx.jabber.org/streams'>\
             <see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>{host}</see-other-host></stream:error>"
        );
        match feed(None, &[&element]).1 {
            Err(Failure::Stream { elsewhere, .. }) => elsewhere.map(|server| server.to_string()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(failure("b.example.org"), Some("b.example.org:5222".into()));
    assert_eq!(failure("b.example.org:9222"), Some("b.example.org:9222".into()));
    assert_eq!(failure("[2001:db8::9]:9222"), Some("[2001:db8::9]:9222".into()));
    assert_eq!(failure("2001:db8::9"), Some("[2001:db8::9]:5222".into()));
    assert_eq!(failure("a b"), None);
}

proptest! {
    /// Whatever comes in whatever order: no panic, and a session only after success.
    #[test]
    fn any_order_is_survived(order in proptest::collection::vec(0..10usize, 1..12)) {
        let elements = [
            FIRST, SUCCESS, SECOND, BOUND,
            "<resumed xmlns='urn:xmpp:sm:3' h='3' previd='old'/>",
            "<resumed xmlns='urn:xmpp:sm:3'/>",
            "<failed xmlns='urn:xmpp:sm:3'/>",
            "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>dj1B</challenge>",
            "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
            "<iq xmlns='jabber:client'/>",
        ];
        let account = account();
        let mut login = Login::new(&account, Some([0; 32]), resumption());
        let mut succeeded = false;
        for index in order {
            let Ok(progress) = login.element(elements[index].parse().unwrap(), &mut Vec::new()) else { break };
            succeeded |= matches!(progress, Progress::NewStream);
            prop_assert!(succeeded || !matches!(progress, Progress::Done(_)));
        }
    }
}
