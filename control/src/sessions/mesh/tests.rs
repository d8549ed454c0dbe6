use std::collections::BTreeSet;

use super::*;
use crate::{notice::Level, sessions::MAX_PEERS, testing};

const HOUR: Duration = Duration::from_secs(3_600);

/// Nodes that tell each other, over tunnels that take no time.
struct World {
    nodes: Vec<Mesh>,
    notices: Vec<Vec<Notice>>,
    tunnels: BTreeSet<(usize, usize)>,
    /// Those that know no lists.
    old: BTreeSet<usize>,
    /// Lists that were begun, by who told.
    told: Vec<usize>,
    now: Instant,
}

fn id(number: usize) -> NodeId {
    NodeId([number as u8 + 1; 32])
}

impl World {
    fn new(count: usize) -> Self {
        let now = Instant::now();
        Self {
            nodes: (0..count).map(|number| Mesh::new(id(number), now)).collect(),
            notices: vec![Vec::new(); count],
            tunnels: BTreeSet::new(),
            old: BTreeSet::new(),
            told: vec![0; count],
            now,
        }
    }

    fn connect(&mut self, one: usize, other: usize) {
        for (node, peer) in [(one, other), (other, one)] {
            self.tunnels.insert((node, peer));
            let connection = ConnectionId(peer as u64);
            let lists = if self.old.contains(&peer) { 0 } else { Capabilities::REACHED };
            let capabilities = Capabilities(Capabilities::SIGNALLING | lists);
            let hello = Hello { capabilities, ..testing::hello() };
            self.nodes[node].tunnel_changed(self.now, id(peer), Some((&hello, connection)));
        }
    }

