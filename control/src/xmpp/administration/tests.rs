//! The commands against a model of a server that does what it is told, or does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use xmpp_parsers::{
    minidom::Element,
    stanza_error::{ErrorType, StanzaError},
};

use super::*;
use crate::xmpp::room::{
    Affiliation, Entry,
    wire::{AdminItem, AdminQuery, DiscoInfo, DiscoItem, DiscoItems, Field, Form, OwnerQuery},
};

const ROOM: &str = "net@muc.x";
const OWN: &str = "admin@x";

/// In which way the server is not as one hopes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Quirk {
    /// Nobody may make rooms.
    NoRoomsForUsers,
    /// It takes the form and changes nothing.
    IgnoresForm,
    /// It refuses the form.
    RefusesForm,
    /// Somebody else makes the room between the question and the entry.
    Overtaken,
    /// It has no service for rooms where the room is to be.
    NoService,
    /// The lists are not for this account.
    HidesLists,
    /// It refuses to change them.
    RefusesChanges,
    /// The room was destroyed.
    Gone,
    /// It answers nothing.
    Silent,
    /// It sends presence without end, and never the own.
    Babbles,
    /// Answers are of another form.
    Nonsense,
    /// Asked for the form of a room that is not there it makes one, as ejabberd does, and says of the first to enter a
    /// room that it is new.
    MakesWhenAsked,
}

/// A server with one room at most.
struct Model {
    jid: FullJid,
    quirks: BTreeSet<Quirk>,
    /// The room's form by variable; none if there is no room.
    room: Option<BTreeMap<String, String>>,
    affiliations: BTreeMap<BareJid, Affiliation>,
    inside: BTreeSet<Jid>,
    presences: VecDeque<Presence>,
    declined: bool,
    was_entered: bool,
}

fn jid(text: &str) -> BareJid {
    text.parse().expect("a JID")
}

fn refused(condition: Condition) -> Answer {
    let error = StanzaError::new(ErrorType::Cancel, condition, "en", "says the model".to_owned());
    Err(RequestFailure::Refused(Box::new(error)))
}

/// What Prosody offers of a new room.
fn new_form() -> BTreeMap<String, String> {
    [
        ("muc#roomconfig_persistentroom", "0"),
        ("muc#roomconfig_publicroom", "1"),
        ("muc#roomconfig_membersonly", "0"),
        ("muc#roomconfig_whois", "moderators"),
        ("muc#roomconfig_roomsecret", ""),
    ]
    .map(|(var, value)| (var.into(), value.into()))
    .into()
}

impl Model {
    fn new(quirks: &[Quirk]) -> Self {
        Self {
            jid: format!("{OWN}/r").parse().expect("a JID"),
            quirks: quirks.iter().copied().collect(),
            room: None,
            affiliations: BTreeMap::new(),
            inside: BTreeSet::new(),
            presences: VecDeque::new(),
            declined: false,
            was_entered: false,
        }
    }

    /// With the room as it is wanted, made by this account.
    fn with_room(quirks: &[Quirk], wanted: &Wanted) -> Self {
        let mut model = Self::new(&[]);
        let made = tokio_test(create::create(&mut model, &jid(ROOM), wanted, Existing::Refused));
        assert_eq!(made, Ok(Created::New));
        model.quirks = quirks.iter().copied().collect();
        model
    }

    fn make(&mut self) {
        self.room = Some(new_form());
        self.affiliations.insert(self.jid.to_bare(), Affiliation::Owner);
        self.was_entered = false;
    }

    fn is(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }

    fn owns(&self) -> bool {
        self.affiliations.get(&self.jid.to_bare()) == Some(&Affiliation::Owner)
    }

    fn has(&self, var: &str, value: &str) -> bool {
        self.room.as_ref().and_then(|room| room.get(var)).is_some_and(|is| is == value)
    }

    fn features(&self) -> DiscoInfo {
        let with_password =
            self.room.as_ref().is_some_and(|room| !room["muc#roomconfig_roomsecret"].is_empty());
        let features = [
            (self.has("muc#roomconfig_publicroom", "0"), "muc_hidden"),
            (with_password, "muc_passwordprotected"),
            (self.has("muc#roomconfig_membersonly", "1"), "muc_membersonly"),
            (self.has("muc#roomconfig_whois", "anyone"), "muc_nonanonymous"),
            (self.has("muc#roomconfig_persistentroom", "1"), "muc_persistent"),
        ];
        let features = features.into_iter().filter(|(is, _)| *is);
        DiscoInfo { features: features.map(|(_, feature)| feature.into()).collect() }
    }

