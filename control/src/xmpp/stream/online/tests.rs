use xmpp_parsers::{message::Message, presence::Presence};

use super::*;
use crate::xmpp::stream::{IqToken, Request};

fn conversation(limits: Limits) -> Conversation {
    Conversation {
        questions: Questions::new(limits.questions, "q".into()),
        management: Management::asked(),
        jid: Some("alice@example.org/node".parse().unwrap()),
        outbox: VecDeque::new(),
        counters: Arc::default(),
        limits,
    }
}

fn item(text: &str) -> Item {
    Item::Element(text.parse().unwrap())
}

fn written(online: &mut Online<'_>) -> String {
    String::from_utf8(online.out.split().to_vec()).unwrap()
}

fn message() -> Stanza {
    Message::new(Some("room@muc.example.org".parse().unwrap())).into()
}

const ENABLED: &str = "<enabled xmlns='urn:xmpp:sm:3' id='s' resume='true'/>";
const PRESENCE: &str = "<presence xmlns='jabber:client' from='r@muc.example.org/x'/>";

#[test]
fn acknowledgements_are_asked_for_once_a_batch() {
    let mut conversation = conversation(Limits::default());
    let start = Instant::now();
    let mut online = Online::new(&mut conversation, Vec::new(), start);
    online.item(start, item(ENABLED)).unwrap();
    online.send(&message());
    online.send(&message());
    online.settle(start);
    online.settle(start);
    assert_eq!(written(&mut online).matches("<r ").count(), 1);
    online.send(&message());
    online.settle(start);
    assert_eq!(written(&mut online).matches("<r ").count(), 0, "one is on its way");
    online.item(start, item("<a xmlns='urn:xmpp:sm:3' h='2'/>")).unwrap();
    assert_eq!(written(&mut online).matches("<r ").count(), 1, "for the third");
    online.item(start, item("<a xmlns='urn:xmpp:sm:3' h='3'/>")).unwrap();
    assert_eq!(written(&mut online), "");
}

#[test]
fn what_came_is_counted_and_told() {
    let mut conversation = conversation(Limits::default());
    let start = Instant::now();
    let mut online = Online::new(&mut conversation, Vec::new(), start);
    online.item(start, item(ENABLED)).unwrap();
    online.item(start, item(PRESENCE)).unwrap();
    online.item(start, item("<iq xmlns='jabber:client' type='result' id='unasked'/>")).unwrap();
    online.item(start, item("<message xmlns='jabber:client' type='nonsense'/>")).unwrap();
    online.item(start, item("<novelty xmlns='urn:x'/>")).unwrap();
    online.item(start, item("<r xmlns='urn:xmpp:sm:3'/>")).unwrap();
    assert!(written(&mut online).contains("h='3'"));
    assert!(
        matches!(conversation.outbox.pop_front(), Some(FromStream::Stanza(stanza)) if matches!(*stanza, Stanza::Presence(_)))
    );
    assert!(conversation.outbox.is_empty());
    assert_eq!(conversation.counters.ignored.load(Ordering::Relaxed), 2);
}

#[test]
fn malformed_requests_are_answered() {
    let mut conversation = conversation(Limits::default());
    let start = Instant::now();
    let mut online = Online::new(&mut conversation, Vec::new(), start);
    online
        .item(start, item("<iq xmlns='jabber:client' type='get' id='7' from='bob@example.org/x'/>"))
        .unwrap();
    let answer = written(&mut online);
    assert!(
        answer.contains("<bad-request")
            && answer.contains("id='7'")
            && answer.contains("bob@example.org/x"),
        "{answer}"
    );
    assert!(conversation.outbox.is_empty());
}

#[test]
fn a_silent_server_is_asked_and_then_given_up() {
    let limits = Limits::default();
    for (first, question) in [(Some(ENABLED), "<r "), (None, "urn:xmpp:ping")] {
        let mut conversation = conversation(limits.clone());
        let start = Instant::now();
        let mut online = Online::new(&mut conversation, Vec::new(), start);
        first.into_iter().for_each(|first| online.item(start, item(first)).unwrap());
        let silent = online.wake_at(start);
        assert_eq!(silent, start + limits.silence);
        online.tick(silent).unwrap();
        assert!(written(&mut online).contains(question));
        let dead = online.wake_at(start);
        assert_eq!(dead, silent + limits.answer);
        assert!(matches!(online.tick(dead), Err(Failure::Silent { .. })));
    }
}

