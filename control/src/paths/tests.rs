//! What a link tells, and what it keeps of what it is told.

use super::*;
use crate::testing;

const LOCAL: NodeId = NodeId([1; 32]);
const PEER: NodeId = NodeId([2; 32]);

fn started() -> (Paths, Instant) {
    let now = Instant::now();
    let mut paths = Paths::new(LOCAL, testing::ice(1), now);
    paths.set_local_addresses(now, &["192.0.2.1".parse().unwrap()]);
    paths.start(now, PEER, PortId(1));
    (paths, now)
}

fn told(paths: &mut Paths) -> Vec<FromLink> {
    std::iter::from_fn(|| paths.poll_event()).map(|(_, what)| what).collect()
}

fn candidates(count: u16) -> Vec<Candidate> {
    let address = |udp_port| ([192, 0, 2, 2], 1 + udp_port).into();
    (0..count).map(|n| Candidate::local(CandidateKind::Host, address(n), None, 1)).collect()
}

#[test]
fn a_description_is_told_to_who_asks_and_another_one_to_who_asks_again() {
    let (mut paths, now) = started();
    assert_eq!(told(&mut paths), []);
    let mut ask = || {
        paths.handle(now, PEER, ToLink::Describe);
        match &told(&mut paths)[..] {
            [
                FromLink::Description(description),
                FromLink::Candidates { generation, candidates },
                FromLink::Gathered { .. },
            ] => {
                assert_eq!((*generation, candidates.len()), (description.generation, 1));
                description.clone()
            }
            other => panic!("{other:?}"),
        }
    };
    let (first, second) = (ask(), ask());
    assert!(second.generation > first.generation && second.ufrag != first.ufrag);
}

#[test]
fn of_candidates_that_overtake_their_description_those_of_the_latest_are_kept_and_24_of_them() {
    let (mut paths, now) = started();
    let mut kept_after = |generation, count| {
        let candidates = candidates(count);
        paths.handle(now, PEER, ToLink::RemoteCandidates { generation, candidates });
        let early = paths.links.get(&PEER).unwrap().early.as_ref().unwrap();
        (early.0, early.1.len())
    };
    assert_eq!(kept_after(3, 5), (3, 5));
    assert_eq!(kept_after(7, 10), (7, 10));
    assert_eq!(kept_after(5, 10), (7, 10));
    assert_eq!(kept_after(7, 10), (7, 20));
    assert_eq!(kept_after(7, 10), (7, MAX_CANDIDATES));
}
