//! `ipop-switch room create`, `add`, `remove` and `show`: one job each, as a state machine that asks one question at a time.
//!
//! **Create** never takes over a room. It asks for the owner's form first: whoever gets it owns the room, and may have it
//! configured anew, for a new secret for example. Where there is no room it is entered, which makes one, locked until it is
//! configured (XEP-0045 section 10.1); the server must say that it made it for this entry (status 201). At the end the
//! room's features are read back: what the server did counts, not what it was told.
//!
//! **Remove** takes the right away in the way that the room's entry makes necessary: in a members-only room "none" is
//! enough, in one with a password only a ban keeps an account out that knows the password.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use xmpp_parsers::{
    disco::{DiscoInfoQuery, DiscoItemsQuery},
    jid::{BareJid, FullJid, Jid},
    minidom::Element,
    muc::Muc,
    ns,
    presence::{Presence, Type},
    stanza_error::{DefinedCondition as Condition, StanzaError},
};

use super::{
    RoomPassword,
    affiliations::list,
    configuration::{Configuration, Entry, filled},
    presence::muc_user,
    wire::{AdminItem, AdminQuery, Affiliation, DiscoItems, Form, OwnerQuery, code},
};
use crate::xmpp::request::{Answer, Ask, Failure, Request, Token, describe, printable};

/// For the server to let this account into the new room.
const ENTER_TIMEOUT: Duration = Duration::from_secs(15);
/// Accounts and occupants that are shown.
const MAX_SHOWN: usize = 4_096;
/// In the order in which they are read.
const LISTS: [Affiliation; 4] =
    [Affiliation::Owner, Affiliation::Admin, Affiliation::Member, Affiliation::Outcast];

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Job {
    /// Make the room, or configure an own one anew.
    Create {
        /// What keeps strangers out.
        entry: Entry,
        /// With [`Entry::Password`].
        password: Option<RoomPassword>,
    },
    /// Give this account a right, lift its ban.
    Add(BareJid),
    /// Take this account's right away.
    Remove(BareJid),
    /// Tell what the room is.
    Show,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// The room was made, or, if it was there and owned by this account, configured anew.
    Created(Newness, Configuration),
    /// The account's affiliation is this now.
    Affiliated(BareJid, Affiliation),
    /// The room.
    Room(RoomReport),
}

/// Whether a room was there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Newness {
    /// It was not.
    New,
    /// It was, and this account owns it.
    Owned,
}

/// What an account may know of a room.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RoomReport {
    /// Its configuration.
    pub configuration: Configuration,
    /// The accounts in its lists.
    pub affiliations: BTreeMap<BareJid, Affiliation>,
    /// The lists that this account may not read.
    pub unreadable: Vec<Affiliation>,
    /// The nicks of those inside, as far as the server tells.
    pub occupants: Vec<String>,
}

/// Why nothing came of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdminError {
    /// Somebody else's room has this name.
    #[error("room {0} exists and does not belong to this account; choose another name")]
    NotOurs(BareJid),
    /// There is no such room.
    #[error("room {0} does not exist; make it with `ipop-switch room create {0}`")]
    NoRoom(BareJid),
    /// The server reserves rooms for others.
    #[error(
        "the server does not let this account make rooms ({0}); its administrator can \
         (Prosody: restrict_room_creation)"
    )]
    NotAllowed(String),
    /// This needs an owner or admin.
    #[error("this account may not change who is in room {0}: only its owners and admins may")]
    NotAdmin(BareJid),
    /// Owners and admins stay.
    #[error("{0} is {as_str} of the room; take that away with an XMPP client first", as_str = .1.as_str())]
    Privileged(BareJid, Affiliation),
    /// The server did something else than it was told.
    #[error("the server did not configure room {0} as it was asked to: {1}")]
    NotAsAsked(BareJid, String),
    /// Anything else.
    #[error("{doing}: {why}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// By the server, or no answer.
        why: String,
    },
}

