//! Frames of every kind and size cross between two hosts, over underlays of every size. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{fs, net::UdpSocket, time::Duration};

use common::{
    Family, Pair, PairOptions, SOON, TAP, expect_arp, expect_pings, inner, inner6,
    transfer::{Numbers, expect_bytes_cross},
};
use ipop_perf::lab::{
    Host,
    tools::{Iperf3, Ping},
    wait_until,
};

const MIB: usize = 1 << 20;

/// TCP in both directions, and its bytes.
fn check_tcp(pair: &Pair) {
    let (a, b) = (pair.a.host(), pair.b.host());
    Iperf3::to(inner(1)).seconds(1).run(a, b).unwrap();
    Iperf3::to(inner6(1)).seconds(1).reverse().run(a, b).unwrap();
    expect_bytes_cross(a, b, inner(1), 8 * MIB, SOON);
    expect_bytes_cross(b, a, inner6(0), 8 * MIB, SOON);
}

/// Datagrams arrive once and in order, or are counted as lost.
fn check_udp(pair: &mut Pair, payload_len_max: usize) {
    let (a, b) = (pair.a.host(), pair.b.host());
    // The neighbours are known before it counts.
    expect_pings(a, &Ping::to(inner(1)).count(2));
    let numbers = Numbers { flows: 2, count: 1_000, payload_len_max };
    let mut lost = 0;
    for flow in numbers.run(a, b, inner(1)) {
        assert_eq!(flow.disorder(), None, "each flow keeps its order");
        lost += u64::from(numbers.count).saturating_sub(flow.back.len() as u64);
    }
    let counted = pair.a.report().lost_frames() + pair.b.report().lost_frames();
    assert!(lost <= counted, "{lost} datagrams vanished, {counted} frames are counted as lost");
}

/// All nodes of the segment answer a multicast ping, which is the far host if one's own packets are not looped back.
fn check_multicast(from: &Host, far: &Host) {
    let far_address = link_local(far);
    let all_nodes = format!("ff02::1%{TAP}");
    let printed = from.run("ping", ["-6", "-L", "-n", "-c", "3", "-i", "0.2", &all_nodes]).unwrap();
    let answers = printed.lines().filter(|line| line.contains(&format!("from {far_address}")));
    assert_eq!(answers.count(), 3, "{far_address} in\n{printed}");
}

