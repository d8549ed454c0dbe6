//! The room against single stanzas, as Prosody and ejabberd write them.

use std::time::{Duration, Instant};

use xmpp_parsers::{
    iq::Iq,
    minidom::Element,
    stanza_error::{DefinedCondition, ErrorType, StanzaError},
};

use super::*;
use crate::xmpp::request::refusal;

const GOOD: &str = "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='muc_hidden'/>\
     <feature var='muc_passwordprotected'/><feature var='muc_membersonly'/><feature var='muc_nonanonymous'/></query>";
const OPEN: &str = "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='muc_public'/><feature var='muc_open'/></query>";

struct Bench {
    room: Room,
    now: Instant,
    events: Vec<Event>,
    presences: Vec<Presence>,
    requests: Vec<Request>,
}

fn id(name: &str) -> NodeId {
    NodeId::of_spki(name.as_bytes())
}

fn card(name: &str) -> Card {
    Card { node: id(name), name: name.into(), version: "1".into(), capabilities: Vec::new() }
}

impl Bench {
    fn new(entry: Entry) -> Self {
        let config = RoomConfig {
            room: BareJid::new("net@muc.x").expect("a JID"),
            entry,
            password: Some(RoomPassword("derived".into())),
            name: "me".into(),
            seed: 1,
        };
        let (events, presences, requests) = Default::default();
        Self { room: Room::new(id("me"), config), now: Instant::now(), events, presences, requests }
    }

    fn online(entry: Entry) -> Self {
        let mut bench = Self::new(entry);
        bench.room.online(bench.now, own_jid(), Stream::New);
        bench.drain();
        bench
    }

    /// In the room with these occupants, whose account and node are both called so.
    fn joined(entry: Entry, others: &[&str]) -> Self {
        let mut bench = Self::online(entry);
        bench.lists(others);
        bench.configuration(GOOD);
        assert!(bench.room.is_joined());
        bench
    }

    fn drain(&mut self) {
        while let Some(action) = self.room.poll_action() {
            match action {
                Action::Presence(presence) => self.presences.push(*presence),
                Action::Request(request) => self.requests.push(request),
                Action::Event(event) => self.events.push(event),
            }
        }
    }

    fn lists(&mut self, others: &[&str]) {
        for name in others {
            self.occupant(name, name, &format!("{name}@x/r"));
        }
        let own = format!("net@muc.x/{}", self.room.nick());
        self.presence(
            &own,
            "",
            "<status code='110'/><item affiliation='member' role='participant' jid='me@x/r'/>",
            Some("me"),
        );
    }

    fn is_told_that_the_room_is_new(&mut self) {
        let x =
            "<status code='201'/><status code='110'/><item affiliation='owner' role='moderator'/>";
        self.presence("net@muc.x/me", "", x, Some("me"));
    }

    fn occupant(&mut self, nick: &str, node: &str, jid: &str) {
        let item = format!("<item affiliation='member' role='participant' jid='{jid}'/>");
        self.presence(&format!("net@muc.x/{nick}"), "", &item, Some(node));
    }

    fn presence(&mut self, from: &str, kind: &str, x: &str, node: Option<&str>) {
        let card = node.map(|node| String::from(&card(node).to_element())).unwrap_or_default();
        let xml = format!(
            "<presence xmlns='jabber:client' from='{from}' {kind}>{card}\
             <x xmlns='http://jabber.org/protocol/muc#user'>{x}</x></presence>"
        );
        let presence =
            Presence::try_from(xml.parse::<Element>().expect("XML")).expect("a presence");
        self.room.handle_presence(self.now, &presence);
        self.drain();
    }

    fn exits(&mut self, nick: &str, x: &str) {
        self.presence(&format!("net@muc.x/{nick}"), "type='unavailable'", x, None);
    }

    fn message(&mut self, from: &str, x: &str) {
        let xml = format!(
            "<message xmlns='jabber:client' from='{from}'><x xmlns='http://jabber.org/protocol/muc#user'>{x}</x></message>"
        );
        let message = Message::try_from(xml.parse::<Element>().expect("XML")).expect("a message");
        self.room.handle_message(self.now, &message);
        self.drain();
    }

