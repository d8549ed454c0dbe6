//! The API from Python's standard library and from curl, as docs/API.md shows it.

use serde_json::{Value, json};

use super::{Alone, path};

const PYTHON: &str = r#"
import http.client, json, socket, sys
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])
connection = Unix("localhost")
connection.request("GET", "/v1/ports")
ports = json.load(connection.getresponse())
connection.request("POST", "/v1/rpc", json.dumps({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"message": "a"}}))
print(json.dumps([ports["ports"][0]["name"], json.load(connection.getresponse())["result"]]))
"#;

#[test]
fn python_and_curl_need_nothing_besides() {
    let alone = Alone::start("languages", &[]);
    let host = alone.site.host();
    let printed = host.run("python3", ["-c", PYTHON, path(&alone.socket)]).unwrap();
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed, json!(["ipop0", { "message": "a" }]));
    let curl = |more: &[&str]| {
        let line =
            ["-s", "--unix-socket", path(&alone.socket)].into_iter().chain(more.iter().copied());
        serde_json::from_str::<Value>(&host.run("curl", line).unwrap()).unwrap()
    };
    assert_eq!(curl(&["http://localhost/v1/status"])["ports"], 1);
    let call = r#"{"jsonrpc":"2.0","method":"fdb.list","id":1}"#;
    assert_eq!(curl(&["-d", call, "http://localhost/v1/rpc"])["id"], 1);
    assert_eq!(curl(&["http://localhost/v1/openapi.json"])["openapi"], "3.1.0");
}