fn link_local(host: &Host) -> String {
    let text = host.ip(&["-6", "-json", "address", "show", "dev", TAP, "scope", "link"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let addresses = json[0]["addr_info"].as_array().into_iter().flatten();
    let local = addresses.filter_map(|info| info["local"].as_str()).next();
    local.unwrap_or_else(|| panic!("no link-local address: {text}")).to_owned()
}

#[test]
fn frames_of_every_kind_cross() {
    let mut pair = Pair::start("frames", &PairOptions::default());
    let (a, b) = (pair.a.host(), pair.b.host());
    expect_pings(a, &Ping::to(inner(1)).count(10));
    expect_pings(b, &Ping::to(inner(0)).count(10));
    // 60 bytes with all headers, the least that Ethernet knows, and nothing at all after ICMP's.
    expect_pings(a, &Ping::to(inner(1)).unfragmented(60 - 14 - 28).count(3));
    expect_pings(a, &Ping::to(inner(1)).unfragmented(0).count(3));
    pair.check_full_size_pings(1500);
    expect_arp(a, TAP, inner(1));
    expect_arp(b, TAP, inner(0));

    b.ip(&["-6", "neigh", "flush", "dev", TAP]).unwrap();
    a.ip(&["-6", "neigh", "flush", "dev", TAP]).unwrap();
    expect_pings(a, &Ping::to(inner6(1)).count(3));
    let neighbours = a.ip(&["-6", "neigh", "show", "dev", TAP]).unwrap();
    assert!(neighbours.contains(&format!("{} lladdr", inner6(1))), "{neighbours}");
    check_multicast(a, b);
    check_multicast(b, a);

    let udp = Iperf3::to(inner(1)).seconds(1).udp(5_000_000, 1_400).run(a, b).unwrap();
    check_tcp(&pair);
    check_udp(&mut pair, 1_472);
    let (at_a, at_b) = (pair.a.report(), pair.b.report());
    assert!(udp.lost_percent == 0.0 || at_a.lost_frames() + at_b.lost_frames() > 0, "{udp:?}");
    assert!(at_a.peer(0).is_up() && at_b.peer(0).is_up(), "{at_a}\n{at_b}");
    pair.check_balance();
    pair.stop();
}

#[test]
fn jumbo_frames_cross_a_jumbo_underlay() {
    let mut pair = Pair::start(
        "jumbo",
        &PairOptions { underlay_mtu: 9000, mtu: 9000, ..PairOptions::default() },
    );
    pair.check_full_size_pings(9000);
    check_tcp(&pair);
    check_udp(&mut pair, 8_972);
    pair.a.wait_for_report("a path MTU that uses the underlay", |report| {
        let tunnel = &report.peer(0).json()["tunnels"][0];
        tunnel["path_mtu_bytes"].as_u64().is_some_and(|mtu| mtu > 8_000)
    });
    pair.check_balance();
    pair.stop();
}

#[test]
fn jumbo_frames_cross_an_ordinary_underlay() {
    let mut pair = Pair::start("pieces", &PairOptions { mtu: 9000, ..PairOptions::default() });
    pair.check_full_size_pings(9000);
    check_tcp(&pair);
    check_udp(&mut pair, 8_972);
    pair.check_balance();
    pair.stop();
}

#[test]
fn full_frames_cross_the_smallest_ipv6_underlay() {
    let mut pair = Pair::start(
        "small",
        &PairOptions { underlay_mtu: 1280, underlay: Family::V6, ..PairOptions::default() },
    );
    pair.check_full_size_pings(1500);
    check_tcp(&pair);
    check_udp(&mut pair, 1_472);
    let report = pair.a.report();
    let remote = report.peer(0).json()["lanes"][0]["remote"].to_string();
    assert!(remote.contains(&pair.link.b.ipv6.to_string()), "{remote}");
    pair.check_balance();
    pair.stop();
}

#[test]
fn full_frames_cross_a_small_ipv4_underlay() {
    let mut pair =
        Pair::start("small4", &PairOptions { underlay_mtu: 1280, ..PairOptions::default() });
    pair.check_full_size_pings(1500);
    check_tcp(&pair);
    check_udp(&mut pair, 1_472);
    pair.check_balance();
    pair.stop();
}

#[test]
fn a_host_without_offloads_works_with_one_that_has_them() {
    let off: &[&str] = &["--offload", "off"];
    for args in [[off, &[]], [&[], off], [off, off]] {
        let mut pair = Pair::start("off", &PairOptions { args, ..PairOptions::default() });
        pair.check_full_size_pings(1500);
        check_tcp(&pair);
        check_udp(&mut pair, 1_472);
        // A frame that such a host gets is a real one.
        for (site, args) in [&mut pair.a, &mut pair.b].into_iter().zip(args) {
            let counters = site.host().counters(TAP).unwrap();
            if args == off {
                assert!(counters.rx_bytes <= counters.rx_packets * 1_514, "{counters:?}");
                assert!(counters.tx_bytes <= counters.tx_packets * 1_514, "{counters:?}");
            }
        }
        pair.check_balance();
        pair.stop();
    }
}

#[test]
fn superframes_cross_whole() {
    let mut pair = Pair::start("super", &PairOptions::default());
    expect_pings(pair.a.host(), &Ping::to(inner(1)).count(2));
    let features = pair.a.host().run("ethtool", ["-k", TAP]).unwrap();
    // Kernels before 6.2 cut UDP superframes before a TAP sees them.
    if features.contains("tx-udp-segmentation: on") {
        udp_superframe_arrives(&mut pair);
    }
    tcp_superframe_arrives(&pair);
    pair.check_balance();
    pair.stop();
}

/// One UDP superframe of the largest size: the far switch counts one frame of all its bytes.
fn udp_superframe_arrives(pair: &mut Pair) {
    const SEGMENT: usize = 1_452;
    const SUPERFRAME: usize = 45 * SEGMENT;
    const HEADERS: usize = 14 + 20 + 8;
    let receiver = pair.b.host().enter(|| UdpSocket::bind((inner(1), 4200))).unwrap().unwrap();
    receiver.set_nonblocking(true).unwrap();
    let file = pair.lab.dir().join("superframe");
    let payload: Vec<u8> = (0..SUPERFRAME).map(|at| (at * 31 / 7) as u8).collect();
    fs::write(&file, &payload).unwrap();
    let block = SUPERFRAME.to_string();
    let open = format!("OPEN:{}", file.display());
    // SOL_UDP and UDP_SEGMENT: the kernel of the sending host cuts it only where it must.
    let send = format!("UDP4-SENDTO:{}:4200,setsockopt-int=17:103:{SEGMENT}", inner(1));
    let before = pair.b.report();
    pair.a.host().run("socat", ["-u", "-b", &block, &open, &send]).unwrap();
    let mut arrived = Vec::new();
    let all = wait_until(SOON, || {
        let mut datagram = [0; 2_000];
        while let Ok(len) = receiver.recv(&mut datagram) {
            assert_eq!(len, SEGMENT);
            arrived.extend_from_slice(&datagram[..len]);
        }
        arrived.len() >= SUPERFRAME
    });
    assert!(all && arrived == payload, "{} bytes", arrived.len());
    let after = pair.b.report();
    let grown = |counter| after.peer(0).count(counter) - before.peer(0).count(counter);
    assert!(grown("received_bytes") >= (SUPERFRAME + HEADERS) as u64);
    // Others may come in between: ARP, neighbour discovery.
    assert!(grown("received_frames") < 10, "{} frames for one", grown("received_frames"));
}

/// During a TCP flow the far TAP hands its kernel frames of more than 60,000 bytes.
fn tcp_superframe_arrives(pair: &Pair) {
    let (a, b) = (pair.a.host(), pair.b.host());
    let args = ["-n", "-p", "-Q", "in", "-i", TAP, "-c", "1", "greater", "60000"];
    let mut watch = b.spawn("tcpdump", args).unwrap();
    watch.wait_for_line("listening on", SOON).unwrap();
    let seen = wait_until(Duration::from_secs(10), || {
        Iperf3::to(inner(1)).seconds(1).run(a, b).unwrap();
        !watch.is_running()
    });
    assert!(seen && watch.stdout().contains("length 6"), "{}", watch.stderr());
}