    fn error(&mut self, kind: &str, condition: &str) {
        let own = format!("net@muc.x/{}", self.room.nick());
        let xml = format!(
            "<presence xmlns='jabber:client' from='{own}' type='error'><error type='{kind}'>\
             <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>"
        );
        let presence =
            Presence::try_from(xml.parse::<Element>().expect("XML")).expect("a presence");
        self.room.handle_presence(self.now, &presence);
        self.drain();
    }

    /// Answers the last request of this kind.
    fn answer(&mut self, payload: &str, answer: Answer) {
        let found = self.requests.iter().rposition(|request| {
            let (Ask::Get(element) | Ask::Set(element)) = &request.ask;
            String::from(element).contains(payload)
        });
        let request =
            self.requests.remove(found.unwrap_or_else(|| panic!("no request with {payload}")));
        self.room.handle_answer(self.now, request.token, answer);
        self.drain();
    }

    fn configuration(&mut self, xml: &str) {
        self.answer("disco#info", Ok(Some(xml.parse().expect("XML"))));
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.room.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.room.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn problem(&mut self) -> Problem {
        let events = self.take_events();
        let found = events.iter().find_map(|event| match event {
            Event::Problem(problem) => Some(problem.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no problem among {events:?}"))
    }

    fn joins(&self) -> usize {
        let join = |presence: &&Presence| {
            presence.payloads.iter().any(|p| p.is("x", "http://jabber.org/protocol/muc"))
        };
        self.presences.iter().filter(join).count()
    }
}

fn own_jid() -> FullJid {
    FullJid::new("me@x/r").expect("a JID")
}

fn full(jid: &str) -> FullJid {
    FullJid::new(jid).expect("a JID")
}

fn failure(condition: DefinedCondition) -> Answer {
    let iq = Iq::Get { from: None, to: None, id: "1".into(), payload: Element::bare("x", "y") };
    let Some(Iq::Error { error, .. }) = refusal(&iq, ErrorType::Cancel, condition) else {
        panic!("an error")
    };
    Err(RequestFailure::Refused(Box::<StanzaError>::new(error)))
}

#[test]
fn joins_with_password_and_card_and_tells_nobody_before_the_room_is_checked() {
    let mut bench = Bench::online(Entry::Password);
    let join = String::from(&Element::from(bench.presences[0].clone()));
    assert!(
        join.contains("<password>derived</password>") && join.contains(&id("me").to_string()),
        "{join}"
    );
    bench.lists(&["a", "b"]);
    assert_eq!(bench.take_events(), []);
    bench.configuration(GOOD);
    let events = bench.take_events();
    assert_eq!(events[0], Event::Joined { nick: "me".into() });
    let jids: Vec<_> = bench.room.occupants().map(|occupant| occupant.jid.to_string()).collect();
    assert_eq!((jids, events.len()), (vec!["a@x/r".to_owned(), "b@x/r".to_owned()], 3));
}

#[test]
fn the_configuration_may_come_first() {
    let mut bench = Bench::online(Entry::Password);
    bench.configuration(GOOD);
    assert_eq!(bench.take_events(), []);
    bench.lists(&["a"]);
    assert_eq!(bench.take_events().len(), 2);
}

#[test]
fn a_room_that_lets_anyone_in_is_left_and_tried_again() {
    let mut bench = Bench::online(Entry::Password);
    bench.lists(&["a"]);
    bench.configuration(OPEN);
    let text = bench.problem().to_string();
    assert!(text.contains("no password") && text.contains("room create"), "{text}");
    assert_eq!(
        bench.presences.last().map(|p| p.type_.clone()),
        Some(xmpp_parsers::presence::Type::Unavailable)
    );
    assert_eq!(bench.room.occupants().count(), 0);
    bench.pass(Duration::from_secs(120));
    assert!(bench.joins() >= 2);
}

#[test]
fn a_room_that_changes_for_the_worse_is_left() {
    let mut bench = Bench::joined(Entry::Password, &["a"]);
    bench.take_events();
    bench.message("net@muc.x", "<status code='104'/>");
    bench.configuration(OPEN);
    assert!(!bench.room.is_joined());
    assert!(bench.take_events().contains(&Event::OccupantGone(full("a@x/r"))));
}

#[test]
fn joining_again_tells_only_what_changed() {
    let mut bench = Bench::joined(Entry::Password, &["a", "b"]);
    bench.take_events();
    bench.room.offline(bench.now, StreamEnd::Lost);
    bench.room.online(bench.now, own_jid(), Stream::New);
    bench.drain();
    bench.lists(&["b", "c"]);
    bench.configuration(GOOD);
    let events = bench.take_events();
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(events[1], Event::OccupantGone(full("a@x/r")));
    assert!(matches!(&events[2], Event::Occupant(c) if c.jid == full("c@x/r")));
}

#[test]
fn a_resumed_stream_stays_in_the_room_and_asks() {
    let mut bench = Bench::joined(Entry::Password, &["a"]);
    bench.take_events();
    bench.room.offline(bench.now, StreamEnd::Lost);
    bench.room.online(bench.now, own_jid(), Stream::Resumed);
    bench.drain();
    bench.answer("ping", Ok(None));
    assert!(bench.room.is_joined());
    assert_eq!((bench.joins(), bench.take_events()), (1, vec![]));
}

#[test]
fn pings_itself_and_joins_again_when_it_is_not_there() {
    use DefinedCondition as Condition;
    let mut bench = Bench::joined(Entry::Password, &["a"]);
    for condition in [Condition::ServiceUnavailable, Condition::FeatureNotImplemented] {
        bench.pass(PING_AFTER);
        bench.answer("ping", failure(condition));
        assert!(bench.room.is_joined());
    }
    bench.pass(PING_AFTER);
    bench.answer("ping", failure(Condition::NotAcceptable));
    assert_eq!((bench.room.is_joined(), bench.joins()), (false, 2));
}

#[test]
fn one_lost_ping_is_nothing_two_are_a_new_join() {
    let mut bench = Bench::joined(Entry::Password, &["a"]);
    bench.pass(PING_AFTER);
    bench.answer("ping", Err(RequestFailure::TimedOut));
    assert!(bench.room.is_joined());
    bench.pass(Duration::from_millis(1));
    bench.answer("ping", Err(RequestFailure::TimedOut));
    assert_eq!(bench.joins(), 2);
}

#[test]
fn refusals_name_the_cure_and_are_tried_again() {
    for (kind, condition, cure) in [
        ("auth", "not-authorized", "another password"),
        ("auth", "forbidden", "banned"),
        ("auth", "registration-required", "room add net@muc.x me@x"),
        ("wait", "service-unavailable", "full"),
        ("cancel", "not-allowed", "room create net@muc.x"),
        ("cancel", "gone", "gone"),
    ] {
        let mut bench = Bench::online(Entry::Password);
        bench.error(kind, condition);
        let problem = bench.problem();
        assert!(problem.to_string().contains(cure), "{condition}: {problem}");
        assert!(matches!(problem.outcome, Outcome::RetriedIn(_)));
        bench.pass(Duration::from_secs(90));
        assert!(bench.joins() >= 2, "{condition}");
    }
}

#[test]
fn a_locked_room_is_tried_again_soon_and_only_then_told() {
    let mut bench = Bench::online(Entry::Password);
    bench.error("cancel", "item-not-found");
    assert_eq!(bench.take_events(), []);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.joins(), 2);
    bench.error("cancel", "item-not-found");
    assert!(bench.problem().to_string().contains("locked or does not exist"));
}

#[test]
fn taken_nicks_get_ever_more_of_the_node_id_and_then_it_waits() {
    let mut bench = Bench::online(Entry::Password);
    let mut nicks = std::collections::BTreeSet::new();
    for _ in 0..5 {
        nicks.insert(bench.room.nick());
        bench.error("cancel", "conflict");
    }
    nicks.insert(bench.room.nick());
    assert_eq!(nicks.len(), 6, "{nicks:?}");
    assert!(nicks.iter().all(|nick| nick.starts_with("me")));
    bench.error("cancel", "conflict");
    assert!(matches!(bench.room.state, State::Waiting(_)));
}

#[test]
fn a_name_that_is_no_nick_becomes_one() {
    let mut bench = Bench::new(Entry::Password);
    bench.room.card.name = "\u{e000}\u{fffe}".into();
    bench.room.online(bench.now, own_jid(), Stream::New);
    bench.drain();
    let to = bench.presences[0].to.clone().expect("an address").to_string();
    assert!(to.starts_with("net@muc.x/node-"), "{to}");
}

#[test]
fn a_room_made_by_a_typo_is_given_back() {
    // Of a new room Prosody tells its defaults, which are not what a network needs; others may keep silent.
    let lasting = OPEN.replace("</query>", "<feature var='muc_persistent'/></query>");
    for answered in [Some(OPEN), Some(&lasting), Some(GOOD), None] {
        for entry in [Entry::Password, Entry::Members] {
            let mut bench = Bench::online(entry);
            bench.is_told_that_the_room_is_new();
            match answered {
                Some(configuration) => bench.configuration(configuration),
                None => bench.answer("disco#info", failure(DefinedCondition::ItemNotFound)),
            }
            assert!(bench.problem().to_string().contains("does not exist"), "{answered:?}");
            bench.answer("cancel", Ok(None));
            assert!(!bench.room.is_joined());
        }
    }
    let mut bench = Bench::online(Entry::Password);
    bench.is_told_that_the_room_is_new();
    bench.pass(Duration::from_secs(31));
    assert!(bench.problem().to_string().contains("does not exist"), "nobody says what it is");
    bench.answer("cancel", Ok(None));
}

/// ejabberd says of every room that nobody has entered yet that it is new.
#[test]
fn the_first_to_enter_a_room_that_lasts_and_is_as_it_must_be_stays() {
    let lasting = GOOD.replace("</query>", "<feature var='muc_persistent'/></query>");
    for entry in [Entry::Password, Entry::Members] {
        let mut bench = Bench::online(entry);
        bench.is_told_that_the_room_is_new();
        bench.configuration(&lasting);
        assert!(bench.room.is_joined());
        assert_eq!(bench.take_events(), [Event::Joined { nick: "me".into() }]);
    }
}

#[test]
fn only_a_lasting_loss_revokes() {
    let mut bench = Bench::joined(Entry::Members, &["a", "b", "c", "d", "e", "f"]);
    bench.take_events();
    bench.exits("a", "<item affiliation='member' role='none'/>");
    bench.exits("b", "<status code='307'/><item affiliation='member' role='none'/>");
    // A status without the affiliation to go with it is not believed.
    bench.exits("c", "<status code='321'/><item affiliation='member' role='none'/>");
    let revoked =
        |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Revoked(_))).count();
    let events = bench.take_events();
    assert_eq!((events.len(), revoked(&events)), (3, 0), "{events:?}");
    bench.exits("d", "<status code='321'/><item affiliation='none' role='none'/>");
    bench.exits("e", "<status code='301'/><item affiliation='outcast' role='none' jid='e@x/r'/>");
    bench.exits("f", "<status code='322'/><item affiliation='none' role='none' jid='f@x/r'/>");
    let events = bench.take_events();
    assert_eq!((events.len(), revoked(&events)), (6, 3), "{events:?}");
    assert_eq!(events[0], Event::Revoked(BareJid::new("d@x").expect("a JID")));
}

#[test]
fn the_rooms_message_revokes_whoever_is_away_and_members_cannot_forge_it() {
    let item = "<item affiliation='none' jid='away@x'/>";
    let away = BareJid::new("away@x").expect("a JID");
    let mut bench = Bench::joined(Entry::Members, &["a"]);
    bench.take_events();
    bench.message("net@muc.x/a", item);
    bench.message("a@x/r", item);
    assert_eq!(bench.take_events(), []);
    bench.message("net@muc.x", item);
    assert_eq!(bench.take_events(), [Event::Revoked(away.clone())]);
    // In a room with a password "none" is everybody's affiliation.
    let mut bench = Bench::joined(Entry::Password, &["a"]);
    bench.take_events();
    bench.message("net@muc.x", item);
    assert_eq!(bench.take_events(), []);
    bench.message("net@muc.x", "<item affiliation='outcast' jid='away@x'/>");
    assert_eq!(bench.take_events(), [Event::Revoked(away)]);
}

#[test]
fn being_removed_takes_no_right_from_others_and_is_told() {
    for (x, told) in [
        (
            "<status code='110'/><status code='321'/><item affiliation='none' role='none'/>",
            "any more; its owner adds it with `ipop-switch room add net@muc.x me@x`",
        ),
        (
            "<status code='110'/><status code='301'/><item affiliation='outcast' role='none'/>",
            "banned from room net@muc.x; an admin lifts that with `ipop-switch room add net@muc.x me@x`",
        ),
        (
            "<status code='110'/><item affiliation='none' role='none'/><destroy><reason>over</reason></destroy>",
            "destroyed (over);",
        ),
    ] {
        let mut bench = Bench::joined(Entry::Members, &["a"]);
        bench.take_events();
        bench.exits("me", x);
        assert!(!bench.events.iter().any(|event| matches!(event, Event::Revoked(_))));
        let text = bench.problem().to_string();
        assert!(text.contains(told), "{text}");
    }
}

#[test]
fn a_server_that_shuts_down_is_joined_again_without_a_word() {
    let mut bench = Bench::joined(Entry::Password, &["a"]);
    bench.take_events();
    bench.exits(
        "me",
        "<status code='110'/><status code='332'/><item affiliation='none' role='none'/>",
    );
    bench.pass(Duration::from_secs(2));
    assert_eq!((bench.joins(), bench.take_events()), (2, vec![]));
}

#[test]
fn lists_are_compared_after_a_join() {
    let list = |affiliation: &str, jids: &[&str]| -> Answer {
        let items: String = jids
            .iter()
            .map(|jid| format!("<item affiliation='{affiliation}' jid='{jid}'/>"))
            .collect();
        let xml = format!("<query xmlns='http://jabber.org/protocol/muc#admin'>{items}</query>");
        Ok(Some(xml.parse().expect("XML")))
    };
    let mut bench = Bench::joined(Entry::Members, &["a"]);
    bench.take_events();
    bench.answer("'owner'", list("owner", &["boss@x"]));
    bench.answer("'admin'", list("admin", &[]));
    // An account in the wrong list is not taken.
    let mut members = list("member", &["me@x", "a@x"]);
    if let Ok(Some(query)) = &mut members {
        query.append_child("<item xmlns='http://jabber.org/protocol/muc#admin' affiliation='outcast' jid='bad@x'/>".parse().expect("XML"));
    }
    bench.answer("'member'", members);
    let entitled = ["a@x", "boss@x", "me@x"].map(|jid| BareJid::new(jid).expect("a JID"));
    assert_eq!(bench.take_events(), [Event::Entitled(entitled.into())]);

    let mut bench = Bench::joined(Entry::Members, &["a"]);
    bench.take_events();
    bench.answer("'owner'", failure(DefinedCondition::Forbidden));
    bench.answer("'admin'", list("admin", &[]));
    bench.answer("'member'", list("member", &["me@x"]));
    assert_eq!(bench.take_events(), [], "half of the lists says nothing");
}

#[test]
fn twins_are_explained() {
    // The same key elsewhere.
    let mut bench = Bench::joined(Entry::Password, &[]);
    bench.occupant("copy", "me", "copy@x/r");
    assert!(bench.problem().to_string().contains("cloned"));
    assert_eq!(bench.room.occupants().count(), 0);
    // Two others with one key: both stay, since either may be the one that lies.
    bench.occupant("a", "same", "a@x/r");
    bench.occupant("b", "same", "b@x/r");
    assert!(bench.problem().to_string().contains("both say that they are node"));
    assert_eq!(bench.room.occupants().count(), 2);
    // The same nick by another program of the same account.
    let mut bench = Bench::joined(Entry::Password, &[]);
    bench.presence(
        "net@muc.x/me",
        "",
        "<status code='110'/><item affiliation='none' role='participant' jid='me@x/q'/>",
        Some("other"),
    );
    assert!(bench.problem().to_string().contains("shared"));
    assert_ne!(bench.room.nick(), "me");
}

#[test]
fn the_same_resource_twice_is_noticed_by_its_turns() {
    let mut bench = Bench::joined(Entry::Password, &[]);
    bench.take_events();
    for _ in 0..3 {
        bench.pass(Duration::from_secs(5));
        bench.room.offline(bench.now, StreamEnd::Replaced);
        bench.room.online(bench.now, own_jid(), Stream::New);
        bench.drain();
    }
    assert!(bench.problem().to_string().contains("cloned"));
}

#[test]
fn a_crowd_is_bounded_counted_and_explained() {
    let mut bench = Bench::joined(Entry::Password, &[]);
    bench.take_events();
    for number in 0..10_000 {
        bench.occupant(&format!("n{number}"), &number.to_string(), &format!("u{number}@x/r"));
    }
    assert_eq!(bench.room.occupants().count(), MAX_OCCUPANTS);
    assert_eq!(bench.room.counters().over_limit, 10_000 - MAX_OCCUPANTS as u64);
    let events = bench.take_events();
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Problem(_))).count(), 1);
    assert_eq!(events.len(), MAX_OCCUPANTS + 1);
}

