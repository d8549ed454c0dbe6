//! The sessions of one node against single stanzas.

use xmpp_parsers::stanza_error::StanzaError;

use super::*;
use crate::{
    ice::{CandidateKind, MAX_CANDIDATES},
    xmpp::request::RequestFailure,
};

/// Two keys, of which the first has the lower id.
fn ids() -> (NodeId, NodeId) {
    let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
    assert!(a < b);
    (a, b)
}

fn jid(name: &str) -> FullJid {
    FullJid::new(&format!("{name}@x/r")).expect("a JID")
}

fn ice(generation: u32) -> IceDescription {
    IceDescription { ufrag: format!("ufrag{generation}"), password: "p".repeat(22), generation }
}

fn candidates(count: usize) -> Vec<Candidate> {
    let address = |number: usize| format!("192.0.2.1:{}", number + 1).parse().expect("an address");
    (0..count).map(|n| Candidate::local(CandidateKind::Host, address(n), None, 1)).collect()
}

/// One node; the peer is played by the test.
struct Bench {
    jingle: Jingle,
    now: Instant,
    requests: VecDeque<Request>,
    replies: Vec<Iq>,
    messages: Vec<Message>,
    events: Vec<Event>,
}

impl Bench {
    fn new(local: NodeId) -> Self {
        let now = Instant::now();
        let config = JingleConfig { fingerprint: None, loopback: Loopback::Refused, seed: 1 };
        let mut bench = Self {
            jingle: Jingle::new(now, local, config),
            now,
            requests: VecDeque::new(),
            replies: Vec::new(),
            messages: Vec::new(),
            events: Vec::new(),
        };
        bench.jingle.online(now, jid("me"), Stream::New);
        bench
    }

    /// The lower node, whose session with "peer" is agreed.
    fn agreed() -> Self {
        let mut bench = Self::initiating();
        let sid = bench.sid();
        bench.answer(Ok(None));
        bench.sends(&offer(&sid, "session-accept", ids().1, &ice(0), 1));
        assert!(bench.jingle.is_agreed(&jid("peer")));
        bench.events.clear();
        bench.replies.clear();
        bench
    }

    /// The lower node, whose initiate with two candidates is on its way.
    fn initiating() -> Self {
        let mut bench = Self::new(ids().0);
        bench.jingle.peer_seen(bench.now, jid("peer"), ids().1);
        bench.run(Duration::ZERO);
        bench.jingle.describe(&jid("peer"), ice(0));
        bench.jingle.add_candidates(&jid("peer"), 0, &candidates(2));
        bench.drain();
        bench
    }

    /// The higher node, which has seen "peer".
    fn waiting() -> Self {
        let mut bench = Self::new(ids().1);
        bench.jingle.peer_seen(bench.now, jid("peer"), ids().0);
        bench.run(Duration::ZERO);
        bench
    }

    fn drain(&mut self) {
        while let Some(action) = self.jingle.poll_action(self.now) {
            match action {
                Action::Request(request) => self.requests.push_back(request),
                Action::Reply(reply) => self.replies.push(*reply),
                Action::Message(message) => self.messages.push(*message),
                Action::Event(event) => self.events.push(event),
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.jingle.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.jingle.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
        self.drain();
    }

    fn answer(&mut self, answer: Answer) {
        let request = self.requests.pop_front().expect("a request");
        self.jingle.handle_answer(self.now, request.token, &answer);
        self.drain();
    }

    fn refuses(&mut self, type_: ErrorType, condition: Condition) {
        let error = StanzaError::new(type_, condition, "en", "");
        self.answer(Err(RequestFailure::Refused(Box::new(error))));
    }

    /// The text of the last request.
    fn said(&self) -> String {
        let Some(Request { ask: Ask::Set(payload), .. }) = self.requests.back() else {
            panic!("nothing was said")
        };
        String::from(payload)
    }

    fn sid(&self) -> String {
        let said = self.said();
        let (_, rest) = said.split_once("sid='").expect("a session id");
        rest.split('\'').next().expect("a session id").to_owned()
    }

    fn sends(&mut self, payload: &str) {
        self.sends_from(&jid("peer"), payload);
    }

    fn sends_from(&mut self, from: &FullJid, payload: &str) {
        let payload = payload.parse().expect("XML");
        let iq = Iq::Set { from: Some(from.clone().into()), to: None, id: "i".into(), payload };
        assert_eq!(self.jingle.handle_iq(self.now, &iq), Taken::Yes);
        self.drain();
    }

    fn nudges(&mut self, from: &FullJid, node: NodeId) {
        let mut message = Message::new_with_type(MessageType::Headline, None);
        message.from = Some(from.clone().into());
        message.payloads.push(Nudge { node }.to_element());
        assert_eq!(self.jingle.handle_message(self.now, &message), Taken::Yes);
        self.drain();
    }

    fn refusal(&mut self) -> Option<Condition> {
        match self.replies.pop() {
            Some(Iq::Error { error, .. }) => Some(error.defined_condition),
            _ => None,
        }
    }
}

fn offer(sid: &str, action: &str, node: NodeId, ice: &IceDescription, count: usize) -> String {
    let candidates: String = candidates(count)
        .iter()
        .map(|candidate| {
            format!(
                "<candidate component='1' foundation='1' generation='0' id='c' ip='{}' port='{}' priority='{}' protocol='udp' \
                 type='host'/>",
                candidate.address.ip(),
                candidate.address.port(),
                candidate.priority
            )
        })
        .collect();
    format!(
        "<jingle xmlns='urn:xmpp:jingle:1' action='{action}' sid='{sid}'><content creator='initiator' name='link'>\
         <description xmlns='urn:ipop-switch:jingle:1' node='{node}' generation='{}'/>\
         <transport xmlns='urn:xmpp:jingle:transports:ice-udp:1' ufrag='{}' pwd='{}'>{candidates}</transport>\
         </content></jingle>",
        ice.generation, ice.ufrag, ice.password
    )
}

fn describes(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Describe { .. })).count()
}

