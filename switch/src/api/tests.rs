//! The server over real sockets, with a control thread that ends whatever it is asked; and the description.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::Duration,
};

use crossbeam::channel::bounded;
use serde_json::{Value, json};

use super::{
    rights::Right,
    server::{MAX_BODY, MAX_CLIENTS},
    *,
};

/// A server whose control thread never answers: what reaches it is `busy`.
struct Served {
    server: Option<Server>,
    dir: tempfile::TempDir,
    tcp: SocketAddr,
}

const TOKEN: &str = "a-token-of-enough-letters";

impl Served {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut listeners = Listeners::none();
        listeners.open_unix(&dir.path().join("api.sock"), &Groups::default()).unwrap();
        let token = Token::of_file(TOKEN).unwrap();
        listeners.open_tcp(([127, 0, 0, 1], 0).into(), token).unwrap();
        let tcp = listeners.tcp.as_ref().unwrap().0.local_addr().unwrap();
        let (messages, inbox) = bounded(8);
        thread::spawn(move || inbox.iter().for_each(drop));
        let server = Some(
            Server::start(listeners, Groups::default(), messages, EventLog::default()).unwrap(),
        );
        Self { server, dir, tcp }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// The status and the body of the answer to these bytes.
    fn ask(&self, request: &str) -> (u16, Value) {
        let mut stream = self.connect();
        // It may be answered, and the rest not read.
        let _ = stream.write_all(request.as_bytes());
        answer(stream)
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let len = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
        ))
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    fn over_tcp(&self, headers: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.tcp).unwrap();
        let request =
            format!("GET /v1/openapi.json HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        answer(stream)
    }
}