#[test]
fn odd_occupants_are_counted_and_not_told() {
    let mut bench = Bench::joined(Entry::Password, &[]);
    bench.take_events();
    bench.presence(
        "net@muc.x/person",
        "",
        "<item affiliation='none' role='participant' jid='p@x/r'/>",
        None,
    );
    bench.presence(
        "net@muc.x/masked",
        "",
        "<item affiliation='none' role='participant'/>",
        Some("masked"),
    );
    bench.presence(
        "net@muc.x/bare",
        "",
        "<item affiliation='none' role='participant' jid='bare@x'/>",
        Some("bare"),
    );
    let two = "<item affiliation='none' role='participant' jid='a@x/1'/><item affiliation='none' role='participant' jid='a@x/2'/>";
    bench.presence("net@muc.x/two", "", two, Some("two"));
    bench.presence(
        "other@muc.x/b",
        "",
        "<item affiliation='none' role='participant' jid='b@x/r'/>",
        Some("b"),
    );
    bench.presence(
        "b@x/r",
        "",
        "<item affiliation='none' role='participant' jid='b@x/r'/>",
        Some("b"),
    );
    bench.presence(
        "net@muc.x",
        "",
        "<item affiliation='none' role='participant' jid='b@x/r'/>",
        Some("b"),
    );
    let expected = RoomCounters {
        cardless: 1,
        anonymous: 2,
        ambiguous: 1,
        foreign: 2,
        malformed: 1,
        ..RoomCounters::default()
    };
    assert_eq!((bench.room.counters(), bench.take_events()), (expected, vec![]));
}

#[test]
fn an_occupant_that_changes_its_node_id_is_another_one() {
    let mut bench = Bench::joined(Entry::Password, &["a"]);
    bench.take_events();
    bench.occupant("a", "b", "a@x/r");
    let events = bench.take_events();
    assert!(
        matches!(&events[0], Event::Problem(problem) if problem.to_string().contains("now says")),
        "{events:?}"
    );
    assert_eq!(events[1], Event::OccupantGone(full("a@x/r")));
    assert!(matches!(&events[2], Event::Occupant(occupant) if occupant.card.node == id("b")));
    assert_eq!(bench.room.counters().changed_id, 1);
}

#[test]
fn a_new_secret_is_tried_at_once() {
    let mut bench = Bench::online(Entry::Password);
    bench.error("auth", "not-authorized");
    bench.room.set_password(bench.now, Some(RoomPassword("new".into())));
    bench.drain();
    let join = String::from(&Element::from(bench.presences.last().expect("a presence").clone()));
    assert!(join.contains("<password>new</password>"));
}
