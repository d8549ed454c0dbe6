//! Very many clients, and those that mean harm, while frames cross the overlay.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
};

use ipop_perf::lab::tools::Ping;
use serde_json::json;

use super::{
    api,
    common::{SOON, expect_pings, inner},
    methods::pair,
};

const STATUS: &str = "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Does it while pings cross, none of which may be lost.
fn while_frames_cross(label: &str, what: impl FnOnce(&Path)) {
    let (pair, socket) = pair(label);
    // Six seconds.
    let ping = Ping::to(inner(1)).count(300);
    thread::scope(|scope| {
        scope.spawn(|| expect_pings(pair.a.host(), &ping));
        what(&socket);
    });
    api::call(&socket, "status.get", json!({})).unwrap();
}

#[test]
fn two_hundred_clients_at_once_are_answered() {
    while_frames_cross("clients", |socket| {
        let ask = || {
            for _ in 0..5 {
                assert_eq!(api::http(socket, "GET", "/v1/status", "").0, 200);
            }
        };
        thread::scope(|scope| (0..200).for_each(|_| drop(scope.spawn(ask))));
    });
}

#[test]
fn huge_slow_malformed_and_pipelined_requests_do_no_harm() {
    while_frames_cross("harm", |socket| {
        let declared = "POST /v1/rpc HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
        assert_eq!(api::raw(socket, declared.as_bytes()).0, 413);
        let huge = "x".repeat(1 << 20);
        assert_eq!(api::http(socket, "POST", "/v1/echo", &huge).0, 413);
        let deep = "[".repeat(100_000);
        assert_eq!(api::http(socket, "POST", "/v1/echo", &deep).1["code"], "malformed");
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(10_000));
        for nonsense in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9\r\n\r\n", &many] {
            let (status, _) = api::raw(socket, nonsense.as_bytes());
            assert!(status == 0 || status >= 400, "{nonsense:.20?}: {status}");
        }
        // Slow ones: of a head and of a body only a part.
        let slow: Vec<UnixStream> =
            ["GET /v1/st", "POST /v1/echo HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"]
                .into_iter()
                .cycle()
                .take(100)
                .map(|part| {
                    let mut stream = UnixStream::connect(socket).unwrap();
                    stream.write_all(part.as_bytes()).unwrap();
                    stream
                })
                .collect();
        // A hundred requests before the first answer is read.
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let last = STATUS.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        stream.write_all((STATUS.repeat(99) + &last).as_bytes()).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 100);
        for mut stream in slow {
            stream.set_read_timeout(Some(SOON)).unwrap();
            // Its time is over: it is told so, or closed.
            let _ = stream.read_to_string(&mut answers);
        }
    });
}