    fn cut(&mut self, one: usize, other: usize) {
        for (node, peer) in [(one, other), (other, one)] {
            self.tunnels.remove(&(node, peer));
            self.nodes[node].tunnel_changed(self.now, id(peer), None);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.nodes.iter().filter_map(Mesh::poll_timeout).min()
            && at <= end
        {
            self.now = self.now.max(at);
            for node in 0..self.nodes.len() {
                let mut said = Vec::new();
                let now = self.now;
                self.nodes[node].handle_timeout(now, |step| said.push(step));
                for step in said {
                    self.carry_out(node, step);
                }
            }
        }
        self.now = end;
    }

    fn carry_out(&mut self, node: usize, step: Step) {
        match step {
            Step::Notice(notice) => self.notices[node].push(notice),
            Step::Tell(..) if self.old.contains(&node) => {}
            Step::Tell(ConnectionId(peer), message) => {
                self.told[node] += usize::from(message[1] & 1 != 0);
                let peer = peer as usize;
                assert!(self.tunnels.contains(&(node, peer)));
                self.nodes[peer].signalled(self.now, id(node), &message);
            }
        }
    }

    fn take_notices(&mut self) -> Vec<Vec<Notice>> {
        let count = self.nodes.len();
        std::mem::replace(&mut self.notices, vec![Vec::new(); count])
    }
}

fn nothing(nodes: usize) -> Vec<Vec<Notice>> {
    vec![Vec::new(); nodes]
}

fn beyond_missing(node: usize, via: usize) -> Notice {
    Notice::BeyondMissing { node: id(node).into(), via: id(via), name: "rack9".into() }
}

fn pair_missing(one: usize, other: usize) -> Notice {
    Notice::PairMissing { pair: [id(one), id(other)], names: ["rack9".into(), "rack9".into()] }
}

#[test]
fn a_missing_pair_is_told_once_by_each_that_knows_and_so_is_its_end() {
    let mut world = World::new(3);
    world.connect(0, 1);
    world.connect(0, 2);
    world.run(SETTLES_WITHIN - Duration::from_secs(1));
    assert_eq!(world.take_notices(), nothing(3), "too early");
    world.run(HOUR);
    let told = world.take_notices();
    assert_eq!(
        told,
        [vec![pair_missing(1, 2)], vec![beyond_missing(2, 0)], vec![beyond_missing(1, 0)]]
    );
    assert!(told.iter().flatten().all(|notice| notice.level() == Level::Warning));
    assert_eq!(world.nodes[0].report().missing_pairs, 1);

    world.connect(1, 2);
    world.run(HOUR);
    let connected = |node: usize| Notice::BeyondConnected { node: id(node).into() };
    let pair = Notice::PairConnected { pair: [id(1), id(2)] };
    assert_eq!(world.take_notices(), [vec![pair], vec![connected(2)], vec![connected(1)]]);
    assert_eq!(world.nodes[0].report().missing_pairs, 0);

    world.cut(1, 2);
    world.run(HOUR);
    assert_eq!(world.take_notices(), told, "it is missing again");
}

#[test]
fn nothing_is_told_of_a_mesh_that_comes_up_in_its_own_time_or_of_a_node_that_is_gone() {
    let mut world = World::new(4);
    for (one, other) in [(0, 1), (0, 2), (1, 2), (3, 0), (3, 1), (3, 2)] {
        world.connect(one, other);
        world.run(Duration::from_secs(8));
    }
    world.run(HOUR);
    for peer in 0..3 {
        world.cut(peer, 3);
        world.run(Duration::from_secs(4));
    }
    world.run(HOUR);
    assert_eq!(world.take_notices(), nothing(4));
}

#[test]
fn a_pair_whose_end_comes_and_goes_is_not_told_again() {
    let mut world = World::new(3);
    world.connect(0, 1);
    for _ in 0..5 {
        world.connect(0, 2);
        world.run(Duration::from_secs(300));
        world.cut(0, 2);
        world.run(Duration::from_secs(300));
    }
    let told: Vec<usize> = world.take_notices().iter().map(Vec::len).collect();
    assert_eq!(told, [1, 1, 1]);
}

#[test]
fn a_node_that_knows_no_lists_is_taken_at_the_word_of_others_and_told_nothing() {
    let mut world = World::new(3);
    world.old.insert(2);
    world.connect(0, 1);
    world.connect(0, 2);
    world.run(HOUR);
    assert_eq!(world.take_notices()[0], [pair_missing(1, 2)]);
    assert!(world.nodes[2].neighbours[&id(0)].reaches.is_none());
    world.connect(1, 2);
    world.run(HOUR);
    assert_eq!(world.take_notices()[0], [Notice::PairConnected { pair: [id(1), id(2)] }]);
    // Two of them say nothing of each other, and nobody else knows.
    let mut world = World::new(3);
    world.old.extend([1, 2]);
    world.connect(0, 1);
    world.connect(0, 2);
    world.run(HOUR);
    assert_eq!(world.take_notices()[0], []);
}

#[test]
fn peers_are_told_at_a_rate_however_often_others_come_and_go() {
    let mut world = World::new(3);
    world.connect(0, 1);
    world.run(Duration::from_secs(30));
    let before = world.told[0];
    for _ in 0..100 {
        world.connect(0, 2);
        world.run(Duration::from_millis(500));
        world.cut(0, 2);
        world.run(Duration::from_millis(500));
    }
    // 100 s at one in 20 s; the other is gone before its turn comes.
    assert!((4..=6).contains(&(world.told[0] - before)), "{}", world.told[0] - before);
    let before = world.told[0];
    world.run(HOUR);
    assert!(world.told[0] - before <= 14, "{}", world.told[0] - before);
}

/// A peer that makes nodes up, others than before whenever it may.
#[test]
fn nodes_that_a_peer_makes_up_cost_few_lines_and_little_room() {
    let mut world = World::new(2);
    world.connect(0, 1);
    let mut lines = 0;
    let minutes = 120;
    for round in 0..minutes {
        let made_up = (0..MAX_PEERS as u64).map(|n| (0x99 << 56 | round << 32 | n).to_be_bytes());
        let mut lowest: Vec<ShortId> = made_up
            .map(|bytes| {
                NodeId(std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0))).into()
            })
            .collect();
        lowest.sort();
        for message in wire::write(&lowest) {
            world.nodes[0].signalled(world.now, id(1), &message);
        }
        world.nodes[0].signalled(world.now, id(1), &[7; 4_096]);
        world.run(Duration::from_secs(60));
        assert!(world.nodes[0].missing.len() <= MAX_BEYOND);
        lines += world.take_notices()[0].len() as u64;
    }
    assert!(lines <= u64::from(LINES_AT_ONCE) + minutes, "{lines}");
    let report = world.nodes[0].report();
    assert!(
        report.missing_pairs >= MAX_BEYOND_OF_ONE && report.refused_messages == minutes,
        "{report:?}"
    );
    // A pair of honest nodes is still told.
    let mut world_of_three = World::new(3);
    std::mem::swap(&mut world_of_three.nodes[0], &mut world.nodes[0]);
    world_of_three.now = world.now;
    world_of_three.tunnels = world.tunnels;
    world_of_three.connect(0, 1);
    world_of_three.connect(0, 2);
    world_of_three.run(HOUR);
    assert!(world_of_three.take_notices()[0].contains(&pair_missing(1, 2)));
}

