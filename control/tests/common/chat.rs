//! A small model of an XMPP server with one chat room, which keeps to the standards until it is told to lie.
//!
//! Without I/O and without a clock: it takes stanzas of its users, and what it sends waits in [`Chat::outbox`] with the
//! time that it takes. Users are numbered; the numbers are the caller's.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use xmpp_parsers::{
    iq::Iq,
    jid::{FullJid, Jid},
    minidom::Element,
    presence::{Presence, Type},
    stanza::Stanza,
};

use super::rng::Rng;

pub(crate) const ROOM: &str = "net@muc.x";
/// The server itself.
pub(crate) const DOMAIN: &str = "x";
const NODE: &str = "urn:ipop-switch:1";
/// From the server to a user.
const ON_THE_WAY: Duration = Duration::from_millis(20);
/// What it remembers for its replays.
const MAX_PAST: usize = 100;

/// What the server does besides its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Honesty {
    /// Nothing.
    Honest,
    /// It omits, repeats, delays and reorders stanzas, changes what they say, and answers in place of whom it should ask.
    Lies,
}

/// What keeps strangers out of the room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    Password,
    Members,
}

/// A stanza for a user.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) to: usize,
    pub(crate) stanza: Element,
    pub(crate) after: Duration,
}

pub(crate) struct Chat {
    users: Vec<FullJid>,
    door: Door,
    pub(crate) honesty: Honesty,
    /// Whether nobody in the room is shown to anybody else.
    pub(crate) hides: bool,
    /// The answer to XEP-0215, if there is one.
    pub(crate) services: Option<Element>,
    pub(crate) outbox: Vec<Delivery>,
    /// Who is in the room, and the card it showed.
    inside: BTreeMap<usize, Vec<Element>>,
    /// Accounts without a right.
    banned: BTreeSet<usize>,
    /// What was delivered, for replays.
    past: VecDeque<(usize, Element)>,
    rng: Rng,
}

impl Chat {
    pub(crate) fn new(users: Vec<FullJid>, door: Door, rng: Rng) -> Self {
        Self {
            users,
            door,
            honesty: Honesty::Honest,
            hides: false,
            services: None,
            outbox: Vec::new(),
            inside: BTreeMap::new(),
            banned: BTreeSet::new(),
            past: VecDeque::new(),
            rng,
        }
    }

    /// Another server takes over: it knows nobody.
    pub(crate) fn restart(&mut self) {
        self.outbox.clear();
        self.past.clear();
        self.inside.clear();
    }

    /// From a user to the server.
    pub(crate) fn serve(&mut self, from: usize, stanza: Stanza) {
        match stanza {
            Stanza::Presence(presence) => self.serve_presence(from, &presence),
            Stanza::Message(mut message) => {
                message.from = Some(self.users[from].clone().into());
                if let Some(to) = self.find(message.to.as_ref()) {
                    self.deliver(to, message);
                }
            }
            Stanza::Iq(iq) => self.serve_iq(from, iq),
        }
    }

    /// The session of a user is over.
    pub(crate) fn log_out(&mut self, user: usize) {
        self.serve_presence(user, &Presence::unavailable());
    }

    /// What somebody writes straight to a user, in whose name ever.
    pub(crate) fn forge(&mut self, to: usize, stanza: Element) {
        self.enqueue(to, stanza);
    }

    /// Takes an account's right to be in the room.
    pub(crate) fn ban(&mut self, user: usize) {
        self.banned.insert(user);
        let was_inside = self.inside.remove(&user).is_some();
        for to in self.inside.keys().copied().chain([user]).collect::<Vec<_>>() {
            let gone = self.removed(user, to, was_inside);
            self.deliver(to, gone);
        }
    }

    /// Gives it back.
    pub(crate) fn pardon(&mut self, user: usize) {
        self.banned.remove(&user);
    }

    /// The word of the room that an account has lost its right.
    pub(crate) fn removed(&self, who: usize, to: usize, was_inside: bool) -> Element {
        let jid = &self.users[who];
        if !was_inside {
            let item =
                format!("<item affiliation='{}' jid='{}'/>", self.door.without(), jid.to_bare());
            let x = format!("<x xmlns='http://jabber.org/protocol/muc#user'>{item}</x>");
            return parsed(&format!("<message xmlns='jabber:client' from='{ROOM}'>{x}</message>"));
        }
        let code = if self.door == Door::Members { 321 } else { 301 };
        let own = if who == to { "<status code='110'/>" } else { "" };
        let item = format!("<item affiliation='{}' role='none' jid='{jid}'/>", self.door.without());
        let x = format!(
            "<x xmlns='http://jabber.org/protocol/muc#user'>{own}<status code='{code}'/>{item}</x>"
        );
        parsed(&format!(
            "<presence xmlns='jabber:client' type='unavailable' from='{ROOM}/n{who}'>{x}</presence>"
        ))
    }

