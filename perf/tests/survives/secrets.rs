//! The network's secret, and what the operator decides while the switch runs.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::PathBuf,
    process::Command,
};

use ipop_datapath::node_id::NodeId;
use ipop_perf::{
    lab::{Lab, LinkOptions, Signal, wait_until},
    tunnel::{Node, Program, Running},
};

use crate::support::{
    NET_ADMIN, NOBODY, PEER_UP, Pair, SOON, answers, as_nobody, count_lines, counters, inner, lab,
    node, peer_of, peer_state, switch_binary, wait_for_counters, wait_for_log,
};

const OLD: &str = "old-mfrggzdfmztwq2lknnwg23tpobyx";
const NEW: &str = "new-mfrggzdfmztwq2lknnwg23tpobyx";

/// Writes a node's secret file; replaced as a whole, as an operator's tools do.
fn write_secrets(lab: &Lab, name: &str, secrets: &[&str]) -> PathBuf {
    let path = lab.dir().join(format!("{name}.secret"));
    let new = path.with_extension("new");
    fs::write(&new, secrets.join("\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, &path).unwrap();
    path
}

fn use_secrets(lab: &Lab, node: &mut Node, name: &str, secrets: &[&str]) {
    let path = write_secrets(lab, name, secrets);
    node.args(&["--network-secret-file", path.to_str().unwrap()]);
}

fn reload(running: &mut Running, times: usize) {
    running.process.signal(Signal::HUP).unwrap();
    let told = wait_until(SOON, || count_lines(running, "SIGHUP: 0 peers new") >= times);
    assert!(told, "{}", running.process.stderr());
}

fn connection(report: &serde_json::Value, peer: NodeId) -> u64 {
    peer_of(report, peer)["lanes"][0]["connection"].as_u64().unwrap_or_default()
}

#[test]
fn a_secret_is_exchanged_for_another_without_losing_the_tunnel() {
    let mut pair = Pair::new("rotate");
    use_secrets(&pair.lab, &mut pair.a, "a", &[OLD]);
    use_secrets(&pair.lab, &mut pair.b, "b", &[OLD]);
    let mut both = pair.start();
    let nodes = [pair.a.node_id(), pair.b.node_id()];
    let before = connection(&counters(&mut both[0]), nodes[1]);
    for (step, secrets) in [[NEW, OLD].as_slice(), &[NEW]].into_iter().enumerate() {
        for (name, running) in ["a", "b"].into_iter().zip(&mut both) {
            write_secrets(&pair.lab, name, secrets);
            reload(running, step + 1);
        }
    }
    let [a, b] = &mut both;
    wait_for_counters(a, SOON, |report| connection(report, nodes[1]) != before);
    assert!(answers(pair.a.host(), inner(2)));
    for (running, peer) in [(a, nodes[1]), (b, nodes[0])] {
        assert_eq!(peer_state(&counters(running), peer), "up");
        assert_eq!(count_lines(running, ") down"), 0, "{}", running.process.stderr());
    }
}

#[test]
fn different_secrets_are_explained_at_both_ends_and_cured_without_a_restart() {
    let mut pair = Pair::new("secrets");
    use_secrets(&pair.lab, &mut pair.a, "a", &[OLD]);
    use_secrets(&pair.lab, &mut pair.b, "b", &[NEW]);
    let mut b = pair.b.start().unwrap();
    let mut a = pair.a.start().unwrap();
    for running in [&mut a, &mut b] {
        let said = wait_for_log(running, "different network secrets", SOON);
        assert!(said.contains("--network-secret-file"), "{said}");
    }
    assert!(!answers(pair.a.host(), inner(2)));
    assert_eq!(count_lines(&a, PEER_UP) + count_lines(&b, PEER_UP), 0);
    write_secrets(&pair.lab, "a", &[NEW]);
    reload(&mut a, 1);
    pair.wait_until_up(&mut [a, b]);
}

#[test]
fn a_node_without_the_secret_is_told_so() {
    let mut pair = Pair::new("nosecret");
    use_secrets(&pair.lab, &mut pair.b, "b", &[NEW]);
    let mut b = pair.b.start().unwrap();
    let mut a = pair.a.start().unwrap();
    for running in [&mut a, &mut b] {
        wait_for_log(running, "only one of the two nodes has a network secret", SOON);
    }
    assert!(!answers(pair.a.host(), inner(2)));
    assert_eq!(count_lines(&a, PEER_UP) + count_lines(&b, PEER_UP), 0);
}

fn trust(node: &Node, words: &[&str]) {
    let state = node.state().to_str().unwrap();
    let mut command = Command::new(Program::Switch.find().unwrap());
    let output = command.arg("trust").args(words).args(["--state", state]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_node_that_is_denied_goes_at_once_and_may_come_back() {
    let pair = Pair::new("denied");
    let [mut a, mut b] = pair.start();
    let (node_a, node_b) = (pair.a.node_id(), pair.b.node_id());
    trust(&pair.b, &["deny", &node_a.to_string()]);
    wait_for_log(&mut b, "closed the tunnels of peer", SOON);
    wait_for_counters(&mut a, SOON, |report| peer_state(report, node_b) != "up");
    assert!(!answers(pair.a.host(), inner(2)));
    trust(&pair.b, &["forget", &node_a.to_string()]);
    wait_for_counters(&mut a, SOON * 2, |report| peer_state(report, node_b) == "up");
    a.wait_for_answer(inner(2).into()).unwrap();
}

#[test]
fn what_root_decides_is_in_force_for_a_switch_of_another_user() {
    let lab = lab("rootdeny");
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
    let mut near = node(&lab, &a, 1);
    let mut far = as_nobody(&lab, &b, 2, NET_ADMIN);
    far.admit(near.node_id());
    near.dial(far.node_id(), link.b.ipv4);
    let mut service = far.start().unwrap();
    let mut running = near.start().unwrap();
    running.wait_for_answer(inner(2).into()).unwrap();
    trust(&far, &["deny", &near.node_id().to_string()]);
    wait_for_log(&mut service, "closed the tunnels of peer", SOON);
    for name in ["trust.toml", "trust.lock"] {
        assert_eq!(fs::metadata(far.state().join(name)).unwrap().uid(), NOBODY, "{name}");
    }
    assert_eq!(service.process.terminate().unwrap().status.code(), Some(0));
    let mut service = far.start().unwrap();
    wait_for_log(&mut service, "listens on", SOON);
    trust(&far, &["forget", &near.node_id().to_string()]);
    let peer = far.node_id();
    wait_for_counters(&mut running, SOON * 2, |report| peer_state(report, peer) == "up");
}

#[test]
fn a_key_that_root_makes_belongs_to_the_owner_of_the_directory_or_is_not_made() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    fs::create_dir(&state).unwrap();
    let identity = |state: &str| {
        let mut command = Command::new(switch_binary());
        command.args(["identity", "--state", state]);
        command
    };
    let path = state.display().to_string();
    chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
    assert!(identity(&path).status().unwrap().success());
    assert_eq!(fs::metadata(state.join("identity.pem")).unwrap().uid(), NOBODY);

    // Somebody who may write the directory but cannot hand its files over.
    fs::remove_file(state.join("identity.pem")).unwrap();
    chown(&state, Some(NOBODY - 1), Some(NOBODY)).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o770)).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = home.path().join("ipop-switch");
    fs::copy(switch_binary(), &copy).unwrap();
    for words in [&["identity"][..], &["trust", "deny", &"a".repeat(52)]] {
        let user = NOBODY.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(&copy);
        let output = command.args(words).args(["--state", &path]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("belongs to user 65533") && said.contains(&path), "{said}");
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "nothing is left there");
    }
}

