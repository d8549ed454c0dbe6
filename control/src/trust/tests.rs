//! The policies as workers see them, and the files.

use std::fs;

use ipop_datapath::{command::Direction, port::MAX_LOCAL_PORTS};
use proptest::prelude::*;

use super::{file::Patience, *};
use crate::{host::private_file::PrivateFileError, peer::PeerAddress};

const LOCAL: NodeId = NodeId([1; 32]);
const PEER: NodeId = NodeId([2; 32]);
const OTHER: NodeId = NodeId([3; 32]);

fn secrets(texts: &[&str]) -> Policy {
    Policy::Secret(texts.join("\n").parse().unwrap())
}

fn with_local_ports(count: usize, policy: Policy) -> Trust {
    let trust = Trust::new(LOCAL, policy, TrustStore::default());
    assert!((0..count).all(|_| trust.open_local_port().is_some()));
    trust
}

fn trust(policy: Policy) -> Trust {
    with_local_ports(1, policy)
}

fn refused(trust: &Trust, node: NodeId) -> String {
    match trust.verdict(node) {
        Verdict::Refused(why) => why,
        Verdict::Admitted(port) => panic!("{node} is admitted through port {port}"),
    }
}

const CONFIGURED: Naming = Naming::Configured(None);
const SAVED: Naming = Naming::Saved { claim: None, addresses: Vec::new() };

/// Whose tunnels were to be closed since the last call.
fn lost(trust: &Trust) -> Vec<(NodeId, Loss)> {
    let changes = std::iter::from_fn(|| trust.poll_change());
    changes.filter_map(|change| Some((change.node, change.lost?))).collect()
}

fn claim(name: &str) -> Claim {
    Claim { account: "a@x".into(), name: name.into() }
}

fn in_room(name: &str) -> Naming {
    Naming::Room(claim(name))
}

#[test]
fn without_a_network_only_configured_peers_are_admitted() {
    let trust = trust(Policy::ConfiguredAlone);
    assert_eq!(trust.name(PEER, CONFIGURED), Standing::Admitted(PortId(1)));
    assert_eq!(trust.verdict(PEER), Verdict::Admitted(PortId(1)));
    assert!(refused(&trust, OTHER).contains(&format!("--peer {OTHER}")));
    let standing = trust.name(OTHER, in_room("rack7"));
    assert_eq!(standing, Standing::Refused(Refusal::Unnamed(OTHER)));
    let itself = trust.name(LOCAL, CONFIGURED);
    assert_eq!(itself, Standing::Refused(Refusal::Itself));
}

#[test]
fn a_configured_peer_is_handed_on_with_the_port_that_workers_admit_it_by() {
    let trust = with_local_ports(16, Policy::ConfiguredAlone);
    for (node, port) in [(PEER, PortId(16)), (OTHER, PortId(17))] {
        let address = Some("10.0.0.9:5800".parse().unwrap());
        trust.name(node, Naming::Configured(address.clone()));
        let named = trust.poll_change().and_then(|change| change.named);
        assert_eq!(named, Some(NamedPeer { node, port, address, last_addresses: Vec::new() }));
        assert_eq!(trust.verdict(node), Verdict::Admitted(port));
    }
    assert_eq!(trust.name(LOCAL, CONFIGURED), Standing::Refused(Refusal::Itself));
    assert_eq!(trust.poll_change(), None);
}

#[test]
fn a_node_keeps_its_port_whatever_names_it_and_loses_its_right_with_the_last() {
    let trust = trust(secrets(&["mfrggzdfmztwq2lknnwg23tpobyxe43u"]));
    assert_eq!(trust.name(PEER, in_room("rack7")), Standing::Admitted(PortId(1)));
    assert_eq!(trust.name(OTHER, in_room("rack8")), Standing::Admitted(PortId(2)));
    assert_eq!(trust.name(PEER, SAVED), Standing::Admitted(PortId(1)));
    trust.unname(PEER, NamedBy::Room);
    assert_eq!(trust.verdict(PEER), Verdict::Admitted(PortId(1)));
    trust.unname(PEER, NamedBy::Saved);
    refused(&trust, PEER);
}

/// Whoever makes nodes up cannot use up what configured peers and those known from before need.
#[test]
fn local_ports_have_numbers_of_their_own_and_only_so_many() {
    let trust = trust(Policy::ConfiguredAlone);
    let peer = trust.name(PEER, CONFIGURED);
    let opened: Vec<_> = std::iter::from_fn(|| trust.open_local_port()).collect();
    assert_eq!(opened.len(), MAX_LOCAL_PORTS - 1, "one was there from the start");
    assert!(opened.iter().all(|port| Standing::Admitted(*port) != peer));
    trust.release_local_port(opened[0]);
    assert!(trust.open_local_port().is_some());
    assert_eq!(trust.open_local_port(), None);
}