    /// The presence of an occupant that may not exist.
    pub(crate) fn shown_as(nick: &str, jid: &str, id: &str, name: &str) -> Element {
        parsed(&format!(
            "<presence xmlns='jabber:client' from='{ROOM}/{nick}'><node xmlns='{NODE}' id='{id}' name='{name}' version='1'/>\
             <x xmlns='http://jabber.org/protocol/muc#user'><item affiliation='member' role='participant' jid='{jid}'/></x></presence>"
        ))
    }

    pub(crate) fn is_inside(&self, user: usize) -> bool {
        self.inside.contains_key(&user)
    }

    fn find(&self, jid: Option<&Jid>) -> Option<usize> {
        self.users.iter().position(|user| jid.is_some_and(|jid| *jid == *user))
    }

    fn shown(&self, who: usize, to: usize, cards: &[Element], type_: Type) -> Presence {
        let nick = format!("{ROOM}/n{who}");
        let role = if type_ == Type::None { "participant" } else { "none" };
        let own = if who == to { "<status code='110'/>" } else { "" };
        let affiliation = self.door.within();
        let x = format!(
            "<x xmlns='http://jabber.org/protocol/muc#user'>{own}<item affiliation='{affiliation}' role='{role}' jid='{}'/></x>",
            self.users[who]
        );
        let mut payloads = cards.to_vec();
        payloads.push(parsed(&x));
        Presence::new(type_).with_from(Jid::new(&nick).expect("a JID")).with_payloads(payloads)
    }

    fn serve_presence(&mut self, from: usize, presence: &Presence) {
        if presence.type_ == Type::Unavailable {
            if self.inside.remove(&from).is_some() {
                for to in self.inside.keys().copied().chain([from]).collect::<Vec<_>>() {
                    self.deliver(to, self.shown(from, to, &[], Type::Unavailable));
                }
            }
            return;
        }
        if self.banned.contains(&from) {
            let condition = match self.door {
                Door::Members => "registration-required",
                Door::Password => "forbidden",
            };
            let refused = format!(
                "<presence xmlns='jabber:client' type='error' from='{ROOM}/n{from}'><error type='auth'>\
                 <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>"
            );
            return self.deliver(from, parsed(&refused));
        }
        let cards: Vec<Element> =
            presence.payloads.iter().filter(|payload| payload.is("node", NODE)).cloned().collect();
        for (other, theirs) in self.inside.clone() {
            if other != from && !self.hides {
                self.deliver(from, self.shown(other, from, &theirs, Type::None));
                self.deliver(other, self.shown(from, other, &cards, Type::None));
            }
        }
        self.deliver(from, self.shown(from, from, &cards, Type::None));
        self.inside.insert(from, cards);
    }

    fn serve_iq(&mut self, from: usize, mut iq: Iq) {
        let asks = matches!(iq, Iq::Get { .. } | Iq::Set { .. });
        if asks && self.lies_once_in(20) {
            let forged = result(&iq, None);
            return self.deliver(from, forged);
        }
        let Some(to) = iq.to().cloned() else { return };
        if to.to_string() == DOMAIN && asks {
            let answer = match &self.services {
                Some(services) => result(&iq, Some(services.clone())),
                None => error(&iq, "cancel", "service-unavailable"),
            };
            return self.deliver(from, answer);
        }
        if to.to_string() == ROOM {
            let answer = result(&iq, Some(self.about_the_room(&iq)));
            return self.deliver(from, answer);
        }
        if to.to_bare().to_string() == ROOM {
            let answer = match self.inside.contains_key(&from) {
                true => result(&iq, None),
                false => error(&iq, "cancel", "not-acceptable"),
            };
            return self.deliver(from, answer);
        }
        *iq.from_mut() = Some(self.users[from].clone().into());
        match self.find(Some(&to)) {
            Some(to) => self.deliver(to, iq),
            None if asks => self.deliver(from, error(&iq, "cancel", "service-unavailable")),
            None => {}
        }
    }

