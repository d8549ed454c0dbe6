//! Administration of rooms against single answers.

use std::time::Instant;

use xmpp_parsers::{
    minidom::Element,
    presence::Presence,
    stanza_error::{DefinedCondition as Condition, ErrorType, StanzaError},
};

use super::*;

const FORM: &str = "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='form'>\
    <field type='hidden' var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field>\
    <field type='boolean' var='muc#roomconfig_persistentroom'/><field type='boolean' var='muc#roomconfig_publicroom'><value>1</value></field>\
    <field type='text-private' var='muc#roomconfig_roomsecret'/><field type='list-single' var='muc#roomconfig_whois'>\
    <value>moderators</value><option label='x'><value>moderators</value></option></field></x></query>";
const GOOD: &str = "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='muc_hidden'/><feature var='muc_persistent'/>\
    <feature var='muc_passwordprotected'/><feature var='muc_nonanonymous'/></query>";
const MEMBERS: &str =
    "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='muc_membersonly'/></query>";

struct Bench {
    admin: Admin,
    now: Instant,
    request: Option<Request>,
    presences: Vec<Presence>,
    done: Option<Result<Report, AdminError>>,
}

impl Bench {
    fn new(job: Job) -> Self {
        let admin = Admin::new(job, room(), "setup").expect("a job");
        let mut bench =
            Self { admin, now: Instant::now(), request: None, presences: Vec::new(), done: None };
        bench.drain();
        bench
    }

    fn creating() -> Self {
        Self::new(Job::Create {
            entry: Entry::Password,
            password: Some(RoomPassword("derived".into())),
        })
    }

    fn drain(&mut self) {
        while let Some(action) = self.admin.poll_action() {
            match action {
                AdminAction::Presence(presence) => self.presences.push(*presence),
                AdminAction::Request(request) => self.request = Some(request),
                AdminAction::Done(result) => self.done = Some(result),
            }
        }
    }

    fn asked(&self) -> String {
        let (Ask::Get(element) | Ask::Set(element)) =
            &self.request.as_ref().expect("a request").ask;
        String::from(element)
    }

    fn answer(&mut self, answer: Answer) {
        let request = self.request.take().expect("a request");
        self.admin.handle_answer(self.now, request.token, answer);
        self.drain();
    }

    fn result(&mut self, xml: &str) {
        self.answer(Ok(Some(xml.parse().expect("XML"))));
    }

    fn refuse(&mut self, condition: Condition) {
        let error = StanzaError::new(ErrorType::Cancel, condition, "en", "no");
        self.answer(Err(Failure::Refused(Box::new(error))));
    }

    fn presence(&mut self, kind: &str, payload: &str) {
        let xml = format!(
            "<presence xmlns='jabber:client' from='net@muc.x/setup' {kind}>{payload}</presence>"
        );
        let presence =
            Presence::try_from(xml.parse::<Element>().expect("XML")).expect("a presence");
        self.admin.handle_presence(&presence);
        self.drain();
    }

    fn enters(&mut self, statuses: &str) {
        let x = format!(
            "<x xmlns='http://jabber.org/protocol/muc#user'>{statuses}<item affiliation='owner' role='moderator'/></x>"
        );
        self.presence("", &x);
    }

    fn lists(&mut self, owners: &str, admins: &str) {
        for (affiliation, jid) in [("owner", owners), ("admin", admins)] {
            assert!(self.asked().contains(affiliation));
            self.result(&format!(
                "<query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='{affiliation}' jid='{jid}'/></query>"
            ));
        }
    }
}

fn room() -> BareJid {
    BareJid::new("net@muc.x").expect("a JID")
}

fn account(name: &str) -> BareJid {
    BareJid::new(&format!("{name}@x")).expect("a JID")
}

#[test]
fn a_new_room_is_made_configured_checked_and_left() {
    let mut bench = Bench::creating();
    bench.refuse(Condition::ItemNotFound);
    assert_eq!(bench.presences.len(), 1);
    bench.enters("<status code='110'/><status code='201'/>");
    bench.result(FORM);
    let form = bench.asked();
    assert!(
        form.contains("derived") && form.contains("anyone") && form.contains("submit"),
        "{form}"
    );
    bench.answer(Ok(None));
    bench.result(GOOD);
    assert!(
        matches!(bench.done, Some(Ok(Report::Created(Newness::New, configuration))) if configuration.hidden)
    );
    assert_eq!(bench.presences.len(), 2);
}

#[test]
fn an_own_room_is_configured_anew_without_entering() {
    let mut bench = Bench::creating();
    bench.result(FORM);
    bench.answer(Ok(None));
    bench.result(GOOD);
    assert!(matches!(bench.done, Some(Ok(Report::Created(Newness::Owned, _)))));
    assert!(bench.presences.is_empty());
}

