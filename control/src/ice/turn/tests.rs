//! The client against a server that does what each test says, right or wrong.

use super::*;

const SERVER: &str = "198.51.100.9:3478";
const OTHER_SERVER: &str = "198.51.100.10:3478";
const RELAYED: &str = "198.51.100.9:50000";
const PEER: &str = "203.0.113.5:1234";

struct Script {
    turn: Turn,
    entropy: Entropy,
    now: Instant,
    key: IntegrityKey,
}

fn server(address: &str, password: &str) -> TurnServer {
    TurnServer {
        address: address.parse().unwrap(),
        username: "user".to_owned(),
        password: password.to_owned(),
        expires: None,
    }
}

impl Script {
    fn new(servers: Vec<TurnServer>) -> Self {
        let (now, mut entropy) = (Instant::now(), Entropy::seeded(1));
        let mut turn = Turn::new();
        turn.set_servers(now, servers, &mut entropy);
        Self { turn, entropy, now, key: IntegrityKey::long_term("user", "realm", "pass") }
    }

    /// The next request and where it goes.
    fn request(&mut self) -> (SocketAddr, Vec<u8>) {
        self.turn.poll_transmit().expect("a request")
    }

    fn answer(&mut self, from: SocketAddr, answer: &[u8]) {
        let message = Message::parse(answer).unwrap();
        let relayed = self.turn.handle_message(self.now, from, &message, &mut self.entropy);
        assert_eq!(relayed, None);
    }

    /// A builder of the answer to `request`.
    fn reply(class: Class, request: &[u8]) -> Builder {
        let request = Message::parse(request).unwrap();
        Builder::new(class, request.method, request.transaction)
    }

    fn refuse(&mut self, code: u16) {
        let request = self.request();
        self.refuse_with(code, &request, b"nonce");
    }

    fn refuse_with(&mut self, code: u16, (from, request): &(SocketAddr, Vec<u8>), nonce: &[u8]) {
        let answer = Self::reply(Class::Error, request).error(code, "no").realm("realm");
        self.answer(*from, &answer.nonce(nonce).unsigned());
    }

    /// Whatever is asked for, granted.
    fn grant(&mut self) -> Vec<u8> {
        let (from, request) = self.request();
        let answer = Self::reply(Class::Success, &request)
            .relayed(RELAYED.parse().unwrap())
            .mapped(PEER.parse().unwrap())
            .lifetime_s(600)
            .signed(&self.key);
        self.answer(from, &answer);
        request
    }

    fn allocated() -> Self {
        let mut script = Self::new(vec![server(SERVER, "pass")]);
        script.refuse(401);
        script.grant();
        assert_eq!(script.turn.relayed(), Some(RELAYED.parse().unwrap()));
        assert!(matches!(script.turn.poll_event(), Some(TurnEvent::Allocated { .. })));
        script
    }

    fn with_channel() -> Self {
        let mut script = Self::allocated();
        let peer = PEER.parse().unwrap();
        script.turn.want_channel(script.now, peer, &mut script.entropy);
        script.grant();
        assert_eq!(script.turn.poll_event(), Some(TurnEvent::ChannelBound { remote: peer }));
        script
    }

    fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.turn.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.turn.handle_timeout(self.now, &mut self.entropy);
            if self.turn.poll_timeout().is_some_and(|next| next <= self.now) {
                self.now += Duration::from_micros(1);
            }
        }
        self.now = end;
    }

    fn problem(&mut self) -> String {
        while let Some(event) = self.turn.poll_event() {
            if let TurnEvent::Problem(problem) = event {
                return problem.to_string();
            }
        }
        panic!("no problem was reported")
    }
}

#[test]
fn the_second_request_is_signed_and_the_channel_is_bound() {
    let script = Script::with_channel();
    let peer = PEER.parse().unwrap();
    assert_eq!(script.turn.channel(script.now, peer), Some(0x4000));
    assert_eq!(script.turn.remote_of(0x4000), Some(peer));
}

#[test]
fn each_refusal_is_explained_and_the_next_server_tried() {
    for (code, word) in [
        (300, "not followed"),
        (403, "forbids"),
        (442, "does not relay UDP"),
        (486, "too many allocations"),
        (508, "no capacity"),
        (400, "error 400"),
        (500, "error 500"),
    ] {
        let mut script = Script::new(vec![server(SERVER, "pass"), server(OTHER_SERVER, "pass")]);
        script.refuse(code);
        let problem = script.problem();
        assert!(problem.contains(word) && problem.contains(SERVER), "{code}: {problem}");
        let (next, _) = script.request();
        assert_eq!(next, OTHER_SERVER.parse().unwrap(), "{code}");
    }
}

