//! The lab itself, on the real kernel. Needs root.

use std::{
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use ipop_perf::lab::{Lab, LinkOptions, Signal, SiteOptions, tools::Ping, wait_until};

const SOON: Duration = Duration::from_secs(10);

fn lab(label: &str) -> Lab {
    Lab::new(label).unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn linked_hosts_reach_one_another_over_both_families() {
    let lab = lab("link");
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.link(&a, &b, LinkOptions::new().mtu(1280).without_offloads()).unwrap();
    Ping::to(link.b.ipv4).count(3).run(&a).unwrap().expect_no_loss().unwrap();
    Ping::to(link.a.ipv6).unfragmented(1280 - 48).run(&b).unwrap().expect_no_loss().unwrap();
    let above_mtu = Ping::to(link.b.ipv4).unfragmented(1281 - 28).run(&a).unwrap();
    assert_eq!(above_mtu.received, 0);
    let features = a.run("ethtool", ["-k", "eth0"]).unwrap();
    for off in ["tcp-segmentation-offload: off", "tx-checksumming: off"] {
        assert!(features.contains(off), "{off}: {features}");
    }
    assert!(a.counters("eth0").unwrap().tx_packets > 3);
}

#[test]
fn underlay_and_bridge_sites_connect_everyone() {
    let lab = lab("bridges");
    let hosts = ["a", "b", "c"].map(|name| lab.host(name).unwrap());
    let [a, b, c] = &hosts;
    let ends = lab.underlay(&[a, b, c], LinkOptions::new()).unwrap();
    Ping::to(ends[2].ipv4).run(a).unwrap().expect_no_loss().unwrap();
    Ping::to(ends[0].ipv6).run(b).unwrap().expect_no_loss().unwrap();

    let site = lab.bridge_site(a, "lan", SiteOptions::new(2)).unwrap();
    let [(vm1, _), (_, end2)] = &site.vms[..] else { panic!("two machines") };
    Ping::to(end2.ipv4).run(vm1).unwrap().expect_no_loss().unwrap();
    assert!(a.has_interface(&site.bridge) && !c.has_interface(&site.bridge));
}

#[test]
fn two_labs_run_side_by_side() {
    let labs = [lab("twin"), lab("twin")];
    let pairs = labs.each_ref().map(|lab| {
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
        (a, b, link)
    });
    assert_eq!(pairs[0].2, pairs[1].2, "names and addresses may be the same");
    assert_ne!(pairs[0].0.netns(), pairs[1].0.netns());
    for (a, _, link) in &pairs {
        Ping::to(link.b.ipv4).run(a).unwrap().expect_no_loss().unwrap();
    }
    let [first, second] = labs;
    drop(first);
    Ping::to(pairs[1].2.b.ipv4).run(&pairs[1].0).unwrap().expect_no_loss().unwrap();
    drop(second);
}

#[test]
fn processes_are_watched_and_measured() {
    let lab = lab("process");
    let a = lab.host("a").unwrap();
    let script = "echo up; trap 'echo told >&2; exit 7' USR1; while :; do :; done";
    let mut busy = a.spawn("sh", ["-c", script]).unwrap();
    busy.wait_for_line("up", SOON).unwrap();
    assert!(wait_until(SOON, || busy.usage().unwrap().cpu_s() > 0.1));
    assert!(busy.usage().unwrap().rss_kib > 0);
    busy.signal(Signal::USR1).unwrap();
    let exit = busy.wait(SOON).unwrap();
    assert_eq!(exit.status.code(), Some(7));
    assert!(exit.usage.cpu_s() > 0.1, "{exit:?}");
    assert_eq!(busy.stderr(), "told\n");
    assert!(busy.wait_for_line("never", SOON).unwrap_err().to_string().contains("has ended"));
    assert!(a.run("sh", ["-c", "echo no >&2; exit 3"]).unwrap_err().to_string().contains("no"));
    assert!(a.run("no-such-program", [""; 0]).is_err());
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    let lab = lab("drop");
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    lab.link(&a, &b, LinkOptions::new()).unwrap();
    let stays = a.spawn("sh", ["-c", "sleep 1000 & echo $!; wait"]).unwrap();
    assert!(wait_until(SOON, || stays.stdout().ends_with('\n')));
    let grandchild = format!("/proc/{}", stays.stdout().trim());
    let (dir, netns) = (lab.dir().to_owned(), Path::new("/run/netns").join(a.netns()));
    a.set_name_server(Ipv4Addr::LOCALHOST).unwrap();
    let files = Path::new("/etc/netns").join(a.netns());
    assert!(dir.exists() && netns.exists() && files.exists() && Path::new(&grandchild).exists());
    drop(lab);
    assert!(!dir.exists() && !netns.exists() && !files.exists());
    assert!(wait_until(SOON, || !Path::new(&grandchild).exists()));
}

/// The owner that the next test kills.
#[test]
#[ignore = "a part of a_killed_owner_leaves_nothing"]
fn victim() {
    let report = std::env::var("IPOP_LAB_VICTIM").expect("set by a_killed_owner_leaves_nothing");
    let lab = lab("victim");
    let a = lab.host("a").unwrap();
    let sleeper = a.spawn("sleep", ["1000"]).unwrap();
    let left = format!("{}\n{}\n{}", a.netns(), sleeper.pid(), lab.dir().display());
    std::fs::write(&report, left + "\nready").unwrap();
    std::thread::sleep(Duration::from_secs(1000));
}

#[test]
fn a_killed_owner_leaves_nothing() {
    for signal in [Signal::KILL, Signal::INT] {
        let lab = lab("killer");
        let a = lab.host("a").unwrap();
        let report = lab.dir().join("report");
        // Not in a namespace of this lab, whose reaper would do the other's work.
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--ignored"])
            .env("IPOP_LAB_VICTIM", &report)
            .spawn()
            .unwrap();
        let read = || std::fs::read_to_string(&report).unwrap_or_default();
        assert!(wait_until(SOON, || read().ends_with("ready")));
        let text = read();
        let lines: Vec<_> = text.lines().collect();
        let left = [
            Path::new("/run/netns").join(lines[0]),
            Path::new("/proc").join(lines[1]),
            Path::new(lines[2]).to_owned(),
        ];
        assert!(left.iter().all(|path| path.exists()), "{left:?}");
        let pid = rustix::process::Pid::from_child(&victim);
        rustix::process::kill_process(pid, signal).unwrap();
        victim.wait().unwrap();
        let start = Instant::now();
        assert!(
            wait_until(SOON, || left.iter().all(|path| !path.exists())),
            "{signal:?}: {left:?} after {:?}",
            start.elapsed()
        );
        drop(a);
    }
}

#[test]
fn clean_removes_what_belongs_to_the_dead_alone() {
    let alive = lab("alive");
    let a = alive.host("a").unwrap();
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let name = format!("ipoplab-{}-0-gone", gone.id());
    let left = [Path::new("/run/netns").join(&name), std::env::temp_dir().join(&name)];
    let made = std::process::Command::new("ip").args(["netns", "add", &name]).status().unwrap();
    assert!(made.success());
    std::fs::create_dir(&left[1]).unwrap();
    let removed = ipop_perf::lab::clean().unwrap();
    assert!(removed.contains(&name), "{removed:?}");
    assert!(left.iter().all(|path| !path.exists()));
    assert!(alive.dir().exists() && Path::new("/run/netns").join(a.netns()).exists());
}
