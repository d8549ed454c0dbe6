//! Streams of events: followed, resumed, and not read.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Alone, api, common::SOON, common::switch, described::Described};

/// A listener.
struct Listener(BufReader<UnixStream>);

/// One event as it came: its number, its kind, what it carries.
struct Came {
    id: u64,
    name: String,
    data: Value,
}

impl Listener {
    fn new(socket: &Path, query: &str, header: &str) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let request = format!("GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    /// The next event; comments, chunks' lengths and the answer's head are passed over.
    fn next(&mut self) -> Came {
        let mut came = Came { id: 0, name: String::new(), data: Value::Null };
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => came.id = id.parse().unwrap(),
                Some(("event", name)) => came.name = name.into(),
                Some(("data", data)) => came.data = serde_json::from_str(data).unwrap(),
                _ if !came.data.is_null() => return came,
                _ => {}
            }
        }
    }
}

#[test]
fn a_listener_gets_a_snapshot_then_changes_and_misses_none_when_it_comes_again() {
    let described = Described::read();
    let alone = Alone::start("events", &[]);
    let other = switch(&alone.lab, alone.site.host()).node_id().to_string();
    let decide = |method| api::call(&alone.socket, method, json!({ "node": other })).unwrap();
    let mut listener = Listener::new(&alone.socket, "?kind=trust", "");
    let snapshot = listener.next();
    assert_eq!(snapshot.name, "snapshot");
    described.check_type("snapshot", "Snapshot", &snapshot.data);
    decide("trust.deny");
    let first = listener.next();
    assert!(first.id > snapshot.id && first.name.is_empty());
    assert_eq!(
        (&first.data["kind"], &first.data["event"]),
        (&json!("trust"), &json!("trust_changed"))
    );
    described.check_type("event", "Event", &first.data);
    drop(listener);
    decide("trust.forget");
    decide("trust.deny");
    let after = format!("Last-Event-ID: {}\r\n", first.id);
    let mut again = Listener::new(&alone.socket, "?kind=trust", &after);
    let missed = [again.next(), again.next()];
    assert!(
        missed.iter().all(|came| came.data["event"] == "trust_changed" && came.name.is_empty())
    );
    assert!(first.id < missed[0].id && missed[0].id < missed[1].id);
    let mut by_query =
        Listener::new(&alone.socket, &format!("?kind=trust&after={}", missed[0].id), "");
    assert_eq!(by_query.next().id, missed[1].id);
    let (status, problem) = api::http(&alone.socket, "GET", "/v1/events?kind=no", "");
    assert_eq!((status, &problem["field"]), (400, &json!("kind")));
}

#[test]
fn a_listener_that_reads_nothing_is_cut_off() {
    let alone = Alone::start("deaf", &["--controller", "external"]);
    let other = switch(&alone.lab, alone.site.host()).node_id().to_string();
    let mut deaf = Listener::new(&alone.socket, "", "");
    assert_eq!(deaf.next().name, "snapshot");
    // Each describes the link anew, which is an event.
    let one = |id: usize| json!({ "jsonrpc": "2.0", "id": id, "method": "links.create", "params": { "peer": other } });
    let batch = Value::Array((0..100).map(one).collect()).to_string();
    // More than the kernel and the switch keep of it.
    for _ in 0..20 {
        assert_eq!(api::http(&alone.socket, "POST", "/v1/rpc", &batch).0, 200);
    }
    // It takes nothing for longer than it may.
    thread::sleep(Duration::from_secs(12));
    let mut rest = Vec::new();
    let ended = deaf.0.read_to_end(&mut rest);
    let text = String::from_utf8_lossy(&rest);
    assert!(ended.is_ok(), "it is still open after {} bytes", rest.len());
    assert!(text.matches("link_description").count() < 2000, "something was left out");
    api::call(&alone.socket, "status.get", json!({})).unwrap();
}