    /// What the room answers.
    fn of_room(&mut self, ask: Ask) -> Answer {
        if self.is(Quirk::Gone) {
            return refused(Condition::Gone { new_address: None });
        }
        let (Ask::Get(payload) | Ask::Set(payload)) = &ask;
        if self.is(Quirk::Nonsense) {
            return Ok(Some(Element::bare("odd", "urn:x")));
        }
        let is_for_owner = OwnerQuery::try_from(payload.clone()).is_ok();
        if self.room.is_none() && is_for_owner && self.is(Quirk::MakesWhenAsked) {
            self.make();
        }
        if self.room.is_none() {
            return refused(Condition::ItemNotFound);
        }
        match payload.name() {
            "query" if payload.ns() == xmpp_parsers::ns::DISCO_INFO => {
                Ok(Some(self.features().into()))
            }
            _ if let Ok(query) = OwnerQuery::try_from(payload.clone()) => self.owner(query),
            _ => {
                self.administrator(&ask, AdminQuery::try_from(payload.clone()).expect("a question"))
            }
        }
    }

    fn owner(&mut self, query: OwnerQuery) -> Answer {
        if !self.owns() {
            return refused(Condition::Forbidden);
        }
        let room = self.room.as_mut().expect("a room");
        let Some(form) = query.form else {
            let fields = room.iter().map(|(var, value)| Field {
                var: Some(var.clone()),
                type_: None,
                values: vec![value.clone()],
            });
            let form = Form { type_: "form".into(), fields: fields.collect() };
            return Ok(Some(OwnerQuery { form: Some(form) }.into()));
        };
        if form.type_ == "cancel" {
            (self.room, self.declined) = (None, true);
            return Ok(None);
        }
        if self.quirks.contains(&Quirk::RefusesForm) {
            return refused(Condition::NotAcceptable);
        }
        if !self.quirks.contains(&Quirk::IgnoresForm) {
            for field in form.fields {
                let var = field.var.expect("a variable");
                assert!(var == "FORM_TYPE" || room.contains_key(&var), "{var} was not offered");
                room.insert(var, field.values.first().cloned().unwrap_or_default());
            }
        }
        Ok(None)
    }

    fn administrator(&mut self, ask: &Ask, query: AdminQuery) -> Answer {
        if self.is(Quirk::HidesLists) {
            return refused(Condition::Forbidden);
        }
        if matches!(ask, Ask::Get(_)) {
            let wanted = query.items[0].affiliation;
            let listed = self.affiliations.iter().filter(|(_, is)| Some(**is) == wanted);
            let items = listed.map(|(account, is)| AdminItem {
                affiliation: Some(*is),
                jid: Some(Jid::from(account.clone())),
            });
            return Ok(Some(AdminQuery { items: items.collect() }.into()));
        }
        if self.is(Quirk::RefusesChanges) {
            return refused(Condition::NotAllowed);
        }
        for item in query.items {
            let account = item.jid.expect("an account").to_bare();
            self.affiliations.insert(account, item.affiliation.expect("an affiliation"));
        }
        Ok(None)
    }

    fn entry(&mut self, presence: &Presence) {
        let to = presence.to.clone().expect("an address");
        if presence.type_ == xmpp_parsers::presence::Type::Unavailable {
            self.inside.remove(&to);
            return;
        }
        if self.is(Quirk::Babbles) {
            return;
        }
        if self.is(Quirk::Overtaken) && self.room.is_none() {
            self.room = Some(new_form());
            self.affiliations.insert(jid("other@x"), Affiliation::Owner);
            self.presences.push_back(occupant(&format!("{ROOM}/other"), "other@x/r", ""));
        }
        if self.room.is_none() && self.is(Quirk::NoRoomsForUsers) {
            return self.presences.push_back(error(&to, "not-allowed"));
        }
        let is_new = self.room.is_none() || self.is(Quirk::MakesWhenAsked) && !self.was_entered;
        if self.room.is_none() {
            self.make();
        }
        self.was_entered = true;
        let codes = match is_new {
            true => "<status code='110'/><status code='201'/>",
            false => "<status code='110'/>",
        };
        self.presences.push_back(occupant(to.as_str(), self.jid.as_str(), codes));
        self.inside.insert(to);
    }
}

impl Server for Model {
    fn jid(&self) -> &FullJid {
        &self.jid
    }

    async fn ask(&mut self, to: Jid, ask: Ask) -> Answer {
        if self.is(Quirk::Silent) {
            return Err(RequestFailure::TimedOut);
        }
        let rooms = DiscoInfo { features: vec![xmpp_parsers::ns::MUC.into()] };
        match to.as_str() {
            ROOM => self.of_room(ask),
            "muc.x" if self.is(Quirk::NoService) => refused(Condition::RemoteServerNotFound),
            "muc.x" | "rooms.x" => Ok(Some(rooms.into())),
            "x" => {
                let item = |jid: &str| DiscoItem { jid: Jid::new(jid).expect("a JID"), name: None };
                Ok(Some(DiscoItems { items: vec![item("upload.x"), item("rooms.x")] }.into()))
            }
            _ => Ok(Some(DiscoInfo::default().into())),
        }
    }

