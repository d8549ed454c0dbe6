//! `ipop-switch capture` at both ends of a tunnel: what passes and what is dropped, in files that other tools read. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use common::{SOON, Site, TAP, expect_pings, inner, lab, switch, switch_binary};
use ipop_perf::{
    lab::{Lab, LinkOptions, Process, Signal, tools::Ping, wait_until},
    stream::Port,
};
use rustix::net::SendFlags;

/// Of files.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A capture that is written to a file.
struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Once it looks on.
    fn start(site: &Site, args: &[&str]) -> Self {
        let number = NUMBER.fetch_add(1, Relaxed);
        let file = site.node.state().join(format!("{number}.pcapng"));
        let (path, socket) = (file.to_str().unwrap(), site.node.state().join("api.sock"));
        let mut line = vec!["capture", "all", "-w", path, "--socket", socket.to_str().unwrap()];
        line.extend(args);
        let process = site.host().spawn(switch_binary(), line).unwrap();
        // The head of the file is there when the workers have been told.
        let is_there = || fs::metadata(&file).is_ok_and(|file| file.len() > 0);
        assert!(wait_until(SOON, is_there), "{}", process.stderr());
        Self { process, file }
    }

    fn wait(&mut self) -> String {
        let exit = self.process.wait(SOON).unwrap();
        assert_eq!(exit.status.code(), Some(0), "{}", self.process.stderr());
        self.process.stdout()
    }
}

/// Little-endian blocks, one behind the other.
fn blocks(file: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut blocks) = (file, Vec::new());
    while !rest.is_empty() {
        let (block, behind) = rest.split_at(word(rest, 4) as usize);
        assert_eq!(word(block, 4), word(block, block.len() - 4), "lengths at both ends");
        blocks.push(block);
        rest = behind;
    }
    blocks
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|it| it == part)
}

/// How many packets have this comment, and this in their bytes.
fn count(blocks: &[&[u8]], comment: &str, bytes: &[u8]) -> usize {
    let packets = blocks.iter().filter(|block| word(block, 0) == 6);
    packets.filter(|block| has(block, comment.as_bytes()) && has(block, bytes)).count()
}

/// Ends it as Ctrl-C does, and reads what is there.
fn end(mut capture: Capture, frames_min: usize) -> Vec<u8> {
    capture.process.signal(Signal::INT).unwrap();
    let printed = capture.wait();
    let file = fs::read(&capture.file).unwrap();
    let packets = blocks(&file).iter().filter(|block| word(block, 0) == 6).count();
    assert_eq!(printed, format!("{packets} frames captured, 0 copies left out\n"));
    assert!(packets >= frames_min, "{packets}");
    if let Ok(read) = Command::new("tcpdump").arg("-n").arg("-r").arg(&capture.file).output() {
        let text = String::from_utf8_lossy(&read.stdout);
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        assert_eq!(text.matches("ICMP echo request, id").count(), 6, "{text}");
    }
    file
}

/// A switch without peers whose API is where [`Capture::start`] looks for it.
fn alone(lab: &Lab) -> Site {
    let mut node = switch(lab, &lab.host("a").unwrap());
    node.args(&["--api", node.state().join("api.sock").to_str().unwrap()]);
    node.address(&format!("{}/24", inner(0)));
    let mut site = Site::start(node);
    let socket = site.node.state().join("api.sock");
    let log = &mut site.switch.process;
    assert!(wait_until(SOON, || socket.exists() || !log.is_running()), "{}", log.stderr());
    site
}

#[test]
fn a_capture_ends_by_itself_and_only_so_many_go_on_at_once() {
    let lab = lab("captures");
    let site = alone(&lab);
    let socket = site.node.state().join("api.sock");
    let run = |args: &[&str]| {
        let line = [&["capture", TAP, "--socket", socket.to_str().unwrap()], args].concat();
        let mut process = site.host().spawn(switch_binary(), line).unwrap();
        (process.wait(SOON).unwrap().status.code(), process.stderr())
    };
    let mut eight: Vec<Capture> =
        (0..8).map(|_| Capture::start(&site, &["-c", "1", "--filter", "ether 0x88b5"])).collect();
    let (code, said) = run(&[]);
    assert_eq!((code, said.contains("8 captures are under way")), (Some(1), true), "{said}");
    let port = Port::at(site.host(), TAP).unwrap();
    let frame = [[0xff; 6], [2, 0, 0, 0, 0, 9], [0x88, 0xb5, 7, 7, 7, 7]].concat();
    rustix::net::send(&port, &frame, SendFlags::empty()).unwrap();
    for capture in &mut eight {
        assert_eq!(capture.wait(), "1 frames captured, 0 copies left out\n");
    }
    let (code, said) = run(&["--snap", "13"]);
    assert_eq!((code, said.contains("14 at least")), (Some(2), true), "{said}");
    let (code, said) = run(&["--filter", "icmp and hots a"]);
    assert_eq!((code, said.contains("column 10: expected")), (Some(2), true), "{said}");
    let mut ninth = Capture::start(&site, &[]);
    ninth.process.signal(Signal::INT).unwrap();
    ninth.wait();
}