    /// The room's configuration, or one of its lists.
    fn about_the_room(&self, iq: &Iq) -> Element {
        let (Iq::Get { payload, .. } | Iq::Set { payload, .. }) = iq else {
            return parsed("<nothing xmlns='urn:x'/>");
        };
        let admin = "http://jabber.org/protocol/muc#admin";
        if !payload.is("query", admin) {
            let door = match self.door {
                Door::Password => "muc_passwordprotected",
                Door::Members => "muc_membersonly",
            };
            return parsed(&format!(
                "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='muc_hidden'/>\
                 <feature var='{door}'/><feature var='muc_nonanonymous'/></query>"
            ));
        }
        let asked = payload.children().find_map(|item| item.attr("affiliation"));
        let members = (0..self.users.len()).filter(|user| !self.banned.contains(user));
        let items: String = members
            .filter(|_| asked == Some("member"))
            .map(|user| {
                format!("<item affiliation='member' jid='{}'/>", self.users[user].to_bare())
            })
            .collect();
        parsed(&format!("<query xmlns='{admin}'>{items}</query>"))
    }

    fn lies_once_in(&mut self, times: u64) -> bool {
        self.honesty == Honesty::Lies && self.rng.next().is_multiple_of(times)
    }

    /// From the server to a user, as the server likes.
    fn deliver(&mut self, to: usize, stanza: impl Into<Element>) {
        let mut stanza = stanza.into();
        self.past.push_back((to, stanza.clone()));
        if self.past.len() > MAX_PAST {
            self.past.pop_front();
        }
        if self.lies_once_in(10) {
            return;
        }
        if self.lies_once_in(10) {
            let (whose, again) = self.past[self.rng.below(self.past.len())].clone();
            let to = if self.rng.next().is_multiple_of(4) { to } else { whose };
            self.enqueue(to, again);
        }
        if self.lies_once_in(8) {
            stanza = self.changed(&stanza);
        }
        self.enqueue(to, stanza);
    }

    /// The same with another node's id, other credentials, or other addresses.
    fn changed(&mut self, stanza: &Element) -> Element {
        let text = String::from(stanza);
        let attributes = ["id", "ufrag", "pwd", "ip", "port", "generation", "name", "sid", "node"];
        let attribute = attributes[self.rng.below(attributes.len())];
        let here = values(&text, attribute);
        let past: String = self.past.iter().map(|(_, stanza)| String::from(stanza)).collect();
        let there = values(&past, attribute);
        let (Some(_), Some(_)) = (here.first(), there.first()) else { return stanza.clone() };
        let (one, other) = (self.rng.below(here.len()), self.rng.below(there.len()));
        let [old, new] = [here[one], there[other]].map(|value| format!("{attribute}={value}"));
        text.replace(&old, &new).parse().unwrap_or_else(|_| stanza.clone())
    }

    fn enqueue(&mut self, to: usize, stanza: Element) {
        let mut after = ON_THE_WAY;
        if self.lies_once_in(5) {
            after += self.rng.millis(0..3_000);
        }
        self.outbox.push(Delivery { to, stanza, after });
    }
}

impl Door {
    /// What accounts are that may come in.
    fn within(self) -> &'static str {
        match self {
            Self::Password => "none",
            Self::Members => "member",
        }
    }

    /// What accounts become that may not any more.
    fn without(self) -> &'static str {
        match self {
            Self::Password => "outcast",
            Self::Members => "none",
        }
    }
}

/// A user of the server, by number.
pub(crate) fn user(number: usize) -> FullJid {
    FullJid::new(&format!("u{number}@{DOMAIN}/r")).expect("a JID")
}

pub(crate) fn parsed(xml: &str) -> Element {
    xml.parse().unwrap_or_else(|error| panic!("{error}: {xml}"))
}

/// The values of an attribute, with their quotes.
fn values<'a>(text: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=");
    let after = text.split(start.as_str()).skip(1);
    after
        .filter_map(|rest| {
            let quote = rest.chars().next()?;
            let end = rest[1..].find(quote)?;
            Some(&rest[..end + 2])
        })
        .collect()
}

fn result(iq: &Iq, payload: Option<Element>) -> Element {
    Iq::Result { from: iq.to().cloned(), to: None, id: iq.id().to_owned(), payload }.into()
}

fn error(iq: &Iq, type_: &str, condition: &str) -> Element {
    let from = iq.to().map(|to| format!(" from='{to}'")).unwrap_or_default();
    let id = iq.id();
    parsed(&format!(
        "<iq xmlns='jabber:client' type='error' id='{id}'{from}><error type='{type_}'>\
         <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
    ))
}

/// The stanza in this element, if there is one.
pub(crate) fn stanza(element: Element) -> Option<Stanza> {
    Stanza::try_from(element).ok()
}
