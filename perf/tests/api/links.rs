//! What a controller says of links that cannot be, and very many of them.

use ipop_datapath::node_id::NodeId;
use serde_json::{Value, json};

use super::{Alone, api};

fn node(number: u32) -> String {
    NodeId::of_spki(&number.to_be_bytes()).to_string()
}

#[test]
fn what_cannot_be_is_refused_and_leaves_the_link_as_it_was() {
    let alone = Alone::start("badlinks", &["--controller", "external"]);
    let call = |method: &str, params: Value| api::call(&alone.socket, method, params);
    let peer = node(1);
    call("links.create", json!({ "peer": peer })).unwrap();
    let candidate = |address: &str| json!({ "kind": "host", "address": address, "priority": 1 });
    let described = |node: &str, ufrag: &str, candidates: Value| json!({ "node": node, "ufrag": ufrag, "password": "p".repeat(22), "generation": 0, "candidates": candidates });
    let wrong = [
        (described(&node(2), "abcd", json!([])), "description.node"),
        (described(&peer, "a", json!([])), "description.ufrag"),
        (described(&peer, "abcd", json!([candidate("127.0.0.1:5800")])), "candidates[0]"),
        (
            described(&peer, "abcd", json!([candidate("192.0.2.1:1"), candidate("nowhere")])),
            "candidates[1]",
        ),
        (described(&peer, "abcd", json!([candidate("[100::1]:5800")])), "candidates[0]"),
        (described(&peer, "abcd", json!(vec![candidate("192.0.2.1:5800"); 25])), "candidates"),
    ];
    for (description, field) in wrong {
        for method in ["links.create", "links.update"] {
            let problem =
                call(method, json!({ "peer": peer, "description": description })).unwrap_err();
            assert_eq!(
                (&problem["code"], &problem["field"]),
                (&json!("bad_params"), &json!(field)),
                "{method}"
            );
        }
    }
    let link = call("links.get", json!({ "peer": peer })).unwrap();
    assert_eq!((&link["state"], &link["pairs"]), (&json!("waiting"), &json!([])));
    let own = call("status.get", json!({})).unwrap()["node"].clone();
    assert_eq!(call("links.create", json!({ "peer": own })).unwrap_err()["field"], "peer");
    let nobody = json!({ "peer": node(3) });
    for method in ["links.get", "links.remove", "links.update", "links.description"] {
        assert_eq!(call(method, nobody.clone()).unwrap_err()["code"], "not_found", "{method}");
    }
}

#[test]
fn a_thousand_links_are_made_and_removed() {
    let alone = Alone::start("thousand", &["--controller", "external"]);
    for (method, left) in [("links.create", 1000), ("links.remove", 0)] {
        for hundred in 0..10 {
            let one = |number: u32| {
                let params = json!({ "peer": node(hundred * 100 + number) });
                json!({ "jsonrpc": "2.0", "id": number, "method": method, "params": params })
            };
            let batch = Value::Array((0..100).map(one).collect());
            let (_, answers) = api::http(&alone.socket, "POST", "/v1/rpc", &batch.to_string());
            let failed =
                answers.as_array().unwrap().iter().find(|answer| answer["error"].is_object());
            assert_eq!(failed, None);
        }
        let links = api::call(&alone.socket, "links.list", json!({})).unwrap();
        assert_eq!(links["links"].as_array().unwrap().len(), left);
    }
}
