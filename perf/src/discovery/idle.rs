//! What a network costs that nobody uses: bytes on the wire, CPU time and memory.
//!
//! Bytes are counted by nftables in the nodes' namespaces, IP packets as a whole, and again without their IP and UDP
//! headers where it is UDP. CPU time is the scheduler's account of each thread; the workers' is told apart from the rest,
//! which is the control plane's.

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::network::Network;
use crate::{
    lab::{Access, Host, Lab, LinkOptions, NatKind, NatOptions, Process},
    tunnel::{Node, Program},
};

/// After the connection: candidates, paths and path MTU have settled by then.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// IPv4 and UDP.
const HEADERS_LEN: u64 = 28;

/// Both nodes, over a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idle {
    /// How long, seconds.
    pub seconds: f64,
    /// XMPP of one node (the busier one), both ways, IP and TCP headers included, bytes a second.
    pub xmpp_bytes_per_s: f64,
    /// The tunnel, both ways together, IP and UDP headers included, bytes a second.
    pub tunnel_bytes_per_s: f64,
    /// The same without these headers.
    pub tunnel_payload_bytes_per_s: f64,
    /// Packets of the tunnel, both ways together, each second.
    pub tunnel_packets_per_s: f64,
    /// STUN and TURN of one node (the busier one) with the servers, both ways, headers included, bytes a second.
    pub servers_bytes_per_s: f64,
    /// The busier node's control plane, percent of a processor.
    pub control_cpu_percent: f64,
    /// The busier node's workers, percent of a processor.
    pub workers_cpu_percent: f64,
    /// Resident memory of the larger node, KiB.
    pub rss_kib: u64,
    /// Resident memory of a switch with a configured peer and no network, KiB.
    pub static_rss_kib: u64,
}

/// How two nodes are connected.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// On one LAN.
    Lan,
    /// Behind a port-restricted NAT each.
    Nats,
}

/// What nftables counts in a node's namespace.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    xmpp: Count,
    tunnel: Count,
    servers: Count,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    packets: u64,
    bytes: u64,
}

/// CPU time, seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    control_s: f64,
    workers_s: f64,
}

/// Two nodes are connected, and left alone for so long.
pub(super) fn measure(network: &Network, place: Place, length: Duration) -> Result<Idle> {
    let access = match place {
        Place::Lan => Access::Direct,
        Place::Nats => Access::Nat(NatOptions::new(NatKind::PortRestricted)),
    };
    let site = |name| network.internet.site(name, access);
    let sites = [site("idle0")?, site("idle1")?];
    for site in &sites {
        count_packets(site.host(), network.servers.machine.ipv4)?;
    }
    let mut running = network.pair([sites[0].host(), sites[1].host()], "direct")?;
    thread::sleep(SETTLED_AFTER);
    let look = |process: &Process, host: &Host| Ok((counts(host)?, cpu(process.pid())?));
    let look_at_both = |running: &[crate::tunnel::Running; 2]| -> Result<Vec<_>> {
        running.iter().map(|node| look(&node.process, &node.host)).collect()
    };
    let (start, before) = (Instant::now(), look_at_both(&running)?);
    thread::sleep(length);
    let (seconds, after) = (start.elapsed().as_secs_f64(), look_at_both(&running)?);
    let per_s = |of: fn(&(Counts, Cpu)) -> f64| {
        let each = before.iter().zip(&after).map(|(before, after)| of(after) - of(before));
        each.fold(0.0, f64::max) / seconds
    };
    let mut rss_kib = 0;
    for node in &mut running {
        rss_kib = rss_kib.max(node.process.usage()?.rss_kib);
    }
    Ok(Idle {
        seconds,
        xmpp_bytes_per_s: per_s(|(counts, _)| counts.xmpp.bytes as f64),
        tunnel_bytes_per_s: per_s(|(counts, _)| counts.tunnel.bytes as f64),
        tunnel_payload_bytes_per_s: per_s(|(counts, _)| counts.tunnel.payload_bytes() as f64),
        tunnel_packets_per_s: per_s(|(counts, _)| counts.tunnel.packets as f64),
        servers_bytes_per_s: per_s(|(counts, _)| counts.servers.bytes as f64),
        control_cpu_percent: per_s(|(_, cpu)| cpu.control_s) * 100.0,
        workers_cpu_percent: per_s(|(_, cpu)| cpu.workers_s) * 100.0,
        rss_kib,
        static_rss_kib: static_rss_kib()?,
    })
}