    fn send(&mut self, presence: Presence) {
        self.entry(&presence);
    }

    async fn presence(&mut self) -> Result<Presence, RequestFailure> {
        if self.is(Quirk::Babbles) {
            return Ok(occupant("other@muc.x/somebody", "a@x/r", ""));
        }
        self.presences.pop_front().ok_or(RequestFailure::TimedOut)
    }
}

fn occupant(from: &str, jid: &str, codes: &str) -> Presence {
    parsed(&format!(
        "<presence xmlns='jabber:client' from='{from}'><x xmlns='http://jabber.org/protocol/muc#user'>{codes}\
         <item affiliation='none' role='participant' jid='{jid}'/></x></presence>"
    ))
}

fn error(from: &Jid, condition: &str) -> Presence {
    parsed(&format!(
        "<presence xmlns='jabber:client' from='{from}' type='error'><error type='cancel'>\
         <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>"
    ))
}

fn parsed(xml: &str) -> Presence {
    Presence::try_from(xml.parse::<Element>().expect("XML")).expect("a presence")
}

/// The model answers at once: nothing waits.
fn tokio_test<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

fn with_password(password: &str) -> Wanted {
    Wanted { entry: Entry::Password, password: Some(RoomPassword(password.into())) }
}

fn for_members() -> Wanted {
    Wanted { entry: Entry::Members, password: None }
}

fn created(model: &mut Model, wanted: &Wanted) -> Result<Created, AdministrationError> {
    tokio_test(create::create(model, &jid(ROOM), wanted, Existing::Refused))
}

#[test]
fn a_room_is_made_as_wanted_and_left() {
    for wanted in [with_password("derived"), for_members()] {
        let mut model = Model::new(&[]);
        assert_eq!(created(&mut model, &wanted), Ok(Created::New));
        assert!(model.has("muc#roomconfig_persistentroom", "1") && model.inside.is_empty());
        let secret = wanted.password.as_ref().map_or("", |password| &password.0);
        assert!(model.has("muc#roomconfig_roomsecret", secret));
        assert_eq!(created(&mut model, &wanted), Ok(Created::AsWanted));
    }
}

#[test]
fn a_room_that_cannot_be_made_as_wanted_is_given_back() {
    let failure = created(&mut Model::new(&[Quirk::NoRoomsForUsers]), &for_members());
    assert!(matches!(failure, Err(AdministrationError::NotAllowed { .. })), "{failure:?}");
    for (quirk, says) in [
        (Quirk::IgnoresForm, "did not configure"),
        (Quirk::RefusesForm, "configuring the room: not-acceptable"),
    ] {
        let mut model = Model::new(&[quirk]);
        let failure = created(&mut model, &with_password("derived")).expect_err("it fails");
        assert!(failure.to_string().contains(says), "{failure}");
        assert!(model.declined && model.room.is_none() && model.inside.is_empty());
    }
}

#[test]
fn what_somebody_else_made_meanwhile_is_theirs() {
    let mut model = Model::new(&[Quirk::Overtaken]);
    let failure = created(&mut model, &with_password("derived")).expect_err("it is taken");
    assert!(matches!(failure, AdministrationError::NotOwner { .. }), "{failure}");
    assert!(!model.declined && model.inside.is_empty(), "it is left alone");
    assert!(model.has("muc#roomconfig_roomsecret", ""));
}

#[test]
fn an_own_room_with_other_settings_is_changed_only_if_that_is_meant() {
    let mut model = Model::with_room(&[], &for_members());
    let other = with_password("derived");
    let failure = created(&mut model, &other).expect_err("it is another room");
    let AdministrationError::OtherSettings { differences, .. } = &failure else {
        panic!("{failure}")
    };
    assert_eq!(differences.len(), 2, "{failure}");
    assert!(failure.to_string().contains("--reconfigure"), "{failure}");
    assert!(model.has("muc#roomconfig_membersonly", "1"), "nothing was changed");
    let room = jid(ROOM);
    let changed = tokio_test(create::create(&mut model, &room, &other, Existing::Reconfigured));
    assert_eq!(changed, Ok(Created::Reconfigured));
    assert!(model.has("muc#roomconfig_membersonly", "0"));
}