#[test]
fn a_room_of_others_is_left_alone() {
    let mut bench = Bench::creating();
    bench.refuse(Condition::Forbidden);
    assert_eq!(bench.done, Some(Err(AdminError::NotOurs(room()))));
    // Made by somebody else between question and entry.
    let mut bench = Bench::creating();
    bench.refuse(Condition::ItemNotFound);
    bench.enters("<status code='110'/>");
    assert_eq!(bench.done, Some(Err(AdminError::NotOurs(room()))));
    assert_eq!(bench.presences.len(), 2, "left again");
    let mut bench = Bench::creating();
    bench.refuse(Condition::ItemNotFound);
    let error = "<error type='auth'><registration-required xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
    bench.presence("type='error'", error);
    assert_eq!(bench.done, Some(Err(AdminError::NotOurs(room()))));
}

#[test]
fn a_server_that_keeps_rooms_to_itself_is_explained() {
    let mut bench = Bench::creating();
    bench.refuse(Condition::ItemNotFound);
    let error =
        "<error type='cancel'><not-allowed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
    bench.presence("type='error'", error);
    let Some(Err(error @ AdminError::NotAllowed(_))) = bench.done else {
        panic!("{:?}", bench.done)
    };
    assert!(error.to_string().contains("restrict_room_creation"));
}

#[test]
fn a_room_that_cannot_be_configured_is_given_back() {
    let mut bench = Bench::creating();
    bench.refuse(Condition::ItemNotFound);
    bench.enters("<status code='110'/><status code='201'/>");
    bench.result(FORM);
    bench.refuse(Condition::NotAcceptable);
    assert!(bench.asked().contains("cancel"));
    assert!(matches!(bench.done, Some(Err(AdminError::Failed { .. }))));
}

#[test]
fn what_the_server_did_counts() {
    let mut bench = Bench::creating();
    bench.result(FORM);
    bench.answer(Ok(None));
    bench.result(&GOOD.replace("muc_hidden", "muc_public"));
    let Some(Err(error @ AdminError::NotAsAsked(..))) = bench.done else {
        panic!("{:?}", bench.done)
    };
    assert!(error.to_string().contains("public"));
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    let mut bench = Bench::creating();
    bench.refuse(Condition::ItemNotFound);
    let until = bench.admin.poll_timeout().expect("a time");
    bench.admin.handle_timeout(until);
    bench.drain();
    assert!(matches!(bench.done, Some(Err(AdminError::Failed { .. }))));
}

#[test]
fn removing_is_what_the_rooms_entry_makes_of_it() {
    for (configuration, affiliation) in [(MEMBERS, Affiliation::None), (GOOD, Affiliation::Outcast)]
    {
        let mut bench = Bench::new(Job::Remove(account("a")));
        bench.result(configuration);
        bench.lists("boss@x", "second@x");
        assert!(
            bench.asked().contains(&format!("affiliation='{}'", affiliation.as_str())),
            "{}",
            bench.asked()
        );
        bench.answer(Ok(None));
        assert_eq!(bench.done, Some(Ok(Report::Affiliated(account("a"), affiliation))));
    }
}

#[test]
fn nobody_is_demoted() {
    let mut bench = Bench::new(Job::Add(account("boss")));
    bench.result(MEMBERS);
    bench.lists("boss@x", "second@x");
    assert_eq!(bench.done, Some(Ok(Report::Affiliated(account("boss"), Affiliation::Owner))));
    let mut bench = Bench::new(Job::Remove(account("second")));
    bench.result(MEMBERS);
    bench.lists("boss@x", "second@x");
    assert_eq!(
        bench.done,
        Some(Err(AdminError::Privileged(account("second"), Affiliation::Admin)))
    );
}

#[test]
fn adding_needs_an_admin_and_a_room() {
    let mut bench = Bench::new(Job::Add(account("a")));
    bench.result(MEMBERS);
    bench.refuse(Condition::Forbidden);
    bench.refuse(Condition::Forbidden);
    bench.refuse(Condition::Forbidden);
    assert_eq!(bench.done, Some(Err(AdminError::NotAdmin(room()))));
    let mut bench = Bench::new(Job::Add(account("a")));
    bench.refuse(Condition::ItemNotFound);
    assert_eq!(bench.done, Some(Err(AdminError::NoRoom(room()))));
}

#[test]
fn a_room_is_shown_as_far_as_it_can_be_seen() {
    let mut bench = Bench::new(Job::Show);
    bench.result(GOOD);
    bench.lists("boss@x", "second@x");
    bench.result("<query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='member' jid='a@x'/></query>");
    bench.refuse(Condition::Forbidden);
    bench.result(
        "<query xmlns='http://jabber.org/protocol/disco#items'><item jid='net@muc.x/rack7'/><item jid='net@muc.x/rack8'/></query>",
    );
    let Some(Ok(Report::Room(report))) = bench.done else { panic!("{:?}", bench.done) };
    assert_eq!(report.occupants, ["rack7", "rack8"]);
    assert_eq!(report.unreadable, [Affiliation::Outcast]);
    assert_eq!(report.affiliations.get(&account("a")), Some(&Affiliation::Member));
    assert_eq!(report.affiliations.len(), 3);
}