impl Count {
    fn payload_bytes(self) -> u64 {
        self.bytes.saturating_sub(self.packets * HEADERS_LEN)
    }
}

/// Each packet once, at the node that sends or receives it.
fn count_packets(host: &Host, server: Ipv4Addr) -> Result<()> {
    let rules = |to: &str| {
        format!(
            "tcp {to}port 5222 counter name xmpp
             meta l4proto udp ip {to}addr {server} counter name servers
             meta l4proto udp ip {to}addr != {server} udp dport != 53 counter name tunnel"
        )
    };
    host.load_firewall(&format!(
        "table ip counts {{
            counter xmpp {{ }}
            counter servers {{ }}
            counter tunnel {{ }}
            chain out {{
                type filter hook output priority filter
                oifname \"ipop0\" accept
                {}
            }}
            chain in {{
                type filter hook input priority filter
                iifname \"ipop0\" accept
                {}
            }}
        }}\n",
        rules("d"),
        rules("s")
    ))
}

fn counts(host: &Host) -> Result<Counts> {
    let text = host.run("nft", ["-j", "list", "counters"])?;
    let json: serde_json::Value = serde_json::from_str(&text).context("reading `nft -j`")?;
    let objects = json["nftables"].as_array().context("`nft -j` lacks its list")?;
    let count = |name: &str| {
        let of = |object: &&serde_json::Value| object["counter"]["name"] == name;
        let counter =
            &objects.iter().find(of).with_context(|| format!("no counter {name}"))?["counter"];
        let number = |key: &str| counter[key].as_u64().with_context(|| format!("{name}: no {key}"));
        Ok::<_, anyhow::Error>(Count { packets: number("packets")?, bytes: number("bytes")? })
    };
    Ok(Counts { xmpp: count("xmpp")?, tunnel: count("tunnel")?, servers: count("servers")? })
}

/// What the threads of a process have used: proc(5)'s schedstat begins with the time on a processor, in ns.
fn cpu(pid: u32) -> Result<Cpu> {
    let mut cpu = Cpu::default();
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
        let task = task?.path();
        let read = |name: &str| {
            let path = task.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let (name, stat) = (read("comm")?, read("schedstat")?);
        let ns: u64 = stat.split(' ').next().unwrap_or_default().parse().context("schedstat")?;
        let seconds = ns as f64 / 1e9;
        match name.starts_with("worker-") {
            true => cpu.workers_s += seconds,
            false => cpu.control_s += seconds,
        }
    }
    ensure!(cpu.workers_s > 0.0, "{tasks}: no worker has used any time");
    Ok(cpu)
}

/// A switch as before there were networks.
fn static_rss_kib() -> Result<u64> {
    let lab = Lab::new("static")?;
    let hosts = [lab.host("a")?, lab.host("b")?];
    let link = lab.link(&hosts[0], &hosts[1], LinkOptions::new())?;
    let node = |host| Node::new(&lab, host, Program::Switch);
    let (mut a, mut b) = (node(&hosts[0])?, node(&hosts[1])?);
    a.dial(b.node_id(), link.b.ipv4).address("192.168.77.1/24");
    b.admit(a.node_id()).address("192.168.77.2/24");
    let mut running = [a.start()?, b.start()?];
    running[0].wait_for_answer(super::network::address(1).into())?;
    let mut rss_kib = 0;
    for node in &mut running {
        rss_kib = rss_kib.max(node.process.usage()?.rss_kib);
    }
    Ok(rss_kib)
}