/// Something is to be done.
#[derive(Clone, PartialEq, Debug)]
pub enum AdminAction {
    /// Send this presence.
    Presence(Box<Presence>),
    /// Ask this; [`Admin::handle_answer`] takes the answer.
    Request(Request),
    /// It is over.
    Done(Result<Report, AdminError>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Whether this account owns a room there.
    OwnedForm,
    /// Entered, to make it.
    Entering(Instant),
    /// The form of the room that was made.
    NewForm,
    Submitted(Newness),
    Verifying(Newness),
    /// Reading the list with this position.
    Reading(usize),
    ReadingConfiguration,
    Changing(Affiliation),
    ReadingOccupants,
    Over,
}

impl Step {
    fn doing(self) -> &'static str {
        match self {
            Self::OwnedForm => "cannot find out whether the room exists",
            Self::Entering(_) => "cannot enter the new room",
            Self::NewForm | Self::Submitted(_) => "cannot configure the room",
            Self::Verifying(_) | Self::ReadingConfiguration => {
                "cannot read the room's configuration"
            }
            Self::Reading(_) => "cannot read the room's lists",
            Self::Changing(_) => "cannot change the account's affiliation",
            Self::ReadingOccupants | Self::Over => "cannot read who is in the room",
        }
    }
}

/// One job under way.
#[derive(Debug)]
pub struct Admin {
    job: Job,
    room: BareJid,
    own: FullJid,
    step: Step,
    report: RoomReport,
    last_token: u64,
    actions: VecDeque<AdminAction>,
}

impl Admin {
    /// Starts the job on a stream that is up. `nick` is the one to enter with.
    ///
    /// # Errors
    /// When the nick or the room's name cannot be right.
    pub fn new(job: Job, room: BareJid, nick: &str) -> Result<Self, AdminError> {
        let own = room.with_resource_str(nick).map_err(|error| AdminError::Failed {
            doing: "this is no name for an occupant",
            why: error.to_string(),
        })?;
        let (report, actions) = Default::default();
        let step = Step::OwnedForm;
        let mut admin = Self { job, room, own, step, report, last_token: 0, actions };
        match admin.job {
            Job::Create { .. } => admin.ask_owner(Step::OwnedForm, None),
            Job::Add(_) | Job::Remove(_) | Job::Show => {
                admin.ask_configuration(Step::ReadingConfiguration)
            }
        }
        Ok(admin)
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<AdminAction> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if let Step::Entering(until) = self.step { Some(until) } else { None }
    }