#[test]
fn the_lower_node_initiates_with_what_it_has_and_trickles_the_rest() {
    let mut bench = Bench::initiating();
    let said = bench.said();
    assert!(said.contains("session-initiate") && said.matches("<candidate").count() == 2, "{said}");
    // What is found while the first message is under way goes with the next, once.
    bench.jingle.add_candidates(&jid("peer"), 0, &candidates(3));
    bench.jingle.add_candidates(&jid("peer"), 0, &candidates(4));
    bench.drain();
    assert_eq!(bench.requests.len(), 1);
    bench.answer(Ok(None));
    let said = bench.said();
    assert!(said.contains("transport-info") && said.matches("<candidate").count() == 2, "{said}");
    bench.answer(Ok(None));
    assert!(bench.requests.is_empty());
}

#[test]
fn the_higher_node_accepts() {
    let mut bench = Bench::waiting();
    bench.sends(&offer("s1", "session-initiate", ids().0, &ice(7), 2));
    assert!(matches!(bench.replies.as_slice(), [Iq::Result { .. }]));
    let (jid, node) = (jid("peer"), ids().0);
    let told = [
        Event::Describe { jid: jid.clone(), node },
        Event::Remote { jid: jid.clone(), node, ice: ice(7) },
        Event::RemoteCandidates {
            jid: jid.clone(),
            node,
            generation: 7,
            candidates: candidates(2),
        },
    ];
    assert_eq!(bench.events, told);
    bench.jingle.describe(&jid, ice(0));
    bench.drain();
    assert!(bench.said().contains("session-accept"));
    bench.answer(Ok(None));
    assert!(bench.jingle.is_agreed(&jid));
    // The same again, as after a lost result, changes nothing.
    bench.sends(&offer("s1", "session-initiate", ids().0, &ice(7), 2));
    assert_eq!((bench.events.len(), bench.requests.len()), (3, 0));
    assert!(bench.jingle.is_agreed(&jid));
}

#[test]
fn the_higher_node_nudges_when_nothing_comes_and_ever_less() {
    let mut bench = Bench::waiting();
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.messages.len(), 0);
    bench.run(Duration::from_secs(600));
    assert!((5..=20).contains(&bench.messages.len()), "{}", bench.messages.len());
    assert!(bench.requests.is_empty() && bench.events.is_empty());
}

#[test]
fn a_nudge_begins_a_session_anew_but_not_too_often() {
    let mut bench = Bench::agreed();
    for _ in 0..10 {
        bench.nudges(&jid("peer"), ids().1);
    }
    assert_eq!(describes(&bench.events), 0, "one has just begun");
    bench.run(Duration::from_secs(2));
    for _ in 0..10 {
        bench.nudges(&jid("peer"), ids().1);
    }
    assert_eq!((describes(&bench.events), bench.jingle.counters().over_rate), (1, 19));
}