#[test]
fn messages_of_who_is_no_peer_are_not_kept() {
    let mut world = World::new(2);
    let now = world.now;
    world.nodes[0].signalled(now, id(1), &wire::write(&[])[0]);
    assert!(world.nodes[0].neighbours.is_empty() && world.nodes[0].poll_timeout().is_none());
}

#[test]
fn a_list_of_a_peer_that_knows_no_lists_is_refused() {
    let mut world = World::new(3);
    world.old.insert(1);
    world.connect(0, 1);
    let list = &wire::write(&[id(0).into(), id(2).into()])[0];
    world.nodes[0].signalled(world.now, id(1), list);
    assert!(world.nodes[0].neighbours[&id(1)].reaches.is_none());
    world.run(HOUR);
    assert_eq!(world.take_notices()[0], []);
    assert_eq!(world.nodes[0].report(), MeshReport { missing_pairs: 0, refused_messages: 1 });
    // The same of one that knows lists.
    world.old.clear();
    world.connect(0, 1);
    world.nodes[0].signalled(world.now, id(1), list);
    assert!(world.nodes[0].neighbours[&id(1)].reaches.is_some());
}

fn beyond<'a>(pairs: impl Iterator<Item = &'a Pair>) -> usize {
    pairs.filter(|pair| matches!(pair, Pair::Beyond(_))).count()
}

/// Far more than are remembered: pairs of peers that do not reach each other, and nodes that peers make up.
#[test]
fn missing_pairs_are_bounded_however_many_there_are() {
    const PEERS: usize = 40;
    let mut world = World::new(PEERS + 1);
    for peer in 1..=PEERS {
        world.connect(0, peer);
    }
    world.run(Duration::from_secs(30));
    for peer in 1..=PEERS {
        let made_up = (0..20).map(|number| {
            NodeId(std::array::from_fn(|at| [0xf0, peer as u8, number][at.min(2)])).into()
        });
        let mut list: Vec<ShortId> = made_up.chain([id(0).into()]).collect();
        list.sort();
        let now = world.now;
        world.nodes[0].signalled(now, id(peer), &wire::write(&list)[0]);
        let found = world.nodes[0].find_missing();
        assert_eq!(beyond(found.keys()), (peer * MAX_BEYOND_OF_ONE).min(MAX_BEYOND));
    }
    assert_eq!(world.nodes[0].find_missing().len(), MAX_BEYOND + MAX_BETWEEN);
    world.run(HOUR);
    let missing = &world.nodes[0].missing;
    assert!(beyond(missing.keys()) <= MAX_BEYOND, "{}", beyond(missing.keys()));
    assert!(missing.len() <= MAX_BEYOND + MAX_BETWEEN, "{}", missing.len());
}