fn answer(mut stream: impl Read) -> (u16, Value) {
    let mut bytes = Vec::new();
    // The end may come as a reset.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.unwrap_or(0), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let served = Served::new();
    let long = "x".repeat(MAX_BODY + 1);
    for ((status, problem), expected, code) in [
        (served.get("/v1/nowhere"), 404, "no_such_method"),
        (served.get("/"), 404, "no_such_method"),
        (served.post("/v1/status", ""), 405, "wrong_verb"),
        (served.post("/v1/echo", "{"), 400, "malformed"),
        (served.post("/v1/echo", "[1]"), 400, "bad_params"),
        (served.post("/v1/echo", ""), 400, "bad_params"),
        (served.post("/v1/echo", r#"{"message":"a","mesage":"b"}"#), 400, "bad_params"),
        (served.get("/v1/fdb?mca=5"), 400, "bad_params"),
        (served.get("/v1/capture?snap=x"), 400, "bad_params"),
        (served.get("/v1/capture"), 503, "busy"),
        (served.post("/v1/echo", &long), 413, "too_large"),
        (served.post("/v1/echo", r#"{"message":"a"}"#), 503, "busy"),
    ] {
        assert_eq!((status, problem["code"].as_str()), (expected, Some(code)), "{problem}");
        assert!(problem["message"].as_str().unwrap().len() > 10, "{problem}");
    }
    let (_, problem) = served.post("/v1/echo", r#"{"message":5}"#);
    assert_eq!(problem["field"], "message");
    // Not even HTTP.
    assert_eq!(served.ask("\x16\x03\x01 nonsense\r\n\r\n").0, 400);
    let many: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    assert!(served.ask(&format!("GET / HTTP/1.1\r\n{many}\r\n")).0 >= 400);
}

#[test]
fn json_rpc_is_answered_by_its_rules() {
    let served = Served::new();
    let rpc = |body: &Value| served.post("/v1/rpc", &body.to_string());
    let error = |body: Value| rpc(&body).1["error"]["code"].clone();
    assert_eq!(served.post("/v1/rpc", "{").1["error"]["code"], -32_700);
    assert_eq!(error(json!([])), -32_600);
    assert_eq!(error(json!(5)), -32_600);
    assert_eq!(error(json!({ "method": "echo", "id": 1 })), -32_600);
    assert_eq!(error(json!({ "jsonrpc": "1.0", "method": "echo", "id": 1 })), -32_600);
    assert_eq!(error(json!({ "jsonrpc": "2.0", "method": "no.such", "id": 1 })), -32_601);
    assert_eq!(error(json!({ "jsonrpc": "2.0", "method": "echo", "id": 1 })), -32_602);
    let wrong =
        json!({ "jsonrpc": "2.0", "method": "echo", "params": { "message": [] }, "id": "a" });
    let (status, answer) = rpc(&wrong);
    assert_eq!((status, &answer["id"]), (200, &json!("a")));
    assert_eq!(answer["error"]["data"]["field"], "message");
    // A notification is not answered, and neither is a batch of them.
    let quiet = json!({ "jsonrpc": "2.0", "method": "no.such" });
    assert_eq!(rpc(&quiet), (204, Value::Null));
    assert_eq!(rpc(&json!([quiet, quiet])), (204, Value::Null));
    let batch = rpc(&json!([quiet, { "jsonrpc": "2.0", "method": "no.such", "id": null }, 7])).1;
    assert_eq!(batch.as_array().map(Vec::len), Some(2));
    let many = vec![quiet; 101];
    assert_eq!(error(json!(many)), -32_600);
}

#[tokio::test]
async fn who_may_only_look_sees_no_traffic() {
    let (messages, _inbox) = bounded(8);
    let api = std::sync::Arc::new(Api::new(messages, Groups::default(), EventLog::default()));
    let ask = async |right, query| {
        let request = axum::http::Request::get(query).body(axum::body::Body::empty()).unwrap();
        server::capture(api.clone(), Caller::for_test(right), request).await.unwrap_err().code
    };
    assert_eq!(ask(Right::Read, "/v1/capture").await, ProblemCode::NotPermitted);
    assert_eq!(ask(Right::Change, "/v1/capture?snap=x").await, ProblemCode::BadParams);
}

#[test]
fn over_tcp_nobody_is_heard_without_the_token_and_a_name_of_this_host() {
    let served = Served::new();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(served.over_tcp(&format!("Host: localhost\r\n{bearer}")).0, 200);
    assert_eq!(served.over_tcp("Host: localhost\r\n").0, 401);
    assert_eq!(served.over_tcp("Host: localhost\r\nAuthorization: Bearer x\r\n").0, 401);
    assert_eq!(served.over_tcp(&format!("Host: evil.example\r\n{bearer}")).0, 403);
    assert_eq!(served.over_tcp(&format!("Host: evil.example:{}\r\n", served.tcp.port())).0, 403);
}

#[test]
fn many_clients_are_answered_and_those_over_the_bound_wait() {
    let served = Served::new();
    let mut idle: Vec<UnixStream> = (0..MAX_CLIENTS).map(|_| served.connect()).collect();
    // One more is taken when one of the others goes.
    let mut late = served.connect();
    let request = "GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    late.write_all(request.as_bytes()).unwrap();
    late.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(late.read(&mut [0; 1]).is_err(), "there is no place for it");
    let mut first = idle.swap_remove(0);
    first.write_all(request.as_bytes()).unwrap();
    assert_eq!(answer(first).0, 200);
    late.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(answer(late).0, 200);
}

#[test]
fn when_the_server_goes_its_clients_and_its_socket_go() {
    let mut served = Served::new();
    let mut idle = served.connect();
    idle.write_all(b"GET /v1/st").unwrap();
    drop(served.server.take());
    assert!(matches!(idle.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert!(!served.socket().exists());
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json")
}

#[test]
fn the_committed_description_is_the_programs() {
    let description = description_of(&methods::all()) + "\n";
    let text = fs::read_to_string(committed()).unwrap_or_default();
    assert!(
        text == description,
        "docs/openapi.json is not what the program serves; write it again: \
         cargo test -p ipop-switch --lib -- --ignored writes_the_description"
    );
}

#[test]
#[ignore = "writes docs/openapi.json"]
fn writes_the_description() {
    fs::write(committed(), description_of(&methods::all()) + "\n").unwrap();
}

#[test]
fn every_method_has_a_name_and_a_place_of_its_own() {
    let methods = methods::all();
    for (index, method) in methods.iter().enumerate() {
        assert!(method.path.starts_with("/v1/"), "{}", method.path);
        for other in &methods[..index] {
            assert_ne!(method.name, other.name);
            assert!(
                (method.path, method.verb) != (other.path, other.verb),
                "{} and {} are at one place",
                method.name,
                other.name
            );
        }
    }
}