#[test]
fn roles_and_ids_are_fixed() {
    let (low, high) = ids();
    let mut bench = Bench::agreed();
    bench.sends(&offer("x", "session-initiate", high, &ice(0), 1));
    assert_eq!(bench.refusal(), Some(Condition::NotAllowed));
    bench.sends(&offer("x", "transport-info", low, &ice(0), 1));
    assert_eq!(bench.refusal(), Some(Condition::NotAllowed));
    bench.sends(&offer("x", "session-accept", high, &ice(0), 1));
    assert_eq!(bench.refusal(), Some(Condition::ItemNotFound));
    let mut other = Bench::waiting();
    other.sends(&offer("x", "session-accept", low, &ice(0), 1));
    assert_eq!(other.refusal(), Some(Condition::NotAllowed));
    other.nudges(&jid("peer"), low);
    let (counters, others) = (bench.jingle.counters(), other.jingle.counters());
    assert_eq!((counters.wrong_role, counters.wrong_node, counters.unknown_sessions), (1, 1, 1));
    assert_eq!((others.wrong_role, bench.events.len(), other.events.len()), (2, 0, 0));
    assert!(bench.jingle.is_agreed(&jid("peer")));
}

#[test]
fn strangers_get_an_error_and_then_nothing() {
    let mut bench = Bench::agreed();
    for _ in 0..1_000 {
        bench.sends_from(&jid("stranger"), &offer("x", "session-initiate", ids().1, &ice(0), 1));
        bench.nudges(&jid("stranger"), ids().1);
    }
    assert_eq!(bench.jingle.counters().strangers, 2_000);
    assert_eq!(bench.replies.len(), REFUSALS_AT_ONCE as usize);
    assert_eq!(bench.refusal(), Some(Condition::Forbidden));
    assert!(bench.events.is_empty() && bench.requests.is_empty());
}

#[test]
fn a_flood_of_a_member_is_bounded() {
    let mut bench = Bench::waiting();
    for number in 0..10_000 {
        bench.sends(&offer(&format!("s{number}"), "session-initiate", ids().0, &ice(0), 24));
    }
    assert_eq!(describes(&bench.events), 1);
    assert!(bench.replies.len() <= 40, "{}", bench.replies.len());
    assert!(bench.jingle.counters().over_rate > 9_900);
    assert_eq!(bench.refusal(), Some(Condition::ResourceConstraint));
}

#[test]
fn candidates_of_a_peer_are_capped_over_all_messages() {
    let mut bench = Bench::agreed();
    let sid = {
        bench.jingle.add_candidates(&jid("peer"), 0, &candidates(3));
        bench.drain();
        bench.sid()
    };
    for first in 0..10_u16 {
        let text = offer(&sid, "transport-info", ids().1, &ice(0), 20);
        bench.sends(&text.replace("192.0.2.1", &format!("192.0.2.{}", first + 2)));
    }
    let told: usize = bench
        .events
        .iter()
        .map(|event| {
            if let Event::RemoteCandidates { candidates, .. } = event {
                candidates.len()
            } else {
                0
            }
        })
        .sum();
    // One came with the accept.
    assert_eq!((told, bench.jingle.counters().candidates_skipped), (MAX_CANDIDATES - 1, 177));
}

#[test]
fn the_newest_credentials_hold() {
    let mut bench = Bench::agreed();
    bench.jingle.describe(&jid("peer"), ice(1));
    bench.jingle.add_candidates(&jid("peer"), 0, &candidates(5));
    bench.jingle.add_candidates(&jid("peer"), 1, &candidates(1));
    bench.drain();
    let said = bench.said();
    assert!(said.contains("ufrag='ufrag1'") && said.matches("<candidate").count() == 1, "{said}");
    let sid = bench.sid();
    bench.sends(&offer(&sid, "transport-info", ids().1, &ice(5), 1));
    assert!(bench.events.contains(&Event::Remote { jid: jid("peer"), node: ids().1, ice: ice(5) }));
    bench.events.clear();
    bench.sends(&offer(&sid, "transport-info", ids().1, &ice(4), 1));
    let forged = IceDescription { ufrag: "other".into(), ..ice(5) };
    bench.sends(&offer(&sid, "transport-info", ids().1, &forged, 2));
    assert_eq!(bench.events, []);
    assert_eq!((bench.jingle.counters().stale, bench.jingle.counters().malformed), (1, 1));
}

