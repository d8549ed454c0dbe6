//! The Ethernet wire emulator in the lab, on real TAPs. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{net::UdpSocket, time::Duration};

use ipop_perf::{
    lab::{
        Host, Lab, Link,
        tools::{Iperf3, Ping},
        wait_until,
    },
    wire::{Impairments, Towards, Wire, WireOptions},
};

const SOON: Duration = Duration::from_secs(10);

struct Bench {
    // In this order they go away: the wire's TAPs before the namespaces.
    wire: Wire,
    a: Host,
    b: Host,
    link: Link,
    lab: Lab,
}

fn bench(label: &str, impairments: Impairments) -> Bench {
    bench_with(label, |_| WireOptions::new(42).impairments(impairments))
}

fn bench_with(label: &str, options: impl FnOnce(&Lab) -> WireOptions) -> Bench {
    let lab = Lab::new(label).unwrap_or_else(|error| panic!("{error:#}"));
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let (wire, link) = lab.wire(&a, &b, &options(&lab)).unwrap();
    Bench { wire, a, b, link, lab }
}

impl Bench {
    /// Sends numbered datagrams from a to b, slowly enough that only the wire loses any; the numbers that arrived.
    fn send_numbers(&self, count: u32) -> Vec<u32> {
        let (from, to) = ((self.link.a.ipv4, 0), (self.link.b.ipv4, 4000));
        let sender = self.a.enter(|| UdpSocket::bind(from)).unwrap().unwrap();
        let receiver = self.b.enter(|| UdpSocket::bind(to)).unwrap().unwrap();
        // Neighbours are known before it counts.
        Ping::to(self.link.b.ipv4).count(3).run(&self.a).unwrap();
        receiver.set_nonblocking(true).unwrap();
        let mut arrived = Vec::new();
        let drain = |arrived: &mut Vec<u32>| {
            let mut number = [0; 4];
            while receiver.recv(&mut number).is_ok() {
                arrived.push(u32::from_be_bytes(number));
            }
        };
        for number in 0..count {
            sender.send_to(&number.to_be_bytes(), to).unwrap();
            if number % 32 == 31 {
                std::thread::sleep(Duration::from_micros(200));
                drain(&mut arrived);
            }
        }
        let done = || {
            let counters = self.wire.counters(Towards::B);
            counters.frames >= u64::from(count)
                && counters.delivered + counters.lost >= counters.frames + counters.duplicated
        };
        assert!(wait_until(SOON, done), "{:?}", self.wire.counters(Towards::B));
        std::thread::sleep(Duration::from_millis(20));
        drain(&mut arrived);
        arrived
    }
}

#[test]
fn frames_are_lost_at_the_rate_asked_for() {
    let bench = bench("loss", Impairments { loss: 0.05, ..Impairments::default() });
    let arrived = bench.send_numbers(10_000);
    assert!((9_400..9_600).contains(&arrived.len()), "{}", arrived.len());
    assert!(arrived.is_sorted(), "nothing else happens to them");
    let counters = bench.wire.counters(Towards::B);
    assert_eq!(counters.delivered + counters.lost, counters.frames, "{counters:?}");
    drop(bench.wire);
    assert!(!bench.a.has_interface(&bench.link.a.name), "the TAPs go with the wire");
    drop(bench.lab);
}

#[test]
fn frames_are_duplicated_and_overtaken() {
    let impairments = Impairments { duplication: 0.1, reordering: 0.1, ..Impairments::default() };
    let bench = bench("shuffle", impairments);
    let arrived = bench.send_numbers(5_000);
    let overtaken = arrived.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(overtaken > 50, "{overtaken}");
    let mut numbers = arrived.clone();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 5_000, "every number arrives");
    assert!((400..600).contains(&(arrived.len() - numbers.len())), "{}", arrived.len());
}

#[test]
fn frames_are_delayed_both_ways() {
    let delay = Duration::from_millis(20);
    let bench = bench("delay", Impairments { delay, ..Impairments::default() });
    let report = Ping::to(bench.link.b.ipv4).count(5).run(&bench.a).unwrap();
    let fastest = report.rtts_ms.iter().copied().fold(f64::MAX, f64::min);
    assert!((40.0..50.0).contains(&fastest), "{report:?}");
}

#[test]
fn large_frames_vanish_when_the_path_shrinks() {
    let bench = bench("mtu", Impairments::default());
    let full = Ping::to(bench.link.b.ipv4).unfragmented(1500 - 28);
    full.run(&bench.a).unwrap().expect_no_loss().unwrap();
    bench.wire.change_towards(Towards::B, |towards| towards.mtu = 1280);
    assert_eq!(full.run(&bench.a).unwrap().received, 0);
    let fits = Ping::to(bench.link.b.ipv4).unfragmented(1280 - 28);
    fits.run(&bench.a).unwrap().expect_no_loss().unwrap();
    assert_eq!(bench.wire.counters(Towards::B).too_large, 1);
    assert_eq!(bench.wire.counters(Towards::A).too_large, 0);
}

#[test]
fn a_cut_wire_carries_nothing_until_it_is_healed() {
    let bench = bench("cut", Impairments::default());
    let ping = Ping::to(bench.link.b.ipv6);
    ping.run(&bench.a).unwrap().expect_no_loss().unwrap();
    bench.wire.cut();
    assert_eq!(ping.run(&bench.a).unwrap().received, 0);
    bench.wire.heal();
    let heals = || ping.run(&bench.a).unwrap().received > 0;
    assert!(wait_until(SOON, heals), "{:?}", bench.wire.counters(Towards::B));
    assert!(bench.wire.counters(Towards::B).cut > 0);
}

#[test]
fn tcp_crosses_as_single_packets_and_is_captured() {
    let capture = |lab: &Lab| WireOptions::new(1).capture(lab.dir().join("wire.pcap"));
    let bench = bench_with("tcp", capture);
    let flow = Iperf3::to(bench.link.b.ipv4).seconds(1).run(&bench.a, &bench.b).unwrap();
    println!("{:.0} Mbit/s over the wire", flow.received_bits_per_s / 1e6);
    let file = bench.lab.dir().join("wire.pcap");
    let [towards_b, towards_a] = bench.wire.stop().unwrap();
    let frames = towards_b.delivered + towards_a.delivered;
    assert!(flow.received_bytes < towards_b.bytes);
    assert!(towards_b.frames * 1514 >= towards_b.bytes, "no superframes: {towards_b:?}");
    let program = "tcpdump -n -r $0 2>/dev/null | wc -l";
    let lines = bench.b.run("sh", ["-c".as_ref(), program.as_ref(), file.as_os_str()]).unwrap();
    let captured: u64 = lines.trim().parse().unwrap();
    assert_eq!(captured, frames - towards_b.not_captured);
}
