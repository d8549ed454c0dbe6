//! `ipop-perf demo`: two sites become one Ethernet segment, step by step, in well under a minute.
//!
//! Each site is a host with a Linux bridge and one machine behind it; between the hosts is nothing but IP. What is typed
//! is shown as one would type it; everything runs in namespaces and vanishes at the end.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    lab::{
        BridgeSite, Host, Interface, Lab, LinkOptions, SiteOptions,
        tools::{Iperf3, Ping},
        wait_until,
    },
    tunnel::{Node, Program, UP_LIMIT},
};

/// Runs the demo with this program, from this file.
///
/// # Errors
/// When any step fails; the error says which.
pub fn run(program: Program, binary: &Path, mtu: u16) -> Result<()> {
    let lab = Lab::new("demo")?;
    let (host_a, host_b) = (lab.host("hostA")?, lab.host("hostB")?);
    let link = lab.link(&host_a, &host_b, LinkOptions::new())?;
    // The machines keep to the tunnel's inner MTU, as on any segment all have to.
    let vms = SiteOptions::new(1).links(LinkOptions::new().mtu(mtu.into()));
    let (vm_a, _) = only_vm(lab.bridge_site(&host_a, "lan", vms)?)?;
    let (vm_b, end_b) = only_vm(lab.bridge_site(&host_b, "lan", vms)?)?;
    println!(
        "Two sites. hostA ({}) and hostB ({}) reach one another over IP;",
        link.a.ipv4, link.b.ipv4
    );
    let (name_a, name_b) = (vm_a.name(), vm_b.name());
    println!("behind a bridge `lan` on each is a machine: {name_a} and {name_b}.\n");

    println!("== Before: {name_a} does not reach {name_b}");
    ping(&vm_a, &Ping::to(end_b.ipv4))?;

    println!("\n== Each host has a key; its hash is the node id");
    let mut node_a = Node::with_binary(&lab, &host_a, program, binary)?;
    let mut node_b = Node::with_binary(&lab, &host_b, program, binary)?;
    for node in [&node_a, &node_b] {
        println!("{}# {program} identity\n{}", node.host().name(), node.node_id());
    }

    println!("\n== The tunnel: hostA dials hostB, each knows the other's node id");
    node_a.dial(node_b.node_id(), link.b.ipv4).mtu(mtu).bridge("lan");
    node_b.admit(node_a.node_id()).mtu(mtu).bridge("lan");
    for node in [&node_b, &node_a] {
        println!("{}# {program} {}", node.host().name(), node.command_line().join(" "));
    }
    let mut tunnel = [node_b.start()?, node_a.start()?];
    let answers = || Ping::to(end_b.ipv4).run(&vm_a).is_ok_and(|report| report.received > 0);
    anyhow::ensure!(
        wait_until(UP_LIMIT, answers),
        "the tunnel does not come up:\n{}",
        tunnel.each_ref().map(|end| end.process.stderr()).join("\n")
    );

    println!("\n== After: one Ethernet segment");
    ping(&vm_a, &Ping::to(end_b.ipv4).count(5))?;
    ping(&vm_a, &Ping::to(end_b.ipv6).count(2))?;
    let largest = Ping::to(end_b.ipv4).unfragmented(u32::from(mtu) - 28);
    // The largest frames may have to wait until path MTU discovery has seen that they fit.
    let fits = wait_until(UP_LIMIT, || largest.run(&vm_a).is_ok_and(|report| report.received > 0));
    anyhow::ensure!(fits, "a packet of {mtu} bytes does not cross");
    ping(&vm_a, &largest)?;

    println!("\n== One TCP flow from {name_a} to {name_b}, 5 s");
    println!("{name_a}# iperf3 -c {} -t 5", end_b.ipv4);
    let flow = Iperf3::to(end_b.ipv4).seconds(5).run(&vm_a, &vm_b)?;
    println!("{:.0} Mbit/s, {} retransmissions", flow.received_bits_per_s / 1e6, flow.retransmits);
    for end in &mut tunnel {
        let (usage, host) = (end.process.usage()?, end.host.name());
        println!(
            "{host}: {program} used {:.1} s of CPU, {} MiB",
            usage.cpu_s(),
            usage.rss_kib / 1024
        );
    }

    println!("\n== What the programs said");
    for end in &mut tunnel {
        end.process.terminate()?;
        // Logs go to standard error by custom.
        for line in end.process.stderr().lines() {
            println!("{}: {line}", end.host.name());
        }
    }
    drop(lab);
    println!("\nDone. The namespaces, and all in them, are gone.");
    Ok(())
}

fn only_vm(mut site: BridgeSite) -> Result<(Host, Interface)> {
    site.vms.pop().context("a site without a machine")
}

fn ping(host: &Host, ping: &Ping) -> Result<()> {
    let report = ping.run(host)?;
    let rtt = report.median_rtt_ms().map_or(String::new(), |rtt| format!(", median {rtt:.2} ms"));
    println!("{}# {ping}\n{} sent, {} answered{rtt}", host.name(), report.sent, report.received);
    Ok(())
}
