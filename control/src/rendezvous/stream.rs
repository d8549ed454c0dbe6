//! What comes and goes over XMPP: the stream's ups and downs, stanzas to the part that they concern, questions and
//! their answers.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use xmpp_parsers::{
    iq::Iq,
    jid::{BareJid, FullJid},
    message::Message,
    presence::Presence,
    stanza::Stanza,
};

use super::{Action, Rendezvous, Servers, report::News};
use crate::{
    notice::Notice,
    paths::ToLink,
    xmpp::{
        jingle::{self, ANSWER_TIMEOUT, Taken},
        request::{Answer, Request, RequestFailure, Token},
        room::{self, Stream, StreamEnd},
        stream::{self, FromStream, IqToken, Question, Resumed, ToStream},
    },
};

/// Which part asked a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Room,
    Jingle,
    Services,
}

/// Questions that wait for their answers.
#[derive(Debug, Default)]
pub(super) struct Questions {
    last: u64,
    open: HashMap<IqToken, (Part, Token)>,
}

impl Questions {
    fn ask(&mut self, part: Part, request: Request) -> Question {
        self.last += 1;
        let token = IqToken(self.last);
        self.open.insert(token, (part, request.token));
        let (to, request) = (Some(request.to), request.ask.into());
        Question { to, request, token, timeout: ANSWER_TIMEOUT }
    }
}

impl Rendezvous {
    /// The stream tells something.
    pub(crate) fn handle_stream(&mut self, now: Instant, event: FromStream) {
        match event {
            FromStream::Online { jid, resumed } => self.online(now, jid, resumed),
            FromStream::Offline { why, retry_in } => self.lost(now, why, retry_in),
            FromStream::Refused { why } => self.refused(now, why),
            // Whoever runs the stream puts it down, for the next start.
            FromStream::Bound { .. } => {}
            FromStream::Stanza(stanza) => self.handle_stanza(now, *stanza),
            FromStream::IqAnswer { token, result } => {
                let Some((part, token)) = self.questions.open.remove(&token) else { return };
                self.handle_answer(now, part, token, result.map_err(RequestFailure::from));
            }
        }
    }

    fn online(&mut self, now: Instant, jid: FullJid, resumed: Resumed) {
        let session = match resumed {
            Resumed::Yes => Stream::Resumed,
            Resumed::No => Stream::New,
        };
        let account = jid.to_bare();
        self.stream_state.online(jid.to_string());
        self.tell(Notice::Online { jid: jid.clone() });
        self.jingle.online(now, jid.clone(), session);
        if session == Stream::New && self.servers == Servers::Offered {
            self.services.online(now, &account);
        }
        self.own_account = Some(account);
        self.room.online(now, jid, session);
    }

    /// The stream comes back by itself. Why it is not there is told once, and not with every attempt.
    fn lost(&mut self, now: Instant, why: stream::Failure, retry_in: Duration) {
        let end = match &why {
            stream::Failure::Stream { condition, .. } if condition == "conflict" => {
                StreamEnd::Replaced
            }
            _ => StreamEnd::Lost,
        };
        self.offline(now, end);
        let notice = match self.stream_state.offline(&why.to_string()) {
            News::Yes => Notice::Offline { why },
            News::No => Notice::StillOffline { why, retry_in },
        };
        self.tell(notice);
    }

    /// The stream does not come back by itself.
    fn refused(&mut self, now: Instant, why: stream::Failure) {
        self.offline(now, StreamEnd::Lost);
        self.stream_state.offline(&why.to_string());
        // A node that knows of no peer but by the room can do nothing more, and whoever started it waits for an answer.
        let alone = !self.trust.knows_anybody();
        if why.is_of_settings() && !self.stream_state.was_online() && alone {
            self.actions.push_back(Action::GiveUp(why));
        } else {
            self.tell(Notice::AccountRefused { why });
        }
    }

    fn offline(&mut self, now: Instant, end: StreamEnd) {
        self.room.offline(now, end);
        self.jingle.offline();
        self.services.offline();
    }