#[test]
fn made_up_nodes_leave_ports_for_others_and_give_theirs_back() {
    let trust = trust(secrets(&["mfrggzdfmztwq2lknnwg23tpobyxe43u"]));
    let node = |number: u32| NodeId::of_spki(&number.to_be_bytes());
    let admitted =
        |number: u32, naming| matches!(trust.name(node(number), naming), Standing::Admitted(_));
    let taken = (0..2_000).filter(|number| admitted(*number, in_room("a"))).count();
    assert_eq!(taken, MAX_UNPROVED);
    assert_eq!(trust.standing(node(1_999)), Standing::Refused(Refusal::NoPort));
    assert!(admitted(5_000, CONFIGURED) && admitted(5_001, SAVED));
    // What is not named any more keeps its port until the sessions have forgotten it.
    let before = trust.standing(node(3));
    trust.unname(node(3), NamedBy::Room);
    assert!(!admitted(1_998, in_room("a")));
    assert_eq!(trust.name(node(3), in_room("a")), before);
    trust.forgotten(node(3));
    assert_eq!(trust.standing(node(3)), before, "it was named again meanwhile");
    trust.unname(node(3), NamedBy::Room);
    trust.forgotten(node(3));
    assert!(admitted(1_998, in_room("a")));
}

#[test]
fn a_right_that_is_taken_back_closes_tunnels_if_no_other_source_gives_it() {
    let trust = trust(secrets(&["mfrggzdfmztwq2lknnwg23tpobyxe43u"]));
    let address: PeerAddress = "10.0.0.9:5800".parse().unwrap();
    trust.name(PEER, Naming::Configured(Some(address.clone())));
    trust.name(PEER, in_room("rack7"));
    let last_addresses = vec!["192.0.2.7:9".parse().unwrap()];
    trust.name(PEER, Naming::Saved { claim: None, addresses: last_addresses.clone() });
    let now = || std::iter::from_fn(|| trust.poll_change()).last().unwrap();
    let named = |address, last_addresses| {
        Some(NamedPeer { node: PEER, port: PortId(1), address, last_addresses })
    };
    assert_eq!(now().named, named(Some(address), last_addresses.clone()));
    // What a source said of addresses goes with it.
    trust.withdraw(PEER, NamedBy::Configured, Loss::NotConfigured);
    assert_eq!(now(), NodeChange { node: PEER, lost: None, named: named(None, last_addresses) });
    trust.unname(PEER, NamedBy::Saved);
    assert_eq!(now(), NodeChange { node: PEER, lost: None, named: named(None, vec![]) });
    trust.withdraw(PEER, NamedBy::Room, Loss::Removed);
    assert_eq!(now(), NodeChange { node: PEER, lost: Some(Loss::Removed), named: None });
    assert_eq!(trust.sources(PEER), []);
}

#[test]
fn somebody_may_come_from_anywhere_while_more_than_the_room_names_who_may_connect() {
    let trust = trust(secrets(&["mfrggzdfmztwq2lknnwg23tpobyxe43u"]));
    trust.name(PEER, in_room("rack7"));
    assert!(!trust.knows_anybody());
    trust.name(PEER, SAVED);
    assert!(trust.knows_anybody());
    let mut store = TrustStore::default();
    store.deny(&PEER.to_string(), 5).unwrap();
    trust.decide(store.clone());
    assert!(!trust.knows_anybody());
    trust.name(OTHER, CONFIGURED);
    assert!(trust.knows_anybody());
    trust.unname(OTHER, NamedBy::Configured);
    assert!(!trust.knows_anybody());
}

fn proved(from: &Trust, to: &Trust) -> Result<Proved, Unproved> {
    // `from` is the node PEER, which dialled.
    let binding = ProofBinding::new(LOCAL, PEER, Direction::Accepted, [7; 32]);
    to.name(PEER, CONFIGURED);
    to.verify(PEER, &binding, &from.proofs(PEER, &binding))
}