#[test]
fn whoever_does_not_read_does_not_blame_the_server() {
    let mut conversation = conversation(Limits { queued_events: 1, ..Limits::default() });
    let start = Instant::now();
    let mut online = Online::new(&mut conversation, Vec::new(), start);
    online.item(start, item(ENABLED)).unwrap();
    online.item(start, item(PRESENCE)).unwrap();
    assert!(!online.may_read(start) && !online.may_send());
    let silent = online.wake_at(start);
    online.tick(silent).unwrap();
    let dead = online.wake_at(start);
    online.tick(dead).unwrap();
    online.conversation.outbox.clear();
    assert!(online.may_read(dead));
    assert!(online.tick(online.wake_at(start)).is_err(), "now there is no excuse");
}

#[test]
fn a_server_that_sends_too_much_is_not_read_for_a_while() {
    let limits = Limits { received_stanzas_per_s: 10, burst_s: 1, ..Limits::default() };
    let mut conversation = conversation(limits);
    let start = Instant::now();
    let mut online = Online::new(&mut conversation, Vec::new(), start);
    for _ in 0..11 {
        assert!(online.may_read(start));
        online.item(start, item(PRESENCE)).unwrap();
    }
    assert!(!online.may_read(start));
    assert_eq!(online.wake_at(start), start + Duration::from_millis(100));
    assert!(online.may_read(start + Duration::from_millis(100)));
}

#[test]
fn a_change_of_the_network_asks_at_once() {
    let mut conversation = conversation(Limits::default());
    let start = Instant::now();
    let mut online = Online::new(&mut conversation, Vec::new(), start);
    online.item(start, item(ENABLED)).unwrap();
    online.send(&message());
    online.settle(start);
    online.ask_for_life(start, Duration::from_secs(4));
    assert_eq!(
        online.wake_at(start),
        start + Duration::from_secs(4),
        "sooner than the acknowledgement asked for before"
    );
}

#[test]
fn a_fault_of_the_server_ends_the_session_and_a_cut_does_not() {
    let question = || Question {
        to: None,
        request: Request::Get(Element::bare("a", "urn:x")),
        token: IqToken(1),
        timeout: Duration::from_secs(9),
    };
    for (failure, resumable) in
        [(Failure::Closed, true), (Failure::Xml(xml::XmlFault::TooDeep { limit: 9 }), false)]
    {
        let mut conversation = conversation(Limits::default());
        let start = Instant::now();
        let mut online = Online::new(&mut conversation, Vec::new(), start);
        online.item(start, item(ENABLED)).unwrap();
        online.ask(start, question());
        online.lost(&failure);
        assert_eq!(written(&mut online).contains("policy-violation"), !resumable);
        assert_eq!(conversation.management.resumption().is_some(), resumable);
        assert_eq!(
            conversation.outbox.len(),
            usize::from(!resumable),
            "the question is answered when the session ends"
        );
    }
}

#[test]
fn stanzas_wait_for_a_session_that_may_go_on() {
    let mut conversation = conversation(Limits { queued_stanzas: 1, ..Limits::default() });
    conversation.send_offline(&Presence::available().into());
    assert_eq!(conversation.counters.unsent.load(Ordering::Relaxed), 1, "there is no session yet");
    conversation.management.enabled(Some("s")).unwrap();
    conversation.send_offline(&Presence::available().into());
    conversation.send_offline(&Presence::available().into());
    assert_eq!(conversation.counters.unsent.load(Ordering::Relaxed), 2, "the queue is full");
    let mut out = Vec::new();
    conversation.management.resumed(0, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap().matches("<presence").count(), 1);
}

#[test]
fn what_was_on_its_way_is_no_sign_of_life() {
    let patience = Duration::from_secs(4);
    let mut conversation = conversation(Limits::default());
    let start = Instant::now();
    let mut online = Online::new(&mut conversation, Vec::new(), start);
    online.ask_for_life(start, patience);
    online.item(start, item(ENABLED)).unwrap();
    online.item(start, item(PRESENCE)).unwrap();
    online
        .item(
            start,
            item("<iq xmlns='jabber:client' type='result' id='alive' from='bob@example.org/x'/>"),
        )
        .unwrap();
    assert_eq!(online.wake_at(start), start + patience);
    online.item(start, item("<iq xmlns='jabber:client' type='result' id='alive'/>")).unwrap();
    assert_eq!(online.wake_at(start), start + Limits::default().silence);

    online.send(&message());
    online.settle(start);
    online.ask_for_life(start, patience);
    online.item(start, item("<a xmlns='urn:xmpp:sm:3' h='1'/>")).unwrap();
    assert_eq!(online.wake_at(start), start + patience, "that one answers what was asked before");
    online.item(start, item("<a xmlns='urn:xmpp:sm:3' h='1'/>")).unwrap();
    assert_eq!(online.wake_at(start), start + Limits::default().silence);
}