    fn handle_stanza(&mut self, now: Instant, stanza: Stanza) {
        match stanza {
            Stanza::Presence(presence) => self.handle_presence(now, &presence),
            Stanza::Message(message) => self.handle_message(now, &message),
            Stanza::Iq(iq) => self.handle_iq(now, &iq),
        }
    }

    fn handle_presence(&mut self, now: Instant, presence: &Presence) {
        self.room.handle_presence(now, presence);
    }

    fn handle_message(&mut self, now: Instant, message: &Message) {
        if self.jingle.handle_message(now, message) == Taken::No {
            self.room.handle_message(now, message);
        }
    }

    fn handle_iq(&mut self, now: Instant, iq: &Iq) {
        if self.jingle.handle_iq(now, iq) == Taken::No
            && let Some(answer) = self.answers.answer(now, iq)
        {
            self.send(Stanza::Iq(answer));
        }
    }

    fn handle_answer(&mut self, now: Instant, part: Part, token: Token, answer: Answer) {
        match part {
            Part::Room => self.room.handle_answer(now, token, answer),
            Part::Jingle => self.jingle.handle_answer(now, token, &answer),
            Part::Services => {
                let unix_s = self.clock.unix_s(now) as i64;
                if let Some(offer) = self.services.handle_answer(now, unix_s, token, &answer) {
                    self.tell(Notice::Offered(offer.clone()));
                    self.actions.push_back(Action::ResolveServers(offer));
                }
            }
        }
    }

    fn send(&mut self, stanza: Stanza) {
        self.actions.push_back(Action::Stream(ToStream::Send(Box::new(stanza))));
    }

    fn ask(&mut self, part: Part, request: Request) {
        let question = Box::new(self.questions.ask(part, request));
        self.actions.push_back(Action::Stream(ToStream::Iq(question)));
    }

    /// What room, Jingle and services have to say; true if there was anything.
    pub(super) fn pump_stream(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(action) = self.room.poll_action() {
            any = true;
            match action {
                room::Action::Presence(presence) => self.send(Stanza::Presence(*presence)),
                room::Action::Request(request) => self.ask(Part::Room, request),
                room::Action::Event(event) => self.handle_room(now, event),
            }
        }
        while let Some(action) = self.jingle.poll_action(now) {
            any = true;
            match action {
                jingle::Action::Request(request) => self.ask(Part::Jingle, request),
                jingle::Action::Reply(iq) => self.send(Stanza::Iq(*iq)),
                jingle::Action::Message(message) => self.send(Stanza::Message(*message)),
                jingle::Action::Event(event) => self.handle_jingle(event),
            }
        }
        if self.servers == Servers::Offered
            && let Some(request) = self.services.poll_request(now)
        {
            any = true;
            self.ask(Part::Services, request);
        }
        any
    }

    fn handle_room(&mut self, now: Instant, event: room::Event) {
        match event {
            room::Event::Joined { nick } => {
                self.stream_state.joined();
                self.tell(Notice::Joined { nick });
            }
            room::Event::Occupant(occupant) => self.occupant(now, occupant),
            room::Event::OccupantGone(jid) => self.occupant_gone(now, &jid),
            room::Event::Revoked(account) => {
                let account = account.to_string();
                self.tell(Notice::AccountRemoved { account: account.clone() });
                self.revoke(now, |other| other == account);
            }
            room::Event::Entitled(accounts) => {
                let own = self.own_account.clone();
                self.revoke(now, |other| {
                    let Ok(other) = BareJid::new(other) else { return true };
                    !accounts.contains(&other) && own.as_ref() != Some(&other)
                });
            }
            room::Event::Problem(problem) => {
                self.stream_state.problem(problem.to_string());
                self.tell(Notice::Room(problem));
            }
        }
    }

    fn handle_jingle(&mut self, event: jingle::Event) {
        let (jid, node, what) = match event {
            jingle::Event::Describe { jid, node } => (jid, node, ToLink::Describe),
            jingle::Event::Remote { jid, node, ice } => (jid, node, ToLink::Remote(ice)),
            jingle::Event::RemoteCandidates { jid, node, generation, candidates } => {
                (jid, node, ToLink::RemoteCandidates { generation, candidates })
            }
        };
        if self.is_current(&jid, node) {
            self.to_links.push_back((node, what));
        }
    }
}