#[test]
fn secrets_are_proved_and_may_be_exchanged_for_others() {
    const OLD: &str = "old-mfrggzdfmztwq2lknnwg23tpobyx";
    const NEW: &str = "new-mfrggzdfmztwq2lknnwg23tpobyx";
    let [old, both, new] = [&[OLD][..], &[NEW, OLD], &[NEW]].map(|texts| trust(secrets(texts)));
    let none = trust(Policy::ConfiguredAlone);
    assert!(matches!(proved(&old, &old), Ok(Proved::Secrets(ids)) if ids.len() == 1));
    assert!(matches!(proved(&old, &both), Ok(Proved::Secrets(ids)) if ids.len() == 1));
    assert!(matches!(proved(&both, &new), Ok(Proved::Secrets(ids)) if ids.len() == 1));
    assert!(matches!(proved(&both, &both), Ok(Proved::Secrets(ids)) if ids.len() == 2));
    assert_eq!(proved(&none, &none), Ok(Proved::KeyAlone));
    for (from, to, why) in [
        (&old, &new, "different"),
        (&new, &old, "different"),
        (&none, &old, "only one"),
        (&old, &none, "only one"),
    ] {
        let error = proved(from, to).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("--network-secret-file"), "{error}");
    }
}

#[test]
fn pinned_nodes_are_listed_or_accepted() {
    let trust = trust(Policy::Pinned([PEER].into()));
    assert!(matches!(trust.name(PEER, in_room("a")), Standing::Admitted(_)));
    let not_pinned = Standing::Refused(Refusal::NotPinned(OTHER));
    assert_eq!(trust.name(OTHER, in_room("b")), not_pinned);
    assert!(refused(&trust, OTHER).contains(&format!("trust accept {OTHER}")));
    let mut store = TrustStore::default();
    store.accept(&OTHER.to_string(), 5).unwrap();
    lost(&trust);
    assert_eq!(trust.decide(store.clone()), [OTHER]);
    assert_eq!(lost(&trust), []);
    assert!(matches!(trust.verdict(OTHER), Verdict::Admitted(_)));
    store.deny(&PEER.to_string(), 6).unwrap();
    assert_eq!(trust.decide(store), []);
    assert_eq!(lost(&trust), [(PEER, Loss::Refused(Refusal::Denied(PEER)))]);
    assert!(refused(&trust, PEER).contains("denied"));
}

#[test]
fn at_first_sight_a_node_waits_and_a_changed_key_is_refused() {
    let trust = trust(Policy::FirstSight(NewNodes::Wait));
    assert_eq!(trust.name(PEER, in_room("rack7")), Standing::Pending);
    assert!(refused(&trust, PEER).contains(&format!("trust accept {PEER}")));
    let mut store = TrustStore::default();
    store.observe(PEER, &claim("rack7"), NewNodes::Wait, 5);
    store.accept("rack7", 6).unwrap();
    trust.decide(store);
    assert!(matches!(trust.verdict(PEER), Verdict::Admitted(_)));
    let changed = Refusal::KeyChanged { node: OTHER, known: PEER };
    let standing = trust.name(OTHER, in_room("rack7"));
    assert_eq!(standing, Standing::Refused(changed));
    assert!(refused(&trust, OTHER).contains(&format!("trust forget {PEER}")));
}

#[test]
fn denied_nodes_stay_out_of_every_policy() {
    let mut store = TrustStore::default();
    store.deny(&PEER.to_string(), 5).unwrap();
    for policy in [
        Policy::ConfiguredAlone,
        secrets(&["mfrggzdfmztwq2lknnwg23tpobyxe43u"]),
        Policy::Pinned([PEER].into()),
        Policy::FirstSight(NewNodes::Accept),
    ] {
        let trust = trust(policy);
        trust.name(PEER, CONFIGURED);
        trust.decide(store.clone());
        assert_eq!(lost(&trust), [(PEER, Loss::Refused(Refusal::Denied(PEER)))]);
        assert!(refused(&trust, PEER).contains("denied"));
        trust.decide(store.clone());
        assert_eq!(lost(&trust), [], "it has nothing left to lose");
    }
}