/// A configuration file, since flags cannot change while the program runs.
fn configure(lab: &Lab, peers: &[String]) -> PathBuf {
    let path = lab.dir().join("peers.toml");
    fs::write(&path, format!("peer = {peers:?}\n")).unwrap();
    path
}

#[test]
fn peers_come_and_go_with_the_configuration() {
    let lab = lab("reload");
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name).unwrap());
    let to_b = lab.link(&a, &b, LinkOptions::new()).unwrap();
    let to_c = lab.link(&a, &c, LinkOptions::new()).unwrap();
    let mut far_b = node(&lab, &b, 2);
    let mut far_c = node(&lab, &c, 3);
    let mut near = node(&lab, &a, 1);
    let address = |node: &Node, ip: std::net::Ipv4Addr| format!("{}@{ip}:5800", node.node_id());
    let peers = [address(&far_b, to_b.b.ipv4), address(&far_c, to_c.b.ipv4)];
    let path = configure(&lab, &peers[..1]);
    near.args(&["--config", path.to_str().unwrap()]);
    far_b.admit(near.node_id());
    far_c.admit(near.node_id());
    let _far = [far_b.start().unwrap(), far_c.start().unwrap()];
    let mut running = near.start().unwrap();
    running.wait_for_answer(inner(2).into()).unwrap();
    let before = connection(&counters(&mut running), far_b.node_id());
    configure(&lab, &peers);
    running.process.signal(Signal::HUP).unwrap();
    running.wait_for_answer(inner(3).into()).unwrap();
    assert_eq!(connection(&counters(&mut running), far_b.node_id()), before, "it stays");
    configure(&lab, &peers[1..]);
    running.process.signal(Signal::HUP).unwrap();
    wait_for_log(&mut running, "closed the tunnels of peer", SOON);
    let report = counters(&mut running);
    assert_eq!(report["peers"].as_array().unwrap().len(), 1);
    assert_eq!(peer_state(&report, far_c.node_id()), "up");
    assert!(!answers(&a, inner(2)));
    assert!(answers(&a, inner(3)));
    // What is wrong changes nothing.
    fs::write(&path, "peer = 5\n").unwrap();
    running.process.signal(Signal::HUP).unwrap();
    wait_for_log(&mut running, "stays in force", SOON);
    assert!(answers(&a, inner(3)));
}