#[test]
fn servers_that_are_of_no_use_are_told_apart() {
    let wanted = for_members();
    let failure = created(&mut Model::new(&[Quirk::NoService]), &wanted).expect_err("no service");
    assert!(failure.to_string().contains("rooms.x"), "{failure}");
    for (quirk, says) in [
        (Quirk::Silent, "no answer in time"),
        (Quirk::Gone, "choose another name"),
        (Quirk::Nonsense, "makes no sense"),
        (Quirk::Babbles, "makes no sense"),
    ] {
        let failure = created(&mut Model::new(&[quirk]), &wanted).expect_err("it fails");
        assert!(failure.to_string().contains(says), "{quirk:?}: {failure}");
    }
}

#[test]
fn looking_makes_no_room() {
    for quirks in [&[][..], &[Quirk::MakesWhenAsked]] {
        let mut model = Model::new(quirks);
        // It was there a moment ago.
        let looked = tokio_test(look::look(&mut model, &jid(ROOM), None, Configuration::default()));
        assert_eq!(looked, Err(AdministrationError::NoRoom(jid(ROOM))));
        assert!(model.declined && model.room.is_none() && model.inside.is_empty());
    }
}

#[test]
fn asking_makes_no_room_that_would_pass_for_one_found() {
    for wanted in [with_password("derived"), for_members()] {
        let mut model = Model::new(&[Quirk::MakesWhenAsked]);
        assert_eq!(created(&mut model, &wanted), Ok(Created::New));
        assert!(model.has("muc#roomconfig_persistentroom", "1") && model.inside.is_empty());
        assert_eq!(created(&mut model, &wanted), Ok(Created::AsWanted));
    }
}

#[test]
fn a_room_that_nobody_has_entered_yet_is_empty_and_not_missing() {
    let wanted = with_password("derived");
    let mut model = Model::with_room(&[Quirk::MakesWhenAsked], &wanted);
    model.was_entered = false;
    let known = tokio_test(configuration(&mut model, &jid(ROOM))).expect("it is there");
    let looked = tokio_test(look::look(&mut model, &jid(ROOM), wanted.password.as_ref(), known));
    assert_eq!(looked, Ok(Ok(Vec::new())));
    assert!(!model.declined && model.room.is_some() && model.inside.is_empty());
}

#[test]
fn members_are_added_and_removed_and_nobody_is_demoted() {
    let mut model = Model::with_room(&[], &for_members());
    let (room, account) = (jid(ROOM), jid("a@x"));
    let (none, member) = (Affiliation::None, Affiliation::Member);
    let added = tokio_test(members::add(&mut model, &room, &account));
    assert_eq!(added, Ok(AffiliationChange { was: none, is: member }));
    let owner = Affiliation::Owner;
    let kept = tokio_test(members::add(&mut model, &room, &jid(OWN)));
    assert_eq!(kept, Ok(AffiliationChange { was: owner, is: owner }));
    let refused = tokio_test(members::remove(&mut model, &room, &jid(OWN)));
    assert!(matches!(refused, Err(AdministrationError::Privileged { .. })), "{refused:?}");
    let removed = tokio_test(members::remove(&mut model, &room, &account));
    assert_eq!(removed, Ok(AffiliationChange { was: member, is: none }));
    assert_eq!(model.affiliations[&account], none);
    assert!(model.owns());
}

#[test]
fn whoever_knows_the_password_is_banned_and_may_come_back() {
    let mut model = Model::with_room(&[], &with_password("derived"));
    let (room, account) = (jid(ROOM), jid("a@x"));
    let (none, outcast, member) = (Affiliation::None, Affiliation::Outcast, Affiliation::Member);
    for was in [none, outcast] {
        let removed = tokio_test(members::remove(&mut model, &room, &account));
        assert_eq!(removed, Ok(AffiliationChange { was, is: outcast }));
    }
    let added = tokio_test(members::add(&mut model, &room, &account));
    assert_eq!(added, Ok(AffiliationChange { was: outcast, is: member }));
}

#[test]
fn whoever_may_not_read_or_change_the_lists_is_told_so() {
    for quirk in [Quirk::HidesLists, Quirk::RefusesChanges] {
        let mut model = Model::with_room(&[quirk], &for_members());
        let (room, account) = (jid(ROOM), jid("a@x"));
        let refused = tokio_test(members::add(&mut model, &room, &account)).expect_err("no right");
        assert!(refused.to_string().contains("only its owners and admins may"), "{refused}");
        assert!(!model.affiliations.contains_key(&account));
    }
    let mut model = Model::with_room(&[Quirk::HidesLists], &for_members());
    let lists =
        tokio_test(members::lists(&mut model, &jid(ROOM))).expect("as far as they can be read");
    assert_eq!((lists.accounts.len(), lists.unreadable.len()), (0, 4));
}
