//! From the start of the second node to the first ping across.

use std::{
    fs, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::network::{FOUND_LIMIT, Network, address, path, wait_for_report};
use crate::lab::{Host, Process};

/// From one ping to the next, and from one ARP request to the next while nobody answers.
const PING_EVERY_MS: u32 = 10;

/// One start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// From the second node's start to the first answered ping, seconds.
    pub first_ping_s: f64,
    /// The kind of the path a moment later.
    pub path: String,
}

/// The first node is in the room when the second one is started; both are new to each other.
pub(super) fn once(network: &Network, hosts: [&Host; 2]) -> Result<Start> {
    let [a, b] = hosts;
    let mut first = network.node(0, a)?.start()?;
    wait_for_report(&mut first, "joined", |report| report["network"]["joined"] == true)?;
    // A second between two ARP requests would be most of what is measured.
    let retrans = format!("/proc/sys/net/ipv4/neigh/{}/retrans_time_ms", first.tap);
    a.enter(|| fs::write(retrans, PING_EVERY_MS.to_string()))?.context("ARP's time-out")?;
    let interval = format!("{}", f64::from(PING_EVERY_MS) / 1e3);
    let mut ping = a.spawn("ping", ["-n", "-D", "-i", &interval, &address(1).to_string()])?;
    let node = network.node(1, b)?;
    // It has begun when it sees that nobody is there.
    thread::sleep(Duration::from_millis(100));
    let started = SystemTime::now();
    let mut second = b.spawn(node.binary(), node.command_line())?;
    let answered = first_answer(&mut ping);
    let answered = answered.with_context(|| {
        format!("first node:\n{}\nsecond:\n{}", first.process.stderr(), second.stderr())
    })?;
    ping.kill()?;
    let started_s = started.duration_since(UNIX_EPOCH)?.as_secs_f64();
    let path = path(&mut first)?["kind"].as_str().unwrap_or_default().to_owned();
    // Both say goodbye to the room, so that the next two meet nobody.
    second.terminate()?;
    first.process.terminate()?;
    Ok(Start { first_ping_s: answered - started_s, path })
}

/// When `ping -D` had its first answer, seconds since 1970.
fn first_answer(ping: &mut Process) -> Result<f64> {
    ping.wait_for("an answer", FOUND_LIMIT, |line| {
        let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
        rest.contains("bytes from").then(|| time.parse().ok())?
    })
}
