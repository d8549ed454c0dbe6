//! Each method, over HTTP and over JSON-RPC.

use std::{collections::BTreeSet, path::Path};

use ipop_perf::lab::wait_until;
use serde_json::{Value, json};

use super::{
    Pair, PairOptions, api,
    common::{SOON, TAP, switch},
    described::{Described, Operation},
    path,
};

/// What a program asks, in an order in which all is done. A method that is new belongs here too.
fn requests(peer: &str, stranger: &str) -> Vec<(&'static str, Value)> {
    let mac = "02:00:00:00:00:01";
    let description = json!({ "node": stranger, "ufrag": "abcd", "password": "p".repeat(22), "generation": 0,
        "candidates": [{ "kind": "host", "address": "192.0.2.1:5800", "priority": 1 }] });
    vec![
        ("status.get", json!({})),
        ("peers.list", json!({})),
        ("peers.get", json!({ "peer": peer })),
        ("peers.ping", json!({ "peer": peer, "size_bytes": 100 })),
        ("peers.add", json!({ "node": stranger })),
        ("peers.remove", json!({ "peer": stranger })),
        ("trace.run", json!({ "source": mac, "destination": "ff:ff:ff:ff:ff:ff", "port": TAP })),
        ("messages.send", json!({ "peer": peer, "data": "aGVsbG8=" })),
        ("links.create", json!({ "peer": stranger })),
        ("links.update", json!({ "peer": stranger, "description": description })),
        ("links.list", json!({})),
        ("links.get", json!({ "peer": stranger })),
        ("links.stats", json!({ "peer": stranger })),
        ("links.candidates", json!({ "peer": stranger })),
        ("links.description", json!({ "peer": stranger })),
        ("links.remove", json!({ "peer": stranger })),
        (
            "ice.servers",
            json!({ "stun": ["192.0.2.1"], "turn": [{ "server": "192.0.2.1:3478", "username": "u", "password": "p" }] }),
        ),
        ("ports.list", json!({})),
        ("ports.add", json!({ "kind": "tap", "name": "ipop1" })),
        ("ports.address", json!({ "name": "ipop1", "address": "192.168.9.1/24" })),
        ("ports.remove", json!({ "name": "ipop1" })),
        ("fdb.list", json!({ "port": TAP })),
        ("fdb.flush", json!({ "port": TAP })),
        ("drops.get", json!({})),
        ("trust.deny", json!({ "node": stranger })),
        ("trust.list", json!({})),
        ("trust.forget", json!({ "node": stranger })),
        ("trust.accept", json!({ "node": stranger })),
        ("trust.forget", json!({ "node": stranger })),
        ("config.get", json!({})),
        ("config.reload", json!({})),
        ("log.set", json!({ "level": "debug" })),
        ("echo", json!({ "message": "grüße" })),
    ]
}

#[test]
fn every_method_answers_as_it_is_described_over_http_and_over_json_rpc() {
    let described = Described::read();
    let (pair, socket) = pair("methods");
    let stranger = switch(&pair.lab, pair.a.host()).node_id().to_string();
    let peer = pair.b.node.node_id().to_string();
    let requests = requests(&peer, &stranger);
    let asked: BTreeSet<&str> = requests.iter().map(|(method, _)| *method).collect();
    // These are streams, and over HTTP alone.
    let known = described.operations.keys().map(String::as_str);
    let known = known.filter(|name| !["events", "capture"].contains(name));
    assert_eq!(asked, known.collect(), "every method of docs/openapi.json is asked, and no other");
    for (method, params) in &requests {
        let operation = &described.operations[*method];
        let (status, answer) = over_http(&socket, operation, params);
        assert_eq!(status, 200, "{method}: {answer}");
        described.check(method, &operation.answer, &answer);
    }
    for (method, params) in &requests {
        let answer = api::call(&socket, method, params.clone());
        let answer = answer.unwrap_or_else(|problem| panic!("{method}: {problem}"));
        described.check(method, &described.operations[*method].answer, &answer);
    }
    // What is wrong is told alike over both.
    for (method, params, code) in [
        ("peers.get", json!({ "peer": stranger }), "not_found"),
        ("links.create", json!({ "peer": "x" }), "bad_params"),
        ("echo", json!({ "message": 5 }), "bad_params"),
        ("log.set", json!({ "level": "loud" }), "bad_params"),
    ] {
        let (status, problem) = over_http(&socket, &described.operations[method], &params);
        assert!(status >= 400, "{method}: {problem}");
        assert_eq!(problem["code"], code, "{method}: {problem}");
        assert_eq!(api::call(&socket, method, params).unwrap_err(), problem);
        described.check_type(method, "Problem", &problem);
    }
}

#[test]
fn a_batch_is_answered_in_its_order() {
    let (_pair, socket) = pair("batch");
    let request = |id: u32, method: &str| json!({ "jsonrpc": "2.0", "id": id, "method": method });
    let batch = json!([request(1, "status.get"), request(2, "no.such"), request(3, "ports.list")]);
    let (status, answers) = api::http(&socket, "POST", "/v1/rpc", &batch.to_string());
    assert_eq!(status, 200);
    let ids: Vec<_> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(answers[1]["error"]["code"], -32_601);
    assert_eq!(answers[2]["result"]["ports"][0]["name"], TAP);
}

/// Two connected switches, the first of which looks for paths, and its socket.
pub(super) fn pair(label: &str) -> (Pair, std::path::PathBuf) {
    let options =
        PairOptions { args: [&["--controller", "external"], &[]], ..PairOptions::default() };
    let mut pair = Pair::start(label, &options);
    let socket = pair.lab.dir().join("pair.sock");
    pair.a.stop();
    pair.a.node.args(&["--api", path(&socket)]);
    pair.a.switch = pair.a.node.start().unwrap();
    api::wait_for(&socket);
    let is_up = || {
        let peers = api::call(&socket, "peers.list", json!({})).unwrap();
        peers["peers"][0]["state"] == "up"
    };
    assert!(wait_until(SOON, is_up), "{}", pair.a.switch.process.stderr());
    (pair, socket)
}

/// What stands in the path is taken from the parameters, the rest is the query or the body.
fn over_http(socket: &Path, operation: &Operation, params: &Value) -> (u16, Value) {
    let mut path = operation.path.clone();
    let mut rest = params.as_object().unwrap().clone();
    for (name, value) in params.as_object().unwrap() {
        let variable = format!("{{{name}}}");
        if path.contains(&variable) {
            path = path.replace(&variable, value.as_str().unwrap());
            rest.remove(name);
        }
    }
    if matches!(operation.verb.as_str(), "POST" | "PUT") {
        return api::http(socket, &operation.verb, &path, &Value::Object(rest).to_string());
    }
    let query: Vec<String> =
        rest.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect();
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    api::http(socket, &operation.verb, &path, "")
}
