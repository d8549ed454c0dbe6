//! Controllers of one's own over the API: the example of docs/examples makes an overlay of switches that have no XMPP server. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{net::Ipv4Addr, path::PathBuf, process::Command, thread, time::Duration};

use ipop_perf::{
    lab::{
        Access, Attached, Host, Internet, InternetOptions, NatKind, NatOptions, Place, Process,
        servers::{Coturn, CoturnOptions},
        tools::Ping,
        wait_until,
    },
    tunnel::{Node, Running},
};
use serde_json::{Value, json};

use self::common::{api, inner, switch};

mod common;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/controller.py");
/// How long anything may take that controllers do at their next beats, on a machine that is busy with other tests.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Longer than two beats of a controller.
const BEATS: Duration = Duration::from_secs(5);
const MEETING_PORT: u16 = 5900;

/// A host with a switch and its controller.
struct Member {
    number: usize,
    node: Node,
    switch: Option<Running>,
    controller: Option<Process>,
    socket: PathBuf,
    /// The controller's arguments.
    arguments: Vec<String>,
}

impl Member {
    fn new(internet: &Internet, number: usize, host: &Host, arguments: &[String]) -> Self {
        let lab = internet.lab();
        let socket = lab.dir().join(format!("{}.sock", host.name()));
        let mut node = switch(lab, host);
        node.args(&["--controller", "external", "--name", host.name()]);
        node.args(&["--api", socket.to_str().unwrap()]);
        node.address(&format!("{}/24", inner(number)));
        let own = ["--mesh", "--socket", socket.to_str().unwrap()].map(String::from);
        let arguments = [&own[..], arguments].concat();
        Self { number, node, switch: None, controller: None, socket, arguments }
    }

    fn start(&mut self) {
        self.start_switch();
        self.start_controller();
    }

    fn start_switch(&mut self) {
        self.switch = Some(self.node.start().unwrap());
        api::wait_for(&self.socket);
    }

    fn start_controller(&mut self) {
        let line = [EXAMPLE].into_iter().chain(self.arguments.iter().map(String::as_str));
        self.controller = Some(self.node.host().spawn("python3", line).unwrap());
    }

    fn id(&self) -> String {
        self.node.node_id().to_string()
    }

    fn call(&self, method: &str, params: Value) -> Result<Value, Value> {
        api::call(&self.socket, method, params)
    }

    fn links(&self) -> Vec<Value> {
        let mut links = self.call("links.list", json!({})).unwrap();
        serde_json::from_value(links["links"].take()).unwrap()
    }

    /// Whether there is a tunnel, and both ends agree about a way.
    fn is_linked(&self, to: &str) -> bool {
        let is_linked = |link: &Value| link["connected"] == true && link["state"] == "connected";
        self.links().iter().any(|link| link["peer"] == to && is_linked(link))
    }

    /// The kind of the path to a node, as its peers' list has it.
    fn way(&self, to: &str) -> Value {
        let peer = self.call("peers.get", json!({ "peer": to })).unwrap();
        peer["path"]["kind"].clone()
    }

    fn pings(&self, to: usize) -> bool {
        Ping::to(inner(to)).run(self.node.host()).is_ok_and(|report| report.received > 0)
    }

    fn told(&self) -> String {
        self.controller.as_ref().map_or_else(String::new, |c| c.stdout() + &c.stderr())
    }
}

/// Waits until every two of these are connected and reach each other.
fn expect_mesh(members: &[Member]) {
    let pairs = || members.iter().flat_map(|a| members.iter().map(move |b| (a, b)));
    let pairs = || pairs().filter(|(a, b)| a.number != b.number);
    let linked = wait_until(SETTLED_WITHIN, || pairs().all(|(a, b)| a.is_linked(&b.id())));
    let told: String = members.iter().map(|m| format!("== {}\n{}\n", m.number, m.told())).collect();
    assert!(linked, "{told}");
    for (a, b) in pairs() {
        let reached = wait_until(SETTLED_WITHIN, || a.pings(b.number));
        assert!(reached, "{} does not reach {}\n{told}", a.number, b.number);
    }
}

/// Starts the place where controllers meet.
fn serve(at: &Attached) -> Process {
    let address = format!("{}:{MEETING_PORT}", at.ipv4);
    let mut server = at.host.spawn("python3", [EXAMPLE, "--serve", &address]).unwrap();
    server.wait_for_line("serving", SETTLED_WITHIN).unwrap();
    server
}

fn meet(at: Ipv4Addr) -> [String; 2] {
    ["--meet".into(), format!("{at}:{MEETING_PORT}")]
}

/// An internet without NATs, and so many members on it.
fn plain(label: &str, count: usize) -> (Vec<Member>, Process, Attached, Internet) {
    let internet = Internet::new(label, InternetOptions::new()).unwrap();
    let meeting = internet.machine("meeting", Place::Internet).unwrap();
    let server = serve(&meeting);
    let member = |number: usize| {
        let machine = internet.machine(&format!("n{number}"), Place::Internet).unwrap();
        Member::new(&internet, number, &machine.host, &meet(meeting.ipv4))
    };
    let mut members: Vec<Member> = (0..count).map(member).collect();
    members.iter_mut().for_each(Member::start);
    expect_mesh(&members);
    (members, server, meeting, internet)
}