    /// The time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|until| until <= now) {
            self.leave();
            self.fail(Failure::TimedOut.to_string());
        }
    }

    /// A presence came from the room.
    pub fn handle_presence(&mut self, presence: &Presence) {
        let Step::Entering(_) = self.step else { return };
        if presence.from.as_ref().is_none_or(|from| from.to_bare() != self.room) {
            return;
        }
        if presence.type_ == Type::Error {
            let error =
                presence.payloads.iter().find(|payload| payload.is("error", ns::DEFAULT_NS));
            match error.and_then(|error| StanzaError::try_from(error.clone()).ok()) {
                Some(error) => self.entry_refused(&error),
                None => self.fail("an error without a reason".into()),
            }
            return;
        }
        let Some(x) = muc_user(&presence.payloads).filter(|x| x.has(code::SELF)) else { return };
        if x.has(code::CREATED) && presence.type_ == Type::None {
            self.ask_owner(Step::NewForm, None);
        } else {
            // Somebody else made one in between.
            self.leave();
            self.done(Err(AdminError::NotOurs(self.room.clone())));
        }
    }

    fn entry_refused(&mut self, error: &StanzaError) {
        let result = match error.defined_condition {
            Condition::NotAllowed => AdminError::NotAllowed(describe(error)),
            Condition::Conflict
            | Condition::Forbidden
            | Condition::ItemNotFound
            | Condition::NotAuthorized
            | Condition::RegistrationRequired => AdminError::NotOurs(self.room.clone()),
            _ => return self.fail(describe(error)),
        };
        self.done(Err(result));
    }

    /// The answer to the last question.
    pub fn handle_answer(&mut self, now: Instant, token: Token, answer: Answer) {
        if token != Token(self.last_token) {
            return;
        }
        match self.step {
            Step::OwnedForm => self.take_owned_form(now, answer),
            Step::NewForm => match form(answer) {
                Ok(form) => self.submit(&form, Newness::New),
                Err(why) => self.give_back(why),
            },
            Step::Submitted(newness) => match answer {
                Ok(_) => self.ask_configuration(Step::Verifying(newness)),
                Err(failure) if newness == Newness::New => self.give_back(failure.to_string()),
                Err(failure) => self.fail(failure.to_string()),
            },
            Step::Verifying(newness) => self.verify(newness, answer),
            Step::ReadingConfiguration => self.take_configuration(answer),
            Step::Reading(position) => self.take_list(position, answer),
            Step::Changing(affiliation) => self.changed(affiliation, answer),
            Step::ReadingOccupants => self.take_occupants(answer),
            Step::Entering(_) | Step::Over => {}
        }
    }

    fn take_owned_form(&mut self, now: Instant, answer: Answer) {
        if let Err(Failure::Refused(error)) = &answer {
            match error.defined_condition {
                Condition::ItemNotFound => return self.enter(now),
                Condition::Forbidden | Condition::NotAuthorized | Condition::NotAllowed => {
                    return self.done(Err(AdminError::NotOurs(self.room.clone())));
                }
                _ => {}
            }
        }
        match form(answer) {
            Ok(form) => self.submit(&form, Newness::Owned),
            Err(why) => self.fail(why),
        }
    }

    fn enter(&mut self, now: Instant) {
        let presence =
            Presence::available().with_to(Jid::from(self.own.clone())).with_payload(Muc::new());
        self.actions.push_back(AdminAction::Presence(Box::new(presence)));
        self.step = Step::Entering(now + ENTER_TIMEOUT);
    }

    fn leave(&mut self) {
        let presence = Presence::unavailable().with_to(Jid::from(self.own.clone()));
        self.actions.push_back(AdminAction::Presence(Box::new(presence)));
    }

    fn submit(&mut self, offered: &Form, newness: Newness) {
        let Job::Create { entry, password } = &self.job else { return };
        let password = password.as_ref().map(|password| password.0.as_str());
        let form = filled(offered, *entry, password);
        self.ask_owner(Step::Submitted(newness), Some(form));
    }

    /// A room that this job made and could not configure goes away again.
    fn give_back(&mut self, why: String) {
        let cancel = Form { type_: "cancel".into(), fields: Vec::new() };
        self.ask_owner(self.step, Some(cancel));
        self.leave();
        self.fail(why);
    }

    fn verify(&mut self, newness: Newness, answer: Answer) {
        if newness == Newness::New {
            self.leave();
        }
        let configuration = match configuration(answer) {
            Ok(configuration) => configuration,
            Err(why) => return self.fail(why),
        };
        let Job::Create { entry, .. } = &self.job else { return };
        let mut faults = configuration.faults(*entry);
        if !configuration.persistent {
            faults.push("it is temporary (must be persistent)");
        }
        self.done(if faults.is_empty() {
            Ok(Report::Created(newness, configuration))
        } else {
            Err(AdminError::NotAsAsked(self.room.clone(), faults.join(", ")))
        });
    }

    fn take_configuration(&mut self, answer: Answer) {
        if let Err(failure) = &answer
            && failure.condition() == Some(&Condition::ItemNotFound)
        {
            return self.done(Err(AdminError::NoRoom(self.room.clone())));
        }
        match configuration(answer) {
            Ok(configuration) => {
                self.report.configuration = configuration;
                self.read_list(0);
            }
            Err(why) => self.fail(why),
        }
    }

    fn read_list(&mut self, position: usize) {
        self.ask(Step::Reading(position), list(LISTS[position]));
    }

    fn take_list(&mut self, position: usize, answer: Answer) {
        let query = answer.ok().flatten().and_then(|query| AdminQuery::try_from(query).ok());
        match query {
            Some(query) => {
                let listed =
                    query.items.iter().filter(|item| item.affiliation == Some(LISTS[position]));
                let jids = listed.filter_map(|item| item.jid.as_ref()).map(Jid::to_bare);
                let room_left = MAX_SHOWN.saturating_sub(self.report.affiliations.len());
                let entries = jids.take(room_left).map(|jid| (jid, LISTS[position]));
                self.report.affiliations.extend(entries);
            }
            None => self.report.unreadable.push(LISTS[position]),
        }
        let next = position + 1;
        match &self.job {
            // Whoever may see the owners and admins may change what is below.
            Job::Add(_) | Job::Remove(_) if next == 2 => self.change(),
            Job::Show if next == LISTS.len() => {
                self.ask(
                    Step::ReadingOccupants,
                    Ask::Get(DiscoItemsQuery { node: None, rsm: None }.into()),
                );
            }
            _ => self.read_list(next),
        }
    }

    fn change(&mut self) {
        let (account, wanted) = match &self.job {
            Job::Add(account) => (account.clone(), Affiliation::Member),
            Job::Remove(account) if self.report.configuration.members_only => {
                (account.clone(), Affiliation::None)
            }
            Job::Remove(account) => (account.clone(), Affiliation::Outcast),
            Job::Create { .. } | Job::Show => return,
        };
        if let Some(&has) = self.report.affiliations.get(&account) {
            let done = match self.job {
                Job::Add(_) => Ok(Report::Affiliated(account, has)),
                _ => Err(AdminError::Privileged(account, has)),
            };
            return self.done(done);
        }
        let item = AdminItem { affiliation: Some(wanted), jid: Some(account.into()) };
        self.ask(Step::Changing(wanted), Ask::Set(AdminQuery { items: vec![item] }.into()));
    }

    fn changed(&mut self, affiliation: Affiliation, answer: Answer) {
        let (Job::Add(account) | Job::Remove(account)) = &self.job else { return };
        let account = account.clone();
        match answer {
            Ok(_) => self.done(Ok(Report::Affiliated(account, affiliation))),
            Err(failure) => match failure.condition() {
                Some(Condition::Forbidden | Condition::NotAllowed | Condition::NotAuthorized) => {
                    self.done(Err(AdminError::NotAdmin(self.room.clone())));
                }
                _ => self.fail(failure.to_string()),
            },
        }
    }

    fn take_occupants(&mut self, answer: Answer) {
        // Servers may keep this to themselves; the rest of the report stands without it.
        let items = answer.ok().flatten().and_then(|query| DiscoItems::try_from(query).ok());
        for item in items.unwrap_or_default().items.into_iter().take(MAX_SHOWN) {
            let nick = item.jid.resource().map(|nick| nick.as_str().to_owned()).or(item.name);
            self.report.occupants.extend(nick.map(|nick| printable(&nick)));
        }
        let report = std::mem::take(&mut self.report);
        self.done(Ok(Report::Room(report)));
    }

    fn ask_owner(&mut self, step: Step, form: Option<Form>) {
        let submits = form.is_some();
        let query: Element = OwnerQuery { form }.into();
        self.ask(step, if submits { Ask::Set(query) } else { Ask::Get(query) });
    }

    fn ask_configuration(&mut self, step: Step) {
        self.ask(step, Ask::Get(DiscoInfoQuery { node: None }.into()));
    }

    fn ask(&mut self, step: Step, ask: Ask) {
        self.step = step;
        self.last_token += 1;
        let (token, to) = (Token(self.last_token), self.room.clone().into());
        self.actions.push_back(AdminAction::Request(Request { token, to, ask }));
    }

    fn fail(&mut self, why: String) {
        let doing = self.step.doing();
        self.done(Err(AdminError::Failed { doing, why }));
    }

    fn done(&mut self, result: Result<Report, AdminError>) {
        self.step = Step::Over;
        self.actions.push_back(AdminAction::Done(result));
    }
}

fn form(answer: Answer) -> Result<Form, String> {
    let payload = answer.map_err(|failure| failure.to_string())?;
    let query = payload.and_then(|query| OwnerQuery::try_from(query).ok());
    query.and_then(|query| query.form).ok_or_else(|| "the server sent no form".into())
}

fn configuration(answer: Answer) -> Result<Configuration, String> {
    let payload = answer.map_err(|failure| failure.to_string())?;
    payload.as_ref().and_then(Configuration::read).ok_or_else(|| "the answer makes no sense".into())
}