#[test]
fn refused_credentials_are_not_tried_in_a_loop() {
    let mut script = Script::new(vec![server(SERVER, "wrong")]);
    script.refuse(401);
    script.refuse(401);
    assert!(script.problem().contains("refuses the credentials"));
    let mut requests = 0;
    for _ in 0..600 {
        script.advance(Duration::from_secs(1));
        while script.turn.poll_transmit().is_some() {
            requests += 1;
        }
    }
    // A try a minute, each of up to 4 packets.
    assert!(requests < 80, "{requests} requests in 10 minutes");
}

#[test]
fn a_success_with_a_wrong_signature_is_ignored() {
    let mut script = Script::new(vec![server(SERVER, "pass")]);
    script.refuse(401);
    let (from, request) = script.request();
    for key in ["another key", ""] {
        let answer = Script::reply(Class::Success, &request).relayed(RELAYED.parse().unwrap());
        script.answer(from, &answer.signed(&IntegrityKey::short_term(key)));
    }
    let unsigned = Script::reply(Class::Success, &request).relayed(RELAYED.parse().unwrap());
    script.answer(from, &unsigned.unsigned());
    assert_eq!(script.turn.relayed(), None);
    assert_eq!(script.turn.ignored(), 3);
}

#[test]
fn a_relayed_address_that_no_host_has_is_no_allocation() {
    let mut script = Script::new(vec![server(SERVER, "pass")]);
    script.refuse(401);
    let (from, request) = script.request();
    let answer = Script::reply(Class::Success, &request).relayed("[100::7]:1".parse().unwrap());
    script.answer(from, &answer.lifetime_s(600).signed(&script.key));
    assert_eq!(script.turn.relayed(), None);
    assert!(script.problem().contains("address"));
}

#[test]
fn answers_from_elsewhere_are_ignored() {
    let mut script = Script::new(vec![server(SERVER, "pass")]);
    let (_, request) = script.request();
    let answer = Script::reply(Class::Error, &request).error(508, "full").unsigned();
    script.answer(OTHER_SERVER.parse().unwrap(), &answer);
    assert_eq!(script.turn.ignored(), 1);
    assert_eq!(script.turn.poll_event(), None);
}

#[test]
fn a_stale_nonce_is_replaced_but_not_for_ever() {
    let mut script = Script::with_channel();
    script.advance(Duration::from_millis(540_010));
    let mut refusals = 0;
    while script.turn.relayed().is_some() && refusals < 50 {
        script.refuse(438);
        refusals += 1;
    }
    assert!((2..=10).contains(&refusals), "{refusals}");
    assert!(script.problem().contains("nonce"));
}

/// Six channels are renewed at once, with a nonce that became stale meanwhile.
fn six_renewals() -> (Script, Vec<(SocketAddr, Vec<u8>)>) {
    let mut script = Script::allocated();
    for number in 0..6 {
        let peer = SocketAddr::from(([203, 0, 113, number], 1));
        script.turn.want_channel(script.now, peer, &mut script.entropy);
        script.grant();
    }
    let bound = script.turn.bound_channels();
    assert_eq!(bound, 6);
    // Still wanted when their time comes, which is at once for all: their requests go out together.
    for _ in 0..4 {
        script.advance(Duration::from_millis(60_010));
        for number in 0..6 {
            let peer = SocketAddr::from(([203, 0, 113, number], 1));
            script.turn.want_channel(script.now, peer, &mut script.entropy);
        }
    }
    let requests: Vec<_> = std::iter::from_fn(|| script.turn.poll_transmit()).collect();
    assert_eq!(requests.len(), 6);
    (script, requests)
}

#[test]
fn requests_that_a_stale_nonce_signed_are_no_refusals_of_the_next_one() {
    for nonces in [["new"; 6], ["n1", "n2", "n3", "n4", "n5", "n6"]] {
        let (mut script, requests) = six_renewals();
        while script.turn.poll_event().is_some() {}
        for (request, nonce) in requests.iter().zip(nonces) {
            script.refuse_with(438, request, nonce.as_bytes());
        }
        for _ in 0..6 {
            let again = script.grant();
            assert_eq!(Message::parse(&again).unwrap().nonce, Some(nonces[0].as_bytes()));
        }
        assert_eq!(script.turn.bound_channels(), 6);
        assert_eq!(script.turn.poll_event(), None, "nothing was lost, and nothing is to be told");
        script.advance(Duration::from_secs(1));
        assert_eq!(script.turn.poll_transmit(), None);
    }
}

