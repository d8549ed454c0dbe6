//! What is asked of peers: whether they are there, a message for their controllers; and what they ask.

use std::time::{Duration, Instant};

use data_encoding::BASE64;
use ipop_control::questions::{Answer, Answered, MAX_BODY, NotAsked, Question};
use ipop_datapath::node_id::NodeId;

use super::super::{Connections, Switch};
use crate::api::{
    Reply,
    types::{EventKind, Ping, Pong, Problem, ProblemCode, SendMessage, Sent, What},
};

/// Who waits for a peer's answer, and the time that it took; none if none came.
pub(in crate::run) type Asked = Box<dyn FnOnce(&mut Switch, Option<(Answer, Duration)>)>;

impl Switch {
    /// `peers.ping`
    pub(crate) fn ping(&mut self, params: Ping, reply: Reply<Pong>) {
        let len = params.size_bytes.unwrap_or_default();
        if usize::from(len) > MAX_BODY {
            let text = format!("a ping has at most {MAX_BODY} bytes");
            return reply.send(Err(Problem::bad_field("size_bytes", text)));
        }
        let session = match self.peer_named(&params.peer) {
            Ok(session) => session,
            Err(problem) => return reply.send(Err(problem)),
        };
        let node = session.node;
        let asked = node.clone();
        self.ask_for(&asked, &Question::Ping { len }, move |switch, said| {
            let none = Connections::default();
            let peer = switch.all_peers(&none).into_iter().find(|peer| peer.node == node);
            let (name, path) = peer.map_or((None, None), |peer| (peer.name, peer.path));
            let pong = |(_, took)| Pong { node, name, rtt_us: micros(took), path };
            reply.send(said.map(pong));
        });
    }

    /// `messages.send`
    pub(crate) fn send_message(&mut self, params: SendMessage, reply: Reply<Sent>) {
        let read = || {
            let data = BASE64
                .decode(params.data.as_bytes())
                .map_err(|error| Problem::bad_field("data", format_args!("no base64: {error}")))?;
            if data.len() > MAX_BODY {
                let text = format!("a message has at most {MAX_BODY} bytes");
                return Err(Problem::bad_field("data", text));
            }
            Ok((data, self.peer_named(&params.peer)?.node))
        };
        match read() {
            Ok((data, node)) => {
                self.ask_for(&node, &Question::Message(data), |_, said| {
                    reply.send(said.map(|(_, took)| Sent { rtt_us: micros(took) }));
                });
            }
            Err(problem) => reply.send(Err(problem)),
        }
    }

    /// Asks a peer; `then` hears what it answers and how long that took, or why there is no answer.
    pub(super) fn ask_for(
        &mut self,
        node: &str,
        question: &Question,
        then: impl FnOnce(&mut Self, Result<(Answer, Duration), Problem>) + 'static,
    ) {
        let asked = match node.parse() {
            Ok(node) => self.node.ask(Instant::now(), node, question).map_err(not_asked),
            Err(_) => Err(Problem::not_found("that is no node id")),
        };
        match asked {
            Ok(token) => {
                let late = || Problem::new(ProblemCode::Busy, "the peer did not answer within 3 s");
                self.asked.insert(
                    token,
                    Box::new(move |switch, answer| then(switch, answer.ok_or_else(late))),
                );
                self.carry_out();
            }
            Err(problem) => then(self, Err(problem)),
        }
    }

    /// A question has come to its end.
    pub(in crate::run) fn answered(&mut self, Answered { token, answer }: Answered) {
        if let Some(waiter) = self.asked.remove(&token) {
            waiter(self, answer);
        }
    }

    /// A peer's controller says something to this node's.
    pub(in crate::run) fn message_came(&self, peer: NodeId, data: &[u8]) {
        let text = format!("a message of {} bytes from {peer}", data.len());
        let what = What::Message { peer: peer.to_string(), data: BASE64.encode(data) };
        self.tell_event(EventKind::Message, text, what);
    }
}

fn micros(took: Duration) -> u64 {
    took.as_micros() as u64
}

fn not_asked(why: NotAsked) -> Problem {
    let code = match why {
        NotAsked::Down | NotAsked::OtherVersion => ProblemCode::Conflict,
        NotAsked::TooMany => ProblemCode::Busy,
    };
    Problem::new(code, why)
}