#[test]
fn controllers_connect_what_is_behind_nats_and_may_end() {
    let internet = Internet::new("control", InternetOptions::new()).unwrap();
    let machine = internet.machine("meeting", Place::Internet).unwrap();
    let options = CoturnOptions::new().user("u", "p");
    let coturn = Coturn::start(internet.lab(), &machine, options).unwrap();
    let mut server = serve(&machine);
    let servers = ["--stun".to_owned(), coturn.address().to_string(), "--turn".into()];
    let turn = [format!("u:p@{}", coturn.address())];
    let arguments = [&meet(machine.ipv4)[..], &servers, &turn].concat();
    let symmetric = Access::Nat(NatOptions::new(NatKind::Symmetric));
    let sites = [("a", symmetric), ("b", symmetric), ("c", Access::Direct)]
        .map(|(name, access)| internet.site(name, access).unwrap());
    let mut members: Vec<Member> = (sites.iter().enumerate())
        .map(|(number, site)| Member::new(&internet, number, site.host(), &arguments))
        .collect();
    members.iter_mut().for_each(Member::start);
    expect_mesh(&members);
    let ids: Vec<String> = members.iter().map(Member::id).collect();
    let is_settled = || {
        let relayed =
            [(0, 1), (1, 0)].into_iter().all(|(a, b)| members[a].way(&ids[b]) == "relayed");
        relayed && [0, 1].into_iter().all(|a| members[a].way(&ids[2]) == "direct")
    };
    assert!(wait_until(SETTLED_WITHIN, is_settled), "two symmetric NATs need the relay, no others");
    let pairs = || members.iter().flat_map(|a| ids.iter().map(move |to| (a, to)));
    for (member, to) in pairs().filter(|(member, to)| member.id() != **to) {
        let described = member.call("links.description", json!({ "peer": to })).unwrap();
        assert_eq!(described["description"]["generation"], 0, "nobody began anew without a reason");
    }
    // Tunnels need neither controllers nor the place where these meet.
    server.kill().unwrap();
    members.iter_mut().for_each(|member| drop(member.controller.take()));
    for to in [1, 2] {
        common::expect_pings(members[0].node.host(), &Ping::to(inner(to)).count(100));
    }
    // A controller that comes again takes the links as they are.
    let mut server = serve(&machine);
    members.iter_mut().for_each(Member::start_controller);
    thread::sleep(BEATS);
    common::expect_pings(members[0].node.host(), &Ping::to(inner(1)).count(5));
    assert!(members.iter().all(|member| member.told().is_empty()), "nothing was removed or made");
    // A switch behind a NAT starts again while nobody can be told.
    server.kill().unwrap();
    members[1].switch.take().unwrap().process.kill().unwrap();
    members[1].start_switch();
    thread::sleep(BEATS);
    let _server = serve(&machine);
    expect_mesh(&members);
}

#[test]
fn a_node_that_leaves_is_unlinked_and_one_that_starts_again_is_linked() {
    let (mut members, mut server, meeting, _internet) = plain("leaves", 3);
    let gone = members[2].id();
    members[2].switch.take().unwrap().process.terminate().unwrap();
    let has_link = |member: &Member| member.links().iter().any(|link| link["peer"] == *gone);
    let removed = wait_until(SETTLED_WITHIN, || !members[..2].iter().any(has_link));
    assert!(removed, "{}", members[0].told());
    members[2].start_switch();
    expect_mesh(&members);
    // A switch that starts again while nobody can be told.
    server.kill().unwrap();
    let mut old = members[2].switch.take().unwrap();
    old.process.kill().unwrap();
    drop(old);
    members[2].start_switch();
    thread::sleep(BEATS);
    assert!(
        members[0].links().iter().any(|link| link["peer"] == *gone),
        "a link outlives the server"
    );
    let _server = serve(&meeting);
    expect_mesh(&members);
}

#[test]
fn who_is_denied_gets_no_link_whatever_a_controller_says() {
    let (members, _server, _meeting, _internet) = plain("denies", 2);
    let (own, other) = (&members[0], members[1].id());
    own.call("trust.deny", json!({ "node": other })).unwrap();
    assert!(wait_until(SETTLED_WITHIN, || !own.pings(1)), "its tunnel is closed");
    // The controllers try again at each beat.
    thread::sleep(BEATS);
    assert!(!own.links().iter().any(|link| link["peer"] == *other), "{}", own.told());
    assert!(!own.pings(1));
    let refused = own.call("links.create", json!({ "peer": other })).unwrap_err();
    assert_eq!(refused["code"], "refused", "{refused}");
    assert!(own.told().contains("denied"), "{}", own.told());
    own.call("trust.forget", json!({ "node": other })).unwrap();
    expect_mesh(&members);
}

/// What the example makes of descriptions, with a switch that only notes what it is asked.
const LEARNS: &str = r#"
import sys
sys.path.insert(0, sys.argv[1])
import controller
asked = []
class Switch:
    state = "waiting"
    def call(self, method, **params):
        asked.append(method)
        link = {"peer": "p", "controlled": True, "connected": False, "state": self.state}
        return {"links": [link], "state": self.state, "description": {"ufrag": "own"}}
learner = controller.Controller(Switch(), controller.Meeting("localhost", 1), None)
def learn(ufrag, wants, state):
    asked.clear()
    learner.switch.state = state
    learner.learn("p", {"ufrag": ufrag}, wants)
    return asked[1:]
answers = ["links.update", "links.description", "links.get"]
assert learn("first", True, "waiting") == answers, asked
assert learn("first", True, "checking") == answers, asked
assert learn("first", False, "checking") == ["links.update"], asked
assert learn("second", False, "connected") == ["links.update"], asked
assert learn("third", True, "connected") == ["links.create"], asked
"#;

#[test]
fn a_far_end_that_knows_nothing_of_a_link_any_more_gets_a_fresh_description() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples");
    let python = Command::new("python3").args(["-B", "-c", LEARNS, examples]).output().unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
}