#[test]
fn a_full_disk_ends_a_capture_with_what_is_whole() {
    let lab = lab("full");
    let site = alone(&lab);
    let state = site.node.state();
    let (disk, kept) = (state.join("disk"), state.join("kept"));
    // The disk is this process's own.
    let script = format!(
        "mkdir {disk} && mount -t tmpfs -o size=64k none {disk} && \
         {program} capture all -w {disk}/it --socket {socket}; code=$?; cp {disk}/it {kept}; exit $code",
        disk = disk.display(),
        program = switch_binary().display(),
        socket = state.join("api.sock").display(),
        kept = kept.display(),
    );
    let mut capture = site.host().spawn("sh", ["-c", &script]).unwrap();
    let port = Port::at(site.host(), TAP).unwrap();
    let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[7; 1_400]].concat();
    let is_over = || {
        rustix::net::send(&port, &frame, SendFlags::empty()).unwrap();
        !capture.is_running()
    };
    assert!(wait_until(SOON, is_over), "the disk is full");
    let said = capture.stderr();
    assert_eq!(capture.wait(SOON).unwrap().status.code(), Some(1), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    let file = fs::read(&kept).unwrap();
    assert!(blocks(&file).len() > 10, "{} bytes", file.len());
}

#[test]
fn a_capture_shows_what_passes_both_ends_and_what_is_dropped() {
    let lab = lab("capture");
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
    let [mut a, mut b] = [switch(&lab, &a), switch(&lab, &b)];
    a.dial(b.node_id(), link.b.ipv4);
    b.admit(a.node_id());
    for (number, node) in [&mut a, &mut b].into_iter().enumerate() {
        let socket = node.state().join("api.sock");
        node.args(&["--api", socket.to_str().unwrap(), "--name", &format!("site-{number}")]);
        node.address(&format!("{}/24", inner(number)));
    }
    let (b, a) = (Site::start(b), Site::start(a));
    a.switch.wait_for_answer(inner(1).into()).unwrap();

    let near =
        Capture::start(&a, &["--filter", "icmp and host 192.168.0.0/24 or not ip and not ip6"]);
    let far = Capture::start(&b, &["--filter", "icmp and host 192.168.0.0/24"]);
    expect_pings(a.host(), &Ping::to(inner(1)).count(3));
    // From a group address.
    let from_group = [[0xff; 6], [3, 0, 0, 0, 0, 9], [0x88, 0xb5, 7, 7, 7, 7]].concat();
    let port = Port::at(a.host(), TAP).unwrap();
    rustix::net::send(&port, &from_group, SendFlags::empty()).unwrap();

    let is_told = || has(&fs::read(&near.file).unwrap(), b"bad_source");
    assert!(wait_until(SOON, is_told), "the drop is in the file");
    let (near, far) = (end(near, 13), end(far, 12));
    let (near, far) = (blocks(&near), blocks(&far));
    let addresses = |from: usize, to: usize| [inner(from).octets(), inner(to).octets()].concat();
    let (there, back) = (addresses(0, 1), addresses(1, 0));
    for (blocks, comment, bytes, expected) in [
        (&near, "came in", &there, 3),
        (&near, "forwarded from ipop0 to site-1", &there, 3),
        (&near, "forwarded from site-1 to ipop0", &back, 3),
        (&near, "came in", &from_group, 1),
        (&near, "forwarded", &from_group, 0),
        (&far, "forwarded from site-0 to ipop0", &there, 3),
        (&far, "forwarded from ipop0 to site-0", &back, 3),
        (&far, "dropped", &there, 0),
    ] {
        assert_eq!(count(blocks, comment, bytes), expected, "{comment}");
    }
}