#[test]
fn refused_messages_are_repeated_or_begin_anew_or_wait() {
    // The peer's list of occupants is behind: the same session again.
    let mut bench = Bench::initiating();
    let sid = bench.sid();
    bench.refuses(ErrorType::Auth, Condition::Forbidden);
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.sid(), sid);
    bench.answer(Err(RequestFailure::TimedOut));
    bench.run(Duration::from_secs(2));
    assert_eq!(bench.sid(), sid);
    // The session is unknown there: another.
    bench.events.clear();
    bench.refuses(ErrorType::Cancel, Condition::ItemNotFound);
    bench.run(Duration::from_secs(5));
    assert_eq!(describes(&bench.events), 1);
    // Nobody is there: forgotten until presence, and asked once in a while in case that got lost.
    let mut bench = Bench::initiating();
    bench.events.clear();
    bench.refuses(ErrorType::Cancel, Condition::ServiceUnavailable);
    bench.run(Duration::from_secs(40));
    assert_eq!((describes(&bench.events), bench.requests.len()), (0, 0));
    bench.jingle.peer_gone(&jid("peer"));
    bench.jingle.peer_seen(bench.now, jid("peer"), ids().1);
    bench.run(Duration::ZERO);
    assert_eq!(describes(&bench.events), 1);
}

#[test]
fn a_session_that_is_never_accepted_is_begun_again() {
    let mut bench = Bench::initiating();
    bench.answer(Ok(None));
    bench.run(Duration::from_secs(30));
    assert_eq!(describes(&bench.events), 2);
}

#[test]
fn a_terminate_ends_the_session_only_and_is_not_followed_in_haste() {
    let mut bench = Bench::agreed();
    bench.jingle.add_candidates(&jid("peer"), 0, &candidates(3));
    bench.drain();
    let terminate = |sid: &str| {
        format!(
            "<jingle xmlns='urn:xmpp:jingle:1' action='session-terminate' sid='{sid}'><reason><gone/></reason></jingle>"
        )
    };
    bench.sends(&terminate("other"));
    assert_eq!(bench.refusal(), Some(Condition::ItemNotFound));
    bench.sends(&terminate(&bench.sid()));
    assert_eq!(bench.events, []);
    bench.run(Duration::from_secs(5));
    assert_eq!(describes(&bench.events), 0);
    bench.run(Duration::from_secs(10));
    assert_eq!(describes(&bench.events), 1);
}

#[test]
fn while_the_stream_is_down_nothing_is_said() {
    let mut bench = Bench::initiating();
    bench.requests.clear();
    bench.jingle.offline();
    bench.run(Duration::from_secs(60));
    assert!(bench.requests.is_empty());
    bench.jingle.online(bench.now, jid("me"), Stream::New);
    bench.run(Duration::ZERO);
    assert!(bench.said().contains("session-initiate"));
}

#[test]
fn many_peers_share_what_the_server_reads() {
    let mut bench = Bench::new(NodeId([0; 32]));
    for number in 0..2 * MAX_PEERS {
        let mut id = [1; 32];
        id[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
        bench.jingle.peer_seen(bench.now, jid(&format!("p{number}")), NodeId(id));
    }
    assert_eq!(bench.jingle.counters().peers_over_limit, MAX_PEERS as u64);
    bench.run(Duration::ZERO);
    assert_eq!(describes(&bench.events), MAX_PEERS);
    for event in std::mem::take(&mut bench.events) {
        if let Event::Describe { jid, .. } = event {
            bench.jingle.describe(&jid, ice(0));
        }
    }
    bench.run(Duration::from_secs(10));
    let bytes: usize = bench
        .requests
        .iter()
        .map(
            |request| {
                if let Ask::Set(payload) = &request.ask { String::from(payload).len() } else { 0 }
            },
        )
        .sum();
    assert!(bytes <= (BYTES_AT_ONCE + 10 * BYTES_PER_S) as usize, "{bytes}");
    let asked: std::collections::BTreeSet<String> =
        bench.requests.iter().map(|request| request.to.to_string()).collect();
    assert_eq!(asked.len(), bench.requests.len(), "each has its turn");
    assert!(asked.len() > 50, "{}", asked.len());
}

#[test]
fn what_is_not_jingle_is_left_to_others() {
    let mut bench = Bench::agreed();
    let iq = |payload: &str| Iq::Set {
        from: Some(jid("peer").into()),
        to: None,
        id: "i".into(),
        payload: payload.parse().expect("XML"),
    };
    assert_eq!(
        bench.jingle.handle_iq(bench.now, &iq("<query xmlns='jabber:iq:version'/>")),
        Taken::No
    );
    let message = Message::new(None);
    assert_eq!(bench.jingle.handle_message(bench.now, &message), Taken::No);
    bench.sends("<jingle xmlns='urn:xmpp:jingle:1'/>");
    assert_eq!(bench.refusal(), Some(Condition::BadRequest));
    bench.sends("<jingle xmlns='urn:xmpp:jingle:1' action='content-add' sid='s'/>");
    assert_eq!(bench.refusal(), Some(Condition::FeatureNotImplemented));
}