#[test]
fn a_server_that_refuses_each_nonce_that_it_gives_is_given_up_by_many_requests_too() {
    let (mut script, mut requests) = six_renewals();
    let mut rounds = 0;
    while script.turn.relayed().is_some() && rounds < 50 {
        rounds += 1;
        let nonce = format!("nonce {rounds}");
        for request in &requests {
            script.refuse_with(438, request, nonce.as_bytes());
        }
        requests = std::iter::from_fn(|| script.turn.poll_transmit()).collect();
    }
    assert!((2..=10).contains(&rounds), "{rounds}");
    assert!(script.problem().contains("nonce"));
}

#[test]
fn an_allocation_that_the_server_forgot_is_made_anew_with_the_newest_credentials() {
    for code in [437, 441, 401] {
        let mut script = Script::with_channel();
        let newer = TurnServer { username: "newer".to_owned(), ..server(SERVER, "newer") };
        script.turn.set_servers(script.now, vec![newer], &mut script.entropy);
        assert_eq!(script.turn.poll_transmit(), None, "the allocation stays as it is");
        script.advance(Duration::from_millis(540_010));
        script.refuse(code);
        assert_eq!(script.turn.relayed(), None);
        assert_eq!(script.turn.channel(script.now, PEER.parse().unwrap()), None);
        script.refuse(401);
        script.key = IntegrityKey::long_term("newer", "realm", "newer");
        let request = script.grant();
        assert_eq!(Message::parse(&request).unwrap().username, Some("newer"));
        assert!(script.turn.relayed().is_some(), "{code}");
    }
}

/// As when this program was killed and started again: the server remembers the port.
#[test]
fn an_allocation_of_before_is_released_once_and_made_anew() {
    let mut script = Script::new(vec![server(SERVER, "pass")]);
    script.refuse(401);
    script.refuse(437);
    let release = script.grant();
    let release = Message::parse(&release).unwrap();
    assert_eq!((release.method, release.lifetime_s), (Method::Refresh, Some(0)));
    script.grant();
    assert!(script.turn.relayed().is_some());

    let mut script = Script::new(vec![server(SERVER, "pass")]);
    script.refuse(401);
    script.refuse(437);
    script.grant();
    script.refuse(437);
    assert!(script.problem().contains("437"));
    assert_eq!(script.turn.poll_transmit(), None);
}

#[test]
fn a_refused_channel_harms_nothing_else() {
    for code in [400, 403, 486, 508] {
        let mut script = Script::with_channel();
        let other = "203.0.113.6:1".parse().unwrap();
        script.turn.want_channel(script.now, other, &mut script.entropy);
        script.refuse(code);
        assert_eq!(script.turn.channel(script.now, other), None);
        assert_eq!(script.turn.poll_event(), Some(TurnEvent::ChannelGone { remote: other }));
        assert!(script.turn.channel(script.now, PEER.parse().unwrap()).is_some(), "{code}");
        script.turn.want_channel(script.now, other, &mut script.entropy);
        assert_eq!(script.turn.poll_transmit(), None, "{code}: it is left alone for a while");
    }
}

#[test]
fn a_silent_server_is_given_up_and_tried_again() {
    let mut script = Script::new(vec![server(SERVER, "pass")]);
    script.advance(Duration::from_millis(2_900));
    assert!(script.problem().contains("no answer"));
    let sent = std::iter::from_fn(|| script.turn.poll_transmit()).count();
    assert_eq!(sent, MAX_TRANSMISSIONS as usize);
    script.advance(Duration::from_secs(4));
    assert!(script.turn.poll_transmit().is_some());
}

#[test]
fn expired_credentials_are_not_sent() {
    let mut expired = server(SERVER, "pass");
    expired.expires = Some(Instant::now());
    let mut script = Script::new(vec![expired]);
    assert!(script.problem().contains("expired"));
    assert_eq!(script.turn.poll_transmit(), None);
    script.turn.set_servers(script.now, vec![server(SERVER, "pass")], &mut script.entropy);
    assert!(script.turn.poll_transmit().is_some());
}

#[test]
fn a_data_indication_is_taken_from_the_server_only() {
    let mut script = Script::allocated();
    let indication = Builder::new(Class::Indication, Method::Data, TransactionId([0; 12]))
        .peer(PEER.parse().unwrap())
        .payload(b"hello")
        .unsigned();
    let message = Message::parse(&indication).unwrap();
    let mut take = |from: &str| {
        let from = from.parse().unwrap();
        script.turn.handle_message(script.now, from, &message, &mut script.entropy)
    };
    assert_eq!(take(SERVER), Some((PEER.parse().unwrap(), &b"hello"[..])));
    assert_eq!(take(OTHER_SERVER), None);
}
