//! The control API of a switch, asked over its Unix socket.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use ipop_perf::lab::wait_until;
use serde_json::{Value, json};

use super::SOON;

/// Waits until a switch listens there.
pub(crate) fn wait_for(socket: &Path) {
    let listens = wait_until(SOON, || UnixStream::connect(socket).is_ok());
    assert!(listens, "nobody listens at {}", socket.display());
}

/// Calls a method by JSON-RPC: its result, or the problem that the API has with it.
pub(crate) fn call(socket: &Path, method: &str, params: Value) -> Result<Value, Value> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let (_, mut answer) = http(socket, "POST", "/v1/rpc", &body.to_string());
    match answer["error"]["data"].take() {
        Value::Null => Ok(answer["result"].take()),
        problem => Err(problem),
    }
}

/// Sends a request and reads its answer: the status and the body.
pub(crate) fn http(socket: &Path, verb: &str, path: &str, body: &str) -> (u16, Value) {
    let len = body.len();
    raw(
        socket,
        format!(
            "{verb} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
        )
        .as_bytes(),
    )
}

/// Sends these bytes and reads the answer to its end: the status (0 if there is none) and the body.
pub(crate) fn raw(socket: &Path, request: &[u8]) -> (u16, Value) {
    let connected = UnixStream::connect(socket);
    let mut stream = connected.unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
    stream.set_read_timeout(Some(SOON)).unwrap();
    // It may be answered, and the rest not read.
    let _ = stream.write_all(request);
    read_answer(&mut stream)
}

/// Reads an answer to the end of the connection: the status (0 if there is none) and the body.
pub(crate) fn read_answer(stream: &mut impl Read) -> (u16, Value) {
    let mut bytes = Vec::new();
    // The end may come as a reset.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.unwrap_or(0), serde_json::from_str(body).unwrap_or(Value::Null))
}
