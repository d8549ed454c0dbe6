//! Questions to peers, and what peers ask ([`crate::questions`]): over the tunnel that signals go over.

use std::time::Instant;

use ipop_datapath::{
    command::{Command, ConnectionId, ToConnection},
    node_id::NodeId,
    tunnel::hello::Capabilities,
};

use super::{Action, Node};
use crate::{
    questions::{NotAsked, Question, Questions, Step, Token, Verdict},
    sessions::TunnelNews,
};

impl Node {
    /// Asks a peer something; [`Action::Answered`] comes with this token.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn ask(
        &mut self,
        now: Instant,
        peer: NodeId,
        question: &Question,
    ) -> Result<Token, NotAsked> {
        let Some(TunnelNews::Up { connection, .. }) = self.sessions.tunnel(peer) else {
            return Err(NotAsked::Down);
        };
        if !self.sessions.takes(peer, Capabilities::SIGNALLING | Capabilities::QUESTIONS) {
            return Err(NotAsked::OtherVersion);
        }
        let (token, message) = self.questions.ask(now, peer, question)?;
        self.say(connection, message);
        Ok(token)
    }

    /// Answers an [`Action::Trace`].
    pub fn traced(&mut self, peer: NodeId, token: Token, verdict: Verdict) {
        self.reply(peer, Questions::traced(token, verdict));
    }

    /// A peer asks or answers.
    pub(super) fn handle_question(&mut self, now: Instant, peer: NodeId, message: &[u8]) {
        match self.questions.handle(now, peer, message) {
            Step::Reply(reply) => self.reply(peer, reply),
            Step::Deliver(data, reply) => {
                self.actions.push_back(Action::Message { peer, data });
                self.reply(peer, reply);
            }
            Step::Trace { token, source, destination } => {
                self.actions.push_back(Action::Trace { peer, token, source, destination });
            }
            Step::Answered(answered) => self.actions.push_back(Action::Answered(answered)),
            Step::Refused => self.refused_questions += 1,
        }
    }

    /// Questions that waited long enough.
    pub(super) fn end_questions(&mut self, now: Instant) {
        while let Some(answered) = self.questions.expired(now) {
            self.actions.push_back(Action::Answered(answered));
        }
    }

    fn reply(&mut self, peer: NodeId, message: Vec<u8>) {
        if let Some(TunnelNews::Up { connection, .. }) = self.sessions.tunnel(peer) {
            self.say(connection, message);
        }
    }

    fn say(&mut self, connection: ConnectionId, message: Vec<u8>) {
        let command = Command::Connection(connection, ToConnection::Signal(message));
        self.actions.push_back(Action::Worker { worker: connection.worker(), command });
    }
}
