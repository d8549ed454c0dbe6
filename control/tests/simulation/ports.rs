//! A site whose local ports come and go while its peers do: a number is one port's at a time, and a port goes only when every worker has let
//! go of it, however long each takes.

use std::{collections::BTreeSet, time::Duration};

use ipop_control::{
    node::{Configured, Input, Opening, PortOrder, PortSpec},
    peer::PeerSpec,
    sessions::MAX_PEERS,
};
use ipop_datapath::{
    LocalPort, MacAddr, PortId, TapOffload,
    command::{Event, FromPort},
    node_id::NodeId,
};

use crate::{
    plan::{Plan, Weather},
    site::{Running, tap},
    world::{Happening, World},
};

/// Changes of the configuration: with each of them several numbers are taken and given back.
const CHANGES: usize = 300;
/// Local ports that are configured at most.
const PORTS: u16 = 6;
/// The last of them, which the kernel often refuses.
const OFTEN_REFUSED: u16 = PORTS - 1;

/// What becomes of a local port by and by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PortStep {
    Opened(PortId, Opening),
    LetGo(PortId, u8),
}

impl World {
    /// What the node wants done about a local port begins, and takes its time.
    pub(crate) fn follow_port(
        &mut self,
        site: usize,
        running: &mut Running,
        port: PortId,
        order: PortOrder,
    ) {
        match order {
            PortOrder::Open(spec) => {
                let peers = running.node.sessions().snapshot(self.now);
                assert!(peers.iter().all(|peer| peer.port != port.0), "{port} is a peer's");
                let new = running.ports.insert(port, (0..self.sites[site].workers).collect());
                assert_eq!(new, None, "{port} is another local port's");
                let is_refused = spec == tap(OFTEN_REFUSED) && self.rng.below(2) == 0;
                let opening = if is_refused { Opening::Failed } else { Opening::Done };
                self.note_port(site, PortStep::Opened(port, opening));
            }
            PortOrder::Close => {
                running.shared.ports.close(port);
                running.shared.fdb.flush_port(port);
                for worker in 0..self.sites[site].workers {
                    running.workers[usize::from(worker)].core.close_port(port);
                    self.note_port(site, PortStep::LetGo(port, worker));
                }
            }
            PortOrder::Free => {
                let left = running.ports.remove(&port);
                assert_eq!(left, Some(BTreeSet::new()), "not all workers have let go of {port}");
                running.shared.fdb.flush_port(port);
                running.shared.ports.free(port);
            }
        }
    }

    fn note_port(&mut self, site: usize, step: PortStep) {
        let (start, after) = (self.sites[site].starts, self.rng.millis(0..400));
        self.note(after, Happening::Port { site, start, step });
    }

    pub(crate) fn take_port_step(&mut self, site: usize, step: PortStep) {
        let Some(running) = &mut self.sites[site].running else { return };
        let input = match step {
            PortStep::Opened(port, opening) => {
                match opening {
                    Opening::Done => {
                        running.shared.ports.open(port);
                        let mac = MacAddr([2, 0xfe, 0, 0, site as u8, port.0 as u8]);
                        let local = LocalPort { port, takes: TapOffload::Full, mac };
                        running.workers.iter_mut().for_each(|worker| worker.core.open_port(local));
                    }
                    Opening::Failed => drop(running.ports.remove(&port)),
                }
                Input::PortOpened { port, opening }
            }
            PortStep::LetGo(port, worker) => {
                let workers = running.ports.get_mut(&port).expect("it is not free yet");
                assert!(workers.remove(&worker), "{port} is told to go once");
                Input::Worker(Event::Port(port, FromPort::Closed { worker }))
            }
        };
        self.tell(site, input);
    }

    /// The first site's configuration is another.
    fn configure(&mut self, ports: &[PortSpec], peers: &[PeerSpec]) {
        let (ports, peers) = (ports.to_vec(), peers.to_vec());
        let policy = self.sites[0].policy();
        self.tell(0, Input::Configured(Configured { ports, peers, policy }));
    }

    fn open_ports(&self) -> BTreeSet<PortSpec> {
        let local = self.sites[0].running.as_ref().expect("it runs").node.local_ports();
        let open = local.iter().filter(|(port, _)| local.is_open(*port));
        open.map(|(_, spec)| spec.clone()).collect()
    }

    /// Some of these, by chance.
    fn some<T: Clone>(&mut self, of: &[T]) -> Vec<T> {
        of.iter().filter(|_| self.rng.below(2) == 0).cloned().collect()
    }
}

fn plans() -> impl Iterator<Item = Plan> {
    (0..).map(Plan::new).filter(|plan| {
        plan.sites.len() == 3 && plan.sites[0].workers > 1 && plan.weather == Weather::Calm
    })
}

#[test]
fn no_number_is_anothers_before_every_worker_has_let_go() {
    for plan in plans().take(2) {
        let mut world = World::new(&plan);
        world.run_for(Duration::from_secs(10));
        let ports: Vec<PortSpec> = (0..PORTS).map(tap).collect();
        let peers: Vec<PeerSpec> =
            world.sites[0].peers.iter().map(|(_, peer)| peer.clone()).collect();
        // A number is given again only when all have been.
        let nobody = |number: usize| NodeId::of_spki(&number.to_be_bytes());
        let strangers = (peers.len()..MAX_PEERS).map(nobody);
        let strangers = strangers.map(|node| PeerSpec { node, address: None });
        let crowd: Vec<PeerSpec> = peers.iter().cloned().chain(strangers).collect();
        world.configure(&ports, &crowd);
        let mut given: BTreeSet<(PortId, PortSpec)> = BTreeSet::new();
        for _ in 0..CHANGES {
            let (ports, peers) = (world.some(&ports), world.some(&peers));
            world.configure(&ports, &peers);
            let pause = world.rng.millis(0..600);
            world.run_for(pause);
            let running = world.sites[0].running.as_ref().expect("it runs");
            given
                .extend(running.node.local_ports().iter().map(|(port, spec)| (port, spec.clone())));
        }
        let again = given.iter().filter(|(port, _)| usize::from(port.0) < MAX_PEERS).count();
        assert!(again > usize::from(PORTS), "too few numbers are given again: {again}");
        // One that could not be opened is tried again.
        for _ in 0..20 {
            world.configure(&ports, &peers);
            world.run_for(Duration::from_secs(2));
        }
        assert_eq!(world.open_ports(), ports.iter().cloned().collect());
        let running = world.sites[0].running.as_ref().expect("it runs");
        assert!(running.lanes_up(world.now).iter().all(|lanes| *lanes > 0), "seed {}", plan.seed);
        // What is unwanted only while it closes comes again, and what is wanted only until it opens goes.
        world.configure(&[], &peers);
        world.configure(&ports, &peers);
        world.run_for(Duration::from_secs(2));
        assert!(world.open_ports().is_superset(&(0..OFTEN_REFUSED).map(tap).collect()));
        world.configure(&[], &peers);
        world.run_for(Duration::from_secs(2));
        world.configure(&ports, &peers);
        world.configure(&[], &peers);
        world.run_for(Duration::from_secs(2));
        let running = world.sites[0].running.as_ref().expect("it runs");
        assert_eq!((running.node.local_ports().iter().count(), running.ports.len()), (0, 0));
    }
}
