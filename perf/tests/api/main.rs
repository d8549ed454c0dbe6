//! The control API of real switches, as programs meet it. Needs root.
//!
//! * `methods`: each method over HTTP and over JSON-RPC; answers are as docs/openapi.json describes them. `described` reads that.
//! * `rights`: who may do what.
//! * `sockets`: where it listens, and what becomes of a socket that is there; TCP.
//! * `events`: streams that are followed, resumed, and not read.
//! * `harm`: many clients, and those that mean harm, while frames cross.
//! * `links`: what a controller says that cannot be.
//! * `languages`: Python's standard library and curl.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod described;
mod events;
mod harm;
mod languages;
mod links;
mod methods;
mod rights;
mod sockets;

use std::path::{Path, PathBuf};

use ipop_perf::lab::Lab;

use self::common::{Pair, PairOptions, Site, api, switch};

/// A switch alone on a host, with its API in the lab's directory.
struct Alone {
    site: Site,
    socket: PathBuf,
    // Last, so that the switch ends before its namespace.
    lab: Lab,
}

impl Alone {
    /// Starts it with these options besides.
    fn start(label: &str, args: &[&str]) -> Self {
        let lab = common::lab(label);
        let host = lab.host("a").unwrap();
        let socket = lab.dir().join("a.sock");
        let mut node = switch(&lab, &host);
        node.args(&["--api", path(&socket)]).args(args);
        let site = Site::start(node);
        api::wait_for(&socket);
        Self { site, socket, lab }
    }
}

/// A path of the lab as an argument.
fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
