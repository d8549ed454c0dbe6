//! What the switch does not start with: the exit code, and a message that tells the operator what to do.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use ipop_perf::lab::{Host, LinkOptions, wait_until};

use crate::{
    seccomp,
    support::{
        NET_ADMIN, SOON, answers, as_nobody, ending, inner, lab, node, refusal, switch_binary,
    },
};

#[test]
fn a_port_or_a_tap_that_is_taken_ends_with_4() {
    let lab = lab("taken");
    let host = lab.host("a").unwrap();
    for workers in ["1", "2"] {
        let mut first = node(&lab, &host, 1);
        let running = first.args(&["--workers", workers]).start().unwrap();
        let (code, said) = refusal(node(&lab, &host, 2).tap("ipop1").args(&["--workers", workers]));
        assert_eq!(code, 4, "{said}");
        assert!(said.contains("0.0.0.0:5800") && said.contains("--listen"), "{said}");
        assert!(!host.has_interface("ipop1"), "no device is touched");
        let elsewhere = "0.0.0.0:5801".parse().unwrap();
        let (code, said) =
            refusal(node(&lab, &host, 2).listen(elsewhere).args(&["--workers", workers]));
        assert_eq!(code, 4, "{said}");
        assert!(said.contains("ipop0") && said.contains("another program uses it"), "{said}");
        drop(running);
    }
}

#[test]
fn an_interface_that_is_no_tap_is_refused() {
    let lab = lab("notap");
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
    let (code, said) = refusal(node(&lab, &a, 1).tap(&link.a.name));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&link.a.name) && said.contains("not a TAP"), "{said}");
    let (code, said) = refusal(node(&lab, &a, 1).bridge("br7"));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("br7"), "{said}");
    assert!(!a.has_interface("ipop0"), "what was begun is undone");
}

#[test]
fn net_admin_is_needed_and_enough() {
    let lab = lab("rights");
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
    let (code, said) = refusal(&as_nobody(&lab, &a, 1, ""));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("CAP_NET_ADMIN"), "{said}");

    let mut near = as_nobody(&lab, &a, 1, NET_ADMIN);
    let mut far = node(&lab, &b, 2);
    far.admit(near.node_id());
    near.dial(far.node_id(), link.b.ipv4);
    let _far = far.start().unwrap();
    let running = near.start().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", running.process.pid())).unwrap();
    assert!(status.contains("Uid:\t65534"), "{status}");
    running.wait_for_answer(inner(2).into()).unwrap();
    assert!(answers(&b, inner(1)));
}

#[test]
fn a_host_without_io_uring_is_told_how_to_allow_it() {
    let lab = lab("nouring");
    let host = lab.host("a").unwrap();
    let node = node(&lab, &host, 1);
    let (code, said) = without_io_uring(&host, node.state(), &node.command_line());
    assert!(matches!(code, 1 | 3), "{code}: {said}");
    assert!(said.contains("io_uring is forbidden here"), "{said}");
    assert!(said.contains("kernel.io_uring_disabled"), "{said}");
    assert!(said.contains("container") && said.contains("seccomp"), "{said}");
    assert!(!host.has_interface("ipop0"), "what was begun is undone");
}

/// Runs the program where a seccomp filter refuses `io_uring_setup`, as container engines do.
fn without_io_uring(host: &Host, dir: &Path, args: &[String]) -> (i32, String) {
    let output = dir.join("output");
    let mut command = Command::new(switch_binary());
    let file = fs::File::create(&output).unwrap();
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    seccomp::refuse_io_uring(&mut command);
    let mut child = host.enter(|| command.spawn()).unwrap().unwrap();
    let ended = wait_until(SOON, || child.try_wait().is_ok_and(|status| status.is_some()));
    if !ended {
        child.kill().unwrap();
    }
    let said = fs::read_to_string(&output).unwrap();
    assert!(ended, "it runs without io_uring?\n{said}");
    (child.wait().unwrap().code().unwrap(), said)
}

#[test]
fn a_configuration_file_is_obeyed_or_refused_by_name() {
    let lab = lab("config");
    let host = lab.host("a").unwrap();
    let node = node(&lab, &host, 1);
    let file = lab.dir().join("config.toml");
    let state = node.state().display();
    let with = |text: &str| {
        fs::write(&file, format!("state = \"{state}\"\n{text}")).unwrap();
        let args = ["--config".as_ref(), file.as_os_str()];
        host.spawn(switch_binary(), args).unwrap()
    };
    let (code, said) = ending(with("tap = \"ipop0\"\nbrigde = \"br0\"\n"));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("brigde") && said.contains("config.toml"), "{said}");

    let (code, said) = ending(with("tap = \"ipop0\"\npeer = [\"abc@192.0.2.1:5800\"]\n"));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("peer") && said.contains("52 characters"), "{said}");

    let mut running = with(
        "tap = \"ipop7\"\nlisten = \"0.0.0.0:5900\"\nmtu = 1300\naddress = \"192.168.0.9/24\"\n",
    );
    running.wait_for_line("listens on 0.0.0.0:5900", SOON).unwrap();
    let shown = host.ip(&["address", "show", "dev", "ipop7"]).unwrap();
    assert!(shown.contains("mtu 1300") && shown.contains("192.168.0.9/24"), "{shown}");
    assert_eq!(running.terminate().unwrap().status.code(), Some(0));
}

#[test]
fn a_wrong_node_id_and_an_exposed_key_are_explained() {
    let lab = lab("wrongid");
    let host = lab.host("a").unwrap();
    let own = node(&lab, &host, 1);
    let (code, said) = refusal(node(&lab, &host, 2).args(&["--peer", "typo@192.0.2.1:5800"]));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("--peer") && said.contains("52 characters"), "{said}");

    let mut selfish = own;
    let id = selfish.node_id();
    let (code, said) = refusal(selfish.admit(id));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains(&id.to_string()) && said.contains("this node itself"), "{said}");

    let exposed = node(&lab, &host, 3);
    let key = exposed.state().join("identity.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = refusal(&exposed);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains(&format!("chmod 600 {}", key.display())), "{said}");
}