#[test]
fn a_state_file_is_made_changed_and_its_change_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = StateFile::<TrustStore>::in_directory(&dir.path().join("state"));
    assert_eq!(file.load().unwrap(), TrustStore::default());
    assert_eq!(file.stamp(), None);
    let accept = |store: &mut TrustStore| {
        Ok::<_, PrivateFileError>(store.accept(&PEER.to_string(), 5).unwrap())
    };
    assert_eq!(file.update(Patience::Wait, accept).unwrap(), PEER);
    let stamp = file.stamp();
    assert!(file.load().unwrap().is_accepted(PEER) && stamp.is_some());
    file.update(Patience::GiveUp, accept).unwrap();
    assert_eq!(file.stamp(), stamp, "nothing changed, nothing is written");
    let busy = file.update(Patience::GiveUp, |_| file.update(Patience::GiveUp, accept));
    let Err(PrivateFileError::NotWritten { cause, .. }) = busy else { panic!("{busy:?}") };
    assert_eq!(cause.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_file_is_held_for_as_long_as_the_holder_lives() {
    let dir = tempfile::tempdir().unwrap();
    let file = StateFile::<PresentPeers>::in_directory(dir.path());
    assert!(!file.is_held());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "who asks leaves nothing behind");
    let held = file.hold().unwrap();
    assert!(file.is_held() && file.hold().is_err());
    drop(held);
    assert!(!file.is_held());
}

#[test]
fn a_corrupted_state_file_is_named_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let file = StateFile::<TrustStore>::in_directory(dir.path());
    let mut store = TrustStore::default();
    store.deny(&PEER.to_string(), 5).unwrap();
    file.store(&store).unwrap();
    let sound = fs::read_to_string(file.path()).unwrap();
    for bad in [
        "",
        "version = 2\n",
        "version = 1\n[[accepted]]\nnode = \"abc\"\nsince_unix_s = 1\n",
        &sound[..sound.len() / 2],
        &sound.replace("since_unix_s", "since"),
        "\u{0}\u{1}",
    ] {
        fs::write(file.path(), bad).unwrap();
        let error = file.load().unwrap_err().to_string();
        assert!(error.contains("trust.toml") && error.contains("backup"), "{bad:?}: {error}");
    }
    fs::write(file.path(), [0xff, 0xfe]).unwrap();
    assert!(file.load().unwrap_err().to_string().contains("UTF-8"));
}

#[derive(Clone, Debug)]
enum Step {
    Observe(u8, u8, u8, NewNodes),
    Accept(u8),
    AcceptName(u8),
    Deny(u8),
    Forget(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let new = prop::sample::select(vec![NewNodes::Wait, NewNodes::Accept]);
    prop_oneof![
        (0..6u8, 0..2u8, 0..3u8, new).prop_map(|(n, a, c, new)| Step::Observe(n, a, c, new)),
        (0..6u8).prop_map(Step::Accept),
        (0..3u8).prop_map(Step::AcceptName),
        (0..6u8).prop_map(Step::Deny),
        (0..6u8).prop_map(Step::Forget),
    ]
}

proptest! {
    /// Whatever happens: a node is on one list at most, a name in an account belongs to one accepted key, nobody is accepted without
    /// being seen or told, and the file round-trips.
    #[test]
    fn the_trust_store_keeps_its_rules(steps in prop::collection::vec(step(), 0..60)) {
        let node = |number: u8| NodeId([number; 32]);
        let mut store = TrustStore::default();
        for step in steps {
            let denied: Vec<NodeId> = store.denied().iter().map(|entry| entry.node).collect();
            match step {
                Step::Observe(n, account, name, new) => {
                    let claim = Claim { account: format!("{account}@x"), name: format!("n{name}") };
                    store.observe(node(n), &claim, new, 1);
                    prop_assert!(denied.iter().all(|node| store.is_denied(*node)));
                }
                Step::Accept(n) => drop(store.accept(&node(n).to_string(), 2)),
                Step::AcceptName(n) => drop(store.accept(&format!("n{n}"), 2)),
                Step::Deny(n) => drop(store.deny(&node(n).to_string(), 3)),
                Step::Forget(n) => drop(store.forget(&node(n).to_string())),
            }
            let mut nodes: Vec<NodeId> = store.accepted().iter().map(|entry| entry.node)
                .chain(store.pending().iter().map(|entry| entry.node))
                .chain(store.denied().iter().map(|entry| entry.node))
                .collect();
            let mut claims: Vec<String> =
                store.accepted().iter().filter_map(|entry| Some(format!("{:?}", entry.claim.as_ref()?))).collect();
            let (node_count, claim_count) = (nodes.len(), claims.len());
            nodes.sort();
            nodes.dedup();
            claims.sort();
            claims.dedup();
            prop_assert_eq!(nodes.len(), node_count, "{:?}", &store);
            prop_assert_eq!(claims.len(), claim_count, "{:?}", &store);
        }
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::<TrustStore>::in_directory(dir.path());
        file.store(&store).unwrap();
        prop_assert_eq!(file.load().unwrap(), store);
    }
}
